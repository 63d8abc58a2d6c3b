"""What each rule of a promotion says: passing, failing, without its input, waived, and with a waiver that does not count."""

import pytest

from modelreg import promotion_rules
from modelreg.promotion_policy import ALWAYS, RULES
from support import decidable
from support.decidable import BASE, DATASET, OLDER, changed, waiver

POLICY = decidable.policy()
BAD, GONE = "fail", "missing"


def decide(facts, policy=POLICY):
    decision = promotion_rules.evaluate(policy, facts)
    assert [one.rule for one in decision.outcomes] == list(RULES)
    return decision, {one.rule: one for one in decision.outcomes}


SCAN = {
    "tool": "picklescan", "tool_version": "1.0.5", "rules_version": "n/a", "scanned_at": "2026-11-24T00:00:00Z",
    "complete": True, "findings": [], "statement": "sha256:" + "51" * 32, "identity": "key:ci", "formats": None,
}  # fmt: skip
FINDING = {"rule": "pickle", "path": "model.bin", "severity": "block", "what": "a pickle that imports os.system"}
WARNING = {**FINDING, "rule": "archive", "severity": "warn"}
SIGNED_BY_MALLORY = {
    "identity": "email:mallory@evil.example", "authority": "pki", "valid": True, "why": None,
    "signed_at": "2026-11-20T00:00:00Z",
}  # fmt: skip
CAL = {
    "principal": "person:cal", "identity": "email:cal@acme.example", "approved_at": "2026-11-23T00:00:00Z",
    "statement": "sha256:" + "52" * 32,
}  # fmt: skip

# name, import or fine-tune, what is changed, rule, status, what its reason says, what its fix says
ROWS = [
    ("every byte was measured", "F", {}, "integrity", "pass", "every stored byte was measured", None),
    ("bytes changed", "F", {"measured": False}, "integrity", BAD, "found some missing or changed", "restore the blobs"),
    ("nobody measured", "F", {"measured": None}, "integrity", GONE, "nobody measured the stored bytes", "measure it again"),
    ("not recalled", "F", {}, "recall", "pass", "neither quarantined nor revoked", None),
    ("quarantined", "F", {"recalled": "quarantine"}, "recall", BAD, "is quarantined", "modelreg release"),
    ("revoked", "F", {"recalled": "revocation"}, "recall", BAD, "revoked, for good", "another artifact"),
    ("signed in time", "F", {}, "signature", "pass", "email:trainer@acme.example (pki, 2026-11-21 12:00Z)", None),
    ("one of two holds", "F", {"signatures.+": {**SIGNED_BY_MALLORY, "valid": False, "why": "expired"}}, "signature",
     "pass", "1 further do not hold", None),
    ("no signature", "F", {"signatures": []}, "signature", GONE, "has no signature", "by an allowed signer"),
    ("none holds", "F", {"signatures.0.valid": False, "signatures.0.why": "the signer is revoked"}, "signature", BAD,
     "email:trainer@acme.example: the signer is revoked", "sign it again"),
    ("signed by another", "F", {"signatures": [SIGNED_BY_MALLORY]}, "signature", BAD,
     "signed by email:mallory@evil.example, the policy names email:*@acme.example", "have one of those sign it"),
    ("no trusted time", "F", {"signatures.0.signed_at": None}, "signature", GONE, "no trusted time", "time stamp"),
    ("made here", "F", {}, "source", "pass", "made here (finetune), by attested provenance", None),
    ("imported", "I", {}, "source", "pass", "imported from hf://acme-mirror/all-MiniLM-L6-v2 at c9745ed1", None),
    ("of another source", "I", {"source.uri": "hf://mallory/m"}, "source", BAD,
     "imported from hf://mallory/m, the policy allows hf://acme-mirror/*", "allowed source"),
    ("a source below an allowed one", "I", {"source.uri": "hf://acme-mirror/a/b"}, "source", BAD, "not allowed", "allowed source"),
    ("upstream has other digests", "I", {"source.matched": False}, "source", BAD, "not what the source declared", "import it again"),
    ("upstream declares nothing", "I", {"source.matched": None}, "source", GONE, "declared no digest", "undeclared_digests"),
    ("upstream drifted", "I", {"source.drift": True}, "source", BAD, "serves other bytes today", "modelreg source check"),
    ("upstream's signature is bad", "I", {"source.upstream_signature": "invalid"}, "source", BAD,
     "the signature that came from upstream does not hold", "whose signature holds"),
    ("a base of another source", "F", {"ancestors.0.source": "hf://mallory/m"}, "source", BAD,
     f"{BASE} from hf://mallory/m", "allowed base"),
    ("formats", "F", {}, "format", "pass", "all files are json, safetensors", None),
    ("a pickle", "F", {"scans.0.formats.0.format": "pickle", "scans.0.formats.0.path": "model.bin"}, "format", BAD,
     "pickle: model.bin (4 files)", "convert them"),
    ("no formats", "F", {"scans.0.formats": None}, "format", GONE, "no scan says what formats", "scan it again"),
    ("no files", "F", {"scans.0.formats": []}, "format", GONE, "no scan says what formats", "scan it again"),
    ("another tool saw another format", "F",
     {"scans.+": {**SCAN, "formats": [{"format": "zip", "files": 1, "path": "a"}]}}, "format", BAD, "zip: a", "convert"),
    ("scanned", "F", {}, "scan", "pass", "modelreg-gate 0.4.0 on 2026-11-21", None),
    ("a warning", "F", {"scans.0.findings": [WARNING]}, "scan", "pass", "without objection", None),
    ("a finding", "F", {"scans.0.findings": [FINDING]}, "scan", BAD,
     "objects 1 times; pickle in model.bin: a pickle that imports os.system", "remove what it names"),
    ("an old scan", "F", {"scans.0.scanned_at": "2026-11-10T11:59:59Z"}, "scan", BAD,
     "14 days old; 2026-11-10, and 14 days are allowed", "scan it again"),
    ("a scan of tomorrow", "F", {"scans.0.scanned_at": "2026-11-25T12:00:00Z"}, "scan", BAD, "dated in the future", "scan it again"),
    ("old rules", "F", {"scans.0.rules_version": "2026-10-31"}, "scan", BAD,
     "old rules; 2026-10-31, and 2026-11-01 or newer", "scan it again"),
    ("rules of no date", "F", {"scans.0.rules_version": "latest"}, "scan", BAD, "old rules; latest", "scan it again"),
    ("an incomplete scan", "F", {"scans.0.complete": False}, "scan", BAD, "is not complete; a file was not understood", "repair"),
    ("another tool objects", "F", {"scans.+": {**SCAN, "findings": [FINDING]}}, "scan", BAD, "scan by picklescan objects", "remove"),
    ("only another tool", "F", {"scans.0.tool": "picklescan"}, "scan", GONE, "there is no scan by modelreg-gate", "scan it again"),
    ("an attested base", "F", {}, "lineage", "pass", f"finetune of {BASE}, attested", None),
    ("an import of nothing", "I", {}, "lineage", "pass", "imported as it is", None),
    ("descends from itself", "F", {"cycle": True}, "lineage", BAD, "the recorded lineage has a cycle", "right base"),
    ("only a claimed base", "F", {"ancestors.0.grade": "claimed"}, "lineage", GONE,
     f"finetune of no attested base; only {BASE} (claimed), which does not count", "--base REF"),
    ("no base", "F", {"ancestors": []}, "lineage", GONE, "finetune of no attested base", "--base REF"),
    ("only a base's base", "F", {"ancestors.0.depth": 2}, "lineage", GONE, "no attested base", "--base REF"),
    ("no dataset", "F", {"datasets": []}, "lineage", GONE, "finetune with no attested dataset", "--dataset DIGEST"),
    ("only a base's dataset", "F", {"datasets.0.depth": 2}, "lineage", GONE, "with no attested dataset", "--dataset DIGEST"),
    ("a dataset of nobody knows what", "F", {"datasets.0.depth": None}, "lineage", GONE, "with no attested dataset", "--dataset"),
    ("only a claimed dataset", "F", {"datasets.0.grade": "claimed"}, "lineage", GONE, f"only {DATASET} (claimed)", "--dataset"),
    ("a merge needs no dataset", "F", {"relation": "merge", "datasets": []}, "lineage", "pass", "merge of", None),
    ("an adapter of two bases", "F", {"relation": "adapter", "ancestors.1.depth": 1}, "lineage", BAD,
     f"an adapter has one base; attested are {BASE}, {OLDER}", "--base REF"),
    ("an unknown relation", "F", {"relation": "stolen"}, "lineage", BAD, "stolen, which is no known relation", "finetune"),
    ("ancestors are fine", "F", {}, "ancestors", "pass", "none of its 2 ancestors is recalled", None),
    ("no ancestors", "I", {}, "ancestors", "pass", "no recorded ancestor", None),
    ("a quarantined base", "F", {"ancestors.0.recalled": "quarantine"}, "ancestors", BAD,
     f"acme/minilm@{BASE} is quarantined; finetune at depth 1, attested", "not recalled"),
    ("a revoked ancestor that is only claimed", "F", {"ancestors.1.recalled": "revocation", "ancestors.1.grade": "claimed"},
     "ancestors", BAD, f"{OLDER} is revoked; finetune at depth 2, claimed", "not recalled"),
    ("a base that is not here", "F", {"ancestors.1.known": False}, "ancestors", GONE,
     f"1 attested ancestors are not in this registry, so nobody can recall them; {OLDER}", "import or push"),
    ("datasets are fine", "F", {}, "datasets", "pass", "registered, stated and in time: tickets-2026", None),
    ("no datasets", "I", {}, "datasets", "pass", "no dataset is recorded", None),
    ("an unregistered dataset", "F", {"datasets.0.registered": False}, "datasets", GONE,
     f"tickets-2026 {DATASET} is not registered", "modelreg dataset register"),
    ("a dataset without a statement", "F", {"datasets.0.statement": None}, "datasets", GONE, "has no signed statement", "register"),
    ("a dataset without a class", "F", {"datasets.0.classification": None}, "datasets", GONE, "declares no class", "register it again"),
    ("a dataset without a basis", "F", {"datasets.0.lawful_basis": None}, "datasets", GONE, "states no lawful basis", "register it again"),
    ("a dataset on another basis", "F", {"datasets.0.lawful_basis": "scraped"}, "datasets", BAD,
     "scraped, accepted are contract, consent", "without that dataset"),
    ("a dataset kept too long", "F", {"datasets.0.retention_until": "2026-11-24T12:00:00Z"}, "datasets", BAD,
     "was to be deleted by 2026-11-24", "extend the retention"),
    ("a class in bounds", "F", {}, "classification", "pass", "it is confidential; at most confidential may be here", None),
    ("too sensitive", "F", {"classification.effective": "restricted"}, "classification", BAD,
     "it is restricted, and production takes confidential at most", "modelreg declassify"),
    ("declared below what it was made of", "F",
     {"classification.declared": "public", "classification.effective": "internal"}, "classification", BAD,
     "said to be public, and what it was made of is internal", "modelreg declassify"),
    ("lowered by a signature", "F",
     {"classification.inherited": "restricted", "classification.lowered_by": "email:dpo@acme.example"}, "classification",
     "pass", "lowered from restricted by email:dpo@acme.example", None),
    ("nobody worked out a class", "F", {"classification": None}, "classification", GONE, "nobody worked out", "--class"),
    ("nobody declared a class", "I", {"classification.declared": None}, "classification", GONE, "nobody declared", "--class"),
    ("an allowed licence", "F", {}, "licence", "pass", "apache-2.0, attested", None),
    ("an allowed licence by a glob", "F", {"licence.value": "CC-BY-4.0"}, "licence", "pass", "CC-BY-4.0", None),
    ("a denied licence", "F", {"licence.value": "CC-BY-NC-4.0"}, "licence", BAD, "denies its licence; CC-BY-NC-4.0 is named by cc-by-nc-*", "another model"),
    ("another licence", "F", {"licence.value": "llama3"}, "licence", BAD, "llama3, allowed are Apache-2.0, mit", "looked at"),
    ("no licence", "F", {"licence": None}, "licence", GONE, "no licence is stated", "model card"),
    ("only a claimed licence", "F", {"licence.grade": "claimed"}, "licence", GONE, "apache-2.0 is only claimed", "`claimed`"),
    ("two approvals", "F", {}, "approvals", "pass", "approved by person:amy on 2026-11-23, person:ben on 2026-11-23", None),
    ("nobody approved", "F", {"approvals": []}, "approvals", GONE, "nobody approved it; 2 must", "have 2 more approve it"),
    ("the publisher approved", "F", {"approvals.0.principal": "person:trainer"}, "approvals", BAD,
     "1 of 2 approvals count (person:ben); not counted: person:trainer: they published it", "have 1 more approve it"),
    ("the signer approved", "F", {"approvals.0.identity": "email:trainer@acme.example"}, "approvals", BAD,
     "person:amy: they signed it", "have 1 more"),
    ("the importer approved", "I", {"source.fetched_by": "person:amy"}, "approvals", BAD, "person:amy: they imported it", "1 more"),
    ("the import's signer approved", "I", {"source.identity": "email:ben@acme.example"}, "approvals", BAD,
     "person:ben: they imported it", "1 more"),
    ("one person under two identities", "F", {"approvals.1.principal": "person:amy"}, "approvals", BAD,
     "1 of 2 approvals count (person:amy); one person counts once", "1 more"),
    ("two persons under one identity", "F", {"approvals.1.identity": "email:amy@acme.example"}, "approvals", BAD,
     "one person counts once", "1 more"),
    ("an approver whom the policy does not name", "F", {"approvals.0.principal": "workload:ci"}, "approvals", BAD,
     "workload:ci: the policy does not name them", "person:* may"),
    ("an old approval", "F", {"approvals.0.approved_at": "2026-10-20T00:00:00Z"}, "approvals", BAD,
     "person:amy: 35 days old, 30 are allowed", "1 more"),
    ("an approval of tomorrow", "F", {"approvals.0.approved_at": "2026-11-25T00:00:00Z"}, "approvals", BAD,
     "dated in the future, 2026-11-25 00:00Z", "1 more"),
    ("a third approval makes up for the publisher's", "F", {"approvals.0.principal": "person:trainer", "approvals.+": CAL},
     "approvals", "pass", "approved by person:ben on 2026-11-23, person:cal on 2026-11-23", None),
]  # fmt: skip
FACTS = {"F": decidable.finetuned, "I": decidable.imported}
ATTESTED_LICENCE = {"licence.grade": "attested"}


def start(kind):
    return changed(FACTS[kind](), ATTESTED_LICENCE if kind == "I" else {})


@pytest.mark.parametrize("kind", FACTS)
def test_the_facts_of_the_table_may_serve(kind):
    decision, outcomes = decide(start(kind))

    assert decision.allowed
    assert {one.status for one in outcomes.values()} == {"pass"}
    assert all(one.fix is None for one in outcomes.values())


@pytest.mark.parametrize(
    ("name", "kind", "changes", "rule", "status", "reason", "fix"), ROWS, ids=[row[0] for row in ROWS]
)
def test_a_rule_says_what_with_evidence_and_a_fix(name, kind, changes, rule, status, reason, fix):
    facts = changed(start(kind), changes)
    decision, outcomes = decide(facts)

    assert outcomes[rule].status == status
    assert reason in outcomes[rule].reason
    assert fix in outcomes[rule].fix if fix else outcomes[rule].fix is None
    assert decision.allowed == (status == "pass")
    assert {one.rule for one in promotion_rules.blocking(decision)} == (set() if status == "pass" else {rule})
    assert (decision.artifact, decision.environment) == (facts.artifact, "production")
    assert (decision.facts, decision.policy) == (str(facts.digest), str(POLICY.digest))


SPOILED = {
    rule: (kind, changes, status) for _, kind, changes, rule, status, *_ in reversed(ROWS) if status in {BAD, GONE}
}


def waived(spoiled_rule, **changes):
    """The decision where a rule does not pass and there is a waiver, its outcome, and its status without one."""
    kind, spoiled, status = SPOILED[spoiled_rule]
    facts = changed(changed(start(kind), spoiled), {"waivers.+": waiver(**{"rule": spoiled_rule, **changes})})
    decision, outcomes = decide(facts)
    return decision, outcomes[spoiled_rule], status


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in ALWAYS])
def test_a_waiver_that_holds_lets_a_rule_pass_and_is_named(rule):
    decision, outcome, status = waived(rule)

    assert decision.allowed
    assert outcome.status == "waived"
    assert outcome.fix is None
    assert "waived until 2026-12-01 00:00Z by person:risk-amy" in outcome.reason
    assert decidable.STATEMENT in outcome.reason
    assert "INC-7: agreed with legal" in outcome.reason
    assert f"Without it: {status}: " in outcome.reason


@pytest.mark.parametrize("rule", RULES)
def test_a_waiver_that_has_expired_does_not_count(rule):
    decision, outcome, status = waived(rule, expires_at="2026-11-24T12:00:00Z")

    assert not decision.allowed
    assert outcome.status == status
    assert "the waiver by person:risk-amy does not count: it expired at 2026-11-24 12:00Z" in outcome.reason
    assert outcome.fix


@pytest.mark.parametrize("rule", sorted(ALWAYS))
def test_what_every_client_refuses_cannot_be_waived(rule):
    decision, outcome, status = waived(rule)

    assert not decision.allowed
    assert outcome.status == status
    assert f"nobody may waive {rule} in production" in outcome.reason


REFUSED_WAIVERS = {
    "another rule": ({"rule": "scan"}, None),
    "another environment": ({"environment": "staging"}, "it is for staging"),
    "a statement that does not hold": (
        {"valid": False, "why": "the signer is revoked"},
        "it does not hold: the signer is revoked",
    ),
    "nobody the policy names": ({"principal": "person:amy"}, "the policy does not let them waive licence"),
    "the publisher": ({"principal": "person:trainer"}, "they published it"),
    "a signer": ({"identity": "email:trainer@acme.example"}, "they signed it"),
    "for too long": ({"waived_at": "2026-10-31T00:00:00Z"}, "it is for longer than the 30 days"),
    "at an unknown time": ({"waived_at": None}, "it is not known when it was made"),
    "made tomorrow": ({"waived_at": "2026-11-25T00:00:00Z"}, "it is dated in the future"),
}


@pytest.mark.parametrize(("changes", "why"), REFUSED_WAIVERS.values(), ids=REFUSED_WAIVERS)
def test_a_waiver_that_does_not_count_is_named_with_the_reason(changes, why):
    decision, outcome, status = waived("licence", **changes)

    assert not decision.allowed
    assert outcome.status == status
    if why is None:
        assert "waiver" not in outcome.reason
    else:
        assert f"does not count: {why}" in outcome.reason


def test_one_waiver_that_holds_is_enough_beside_others_that_do_not():
    facts = changed(start("F"), {"licence": None, "waivers": [waiver("licence", valid=False), waiver("licence")]})

    assert decide(facts)[0].allowed


def test_a_waiver_for_a_rule_that_passes_changes_nothing():
    _, outcomes = decide(changed(start("F"), {"waivers": [waiver("licence")]}))

    assert outcomes["licence"].status == "pass"


def test_without_a_table_of_waivers_nothing_can_be_waived():
    text = decidable.POLICY.decode()
    at = text.index("[[environments.production.waivers]]")
    policy = decidable.policy((text[at : text.index("[[environments.staging]]")], ""))
    _, outcomes = decide(changed(start("F"), {"licence": None, "waivers": [waiver("licence")]}), policy)

    assert outcomes["licence"].status == "missing"
    assert "nobody may waive licence in production" in outcomes["licence"].reason


def test_a_rule_that_is_off_says_why_and_blocks_nothing():
    facts = changed(start("F"), {"environment": "staging", "scans": [], "approvals": []})
    decision, outcomes = decide(facts)

    assert decision.allowed
    assert (outcomes["scan"].status, outcomes["scan"].reason) == ("off", "the policy switches it off: off")
    assert outcomes["integrity"].status == "pass"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"environment": "moon"}, "the policy has no environment moon; it has production, staging"),
        ({"repository": "else/where"}, "the policy says nothing of else/where in production"),
        ({"repository": "acme/a/b"}, "the policy says nothing of acme/a/b in production"),
    ],
)
def test_what_the_policy_does_not_name_may_not_serve(changes, reason):
    decision, outcomes = decide(changed(start("F"), changes))

    assert not decision.allowed
    assert {one.status for one in outcomes.values()} == {"missing"}
    assert {one.reason for one in outcomes.values()} == {reason}


def test_the_first_entry_that_names_the_repository_decides():
    staging = "[[environments.staging]]"
    entry = decidable.POLICY.decode().split(staging)[1].replace("*/*", "acme/minilm").replace('"off"', '"first"')
    policy = decidable.policy((staging, f"{staging}{entry}{staging}"))
    for repository, reason in (("acme/minilm", "first"), ("acme/other", "off")):
        facts = changed(start("F"), {"environment": "staging", "repository": repository})
        assert decide(facts, policy)[1]["scan"].reason == f"the policy switches it off: {reason}"


OPTIONS = {
    "warnings refuse": (
        ('rules_version = "2026-11-01"', 'rules_version = "2026-11-01"\nrefuse = "warn"'),
        "F", {"scans.0.findings": [WARNING]}, "scan", "fail",
    ),
    "nothing may be made here": (("made_here = true", "made_here = false"), "F", {}, "source", "fail"),
    "no imports at all": (('allow = ["hf://acme-mirror/*"]\n', ""), "I", {}, "source", "fail"),
    "undeclared digests are fine": (
        ("made_here = true", "made_here = true\nundeclared_digests = true"), "I", {"source.matched": None}, "source", "pass",
    ),
    "the source must have been checked": (
        ("made_here = true", "made_here = true\nchecked = true"), "I", {}, "source", "missing",
    ),
    "it was checked": (
        ("made_here = true", "made_here = true\nchecked = true"), "I", {"source.drift": False}, "source", "pass",
    ),
    "upstream must have signed": (
        ("made_here = true", "made_here = true\nupstream_signature = true"), "I", {}, "source", "missing",
    ),
    "upstream signed": (
        ("made_here = true", "made_here = true\nupstream_signature = true"),
        "I", {"source.upstream_signature": "valid"}, "source", "pass",
    ),
    "unknown ancestors are fine": (
        ("[environments.production.datasets]", '[environments.production.ancestors]\nunknown = "allow"\n[environments.production.datasets]'),
        "F", {"ancestors.1.known": False}, "ancestors", "pass",
    ),
    "an end of retention must be stated": (
        ("lawful_bases", "retention = true\nlawful_bases"), "F", {"datasets.0.retention_until": None}, "datasets", "missing",
    ),
    "no end of retention is fine": (("version = 1", "version = 2"), "F", {"datasets.0.retention_until": None}, "datasets", "pass"),
    "any lawful basis": (('lawful_bases = ["contract", "consent"]', ""), "F", {"datasets.0.lawful_basis": "x"}, "datasets", "pass"),
    "nobody need declare a class": (
        ('maximum = "confidential"', 'maximum = "confidential"\ndeclared = false'),
        "I", {"classification.declared": None}, "classification", "pass",
    ),
    "claimed licences": (('deny = ["cc-by-nc-*"]', "claimed = true"), "F", {"licence.grade": "claimed"}, "licence", "pass"),
    "inferred licences never": (
        ('deny = ["cc-by-nc-*"]', "claimed = true"), "F", {"licence.grade": "inferred"}, "licence", "missing",
    ),
    "no trusted time is fine": (("trusted_time = true", ""), "F", {"signatures.0.signed_at": None}, "signature", "pass"),
    "anybody whom the trust policy believes": (
        ('identities = ["email:*@acme.example"]', ""), "F", {"signatures": [SIGNED_BY_MALLORY]}, "signature", "pass",
    ),
    "a second tool must have scanned": (
        ('rules_version = "2026-11-01"', 'rules_version = "2026-11-01"\ntools = ["modelreg-gate", "picklescan"]'),
        "F", {}, "scan", "missing",
    ),
    "distilled needs no dataset": (
        ("[environments.production.datasets]", '[environments.production.lineage]\ndatasets_for = ["finetune"]\n[environments.production.datasets]'),
        "F", {"relation": "distilled", "datasets": []}, "lineage", "pass",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "kind", "changes", "rule", "status"), OPTIONS.values(), ids=OPTIONS)
def test_parameters_change_what_a_rule_asks(change, kind, changes, rule, status):
    _, outcomes = decide(changed(start(kind), changes), decidable.policy(change))

    assert outcomes[rule].status == status


EDGES = {
    "a scan of just the age": ({"scans.0.scanned_at": "2026-11-10T12:00:00Z"}, "scan"),
    "a scan of a clock five minutes ahead": ({"scans.0.scanned_at": "2026-11-24T12:05:00Z"}, "scan"),
    "just the rules": ({"scans.0.rules_version": "2026-11-01"}, "scan"),
    "approvals of just the age": ({"approvals.0.approved_at": "2026-10-25T12:00:00Z"}, "approvals"),
    "an approval of a clock five minutes ahead": ({"approvals.0.approved_at": "2026-11-24T12:05:00Z"}, "approvals"),
    "an adapter of one base": ({"relation": "adapter"}, "lineage"),
    "a merge of two bases": ({"relation": "merge", "ancestors.1.depth": 1}, "lineage"),
    "as sensitive as what it was made of": ({"classification.inherited": "confidential"}, "classification"),
    "kept for another second": ({"datasets.0.retention_until": "2026-11-24T12:00:01Z"}, "datasets"),
}


@pytest.mark.parametrize(("changes", "rule"), EDGES.values(), ids=EDGES)
def test_what_is_just_within_a_limit_passes(changes, rule):
    decision, outcomes = decide(changed(start("F"), changes))

    assert (outcomes[rule].status, decision.allowed) == ("pass", True)


@pytest.mark.parametrize(
    "changes",
    [
        {"waived_at": "2026-11-01T00:00:00Z"},  # 30 days
        {"waived_at": "2026-11-24T12:05:00Z"},
        {"expires_at": "2026-11-24T12:00:01Z"},
    ],
)
def test_a_waiver_just_within_its_limits_counts(changes):
    assert waived("licence", **changes)[0].allowed


def test_only_what_counts_once_is_said_to_count_once():
    _, outcomes = decide(changed(start("F"), {"approvals": [CAL]}))

    assert outcomes["approvals"].reason == "1 of 2 approvals count (person:cal)"


def test_further_waivers_that_do_not_count_are_counted():
    three = [waiver("licence", principal=f"person:{name}") for name in ("a", "b", "c")]

    for count, said in ((2, "licence. no licence"), (3, "licence (and 1 more). no licence")):
        _, outcomes = decide(changed(start("F"), {"licence": None, "waivers": three[:count]}))
        assert said in outcomes["licence"].reason


def test_the_newest_scan_of_a_tool_counts_wherever_it_stands():
    old = {**SCAN, "tool": "modelreg-gate", "scanned_at": "2026-11-01T00:00:00Z", "findings": [FINDING]}
    clean, objecting = (
        {
            **SCAN,
            "tool": "modelreg-gate",
            "rules_version": "2026-11-24",
            "scanned_at": "2026-11-24T00:00:00Z",
            "findings": found,
        }
        for found in ([], [FINDING])
    )

    assert decide(changed(start("F"), {"scans.+": old}))[1]["scan"].status == "pass"
    assert decide(changed(start("F"), {"scans.+": objecting}))[1]["scan"].status == "fail"
    assert decide(changed(start("F"), {"scans": [clean, objecting]}))[1]["scan"].status == "fail"


def test_approvals_are_counted_by_the_best_pairing_whatever_their_order():
    """amy signs with either of two identities, ben only with one of them: both count, in every order."""
    one, two = "email:one@acme.example", "email:two@acme.example"
    made = [("person:amy", one), ("person:amy", two), ("person:ben", one)]
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]):
        approvals = [{**CAL, "principal": made[at][0], "identity": made[at][1]} for at in order]
        assert decide(changed(start("F"), {"approvals": approvals}))[1]["approvals"].status == "pass"


def test_a_reason_is_short_and_printable_whatever_the_facts_hold():
    evil = "\x1b[31m\n" + "x" * 100_000
    facts = changed(
        start("F"),
        {
            "approvals": [{**CAL, "principal": evil}] * 20,
            "licence.value": evil,
            "scans.0.findings": [{**FINDING, "what": evil}] * 50,
        },
    )
    decision, _ = decide(facts)

    for one in decision.outcomes:
        assert len(one.reason) <= 2000
        assert one.reason.isprintable()


def test_the_table_is_as_long_as_was_asked():
    waived_rows = len([rule for rule in RULES if rule not in ALWAYS]) + len(RULES) + len(ALWAYS) + len(REFUSED_WAIVERS)

    assert len(ROWS) + waived_rows >= 60
    assert {row[3] for row in ROWS} == set(RULES) == set(SPOILED)
