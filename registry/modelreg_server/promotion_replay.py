"""Stored decisions made again: the same policy and facts give the same bytes, and the verdict over them is signed."""

from collections.abc import Iterator

from sqlmodel import Session, col, select

from modelreg import promotion_policy, promotion_rules, verdicts
from modelreg.digests import Digest, sha256_of
from modelreg.errors import ModelregError
from modelreg.promotion_facts import Decision
from modelreg.trust import LogTrust
from modelreg_server.tables import PromotionDecision, PromotionPolicyText

_BATCH = 200


def stored(session: Session, limit: int | None = None) -> Iterator[tuple[PromotionDecision, bytes]]:
    """Decisions in the order in which they were made, each with the bytes of its policy; with a limit the newest."""
    after = 0
    if limit is not None:
        newest = select(PromotionDecision.id).order_by(col(PromotionDecision.id).desc()).limit(limit)
        after = min((found for found in session.exec(newest) if found is not None), default=1) - 1
    while True:
        query = (
            select(PromotionDecision, PromotionPolicyText.content)
            .join(PromotionPolicyText, col(PromotionPolicyText.digest) == col(PromotionDecision.policy_digest))
            .where(col(PromotionDecision.id) > after)
            .order_by(col(PromotionDecision.id))
        )
        rows = session.exec(query.limit(_BATCH)).all()
        for row, content in rows:
            assert row.id is not None
            after = row.id
            yield row, content
        session.expunge_all()
        if len(rows) < _BATCH:
            return


def difference(row: PromotionDecision, raw_policy: bytes) -> str | None:
    """What is not as it was when a stored decision is made again from its policy and its facts; None if nothing."""
    if str(sha256_of(raw_policy)) != row.policy_digest:
        return f"the policy's bytes are not {row.policy_digest}"
    try:
        facts = verdicts.read_facts(row.facts)
        again = promotion_rules.evaluate(promotion_policy.parse(raw_policy), facts)
        before = verdicts.read_decision(row.decision)
    except ModelregError as error:
        return error.detail
    if again != before:
        for now, then in zip(again.outcomes, before.outcomes, strict=False):
            if now != then:
                return f"{then.rule} was {then.status} ({then.reason}), and is {now.status} ({now.reason})"
        return f"the decision was {_answer(before)}, and is {_answer(again)}"
    said = (row.repository, row.artifact_digest, row.environment, row.allowed)
    if said != (before.repository, before.artifact, before.environment, before.allowed):
        return "the row says something else than the decision in it"
    return None


def verdict_difference(row: PromotionDecision, trust: LogTrust) -> str | None:
    """What the signed verdict of a stored decision does not say; None if it says all of it.

    Args:
        trust: the registry's own keys.
    """
    try:
        found = verdicts.verify(
            row.verdict,
            row.facts,
            row.decision,
            trust,
            artifact=Digest.parse(row.artifact_digest),
            repository=row.repository,
            environment=row.environment,
            now=row.created_at,
        )
    except ModelregError as error:
        return f"the verdict: {error.detail}"
    return None if str(found.statement) == row.statement else "the verdict is another statement than the row names"


def _answer(decision: Decision) -> str:
    return f"{'allowed' if decision.allowed else 'refused'} with {len(decision.outcomes)} rules"
