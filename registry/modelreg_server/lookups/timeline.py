"""What happened to it: every event that names an artifact, a tag, or a repository."""

from datetime import datetime

from sqlalchemy import ColumnElement, func
from sqlmodel import Session, and_, col, or_, select

from modelreg_server.custody import CustodyEvent
from modelreg_server.lookups.pulls import rows_at
from modelreg_server.lookups.sight import Sight
from modelreg_server.lookups.subjects import Question, Subject, newest_first


def events_of(
    session: Session,
    sight: Sight,
    question: Question,
    subject: Subject | None,
    at: datetime,
    *,
    before: int | None,
    limit: int,
) -> tuple[list[CustodyEvent], int, int | None]:
    """The newest events before an index, in order; how many there are in all, and where those before them end.

    Args:
        question: a repository alone stands for everything in it; the caller may audit it, or there would be no subject.
        subject: None for a repository alone.
        before: an index; None for the end of the log.
    """
    touching: list[ColumnElement[bool]] = []
    if subject is None:
        touching.append(col(CustodyEvent.repository) == question.repository)
    else:
        touching.append(col(CustodyEvent.artifact).in_(subject.digests))
        if question.tag is not None:
            touching.append(
                and_(col(CustodyEvent.repository) == question.repository, col(CustodyEvent.tag) == question.tag)
            )
    within = [or_(*touching), col(CustodyEvent.recorded_at) <= at, sight.covers(CustodyEvent.repository)]
    total = session.exec(select(func.count()).select_from(CustodyEvent).where(*within)).one()
    page = select(CustodyEvent.index).where(*within)
    if before is not None:
        page = page.where(col(CustodyEvent.index) < before)
    # A repository's events lie dense in the log, an artifact's need not.
    order = col(CustodyEvent.index).desc() if subject is None else newest_first()
    indexes = list(session.exec(page.order_by(order).limit(limit + 1)))
    more = indexes[limit - 1] if len(indexes) > limit else None
    return rows_at(session, indexes[:limit]), total, more
