"""Machines as hosts: invited, enrolled once, known by their signature or their certificate, ended. Both databases."""

import base64
import json
import socket
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from pydantic import ValidationError
from sqlmodel import select

from modelreg import connections, host_signing, wire
from modelreg.api import Api
from modelreg.errors import Conflict, Misconfigured, NotFound, Unauthenticated
from modelreg_server import custody, database, migrations
from modelreg_server import enrolment as inviting
from modelreg_server.access import HostClass, HostFacts
from modelreg_server.app import create_app
from modelreg_server.custody import Actor
from modelreg_server.identity import hosts
from modelreg_server.settings import Settings
from modelreg_server.tables import Host, HostInvitation, UsedNonce
from support.hosts import Machine, enrol, enrol_request, grant, invite
from support.registry import Registry, Trust, running_registry

BODY = json.dumps({"artifact": "sha256:" + "0" * 64}).encode()


@pytest.fixture
def either(either_database, tmp_path):
    """A registry on each kind of database."""
    with running_registry(tmp_path / "registry", **either_database) as running:
        yield running


@pytest.fixture(scope="module")
def machine(registry):
    return enrol(registry, "gpu-1")


def enrolling(registry, token, key):
    return Api(registry.url, token, connections.make_pool(None, 1), key).enroll_host(enrol_request(key))


def new_key():
    return Ed25519PrivateKey.generate()


def of_type(registry, *types):
    return [event for event in registry.whole_log() if event.type in types]


# Inviting and enrolling.


def test_class_zone_and_labels_come_from_the_invitation(either):
    token = invite(either, "gpu-1", "server", "eu-1", labels={"rack": "7"})
    key = new_key()
    made = enrolling(either, token, key)
    assert (made.name, made.host_class, made.zone, made.labels) == ("gpu-1", "server", "eu-1", {"rack": "7"})
    assert made.key_id == host_signing.key_id(key.public_key())
    assert either.api().host("gpu-1") == made
    listed = either.api().hosts()
    assert (listed.hosts, listed.invitations) == ([made], [])

    invited, enrolled = of_type(either, "host.invited", "host.enrolled")
    assert (invited.principal, enrolled.principal) == ("person:tester", "host:gpu-1")
    assert (enrolled.verified_host, enrolled.verified_host_class, enrolled.verified_host_zone) == (
        "gpu-1",
        "server",
        "eu-1",
    )
    assert enrolled.detail["key"] == made.key_id
    assert invited.detail["invitation"] == enrolled.detail["invitation"]


def test_an_enrolment_token_is_kept_as_its_hash_and_shown_once(own_registry):
    token = invite(own_registry, "gpu-1")
    secret = token.split("_")[2]
    enrolling(own_registry, token, new_key())
    shown = own_registry.api().hosts().model_dump_json() + "".join(
        e.model_dump_json() for e in own_registry.whole_log()
    )
    assert secret not in shown
    for path in own_registry.parts.settings.data_dir.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def test_a_token_enrols_one_key_and_the_same_key_again_gets_the_same_answer(either):
    """The answer to the first use may be lost; a second machine with the token is refused all the same."""
    token, key = invite(either, "gpu-1"), new_key()
    first = enrolling(either, token, key)
    assert enrolling(either, token, key) == first
    with pytest.raises(Unauthenticated):
        enrolling(either, token, new_key())
    assert len(of_type(either, "host.enrolled")) == 1
    either.api().revoke_host("gpu-1")
    with pytest.raises(Unauthenticated):
        enrolling(either, token, key)


def test_of_machines_that_enrol_at_once_with_one_token_one_wins(either):
    token = invite(either, "gpu-1")

    def attempt(_n):
        try:
            return enrolling(either, token, new_key()).key_id
        except Unauthenticated:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [key_id for key_id in pool.map(attempt, range(8)) if key_id]
    assert len(won) == 1
    assert [row.key_id for row in either.api().hosts().hosts] == won
    assert len(of_type(either, "host.enrolled")) == 1


def test_a_machine_that_enrols_while_its_invitation_is_withdrawn_is_refused_and_nobody_waits_for_ever(either):
    token, key = invite(either, "gpu-1"), new_key()
    facts = HostFacts("gpu-1", HostClass.SERVER, "eu-1")
    now, actor = datetime.now(UTC), Actor("test:admin", None)
    with ThreadPoolExecutor(1) as pool:
        with either.parts.database.writing() as session, session.begin():
            custody.hold(session)
            enrolled = pool.submit(enrolling, either, token, key)
            time.sleep(0.5)  # it waits for the log now, with whatever it locked before
            inviting.invite(session, actor, facts, labels={}, lifetime=timedelta(hours=1), now=now)
        with pytest.raises(Unauthenticated):
            enrolled.result(30)
    assert either.api().hosts().hosts == []


def test_a_name_is_enrolled_once_and_a_later_invitation_withdraws_an_earlier_one(either):
    first, second = invite(either, "gpu-1"), invite(either, "gpu-1")
    with pytest.raises(Unauthenticated):
        enrolling(either, first, new_key())
    enrolling(either, second, new_key())
    with pytest.raises(Conflict):
        invite(either, "gpu-1")


def test_a_revoked_hosts_name_can_be_invited_again_and_its_key_never(either):
    token, key = invite(either, "gpu-1"), new_key()
    enrolling(either, token, key)
    either.api().revoke_host("gpu-1")
    again = invite(either, "gpu-1", "workstation", "us-1")
    with pytest.raises(Conflict, match="enrolled before"):
        enrolling(either, again, key)
    assert enrolling(either, again, new_key()).host_class == "workstation"
    assert either.api().host("gpu-1").host_class == "workstation"
    assert len(either.api().hosts().hosts) == 2


def test_an_invitation_ends_by_its_time_and_by_revoking_its_name(own_registry):
    late, withdrawn = invite(own_registry, "late"), invite(own_registry, "withdrawn")
    with own_registry.parts.database.writing() as session, session.begin():
        row = session.exec(select(HostInvitation).where(HostInvitation.name == "late")).one()
        row.expires_at = datetime.now(UTC)
    assert [row.name for row in own_registry.api().hosts().invitations] == ["withdrawn"]
    ended = own_registry.api().revoke_host("withdrawn")
    assert (ended.host, ended.withdrawn_invitations) == (None, 1)
    for token in (late, withdrawn):
        with pytest.raises(Unauthenticated):
            enrolling(own_registry, token, new_key())
    assert of_type(own_registry, "host.revoked")[0].detail == {"name": "withdrawn", "withdrawn_invitations": 1}
    with pytest.raises(NotFound):
        own_registry.api().revoke_host("nobody")


def enrolment(registry, token, key, *, signer=None, body=None, **bent):
    """One enrolment by hand; `bent` changes what was signed after it was signed."""
    raw = enrol_request(key).model_dump_json().encode() if body is None else body
    made = Machine(registry, "new", signer or key).headers("POST", "/v1/hosts", token=token, body=raw, **bent)
    return {"body": raw, "headers": made}


def test_enrolling_takes_proof_of_the_key(registry, http_):
    token, key, other = invite(registry, "proof"), new_key(), new_key()
    raw = enrol_request(key).model_dump_json().encode()
    foreign = enrol_request(other).model_dump_json().encode()
    good = enrolment(registry, token, key)
    attempts = {
        "signed by another key": enrolment(registry, token, key, signer=other),
        "another key in the body": {**good, "body": foreign},
        "not signed": {
            "body": raw,
            "headers": {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        },
        "an hour old": enrolment(registry, token, key, now=datetime.now(UTC) - timedelta(hours=1)),
        "for another registry": enrolment(registry, token, key, url="https://other.example.org"),
        "with another token": {
            **good,
            "headers": {**good["headers"], "Authorization": f"Bearer {invite(registry, 'proof-2')}"},
        },
        "body not signed": {
            "body": raw,
            "headers": {
                **Machine(registry, "new", key).headers("POST", "/v1/hosts", token=token),
                "Content-Type": "application/json",
            },
        },
    }
    for name, attempt in attempts.items():
        answer = http_("POST", "/v1/hosts", **attempt)
        assert (answer.status, answer.code) == (401, "unauthenticated"), (name, answer)
    assert http_("POST", "/v1/hosts", **good).status == 201


@pytest.mark.parametrize("kind", ["nothing", "garbage", "P-256", "P-256, cut", "not canonical"])
def test_only_an_ed25519_key_enrols(registry, http_, kind):
    p256 = ec.generate_private_key(ec.SECP256R1()).public_key()
    der = p256.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    raw = {
        "nothing": b"", "garbage": b"x" * 44, "P-256": der, "P-256, cut": der[:44],
        "not canonical": host_signing.public_der(new_key().public_key())[:-1],
    }[kind]  # fmt: skip
    token = invite(registry, f"odd-{uuid.uuid4().hex[:8]}")
    body = json.dumps({"public_key": base64.b64encode(raw).decode()}).encode()
    answer = http_("POST", "/v1/hosts", **enrolment(registry, token, new_key(), body=body))
    assert (answer.status, answer.code) == (422, "invalid")


@pytest.mark.parametrize("token", [None, "", "mrg_enroll_x", "mrg_enroll_" + "A" * 43 + "_" + "A" * 6])
def test_without_an_invitation_nobody_enrols(registry, http_, token):
    key = new_key()
    answer = http_("POST", "/v1/hosts", **enrolment(registry, token, key))
    assert (answer.status, answer.code) == (401, "unauthenticated")
    answer = http_("POST", "/v1/hosts", **enrolment(registry, registry.token(), key))
    assert answer.status == 401


@pytest.mark.parametrize(
    "changed",
    [
        {"name": ""}, {"name": "GPU"}, {"name": "a b"}, {"name": "-a"}, {"name": "a/b"}, {"name": "a" * 101}, {"name": "*"},
        {"host_class": "laptop"}, {"host_class": None}, {"zone": ""}, {"zone": "EU"}, {"zone": None}, {"labels": {"A": "b"}},
        {"labels": {"a": "b\n"}}, {"labels": {f"k{n}": "v" for n in range(17)}}, {"labels": {"a": "x" * 101}},
        {"expires_in_seconds": 1}, {"expires_in_seconds": 31 * 86400}, {"public_key": "x"},
    ],
)  # fmt: skip
def test_a_malformed_invitation_is_refused(registry, http_, changed):
    body = {"name": "gpu-x", "host_class": "server", "zone": "eu-1", **changed}
    answer = http_("POST", "/v1/hosts/invitations", registry.token(), json=body)
    assert (answer.status, answer.code) == (422, "invalid")


# Signed requests.


def test_a_host_without_a_token_is_a_principal_with_its_grants(either, publishing_to):
    publishing_to(either).push({"a": b"1"}, tags=("v1",))
    machine = enrol(either, "gpu-1")
    who = machine.api().whoami()
    assert (who.principal, who.host, who.host_class, who.host_zone) == ("host:gpu-1", "gpu-1", "server", "eu-1")
    assert (who.scopes, who.grants, who.token_id, who.expires_at) == ([], [], None, None)
    with pytest.raises(NotFound):
        machine.api().tags("demo/m")
    grant(either, "host:gpu-*", "pull", "demo/*")
    assert machine.api().tags("demo/m")
    assert machine.api().resolve("demo/m", "v1")
    event = of_type(either, "tag.resolved")[-1]
    assert (event.principal, event.token_id, event.verified_host) == ("host:gpu-1", None, "gpu-1")


def test_with_a_token_the_host_stands_beside_the_principal_in_every_event(either, publishing_to):
    machine = enrol(either, "gpu-1", "ci", "us-1")
    api = machine.api(either.token("person:al"))
    publishing = publishing_to(either)
    pushed = publishing.push({"a": b"pushed from a host"}, tags=("v1",), api=api)
    given = api.request_grant(
        "demo/m", wire.GrantRequest(artifact=pushed.published.artifact, purpose="pull", host="my-laptop")
    )
    api.report_received(given.id, wire.ReceivedReport(transferred_bytes=1))
    with pytest.raises(NotFound):
        machine.api(either.token("person:al", "push:demo/*")).tags("demo/m")

    events = [event for event in either.whole_log() if event.principal == "person:al"]
    assert {event.type for event in events} >= {
        "artifact.published", "tag.moved", "artifact.granted", "artifact.received", "access.denied",
    }  # fmt: skip
    for event in events:
        assert (event.verified_host, event.verified_host_class, event.verified_host_zone) == ("gpu-1", "ci", "us-1"), (
            event
        )
    assert {event.host for event in events} == {None, "my-laptop"}  # claimed, and kept apart


def test_a_request_without_a_signature_has_no_host(registry, machine):
    who = registry.api().whoami()
    assert (who.host, who.host_class, who.host_zone) == (None, None, None)
    assert who.token_id


def refused(answer):
    return (answer.status, answer.code) == (401, "unauthenticated")


PUT = "/v1/repositories/demo/m/tags/v1"


def test_a_signature_holds_for_one_request_as_it_was_made(registry, http_, machine, publishing):
    """Each of these is the good request with one thing changed."""
    token, other = registry.token("person:al"), registry.token("person:bo")
    make = machine.headers

    def good(**more):
        return make("PUT", PUT, token=token, body=BODY, **more)

    late, early = (datetime.now(UTC) + timedelta(seconds=n) for n in (62, -62))
    without_digest = {name: value for name, value in good().items() if name != "Content-Digest"}
    attempts = {
        "another body": (PUT, good(), BODY.replace(b"0", b"1")),
        "a longer body": (PUT, good(), BODY + b" "),
        "no body": (PUT, good(), b""),
        "another path": (PUT + "x", good(), BODY),
        "a query": (PUT + "?x=1", good(), BODY),
        "another token": (PUT, {**good(), "Authorization": f"Bearer {other}"}, BODY),
        "no token": (PUT, {name: value for name, value in good().items() if name != "Authorization"}, BODY),
        "made too early": (PUT, good(now=early), BODY),
        "made too late": (PUT, good(now=late), BODY),
        "another key": (PUT, good(key=new_key()), BODY),
        "another host name": (PUT, {**good(), "Host": "other.example.org"}, BODY),
        "no digest sent": (PUT, without_digest, BODY),
        "no digest signed": (PUT, {**make("PUT", PUT, token=token), "Content-Type": "application/json"}, BODY),
        "another digest": (PUT, {**good(), "Content-Digest": host_signing.content_digest(b"x")}, BODY),
        "half a signature": (PUT, {name: value for name, value in good().items() if name != "Signature"}, BODY),
        "the other half": (PUT, {name: value for name, value in good().items() if name != "Signature-Input"}, BODY),
        "an empty signature": (PUT, {**good(), "Signature": ""}, BODY),
        "two labels": (PUT, {**good(), "Signature": good()["Signature"] + ", x=:AA==:"}, BODY),
        "made for GET": (PUT, {**good(), **make("GET", PUT, token=token, body=BODY)}, BODY),
    }
    for name, (path, headers, body) in attempts.items():
        assert refused(http_("PUT", path, headers=headers, body=body)), name
    said = {http_("PUT", path, headers=headers, body=body).json["detail"] for path, headers, body in attempts.values()}
    assert len(said) == 1  # why is not told
    assert http_("PUT", PUT, headers=good(), body=BODY).status == 404  # through, to what is not there


def test_a_header_that_stands_twice_is_refused(registry, machine):
    token = registry.token("person:al")
    headers = machine.headers("GET", "/v1/whoami", token=token)
    for name in (*headers, "Client-Cert"):
        lines = [*headers.items(), (name, headers.get(name, ":AA==:")), (name, headers.get(name, ":AA==:"))]
        raw = "GET /v1/whoami HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        raw += "".join(f"{key}: {value}\r\n" for key, value in lines) + "\r\n"
        host, port = registry.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(raw.encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 401"), name


def test_an_unknown_or_revoked_host_is_refused_and_never_taken_for_no_host(own_registry, http_to):
    http, token = http_to(own_registry.url), own_registry.token("person:al")
    stranger = Machine(own_registry, "stranger", new_key())
    gone = enrol(own_registry, "gone")
    assert gone.api(token).whoami().host == "gone"
    own_registry.api().revoke_host("gone")
    for machine in (stranger, gone):
        for bearer in (token, None):
            assert refused(http("GET", "/v1/whoami", headers=machine.headers("GET", "/v1/whoami", token=bearer)))
    event = of_type(own_registry, "host.revoked")[0]
    assert (event.principal, event.detail["name"]) == ("person:tester", "gone")
    own_registry.api().revoke_host("gone")
    assert len(of_type(own_registry, "host.revoked")) == 1


def test_a_good_signature_does_not_carry_a_bad_token(registry, http_, machine):
    for token in ("mrg_api_nonsense", registry.token()[:-1] + "!"):
        assert refused(http_("GET", "/v1/whoami", headers=machine.headers("GET", "/v1/whoami", token=token)))
    headers = machine.headers("GET", "/v1/whoami")
    assert refused(http_("GET", "/v1/whoami", headers={**headers, "Authorization": "Basic eDp5"}))


def test_a_request_is_taken_once(either, http_to):
    http, machine = http_to(either.url), enrol(either, "gpu-1")
    headers = machine.headers("GET", "/v1/whoami")
    assert http("GET", "/v1/whoami", headers=headers).status == 200
    assert refused(http("GET", "/v1/whoami", headers=headers))
    # The same nonce of another host is another nonce.
    other = enrol(either, "gpu-2")
    nonce = headers["Signature-Input"].split('nonce="')[1].split('"')[0]
    assert http("GET", "/v1/whoami", headers=other.headers("GET", "/v1/whoami", nonce=nonce)).status == 200
    assert refused(http("GET", "/v1/whoami", headers=machine.headers("GET", "/v1/whoami", nonce=nonce)))


def test_of_replays_at_once_one_is_taken(either, http_to):
    http, machine = http_to(either.url), enrol(either, "gpu-1")
    headers = machine.headers("GET", "/v1/whoami")
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _n: http("GET", "/v1/whoami", headers=headers).status, range(8)))
    assert sorted(statuses) == [200, *[401] * 7]


def test_nonces_are_forgotten_when_their_time_is_over(either, monkeypatch):
    monkeypatch.setattr(hosts, "_PURGE_ONE_IN", 1)
    machine = enrol(either, "gpu-1")
    for _ in range(3):
        machine.api().whoami()

    def kept():
        with either.parts.database.reading() as session:
            return list(session.exec(select(UsedNonce.expires_at)))

    assert len(kept()) == 3
    now = datetime.now(UTC)
    assert all(now + timedelta(seconds=110) < ends < now + timedelta(seconds=121) for ends in kept())
    with either.parts.database.writing() as session, session.begin():
        for row in session.exec(select(UsedNonce)):
            row.expires_at = now - timedelta(seconds=1)
    machine.api().whoami()
    assert len(kept()) == 1


def test_a_server_whose_clock_is_ahead_does_not_forget_what_another_would_take_again(either, http_to, monkeypatch):
    monkeypatch.setattr(hosts, "_PURGE_ONE_IN", 1)
    http, machine, other, now = http_to(either.url), enrol(either, "gpu-1"), enrol(either, "gpu-2"), datetime.now(UTC)
    headers = machine.headers("GET", "/v1/whoami", now=now - timedelta(seconds=40))
    assert http("GET", "/v1/whoami", headers=headers).status == 200
    ahead = now + timedelta(seconds=30)
    with either.parts.database.writing() as session, session.begin():
        row = session.exec(select(Host).where(Host.name == other.name)).one()
        signature = host_signing.HostSignature("", int(ahead.timestamp()), row.key_id, "n" * 22, b"")
        hosts.use_up(session, hosts.KnownHost(hosts.facts_of(row), row.id, signature), ahead)
    assert refused(http("GET", "/v1/whoami", headers=headers))


def test_a_refused_request_uses_nothing_up(own_registry, http_to):
    machine = enrol(own_registry, "gpu-1")
    http = http_to(own_registry.url)
    for n in range(5):
        http("GET", f"/v1/events?limit={n}", headers=machine.headers("GET", "/v1/whoami"))
    with own_registry.parts.database.reading() as session:
        assert list(session.exec(select(UsedNonce))) == []


def test_a_whole_push_and_pull_is_signed_by_the_real_client(either, publishing_to, tmp_path):
    """Parts and ranges go through the server here: they are signed too."""
    from modelreg.cache import Cache
    from modelreg.pull import pull
    from modelreg.references import parse_reference
    from support.registry import QUIET

    machine = enrol(either, "gpu-1")
    for verb in ("push", "tag", "pull"):
        grant(either, "host:gpu-1", verb, "demo/*")
    files = {"small": b"x", "empty": b"", "large": b"0123456789abcdef" * 1_000_000}
    pushed = publishing_to(either).push(files, tags=("v1",), api=machine.api())
    assert pushed.transferred_bytes == sum(map(len, files.values()))
    pulled = pull(
        machine.api(), Cache(tmp_path / "cache"), either.trust.policy, parse_reference("demo/m:v1"), purpose="pull",
        host="claimed", now=datetime.now(UTC), connections_at_once=2, meter=QUIET, state_dir=tmp_path / "state",
    )  # fmt: skip
    assert (pulled.folder / "large").read_bytes() == files["large"]
    published = of_type(either, "artifact.published")[0]
    assert (published.principal, published.verified_host) == ("host:gpu-1", "gpu-1")


def test_a_part_of_a_blob_is_measured_and_not_signed_but_a_digest_that_is_sent_holds(
    own_registry, publishing_to, http_to
):
    machine, publishing = enrol(own_registry, "gpu-1"), publishing_to(own_registry)
    token = own_registry.token("person:al")
    manifest = publishing.manifest({"a": b"the bytes"})
    state = machine.api(token).begin_publication("demo/m", publishing.request(manifest))
    machine.api(token).uploads(state.id, state.missing)
    path = f"/v1/publications/{state.id}/blobs/{state.missing[0]}/parts/1"
    http = http_to(own_registry.url)
    wrong = machine.headers("PUT", path, token=token, body=b"the_bytes")
    assert refused(http("PUT", path, headers=wrong, body=b"the bytes"))
    assert http("PUT", path, headers=machine.headers("PUT", path, token=token), body=b"the bytes").status == 204


# Behind a proxy that terminates TLS.


@contextmanager
def behind_a_proxy(folder, **settings):
    """A registry whose proxy is this test: connections come from 127.0.0.1, which is listed."""
    trusted = Trust(folder / "trust")
    built = Settings(data_dir=folder / "data", trust_policy=trusted.policy_path, **settings)
    opened = database.connect(built.resolved_database_url)
    migrations.migrate(opened.engine)
    opened.dispose()
    app = create_app(built)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, proxy_headers=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Registry(f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.parts, trusted, app)
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def enrol_directly(registry, name):
    """A host straight into the database: the public address is not the one this test can reach."""
    key = new_key()
    public = key.public_key()
    with registry.parts.database.writing() as session, session.begin():
        session.add(
            Host(
                id=str(uuid.uuid4()), name=name, host_class="server", zone="eu-1", labels={}, key_id=host_signing.key_id(public),
                public_key=host_signing.public_der(public), enrolled_at=datetime.now(UTC), invited_by="person:al",
            )
        )  # fmt: skip
    return Machine(registry, name, key)


def test_signatures_are_made_for_the_public_address_whatever_the_proxy_sends_on(tmp_path, http_to):
    public = "https://Models.Example.org/registry"
    with behind_a_proxy(tmp_path, behind_proxy="127.0.0.1", public_url=public) as registry:
        machine, http = enrol_directly(registry, "gpu-1"), http_to(registry.url)
        for host in ("models.example.org", "10.0.0.7:8470", "backend"):
            headers = machine.headers("GET", "/v1/whoami?x=%20y", url=public)
            answer = http("GET", "/v1/whoami?x=%20y", headers={**headers, "Host": host, "X-Forwarded-Proto": "https"})
            assert answer.status == 200, host
        for wrong in ("https://models.example.org", "https://evil.example.org/registry", registry.url):
            assert refused(http("GET", "/v1/whoami", headers=machine.headers("GET", "/v1/whoami", url=wrong)))


def certificate_of(key):
    """What a proxy sees of a client: a self-signed certificate of its host key, as RFC 9440 writes it."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gpu-1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now).not_valid_after(now + timedelta(days=1))
        .sign(key, None if isinstance(key, Ed25519PrivateKey) else hashes.SHA256())
    )  # fmt: skip
    return f":{base64.b64encode(made.public_bytes(serialization.Encoding.DER)).decode()}:"


def test_a_certificate_seen_by_a_listed_proxy_names_the_host(tmp_path, http_to):
    with behind_a_proxy(tmp_path, behind_proxy="10.0.0.0/8, 127.0.0.1", client_cert_header=True) as registry:
        machine, http = enrol(registry, "gpu-1"), http_to(registry.url)
        certificate = certificate_of(machine.key)
        forwarded = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
        alone = http("GET", "/v1/whoami", headers={**forwarded, "Client-Cert": certificate})
        assert (alone.status, alone.json["principal"], alone.json["host"]) == (200, "host:gpu-1", "gpu-1")
        beside = http("GET", "/v1/whoami", registry.token("person:al"), headers={"Client-Cert": certificate})
        assert (beside.json["principal"], beside.json["host"]) == ("person:al", "gpu-1")

        signed = machine.headers("GET", "/v1/whoami")
        assert http("GET", "/v1/whoami", headers={**signed, "Client-Cert": certificate}).json["host"] == "gpu-1"
        other = enrol(registry, "gpu-2")
        both = {**other.headers("GET", "/v1/whoami"), "Client-Cert": certificate}
        assert refused(http("GET", "/v1/whoami", headers=both))  # two hosts in one request

        for raw in (
            "", "x", ":AA==:", certificate[1:], certificate + ", " + certificate, certificate[:-9] + ":", ":" + "A" * 20_000 + ":",
            certificate_of(new_key()), certificate_of(ec.generate_private_key(ec.SECP256R1())),
        ):  # fmt: skip
            answer = http("GET", "/v1/whoami", registry.token("person:al"), headers={"Client-Cert": raw})
            assert refused(answer), raw[:40]
        registry.api().revoke_host("gpu-1")
        assert refused(http("GET", "/v1/whoami", headers={"Client-Cert": certificate}))


@pytest.mark.parametrize(
    "settings",
    [
        {"behind_proxy": "10.0.0.1", "client_cert_header": True},  # this connection is not from there
        {"behind_proxy": "127.0.0.1"},  # from a proxy, and nobody said that it checks certificates
        {},
    ],
)
def test_a_certificate_from_elsewhere_is_refused_and_not_ignored(tmp_path, http_to, settings):
    with behind_a_proxy(tmp_path, **settings) as registry:
        machine, http = enrol(registry, "gpu-1"), http_to(registry.url)
        certificate = certificate_of(machine.key)
        for more in ({}, {"X-Forwarded-For": "10.0.0.1"}, {"Forwarded": "for=10.0.0.1"}, {"X-Real-IP": "10.0.0.1"}):
            headers = {"Client-Cert": certificate, **more}
            assert refused(http("GET", "/v1/whoami", headers=headers)), more
            assert refused(http("GET", "/v1/whoami", registry.token("person:al"), headers=headers)), more


def test_the_certificate_header_needs_a_proxy(tmp_path):
    with pytest.raises(Misconfigured, match="client_cert_header"):
        Settings(data_dir=tmp_path, client_cert_header=True)


@pytest.mark.parametrize("listed", ["*", "proxy.example.org", "127.0.0.1, proxy", ""])
def test_the_certificate_header_is_believed_from_addresses_only(tmp_path, listed):
    with pytest.raises(ValidationError, match="behind_proxy"):
        Settings(data_dir=tmp_path, behind_proxy=listed, client_cert_header=True)


@pytest.mark.parametrize("address", ["models.example.org", "ftp://x", "https://", "https://x?y=1", "https://x#y"])
def test_a_public_address_is_an_address(tmp_path, address):
    with pytest.raises(Misconfigured, match="public_url"):
        Settings(data_dir=tmp_path, public_url=address)


@pytest.mark.parametrize(
    ("address", "proxies", "listed"),
    [
        ("10.0.0.1", "10.0.0.1", True), ("10.0.0.1", "10.0.0.0/8", True), ("10.0.0.1", "192.0.2.1, 10.0.0.1", True),
        ("10.0.0.2", "10.0.0.1", False), ("::1", "::1", True), ("10.0.0.1", None, False), ("10.0.0.1", "", False),
        ("10.0.0.1", "*", False), (None, "10.0.0.1", False), ("", "10.0.0.1", False), ("10.0.0.1", "nonsense", False),
        ("::ffff:10.0.0.1", "10.0.0.1", False),
    ],
)  # fmt: skip
def test_a_proxy_is_listed_by_address_or_network(address, proxies, listed):
    assert hosts.is_listed(address, proxies) is listed


def test_the_forwarded_address_is_the_events_and_the_connections_is_the_proxys(tmp_path, http_to):
    with behind_a_proxy(tmp_path, behind_proxy="127.0.0.1", client_cert_header=True) as registry:
        machine = enrol(registry, "gpu-1")
        token = registry.token("person:al", "pull:other/*")
        headers = {"Client-Cert": certificate_of(machine.key), "X-Forwarded-For": "203.0.113.9"}
        assert http_to(registry.url)("GET", "/v1/repositories/demo/m/tags", token, headers=headers).status == 404
        event = of_type(registry, "access.denied")[-1]
        assert (event.client_address, event.verified_host) == ("203.0.113.9", "gpu-1")
