"""Who may: access grants, requests, and the one function that decides. Pure: no IO, no clock, no framework.

A grant gives a subject one verb on the repositories of a pattern, perhaps only under conditions. A condition is met by a
verified fact or not at all; what a client says of itself is not among the facts. Everything that no grant allows is
denied. Grants only ever add up: none of them takes anything away, so that each can be read on its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from modelreg.references import glob_matches

EVERYWHERE = "*/*"


class Verb(StrEnum):
    """What a grant permits. `pull` includes `read-metadata`; nothing else includes anything."""

    READ_METADATA = "read-metadata"
    PULL = "pull"
    PUSH = "push"
    SIGN = "sign"
    TAG = "tag"
    PROMOTE = "promote"
    APPROVE = "approve"
    QUARANTINE = "quarantine"
    AUDIT = "audit"
    ADMIN = "admin"


class HostClass(StrEnum):
    """What kind of machine a host is, as an administrator said when they invited it."""

    SERVER = "server"
    WORKSTATION = "workstation"
    CI = "ci"


@dataclass(frozen=True)
class HostFacts:
    """A host whose key signed this request; class and zone are the administrator's words, never the host's."""

    name: str
    host_class: HostClass
    zone: str


@dataclass(frozen=True)
class AccessGrant:
    """One verb for the subjects and on the repositories of two anchored globs. None means no condition.

    `not_after` is the first instant at which the grant no longer applies. `origin` says where it is written down.
    """

    subject: str
    verb: Verb
    repository: str
    environment: str | None = None
    host_class: HostClass | None = None
    zone: str | None = None
    not_after: datetime | None = None
    origin: str = ""

    def __str__(self) -> str:
        conditions = [
            f"{name} {value}"
            for name, value in (
                ("environment", self.environment),
                ("host class", self.host_class.value if self.host_class else None),
                ("zone", self.zone),
                ("until", f"{self.not_after:%Y-%m-%d %H:%M}Z" if self.not_after else None),
            )
            if value is not None
        ]
        text = f"{self.subject} {self.verb.value} {self.repository}"
        return f"{text} ({', '.join(conditions)})" if conditions else text


@dataclass(frozen=True)
class AccessRequest:
    """Who wants to do what, and every verified fact about it. `repository` may be `*/*`: on all there are or will be."""

    subject: str
    verb: Verb
    repository: str
    now: datetime
    environment: str | None = None
    host: HostFacts | None = None
    sensitive: bool = False


@dataclass(frozen=True)
class Reason:
    """Why one grant applies, or does not."""

    grant: AccessGrant
    applies: bool
    text: str


@dataclass(frozen=True)
class AccessDecision:
    """The answer, with a reason for every grant that names the subject; no reasons means that no grant does."""

    allowed: bool
    reasons: tuple[Reason, ...]

    def reasons_on(self, repository: str) -> tuple[Reason, ...]:
        """Those of grants on this repository: the others would tell its auditors what else there is."""
        return tuple(reason for reason in self.reasons if glob_matches(reason.grant.repository, repository))


def decide(request: AccessRequest, grants: Iterable[AccessGrant]) -> AccessDecision:
    """Judge a request; total, and the same for the same arguments. O(grants)."""
    reasons = tuple(_reason(request, grant) for grant in grants if glob_matches(grant.subject, request.subject))
    return AccessDecision(any(reason.applies for reason in reasons), reasons)


def _reason(request: AccessRequest, grant: AccessGrant) -> Reason:
    obstacle = _obstacle(request, grant)
    return Reason(grant, obstacle is None, obstacle or "applies")


def _obstacle(request: AccessRequest, grant: AccessGrant) -> str | None:
    """The first thing that keeps a grant from applying to a request, or None."""
    host = request.host
    if not _includes(grant.verb, request.verb):
        return f"permits {grant.verb.value}, not {request.verb.value}"
    # A pattern matches the text `*/*` only if it stands for every repository: no literal character does.
    if not glob_matches(grant.repository, request.repository):
        return f"is for {grant.repository}, not {request.repository}"
    if grant.not_after is not None and request.now >= grant.not_after:
        return f"ended at {grant.not_after:%Y-%m-%d %H:%M:%S}Z"
    if grant.environment is not None and request.environment != grant.environment:
        return f"is for the environment {grant.environment}, not {request.environment or 'for none'}"
    if grant.host_class is not None and (host is None or host.host_class is not grant.host_class):
        return f"needs a verified host of class {grant.host_class.value}, not {_class_of(host)}"
    if grant.zone is not None and (host is None or host.zone != grant.zone):
        return f"needs a verified host in zone {grant.zone}, not {host.zone if host else 'an unverified one'}"
    # Bytes of a sensitive repository stay off workstations; an unverified host could be one.
    if request.sensitive and request.verb is Verb.PULL:
        if host is None:
            return "the repository is sensitive: pull needs a verified host"
        if host.host_class is HostClass.WORKSTATION and grant.host_class is not HostClass.WORKSTATION:
            return "the repository is sensitive: a workstation needs a grant that names host class workstation"
    return None


def _includes(granted: Verb, asked: Verb) -> bool:
    return granted is asked or (granted is Verb.PULL and asked is Verb.READ_METADATA)


def _class_of(host: HostFacts | None) -> str:
    return host.host_class.value if host else "an unverified one"
