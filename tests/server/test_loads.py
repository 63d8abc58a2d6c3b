"""What the registry records of loads: once each, only for who reported them, late ones as claims."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlmodel import select

from modelreg import host_reports, host_signing, receipts, wire
from modelreg.errors import Conflict, Invalid, NotFound
from modelreg.trust import LogTrust
from modelreg_server import log_keys
from modelreg_server.tables import RuntimeLoad
from support.hosts import enrol, grant
from support.registry import running_registry


class Clock:
    def __init__(self):
        self.ahead = timedelta()

    def __call__(self):
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def served(either_database, tmp_path, publishing_to, clock):
    """A registry on each database, with an artifact."""
    with running_registry(tmp_path / "registry", clock=clock, **either_database) as registry:
        yield registry, publishing_to(registry).push({"a.bin": b"a"}).published.artifact


def granted(api, artifact):
    return api.request_grant("demo/m", wire.GrantRequest(artifact=artifact, purpose="launch", host="h")).id


def report(**changes):
    members = {"load": str(uuid.uuid4()), "command": "vllm", "pid": 7, "boot_id": "b", "client_version": "1"}
    return wire.LoadedReport(**{**members, **changes})


def row_of(registry, load):
    with registry.parts.database.reading() as session:
        return session.exec(select(RuntimeLoad).where(RuntimeLoad.id == load)).one()


def events_of(registry, kind):
    return [event for event in registry.whole_log() if event.type == kind]


def test_a_load_is_recorded_with_what_the_host_measured(served):
    registry, artifact = served
    api = registry.api()
    sent = report(
        artifact=artifact, files=1, size_bytes=1, runtime="vllm", runtime_version="0.9.1", heartbeat_seconds=60
    )
    recorded = api.report_loaded(granted(api, artifact), sent)

    row = row_of(registry, sent.load)
    assert (row.artifact_digest, row.pid, row.boot_id, row.command) == (artifact, 7, "b", "vllm")
    assert (row.runtime, row.runtime_version, row.heartbeat_seconds) == ("vllm", "0.9.1", 60)
    assert row.event_index == recorded.event
    assert row.ended_at is None
    detail = events_of(registry, "artifact.loaded")[0].detail
    assert (detail["load"], detail["files"], detail["size_bytes"]) == (sent.load, 1, 1)
    assert "late" not in detail
    assert "signature" not in detail


def test_the_same_report_again_is_no_second_load_and_its_receipt_still_verifies(served):
    registry, artifact = served
    api = registry.api()
    grant_id, sent = granted(api, artifact), report()
    first = api.report_loaded(grant_id, sent)
    api.tags("demo/m")
    granted(api, artifact)
    again = api.report_loaded(grant_id, sent.model_copy(update={"known_size": first.event + 1}))

    assert again.event == first.event
    assert len(events_of(registry, "artifact.loaded")) == 1
    signer = registry.parts.database.log_signer
    trusted = LogTrust(signer.origin, (log_keys.verifier_of(signer),))
    entry = receipts.verify(again.receipt.encode(), trusted)
    assert entry.index == first.event
    assert entry.members["detail"]["load"] == sent.load
    assert again.consistency


def test_an_end_is_recorded_once(served):
    registry, artifact = served
    api = registry.api()
    sent = report()
    api.report_loaded(granted(api, artifact), sent)
    ends = [api.report_unloaded(sent.load, wire.UnloadedReport(reason="ended with 3", exit_status=3)) for _ in range(2)]

    assert ends[0].event == ends[1].event
    row = row_of(registry, sent.load)
    assert (row.ended_event_index, row.end_reason) == (ends[0].event, "ended with 3")
    assert row.ended_at >= row.loaded_at
    assert [event.detail["exit_status"] for event in events_of(registry, "artifact.unloaded")] == [3]


def test_a_heartbeat_is_no_event_and_does_not_bring_an_ended_load_back(served, clock):
    registry, artifact = served
    api = registry.api()
    sent = report(heartbeat_seconds=60)
    api.report_loaded(granted(api, artifact), sent)
    before = {event.index for event in registry.whole_log()}
    clock.ahead = timedelta(seconds=90)
    state = api.report_heartbeat(sent.load)

    assert state.ended_at is None
    assert (row_of(registry, sent.load).last_seen_at - row_of(registry, sent.load).loaded_at).total_seconds() >= 89
    new = [event.type for event in registry.whole_log() if event.index not in before]
    assert new == ["token.issued"], "of whole_log itself"
    api.report_unloaded(sent.load, wire.UnloadedReport(reason="x"))
    ended = row_of(registry, sent.load)
    clock.ahead = timedelta(seconds=300)
    assert api.report_heartbeat(sent.load).ended_at == ended.ended_at
    assert row_of(registry, sent.load).last_seen_at == ended.last_seen_at


def test_another_artifact_than_granted_is_refused(served):
    registry, artifact = served
    api = registry.api()
    with pytest.raises(Conflict, match="was granted"):
        api.report_loaded(granted(api, artifact), report(artifact="sha256:" + "0" * 64))
    assert events_of(registry, "artifact.loaded") == []


def test_a_loads_id_belongs_to_one_grant(served):
    registry, artifact = served
    api = registry.api()
    sent = report()
    api.report_loaded(granted(api, artifact), sent)
    with pytest.raises(Conflict, match="another grant"):
        api.report_loaded(granted(api, artifact), sent)


def test_nobody_else_ends_a_load_or_keeps_it_alive(served):
    registry, artifact = served
    sent = report()
    api = registry.api(registry.token("person:a"))
    api.report_loaded(granted(api, artifact), sent)
    machine = enrol(registry, "gpu-1")
    others = [registry.api(registry.token("person:b")), machine.api(registry.token("person:a"))]
    for other in others:
        with pytest.raises(NotFound):
            other.report_heartbeat(sent.load)
        with pytest.raises(NotFound):
            other.report_unloaded(sent.load, wire.UnloadedReport(reason="x"))
    assert row_of(registry, sent.load).ended_at is None


def test_a_late_report_is_recorded_after_its_grant_expired_and_opens_no_bytes(served, clock):
    registry, artifact = served
    api = registry.api(registry.token(minutes=60 * 24 * 30))
    grant_id = granted(api, artifact)
    happened = datetime.now(UTC)
    clock.ahead = timedelta(days=3)
    with pytest.raises(NotFound, match="still valid"):
        api.report_loaded(grant_id, report())
    sent = report(reported_at=happened)
    api.report_loaded(grant_id, sent)

    event = api.events(types=["artifact.loaded"])[0]
    assert event.detail["late"] is True
    assert datetime.fromisoformat(event.detail["reported_at"]) == happened
    assert event.recorded_at - happened > timedelta(days=2)
    assert "signed_by" not in event.detail
    assert row_of(registry, sent.load).loaded_at == happened
    blob = wire.BlobNames(blobs=["0" * 64])
    with pytest.raises(NotFound, match="still valid"):
        api.read_requests(grant_id, blob.blobs)
    ended = happened + timedelta(hours=1)
    api.report_unloaded(sent.load, wire.UnloadedReport(reason="x", reported_at=ended))
    assert row_of(registry, sent.load).ended_at == ended


def test_that_bytes_arrived_may_be_told_late_as_well(served, clock):
    registry, artifact = served
    api = registry.api(registry.token(minutes=60 * 24 * 30))
    grant_id = granted(api, artifact)
    happened = datetime.now(UTC)
    clock.ahead = timedelta(days=3)
    with pytest.raises(NotFound, match="still valid"):
        api.report_received(grant_id, wire.ReceivedReport(transferred_bytes=1))
    api.report_received(grant_id, wire.ReceivedReport(transferred_bytes=1, reported_at=happened))
    [event] = api.events(types=["artifact.received"])
    assert (event.detail["late"], event.detail["transferred_bytes"]) == (True, 1)
    value = wire.ReportSignature(key_id="sha256:" + "0" * 64, value="A" * 86 + "==")
    with pytest.raises(Invalid):
        api.report_received(grant_id, wire.ReceivedReport(transferred_bytes=1, signature=value))
    with pytest.raises(Invalid):
        api.report_received(grant_id, wire.ReceivedReport(transferred_bytes=1, reported_at=happened, signature=value))


@pytest.mark.parametrize(
    "at", [timedelta(minutes=6), timedelta(days=-400)], ids=["in the future", "more than a year ago"]
)
def test_a_time_that_cannot_be_is_refused(served, at):
    registry, artifact = served
    api = registry.api()
    with pytest.raises(Invalid, match="clock"):
        api.report_loaded(granted(api, artifact), report(reported_at=datetime.now(UTC) + at))


@pytest.fixture
def machine(served):
    registry, artifact = served
    found = enrol(registry, "gpu-1")
    grant(registry, "host:gpu-1", "pull", "demo/*")
    return registry, artifact, found


def signed(machine, grant_id, sent, key=None):
    key = key or machine.key
    value = host_reports.sign("artifact.loaded", grant_id, sent.model_dump(), key)
    name = host_signing.key_id(key.public_key())
    return sent.model_copy(update={"signature": wire.ReportSignature(key_id=name, value=value)})


def test_a_late_report_that_the_host_signed_says_by_which_key(machine):
    registry, artifact, gpu = machine
    api = gpu.api()
    grant_id = granted(api, artifact)
    sent = signed(gpu, grant_id, report(reported_at=datetime.now(UTC) - timedelta(hours=2)))
    api.report_loaded(grant_id, sent)

    detail = events_of(registry, "artifact.loaded")[0].detail
    assert detail["signed_by"] == host_signing.key_id(gpu.key.public_key())
    assert detail["late"] is True
    assert row_of(registry, sent.load).verified_host == "gpu-1"


def test_a_signature_over_something_else_or_of_somebody_else_is_refused(machine):
    registry, artifact, gpu = machine
    api = gpu.api()
    grant_id = granted(api, artifact)
    at = datetime.now(UTC) - timedelta(hours=2)
    good = signed(gpu, grant_id, report(reported_at=at))
    other = enrol(registry, "gpu-2")
    wrong = {
        "another time": good.model_copy(update={"reported_at": at - timedelta(hours=1)}),
        "another process": good.model_copy(update={"pid": 8}),
        "another grant": signed(gpu, str(uuid.uuid4()), report(reported_at=at)),
        "a key nobody knows": signed(gpu, grant_id, report(reported_at=at), Ed25519PrivateKey.generate()),
        "another host's key": signed(other, grant_id, report(reported_at=at)),
        "no time": good.model_copy(update={"reported_at": None}),
    }
    for name, sent in wrong.items():
        with pytest.raises(Invalid):
            api.report_loaded(grant_id, sent)
        assert events_of(registry, "artifact.loaded") == [], name
    api.report_loaded(grant_id, good)


def test_what_a_host_signed_before_its_key_was_revoked_holds_and_what_it_signs_later_does_not(machine):
    registry, artifact, gpu = machine
    before = datetime.now(UTC)
    registry.api().revoke_host("gpu-1")
    again = enrol(registry, "gpu-1")
    api = again.api()
    grant_id = granted(api, artifact)
    old = signed(gpu, grant_id, report(reported_at=before - timedelta(minutes=10)))
    new = signed(gpu, grant_id, report(reported_at=datetime.now(UTC)))
    with pytest.raises(Invalid, match="signature"):
        api.report_loaded(grant_id, new)
    api.report_loaded(grant_id, old)
    detail = events_of(registry, "artifact.loaded")[0].detail
    assert detail["signed_by"] == host_signing.key_id(gpu.key.public_key())
