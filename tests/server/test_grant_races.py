"""What is recorded as granted holds at the commit, whatever happens between the decision and the log's lock."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from modelreg import wire
from modelreg.errors import Forbidden, ModelregError, NotFound, Unauthenticated
from modelreg_server import retrieval
from modelreg_server.group_commit import Recorder
from modelreg_server.tables import Token
from support.hosts import enrol, grant, token_without_scopes
from support.registry import running_registry


@pytest.fixture
def served(either_database, tmp_path, publishing_to):
    with running_registry(tmp_path / "registry", **either_database) as registry:
        pushed = publishing_to(registry).push({"a.bin": b"a"})
        yield registry, wire.GrantRequest(artifact=pushed.published.artifact, purpose="pull", host="h")


@pytest.fixture
def between(monkeypatch):
    """Has something happen once, after the decision and before the log's lock; counts the decisions."""

    def arrange(action):
        record, decide, state = Recorder.record, retrieval._decide, {"done": False, "decisions": 0}

        def interrupted(self, work, *, only_appends=False):
            if only_appends and not state["done"]:
                state["done"] = True
                action()
            return record(self, work, only_appends=only_appends)

        def counted(*arguments):
            state["decisions"] += 1
            return decide(*arguments)

        monkeypatch.setattr(Recorder, "record", interrupted)
        monkeypatch.setattr(retrieval, "_decide", counted)
        return state

    return arrange


def types(registry):
    return [event.type for event in registry.whole_log() if event.type != "token.issued"]  # every `api()` issues one


def test_access_that_is_revoked_meanwhile_is_a_recorded_refusal(served, between):
    registry, request = served
    given = grant(registry, "workload:gpu", "pull", "demo/*")
    api = registry.api(token_without_scopes(registry, "workload:gpu"))
    state = between(lambda: registry.api().revoke_access(given))
    with pytest.raises(NotFound):
        api.request_grant("demo/m", request)

    assert state == {"done": True, "decisions": 2}
    assert types(registry)[-2:] == ["access.revoked", "artifact.refused"]


def test_a_token_that_is_revoked_meanwhile_gets_nothing(served, between):
    registry, request = served
    issued = registry.api().issue_token(
        wire.TokenRequest(principal="workload:gpu", scopes=["pull:*/*"], expires_in_seconds=600)
    )
    between(lambda: registry.api().revoke_token(issued.info.id))
    with pytest.raises(Unauthenticated):
        registry.api(issued.token).request_grant("demo/m", request)

    assert "artifact.granted" not in types(registry)


def test_a_host_that_is_revoked_meanwhile_gets_nothing(served, between):
    registry, request = served
    grant(registry, "host:*", "pull", "demo/*")
    machine = enrol(registry, "gpu-1")
    between(lambda: registry.api().revoke_host("gpu-1"))
    with pytest.raises(Unauthenticated):
        machine.api().request_grant("demo/m", request)

    assert "artifact.granted" not in types(registry)


def test_a_repository_that_becomes_sensitive_meanwhile_is_not_granted_to_an_unverified_host(served, between):
    registry, request = served
    change = wire.RepositoryChange(sensitive=True)
    between(lambda: registry.api().change_repository("demo/m", change))
    with pytest.raises(Forbidden):
        registry.api().request_grant("demo/m", request)

    assert types(registry)[-2:] == ["repository.changed", "artifact.refused"]


def test_access_that_is_given_meanwhile_counts_as_well(served, between):
    registry, request = served
    api = registry.api(token_without_scopes(registry, "workload:gpu"))
    between(lambda: grant(registry, "workload:gpu", "pull", "demo/*"))

    api.request_grant("demo/m", request)
    assert types(registry)[-2:] == ["access.granted", "artifact.granted"]


def test_where_nothing_decisive_happened_it_is_decided_once(served, between):
    registry, request = served
    move = wire.TagRequest(artifact=request.artifact)
    state = between(lambda: registry.api().move_tag("demo/m", "prod", move))
    registry.api().request_grant("demo/m", request)

    assert state == {"done": True, "decisions": 1}


def test_a_report_after_the_right_to_pull_ended_is_refused(served):
    registry, request = served
    given = grant(registry, "workload:gpu", "pull", "demo/*")
    api = registry.api(token_without_scopes(registry, "workload:gpu"))
    granted = api.request_grant("demo/m", request)
    registry.api().revoke_access(given)
    with pytest.raises(ModelregError):
        api.report_received(granted.id, wire.ReceivedReport(transferred_bytes=1))

    assert "artifact.received" not in types(registry)


def test_in_the_log_no_grant_stands_where_access_was_revoked(served):
    """Many clients ask all the time while access is given and revoked."""
    registry, request = served
    tokens = [token_without_scopes(registry, "workload:gpu") for _ in range(8)]
    over = threading.Event()

    def ask(token):
        api, asked = registry.api(token), 0
        while not over.is_set():
            try:
                api.request_grant("demo/m", request)
            except NotFound:
                pass
            asked += 1
        return asked

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, token) for token in tokens]
        try:
            for _ in range(10):
                given = grant(registry, "workload:gpu", "pull", "demo/*")
                over.wait(0.15)
                registry.api().revoke_access(given)
                over.wait(0.05)
        finally:
            over.set()
        asked = sum(done.result() for done in asking)

    allowed, told = False, {"artifact.granted": 0, "artifact.refused": 0}
    after, page, auditor = -1, None, registry.api()
    while page != []:
        page = auditor._get(f"/v1/events?after={after}&limit=1000", wire.Events).events
        for event in page:
            after = event.index
            if event.type in {"access.granted", "access.revoked"}:
                allowed = event.type == "access.granted"
            if event.type in told:
                told[event.type] += 1
                assert (event.type == "artifact.granted") == allowed, event
    assert sum(told.values()) == asked
    assert min(told.values()) > 0


def test_noting_a_tokens_use_waits_for_nobody_who_revokes_it(tmp_path, postgres, publishing_to):
    """One holds the token's row and waits for the log, the other held the log and waited for the row: a deadlock."""
    with running_registry(tmp_path / "registry", database_url=postgres.make_database("revoking")) as registry:
        issued = registry.api().issue_token(wire.TokenRequest(principal="person:al", expires_in_seconds=600))
        with registry.parts.database.writing() as session, session.begin():
            session.get(Token, issued.info.id, with_for_update=True)

            assert registry.api(issued.token).whoami().principal == "person:al"
