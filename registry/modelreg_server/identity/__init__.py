"""Who is asking: principals, verbs and scopes, and the port every way of authenticating implements.

A scope is `verb:repository-pattern` (`pull:acme/*`); patterns are anchored globs, `*/*` is every repository.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from sqlmodel import Session

from modelreg.errors import Invalid
from modelreg.references import parse_repository
from modelreg_server.access import (
    EVERYWHERE,
    AccessDecision,
    AccessGrant,
    AccessRequest,
    HostFacts,
    Verb,
    decide,
)

__all__ = ["EVERYWHERE", "Anonymous", "Authenticator", "Principal", "Scope", "Verb", "parse_scope"]

_END_OF_TIME = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Scope:
    """One verb on the repositories a pattern names."""

    verb: Verb
    pattern: str

    def __str__(self) -> str:
        return f"{self.verb.value}:{self.pattern}"


@dataclass(frozen=True)
class Principal:
    """A verified credential's owner: `person:…`, `workload:…` or `host:…`, and what decides what it may.

    A credential with scopes has exactly those rights; one without has the access grants of its principal, `grants`.
    `host` is the host whose key signed the request. `at` is the request's instant; left out, no grant that ends applies.
    """

    name: str
    token_id: str | None
    scopes: tuple[Scope, ...]
    expires_at: datetime | None
    last_used_at: datetime | None = None
    identity: dict[str, Any] | None = None  # whose token a session token was exchanged for
    grants: tuple[AccessGrant, ...] = ()
    host: HostFacts | None = None
    at: datetime = _END_OF_TIME

    def decide(
        self, verb: Verb, repository: str, *, sensitive: bool = False, environment: str | None = None
    ) -> AccessDecision:
        """Ask the one judge, with reasons. `sensitive` is the repository's; it matters for `pull` only."""
        request = AccessRequest(self.name, verb, repository, self.at, environment, self.host, sensitive)
        return decide(request, grants_of_scopes(self.name, self.scopes) if self.scopes else self.grants)

    def may(self, verb: Verb, repository: str, *, sensitive: bool = False, environment: str | None = None) -> bool:
        """Whether the principal may do this to this repository, now and from this host, for the environment it names."""
        return self.decide(verb, repository, sensitive=sensitive, environment=environment).allowed

    def may_somewhere(self, verb: Verb) -> bool:
        """Whether the principal may do this to any repository there is or will be."""
        grants = grants_of_scopes(self.name, self.scopes) if self.scopes else self.grants
        return any(self.may(verb, grant.repository) for grant in grants)

    def may_everywhere(self, verb: Verb) -> bool:
        """Whether the principal may do this to every repository there is or will be."""
        return self.may(verb, EVERYWHERE)


def grants_of_scopes(name: str, scopes: tuple[Scope, ...]) -> tuple[AccessGrant, ...]:
    """A token's scopes as grants to its principal. The token's end is the authenticator's business."""
    return tuple(AccessGrant(name, scope.verb, scope.pattern, origin="scope") for scope in scopes)


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
