"""Receipts on this machine: verified before the download, kept, verified again with no registry; and what is said of them."""

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modelreg import log_state, notes, pull, verify
from modelreg.cache import Cache
from modelreg.errors import LogForked, LogNotIntact, Misconfigured, ReceiptMismatch, ReceiptMissing, Unreachable
from modelreg.references import parse_reference
from modelreg_server import log_keys
from support.logged import pinned, pinned_policy
from support.registry import QUIET


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("model")
    (made / "weights.bin").write_bytes(b"w" * 100)
    return made


@pytest.fixture
def environment(registry, tmp_path, folder, run):
    """Variables of a machine that pins the registry's log, and to whose repository something was pushed."""
    made = {
        name: value
        for name, value in registry.environment(tmp_path / "home").items()
        if name.startswith(("MODELREG_", "HOME"))
    }
    made["MODELREG_TRUST_POLICY"] = str(pinned(registry, tmp_path / "pinned.toml"))
    code, _, err = run("push", folder, "demo/m:v1", **made)
    assert code == 0, err
    return made


@pytest.fixture
def policy(registry, tmp_path):
    return pinned_policy(registry, tmp_path / "policy.toml")


def pulled(registry, tmp_path, policy, name="cache", **more):
    more = {"host": "h", "state_dir": tmp_path / "state", **more}
    return pull.pull(
        registry.api(), Cache(tmp_path / name), policy, parse_reference("demo/m:v1"), purpose="pull",
        now=datetime.now(UTC), connections_at_once=2, meter=QUIET, **more,
    )  # fmt: skip


def test_pull_says_that_the_receipt_is_verified_and_writes_it_where_asked(run, environment, tmp_path):
    code, out, err = run("pull", "demo/m:v1", "--receipt", tmp_path / "m.receipt", **environment)
    assert code == 0, err
    assert "receipt: verified, event" in out
    key = environment_key(environment)
    code, out, err = run(
        "receipt", "verify", tmp_path / "m.receipt", "--log", key, MODELREG_REGISTRY="https://nowhere.test"
    )
    assert code == 0, err
    assert "artifact.granted" in out
    assert "demo/m:v1@sha256:" in out


def environment_key(environment):
    from pathlib import Path

    from modelreg import trust

    found = trust.parse(Path(environment["MODELREG_TRUST_POLICY"]).read_bytes()).log
    return str(found.keys[0])


def test_receipt_verify_takes_the_policys_log_and_answers_in_json(run, environment, tmp_path):
    assert run("pull", "demo/m:v1", "--receipt", tmp_path / "m.receipt", "-q", **environment)[0] == 0
    code, out, _ = run("receipt", "verify", tmp_path / "m.receipt", "--json", **environment)
    answer = json.loads(out)
    assert code == 0
    assert answer["schema"] == "modelreg/receipt/v1"
    assert answer["verified"] is True
    assert answer["entry"]["repository"] == "demo/m"
    assert answer["log_size"] > answer["index"]


def test_receipt_show_finds_the_newest_by_tag_and_by_digest(run, environment):
    code, out, _ = run("pull", "demo/m:v1", "--json", **environment)
    answer = json.loads(out)
    assert answer["receipt"] == "verified"
    for reference in ("demo/m:v1", f"demo/m@{answer['artifact']}"):
        code, out, err = run("receipt", "show", reference, **environment)
        assert code == 0, err
        assert out.startswith(f"verified: event {answer['event']} of ")
    code, out, _ = run("receipt", "show", "demo/m:v1", "--raw", **environment)
    assert out.startswith("c2sp.org/tlog-proof@v1\n")
    code, _, err = run("receipt", "show", "demo/m:never", **environment)
    assert code == 11
    assert "no receipt" in err


@pytest.mark.parametrize("change", ["entry", "signature", "key", "none", "absent"])
def test_receipt_verify_refuses_what_does_not_hold(run, environment, tmp_path, change):
    file = tmp_path / "m.receipt"
    assert run("pull", "demo/m:v1", "--receipt", file, "-q", **environment)[0] == 0
    key, expected = environment_key(environment), 32
    if change == "entry":
        lines = file.read_text().split("\n")
        lines[1] = lines[1][:20] + ("A" if lines[1][20] != "A" else "B") + lines[1][21:]
        file.write_text("\n".join(lines))
    elif change == "signature":
        file.write_bytes(file.read_bytes()[:-12] + b"AAAAAAAAAAA\n")
    elif change == "key":
        name = key.partition("+")[0]
        key = str(notes.key_of(name, notes.ED25519, Ed25519PrivateKey.generate().public_key()))
    elif change == "none":
        file.write_text("a letter")
    else:
        file.unlink()
        expected = 11
    assert run("receipt", "verify", file, "--log", key)[0] == expected


def test_without_a_pinned_log_the_receipt_is_kept_and_said_to_be_not_verified(run, environment, registry, tmp_path):
    (tmp_path / "unpinned.toml").write_text(registry.trust.unpinned_text)
    unpinned = {**environment, "MODELREG_TRUST_POLICY": str(tmp_path / "unpinned.toml")}
    code, out, _ = run("pull", "demo/m:v1", **unpinned)
    assert code == 0
    assert "receipt: recorded as event" in out
    assert "not verified" in out
    code, out, _ = run("pull", "demo/m:v1", "--json", **unpinned)
    assert json.loads(out)["receipt"] == "recorded"
    code, out, _ = run("receipt", "show", "demo/m:v1", **unpinned)
    assert code == 0
    assert "NOT verified" in out
    assert run("receipt", "verify", "x", **unpinned)[0] == 1, "no key to verify with"
    code, out, _ = run("verify", "demo/m:v1", **unpinned)
    assert code == 0
    assert "receipt: not checked" in out
    # The log is pinned later: what was kept holds, and verify says so.
    code, out, _ = run("verify", "demo/m:v1", **environment)
    assert code == 0
    assert "receipt: verified" in out


def test_verify_needs_the_receipt_once_a_log_is_pinned(registry, environment, tmp_path, policy):
    got = pulled(registry, tmp_path, policy)
    cache, digest = Cache(tmp_path / "cache"), got.verified.manifest.digest

    def again(repository="demo/m", policy=policy):
        return verify.verify_kept(
            cache, digest, policy, repository=repository, now=datetime.now(UTC), state_dir=tmp_path / "state"
        )

    assert again()[2].index == got.grant.event
    receipt = cache.root / "artifacts" / digest.hex / "receipt.tlog-proof"
    kept = receipt.read_bytes()
    with pytest.raises(ReceiptMismatch):
        again("demo/other")
    receipt.write_bytes(kept.replace(b"extra e", b"extra f"))
    with pytest.raises(LogNotIntact):
        again()
    receipt.unlink()
    with pytest.raises(ReceiptMissing, match="pull again"):
        again()


def test_a_second_pull_continues_what_the_first_has_seen(registry, environment, tmp_path, policy):
    first = pulled(registry, tmp_path, policy)
    seen = log_state.newest(tmp_path / "state", policy.log)
    assert seen.size > first.grant.event, "the report that it arrived is in it"
    registry.api().tags("demo/m")
    second = pulled(registry, tmp_path, policy)
    assert second.grant.consistency
    assert log_state.newest(tmp_path / "state", policy.log).size > seen.size


def test_damaged_memory_of_the_log_stops_everything_and_says_what_to_do(registry, environment, tmp_path, policy):
    pulled(registry, tmp_path, policy)
    path = log_state.folder_of(tmp_path / "state", policy.log) / "checkpoint"
    good = path.read_bytes()
    for damaged in (b"", good[:-1], good.replace(b"\n", b"\n\n", 1), b"\0" * len(good), good[:60] + b"A" + good[61:]):
        if damaged == good:
            continue
        path.write_bytes(damaged)
        with pytest.raises(Misconfigured, match="restore it from a backup, or remove it"):
            pulled(registry, tmp_path, policy)
    path.write_bytes(good)
    tags = path.with_name("tags.json")
    tags.write_text("[]")
    with pytest.raises(Misconfigured, match="tags.json"):
        pulled(registry, tmp_path, policy)
    tags.unlink()
    pulled(registry, tmp_path, policy)


def test_a_memory_of_another_log_is_a_fork(registry, environment, tmp_path, policy):
    pulled(registry, tmp_path, policy)
    path = log_state.folder_of(tmp_path / "state", policy.log) / "checkpoint"
    signer = registry.parts.database.log_signer
    path.write_bytes(signer.checkpoint(2, b"\7" * 32))
    with pytest.raises(LogForked):
        pulled(registry, tmp_path, policy)


def test_two_pulls_at_once_on_one_machine_are_one_history(registry, environment, tmp_path, policy):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda n: pulled(registry, tmp_path, policy, f"cache-{n}"), range(12)))
    assert len({got.grant.event for got in done}) == 12


def test_a_command_that_does_not_let_go_of_the_log_is_like_a_registry_that_does_not_answer(
    tmp_path, policy, monkeypatch
):
    monkeypatch.setattr(log_state, "WAIT_SECONDS", 0.1)
    with log_state.held(tmp_path, policy.log), pytest.raises(Unreachable, match="another modelreg command"):
        with log_state.held(tmp_path, policy.log):
            pass


def test_a_machine_with_a_wrong_clock_refuses_what_it_asked_for(registry, environment, tmp_path, policy):
    with pytest.raises(ReceiptMismatch, match="clock"):
        pull.pull(
            registry.api(), Cache(tmp_path / "cache"), policy, parse_reference("demo/m:v1"), purpose="pull", host="h",
            now=datetime.now(UTC) + timedelta(minutes=6), connections_at_once=2, meter=QUIET, state_dir=tmp_path / "state",
        )  # fmt: skip
    assert not (tmp_path / "cache" / "blobs" / "blake3").exists() or not list(
        (tmp_path / "cache" / "blobs" / "blake3").iterdir()
    )


def test_a_library_that_forgets_the_state_dir_is_refused(registry, environment, tmp_path, policy):
    with pytest.raises(Misconfigured, match="state_dir"):
        pulled(registry, tmp_path, policy, state_dir=None)


def test_the_log_s_key_may_change_without_losing_what_was_seen(registry, environment, tmp_path, policy):
    pulled(registry, tmp_path, policy)
    key = Ed25519PrivateKey.generate()
    signer = registry.parts.database.log_signer
    assert str(log_keys.verifier_of(signer)) == str(policy.log.keys[0])
    import dataclasses

    rotated = dataclasses.replace(policy.log, keys=(notes.key_of(policy.log.origin, notes.ED25519, key.public_key()),))
    assert log_state.newest(tmp_path / "state", rotated).size > 0
    shutil.rmtree(log_state.folder_of(tmp_path / "state", policy.log))
    assert log_state.newest(tmp_path / "state", rotated) is None
