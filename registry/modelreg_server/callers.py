"""Who is calling, as operations see it, and how a refusal sounds and is recorded. No web framework in here."""

from dataclasses import dataclass, replace
from datetime import datetime

from sqlmodel import Session

from modelreg.errors import Forbidden, NotFound
from modelreg_server import access_grants, custody
from modelreg_server.access import EVERYWHERE, AccessDecision
from modelreg_server.custody import Actor, Event, EventType
from modelreg_server.group_commit import Recorder
from modelreg_server.identity import Principal, Verb, hosts, tokens

READING_VERBS = frozenset({Verb.READ_METADATA, Verb.PULL})
_MAX_REASONS = 8  # in an event; an entry has 8 KiB


@dataclass(frozen=True)
class Caller:
    """The authenticated principal and how the log names it, and the request's one instant.

    `epoch` is the custody log's when it was authenticated (`current`); `host_id` is the host whose key signed.
    """

    principal: Principal
    actor: Actor
    now: datetime
    epoch: int = -1
    host_id: str | None = None


@dataclass(frozen=True)
class Denial:
    """What was asked for and why the answer is no."""

    verb: Verb
    repository: str
    decision: AccessDecision
    environment: str | None = None


class NotPermitted(Forbidden):
    """A denial to somebody who may know that the thing exists, or who would hear the same if it did not."""

    def __init__(self, detail: str, denial: Denial) -> None:
        super().__init__(detail)
        self.denial = denial
        self.recorded = False


class Hidden(NotFound):
    """A denial to somebody who may not know that the thing exists."""

    def __init__(self, detail: str, denial: Denial) -> None:
        super().__init__(detail)
        self.denial = denial
        self.recorded = False


def current(session: Session, caller: Caller) -> Caller:
    """The caller as it is under the log's lock: itself, unless something decisive happened since it was authenticated.

    Raises:
        Unauthenticated: its token or its host was revoked meanwhile.
    """
    custody.hold(session)
    epoch = custody.epoch(session)
    if epoch == caller.epoch:
        return caller
    principal = caller.principal
    tokens.require_living(session, principal, caller.now)
    hosts.require_living(session, caller.host_id)
    grants = () if principal.scopes else access_grants.grants_of(session, principal.name)
    return replace(caller, principal=replace(principal, grants=grants), epoch=epoch)


def require(
    caller: Caller, verb: Verb, repository: str, *, sensitive: bool = False, environment: str | None = None
) -> None:
    """Go on only if the caller may.

    Raises:
        NotPermitted, Hidden: it may not; whoever answers the request records it first.
    """
    if not caller.principal.may(verb, repository, sensitive=sensitive, environment=environment):
        raise denied(caller.principal, verb, repository, sensitive=sensitive, environment=environment)


def denied(
    principal: Principal,
    verb: Verb,
    repository: str,
    *,
    sensitive: bool = False,
    environment: str | None = None,
    detail: str | None = None,
) -> NotPermitted | Hidden:
    """The answer to somebody who may not: absent for readers, unless they may know that it exists; else `detail`."""
    decision = principal.decide(verb, repository, sensitive=sensitive, environment=environment)
    denial = Denial(verb, repository, decision, environment)
    if verb in READING_VERBS and not principal.may(Verb.READ_METADATA, repository):
        return Hidden(absent(repository).detail, denial)
    if detail is not None:
        return NotPermitted(detail, denial)
    where = "every repository" if repository == EVERYWHERE else repository
    where += f" for {environment}" if environment is not None else ""
    # Only of the principal's own grants, and of a repository's sensitivity only to who may see the repository.
    near = [reason.text for reason in denial.decision.reasons_on(repository) if reason.grant.verb is verb]
    hint = near[0] if near else f"ask for an access grant or the scope {verb.value}:{repository}"
    return NotPermitted(f"{principal.name} may not {verb.value} on {where}; {hint}", denial)


def absent(repository: str) -> NotFound:
    """One sentence for two facts, so that nobody can tell them apart."""
    return NotFound(f"there is no repository {repository}, or this token may not see it")


def record_denial(recorder: Recorder, caller: Caller, error: NotPermitted | Hidden) -> None:
    """Append `access.denied`, unless the operation recorded the refusal itself."""
    if error.recorded:
        return
    denial = error.denial
    everywhere = denial.repository == EVERYWHERE
    event = Event(
        EventType.ACCESS_DENIED,
        repository=None if everywhere else denial.repository,
        detail={
            "verb": denial.verb.value,
            "on": denial.repository,
            "answer": error.code,
            **({"environment": denial.environment} if denial.environment is not None else {}),
        },
        about=caller.principal.name,
        personal=reasons_of(denial),
    )
    recorder.record(lambda session: custody.append(session, caller.actor, event, caller.now), only_appends=True)
    error.recorded = True


def reasons_of(denial: Denial) -> dict[str, object]:
    """The reasons of a denial for the record, which the repository's auditors read."""
    reasons = denial.decision.reasons_on(denial.repository)
    told = [f"{reason.grant.origin}: {reason.text}"[:200] for reason in reasons[:_MAX_REASONS]]
    left_out = {"reasons_left_out": len(reasons) - len(told)} if len(reasons) > len(told) else {}
    return {"reasons": told or ["no grant gives this principal anything here"], **left_out}
