"""Our tokens: `mrg_api_<43 base62>_<6 base62>`, the last six a CRC-32 so that scanners recognise one without asking us.

`mrg_session_…` is the same, made by an exchange (`modelreg_server.exchange`) and short-lived.

256 random bits need no slow hash: the SHA-256 of the text is stored, the text is shown once and never logged.
"""

import hashlib
import re
import secrets
import string
import uuid
import zlib
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import bindparam
from sqlalchemy import select as columns
from sqlmodel import Session, col, or_, select

from modelreg.errors import Invalid, NotFound, Unauthenticated
from modelreg_server import custody
from modelreg_server.custody import Actor, Event, EventType
from modelreg_server.identity import Anonymous, Principal, Scope, parse_scope
from modelreg_server.tables import Token

TOKEN = re.compile(r"mrg_(?:api|session)_(?P<secret>[0-9A-Za-z]{43})_(?P<checksum>[0-9A-Za-z]{6})", re.ASCII)
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_LAST_USED_EVERY = timedelta(minutes=1)  # a write on every request would make reading cost a commit


# Columns, and the statement made once: it is asked with every request.
_BY_HASH = columns(
    col(Token.id),
    col(Token.principal),
    col(Token.scopes),
    col(Token.expires_at),
    col(Token.revoked_at),
    col(Token.last_used_at),
    col(Token.identity),
).where(col(Token.hash) == bindparam("hash"))


class TokenAuthenticator:
    """Bearer tokens of the `token` table."""

    def authenticate(self, session: Session, untrusted_credential: str | None, now: datetime) -> Principal | Anonymous:
        """See `Authenticator`. The table is asked on every request, so a revocation holds at once on all workers."""
        if untrusted_credential is None:
            return Anonymous()
        row = None
        if is_well_formed(untrusted_credential):
            row = session.connection().execute(_BY_HASH, {"hash": _hash(untrusted_credential)}).one_or_none()
        if row is None or row.revoked_at is not None or now >= row.expires_at:
            raise _refusal()
        return Principal(
            row.principal, row.id, tuple(map(parse_scope, row.scopes)), row.expires_at, row.last_used_at, row.identity
        )


def require_living(session: Session, principal: Principal, now: datetime) -> None:
    """Go on only if the principal's token, if it has one, still holds.

    Raises:
        Unauthenticated: it was revoked, or it expired.
    """
    if principal.token_id is None:
        return
    row = session.get(Token, principal.token_id, populate_existing=True)
    if row is None or row.revoked_at is not None or now >= row.expires_at:
        raise _refusal()


def _refusal() -> Unauthenticated:
    return Unauthenticated("the token is malformed, unknown, expired or revoked; run `modelreg login` with a new one")


def issue(
    session: Session, actor: Actor, *, principal: str, scopes: list[Scope], lifetime: timedelta, now: datetime
) -> tuple[str, Token]:
    """Make a token inside the caller's transaction; returns the text, which is not kept, and its row.

    Without scopes it has its principal's access grants.

    Raises:
        Invalid: for a host.
    """
    if principal.startswith("host:"):
        raise Invalid("a host has a key, not a token; `modelreg host invite` begins its enrolment", field="principal")
    text, row = _add(session, "api", principal, scopes, actor.principal, now, now + lifetime)
    detail = {"token": row.id, "scopes": row.scopes, "expires_at": row.expires_at.isoformat()}
    event = Event(EventType.TOKEN_ISSUED, detail=detail, about=principal, personal={"for": principal})
    custody.append(session, actor, event, now)
    return text, row


def make_session(
    session: Session,
    *,
    principal: str,
    scopes: list[Scope],
    identity: dict[str, Any],
    lifetime: timedelta,
    now: datetime,
) -> tuple[str, Token]:
    """Make a session token inside the caller's transaction, which appends the event; returns its text and row."""
    text, row = _add(session, "session", principal, scopes, principal, now, now + lifetime)
    row.identity = identity
    return text, row


def _add(
    session: Session,
    kind: Literal["api", "session"],
    principal: str,
    scopes: list[Scope],
    created_by: str,
    now: datetime,
    expires_at: datetime,
) -> tuple[str, Token]:
    text = new_text(kind)
    row = Token(
        id=str(uuid.uuid4()),
        hash=_hash(text),
        last_four=text[-4:],
        principal=principal,
        scopes=[str(scope) for scope in scopes],
        created_at=now,
        created_by=created_by,
        expires_at=expires_at,
        kind=kind,
    )
    session.add(row)
    return text, row


def revoke(session: Session, actor: Actor, token_id: str, now: datetime) -> Token:
    """End a token inside the caller's transaction; ending it again changes nothing.

    Raises:
        NotFound: no such token.
    """
    row = session.get(Token, token_id, with_for_update=True)  # of two who revoke it at once, one tells of it
    if row is None:
        raise NotFound(f"there is no token {token_id[:40]}")
    if row.revoked_at is None:
        row.revoked_at = now
        personal = {"of": row.principal}
        event = Event(EventType.TOKEN_REVOKED, detail={"token": row.id}, about=row.principal, personal=personal)
        custody.append(session, actor, event, now)
    return row


def every_token(session: Session, now: datetime) -> list[Token]:
    """All API tokens, and the session tokens that have not expired; newest first."""
    query = select(Token).where(or_(col(Token.kind) == "api", col(Token.expires_at) > now))
    return list(session.exec(query.order_by(col(Token.created_at).desc())))


def new_text(kind: str) -> str:
    """A new secret `mrg_<kind>_…` with its checksum; whoever keeps it keeps `stored_form` of it."""
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(43))
    return f"mrg_{kind}_{secret}_{_checksum(secret)}"


def stored_form(text: str) -> str:
    """What the database keeps of a secret: 256 random bits need no slow hash."""
    return _hash(text)


def use_is_worth_noting(principal: Principal, now: datetime) -> bool:
    """Whether the last noted use is old enough to write a new one."""
    if principal.token_id is None:
        return False
    return principal.last_used_at is None or now - principal.last_used_at >= _LAST_USED_EVERY


def note_use(session: Session, principal: Principal, now: datetime) -> None:
    """Remember that a token was used, inside the caller's transaction; for people, not for the record.

    Whoever revokes the token at this moment holds its row and waits for the log's lock, so nobody waits for the row here.
    """
    if principal.token_id is not None:
        row = session.get(Token, principal.token_id, with_for_update={"skip_locked": True})
        if row is not None:
            row.last_used_at = now


def is_well_formed(untrusted_text: str) -> bool:
    """Whether the text has a token's form and checksum; says nothing about whether it exists."""
    match = TOKEN.fullmatch(untrusted_text)
    return match is not None and _checksum(match["secret"]) == match["checksum"]


def _checksum(secret: str) -> str:
    number, digits = zlib.crc32(secret.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = _ALPHABET[digit] + digits
    return digits


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
