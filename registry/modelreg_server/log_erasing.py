"""Forgetting who somebody was: openings go, names in other tables become a word, the tree stays whole.

An entry holds a commitment only, so what is deleted here is all that led back to a person, but for events of before the
commitments (`v` 1), whose entries hold the name themselves and cannot change, and for what the person signed.
"""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Table, or_, select, update
from sqlmodel import Session, SQLModel

from modelreg.errors import Invalid, NotFound, StorageUnavailable
from modelreg.tiles import WIDTH
from modelreg_server import custody, custody_identities, log_copies
from modelreg_server.custody import Actor, CustodyEvent, Event, EventType
from modelreg_server.custody_identities import CustodyIdentity
from modelreg_server.database import Database
from modelreg_server.log_copies import Copies
from modelreg_server.tables import Token, table_of

_NAMING = frozenset({"principal", "subject"})  # and every column that ends in `_by`
_ACTOR = Actor("server:log-erase-identity", None)
_BATCH = 500


@dataclass(frozen=True)
class Erased:
    """What was done: openings deleted, rows renamed, bundles whose copies were written again, and what remains."""

    openings: int
    rows: int
    bundles: tuple[int, ...]
    not_erasable: tuple[int, ...]
    event: int


def erase(database: Database, copies: Copies, principal: str, reason: str, now: datetime) -> Erased:
    """Erase a person or workload from the record, and append `identity.erased`, which names nobody.

    Raises:
        Invalid: a host, whose name is no secret of a person's; or a reason that names the principal.
        NotFound: nobody of this name stands in the record.
        StorageUnavailable: done in the database, and the published copies are still the old ones.
    """
    kind, _, name = principal.partition(":")
    if kind not in {"person", "workload"} or not name:
        raise Invalid(
            "only a person:… or workload:… can be erased; a host's name stands in the entries", field="principal"
        )
    if name.lower() in reason.lower() or len(reason) > custody.MAX_TEXT_CHARS:
        raise Invalid(
            "the reason stays in the log for good: at most 200 characters, and without the name", field="reason"
        )
    with database.writing() as session, session.begin():
        custody.hold(session)
        bundles = bundles_naming(session, principal)
        openings, rows = forget(session, principal, now)
        old = not_erasable(session, principal)
        if not openings and not rows and not old:
            raise NotFound(f"nobody called {principal[:80]} stands in the record; erased before, or misspelt")
        detail: dict[str, Any] = {
            "openings": openings,
            "rows": rows,
            "not_erasable": len(old),
            "reason": reason or None,
        }
        index = custody.append(session, _ACTOR, Event(EventType.IDENTITY_ERASED, detail=detail), now)
    try:
        republish(database, copies, bundles)
    except StorageUnavailable as error:
        raise StorageUnavailable(
            f"erased in the database, but not in the published copies: {error.detail} Then run "
            "`modelreg-server log republish`.",
        ) from None
    return Erased(openings, rows, bundles, old, index)


def forget(session: Session, principal: str, now: datetime) -> tuple[int, int]:
    """Delete openings and rename rows inside the caller's transaction; returns how many of each.

    Tokens of the principal end: whoever was forgotten cannot log in as the word that stands for them.
    """
    connection = session.connection()
    openings = len(custody_identities.erase(session, principal))
    word = f"erased:{secrets.token_hex(8)}"
    token = table_of(Token)
    connection.execute(update(token).where(token.c.principal == principal).values(identity=None, last_used_at=None))
    connection.execute(
        update(token).where(token.c.principal == principal, token.c.revoked_at.is_(None)).values(revoked_at=now)
    )
    rows = 0
    for table in _other_tables():
        for column in table.columns:
            if column.name in _NAMING or column.name.endswith("_by"):
                rows += connection.execute(
                    update(table).where(column == principal).values({column.name: word})
                ).rowcount
    return openings, rows


def republish(database: Database, copies: Copies, bundles: Iterable[int]) -> None:
    """Write the openings of these bundles anew, as the database has them now."""
    with database.reading() as session:
        for index in bundles:
            log_copies.publish_openings(session, copies, index)


def bundles_naming(session: Session, principal: str) -> tuple[int, ...]:
    """The entry bundles in which a principal stands."""
    identity, event = table_of(CustodyIdentity), table_of(CustodyEvent)
    connection = session.connection()
    named = connection.execute(select(identity.c.commitment).where(identity.c.principal == principal)).scalars().all()
    found: set[int] = set()
    for start in range(0, len(named), _BATCH):
        some = named[start : start + _BATCH]
        query = select(event.c.index).where(or_(event.c.actor.in_(some), event.c.about.in_(some)))
        found |= {index // WIDTH for index in connection.execute(query).scalars()}
    return tuple(sorted(found))


def not_erasable(session: Session, principal: str) -> tuple[int, ...]:
    """Events of a release before the commitments, which hold the name in the entry itself."""
    event = table_of(CustodyEvent)
    query = select(event.c.index).where(event.c.principal == principal, event.c.actor.is_(None)).order_by(event.c.index)
    return tuple(session.connection().execute(query).scalars())


def _other_tables() -> Sequence[Table]:
    return [table for name, table in SQLModel.metadata.tables.items() if not name.startswith("custody_")]
