"""Promotion: whether an artifact may serve in an environment, decided by policy, signed, recorded, and decided again.

A decision is a pure function of two byte strings, the policy and the facts; both are kept, so that anybody with the database
can make it again (`replay`). What was allowed holds until somebody demotes it or a grant for the environment finds that it
would not be allowed any more: then it is withdrawn, with the decision that says why, and has to be promoted anew.

Facts are gathered before the log's lock is held, and again under it if anything decisive happened since the caller was
authenticated: what is recorded holds at the commit. An answer is never remembered, because much of it ends by itself: scans
age, waivers, approvals and certificates expire.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import Session, col, select

from modelreg import __version__, attestations, promotion_rules, verdicts
from modelreg.digests import Digest, sha256_of
from modelreg.errors import ModelregError, NotFound, PolicyRefused, Refused, Untrusted
from modelreg.permits import Permit
from modelreg.promotion_facts import Decision, Facts
from modelreg.promotion_policy import PromotionPolicy
from modelreg.trust import TrustPolicy
from modelreg_server import custody
from modelreg_server.attestations import require_held
from modelreg_server.callers import Caller, current, require
from modelreg_server.custody import Actor, Event, EventType
from modelreg_server.custody_tree import LogSigner
from modelreg_server.database import Database
from modelreg_server.identity import Verb
from modelreg_server.promotion_gathering import gather
from modelreg_server.promotion_statements import believing
from modelreg_server.tables import PromotionDecision, PromotionPolicyText

# Nobody withdraws what the facts withdraw; whoever asked for the grant only made the registry look.
_ITSELF = Actor("server:promotion", None)
_BATCH = 200


@dataclass(frozen=True)
class Deciding:
    """What decides: the promotion policy as it was written, the trust policy, and the key that verdicts are signed with."""

    policy: PromotionPolicy
    raw_policy: bytes
    trust: TrustPolicy
    signer: LogSigner


@dataclass(frozen=True)
class Judged:
    """A decision, the facts it is about, and the digests of the signed statements that those rest on."""

    facts: Facts
    decision: Decision
    statements: frozenset[str]


@dataclass(frozen=True)
class Serving:
    """A grant for an environment: what decides, and how long its permit is good for."""

    environment: str
    deciding: Deciding
    lifetime: timedelta


class NoLonger(PolicyRefused):
    """It was promoted, and would not be any more. Whoever records the refusal withdraws the promotion first."""

    def __init__(self, detail: str, judged: Judged, **facts: Any) -> None:
        super().__init__(detail, **facts)
        self.judged = judged


def judge(
    session: Session, deciding: Deciding, repository: str, artifact: str, environment: str, now: datetime
) -> Judged:
    """Gather and evaluate; nothing is recorded.

    Raises:
        NotFound: the repository does not hold the artifact.
        StaleTrust: the trust policy is too old for anything to be decided by it.
        PolicyRefused: more is said of the artifact than can be looked at.
    """
    gathered = gather(session, believing(deciding.trust, deciding.signer, now), repository, artifact, environment)
    decision = promotion_rules.evaluate(deciding.policy, gathered.facts)
    return Judged(gathered.facts, decision, gathered.statements)


def preview(
    session: Session,
    caller: Caller,
    repository: str,
    artifact: str,
    environment: str,
    read_deciding: Callable[[], Deciding],
) -> Judged:
    """What `promote` would decide now, for whoever promotes, approves or audits here.

    Raises:
        NotPermitted: none of these.
        As `judge`; NotFound also where the policy has no such environment.
    """
    principal = caller.principal
    if not any(principal.may(verb, repository, environment=environment) for verb in (Verb.APPROVE, Verb.AUDIT)):
        require(caller, Verb.PROMOTE, repository, environment=environment)
    deciding = read_deciding()
    _require_environment(deciding, environment)
    return judge(session, deciding, repository, artifact, environment, caller.now)


def promote(
    database: Database,
    caller: Caller,
    repository: str,
    artifact: str,
    environment: str,
    read_deciding: Callable[[], Deciding],
) -> PromotionDecision:
    """Decide and record: `promotion.granted` or `promotion.refused`, with the signed verdict, in one transaction.

    A refusal withdraws what was allowed before: there is one answer at a time.

    Raises:
        NotPermitted: the verb is missing.
        As `judge`; NotFound also where the policy has no such environment.
    """
    require(caller, Verb.PROMOTE, repository, environment=environment)
    deciding = read_deciding()
    _require_environment(deciding, environment)
    with database.reading() as session:
        judged = judge(session, deciding, repository, artifact, environment, caller.now)
    with database.writing() as session, session.begin():
        now = current(session, caller)
        if now is not caller:
            require(now, Verb.PROMOTE, repository, environment=environment)
            judged = judge(session, deciding, repository, artifact, environment, caller.now)
        if not judged.decision.allowed and (live := live_of(session, repository, artifact, environment)):
            row = _withdraw_by(session, judged, deciding, live, caller.now)
        else:
            kind = EventType.PROMOTION_GRANTED if judged.decision.allowed else EventType.PROMOTION_REFUSED
            row = _record(session, judged, deciding, kind, caller.actor, caller.now)
        session.flush()
        session.expunge_all()
    return row


def demote(
    database: Database, caller: Caller, repository: str, artifact: str, environment: str, reason: str
) -> list[PromotionDecision]:
    """Withdraw what is allowed, with `promotion.withdrawn`; again, or where nothing is, is no event.

    Raises:
        NotPermitted: the verb is missing.
        NotFound: the repository does not hold the artifact.
    """
    require(caller, Verb.PROMOTE, repository, environment=environment)
    with database.writing() as session, session.begin():
        now = current(session, caller)
        require(now, Verb.PROMOTE, repository, environment=environment)
        require_held(session, repository, artifact)
        live = live_of(session, repository, artifact, environment)
        if live:
            _withdraw(session, live, caller.actor, caller.now, reason, {"reason": reason})
        session.flush()
        session.expunge_all()
    return live


def standing(session: Session, serving: Serving, repository: str, artifact: str, now: datetime) -> str | ModelregError:
    """The verdict by which an artifact may serve, if it would still be promoted now; else the refusal.

    For a grant that is recorded, as `judge`: before the log's lock is held, and again under it if need be.
    """
    environment = serving.environment
    live = live_of(session, repository, artifact, environment)
    if not live:
        return PolicyRefused(
            f"{repository}@{artifact} is not promoted to {environment}; `modelreg promote {repository}@{artifact} "
            f"{environment} --explain` says what it needs",
            environment=environment,
        )
    try:
        judged = judge(session, serving.deciding, repository, artifact, environment, now)
    except (Untrusted, Refused) as error:
        return error  # nothing can be decided now, which withdraws nothing
    if judged.decision.allowed:
        return live[0].statement
    reasons = "; ".join(f"{one.rule}: {one.reason}" for one in promotion_rules.blocking(judged.decision))
    return NoLonger(
        f"{repository}@{artifact} may not serve in {environment} any more: {reasons}"[:2000],
        judged,
        environment=environment,
        rules=failing(judged.decision),
    )


def withdraw(session: Session, refusal: NoLonger, serving: Serving, now: datetime) -> None:
    """Withdraw what the facts do not allow any more, once; with the log's lock held, in the caller's transaction."""
    decision = refusal.judged.decision
    live = live_of(session, decision.repository, decision.artifact, decision.environment)
    if live:
        _withdraw_by(session, refusal.judged, serving.deciding, live, now)


def permit(
    serving: Serving, repository: str, artifact: str, statement: str, grant: str, host: str, caller: Caller
) -> bytes:
    """The signed permit that goes with a durable grant."""
    known = caller.principal.host
    made = Permit(
        artifact=Digest.parse(artifact),
        repository=repository,
        environment=serving.environment,
        host=host,
        verified_host=known.name if known else None,
        grant=grant,
        decision=Digest.parse(statement),
        issued_at=caller.now,
        expires_at=caller.now + serving.lifetime,
    )
    signer = serving.deciding.signer
    return attestations.sign_as_registry(made.payload, signer.key, signer.origin)


def note_policy(session: Session, deciding: Deciding, now: datetime) -> None:
    """Keep the policy's bytes, and append `policy.changed` if another one decided last; with the log's lock held."""
    digest = str(deciding.policy.digest)
    newest = select(PromotionPolicyText.digest).order_by(col(PromotionPolicyText.event_index).desc()).limit(1)
    before = session.exec(newest).one_or_none()
    if before == digest:
        return
    detail = {"policy": digest, "before": before, "version": deciding.policy.version}
    index = custody.append(session, _ITSELF, Event(EventType.POLICY_CHANGED, detail=detail), now)
    # At once, not with the rest: others of the same transaction ask who decided last.
    row = session.get(PromotionPolicyText, digest) or PromotionPolicyText(
        digest=digest, content=deciding.raw_policy, first_used_at=now, event_index=index
    )
    row.event_index = index
    session.add(row)
    session.flush()


def live_of(session: Session, repository: str, artifact: str, environment: str) -> list[PromotionDecision]:
    """What allows an artifact to serve in an environment, newest first."""
    query = select(PromotionDecision).where(
        PromotionDecision.artifact_digest == artifact,
        PromotionDecision.environment == environment,
        PromotionDecision.repository == repository,
        col(PromotionDecision.allowed).is_(True),
        col(PromotionDecision.withdrawn_at).is_(None),
    )
    return list(session.exec(query.order_by(col(PromotionDecision.id).desc())))


def failing(decision: Decision) -> list[str]:
    """The rules that keep a decision from being a yes."""
    return [one.rule for one in promotion_rules.blocking(decision)]


def listed(
    session: Session,
    caller: Caller,
    *,
    repository: str | None = None,
    artifact: str | None = None,
    environment: str | None = None,
    live: bool = False,
    before: int | None = None,
    limit: int = 100,
) -> tuple[list[PromotionDecision], int | None]:
    """Decisions about what the caller may see, newest first; and where to go on, None at the end."""
    query = select(PromotionDecision).order_by(col(PromotionDecision.id).desc())
    for column, value in (
        (PromotionDecision.repository, repository),
        (PromotionDecision.artifact_digest, artifact),
        (PromotionDecision.environment, environment),
    ):
        if value is not None:
            query = query.where(col(column) == value)
    if live:
        query = query.where(col(PromotionDecision.allowed).is_(True), col(PromotionDecision.withdrawn_at).is_(None))
    found: list[PromotionDecision] = []
    while True:
        page = query if before is None else query.where(col(PromotionDecision.id) < before)
        rows = session.exec(page.limit(_BATCH)).all()
        for row in rows:
            before = row.id
            if _may_see(caller, row.repository):
                found.append(row)
                if len(found) == limit:
                    return found, before
        if len(rows) < _BATCH:
            return found, None


def one(session: Session, caller: Caller, decision_id: int) -> PromotionDecision:
    """A decision with everything that it was made of, for whoever promotes, approves or audits there.

    Raises:
        NotFound: there is none, or not for the caller.
    """
    row = session.get(PromotionDecision, decision_id)
    verbs = (Verb.PROMOTE, Verb.APPROVE, Verb.AUDIT)
    if row is None or not any(
        caller.principal.may(verb, row.repository, environment=row.environment) for verb in verbs
    ):
        raise NotFound(f"there is no decision {decision_id}, or this token may not see it")
    return row


def _require_environment(deciding: Deciding, environment: str) -> None:
    if environment not in deciding.policy.environments:
        raise NotFound(
            f"the promotion policy has no environment {environment}; it has {', '.join(deciding.policy.environments)}"
        )


def _may_see(caller: Caller, repository: str) -> bool:
    verbs = (Verb.READ_METADATA, Verb.PROMOTE, Verb.APPROVE, Verb.AUDIT)
    return any(caller.principal.may(verb, repository) for verb in verbs)


def _record(
    session: Session, judged: Judged, deciding: Deciding, kind: EventType, actor: Actor, now: datetime, **more: Any
) -> PromotionDecision:
    note_policy(session, deciding, now)
    decision, signer = judged.decision, deciding.signer
    payload = verdicts.payload_of(
        judged.facts, decision, origin=signer.origin, version=__version__, statements=judged.statements
    )
    statement = str(sha256_of(payload))
    detail = {
        "environment": decision.environment,
        "verdict": statement,
        "decision": str(sha256_of(decision.raw)),
        "facts": decision.facts,
        "policy": decision.policy,
        **({} if decision.allowed else {"rules": failing(decision)}),
        **more,
    }
    index = custody.append(session, actor, Event(kind, decision.repository, decision.artifact, detail=detail), now)
    row = PromotionDecision(
        repository=decision.repository,
        artifact_digest=decision.artifact,
        environment=decision.environment,
        allowed=decision.allowed,
        policy_digest=decision.policy,
        facts=judged.facts.raw,
        decision=decision.raw,
        verdict=attestations.sign_as_registry(payload, signer.key, signer.origin),
        statement=statement,
        created_at=now,
        created_by=actor.principal,
        event_index=index,
    )
    session.add(row)
    return row


def _withdraw_by(
    session: Session, judged: Judged, deciding: Deciding, live: Sequence[PromotionDecision], now: datetime
) -> PromotionDecision:
    """The decision that says no takes the place of what said yes: one event for both."""
    kind = EventType.PROMOTION_WITHDRAWN
    row = _record(session, judged, deciding, kind, _ITSELF, now, withdrawn=live[0].statement)
    reason = f"not allowed any more: {', '.join(failing(judged.decision))}"
    for held in live:
        _end(session, held, row.event_index, _ITSELF.principal, now, reason)
    return row


def _withdraw(
    session: Session,
    live: Sequence[PromotionDecision],
    actor: Actor,
    now: datetime,
    reason: str,
    more: dict[str, Any],
) -> None:
    newest = live[0]
    detail = {"environment": newest.environment, "withdrawn": newest.statement, **more}
    event = Event(EventType.PROMOTION_WITHDRAWN, newest.repository, newest.artifact_digest, detail=detail)
    index = custody.append(session, actor, event, now)
    for held in live:
        _end(session, held, index, actor.principal, now, reason)


def _end(session: Session, row: PromotionDecision, index: int, by: str, now: datetime, reason: str) -> None:
    row.withdrawn_at, row.withdrawn_by, row.withdrawn_event_index = now, by, index
    row.withdrawn_reason = reason[:200]
    session.add(row)
