"""The registry's signed verdict on a promotion: a SLSA verification summary (VSA) v1, and what is believed of one.

    policy              the policy's bytes by digest; the environment is the fragment of its URI
    inputAttestations   the facts and the decision by digest, and every signed statement that they rest on
    verificationResult  PASSED or FAILED

The facts and the decision travel beside it, as canonical JSON. Whoever has them and the policy evaluates again and gets the
same bytes; nothing of them is believed before their digests are found in a verdict that the pinned log's key has signed.
https://slsa.dev/spec/v1.2/verification_summary
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import ValidationError

from modelreg import attestations
from modelreg.attestations import Kind
from modelreg.canonical import strict_json
from modelreg.digests import Digest, sha256_of
from modelreg.errors import ModelregError, SignatureInvalid
from modelreg.promotion_facts import Decision, Facts
from modelreg.trust import LogTrust

FACTS, DECISION = "urn:modelreg:promotion-facts:v1", "urn:modelreg:promotion-decision:v1"
POLICY = "urn:modelreg:promotion-policy:v1"
STATEMENT = "urn:modelreg:statement"
T = TypeVar("T", Facts, Decision)
_RESULTS = {True: "PASSED", False: "FAILED"}


@dataclass(frozen=True)
class Verdict:
    """A verified answer: who signed it, and the facts and the decision that it is about, byte for byte."""

    allowed: bool
    decision: Decision
    facts: Facts
    statement: Digest
    signer: str


def payload_of(facts: Facts, decision: Decision, *, origin: str, version: str, statements: Iterable[str]) -> bytes:
    """The statement that the registry signs.

    Args:
        origin: the log's name, which is the registry's.
        statements: digests of the signed statements that the facts rest on.
    """
    artifact = Digest.parse(decision.artifact)
    inputs = [
        {"uri": FACTS, **_digest(facts.digest)},
        {"uri": DECISION, **_digest(sha256_of(decision.raw))},
        *({"uri": f"{STATEMENT}:{one}", **_digest(Digest.parse(one))} for one in sorted(set(statements))),
    ]
    level = f"MODELREG_PROMOTED_TO_{decision.environment.upper().replace('-', '_')}"
    predicate = {
        "verifier": {"id": f"urn:modelreg:registry:{origin}", "version": {"modelreg": version}},
        "timeVerified": facts.evaluated_at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "resourceUri": f"modelreg:{decision.repository}@{artifact}",
        "policy": {"uri": f"{POLICY}#{decision.environment}", **_digest(Digest.parse(decision.policy))},
        "inputAttestations": inputs,
        "verificationResult": _RESULTS[decision.allowed],
        "verifiedLevels": [level if decision.allowed else "FAILED"],
        "slsaVersion": "1.2",
    }
    return attestations.build(Kind.VERDICT, decision.repository, artifact, predicate)


def verify(
    untrusted_bundle: bytes,
    untrusted_facts: bytes,
    untrusted_decision: bytes,
    trusted: LogTrust,
    *,
    artifact: Digest,
    repository: str,
    environment: str,
    now: datetime,
) -> Verdict:
    """Verify a verdict and what it was made of.

    Raises:
        SignatureInvalid, SignerNotAllowed: it is not the registry's answer to this question.
    """
    verified = attestations.verify_registrys(
        untrusted_bundle, log=trusted, repository=repository, now=now, kind=Kind.VERDICT, subject=artifact
    )
    predicate = verified.attestation.predicate
    named = _inputs(predicate)
    for what, uri, raw in (("facts", FACTS, untrusted_facts), ("decision", DECISION, untrusted_decision)):
        if named.get(uri) != sha256_of(raw).hex:
            raise SignatureInvalid(f"the {what} shown are not those of the signed verdict")
    facts, decision = read_facts(untrusted_facts), read_decision(untrusted_decision)
    policy = predicate.get("policy")
    expected = {
        "the decision's facts": (decision.facts, str(facts.digest)),
        "the decision's artifact": (decision.artifact, str(artifact)),
        "the decision's repository": (decision.repository, repository),
        "the decision's environment": (decision.environment, environment),
        "the facts' artifact": (facts.artifact, str(artifact)),
        "the facts' repository": (facts.repository, repository),
        "the facts' environment": (facts.environment, environment),
        "the verdict's policy": (policy.get("digest") if isinstance(policy, dict) else None, _sha256(decision.policy)),
        "the verdict's result": (predicate.get("verificationResult"), _RESULTS[decision.allowed]),
    }
    for what, (found, wanted) in expected.items():
        if found != wanted:
            raise SignatureInvalid(f"{what}: {ascii(found)[:200]}, not {ascii(wanted)[:200]}")
    return Verdict(decision.allowed, decision, facts, verified.attestation.digest, verified.signer.identity)


def read_facts(raw: bytes) -> Facts:
    """Read stored facts.

    Raises:
        SignatureInvalid: they are none, or not in the form in which they are hashed.
    """
    return _read(Facts, raw, "facts")


def read_decision(raw: bytes) -> Decision:
    """Read a stored decision.

    Raises:
        SignatureInvalid: it is none, or not in the form in which it is hashed.
    """
    return _read(Decision, raw, "decision")


def _read(model: type[T], raw: bytes, what: str) -> T:
    try:
        strict_json(raw)
        found = model.model_validate_json(raw)
    except (ValidationError, ValueError) as error:
        raise SignatureInvalid(f"the {what} cannot be read: {str(error).splitlines()[0][:200]}") from None
    if found.raw != raw:
        raise SignatureInvalid(f"the {what} are not canonical JSON as this version writes it")
    return found


def _inputs(predicate: dict[str, Any]) -> dict[str, str]:
    untrusted = predicate.get("inputAttestations")
    found: dict[str, str] = {}
    for item in untrusted if isinstance(untrusted, list) else []:
        uri, digest = (item.get("uri"), item.get("digest")) if isinstance(item, dict) else (None, None)
        if not isinstance(uri, str) or not isinstance(digest, dict) or uri in found:
            raise SignatureInvalid("the verdict's inputAttestations are malformed")
        found[uri] = str(digest.get("sha256"))
    return found


def _digest(digest: Digest) -> dict[str, Any]:
    return {"digest": {"sha256": digest.hex}}


def _sha256(text: str) -> dict[str, str] | None:
    try:
        return {"sha256": Digest.parse(text).hex}
    except ModelregError:
        return None
