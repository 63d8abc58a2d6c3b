"""Access grants over the API, what denials leave behind, and repositories whose bytes are for some hosts only."""

import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import select

from modelreg import wire
from modelreg.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated
from modelreg_server import access_grants
from modelreg_server.app import create_app
from modelreg_server.settings import Settings
from modelreg_server.tables import AccessGrantRow
from support.hosts import enrol, grant, token_without_scopes
from support.registry import running_registry


@pytest.fixture
def either(either_database, tmp_path):
    """A registry on each kind of database."""
    with running_registry(tmp_path / "registry", **either_database) as running:
        yield running


@pytest.fixture(scope="module")
def published(publishing):
    return publishing.push({"a": b"bytes to be granted"}, tags=("v1",))


def of_type(registry, *types):
    return [event for event in registry.whole_log() if event.type in types]


def grant_request(published, **changed):
    return wire.GrantRequest(artifact=published.published.artifact, purpose="pull", host="claimed", **changed)


# A token without scopes has its principal's grants; a grant and its end hold from the next request on.


def test_a_token_without_scopes_may_nothing_until_a_grant_says_so_and_nothing_after_it_ended(either, publishing_to):
    publishing_to(either).push({"a": b"1"}, tags=("v1",))
    api = either.api(token_without_scopes(either, "person:al"))
    with pytest.raises(NotFound):
        api.tags("demo/m")

    grant_id = grant(either, "person:al", "pull", "demo/*")
    assert [tag.tag for tag in api.tags("demo/m")] == ["v1"]
    assert [row.repository for row in api.repositories()] == ["demo/m"]
    assert api.whoami().grants == ["person:al pull demo/*"]

    either.api().revoke_access(grant_id)
    with pytest.raises(NotFound):
        api.tags("demo/m")
    assert list(api.repositories()) == []


def test_a_token_with_scopes_has_those_rights_whatever_is_granted(registry, published):
    grant(registry, "person:scoped", "pull", "demo/*")
    api = registry.api(registry.token("person:scoped", "audit:demo/*"))
    with pytest.raises(NotFound):
        api.tags("demo/m")


def test_what_one_worker_grants_or_revokes_holds_at_once_on_another(either, publishing_to):
    """Two applications on one database: nothing is remembered in a process."""
    import socket
    import threading
    import time

    import uvicorn

    publishing_to(either).push({"a": b"1"}, tags=("v1",))
    token = token_without_scopes(either, "person:al")
    machine = enrol(either, "gpu-1")
    second = create_app(
        Settings(
            data_dir=either.parts.settings.data_dir,
            trust_policy=either.trust.policy_path,
            database_url=either.parts.settings.database_url,
        )
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(second, log_config=None, proxy_headers=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        from modelreg import connections
        from modelreg.api import Api

        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        other, on_machine = (
            Api(url, text, connections.make_pool(None, 2), key) for text, key in ((token, None), (None, machine.key))
        )
        with pytest.raises(NotFound):
            other.tags("demo/m")
        first = grant(either, "person:al", "pull", "demo/*")
        assert other.tags("demo/m")
        either.api().revoke_access(first)
        with pytest.raises(NotFound):
            other.tags("demo/m")

        issued = either.api().issue_token(
            wire.TokenRequest(principal="person:bo", scopes=["audit:*/*"], expires_in_seconds=60)
        )
        bo = Api(url, issued.token, connections.make_pool(None, 2))
        assert bo.whoami().principal == "person:bo"
        either.api().revoke_token(issued.info.id)
        with pytest.raises(Unauthenticated):
            bo.whoami()

        # A signature that one worker took is not taken by the other.
        headers = machine.headers("GET", "/v1/whoami")
        headers_there = machine.headers("GET", "/v1/whoami", url=url)
        assert plain(either.url, headers) == 200
        assert plain(either.url, headers) == 401
        assert plain(url, headers_there) == 200
        assert plain(either.url, {**headers_there, "Host": url.removeprefix("http://")}) == 401

        assert on_machine.whoami().principal == "host:gpu-1"
        either.api().revoke_host("gpu-1")
        with pytest.raises(Unauthenticated):
            on_machine.whoami()
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def plain(url, headers):
    import http.client
    from contextlib import closing

    with closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)) as connection:
        connection.request("GET", "/v1/whoami", headers=headers)
        return connection.getresponse().status


def test_granting_and_revoking_are_events_and_revoking_again_is_none(either):
    made = either.api(either.token("person:boss")).grant_access(
        wire.AccessGrantRequest(
            subject="workload:ci/*", verb="push", repository="demo/*", host_class="ci", zone="eu-1",
            environment="staging", expires_in_seconds=3600,
        )
    )  # fmt: skip
    for _ in range(2):
        either.api().revoke_access(made.id)
    events = of_type(either, "access.granted", "access.revoked")
    assert [(event.type, event.principal) for event in events] == [
        ("access.granted", "person:boss"),
        ("access.revoked", "person:tester"),
    ]
    assert events[0].detail == events[1].detail
    assert events[0].detail["grant"] == made.id
    assert (events[0].detail["subject"], events[0].detail["verb"], events[0].detail["on"]) == (
        "workload:ci/*",
        "push",
        "demo/*",
    )
    assert made.not_after - made.created_at == timedelta(hours=1)
    with either.parts.database.reading() as session:
        row = session.get(AccessGrantRow, made.id)
        assert row.revoked_by == "person:tester"


def test_grants_are_listed_newest_first_and_by_whom_they_name(own_registry):
    ids = [grant(own_registry, subject, "pull", "demo/*") for subject in ("person:al", "person:bo", "person:*")]
    api = own_registry.api()
    assert [row.id for row in api.access_grants(None)] == ids[::-1]
    assert [row.id for row in api.access_grants("person:al")] == [ids[2], ids[0]]


@pytest.mark.parametrize(
    "changed",
    [
        {"subject": "al"}, {"subject": "*"}, {"subject": "group:x"}, {"subject": "person:"}, {"subject": "person:a b"},
        {"subject": "person:" + "x" * 200}, {"verb": "fly"}, {"verb": "PULL"}, {"repository": "demo"}, {"repository": "a/b/c"},
        {"repository": "A/b"}, {"repository": "../x"}, {"repository": "-/b"}, {"host_class": "laptop"}, {"zone": "EU"},
        {"zone": ""}, {"environment": "a b"}, {"expires_in_seconds": 0}, {"expires_in_seconds": 10**12}, {"not_after": "2030"},
        {"subject": None}, {"created_by": "person:boss"},
    ],
)  # fmt: skip
def test_a_malformed_grant_is_refused(http_, registry, changed):
    body = {"subject": "person:al", "verb": "pull", "repository": "demo/*", **changed}
    answer = http_("POST", "/v1/access/grants", registry.token(), json=body)
    assert (answer.status, answer.code) == (422, "invalid")


def test_there_is_an_end_to_the_number_of_grants(own_registry, monkeypatch):
    monkeypatch.setattr(access_grants, "MAX_LIVING_GRANTS", 2)
    ids = [grant(own_registry, "person:al", "pull", f"demo/{n}") for n in range(2)]
    with pytest.raises(Conflict, match="2 access grants"):
        grant(own_registry, "person:al", "pull", "demo/more")
    own_registry.api().revoke_access(ids[0])
    grant(own_registry, "person:al", "pull", "demo/more")


def test_a_grant_that_ended_by_its_time_applies_no_more(own_registry, publishing_to):
    publishing_to(own_registry).push({"a": b"1"}, tags=("v1",))
    grant_id = grant(own_registry, "person:al", "pull", "demo/*", expires_in_seconds=60)
    api = own_registry.api(token_without_scopes(own_registry, "person:al"))
    assert api.tags("demo/m")
    with own_registry.parts.database.writing() as session, session.begin():
        session.get(AccessGrantRow, grant_id).not_after = datetime.now(UTC)
    with pytest.raises(NotFound):
        api.tags("demo/m")


# Denials.


def test_every_denial_is_an_event_with_who_what_where_and_why(either, publishing_to, http_to):
    publishing_to(either).push({"a": b"1"}, tags=("v1",))
    http = http_to(either.url)
    grant(either, "person:al", "pull", "demo/m", zone="eu-1")
    token = token_without_scopes(either, "person:al")
    body = {"artifact": "sha256:" + "0" * 64}
    assert http("GET", "/v1/repositories/demo/m/tags", token).status == 404
    assert http("PUT", "/v1/repositories/demo/m/tags/v2", token, json=body).status == 403
    assert http("GET", "/v1/tokens", token).status == 403
    assert http("GET", "/v1/events", token).status == 403
    assert http("GET", "/v1/events?repository=demo/absent", token).status == 403

    denied = of_type(either, "access.denied")
    assert [(e.repository, e.detail["verb"], e.detail["on"], e.detail["answer"]) for e in denied] == [
        ("demo/m", "read-metadata", "demo/m", "not-found"),
        ("demo/m", "tag", "demo/m", "forbidden"),
        (None, "admin", "*/*", "forbidden"),
        (None, "audit", "*/*", "forbidden"),
        ("demo/absent", "audit", "demo/absent", "forbidden"),
    ]
    assert {event.principal for event in denied} == {"person:al"}
    assert {event.client_address for event in denied} == {"127.0.0.1"}
    assert "needs a verified host in zone eu-1" in denied[0].detail["reasons"][0]
    assert denied[1].detail["reasons"][0].endswith("permits pull, not tag")


def test_a_denial_names_the_verified_host(registry, published):
    machine = enrol(registry, "denied-1")
    token = registry.token("person:denied-there", "pull:other/*")
    with pytest.raises(NotFound):
        machine.api(token).tags("demo/m")
    event = of_type(registry, "access.denied")[-1]
    assert (event.principal, event.verified_host, event.verified_host_class) == (
        "person:denied-there",
        "denied-1",
        "server",
    )


def test_a_refused_pull_is_one_event_with_its_reasons(registry, published):
    before = len(registry.whole_log())
    api = registry.api(registry.token("person:refused-once", "read-metadata:demo/*"))
    with pytest.raises(Forbidden):
        api.request_grant("demo/m", grant_request(published))
    new = [event for event in registry.whole_log()[before:] if event.principal == "person:refused-once"]
    assert [event.type for event in new] == ["artifact.refused"]
    assert new[0].detail["reasons"] == ["scope: permits read-metadata, not pull"]


def test_a_grant_used_after_the_right_ended_is_a_denial(registry, published):
    grant_id = grant(registry, "person:leaving", "pull", "demo/*")
    api = registry.api(token_without_scopes(registry, "person:leaving"))
    given = api.request_grant("demo/m", grant_request(published))
    registry.api().revoke_access(grant_id)
    with pytest.raises(NotFound):
        api.read_requests(given.id, [published.manifest.files[0].blake3])
    event = of_type(registry, "access.denied")[-1]
    assert (event.principal, event.detail["verb"], event.repository) == ("person:leaving", "pull", "demo/m")


def test_a_grant_is_used_on_the_host_it_was_given_to(either, publishing_to):
    """`artifact.granted` names the host; bytes that went to another one would be in no event."""
    pushed = publishing_to(either).push({"a": b"bytes"}, tags=("v1",))
    here, there = enrol(either, "here"), enrol(either, "there")
    token = either.token("person:al", "pull:demo/*")
    blob, received = pushed.manifest.files[0].blake3, wire.ReceivedReport(transferred_bytes=5)
    given = here.api(token).request_grant("demo/m", grant_request(pushed))
    by_nobody = either.api(token).request_grant("demo/m", grant_request(pushed))
    direct = here.api(token).read_requests(given.id, [blob])[0]
    for api, grant_id in (
        (there.api(token), given.id),
        (either.api(token), given.id),
        (there.api(token), by_nobody.id),
    ):
        with pytest.raises(NotFound, match="pull again"):
            api.read_requests(grant_id, [blob])
        with pytest.raises(NotFound):
            api.report_received(grant_id, received)
    with pytest.raises(NotFound):
        there.api(token).open_direct(direct, {})
    here.api(token).report_received(given.id, received)
    either.api(token).report_received(by_nobody.id, received)
    assert [event.verified_host for event in of_type(either, "artifact.received")] == ["here", None]


def test_a_denial_that_cannot_be_recorded_is_not_answered_as_one(own_registry, http_to, monkeypatch):
    from sqlalchemy.exc import OperationalError

    from modelreg_server import guarding

    def broken(*_arguments):
        raise OperationalError("INSERT", {}, Exception("disk full"))

    monkeypatch.setattr(guarding, "record_denial", broken)
    token = own_registry.token("person:al", "pull:other/*")
    answer = http_to(own_registry.url)("GET", "/v1/repositories/demo/m/tags", token)
    assert (answer.status, answer.code) == (503, "record-unavailable")


def test_many_reasons_fit_into_one_event(own_registry, http_to):
    for n in range(30):
        grant(own_registry, "person:al", "pull", "demo/*", zone=f"zone-{n}")
    token = token_without_scopes(own_registry, "person:al")
    assert http_to(own_registry.url)("GET", "/v1/repositories/demo/m/tags", token).status == 404
    detail = of_type(own_registry, "access.denied")[-1].detail
    assert (len(detail["reasons"]), detail["reasons_left_out"]) == (8, 22)


def test_a_denial_does_not_tell_a_repositorys_auditors_of_other_repositories(own_registry, http_to):
    grant(own_registry, "person:al", "pull", "unheard-of/project")
    token = token_without_scopes(own_registry, "person:al")
    http = http_to(own_registry.url)
    assert http("GET", "/v1/repositories/demo/m/tags", token).status == 404
    body = {"artifact": "sha256:" + "0" * 64, "purpose": "pull", "host": "h"}
    assert http("POST", "/v1/repositories/demo/m/grants", token, json=body).status == 404
    seen = own_registry.api(own_registry.token("person:auditor", "audit:demo/*")).events(repository="demo/m")
    assert {event.type for event in seen} == {"access.denied", "artifact.refused"}
    for event in seen:
        assert event.detail["reasons"] == ["no grant gives this principal anything here"]


# Sensitive repositories.


@pytest.fixture
def secret(publishing, registry):
    """A sensitive repository of its own with one artifact."""
    name = f"demo/secret-{uuid.uuid4().hex[:8]}"
    pushed = publishing.push({"weights": b"of " + name.encode()}, name, tags=("v1",))
    registry.api().change_repository(name, wire.RepositoryChange(sensitive=True))
    return name, pushed


def test_setting_sensitivity_is_an_event_once_and_it_is_shown(own_registry, publishing_to):
    artifact = publishing_to(own_registry).push({"a": b"1"}).manifest.digest
    api = own_registry.api()
    assert [row.sensitive for row in api.repositories()] == [False]
    for value in (True, True, False):
        assert api.change_repository("demo/m", wire.RepositoryChange(sensitive=value)).sensitive is value
        assert [row.sensitive for row in api.repositories()] == [value]
        assert api.artifact("demo/m", artifact).sensitive is value
    changes = of_type(own_registry, "repository.changed")
    assert [(event.repository, event.detail) for event in changes] == [
        ("demo/m", {"sensitive": True}),
        ("demo/m", {"sensitive": False}),
    ]
    with pytest.raises(NotFound):
        api.change_repository("demo/absent", wire.RepositoryChange(sensitive=True))


def test_bytes_of_a_sensitive_repository_go_to_a_server_and_not_to_a_workstation_nor_to_nobody(registry, secret):
    name, pushed = secret
    server, desk = (enrol(registry, f"{kind}-{uuid.uuid4().hex[:8]}", kind) for kind in ("server", "workstation"))
    token = registry.token("person:sensitive", "pull:demo/*")
    request, blob = grant_request(pushed), pushed.manifest.files[0].blake3

    given = server.api(token).request_grant(name, request)
    bytes_of = server.api(token).read_requests(given.id, [blob])[0]
    assert server.api(token).open_direct(bytes_of, {}).read() == b"of " + name.encode()
    for api, says in ((registry.api(token), "needs a verified host"), (desk.api(token), "workstation")):
        with pytest.raises(Forbidden, match=says):
            api.request_grant(name, request)
        # What was granted to a server is not fetched from elsewhere with the same token.
        with pytest.raises(Forbidden, match=says):
            api.read_requests(given.id, [blob])
        with pytest.raises(Forbidden, match=says):
            api.open_direct(bytes_of, {})
        with pytest.raises(Forbidden, match=says):
            api.report_received(given.id, wire.ReceivedReport(transferred_bytes=1))
        # Metadata is not bytes.
        assert api.resolve(name, "v1").artifact == pushed.published.artifact
        assert api.artifact(name, pushed.manifest.digest).sensitive is True


def test_a_grant_that_names_workstations_is_the_exception(registry, secret):
    name, pushed = secret
    desk = enrol(registry, f"desk-{uuid.uuid4().hex[:8]}", "workstation")
    subject = f"person:{uuid.uuid4().hex}"
    token = token_without_scopes(registry, subject)
    grant(registry, subject, "pull", "demo/*")
    with pytest.raises(Forbidden):
        desk.api(token).request_grant(name, grant_request(pushed))
    grant(registry, subject, "pull", name, host_class="workstation")
    assert desk.api(token).request_grant(name, grant_request(pushed)).artifact == pushed.published.artifact
    with pytest.raises(Forbidden):
        registry.api(token).request_grant(name, grant_request(pushed))


def test_blobs_of_a_sensitive_repository_are_not_reused_by_whoever_may_not_fetch_them(registry, publishing, secret):
    name, _pushed = secret
    manifest = publishing.manifest({"mine": b"of " + name.encode()})
    request = publishing.request(manifest)
    token = registry.token("person:reuser", "push:demo/mine", "pull:demo/*")
    server = enrol(registry, f"server-{uuid.uuid4().hex[:8]}")
    assert registry.api(token).begin_publication("demo/mine", request).missing == [manifest.files[0].blake3]
    assert server.api(token).begin_publication("demo/mine", request).missing == []


def test_whether_a_repository_is_sensitive_is_not_told_to_who_may_not_see_it(registry, http_, secret):
    name, pushed = secret
    body = {"artifact": pushed.published.artifact, "purpose": "pull", "host": "h"}
    for scope in ("pull:other/*", "push:demo/*", "tag:demo/*"):
        token = registry.token("person:curious", scope)
        seen = [
            str(http_("POST", f"/v1/repositories/{repository}/grants", token, json=body).same_for_all).replace(
                repository, "R"
            )
            for repository in (name, "demo/absent")
        ]
        assert seen[0] == seen[1]
        assert "sensitive" not in seen[0]


# sign: a further signature, and nothing else.


def test_who_may_sign_adds_a_signature_to_what_is_published_and_publishes_nothing(registry, publishing, published):
    from modelreg import pki, signing

    trust = registry.trust
    second = pki.issue_signer("email:second@demo.example", trust.intermediate, datetime.now(UTC))
    signer = signing.CertificateSigner(second.private_key, (second.certificate, trust.intermediate.certificate))
    api = registry.api(registry.token("person:signer", "sign:demo/*"))

    state = api.begin_publication("demo/m", publishing.request(published.manifest, signer=signer))
    assert state.missing == []
    assert api.finish_publication(state.id).created is False
    signed = of_type(registry, "artifact.signed")[-1]
    assert (signed.principal, signed.detail["identity"]) == ("person:signer", "email:second@demo.example")
    assert len(registry.api().artifact("demo/m", published.manifest.digest).signatures) == 2

    new = publishing.manifest({"a": b"never published"})
    with pytest.raises(Forbidden):
        api.begin_publication("demo/m", publishing.request(new))
    with pytest.raises(Forbidden):
        api.begin_publication("demo/elsewhere", publishing.request(published.manifest))
    with pytest.raises(Forbidden, match="not move tags"):
        api.begin_publication("demo/m", publishing.request(published.manifest, "v9"))


# explain.


def test_explain_gives_the_decision_and_every_reason(registry, published):
    subject = f"person:{uuid.uuid4().hex}"
    ids = [
        grant(registry, subject, "pull", "demo/*", host_class="server", zone="eu-1"),
        grant(registry, "person:*", "tag", "demo/explained"),
    ]
    api = registry.api(registry.token("person:auditor", "audit:demo/*"))

    def explained(**more):
        return api.explain_access(**{"subject": subject, "verb": "pull", "repository": "demo/m", **more})

    bare = explained()
    assert bare.allowed is False
    # What the subject may elsewhere is for auditors of everything.
    assert [reason.origin for reason in bare.reasons] == [ids[0]]
    assert bare.reasons[0].text == "needs a verified host of class server, not an unverified one"
    for scope in ("audit:*/*", "admin:*/*"):
        whole = registry.api(registry.token("person:overseer", scope)).explain_access(
            subject=subject, verb="pull", repository="demo/m"
        )
        mine = {reason.origin: reason for reason in whole.reasons}
        assert set(ids) <= set(mine)
        assert mine[ids[1]].text == "permits tag, not pull"
    assert explained(host_class="server", zone="us-1").allowed is False
    assert explained(host_class="server", zone="eu-1").allowed is True
    assert explained(host_class="server", zone="eu-1", repository="demo/absent").allowed is True
    assert explained(subject="person:nobody-at-all", repository="demo/zzz").allowed is False


def test_explain_tells_of_tokens_with_scopes_and_of_hosts(registry, published):
    subject = f"person:{uuid.uuid4().hex}"
    registry.token(subject, "pull:demo/*")
    api = registry.api()
    found = api.explain_access(subject=subject, verb="pull", repository="demo/m")
    assert (found.allowed, [token.allowed for token in found.tokens]) == (False, [True])

    machine = enrol(registry, f"explained-{uuid.uuid4().hex[:8]}", "workstation")
    subject = f"host:{machine.name}"
    grant(registry, subject, "pull", "demo/*", host_class="workstation")
    assert api.explain_access(subject=subject, verb="pull", repository="demo/m").allowed is True
    api.revoke_host(machine.name)
    assert api.explain_access(subject=subject, verb="pull", repository="demo/m").allowed is False


def test_explain_names_to_a_repositorys_auditors_no_tokens_for_others(registry, published):
    subject = f"person:{uuid.uuid4().hex}"
    registry.token(subject, "pull:elsewhere/*")
    registry.token(subject, "push:demo/*")
    asked = {"subject": subject, "verb": "pull", "repository": "demo/m"}
    auditor = registry.api(registry.token("person:auditor", "audit:demo/*"))
    assert [token.reasons[0].grant for token in auditor.explain_access(**asked).tokens] == [f"{subject} push demo/*"]
    assert len(registry.api().explain_access(**asked).tokens) == 2


def test_what_explain_says_is_what_happens(registry, published):
    subject = f"person:{uuid.uuid4().hex}"
    api = registry.api(token_without_scopes(registry, subject))
    for host_class in (None, "server"):
        grant(registry, subject, "tag", "demo/m", host_class=host_class)
        said = registry.api().explain_access(subject=subject, verb="tag", repository="demo/m").allowed
        request = wire.TagRequest(artifact=published.published.artifact)
        if said:
            api.move_tag("demo/m", "explained", request)
        else:
            with pytest.raises(Forbidden):
                api.move_tag("demo/m", "explained", request)


def test_explaining_needs_audit_or_admin_there(registry, http_):
    path = "/v1/access/decision?subject=person:x&verb=pull&repository=demo%2Fm"
    for scope, status in (
        ("audit:demo/*", 200), ("admin:demo/m", 200), ("admin:*/*", 200), ("audit:other/*", 403), ("pull:demo/*", 403),
    ):  # fmt: skip
        assert http_("GET", path, registry.token("person:asks", scope)).status == status, scope


@pytest.mark.parametrize("query", ["", "subject=x&verb=pull&repository=a/b", "subject=person:x&verb=fly&repository=a/b",
                                   "subject=person:x&verb=pull&repository=a", "subject=person:x&verb=pull&repository=a/b&zone=X",
                                   "subject=person:x&verb=pull&repository=a/b&host_class=x", "subject=person:%00&verb=pull&repository=a/b"])  # fmt: skip
def test_a_malformed_question_is_refused(http_, registry, query):
    answer = http_("GET", f"/v1/access/decision?{query}", registry.token())
    assert (answer.status, answer.code) == (422, "invalid")


def test_a_host_gets_no_token(registry):
    with pytest.raises(Invalid, match="has a key"):
        registry.api().issue_token(wire.TokenRequest(principal="host:gpu-1", expires_in_seconds=60))


def test_an_entry_of_the_log_has_the_verified_host(registry, published):
    from modelreg_server import custody_identities
    from modelreg_server.custody import CustodyEvent

    machine = enrol(registry, f"entry-{uuid.uuid4().hex[:8]}", "ci", "us-2")
    token = registry.token("person:on-a-host", "pull:demo/*")
    given = machine.api(token).request_grant("demo/m", grant_request(published))
    with registry.parts.database.reading() as session:
        row = session.exec(select(CustodyEvent).where(CustodyEvent.index == given.event)).one()
        who = custody_identities.opened(session, [row.actor])[row.actor]
    entry = json.loads(row.entry)
    assert entry["verified_host"] == {"name": machine.name, "class": "ci", "zone": "us-2"}
    assert (row.verified_host, row.verified_host_class, row.verified_host_zone) == (machine.name, "ci", "us-2")
    assert (who.body["principal"], entry["host"]) == ("person:on-a-host", "claimed")
    assert (entry["actor"], "person:on-a-host" in row.entry.decode()) == (who.commitment, False)
