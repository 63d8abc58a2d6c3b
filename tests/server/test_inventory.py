"""The inventory: only what one may read, whole over its pages, with what recalls and loads say, on both databases."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from modelreg import wire, wire_recalls
from modelreg.classification import Classification
from modelreg.digests import Digest
from modelreg_server import inventory
from support.registry import running_registry


@pytest.fixture
def clock():
    class Clock:
        ahead = timedelta()

        def __call__(self):
            return datetime.now(UTC) + self.ahead

    return Clock()


@pytest.fixture
def served(either_database, tmp_path, publishing_to, clock):
    """A registry on each database, with repositories of mine and of theirs."""
    with running_registry(tmp_path / "registry", clock=clock, **either_database) as registry:
        policy = registry.trust.policy_path
        policy.write_text(policy.read_text().replace('"demo/*"', '"*/*"'))
        publishing = publishing_to(registry)
        pushed = {
            name: publishing.push(
                {"a": name.encode()}, name, tags=("v1",), api=registry.api(registry.token(f"person:of-{name[:4]}"))
            ).published.artifact
            for name in ("mine/one", "mine/two", "theirs/one", "theirs/two", "mine/three")
        }
        yield registry, pushed


def rows_of(api, **asked):
    return [(row.repository, row.artifact) for row in api.inventory(**asked)]


def test_whoever_may_read_everything_sees_every_artifact_with_what_is_recorded(served):
    registry, pushed = served
    rows = list(registry.api().inventory())

    assert [(row.repository, row.artifact) for row in rows] == list(pushed.items())
    (one,) = [row for row in rows if row.repository == "mine/one"]
    assert (one.tags, one.owner, one.state, one.files, one.size_bytes) == (["v1"], "person:of-mine", "active", 1, 8)
    # Nothing says how sensitive it is, or that it serves anywhere: absent, not made up.
    assert (one.classification, one.environments, one.live_loads) == (
        None,
        [],
        one.live_loads.model_copy(update={"running": 0, "stale": 0, "unknown": 0}),
    )


def test_others_repositories_are_not_in_it_and_loads_are_for_auditors(served):
    registry, pushed = served
    mine = {(name, artifact) for name, artifact in pushed.items() if name.startswith("mine/")}
    reader = registry.api(registry.token("person:reader", "read-metadata:mine/*"))
    assert set(rows_of(reader)) == mine
    assert {row.live_loads for row in reader.inventory()} == {None}

    auditor = registry.api(registry.token("person:auditor", "read-metadata:mine/*", "audit:mine/one"))
    told = {row.repository: row.live_loads for row in auditor.inventory()}
    assert told["mine/one"] is not None
    assert told["mine/two"] is told["mine/three"] is None

    nobody = registry.api(registry.token("person:nobody", "push:mine/*"))
    assert rows_of(nobody) == []


def test_the_same_artifact_in_two_repositories_is_two_rows_and_each_is_told_to_its_readers(served, publishing_to):
    registry, pushed = served
    publishing_to(registry).push({"a": b"mine/one"}, "theirs/copy", tags=("also",))
    rows = [row for row in registry.api().inventory() if row.artifact == pushed["mine/one"]]
    assert [(row.repository, row.tags) for row in rows] == [("mine/one", ["v1"]), ("theirs/copy", ["also"])]
    reader = registry.api(registry.token("person:reader", "read-metadata:theirs/*"))
    assert [row.repository for row in reader.inventory() if row.artifact == pushed["mine/one"]] == ["theirs/copy"]


@pytest.mark.parametrize("page", [1, 2, 100])
@pytest.mark.parametrize("scanned", [1, 3, 10_000])
def test_pages_are_whole_whatever_their_size(served, http_to, monkeypatch, page, scanned):
    registry, pushed = served
    monkeypatch.setattr(inventory, "MAX_SCANNED", scanned)
    monkeypatch.setattr(inventory, "_PAGE", min(2, scanned))
    token = registry.token("person:reader", "read-metadata:mine/*")
    found, after, asked = [], 0, 0
    while after is not None:
        answer = http_to(registry.url)("GET", f"/v1/inventory?after={after}&limit={page}", token).json
        assert len(answer["rows"]) <= page
        assert answer["next_after"] is None or answer["next_after"] > after
        found += [row["repository"] for row in answer["rows"]]
        after, asked = answer["next_after"], asked + 1
        assert asked < 20
    assert found == [name for name in pushed if name.startswith("mine/")]


def test_recalled_artifacts_say_so_until_they_are_released(served):
    registry, pushed = served
    api, digest = registry.api(), Digest.parse(pushed["mine/two"])
    api.recall("mine/two", digest, wire_recalls.RecallRequest(kind="quarantine", reason="INC-42"))
    told = {row.repository: (row.state, row.state_reason) for row in api.inventory()}
    assert told["mine/two"] == ("quarantined", "INC-42")
    assert told["mine/one"] == ("active", None)
    api.release("mine/two", digest, wire_recalls.ReleaseRequest(reason="fine"))
    assert {row.state for row in api.inventory()} == {"active"}
    api.recall("mine/two", digest, wire_recalls.RecallRequest(kind="revocation", reason="INC-43"))
    assert {row.state for row in api.inventory() if row.repository == "mine/two"} == {"revoked"}


def test_loads_are_counted_by_what_is_known_of_them(served, clock):
    registry, pushed = served
    api = registry.api()
    request = wire.GrantRequest(artifact=pushed["mine/one"], purpose="launch", host="h")

    def load(**more):
        members = {"load": str(uuid.uuid4()), "command": "vllm", "pid": 7, "boot_id": "b", "client_version": "1"}
        api.report_loaded(api.request_grant("mine/one", request).id, wire.LoadedReport(**{**members, **more}))
        return members["load"]

    load(heartbeat_seconds=60)
    load()
    ended = load(heartbeat_seconds=60)
    api.report_unloaded(ended, wire.UnloadedReport(reason="ended"))

    def counts():
        (row,) = [row for row in api.inventory() if row.repository == "mine/one"]
        return row.live_loads.running, row.live_loads.stale, row.live_loads.unknown

    assert counts() == (1, 0, 1)
    clock.ahead = timedelta(minutes=10)
    assert counts() == (0, 1, 1)


def test_owner_class_and_environment_choose_rows(served, monkeypatch):
    registry, pushed = served
    api = registry.api()
    assert {name for name, _ in rows_of(api, owner="person:of-thei")} == {"theirs/one", "theirs/two"}
    assert rows_of(api, owner="person:stranger") == []
    assert rows_of(api, classification="restricted") == rows_of(api, environment="production") == []

    # What other parts of the registry know comes through these two functions.
    restricted, held = pushed["mine/one"], ("mine/two", pushed["mine/two"])
    monkeypatch.setattr(
        inventory,
        "classes_of",
        lambda _session, artifacts: {a: Classification.RESTRICTED for a in artifacts if a == restricted},
    )
    monkeypatch.setattr(
        inventory,
        "environments_of",
        lambda _session, asked, _now: {h: ["staging", "production"] for h in asked if h == held},
    )
    assert rows_of(api, classification="restricted") == [("mine/one", restricted)]
    assert rows_of(api, environment="production") == [held]
    (row,) = list(api.inventory(environment="staging"))
    assert row.environments == ["production", "staging"]


@pytest.mark.parametrize("query", ["class=secret", "environment=UPPER", "after=-1", "limit=0", "limit=1001", "owner="])
def test_what_cannot_be_asked_is_refused(registry, http_, query):
    assert http_("GET", f"/v1/inventory?{query}", registry.token()).status == 422


def test_nobody_asks_without_a_credential(http_):
    assert http_("GET", "/v1/inventory").status == 401
