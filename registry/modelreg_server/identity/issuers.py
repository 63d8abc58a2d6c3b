"""`identities.toml`: whose tokens this registry exchanges, and the rules over their claims. Strict; read on every use.

[[issuers]]
name = "ci"
url = "https://token.actions.example.org"
kind = "workload"                                  # or "person"
audience = "https://models.example.org"
algorithms = ["RS256"]

[[issuers.rules]]
claims = { repository = "acme/train", ref = "refs/heads/main" }
principal = "workload:ci/{repository}"
scopes = ["push:acme/*", "pull:acme/*"]
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from modelreg.errors import Invalid, Misconfigured
from modelreg.providers import require_url
from modelreg_server.identity import parse_scope
from modelreg_server.identity.claims import MAX_CLAIMS, Rule, binds, parse_expected, parse_template

SETTING = "MODELREG_IDENTITIES"
MAX_FILE_BYTES = 1024 * 1024
# Asymmetric only: with a shared secret, or none, whoever can verify a token can make one.
ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
MAX_LIFETIME_SECONDS = {"workload": 15 * 60, "person": 12 * 3600}
DEFAULT_LIFETIME_SECONDS = {"workload": 15 * 60, "person": 3600}

Kind = Literal["workload", "person"]
_Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")]
_Text = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,500}$")]


@dataclass(frozen=True)
class Issuer:
    """One issuer of tokens for one audience. Keys come from discovery, or from `jwks_url` or `jwks_file` instead."""

    name: str
    url: str
    kind: Kind
    audience: str
    algorithms: frozenset[str]
    required_claims: tuple[str, ...]
    rules: tuple[Rule, ...]
    lifetime_seconds: int
    client_id: str | None
    scopes: tuple[str, ...]
    jwks_url: str | None
    jwks_file: Path | None
    ca_file: Path | None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _RuleText(_Strict):
    claims: Annotated[dict[str, Any], Field(min_length=1, max_length=MAX_CLAIMS)]
    principal: Annotated[str, Field(max_length=200)]
    scopes: Annotated[list[str], Field(min_length=1, max_length=64)] | None = None


class _IssuerText(_Strict):
    name: _Name
    url: _Text
    kind: Kind
    audience: _Text | None = None
    algorithms: Annotated[list[str], Field(min_length=1)] = ["RS256", "ES256"]
    required_claims: Annotated[list[_Text], Field(max_length=MAX_CLAIMS)] = []
    client_id: _Text | None = None
    scopes: Annotated[list[_Text], Field(max_length=16)] = ["openid", "offline_access"]
    lifetime_seconds: Annotated[int, Field(ge=120)] | None = None
    jwks_url: _Text | None = None
    jwks_file: str | None = None
    ca_file: str | None = None
    rules: Annotated[list[_RuleText], Field(min_length=1, max_length=200)]


class _File(_Strict):
    issuers: Annotated[list[_IssuerText], Field(min_length=1, max_length=50)]


def read(path: Path) -> tuple[Issuer, ...]:
    """Read the file.

    Raises:
        Misconfigured: no file, or anything in it that is not as above; the message says where.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"the identities file cannot be read: {error}", setting=SETTING) from None
    return parse(raw, path.parent)


def parse(raw: bytes, folder: Path) -> tuple[Issuer, ...]:
    """Read the file's bytes; files that it names are relative to `folder`.

    Raises:
        Misconfigured: see `read`.
    """
    if len(raw) > MAX_FILE_BYTES:
        raise Misconfigured(f"the identities file is larger than {MAX_FILE_BYTES} bytes", setting=SETTING)
    try:
        found = _File.model_validate(tomllib.loads(raw.decode()))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = "/".join(str(part) for part in first["loc"])
        raise Misconfigured(f"the identities file: {where}: {first['msg']}", setting=SETTING) from None
    except ValueError as error:
        raise Misconfigured(f"the identities file is not TOML: {error}", setting=SETTING) from None
    issuers = []
    for text in found.issuers:
        try:
            issuers.append(_issuer_of(text, folder))
        except (Misconfigured, Invalid) as error:
            raise Misconfigured(f"the identities file: issuer {text.name}: {error.detail}", setting=SETTING) from None
    if len({issuer.name for issuer in issuers}) < len(issuers):
        raise Misconfigured("the identities file: two issuers have one name", setting=SETTING)
    if len({(issuer.url, issuer.audience) for issuer in issuers}) < len(issuers):
        raise Misconfigured(
            "the identities file: two issuers have one url and one audience; put their rules together", setting=SETTING
        )
    return tuple(issuers)


def _issuer_of(text: _IssuerText, folder: Path) -> Issuer:
    require_url(text.url)
    if refused := set(text.algorithms) - ALGORITHMS:
        raise Misconfigured(f"algorithms {', '.join(sorted(refused))} are refused; use {', '.join(sorted(ALGORITHMS))}")
    if text.jwks_url is not None:
        require_url(text.jwks_url)
    if text.jwks_url is not None and text.jwks_file is not None:
        raise Misconfigured("set jwks_url or jwks_file, not both")
    audience = text.audience if text.audience is not None else text.client_id
    if text.kind == "person":
        if text.client_id is None:
            raise Misconfigured("people log in as a client of the provider: set client_id")
        if audience != text.client_id:
            raise Misconfigured("the audience of an id token is the client: leave audience out, or set it to client_id")
        if "openid" not in text.scopes:
            raise Misconfigured('scopes needs "openid", or there is no id token')
    elif text.client_id is not None:
        raise Misconfigured("client_id is for people; a workload brings its token")
    if audience is None:
        raise Misconfigured("set audience to what the tokens are made for, such as this registry's address")
    lifetime = text.lifetime_seconds or DEFAULT_LIFETIME_SECONDS[text.kind]
    if lifetime > MAX_LIFETIME_SECONDS[text.kind]:
        raise Misconfigured(f"lifetime_seconds is at most {MAX_LIFETIME_SECONDS[text.kind]} for a {text.kind}")
    return Issuer(
        name=text.name,
        url=text.url,
        kind=text.kind,
        audience=audience,
        algorithms=frozenset(text.algorithms),
        required_claims=tuple(text.required_claims),
        rules=tuple(_rule_of(rule, text.kind) for rule in text.rules),
        lifetime_seconds=lifetime,
        client_id=text.client_id,
        scopes=tuple(text.scopes),
        jwks_url=text.jwks_url,
        jwks_file=folder / text.jwks_file if text.jwks_file else None,
        ca_file=folder / text.ca_file if text.ca_file else None,
    )


def _rule_of(text: _RuleText, kind: Kind) -> Rule:
    claims = tuple((name, parse_expected(name, value)) for name, value in text.claims.items())
    if not any(binds(expected) for _name, expected in claims):
        raise Misconfigured(
            f"the rule for {text.principal!r} asks for nothing but *, which is everybody of the issuer; name a value "
            "(at least `iss`, if everybody is meant)"
        )
    return Rule(claims, parse_template(text.principal, kind), tuple(map(parse_scope, text.scopes or [])))
