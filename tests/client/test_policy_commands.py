"""`modelreg policy`: what a policy asks for, whether it answers as it must, and whom a change affects."""

import json

import pytest

from modelreg import promotion_rules
from modelreg.promotion_policy import parse
from modelreg.promotion_template import POLICY, example_facts
from support import decidable


@pytest.fixture
def written(run, tmp_path):
    code, _out, err = run("policy", "init", "promotion.toml", "--cases", "cases")
    assert code == 0, err
    return tmp_path


def tighter(folder, old="max_age_days = 30\nrules", new="max_age_days = 2\nrules"):
    text = (folder / "promotion.toml").read_text()
    assert old in text
    (folder / "tighter.toml").write_text(text.replace(old, new))
    return "tighter.toml"


def test_what_init_writes_reads_and_passes_its_own_cases(run, written):
    code, out, _err = run("policy", "check", "promotion.toml")
    assert code == 0
    assert out.splitlines()[1:] == [
        "ENVIRONMENT  REPOSITORIES  MAXIMUM       APPROVALS  OFF                WAIVABLE",
        "staging      */*           confidential  0          approvals,licence  -",
        "production   */*           confidential  2          -                  licence,scan,source",
    ]
    for cases in ("cases/cases.toml", "cases"):
        code, out, err = run("policy", "test", "promotion.toml", cases)
        assert code == 0, err
        assert "5 of 5 cases are as expected" in out
        assert "ok  its publisher cannot approve it                        refused: approvals" in out


@pytest.mark.parametrize("there", ["promotion.toml", "cases/cases.toml"])
def test_init_overwrites_nothing(run, tmp_path, there):
    path = tmp_path / there
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")

    code, _out, err = run("policy", "init", "--cases", "cases")

    assert code == 1
    assert f"{there} is there already" in err
    assert path.read_text() == "mine"
    assert sorted(one.name for one in tmp_path.rglob("*") if one.is_file()) == [path.name]


def test_check_says_in_json_what_is_off_and_why(run, written):
    code, out, _err = run("policy", "check", "promotion.toml", "--json")
    answer = json.loads(out)

    assert code == 0
    assert answer["digest"] == str(parse(POLICY.encode()).digest)
    assert answer["entries"][0]["off"]["licence"] == "legal looks at it before production"


def test_a_policy_that_answers_otherwise_is_a_finding_with_the_rule_and_its_reason(run, written):
    changed = tighter(written)

    code, out, _err = run("policy", "test", changed, "cases")
    assert code == 40
    assert "WRONG a signed, scanned import with two approvals may serve" in out
    assert "  it is refused, not allowed\n" in out
    assert "  scan is fail, not pass: the newest scan by modelreg-gate is 3 days old; 2026-11-21, and 2 days" in out
    assert "scan does not say '30 days are allowed'" in out

    code, out, _err = run("policy", "test", changed, "cases", "--json")
    answer = json.loads(out)
    assert code == 40
    assert answer["wrong"] == 5
    assert [one["rule"] for one in answer["cases"][0]["decision"]["outcomes"]][:2] == ["integrity", "recall"]


def test_an_unexpected_permission_is_a_finding_too(run, written):
    changed = tighter(written, "count = 2", "count = 1")

    code, out, _err = run("policy", "test", changed, "cases")

    assert code == 40
    assert "it is allowed, not refused" in out
    assert "approvals is pass, not fail: approved by person:ben" in out


def test_diff_names_the_artifacts_whose_decision_turns_with_rule_and_reason(run, written):
    facts = written / "facts"
    facts.mkdir()
    for name, found in (("a", example_facts()), ("b", decidable.changed(example_facts(), {"measured": False}))):
        (facts / f"{name}.json").write_bytes(found.raw)
    changed = tighter(written)

    code, out, _err = run("policy", "diff", "promotion.toml", changed, "--cases", "facts")
    assert code == 40
    assert out.splitlines()[0] == f"acme/minilm@{example_facts().artifact}  production  allowed -> refused  (a.json)"
    assert out.splitlines()[1].startswith("  scan: pass -> fail: the newest scan by modelreg-gate is 3 days old")
    assert (
        "1 of 2 decisions turn: 1 from allowed to refused, 0 from refused to allowed; 1 stay with other reasons" in out
    )

    code, out, _err = run("policy", "diff", changed, "promotion.toml", "--cases", "facts", "--json")
    answer = json.loads(out)
    assert code == 40
    assert (answer["cases"], answer["turned"], len(answer["changed"])) == (2, 1, 2)
    assert answer["changed"][0]["rules"][0]["rule"] == "scan"
    assert (answer["changed"][0]["before"], answer["changed"][0]["after"]) == ("refused", "allowed")


def test_diff_of_a_policy_with_itself_is_nothing(run, written):
    code, out, _err = run("policy", "diff", "promotion.toml", "promotion.toml", "--cases", "cases")

    assert code == 0
    assert out.startswith("0 of 6 decisions turn")


def test_a_stored_decision_is_a_case_that_expects_what_was_decided(run, written):
    facts = decidable.changed(example_facts(), {"licence": None})
    decision = promotion_rules.evaluate(parse(POLICY.encode()), facts)
    stored = {"facts": json.loads(facts.raw), "decision": json.loads(decision.raw), "dry_run": True}
    (written / "stored.json").write_text(json.dumps(stored))
    loose = tighter(written, 'allow = ["apache-2.0"', 'allow = ["none"')

    assert run("policy", "test", "promotion.toml", "stored.json")[0] == 0
    assert run("policy", "test", loose, "stored.json")[0] == 0
    off = POLICY.replace("[environments.production.licence]\nallow", "[environments.production.off]\nlicence = 'x'\n#")
    off = off.replace('deny = ["cc-by-nc-*"]\n', "").replace("claimed = true  ", "#")
    (written / "off.toml").write_text(off)
    code, out, err = run("policy", "test", "off.toml", "stored.json")
    assert code == 40, err
    assert "licence is off, not missing" in out


BAD = {
    "no such policy": (["check", "nothing"], 11, "nothing is not a file"),
    "a folder as policy": (["check", "cases"], 11, "cases is not a file"),
    "a policy that is none": (["check", "cases/cases.toml"], 1, "schema"),
    "no such cases": (["test", "promotion.toml", "nothing"], 11, "nothing is not a file"),
    "facts alone": (["test", "promotion.toml", "cases/example.facts.json"], 2, "no case expects anything"),
    "an empty folder": (["diff", "promotion.toml", "promotion.toml", "--cases", "empty"], 2, "there is no case"),
    "a policy as cases": (["test", "promotion.toml", "promotion.toml"], 2, "promotion.toml: schema"),
    "no cases": (["test", "promotion.toml"], 2, "CASES"),
    "garbage": (["test", "promotion.toml", "garbage.json"], 2, "garbage.json is not JSON"),
    "garbage as TOML": (["test", "promotion.toml", "garbage.toml"], 2, "garbage.toml is not TOML"),
    "a list": (["test", "promotion.toml", "list.json"], 2, "list.json"),
    "no case in it": (["test", "promotion.toml", "none.json"], 2, "cases"),
    "an unknown member": (["test", "promotion.toml", "member.json"], 2, "expects"),
    "a path into nothing": (
        ["test", "promotion.toml", "path.json"],
        2,
        "'approvals.7.principal' leads nowhere in the facts; '7'",
    ),
    "a fact of another type": (["test", "promotion.toml", "type.json"], 2, "cases[0]: the facts' measured"),
    "facts that are not there": (["test", "promotion.toml", "absent.json"], 11, "is not a file"),
    "an unknown rule": (["test", "promotion.toml", "rule.json"], 2, "scam"),
}


def case(**members):
    made = {"name": "x", "facts": "cases/example.facts.json", "expect": {"allowed": True}, **members}
    return json.dumps({"schema": "modelreg/promotion-cases/v1", "cases": [made]})


@pytest.mark.parametrize(("arguments", "code", "says"), BAD.values(), ids=BAD)
def test_a_wrong_call_is_one_line_and_its_exit_code(run, written, arguments, code, says):
    (written / "empty").mkdir()
    files = {
        "garbage.json": "{", "garbage.toml": "=", "list.json": "[]",
        "none.json": '{"schema": "modelreg/promotion-cases/v1", "cases": []}',
        "member.json": case(expects=1),
        "path.json": case(**{"with": {"approvals.7.principal": "x"}}),
        "type.json": case(**{"with": {"measured": "yes"}}),
        "absent.json": case(facts="elsewhere.json"),
        "rule.json": case(expect={"allowed": True, "rules": {"scam": "fail"}}),
    }  # fmt: skip
    for name, text in files.items():
        (written / name).write_text(text)

    got, out, err = run("policy", *arguments)

    assert (got, out) == (code, ""), err
    assert says in err
    assert err.count("\n") == 1 or says == "CASES"  # argparse says more
    assert "Traceback" not in err
