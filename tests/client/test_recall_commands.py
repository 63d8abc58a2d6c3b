"""quarantine, release, revoke, recall status and watch, command by command."""

import fcntl
import json
import os
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from modelreg import revocations, watch, wire_recalls
from modelreg.errors import LogNotIntact, ModelregError, PolicyRefused, SignatureInvalid
from modelreg.trust import RevokedSigner
from modelreg_server.tables import Derivation
from support.distribution import Operator
from support.registry import SIGNER


@pytest.fixture(scope="module")
def operator(registry):
    operator = Operator(registry, registry.trust.folder / "repo")
    operator.stage(trust=operator.policy_text(), revocations=operator.list_text())
    operator.publish()
    return operator


@pytest.fixture
def world(registry, operator, home, run, tmp_path):
    """A host that pinned the operator's root; commands with an expected exit code, their stdout or stderr."""
    environment = registry.environment(home)
    del environment["MODELREG_TRUST_POLICY"]
    mine = {name: value for name, value in environment.items() if name.startswith("MODELREG_")}
    mine["MODELREG_HOST_NAME"] = f"host-{uuid.uuid4().hex[:8]}"

    def call(*arguments, expect=0, **more):
        code, out, err = run(*arguments, **{**mine, **more})
        assert code == expect, (arguments, code, out, err)
        assert "Traceback" not in err
        call.out, call.err = out, err
        return out if expect in {0, 20, 21, 40} and out else err

    call.repo, call.host = operator.folder, mine["MODELREG_HOST_NAME"]
    root = tmp_path / "1.root.json"
    root.write_bytes(operator.first_root)
    call("trust", "pin", "--root", root)
    return call


@pytest.fixture
def artifact(world, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").write_bytes(uuid.uuid4().bytes * 1000)
    return json.loads(world("push", folder, "demo/m", "--json"))["artifact"]


def listed(world):
    raw = (world.repo / "targets" / "revocations.toml").read_bytes()
    found = revocations.parse(raw).revocations
    return {str(digest) for digest in found.artifacts}, {str(k): v for k, v in found.quarantined.items()}


# The operator.


def test_without_the_operators_folder_it_says_who_will_not_hear_of_it(world, artifact):
    out = world("quarantine", "demo/m", "--reason", "odd")
    assert f"quarantined demo/m@{artifact} as event" in out
    assert "hosts that cannot reach it learn of this only from the published list" in out
    assert artifact not in listed(world)[1]
    assert "already quarantined" in world("quarantine", "demo/m", "--reason", "odd")


def test_with_it_the_list_is_staged_signed_and_with_publish_published(world, artifact, registry):
    value = json.loads(world("quarantine", "demo/m", "--reason", "odd", "--repo", world.repo, "--json"))
    assert (value["schema"], value["list"]["ready"]) == ("modelreg/recall/v1", True)
    assert value["artifacts"][0]["recall"]["kind"] == "quarantine"
    assert listed(world)[1][artifact] == "odd"
    assert "published" not in value["list"]
    out = world("quarantine", "demo/m", "--reason", "odd", "--repo", world.repo, "--publish")
    assert "published as event" in out
    world("pull", "demo/m", expect=21)

    world("revoke", f"demo/m@{artifact}", "--reason", "worse", "--repo", world.repo, "--publish")
    revoked, quarantined = listed(world)
    assert artifact in revoked
    assert artifact not in quarantined
    refused = world("release", f"demo/m@{artifact}", "--reason", "please", "--repo", world.repo, expect=1)
    assert "a revocation is final" in refused
    assert artifact in listed(world)[0]


def test_a_release_takes_it_off_the_list(world, artifact):
    world("quarantine", "demo/m", "--reason", "odd", "--repo", world.repo, "--publish")
    out = world("release", "demo/m", "--reason", "false alarm", "--repo", world.repo, "--publish")
    assert out.startswith(f"released demo/m@{artifact}\n")
    assert artifact not in listed(world)[1]
    world("pull", "demo/m")
    assert "already released" in world("release", "demo/m", "--reason", "again")


def test_when_the_list_fails_it_says_that_the_registry_has_it_and_doing_it_again_completes_it(
    world, artifact, tmp_path
):
    empty = tmp_path / "nothing"
    error = world("revoke", "demo/m", "--reason", "bad", "--repo", empty, expect=1)
    assert f"revoked demo/m@{artifact} as event" in error
    assert "do this again when what follows is put right" in error
    world("pull", "demo/m", expect=21)
    world("revoke", "demo/m", "--reason", "bad", "--repo", world.repo)
    assert artifact in listed(world)[0]


def test_a_dry_run_changes_nothing_and_shows_what_was_made_from_it(world, artifact, registry):
    child = f"sha256:{uuid.uuid4().hex * 2}"
    with registry.parts.database.writing() as session, session.begin():
        session.add(
            Derivation(
                child=child, parent=artifact, relation="finetune", grade="attested",
                recorded_at=datetime.now(UTC), event_index=0,
            )
        )  # fmt: skip
    out = world("quarantine", "demo/m", "--reason", "odd", "--cascade", "--dry-run", "--repo", world.repo, expect=40)
    assert child in out
    assert "finetune" in out
    assert "would recall 2 artifacts; nothing was changed" in world.err
    assert (artifact in listed(world)[1], child in listed(world)[1]) == (False, False)
    world("pull", "demo/m")

    world("quarantine", "demo/m", "--reason", "odd", "--cascade", "--repo", world.repo)
    assert {artifact, child} <= set(listed(world)[1])
    assert world("quarantine", "demo/m", "--reason", "odd", "--cascade", "--dry-run")
    assert "would recall 0 artifacts" in world.err


@pytest.mark.parametrize("reason", ["", " ", "two\nlines", "x" * 201])
def test_a_reason_that_says_nothing_is_refused_before_anything_happens(world, artifact, reason):
    for command in ("quarantine", "revoke", "release"):
        assert "reason" in world(command, "demo/m", "--reason", reason, expect=2)
    world("pull", "demo/m")


def test_a_reason_must_be_given(world, artifact):
    for command in ("quarantine", "revoke", "release"):
        assert "--reason" in world(command, "demo/m", expect=2)


def test_publish_needs_the_folder(world, artifact):
    assert "--repo" in world("quarantine", "demo/m", "--reason", "odd", "--publish", expect=2)
    world("pull", "demo/m")


def test_who_may_not_hears_it_with_30(world, artifact, registry):
    reader = registry.token("person:reader", "pull:demo/*")
    for command in ("quarantine", "revoke", "release"):
        refused = world(command, "demo/m", "--reason", "odd", expect=30, MODELREG_TOKEN=reader)
        assert "may not quarantine" in refused


def test_status_by_reference_digest_and_id_and_what_is_not_recalled(world, artifact):
    world("pull", "demo/m")
    value = json.loads(world("quarantine", "demo/m", "--reason", "odd", "--json"))
    recall_id = value["artifacts"][0]["recall"]["id"]
    tables = {world("recall", "status", subject, expect=40) for subject in ("demo/m", artifact, recall_id)}
    assert len(tables) == 1
    (table,) = tables
    assert world.host in table
    assert "claimed" in table
    assert "received" in table
    assert "1 hosts have not confirmed" in world.err
    assert recall_id in world("recall", "list")

    world("release", "demo/m", "--reason", "fine")
    assert "is not recalled" in world("recall", "status", "demo/m", expect=11)
    assert json.loads(world("recall", "status", recall_id, "--json", expect=40))["recall"]["lifted_at"]
    assert "no recall" in world("recall", "status", str(uuid.uuid4()), expect=11)


# The host.


def look(world, *more, expect=0):
    return json.loads(world("watch", "--once", "--json", *more, expect=expect))


def test_a_recalled_artifact_that_nobody_runs_is_confirmed_as_held_and_then_removed(world, artifact):
    world("pull", "demo/m")
    world("revoke", "demo/m", "--reason", "bad")
    assert [item["state"] for item in look(world)["recalled"]] == ["holding"]
    world("recall", "status", artifact, expect=40)
    assert [item["state"] for item in look(world, "--remove")["recalled"]] == ["removed"]
    world("recall", "status", artifact)
    assert look(world) | {"as_of": 0} == look(world) | {"as_of": 0}
    assert look(world)["held"] == 0


def test_quiet_is_silent_unless_something_is_wrong(world, artifact, runtime, home):
    world("pull", "demo/m")
    world("watch", "--once", "-q")
    assert (world.out, world.err) == ("", "")
    world("quarantine", "demo/m", "--reason", "odd")
    assert f"running by {runtime.pid}" in world("watch", "--once", "-q", expect=21)
    folder = home / ".cache/modelreg/snapshots" / artifact.removeprefix("sha256:")
    (folder / "more\x1b[31m.py").write_text("")
    said = world("watch", "--once", "-q", expect=20)
    assert "extra" in said
    assert "\x1b" not in said


@pytest.mark.parametrize("words", [["kill", "-{pid}"], ["sh", "-c", "kill {pid}"], ["x", "{path}/w"]])
def test_placeholders_stand_alone(world, words):
    assert "words of their own" in world("watch", "--once", "--on-recall", *words, expect=2)


@pytest.mark.parametrize(
    "flag", [("--interval", "0"), ("--interval", "nan"), ("--stop-seconds", "-1"), ("--stop-seconds", "1e9")]
)
def test_times_have_bounds(world, flag):
    world("watch", "--once", *flag, expect=2)


def test_a_second_watch_on_the_same_machine_does_not_begin(world, home):
    look(world)
    with (home / ".local/state/modelreg/watch.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another `modelreg watch`" in world("watch", "--once", expect=1)


@pytest.fixture
def runtime(artifact):
    """A process that was launched with the artifact, as its environment says."""
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "MODELREG_ARTIFACT": artifact},
    )  # fmt: skip
    child.stdout.readline()
    yield child
    child.kill()
    child.communicate(timeout=20)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["/no/such/program", "{pid}"], "the stop command failed"),
        (["false"], "the stop command ended with 1"),
        (["true", "{artifact}"], "still runs as"),
    ],
)
def test_a_stop_command_that_does_not_stop_it_is_said_and_the_registry_hears_running(
    world, artifact, runtime, command, said
):
    world("pull", "demo/m")
    world("quarantine", "demo/m", "--reason", "odd")
    found = look(world, "--stop-seconds", "0.2", "--on-recall", *command, expect=21)
    assert [item["state"] for item in found["recalled"]] == ["running"]
    assert found["recalled"][0]["processes"] == [runtime.pid]
    assert said in world.err
    status = json.loads(world("recall", "status", artifact, "--json", expect=40))
    assert status["hosts"][0]["state"] == "running"


def test_the_stop_command_gets_its_words_whole_and_none_of_our_secrets(world, artifact, runtime, tmp_path):
    world("pull", "demo/m")
    world("quarantine", "demo/m", "--reason", "odd")
    program = tmp_path / "stop"
    told = tmp_path / "told"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, signal, sys\n"
        f"json.dump([sys.argv[1:], sorted(n for n in os.environ if 'TOKEN' in n)], open({str(told)!r}, 'w'))\n"
        "os.kill(int(sys.argv[2]), signal.SIGKILL)\n"
    )
    program.chmod(0o700)
    found = look(world, "--on-recall", program, "{artifact}", "{pid}", "{path}", "a b;$(c)")
    assert [item["state"] for item in found["recalled"]] == ["holding"]
    words, secrets = json.loads(told.read_text())
    assert words[:2] == [artifact, str(runtime.pid)]
    assert Path(words[2]).is_dir()
    assert words[3] == "a b;$(c)"
    assert secrets == []


def test_a_revoked_signer_stops_nothing_and_what_they_signed_is_said_to_be_unfit(world, artifact, runtime, operator):
    world("pull", "demo/m")
    text = listed_raw = (world.repo / "targets" / "revocations.toml").read_bytes()
    signer = RevokedSigner(SIGNER, None, None, "left")
    operator.stage(revocations=revocations.revoke(revocations.parse(text), signer, datetime.now(UTC)))
    operator.publish()
    try:
        found = look(world, "--remove", "--on-recall", "kill", "{pid}")
        assert found["recalled"] == []
        assert "revoked" in found["unfit"][artifact]
        assert runtime.poll() is None
    finally:
        current = revocations.parse((world.repo / "targets" / "revocations.toml").read_bytes())
        operator.stage(revocations=revocations.render(current.version + 1, revocations.parse(listed_raw).revocations))
        operator.publish()
    assert look(world)["unfit"] == {}


def test_without_a_right_to_ask_what_is_to_be_said_waits(world, artifact, home):
    world("pull", "demo/m")
    world("quarantine", "demo/m", "--reason", "odd", "--repo", world.repo, "--publish")
    code_and_text = world("watch", "--once", "--json", MODELREG_TOKEN="mrg_api_" + "A" * 43 + "_000000")
    found = json.loads(code_and_text)
    assert found["offline"]
    assert (found["waiting"], [item["by"] for item in found["recalled"]]) == (1, [["list"]])
    found = look(world)
    assert (found["waiting"], found["offline"]) == (0, None)
    world("recall", "status", artifact)


def test_a_message_that_the_registry_will_never_take_holds_up_no_other(world, artifact, home):
    from modelreg.notices import Notices

    world("pull", "demo/m")
    look(world)
    (folder,) = (home / ".local/state/modelreg/notices").iterdir()
    box = Notices(folder)
    body = {"state": "absent", "host": "h", "processes": 0, "unseen_processes": 0}
    box.put("confirmation", {**body, "artifact": artifact, "recall": str(uuid.uuid4())})
    box.put("confirmation", {**body, "artifact": artifact, "recall": None})
    world("quarantine", "demo/m", "--reason", "odd")
    found = look(world)
    assert found["waiting"] == 0
    assert "does not take" in world.err


def test_a_list_past_its_age_is_said_with_14_and_its_recalls_still_count(world, artifact, monkeypatch):
    world("pull", "demo/m")
    world("quarantine", "demo/m", "--reason", "odd", "--repo", world.repo, "--publish")
    look(world)
    real = watch.look

    def later(settings, connect, options, now, note):
        return real(settings, connect, options, now + timedelta(days=31), note)

    monkeypatch.setattr(watch, "look", later)
    world("watch", "--once", "--json", expect=14)
    found = json.loads(world.out)
    assert "revocation list" in found["stale"]
    assert [(item["by"], item["state"]) for item in found["recalled"]] == [(["list", "registry"], "holding")]


def test_a_memory_that_is_not_ours_is_forgotten_and_everything_measured(world, artifact, home):
    world("pull", "demo/m")
    look(world)
    path = home / ".local/state/modelreg/watch.json"
    for text in (
        "{",
        "[]",
        '{"schema": "modelreg/watch-state/v1"}',
        '{"schema": "other"}',
        '{"schema": "modelreg/watch-state/v1", "measured": {"1:2": "x"}}',
    ):
        path.write_text(text)
        assert look(world)["altered"] == []
        assert json.loads(path.read_text())["admitted"]


@pytest.mark.parametrize("error", [PolicyRefused("x"), LogNotIntact("x"), ModelregError("x")], ids=lambda e: e.code)
def test_whatever_the_registry_answers_to_a_confirmation_the_stop_command_runs(
    world, artifact, runtime, monkeypatch, error
):
    """A registry that is odd, or lies, must not keep what it has recalled running."""
    world("pull", "demo/m")
    world("quarantine", "demo/m", "--reason", "odd")

    def refuse(*_arguments):
        raise error

    monkeypatch.setattr("modelreg.api.Api.confirm_recall", refuse)
    found = look(world, "--on-recall", "kill", "-KILL", "{pid}")
    assert [item["state"] for item in found["recalled"]] == ["holding"]
    assert found["waiting"] == 2
    monkeypatch.undo()
    assert look(world)["waiting"] == 0


@pytest.mark.parametrize("text", ['{"repository": "no such name"}', '{"repository": "demo/m\\u001b[2J"}'])
def test_whoever_alters_the_store_cannot_silence_watch_by_what_it_would_report(world, artifact, home, text):
    world("pull", "demo/m")
    look(world)
    (store,) = home.rglob("artifacts")
    (kept,) = store.glob("*/manifest.json")
    weights = store.parent / "snapshots" / kept.parent.name / "w.bin"
    weights.chmod(0o644)
    weights.write_bytes(b"altered")
    (kept.parent / "repository.json").write_text(text)
    found = look(world, expect=20)
    assert {item["what"] for item in found["altered"]} == {"changed"}
    assert "does not take" in world.err
    assert found["waiting"] == 0


def test_whoever_alters_the_store_cannot_hide_it_by_removing_the_manifest(world, artifact, home):
    world("pull", "demo/m")
    look(world)
    (kept,) = home.rglob("artifacts/*/manifest.json")
    kept.unlink()
    found = look(world, expect=20)
    assert [(item["what"], item["path"]) for item in found["altered"]] == [
        ("missing", f"artifacts/{kept.parent.name}/manifest.json")
    ]
    world("pull", "demo/m")
    assert look(world)["altered"] == []


def test_a_registry_that_serves_false_trust_data_and_knows_of_no_recall_does_not_hide_what_is_listed(
    world, artifact, monkeypatch
):
    world("pull", "demo/m")
    world("quarantine", "demo/m", "--reason", "odd", "--repo", world.repo, "--publish")
    look(world)

    def lie(*_arguments):
        raise SignatureInvalid("the timestamp is not signed by the keys of the root")

    monkeypatch.setattr("modelreg.distribution.load", lie)
    nothing = wire_recalls.RecallAnswer(recalls=[], expected=[])
    monkeypatch.setattr("modelreg.api.Api.check_recalls", lambda *_arguments: nothing)
    found = look(world)
    assert [(item["by"], item["state"]) for item in found["recalled"]] == [(["list"], "holding")]
    assert "not signed by the keys" in world.err
