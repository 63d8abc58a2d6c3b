"""What hosts say of a recalled artifact, held against what the record says they have.

A host *may have* a recalled artifact if the log says that it was granted, received or loaded there. It is *settled* when
it has confirmed since then that this is over: `absent` or `removed`, and for a quarantine also `holding` (kept, not
running: it may be released again). A host that reports loads after its confirmation is not settled any more.

Two kinds of hosts never stand for each other: one is verified (its key signed the request), the other is a name that a
client gave itself. A verified host speaks for itself only, a claimed one only with rights to the artifact.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func
from sqlalchemy import select as select_columns
from sqlmodel import Session, and_, col, select

from modelreg.errors import Conflict
from modelreg_server import custody, recalls
from modelreg_server.callers import Caller, absent
from modelreg_server.custody import CustodyEvent, Event, EventType
from modelreg_server.database import Database, one_at_a_time
from modelreg_server.identity import Verb
from modelreg_server.tables import GrantRow, Publication, Recall, RecallConfirmation, Repository, RuntimeLoad

MAX_HOSTS = 10_000  # in one status; what is left out is said to be
_MAX_EXPECTED = 1000
# From the weakest to the strongest. After a grant alone nobody knows: the client may have died before it could report.
_EXPOSURES = {
    EventType.ARTIFACT_GRANTED: "unknown",
    EventType.ARTIFACT_RECEIVED: "received",
    EventType.ARTIFACT_LOADED: "loaded",
}
_STRENGTH = ["none", "unknown", "received", "loaded", "running"]
_SETTLING = {recalls.QUARANTINE: {"absent", "removed", "holding"}, recalls.REVOCATION: {"absent", "removed"}}
RENEW_SECONDS = 24 * 3600  # the same said again is an event once a day, not once a round


@dataclass(frozen=True)
class HostKey:
    """A host by name; `verified` says whose word the name is."""

    name: str
    verified: bool


@dataclass
class Standing:
    """What is known of one host and one recalled artifact. `exposure` is the strongest thing the record says.

    `event` is the last that gave it the artifact, and `repository` where from.
    """

    host: HostKey
    exposure: str = "none"
    event: int = -1
    event_at: datetime | None = None
    repository: str | None = None
    running: int = 0
    last_seen_at: datetime | None = None
    confirmation: RecallConfirmation | None = None
    settled: bool = False


@dataclass(frozen=True)
class Status:
    """A recall and where it stands, unsettled hosts first, the worst of them first of all.

    `unsettled` counts those as well that are left out where it is not `complete`.
    """

    recall: Recall
    hosts: list[Standing]
    unsettled: int
    complete: bool


def status(session: Session, caller: Caller, recall_id: str) -> Status:
    """Every host that may have the artifact or spoke of it.

    Raises:
        NotFound: no such recall, or not for this caller (`recalls.require_on_every_holder`).
    """
    row = session.get(Recall, recall_id)
    if row is None:
        raise recalls.no_recall(recall_id)
    recalls.require_on_every_holder(session, caller, row)
    found = _standings(session, row)
    hosts = sorted(
        found.values(),
        key=lambda standing: (
            standing.settled,
            -_STRENGTH.index(standing.exposure),
            standing.host.name,
            standing.host.verified,
        ),
    )
    session.expunge_all()
    unsettled = sum(not standing.settled for standing in hosts)
    return Status(row, hosts[:MAX_HOSTS], unsettled, complete=len(hosts) <= MAX_HOSTS)


def host_of(caller: Caller, claimed: str) -> HostKey:
    """The host that speaks: the one whose key signed, else the name that the client gives itself."""
    known = caller.principal.host
    return HostKey(known.name, verified=True) if known else HostKey(claimed, verified=False)


def confirm(
    database: Database, caller: Caller, recall_id: str, claimed_host: str, state: str, detail: dict[str, Any]
) -> int:
    """Record what a host says; returns the event's index. The same said again is an event only when it says something new.

    Raises:
        NotFound: no such recall, or nothing that this caller has to do with.
        Conflict: it was lifted meanwhile.
    """
    host = host_of(caller, claimed_host)
    with database.writing() as session, session.begin():
        row = session.get(Recall, recall_id)
        if row is None or not _may_speak(session, caller, row.artifact_digest, host):
            raise recalls.no_recall(recall_id)
        # One answer of a host at a time; the log's lock only for the append, for what comes before may be long.
        one_at_a_time(session, "confirm", recall_id, host.name)
        session.refresh(row)
        if row.lifted_at is not None:
            raise Conflict(f"the recall {recall_id} ended at {row.lifted_at:%Y-%m-%d %H:%M}Z", recall=recall_id)
        standing = _standings(session, row, host).get(host, Standing(host))
        said = standing.confirmation
        if said is not None and _says_it_already(said, state, standing, caller.now):
            return said.event_index
        event = Event(
            EventType.RECALL_CONFIRMED,
            repository=standing.repository,
            artifact=row.artifact_digest,
            host=claimed_host,
            detail={"recall": row.id, "kind": row.kind, "state": state, **detail},
        )
        index = custody.append(session, caller.actor, event, caller.now)
        if said is None:
            said = RecallConfirmation(
                recall_id=row.id,
                host=host.name,
                verified=host.verified,
                state=state,
                confirmed_at=caller.now,
                event_index=index,
            )
        said.state, said.confirmed_at, said.event_index = state, caller.now, index
        session.add(said)
    return index


def expected_of(session: Session, caller: Caller, claimed_host: str) -> list[Recall]:
    """The open recalls that a host has not settled, by what the record says that it has.

    For a claimed host only those of artifacts that the caller has to do with: anybody can claim a name.
    """
    host = host_of(caller, claimed_host)
    query = (
        select(Recall)
        .join(CustodyEvent, col(CustodyEvent.artifact) == col(Recall.artifact_digest))
        .where(
            col(Recall.lifted_at).is_(None),
            col(CustodyEvent.type).in_([kind.value for kind in _EXPOSURES]),
            _is_host(host),
        )
        .distinct()
        .order_by(col(Recall.event_index))
        .limit(_MAX_EXPECTED)
    )
    found = []
    for row in session.exec(query):
        standing = _standings(session, row, host).get(host)
        if standing is not None and not standing.settled and _may_speak(session, caller, row.artifact_digest, host):
            found.append(row)
    return found


def report_alteration(
    database: Database,
    caller: Caller,
    artifact: str,
    repository: str,
    claimed_host: str,
    detail: dict[str, Any],
) -> int:
    """Append `artifact.altered`: a host found other bytes than it was given.

    Raises:
        NotFound: the repository does not hold the artifact, or the caller has nothing to do with it.
    """
    host = host_of(caller, claimed_host)
    with database.writing() as session, session.begin():
        held = session.exec(
            select(Publication.id)
            .join(Repository, col(Repository.id) == col(Publication.repository_id))
            .where(Repository.name == repository, Publication.artifact_digest == artifact)
        ).one_or_none()
        readable = caller.principal.may(Verb.READ_METADATA, repository)
        if held is None or not (readable or _was_granted(session, caller, artifact, host, repository)):
            raise absent(repository)
        event = Event(
            EventType.ARTIFACT_ALTERED, repository=repository, artifact=artifact, host=claimed_host, detail=detail
        )
        return custody.append(session, caller.actor, event, caller.now)


def _may_speak(session: Session, caller: Caller, artifact: str, host: HostKey) -> bool:
    return recalls.may_see(session, caller, artifact) or _was_granted(session, caller, artifact, host, None)


def _was_granted(session: Session, caller: Caller, artifact: str, host: HostKey, repository: str | None) -> bool:
    """Whether the caller, or the verified host it speaks for, was ever granted the artifact."""
    mine = select(GrantRow.id).where(GrantRow.artifact_digest == artifact, GrantRow.principal == caller.principal.name)
    hosts = select(CustodyEvent.index).where(
        CustodyEvent.artifact == artifact,
        CustodyEvent.type == EventType.ARTIFACT_GRANTED.value,
        CustodyEvent.verified_host == host.name,
    )
    if repository is not None:
        mine = mine.where(GrantRow.repository == repository)
        hosts = hosts.where(CustodyEvent.repository == repository)
    if session.exec(mine.limit(1)).first() is not None:
        return True
    return host.verified and session.exec(hosts.limit(1)).first() is not None


def _is_host(host: HostKey) -> Any:
    if host.verified:
        return col(CustodyEvent.verified_host) == host.name
    return and_(col(CustodyEvent.verified_host).is_(None), col(CustodyEvent.host) == host.name)


def _standings(session: Session, row: Recall, only: HostKey | None = None) -> dict[HostKey, Standing]:
    """By host, from the log, the loads and the confirmations; with `only`, of one host. O(events of the artifact)."""
    found: dict[HostKey, Standing] = {}

    def at(name: str, *, verified: bool) -> Standing:
        key = HostKey(name, verified)
        return found.setdefault(key, Standing(key))

    events = (
        select_columns(
            col(CustodyEvent.host),
            col(CustodyEvent.verified_host),
            col(CustodyEvent.type),
            col(CustodyEvent.repository),
            func.max(col(CustodyEvent.index)),
            func.max(col(CustodyEvent.recorded_at)),
        )
        .where(
            col(CustodyEvent.artifact) == row.artifact_digest,
            col(CustodyEvent.type).in_([kind.value for kind in _EXPOSURES]),
        )
        .group_by(
            col(CustodyEvent.host),
            col(CustodyEvent.verified_host),
            col(CustodyEvent.type),
            col(CustodyEvent.repository),
        )
    )
    if only is not None:
        events = events.where(_is_host(only))
    for name, verified, kind, repository, index, recorded_at in session.connection().execute(events):
        standing = at(verified or name or "", verified=verified is not None)
        standing.exposure = max(standing.exposure, _EXPOSURES[EventType(kind)], key=_STRENGTH.index)
        if index > standing.event:
            standing.event, standing.event_at, standing.repository = index, recorded_at, repository
    loads = select(RuntimeLoad).where(RuntimeLoad.artifact_digest == row.artifact_digest)
    if only is not None:
        loads = loads.where(
            RuntimeLoad.verified_host == only.name
            if only.verified
            else and_(col(RuntimeLoad.verified_host).is_(None), RuntimeLoad.host == only.name)
        )
    for load in session.exec(loads):
        standing = at(load.verified_host or load.host, verified=load.verified_host is not None)
        standing.exposure = max(standing.exposure, "loaded", key=_STRENGTH.index)
        if load.event_index > standing.event:
            standing.event, standing.event_at, standing.repository = load.event_index, load.loaded_at, load.repository
        if load.ended_at is None:
            standing.running += 1
            standing.exposure = "running"
            standing.last_seen_at = max(standing.last_seen_at or load.last_seen_at, load.last_seen_at)
    said = select(RecallConfirmation).where(RecallConfirmation.recall_id == row.id)
    if only is not None:
        said = said.where(RecallConfirmation.host == only.name, RecallConfirmation.verified == only.verified)
    for confirmation in session.exec(said):
        standing = at(confirmation.host, verified=confirmation.verified)
        standing.confirmation = confirmation
        if confirmation.state != "running" and not _overtaken(confirmation, standing) and standing.running:
            # A load whose end nobody reported: the host looked, and it is not there any more.
            standing.running, standing.exposure = 0, "loaded"
        standing.settled = confirmation.state in _SETTLING[row.kind] and not _overtaken(confirmation, standing)
    return found


def _says_it_already(said: RecallConfirmation, state: str, standing: Standing, now: datetime) -> bool:
    fresh = (now - said.confirmed_at).total_seconds() < RENEW_SECONDS
    return fresh and said.state == state and not _overtaken(said, standing)


def _overtaken(said: RecallConfirmation, standing: Standing) -> bool:
    """Whether the host was given the artifact, or was seen running it, after it said that."""
    return standing.event > said.event_index or (
        standing.last_seen_at is not None and standing.last_seen_at > said.confirmed_at
    )
