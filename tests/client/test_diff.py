"""`modelreg diff` with a real registry: what is pulled, what is not, exit codes, bounded output."""

import json

import numpy
import pytest
from safetensors.numpy import save_file

from modelreg import push
from modelreg.references import parse_reference
from support.registry import QUIET


def model(folder, *, scale=1.0, hidden=8, template="hello", extra=None):
    folder.mkdir(parents=True)
    noise = numpy.random.default_rng(3)
    big = noise.standard_normal(5 * 1024 * 1024).astype(numpy.float32)  # 20 MiB: three chunks
    head = noise.standard_normal((4, 4)).astype(numpy.float32) * numpy.float32(scale)
    save_file({"a.head": head, "z.body": big}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"hidden_size": hidden, "architectures": ["Demo"]}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "bos": "<s>"}))
    for name, data in (extra or {}).items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def pushed(registry, tmp_path_factory):
    """Two artifacts of one repository, and their folders."""
    root = tmp_path_factory.mktemp("models")
    folders = {
        "one": model(root / "one"),
        "two": model(root / "two", scale=2.0, hidden=16, template="hello, mallory", extra={"run.py": b"import os\n"}),
    }
    for tag, folder in folders.items():
        push.push(
            registry.api(), folder, parse_reference(f"demo/compared:{tag}"), registry.trust.signer,
            tags=[tag], connections_at_once=4, meter=QUIET, stamp=None,
        )  # fmt: skip
    return folders


@pytest.fixture
def diff(registry, pushed, run, tmp_path):
    def call(*arguments):
        environment = registry.environment(tmp_path / "home")
        return run("diff", *arguments, **{k: v for k, v in environment.items() if k.startswith("MODELREG_")})

    return call


def granted(registry):
    return sum(event.type == "artifact.granted" for event in registry.api().events(limit=1000))


def test_two_artifacts_are_compared_down_to_their_tensors_and_templates(diff):
    code, out, err = diff("demo/compared:one", "demo/compared:two", "--json")
    assert code == 40, err
    report = json.loads(out)
    assert report["schema"] == "modelreg/diff/v1"
    assert report["areas"] == ["weights", "config", "tokenizer", "chat-template", "code"]
    assert report["tensors"]["counts"] == {"same": 1, "values": 1}
    assert [row["name"] for row in report["tensors"]["rows"]] == ["a.head"]
    assert {(row["path"], row["pointer"]) for row in report["members"]["rows"]} == {
        ("config.json", "/hidden_size"),
        ("tokenizer_config.json", "/chat_template"),
    }
    assert report["before"]["bytes"] == report["after"]["bytes"] == "pulled and verified"

    code, out, _err = diff("demo/compared:one", "demo/compared:two")
    assert code == 40
    assert "~ values        a.head  F32[4, 4]  in model.safetensors" in out
    assert '~ tokenizer_config.json /chat_template: "hello" -> "hello, mallory"' in out


def test_the_same_artifact_twice_is_no_difference_and_no_byte_is_asked_for(diff, registry):
    before = granted(registry)
    code, out, _err = diff("demo/compared:one", "demo/compared:one")
    assert code == 0
    assert "no difference in 3 files" in out
    assert granted(registry) == before


def test_headers_are_compared_without_pulling_and_chunks_decide_what_they_can(diff, tmp_path):
    code, out, err = diff("demo/compared:one", "demo/compared:two", "--headers", "--json")
    assert code == 40, err
    report = json.loads(out)
    assert report["before"]["bytes"] == "headers and small files, verified"
    # The head shares its chunk with the body's beginning: undecided, and said so.
    assert report["tensors"]["counts"] == {"not-compared": 2}
    assert {row["pointer"] for row in report["members"]["rows"]} == {"/hidden_size", "/chat_template"}
    assert not list((tmp_path / "home").rglob("snapshots/*"))


def test_an_artifact_is_compared_with_a_folder(diff, pushed, tmp_path):
    assert diff("demo/compared:one", pushed["one"])[0] == 0
    folder = model(tmp_path / "mine", extra={"notes.txt": b"mine"})
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    code, out, _err = diff("demo/compared:one", folder, "--json")
    report = json.loads(out)
    assert code == 40
    assert {(row["path"], row["change"]) for row in report["files"]["rows"]} == {
        ("model.safetensors", "changed"),
        ("notes.txt", "added"),
    }
    assert [(row["name"], row["change"]) for row in report["tensors"]["rows"]] == [("z.body", "values")]
    assert report["after"]["repository"] is None


def test_a_local_copy_that_changed_is_refused_instead_of_compared(diff, registry, tmp_path):
    assert diff("demo/compared:one", "demo/compared:two")[0] == 40
    (copy,) = {path for path in (tmp_path / "home").rglob("run.py") if "snapshots" in path.parts}
    copy.chmod(0o644)
    copy.write_bytes(b"import sys\n")
    code, _out, err = diff("demo/compared:one", "demo/compared:two")
    assert code == 20
    assert "run.py" in err


def test_what_is_neither_folder_nor_reference_is_said_so(diff):
    assert diff("./nowhere", "demo/compared:one")[0] == 11
    assert diff("demo/compared:none", "demo/compared:one")[0] == 11


def test_names_with_escape_sequences_do_not_reach_the_terminal(diff, pushed, tmp_path):
    folder = model(tmp_path / "mine", extra={"generation_config.json": json.dumps({"a\x1b[2J\n": 1}).encode()})
    other = model(tmp_path / "other", extra={"generation_config.json": json.dumps({"a\x1b[2J\n": 2}).encode()})
    code, out, _err = diff(folder, other)
    assert code == 40
    assert "\x1b" not in out
    assert "/a\\x1b[2J\\n: 1 -> 2" in out


def test_what_was_revoked_after_it_was_pulled_can_still_be_looked_at(diff, registry, run, tmp_path):
    assert diff("demo/compared:one", "demo/compared:two")[0] == 40
    artifact = registry.api().resolve("demo/compared", "one").artifact
    revoking = tmp_path / "revoking.toml"
    revoking.write_text(registry.trust.policy_path.read_text().replace("artifacts = []", f'artifacts = ["{artifact}"]'))
    environment = {k: v for k, v in registry.environment(tmp_path / "home").items() if k.startswith("MODELREG_")}
    environment |= {"MODELREG_TRUST_POLICY": str(revoking), "XDG_STATE_HOME": str(tmp_path / "fresh")}
    references = (f"demo/compared@{artifact}", "demo/compared:two")
    code, out, _err = run("diff", *references, "--json", **environment)
    assert (code, json.loads(out)["before"]["bytes"]) == (40, "measured in the local store")
    # It is not fetched for that.
    code, _out, err = run("diff", *references, **environment, MODELREG_CACHE_DIR=str(tmp_path / "empty"))
    assert code == 21, err


def test_a_local_manifest_that_was_changed_is_not_taken_for_the_artifacts(diff, registry, tmp_path):
    assert diff("demo/compared:one", "demo/compared:two")[0] == 40
    artifact = registry.api().resolve("demo/compared", "one").artifact.removeprefix("sha256:")
    (kept,) = (tmp_path / "home").rglob(f"artifacts/{artifact}/manifest.json")
    kept.write_bytes(kept.read_bytes().replace(b"config.json", b"confiG.json", 1))
    code, out, _err = diff("demo/compared:one", "demo/compared:two", "--json")
    assert code == 40
    assert "confiG.json" not in out
