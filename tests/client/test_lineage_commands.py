"""From a restricted dataset to an adapter that refuses another base, with the real CLI against a real registry."""

import json
import uuid
from datetime import UTC, datetime

import pytest

from modelreg import pki
from support.registry import cli, running_registry

RULE = """
[[rules]]
repositories = ["demo/*"]
attests = ["declassification"]
allow = [{authority = "pki", identities = ["email:riko@demo.example"]}]

"""
REFUSED, POLICY = 20, 22


def with_approver(trusted):
    head, mark, rest = trusted.policy_path.read_text().partition("[revocations]")
    return head + RULE + mark + rest


@pytest.fixture(scope="module")
def registry(tmp_path_factory, request):
    with running_registry(tmp_path_factory.mktemp("registry"), policy=with_approver) as running:
        yield running


@pytest.fixture
def ask(run, registry, home):
    environment = {k: v for k, v in registry.environment(home).items() if k.startswith("MODELREG_")}

    def call(*arguments, as_json=True, **more):
        code, out, err = run(*arguments, *(["--json"] if as_json else []), **{**environment, **more})
        return code, json.loads(out) if as_json and out else out, err

    return call


@pytest.fixture
def approver(registry, tmp_path):
    """The environment of somebody who may declassify."""
    leaf = pki.issue_signer("email:riko@demo.example", registry.trust.intermediate, datetime.now(UTC))
    key, chain = tmp_path / "riko.key.pem", tmp_path / "riko.chain.pem"
    key.write_bytes(pki.private_pem(leaf.private_key))
    chain.write_bytes(
        pki.certificate_pem(leaf.certificate) + pki.certificate_pem(registry.trust.intermediate.certificate)
    )
    return {"MODELREG_KEY": key, "MODELREG_CERTIFICATE": chain}


@pytest.fixture
def folder(tmp_path):
    def make(files=None):
        root = tmp_path / uuid.uuid4().hex
        root.mkdir()
        for name, data in (files or {"model.safetensors": uuid.uuid4().bytes * 9}).items():
            (root / name).write_bytes(data)
        return root

    return make


@pytest.fixture
def push(ask, folder):
    def call(reference, *more, files=None):
        code, pushed, err = ask("push", folder(files), reference, *more)
        assert code == 0, err
        return pushed["artifact"]

    return call


def effective(ask, reference):
    return ask("show", reference)[1]["classification"]


def test_a_dataset_is_registered_shown_verified_and_listed(ask, folder):
    rows = folder({"train.jsonl": b"{}\n"})
    code, made, err = ask(
        "dataset", "register", "demo/chats", rows, "--owner", "person:dana", "--class", "restricted",
        "--lawful-basis", "contract", "--residency", "eu-1", "--residency", "eu-2", "--retain-until", "2028-01-01",
    )  # fmt: skip
    assert code == 0, err
    code, shown, _ = ask("dataset", "show", "demo/chats")
    (record,) = shown["datasets"]
    assert code == 0
    assert (record["digest"], record["owner"], record["classification"]) == (
        made["digest"],
        "person:dana",
        "restricted",
    )
    assert (record["residency"], record["retention_until"][:10]) == (["eu-1", "eu-2"], "2028-01-01")
    assert record["checked"] == "verified (email:al@demo.example)"
    assert [row["name"] for row in ask("dataset", "list")[1]["datasets"]] == ["demo/chats"]
    assert "verified (email:al" in ask("dataset", "show", "demo/chats", as_json=False)[1]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ([], 2),
        (["--digest", "blake3:" + "0" * 64, "--owner", "x"], 2),
        (["--digest", "sha256:" + "0" * 64], 2),
        (["--digest", "sha256:" + "0" * 64, "--owner", "x", "--residency", "EU West"], 2),
        (["--digest", "sha256:" + "0" * 64, "--owner", "x", "--retain-until", "soon"], 2),
        (["--digest", "sha256:" + "0" * 64, "--owner", "x\ny"], 2),
    ],
)
def test_a_record_that_says_too_little_is_refused_before_anything_is_signed(ask, more, code):
    found, _, err = ask("dataset", "register", "demo/little", *more, "--class", "public", "--lawful-basis", "b")
    assert found == code, err
    assert ask("dataset", "show", "demo/little")[0] == 11


def test_croissant_gives_owner_and_source_and_files_that_differ_from_it_are_refused(ask, folder, tmp_path):
    import hashlib

    rows = folder({"train.jsonl": b"{}\n"})
    described = {
        "@context": {"@vocab": "https://schema.org/"},
        "@type": "sc:Dataset",
        "name": "chats",
        "url": "https://data.example/chats",
        "creator": {"@type": "Organization", "name": "Acme Data"},
        "distribution": [
            {"@type": "cr:FileObject", "contentUrl": "train.jsonl", "sha256": hashlib.sha256(b"{}\n").hexdigest()}
        ],
    }
    (tmp_path / "croissant.json").write_text(json.dumps(described))
    arguments = ("--croissant", tmp_path / "croissant.json", "--class", "internal", "--lawful-basis", "CC0")
    code, made, err = ask("dataset", "register", "demo/croissant", rows, *arguments)
    assert code == 0, err
    assert (made["owner"], made["source"], made["croissant_files_matched"]) == (
        "Acme Data",
        "https://data.example/chats",
        1,
    )
    (rows / "train.jsonl").write_bytes(b"[]\n")
    code, _, err = ask("dataset", "register", "demo/croissant", rows, *arguments)
    assert code == REFUSED, err
    assert len(ask("dataset", "show", "demo/croissant")[1]["datasets"]) == 1


def test_a_finetune_of_a_restricted_base_pushed_as_internal_is_refused(ask, push, folder):
    base = push("demo/secret-base", "--class", "restricted")
    assert effective(ask, "demo/secret-base") == "restricted"
    tuned = folder()
    code, _, err = ask("push", tuned, "demo/tuned", "--base", "demo/secret-base", "--class", "internal", as_json=False)
    assert code == POLICY
    assert f"finetune of demo/secret-base@{base} (restricted)" in err
    assert "pushed as internal" in err
    assert "--class restricted" in err
    assert ask("show", "demo/tuned")[0] == 11

    code, pushed, err = ask("push", tuned, "demo/tuned", "--base", "demo/secret-base", "--class", "restricted")
    assert code == 0, err
    assert effective(ask, "demo/tuned") == "restricted"
    code, answer, _ = ask("lineage", "demo/tuned", "--up")
    assert [(e["parent"], e["relation"], e["grade"], e["confidence"]) for e in answer["up"]] == [
        (base, "finetune", "attested", "recorded")
    ]
    assert {node["artifact"]: node["classification"] for node in answer["nodes"]} == {
        base: "restricted", pushed["artifact"]: "restricted",
    }  # fmt: skip


def test_a_declassification_lowers_what_it_names_and_only_by_somebody_who_may(ask, push, approver):
    push("demo/low-base", "--class", "restricted")
    push("demo/lowered", "--base", "demo/low-base", "--class", "restricted")
    grandchild = push("demo/lowest", "--base", "demo/lowered")
    assert effective(ask, "demo/lowest") == "restricted"
    code, _, err = ask("declassify", "demo/lowered", "--to", "internal", "--reason", "no data left in it")
    assert code == 12, err
    code, made, err = ask(
        "declassify", "demo/lowered", "--to", "internal", "--reason", "no data left in it", **approver
    )
    assert code == 0, err
    assert (made["from"], made["to"]) == ("restricted", "internal")
    assert effective(ask, "demo/lowered") == "internal"
    assert effective(ask, f"demo/lowest@{grandchild}") == "internal"
    assert effective(ask, "demo/low-base") == "restricted"
    assert ask("declassify", "demo/lowered", "--to", "restricted", "--reason", "r", **approver)[0] == 2


def test_a_dataset_raises_what_was_made_with_it_and_is_lowered_only_by_declassification(ask, push, folder, approver):
    def register(level):
        return ask(
            "dataset", "register", "demo/rising", "--digest", "sha256:" + "7" * 64, "--owner", "dana",
            "--class", level, "--lawful-basis", "consent",
        )  # fmt: skip

    assert register("internal")[0] == 0
    push("demo/made", "--dataset", "demo/rising", "--relation", "finetune", "--training-run", "https://ci/1")
    push("demo/made-of-made", "--base", "demo/made", "--class", "internal")
    assert effective(ask, "demo/made-of-made") == "internal"
    assert register("confidential")[0] == 0
    assert effective(ask, "demo/made") == effective(ask, "demo/made-of-made") == "confidential"
    code, _, err = ask("push", folder(), "demo/made", "--dataset", "demo/rising", "--class", "public", as_json=False)
    assert (code, "made with the dataset demo/rising@sha256:777" in err) == (POLICY, True), err
    code, _, err = register("internal")
    assert code == POLICY, err
    code, _, err = ask(
        "declassify", "--dataset", "demo/rising", "--to", "internal", "--reason", "names are gone", **approver
    )
    assert code == 0, err
    assert effective(ask, "demo/made") == "confidential"  # the leave alone changes nothing
    assert register("internal")[0] == 0
    assert effective(ask, "demo/made-of-made") == "internal"
    assert register("confidential")[0] == 0
    assert register("public")[0] == POLICY
    assert register("internal")[0] == POLICY, "one declassification is one lowering"
    assert ask("dataset", "register", "demo/rising", "--digest", "sha256:" + "8" * 64, "--owner", "d", "--class", "public", "--lawful-basis", "x")[0] == 0  # fmt: skip
    _, answer, _ = ask("lineage", "demo/made")
    assert [(row["dataset"], row["name"], row["grade"], row["classification"]) for row in answer["datasets"]] == [
        ("sha256:" + "7" * 64, "demo/rising", "attested", "confidential")
    ]


def test_an_adapter_launches_on_its_base_and_on_no_other(ask, push, registry, tmp_path):
    base = push("demo/base", "--class", "internal")
    push("demo/other-base")
    adapter = push(
        "demo/lora", "--base", "demo/base", "--relation", "adapter", files={"adapter_config.json": b"{}", "a.bin": b"x"}
    )
    env = registry.environment(tmp_path / "host")
    words = ("--", "printf", "%s %s", "{model}", "{adapter}")

    done = cli("launch", "demo/base", "--adapter", "demo/lora", *words, env=env)
    assert done.returncode == 0, done.stderr
    model, lora = done.stdout.split()
    assert (model.endswith(base.removeprefix("sha256:")), lora.endswith(adapter.removeprefix("sha256:"))) == (
        True,
        True,
    )
    for name in (base, adapter):
        assert name in done.stderr
        code, loaded, _ = ask("loaded", name, "--all")
        assert [row["artifact"] for row in loaded["loads"]] == [name]

    done = cli("launch", "--adapter", "demo/lora", "demo/other-base", *words, env=env)
    assert done.returncode == POLICY, done.stderr
    assert f"is an adapter of demo/base@{base}, not of demo/other-base@" in done.stderr
    done = cli("launch", "demo/lora", "--", "true", "{model}", env=env)
    assert done.returncode == POLICY, done.stderr
    assert f"modelreg launch demo/base@{base} --adapter demo/lora@{adapter}" in done.stderr
    # Nobody answers: what was launched before still knows its base.
    for target, code in (("demo/base", 0), ("demo/other-base", POLICY)):
        done = cli("launch", "--offline", target, "--adapter", "demo/lora", *words, env=env)
        assert done.returncode == code, done.stderr
    for late, code in ((["--no-heartbeat"], 0), (["--heartbeat", "0"], 2), (["--bogus"], 2)):  # options behind REF
        done = cli("launch", "demo/base", *late, "--", "true", "{model}", env=env)
        assert done.returncode == code, done.stderr
    done = cli("launch", "demo/lora", "--offline", "--", "true", "{model}", env=env)
    assert done.returncode == POLICY, done.stderr


def test_an_adapter_of_which_nobody_attests_a_base_is_refused_alone_and_on_any(ask, push, registry, tmp_path):
    push("demo/some-base")
    push("demo/orphan", files={"adapter_config.json": b'{"base_model_name_or_path": "demo/some-base"}', "a.bin": b"y"})
    env = registry.environment(tmp_path / "host")
    done = cli("launch", "demo/some-base", "--adapter", "demo/orphan", "--", "true", "{model}{adapter}", env=env)
    assert done.returncode == POLICY, done.stderr
    assert "nobody attests which base" in done.stderr
    assert "--relation adapter --base demo/some-base@" in done.stderr
    assert cli("launch", "demo/orphan", "--", "true", "{model}", env=env).returncode == POLICY
    for words in (("true", "{model}"), ("true", "{adapter}")):
        assert cli("launch", "demo/some-base", "--adapter", "demo/orphan", "--", *words, env=env).returncode == 2
    assert cli("launch", "demo/some-base", "--", "true", "{model}", "{adapter}", env=env).returncode == 2


def test_what_the_files_claim_is_shown_and_what_they_name_here_is_an_edge_that_only_claims(ask, push):
    base = push("demo/card-base", "--class", "confidential")
    assert ask("dataset", "register", "demo/rows", "--digest", "sha256:" + "9" * 64, "--owner", "d", "--class", "internal", "--lawful-basis", "x")[0] == 0  # fmt: skip
    card = b"---\nlicense: apache-2.0\nbase_model:\n- demo/card-base\n- meta/Elsewhere\nbase_model_relation: quantized\ndatasets: [demo/rows]\n---\n# Hello\n"
    child = push("demo/card", files={"README.md": card, "w.bin": b"w"})
    _, answer, _ = ask("lineage", "demo/card")
    assert [(e["parent"], e["relation"], e["grade"]) for e in answer["up"]] == [(base, "quantized", "claimed")]
    assert [(row["dataset"], row["grade"]) for row in answer["datasets"]] == [("sha256:" + "9" * 64, "claimed")]
    assert {(row["kind"], row["value"], row["path"], row["member"], row["resolved"]) for row in answer["claims"]} == {
        ("licence", "apache-2.0", "README.md", "license", None),
        ("base_model", "demo/card-base", "README.md", "base_model", base),
        ("base_model", "meta/Elsewhere", "README.md", "base_model", None),
        ("relation", "quantized", "README.md", "base_model_relation", None),
        ("dataset", "demo/rows", "README.md", "datasets", "sha256:" + "9" * 64),
    }
    assert effective(ask, f"demo/card@{child}") == "confidential"  # a claim raises
    out = ask("lineage", "demo/card", as_json=False)[1]
    assert "claims base_model meta/Elsewhere (README.md, base_model)" in out
    assert f"from quantized {base} demo/card-base (confidential) [claimed]" in out


def test_push_refuses_what_says_nothing_or_contradicts_itself(ask, push, folder):
    push("demo/x-base")
    root = folder()
    for more in (
        ["--relation", "finetune", "--class", "internal"],  # of what?
        ["--base", "blake3:" + "0" * 64],
        ["--dataset", "demo/rows:v1"],
        ["--base", "demo/x-base", "--training-run", "a\nb"],
    ):
        code, _, err = ask("push", root, "demo/never", *more)
        assert code in {2, 13}, (more, err)
    assert ask("push", root, "demo/never", "--dataset", "demo/absent")[0] == 11
    assert ask("show", "demo/never")[0] == 11
