"""provenance, bom, inventory and show with the real CLI against a real registry."""

import json
import uuid
from dataclasses import replace

import pytest

from modelreg import (
    attestations,
    provenance,
    provenance_collection,
    push,
    signing,
    wire,
    wire_attestations,
    wire_promotions,
)
from modelreg.api import Api
from modelreg.attestations import Kind
from modelreg.digests import Digest, sha256_of
from modelreg.references import parse_reference
from support.chained import AT, derivation_of, import_of
from support.promotions import promoting_registry
from support.registry import QUIET


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """One that promotes: to staging whatever is in demo/*."""
    with promoting_registry(tmp_path_factory.mktemp("registry")) as world:
        yield world.registry


@pytest.fixture
def ask(run, registry, home):
    """`modelreg …` against the registry: exit code, parsed answer (or text), stderr."""
    environment = {k: v for k, v in registry.environment(home).items() if k.startswith("MODELREG_")}

    def call(*arguments, as_json=True, **more):
        code, out, err = run(*arguments, *(["--json"] if as_json else []), **{**environment, **more})
        return code, json.loads(out) if as_json and out else out, err

    return call


@pytest.fixture
def model(ask, tmp_path):
    """Publish a folder with fresh bytes; returns its digest and manifest."""

    def make(reference, *more, files=None):
        root = tmp_path / uuid.uuid4().hex
        root.mkdir()
        for name, data in (files or {"model.safetensors": uuid.uuid4().bytes, "config.json": b"{}"}).items():
            (root / name).write_bytes(data)
        code, pushed, err = ask("push", root, reference, *more)
        assert code == 0, err
        return Digest.parse(pushed["artifact"])

    return make


def signed(registry, repository, digest, made):
    """A provenance statement as a bundle."""
    predicate = provenance.predicate_of(made, version="0", started_at=AT, finished_at=AT)
    return signing.sign(attestations.build(Kind.PROVENANCE, repository, digest, predicate), registry.trust.signer)


@pytest.fixture
def state(registry):
    """Record a signed derivation of an artifact that is published already."""

    def call(repository, digest, made):
        raw = signed(registry, repository, digest, made)
        return registry.api().attest(repository, digest, wire_attestations.AttestationRequest(bundle=raw.decode()))

    return call


@pytest.fixture
def imported(registry, tmp_path):
    """Publish fresh bytes with the signed statement that person:tester fetched them from the hub; their digest."""

    def call(repository, **more):
        root = tmp_path / uuid.uuid4().hex
        root.mkdir()
        (root / "model.safetensors").write_bytes(uuid.uuid4().bytes)
        (root / "config.json").write_bytes(b"{}")

        def attest(manifest):
            made = replace(import_of(manifest), fetched_by="person:tester", **more)
            return [signed(registry, repository, manifest.digest, made)]

        return push.push(
            registry.api(), root, parse_reference(repository), registry.trust.signer, tags=(), connections_at_once=2,
            meter=QUIET, attest=attest,
        ).manifest.digest  # fmt: skip

    return call


@pytest.fixture
def lineage(model, state, imported):
    """A fine-tune of an imported base, each in a repository of its own; their digests."""
    name = uuid.uuid4().hex[:8]
    base, child = imported(f"demo/base-{name}"), model(f"demo/tuned-{name}:prod")
    state(f"demo/tuned-{name}", child, derivation_of((f"demo/base-{name}", base)))
    return f"demo/tuned-{name}", child, base


def test_the_whole_chain_is_printed_and_verified(ask, lineage):
    repository, child, base = lineage
    code, out, err = ask("provenance", f"{repository}:prod", as_json=False)

    assert code == 0, (out, err)
    lines = out.splitlines()
    assert lines[-1] == "complete: everything back to where the bytes came from is verified"
    assert sum(line.startswith("verified") and "signature" in line for line in lines) == 2
    assert any(line.startswith(f"verified    artifact    {repository}@{child}: 2 files") for line in lines)
    assert any("derivation" in line and "finetune of 1 parent and 0 datasets" in line for line in lines)
    assert any(line.startswith("verified      import") and "hf://org/name" in line for line in lines)
    # What the registry itself states of each: it scanned what came.
    assert (
        sum(line.startswith("verified") and "scan" in line.split() and "modelreg-gate" in line for line in lines) == 2
    )
    # The log's entries that say so, each with its proof.
    assert [line.split("entry")[1].split(":")[1].split(" at")[0].strip() for line in lines if "entry " in line] == [
        *("artifact.published", "artifact.scanned", "artifact.attested"),
        *("artifact.published", "artifact.imported", "artifact.attested", "artifact.scanned"),
    ]

    code, report, _ = ask("provenance", f"{repository}@{child}")
    assert (code, report["schema"], report["complete"], report["gaps"]) == (0, "modelreg/provenance/v1", True, [])
    assert [one["artifact"] for one in report["artifacts"]] == [str(child), str(base)]
    assert report["artifacts"][0]["parents"] == [
        {"artifact": str(base), "name": f"demo/base-{repository[-8:]}", "relation": "finetune", "grade": "attested"}
    ]


def test_a_kept_file_verifies_with_no_registry_and_a_changed_one_does_not(ask, lineage, tmp_path):
    repository, child, _ = lineage
    kept = tmp_path / "chain.json"
    code, online, err = ask("provenance", f"{repository}:prod", "-o", kept)
    assert (code, "wrote" in err) == (0, True)

    nowhere = {"MODELREG_REGISTRY": "http://127.0.0.1:9", "MODELREG_TOKEN": ""}
    code, offline, err = ask("provenance", "--from", kept, **nowhere)
    assert code == 0, err
    # A time stamp's accuracy reaches into this second, so that its time may still grow.
    assert [line for line in offline["lines"] if line["what"] != "signature"] == [
        line for line in online["lines"] if line["what"] != "signature"
    ]
    assert {name: offline[name] for name in ("artifact", "complete", "gaps", "datasets", "exit_code")} == {
        name: online[name] for name in ("artifact", "complete", "gaps", "datasets", "exit_code")
    }

    assert ask("provenance", f"{repository}@{child}", "--from", kept, **nowhere)[0] == 0
    for other in (f"demo/other@{child}", f"{repository}@sha256:{'0' * 64}"):
        code, _, err = ask("provenance", other, "--from", kept, **nowhere)
        assert (code, "the file is about" in err) == (1, True)
    value = json.loads(kept.read_bytes())
    value["artifacts"][1]["statements"] = []
    kept.write_text(json.dumps(value))
    code, changed, _ = ask("provenance", "--from", kept, **nowhere)
    assert (code, len(changed["gaps"])) == (23, 1)
    code, _, err = ask("provenance", f"{repository}:prod", "-o", kept)
    assert (code, "not written over" in err) == (1, True)


def test_a_log_that_was_rolled_back_since_is_refused(ask, lineage, registry, monkeypatch):
    repository, child, _ = lineage
    note = registry.api().log_checkpoint()
    assert ask("pull", f"{repository}@{child}")[0] == 0  # this machine has seen a longer log now
    assert ask("provenance", f"{repository}@{child}")[0] == 0
    monkeypatch.setattr(Api, "log_checkpoint", lambda _self: note)
    code, _, err = ask("provenance", f"{repository}@{child}")
    assert (code, "rolled" in err) == (32, True), err


def test_an_artifact_that_nobody_stated_anything_about_ends_with_23(ask, registry, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "w").write_bytes(b"bare")
    digest = push.push(
        registry.api(), tmp_path / "bare", parse_reference("demo/bare"), registry.trust.signer, tags=("v1",),
        connections_at_once=2, meter=QUIET, parents=[wire.Parent(artifact="sha256:" + "ab" * 32, relation="finetune")],
    ).manifest.digest  # fmt: skip
    code, report, _ = ask("provenance", "demo/bare:v1")
    assert (code, report["exit_code"], report["complete"]) == (23, 23, False)
    assert report["gaps"] == [f"no verified import or derivation of {digest} (demo/bare)"]
    (claimed,) = [line for line in report["lines"] if line["what"] == "parent"]
    assert (claimed["state"], "ab" * 32 in claimed["text"]) == ("claimed", True)
    code, out, _ = ask("provenance", "demo/bare:v1", as_json=False)
    assert (code, "incomplete: 1 gap" in out) == (23, True)


def test_a_base_that_is_only_named_when_pushing_is_a_derivation_of_something_unknown(ask, model):
    digest = model("demo/from-elsewhere:v1", "--base", "sha256:" + "ab" * 32)
    code, report, _ = ask("provenance", "demo/from-elsewhere:v1")
    assert (code, report["complete"], len(report["gaps"])) == (23, False, 1)
    assert report["gaps"][0].startswith(f"the artifact sha256:{'ab' * 32} ")
    assert [(line["state"], line["about"]) for line in report["lines"] if line["what"] == "derivation"] == [
        ("verified", str(digest))
    ]
    assert "parent" not in {line["what"] for line in report["lines"]}


def test_a_reader_who_may_not_audit_gets_what_is_signed_and_hears_what_was_not_read(ask, lineage, registry):
    repository, _, _ = lineage
    token = registry.token("person:reader", "read-metadata:demo/*")
    code, report, err = ask("provenance", f"{repository}:prod", MODELREG_TOKEN=token)
    assert code == 0, (report, err)
    unread = [line["text"] for line in report["lines"] if line["what"] == "not read"]
    assert [text.split(":")[0] for text in unread] == ["unsigned derivations", "entries of the log"]
    assert {line["state"] for line in report["lines"] if line["what"] in {"signature", "import", "derivation"}} == {
        "verified"
    }


def test_a_parent_in_a_repository_one_may_not_read_is_unknown(ask, lineage, registry):
    repository, _, base = lineage
    token = registry.token("person:reader", f"read-metadata:{repository}")
    code, report, _ = ask("provenance", f"{repository}:prod", MODELREG_TOKEN=token)
    assert code == 23
    (line,) = [line for line in report["lines"] if line["about"] == str(base)]
    assert (line["state"], line["what"]) == ("unknown", "artifact")


def test_a_renamed_parent_is_found_by_whoever_may_audit(ask, model, state, imported):
    base, child = imported("demo/real-name"), model("demo/of-renamed:v1")
    state("demo/of-renamed", child, derivation_of(("what people call it", base)))
    code, report, _ = ask("provenance", "demo/of-renamed:v1")
    assert (code, report["artifacts"][1]["repository"]) == (0, "demo/real-name")


def test_a_dataset_is_recorded_until_its_owner_registers_it(ask, model, state):
    child, data = model("demo/on-data:v1"), sha256_of(b"tickets")
    state("demo/on-data", child, derivation_of(datasets=(("demo/tickets", data),)))
    code, report, _ = ask("provenance", "demo/on-data:v1")
    assert (code, report["datasets"][0]["statement"]) == (23, None)
    assert [line["state"] for line in report["lines"] if line["what"] == "dataset"] == ["recorded"]

    def register(digest, owner):
        code, _, err = ask(
            "dataset", "register", "demo/tickets", "--digest", digest, "--owner", owner, "--class", "confidential",
            "--lawful-basis", "contract",
        )  # fmt: skip
        assert code == 0, err

    register(sha256_of(b"other tickets"), "team-other")  # of the same name, and not what it was made of
    assert ask("provenance", "demo/on-data:v1")[0] == 23

    register(data, "team-data")
    code, report, err = ask("provenance", "demo/on-data:v1")
    assert code == 0, (report["lines"], err)
    assert report["datasets"][0]["predicate"]["owner"] == "team-data"
    (told,) = [line for line in report["lines"] if line["what"] == "dataset"]
    assert (told["state"], "class confidential, owner team-data" in told["text"]) == ("verified", True)
    # What it was made of makes it confidential: the registry's word.
    assert [line["text"] for line in report["lines"] if line["what"] == "class"] == ["confidential"]


def test_the_registrys_verdict_is_verified_until_the_promotion_is_withdrawn(ask, lineage, registry):
    repository, child, _ = lineage
    assert "verdict" not in {line["what"] for line in ask("provenance", f"{repository}:prod")[1]["lines"]}

    answer = registry.api().promote(repository, child, wire_promotions.PromotionRequest(environment="staging"))
    assert (answer.info.state, answer.verdict is None) == ("live", False)
    code, report, err = ask("provenance", f"{repository}:prod")
    assert (code, report["complete"]) == (0, True), err
    (verdict,) = [line for line in report["lines"] if line["what"] == "verdict"]
    assert (verdict["state"], verdict["about"]) == ("verified", str(child))
    assert verdict["text"].startswith(f"PASSED for modelreg:{repository}@{child}")
    entries = [line["text"] for line in report["lines"] if line["what"] == "log"]
    assert any(": promotion.granted at" in text for text in entries)

    demotion = wire_promotions.DemotionRequest(environment="staging", reason="over")
    registry.api().demote(repository, child, demotion)
    code, report, _ = ask("provenance", f"{repository}:prod")
    assert (code, "verdict" in {line["what"] for line in report["lines"]}) == (0, False)


def test_a_quarantined_ancestor_is_said(ask, lineage, registry):
    from modelreg import wire_recalls

    repository, _, base = lineage
    request = wire_recalls.RecallRequest(kind="quarantine", reason="INC-7")
    registry.api().recall(f"demo/base-{repository[-8:]}", base, request)
    _, report, _ = ask("provenance", f"{repository}:prod")
    (line,) = [line for line in report["lines"] if line["what"] == "recall"]
    assert (line["state"], line["about"], "INC-7" in line["text"]) == ("recorded", str(base), True)


@pytest.mark.parametrize("arguments", [[], ["demo/x", "--from", "f"], ["no-repository"], ["demo/nothing:here"]])
def test_what_cannot_be_asked_is_a_usage_error_or_not_found(ask, arguments):
    code, _, err = ask("provenance", *arguments)
    assert code == (11 if {"demo/nothing:here", "f"} & {*arguments} else 2), err
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["--format", "cyclonedx"], ["--spec-version", "1.7"], ["--format", "spdx"]])
def test_a_bom_is_valid_and_the_same_bytes_every_time(ask, lineage, tmp_path, arguments):
    repository, child, base = lineage
    at = ["--timestamp", "2026-11-24T12:00:00Z"]
    code, out, err = ask("bom", f"{repository}:prod", *arguments, *at, as_json=False)
    assert code == 0, err
    path = tmp_path / "bom.json"
    code, report, err = ask("bom", f"{repository}:prod", *arguments, *at, "-o", path, "--profile", "g7-2026")
    assert code == 0, err
    assert path.read_text() == out
    assert {str(child), str(base)} <= set(json.dumps(json.loads(out)).replace('"', " ").split())
    assert (report["complete"], report["coverage"]["profile"], len(report["coverage"]["clusters"])) == (
        True,
        "g7-2026",
        7,
    )
    if "spdx" in arguments:
        from spdx_python_model import v3_0_1

        objects = v3_0_1.SHACLObjectSet()
        v3_0_1.JSONLDDeserializer().deserialize_data(json.loads(out), objects)
        assert not list(objects.link())
    else:
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator

        version = SchemaVersion.V1_7 if "1.7" in arguments else SchemaVersion.V1_6
        assert JsonStrictValidator(version).validate_str(out) is None


def test_the_coverage_report_goes_beside_a_document_on_stdout(ask, lineage):
    code, out, err = ask("bom", f"{lineage[0]}:prod", "--profile", "g7-2026", as_json=False)
    assert (code, json.loads(out)["bomFormat"]) == (0, "CycloneDX")
    assert "Models: 9 of 13" in err
    assert "Dataset Properties: 0 of 10" in err


def test_a_bom_of_what_does_not_verify_is_not_written(ask, model, registry, tmp_path, monkeypatch):
    model("demo/unsigned:v1")
    collect = provenance_collection.collect

    def without_signatures(*arguments):
        file = collect(*arguments)
        first = file.artifacts[0].model_copy(update={"signatures": []})
        return file.model_copy(update={"artifacts": [first]})

    monkeypatch.setattr(provenance_collection, "collect", without_signatures)
    path = tmp_path / "bom.json"
    code, _, err = ask("bom", "demo/unsigned:v1", "-o", path)
    assert (code, path.exists()) == (10, False), err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--timestamp", "yesterday"], "is no time"),
        (["--format", "spdx", "--spec-version", "1.7"], "3.0.1"),
        (["--format", "xml"], "xml"),
    ],
)
def test_a_bom_that_cannot_be_made_is_a_usage_error(ask, lineage, arguments, word):
    code, _, err = ask("bom", f"{lineage[0]}:prod", *arguments)
    assert (code, word in err) == (2, True), err


def test_the_inventory_lists_what_there_is(ask, lineage, registry):
    repository, child, base = lineage
    code, out, err = ask("inventory", as_json=False)
    assert code == 0, err
    assert out.splitlines()[0].split() == [
        *("REPOSITORY", "ARTIFACT", "TAGS", "OWNER", "CLASS", "STATE", "ENVIRONMENTS", "LIVE_LOADS", "SIZE"),
    ]
    (row,) = [line for line in out.splitlines() if str(child) in line]
    assert row.startswith(repository)
    assert "0 running, 0 unsure" in row

    code, value, _ = ask("inventory", "--owner", "person:tester")
    assert (code, value["schema"]) == (0, "modelreg/inventory/v1")
    told = {one["artifact"]: one for one in value["rows"]}
    assert {str(child), str(base)} <= told.keys()
    assert (told[str(child)]["classification"], told[str(child)]["environments"]) == (None, [])
    assert ask("inventory", "--owner", "person:stranger")[1]["rows"] == []
    code, _, err = ask("inventory", "--class", "secret")
    assert (code, "is no class" in err) == (2, True)


CARD = b"---\nlicense: apache-2.0\nbase_model: x/y\n---\n# A model\n\x1b[31mred\x1b[0m\n"


def test_a_model_card_is_shown_with_the_licence_that_it_claims(ask, model, registry):
    digest = model("demo/carded:v1", files={"README.md": CARD, "w": b"w"})
    code, out, _ = ask("show", "demo/carded:v1", as_json=False)
    assert (code, "card        README.md (--card shows it)" in out, "A model" in out) == (0, True, False)

    code, out, err = ask("show", "demo/carded:v1", "--card", as_json=False)
    assert code == 0, err
    assert "licence     apache-2.0, as README.md claims" in out
    assert "# A model" in out
    assert "\x1b" not in out
    granted = [event for event in registry.whole_log() if event.type == "artifact.granted"]
    assert granted[-1].artifact == str(digest)

    code, value, _ = ask("show", "demo/carded:v1", "--card")
    assert value["card"]["claimed_licence"] == "apache-2.0"
    assert value["card"]["text"].encode() == CARD
    assert ask("show", f"demo/carded@{digest}")[1]["card"]["text"] is None


def test_a_pulled_card_is_shown_without_asking_for_it_again(ask, model, registry):
    model("demo/carded:v2", files={"README.md": CARD, "w": uuid.uuid4().bytes})
    assert ask("pull", "demo/carded:v2")[0] == 0
    before = len([event for event in registry.whole_log() if event.type == "artifact.granted"])
    code, value, _ = ask("show", "demo/carded:v2", "--card")
    assert (code, value["card"]["claimed_licence"]) == (0, "apache-2.0")
    assert len([event for event in registry.whole_log() if event.type == "artifact.granted"]) == before


def test_an_artifact_without_a_card_says_nothing_of_one(ask, model):
    model("demo/cardless:v1")
    code, value, _ = ask("show", "demo/cardless:v1", "--card")
    assert (code, value["card"]) == (0, None)


def test_a_registry_that_answers_about_something_else_is_not_listened_to(ask, lineage, monkeypatch):
    repository, child, base = lineage
    real = Api.artifact
    monkeypatch.setattr(Api, "artifact", lambda api, _name, _digest: real(api, f"demo/base-{repository[-8:]}", base))
    code, _, err = ask("provenance", f"{repository}@{child}")
    assert (code, "answered about another artifact" in err) == (31, True), err


def test_a_registry_that_keeps_statements_back_or_swaps_manifests_shows_less_and_never_more(ask, lineage, monkeypatch):
    repository, child, _ = lineage
    real = Api.attestations
    nothing = wire_attestations.Attestations(artifact=str(child), attestations=[])
    monkeypatch.setattr(Api, "attestations", lambda *_arguments: nothing)
    assert ask("provenance", f"{repository}@{child}")[0] == 23
    monkeypatch.setattr(Api, "attestations", real)

    detail = Api.artifact
    monkeypatch.setattr(
        Api, "artifact", lambda api, name, digest: detail(api, name, digest).model_copy(update={"manifest": "{}"})
    )
    code, report, _ = ask("provenance", f"{repository}@{child}")
    assert (code, report["complete"], report["artifacts"][0]["known"]) == (20, False, False)


def test_a_registry_whose_entries_prove_nothing_is_an_error(ask, lineage, monkeypatch):
    repository, child, _ = lineage
    real = Api.log_proof
    monkeypatch.setattr(
        Api,
        "log_proof",
        lambda api, index, size: real(api, index, size).model_copy(update={"hashes": ["A" * 43 + "="]}),
    )
    code, report, _ = ask("provenance", f"{repository}@{child}")
    assert (code, [line["what"] for line in report["lines"] if line["state"] == "failed"]) == (32, ["log"])
