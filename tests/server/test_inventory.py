"""The inventory: only what one may read, whole over its pages, with what recalls and loads say, on both databases."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from modelreg import attestations, provenance, push, signing, wire, wire_promotions, wire_recalls
from modelreg.attestations import Kind
from modelreg.classification import Classification
from modelreg.digests import Digest
from modelreg.provenance import Derivation, Input
from modelreg.references import parse_reference
from modelreg_server import inventory
from support.registry import QUIET, running_registry

_OFF = ", ".join(
    f'{rule} = "t"'
    for rule in ("source", "format", "scan", "lineage", "licence", "classification", "datasets", "approvals")
)
PROMOTION_POLICY = f"""
schema = "modelreg/promotion-policy/v1"
version = 1

[[environments.production]]
repositories = ["*/*"]
off = {{{_OFF}}}

[[environments.staging]]
repositories = ["*/*"]
off = {{{_OFF}}}

[[environments.guarded]]
repositories = ["*/*"]
off = {{{_OFF.replace(', approvals = "t"', "")}}}
approvals = {{count = 1, by = ["person:*"], max_age_days = 90}}
"""


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
    promotions = tmp_path / "promotion.toml"
    promotions.write_text(PROMOTION_POLICY)
    settings = {"promotion_policy": promotions, **either_database}
    with running_registry(tmp_path / "registry", clock=clock, **settings) as registry:
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


def test_the_owner_chooses_rows(served):
    registry, _ = served
    api = registry.api()
    assert {name for name, _ in rows_of(api, owner="person:of-thei")} == {"theirs/one", "theirs/two"}
    assert rows_of(api, owner="person:stranger") == []


def test_the_class_that_counts_chooses_rows_also_an_inherited_one(served, publishing_to):
    registry, pushed = served
    api, publishing = registry.api(), publishing_to(registry)
    assert rows_of(api, classification="restricted") == []

    def push_made(repository, made):
        def attest(manifest):
            at = datetime.now(UTC)
            predicate = provenance.predicate_of(made, version="0", started_at=at, finished_at=at)
            payload = attestations.build(Kind.PROVENANCE, repository, manifest.digest, predicate)
            return [signing.sign(payload, registry.trust.signer)]

        return push.push(
            api, publishing.make({"a": uuid.uuid4().bytes}), parse_reference(repository), registry.trust.signer, tags=(),
            connections_at_once=2, meter=QUIET, attest=attest,
        ).manifest.digest  # fmt: skip

    secret = push_made("mine/secret", Derivation("original", (), (), classification=Classification.RESTRICTED))
    plain = push_made("mine/plain", Derivation("original", (), (), classification=Classification.PUBLIC))
    child = push_made("mine/child", Derivation("finetune", (Input(secret, "mine/secret"),), ()))

    restricted = list(api.inventory(classification="restricted"))
    assert [(row.repository, row.artifact) for row in restricted] == [
        ("mine/secret", str(secret)),
        ("mine/child", str(child)),
    ]
    assert {row.classification for row in restricted} == {"restricted"}
    assert rows_of(api, classification="public") == [("mine/plain", str(plain))]
    assert rows_of(api, classification="confidential") == []
    told = {row.artifact: row.classification for row in api.inventory()}
    assert {told[artifact] for artifact in pushed.values()} == {None}


def test_the_environments_that_it_was_promoted_to_choose_rows_until_it_is_withdrawn(served, publishing_to):
    registry, pushed = served
    api, held = registry.api(), Digest.parse(pushed["mine/two"])
    publishing_to(registry).push({"a": b"mine/two"}, "theirs/copy")
    assert rows_of(api, environment="production") == []

    def promote(repository, artifact, environment):
        request = wire_promotions.PromotionRequest(environment=environment)
        return api.promote(repository, artifact, request).info.state == "live"

    assert promote("mine/two", held, "production")
    assert promote("mine/two", held, "staging")
    assert promote("mine/two", held, "staging")  # decided again: still one environment
    assert promote("mine/three", Digest.parse(pushed["mine/three"]), "staging")
    # Refused, which is a decision that is kept too.
    assert not promote("mine/one", Digest.parse(pushed["mine/one"]), "guarded")

    # The copy in another repository was promoted nowhere.
    (row,) = list(api.inventory(environment="production"))
    assert (row.repository, row.artifact, row.environments) == ("mine/two", str(held), ["production", "staging"])
    assert [name for name, _ in rows_of(api, environment="staging")] == ["mine/two", "mine/three"]
    assert rows_of(api, environment="guarded") == []
    told = {row.repository: row.environments for row in api.inventory()}
    assert told["theirs/copy"] == told["mine/one"] == []

    api.demote("mine/two", held, wire_promotions.DemotionRequest(environment="production", reason="over"))
    assert rows_of(api, environment="production") == []
    assert [name for name, _ in rows_of(api, environment="staging")] == ["mine/two", "mine/three"]


@pytest.mark.parametrize("query", ["class=secret", "environment=UPPER", "after=-1", "limit=0", "limit=1001", "owner="])
def test_what_cannot_be_asked_is_refused(registry, http_, query):
    assert http_("GET", f"/v1/inventory?{query}", registry.token()).status == 422


def test_nobody_asks_without_a_credential(http_):
    assert http_("GET", "/v1/inventory").status == 401
