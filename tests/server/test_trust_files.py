"""Publishing trust data: only what follows from what is served, whole or not at all, and recorded."""

import contextlib
import threading
from datetime import timedelta

import pytest

from modelreg import trust_repository, wire
from modelreg.digests import Digest, sha256_of
from modelreg.errors import (
    Conflict,
    Forbidden,
    Invalid,
    Misconfigured,
    ModelregError,
    Revoked,
    SignatureInvalid,
    StaleTrust,
)
from modelreg_server.dependencies import read_policy
from modelreg_server.settings import Settings
from support.distribution import Host, Operator, put, serve_only, served, utc_now
from support.registry import SIGNER, running_registry


@pytest.fixture
def operator(registry, tmp_path):
    serve_only(registry, {})
    made = Operator(registry, tmp_path / "operator")
    made.stage(trust=made.policy_text(2), revocations=made.list_text(3))
    made.publish()
    return made


def test_what_was_published_is_served_to_everybody_under_its_names(registry, operator, http_):
    current = trust_repository.current(operator.folder)
    names = {
        "metadata/1.root.json": current.roots[0],
        "metadata/timestamp.json": current.timestamp,
        f"metadata/{operator.latest('snapshot').version}.snapshot.json": current.snapshot,
        f"metadata/{operator.latest('targets').version}.targets.json": current.targets,
        **{f"targets/{sha256_of(raw).hex}.{name}": raw for name, raw in current.files.items()},
    }
    for name, raw in names.items():
        answer = http_("GET", f"/v1/trust/{name}")
        assert (answer.status, answer.body) == (200, raw), name


@pytest.mark.parametrize(
    "name",
    ["root.json", "01.root.json", "0.root.json", "1.mirrors.json", "timestamp.json%00", "timestamp.json%0a", "%2e%2e",
     "..%2ftimestamp.json", "1.root.json.bak", "1.Root.json", "9999999999.root.json", "-1.root.json", "a" * 300,
     "%d9%a1.root.json"],
)  # fmt: skip
def test_other_names_are_refused(operator, http_, name):
    answer = http_("GET", f"/v1/trust/metadata/{name}")
    assert answer.code in {"invalid", "not-found"}


@pytest.mark.parametrize(
    "name", ["trust.toml", "0" * 64 + ".evil.toml", "0" * 63 + ".trust.toml", "A" * 64 + ".trust.toml"]
)
def test_other_file_names_are_refused(operator, http_, name):
    assert http_("GET", f"/v1/trust/targets/{name}").code == "invalid"


def test_what_was_never_published_is_not_found(operator, http_):
    assert http_("GET", "/v1/trust/metadata/7.root.json").code == "not-found"
    assert http_("GET", f"/v1/trust/targets/{'0' * 64}.trust.toml").code == "not-found"


def test_a_publication_is_recorded_with_versions_and_digests(registry, operator):
    event = [event for event in registry.whole_log() if event.type == "trust.published"][-1]

    assert event.principal == "person:tester"
    assert event.detail["versions"] == {
        "root": 1, "timestamp": 2, "snapshot": 2, "targets": 2, "trust.toml": 2, "revocations.toml": 3,
    }  # fmt: skip
    assert event.detail["digests"] == {
        name: str(sha256_of(raw)) for name, raw in trust_repository.target_files(operator.folder).items()
    }


def test_publishing_the_same_again_changes_nothing(registry, operator):
    before = served(registry)
    operator.publish()
    assert served(registry) == before


def test_only_an_administrator_publishes(registry, operator):
    token = registry.token("person:pusher", "push:*/*", "audit:*/*", "tag:*/*", "admin:demo/*")
    with pytest.raises(Forbidden):
        registry.api(token).publish_trust(operator.publication())


def refused(registry, publication, kind, match=None):
    """Publishing this is refused, and neither a row nor an event is left."""
    before, events = served(registry), publications(registry)
    with pytest.raises(kind, match=match):
        registry.api().publish_trust(publication)
    assert served(registry) == before
    assert publications(registry) == events


def publications(registry):
    return sum(event.type == "trust.published" for event in registry.whole_log())


def test_an_older_state_is_refused(registry, operator):
    old = operator.publication()
    operator.stage(revocations=operator.list_text(4))
    operator.publish()

    refused(registry, old, StaleTrust, "timestamp version 2")


def test_a_refreshed_timestamp_alone_is_taken_and_an_older_one_refused(registry, operator):
    old = operator.publication()
    operator.refresh()
    new = operator.publication()
    operator.publish()

    refused(registry, new.model_copy(update={"timestamp": old.timestamp}), StaleTrust)


def test_a_second_timestamp_of_one_version_is_refused(registry, operator):
    """Clients would keep the first one, and see nothing of what the second one names."""
    timestamp = operator.latest("timestamp")
    timestamp.expires += timedelta(days=1)
    other = operator.sign(timestamp, "online-1").decode()

    refused(registry, operator.publication().model_copy(update={"timestamp": other}), StaleTrust)


def test_a_file_with_a_lower_or_the_same_version_is_refused(registry, operator):
    for version in (2, 3):
        (operator.folder / "targets" / "revocations.toml").unlink()  # else the folder itself refuses
        operator.stage(revocations=operator.list_text(version, artifacts=[Digest("sha256", "ab" * 32)]))
        refused(registry, operator.publication(), StaleTrust, f"has version {version}, this registry serves 3")


def test_a_file_is_not_taken_back(registry, operator):
    (operator.folder / "targets" / "revocations.toml").unlink()
    operator.stage(trust=operator.policy_text(3))

    refused(registry, operator.publication(), Conflict, "not taken back")


def test_a_policy_with_a_list_of_its_own_beside_a_distributed_one_is_refused(registry, operator):
    own = registry.trust.policy_path.read_text().replace("version = 1", "version = 9", 1)
    with pytest.raises(Misconfigured, match="distributed"):
        operator.stage(trust=own)


def test_changed_bytes_are_refused(registry, operator):
    operator.stage(revocations=operator.list_text(4))
    publication = operator.publication()
    files = {**publication.files, "revocations.toml": publication.files["revocations.toml"] + "\n"}

    refused(registry, publication.model_copy(update={"files": files}), SignatureInvalid)
    for name in ("timestamp", "snapshot", "targets"):
        text = getattr(publication, name).replace('"version":', '"version":1', 1)
        refused(registry, publication.model_copy(update={name: text}), ModelregError)


def test_missing_and_further_files_are_refused(registry, operator):
    publication = operator.publication()
    refused(registry, publication.model_copy(update={"files": {}}), Invalid)
    less = {"trust.toml": publication.files["trust.toml"]}
    refused(registry, publication.model_copy(update={"files": less}), Invalid)


@pytest.mark.parametrize("name", ["../evil", "trust.toml\n", "other.toml", ""])
def test_files_of_other_names_are_refused(registry, operator, http_, name):
    body = {**operator.publication().model_dump(), "files": {name: "x"}}
    assert http_("PUT", "/v1/trust", registry.token(), json=body).code == "invalid"


def test_a_root_below_the_old_or_the_new_threshold_is_refused(registry, operator):
    publication = operator.publication()
    root = operator.latest("root")
    root.version = 2
    key = trust_repository.make_key(operator.folder / "keys" / "root-9.key.pem").public_key
    root.add_key(key, "root")
    root.roles["root"].threshold = 3
    for names in (("root-1",), ("root-1", "root-9"), ("root-1", "root-2")):
        raw = operator.sign(root, *names).decode()
        changed = publication.model_copy(update={"roots": [*publication.roots, raw]})
        refused(registry, changed, SignatureInvalid)


def test_a_root_that_its_own_new_keys_sign_but_the_old_do_not_is_refused(registry, operator):
    publication = operator.publication()
    root = operator.latest("root")
    root.version = 2
    for name in ("root-1", "root-2", "root-3"):
        root.revoke_key(operator.signer(name).public_key.keyid, "root")
    root.add_key(trust_repository.make_key(operator.folder / "keys" / "root-9.key.pem").public_key, "root")
    root.roles["root"].threshold = 1
    for names in (("root-9",), ("root-9", "root-1")):
        changed = publication.model_copy(update={"roots": [*publication.roots, operator.sign(root, *names).decode()]})
        refused(registry, changed, SignatureInvalid, "signed by")


def test_a_root_that_skips_a_version_is_refused(registry, operator):
    operator.rotate("root", new="root-4", old="root-1")
    operator.rotate("root", new="root-5", old="root-2")
    publication = operator.publication()

    refused(registry, publication.model_copy(update={"roots": publication.roots[2:]}), StaleTrust)
    operator.publish()
    assert {"1.root.json", "2.root.json", "3.root.json"} < served(registry).keys()


def test_another_repository_is_refused(registry, operator, tmp_path):
    other = Operator(registry, tmp_path / "other")
    other.stage(trust=other.policy_text(9), revocations=other.list_text(9))

    refused(registry, other.publication(), Conflict, "right trust repository")


def test_metadata_that_has_expired_is_refused(registry, operator):
    operator.refresh(now=utc_now() - timedelta(days=8))
    refused(registry, operator.publication(), StaleTrust, "expired")


def test_a_staged_change_without_its_signatures_cannot_be_published(operator):
    trust_repository.stage_targets(operator.folder, {"revocations.toml": operator.list_text(4)}, utc_now())
    with pytest.raises(Conflict, match="lacks signatures"):
        operator.publish()


def test_a_file_edited_behind_the_signature_cannot_be_published(operator):
    (operator.folder / "targets" / "revocations.toml").write_bytes(operator.list_text(9))
    with pytest.raises(Conflict, match="not those that were signed"):
        operator.publish()


@pytest.mark.parametrize(
    "suffix", ["timestamp.json", ".snapshot.json", ".targets.json", ".trust.toml", ".revocations.toml"]
)
@pytest.mark.parametrize("damage", [b"", b"{}", None])
def test_damaged_rows_do_not_stop_their_repair(registry, operator, tmp_path, suffix, damage):
    rows = {name: b"x" if damage is None else damage for name in served(registry) if name.endswith(suffix)}
    for name, raw in rows.items():
        put(registry, name, raw)
    operator.stage(trust=operator.policy_text(3), revocations=operator.list_text(4))
    operator.publish()

    assert Host(registry.url, tmp_path / "host").pin(operator.first_root).policy.version == 3


def test_either_database_serves_and_refuses_alike(either_database, tmp_path):
    with running_registry(tmp_path / "registry", **either_database) as registry:
        operator = Operator(registry, tmp_path / "operator")
        operator.stage(trust=operator.policy_text(), revocations=operator.list_text())
        operator.publish()
        host = Host(registry.url, tmp_path / "host")
        host.pin(operator.first_root)
        before = operator.publication()
        for version in range(2, 12):  # ten is below nine, as text
            operator.stage(revocations=operator.list_text(version))
            operator.rotate("root")
            operator.publish()
        refused(registry, before, StaleTrust)

        loaded = host.load()
        assert (loaded.root_version, loaded.policy.version) == (11, 1)
        put(registry, "timestamp.json", before.timestamp.encode())
        with pytest.raises(StaleTrust):
            host.load()


def test_the_registry_can_take_its_own_policy_from_what_is_published(tmp_path, publishing_to):
    folder = tmp_path / "operator"
    trust_repository.init(folder, utc_now())
    root = folder / "metadata" / "1.root.json"
    with running_registry(
        tmp_path / "registry", trust_policy=None, trust_from_repository=True, trust_root=root
    ) as registry:
        operator, publishing = Operator(registry, folder), publishing_to(registry)
        with pytest.raises(Misconfigured, match="published"):
            publishing.push({"a": b"before there is a policy"})
        operator.stage(trust=operator.policy_text(), revocations=operator.list_text())
        operator.publish()
        pushed = publishing.push({"a": b"under the published policy"})

        operator.rotate("targets", new="targets-3", old="targets-1")
        operator.stage(revocations=operator.list_text(2, artifacts=[pushed.manifest.digest]))
        operator.publish()
        with pytest.raises(Revoked):
            registry.api().request_grant(
                "demo/m", wire.GrantRequest(artifact=digest_of(pushed), purpose="pull", host="h")
            )
        with pytest.raises(Revoked):
            publishing.push({"a": b"under the published policy"})

        for name in [name for name in served(registry) if name.endswith(".revocations.toml")]:
            put(registry, name, operator.list_text(9))  # somebody with the database, without keys
        with pytest.raises(SignatureInvalid, match="published trust repository"):
            publishing.push({"a": b"under a changed list"})

        root = operator.latest("root")
        root.version = 3
        for key_id in list(root.roles["root"].keyids)[:2]:
            root.revoke_key(key_id, "root")
        root.roles["root"].threshold = 1
        put(registry, "3.root.json", operator.sign(root, "root-1", "root-2"))  # not by the one key that is left
        with pytest.raises(SignatureInvalid, match="root"):
            publishing.push({"a": b"under a root that does not satisfy itself"})


@pytest.mark.parametrize("settings", [{}, {"trust_policy": "x", "trust_root": "y"}])
def test_one_source_of_the_servers_policy_must_be_named(settings):
    with pytest.raises(Misconfigured, match="trust_from_repository"):
        Settings(data_dir="d", trust_from_repository=True, **settings)


def test_a_policy_file_without_revocations_of_its_own_is_refused_at_start(tmp_path, registry, operator):
    path = tmp_path / "distributed.toml"
    path.write_text(operator.policy_text())
    with pytest.raises(Misconfigured, match="MODELREG_TRUST_FROM_REPOSITORY"):
        read_policy(path)


def test_the_registrys_own_look_refuses_a_stale_list(tmp_path, publishing_to):
    folder = tmp_path / "operator"
    trust_repository.init(folder, utc_now())
    root = folder / "metadata" / "1.root.json"
    with running_registry(
        tmp_path / "registry", trust_policy=None, trust_from_repository=True, trust_root=root
    ) as registry:
        operator, publishing = Operator(registry, folder), publishing_to(registry)
        operator.stage(trust=operator.policy_text(), revocations=operator.list_text())
        operator.publish()
        pushed = publishing.push({"a": b"while the list was fresh"})
        operator.stage(revocations=operator.list_text(2, days_old=2, max_age=timedelta(days=1)))
        operator.publish()
        with pytest.raises(StaleTrust, match="revocation list"):
            registry.api().request_grant(
                "demo/m", wire.GrantRequest(artifact=digest_of(pushed), purpose="pull", host="h")
            )


BODY = {"roots": ["{}"], "timestamp": "{}", "snapshot": "{}", "targets": "{}", "files": {}}


@pytest.mark.parametrize(
    "change",
    [{"roots": []}, {"roots": ["x"] * 1025}, {"roots": "x"}, {"roots": [None]}, {"timestamp": None}, {"timestamp": "x" * 200_000},
     {"files": []}, {"files": {"trust.toml": 1}}, {"files": {"trust.toml": "x" * 1_100_000}}, {"extra": 1},
     {"roots": ["[" * 100_000]}, {"roots": ["9" * 5000]}, {"roots": ["\x00"]}, {"roots": ["NaN"]}],
    ids=range(14),
)  # fmt: skip
def test_a_malformed_publication_is_refused_with_a_problem(registry, operator, http_, change):
    before = served(registry)
    answer = http_("PUT", "/v1/trust", registry.token(), json={**BODY, **change})

    assert answer.code in {"invalid", "signature-invalid"}
    assert served(registry) == before


def test_publishers_at_once_on_postgresql_never_leave_the_older_state(postgres, tmp_path):
    with running_registry(tmp_path / "registry", database_url=postgres.make_database("race")) as registry:
        operator = Operator(registry, tmp_path / "operator")
        operator.stage(trust=operator.policy_text(), revocations=operator.list_text())
        operator.publish()
        for version in range(2, 17, 2):
            offered = []
            for step in (0, 1):
                operator.stage(revocations=operator.list_text(version + step))
                offered.append(operator.publication())
            together = threading.Barrier(2)

            def send(publication, together=together):
                api = registry.api()
                together.wait()
                with contextlib.suppress(StaleTrust):
                    api.publish_trust(publication)

            threads = [threading.Thread(target=send, args=(publication,)) for publication in offered]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert served(registry)["timestamp.json"] == offered[1].timestamp.encode()
        recorded = [
            event.detail["versions"]["timestamp"] for event in registry.whole_log() if event.type == "trust.published"
        ]
        assert recorded == sorted(recorded)


# Who signed what


@pytest.fixture(scope="module")
def signed(registry, publishing):
    """Three artifacts by two signers in two repositories; one artifact carries both signatures."""
    from datetime import UTC, datetime

    from modelreg import pki, signing

    trusted = registry.trust
    bo = pki.issue_signer("email:bo@demo.example", trusted.intermediate, datetime.now(UTC))
    other = signing.CertificateSigner(bo.private_key, (bo.certificate, trusted.intermediate.certificate))
    first = publishing.push({"a": b"by al"}, "demo/one", tags=("prod", "v1"))
    both = publishing.push({"b": b"by both"}, "demo/two")
    publishing.push({"b": b"by both"}, "demo/two", signer=other)
    last = publishing.push({"c": b"by bo"}, "demo/two", signer=other)
    return {"al": trusted.leaf, "bo": bo, "first": first, "both": both, "last": last}


def digest_of(pushed):
    return str(pushed.manifest.digest)


def found(api, **asked):
    return [(row.repository, row.artifact, row.identity) for row in api.signatures(**asked)]


def test_signatures_are_found_by_identity(registry, signed):
    api = registry.api(registry.token("person:auditor", "audit:*/*"))
    first, both, last = (digest_of(signed[name]) for name in ("first", "both", "last"))
    bo = "email:bo@demo.example"

    assert found(api, identity=SIGNER) == [("demo/one", first, SIGNER), ("demo/two", both, SIGNER)]
    assert found(api, identity=bo) == [("demo/two", both, bo), ("demo/two", last, bo)]
    assert len(found(api, identity="email:*@demo.example")) == 4
    assert len(found(api, identity="*")) == 4
    assert found(api, identity="email:a_@demo.example") == found(api, identity="email:%") == []
    assert found(api, identity="email:b*") == found(api, identity=bo)
    assert found(api, identity="email:b*@demo.example") == found(api, identity=bo)
    assert found(api, identity="email:*@other.example") == found(api, identity="email:b*@demo.exampl") == []


def test_signatures_are_found_by_key_and_by_every_certificate_of_the_chain(registry, signed):
    from cryptography.hazmat.primitives import serialization

    from modelreg.trust import key_id_of

    api = registry.api()

    def fingerprint(issuer):
        return sha256_of(issuer.certificate.public_bytes(serialization.Encoding.DER))

    by_bo = found(api, identity="email:bo@demo.example")
    assert found(api, key=key_id_of(signed["bo"].certificate.public_key())) == by_bo
    assert found(api, key=fingerprint(signed["bo"])) == by_bo
    assert len(found(api, key=fingerprint(registry.trust.intermediate))) == 4
    assert found(api, key=Digest("sha256", "0" * 64)) == []


def test_signatures_are_found_by_artifact_and_carry_what_a_plan_prints(registry, signed):
    rows = list(registry.api().signatures(artifact=signed["first"].manifest.digest))

    (row,) = rows
    assert (row.repository, row.tags, row.trusted_time) == ("demo/one", ["prod", "v1"], None)
    assert row.published_by == "person:tester"


def test_signatures_come_in_pages(registry, signed, http_, monkeypatch):
    from modelreg_server import signatures

    monkeypatch.setattr(signatures, "MAX_SCANNED", 2)
    assert len(found(registry.api(), identity="email:*@demo.example")) == 4
    page = http_("GET", "/v1/signatures?limit=1", registry.token()).json
    assert len(page["signatures"]) == 1
    assert page["next_after"]


@pytest.mark.parametrize(
    "query",
    ["identity=", "identity=%00", "identity=%0a", "identity=" + "a" * 1001, "key=x", "key=blake3:" + "0" * 64, "after=-1",
     "after=9223372036854775808", "limit=0", "limit=1001", "artifact=x", "key=sha256:" + "0" * 63],
)  # fmt: skip
def test_malformed_questions_are_refused(registry, http_, query):
    assert http_("GET", f"/v1/signatures?{query}", registry.token()).code == "invalid"


def test_only_an_auditor_of_everything_may_ask(registry, http_):
    token = registry.token("person:some", "audit:demo/*", "admin:*/*", "pull:*/*")
    assert http_("GET", "/v1/signatures?identity=x", token).code == "forbidden"
