"""Evidence of an artifact: made by a real registry with real witnesses, checked where there is neither."""

import base64
import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from modelreg import evidence, notes, pull, push, trust, wire, wire_recalls
from modelreg.api import Api
from modelreg.canonical import canonical_json
from modelreg.errors import ModelregError
from modelreg.references import parse_reference
from modelreg_server import custody_identities
from modelreg_server.tables import Derivation, Recall
from support.fuzzing import assert_value_or_refusal, bounded, given, json_texts, mutations, st
from support.registry import QUIET, Trust, running_registry
from support.witnesses import WitnessProcess

ORIGIN = "registry.example/log"


class PinnedLog:
    """A log's key before there is a log, as an operator makes it."""

    def __init__(self, folder):
        self.key = Ed25519PrivateKey.generate()
        self.vkey = notes.key_of(ORIGIN, notes.ED25519, self.key.public_key())
        self.path = folder / "log.key.pem"
        self.path.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def log_table(log, witnesses, required):
    names = ", ".join(f'"{witness.vkey}"' for witness in witnesses)
    return (
        f'\n[log]\norigin = "{ORIGIN}"\nkeys = ["{log.vkey}"]\nwitnesses = [{names}]\nrequired_witnesses = {required}\n'
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A registry with two witnesses, an artifact in two repositories that was pulled, and one that has nothing to do with it."""
    folder = tmp_path_factory.mktemp("evidence")
    log = PinnedLog(folder)
    witnesses = [WitnessProcess(folder / f"w{at}", f"w{at}.example/w", log).start() for at in range(2)]
    listed = folder / "witnesses"
    listed.write_text("".join(f"witness w{at} {w.vkey} {w.url}\n" for at, w in enumerate(witnesses)))

    def policy(trusted: Trust) -> str:
        return trusted.unpinned_text + log_table(log, witnesses, 0)

    with running_registry(
        folder / "registry", policy=policy, log_key=log.path, log_origin=ORIGIN, witnesses=listed
    ) as registry:
        registry.log, registry.witnesses = log, witnesses
        registry.auditor = registry.token("person:auditor", "audit:*/*", "pull:*/*")
        registry.plain_policy = registry.trust.unpinned_text
        (folder / "model").mkdir()
        (folder / "model" / "weights.bin").write_bytes(b"the weights")
        (folder / "other").mkdir()
        (folder / "other" / "weights.bin").write_bytes(b"others")
        for name, source, who in (
            ("demo/m:v1", "model", "person:alice"),
            ("demo/other", "other", "person:alice"),
            ("demo/copy", "model", "person:bob"),
        ):
            reference = parse_reference(name)
            pushed = push.push(
                registry.api(registry.token(who)), folder / source, reference, registry.trust.signer,
                tags=[reference.tag_or_default], connections_at_once=2, meter=QUIET, stamp=None,
            )  # fmt: skip
            if source == "model":
                registry.artifact = pushed.manifest.digest
        request = wire.GrantRequest(artifact=str(registry.artifact), purpose="pull", host="gpu-7")
        registry.api(registry.token("person:carol")).request_grant("demo/m", request)
        yield registry
    for witness in witnesses:
        witness.stop()


@pytest.fixture
def policy_file(world, tmp_path):
    """Writes a trust policy with this `[log]` table, as it is pinned on a clean machine."""

    def write(required=2, log=None, witnesses=None, table=True, text=None):
        path = tmp_path / "clean-trust.toml"
        added = log_table(log or world.log, world.witnesses if witnesses is None else witnesses, required)
        path.write_text((text or world.plain_policy) + (added if table else ""))
        return path

    return write


@pytest.fixture
def verify(run, policy_file, tmp_path):
    """`modelreg evidence verify` on a machine that has the trust policy, and a registry that nobody answers for."""

    def call(file, *arguments, policy=None):
        environment = {
            "MODELREG_TRUST_POLICY": str(policy or policy_file()),
            "MODELREG_REGISTRY": "http://127.0.0.1:9",
            "XDG_STATE_HOME": tmp_path / uuid.uuid4().hex,  # a machine that has seen no policy of this version yet
        }
        code, out, err = run("evidence", "verify", file, *arguments, "--json", **environment)
        return code, json.loads(out) if out else json.loads(err)

    return call


@pytest.fixture
def create(world, run, policy_file, tmp_path):
    def call(reference, *arguments, token=None, policy=None):
        environment = {
            "MODELREG_REGISTRY": world.url,
            "MODELREG_TOKEN": token or world.auditor,
            "MODELREG_TRUST_POLICY": str(policy or policy_file()),
        }
        return run("evidence", "create", reference, *arguments, **environment)

    return call


@pytest.fixture
def file(create, tmp_path):
    path = tmp_path / "made.evidence.json"
    code, out, err = create("demo/m:v1", "-o", path)
    assert code == 0, (out, err)
    return path


def states(report):
    found = {}
    for part in report["parts"]:
        found.setdefault(part["name"], []).append(part["state"])
    return found


def test_evidence_is_made_and_verified_on_a_clean_machine_without_the_registry(world, file, verify):
    code, report = verify(file)
    assert code == 0, report
    assert report["schema"] == "modelreg/evidence-report/v1"
    assert report["artifact"] == str(world.artifact)
    assert states(report) == {
        "manifest": ["verified"],
        "signature demo/m": ["verified"],
        "signature demo/copy": ["verified"],
        "log": ["verified"],
        "events": ["verified"],
        "publication demo/m": ["verified"],
        "publication demo/copy": ["verified"],
        "identities": ["verified"],
        "trust": ["recorded"],
        "completeness": ["unprovable"],
        "times": ["recorded"],
    }
    texts = {part["name"]: part["text"] for part in report["parts"]}
    assert "2 of 2 known witnesses (2 demanded)" in texts["log"]
    assert "the log names 1 of the 1 signatures" in texts["publication demo/m"]


def test_the_file_holds_every_entry_about_the_artifact_and_no_other(world, file):
    document = json.loads(file.read_bytes())
    entries = [json.loads(event["entry"]) for event in document["events"]]
    ours = [event.index for event in world.whole_log() if event.artifact == str(world.artifact)]
    assert [event["index"] for event in document["events"]] == ours
    assert {entry["type"] for entry in entries} >= {"artifact.published", "artifact.granted", "tag.moved"}
    assert {opening["body"].get("principal") for opening in document["openings"]} >= {
        "person:alice",
        "person:bob",
        "person:carol",
    }
    # No column of ours brings a name back that was erased from the log.
    assert "person:" not in json.dumps({name: value for name, value in document.items() if name != "openings"})


def test_people_are_told_what_is_verified_and_what_no_file_can_show(file, run, policy_file):
    code, out, _err = run("evidence", "verify", file, MODELREG_TRUST_POLICY=policy_file())
    assert code == 0
    assert "verified    log: checkpoint of registry.example/log" in out
    assert "unprovable  completeness:" in out
    assert out.rstrip().endswith("everything that can be verified is verified")


def test_the_file_has_one_form_and_only_its_owner_reads_it(world, file, create, tmp_path):
    raw = file.read_bytes()
    assert evidence.render(evidence.parse(raw)) == raw
    assert file.stat().st_mode & 0o777 == 0o600
    assert create("demo/m:v1", "-o", file)[0] == 1  # not written over
    assert file.read_bytes() == raw
    documents = []
    for name in ("one.json", "two.json"):  # by digest: resolving a tag is an event
        assert create(str(world.artifact), "-o", tmp_path / name)[0] == 0
        documents.append(json.loads((tmp_path / name).read_bytes()))
    for document in documents:
        document.pop("created_at")
        document["checkpoint"] = document["checkpoint"].partition("\n\n")[0]  # a cosignature says its time
    assert documents[0] == documents[1]


def test_who_may_not_audit_everything_gets_no_evidence(world, create, tmp_path):
    token = world.token("person:eve", "pull:*/*", "audit:demo/*")
    assert create("demo/m:v1", "-o", tmp_path / "x", token=token)[0] == 30
    assert create("sha256:" + "0" * 64, "-o", tmp_path / "x")[0] == 11
    assert create("blake3:" + "0" * 64, "-o", tmp_path / "x")[0] == 2
    assert not (tmp_path / "x").exists()


def test_evidence_of_another_artifact_than_expected_is_refused(world, file, verify):
    assert verify(file, "--artifact", str(world.artifact))[0] == 0
    assert verify(file, "--artifact", "sha256:" + "1" * 64)[0] == 1


def test_a_mistyped_digest_and_what_no_file_can_hold_are_said_plainly(create, monkeypatch, tmp_path):
    code, _, err = create("sha256:abc")
    assert code == 2
    assert "'sha256:abc' is not a digest" in err
    real = Api.evidence_events

    def lie(*arguments):
        for page in real(*arguments):
            page.openings[0].body["weight"] = 1.5
            yield page

    monkeypatch.setattr(Api, "evidence_events", lie)
    code, _, err = create("demo/m:v1", "-o", tmp_path / "lie.json")
    assert code == 31, err
    assert "no evidence file can hold" in err
    assert not (tmp_path / "lie.json").exists()


def test_identities_can_be_left_out_and_commitments_stay(world, create, verify, tmp_path):
    path = tmp_path / "nameless.json"
    assert create("demo/m:v1", "-o", path, "--without-identities")[0] == 0
    assert "person:" not in path.read_text()
    code, report = verify(path)
    assert code == 0
    assert states(report)["identities"] == ["missing"]


def test_an_erased_identity_is_missing_and_everything_else_is_verified(world, create, verify, tmp_path):
    request = wire.GrantRequest(artifact=str(world.artifact), purpose="pull", host="gpu-8")
    world.api(world.token("person:gone")).request_grant("demo/m", request)
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    assert create("demo/m:v1", "-o", before)[0] == 0
    assert "person:gone" in before.read_text()
    with world.parts.database.writing() as session, session.begin():
        assert custody_identities.erase(session, "person:gone")
    assert create("demo/m:v1", "-o", after)[0] == 0
    assert "person:gone" not in after.read_text()
    code, report = verify(after)
    assert code == 0
    assert states(report)["identities"] == ["verified", "missing"]
    assert states(report)["events"] == ["verified"]
    assert verify(before)[0] == 0  # whoever was told keeps the proof


def test_too_few_witnesses_another_log_and_no_pinned_log_fail_with_32(world, file, verify, policy_file, tmp_path):
    assert verify(file, policy=policy_file(required=2))[0] == 0
    code, report = verify(file, policy=policy_file(table=False))
    assert code == 32
    assert states(report)["signature demo/m"] == ["verified"]  # the rest is looked at all the same
    assert states(report)["events"] == ["recorded"]
    other = tmp_path / "other"
    other.mkdir()
    code, report = verify(file, policy=policy_file(log=PinnedLog(other)))
    assert code == 32
    assert "verified" not in {
        *states(report)["events"],
        *states(report)["identities"],
        *states(report)["publication demo/m"],
    }
    strangers = [
        type(
            "W", (), {"vkey": notes.key_of("w.example/x", notes.COSIGNATURE, Ed25519PrivateKey.generate().public_key())}
        )
    ]
    code, report = verify(file, policy=policy_file(witnesses=[world.witnesses[0], *strangers], required=2))
    assert code == 32
    assert "1 of the 2 witnesses" in next(part["text"] for part in report["parts"] if part["name"] == "log")


def test_a_signer_that_the_policy_does_not_allow_fails_with_12_and_a_stale_policy_with_14(
    world, file, verify, policy_file
):
    text = world.plain_policy.replace("email:*@demo.example", "email:*@other.example")
    assert verify(file, policy=policy_file(text=text))[0] == 12
    later = (datetime.now(UTC) + timedelta(days=4000)).isoformat()
    assert verify(file, "--at", later)[0] == 14
    assert verify(file, "--at", "yesterday")[0] == 2


def test_what_is_revoked_today_was_signed_all_the_same_and_the_report_says_both(world, file, verify, policy_file):
    text = world.plain_policy.replace("artifacts = []", f'artifacts = ["{world.artifact}"]')
    assert text != world.plain_policy
    code, report = verify(file, policy=policy_file(text=text))
    assert code == 0
    assert "TODAY IT IS REFUSED" in next(part["text"] for part in report["parts"] if part["name"] == "signature demo/m")


def test_derivations_and_recalls_are_in_the_file_as_far_as_the_registry_has_them(world, create, verify, tmp_path):
    now = datetime.now(UTC)
    granted = next(
        e.index for e in world.whole_log() if e.type == "artifact.granted" and e.artifact == str(world.artifact)
    )
    with world.parts.database.writing() as session, session.begin():
        session.add(
            Derivation(
                child=str(world.artifact),
                parent="sha256:" + "a" * 64,
                relation="fine-tune",
                grade="claimed",
                recorded_at=now,
                event_index=0,
            )
        )
        session.add(
            Recall(
                id="r" * 36,
                artifact_digest=str(world.artifact),
                kind="quarantine",
                reason="suspicious",
                created_at=now,
                created_by="person:dan",
                event_index=granted,
                lifted_at=now,
            )
        )
    path = tmp_path / "more.json"
    assert create("demo/m:v1", "-o", path)[0] == 0
    assert "person:dan" not in path.read_text()
    code, report = verify(path)
    assert code == 0
    found = states(report)
    assert found["derivations"] == ["recorded"]
    assert found["recall"] == ["recorded"]  # entry `granted` is no recall, so that the log does not show it


@pytest.fixture(scope="module")
def recalled(world, tmp_path_factory):
    """An artifact that was quarantined and released, by commands as an operator gives them."""
    folder = tmp_path_factory.mktemp("recalled")
    (folder / "weights.bin").write_bytes(b"recalled")
    api = world.api(world.token("person:dan", "push:*/*", "tag:*/*", "quarantine:*/*", "read-metadata:*/*"))
    pushed = push.push(
        api, folder, parse_reference("demo/r"), world.trust.signer, tags=["v1"], connections_at_once=1, meter=QUIET,
        stamp=None,
    )  # fmt: skip
    artifact = pushed.manifest.digest
    api.recall("demo/r", artifact, wire_recalls.RecallRequest(kind="quarantine", reason="odd answers"))
    api.release("demo/r", artifact, wire_recalls.ReleaseRequest(reason="was nothing"))
    return artifact


def test_a_recall_that_the_log_shows_is_verified_with_its_reason_and_its_end(recalled, create, verify, tmp_path):
    path = tmp_path / "recalled.json"
    assert create(recalled, "-o", path)[0] == 0
    code, report = verify(path)
    assert code == 0
    (part,) = [part for part in report["parts"] if part["name"] == "recall"]
    assert part["state"] == "verified"
    assert "quarantine as entry" in part["text"]
    assert ": odd answers, lifted by entry" in part["text"]


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "revocation"}, {"reason": "all is well"}, {"lifted_event": None}, {"lifted_event": 0},
        {"lifted_at": "2020-01-01T00:00:00Z"}, {"kind": "anything"},
    ],
    ids=str,
)  # fmt: skip
def test_a_recall_that_says_something_else_than_its_entry_is_not_called_verified(
    recalled, create, verify, tmp_path, change
):
    path, changed = tmp_path / "recalled.json", tmp_path / "changed.json"
    assert create(recalled, "-o", path)[0] == 0
    changed.write_bytes(edited(path, lambda document: document["recalls"][0].update(change)))
    code, report = verify(changed)
    assert (code, states(report)["recall"]) == (32, ["failed"])


def edited(file, edit):
    document = json.loads(file.read_bytes())
    edit(document)
    return canonical_json(document) + b"\n"


def _swap_manifest(document):
    document["manifest"] = document["manifest"].replace("weights.bin", "Weights.bin")


def _swap_signature(document):
    bundle = json.loads(document["publications"][0]["signatures"][0]["bundle"])
    payload = bytearray(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    payload[-3] ^= 1
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    document["publications"][0]["signatures"][0]["bundle"] = json.dumps(bundle)


def _edit_entry(document):
    event = next(e for e in document["events"] if "artifact.granted" in e["entry"])
    event["entry"] = event["entry"].replace("gpu-7", "gpu-9")


def _swap_paths(document):
    one, other = document["events"][0], document["events"][1]
    one["path"], other["path"] = other["path"], one["path"]


def _repeat_event(document):
    document["events"].insert(0, document["events"][0])


def _reorder(document):
    document["events"].reverse()


def _other_index(document):
    document["events"][-1]["index"] += 1


def _drop_publication_event(document):
    index = document["publications"][0]["event"]
    document["events"] = [event for event in document["events"] if event["index"] != index]


def _other_root(document):
    lines = document["checkpoint"].split("\n")
    root = bytearray(base64.b64decode(lines[2]))
    root[0] ^= 1
    lines[2] = base64.b64encode(root).decode()
    document["checkpoint"] = "\n".join(lines)


def _drop_witness(document):
    document["checkpoint"] = document["checkpoint"].rstrip("\n").rpartition("\n")[0] + "\n"


def _rename_person(document):
    opening = next(o for o in document["openings"] if o["body"].get("principal") == "person:carol")
    opening["body"]["principal"] = "person:mallory"


def _other_salt(document):
    document["openings"][0]["salt"] = base64.b64encode(bytes(32)).decode()


def _add_opening(document):
    import hashlib

    body, salt = {"principal": "person:mallory"}, bytes(32)
    commitment = hashlib.sha256(salt + canonical_json(body)).hexdigest()
    document["openings"].append({"commitment": commitment, "salt": base64.b64encode(salt).decode(), "body": body})


def _other_artifact(document):
    document["artifact"] = "sha256:" + "1" * 64


def _no_signature(document):
    document["publications"][0]["signatures"] = []


def _no_publication(document):
    document["publications"] = []


def _other_repository(document):
    document["publications"][0]["repository"] = "demo/elsewhere"


EDITS = {
    _swap_manifest: 20,
    _swap_signature: 13,
    _edit_entry: 32,
    _swap_paths: 32,
    _repeat_event: 32,
    _reorder: 32,
    _other_index: 32,
    _drop_publication_event: 32,
    _other_root: 32,
    _drop_witness: 32,
    _rename_person: 20,
    _other_salt: 20,
    _add_opening: 20,
    _other_artifact: 20,
    _no_signature: 10,
    _no_publication: 10,
    _other_repository: 32,
}


@pytest.mark.parametrize(("edit", "code"), EDITS.items(), ids=lambda value: getattr(value, "__name__", value))
def test_an_edited_file_fails_with_the_code_of_what_does_not_hold(file, verify, tmp_path, edit, code):
    changed = tmp_path / "changed.json"
    changed.write_bytes(edited(file, edit))
    found, report = verify(changed)
    assert found == code, report
    assert report["verified"] is False


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw[:-1],
        lambda raw: raw + b"\n",
        lambda raw: b" " + raw,
        lambda raw: raw.replace(b'"schema":"modelreg/evidence/v1"', b'"schema":"modelreg/evidence/v2"'),
        lambda raw: raw.replace(b'"events_cut":false', b'"events_cut":false,"more":1'),
        lambda raw: raw.replace(b'"events_cut":false', b'"events_cut":false,"events_cut":false'),
        lambda raw: raw.replace(b'"events_cut":false,', b""),
        lambda raw: b"[" * 100_000,
        lambda raw: b"",
        lambda raw: b"\xff",
    ],
)
def test_what_is_no_evidence_file_is_refused(file, verify, tmp_path, change):
    changed = tmp_path / "changed.json"
    changed.write_bytes(change(file.read_bytes()))
    assert verify(changed)[0] == 2
    assert verify(tmp_path / "absent")[0] == 11


def test_a_file_larger_than_the_limit_is_not_parsed(file, verify, monkeypatch):
    monkeypatch.setattr(evidence, "MAX_FILE_BYTES", 100)
    assert verify(file)[0] == 2


def test_a_file_of_more_values_than_memory_is_for_is_not_parsed(file, verify, tmp_path, monkeypatch):
    """Empty objects cost three bytes in a file, and thirty times that in memory."""
    monkeypatch.setattr(evidence, "MAX_VALUES", 100_000)
    monkeypatch.setattr("modelreg.evidence.strict_json", lambda _raw: pytest.fail("it was parsed"))
    changed = tmp_path / "changed.json"
    changed.write_bytes(b'{"derivations":[' + b"{}," * 50_000 + b"{}]}\n")
    code, report = verify(changed)
    assert code == 2
    assert "values" in report["detail"]


def test_a_hash_has_one_spelling(file, verify, tmp_path):
    """The last character of its base64 has bits that no byte needs."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

    def respell(document):
        path = document["events"][0]["path"]
        path[0] = path[0][:-2] + alphabet[alphabet.index(path[0][-2]) + 1] + "="

    changed = tmp_path / "changed.json"
    changed.write_bytes(edited(file, respell))
    assert verify(changed)[0] == 32


def test_no_change_of_bytes_gets_past_what_is_proved(world, file, policy_file):
    """Whatever a changed file says and is not refused for is the registry's word: nothing that was signed or logged."""
    policy = trust.parse(policy_file().read_bytes())
    raw, now = file.read_bytes(), datetime.now(UTC)
    proved = ("artifact", "manifest", "events", "openings", "checkpoint")
    original, accepted, failed = json.loads(raw), 0, 0
    for changed in mutations(raw, 1500):
        try:
            report = evidence.verify(evidence.parse(changed), policy, now)
        except ModelregError:
            continue
        if report.exit_code:
            failed += 1
            continue
        accepted += 1
        document = json.loads(changed)
        for name in proved:
            assert document[name] == original[name], name
    assert failed > 50


@bounded
@given(data=st.data())
def test_any_json_in_any_member_gives_a_report_or_a_refusal(made_once, data):
    raw, policy = made_once
    document = json.loads(raw)
    place = document
    for _ in range(data.draw(st.integers(0, 4))):
        inner = [
            value
            for value in (place.values() if isinstance(place, dict) else place)
            if isinstance(value, dict | list) and value
        ]
        if not inner:
            break
        place = data.draw(st.sampled_from(inner))
    key = (
        data.draw(st.sampled_from(sorted(place)))
        if isinstance(place, dict)
        else data.draw(st.integers(0, len(place) - 1))
    )
    place[key] = data.draw(json_texts())
    try:
        changed = canonical_json(document) + b"\n"
    except ValueError:
        return
    assert_value_or_refusal(lambda text: evidence.verify(evidence.parse(text), policy, datetime.now(UTC)), changed)


@pytest.fixture(scope="module")
def made_once(world):
    from modelreg import evidence_collection

    file = evidence_collection.collect(world.api(world.auditor), world.artifact, datetime.now(UTC), identities=True)
    return evidence.render(file), trust.parse((world.plain_policy + log_table(world.log, world.witnesses, 2)).encode())


def test_pages_of_events_are_put_together(world, create, verify, tmp_path, monkeypatch):
    from modelreg_server import evidence as operations

    monkeypatch.setattr(operations, "MAX_EVENTS", 2)
    path = tmp_path / "paged.json"
    assert create("demo/m:v1", "-o", path)[0] == 0
    indexes = [event["index"] for event in json.loads(path.read_bytes())["events"]]
    assert len(indexes) > 4
    assert indexes == sorted(set(indexes))
    assert verify(path)[0] == 0


def test_more_entries_than_a_file_takes_are_said_to_be_missing(world, create, verify, tmp_path, monkeypatch):
    from modelreg import evidence_collection

    monkeypatch.setattr(evidence_collection, "MAX_EVENTS", 3)
    path = tmp_path / "cut.json"
    create("demo/m:v1", "-o", path)
    document = json.loads(path.read_bytes())
    assert (len(document["events"]), document["events_cut"]) == (3, True)


def test_a_pull_after_the_checkpoint_is_not_in_the_evidence(world):
    """Entries are proved against one checkpoint; what came later is another file's."""
    api = world.api()
    dossier = api.evidence(world.artifact)
    request = wire.GrantRequest(artifact=str(world.artifact), purpose="pull", host="late")
    late = api.request_grant("demo/m", request).event
    indexes = [event.index for page in api.evidence_events(world.artifact, dossier.size) for event in page.events]
    assert late not in indexes
    assert pull.resolve(api, parse_reference("demo/m:v1")) == world.artifact
