"""Verifying a JWT that an issuer made: the only place that reads one, and what must hold before its claims are believed.

1. At most 16 KiB, three segments, header and claims JSON objects without a member twice.
2. `alg` is one that the *configuration* lists for this issuer; `typ` says JWT or nothing.
3. No header member beside alg, kid, typ, x5t: crit, jwk, jku, x5u, x5c and what comes after them are refused unread.
4. `kid` is looked up among the issuer's published keys; the key's own type and alg agree with `alg`.
5. The signature holds over the exact bytes.
6. `iss` equals the configured one; `aud` is exactly the one audience.
7. iss, aud, sub, iat, exp and the configured claims are there; iat <= now < exp, nbf <= now, give or take 30 s;
   exp - iat at most a day.

Once-only use and the rules over claims come after (`modelreg_server.exchange`, `identity.claims`).
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from jwt import PyJWTError
from jwt.api_jws import PyJWS

from modelreg.errors import TokenRefused
from modelreg_server.identity.issuers import Issuer
from modelreg_server.identity.jwks import MAX_KEY_ID_CHARS, PublicKey

MAX_TOKEN_CHARS = 16 * 1024
MAX_SUBJECT_CHARS = 255  # OpenID Connect Core §2
MAX_LIFETIME = timedelta(days=1)
LEEWAY = timedelta(seconds=30)
_HEADER_MEMBERS = frozenset({"alg", "kid", "typ", "x5t", "x5t#S256"})
_TYPES = {"person": {"jwt"}, "workload": {"jwt", "at+jwt"}}
_MAX_SECONDS = 2**37  # within the years that datetime knows

FindKey = Callable[[str, str], PublicKey]


@dataclass(frozen=True)
class Assertion:
    """A verified token. `once` names it for ever: by its `jti`, or by its signed bytes where it has none."""

    issuer: Issuer
    subject: str
    claims: dict[str, Any]
    once: str
    expires_at: datetime


def choose(issuers: Sequence[Issuer], untrusted_token: str, name: str | None) -> Issuer:
    """The configured issuer that an unverified token says it is from; exact text, no prefix, no case folding.

    Raises:
        TokenRefused: malformed, or none of them.
    """
    claims = _object_of(_segments(untrusted_token)[1])
    found = [issuer for issuer in issuers if issuer.url == claims.get("iss") and name in {None, issuer.name}]
    if not found:
        raise TokenRefused(
            "the token's issuer is not one that this registry exchanges tokens of, or not the one asked for",
            reason="issuer",
        )
    # Several audiences of one issuer: whichever is chosen here is held to all of its own rules below.
    return next((issuer for issuer in found if claims.get("aud") in (issuer.audience, [issuer.audience])), found[0])


def verify(untrusted_token: str, issuer: Issuer, find_key: FindKey, now: datetime) -> Assertion:
    """Verify a token of this issuer, see above; may fetch the issuer's keys.

    Raises:
        TokenRefused: it does not hold; `reason` says which of the above.
        Unreachable: the issuer's keys cannot be had.
    """
    raw_header, raw_claims, signing_input = _segments(untrusted_token)  # 1
    header = _object_of(raw_header)
    algorithm, key_id = _read_header(header, issuer)  # 2 3
    key = find_key(key_id, algorithm)  # 4
    try:
        PyJWS().decode_complete(untrusted_token, key, algorithms=[algorithm])  # 5
    except PyJWTError:
        raise TokenRefused("the token's signature does not hold", reason="signature") from None
    claims = _object_of(raw_claims)
    _require_addressed(claims, issuer)  # 6
    expires_at = _require_timely(claims, issuer, now)  # 7
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT_CHARS or not subject.isprintable():
        raise _malformed("its subject is no text of at most 255 characters")
    return Assertion(issuer, subject, claims, _once(claims, signing_input), expires_at)


def _segments(untrusted_token: str) -> tuple[bytes, bytes, str]:
    if len(untrusted_token) > MAX_TOKEN_CHARS:
        raise _malformed(f"it is longer than {MAX_TOKEN_CHARS} characters")
    signing_input, _, _signature = untrusted_token.rpartition(".")
    parts = signing_input.split(".")
    if len(parts) != 2:
        raise _malformed("it has not three segments")
    return _decoded(parts[0]), _decoded(parts[1]), signing_input


def _decoded(segment: str) -> bytes:
    try:
        if not segment.isascii() or "=" in segment:
            raise ValueError(segment)
        return base64.b64decode(segment + "=" * (-len(segment) % 4), altchars="-_", validate=True)
    except (ValueError, binascii.Error):
        raise _malformed("a segment is not base64url") from None


def _object_of(raw: bytes) -> dict[str, Any]:
    def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            raise ValueError("a member twice")
        return made

    def refuse(_text: str) -> float:
        raise ValueError("not a number of JSON")

    try:
        value = json.loads(raw, object_pairs_hook=once_each, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise _malformed("its header or its claims are not JSON, or have a member twice") from None
    if not isinstance(value, dict):
        raise _malformed("its header or its claims are no JSON object")
    return value


def _read_header(header: dict[str, Any], issuer: Issuer) -> tuple[str, str]:
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in issuer.algorithms:
        raise TokenRefused(
            f"the token's algorithm is not one of {', '.join(sorted(issuer.algorithms))}, which this registry takes from "
            f"{issuer.name}",
            reason="algorithm",
        )
    if header.keys() - _HEADER_MEMBERS:
        raise TokenRefused(
            "the token's header has members beside alg, kid, typ and x5t; none of them is obeyed", reason="header"
        )
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES[issuer.kind]:
        raise TokenRefused("the token's type (typ) is not JWT", reason="header")
    key_id = header.get("kid")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_KEY_ID_CHARS:
        raise TokenRefused("the token's header names no key (kid)", reason="header")
    return algorithm, key_id


def _require_addressed(claims: dict[str, Any], issuer: Issuer) -> None:
    for name in ("iss", "aud", "sub", "iat", "exp", *issuer.required_claims):
        if name not in claims:
            raise TokenRefused(f"the token has no claim {name}", reason="missing-claim")
    if claims["iss"] != issuer.url:
        raise TokenRefused("the token is of another issuer", reason="issuer")
    if claims["aud"] not in (issuer.audience, [issuer.audience]):
        raise TokenRefused(
            f"the token is not made for exactly one audience, {issuer.audience}; ask the issuer for one that is",
            reason="audience",
        )
    if issuer.kind == "person" and claims.get("azp", issuer.client_id) != issuer.client_id:
        raise TokenRefused("the token was given to another client (azp)", reason="audience")
    if "events" in claims:
        # A security event or logout token is made for the same audience, and says nothing about who is there.
        raise TokenRefused("the token tells of an event; it is no proof of identity", reason="header")


def _require_timely(claims: dict[str, Any], issuer: Issuer, now: datetime) -> datetime:
    issued_at, expires_at = _time(claims, "iat"), _time(claims, "exp")
    starts_at = max(issued_at, _time(claims, "nbf")) if "nbf" in claims else issued_at
    if expires_at - issued_at > MAX_LIFETIME:
        raise TokenRefused(f"the token of {issuer.name} is valid for more than a day", reason="lifetime")
    if starts_at > now + LEEWAY:
        raise TokenRefused("the token is not valid yet; compare the clocks", reason="not-yet-valid")
    if now >= expires_at + LEEWAY:
        raise TokenRefused("the token has expired; get a fresh one", reason="expired")
    return expires_at


def _time(claims: dict[str, Any], name: str) -> datetime:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MAX_SECONDS:
        raise _malformed(f"its {name} is no time")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        raise _malformed(f"its {name} is no time") from None


def _once(claims: dict[str, Any], signing_input: str) -> str:
    """Hash of what names this token. Not of its whole text: an ECDSA signature can be respelled by anybody."""
    jti = claims.get("jti")
    if jti is not None and not isinstance(jti, str):
        raise _malformed("its jti is no text")
    return hashlib.sha256((f"jti:{jti}" if jti else f"signed:{signing_input}").encode()).hexdigest()


def _malformed(why: str) -> TokenRefused:
    return TokenRefused(f"the token is malformed: {why}", reason="malformed")
