"""Fetching: a grant is recorded and committed first, then URLs and bytes. No event, no URL."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlmodel import Session, col, select

from modelreg.digests import Digest
from modelreg.errors import ModelregError, NotFound, Revoked
from modelreg.trust import TrustPolicy
from modelreg_server import custody
from modelreg_server.access_grants import is_sensitive
from modelreg_server.callers import Caller, Hidden, NotPermitted, denied, reasons_of, require
from modelreg_server.custody import CustodyEvent, Event, EventType
from modelreg_server.database import Database
from modelreg_server.identity import Verb
from modelreg_server.tables import Artifact, ArtifactFile, Blob, GrantRow, Publication, Repository, Signature


@dataclass(frozen=True)
class Granted:
    """A recorded grant and what the client needs to verify before it asks for bytes."""

    row: GrantRow
    manifest: bytes
    bundles: list[bytes]


def grant(
    database: Database,
    caller: Caller,
    repository: str,
    *,
    artifact: str,
    purpose: str,
    host: str,
    tag: str | None,
    policy: TrustPolicy | None,
    lifetime: timedelta,
) -> Granted:
    """Decide, append `artifact.granted` or `artifact.refused`, commit; only then answer or raise.

    Raises:
        NotFound, Forbidden: absent, hidden, or not permitted.
        Revoked: the server's trust policy revokes the artifact.
    """
    event = {"repository": repository, "artifact": artifact, "tag": tag, "host": host, "purpose": purpose}
    with database.writing() as session, session.begin():
        found = _publication(session, repository, artifact)
        sensitive = is_sensitive(session, repository)
        refusal = _refusal(caller, repository, artifact, found, policy, sensitive=sensitive)
        if refusal is None:
            assert found is not None
            granted = _record_grant(session, caller, found, event, lifetime)
            session.flush()
            session.expunge_all()
        else:
            personal: dict[str, Any] = {"detail": refusal.detail[:500]}
            if isinstance(refusal, Hidden | NotPermitted):
                personal |= reasons_of(refusal.denial)
            refused = Event(
                EventType.ARTIFACT_REFUSED,
                detail={"reason": refusal.code},
                about=caller.principal.name,
                personal=personal,
                **event,
            )
            custody.append(session, caller.actor, refused, caller.now)
    if refusal is not None:
        if isinstance(refusal, Hidden | NotPermitted):
            refusal.recorded = True  # `artifact.refused` says it; `access.denied` would say it twice
        raise refusal
    return granted


def _publication(session: Session, repository: str, artifact: str) -> Publication | None:
    return session.exec(
        select(Publication)
        .join(Repository, col(Repository.id) == col(Publication.repository_id))
        .where(Repository.name == repository, Publication.artifact_digest == artifact)
    ).one_or_none()


def _refusal(
    caller: Caller,
    repository: str,
    artifact: str,
    found: Publication | None,
    policy: TrustPolicy | None,
    *,
    sensitive: bool,
) -> ModelregError | None:
    if not caller.principal.may(Verb.PULL, repository, sensitive=sensitive):
        return denied(caller.principal, Verb.PULL, repository, sensitive=sensitive)
    if found is None:
        return NotFound(f"{repository} has no artifact {artifact}, or this token may not see it")
    if policy is not None and Digest.parse(artifact) in policy.revocations.artifacts:
        return Revoked(f"the artifact {artifact} is revoked by the registry's trust policy (version {policy.version})")
    return None


def _record_grant(
    session: Session, caller: Caller, found: Publication, event: dict[str, Any], lifetime: timedelta
) -> Granted:
    signatures = session.exec(
        select(Signature).where(Signature.publication_id == found.id).order_by(col(Signature.id))
    ).all()
    grant_id = str(uuid.uuid4())
    detail = {"grant": grant_id}
    index = custody.append(session, caller.actor, Event(EventType.ARTIFACT_GRANTED, detail=detail, **event), caller.now)
    row = GrantRow(
        id=grant_id,
        event_index=index,
        repository=event["repository"],
        artifact_digest=event["artifact"],
        principal=caller.principal.name,
        purpose=event["purpose"],
        host=event["host"],
        expires_at=caller.now + lifetime,
    )
    session.add(row)
    manifest = session.get_one(Artifact, found.artifact_digest).manifest
    return Granted(row, manifest, [signature.bundle for signature in signatures])


def open_grant(session: Session, caller: Caller, grant_id: str) -> GrantRow:
    """The caller's grant, still usable.

    Raises:
        NotFound: none, another principal's or host's, or expired.
        NotPermitted, Hidden: the right to pull ended meanwhile, or needs another host.
    """
    row = session.get(GrantRow, grant_id)
    if row is None or row.principal != caller.principal.name or caller.now >= row.expires_at:
        raise _no_grant(grant_id)
    require(caller, Verb.PULL, row.repository, sensitive=is_sensitive(session, row.repository))
    # Bytes that went to another machine than the event names would be in no event.
    host = caller.principal.host
    if session.get_one(CustodyEvent, row.event_index).verified_host != (host.name if host else None):
        raise _no_grant(grant_id)
    return row


def _no_grant(grant_id: str) -> NotFound:
    return NotFound(f"there is no grant {grant_id[:40]} of yours, given to this host, that is still valid; pull again")


def granted_blobs(session: Session, caller: Caller, grant_id: str, blobs: Sequence[str]) -> list[Blob]:
    """The named blobs, if the grant's artifact holds every one of them, in the order asked for.

    Raises:
        NotFound: no such grant, or a blob that is not part of it (whether it exists elsewhere is not told).
    """
    row = open_grant(session, caller, grant_id)
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


def report(database: Database, caller: Caller, grant_id: str, event_type: EventType, detail: dict[str, Any]) -> int:
    """Append what a client reports of a grant: `artifact.received` or `artifact.loaded`; returns the index."""
    with database.writing() as session, session.begin():
        row = open_grant(session, caller, grant_id)
        event = Event(
            event_type,
            repository=row.repository,
            artifact=row.artifact_digest,
            host=row.host,
            purpose=row.purpose,
            detail={"grant": row.id, **detail},
        )
        return custody.append(session, caller.actor, event, caller.now)
