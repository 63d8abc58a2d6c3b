"""What routes are given: the application's parts, the caller, and the proof that the caller may.

Authentication and scope are dependencies of every route, never a path match; a test walks the routes and fails on one
that declares neither `Requires` nor `Public`. Sessions only open and close here: operations commit.
"""

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
from modelreg_server import trust_files
from modelreg_server.callers import Caller, denied
from modelreg_server.custody import Actor
from modelreg_server.database import Database
from modelreg_server.identity import Anonymous, Authenticator, Verb, tokens
from modelreg_server.measuring import Measuring
from modelreg_server.settings import Settings
from modelreg_server.storage import BlobStore, Presigner
from modelreg_server.traffic import Counters


@dataclass(frozen=True)
class Parts:
    """What `create_app` chose. `presigner` is None where bytes pass through the server."""

    settings: Settings
    database: Database
    store: BlobStore
    presigner: Presigner | None
    authenticator: Authenticator
    measuring: Measuring
    clock: Callable[[], datetime]
    counters: Counters

    def trust_policy(self) -> trust.TrustPolicy:
        """The policy that publications must satisfy; read again each time, so that an edit holds at once.

        Raises:
            Misconfigured: there is none, or it cannot be read.
        Untrusted: the published one does not follow from the pinned root, or has expired.
        """
        if self.settings.trust_from_repository:
            with self.database.reading() as session:
                return trust_files.policy_of(session, read_root(self.settings.trust_root), self.clock())
        return read_policy(self.settings.trust_policy)

    @property
    def has_trust_policy(self) -> bool:
        """Whether `trust_policy` has anything to answer with."""
        return self.settings.trust_from_repository or self.settings.trust_policy is not None


def read_root(path: Path | None) -> bytes:
    """Read the pinned root of the trust repository.

    Raises:
        Misconfigured: no path, or no file.
    """
    try:
        return path.read_bytes() if path is not None else b""
    except OSError as error:
        raise Misconfigured(f"the trust root cannot be read: {error}", setting="MODELREG_TRUST_ROOT") from None


def read_policy(path: Path | None) -> trust.TrustPolicy:
    """Read the trust policy file.

    Raises:
        Misconfigured: no path, no file, a malformed one, or one without revocations of its own.
    """
    if path is None:
        raise Misconfigured(
            "this registry has no trust policy, so nothing can be published; set MODELREG_TRUST_POLICY to the file "
            "that `modelreg trust init` made",
            setting="MODELREG_TRUST_POLICY",
        )
    try:
        policy = trust.parse(path.read_bytes())
    except OSError as error:
        raise Misconfigured(f"the trust policy cannot be read: {error}", setting="MODELREG_TRUST_POLICY") from None
    if policy.distributed:
        # Nothing could be published under it, and grants would be checked against no list at all.
        raise Misconfigured(
            f"{path} takes its revocations from the published trust repository; set MODELREG_TRUST_FROM_REPOSITORY and "
            "MODELREG_TRUST_ROOT instead",
            setting="MODELREG_TRUST_POLICY",
        )
    return policy


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
    address = request.client.host if request.client else None
    agent = request.headers.get("user-agent", "").encode("ascii", "replace").decode()
    return Caller(principal, Actor(principal.name, principal.token_id, address, agent), now)


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
