"""The access grants that administrators write: given, listed, ended, and explained. `access.decide` judges them."""

import uuid
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func
from sqlmodel import Session, col, or_, select

from modelreg.errors import Conflict, Invalid, NotFound
from modelreg.references import glob_matches
from modelreg_server import custody
from modelreg_server.access import AccessDecision, AccessGrant, AccessRequest, HostClass, HostFacts, Verb, decide
from modelreg_server.custody import Actor, Event, EventType
from modelreg_server.identity import grants_of_scopes, parse_scope
from modelreg_server.identity.hosts import facts_of
from modelreg_server.tables import AccessGrantRow, Host, Repository, Token

MAX_LIVING_GRANTS = 10_000  # those with a pattern as subject are read on every request


@dataclass(frozen=True)
class Explained:
    """The decision on the subject's access grants, and on each of its living tokens that has scopes."""

    request: AccessRequest
    decision: AccessDecision
    tokens: list[tuple[str, AccessDecision]]


def grants_of(session: Session, subject: str) -> tuple[AccessGrant, ...]:
    """The grants that name a subject and were not revoked. Read on every request, so a change holds at once.

    Expired ones are among them: that they do not apply is for `decide` to say.
    """
    query = select(AccessGrantRow).where(
        col(AccessGrantRow.revoked_at).is_(None),
        or_(AccessGrantRow.subject == subject, col(AccessGrantRow.subject).contains("*")),
    )
    rows = session.exec(query.order_by(col(AccessGrantRow.created_at), col(AccessGrantRow.id)))
    return tuple(_grant(row) for row in rows if glob_matches(row.subject, subject))


def grant(session: Session, actor: Actor, wanted: AccessGrant, now: datetime) -> AccessGrantRow:
    """Write a grant inside the caller's transaction.

    Raises:
        Invalid: the repository is no pattern, or the grant would never apply.
        Conflict: there are too many.
    """
    parse_scope(f"{wanted.verb.value}:{wanted.repository}")  # one grammar for both
    if wanted.not_after is not None and wanted.not_after <= now:
        raise Invalid("a grant that ends before it begins", field="not_after")
    custody.hold(session)
    living = session.exec(
        select(func.count()).select_from(AccessGrantRow).where(col(AccessGrantRow.revoked_at).is_(None))
    )
    if living.one() >= MAX_LIVING_GRANTS:
        raise Conflict(
            f"there are {MAX_LIVING_GRANTS} access grants; revoke some, or use patterns", limit=MAX_LIVING_GRANTS
        )
    row = AccessGrantRow(
        id=str(uuid.uuid4()),
        subject=wanted.subject,
        verb=wanted.verb.value,
        repository=wanted.repository,
        environment=wanted.environment,
        host_class=wanted.host_class.value if wanted.host_class else None,
        zone=wanted.zone,
        not_after=wanted.not_after,
        created_at=now,
        created_by=actor.principal,
    )
    session.add(row)
    custody.append(session, actor, _event(EventType.ACCESS_GRANTED, row), now)
    return row


def revoke(session: Session, actor: Actor, grant_id: str, now: datetime) -> AccessGrantRow:
    """End a grant inside the caller's transaction; ending it again changes nothing.

    Raises:
        NotFound: no such grant.
    """
    row = session.exec(select(AccessGrantRow).where(AccessGrantRow.id == grant_id).with_for_update()).one_or_none()
    if row is None:
        raise NotFound(f"there is no access grant {grant_id[:40]}; `modelreg access list` shows them")
    if row.revoked_at is None:
        row.revoked_at, row.revoked_by = now, actor.principal
        custody.append(session, actor, _event(EventType.ACCESS_REVOKED, row), now)
    return row


def every_grant(session: Session, subject: str | None) -> list[AccessGrantRow]:
    """All grants, newest first, ended ones too; with a subject, those that name it."""
    rows = session.exec(select(AccessGrantRow).order_by(col(AccessGrantRow.created_at).desc()))
    return [row for row in rows if subject is None or glob_matches(row.subject, subject)]


def explain(
    session: Session,
    subject: str,
    verb: Verb,
    repository: str,
    *,
    environment: str | None,
    host_class: HostClass | None,
    zone: str | None,
    now: datetime,
) -> Explained:
    """What would be decided. Class and zone are those of an imagined verified host, or of the host that is asked about."""
    host = HostFacts("(as asked)", host_class, zone or "") if host_class else None
    if host is None and subject.startswith("host:"):
        row = session.exec(
            select(Host).where(Host.name == subject.removeprefix("host:"), col(Host.revoked_at).is_(None))
        ).one_or_none()
        host = facts_of(row) if row else None
    request = AccessRequest(subject, verb, repository, now, environment, host, is_sensitive(session, repository))
    living = select(Token).where(
        Token.principal == subject, col(Token.revoked_at).is_(None), col(Token.expires_at) > now
    )
    tokens = [
        (row.id, decide(request, grants_of_scopes(subject, tuple(map(parse_scope, row.scopes)))))
        for row in session.exec(living.order_by(col(Token.created_at).desc()))
        if row.scopes
    ]
    return Explained(request, decide(request, grants_of(session, subject)), tokens)


def is_sensitive(session: Session, repository: str) -> bool:
    """Whether the bytes of a repository are for verified hosts only; an absent one has none."""
    return session.exec(select(Repository.sensitive).where(Repository.name == repository)).one_or_none() or False


def _grant(row: AccessGrantRow) -> AccessGrant:
    return AccessGrant(
        subject=row.subject,
        verb=Verb(row.verb),
        repository=row.repository,
        environment=row.environment,
        host_class=HostClass(row.host_class) if row.host_class else None,
        zone=row.zone,
        not_after=row.not_after,
        origin=row.id,
    )


def _event(kind: EventType, row: AccessGrantRow) -> Event:
    detail = {
        "grant": row.id,
        "verb": row.verb,
        "on": row.repository,
        "environment": row.environment,
        "host_class": row.host_class,
        "zone": row.zone,
        "not_after": row.not_after.isoformat() if row.not_after else None,
    }
    return Event(kind, detail=detail, about=row.subject, personal={"subject": row.subject})
