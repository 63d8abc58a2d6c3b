"""What a promotion policy reads, and what it answers: values that are stored, and evaluated again, byte for byte.

`Facts` hold everything that is known of one artifact for one environment at one instant; a policy is evaluated over them and
nothing else. Whatever is not known is None, never a guess: a rule that needs it then does not pass. Both are JSON
(canonical, RFC 8785); their SHA-256 stand in the registry's signed verdict.
"""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from modelreg.canonical import MAX_INTEGER, canonical_json, strict_json
from modelreg.classification import Classification
from modelreg.digests import Digest, sha256_of
from modelreg.errors import Invalid

Grade = Literal["attested", "claimed", "inferred"]
Recalled = Literal["quarantine", "revocation"]
MAX_FACTS_BYTES = 16 * 1024 * 1024


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside the years 1 to 9999 in UTC") from None


# One instant has one spelling, so that the same facts have the same bytes.
Instant = Annotated[AwareDatetime, AfterValidator(_in_utc)]
Depth = Annotated[int, Field(ge=1, le=MAX_INTEGER)]


class Fact(BaseModel):
    """A value of one shape: an unknown member is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SignatureFact(Fact):
    """One signature on the artifact, verified again when the facts were gathered. `why` it does not hold, if not."""

    identity: str
    authority: str
    valid: bool
    why: str | None
    signed_at: Instant | None


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


class FormatFact(Fact):
    """How many files of an artifact are of a format, by content, and the first of them (by path)."""

    format: str
    files: Annotated[int, Field(ge=1, le=MAX_INTEGER)]
    path: str


class ScanFact(Fact):
    """A signed scan of these bytes. `complete` is False where a file was not understood or could not be read.

    `formats` is what the scan found each file to be (`format` blocks without); None if it does not say.
    """

    tool: str
    tool_version: str
    rules_version: str
    scanned_at: Instant
    complete: bool
    findings: tuple[FindingFact, ...]
    statement: str
    identity: str
    formats: tuple[FormatFact, ...] | None = None


class AncestorFact(Fact):
    """An artifact that this one was made of, directly (`depth` 1) or not. `source` is where an imported one came from."""

    artifact: str
    name: str | None
    relation: str
    grade: Grade
    depth: Depth
    known: bool  # published in this registry
    recalled: Recalled | None
    source: str | None = None  # by a signed statement; None where there is none


class DatasetFact(Fact):
    """A dataset that this artifact or an ancestor was made of. What is None no signed dataset statement says.

    `depth` is 1 where this artifact itself was made of it, as for ancestors; None (not known) is never taken for that.
    """

    digest: str
    name: str | None
    grade: Grade
    registered: bool
    owner: str | None
    classification: Classification | None
    lawful_basis: str | None
    retention_until: Instant | None
    statement: str | None
    depth: Depth | None = None


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
    approved_at: Instant
    statement: str


class WaiverFact(Fact):
    """A signed exception from one rule for this artifact. One that does not hold is here too, with `why`.

    `waived_at` is when it was recorded; one without does not count, since nobody can say how long it is good for.
    """

    rule: str
    environment: str
    reason: str
    principal: str
    identity: str
    expires_at: Instant
    statement: str
    valid: bool
    why: str | None
    waived_at: Instant | None = None


class Facts(Fact):
    """All that is known. Lists are in a stable order; an empty one means that there is none, None that nobody knows."""

    schema_id: Literal["modelreg/promotion-facts/v1"] = "modelreg/promotion-facts/v1"
    evaluated_at: Instant
    environment: str
    repository: str
    artifact: str
    publisher: str
    published_at: Instant
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


def parse_facts(raw: bytes) -> Facts:
    """Read facts as they are stored or exported (JSON). `raw` is untrusted.

    Raises:
        Invalid: not JSON, a member twice, unknown, missing or of another type, or above `MAX_FACTS_BYTES`.
    """
    if len(raw) > MAX_FACTS_BYTES:
        raise Invalid(f"the facts have {len(raw)} bytes; the limit is {MAX_FACTS_BYTES}", field="facts")
    try:
        strict_json(raw)  # pydantic takes the last of two members of one name
        return Facts.model_validate_json(raw, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ascii(".".join(map(str, problem["loc"])))[1:-1][:300]
        raise Invalid(f"the facts' {where or 'text'}: {problem['msg']}", field="facts") from None
    except ValueError as error:
        raise Invalid(f"the facts are not JSON: {error}", field="facts") from None
