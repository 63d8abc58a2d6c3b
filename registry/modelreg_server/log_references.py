"""What stands beside the log and must agree with it: openings of commitments, and rows that name the event they rest on."""

import hashlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import or_, select
from sqlmodel import Session, SQLModel

from modelreg.canonical import canonical_json
from modelreg_server.custody import CustodyEvent, EventType
from modelreg_server.custody_identities import CustodyIdentity, commitment_of
from modelreg_server.tables import GrantRow, Publication, Tag, TrustFile, table_of

_ROWS = 1000
# Row, its column for people, the type of its event, and what both say.
_RESTING: tuple[tuple[type[SQLModel], str, EventType, dict[str, str]], ...] = (
    (GrantRow, "id", EventType.ARTIFACT_GRANTED, {"repository": "repository", "artifact_digest": "artifact"}),
    (Publication, "artifact_digest", EventType.ARTIFACT_PUBLISHED, {"artifact_digest": "artifact"}),
    (Tag, "name", EventType.TAG_MOVED, {"artifact_digest": "artifact", "name": "tag"}),
    (TrustFile, "name", EventType.TRUST_PUBLISHED, {}),
)


def reference_findings(session: Session) -> Iterator[tuple[int, str]]:
    """Openings that do not open, and rows that rest on another event than they say; with the event's index."""
    yield from _openings(session)
    for resting in _RESTING:
        yield from _rows(session, *resting)


def _openings(session: Session) -> Iterator[tuple[int, str]]:
    table = table_of(CustodyIdentity)
    last = ""
    while True:
        query = select(table).where(table.c.commitment > last).order_by(table.c.commitment).limit(_ROWS)
        found = session.connection().execute(query).all()
        for row in found:
            if not _opens(row):
                yield _first_naming(session, row.commitment), f"the opening of {row.commitment[:16]}… does not open it"
        if len(found) < _ROWS:
            return
        last = found[-1].commitment


def _opens(row: Any) -> bool:
    try:
        plain = canonical_json(row.body)
        opens = commitment_of(row.salt, plain) == row.commitment
    except (ValueError, TypeError):
        return False
    if not opens or hashlib.sha256(plain).hexdigest() != row.plain_sha256:
        return False
    named = row.body.get("principal") if isinstance(row.body, dict) else None
    return not isinstance(named, str) or named[:200] == row.principal


def _first_naming(session: Session, commitment: str) -> int:
    event = table_of(CustodyEvent)
    query = select(event.c.index).where(or_(event.c.actor == commitment, event.c.about == commitment))
    return session.connection().execute(query.order_by(event.c.index).limit(1)).scalar() or 0


def _rows(
    session: Session, kind: type[SQLModel], name: str, wanted: EventType, same: dict[str, str]
) -> Iterator[tuple[int, str]]:
    row, event = table_of(kind), table_of(CustodyEvent)
    differs = or_(
        event.c.index.is_(None),
        event.c.type != wanted.value,
        *(event.c[theirs].is_distinct_from(row.c[ours]) for ours, theirs in same.items()),
    )
    joined = row.outerjoin(event, event.c.index == row.c.event_index)
    query = select(row.c.event_index, row.c[name]).select_from(joined).where(differs).order_by(row.c.event_index)
    for index, text in session.connection().execute(query.limit(100)):
        yield index, f"the {kind.__tablename__} {str(text)[:80]} rests on event {index}, which does not say so"
