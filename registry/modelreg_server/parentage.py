"""What follows from what is said of an artifact: edges to parents and datasets, and how sensitive it is.

Statements come here verified and recorded (`attestations`), claims as they were harvested from the artifact's files
(`harvesting`). All of it happens in the transaction that records them, with the log's lock held.
"""

import re
from collections.abc import Iterable, Sequence

from sqlmodel import Session, col, func, select

from modelreg import declassification, provenance
from modelreg.attestations import Kind, VerifiedAttestation
from modelreg.classification import Classification
from modelreg.digests import Digest
from modelreg.errors import Conflict, Invalid, PolicyRefused
from modelreg.references import Reference, parse_reference
from modelreg_server import classifying, datasets, derivations
from modelreg_server.callers import Caller
from modelreg_server.identity import Verb
from modelreg_server.model_claims import Claim
from modelreg_server.tables import (
    ArtifactClass,
    AttestationRow,
    DatasetUse,
    Derivation,
    ModelClaim,
    Publication,
    Repository,
    Tag,
)

MAX_INPUTS = 5000  # parents and datasets of one artifact, over all statements
_HUB = re.compile(r"https://huggingface\.co/(?:datasets/)?([^/?#\s]+/[^/?#\s]+)/?", re.ASCII)


def take(session: Session, caller: Caller, verified: VerifiedAttestation, row: AttestationRow) -> Classification | None:
    """Write down what a recorded statement says; returns the class that it declares.

    Raises:
        SignatureInvalid: its predicate cannot be read.
        Invalid: the artifact as its own parent.
        Conflict: it has more parents and datasets than it can have.
    """
    said, artifact = verified.attestation, row.about_digest
    if said.kind is Kind.DECLASSIFICATION:
        declassification.read(said.subjects[0], said.predicate)
    if said.kind is not Kind.PROVENANCE:
        return None
    made = provenance.read(said.predicate)
    if isinstance(made, provenance.Derivation):
        if any(str(parent.digest) == artifact for parent in made.parents):
            raise Invalid(f"{artifact} is named as its own parent", field="parents", value=artifact)
        for parent in made.parents:
            derivations.raise_grade(
                session, artifact, str(parent.digest), made.relation, derivations.ATTESTED, row.event_index, caller.now
            )
        for dataset in made.datasets:
            _use(session, caller, artifact, dataset, row)
        _require_bounded(session, artifact)
    if made.classification is not None:
        classifying.declare(session, artifact, made.classification, caller.now)
    return made.classification


def settle(session: Session, caller: Caller, artifact: str, declared: Iterable[Classification | None]) -> None:
    """Compute the class of an artifact, and of what was made from it, after all that is new was taken.

    Args:
        declared: by the statements that are new.

    Raises:
        PolicyRefused: one of them is below what the artifact inherits, and no declassification lowers that.
        TooLarge: too many artifacts descend from it.
    """
    session.flush()
    classifying.reconsider(session, [artifact], caller.now)
    session.flush()
    row = session.get_one(ArtifactClass, artifact)
    if row.inherited is None or row.effective is None:
        return
    inherited, effective = Classification(row.inherited), Classification(row.effective)
    for one in declared:
        if one is not None and one.rank < min(inherited.rank, effective.rank):
            raise _refusal(session, caller, artifact, one, inherited)


def received(session: Session, caller: Caller, verified: VerifiedAttestation, row: AttestationRow) -> None:
    """Take one statement that came by itself, and settle.

    Raises:
        As `take` and `settle`.
    """
    settle(session, caller, row.about_digest, [take(session, caller, verified, row)])


def claim(session: Session, caller: Caller, artifact: str, claims: Sequence[Claim], index: int) -> None:
    """Keep what an artifact's files claim, once; what names something here, and exactly, becomes an edge.

    Only what the publisher may see is found: a name in a file must not tell them more. `index` is the publication's event.
    """
    if session.get(ArtifactClass, artifact) is not None:
        return
    classifying.seen(session, artifact, caller.now)
    relation = next((one.value for one in claims if one.kind == "relation" and one.value in provenance.RELATIONS), None)
    for one in claims:
        resolved = None
        if one.kind == "base_model":
            resolved = _artifact_named(session, caller, one.value)
            if resolved is not None and resolved != artifact:
                derivations.raise_grade(
                    session, artifact, resolved, relation or "finetune", derivations.CLAIMED, index, caller.now
                )
        elif one.kind == "dataset":
            record = datasets.named(session, caller, _plain(one.value))
            if record is not None:
                resolved = record.digest
                use = DatasetUse(
                    artifact=artifact,
                    dataset=resolved,
                    name=record.name,
                    grade=derivations.CLAIMED,
                    recorded_at=caller.now,
                    event_index=index,
                )
                session.merge(use)
        session.add(
            ModelClaim(
                artifact=artifact,
                kind=one.kind,
                value=one.value,
                path=one.path,
                member=one.member,
                resolved=resolved,
                recorded_at=caller.now,
            )
        )
    session.flush()


def _use(session: Session, caller: Caller, artifact: str, dataset: provenance.Input, row: AttestationRow) -> None:
    use = session.get(DatasetUse, (artifact, str(dataset.digest)))
    if use is None:
        use = DatasetUse(
            artifact=artifact,
            dataset=str(dataset.digest),
            name=dataset.name[:200],
            grade=derivations.ATTESTED,
            statement=row.statement,
            recorded_at=caller.now,
            event_index=row.event_index,
        )
    elif use.grade != derivations.ATTESTED:
        use.name, use.grade, use.statement = dataset.name[:200], derivations.ATTESTED, row.statement
        use.event_index = row.event_index
    session.add(use)


def _require_bounded(session: Session, artifact: str) -> None:
    """Statements add up: what they name of one artifact is read whenever its class is computed."""
    session.flush()
    parents = session.exec(select(func.count()).select_from(Derivation).where(Derivation.child == artifact)).one()
    uses = session.exec(select(func.count()).select_from(DatasetUse).where(DatasetUse.artifact == artifact)).one()
    if parents + uses > MAX_INPUTS:
        raise Conflict(
            f"{artifact} has more than {MAX_INPUTS} parents and datasets; it takes no more", limit=MAX_INPUTS
        )


def _artifact_named(session: Session, caller: Caller, text: str) -> str | None:
    """The artifact here that a file's text names: by digest, by tag (`latest` where there is none), or the only one."""
    reference = _reference(_plain(text))
    if reference is None or not caller.principal.may(Verb.READ_METADATA, reference.repository):
        return None
    held = (
        select(Publication.artifact_digest)
        .join(Repository, col(Repository.id) == col(Publication.repository_id))
        .where(Repository.name == reference.repository)
    )
    if reference.digest is not None:
        return session.exec(held.where(Publication.artifact_digest == str(reference.digest))).one_or_none()
    tagged = (
        select(Tag.artifact_digest)
        .join(Repository, col(Repository.id) == col(Tag.repository_id))
        .where(Repository.name == reference.repository, Tag.name == reference.tag_or_default)
    )
    if (found := session.exec(tagged).one_or_none()) is not None or reference.tag is not None:
        return found
    artifacts = session.exec(held.limit(2)).all()
    return artifacts[0] if len(artifacts) == 1 else None


def _plain(text: str) -> str:
    """Without the hub's address in front, as GGUF has it."""
    found = _HUB.fullmatch(text)
    return found[1] if found else text


def _reference(text: str) -> Reference | None:
    try:
        return parse_reference(text)
    except Invalid:
        return None


def _refusal(
    session: Session, caller: Caller, artifact: str, declared: Classification, inherited: Classification
) -> PolicyRefused:
    """Names the most sensitive input, if the caller may see it; the digests they named themselves."""
    edges = session.exec(select(Derivation).where(Derivation.child == artifact)).all()
    uses = session.exec(select(DatasetUse).where(DatasetUse.artifact == artifact)).all()
    classes = classifying.effective_of(session, {edge.parent for edge in edges})
    of_datasets = classifying.of_datasets(session, {use.dataset for use in uses})
    reasons = []
    for edge in edges:
        if classes.get(edge.parent) == inherited:
            where = _seen_in(session, caller, edge.parent)
            what = f"{where}@{edge.parent}" if where else f"{edge.parent}, which you may not see"
            reasons.append(f"it is a {edge.relation} of {what}")
    for use in uses:
        if of_datasets.get(use.dataset) == inherited:
            seen = datasets.may_see(session, caller, Digest.parse(use.dataset))
            what = f"{use.name}@{use.dataset}" if seen else f"{use.dataset}, which you may not see"
            reasons.append(f"it was made with the dataset {what}")
    why = "; ".join(reasons[:3]) or "of what it was made from"
    return PolicyRefused(
        f"an artifact that inherits the class {inherited} is pushed as {declared}: {why} ({inherited}). Push it with "
        f"--class {inherited}, and have somebody who may lower it with `modelreg declassify`",
        artifact=artifact,
        declared=declared.value,
        inherited=inherited.value,
        reasons=reasons[:20],
    )


def _seen_in(session: Session, caller: Caller, artifact: str) -> str | None:
    """A repository that holds the artifact and that the caller may see."""
    query = (
        select(Repository.name)
        .join(Publication, col(Publication.repository_id) == col(Repository.id))
        .where(Publication.artifact_digest == artifact)
        .order_by(col(Repository.name))
    )
    return next((name for name in session.exec(query) if caller.principal.may(Verb.READ_METADATA, name)), None)
