"""A promotion policy and facts that it allows, to be spoiled one at a time; and Hypothesis's idea of any facts at all."""

import json
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from modelreg import promotion_policy
from modelreg.classification import Classification
from modelreg.promotion_facts import (
    AncestorFact,
    ApprovalFact,
    ClassFact,
    DatasetFact,
    Facts,
    FindingFact,
    FormatFact,
    LicenceFact,
    ScanFact,
    SignatureFact,
    SourceFact,
    WaiverFact,
    parse_facts,
)
from modelreg.promotion_policy import RULES
from modelreg.promotion_template import example_facts

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
ARTIFACT, BASE, OLDER, DATASET, STATEMENT = (f"sha256:{word * 32}" for word in ("a0", "b1", "b2", "d1", "5e"))

POLICY = b"""
schema = "modelreg/promotion-policy/v1"
version = 1

[[environments.production]]
repositories = ["acme/*"]
[environments.production.signature]
identities = ["email:*@acme.example"]
trusted_time = true
[environments.production.source]
allow = ["hf://acme-mirror/*"]
made_here = true
[environments.production.format]
allow = ["safetensors", "json"]
[environments.production.scan]
max_age_days = 14
rules_version = "2026-11-01"
[environments.production.datasets]
lawful_bases = ["contract", "consent"]
[environments.production.classification]
maximum = "confidential"
[environments.production.licence]
allow = ["Apache-2.0", "mit", "cc-by-*"]
deny = ["cc-by-nc-*"]
[environments.production.approvals]
count = 2
by = ["person:*"]
max_age_days = 30
[[environments.production.waivers]]
rules = ["source", "format", "scan", "lineage", "ancestors", "datasets", "classification", "licence", "approvals"]
by = ["person:risk-*"]
max_days = 30

[[environments.staging]]
repositories = ["*/*"]
[environments.staging.off]
source = "off"
format = "off"
scan = "off"
lineage = "off"
ancestors = "off"
datasets = "off"
classification = "off"
licence = "off"
approvals = "off"
"""


def policy(*changes):
    """The policy, with texts replaced; each must be there."""
    text = POLICY.decode()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return promotion_policy.parse(text.encode())


def imported():
    """Facts of an import that may serve."""
    return example_facts()


def finetuned():
    """Facts of a fine-tune that may serve: attested base and dataset, scanned, approved by two."""
    base = imported()
    return base.model_copy(
        update={
            "artifact": ARTIFACT,
            "source": None,
            "relation": "finetune",
            "ancestors": (
                _ancestor(BASE, "acme/minilm", 1, source="hf://acme-mirror/all-MiniLM-L6-v2"),
                _ancestor(OLDER, None, 2),
            ),
            "datasets": (
                DatasetFact(
                    digest=DATASET,
                    name="tickets-2026",
                    grade="attested",
                    registered=True,
                    owner="person:dora",
                    classification=Classification.INTERNAL,
                    lawful_basis="contract",
                    retention_until=NOW + timedelta(days=300),
                    statement=STATEMENT,
                    depth=1,
                ),
            ),
            "classification": ClassFact(
                declared=Classification.CONFIDENTIAL,
                inherited=Classification.INTERNAL,
                effective=Classification.CONFIDENTIAL,
                lowered_by=None,
            ),
            "licence": LicenceFact(value="apache-2.0", grade="attested"),
        }
    )


def _ancestor(artifact, name, depth, source=None):
    return AncestorFact(
        artifact=artifact,
        name=name,
        relation="finetune",
        grade="attested",
        depth=depth,
        known=True,
        recalled=None,
        source=source,
    )


def changed(facts, changes):
    """Facts with members replaced by path (`scans.0.complete`); `+` at the end of a path appends."""
    members = facts.model_dump(mode="json")
    for path, value in changes.items():
        *parents, last = path.split(".")
        at = members
        for part in parents:
            at = at[int(part)] if isinstance(at, list) else at[part]
        if last == "+":
            at.append(value)
        elif isinstance(at, list):
            at[int(last)] = value
        else:
            assert last in at, path
            at[last] = value
    return parse_facts(json.dumps(members).encode())


def waiver(rule, **changes):
    """A waiver that holds, as a member of facts."""
    return {
        "rule": rule,
        "environment": "production",
        "reason": "INC-7: agreed with legal",
        "principal": "person:risk-amy",
        "identity": "email:risk@acme.example",
        "expires_at": "2026-12-01T00:00:00Z",
        "statement": STATEMENT,
        "valid": True,
        "why": None,
        "waived_at": "2026-11-20T00:00:00Z",
        **changes,
    }


# ---- any facts: few words, so that things meet; and wild ones ----

_words = st.sampled_from(
    ["person:amy", "person:ben", "person:risk-amy", "email:amy@acme.example", "email:ben@acme.example", ARTIFACT, BASE]
)
_text = st.one_of(_words, st.text(max_size=40), st.just("x" * 5000), st.just("a/b\n\x1b[31m"))
_times = st.one_of(
    st.timedeltas(timedelta(days=-100), timedelta(days=100)).map(lambda delta: NOW + delta),
    st.datetimes(timezones=st.just(UTC)),
)
_grades = st.sampled_from(["attested", "claimed", "inferred"])
_classes = st.sampled_from(list(Classification))
_depths = st.one_of(st.integers(1, 3), st.integers(1, 2**53 - 1))
_recalled = st.sampled_from([None, "quarantine", "revocation"])
_maybe = st.none()


def _several(strategy, most=3):
    return st.lists(strategy, max_size=most).map(tuple)


_findings = st.builds(FindingFact, rule=_text, path=_text, severity=st.sampled_from(["block", "warn"]), what=_text)
_formats = st.builds(
    FormatFact,
    format=st.sampled_from(["safetensors", "json", "pickle", "unknown", "\x00"]),
    files=st.integers(1, 2**53 - 1),
    path=_text,
)
_facts = {
    "evaluated_at": st.one_of(st.just(NOW), _times),
    "environment": st.one_of(st.sampled_from(["production", "staging", "nowhere"]), _text),
    "repository": st.one_of(st.sampled_from(["acme/minilm", "else/where"]), _text),
    "artifact": _text,
    "publisher": _text,
    "published_at": _times,
    "measured": st.sampled_from([None, True, False]),
    "sensitive_repository": st.booleans(),
    "recalled": _recalled,
    "signatures": _several(
        st.builds(
            SignatureFact,
            identity=_text,
            authority=_text,
            valid=st.booleans(),
            why=_maybe | _text,
            signed_at=_maybe | _times,
        )
    ),
    "source": _maybe
    | st.builds(
        SourceFact,
        uri=_text | st.just("hf://acme-mirror/m"),
        revision=_text,
        statement=_text,
        identity=_text,
        fetched_by=_text,
        matched=_maybe | st.booleans(),
        upstream_signature=st.sampled_from([None, "valid", "invalid", "unknown-signer", "none"]) | _text,
        drift=_maybe | st.booleans(),
    ),
    "scans": _several(
        st.builds(
            ScanFact,
            tool=st.just("modelreg-gate") | _text,
            tool_version=_text,
            rules_version=st.sampled_from(["2026-11-24", "2020-01-01", "", "٢٠٢٦-11-24"]) | _text,
            scanned_at=_times,
            complete=st.booleans(),
            findings=_several(_findings),
            statement=_text,
            identity=_text,
            formats=_maybe | _several(_formats),
        )
    ),
    "relation": _maybe | st.sampled_from(["finetune", "adapter", "merge", "quantized"]) | _text,
    "ancestors": _several(
        st.builds(
            AncestorFact,
            artifact=_text,
            name=_maybe | _text,
            relation=_text,
            grade=_grades,
            depth=_depths,
            known=st.booleans(),
            recalled=_recalled,
            source=_maybe | _text,
        )
    ),
    "cycle": st.booleans(),
    "datasets": _several(
        st.builds(
            DatasetFact,
            digest=_text,
            name=_maybe | _text,
            grade=_grades,
            registered=st.booleans(),
            owner=_maybe | _text,
            classification=_maybe | _classes,
            lawful_basis=_maybe | _text,
            retention_until=_maybe | _times,
            statement=_maybe | _text,
            depth=_maybe | _depths,
        )
    ),
    "classification": _maybe
    | st.builds(
        ClassFact,
        declared=_maybe | _classes,
        inherited=_maybe | _classes,
        effective=_classes,
        lowered_by=_maybe | _text,
    ),
    "licence": _maybe | st.builds(LicenceFact, value=_text | st.just("MIT"), grade=_grades),
    "approvals": _several(
        st.builds(ApprovalFact, principal=_text, identity=_text, approved_at=_times, statement=_text), most=6
    ),
    "waivers": _several(
        st.builds(
            WaiverFact,
            rule=st.sampled_from(RULES) | _text,
            environment=st.just("production") | _text,
            reason=_text,
            principal=_text,
            identity=_text,
            expires_at=_times,
            statement=_text,
            valid=st.booleans(),
            why=_maybe | _text,
            waived_at=_maybe | _times,
        ),
        most=4,
    ),
}
any_facts = st.builds(Facts, **_facts)


@st.composite
def near_facts(draw):
    """Facts that may serve, but for a few members that are anything."""
    facts = draw(st.sampled_from([finetuned(), imported()]))
    names = draw(st.sets(st.sampled_from(sorted(_facts)), max_size=3))
    return facts.model_copy(update={name: draw(_facts[name]) for name in names})
