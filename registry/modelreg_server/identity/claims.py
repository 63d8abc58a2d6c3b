"""Rules over the claims of a token: which holder becomes which principal. Pure: claims in, a match or nothing out.

A claim is named by its member's name, or, where it lies deeper, by a JSON pointer (RFC 6901):
`repository`, `/kubernetes.io/serviceaccount/name`. Pointers lead through objects only.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelreg.errors import Misconfigured, TokenRefused
from modelreg.references import glob_matches
from modelreg_server.identity import Scope

MAX_CLAIMS = 16  # in a rule
MAX_CLAIM_CHARS = 500  # a longer value matches nothing: it would have to fit into every event
MAX_PRINCIPAL_CHARS = 200
MAX_STARS = 4

# Claims become parts of names that people read in the record; what could be mistaken for something else is refused.
_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+=:/-]*", re.ASCII)
_LITERAL = re.compile(r"[A-Za-z0-9._@+=:/#-]*", re.ASCII)
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")

Expected = str | int | bool


@dataclass(frozen=True)
class Template:
    """`workload:ci/{repository}`: a principal with placeholders for claims.

    A value must not contain the character that stands behind its placeholder, so that two different pairs of values
    never make the same name.
    """

    text: str

    @property
    def claims(self) -> list[str]:
        """The claims it needs."""
        return _PLACEHOLDER.findall(self.text)

    def fill(self, values: Mapping[str, str]) -> str | None:
        """The principal, or None where a value may not stand in one."""
        pieces = _PLACEHOLDER.split(self.text)
        made = pieces[0]
        for name, literal in zip(pieces[1::2], pieces[2::2], strict=True):
            value = values[name]
            if not _VALUE.fullmatch(value) or (literal and literal[0] in value):
                return None
            made += value + literal
        return made if len(made) <= MAX_PRINCIPAL_CHARS else None


@dataclass(frozen=True)
class Rule:
    """Claims that must match, all of them, and what their holder becomes."""

    claims: tuple[tuple[str, Expected], ...]
    principal: Template
    scopes: tuple[Scope, ...]


@dataclass(frozen=True)
class Match:
    """The principal, what it may do, and exactly the claims that were used to decide so."""

    principal: str
    scopes: tuple[Scope, ...]
    claims_used: dict[str, Expected]


def parse_template(text: str, kind: str) -> Template:
    """Read a template; its principal is of the issuer's kind whatever the claims say.

    Raises:
        Misconfigured: it is none.
    """
    pieces = _PLACEHOLDER.split(text)
    literals = pieces[0::2]
    if not text.startswith(f"{kind}:") or text == f"{kind}:":
        raise Misconfigured(f"principal {text[:200]!r} does not start with `{kind}:`, the kind of its issuer")
    if not all(_LITERAL.fullmatch(literal) for literal in literals):
        raise Misconfigured(f"principal {text[:200]!r} may hold letters, digits, . _ @ + = : / # - and {{claim}}")
    if not all(literals[1:-1]):
        raise Misconfigured(f"principal {text[:200]!r}: write a separator such as / or # between two claims")
    return Template(text)


def parse_expected(name: str, value: object) -> Expected:
    """Read what a claim must be: an exact text, number or boolean, or an anchored glob.

    Raises:
        Misconfigured: something else.
    """
    if isinstance(value, bool | int):
        return value
    if not isinstance(value, str) or not value or len(value) > MAX_CLAIM_CHARS or value.count("*") > MAX_STARS:
        raise Misconfigured(
            f"claim {name[:100]!r}: write a text of 1 to {MAX_CLAIM_CHARS} characters (at most {MAX_STARS} *), a whole "
            "number or a boolean"
        )
    return value


def binds(expected: Expected) -> bool:
    """Whether the expectation says anything: `*` alone would let everybody of the issuer in."""
    return not isinstance(expected, str) or bool(set(expected) - {"*", "/"})


def match(rules: tuple[Rule, ...], claims: Mapping[str, Any]) -> Match:
    """What the first rule that matches makes of the claims; it decides also where its principal cannot be made.

    Raises:
        TokenRefused: no rule matches (`no-rule`), or a claim cannot stand in the principal's name (`principal`).
    """
    for rule in rules:
        used: dict[str, Expected] = {}
        for name, expected in rule.claims:
            value = _matching(look_up(claims, name), expected)
            if value is None:
                break
            used[name] = value
        else:
            return _match_of(rule, claims, used)
    raise TokenRefused("no rule of this registry admits the token's claims; ask for one", reason="no-rule")


def look_up(claims: Mapping[str, Any], name: str) -> Any:
    """The value a name or pointer leads to, None where there is none."""
    if not name.startswith("/"):
        return claims.get(name)
    found: Any = claims
    for part in name[1:].split("/"):
        if not isinstance(found, dict):
            return None
        found = found.get(part.replace("~1", "/").replace("~0", "~"))
    return found


def _matching(value: Any, expected: Expected) -> Expected | None:
    """The value, or the element of a list, that is as expected."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(expected, str):
            if not isinstance(item, str) or len(item) > MAX_CLAIM_CHARS or not item.isprintable():
                continue  # a claim that is used stands in every event, which people read at a terminal
            if glob_matches(expected, item):
                return item
        elif type(item) is type(expected) and item == expected:  # True is not 1
            return expected
    return None


def _match_of(rule: Rule, claims: Mapping[str, Any], used: dict[str, Expected]) -> Match:
    values: dict[str, str] = {}
    for name in rule.principal.claims:
        # Of a list the rule chose one element; without that there is no saying which.
        value = used.get(name, look_up(claims, name))
        if isinstance(value, bool) or not isinstance(value, str | int) or len(str(value)) > MAX_CLAIM_CHARS:
            raise _unnameable(f"the token's claim {name} is missing or is no short text")
        used[name], values[name] = value, str(value)
    principal = rule.principal.fill(values)
    if principal is None:
        raise _unnameable("a claim holds characters that no principal may have, or its own separator")
    return Match(principal, rule.scopes, used)


def _unnameable(why: str) -> TokenRefused:
    return TokenRefused(f"a rule admits the token, but its principal cannot be made: {why}", reason="principal")
