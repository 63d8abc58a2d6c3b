"""source check with the real CLI: does the hub, the URL, the folder still serve what was imported?"""

import json
from datetime import UTC, datetime

import pytest

from modelreg import attestations, source_checking
from modelreg.attestations import Kind
from modelreg.digests import Digest
from support import canary
from support.hub import running_hub

LOCAL = ("--allow-http", "--allow-private-address")
TOKEN = canary.plant("hf_canary_check_token_0123456789abcdef")


@pytest.fixture
def hub():
    with running_hub() as running_one:
        yield running_one


@pytest.fixture
def cli(run, registry, home, hub):
    environment = {k: v for k, v in registry.environment(home).items() if k.startswith("MODELREG_")}

    def call(*arguments, **more):
        code, out, err = run(*arguments, *LOCAL, "--json", **{**environment, **more})
        return code, json.loads(out) if out else None, err

    return call


@pytest.fixture
def imported(cli, hub):
    """Import a model; its hub model and artifact."""

    def make(name="acme-ai/tiny", reference="demo/tiny", **more):
        model = hub.add(
            name,
            {"config.json": b"{}", "model.safetensors": name.encode() * 100, "LICENSE": b"x"},
            gated_for=more.get("token"),
        )
        environment = {"MODELREG_SOURCE_TOKEN": more["token"]} if "token" in more else {}
        code, answer, err = cli("import", f"hf://{name}", reference, "--from-endpoint", hub.url, **environment)
        assert code == 0, err
        return model, answer

    return make


def check(cli, hub, reference, *more, **environment):
    return cli("source", "check", reference, "--from-endpoint", hub.url, *more, **environment)


def stated(registry, answer):
    """The verified source-check statements about an artifact, oldest first."""
    artifact, repository = Digest.parse(answer["artifact"]), answer["repository"]
    return [
        attestations.verify(
            row.bundle.encode(),
            policy=registry.trust.policy,
            repository=repository,
            now=datetime.now(UTC),
            subject=artifact,
            kind=Kind.SOURCE_CHECK,
        ).attestation.predicate
        for row in registry.api().attestations(repository, artifact, "source-check").attestations
    ]


def test_a_source_that_serves_the_same_is_unchanged_and_that_is_stated(cli, hub, registry, imported):
    model, answer = imported(reference="demo/same")
    hub.sent_bytes.clear()

    code, told, err = check(cli, hub, "demo/same")

    assert code == 0, err
    (row,) = told["checked"]
    assert (row["result"], row["source"], row["revision"]) == ("unchanged", "hf://acme-ai/tiny", model.commit)
    assert hub.total_sent == 0
    (said,) = stated(registry, answer)
    assert said["checked_at"]
    assert (said["result"], said["source"], said["revision"], said["files"]) == (
        "unchanged", "hf://acme-ai/tiny", model.commit, [],
    )  # fmt: skip


def test_a_branch_that_moved_on_is_no_drift(cli, hub, imported):
    imported(reference="demo/moved")
    hub.add("acme-ai/tiny", {"config.json": b"{1}"})

    assert check(cli, hub, "demo/moved")[0] == 0


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
def test_drift_is_told_and_stated_with_both_digests(cli, hub, registry, imported, path):
    model, answer = imported(reference=f"demo/drift-{path}")
    before = model.commits[model.commit][path]
    kind, was = ("sha256", before.sha256) if before.lfs else ("git-sha1", before.git_sha1)
    model.declared[path] = "a" * len(was)

    code, told, err = check(cli, hub, f"demo/drift-{path}")

    difference = {"path": path, "imported": f"{kind}:{was}", "found": f"{kind}:{'a' * len(was)}"}
    assert code == 40, err
    assert (told["checked"][0]["result"], told["checked"][0]["files"]) == ("drift", [difference])
    (said,) = stated(registry, answer)
    assert (said["result"], said["files"]) == ("drift", [difference])


def test_files_that_went_and_came_at_the_same_commit_are_drift(cli, hub, imported):
    model, _ = imported(reference="demo/files")
    model.hidden.add("LICENSE")
    hub.models["acme-ai/tiny"].commits[model.commit]["evil.py"] = model.commits[model.commit]["config.json"]

    code, told, _ = check(cli, hub, "demo/files")

    rows = {row["path"]: row for row in told["checked"][0]["files"]}
    assert code == 40
    assert rows["LICENSE"]["found"] is None
    assert rows["evil.py"]["imported"] is None


@pytest.mark.parametrize("what", ["commit", "model"])
def test_what_is_gone_is_told_to_be_gone(cli, hub, registry, imported, what):
    model, answer = imported(reference=f"demo/gone-{what}")
    if what == "commit":
        model.hidden.add(model.commit)
    else:
        del hub.models["acme-ai/tiny"]

    code, told, _ = check(cli, hub, f"demo/gone-{what}")

    assert (code, told["checked"][0]["result"]) == (40, "gone")
    assert stated(registry, answer)[0]["result"] == "gone"


def test_a_source_that_does_not_let_us_in_is_unreachable_and_nothing_is_concluded(cli, hub, registry, imported):
    _, answer = imported("acme-ai/gated", "demo/unreachable", token=TOKEN)

    code, told, _ = check(cli, hub, "demo/unreachable")

    assert (code, told["checked"][0]["result"]) == (31, "unreachable")
    assert stated(registry, answer)[0]["result"] == "unreachable"
    assert check(cli, hub, "demo/unreachable", MODELREG_SOURCE_TOKEN=TOKEN)[0] == 0


def test_all_checks_what_was_imported_and_nothing_else(cli, run, hub, registry, imported, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "x.bin").write_bytes(b"pushed, not imported")
    assert cli_push(run, registry, tmp_path / "m", "demo/pushed-only", tmp_path) == 0
    model, answer = imported("acme-ai/all", "demo/all")
    model.declared["config.json"] = "b" * 40

    code, told, _ = cli("source", "check", "--all", "--from-endpoint", hub.url)

    rows = {(row["repository"], row["artifact"]): row for row in told["checked"]}
    assert code == 40
    assert rows["demo/all", answer["artifact"]]["result"] == "drift"
    assert all(repository != "demo/pushed-only" for repository, _ in rows)


def cli_push(run, registry, folder, reference, home):
    environment = {k: v for k, v in registry.environment(home).items() if k.startswith("MODELREG_")}
    return run("push", folder, reference, **environment)[0]


def test_what_was_not_imported_has_no_source_to_check(cli, run, hub, registry, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "x.bin").write_bytes(b"pushed, not imported either")
    cli_push(run, registry, tmp_path / "m", "demo/not-imported", tmp_path)

    code, _, err = check(cli, hub, "demo/not-imported")

    assert code == 11
    assert "was imported" in err


def test_nothing_is_stated_where_nobody_wants_it(cli, hub, registry, imported):
    _, answer = imported(reference="demo/quiet")

    assert check(cli, hub, "demo/quiet", "--no-record")[0] == 0
    assert stated(registry, answer) == []


def test_a_folder_is_measured_again(cli, registry, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"one")
    assert cli("import", folder.as_uri(), "demo/folder-check")[0] == 0
    assert cli("source", "check", "demo/folder-check")[0] == 0
    (folder / "a.bin").write_bytes(b"two")

    code, told, _ = cli("source", "check", "demo/folder-check")

    (difference,) = told["checked"][0]["files"]
    assert code == 40
    assert difference["imported"] != difference["found"]


@pytest.mark.parametrize("small", [True, False])
def test_a_file_behind_a_url_is_measured_if_small_and_known_by_its_validator_if_big(cli, hub, monkeypatch, small):
    model = hub.add("acme-ai/url", {"model.safetensors": b"w" * 5000})
    url = f"{hub.url}/acme-ai/url/resolve/main/model.safetensors"
    reference = f"demo/url-{small}".lower()
    assert cli("import", url, reference)[0] == 0
    if not small:
        monkeypatch.setattr(source_checking, "MAX_ANSWER_BYTES", 100)
    hub.sent_bytes.clear()
    assert cli("source", "check", reference)[0] == 0
    assert hub.total_sent <= (6000 if small else 1)
    model.add({"model.safetensors": b"v" * 5000})

    code, told, _ = cli("source", "check", reference)

    (difference,) = told["checked"][0]["files"]
    assert code == 40
    assert difference["imported"].startswith("sha256:" if small else "etag:")
    assert difference["imported"] != difference["found"]


def test_the_differences_in_a_statement_are_bounded_and_counted():
    differences = tuple(source_checking.Difference(str(at), "sha256:a", None) for at in range(1000))
    checked = source_checking.Checked("hf://a/b", "c", source_checking.Result.DRIFT, differences)

    predicate = checked.predicate(datetime(2026, 11, 24, tzinfo=UTC))

    assert (len(predicate["files"]), predicate["differing"]) == (100, 1000)
    assert predicate["checked_at"] == "2026-11-24T00:00:00Z"
