"""import with the real CLI, from a hub on loopback into a real registry."""

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from modelreg import attestations, fetching, provenance
from modelreg.attestations import Kind
from modelreg.digests import Digest, sha256_of
from modelreg.provenance import Import
from support import canary, shared
from support.hub import Cdn, running, running_hub
from support.policies import policy_toml, rule, sigstore_authority

LOCAL = ("--allow-http", "--allow-private-address")
CARD = b"---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny\n"
TOKEN = canary.plant("hf_canary_gated_token_0123456789abcdef")


def weights(size=3 * 1024 * 1024 + 17, seed=1):
    block = bytes((seed * 31 + at * 7) % 251 for at in range(4096))
    return (block * (size // len(block) + 1))[:size]


def files(**more):
    return {
        "README.md": CARD,
        "config.json": b'{"model_type": "tiny"}',
        "model.safetensors": weights(),
        "tokenizer/vocab.txt": b"a\nb\n",
        "empty.txt": b"",
        ".gitattributes": b"*.safetensors filter=lfs\n",
        **more,
    }


@pytest.fixture
def hub():
    with running_hub() as running_one:
        yield running_one


@pytest.fixture
def bring(run, registry, home, hub):
    """`modelreg import … --json` from the hub: exit code, answer, stderr."""
    environment = {k: v for k, v in registry.environment(home).items() if k.startswith("MODELREG_")}

    def call(source, reference, *more, endpoint=True, command="import", **extra):
        arguments = [command, source, reference] if command == "import" else [*command.split(), source]
        where = ["--from-endpoint", hub.url] if endpoint and source.startswith("hf://") else []
        code, out, err = run(*arguments, *where, *LOCAL, *more, "--json", **{**environment, **extra})
        return code, json.loads(out) if out else None, err

    return call


def statement_of(registry, answer, kind=Kind.PROVENANCE):
    """The verified import statements of what was imported."""
    artifact = Digest.parse(answer["artifact"])
    rows = registry.api().attestations(answer["repository"], artifact, kind.value).attestations
    (row,) = rows
    return attestations.verify(
        row.bundle.encode(),
        policy=registry.trust.policy,
        repository=answer["repository"],
        now=datetime.now(UTC),
        subject=artifact,
        kind=kind,
    ).attestation


def staged(home):
    return [path for path in (home / ".cache" / "modelreg" / "imports").rglob("*") if path.is_file()]


def test_a_whole_repository_is_imported_at_the_commit_that_its_branch_is(bring, hub, registry, home):
    model = hub.add("acme-ai/tiny", files())
    first = model.commit
    code, answer, err = bring("hf://acme-ai/tiny", "demo/tiny:v1")

    assert code == 0, err
    assert (answer["source"], answer["revision"], answer["licence"]) == ("hf://acme-ai/tiny", first, "apache-2.0")
    assert answer["files"] == answer["declared_files"] == 5  # .gitattributes is never part of an artifact
    assert answer["received_bytes"] == sum(len(data) for name, data in files().items() if name != ".gitattributes")
    assert not staged(home)

    said = statement_of(registry, answer)
    made = provenance.read(said.predicate)
    assert isinstance(made, Import)
    assert (made.source, made.revision, made.fetched_by) == ("hf://acme-ai/tiny", first, "person:tester")
    by_path = {file.path: file for file in made.files}
    stored = model.commits[first]
    assert by_path["model.safetensors"].upstream == {"sha256": stored["model.safetensors"].sha256}
    assert by_path["config.json"].upstream == {"git-sha1": stored["config.json"].git_sha1}
    assert all(by_path[name].sha256 == stored[name].sha256 for name in by_path)
    assert by_path["tokenizer/vocab.txt"].uri == f"{hub.url}/acme-ai/tiny/resolve/{first}/tokenizer/vocab.txt"
    assert made.upstream_signature == {"verdict": "none"}
    assert str(said.digest) == answer["statement"]


def test_the_event_names_source_revision_and_statement(bring, hub, registry):
    model = hub.add("acme-ai/event", files())
    _, answer, _ = bring("hf://acme-ai/event@main", "demo/event", "--class", "internal")

    events = [e for e in registry.whole_log() if e.repository == "demo/event"]

    assert [event.type for event in events] == [
        "artifact.published", "artifact.imported", "artifact.attested", "tag.moved", "artifact.scanned",
    ]  # fmt: skip
    detail = events[1].detail
    assert (detail["source"], detail["revision"]) == ("hf://acme-ai/event", model.commit)
    assert detail["statement"] == answer["statement"]
    assert provenance.read(statement_of(registry, answer).predicate).classification == "internal"


def test_trace_tells_where_it_was_imported_from(bring, run, hub, registry, home):
    model = hub.add("acme-ai/traced", files())
    _, answer, _ = bring("hf://acme-ai/traced", "demo/traced")

    environment = {k: v for k, v in registry.environment(home).items() if k.startswith("MODELREG_")}
    _, out, _ = run("trace", answer["artifact"], "--json", **environment)

    assert json.loads(out)["artifacts"][0]["source"] == f"hf://acme-ai/traced at {model.commit}"


@pytest.mark.parametrize("kind", ["commit", "tag", "branch"])
def test_a_pinned_revision_is_imported_although_main_moved_on(bring, hub, kind):
    model = hub.add("acme-ai/pinned", files(**{"which.txt": b"old"}))
    old = model.commit
    model.tags["v1"], model.branches["release/1.0"] = old, old
    hub.add("acme-ai/pinned", files(**{"which.txt": b"new"}))

    revision = {"commit": old, "tag": "v1", "branch": "release/1.0"}[kind]
    code, answer, err = bring(f"hf://acme-ai/pinned@{revision}", f"demo/pinned-{kind}")

    assert code == 0, err
    assert answer["revision"] == old


def test_a_tree_on_several_pages_is_whole(bring, hub):
    hub.page = 3
    hub.add("acme-ai/pages", files(**{f"part/{at}.json": b"%d" % at for at in range(20)}))

    code, answer, err = bring("hf://acme-ai/pages", "demo/pages")

    assert (code, answer["files"]) == (0, 25), err


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
def test_a_flipped_byte_is_refused_by_name_with_both_digests_and_not_kept(bring, hub, registry, home, path):
    model = hub.add("acme-ai/flipped", files())
    model.flipped[path] = 5
    stored = model.commits[model.commit][path]
    declared = f"sha256:{stored.sha256}" if stored.lfs else f"git-sha1:{stored.git_sha1}"

    repository = f"demo/flipped-{path}"
    code, _, err = bring("hf://acme-ai/flipped", repository)

    problem = json.loads(err)
    assert (code, problem["code"], problem["path"], problem["expected"]) == (20, "digest-mismatch", path, declared)
    assert problem["measured"] != declared
    assert problem["measured"] in problem["detail"]
    assert declared in problem["detail"]
    kept = {found.name for found in staged(home)}
    assert path not in kept
    assert not any(found.is_file() and found.stat().st_size == stored.size for found in staged(home))
    assert not [e for e in registry.whole_log() if e.repository == repository]

    model.flipped.clear()
    code, _, err = bring("hf://acme-ai/flipped", repository)
    assert code == 0, err


def test_what_the_hub_declares_wrongly_is_refused(bring, hub):
    model = hub.add("acme-ai/declared", files())
    model.declared["model.safetensors"] = "0" * 64

    code, _, err = bring("hf://acme-ai/declared", "demo/declared")

    assert (code, json.loads(err)["expected"]) == (20, f"sha256:{'0' * 64}")


def test_an_interrupted_import_goes_on_where_it_was(bring, hub, monkeypatch, home):
    size = 80 * 1024 * 1024
    model = hub.add("acme-ai/resumed", files(**{"model.safetensors": weights(size)}))
    landed = fetching._Landing._land

    def stops(self, at, digest):
        landed(self, at, digest)
        if len(self.landed) >= 20:
            raise RuntimeError("the power went out")

    monkeypatch.setattr(fetching._Landing, "_land", stops)
    assert bring("hf://acme-ai/resumed", "demo/resumed")[0] == 1
    monkeypatch.setattr(fetching._Landing, "_land", landed)
    assert staged(home)
    hub.sent_bytes.clear()

    code, answer, err = bring("hf://acme-ai/resumed", "demo/resumed")

    assert code == 0, err
    assert answer["kept_bytes"] >= 15 * 1024 * 1024
    assert answer["kept_bytes"] + answer["received_bytes"] == sum(
        file.size for name, file in model.commits[model.commit].items() if name != ".gitattributes"
    )
    assert hub.sent_bytes["model.safetensors"] < size
    assert not staged(home)


@pytest.mark.parametrize("damage", ["bytes", "journal", "whole", "stranger"])
def test_what_is_kept_is_measured_before_it_is_gone_on_with(bring, hub, monkeypatch, home, damage):
    hub.add("acme-ai/damaged", files(**{"model.safetensors": weights(40 * 1024 * 1024)}))
    monkeypatch.setattr("modelreg.push.push", lambda *_args, **_more: (_ for _ in ()).throw(RuntimeError("stop")))
    if damage in {"bytes", "journal"}:
        finish = fetching._Landing.settle
        monkeypatch.setattr(fetching._Landing, "settle", lambda self: finish(self) if self.file.size < 2**20 else 1 / 0)
    assert bring("hf://acme-ai/damaged", "demo/damaged")[0] == 1
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(home))
    area = home / ".cache" / "modelreg" / "imports"
    partial = next((path for path in area.glob("*/partial/*") if path.stat().st_size > 2**20), None)
    if damage == "bytes":
        with partial.open("r+b") as file:
            file.seek(9 * 1024 * 1024)
            file.write(b"rotten")
    elif damage == "journal":
        journal = partial.with_suffix(".chunks")
        journal.write_bytes(journal.read_bytes()[:-3] + b"\n99 " + b"0" * 64 + b"\nnonsense\n1 " + b"0" * 64 + b"\n")
    elif damage == "whole":
        (whole,) = area.glob("*/files/model.safetensors")
        with whole.open("r+b") as file:
            file.write(b"rotten")
    else:
        (folder,) = area.glob("*/files")
        (folder / "evil.py").write_text("import os")
    hub.sent_bytes.clear()

    code, answer, err = bring("hf://acme-ai/damaged", "demo/damaged")

    assert code == 0, err
    assert answer["files"] == 5
    expected = {"bytes": 1, "journal": 2, "whole": 40, "stranger": 0}[damage] * 1024 * 1024
    assert hub.sent_bytes["model.safetensors"] == expected


def test_bytes_that_change_between_fetching_and_publishing_are_not_published(bring, hub, monkeypatch, home):
    hub.add("acme-ai/swapped", files())
    fetch = fetching.fetch

    def swapping(upstream, resolved, area, **more):
        done = fetch(upstream, resolved, area, **more)
        (area.files / "config.json").write_bytes(b'{"auto_map": "evil"}')
        return done

    monkeypatch.setattr(fetching, "fetch", swapping)

    code, _, err = bring("hf://acme-ai/swapped", "demo/swapped")

    assert (code, json.loads(err)["path"]) == (20, "config.json")


def test_a_redirect_to_a_cdn_brings_the_bytes_and_not_its_signature_into_the_record(bring, hub, registry):
    hub.add("acme-ai/cdn", files(), gated_for=TOKEN)
    with running(Cdn(hub)) as cdn:
        hub.cdn = cdn
        code, answer, err = bring("hf://acme-ai/cdn", "demo/cdn", MODELREG_SOURCE_TOKEN=TOKEN)

    assert code == 0, err
    assert cdn.sent_bytes["model.safetensors"] == len(weights())
    assert all("Authorization" not in headers for _, _, headers in cdn.asked)
    assert "X-Amz" not in statement_of(registry, answer).payload.decode()


@pytest.mark.parametrize("how", ["variable", "file"])
def test_a_gated_model_is_imported_and_the_token_is_nowhere(bring, run, hub, registry, home, tmp_path, how):
    hub.add("acme-ai/gated", files(**{"how.txt": how.encode()}), gated_for=TOKEN)
    more, environment = (), {"MODELREG_SOURCE_TOKEN": TOKEN}
    if how == "file":
        (tmp_path / "token").write_text(TOKEN + "\n")
        more, environment = ("--token-file", tmp_path / "token"), {}

    code, answer, err = bring("hf://acme-ai/gated", f"demo/gated-{how}", *more, **environment)
    assert code == 0, err
    (tmp_path / "token").unlink(missing_ok=True)

    # Errors, events, logs and outputs are searched by the canary while they pass; here is everything that was written.
    written = [path for root in (home, registry.parts.settings.data_dir) for path in root.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []
    assert TOKEN not in statement_of(registry, answer).payload.decode()
    assert all(TOKEN not in path for _, path, _ in hub.asked)


@pytest.mark.parametrize("given", [None, "wrong"])
def test_without_the_right_token_a_gated_model_is_not_imported(bring, hub, given):
    wrong = canary.plant("hf_wrong_canary_token_0123456789")
    hub.add("acme-ai/closed", files(), gated_for=TOKEN)

    code, _, err = bring("hf://acme-ai/closed", "demo/closed", **({"MODELREG_SOURCE_TOKEN": wrong} if given else {}))

    assert (code, json.loads(err)["code"]) == (30, "unauthenticated")
    assert "accept the source's terms" in err


def test_the_public_hubs_token_is_not_given_to_a_mirror(bring, hub):
    canary.plant("hf_public_canary_token_0123456789")
    hub.add("acme-ai/mirror", files())

    code, _, err = bring("hf://acme-ai/mirror", "demo/mirror", HF_TOKEN="hf_public_canary_token_0123456789")

    assert code == 0, err
    assert all("Authorization" not in headers for _, _, headers in hub.asked)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("hf://acme-ai/absent", 11), ("hf://acme-ai/tiny@no-such-branch", 11), ("hf://acme-ai/tiny@" + "0" * 40, 11),
        ("hf://justaname", 2), ("hf://datasets/acme/x", 2), ("hf://a/b@..", 2), ("oci://host/x", 2), ("acme/tiny", 2),
        ("git://host/x", 2), ("https://user:pass@host/x", 2), ("https://host/x?token=1", 2), ("file://host/x", 2), ("file:///a/../b", 2),
        ("file:///no/such/folder", 11), ("https://169.254.169.254/x", 30),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_is_refused_in_a_sentence(bring, hub, source, code):
    hub.add("acme-ai/tiny", files())

    got, _, err = bring(source, "demo/refused")

    assert got == code, err


def test_hosts_on_this_machine_are_not_asked_without_leave(run, registry, home, hub):
    hub.add("acme-ai/tiny", files())
    environment = {k: v for k, v in registry.environment(home).items() if k.startswith("MODELREG_")}
    arguments = ("import", "hf://acme-ai/tiny", "demo/x", "--from-endpoint", hub.url)

    assert run(*arguments, **environment)[0] == 30
    code, _, err = run(*arguments, "--allow-http", **environment)

    assert (code, hub.asked) == (30, [])
    assert "127.0.0.1 is a private address and is not asked; --allow-private-address allows it" in err


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/etc/passwd", "a\\b", "CON", "a//b", "x\n", "model.bin:stream"]
)
def test_a_name_that_no_artifact_may_hold_is_refused_before_a_byte_is_fetched(bring, hub, home, name):
    hub.add("acme-ai/names", {"config.json": b"{}", name: b"evil"})

    code, _, err = bring("hf://acme-ai/names", "demo/names")

    assert (code, json.loads(err)["code"]) == (20, "manifest-invalid")
    assert hub.total_sent == 0
    assert not (home.parent / "evil").exists()


def test_a_file_behind_a_url_is_imported_by_its_own_digest(bring, hub, registry):
    model = hub.add("acme-ai/single", files())
    url = f"{hub.url}/acme-ai/single/resolve/{model.commit}/model.safetensors"

    code, answer, err = bring(url, "demo/single")

    assert code == 0, err
    stored = model.commits[model.commit]["model.safetensors"]
    assert (answer["source"], answer["revision"]) == (url, f"sha256:{stored.sha256}")
    (file,) = provenance.read(statement_of(registry, answer).predicate).files
    assert (file.path, file.uri, file.upstream) == ("model.safetensors", url, {"etag": f'"{stored.sha256}"'})


def test_a_folder_is_imported_by_the_artifacts_digest(bring, registry, tmp_path):
    folder = tmp_path / "a model"
    folder.mkdir()
    (folder / "config.json").write_bytes(b"{}")
    (folder / "README.md").write_bytes(CARD)

    code, answer, err = bring(folder.as_uri(), "demo/folder")

    assert code == 0, err
    assert (answer["revision"], answer["licence"]) == (answer["artifact"], "apache-2.0")
    made = provenance.read(statement_of(registry, answer).predicate)
    assert {file.path: file.uri for file in made.files}["config.json"] == f"{folder.as_uri()}/config.json"


REAL = shared.SIGNATURES / "oms-real"
REAL_SIGNER, REAL_ISSUER = "email:stefanb@us.ibm.com", "https://sigstore.verify.ibm.com/oauth2"


def upstream_trust(path, identity=REAL_SIGNER, repository="demo/*"):
    root = shared.need(REAL / "keys" / "sigstore-public-good-trusted_root.json").read_text()
    path.write_text(
        policy_toml(
            sigstore_authority("public", root, REAL_ISSUER),
            rules=[rule([repository], {"public": [identity]})],
            updated_at=datetime.now(UTC) - timedelta(days=1),
        )
    )
    return path


@pytest.mark.parametrize("version", ["v0.3.1", "v1.0.0"])
def test_a_real_upstream_signature_is_verified_and_recorded(bring, registry, tmp_path, version):
    folder = shared.need(REAL / f"{version}-sigstore")

    code, answer, err = bring(
        folder.as_uri(), f"demo/signed-{version[1:]}", "--upstream-trust", upstream_trust(tmp_path / "up.toml")
    )

    assert code == 0, err
    recorded = provenance.read(statement_of(registry, answer).predicate).upstream_signature
    assert (recorded["verdict"], recorded["identity"], recorded["file"]) == ("valid", REAL_SIGNER, "model.sig")
    assert recorded["bundle"] == str(sha256_of((folder / "model.sig").read_bytes()))
    assert answer["upstream_signature"] == recorded


def test_a_real_upstream_signature_in_a_hub_is_verified_and_recorded(bring, hub, registry, tmp_path):
    folder = shared.need(REAL / "v1.0.0-sigstore")
    model = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.add("ibm/signed", {**model, ".gitattributes": b"x"})
    trusted = upstream_trust(tmp_path / "up.toml", repository="ibm/*")

    code, answer, err = bring("hf://ibm/signed", "demo/hub-signed", "--upstream-trust", trusted)

    assert code == 0, err
    assert answer["upstream_signature"]["verdict"] == "valid"
    assert answer["files"] == 2


@pytest.mark.parametrize(
    ("change", "trusted", "verdict"),
    [
        ("nothing", None, "unknown-signer"), ("nothing", "email:somebody@else.example", "unknown-signer"),
        ("file", REAL_SIGNER, "invalid"), ("file", None, "invalid"), ("extra", REAL_SIGNER, "invalid"),
        ("missing", REAL_SIGNER, "invalid"), ("signature", REAL_SIGNER, "invalid"), ("not a bundle", None, "invalid"),
        ("no signature", REAL_SIGNER, "none"),
    ],
)  # fmt: skip
def test_the_verdict_on_an_upstream_signature(bring, registry, tmp_path, change, trusted, verdict):
    folder = tmp_path / "model"
    shutil.copytree(shared.need(REAL / "v1.0.0-sigstore"), folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    signature = folder / "model.sig"
    match change:
        case "file":
            (folder / "signme-1").write_bytes(b"other")
        case "extra":
            (folder / "evil.py").write_bytes(b"import os")
        case "missing":
            (folder / "signme-2").unlink()
        case "signature":
            text = signature.read_text()
            signature.write_text(
                text.replace('"sig": "M', '"sig": "N') if '"sig": "M' in text else text.replace('"sig":"M', '"sig":"N')
            )
        case "not a bundle":
            signature.write_text("-----BEGIN PGP SIGNATURE-----")
        case "no signature":
            signature.unlink()
    more = ("--upstream-trust", upstream_trust(tmp_path / "up.toml", trusted)) if trusted else ()

    code, answer, err = bring(folder.as_uri(), "demo/verdict", *more)

    assert code == 0, err
    assert answer["upstream_signature"]["verdict"] == verdict, answer


@pytest.mark.parametrize("version", ["v1.0.1", "v1.1.0"])
def test_a_file_that_only_the_upstream_signature_ignores_makes_it_invalid(bring, tmp_path, version):
    folder = shared.need(REAL / f"{version}-sigstore")

    _, answer, _ = bring(folder.as_uri(), "demo/ignored", "--upstream-trust", upstream_trust(tmp_path / "up.toml"))

    assert answer["upstream_signature"]["verdict"] == "invalid"
    assert "does not sign ignore-me" in answer["upstream_signature"]["why"]


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """A bucket with a model in it; its client."""
    import uuid

    import boto3
    from botocore.config import Config

    for name, value in (
        ("AWS_ENDPOINT_URL", s3_server.endpoint), ("AWS_ACCESS_KEY_ID", s3_server.access_key),
        ("AWS_SECRET_ACCESS_KEY", s3_server.secret_key), ("AWS_DEFAULT_REGION", s3_server.region),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    name = s3_server.make_bucket(f"import-{uuid.uuid4().hex}")
    quiet = Config(proxies={}, request_checksum_calculation="when_required")
    client = boto3.Session().client("s3", endpoint_url=s3_server.endpoint, config=quiet)

    def put(path, data):
        client.put_object(Bucket=name, Key=path, Body=data)

    for path, data in files().items():
        put(f"models/tiny/{path}", data)
    put("models/tiny/tokenizer/", b"")
    put("models/tinyish/other.bin", b"not below the prefix")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # the environment's proxy is not asked
    return name, put


@pytest.mark.s3
def test_a_folder_of_a_bucket_is_imported_and_drift_in_it_is_told(bring, registry, bucket):
    name, put = bucket

    code, answer, err = bring(f"s3://{name}/models/tiny", "demo/bucket")

    assert code == 0, err
    assert (answer["files"], answer["licence"], answer["declared_files"]) == (5, "apache-2.0", 0)
    made = provenance.read(statement_of(registry, answer).predicate)
    by_path = {file.path: file for file in made.files}
    assert made.source == f"s3://{name}/models/tiny/"
    assert by_path["model.safetensors"].sha256 == sha256_of(weights()).hex
    assert by_path["model.safetensors"].upstream["etag"]

    assert bring("demo/bucket", None, command="source check")[0] == 0
    put("models/tiny/config.json", b"{}")
    code, told, _ = bring("demo/bucket", None, command="source check")
    assert code == 40
    (difference,) = told["checked"][0]["files"]
    assert difference["path"] == "config.json"
    assert difference["imported"].startswith("etag:")


@pytest.mark.s3
@pytest.mark.parametrize(("where", "code"), [("{}/nothing-here", 11), ("no-such-bucket-at-all/x", 11)])
def test_an_absent_folder_of_a_bucket_is_not_found(bring, bucket, where, code):
    assert bring(f"s3://{where.format(bucket[0])}", "demo/absent-bucket")[0] == code


def test_people_read_what_happened_and_nothing_of_it_can_begin_a_line_of_its_own(run, registry, home, hub):
    model = hub.add("acme-ai/read", files(), card={"license": "mit"})
    environment = {k: v for k, v in registry.environment(home).items() if k.startswith("MODELREG_")}
    where = ("--from-endpoint", hub.url, *LOCAL)

    code, out, err = run("import", "hf://acme-ai/read", "demo/read", *where, **environment)

    lines = out.splitlines()
    assert (code, lines[0]) == (0, f"imported hf://acme-ai/read at {model.commit}")
    assert lines[1].startswith("published demo/read@sha256:")
    assert "every digest that the source declares holds; tags: latest" in lines[2]
    assert lines[3] == "  licence: mit (the source says so); upstream signature: none"
    assert "left out: .gitattributes" in err

    model.declared["config.json"] = "a" * 40
    code, out, _ = run("source", "check", "demo/read", *where, **environment)
    assert code == 40
    assert out.splitlines()[0].startswith("drift       demo/read@sha256:")
    assert out.splitlines()[1].endswith(f"found git-sha1:{'a' * 40}")


def test_importing_the_same_again_publishes_nothing_new_and_is_recorded(bring, hub, registry):
    hub.add("acme-ai/again", files())
    _, first, _ = bring("hf://acme-ai/again", "demo/again")

    code, answer, _ = bring("hf://acme-ai/again", "demo/again")

    types = [e.type for e in registry.whole_log() if e.repository == "demo/again"]
    assert (code, answer["created"], answer["sent_bytes"]) == (0, False, 0)
    assert types.count("artifact.published") == 1
    # Times have seconds: within one it is the same statement.
    assert types.count("artifact.imported") == len({first["statement"], answer["statement"]})
