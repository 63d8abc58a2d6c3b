"""Where it is loaded, now or at a time: what hosts reported, and how long ago they last did."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import select as sa_select
from sqlmodel import Session, col, or_, select

from modelreg.answers import AsOf, Confidence, LoadedAnswer, LoadRow, LoadState, Unknown
from modelreg_server.custody import CustodyEvent, EventType
from modelreg_server.lookups.sight import Sight, batches
from modelreg_server.lookups.subjects import Subject, newest_first
from modelreg_server.tables import RuntimeLoad

MISSED_HEARTBEATS = 3  # after so many a load is stale
_MAX_OLD = 1000  # events of releases that kept no track of loads
_ORDER = {"running": 0, "stale": 1, "unknown": 2, "ended": 3}


class Outline(NamedTuple):
    """As much of a load as it takes to count it."""

    id: str
    artifact: str
    host: str
    verified_host: str | None
    runtime_version: str | None
    event: int
    state: LoadState


def loaded(
    session: Session, sight: Sight, subject: Subject, as_of: AsOf, *, ended: bool = False, limit: int
) -> LoadedAnswer:
    """Loads that had begun by then: those not known to have ended, with `ended` also the others."""
    known = outlines(session, sight, subject.artifacts, as_of.time, ended=ended)
    old = _old_reports(session, sight, subject.artifacts, as_of.time)
    rows = described(session, known[:limit], as_of.time) + old
    every: list[Outline | LoadRow] = [*known, *old]
    return LoadedAnswer(
        as_of=as_of,
        asked=subject.asked,
        found=subject.found,
        truncated=subject.truncated or len(every) > limit or len(old) >= _MAX_OLD,
        unknown=unknown_of(every),
        loads=rows[:limit],
        counts=dict(Counter(row.state for row in every)),
    )


def outlines(
    session: Session, sight: Sight, artifacts: Iterable[str], at: datetime, *, ended: bool = False
) -> list[Outline]:
    """Loads of these artifacts that had begun by then and, unless `ended` asks for them too, had not ended.

    What surely runs comes first.
    """
    found: list[Outline] = []
    for batch in batches(artifacts):
        query = sa_select(
            col(RuntimeLoad.id),
            col(RuntimeLoad.artifact_digest),
            col(RuntimeLoad.host),
            col(RuntimeLoad.verified_host),
            col(RuntimeLoad.runtime_version),
            col(RuntimeLoad.event_index),
            col(RuntimeLoad.ended_at),
            col(RuntimeLoad.last_seen_at),
            col(RuntimeLoad.heartbeat_seconds),
        ).where(
            col(RuntimeLoad.artifact_digest).in_(batch),
            col(RuntimeLoad.loaded_at) <= at,
            sight.covers(RuntimeLoad.repository),
        )
        if not ended:
            query = query.where(or_(col(RuntimeLoad.ended_at).is_(None), col(RuntimeLoad.ended_at) > at))
        found += [Outline(*row[:6], state_of(*row[6:], at)) for row in session.connection().execute(query)]
    return sorted(found, key=lambda row: (_ORDER[row.state], row.verified_host or row.host, -row.event))


def described(session: Session, chosen: Sequence[Outline], at: datetime) -> list[LoadRow]:
    """These loads in full, in the same order."""
    rows: dict[str, LoadRow] = {}
    for batch in batches(row.id for row in chosen):
        query = select(RuntimeLoad).where(col(RuntimeLoad.id).in_(batch))
        rows |= {load.id: _row(load, at) for load in session.exec(query)}
    return [rows[row.id] for row in chosen]


def unknown_of(rows: Sequence[LoadRow | Outline]) -> list[Unknown]:
    """What the record cannot say of loads that did not end."""
    living = [row for row in rows if row.state != "ended"]
    silent = sum(row.state == "unknown" for row in living)
    stale = sum(row.state == "stale" for row in living)
    versionless = sum(row.runtime_version is None for row in living)
    found = [
        Unknown(what="hosts-without-heartbeat", count=silent, text="loaded once; nobody promised to say when it ends"),
        Unknown(
            what="stale", count=stale, text=f"silent for more than {MISSED_HEARTBEATS} heartbeats; it may still run"
        ),
        Unknown(what="runtime-version", count=versionless, text="the runtime's version was not reported"),
    ]
    return [row for row in found if row.count]


def state_of(
    ended_at: datetime | None, last_seen_at: datetime, heartbeat_seconds: int | None, at: datetime
) -> LoadState:
    """What can be said of a load at a time after it began; for the past, what was heard later counts."""
    if ended_at is not None and ended_at <= at:
        return "ended"
    if ended_at is not None or last_seen_at > at:
        return "running"
    if heartbeat_seconds is None:
        return "unknown"
    silence = at - last_seen_at
    return "running" if silence <= timedelta(seconds=MISSED_HEARTBEATS * heartbeat_seconds) else "stale"


def _row(load: RuntimeLoad, at: datetime) -> LoadRow:
    state = state_of(load.ended_at, load.last_seen_at, load.heartbeat_seconds, at)
    known: Confidence = "recorded" if load.verified_host is not None else "claimed"
    return LoadRow(
        artifact=load.artifact_digest,
        repository=load.repository,
        host=load.host,
        verified_host=load.verified_host,
        pid=load.pid,
        boot_id=load.boot_id,
        command=load.command,
        runtime=load.runtime,
        runtime_version=load.runtime_version,
        loaded_at=load.loaded_at,
        last_seen_at=load.last_seen_at,
        ended_at=load.ended_at,
        end_reason=load.end_reason,
        state=state,
        method="heartbeat" if load.last_seen_at > load.loaded_at else "receipt",
        confidence="stale" if state == "stale" else "unknown" if state == "unknown" else known,
        event=load.event_index,
    )


def _old_reports(session: Session, sight: Sight, artifacts: list[str], at: datetime) -> list[LoadRow]:
    """The newest loads of the releases that kept no track of them: an event, and nothing since."""
    found: list[LoadRow] = []
    for batch in batches(artifacts):
        tracked = select(RuntimeLoad.id).where(RuntimeLoad.event_index == CustodyEvent.index)
        query = select(CustodyEvent).where(
            col(CustodyEvent.artifact).in_(batch),
            CustodyEvent.type == EventType.ARTIFACT_LOADED.value,
            col(CustodyEvent.recorded_at) <= at,
            sight.covers(CustodyEvent.repository),
            ~tracked.exists(),
        )
        for row in session.exec(query.order_by(newest_first()).limit(_MAX_OLD - len(found))):
            assert row.artifact is not None
            found.append(
                LoadRow(
                    artifact=row.artifact,
                    repository=row.repository or "",
                    host=row.host or "",
                    verified_host=row.verified_host,
                    pid=row.detail.get("pid"),
                    boot_id=row.detail.get("boot_id"),
                    command=row.detail.get("command"),
                    runtime=None,
                    runtime_version=None,
                    loaded_at=row.recorded_at,
                    last_seen_at=row.recorded_at,
                    ended_at=None,
                    end_reason=None,
                    state="unknown",
                    method="receipt",
                    confidence="unknown",
                    event=row.index,
                )
            )
    return found
