"""What the registry finds in what is pushed: refused or recorded, signed, in the log, and scanned again when asked."""

import json
import time

import pytest
from sqlalchemy import select as columns
from sqlalchemy import text, update
from sqlmodel import select

from modelreg import attestations, gate, scans
from modelreg.attestations import Kind
from modelreg.digests import Digest
from modelreg.errors import DigestMismatch, Forbidden, NotFound, PolicyRefused, SignatureInvalid, SignerNotAllowed
from modelreg_server import log_references, scanning
from modelreg_server.custody import CustodyEvent, EventType
from modelreg_server.tables import AttestationRow, Blob, table_of
from support import hostile, models
from support.registry import running_registry

HOSTILE = {
    "config.json": b'{"auto_map": {"AutoModel": "modeling.Evil"}}',
    "model.bin": hostile.pickle_calling("os.system", 4),
    "README.md": b"# A model\n",
}


def clean(mark="x"):
    return {**models.clean()["transformers"], "notes/mark.txt": mark.encode()}


@pytest.fixture(scope="module")
def refusing(tmp_path_factory):
    """A registry with the default of MODELREG_GATE."""
    with running_registry(tmp_path_factory.mktemp("refusing"), gate="refuse") as running:
        yield running


def statements_of(registry, artifact, repository="demo/m"):
    """The scans of an artifact, oldest first, each verified with the key that the policy pins."""
    answer = registry.api().attestations(repository, Digest.parse(artifact), "scan")
    return [verified(registry, item, artifact, repository) for item in answer.attestations]


def verified(registry, item, artifact, repository="demo/m"):
    found = attestations.verify_registrys(
        item.bundle.encode(),
        log=registry.trust.policy.log,
        repository=repository,
        now=registry.parts.clock(),
        kind=Kind.SCAN,
        subject=Digest.parse(artifact),
    )
    assert str(found.attestation.digest) == item.statement
    return scans.read(found.attestation.predicate)


def events_of(registry, artifact):
    return [event for event in registry.whole_log() if event.artifact == artifact]


def test_the_default_refuses_what_the_gate_blocks_and_publishes_nothing(refusing, publishing_to):
    with pytest.raises(PolicyRefused) as refused:
        publishing_to(refusing).push(HOSTILE, "demo/bad", tags=("v1",))
    assert refused.value.exit_code == 22
    listed = {(one["path"], one["rule"]) for one in refused.value.facts["findings"]}
    assert listed == {("config.json", "config-code"), ("model.bin", "pickle"), ("model.bin", "pickle-import")}
    assert refused.value.facts["finding_count"] == 3
    assert refused.value.facts["rules_version"] == gate.RULES_VERSION
    assert "auto_map" in refused.value.detail
    assert {event.type for event in refusing.whole_log()} == {"token.issued"}
    assert [one.name for one in refusing.api().repositories()] == []


def test_a_refused_publication_can_be_tried_again_and_is_refused_again(refusing, publishing_to):
    publishing = publishing_to(refusing)
    manifest = publishing.manifest(HOSTILE)
    api = refusing.api()
    state = api.begin_publication("demo/bad", publishing.request(manifest))
    by_blake3 = {entry.blake3: HOSTILE[entry.path] for entry in manifest.files}
    for blob in state.missing:
        publishing.upload(api, state.id, blob, by_blake3[blob])
    for _ in range(2):
        with pytest.raises(PolicyRefused):
            api.finish_publication(state.id)


def test_a_clean_model_is_published_with_a_signed_scan_and_an_event(refusing, publishing_to):
    pushed = publishing_to(refusing).push(clean(), tags=("v1",))
    artifact = str(pushed.manifest.digest)
    assert [event.type for event in events_of(refusing, artifact)] == [
        "artifact.published",
        "tag.moved",
        "artifact.scanned",
    ]
    [scan] = statements_of(refusing, artifact)
    assert (scan.findings, scan.findings_count, scan.complete) == ((), 0, True)
    assert (scan.tool, scan.rules_version) == (gate.TOOL, gate.RULES_VERSION)
    assert scan.formats["model-00001-of-00002.safetensors"] == "safetensors"
    event = events_of(refusing, artifact)[-1]
    assert event.detail["blocking"] == event.detail["findings"] == 0
    assert event.detail["complete"] is True
    assert event.detail["rules_version"] == gate.RULES_VERSION


def test_what_only_warns_is_published(refusing, publishing_to):
    pushed = publishing_to(refusing).push({"a.zip": hostile.zipped({"a.txt": b"text"})})
    [scan] = statements_of(refusing, str(pushed.manifest.digest))
    assert [(one.rule, one.severity) for one in scan.findings] == [("archive", "warn")]


def test_record_publishes_and_says_what_it_found(registry, publishing):
    pushed = publishing.push(HOSTILE)
    [scan] = statements_of(registry, str(pushed.manifest.digest))
    assert {one.rule for one in scan.findings} == {"config-code", "pickle", "pickle-import"}
    assert events_of(registry, str(pushed.manifest.digest))[-1].detail["blocking"] == 3


def test_publishing_it_again_does_not_scan_it_again(registry, publishing):
    files = clean("again")
    pushed = publishing.push(files)
    publishing.push(files, tags=("later",))
    assert len(statements_of(registry, str(pushed.manifest.digest))) == 1


def test_another_repository_has_a_scan_of_its_own(registry, publishing):
    files = clean("two repositories")
    artifact = str(publishing.push(files, "demo/one").manifest.digest)
    publishing.push(files, "demo/two")
    assert len(statements_of(registry, artifact, "demo/two")) == 1
    assert unsound(registry) == []


def test_it_is_scanned_again_with_the_rules_of_today(registry, publishing, monkeypatch):
    pushed = publishing.push(clean("rules of today"))
    artifact = pushed.manifest.digest
    later = gate.Report({"config.json": "json"}, (), complete=True, rules_version="2030")
    monkeypatch.setattr(scanning, "scan", lambda *_: later)
    answer = registry.api().scan_again("demo/m", artifact)
    assert (answer.rules_version, answer.finding_count, answer.complete) == ("2030", 0, True)
    first, second = statements_of(registry, str(artifact))
    assert (first.rules_version, second.rules_version) == (gate.RULES_VERSION, "2030")
    assert events_of(registry, str(artifact))[-1].index == answer.event


def test_scanning_again_takes_push_or_approve(registry, publishing):
    artifact = publishing.push(clean("rights")).manifest.digest
    for verb in ("push", "approve"):
        assert registry.api(registry.token("person:x", f"{verb}:demo/*")).scan_again("demo/m", artifact).statement
    with pytest.raises(Forbidden):
        registry.api(registry.token("person:x", "pull:demo/*")).scan_again("demo/m", artifact)
    with pytest.raises(NotFound):
        registry.api().scan_again("demo/other", artifact)
    with pytest.raises(NotFound):
        registry.api().scan_again("demo/m", Digest("sha256", "0" * 64))


def test_a_scan_reads_a_file_few_times(registry, publishing, monkeypatch):
    """Weights of 40 MiB: their first chunk and the two that their end lies in, not what is between."""
    tensors = models.safetensors({"w": ("U8", [40 << 20], bytes(40 << 20))})
    artifact = publishing.push({"model.safetensors": tensors, "config.json": b"{}"}).manifest.digest
    reads = reads_of(registry, monkeypatch)
    registry.api().scan_again("demo/m", artifact)  # nothing but the scan
    assert 2 <= len(reads) <= 4
    assert sum(reads) <= 17 << 20


def test_a_publication_reads_its_files_once_and_then_little_of_them(registry, publishing, monkeypatch):
    tensors = models.safetensors({"w": ("U8", [48 << 20], bytes(48 << 20))})
    reads = reads_of(registry, monkeypatch)
    assert publishing.push({"model.safetensors": tensors, "config.json": b'{"a": "new"}'}).published.created
    measured = [len(tensors), 12]  # each blob once, wholly
    scanned = [8 << 20, 8 << 20, len(tensors) % (8 << 20), 12]
    harvested = [8 << 20]  # what the weights claim stands in the first chunk, which is the least that can be verified
    assert sorted(reads) == sorted(measured + scanned + harvested)


def reads_of(registry, monkeypatch):
    """How many bytes each read of the store asks for, from now on."""
    reads = []
    real = registry.parts.store.read
    monkeypatch.setattr(
        registry.parts.store, "read", lambda key, start, stop: reads.append(stop - start) or real(key, start, stop)
    )
    return reads


def test_bytes_that_are_not_the_manifests_are_not_believed(registry, publishing):
    """The store is untrusted: what it answers to the scan must be what was measured."""
    artifact = publishing.push({"config.json": b'{"a": "a text of this length"}'}).manifest.digest
    with registry.parts.database.reading() as session:
        entry_size = 30
        blob = next(row for row in session.exec(select(Blob)) if row.size_bytes == entry_size)
    path = registry.parts.settings.data_dir / blob.key
    path.chmod(0o600)
    path.write_bytes(b'{"auto_map": "a text of this"}')
    with pytest.raises(DigestMismatch):
        registry.api().scan_again("demo/m", artifact)
    assert len(statements_of(registry, str(artifact))) == 1


def test_a_file_larger_than_a_chunk_is_read_across_its_chunks(registry, publishing):
    text_ = b"line of text\n" * (20 << 20 >> 3)  # several chunks
    artifact = str(publishing.push({"notes.txt": text_, "x.json": b"{}"}).manifest.digest)
    [scan] = statements_of(registry, artifact)
    assert scan.formats == {"notes.txt": "text", "x.json": "json"}


def test_a_scan_of_somebody_elses_key_is_not_the_registrys(registry, publishing):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    artifact = publishing.push(clean("forged")).manifest.digest
    item = registry.api().attestations("demo/m", artifact, "scan").attestations[0]
    claimed = attestations.claimed(item.bundle.encode())
    forged = attestations.sign_as_registry(
        claimed.payload, Ed25519PrivateKey.generate(), registry.trust.policy.log.origin
    )
    with pytest.raises(SignerNotAllowed):
        verified(registry, item.model_copy(update={"bundle": forged.decode()}), str(artifact))
    body = json.loads(item.bundle)
    body["dsseEnvelope"]["signatures"][0]["sig"] = json.loads(forged)["dsseEnvelope"]["signatures"][0]["sig"]
    with pytest.raises((SignatureInvalid, SignerNotAllowed)):
        verified(registry, item.model_copy(update={"bundle": json.dumps(body)}), str(artifact))


def unsound(registry):
    """What `log verify` says of the rows beside the log."""
    with registry.parts.database.reading() as session:
        return [why for _, why in log_references.reference_findings(session)]


def test_the_log_s_verification_knows_scans_and_finds_ones_on_another_event(own_registry, publishing_to):
    publishing_to(own_registry).push(clean("checked"), tags=("v1",))
    assert unsound(own_registry) == []
    row, event = table_of(AttestationRow), table_of(CustodyEvent)
    with own_registry.parts.database.writing() as session, session.begin():
        moved = session.connection().execute(columns(event.c.index).where(event.c.type == "tag.moved")).scalar_one()
        was = session.connection().execute(columns(row.c.event_index)).scalar_one()
        session.connection().execute(update(row).values(event_index=moved))
    [why] = unsound(own_registry)
    assert "attestation" in why
    # A statement of somebody's that rests on a scan's event is as wrong.
    with own_registry.parts.database.writing() as session, session.begin():
        session.connection().execute(update(row).values(event_index=was, authority="somebody"))
    [why] = unsound(own_registry)
    assert "not of its kind" in why


def test_a_scan_ends_what_grants_know(registry, publishing):
    assert EventType.ARTIFACT_SCANNED in __import__("modelreg_server.custody", fromlist=["DECISIVE"]).DECISIVE
    artifact = publishing.push(clean("epoch")).manifest.digest
    with registry.parts.database.reading() as session:
        before = session.connection().execute(text("SELECT epoch FROM custody_head")).scalar_one()
    registry.api().scan_again("demo/m", artifact)
    with registry.parts.database.reading() as session:
        assert session.connection().execute(text("SELECT epoch FROM custody_head")).scalar_one() > before


def test_a_thousand_files_are_scanned_soon(registry, publishing):
    files = {f"shards/{number}.json": json.dumps({"n": number}).encode() for number in range(1000)}
    artifact = publishing.push(files, "demo/many").manifest.digest
    begin = time.monotonic()
    registry.api().scan_again("demo/many", artifact)
    assert time.monotonic() - begin < 20
    assert scanning.MAX_LISTED < 1000
