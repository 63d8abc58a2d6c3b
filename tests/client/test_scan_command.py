"""`modelreg scan`: of a folder, of a file, and what the registry stated of an artifact."""

import json
import sys

import pytest

from support import hostile, models
from support.registry import cli_environment


@pytest.fixture
def folder(tmp_path):
    """Write files, and return the folder."""

    def write(files, name="model"):
        root = tmp_path / name
        for path, data in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        return root

    return write


@pytest.fixture
def ask(run, registry, home):
    environment = {
        name: value
        for name, value in cli_environment(registry.url, registry.token(), registry.trust, home).items()
        if name.startswith("MODELREG_")
    }
    return lambda *arguments: run(*arguments, **environment)


def test_a_clean_folder_ends_with_0(run, folder):
    code, out, _ = run("scan", folder(models.clean()["transformers"]))
    assert code == 0
    assert out.startswith("clean: 19 files; rules ")


def test_findings_end_with_40_and_are_named_with_their_rule(run, folder):
    root = folder({"config.json": b'{"auto_map": {"A": "b.C"}}', "model.bin": hostile.pickle_calling("os.system")})
    code, out, _ = run("scan", root)
    assert code == 40
    assert "os.system" in out
    assert "config-code" in out
    assert "3 findings in 2 of 2 files (3 block)" in out
    code, out, _ = run("scan", root, "--json")
    [scan] = json.loads(out)["scans"]
    assert (code, scan["tool"], scan["findings_count"], scan["formats"]["model.bin"]) == (
        40,
        "modelreg-gate",
        3,
        "pickle",
    )


def test_one_file_is_scanned_alone(run, folder):
    root = folder({"m.safetensors.index.json": b'{"weight_map": {"a": "not-here.safetensors"}}'})
    assert run("scan", root / "m.safetensors.index.json")[0] == 0  # what is beside it is not known
    assert run("scan", root)[0] == 40


def test_what_git_and_signatures_leave_is_not_looked_at(run, folder):
    root = folder({".git/hooks/pre-commit": b"#!/bin/sh\n", "model.sig": b"x", "config.json": b"{}"})
    assert run("scan", root)[0] == 0


def test_a_name_that_a_terminal_would_obey_is_escaped(run, folder):
    code, out, _ = run("scan", folder({"\x1b[2Jevil.py": b"x"}))
    assert code == 40
    assert "\x1b" not in out


def test_the_registrys_statement_is_verified_and_shown(ask, folder):
    root = folder({**models.clean()["adapter"], "weights.bin": hostile.pickle_calling("os.system")})
    code, out, err = ask("push", root, "demo/scanned", "--json")
    assert code == 0, err
    code, out, _ = ask("scan", "demo/scanned")
    assert code == 40
    assert "os.system" in out
    assert "signed by the registry, verified" in out
    code, out, _ = ask("scan", "demo/scanned", "--json")
    answer = json.loads(out)
    assert answer["verified"] is True
    assert answer["scans"][0]["findings_count"] == 2


def test_again_makes_another_statement(ask, folder):
    ask("push", folder(models.clean()["arrays"]), "demo/again")
    first = json.loads(ask("scan", "demo/again", "--json")[1])
    code, out, _ = ask("scan", "demo/again", "--again", "--json")
    second = json.loads(out)
    assert code == 0
    assert first["statement"] != second["statement"]
    assert json.loads(ask("scan", "demo/again", "--json")[1])["statement"] == second["statement"]


def test_without_a_pinned_log_it_is_recorded_not_verified(ask, folder, registry, tmp_path):
    ask("push", folder(models.clean()["arrays"]), "demo/unpinned")
    policy = tmp_path / "unpinned.toml"
    policy.write_text(registry.trust.unpinned_text)
    code, out, _ = ask("scan", "demo/unpinned", "--trust-policy", policy)
    assert code == 0
    assert "recorded, not verified" in out


def test_a_target_that_is_nothing_is_said_so(run, ask):
    assert run("scan", "./absent")[0] == 11
    assert run("scan", "a/b/c")[0] == 2
    assert ask("scan", "demo/absent")[0] == 11


def test_flags_that_do_not_go_together_are_refused(run, folder):
    assert run("scan", folder({"a.txt": b"x"}), "--again")[0] == 2
    assert run("scan", "demo/m", "--picklescan")[0] == 2


def test_picklescan_is_asked_and_recorded_as_another_tool(run, folder):
    pytest.importorskip("picklescan")
    root = folder({"model.bin": hostile.pickle_calling("glob.os.system", 4), "config.json": b"{}"})
    code, out, _ = run("scan", root, "--picklescan", "--json")
    own, other = json.loads(out)["scans"]
    assert (code, own["tool"], other["tool"]) == (40, "modelreg-gate", "picklescan")
    assert other["rules_version"].startswith("strict-1.")
    assert other["findings"][0]["path"] == "model.bin"
    assert run("scan", folder({"a.json": b"{}"}, "other"), "--picklescan")[0] == 0


def test_picklescan_that_is_not_installed_is_said_so(run, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "picklescan.scanner", None)
    code, _, err = run("scan", folder({"a.json": b"{}"}), "--picklescan")
    assert code == 1
    assert "modelreg[picklescan]" in err


def test_a_refused_push_says_what_and_where(run, folder, home, tmp_path):
    from support.registry import running_registry

    with running_registry(tmp_path / "refusing", gate="refuse") as refusing:
        environment = {
            name: value
            for name, value in cli_environment(refusing.url, refusing.token(), refusing.trust, home).items()
            if name.startswith("MODELREG_")
        }
        root = folder({"config.json": b'{"auto_map": {"A": "b.C"}}'})
        code, _, err = run("push", root, "demo/bad", **environment)
        assert code == 22
        assert "config.json: auto_map makes transformers run Python files" in err
        code, _, err = run("push", root, "demo/bad", "--json", **environment)
        assert json.loads(err)["findings"][0]["rule"] == "config-code"
