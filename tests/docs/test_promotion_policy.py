"""The page about promotion policies says what the code does."""

import importlib
import json
import re
from pathlib import Path

import pytest

from modelreg import promotion_cases, promotion_policy, promotion_rules
from modelreg.promotion_template import CASES, POLICY, example_facts

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "spec" / "promotion-policy.md").read_text()


def worked(name):
    (text,) = re.findall(rf"<!-- worked: {name} -->\n```toml\n(.*?)\n```", PAGE, re.DOTALL)
    return text.encode()


def example(_name):
    return example_facts().raw


def test_the_policy_on_the_page_is_a_policy_and_its_defaults_are_the_defaults():
    policy = promotion_policy.parse(worked("promotion-policy"))
    entry = policy.entry_for("production", "acme/minilm")

    assert list(policy.environments) == ["production", "staging"]
    for name in ("source", "scan", "lineage", "ancestors", "datasets", "classification", "licence"):
        table = getattr(entry, name)
        defaults = re.findall(rf"\[environments.production.{name}\].*\n((?:\w.*\n)+)", PAGE)[0]
        for member, value in re.findall(r"(\w+) = (\S+).*# (?:default|these three are)", defaults):
            field = type(table).model_fields[member]
            assert json.loads(value) == (list(field.default) if isinstance(field.default, tuple) else field.default)


def test_the_table_of_rules_has_each_rule_in_its_order():
    assert tuple(re.findall(r"^\| `([a-z]+)` \|", PAGE, re.MULTILINE)) == promotion_policy.RULES


def test_the_cases_on_the_page_are_what_the_template_answers():
    cases = promotion_cases.read_cases(worked("promotion-cases"), "page", toml=True, read=example)
    policy = promotion_policy.parse(POLICY.encode())

    assert len(cases) == 2
    assert [promotion_cases.check(policy, case).wrong for case in cases] == [(), ()]


def test_the_template_passes_its_own_cases_and_names_a_rule_in_each_refusal():
    policy = promotion_policy.parse(POLICY.encode())
    cases = promotion_cases.read_cases(CASES.encode(), "template", toml=True, read=example)

    assert [promotion_cases.check(policy, case).wrong for case in cases] == [()] * len(cases)
    assert sum(promotion_rules.evaluate(policy, case.facts).allowed for case in cases) == 1


@pytest.mark.parametrize(("module", "name", "value"), re.findall(r"^\| `(\w+)\.(\w+)` \| (\d+) \|", PAGE, re.MULTILINE))
def test_the_limits_on_the_page_are_those_of_the_code(module, name, value):
    assert getattr(importlib.import_module(f"modelreg.{module}"), name) == int(value)
