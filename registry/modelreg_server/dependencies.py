"""What routes are given: the application's parts, the caller, and the proof that the caller may.

Authentication and scope are dependencies of every route, never a path match; a test walks the routes and fails on one
that declares neither `Requires` nor `Public`. Sessions only open and close here: operations commit.
"""

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from sqlmodel import Session

from modelreg import trust
from modelreg.errors import Forbidden, Misconfigured, Unauthenticated
from modelreg.references import parse_repository
from modelreg_server.callers import Caller, denied
from modelreg_server.custody import Actor
from modelreg_server.database import Database
from modelreg_server.identity import Anonymous, Authenticator, Verb, tokens
from modelreg_server.identity.federation import Federation
from modelreg_server.measuring import Measuring
from modelreg_server.settings import Settings
from modelreg_server.storage import BlobStore, Presigner
from modelreg_server.timestamping import TimeStampingAuthority
from modelreg_server.traffic import Counters


@dataclass(frozen=True)
class Parts:
    """What `create_app` chose. `presigner` is None where bytes pass through the server."""

    settings: Settings
    database: Database
    store: BlobStore
    presigner: Presigner | None
    authenticator: Authenticator
    federation: Federation
    measuring: Measuring
    clock: Callable[[], datetime]
    counters: Counters
    tsa: TimeStampingAuthority | None = None

    def trust_policy(self) -> trust.TrustPolicy:
        """The policy that publications must satisfy; read again each time, so that an edit holds at once.

        Raises:
            Misconfigured: there is none, or it cannot be read.
        """
        return read_policy(self.settings.trust_policy)


def read_policy(path: Path | None) -> trust.TrustPolicy:
    """Read the trust policy file.

    Raises:
        Misconfigured: no path, no file, or a malformed one.
    """
    if path is None:
        raise Misconfigured(
            "this registry has no trust policy, so nothing can be published; set MODELREG_TRUST_POLICY to the file "
            "that `modelreg trust init` made",
            setting="MODELREG_TRUST_POLICY",
        )
    try:
        return trust.parse(path.read_bytes())
    except OSError as error:
        raise Misconfigured(f"the trust policy cannot be read: {error}", setting="MODELREG_TRUST_POLICY") from None


def parts_of(request: Request) -> Parts:
    """The application's parts."""
    parts = request.app.state.parts
    assert isinstance(parts, Parts)
    return parts


PartsDep = Annotated[Parts, Depends(parts_of)]


def _reading(parts: PartsDep) -> Iterator[Session]:
    with parts.database.reading() as session:
        yield session


def _writing(parts: PartsDep) -> Iterator[Session]:
    with parts.database.writing() as session:
        yield session


ReadSession = Annotated[Session, Depends(_reading)]
WriteSession = Annotated[Session, Depends(_writing)]


def _caller(request: Request, parts: PartsDep) -> Caller:
    now = parts.clock()
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    if scheme and scheme.lower() != "bearer":
        raise Unauthenticated("send the token as `Authorization: Bearer …`")
    with parts.database.reading() as session:
        principal = parts.authenticator.authenticate(session, credential.strip() or None, now)
    if isinstance(principal, Anonymous):
        raise Unauthenticated("this registry has no anonymous access; run `modelreg login`")
    if tokens.use_is_worth_noting(principal, now):
        with parts.database.writing() as session, session.begin():
            tokens.note_use(session, principal, now)
    request.scope["modelreg_principal"] = principal.name
    address, agent = client_of(request)
    return Caller(principal, Actor(principal.name, principal.token_id, address, agent, principal.identity), now)


def client_of(request: Request) -> tuple[str | None, str]:
    """Address and agent, as the connection shows them."""
    agent = request.headers.get("user-agent", "").encode("ascii", "replace").decode()
    return _address(request), agent


def _address(request: Request) -> str | None:
    """The client's address; a listed proxy may forward text that is none, and that is not recorded as one."""
    try:
        return str(ipaddress.ip_address(request.client.host)) if request.client else None
    except ValueError:
        return None


CallerDep = Annotated[Caller, Depends(_caller)]


@dataclass(frozen=True)
class Requires:
    """Declares the verb a route needs. With a repository in the path it is decided here, else by the operation.

    Reading what is hidden answers as if it were absent; writing answers alike whether it exists or not.
    """

    verb: Verb | None

    def __call__(self, request: Request, caller: CallerDep) -> Caller:
        """Refuse, or pass the caller on."""
        if self.verb is None:
            return caller
        if "namespace" in request.path_params:
            repository = repository_of(request)
            if not caller.principal.may(self.verb, repository):
                raise denied(caller.principal, self.verb, repository)
        elif self.verb is Verb.ADMIN and not caller.principal.may_everywhere(Verb.ADMIN):
            raise Forbidden(f"{caller.principal.name} may not administer this registry (needs the scope admin:*/*)")
        return caller


class Public:
    """Declares that a route needs no credential."""

    def __call__(self) -> None:
        """Nothing to check."""


def repository_of(request: Request) -> str:
    """The repository named by the path.

    Raises:
        Invalid: it is none.
    """
    return parse_repository(f"{request.path_params['namespace']}/{request.path_params['name']}")


RepositoryDep = Annotated[str, Depends(repository_of)]
