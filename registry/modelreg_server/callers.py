"""Who is calling, as operations see it, and how a refusal sounds. No web framework in here."""

from dataclasses import dataclass
from datetime import datetime

from modelreg.errors import Forbidden, NotFound
from modelreg_server.custody import Actor
from modelreg_server.identity import Principal, Verb

READING_VERBS = frozenset({Verb.READ_METADATA, Verb.PULL})


@dataclass(frozen=True)
class Caller:
    """The authenticated principal and how the log names it, and the request's one instant."""

    principal: Principal
    actor: Actor
    now: datetime


def denied(principal: Principal, verb: Verb, repository: str) -> Forbidden | NotFound:
    """The answer to somebody who may not: absent for readers, unless they may know that it exists."""
    if verb in READING_VERBS and not principal.may(Verb.READ_METADATA, repository):
        return absent(repository)
    return Forbidden(
        f"{principal.name} may not {verb.value} on {repository}; ask for the scope {verb.value}:{repository}"
    )


def absent(repository: str) -> NotFound:
    """One sentence for two facts, so that nobody can tell them apart."""
    return NotFound(f"there is no repository {repository}, or this token may not see it")
