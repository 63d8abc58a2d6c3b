"""Who stands behind an event: the erasable identity its actor commits to, or the plain columns of an old one."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from modelreg.wire import EventInfo
from modelreg_server.custody import CustodyEvent, CustodyIdentity
from modelreg_server.lookups.sight import batches


@dataclass(frozen=True)
class Who:
    """As far as it is known: of an erased identity only the pseudonym is left."""

    principal: str
    token_id: str | None
    identity: dict[str, Any] | None
    client_address: str | None
    user_agent: str | None


def behind(session: Session, rows: Iterable[CustodyEvent]) -> dict[int, Who]:
    """The people behind events, by index."""
    rows = list(rows)
    bodies = bodies_of(session, {row.actor for row in rows if row.actor is not None})
    found: dict[int, Who] = {}
    for row in rows:
        body = bodies.get(row.actor) if row.actor is not None else None
        found[row.index] = (
            Who(row.principal, row.token_id, row.identity, row.client_address, row.user_agent)
            if body is None
            else Who(
                str(body.get("principal")),
                body.get("token"),
                body.get("identity"),
                body.get("client_address"),
                body.get("user_agent"),
            )
        )
    return found


def bodies_of(session: Session, commitments: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What the commitments stand for; an erased one is absent."""
    found: dict[str, dict[str, Any]] = {}
    for batch in batches(sorted(commitments)):
        query = select(CustodyIdentity.commitment, CustodyIdentity.body).where(
            col(CustodyIdentity.commitment).in_(batch)
        )
        found |= dict(session.exec(query).all())
    return found


def commitments_of(session: Session, principal: str) -> list[str]:
    """Every commitment that stands for a principal."""
    return list(session.exec(select(CustodyIdentity.commitment).where(CustodyIdentity.principal == principal)))


def info_of(row: CustodyEvent, who: Who) -> EventInfo:
    """An event as the API shows it, with the person behind it."""
    return EventInfo(
        index=row.index,
        type=row.type,
        recorded_at=row.recorded_at,
        principal=who.principal,
        token_id=who.token_id,
        repository=row.repository,
        artifact=row.artifact,
        tag=row.tag,
        host=row.host,
        client_address=who.client_address,
        user_agent=who.user_agent,
        purpose=row.purpose,
        detail=row.detail,
        identity=who.identity,
        verified_host=row.verified_host,
        verified_host_class=row.verified_host_class,
        verified_host_zone=row.verified_host_zone,
    )
