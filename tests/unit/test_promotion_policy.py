"""The promotion policy: read whole or not at all, every rule on or off by name."""

import pytest

from modelreg import promotion_policy
from modelreg.errors import Misconfigured
from modelreg.promotion_policy import ALWAYS, RULES, parse
from modelreg.promotion_template import POLICY as TEMPLATE
from support import decidable

GOOD = decidable.POLICY.decode()


def test_a_policy_is_its_values_and_the_digest_of_its_bytes():
    policy = parse(decidable.POLICY)
    entry = policy.entry_for("production", "acme/minilm")

    assert policy.version == 1
    assert policy.digest != parse(decidable.POLICY + b"\n").digest
    assert entry.approvals.count == 2
    assert entry.scan.tools == ("modelreg-gate",)
    assert entry.lineage.datasets_for == ("finetune", "adapter", "distilled", "original")
    assert policy.entry_for("production", "else/where") is None
    assert policy.entry_for("moon", "acme/minilm") is None


def test_the_template_reads_and_every_rule_that_can_be_waived_there_is_named():
    policy = parse(TEMPLATE.encode())

    assert list(policy.environments) == ["staging", "production"]
    assert policy.entry_for("production", "any/thing").off == {}
    assert set(policy.entry_for("staging", "any/thing").off) == {"approvals", "licence"}


REFUSED = {
    "another schema": ("promotion-policy/v1", "promotion-policy/v2", "schema"),
    "no schema": ('schema = "modelreg/promotion-policy/v1"', "", "schema"),
    "no version": ("version = 1", "", "version"),
    "version 0": ("version = 1", "version = 0", "version"),
    "version true": ("version = 1", "version = true", "version"),
    "version a text": ("version = 1", 'version = "1"', "version"),
    "an unknown member": ("version = 1", "version = 1\nallow = []", "allow"),
    "an unknown rule": ("[environments.production.scan]", "[environments.production.scam]", "scam"),
    "an unknown parameter": ("max_age_days = 14", "max_age_days = 14\nmax_age_weeks = 2", "max_age_weeks"),
    "an environment of another grammar": ("environments.production", "environments.Production", "Production"),
    "no repositories": ('repositories = ["acme/*"]', "", "repositories"),
    "an empty list of repositories": ('repositories = ["acme/*"]', "repositories = []", "repositories"),
    "an empty text": ('repositories = ["acme/*"]', 'repositories = [""]', "repositories[0]"),
    "a text of two lines": ('repositories = ["acme/*"]', 'repositories = ["a\\nb"]', "repositories[0]"),
    "a long text": ('repositories = ["acme/*"]', f'repositories = ["{"x" * 201}"]', "repositories[0]"),
    "repositories a text": ('repositories = ["acme/*"]', 'repositories = "acme/*"', "repositories"),
    "no identities": ('identities = ["email:*@acme.example"]', "identities = []", "identities"),
    "no sources": ('allow = ["hf://acme-mirror/*"]', "allow = []", "source.allow"),
    "made_here not said": ("made_here = true", "", "made_here"),
    "made_here a number": ("made_here = true", "made_here = 1", "made_here"),
    "made_here a text": ("made_here = true", 'made_here = "true"', "made_here"),
    "no formats": ('allow = ["safetensors", "json"]', "allow = []", "format.allow"),
    "no tools": ("max_age_days = 14", "max_age_days = 14\ntools = []", "tools"),
    "rules of no date": ('"2026-11-01"', '"newest"', "rules_version"),
    "rules of a date in other digits": ('"2026-11-01"', '"٢٠٢٦-11-01"', "rules_version"),
    "rules a date of TOML": ('"2026-11-01"', "2026-11-01", "rules_version"),
    "age 0": ("max_age_days = 14", "max_age_days = 0", "max_age_days"),
    "age a fraction": ("max_age_days = 14", "max_age_days = 14.0", "max_age_days"),
    "age for ever": ("max_age_days = 14", "max_age_days = 1000000", "max_age_days"),
    "another severity": ("max_age_days = 14", 'max_age_days = 14\nrefuse = "none"', "refuse"),
    "no lawful bases": ('lawful_bases = ["contract", "consent"]', "lawful_bases = []", "lawful_bases"),
    "another class": ('maximum = "confidential"', 'maximum = "secret"', "maximum"),
    "no class": ('maximum = "confidential"', "", "maximum"),
    "no licences": ('allow = ["Apache-2.0", "mit", "cc-by-*"]', "allow = []", "licence.allow"),
    "only denied licences": ('allow = ["Apache-2.0", "mit", "cc-by-*"]', "", "licence.allow"),
    "no approval": ("count = 2", "count = 0", "count"),
    "approvals by nobody": ('by = ["person:*"]', "by = []", "approvals.by"),
    "too many approvals": ("count = 2", "count = 11", "count"),
    "waivers by nobody": ('by = ["person:risk-*"]', "by = []", "waivers[0].by"),
    "waivers of no rule": ('rules = ["source", ', "rules = []\nx = [", "waivers[0]"),
    "waivers of an unknown rule": ('rules = ["source", ', 'rules = ["sauce", ', "waivers[0].rules[0]"),
    "waivers for ever": ("max_days = 30", "", "max_days"),
    "off without a reason": ('scan = "off"', 'scan = ""', "off.scan"),
    "off without a reason, a flag": ('scan = "off"', "scan = true", "off.scan"),
    "off of no rule": ('scan = "off"', 'scan = "off"\nscam = "off"', "off.scam"),
    "neither on nor off": ('scan = "off"\n', "", "scan is not set"),
    "on and off": (
        "[environments.staging.off]",
        '[environments.staging.scan]\nmax_age_days = 1\nrules_version = "2026-01-01"\n[environments.staging.off]',
        "scan is switched off and has a table",
    ),
    "defaults written and off": (
        "[environments.staging.off]",
        "[environments.staging.lineage]\n[environments.staging.off]",
        "lineage is switched off and has a table",
    ),
    "integrity a table": (
        "[environments.production.scan]",
        "[environments.production.integrity]\n[environments.production.scan]",
        "integrity",
    ),
    "not TOML": ("version = 1", "version 1", "not TOML"),
}


@pytest.mark.parametrize(("old", "new", "where"), REFUSED.values(), ids=REFUSED)
def test_a_policy_that_is_not_understood_whole_is_refused_and_says_where(old, new, where):
    assert GOOD.count(old)
    with pytest.raises(Misconfigured) as refused:
        parse(GOOD.replace(old, new, 1).encode())
    assert "promotion policy" in str(refused.value)
    assert where in str(refused.value)


@pytest.mark.parametrize("rule", sorted(ALWAYS))
def test_what_every_client_refuses_can_be_neither_off_nor_waived(rule):
    with pytest.raises(Misconfigured, match=f"{rule}, which cannot be switched off"):
        parse(GOOD.replace('scan = "off"', f'scan = "off"\n{rule} = "off"').encode())
    with pytest.raises(Misconfigured, match=f"{rule}, which cannot be waived"):
        parse(GOOD.replace('rules = ["source", ', f'rules = ["{rule}", ').encode())


@pytest.mark.parametrize(
    "environments", ["", "environments = {}", "environments = {production = []}", "environments = 1"]
)
def test_a_policy_without_an_environment_is_refused(environments):
    with pytest.raises(Misconfigured):
        parse(f'schema = "modelreg/promotion-policy/v1"\nversion = 1\n{environments}\n'.encode())


def test_a_policy_above_its_limit_is_refused_unread():
    with pytest.raises(Misconfigured, match="the limit is"):
        parse(b"#" * (promotion_policy.MAX_POLICY_BYTES + 1))


def test_nothing_is_on_that_the_code_does_not_ask():
    from modelreg import promotion_rules

    assert tuple(promotion_rules._CHECKS) == RULES
