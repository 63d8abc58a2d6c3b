"""Exchanging an issuer's token for a short-lived one of ours: verified, once only, by a rule, and recorded."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from modelreg.canonical import canonical_json
from modelreg.errors import TokenRefused
from modelreg_server import custody
from modelreg_server.custody import Actor, Event, EventType
from modelreg_server.database import Database, insert_if_absent
from modelreg_server.identity import claims, tokens
from modelreg_server.identity.assertions import Assertion
from modelreg_server.identity.claims import Match
from modelreg_server.identity.federation import Federation
from modelreg_server.tables import Token, UsedToken

# How long a used token is remembered after it could last be accepted: clocks of several servers may differ.
REMEMBERED = timedelta(minutes=10)
# It stands in every event of the session, beside all that a denial tells: one that filled the entry would hide them.
MAX_IDENTITY_BYTES = 3 * 1024


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
    identity = _identity(found, matched)
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


def _identity(found: Assertion, matched: Match) -> dict[str, Any]:
    """What events say of the session: whose token it was made of.

    Raises:
        TokenRefused: it would not fit into every event, or has no canonical form.
    """
    identity = {"issuer": found.issuer.url, "subject": found.subject, "claims": matched.claims_used}
    try:
        fits = len(canonical_json(identity)) <= MAX_IDENTITY_BYTES
    except ValueError:  # a number beyond 2^53
        fits = False
    if not fits:
        raise TokenRefused(
            f"a rule admits the token, but subject and claims are more than {MAX_IDENTITY_BYTES} bytes, or hold a number "
            "that events cannot; have the rule name fewer claims",
            reason="principal",
        )
    return identity
