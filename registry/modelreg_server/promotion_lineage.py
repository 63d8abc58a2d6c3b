"""What an artifact was made of, as far as signed statements and recorded edges say: ancestors, datasets, class.

An edge is `attested` where a provenance statement says so that holds now, in the repository that speaks for the artifact: the
one that is asked about, for ancestors the one that published them first. Everything else is `claimed`: it can only ever add
ancestors, so whoever may publish somewhere else makes nothing look better than it is.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func
from sqlmodel import Session, col, select

from modelreg import provenance
from modelreg.approvals import read_time
from modelreg.attestations import Kind
from modelreg.classification import Classification, highest
from modelreg.digests import Digest
from modelreg.errors import ModelregError, PolicyRefused
from modelreg.promotion_facts import AncestorFact, DatasetFact, Grade, Recalled
from modelreg_server.promotion_statements import Statements
from modelreg_server.tables import Derivation, Publication, Recall, Repository

MAX_DEPTH = 32
MAX_ANCESTORS = 1000
MAX_DATASETS = 1000
_BATCH = 500
_MAX_TEXT = 500


@dataclass
class Made:
    """What is said of how one artifact was made. `attested` holds what the statements of its own repository say."""

    depth: int
    grade: Grade  # of the way to it
    attested: list[provenance.Derivation | provenance.Import] = field(default_factory=list)
    statements: list[tuple[provenance.Derivation | provenance.Import, str, str]] = field(default_factory=list)
    claimed: list[provenance.Derivation | provenance.Import] = field(default_factory=list)
    parents: dict[str, tuple[str, Grade, str | None]] = field(default_factory=dict)  # relation, grade, name

    @property
    def said(self) -> list[provenance.Derivation | provenance.Import]:
        """By whomever."""
        return [*self.attested, *self.claimed]

    def imports(self) -> list[tuple[provenance.Import, str, str]]:
        """Attested imports with the digest of the statement and its signer, oldest first."""
        return [(made, digest, who) for made, digest, who in self.statements if isinstance(made, provenance.Import)]


@dataclass(frozen=True)
class Lineage:
    """The whole walk: `made` by artifact, nearest first."""

    artifact: str
    made: Mapping[str, Made]
    origins: Mapping[str, str]
    datasets: tuple[DatasetFact, ...]
    order: tuple[str, ...]  # what something was made of before it

    @property
    def cycle(self) -> bool:
        """Whether something was made of itself, by what is said."""
        return len(self.order) < len(self.made)

    @property
    def relation(self) -> str | None:
        """How the artifact was made by the newest attested provenance of a derivation."""
        found = [one.relation for one in self.made[self.artifact].attested if isinstance(one, provenance.Derivation)]
        return found[-1] if found else None


def walk(statements: Statements, repository: str, artifact: str) -> Lineage:
    """Follow every edge up, level by level, each artifact once.

    Raises:
        PolicyRefused: deeper or wider than can be looked at, so that nobody knows what is there.
    """
    made = {artifact: Made(0, "attested")}
    origins = {artifact: repository}
    level = [artifact]
    while level:
        _read_level(statements, level, made, origins)
        above: list[str] = []
        for child in level:
            for parent, (_, grade, _) in made[child].parents.items():
                way: Grade = "attested" if made[child].grade == grade == "attested" else "claimed"
                if parent not in made:
                    made[parent] = Made(made[child].depth + 1, way)
                    above.append(parent)
                elif made[parent].depth == made[child].depth + 1 and way == "attested":
                    made[parent].grade = way
        if len(made) > MAX_ANCESTORS or (above and made[above[0]].depth > MAX_DEPTH):
            raise PolicyRefused(
                f"{artifact} was made of more than {MAX_ANCESTORS} artifacts, or over more than {MAX_DEPTH} steps; what is "
                "beyond nobody has looked at"
            )
        origins |= _origins(statements.session, above)
        level = above
    return Lineage(artifact, made, origins, _datasets(statements, made), _parents_first(made))


def ancestors_of(statements: Statements, lineage: Lineage) -> tuple[AncestorFact, ...]:
    """Every ancestor once, nearest first, then by digest."""
    names = [name for name in lineage.made if name != lineage.artifact]
    recalled = recalls_of(statements, names)
    edges: dict[str, tuple[str, str | None]] = {}
    for child in lineage.made.values():
        for parent, (relation, _, name) in child.parents.items():
            if parent not in edges or (edges[parent][1] is None and name is not None):
                edges[parent] = (relation, name)
    found = []
    for name in sorted(names, key=lambda one: (lineage.made[one].depth, one)):
        made = lineage.made[name]
        imports = made.imports()
        relation, label = edges[name]
        found.append(
            AncestorFact(
                artifact=name,
                name=label,
                relation=relation,
                grade=made.grade,
                depth=made.depth,
                known=name in lineage.origins,
                recalled=recalled.get(name),
                source=imports[-1][0].source if imports else None,
            )
        )
    return tuple(found)


def recalls_of(statements: Statements, artifacts: Iterable[str]) -> dict[str, Recalled]:
    """Which of these are recalled, by the registry or by its trust policy."""
    found: dict[str, Recalled] = {}
    wanted = list(artifacts)
    for start in range(0, len(wanted), _BATCH):
        query = select(Recall.artifact_digest, Recall.kind).where(
            col(Recall.artifact_digest).in_(wanted[start : start + _BATCH]), col(Recall.lifted_at).is_(None)
        )
        for artifact, kind in statements.session.exec(query):
            found[artifact] = "revocation" if kind == "revocation" else "quarantine"
    revocations = statements.held_against.policy.revocations
    for artifact in wanted:
        digest = Digest.parse(artifact)
        if digest in revocations.artifacts:
            found[artifact] = "revocation"
        elif digest in revocations.quarantined:
            found.setdefault(artifact, "quarantine")
    return found


def _read_level(statements: Statements, level: list[str], made: Mapping[str, Made], origins: Mapping[str, str]) -> None:
    rows = statements.all_of(Kind.PROVENANCE, level)
    for row, verified in statements.believed(rows):
        try:
            said = provenance.read(verified.attestation.predicate)
        except ModelregError:
            continue
        child = made[row.about_digest]
        if row.repository == origins.get(row.about_digest):
            child.attested.append(said)
            child.statements.append((said, str(verified.attestation.digest), verified.signer.identity))
        else:
            child.claimed.append(said)
        if isinstance(said, provenance.Derivation):
            grade: Grade = "attested" if said in child.attested else "claimed"
            for parent in said.parents:
                known = child.parents.get(str(parent.digest))
                if known is None or known[1] != "attested":
                    child.parents[str(parent.digest)] = (said.relation, grade, parent.name)
    for start in range(0, len(level), _BATCH):
        query = select(Derivation).where(col(Derivation.child).in_(level[start : start + _BATCH]))
        for edge in statements.session.exec(query.order_by(col(Derivation.event_index), col(Derivation.parent))):
            # A row that says `attested` and whose statement does not hold any more is somebody's claim.
            weaker: Grade = "inferred" if edge.grade == "inferred" else "claimed"
            made[edge.child].parents.setdefault(edge.parent, (edge.relation, weaker, None))


def _origins(session: Session, artifacts: list[str]) -> dict[str, str]:
    """The repository that published each of them first; what is in none is not known here."""
    found: dict[str, str] = {}
    for start in range(0, len(artifacts), _BATCH):
        some = artifacts[start : start + _BATCH]
        first = (
            select(Publication.artifact_digest, func.min(Publication.event_index).label("first"))
            .where(col(Publication.artifact_digest).in_(some))
            .group_by(col(Publication.artifact_digest))
            .subquery()
        )
        query = (
            select(Publication.artifact_digest, Repository.name)
            .join(Repository, col(Repository.id) == col(Publication.repository_id))
            .join(
                first,
                (first.c.artifact_digest == col(Publication.artifact_digest))
                & (first.c.first == col(Publication.event_index)),
            )
        )
        found |= dict(session.exec(query).all())
    return found


def holders_of(session: Session, artifacts: Iterable[str]) -> dict[str, set[str]]:
    """The repositories that hold each of them."""
    found: dict[str, set[str]] = {}
    wanted = list(artifacts)
    for start in range(0, len(wanted), _BATCH):
        query = (
            select(Publication.artifact_digest, Repository.name)
            .join(Repository, col(Repository.id) == col(Publication.repository_id))
            .where(col(Publication.artifact_digest).in_(wanted[start : start + _BATCH]))
        )
        for artifact, name in session.exec(query):
            found.setdefault(artifact, set()).add(name)
    return found


def _parents_first(made: Mapping[str, Made]) -> tuple[str, ...]:
    """Take away whoever is made of nothing that is left, until nobody is; what goes in circles is missing."""
    waits_for = {child: {parent for parent in one.parents if parent in made} for child, one in made.items()}
    children: dict[str, list[str]] = {}
    for child, parents in waits_for.items():
        for parent in parents:
            children.setdefault(parent, []).append(child)
    free = [name for name, parents in waits_for.items() if not parents]
    order = []
    while free:
        name = free.pop()
        order.append(name)
        for child in children.get(name, ()):
            waits_for[child].discard(name)
            if not waits_for[child]:
                free.append(child)
    return tuple(order)


def _datasets(statements: Statements, made: Mapping[str, Made]) -> tuple[DatasetFact, ...]:
    named: dict[str, DatasetFact] = {}
    for one in made.values():
        for said in one.said:
            for item in datasets_in(said):
                attested = said in one.attested and one.grade == "attested"
                fact = DatasetFact(
                    digest=str(item.digest),
                    name=item.name,
                    grade="attested" if attested else "claimed",
                    registered=False,
                    owner=None,
                    classification=None,
                    lawful_basis=None,
                    retention_until=None,
                    statement=None,
                    depth=one.depth + 1,
                )
                known = named.get(fact.digest)
                if known is None or (known.grade != "attested" and attested):
                    named[fact.digest] = fact
    if len(named) > MAX_DATASETS:
        raise PolicyRefused(f"more than {MAX_DATASETS} datasets went into it; what is beyond nobody has looked at")
    stated = list(_dataset_statements(statements, named))
    names: dict[str, set[str]] = {}
    for name, digest, _, _ in stated:
        names.setdefault(digest, set()).add(name)
    for digest, known_as in names.items():
        # Provenance by digest alone: it is clear who speaks for it as long as only one name has it.
        if named[digest].name == digest and len(known_as) == 1:
            named[digest] = named[digest].model_copy(update={"name": next(iter(known_as))})
    for name, digest, predicate, statement in stated:
        named[digest] = _with_statement(named[digest], name, predicate, statement)
    return tuple(sorted(named.values(), key=lambda fact: fact.digest))


def _dataset_statements(
    statements: Statements, digests: Iterable[str]
) -> Iterator[tuple[str, str, Mapping[str, Any], str | None]]:
    """Statements about datasets, oldest first: name, digest, predicate, and the statement's digest if it holds now."""
    for row in statements.all_of(Kind.DATASET, digests):
        try:
            verified = statements.verify(row)
        except ModelregError:
            yield row.repository, row.about_digest, {}, None
            continue
        statements.use(verified)
        said = verified.attestation
        yield row.repository, row.about_digest, said.predicate, str(said.digest)


def _with_statement(fact: DatasetFact, name: str, predicate: Mapping[str, Any], statement: str | None) -> DatasetFact:
    """The newest statement under the name that provenance used speaks; others can only make it more sensitive."""
    fact = fact.model_copy(update={"registered": True})
    if statement is None:
        return fact
    classes = [one for one in (fact.classification, class_in(predicate, "classification")) if one is not None]
    fact = fact.model_copy(update={"classification": highest(classes)})
    if fact.name != name:
        return fact
    return fact.model_copy(
        update={
            "owner": _text(predicate.get("owner")),
            "lawful_basis": _text(predicate.get("lawful_basis")),
            "retention_until": _end_in(predicate),
            "statement": statement,
        }
    )


def datasets_in(said: provenance.Derivation | provenance.Import) -> tuple[provenance.Input, ...]:
    """The datasets of a derivation; an import names none."""
    return said.datasets if isinstance(said, provenance.Derivation) else ()


def class_in(predicate: Mapping[str, Any], name: str) -> Classification | None:
    """A class that a statement states, or None."""
    try:
        return Classification(str(predicate.get(name)))
    except ValueError:
        return None


def _end_in(predicate: Mapping[str, Any]) -> datetime | None:
    value = predicate.get("retention_until")
    try:
        return read_time(value, "retention_until") if value is not None else None
    except ModelregError:
        return None


def _text(value: Any) -> str | None:
    return value[:_MAX_TEXT] if isinstance(value, str) and value else None
