"""Trust by TUF over real HTTP: what a lying registry, or a thief of the online key, can and cannot make a host believe."""

import json
import socket
import threading
import time
from datetime import timedelta

import pytest
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, MetaFile, Root

from modelreg import connections, distribution, trust_repository
from modelreg.digests import Digest
from modelreg.errors import Conflict, Misconfigured, SignatureInvalid, StaleTrust, Unreachable, Untrusted
from support.distribution import Host, Operator, put, serve_only, served, utc_now

NOWHERE = "http://127.0.0.1:9"  # discard; nothing listens
DIGEST = Digest("sha256", "ab" * 32)


@pytest.fixture
def operator(registry, tmp_path):
    """A published repository, version 1 of everything that counts."""
    serve_only(registry, {})
    made = Operator(registry, tmp_path / "operator")
    made.stage(trust=made.policy_text(), revocations=made.list_text())
    made.publish()
    return made


@pytest.fixture
def host(registry, operator, tmp_path):
    """A machine that pinned the first root and has seen what is published."""
    found = Host(registry.url, tmp_path / "host")
    found.pin(operator.first_root)
    return found


def revoke(operator, version, **more):
    operator.stage(revocations=operator.list_text(version, **more))
    operator.publish()


def test_a_host_has_the_published_policy_and_its_revocations(operator, host):
    revoke(operator, 2, artifacts=[DIGEST])

    loaded = host.load()

    assert loaded.offline is None
    assert loaded.policy.version == 1
    assert loaded.policy.revocations.artifacts == {DIGEST}
    loaded.policy.require_fresh(utc_now())


def test_a_refresh_without_news_asks_for_the_next_root_and_the_timestamp_only(registry, host, monkeypatch):
    asked = []
    fetch = distribution._Online._fetch
    monkeypatch.setattr(
        distribution._Online, "_fetch", lambda self, url: asked.append(url.rpartition("/")[2]) or fetch(self, url)
    )
    host.load()

    assert asked == ["2.root.json", "timestamp.json"]


# Rollback


def test_an_older_state_of_everything_is_refused(registry, operator, host):
    before = served(registry)
    revoke(operator, 2, artifacts=[DIGEST])
    host.load()
    serve_only(registry, before)

    with pytest.raises(StaleTrust, match="older"):
        host.load()


def test_a_newer_timestamp_that_names_an_older_snapshot_is_refused(registry, operator, host):
    newest = operator.latest("timestamp")
    operator.forge_online(timestamp=newest.version + 1, snapshot=1, targets=1)

    with pytest.raises(StaleTrust):
        host.load()


def test_a_newer_snapshot_that_names_older_targets_is_refused(registry, operator, host):
    timestamp, snapshot = operator.latest("timestamp").version, operator.latest("snapshot").version
    operator.forge_online(timestamp=timestamp + 1, snapshot=snapshot + 1, targets=1)

    with pytest.raises(StaleTrust):
        host.load()


def test_a_newer_snapshot_without_targets_is_refused(registry, operator, host):
    from tuf.api.metadata import Snapshot, Timestamp

    expires = (utc_now() + timedelta(days=1)).replace(microsecond=0)
    raw = operator.sign(Snapshot(50, None, expires, {"other.json": MetaFile(1)}), "online-1")
    put(registry, "50.snapshot.json", raw)
    put(registry, "timestamp.json", operator.sign(Timestamp(50, None, expires, MetaFile(50)), "online-1"))

    with pytest.raises(Untrusted):
        host.load()


def test_an_old_root_as_the_next_version_is_refused(registry, operator, host):
    put(registry, "2.root.json", operator.first_root)

    with pytest.raises(StaleTrust):
        host.load()


def test_a_list_older_than_seen_is_refused_even_when_rightly_signed(registry, operator, host):
    """The holder of the targets keys puts an old revocation list into new targets: our own version numbers refuse it."""
    revoke(operator, 5, artifacts=[DIGEST])
    host.load()
    old = operator.list_text(4)
    (operator.folder / "targets" / "revocations.toml").unlink()
    operator.stage(revocations=old)
    rows = operator.publication()
    put(registry, f"{operator.latest('targets').version}.targets.json", rows.targets.encode())
    put(registry, f"{operator.latest('snapshot').version}.snapshot.json", rows.snapshot.encode())
    put(registry, "timestamp.json", rows.timestamp.encode())
    from modelreg.digests import sha256_of

    put(registry, f"{sha256_of(old).hex}.revocations.toml", old)

    with pytest.raises(StaleTrust, match=r"revocations.toml has version 4, this machine has seen 5"):
        host.load()


# Freeze


def test_a_frozen_registry_is_noticed_when_the_timestamp_expires(registry, operator, host):
    late = utc_now() - timedelta(days=8)
    operator.refresh(now=late)  # rightly signed, a day past its end
    put(registry, "timestamp.json", (operator.folder / "metadata" / "timestamp.json").read_bytes())
    snapshot = operator.latest("snapshot").version
    put(
        registry,
        f"{snapshot}.snapshot.json",
        (operator.folder / "metadata" / f"{snapshot}.snapshot.json").read_bytes(),
    )

    with pytest.raises(StaleTrust, match="expired"):
        host.load()


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_an_expired_snapshot_or_targets_is_refused(registry, operator, host, role):
    timestamp, snapshot = operator.latest("timestamp").version, operator.latest("snapshot").version
    if role == "targets":
        targets = operator.latest("targets")
        targets.version, targets.expires = targets.version + 1, (utc_now() - timedelta(hours=1)).replace(microsecond=0)
        put(registry, f"{targets.version}.targets.json", operator.sign(targets, "targets-1"))
        operator.forge_online(timestamp=timestamp + 1, snapshot=snapshot + 1, targets=targets.version)
    else:
        from tuf.api.metadata import Snapshot, Timestamp

        ended = (utc_now() - timedelta(hours=1)).replace(microsecond=0)
        meta = {"targets.json": MetaFile(operator.latest("targets").version)}
        put(
            registry,
            f"{snapshot + 1}.snapshot.json",
            operator.sign(Snapshot(snapshot + 1, None, ended, meta), "online-1"),
        )
        later = ended + timedelta(days=1)
        put(
            registry,
            "timestamp.json",
            operator.sign(Timestamp(timestamp + 1, None, later, MetaFile(snapshot + 1)), "online-1"),
        )

    with pytest.raises(StaleTrust, match="expired"):
        host.load()


def test_an_expired_root_ends_all_trust_until_the_next_one(registry, tmp_path):
    serve_only(registry, {})
    operator = Operator(registry, tmp_path / "operator", now=utc_now() - timedelta(days=364))
    operator.stage(trust=operator.policy_text(), revocations=operator.list_text())
    operator.publish()
    host = Host(registry.url, tmp_path / "host")
    host.pin(operator.first_root)
    # A root that is about to end, then has ended: the same bytes, a later look.
    operator.rotate("root", now=utc_now() - timedelta(days=366), lifetime=timedelta(days=365))
    put(registry, "2.root.json", (operator.folder / "metadata" / "2.root.json").read_bytes())

    with pytest.raises(StaleTrust, match="root.json is expired"):
        host.load()

    operator.rotate("root")
    operator.publish()
    assert host.load().root_version == 3


# Mix and match


def test_the_snapshot_of_another_moment_is_refused(registry, operator, host):
    old = {name: raw for name, raw in served(registry).items() if name.endswith("snapshot.json")}
    revoke(operator, 2)
    put(registry, f"{operator.latest('snapshot').version}.snapshot.json", list(old.values())[-1])

    with pytest.raises(Untrusted):
        host.load()


def test_the_targets_of_another_moment_are_refused(registry, operator, host):
    old = served(registry)[f"{operator.latest('targets').version}.targets.json"]
    revoke(operator, 2)
    put(registry, f"{operator.latest('targets').version}.targets.json", old)

    with pytest.raises(Untrusted):
        host.load()


def test_metadata_of_one_role_is_not_taken_for_another(registry, operator, host):
    put(registry, "timestamp.json", served(registry)[f"{operator.latest('snapshot').version}.snapshot.json"])

    with pytest.raises(SignatureInvalid):
        host.load()


# Rotation and recovery


def test_two_root_rotations_in_a_row_are_followed(operator, host):
    operator.rotate("root", new="root-4", old="root-1")
    operator.rotate("root", new="root-5", old="root-2")
    operator.publish()

    assert host.load().root_version == 3


def test_a_root_that_skips_a_version_is_refused(registry, operator, host):
    operator.rotate("root", new="root-4", old="root-1")
    operator.rotate("root", new="root-5", old="root-2")
    third = (operator.folder / "metadata" / "3.root.json").read_bytes()
    put(registry, "2.root.json", third)

    with pytest.raises(Untrusted):
        host.load()


def test_a_root_that_only_its_own_keys_sign_is_refused(registry, operator, host, tmp_path):
    other = Operator(registry, tmp_path / "other")
    other.rotate("root")
    put(registry, "2.root.json", (other.folder / "metadata" / "2.root.json").read_bytes())

    with pytest.raises(SignatureInvalid):
        host.load()


def test_a_root_that_only_the_old_keys_sign_is_refused(registry, operator, host):
    root = operator.latest("root")
    root.version = 2
    for name in ("root-1", "root-2", "root-3"):
        root.revoke_key(operator.signer(name).public_key.keyid, "root")
    for name in ("root-8", "root-9"):
        key = trust_repository.make_key(operator.folder / "keys" / f"{name}.key.pem").public_key
        root.add_key(key, "root")
    put(registry, "2.root.json", operator.sign(root, "root-1", "root-2", "root-3", "root-8"))

    with pytest.raises(SignatureInvalid):
        host.load()


def test_a_host_recovers_from_versions_driven_up_with_a_stolen_online_key(registry, operator, host):
    targets = operator.latest("targets").version
    operator.forge_online(timestamp=900_000_000, snapshot=900_000_000, targets=targets)
    host.load()
    operator.refresh()
    with pytest.raises(StaleTrust):
        operator.publish()
    for name in ("timestamp", "snapshot"):
        row = f"{operator.latest(name).version}.{name}.json" if name == "snapshot" else f"{name}.json"
        put(registry, row, (operator.folder / "metadata" / row).read_bytes())
    with pytest.raises(StaleTrust):
        host.load()  # the thief's versions are the floor, as long as his key counts

    operator.forge_online(timestamp=900_000_001, snapshot=900_000_001, targets=targets)
    operator.rotate("online", new="online-2", old="online-1")
    operator.publish()

    assert host.load().root_version == 2


def test_what_a_removed_online_key_signs_is_refused(registry, operator, host):
    operator.rotate("online", new="online-2", old="online-1")
    operator.publish()
    host.load()
    operator.forge_online(timestamp=50, snapshot=50, targets=operator.latest("targets").version)

    with pytest.raises(SignatureInvalid):
        host.load()


# Thresholds


def two_of_two_targets(operator):
    operator.rotate("targets", threshold=2)
    operator.publish()


def forged_targets(registry, operator, raw):
    version = json.loads(raw)["signed"]["version"]
    put(registry, f"{version}.targets.json", raw)
    operator.forge_online(timestamp=60, snapshot=60, targets=version)


def test_one_of_two_signatures_is_not_enough(registry, operator, host):
    two_of_two_targets(operator)
    targets = operator.latest("targets")
    targets.version += 1
    forged_targets(registry, operator, operator.sign(targets, "targets-1"))

    with pytest.raises(SignatureInvalid, match="1/2"):
        host.load()


@pytest.mark.parametrize("how", ["twice", "under the other key's id"])
def test_one_signature_given_twice_does_not_count_twice(registry, operator, host, how):
    two_of_two_targets(operator)
    targets = operator.latest("targets")
    targets.version += 1
    document = json.loads(operator.sign(targets, "targets-1"))
    again = dict(document["signatures"][0])
    if how != "twice":
        again["keyid"] = operator.signer("targets-2").public_key.keyid
    document["signatures"].append(again)
    forged_targets(registry, operator, json.dumps(document).encode())

    with pytest.raises(SignatureInvalid):
        host.load()


def with_one_key_twice(operator, version=2):
    """A root in which targets-1 stands under a second id as well, and 2 of the targets keys must sign."""
    from securesystemslib.signer import CryptoSigner, SSlibKey

    root = operator.latest("root")
    root.version = version
    signer = operator.signer("targets-1")
    twin = SSlibKey.from_crypto(signer.public_key._crypto_key(), keyid="f" * 64)
    root.add_key(twin, "targets")
    root.roles["targets"].threshold = 2
    return root, CryptoSigner(signer._private_key, twin)


def test_one_key_under_two_ids_is_refused_by_host_and_registry(registry, operator, host):
    """python-tuf alone counts it as two: shown first, so that this test says what it guards against."""
    root, twin = with_one_key_twice(operator)
    raw = operator.sign(root, "root-1", "root-2")
    targets = Metadata(operator.latest("targets"))
    targets.sign(operator.signer("targets-1"))
    targets.sign(twin, append=True)
    root.verify_delegate("targets", targets.signed_bytes, targets.signatures)

    put(registry, "2.root.json", raw)
    with pytest.raises(SignatureInvalid, match="two ids"):
        host.load()

    serve_only(registry, {name: row for name, row in served(registry).items() if name != "2.root.json"})
    publication = operator.publication()
    with pytest.raises(SignatureInvalid, match="two ids"):
        registry.api().publish_trust(publication.model_copy(update={"roots": [*publication.roots, raw.decode()]}))


def test_a_first_root_with_one_key_twice_cannot_be_pinned(registry, operator, tmp_path):
    root, _twin = with_one_key_twice(operator, version=1)

    with pytest.raises(SignatureInvalid, match="two ids"):
        Host(registry.url, tmp_path / "fresh").pin(operator.sign(root, "root-1", "root-2"))


# Files


def target_row(registry, suffix):
    return next(name for name in served(registry) if name.endswith(suffix))


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.replace(b"demo", b"evil"),
        lambda raw: raw + b"\n",
        lambda raw: raw[:-1],
        lambda raw: b"",
        lambda raw: raw + b"#" * 2_000_000,
    ],
    ids=["another byte", "longer", "shorter", "empty", "two megabytes"],
)
def test_a_changed_file_is_refused(registry, operator, tmp_path, change):
    name = target_row(registry, ".trust.toml")
    put(registry, name, change(served(registry)[name]))

    with pytest.raises(SignatureInvalid):
        Host(registry.url, tmp_path / "fresh").pin(operator.first_root)
    assert not (tmp_path / "fresh" / "pinned.root.json").exists()


def test_a_new_file_that_is_withheld_leaves_nothing_to_trust(registry, operator, host):
    revoke(operator, 2, artifacts=[DIGEST])
    rows = served(registry)
    from modelreg.digests import sha256_of

    gone = f"{sha256_of((operator.folder / 'targets' / 'revocations.toml').read_bytes()).hex}.revocations.toml"
    serve_only(registry, {name: raw for name, raw in rows.items() if name != gone})

    with pytest.raises(StaleTrust):
        host.load()


# Names


@pytest.mark.parametrize("role", ["../../../../tmp/x", "..", "a/b", "%2e%2e", "extra"])
def test_a_delegation_is_refused_whatever_its_name(registry, operator, host, role, tmp_path):
    before = sorted(path for path in tmp_path.rglob("*") if "host" in path.parts)
    targets = operator.latest("targets")
    targets.version += 1
    targets.targets = {}
    key = operator.signer("targets-1").public_key
    delegated = DelegatedRole(role, [key.keyid], 1, False, paths=["*"])
    targets.delegations = Delegations({key.keyid: key}, {role: delegated})
    put(registry, f"{targets.version}.targets.json", operator.sign(targets, "targets-1"))
    operator.forge_online(timestamp=70, snapshot=70, targets=targets.version, more={f"{role}.json": MetaFile(1)})

    with pytest.raises((SignatureInvalid, StaleTrust)):
        host.load()
    assert {path.name for path in tmp_path.rglob("*") if "host" in path.parts} <= {
        *(path.name for path in before), "timestamp.json", "snapshot.json", "targets.json",
    }  # fmt: skip


def test_files_of_other_names_are_not_fetched(registry, operator, host):
    from tuf.api.metadata import TargetFile

    targets = operator.latest("targets")
    targets.version += 1
    targets.targets["../../evil"] = TargetFile.from_data("../../evil", b"x", ["sha256"])
    put(registry, f"{targets.version}.targets.json", operator.sign(targets, "targets-1"))
    operator.forge_online(timestamp=70, snapshot=70, targets=targets.version)

    host.load()
    assert sorted(path.name for path in (host.folder / "targets").iterdir()) == ["revocations.toml", "trust.toml"]


@pytest.mark.parametrize("version", [0, -1, 10**9, 10**30])
def test_an_unbelievable_version_is_refused(registry, operator, host, version):
    document = json.loads(served(registry)["timestamp.json"])
    document["signed"]["version"] = version
    put(registry, "timestamp.json", json.dumps(document).encode())

    with pytest.raises(SignatureInvalid):
        host.load()


GARBAGE = [
    b"", b"{", b"null", b"[]", b"[" * 100_000, b'{"signed": 1, "signatures": []}', b"\xff\xfe", b"9" * 5000,
    b'{"signatures": [], "signed": {"_type": "timestamp"}}', b'{"signatures": 7, "signed": {"_type": "root"}}',
    b'{"a":' * 20_000, b"<html>", b'{"signatures":[{"keyid":1,"sig":2}],"signed":{"_type":"timestamp","version":1.5}}',
]  # fmt: skip


@pytest.mark.parametrize("name", ["timestamp.json", "2.root.json"])
@pytest.mark.parametrize("raw", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_refused_in_our_own_words(registry, operator, host, name, raw):
    put(registry, name, raw)

    with pytest.raises(SignatureInvalid):
        host.load()


# Without the registry


def test_without_the_registry_the_verified_copy_is_used(operator, host):
    loaded = host.load(NOWHERE)

    assert "does not answer" in loaded.offline
    loaded.policy.require_fresh(utc_now())


def test_a_list_beyond_its_age_is_refused_though_the_metadata_is_fresh(registry, operator, tmp_path):
    operator.stage(revocations=operator.list_text(2, days_old=2, max_age=timedelta(days=1)))
    operator.publish()
    host = Host(registry.url, tmp_path / "late")
    host.pin(operator.first_root)

    for url in (registry.url, NOWHERE):
        with pytest.raises(StaleTrust, match="revocation list"):
            host.load(url).policy.require_fresh(utc_now())


def test_a_copy_whose_timestamp_expired_is_refused(registry, operator, host):
    operator.refresh(lifetime=timedelta(seconds=6))
    operator.publish()
    host.load()
    assert host.load(NOWHERE).offline
    time.sleep(max(0.0, (operator.latest("timestamp").expires - utc_now()).total_seconds()) + 0.1)

    with pytest.raises(StaleTrust, match="expired"):
        host.load(NOWHERE)


@pytest.mark.parametrize("name", ["timestamp.json", "snapshot.json", "targets.json"])
def test_a_changed_copy_is_not_believed(registry, operator, host, name):
    path = host.folder / "metadata" / name
    path.write_bytes(path.read_bytes().replace(b'"version":', b'"version":9'))

    with pytest.raises(Untrusted):
        host.load(NOWHERE)


def test_a_changed_copy_of_a_file_is_fetched_anew_and_refused_without_the_registry(host):
    path = host.folder / "targets" / "revocations.toml"
    path.write_bytes(b"#" + path.read_bytes())
    with pytest.raises(StaleTrust):
        host.load(NOWHERE)

    assert host.load().offline is None
    assert host.load(NOWHERE).offline


def test_hosts_that_refresh_at_once_do_not_disturb_each_other(operator, host):
    revoke(operator, 2)
    found, threads = [], []
    for _ in range(6):
        threads.append(threading.Thread(target=lambda: found.append(host.load().policy.version)))
        threads[-1].start()
    for thread in threads:
        thread.join(60)

    assert found == [1] * 6


# Answers that never end


class Endless:
    """Answers the next root with 404 and everything else with a body that does not end, or trickles."""

    def __init__(self, block, pause):
        self.sent = 0
        self._block, self._pause = block, pause
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        with connection:
            try:
                while line := connection.recv(65536):
                    if b".root.json" in line:
                        connection.sendall(b"HTTP/1.1 404 no\r\nContent-Length: 0\r\n\r\n")
                        continue
                    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    while True:
                        connection.sendall(self._block)
                        self.sent += len(self._block)
                        time.sleep(self._pause)
            except OSError:
                return

    def close(self):
        self._listener.close()


@pytest.fixture
def endless(request):
    server = Endless(*request.param)
    yield server
    server.close()


@pytest.mark.parametrize("endless", [(b" " * 65536, 0)], indirect=True, ids=["a flood"])
def test_an_answer_without_end_is_refused_after_a_few_blocks(host, endless):
    with pytest.raises(SignatureInvalid, match="more bytes"):
        host.load(endless.url)

    assert endless.sent < 8_000_000  # what socket buffers hold


@pytest.mark.parametrize("endless", [(b" ", 0.05)], indirect=True, ids=["a trickle"])
def test_an_answer_that_trickles_is_given_up_and_the_copy_used(host, endless, monkeypatch):
    monkeypatch.setattr(distribution, "REFRESH_SECONDS", 1.5)
    started = time.monotonic()
    loaded = host.load(endless.url)

    assert loaded.offline
    assert time.monotonic() - started < 6


def test_a_redirect_is_not_followed(operator, host):
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        for _ in range(4):
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(
                    f"HTTP/1.1 302 Found\r\nLocation: {host.url}/v1/trust/metadata/timestamp.json\r\n"
                    "Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
                )

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    loaded = host.load(f"http://127.0.0.1:{listener.getsockname()[1]}")
    listener.close()

    assert "302" in loaded.offline


# Pinning


def test_another_root_is_not_pinned_over_the_first(registry, operator, host, tmp_path):
    other = Operator(registry, tmp_path / "other")
    with pytest.raises(Conflict):
        host.pin(other.first_root)
    assert host.load().offline is None


def test_a_root_that_the_registry_does_not_follow_is_not_kept(registry, operator, tmp_path):
    other = Operator(registry, tmp_path / "other")
    host = Host(registry.url, tmp_path / "fresh")
    with pytest.raises(Untrusted):
        host.pin(other.first_root)
    with pytest.raises(Misconfigured):
        host.load()
    host.pin(operator.first_root)


def test_a_root_below_its_own_threshold_is_not_pinned(registry, operator, tmp_path):
    raw = operator.sign(operator.latest("root"), "root-1")
    with pytest.raises(SignatureInvalid):
        Host(registry.url, tmp_path / "fresh").pin(raw)


def test_a_registry_over_plain_http_elsewhere_is_refused(host):
    with pytest.raises(Misconfigured):
        host.load("http://models.example.org")


def test_the_types_of_keys_are_limited(operator):
    from securesystemslib.signer import CryptoSigner

    root = operator.latest("root")
    root.add_key(CryptoSigner.generate_rsa(size=2048).public_key, "root")
    with pytest.raises(SignatureInvalid, match="cannot be used"):
        distribution.parse(operator.sign(root, "root-1", "root-2"), Root)


def test_more_than_one_refresh_uses_one_lock(host, monkeypatch):
    monkeypatch.setattr(distribution, "_LOCK_SECONDS", 0.2)
    with distribution._alone(host.folder):
        with pytest.raises(Unreachable, match="lock"):
            host.load()


def test_the_pool_is_not_asked_for_anything_but_trust_files(registry, host):
    fetcher = distribution._Online(registry.url, connections.make_pool(None, 1))
    for name in ("timestamp.json/../../whoami", "x.json", "1.mirrors.json", "01.root.json", "1.root.json\n", ""):
        with pytest.raises(Exception, match="not a name"):
            fetcher.download_bytes(fetcher.metadata_url + name, 1000)
