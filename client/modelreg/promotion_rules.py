"""May an artifact serve in an environment: all rules, always, over facts alone (docs/spec/promotion-policy.md).

A rule reads the policy's entry and the facts, and answers pass, fail, missing or off; waivers are applied last. What is not
known blocks; an environment or a repository that the policy does not name lets nothing serve. The same policy and facts give
the same decision, byte for byte: no clock, no order of arrival, no network has a part in it.
"""

from collections.abc import Callable, Mapping

from modelreg import promotion_consent, promotion_content, promotion_descent
from modelreg.promotion_facts import Decision, Facts, Outcome
from modelreg.promotion_outcomes import bounded, shown
from modelreg.promotion_policy import RULES, Entry, PromotionPolicy

Rule = Callable[[Entry, Facts], Outcome]

_CHECKS: Mapping[str, Rule] = {
    "integrity": promotion_content.integrity,
    "recall": promotion_content.recall,
    "signature": promotion_content.signature,
    "source": promotion_content.source,
    "format": promotion_content.formats,
    "scan": promotion_content.scan,
    "lineage": promotion_descent.lineage,
    "ancestors": promotion_descent.ancestors,
    "datasets": promotion_descent.datasets,
    "classification": promotion_descent.classification,
    "licence": promotion_descent.licence,
    "approvals": promotion_consent.approvals,
}
BLOCKING = frozenset({"fail", "missing"})


def evaluate(policy: PromotionPolicy, facts: Facts) -> Decision:
    """Decide. Pure and total: it raises for no policy that parses and no facts that are facts."""
    entry = policy.entry_for(facts.environment, facts.repository)
    if entry is None:
        outcomes = tuple(_not_named(policy, facts, rule) for rule in RULES)
    else:
        outcomes = tuple(_outcome(entry, facts, rule) for rule in RULES)
    return Decision(
        policy=str(policy.digest),
        facts=str(facts.digest),
        environment=facts.environment,
        repository=facts.repository,
        artifact=facts.artifact,
        allowed=not any(one.status in BLOCKING for one in outcomes),
        outcomes=outcomes,
    )


def blocking(decision: Decision) -> tuple[Outcome, ...]:
    """The rules because of which it is refused; none where it is allowed."""
    return tuple(one for one in decision.outcomes if one.status in BLOCKING)


def _outcome(entry: Entry, facts: Facts, rule: str) -> Outcome:
    reason = next((reason for name, reason in entry.off.items() if name == rule), None)
    if reason is not None:
        return Outcome(rule=rule, status="off", reason=bounded(f"the policy switches it off: {reason}"))
    return promotion_consent.waived(entry, facts, _CHECKS[rule](entry, facts))


def _not_named(policy: PromotionPolicy, facts: Facts, rule: str) -> Outcome:
    if facts.environment in policy.environments:
        what = f"the policy says nothing of {shown(facts.repository)} in {shown(facts.environment)}"
        fix = "add an entry whose `repositories` name it"
    else:
        what = f"the policy has no environment {shown(facts.environment)}; it has {', '.join(policy.environments)}"
        fix = "name one of those, or add it to the policy"
    return Outcome(rule=rule, status="missing", reason=bounded(what), fix=fix)
