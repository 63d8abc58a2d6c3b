"""Who is calling, as operations see it, and how a refusal sounds and is recorded. No web framework in here."""

from dataclasses import dataclass
from datetime import datetime

from modelreg.errors import Forbidden, NotFound
from modelreg_server import custody
from modelreg_server.access import EVERYWHERE, AccessDecision
from modelreg_server.custody import Actor, Event, EventType
from modelreg_server.database import Database
from modelreg_server.identity import Principal, Verb

READING_VERBS = frozenset({Verb.READ_METADATA, Verb.PULL})
_MAX_REASONS = 8  # in an event; an entry has 8 KiB


@dataclass(frozen=True)
class Caller:
    """The authenticated principal and how the log names it, and the request's one instant."""

    principal: Principal
    actor: Actor
    now: datetime


@dataclass(frozen=True)
class Denial:
    """What was asked for and why the answer is no."""

    verb: Verb
    repository: str
    decision: AccessDecision


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


def require(caller: Caller, verb: Verb, repository: str, *, sensitive: bool = False) -> None:
    """Go on only if the caller may.

    Raises:
        NotPermitted, Hidden: it may not; whoever answers the request records it first.
    """
    if not caller.principal.may(verb, repository, sensitive=sensitive):
        raise denied(caller.principal, verb, repository, sensitive=sensitive)


def denied(
    principal: Principal, verb: Verb, repository: str, *, sensitive: bool = False, detail: str | None = None
) -> NotPermitted | Hidden:
    """The answer to somebody who may not: absent for readers, unless they may know that it exists; else `detail`."""
    denial = Denial(verb, repository, principal.decide(verb, repository, sensitive=sensitive))
    if verb in READING_VERBS and not principal.may(Verb.READ_METADATA, repository):
        return Hidden(absent(repository).detail, denial)
    if detail is not None:
        return NotPermitted(detail, denial)
    where = "every repository" if repository == EVERYWHERE else repository
    # Only of the principal's own grants, and of a repository's sensitivity only to who may see the repository.
    near = [reason.text for reason in denial.decision.reasons_on(repository) if reason.grant.verb is verb]
    hint = near[0] if near else f"ask for an access grant or the scope {verb.value}:{repository}"
    return NotPermitted(f"{principal.name} may not {verb.value} on {where}; {hint}", denial)


def absent(repository: str) -> NotFound:
    """One sentence for two facts, so that nobody can tell them apart."""
    return NotFound(f"there is no repository {repository}, or this token may not see it")


def record_denial(database: Database, caller: Caller, error: NotPermitted | Hidden) -> None:
    """Append `access.denied` in a transaction of its own, unless the operation recorded the refusal itself."""
    if error.recorded:
        return
    denial = error.denial
    everywhere = denial.repository == EVERYWHERE
    event = Event(
        EventType.ACCESS_DENIED,
        repository=None if everywhere else denial.repository,
        detail={"verb": denial.verb.value, "on": denial.repository, "answer": error.code},
        about=caller.principal.name,
        personal=reasons_of(denial),
    )
    with database.writing() as session, session.begin():
        custody.append(session, caller.actor, event, caller.now)
    error.recorded = True


def reasons_of(denial: Denial) -> dict[str, object]:
    """The reasons of a denial for the record, which the repository's auditors read."""
    reasons = denial.decision.reasons_on(denial.repository)
    told = [f"{reason.grant.origin}: {reason.text}"[:200] for reason in reasons[:_MAX_REASONS]]
    left_out = {"reasons_left_out": len(reasons) - len(told)} if len(reasons) > len(told) else {}
    return {"reasons": told or ["no grant gives this principal anything here"], **left_out}
