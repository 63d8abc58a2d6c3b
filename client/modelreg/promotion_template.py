"""A promotion policy to begin with, and cases that it passes: what `modelreg policy init` writes."""

from datetime import UTC, datetime, timedelta

from modelreg.classification import Classification
from modelreg.promotion_facts import (
    ApprovalFact,
    ClassFact,
    Facts,
    FormatFact,
    LicenceFact,
    ScanFact,
    SignatureFact,
    SourceFact,
)

POLICY = """\
# What must be true of an artifact before it may serve. docs/spec/promotion-policy.md says what each rule reads.
# Every rule is on; switching one off takes a reason. What is not known blocks.
# `modelreg policy check` reads it, `policy test` holds it against cases, `policy diff` says whom a change affects.
schema = "modelreg/promotion-policy/v1"
version = 1

# ---- staging: people try things; what must never serve does not serve here either ----
[[environments.staging]]                # the first entry whose `repositories` match decides
repositories = ["*/*"]                  # `*` stops at a `/`

[environments.staging.off]
approvals = "anybody may try things in staging"
licence = "legal looks at it before production"

[environments.staging.source]
allow = ["hf://*/*", "https://huggingface.co/*/*"]
made_here = true                        # what attested provenance says was made here needs no source
undeclared_digests = true

[environments.staging.format]
allow = ["safetensors", "gguf", "json", "sentencepiece", "jinja", "yaml", "text", "markdown", "png", "jpeg"]

[environments.staging.scan]
max_age_days = 90
rules_version = "2026-01-01"

[environments.staging.classification]
maximum = "confidential"
declared = false

# ---- production ----
[[environments.production]]
repositories = ["*/*"]

[environments.production.source]
allow = ["hf://acme-mirror/*"]          # CHANGE THIS: whose models you take
made_here = true
# checked = true                        # somebody must have compared with upstream since (`modelreg source check`)
# upstream_signature = true

[environments.production.format]        # by content, as the gate names them; no pickle, no code
allow = ["safetensors", "gguf", "json", "sentencepiece", "jinja", "yaml", "text", "markdown", "png", "jpeg"]

[environments.production.scan]
max_age_days = 30
rules_version = "2026-01-01"            # raise it when the gate learns something that matters
refuse = "block"                        # "warn" refuses warnings too

[environments.production.lineage]
datasets_for = ["finetune", "adapter", "distilled", "original"]

[environments.production.ancestors]
unknown = "refuse"                      # what is not in this registry cannot be recalled

[environments.production.datasets]
# lawful_bases = ["contract", "consent"]
retention = false                       # true: an end must be stated

[environments.production.classification]
maximum = "confidential"

[environments.production.licence]
allow = ["apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0"]
deny = ["cc-by-nc-*"]
claimed = true                          # what the model card says is enough; false wants it in the import statement

[environments.production.approvals]
count = 2                               # different people, and never who published, signed or imported it
by = ["person:*"]                       # CHANGE THIS: who may approve
max_age_days = 30

[[environments.production.waivers]]     # without such a table nothing can be waived
rules = ["scan", "licence", "source"]
by = ["person:risk-*"]                  # CHANGE THIS
max_days = 30
"""

CASES = """\
# What promotion.toml must answer. `modelreg policy test promotion.toml cases.toml`
schema = "modelreg/promotion-cases/v1"

[[cases]]
name = "a signed, scanned import with two approvals may serve"
facts = "example.facts.json"
expect = {allowed = true}

[[cases]]
name = "its publisher cannot approve it"
facts = "example.facts.json"
with = {"approvals.0.principal" = "person:trainer"}
expect = {allowed = false, rules = {approvals = "fail"}, says = {approvals = "they published it"}}

[[cases]]
name = "nobody knows where it comes from"
facts = "example.facts.json"
without = ["source"]
expect = {allowed = false, rules = {source = "missing", lineage = "missing"}}

[[cases]]
name = "a model of an old scan may not serve"
facts = "example.facts.json"
with = {"scans.0.scanned_at" = "2026-09-01T00:00:00Z"}
expect = {allowed = false, rules = {scan = "fail"}, says = {scan = "30 days are allowed"}}

[[cases]]
name = "restricted models stay out of production"
facts = "example.facts.json"
with = {"classification.effective" = "restricted", "classification.declared" = "restricted"}
expect = {allowed = false, rules = {classification = "fail"}}
"""


def example_facts() -> Facts:
    """Facts of an import that the policy above lets serve in production."""
    now = datetime(2026, 11, 24, 12, tzinfo=UTC)
    artifact, statement = (f"sha256:{word * 32}" for word in ("a1", "5e"))
    people = (("person:amy", "email:amy@acme.example"), ("person:ben", "email:ben@acme.example"))
    return Facts(
        evaluated_at=now,
        environment="production",
        repository="acme/minilm",
        artifact=artifact,
        publisher="person:trainer",
        published_at=now - timedelta(days=3),
        measured=True,
        sensitive_repository=False,
        recalled=None,
        signatures=(
            SignatureFact(
                identity="email:trainer@acme.example",
                authority="pki",
                valid=True,
                why=None,
                signed_at=now - timedelta(days=3),
            ),
        ),
        source=SourceFact(
            uri="hf://acme-mirror/all-MiniLM-L6-v2",
            revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
            statement=statement,
            identity="email:trainer@acme.example",
            fetched_by="person:trainer",
            matched=True,
            upstream_signature="none",
            drift=None,
        ),
        scans=(
            ScanFact(
                tool="modelreg-gate",
                tool_version="0.4.0",
                rules_version="2026-11-24",
                scanned_at=now - timedelta(days=3),
                complete=True,
                findings=(),
                statement=statement,
                identity="key:registry",
                formats=(
                    FormatFact(format="json", files=4, path="config.json"),
                    FormatFact(format="safetensors", files=1, path="model.safetensors"),
                ),
            ),
        ),
        relation=None,
        ancestors=(),
        cycle=False,
        datasets=(),
        classification=ClassFact(
            declared=Classification.INTERNAL, inherited=None, effective=Classification.INTERNAL, lowered_by=None
        ),
        licence=LicenceFact(value="apache-2.0", grade="claimed"),
        approvals=tuple(
            ApprovalFact(principal=who, identity=identity, approved_at=now - timedelta(days=1), statement=statement)
            for who, identity in people
        ),
        waivers=(),
    )
