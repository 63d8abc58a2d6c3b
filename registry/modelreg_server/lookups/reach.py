"""How far artifacts went: grants and arrivals counted by machine, person and artifact, in one pass over one index.

`ix_custody_event_reach` holds every column that is read here, in this order: a million events take less than a second.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import CTE, String, cast, func, literal, null, select, union_all
from sqlmodel import Session, col

from modelreg_server.custody import CustodyEvent, EventType
from modelreg_server.lookups.people import principals_behind
from modelreg_server.lookups.sight import Sight, batches

_MACHINE = (col(CustodyEvent.artifact), col(CustodyEvent.verified_host), col(CustodyEvent.host))


@dataclass
class Tally:
    """What was granted to one machine or person; artifacts are counted once each."""

    artifacts: int = 0
    grants: int = 0
    received: int = 0
    last_at: datetime | None = None

    def add(self, artifacts: int, grants: int, last_at: datetime | None) -> None:
        """Take in a group of other artifacts."""
        self.artifacts += artifacts
        self.grants += grants
        self.last_at = max(filter(None, (self.last_at, last_at)), default=None)


@dataclass
class Reach:
    """By machine (its name, and whether that was verified), by principal, by artifact."""

    hosts: dict[tuple[str, bool], Tally] = field(default_factory=dict)
    people: dict[str, Tally] = field(default_factory=dict)
    artifacts: Counter[str] = field(default_factory=Counter)


def reach_of(session: Session, sight: Sight, artifacts: Iterable[str], at: datetime) -> Reach:
    """Count what was granted of these artifacts, and what arrived, by then. O(events of these artifacts)."""
    reach = Reach()
    for batch in batches(artifacts):
        last_at = func.max(col(CustodyEvent.recorded_at)).label("last_at")
        by = (*_MACHINE, col(CustodyEvent.principal))
        _add_grants(session, _grouped(sight, batch, EventType.ARTIFACT_GRANTED, at, by, last_at), reach)
        arrived = _grouped(sight, batch, EventType.ARTIFACT_RECEIVED, at, _MACHINE)
        query = select(arrived.c.verified_host, arrived.c.host, func.sum(arrived.c.events)).group_by(
            arrived.c.verified_host, arrived.c.host
        )
        for verified_host, host, count in session.connection().execute(query):
            reach.hosts.setdefault(_machine(verified_host, host), Tally()).received += int(count)
    shown = principals_behind(session, reach.people)
    people: dict[str, Tally] = {}
    for name, tally in reach.people.items():
        people.setdefault(shown[name], Tally()).add(tally.artifacts, tally.grants, tally.last_at)
    reach.people = people
    return reach


def _grouped(
    sight: Sight, artifacts: Sequence[str], kind: EventType, at: datetime, by: Sequence[Any], *totals: Any
) -> CTE:
    """Events of one type by columns in the order of the index: one pass over it, with no sorting."""
    return (
        select(*by, func.count().label("events"), *totals)
        .where(
            col(CustodyEvent.artifact).in_(artifacts),
            col(CustodyEvent.type) == kind.value,
            col(CustodyEvent.recorded_at) <= at,
            sight.covers(CustodyEvent.repository),
        )
        .group_by(*by)
        .cte("grouped")
    )


def _add_grants(session: Session, grouped: CTE, reach: Reach) -> None:
    totals: tuple[Any, ...] = (
        func.count(grouped.c.artifact.distinct()),
        func.sum(grouped.c.events),
        func.max(grouped.c.last_at),
    )
    nothing = cast(null(), String)
    by_host = select(literal("host"), grouped.c.verified_host, grouped.c.host, *totals)
    by_person = select(literal("person"), grouped.c.principal, nothing, *totals)
    by_artifact = select(literal("artifact"), grouped.c.artifact, nothing, *totals)
    query = union_all(
        by_host.group_by(grouped.c.verified_host, grouped.c.host),
        by_person.group_by(grouped.c.principal),
        by_artifact.group_by(grouped.c.artifact),
    )
    for kind, first, second, artifacts, grants, last_at in session.connection().execute(query):
        match kind:
            case "host":
                reach.hosts.setdefault(_machine(first, second), Tally()).add(artifacts, int(grants), last_at)
            case "person":
                reach.people.setdefault(first, Tally()).add(artifacts, int(grants), last_at)
            case _:
                reach.artifacts[first] += int(grants)


def _machine(verified_host: str | None, host: str | None) -> tuple[str, bool]:
    return (verified_host, True) if verified_host is not None else (host or "?", False)
