"""Rules about people: enough others said yes, and who may make an exception, from what, for how long.

Whoever published, signed or imported an artifact is its author here, and counts neither as approver nor for a waiver.
"""

from collections.abc import Sequence
from datetime import timedelta

from modelreg.promotion_content import MAX_CLOCK_SKEW
from modelreg.promotion_facts import ApprovalFact, Facts, Outcome, WaiverFact
from modelreg.promotion_outcomes import bounded, day, fail, listed, minute, missing, outcome, shown
from modelreg.promotion_policy import ALWAYS, ApprovalsRule, Entry, named

_MAX_TOLD = 2  # waivers that do not count, of one rule


def approvals(entry: Entry, facts: Facts) -> Outcome:
    """So many different people approved it, lately, none of them its author."""
    rule = entry.approvals
    assert rule is not None  # it is on
    why = [(one, _approval_refused(rule, one, facts)) for one in facts.approvals]
    counted = _distinct([one for one, refused in why if refused is None], rule.count)
    not_counted = [f"{one.principal}: {refused}" for one, refused in why if refused is not None]
    ask = f"have {rule.count - len(counted)} more approve it (`modelreg approve`); {listed(rule.by)} may"
    problems = []
    if len(counted) < rule.count:
        if not facts.approvals:
            problems.append(missing(f"nobody approved it; {rule.count} must", ask))
        else:
            same = "; one person counts once" if len(facts.approvals) - len(not_counted) > len(counted) else ""
            less = f"; not counted: {listed(not_counted)}" if not_counted else ""
            who = f" ({listed(one.principal for one in counted)})" if counted else ""
            problems.append(fail(f"{len(counted)} of {rule.count} approvals count{who}{less}{same}", ask))
    people = listed(f"{one.principal} on {day(one.approved_at)}" for one in counted)
    return outcome("approvals", problems, f"approved by {people}")


def _approval_refused(rule: ApprovalsRule, one: ApprovalFact, facts: Facts) -> str | None:
    age = facts.evaluated_at - one.approved_at
    if (author := _author(one.principal, one.identity, facts)) is not None:
        return author
    if not named(rule.by, one.principal):
        return "the policy does not name them"
    if age > timedelta(days=rule.max_age_days):
        return f"{age.days} days old, {rule.max_age_days} are allowed"
    if age < -MAX_CLOCK_SKEW:
        return f"dated in the future, {minute(one.approved_at)}"
    return None


def _author(principal: str, identity: str, facts: Facts) -> str | None:
    """Why somebody has a part in the artifact, or None: by principal, or by the identity they sign with."""
    if principal == facts.publisher:
        return "they published it"
    if any(identity == one.identity for one in facts.signatures):
        return "they signed it"
    if facts.source is not None and (principal == facts.source.fetched_by or identity == facts.source.identity):
        return "they imported it"
    return None


def _distinct(found: Sequence[ApprovalFact], count: int) -> list[ApprovalFact]:
    """As many as possible, `count` at most, of which no two share a principal or an identity.

    A maximum matching of principals and identities: one more approval never makes it smaller, whatever the order. Augmenting
    paths are no longer than what is matched, so `count` bounds the depth.
    """
    by_principal: dict[str, list[ApprovalFact]] = {}
    for one in found:
        by_principal.setdefault(one.principal, []).append(one)
    taken: dict[str, ApprovalFact] = {}  # by identity

    def place(principal: str, tried: set[str]) -> bool:
        for one in by_principal[principal]:
            if one.identity in tried:
                continue
            tried.add(one.identity)
            holder = taken.get(one.identity)
            if holder is None or place(holder.principal, tried):
                taken[one.identity] = one
                return True
        return False

    for principal in by_principal:
        if len(taken) < count:
            place(principal, set())
    return sorted(taken.values(), key=lambda one: (one.principal, one.identity))


def waived(entry: Entry, facts: Facts, found: Outcome) -> Outcome:
    """The outcome of a rule after waivers: those that hold, and are for exactly this rule and environment, let it pass."""
    if found.status not in {"fail", "missing"}:
        return found
    not_counted = []
    for one in facts.waivers:
        if one.rule != found.rule:
            continue
        refused = _waiver_refused(entry, facts, one)
        if refused is None:
            reason = (
                f"waived until {minute(one.expires_at)} by {shown(one.principal)} ({shown(one.statement)}): "
                f"{shown(one.reason)}. Without it: {found.status}: {found.reason}"
            )
            return Outcome(rule=found.rule, status="waived", reason=bounded(reason))
        not_counted.append(f"the waiver by {shown(one.principal)} does not count: {refused}")
    if not not_counted:
        return found
    more = f" (and {len(not_counted) - _MAX_TOLD} more)" if len(not_counted) > _MAX_TOLD else ""
    told = f"{'; '.join(not_counted[:_MAX_TOLD])}{more}. {found.reason}"
    return Outcome(rule=found.rule, status=found.status, reason=bounded(told), fix=found.fix)


def _waiver_refused(entry: Entry, facts: Facts, one: WaiverFact) -> str | None:
    if not one.valid:
        return f"it does not hold: {shown(one.why or 'nobody says why')}"
    if one.environment != facts.environment:
        return f"it is for {shown(one.environment)}"
    if one.expires_at <= facts.evaluated_at:
        return f"it expired at {minute(one.expires_at)}"
    if (author := _author(one.principal, one.identity, facts)) is not None:
        return author
    rules = [rule for rule in entry.waivers if one.rule in rule.rules]
    if one.rule in ALWAYS or not rules:
        return f"nobody may waive {one.rule} in {shown(facts.environment)}"
    days = max((rule.max_days for rule in rules if named(rule.by, one.principal)), default=None)
    if days is None:
        return f"the policy does not let them waive {one.rule}"
    if one.waived_at is None:
        return "it is not known when it was made"
    if one.waived_at - facts.evaluated_at > MAX_CLOCK_SKEW:
        return f"it is dated in the future, {minute(one.waived_at)}"
    if one.expires_at - one.waived_at > timedelta(days=days):
        return f"it is for longer than the {days} days that the policy lets them"
    return None
