"""The promotion policy: what must be true of an artifact before it may serve (docs/spec/promotion-policy.md).

    schema = "modelreg/promotion-policy/v1"
    version = 3

    [[environments.production]]             # the first entry whose `repositories` match decides; no entry, no promotion
    repositories = ["acme/*"]
    off = {datasets = "no fine-tunes yet"}  # every rule is on; off takes a reason

    [environments.production.scan]          # a table for each rule that is on and takes parameters (`promotion_rules`)
    max_age_days = 30
    rules_version = "2026-11-24"

    [[environments.production.waivers]]     # optional; without one nothing can be waived
    rules = ["licence"]
    by = ["person:risk-*"]
    max_days = 30

This module is the value: read whole or not at all. `promotion_rules` evaluates it.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StringConstraints, ValidationError, model_validator

from modelreg.classification import Classification
from modelreg.digests import Digest, sha256_of
from modelreg.errors import Misconfigured
from modelreg.references import glob_matches

SCHEMA = "modelreg/promotion-policy/v1"
MAX_POLICY_BYTES = 256 * 1024
MAX_ENVIRONMENTS = 32
MAX_ENTRIES = 200  # of a list
MAX_TEXT_CHARS = 200
MAX_DAYS = 3660
MAX_APPROVALS = 10

# Every rule, in the order in which decisions list them. Words are for ever: stored decisions and waivers hold them.
RuleName = Literal[
    "integrity",
    "recall",
    "signature",
    "source",
    "format",
    "scan",
    "lineage",
    "ancestors",
    "datasets",
    "classification",
    "licence",
    "approvals",
]
RULES: tuple[RuleName, ...] = get_args(RuleName)
# What every client refuses whatever a policy says: nobody can switch these off or waive them.
ALWAYS: frozenset[str] = frozenset({"integrity", "recall", "signature"})
ENVIRONMENT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)  # as in grants and access conditions
RULES_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)  # as the gate numbers its rules

Text = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_TEXT_CHARS, strip_whitespace=False, pattern=r"^[^\x00-\x1f\x7f]+$"),
]
# Vacuous truth is never what the author meant: no list of a policy is empty.
Texts = Annotated[tuple[Text, ...], Field(min_length=1, max_length=MAX_ENTRIES)]
Days = Annotated[int, Field(strict=True, ge=1, le=MAX_DAYS)]


class _Table(BaseModel):
    """A table of the policy: an unknown member is refused, not skipped."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SignatureRule(_Table):
    """Beyond the trust policy's rules: by whom (globs of identities), and whether a trusted time must prove when."""

    identities: Texts | None = None
    trusted_time: StrictBool = False


class SourceRule(_Table):
    """Imports from `allow` (globs of the source) and, if `made_here`, what attested provenance says was made here.

    `undeclared_digests` accepts a source that declares no digest to compare with; the others ask for more.
    """

    allow: Texts | None = None
    made_here: StrictBool
    undeclared_digests: StrictBool = False
    upstream_signature: StrictBool = False
    checked: StrictBool = False


class FormatRule(_Table):
    """Only files of these formats, by content, in the gate's words; globs."""

    allow: Texts


class ScanRule(_Table):
    """A complete scan by each of `tools`, so new and by rules so new, without findings of `refuse` or worse."""

    max_age_days: Days
    rules_version: Annotated[str, StringConstraints(pattern=rf"^{RULES_VERSION.pattern}$")]
    refuse: Literal["block", "warn"] = "block"
    tools: Texts = ("modelreg-gate",)


class LineageRule(_Table):
    """Which relations need attested datasets beside the attested base that all need."""

    datasets_for: Texts = ("finetune", "adapter", "distilled", "original")


class AncestorsRule(_Table):
    """Whether an ancestor that this registry does not hold (so that nobody can recall it) is accepted."""

    unknown: Literal["refuse", "allow"] = "refuse"


class DatasetsRule(_Table):
    """Which lawful bases count (None: any that is stated); whether an end of retention must be stated."""

    lawful_bases: Texts | None = None
    retention: StrictBool = False


class ClassificationRule(_Table):
    """The most sensitive class that may serve here; whether somebody must have declared one."""

    maximum: Classification
    declared: StrictBool = True


class LicenceRule(_Table):
    """Globs of licences, compared without case; `deny` wins. `claimed` accepts what only a model card says."""

    allow: Texts
    deny: Texts | None = None
    claimed: StrictBool = False


class ApprovalsRule(_Table):
    """So many different people, by globs of principals, none of approvals older than that."""

    count: Annotated[int, Field(strict=True, ge=1, le=MAX_APPROVALS)]
    by: Texts
    max_age_days: Days


class WaiverRule(_Table):
    """Who (globs of principals) may waive which rules, and for how long at most."""

    rules: Annotated[tuple[RuleName, ...], Field(min_length=1, max_length=len(RULES))]
    by: Texts
    max_days: Days


class Entry(_Table):
    """The rules of one environment for some repositories. A rule that is not in `off` is on, and has what it needs."""

    repositories: Texts
    off: Annotated[dict[RuleName, Text], Field(max_length=len(RULES))] = {}
    signature: SignatureRule = SignatureRule()
    source: SourceRule | None = None
    format: FormatRule | None = None
    scan: ScanRule | None = None
    lineage: LineageRule = LineageRule()
    ancestors: AncestorsRule = AncestorsRule()
    datasets: DatasetsRule = DatasetsRule()
    classification: ClassificationRule | None = None
    licence: LicenceRule | None = None
    approvals: ApprovalsRule | None = None
    waivers: Annotated[tuple[WaiverRule, ...], Field(max_length=MAX_ENTRIES)] = ()

    def names(self, repository: str) -> bool:
        """Whether a glob matches."""
        return named(self.repositories, repository)

    @model_validator(mode="after")
    def _each_rule_is_on_or_off(self) -> "Entry":
        if never := sorted(ALWAYS & self.off.keys()):
            raise ValueError(f"off names {never[0]}, which cannot be switched off")
        for rule in RULES:
            if rule in self.off and rule in self.model_fields_set:
                raise ValueError(f"{rule} is switched off and has a table; remove one of them")
            if rule not in self.off and rule in Entry.model_fields and getattr(self, rule) is None:
                raise ValueError(f"{rule} is not set; write its table, or switch it off with a reason in `off`")
        for waiver in self.waivers:
            if never := sorted(ALWAYS.intersection(waiver.rules)):
                raise ValueError(f"waivers name {never[0]}, which cannot be waived")
        return self


class _Document(_Table):
    schema_: Literal["modelreg/promotion-policy/v1"] = Field(alias="schema")
    version: Annotated[int, Field(strict=True, ge=1, le=2**53 - 1)]
    environments: Annotated[
        dict[
            Annotated[str, StringConstraints(pattern=rf"^{ENVIRONMENT.pattern}$")],
            Annotated[tuple[Entry, ...], Field(min_length=1, max_length=MAX_ENTRIES)],
        ],
        Field(min_length=1, max_length=MAX_ENVIRONMENTS),
    ]


@dataclass(frozen=True)
class PromotionPolicy:
    """A parsed policy. `digest` is the SHA-256 of its bytes."""

    version: int
    environments: Mapping[str, tuple[Entry, ...]]
    digest: Digest

    def entry_for(self, environment: str, repository: str) -> Entry | None:
        """What decides on a repository in an environment: the first entry that names it; None lets nothing serve."""
        return next((entry for entry in self.environments.get(environment, ()) if entry.names(repository)), None)


def named(patterns: tuple[str, ...], text: str) -> bool:
    """Whether one of these anchored globs matches; `*` stops at a `/`."""
    return any(glob_matches(pattern, text) for pattern in patterns)


def parse(raw: bytes) -> PromotionPolicy:
    """Read a promotion policy (TOML). The bytes come from the operator, but a wrong one must not be half understood.

    Raises:
        Misconfigured: any unknown, missing or malformed member, an empty list, a rule that is neither set nor off.
    """
    if len(raw) > MAX_POLICY_BYTES:
        raise Misconfigured(f"the promotion policy has {len(raw)} bytes; the limit is {MAX_POLICY_BYTES}")
    try:
        document = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Misconfigured(f"the promotion policy is not TOML: {error}") from None
    try:
        read = _Document.model_validate(document)
    except ValidationError as error:
        raise Misconfigured(f"the promotion policy's {first_problem(error)}") from None
    return PromotionPolicy(read.version, read.environments, sha256_of(raw))


def first_problem(error: ValidationError) -> str:
    """Where the first mistake is and what it is, in a line: `environments.production[0].scan.max_age_days: …`."""
    problem = error.errors(include_url=False, include_context=False, include_input=True)[0]
    where = "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in problem["loc"]).removeprefix(".")
    said = problem["msg"].removeprefix("Value error, ")
    found: Any = problem.get("input")
    given = f" (it is {ascii(found)[:80]})" if isinstance(found, str | int | float | bool) else ""
    return f"{ascii(where)[1:-1][:300]}: {said}{given}"
