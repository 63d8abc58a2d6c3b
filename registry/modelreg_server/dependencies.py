"""What routes are given: the application's parts, the caller, and the proof that the caller may.

Authentication and scope are dependencies of every route, never a path match; a test walks the routes and fails on one
that declares neither `Requires` nor `Public`. Sessions only open and close here: operations commit.
"""

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlsplit

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from sqlmodel import Session

from modelreg import host_signing, promotion_policy, trust
from modelreg.errors import Misconfigured, Unauthenticated
from modelreg.references import parse_repository
from modelreg_server import access_grants, custody, enrolment, trust_files
from modelreg_server.callers import Caller, denied
from modelreg_server.custody import Actor
from modelreg_server.custody_tree import LogSigner
from modelreg_server.database import Database
from modelreg_server.group_commit import Recorder
from modelreg_server.identity import EVERYWHERE, Anonymous, Authenticator, Verb, hosts, tokens
from modelreg_server.identity.federation import Federation
from modelreg_server.identity.hosts import Received
from modelreg_server.known_artifacts import KnownArtifacts
from modelreg_server.log_publishing import Publishing
from modelreg_server.measuring import Measuring
from modelreg_server.promotion import Deciding
from modelreg_server.settings import Settings
from modelreg_server.storage import BlobStore, Presigner
from modelreg_server.timestamping import TimeStampingAuthority
from modelreg_server.traffic import Counters


@dataclass(frozen=True)
class Parts:
    """What `create_app` chose. `presigner` is None where bytes pass through the server."""

    settings: Settings
    database: Database
    recorder: Recorder
    store: BlobStore
    presigner: Presigner | None
    authenticator: Authenticator
    federation: Federation
    measuring: Measuring
    clock: Callable[[], datetime]
    counters: Counters
    publishing: Publishing
    tsa: TimeStampingAuthority | None = None
    known_artifacts: KnownArtifacts = field(default_factory=KnownArtifacts)

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

    def deciding(self) -> Deciding:
        """What decides on promotions; both policies are read again each time, so that an edit holds at once.

        Raises:
            Misconfigured: a policy is missing or cannot be read.
            Untrusted: the published trust policy does not follow from the pinned root, or has expired.
        """
        raw = read_promotion_policy(self.settings.promotion_policy)
        assert isinstance(self.database.log_signer, LogSigner)
        return Deciding(_parsed_promotion(raw), raw, self.trust_policy(), self.database.log_signer)

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
        policy = _parsed(path.read_bytes())
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


def read_promotion_policy(path: Path | None) -> bytes:
    """Read the promotion policy file.

    Raises:
        Misconfigured: no path, or no file.
    """
    setting = "MODELREG_PROMOTION_POLICY"
    if path is None:
        raise Misconfigured(
            f"this registry has no promotion policy, so nothing is promoted; set {setting} to a file that `modelreg policy "
            "check` accepts",
            setting=setting,
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"the promotion policy cannot be read: {error}", setting=setting) from None


@lru_cache(maxsize=4)
def _parsed_promotion(raw: bytes) -> promotion_policy.PromotionPolicy:
    return promotion_policy.parse(raw)


@lru_cache(maxsize=4)
def _parsed(raw: bytes) -> trust.TrustPolicy:
    """Read again each time, but parsed only when it changed: a quarter of a millisecond of every grant (measured)."""
    return trust.parse(raw)


def parts_of(request: Request) -> Parts:
    """The application's parts."""
    parts = request.app.state.parts
    assert isinstance(parts, Parts)
    return parts


async def _parts(request: Request) -> Parts:
    return parts_of(request)


PartsDep = Annotated[Parts, Depends(_parts)]  # `async`, or FastAPI would hand it to a thread


def _reading(parts: PartsDep) -> Iterator[Session]:
    with parts.database.reading() as session:
        yield session


def _writing(parts: PartsDep) -> Iterator[Session]:
    with parts.database.writing() as session:
        yield session


ReadSession = Annotated[Session, Depends(_reading)]
WriteSession = Annotated[Session, Depends(_writing)]


def received_of(request: Request) -> Received:
    """The request as a host signature covers it: under the registry's public address, whatever a proxy made of it."""
    settings = parts_of(request).settings
    path = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    authority, prefix = ",".join(request.headers.getlist("host")).lower(), ""
    if settings.public_url is not None:
        authority = host_signing.authority_of(settings.public_url)
        prefix = urlsplit(settings.public_url).path.rstrip("/")
    return Received(
        method=request.method,
        authority=authority,
        path=prefix + path.decode("latin-1"),
        query=request.scope["query_string"].decode("latin-1"),
        headers={name: request.headers.getlist(name) for name in hosts.SINGLE_HEADERS},
        peer=request.scope.get("modelreg_peer"),
    )


def authenticate(request: Request) -> Caller:
    """Who calls, on which host; once a request, before its body is read.

    Raises:
        Unauthenticated: no credential, or one that does not hold; a host that is claimed and not proved.
    """
    parts = parts_of(request)
    now = parts.clock()
    received = received_of(request)
    credential = _bearer(received)
    proxies = parts.settings.behind_proxy if parts.settings.client_cert_header else None
    with parts.database.glancing() as session:  # the epoch first: what is read after it is no older
        epoch = custody.epoch(session)
        known = hosts.known_host(session, received, proxies, now)
        principal = parts.authenticator.authenticate(session, credential, now)
        if isinstance(principal, Anonymous):
            if known is None:
                raise Unauthenticated("this registry has no anonymous access; run `modelreg login`")
            principal = known.principal
        grants = () if principal.scopes else access_grants.grants_of(session, principal.name)
    host = known.facts if known else None
    principal = replace(principal, grants=grants, host=host, at=now)
    worth_noting = tokens.use_is_worth_noting(principal, now)
    if worth_noting or (known and known.signature):

        def note(session: Session) -> None:
            if known is not None:
                hosts.use_up(session, known, now)
            if worth_noting:
                tokens.note_use(session, principal, now)

        parts.recorder.record(note)
    request.scope["modelreg_principal"] = principal.name
    actor = Actor(principal.name, principal.token_id, *client_of(request), identity=principal.identity, host=host)
    caller = Caller(principal, actor, now, epoch, known.host_id if known else None)
    request.scope["modelreg_caller"] = caller
    return caller


def client_of(request: Request) -> tuple[str | None, str]:
    """Address and agent, as the connection shows them; text that a listed proxy forwards and is no address is none."""
    agent = request.headers.get("user-agent", "").encode("ascii", "replace").decode()
    try:
        return str(ipaddress.ip_address(request.client.host)) if request.client else None, agent
    except ValueError:
        return None, agent


def _bearer(received: Received) -> str | None:
    scheme, _, credential = (received.header("authorization") or "").partition(" ")
    if scheme and scheme.lower() != "bearer":
        raise Unauthenticated("send the token as `Authorization: Bearer …`")
    return credential.strip() or None


async def _caller(request: Request) -> Caller:
    caller = request.scope.get("modelreg_caller")  # `guarding` has authenticated already
    if caller is None:
        caller = await run_in_threadpool(authenticate, request)
    assert isinstance(caller, Caller)
    return caller


CallerDep = Annotated[Caller, Depends(_caller)]


@dataclass(frozen=True)
class Requires:
    """Declares the verb a route needs. With a repository in the path it is decided here, else by the operation.

    Reading what is hidden answers as if it were absent; writing answers alike whether it exists or not. `or_verb` does
    as well; the operation says for what. With `streams` the body is bytes of a blob, which are measured, not signed.
    """

    verb: Verb | None
    or_verb: Verb | None = None
    streams: bool = False

    def admit(self, request: Request) -> None:
        """Authenticate and decide, with nothing but the head of the request."""
        self._decide(request, authenticate(request))

    async def __call__(self, request: Request, caller: CallerDep) -> Caller:
        """Refuse, or pass the caller on."""
        self._decide(request, caller)
        return caller

    def _decide(self, request: Request, caller: Caller) -> None:
        if self.verb is None:
            return
        if "namespace" in request.path_params:
            repository = repository_of(request)
        elif self.verb is Verb.ADMIN:
            repository = EVERYWHERE
        else:
            return
        wanted = [verb for verb in (self.verb, self.or_verb) if verb is not None]
        if not any(caller.principal.may(verb, repository) for verb in wanted):
            raise denied(caller.principal, self.verb, repository)


@dataclass(frozen=True)
class Invited:
    """An invitation that the request's token names, and who uses it."""

    invitation_id: str
    actor: Actor
    now: datetime


@dataclass(frozen=True)
class RequiresInvitation(Requires):
    """Declares that a route takes an enrolment token and nothing else."""

    verb: Verb | None = None

    def admit(self, request: Request) -> None:
        """Find the invitation; the operation looks again inside its transaction."""
        parts = parts_of(request)
        now = parts.clock()
        with parts.database.reading() as session:
            row = enrolment.invitation_of(session, _bearer(received_of(request)), now)
            invited = Invited(row.id, Actor(f"host:{row.name}", None, *client_of(request)), now)
        request.scope["modelreg_principal"] = invited.actor.principal
        request.scope["modelreg_invited"] = invited

    async def __call__(self, request: Request) -> Invited:  # type: ignore[override]  # another credential, another proof
        """Pass the invitation on."""
        if "modelreg_invited" not in request.scope:
            await run_in_threadpool(self.admit, request)
        invited = request.scope["modelreg_invited"]
        assert isinstance(invited, Invited)
        return invited


class Public:
    """Declares that a route needs no credential."""

    streams = False

    def __call__(self) -> None:
        """Nothing to check."""

    def admit(self, request: Request) -> None:
        """Nothing to check."""


def repository_of(request: Request) -> str:
    """The repository named by the path.

    Raises:
        Invalid: it is none.
    """
    return parse_repository(f"{request.path_params['namespace']}/{request.path_params['name']}")


async def _repository(request: Request) -> str:
    return repository_of(request)


RepositoryDep = Annotated[str, Depends(_repository)]
