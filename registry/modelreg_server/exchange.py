"""Exchanging an issuer's token for a short-lived one of ours: verified, once only, by a rule, and recorded."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from modelreg.errors import TokenRefused
from modelreg_server import custody
from modelreg_server.custody import Actor, Event, EventType
from modelreg_server.database import Database, insert_if_absent
from modelreg_server.identity import claims, tokens
from modelreg_server.identity.federation import Federation
from modelreg_server.tables import Token, UsedToken

# How long a used token is remembered after it could last be accepted: clocks of several servers may differ.
REMEMBERED = timedelta(minutes=10)


@dataclass(frozen=True)
class Exchanged:
    """The session token's text, which is kept nowhere, and its row."""

    text: str
    row: Token


def exchange(
    database: Database,
    federation: Federation,
    untrusted_token: str,
    issuer_name: str | None,
    *,
    client_address: str | None,
    user_agent: str | None,
    now: datetime,
) -> Exchanged:
    """Exchange a token. That it is used up, the session token and the event are one transaction.

    Raises:
        TokenRefused: the token does not hold, no rule admits it, or it was exchanged before.
        Unreachable: the issuer's keys cannot be had.
        Misconfigured: the identities file is not as it must be.
    """
    found = federation.verify(untrusted_token, issuer_name, now)
    matched = claims.match(found.issuer.rules, found.claims)
    identity = {"issuer": found.issuer.url, "subject": found.subject, "claims": matched.claims_used}
    with database.writing() as session, session.begin():
        used = UsedToken(
            issuer=found.issuer.url, token_sha256=found.once, used_at=now, expires_at=found.expires_at + REMEMBERED
        )
        if not insert_if_absent(session, [used]):
            raise TokenRefused(
                "the token was exchanged before, and a token is good for one exchange; get a fresh one from its issuer",
                reason="replayed",
            )
        text, row = tokens.make_session(
            session,
            principal=matched.principal,
            scopes=list(matched.scopes),
            identity=identity,
            lifetime=timedelta(seconds=found.issuer.lifetime_seconds),
            now=now,
        )
        actor = Actor(matched.principal, row.id, client_address, user_agent, identity)
        detail = {
            "token": row.id,
            "issuer": found.issuer.name,
            "used_token": found.once,
            "scopes": row.scopes,
            "expires_at": row.expires_at.isoformat(),
        }
        custody.append(session, actor, Event(EventType.TOKEN_EXCHANGED, detail=detail), now)
        session.flush()
        session.refresh(row)
        session.expunge(row)
    return Exchanged(text, row)
