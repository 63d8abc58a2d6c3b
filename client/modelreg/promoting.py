"""Promotion from the client's side: ask, approve, waive. An answer is believed when the pinned log's key has signed it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from modelreg import attestations, grants, signing, verdicts, wire, wire_attestations
from modelreg import wire_promotions as models
from modelreg.api import Api
from modelreg.approvals import Approval, Waiver, read_waiver
from modelreg.attestations import Kind
from modelreg.digests import Digest
from modelreg.errors import Invalid, SignatureInvalid
from modelreg.promotion_facts import Decision, Facts
from modelreg.trust import MAX_CLOCK_SKEW, TrustPolicy
from modelreg.verdicts import Verdict

MAX_WAIVER_DAYS = 3660
Stamp = Callable[[bytes], bytes | None]


@dataclass(frozen=True)
class Answered:
    """A decision and its facts. `verdict` is None for a dry run, which nobody signs; then it is the registry's word."""

    decision: Decision
    facts: Facts
    verdict: Verdict | None
    info: models.PromotionInfo | None


def ask(
    api: Api,
    policy: TrustPolicy,
    repository: str,
    artifact: Digest,
    environment: str,
    *,
    dry_run: bool,
    now: Callable[[], datetime],
) -> Answered:
    """Have the registry decide whether an artifact may serve, and verify what it answers.

    Raises:
        SignatureInvalid, SignerNotAllowed: the answer is not one that the registry signed, about this and now.
        Misconfigured: no log is pinned whose key could have signed it.
        Refused, NotFound: nothing was decided.
    """
    trusted = None if dry_run else grants.require_log(policy, environment)
    request = wire.request(models.PromotionRequest, environment=environment, dry_run=dry_run)
    answer = api.promote(repository, artifact, request)
    raw_facts, raw_decision = answer.facts.encode(), answer.decision.encode()
    if trusted is None:
        return Answered(verdicts.read_decision(raw_decision), verdicts.read_facts(raw_facts), None, None)
    if answer.verdict is None or answer.info is None:
        raise SignatureInvalid(f"{api.registry} decided and signed nothing; the answer is not used")
    answered_at = now()
    verdict = verdicts.verify(
        answer.verdict.encode(),
        raw_facts,
        raw_decision,
        trusted,
        artifact=artifact,
        repository=repository,
        environment=environment,
        now=answered_at,
    )
    if abs(answered_at - verdict.facts.evaluated_at) > MAX_CLOCK_SKEW:
        raise SignatureInvalid(
            f"{api.registry} answered with a verdict of {verdict.facts.evaluated_at:%Y-%m-%d %H:%M:%S}Z: an old answer, or one "
            "of two clocks is wrong; check this machine's first"
        )
    return Answered(verdict.decision, verdict.facts, verdict, answer.info)


def approve(
    api: Api,
    repository: str,
    artifact: Digest,
    environment: str,
    signer: signing.Signer,
    stamp: Stamp | None,
    at: datetime,
) -> wire_attestations.AttestationInfo:
    """Sign a yes as whoever this connection is, and have it recorded.

    Raises:
        ModelregError: what the registry refuses.
    """
    said = Approval(artifact, environment, api.whoami().principal, at)
    return _state(api, repository, artifact, Kind.APPROVAL, said, signer, stamp)


def waive(
    api: Api,
    repository: str,
    artifact: Digest,
    environment: str,
    rule: str,
    *,
    reason: str,
    days: int,
    signer: signing.Signer,
    stamp: Stamp | None,
    at: datetime,
) -> tuple[Waiver, wire_attestations.AttestationInfo]:
    """Sign an exception from one rule for one artifact as whoever this connection is, and have it recorded.

    Raises:
        Invalid: the rule, the reason or the days.
        ModelregError: what the registry refuses.
    """
    if not 1 <= days <= MAX_WAIVER_DAYS:
        raise Invalid(f"--days is {days}; write a number from 1 to {MAX_WAIVER_DAYS}", field="days")
    said = Waiver(artifact, environment, api.whoami().principal, rule, reason, at + timedelta(days=days))
    try:
        read_waiver(said.predicate, artifact)
    except SignatureInvalid as error:
        raise Invalid(error.detail, field="waiver") from None
    return said, _state(api, repository, artifact, Kind.WAIVER, said, signer, stamp)


def _state(
    api: Api,
    repository: str,
    artifact: Digest,
    kind: Kind,
    said: Approval | Waiver,
    signer: signing.Signer,
    stamp: Stamp | None,
) -> wire_attestations.AttestationInfo:
    payload = attestations.build(kind, repository, artifact, said.predicate)
    bundle = signing.sign(payload, signer, stamp)
    return api.attest(repository, artifact, wire.request(wire_attestations.AttestationRequest, bundle=bundle.decode()))
