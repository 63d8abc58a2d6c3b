"""Who is asking: principals, verbs and scopes, and the port every way of authenticating implements.

A scope is `verb:repository-pattern` (`pull:acme/*`); patterns are anchored globs, `*/*` is every repository.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from sqlmodel import Session

from modelreg.errors import Invalid
from modelreg.references import glob_matches, parse_repository

EVERYWHERE = "*/*"


class Verb(StrEnum):
    """What a scope permits. `pull` includes `read-metadata`; nothing else includes anything."""

    READ_METADATA = "read-metadata"
    PULL = "pull"
    PUSH = "push"
    TAG = "tag"
    AUDIT = "audit"
    ADMIN = "admin"


@dataclass(frozen=True)
class Scope:
    """One verb on the repositories a pattern names."""

    verb: Verb
    pattern: str

    def __str__(self) -> str:
        return f"{self.verb.value}:{self.pattern}"


@dataclass(frozen=True)
class Principal:
    """A verified credential's owner: `person:…`, `workload:…` or `host:…`, with what the credential permits."""

    name: str
    token_id: str
    scopes: tuple[Scope, ...]
    expires_at: datetime
    last_used_at: datetime | None = None
    identity: dict[str, Any] | None = None  # whose token a session token was exchanged for

    def may(self, verb: Verb, repository: str) -> bool:
        """Whether a scope permits the verb on this repository."""
        verbs = {verb, Verb.PULL} if verb is Verb.READ_METADATA else {verb}
        return any(scope.verb in verbs and glob_matches(scope.pattern, repository) for scope in self.scopes)

    def may_somewhere(self, verb: Verb) -> bool:
        """Whether a scope permits the verb on any repository there is or will be."""
        return any(scope.verb is verb for scope in self.scopes)

    def may_everywhere(self, verb: Verb) -> bool:
        """Whether a scope permits the verb on every repository there is or will be."""
        return any(scope.verb is verb and scope.pattern == EVERYWHERE for scope in self.scopes)


@dataclass(frozen=True)
class Anonymous:
    """No credential was sent. A value, so that nobody mistakes it for a principal."""


class Authenticator(Protocol):
    """Turns a credential into a principal; never guesses."""

    def authenticate(self, session: Session, untrusted_credential: str | None, now: datetime) -> Principal | Anonymous:
        """Read the bearer credential of a request.

        Raises:
            Unauthenticated: there is one and it does not hold; the reason is the same for all.
        """
        ...


def parse_scope(untrusted_text: str) -> Scope:
    """Read `verb:namespace/name`, either part of the repository may hold `*`.

    Raises:
        Invalid: it is not one.
    """
    verb, _, pattern = untrusted_text.partition(":")
    try:
        parse_repository(pattern.replace("*", "x"))
        return Scope(Verb(verb), pattern)
    except (ValueError, Invalid):
        raise Invalid(
            f"{untrusted_text[:200]!r} is not a scope; write verb:namespace/name, * for any run of characters but /, "
            f"and one of the verbs {', '.join(Verb)}",
            field="scopes",
            value=untrusted_text[:200],
        ) from None
