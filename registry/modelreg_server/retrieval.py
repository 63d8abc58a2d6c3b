"""Fetching: a grant is recorded and committed first, then URLs and bytes. No event, no URL."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NoReturn

from sqlalchemy import Select, bindparam
from sqlalchemy import select as columns
from sqlmodel import Session, col, select

from modelreg.digests import Digest
from modelreg.errors import ModelregError, NotFound, Quarantined, Revoked
from modelreg.trust import TrustPolicy
from modelreg_server import custody, promotion, recalls
from modelreg_server.access_grants import is_sensitive
from modelreg_server.callers import Caller, Hidden, NotPermitted, current, denied, reasons_of, require
from modelreg_server.custody import CustodyEvent, Event, EventType
from modelreg_server.custody_proofs import Proof
from modelreg_server.custody_tree import insert_late
from modelreg_server.database import Database
from modelreg_server.group_commit import Recorder
from modelreg_server.identity import Verb
from modelreg_server.known_artifacts import KnownArtifact, KnownArtifacts, Permitted
from modelreg_server.promotion import Serving
from modelreg_server.tables import Artifact, ArtifactFile, Blob, GrantRow, Publication, Repository, Signature


@dataclass(frozen=True)
class Granted:
    """A durable grant with its proof; `permit` is signed, where it is for an environment."""

    id: str
    permitted: Permitted
    expires_at: datetime
    proof: Proof
    permit: bytes | None = None


def grant(
    recorder: Recorder,
    known: KnownArtifacts,
    caller: Caller,
    repository: str,
    *,
    artifact: str,
    purpose: str,
    host: str,
    tag: str | None,
    policy: Callable[[], TrustPolicy | None],
    lifetime: timedelta,
    known_size: int | None = None,
    serving: Serving | None = None,
) -> Granted:
    """Decide, append `artifact.granted` or `artifact.refused`, commit; only then answer or raise.

    Decided before the log's lock is held, and again under it if anything decisive happened since the caller was
    authenticated: what is recorded holds at the commit.

    Args:
        serving: for an environment: it must be promoted there and be promoted again now. If it would not be, that is
            withdrawn in the same transaction.

    Raises:
        NotFound, Forbidden: absent, hidden, or not permitted.
        Revoked, Quarantined: the artifact is recalled here, or by the server's trust policy.
        PolicyRefused: it may not serve in the environment.
    """
    found = known.get(caller.epoch, repository, artifact) if serving is None else None
    standing: _Standing = None
    if found is not None:
        decision = _decide_known(caller, repository, artifact, found, policy)
    else:
        with recorder.database.reading() as session:
            decision, found = _decide(session, caller, repository, artifact, policy, serving)
            standing = _standing(session, serving, repository, artifact, decision, caller.now)
        if found is not None and serving is None:
            known.put(caller.epoch, repository, artifact, found)
    event = {"repository": repository, "artifact": artifact, "tag": tag, "host": host, "purpose": purpose}
    grant_id, expires_at = str(uuid.uuid4()), caller.now + lifetime

    def append(session: Session) -> tuple[Permitted | ModelregError, str | None]:
        now = current(session, caller)
        settled, stands = decision, standing
        if now is not caller:
            settled = _decide(session, now, repository, artifact, policy, serving)[0]
            stands = _standing(session, serving, repository, artifact, settled, caller.now)
        if serving is not None:
            promotion.note_policy(session, serving.deciding, caller.now)
        if serving is not None and isinstance(stands, promotion.NoLonger):
            promotion.withdraw(session, stands, serving, caller.now)
        if isinstance(stands, ModelregError) and not isinstance(settled, ModelregError):
            settled = stands
        verdict = stands if isinstance(stands, str) else None
        if isinstance(settled, ModelregError):
            _append_refusal(session, caller, settled, event)
        else:
            _append_grant(session, caller, grant_id, expires_at, event, serving, verdict)
        return settled, verdict

    recorded = recorder.record(append, only_appends=serving is None)
    permitted, verdict = recorded.value
    if isinstance(permitted, ModelregError):
        raise permitted
    permit = None
    if serving is not None and verdict is not None:
        permit = promotion.permit(serving, repository, artifact, verdict, grant_id, host, caller)
    return Granted(grant_id, permitted, expires_at, recorded.proof(known_size), permit)


# The verdict by which it may serve, or why it may not; None where nobody asked, or the answer is no anyway.
_Standing = str | ModelregError | None


def _standing(
    session: Session,
    serving: Serving | None,
    repository: str,
    artifact: str,
    decision: Permitted | ModelregError,
    now: datetime,
) -> _Standing:
    # What is recalled is refused as that, and its promotion is withdrawn all the same.
    if serving is None or not isinstance(decision, Permitted | Quarantined | Revoked):
        return None
    return promotion.standing(session, serving, repository, artifact, now)


def _decide(
    session: Session,
    caller: Caller,
    repository: str,
    artifact: str,
    policy: Callable[[], TrustPolicy | None],
    serving: Serving | None = None,
) -> tuple[Permitted | ModelregError, KnownArtifact | None]:
    """What the artifact's bytes are verified with, or the refusal; and what of it does not depend on who asks."""
    row = session.connection().execute(_FOUND, {"repository": repository, "artifact": artifact}).one_or_none()
    sensitive = row is not None and row.sensitive
    environment = serving.environment if serving is not None else None
    if not caller.principal.may(Verb.PULL, repository, sensitive=sensitive, environment=environment):
        return denied(caller.principal, Verb.PULL, repository, sensitive=sensitive, environment=environment), None
    if row is None or row.publication_id is None:
        return NotFound(f"{repository} has no artifact {artifact}, or this token may not see it"), None
    if (recalled := recalls.refusal(session, artifact)) is not None:
        return recalled, None
    manifest = session.connection().execute(_MANIFEST, {"artifact": artifact}).scalar_one()
    bundles = session.connection().execute(_BUNDLES, {"publication": row.publication_id}).scalars().all()
    found = KnownArtifact(sensitive, Permitted(manifest, list(bundles)))
    return _by_policy(policy(), artifact) or found.permitted, found


def _decide_known(
    caller: Caller, repository: str, artifact: str, found: KnownArtifact, policy: Callable[[], TrustPolicy | None]
) -> Permitted | ModelregError:
    if not caller.principal.may(Verb.PULL, repository, sensitive=found.sensitive):
        return denied(caller.principal, Verb.PULL, repository, sensitive=found.sensitive)
    return _by_policy(policy(), artifact) or found.permitted


# Columns, and statements made once: they are asked for every grant.
_FOUND: Select[*tuple[Any, ...]] = (
    columns(col(Repository.sensitive), col(Publication.id).label("publication_id"))
    .outerjoin(
        Publication,
        (col(Publication.repository_id) == col(Repository.id))
        & (col(Publication.artifact_digest) == bindparam("artifact")),
    )
    .where(col(Repository.name) == bindparam("repository"))
)
_MANIFEST = columns(col(Artifact.manifest)).where(col(Artifact.digest) == bindparam("artifact"))
_BUNDLES = (
    columns(col(Signature.bundle))
    .where(col(Signature.publication_id) == bindparam("publication"))
    .order_by(col(Signature.id))
)


def _by_policy(policy: TrustPolicy | None, artifact: str) -> ModelregError | None:
    """What the registry's own trust policy says of an artifact, as every client's does."""
    return None if policy is None else policy.refusal(Digest.parse(artifact))


def _append_grant(
    session: Session,
    caller: Caller,
    grant_id: str,
    expires_at: datetime,
    event: dict[str, Any],
    serving: Serving | None,
    verdict: str | None,
) -> None:
    environment = serving.environment if serving is not None else None
    served = {"environment": environment, "verdict": verdict} if environment is not None else {}
    granted = Event(EventType.ARTIFACT_GRANTED, detail={"grant": grant_id, **served}, **event)
    index = custody.append(session, caller.actor, granted, caller.now)
    insert_late(
        session,
        GrantRow,
        id=grant_id,
        event_index=index,
        repository=event["repository"],
        artifact_digest=event["artifact"],
        principal=caller.principal.name,
        purpose=event["purpose"],
        host=event["host"],
        expires_at=expires_at,
        environment=environment,
    )


def _append_refusal(session: Session, caller: Caller, refusal: ModelregError, event: dict[str, Any]) -> None:
    personal: dict[str, Any] = {"detail": refusal.detail[:500]}
    if isinstance(refusal, Hidden | NotPermitted):
        personal |= reasons_of(refusal.denial)
        refusal.recorded = True  # `artifact.refused` says it; `access.denied` would say it twice
    detail = {"reason": refusal.code}
    refused = Event(EventType.ARTIFACT_REFUSED, detail=detail, about=caller.principal.name, personal=personal, **event)
    custody.append(session, caller.actor, refused, caller.now)


def open_grant(session: Session, caller: Caller, grant_id: str) -> GrantRow:
    """The caller's grant, still usable.

    Raises:
        NotFound: none, another principal's or host's, or expired.
        NotPermitted, Hidden: the right to pull ended meanwhile, or needs another host.
    """
    row = session.get(GrantRow, grant_id)
    if row is None or row.principal != caller.principal.name or caller.now >= row.expires_at:
        raise no_grant(grant_id)
    sensitive = is_sensitive(session, row.repository)
    require(caller, Verb.PULL, row.repository, sensitive=sensitive, environment=row.environment)
    # Bytes that went to another machine than the event names would be in no event.
    host = caller.principal.host
    if session.get_one(CustodyEvent, row.event_index).verified_host != (host.name if host else None):
        raise no_grant(grant_id)
    return row


def no_grant(grant_id: str) -> NotFound:
    """The one answer to grants that cannot be used, whyever."""
    return NotFound(f"there is no grant {grant_id[:40]} of yours, given to this host, that is still valid; pull again")


def granted_blobs(
    database: Database, caller: Caller, grant_id: str, blobs: Sequence[str], policy: TrustPolicy | None
) -> list[Blob]:
    """The named blobs, if the grant's artifact holds every one of them, in the order asked for.

    A grant opens nothing any more from the moment on that its artifact is recalled; `artifact.refused` says so.

    Raises:
        NotFound: no such grant, or a blob that is not part of it (whether it exists elsewhere is not told).
        Revoked, Quarantined: the artifact was recalled since.
    """
    with database.reading() as session:
        row = open_grant(session, caller, grant_id)
        refusal = recalls.refusal(session, row.artifact_digest) or _by_policy(policy, row.artifact_digest)
        found = _blobs_of(session, row, blobs) if refusal is None else []
        session.expunge_all()
    if refusal is not None:
        _refuse(database, caller, row, refusal)
    return found


def require_not_recalled(database: Database, caller: Caller, grant_id: str) -> None:
    """Go on with bytes that are under way.

    Raises:
        Revoked, Quarantined: the artifact was recalled since they were asked for.
    """
    with database.reading() as session:
        row = session.get_one(GrantRow, grant_id)
        refusal = recalls.refusal(session, row.artifact_digest)
        session.expunge_all()
    if refusal is not None:
        _refuse(database, caller, row, refusal)


def event_of(grant: GrantRow, event_type: EventType, detail: Mapping[str, Any]) -> Event:
    """An event about what was granted, under the name that the client gave its machine then."""
    return Event(
        event_type,
        repository=grant.repository,
        artifact=grant.artifact_digest,
        host=grant.host,
        purpose=grant.purpose,
        detail={**detail, "grant": grant.id},
    )


def _refuse(database: Database, caller: Caller, row: GrantRow, refusal: ModelregError) -> NoReturn:
    told = event_of(row, EventType.ARTIFACT_REFUSED, {"reason": refusal.code})
    event = replace(told, about=caller.principal.name, personal={"detail": refusal.detail[:500]})
    with database.writing() as session, session.begin():
        custody.append(session, caller.actor, event, caller.now)
    raise refusal


def _blobs_of(session: Session, row: GrantRow, blobs: Sequence[str]) -> list[Blob]:
    query = (
        select(Blob)
        .join(ArtifactFile, col(ArtifactFile.blake3) == col(Blob.blake3))
        .where(ArtifactFile.artifact_digest == row.artifact_digest, col(Blob.blake3).in_(blobs))
        .distinct()
    )
    found = {blob.blake3: blob for blob in session.exec(query)}
    if unknown := [blake3 for blake3 in blobs if blake3 not in found]:
        raise NotFound(f"the granted artifact has no blob {unknown[0]}")
    return [found[blake3] for blake3 in blobs]


def report(
    recorder: Recorder,
    caller: Caller,
    grant_id: str,
    event_type: EventType,
    detail: dict[str, Any],
    known_size: int | None = None,
) -> Proof:
    """Append what a client reports of a grant, such as `artifact.received`; returns its proof."""

    def append(session: Session) -> int:
        row = open_grant(session, current(session, caller), grant_id)
        return custody.append(session, caller.actor, event_of(row, event_type, detail), caller.now)

    return recorder.record(append, only_appends=True).proof(known_size)
