"""What hosts say of artifacts in their runtimes' memory: loaded, still running, ended. Recorded, and believed no further.

A load has an id that its host chose, so that a report can be repeated: the same id gets the same answer, and no second
event. Heartbeats are no events; they only say when a load was last heard of. A report that was made while the registry could
not be reached carries its own time (`reported_at`, claimed) and perhaps the host key's signature over it; it is recorded
when it comes, however late, and whatever became of the grant: what happened has happened, and no bytes depend on it.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

from sqlmodel import Session, col, select, update

from modelreg import host_reports, wire
from modelreg.errors import Conflict, Invalid, NotFound
from modelreg_server import custody
from modelreg_server.callers import Caller
from modelreg_server.custody import CustodyEvent, EventType
from modelreg_server.custody_proofs import Proof
from modelreg_server.database import Database
from modelreg_server.group_commit import Recorder
from modelreg_server.identity.hosts import load_public_key
from modelreg_server.retrieval import event_of, no_grant, open_grant
from modelreg_server.tables import GrantRow, Host, RuntimeLoad

LATE = timedelta(minutes=5)  # a report that is older when it comes is marked as late
_SKEW = timedelta(minutes=5)  # how far a host's clock may be ahead
_MAX_AGE = timedelta(days=366)


@dataclass(frozen=True)
class Reported:
    """What a report says beside its own members: when it was made, if not now, and what key of a host signed that."""

    at: datetime | None = None
    key_id: str | None = None
    signature: str | None = None

    @classmethod
    def of(cls, at: datetime | None, signature: wire.ReportSignature | None) -> Self:
        """From a request's members."""
        return cls(at) if signature is None else cls(at, signature.key_id, signature.value)


def loaded(
    recorder: Recorder,
    caller: Caller,
    grant_id: str,
    members: Mapping[str, Any],
    reported: Reported,
    known_size: int | None,
) -> Proof:
    """Append `artifact.loaded` and write the load, once.

    Args:
        members: of the report, as they were signed: JSON values, and `reported_at`.

    Raises:
        NotFound: no such grant of the caller's on this host; for a report of now, one that has expired.
        Conflict: the host measured another artifact than it was granted, or the load's id is taken.
        Invalid: the time or the signature does not hold.
    """
    load_id = str(members.get("load") or uuid.uuid4())

    def append(session: Session) -> int | None:
        # A late report changes nothing but the record, so it needs no right that might have ended meanwhile.
        row = open_grant(session, caller, grant_id) if reported.at is None else _own_grant(session, caller, grant_id)
        known = session.get(RuntimeLoad, load_id)
        if known is not None:
            if known.grant_id != row.id:
                raise Conflict(f"the load {load_id} is another grant's; a load has an id of its own", load=load_id)
            return known.event_index
        if members.get("artifact") not in {None, row.artifact_digest}:
            raise Conflict(
                f"this host reports that it loads {members['artifact']}, and was granted {row.artifact_digest}",
                granted=row.artifact_digest,
            )
        at, claims = _claims(session, caller, "artifact.loaded", grant_id, members, reported)
        said = {name: value for name, value in members.items() if value is not None and name != "reported_at"}
        event = event_of(row, EventType.ARTIFACT_LOADED, {**said, **claims, "load": load_id})
        index = custody.append(session, caller.actor, event, caller.now)
        host = caller.principal.host
        session.add(
            RuntimeLoad(
                id=load_id,
                artifact_digest=row.artifact_digest,
                repository=row.repository,
                grant_id=row.id,
                host=row.host,
                verified_host=host.name if host else None,
                boot_id=str(members["boot_id"]),
                pid=int(members["pid"]),
                command=str(members["command"]),
                runtime=members.get("runtime"),
                runtime_version=members.get("runtime_version"),
                loaded_at=at,
                event_index=index,
                heartbeat_seconds=members.get("heartbeat_seconds"),
                last_seen_at=at,
            )
        )
        return None

    return _proof(recorder, append, known_size)


def received_late(
    recorder: Recorder,
    caller: Caller,
    grant_id: str,
    members: Mapping[str, Any],
    reported: Reported,
    known_size: int | None,
) -> Proof:
    """Append `artifact.received` for a report that could not be sent when it was made.

    Raises:
        NotFound: no such grant of the caller's on this host.
        Invalid: the time or the signature does not hold.
    """

    def append(session: Session) -> None:
        row = _own_grant(session, caller, grant_id)
        _, claims = _claims(session, caller, "artifact.received", grant_id, members, reported)
        said = {"transferred_bytes": members["transferred_bytes"]}
        event = event_of(row, EventType.ARTIFACT_RECEIVED, {**said, **claims})
        custody.append(session, caller.actor, event, caller.now)

    return recorder.record(append).proof(known_size)


def seen(database: Database, caller: Caller, load_id: str) -> RuntimeLoad:
    """Remember that a load was heard of now; no event. A load that has ended stays ended.

    Raises:
        NotFound: no such load of the caller's on this host.
    """
    with database.writing() as session, session.begin():
        row, _grant = _own_load(session, caller, load_id)
        if row.ended_at is None and caller.now > row.last_seen_at:
            session.connection().execute(
                update(RuntimeLoad).where(col(RuntimeLoad.id) == load_id).values(last_seen_at=caller.now)
            )
            row.last_seen_at = caller.now
        session.flush()
        session.expunge(row)
    return row


def ended(
    recorder: Recorder,
    caller: Caller,
    load_id: str,
    members: Mapping[str, Any],
    reported: Reported,
    known_size: int | None,
) -> Proof:
    """Append `artifact.unloaded` and end the load, once.

    Raises:
        NotFound: no such load of the caller's on this host.
        Invalid: the time or the signature does not hold.
    """

    def append(session: Session) -> int | None:
        row, grant = _own_load(session, caller, load_id)
        if row.ended_event_index is not None:
            return row.ended_event_index
        at, claims = _claims(session, caller, "artifact.unloaded", load_id, members, reported)
        said = {name: value for name, value in members.items() if value is not None and name != "reported_at"}
        event = event_of(grant, EventType.ARTIFACT_UNLOADED, {**said, **claims, "load": load_id})
        row.ended_event_index = custody.append(session, caller.actor, event, caller.now)
        row.ended_at = max(at, row.loaded_at)
        row.last_seen_at = max(row.last_seen_at, row.ended_at)
        row.end_reason = str(members["reason"])
        session.add(row)
        return None

    return _proof(recorder, append, known_size)


def _proof(recorder: Recorder, append: Any, known_size: int | None) -> Proof:
    """The proof of what was appended now, or of the event that an earlier report of the same appended."""
    recorded = recorder.record(append)
    if recorded.value is None:
        return recorded.proof(known_size)
    return recorder.prove_again(recorded.value, known_size)


def _own_grant(session: Session, caller: Caller, grant_id: str) -> GrantRow:
    """A grant of the caller's on this host, whether it is still good for bytes or not."""
    row = session.get(GrantRow, grant_id)
    if row is None or row.principal != caller.principal.name:
        raise no_grant(grant_id)
    host = caller.principal.host
    if session.get_one(CustodyEvent, row.event_index).verified_host != (host.name if host else None):
        raise no_grant(grant_id)
    return row


def _own_load(session: Session, caller: Caller, load_id: str) -> tuple[RuntimeLoad, GrantRow]:
    """A load that this principal reported from this host; any other is absent."""
    row = session.get(RuntimeLoad, load_id)
    grant = session.get(GrantRow, row.grant_id) if row is not None and row.grant_id is not None else None
    host = caller.principal.host
    if (
        row is None
        or grant is None
        or grant.principal != caller.principal.name
        or row.verified_host != (host.name if host else None)
    ):
        raise NotFound(f"there is no load {load_id[:40]} that you reported from this host")
    return row, grant


def _claims(
    session: Session, caller: Caller, kind: str, subject: str, members: Mapping[str, Any], reported: Reported
) -> tuple[datetime, dict[str, Any]]:
    """When it happened, by the host's word, and what of that word stands in the event."""
    at = reported.at
    if at is None:
        if reported.signature is not None:
            raise Invalid("a signed report says when it was made", field="reported_at")
        return caller.now, {}
    if at.tzinfo is None or not caller.now - _MAX_AGE <= at <= caller.now + _SKEW:
        raise Invalid(
            "reported_at is in the future, a year ago or without an offset; check the host's clock", field="reported_at"
        )
    claims: dict[str, Any] = {"reported_at": at.isoformat(timespec="microseconds")}
    if caller.now - at > LATE:
        claims["late"] = True
    if reported.signature is not None and reported.key_id is not None:
        _require_signature(session, caller, kind, subject, members, reported.key_id, reported.signature, at)
        claims["signed_by"] = reported.key_id
    return min(at, caller.now), claims


def _require_signature(
    session: Session,
    caller: Caller,
    kind: str,
    subject: str,
    members: Mapping[str, Any],
    key_id: str,
    signature: str,
    at: datetime,
) -> None:
    """The signature is of a key that this host has or had, over this report; made before the key was revoked."""
    host = caller.principal.host
    row = session.exec(select(Host).where(Host.key_id == key_id)).one_or_none()
    key = load_public_key(row.public_key) if row is not None else None
    if (
        row is None
        or key is None
        or host is None
        or row.name != host.name
        or (row.revoked_at is not None and at >= row.revoked_at)
        or not host_reports.holds(kind, subject, members, signature, key)
    ):
        raise Invalid("the signature over this report is not one of this host's", field="signature")
