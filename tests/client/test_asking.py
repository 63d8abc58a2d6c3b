"""The questions of an incident with the real CLI against a real registry."""

import json
import os
import struct
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlmodel import select

from modelreg import statements
from modelreg.digests import sha256_of
from modelreg_server import custody, custody_identities
from modelreg_server.custody import Actor, Event, EventType
from modelreg_server.tables import ArtifactFile, Recall, RuntimeLoad
from support.hosts import enrol

FOUND, NOTHING = 40, 0
NEVER = "sha256:" + "0" * 64


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
    """Publish a folder with fresh bytes; its path and what push said."""

    def make(reference="demo/m", *more, files=None):
        root = tmp_path / uuid.uuid4().hex
        root.mkdir()
        for name, data in (files or {"model.safetensors": uuid.uuid4().bytes * 9, "config.json": b"{}"}).items():
            (root / name).write_bytes(data)
        code, pushed, err = ask("push", root, reference, *more)
        assert code == 0, err
        return root, pushed

    return make


def test_a_file_found_on_a_host_is_traced_to_its_artifact_and_the_signature_is_verified(ask, model):
    root, pushed = model("demo/found:v7")

    code, answer, _ = ask("trace", root / "model.safetensors")

    assert (code, answer["schema"]) == (FOUND, "modelreg/trace/v1")
    (traced,) = answer["artifacts"]
    assert traced["found"] == {"artifact": pushed["artifact"], "by": "file", "path": "model.safetensors"}
    (publication,) = traced["publications"]
    assert (publication["repository"], publication["tags"]) == ("demo/found", ["v7"])
    assert publication["event"] == pushed["event"]
    assert (traced["state"]["state"], traced["source"], traced["parents"]) == ("active", None, [])
    (signature,) = traced["signatures"]
    assert (signature["checked"]["verified"], signature["checked"]["identity"]) == (True, "email:al@demo.example")
    assert answer["local"]["sha256"] == answer["asked"]
    assert answer["as_of"]["log_size"] > pushed["event"]


def test_every_digest_of_an_artifact_leads_to_it(ask, model, registry):
    root, pushed = model("demo/digests")
    detail = registry.api().artifact("demo/digests", statements.Digest.parse(pushed["artifact"]))
    files = json.loads(detail.manifest)["files"]
    oms_root = str(statements.root_digest(file["sha256"] for file in files))
    weights = next(file for file in files if file["path"] == "model.safetensors")
    for asked, by in (
        (pushed["artifact"], "artifact"),
        (oms_root, "root"),
        (f"sha256:{weights['sha256']}", "file"),
        (f"blake3:{weights['blake3']}", "file"),
        ("demo/digests", "reference"),
        (f"demo/digests@{pushed['artifact']}", "artifact"),
        (f"./{root.name}", "artifact"),
    ):
        code, answer, err = ask("trace", asked)
        assert code == FOUND, (asked, err)
        assert [(row["artifact"], row["by"]) for row in answer["found"]] == [(pushed["artifact"], by)], asked
        assert answer["artifacts"][0]["signatures"][0]["checked"]["verified"], asked


def test_of_a_file_that_was_never_here_the_client_still_says_what_it_is(ask, tmp_path, model):
    model("demo/other")
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}})
    path = tmp_path / "suspect.bin"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + b"\0\0")

    code, answer, _ = ask("trace", path)
    assert (code, answer["artifacts"], answer["found"]) == (NOTHING, [], [])
    assert (answer["local"]["format"], answer["local"]["size_bytes"]) == ("safetensors", path.stat().st_size)
    assert answer["local"]["detail"] == {"tensors": 1, "types": "F16", "metadata.format": "pt"}

    code, out, _ = ask("trace", path, as_json=False)
    assert code == NOTHING
    assert "was never in this registry" in out
    assert str(sha256_of(path.read_bytes())) in out


def test_a_file_may_have_any_name_and_be_behind_a_link(ask, tmp_path, model):
    root, pushed = model("demo/linked")
    link = os.fsencode(tmp_path / "link-") + b"\xff"
    os.symlink(root / "model.safetensors", link)
    code, answer, _ = ask("trace", os.fsdecode(link))
    assert (code, answer["found"][0]["artifact"]) == (FOUND, pushed["artifact"])
    assert answer["local"]["path"].endswith("link-?")


@pytest.mark.parametrize("command", ["pulls", "loaded", "lineage", "blast-radius", "signatures", "timeline"])
def test_a_digest_that_was_never_here_has_nothing_to_read(ask, command):
    code, answer, _ = ask(command, NEVER)
    assert (code, answer["found"], answer["schema"]) == (NOTHING, [], f"modelreg/{command}/v1")
    assert ask(command, NEVER, as_json=False)[0] == NOTHING


def test_a_tag_or_repository_that_is_not_there_is_not_found(ask, model):
    model("demo/there")
    for command in ("trace", "pulls", "blast-radius"):
        assert ask(command, "demo/there:absent")[0] == 11
        assert ask(command, "demo/absent")[0] == 11
    assert ask("trace", "./no-such-file")[0] == 11
    assert ask("trace", "no reference")[0] == 2
    assert ask("pulls", NEVER, "--at", "yesterday")[0] == 2
    assert ask("pulls", NEVER, "--at", "2999-01-01T00:00:00Z")[0] == 2
    assert ask("pulls", NEVER, "--limit", "0")[0] == 2


def test_without_a_trust_policy_a_signature_is_only_recorded(ask, model, tmp_path):
    _, pushed = model("demo/unjudged")
    code, answer, _ = ask("signatures", pushed["artifact"], MODELREG_TRUST_POLICY=tmp_path / "none.toml")
    assert code == FOUND
    checked = answer["signatures"][0]["checked"]
    assert (checked["verified"], checked["code"]) == (False, "no-trust-policy")
    out = ask("signatures", pushed["artifact"], as_json=False, MODELREG_TRUST_POLICY=tmp_path / "none.toml")[1]
    assert "recorded" in out
    assert "  verified" not in out


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda text, _: text.replace("email:*@demo.example", "email:*@else.example"), "signer-not-allowed"),
        (lambda text, artifact: text.replace("artifacts = []", f'artifacts = ["{artifact}"]'), "revoked"),
        (lambda text, _: text.replace("demo/*", "else/*"), "signer-not-allowed"),
    ],
    ids=["another signer", "revoked", "no rule"],
)
def test_a_signature_that_this_machine_does_not_trust_any_more_is_recorded_and_it_says_why(
    ask, model, registry, tmp_path, change, code
):
    _, pushed = model("demo/distrusted")
    policy = tmp_path / "own.toml"
    policy.write_text(change(registry.trust.policy_path.read_text(), pushed["artifact"]))
    _, answer, _ = ask("trace", pushed["artifact"], MODELREG_TRUST_POLICY=policy)
    checked = answer["artifacts"][0]["signatures"][0]["checked"]
    assert (checked["verified"], checked["code"]) == (False, code)
    out = ask("trace", pushed["artifact"], as_json=False, MODELREG_TRUST_POLICY=policy)[1]
    assert "not verified" in out


def test_a_registry_that_says_a_file_is_in_an_artifact_where_it_is_not_is_not_believed(ask, model, registry):
    _, pushed = model("demo/lied-about")
    lie = "sha256:" + "ab" * 32
    with registry.parts.database.writing() as session, session.begin():
        row = session.exec(select(ArtifactFile).where(ArtifactFile.artifact_digest == pushed["artifact"])).first()
        row.sha256 = lie.removeprefix("sha256:")
        session.add(row)
    _, answer, _ = ask("trace", lie)
    checked = answer["artifacts"][0]["signatures"][0]["checked"]
    assert (checked["verified"], checked["code"]) == (False, "digest-mismatch")


def test_pulls_say_who_where_and_whether_it_arrived(ask, model, registry, tmp_path):
    _, pushed = model("demo/pulled")
    host = enrol(registry, "gpu-pulls")
    grant(registry, "host:gpu-pulls", "demo/pulled")
    host.api().request_grant("demo/pulled", grant_request(pushed["artifact"], "claimed-name", "launch"))
    assert ask("pull", "demo/pulled", MODELREG_HOST_NAME="laptop-7")[0] == 0
    nobody = registry.token("person:nobody", "read-metadata:demo/*")
    assert ask("pull", "demo/pulled", MODELREG_TOKEN=nobody)[0] == 30

    code, answer, _ = ask("pulls", pushed["artifact"])

    assert (code, answer["granted"], answer["refused"]) == (FOUND, 2, 1)
    refused, pulled, launched = answer["pulls"]
    assert (refused["decision"], refused["principal"], refused["received_at"]) == ("refused", "person:nobody", None)
    assert refused["reason"].startswith("forbidden: ")
    assert (pulled["principal"], pulled["host"], pulled["verified_host"]) == ("person:tester", "laptop-7", None)
    assert (pulled["purpose"], pulled["client_address"], pulled["confidence"]) == ("pull", "127.0.0.1", "claimed")
    assert pulled["received_at"] is not None
    assert (launched["principal"], launched["verified_host"]) == ("host:gpu-pulls", "gpu-pulls")
    assert (launched["host"], launched["purpose"], launched["confidence"]) == ("claimed-name", "launch", "unknown")
    assert answer["unknown"] == [
        {"what": "arrival", "count": 1, "text": "granted, and nobody said that it arrived"},
    ]
    later = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    assert ask("pulls", pushed["artifact"], "--since", later)[0] == NOTHING
    assert len(ask("pulls", pushed["artifact"], "--limit", "2")[1]["pulls"]) == 2
    out = ask("pulls", pushed["artifact"], as_json=False)[1]
    assert "2 granted, 1 refused" in out
    assert "gpu-pulls" in out


def test_loaded_tells_running_stale_silent_and_ended_apart_and_knows_the_past(ask, model, registry):
    _, pushed = model("demo/loaded")
    now = datetime.now(UTC)
    with registry.parts.database.writing() as session, session.begin():
        for host, minutes, seen, beats, ended in (
            ("running", 30, 0, 60, None),
            ("stale", 30, 10, 60, None),
            ("silent", 30, 30, None, None),
            ("ended", 30, 5, 60, 5),
        ):
            session.add(load(pushed["artifact"], host, now, minutes, seen, beats, ended))

    code, answer, _ = ask("loaded", pushed["artifact"])
    assert (code, answer["counts"]) == (FOUND, {"running": 1, "stale": 1, "unknown": 1})
    assert [(row["host"], row["state"], row["confidence"]) for row in answer["loads"]] == [
        ("running", "running", "claimed"), ("stale", "stale", "stale"), ("silent", "unknown", "unknown"),
    ]  # fmt: skip
    assert {row["what"]: row["count"] for row in answer["unknown"]} == {
        "hosts-without-heartbeat": 1, "stale": 1, "runtime-version": 3,
    }  # fmt: skip
    assert ask("loaded", pushed["artifact"], "--all")[1]["counts"]["ended"] == 1
    then = (now - timedelta(minutes=7)).isoformat()
    # What was not published yet was loaded nowhere: the question is asked of the record as it was.
    assert ask("loaded", pushed["artifact"], "--at", then)[0] == NOTHING


def test_a_load_that_only_an_event_tells_of_is_an_unknown_row(ask, model, registry):
    _, pushed = model("demo/old-load")
    with registry.parts.database.writing() as session, session.begin():
        event = Event(EventType.ARTIFACT_LOADED, "demo/old-load", pushed["artifact"], host="old-1", detail={"pid": 7})
        custody.append(session, Actor("person:old", None), event, datetime.now(UTC))
    _, answer, _ = ask("loaded", pushed["artifact"])
    assert [(row["host"], row["pid"], row["state"], row["confidence"]) for row in answer["loads"]] == [
        ("old-1", 7, "unknown", "unknown")
    ]


def test_what_was_made_from_what_is_attested_and_only_added_to(ask, model, registry):
    _, base = model("demo/base")
    folder, child = model("demo/child", "--base", "demo/base", "--base", NEVER)
    _, again, _ = ask("push", folder, "demo/child", "--base", base["artifact"], "--relation", "quantized")
    assert (again["created"], again["event"]) == (False, child["event"])
    ask("push", folder, "demo/child", "--base", base["artifact"], "--relation", "quantized")
    ask("push", folder, "demo/child")
    stated = [e for e in registry.whole_log() if e.type == "artifact.attested" and e.artifact == child["artifact"]]
    assert {e.detail["kind"] for e in stated} == {"provenance"}
    assert len(stated) in {2, 3}  # the same words within one second are one statement

    code, answer, _ = ask("lineage", child["artifact"], "--up")
    assert (code, answer["down"]) == (FOUND, [])
    assert {(e["parent"], e["relation"], e["grade"], e["confidence"]) for e in answer["up"]} == {
        (base["artifact"], "finetune", "attested", "recorded"),
        (base["artifact"], "quantized", "attested", "recorded"),
        (NEVER, "finetune", "attested", "recorded"),
    }
    assert {e["event"] for e in answer["up"]} == {stated[0].index, stated[1].index}
    assert {node["artifact"]: node["known"] for node in answer["nodes"]} == {
        child["artifact"]: True, base["artifact"]: True, NEVER: False,
    }  # fmt: skip
    out = ask("lineage", base["artifact"], as_json=False)[1]
    assert f"  into finetune {child['artifact']} demo/child [attested]" in out
    assert "nobody said what it was made from" in out
    # The dangling parent is nobody's artifact, and still it is known what came of it, once it is published.
    assert ask("lineage", NEVER)[0] == NOTHING


def test_a_circle_of_claims_is_printed_once_around(ask, model, tmp_path):
    first_folder, first = model("demo/circle-a")
    _, second = model("demo/circle-b", "--base", first["artifact"])
    ask("push", first_folder, "demo/circle-a", "--base", second["artifact"])
    code, out, _ = ask("lineage", first["artifact"], "--down", as_json=False)
    assert code == FOUND
    assert out.count("into finetune") == 2
    assert "(see above)" in out


def test_the_blast_radius_reaches_descendants_hosts_loads_and_people_from_every_side(ask, model, registry):
    _, base = model("demo/blast-base")
    _, child = model("demo/blast-child", "--base", base["artifact"])
    host = enrol(registry, "gpu-blast")
    grant(registry, "host:gpu-blast", "demo/blast-child")
    host.api().request_grant("demo/blast-child", grant_request(child["artifact"], "gpu-blast", "launch"))
    with registry.parts.database.writing() as session, session.begin():
        row = load(child["artifact"], "gpu-blast", datetime.now(UTC), 1, 0, 60, None)
        row.verified_host = "gpu-blast"
        session.add(row)

    code, answer, _ = ask("blast-radius", base["artifact"])
    assert code == FOUND
    assert [(row["artifact"], row["depth"], row["confidence"]) for row in answer["artifacts"]] == [
        (base["artifact"], 0, "recorded"), (child["artifact"], 1, "recorded"),
    ]  # fmt: skip
    (reached,) = answer["hosts"]
    assert (reached["host"], reached["verified"], reached["live_loads"]) == ("gpu-blast", True, 1)
    assert (reached["zone"], reached["invited_by"]) == ("eu-1", "person:tester")
    people = {row["principal"]: row["roles"] for row in answer["people"]}
    assert people == {"person:tester": ["publisher", "signer", "inviter"], "host:gpu-blast": ["puller"]}
    assert answer["counts"]["live_loads"] == len(answer["loads"]) == 1

    for target, kind in (("person:tester", "principal"), ("email:al@demo.example", "signer"), ("email:*@*", "signer")):
        code, by, _ = ask("blast-radius", target)
        assert (code, by["kind"]) == (FOUND, kind)
        assert {base["artifact"], child["artifact"]} <= {row["artifact"] for row in by["artifacts"]}
    _, by_host, _ = ask("blast-radius", "host:gpu-blast")
    assert [(row["artifact"], row["why"]) for row in by_host["artifacts"]] == [
        (child["artifact"], "granted to or loaded on gpu-blast")
    ]
    key = ask("signatures", base["artifact"])[1]["signatures"][0]["key"]
    assert ask("blast-radius", key)[1]["kind"] == "signer"
    assert ask("blast-radius", "person:stranger")[0] == NOTHING
    out = ask("blast-radius", base["artifact"], as_json=False)[1]
    assert "2 artifacts (1 derived), 1 grants (0 arrived), 1 hosts, 1 live loads" in out


def test_a_timeline_has_every_event_in_order_and_pages_through(ask, model):
    folder, first = model("demo/story:one")
    assert ask("pull", "demo/story:one")[0] == 0
    ask("tag", "demo/story:one", "two")
    _, second = model("demo/story:one")

    code, answer, _ = ask("timeline", first["artifact"])
    assert code == FOUND
    kinds = [event["type"] for event in answer["events"]]
    assert kinds == [
        "artifact.published", "tag.moved", "artifact.scanned", "tag.resolved", "artifact.granted", "artifact.received",
        "tag.resolved", "tag.moved",
    ]  # fmt: skip
    assert [e["index"] for e in answer["events"]] == sorted(e["index"] for e in answer["events"])
    # The tag's own story goes on where it moved to.
    of_tag = ask("timeline", "demo/story:one")[1]["events"]
    assert of_tag[0]["artifact"] == first["artifact"]
    assert of_tag[-1]["artifact"] == second["artifact"]
    whole = ask("timeline", "demo/story")[1]
    assert whole["total"] == len(whole["events"]) == len(kinds) + 3
    newest = ask("timeline", "demo/story", "--limit", "3")[1]
    assert (newest["events"], newest["truncated"], newest["total"]) == (whole["events"][-3:], True, whole["total"])
    assert folder.is_dir()


def test_the_past_is_asked_of_the_record_as_it_was(ask, model):
    before = datetime.now(UTC).isoformat()
    _, first = model("demo/past")
    between = datetime.now(UTC).isoformat()
    _, second = model("demo/past")
    assert ask("trace", first["artifact"], "--at", before)[0] == NOTHING
    assert ask("trace", "demo/past", "--at", before)[0] == 11
    assert ask("trace", "demo/past", "--at", between)[1]["found"][0]["artifact"] == first["artifact"]
    then = ask("trace", first["artifact"], "--at", between)[1]["artifacts"][0]["publications"][0]
    now = ask("trace", first["artifact"])[1]["artifacts"][0]["publications"][0]
    assert (then["tags"], now["tags"]) == (["latest"], [])
    assert ask("trace", "demo/past")[1]["found"][0]["artifact"] == second["artifact"]


def test_a_recalled_artifact_says_so_and_its_signature_may_still_hold(ask, model, registry):
    _, pushed = model("demo/recalled")
    with registry.parts.database.writing() as session, session.begin():
        session.add(
            Recall(
                id=str(uuid.uuid4()), artifact_digest=pushed["artifact"], kind="quarantine", reason="looks\x1bodd",
                created_at=datetime.now(UTC), created_by="person:ir", event_index=0,
            )
        )  # fmt: skip
    _, answer, _ = ask("trace", pushed["artifact"])
    state = answer["artifacts"][0]["state"]
    assert (state["state"], state["by"]) == ("quarantined", "person:ir")
    out = ask("trace", pushed["artifact"], as_json=False)[1]
    assert "QUARANTINED since" in out
    assert "\x1b" not in out


def test_an_erased_person_is_shown_by_their_pseudonym_and_still_counted(ask, model, registry):
    _, pushed = model("demo/erased")
    token = registry.token("person:forgotten", "pull:demo/*")
    assert ask("pull", "demo/erased", MODELREG_TOKEN=token)[0] == 0
    assert ask("pulls", pushed["artifact"])[1]["pulls"][0]["principal"] == "person:forgotten"
    with registry.parts.database.writing() as session, session.begin():
        custody_identities.erase(session, "person:forgotten")

    _, answer, _ = ask("pulls", pushed["artifact"])
    assert answer["pulls"][0]["principal"].startswith("erased:")
    assert answer["pulls"][0]["client_address"] is None
    people = {row["principal"]: row for row in ask("blast-radius", pushed["artifact"])[1]["people"]}
    assert people[answer["pulls"][0]["principal"]]["grants"] == 1
    assert "forgotten" not in json.dumps([answer, people])


def test_an_event_of_an_old_release_names_its_person_plainly(ask, model, registry):
    _, pushed = model("demo/plain")
    with registry.parts.database.engine.begin() as connection:
        size = connection.execute(text("SELECT size FROM custody_head")).scalar_one()
        # Far behind the head, where no event of this test run comes to be.
        connection.execute(
            text(
                'INSERT INTO custody_event ("index", type, recorded_at, principal, repository, artifact, host, purpose, '
                "client_address, detail, entry) VALUES (:index, 'artifact.granted', :at, 'person:plain', 'demo/plain', "
                ":artifact, 'old-host', 'pull', '10.0.0.1', '{\"grant\": \"g\"}', :entry)"
            ),
            {
                "index": size + 10_000_000, "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
                "artifact": pushed["artifact"], "entry": b"{}",
            },
        )  # fmt: skip
    _, answer, _ = ask("pulls", pushed["artifact"])
    assert [(row["principal"], row["client_address"]) for row in answer["pulls"]] == [("person:plain", "10.0.0.1")]
    people = {row["principal"] for row in ask("blast-radius", pushed["artifact"])[1]["people"]}
    assert "person:plain" in people


def grant(registry, subject, repository):
    from support.hosts import grant as granted

    granted(registry, subject, "pull", repository)


def grant_request(artifact, host, purpose):
    from modelreg import wire

    return wire.GrantRequest(artifact=artifact, purpose=purpose, host=host)


def load(artifact, host, now, minutes, seen, beats, ended):
    """A load `minutes` ago that was last seen `seen` minutes ago, and ended `ended` minutes ago."""
    return RuntimeLoad(
        id=str(uuid.uuid4()), artifact_digest=artifact, repository="demo/m", host=host, boot_id="b", pid=1, command="c",
        loaded_at=now - timedelta(minutes=minutes), event_index=-1, heartbeat_seconds=beats,
        last_seen_at=now - timedelta(minutes=seen), ended_at=None if ended is None else now - timedelta(minutes=ended),
    )  # fmt: skip
