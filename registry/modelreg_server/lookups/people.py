"""Who stands behind events: the erasable identities that they commit to, or the plain columns of an old release."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlmodel import Session, and_, col, or_, select

from modelreg_server import custody_identities
from modelreg_server.custody import CustodyEvent
from modelreg_server.custody_identities import CustodyIdentity

_ERASED = custody_identities.pseudonym("")
_RANGES = 100  # in one statement


@dataclass(frozen=True)
class Who:
    """As far as it is known: of an erased identity only the pseudonym is left."""

    principal: str
    client_address: str | None
    reason: str | None  # what was said to them, where the event is a refusal


def behind(session: Session, rows: Iterable[CustodyEvent]) -> dict[int, Who]:
    """The people behind events, by index."""
    rows = list(rows)
    opened = custody_identities.opened(session, [name for row in rows for name in (row.actor, row.about)])
    found: dict[int, Who] = {}
    for row in rows:
        actor, about = opened.get(row.actor or ""), opened.get(row.about or "")
        reason = (about.body if about else row.detail).get("detail")
        address = row.client_address if row.actor is None else (actor.body.get("client_address") if actor else None)
        found[row.index] = Who(actor.principal if actor else row.principal, address, reason)
    return found


def principals_behind(session: Session, shown: Iterable[str]) -> dict[str, str]:
    """The principal behind each name that stands in the log's column; whoever was erased stands for itself."""
    found = {name: name for name in shown}
    hidden = sorted(name.removeprefix(_ERASED) for name in found if name.startswith(_ERASED))
    for start in range(0, len(hidden), _RANGES):
        commitment = col(CustodyIdentity.commitment)
        ranges = [and_(commitment >= one, commitment < one + "g") for one in hidden[start : start + _RANGES]]
        query = select(CustodyIdentity.commitment, CustodyIdentity.principal).where(or_(*ranges))
        found |= {custody_identities.pseudonym(full): principal for full, principal in session.exec(query)}
    return found


def shown_as(session: Session, principal: str) -> list[str]:
    """The names under which a principal stands in the log's column: its commitments' pseudonyms, and itself."""
    query = select(CustodyIdentity.commitment).where(CustodyIdentity.principal == principal)
    return [principal, *(custody_identities.pseudonym(full) for full in session.exec(query))]
