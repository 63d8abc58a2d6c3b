"""Launching without the registry: only what this machine was granted lately, verified whole; and told later, in order."""

import dataclasses
import json
import os
import socket
import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import select

from modelreg import launch, pull, reports
from modelreg.cache import Cache
from modelreg.errors import (
    DigestMismatch,
    LogNotIntact,
    RecordUnavailable,
    Revoked,
    StaleTrust,
    Unreachable,
)
from modelreg.outbox import Outbox
from modelreg.references import parse_reference
from modelreg.reports import Machine
from modelreg_server.tables import RuntimeLoad
from support.hosts import enrol, grant
from support.logged import pinned, pinned_policy
from support.registry import QUIET, cli

COMMAND = ["true", "{model}"]


@pytest.fixture
def served(registry, tmp_path):
    """A registry with an artifact of this test's own, whose log a policy pins."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.bin").write_bytes(os.urandom(16))
    env = registry.environment(tmp_path / "home")
    assert cli("push", model, "demo/m:prod", env=env).returncode == 0
    return registry, pinned_policy(registry, tmp_path / "pinned.toml", max_offline_seconds=3600)


class Host:
    """A machine, and launching on it."""

    def __init__(self, registry, policy, folder, key=None, api=None):
        self.registry, self.policy = registry, policy
        self.api = api or registry.api()
        self.cache = Cache(folder / "cache")
        self.machine = Machine("gpu-1", folder / "state", Outbox(folder / "outbox"), key)

    def pull(self, reference="demo/m:prod"):
        return pull.pull(
            self.api, self.cache, self.policy, parse_reference(reference), purpose="pull", host="gpu-1",
            now=datetime.now(UTC), connections_at_once=2, meter=QUIET, state_dir=self.machine.state_dir,
        )  # fmt: skip

    def prepare(self, reference="demo/m:prod", *, later=timedelta(), policy=None, ask=False, connect=None, **more):
        return launch.prepare(
            connect or (lambda: self.api), self.cache, policy or self.policy, parse_reference(reference), COMMAND,
            machine=self.machine, now=datetime.now(UTC) + later, connections_at_once=2, meter=QUIET, environment={},
            heartbeat_seconds=None, ask=ask, **more,
        )  # fmt: skip


@pytest.fixture
def host(served, tmp_path):
    made = Host(*served, tmp_path)
    made.pull()
    return made


def loads(registry, artifact):
    with registry.parts.database.reading() as session:
        return list(session.exec(select(RuntimeLoad).where(RuntimeLoad.artifact_digest == artifact)))


def test_a_load_without_the_registry_is_queued_and_recorded_later_as_what_it_was(host):
    prepared = host.prepare()

    assert prepared.event is None
    assert prepared.loadable.entry is not None
    assert "--offline" in prepared.loadable.why
    assert len(host.machine.outbox) == 1
    artifact = str(prepared.loadable.verified.manifest.digest)
    assert loads(host.registry, artifact) == []
    delivered = reports.deliver(host.api, host.policy, host.machine)
    assert (delivered.sent, delivered.left) == (1, 0)
    [row] = loads(host.registry, artifact)
    assert row.id == prepared.load
    event = next(event for event in host.registry.whole_log() if event.index == row.event_index)
    assert event.detail["reported_at"]
    assert event.detail["artifact"] == artifact
    assert event.host == "gpu-1"


@pytest.mark.parametrize("reference", ["demo/m:prod", "digest"])
def test_a_tag_means_what_it_meant_when_it_was_pulled_last(host, reference):
    artifact = str(host.pull().verified.manifest.digest)
    reference = f"demo/m@{artifact}" if reference == "digest" else reference
    assert str(host.prepare(reference).loadable.verified.manifest.digest) == artifact


def test_the_newest_of_two_pulls_of_a_tag_is_it(host, tmp_path):
    first = str(host.prepare().loadable.verified.manifest.digest)
    model = tmp_path / "second"
    model.mkdir()
    (model / "weights.bin").write_bytes(os.urandom(16))
    assert cli("push", model, "demo/m:prod", env=host.registry.environment(tmp_path / "home")).returncode == 0
    second = str(host.pull().verified.manifest.digest)
    assert second != first
    assert str(host.prepare().loadable.verified.manifest.digest) == second


def test_a_tag_that_was_never_pulled_here_means_nothing(host):
    with pytest.raises(Unreachable, match="holds no receipt for demo/m:dev"):
        host.prepare("demo/m:dev")
    with pytest.raises(Unreachable, match="holds no receipt"):
        host.prepare(f"demo/m@sha256:{'0' * 64}")


def test_a_receipt_older_than_the_policy_allows_is_not_enough(host):
    host.prepare(later=timedelta(minutes=59))
    with pytest.raises(Unreachable, match="allows 3600 s"):
        host.prepare(later=timedelta(minutes=61))
    with pytest.raises(Unreachable, match="allows 3600 s"):
        host.prepare(later=timedelta(minutes=-10))
    none = dataclasses.replace(host.policy, log=dataclasses.replace(host.policy.log, max_offline=timedelta()))
    with pytest.raises(Unreachable, match="not asked"):
        host.prepare(policy=none)


def test_without_a_pinned_log_nothing_is_launched_without_the_registry(host):
    with pytest.raises(Unreachable, match="not asked"):
        host.prepare(policy=host.registry.trust.unpinned)
    assert len(host.machine.outbox) == 0


def test_stale_revocations_and_revoked_artifacts_stop_it(host):
    artifact = host.prepare().loadable.verified.manifest.digest
    revocations = dataclasses.replace(host.policy.revocations, artifacts=frozenset({artifact}))
    with pytest.raises(Revoked):
        host.prepare(policy=dataclasses.replace(host.policy, revocations=revocations))
    stale = dataclasses.replace(host.policy.revocations, max_age=timedelta(seconds=1))
    with pytest.raises(StaleTrust):
        host.prepare(policy=dataclasses.replace(host.policy, revocations=stale), later=timedelta(minutes=2))


def test_another_machines_receipt_is_not_this_ones(host):
    host.machine = dataclasses.replace(host.machine, host="gpu-2")
    with pytest.raises(Unreachable, match="as gpu-2"):
        host.prepare()


def test_changed_bytes_and_changed_receipts_stop_it_and_nothing_is_queued(host):
    digest = host.pull().verified.manifest.digest
    receipt = host.cache.root / "artifacts" / digest.hex / "receipt.tlog-proof"
    good = receipt.read_bytes()
    receipt.write_bytes(good.replace(b"extra e", b"extra f"))
    with pytest.raises(LogNotIntact):
        host.prepare(f"demo/m@{digest}")
    with pytest.raises(Unreachable, match="no receipt"):
        host.prepare()
    receipt.write_bytes(good)
    weights = host.cache.snapshot_path(digest) / "weights.bin"
    weights.chmod(0o644)
    weights.write_bytes(b"x" * 16)
    with pytest.raises(DigestMismatch):
        host.prepare()
    assert len(host.machine.outbox) == 0


def test_a_full_queue_stops_it(host, monkeypatch):
    from modelreg import outbox

    monkeypatch.setattr(outbox, "MAX_QUEUED", outbox.RESERVED)
    with pytest.raises(RecordUnavailable, match="modelreg report"):
        host.prepare()


def test_a_registry_that_cannot_record_is_not_one_that_is_away(host):
    """Its log is unavailable, exit 32: nothing is served, from the local store neither."""

    def answers():
        raise RecordUnavailable("the record cannot be written")

    with pytest.raises(RecordUnavailable):
        host.prepare(ask=True, connect=answers)
    assert len(host.machine.outbox) == 0


def test_a_network_that_falls_away_after_the_grant_queues_the_load(host, monkeypatch):
    def away(*_arguments):
        raise Unreachable("away")

    monkeypatch.setattr(host.api, "report_loaded", away)
    monkeypatch.setattr(host.api, "report_received", away)
    prepared = host.prepare(ask=True)
    assert prepared.event is None
    assert prepared.loadable.why is None, "the grant itself was fresh"
    assert len(host.machine.outbox) == 2
    monkeypatch.undo()
    assert reports.deliver(host.api, host.policy, host.machine).sent == 2
    with pytest.raises(Unreachable, match="away"):
        monkeypatch.setattr(host.api, "report_loaded", away)
        host.prepare(ask=True, policy=host.registry.trust.unpinned)


def test_a_host_signs_what_it_queues_and_the_registry_says_by_which_key(served, tmp_path):
    registry, policy = served
    machine = enrol(registry, f"gpu-{os.urandom(4).hex()}")
    grant(registry, f"host:{machine.name}", "pull", "demo/*")
    host = Host(registry, policy, tmp_path / "host", machine.key, machine.api())
    host.pull()
    prepared = host.prepare()
    [path] = host.machine.outbox.folder.glob("0*.json")
    told = json.loads(path.read_text())["report"]
    assert told["signature"]["value"]
    told["pid"] += 1
    tampered = {**json.loads(path.read_text()), "report": told}
    good = path.read_bytes()
    path.write_text(json.dumps(tampered))
    assert reports.deliver(host.api, policy, host.machine).rejected == 1
    assert loads(registry, str(prepared.loadable.verified.manifest.digest)) == []
    path.write_bytes(good)
    assert reports.deliver(host.api, policy, host.machine).sent == 1
    [row] = loads(registry, str(prepared.loadable.verified.manifest.digest))
    assert row.verified_host == machine.name
    event = next(event for event in registry.whole_log() if event.index == row.event_index)
    assert event.detail["signed_by"] == told["signature"]["key_id"]


def test_the_command_launches_when_nothing_answers_and_says_so(served, tmp_path):
    """With the real command: an address where connections are refused, and later the registry itself again."""
    registry, _ = served
    env = registry.environment(tmp_path / "home")
    env["MODELREG_TRUST_POLICY"] = str(pinned(registry, tmp_path / "cli.toml", max_offline_seconds=3600))
    with Gate(registry.url) as gate:
        env["MODELREG_REGISTRY"] = gate.url
        assert cli("pull", "demo/m:prod", env=env).returncode == 0
        gate.open = False
        done = cli("launch", "--offline", "--no-heartbeat", "demo/m:prod", "--", "echo", "{model}", env=env)
        assert done.returncode == 0, done.stderr
        assert "without the registry, by the receipt of" in done.stderr
        assert "load queued on this machine" in done.stderr
        gate.open = True
        told = cli("pull", "demo/m:prod", env=env)
        assert told.returncode == 0
        assert "told the registry what it had missed: 1 reports" in told.stderr
        assert cli("report", "--json", env=env).stdout.count('"sent": 0') == 1


class Gate:
    """A TCP door to a registry that can be shut: connections are closed at once."""

    def __init__(self, url):
        self.target = url.rpartition("/")[2].split(":")
        self.open = True
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()

    def serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if not self.open:
                client.close()
                continue
            server = socket.create_connection((self.target[0], int(self.target[1])))
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self.copy, args=(one, other), daemon=True).start()

    def copy(self, source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, target):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                end.close()
