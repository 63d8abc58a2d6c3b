"""What a promotion policy reads, and what it answers: values that are stored, and evaluated again, byte for byte.

`Facts` hold everything that is known of one artifact for one environment at one instant; a policy is evaluated over them and
nothing else. Whatever is not known is None, never a guess: a rule that needs it then does not pass. Both are JSON
(canonical, RFC 8785); their SHA-256 stand in the registry's signed verdict.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from modelreg.canonical import canonical_json
from modelreg.classification import Classification
from modelreg.digests import Digest, sha256_of

Grade = Literal["attested", "claimed", "inferred"]
Recalled = Literal["quarantine", "revocation"]


class Fact(BaseModel):
    """A value of one shape: an unknown member is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SignatureFact(Fact):
    """One signature on the artifact, verified again when the facts were gathered. `why` it does not hold, if not."""

    identity: str
    authority: str
    valid: bool
    why: str | None
    signed_at: datetime | None


class SourceFact(Fact):
    """Where imported bytes came from, by a signed statement. `matched`: each digest that upstream declares equals ours."""

    uri: str
    revision: str
    statement: str
    identity: str
    fetched_by: str
    matched: bool | None
    upstream_signature: str | None  # its verdict: valid, invalid, unknown-signer, none
    drift: bool | None  # what the newest source check found; None was never checked


class FindingFact(Fact):
    """One thing that a scan objects to."""

    rule: str
    path: str
    severity: Literal["block", "warn"]
    what: str


class ScanFact(Fact):
    """A signed scan of these bytes. `complete` is False where a file was not understood or could not be read."""

    tool: str
    tool_version: str
    rules_version: str
    scanned_at: datetime
    complete: bool
    findings: tuple[FindingFact, ...]
    statement: str
    identity: str


class AncestorFact(Fact):
    """An artifact that this one was made of, directly (`depth` 1) or not."""

    artifact: str
    name: str | None
    relation: str
    grade: Grade
    depth: int
    known: bool  # published in this registry
    recalled: Recalled | None


class DatasetFact(Fact):
    """A dataset that this artifact or an ancestor was made of. What is None no signed dataset statement says."""

    digest: str
    name: str | None
    grade: Grade
    registered: bool
    owner: str | None
    classification: Classification | None
    lawful_basis: str | None
    retention_until: datetime | None
    statement: str | None


class ClassFact(Fact):
    """How sensitive it is. `inherited` is the highest of parents and datasets; `effective` what holds, `lowered_by` whom."""

    declared: Classification | None
    inherited: Classification | None
    effective: Classification
    lowered_by: str | None


class LicenceFact(Fact):
    """An SPDX id or the words of the model card, and who says so."""

    value: str
    grade: Grade


class ApprovalFact(Fact):
    """One person's signed yes to this artifact in this environment."""

    principal: str
    identity: str
    approved_at: datetime
    statement: str


class WaiverFact(Fact):
    """A signed exception from one rule for this artifact. One that does not hold is here too, with `why`."""

    rule: str
    environment: str
    reason: str
    principal: str
    identity: str
    expires_at: datetime
    statement: str
    valid: bool
    why: str | None


class Facts(Fact):
    """All that is known. Lists are in a stable order; an empty one means that there is none, None that nobody knows."""

    schema_id: Literal["modelreg/promotion-facts/v1"] = "modelreg/promotion-facts/v1"
    evaluated_at: datetime
    environment: str
    repository: str
    artifact: str
    publisher: str
    published_at: datetime
    measured: bool | None  # every stored byte was measured by the registry, and nothing is missing since
    sensitive_repository: bool
    recalled: Recalled | None
    signatures: tuple[SignatureFact, ...]
    source: SourceFact | None
    scans: tuple[ScanFact, ...]  # newest first
    relation: str | None  # how it was made, by attested provenance; None says nobody did
    ancestors: tuple[AncestorFact, ...]
    cycle: bool
    datasets: tuple[DatasetFact, ...]
    classification: ClassFact | None
    licence: LicenceFact | None
    approvals: tuple[ApprovalFact, ...]
    waivers: tuple[WaiverFact, ...]

    @property
    def raw(self) -> bytes:
        """The canonical bytes."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def digest(self) -> Digest:
        """SHA-256 of the canonical bytes."""
        return sha256_of(self.raw)


class Outcome(Fact):
    """What one rule says. `reason` is what, with the evidence; `fix` what to do next, where there is something to do.

    `missing`: the rule needed a fact that is not there; `waived`: it did not pass, and a waiver holds (named in `reason`).
    `off`: the policy does not ask for it in this environment.
    """

    rule: str
    status: Literal["pass", "fail", "missing", "waived", "off"]
    reason: str
    fix: str | None = None


class Decision(Fact):
    """The answer, with every rule's; `allowed` is true where each of them passed, was waived or is off."""

    schema_id: Literal["modelreg/promotion-decision/v1"] = "modelreg/promotion-decision/v1"
    policy: str  # sha256:… of its bytes
    facts: str  # sha256:… of theirs
    environment: str
    repository: str
    artifact: str
    allowed: bool
    outcomes: tuple[Outcome, ...]

    @property
    def raw(self) -> bytes:
        """The canonical bytes."""
        return canonical_json(self.model_dump(mode="json"))
