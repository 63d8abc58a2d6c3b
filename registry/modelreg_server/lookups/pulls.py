"""Who pulled it: every decision on a pull, and whether the bytes arrived as far as anybody said so."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, func
from sqlmodel import Session, col, select

from modelreg.answers import AsOf, Confidence, PullRow, PullsAnswer, Unknown
from modelreg_server.custody import CustodyEvent, EventType
from modelreg_server.lookups.people import Who, behind
from modelreg_server.lookups.sight import Sight, batches
from modelreg_server.lookups.subjects import Subject, newest_first

GRANTED, REFUSED = EventType.ARTIFACT_GRANTED.value, EventType.ARTIFACT_REFUSED.value
_MAX_ARRIVALS = 20_000  # reports looked through for those of one page


def pulls(
    session: Session,
    sight: Sight,
    subject: Subject,
    as_of: AsOf,
    *,
    since: datetime | None = None,
    before: int | None = None,
    limit: int,
) -> PullsAnswer:
    """A page of decisions, newest first, and how many there are in all."""
    within = [
        col(CustodyEvent.artifact).in_(subject.digests),
        col(CustodyEvent.recorded_at) <= as_of.time,
        sight.covers(CustodyEvent.repository),
        *([col(CustodyEvent.recorded_at) >= since] if since is not None else []),
    ]
    decided = [*within, col(CustodyEvent.type).in_([GRANTED, REFUSED])]
    counted = select(CustodyEvent.type, func.count()).where(*decided).group_by(CustodyEvent.type)
    counts = dict(session.exec(counted).all())
    page = select(CustodyEvent.index).where(*decided)
    if before is not None:
        page = page.where(col(CustodyEvent.index) < before)
    indexes = list(session.exec(page.order_by(newest_first()).limit(limit + 1)))
    rows = rows_at(session, indexes[:limit])[::-1]
    arrived = _arrivals(session, within, rows)
    who = behind(session, rows)
    shown = [_row(row, who[row.index], arrived) for row in rows]
    silent = sum(row.decision == "granted" and row.received_at is None for row in shown)
    return PullsAnswer(
        as_of=as_of,
        asked=subject.asked,
        found=subject.found,
        truncated=subject.truncated or len(indexes) > limit,
        unknown=[Unknown(what="arrival", count=silent, text="granted, and nobody said that it arrived")]
        if silent
        else [],
        pulls=shown,
        granted=counts.get(GRANTED, 0),
        refused=counts.get(REFUSED, 0),
        next_before=indexes[limit - 1] if len(indexes) > limit else None,
    )


def rows_at(session: Session, indexes: list[int]) -> list[CustodyEvent]:
    """The events at these indexes, in order."""
    found: list[CustodyEvent] = []
    for batch in batches(sorted(indexes)):
        query = select(CustodyEvent).where(col(CustodyEvent.index).in_(batch)).order_by(col(CustodyEvent.index))
        found += session.exec(query)
    return found


def _arrivals(session: Session, within: Sequence[ColumnElement[bool]], rows: list[CustodyEvent]) -> dict[str, datetime]:
    """When the grants among these rows were reported as received; the first report of each counts."""
    grants = {str(row.detail.get("grant")): row.index for row in rows if row.type == GRANTED}
    if not grants:
        return {}
    query = (
        select(CustodyEvent.recorded_at, CustodyEvent.detail)
        .where(
            *within,
            CustodyEvent.type == EventType.ARTIFACT_RECEIVED.value,
            col(CustodyEvent.index) > min(grants.values()),
        )
        .order_by(col(CustodyEvent.index))
        .limit(_MAX_ARRIVALS)
    )
    found: dict[str, datetime] = {}
    for at, detail in session.exec(query):
        grant = str(detail.get("grant"))
        if grant in grants:
            found.setdefault(grant, at)
    return found


def _row(row: CustodyEvent, who: Who, arrived: dict[str, datetime]) -> PullRow:
    granted = row.type == GRANTED
    grant = row.detail.get("grant") if granted else None
    received_at = arrived.get(str(grant))
    confidence: Confidence = "recorded" if row.verified_host is not None else "claimed"
    reason = (
        None if granted else f"{row.detail.get('reason')}: {who.reason}" if who.reason else row.detail.get("reason")
    )
    assert row.artifact is not None
    return PullRow(
        event=row.index,
        at=row.recorded_at,
        decision="granted" if granted else "refused",
        reason=reason,
        principal=who.principal,
        host=row.host,
        verified_host=row.verified_host,
        verified_host_class=row.verified_host_class,
        verified_host_zone=row.verified_host_zone,
        client_address=who.client_address,
        repository=row.repository,
        artifact=row.artifact,
        tag=row.tag,
        purpose=row.purpose,
        grant=grant,
        received_at=received_at,
        confidence="unknown" if granted and received_at is None else confidence,
    )
