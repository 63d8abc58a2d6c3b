"""Signed statements about artifacts: verified when they come, recorded with an event, kept for whoever verifies them again.

Two things must hold of whoever states something: the principal that sends it may (by its verb on the repository), and the
signer is one whom the trust policy lets state this kind. What one key signed is recorded once; the same words by another
signer are another person's word.
"""

from collections.abc import Callable, Sequence

from sqlmodel import Session, col, func, select
from sqlmodel.sql.expression import SelectOfScalar

from modelreg import approvals, attestations
from modelreg.attestations import Kind, VerifiedAttestation
from modelreg.digests import Digest
from modelreg.errors import Conflict, Invalid, NotFound
from modelreg.trust import TrustPolicy
from modelreg_server import custody, imports
from modelreg_server.callers import Caller, require
from modelreg_server.custody import Event, EventType
from modelreg_server.database import Database
from modelreg_server.identity import Verb
from modelreg_server.tables import AttestationRow, Publication, Repository

MAX_OF_ONE_ARTIFACT = 2000
_PAGE_ROWS = 100  # read at once, each with its bundle
_PAGE_BYTES = 64 * 1024 * 1024
# What may come with an artifact's bytes; the rest is said of what is published already.
WITH_BYTES = frozenset({Kind.PROVENANCE, Kind.SCAN, Kind.DECLASSIFICATION})
LATER = WITH_BYTES | {Kind.SOURCE_CHECK, Kind.APPROVAL, Kind.WAIVER}
_VERBS = {
    Kind.PROVENANCE: Verb.PUSH,
    Kind.SCAN: Verb.PUSH,
    Kind.SOURCE_CHECK: Verb.PUSH,
    Kind.APPROVAL: Verb.APPROVE,
    Kind.WAIVER: Verb.APPROVE,
    Kind.DECLASSIFICATION: Verb.APPROVE,
}


def verify(
    caller: Caller,
    repository: str,
    artifact: Digest,
    raw_bundle: bytes,
    policy: TrustPolicy,
    *,
    among: frozenset[Kind] = LATER,
) -> VerifiedAttestation:
    """Verify a statement that a caller sends, and that the caller may.

    Raises:
        Untrusted: signature, signer or subject do not hold.
        Invalid: of a kind that is not taken here.
        NotPermitted: the verb for this kind is missing.
    """
    verified = attestations.verify(raw_bundle, policy=policy, repository=repository, now=caller.now, subject=artifact)
    kind = verified.attestation.kind
    if kind not in among:
        raise Invalid(f"a {kind} is not taken here; taken are {', '.join(sorted(among))}", field="bundle")
    require(caller, _VERBS[kind], repository)
    approvals.require_by(kind, verified.attestation.predicate, artifact, caller.principal.name)
    return verified


def submit(
    database: Database,
    caller: Caller,
    repository: str,
    artifact: str,
    raw_bundle: bytes,
    policy: TrustPolicy,
    *,
    then: Callable[[Session, Caller, VerifiedAttestation, AttestationRow], None] | None = None,
) -> AttestationRow:
    """Record a statement about an artifact that is published here; again is no event.

    Args:
        then: what follows from it, in the same transaction.

    Raises:
        NotFound: the repository does not hold the artifact.
        As `verify` and `record`.
    """
    verified = verify(caller, repository, Digest.parse(artifact), raw_bundle, policy)
    imports.refuse_late(verified)
    with database.writing() as session, session.begin():
        require_held(session, repository, artifact)
        custody.hold(session)
        row = record(session, caller, repository, verified)
        session.flush()
        if then is not None:
            then(session, caller, verified, row)
            session.flush()
        session.expunge_all()
    return row


def record(session: Session, caller: Caller, repository: str, verified: VerifiedAttestation) -> AttestationRow:
    """Keep a verified statement inside the caller's transaction, with `artifact.attested`.

    Raises:
        Conflict: the artifact has as many as it can have.
    """
    said, signer = verified.attestation, verified.signer
    about, statement = str(said.subjects[0]), str(said.digest)
    key_id = str(signer.key_ids[0])
    query = select(AttestationRow).where(
        AttestationRow.repository == repository, AttestationRow.statement == statement, AttestationRow.key_id == key_id
    )
    if (known := session.exec(query).one_or_none()) is not None:
        return known
    of_it = select(func.count(col(AttestationRow.id))).where(
        AttestationRow.repository == repository, AttestationRow.about_digest == about
    )
    count = session.exec(of_it).one()
    if count >= MAX_OF_ONE_ARTIFACT:
        raise Conflict(f"{about} has {count} statements already; it takes no more")
    detail = {"kind": said.kind.value, "statement": statement, "authority": signer.authority}
    event = Event(
        EventType.ARTIFACT_ATTESTED,
        repository,
        about,
        detail=detail,
        about=caller.principal.name,
        personal={"identity": signer.identity},
    )
    row = AttestationRow(
        repository=repository,
        about_digest=about,
        kind=said.kind.value,
        statement=statement,
        bundle=verified.raw_bundle,
        authority=signer.authority,
        identity=signer.identity,
        key_id=key_id,
        signed_at=signer.signed_at,
        added_at=caller.now,
        added_by=caller.principal.name,
        event_index=custody.append(session, caller.actor, event, caller.now),
    )
    session.add(row)
    return row


def of(session: Session, repository: str, artifact: str, kind: str | None = None) -> Sequence[AttestationRow]:
    """Statements about an artifact in a repository, oldest first."""
    return session.exec(_of(repository, artifact, kind)).all()


def page(
    session: Session, repository: str, artifact: str, kind: str | None, after: int
) -> tuple[list[AttestationRow], int | None]:
    """Statements after a row, oldest first, as many as fit into an answer, and where to go on; None at the end."""
    found: list[AttestationRow] = []
    size_bytes = 0
    for row in session.exec(_of(repository, artifact, kind).where(col(AttestationRow.id) > after).limit(_PAGE_ROWS)):
        size_bytes += len(row.bundle)
        if found and size_bytes > _PAGE_BYTES:
            return found, found[-1].id
        found.append(row)
    return found, found[-1].id if len(found) == _PAGE_ROWS else None


def _of(repository: str, artifact: str, kind: str | None) -> SelectOfScalar[AttestationRow]:
    query = select(AttestationRow).where(
        AttestationRow.repository == repository, AttestationRow.about_digest == artifact
    )
    if kind is not None:
        query = query.where(AttestationRow.kind == kind)
    return query.order_by(col(AttestationRow.id))


def require_held(session: Session, repository: str, artifact: str) -> None:
    """Go on only if the repository holds the artifact.

    Raises:
        NotFound: it does not.
    """
    query = (
        select(Publication.id)
        .join(Repository, col(Repository.id) == col(Publication.repository_id))
        .where(Repository.name == repository, Publication.artifact_digest == artifact)
    )
    if session.exec(query).one_or_none() is None:
        raise NotFound(f"{repository} has no artifact {artifact}, or this token may not see it")
