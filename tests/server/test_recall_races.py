"""A recall and grants at once, on both databases: what the log has behind the recall was not granted."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from modelreg import wire
from modelreg import wire_recalls as models
from modelreg.errors import ModelregError, Quarantined
from modelreg_server import custody, recalls
from modelreg_server.callers import Caller
from modelreg_server.custody import Actor
from modelreg_server.identity import Principal
from support.registry import running_registry

AT_ONCE = 8
ROUNDS = 5


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def registry(request, tmp_path_factory):
    settings = {}
    if request.param == "postgresql":
        settings["database_url"] = request.getfixturevalue("postgres").make_database("recall_races")
    with running_registry(tmp_path_factory.mktemp("registry"), **settings) as running:
        yield running


def grant_of(artifact):
    return wire.GrantRequest(artifact=str(artifact), purpose="pull", host="h")


def recall_of(kind="quarantine"):
    return models.RecallRequest(kind=kind, reason="r")


def test_a_grant_that_waited_for_the_log_while_its_artifact_was_recalled_is_refused(registry, publishing):
    """The one interleaving that matters, made by hand: the decision must not be older than the lock."""
    artifact = publishing.push({"a": uuid.uuid4().bytes}).manifest.digest
    api = registry.api()
    answer = []

    def ask():
        try:
            answer.append(api.request_grant("demo/m", grant_of(artifact)))
        except ModelregError as error:
            answer.append(error)

    with registry.parts.database.writing() as session, session.begin():
        custody.hold(session)
        waiting = threading.Thread(target=ask)
        waiting.start()
        waiting.join(1.0)
        assert waiting.is_alive(), answer  # in front of the lock, or behind a decision made too early
        responder = Caller(Principal("person:x", None, (), None), Actor("person:x", None), datetime.now(UTC))
        named = recalls.Reached(str(artifact), None, None, None, 0)
        recalls._record(session, responder, named, ["demo/m"], None, recalls.QUARANTINE, "r")
    waiting.join(30)
    assert isinstance(answer[0], Quarantined), answer


def test_grants_and_a_recall_at_once_stand_in_the_log_in_the_order_they_were_decided(registry, publishing):
    apis = [registry.api() for _ in range(AT_ONCE)]
    for _round in range(ROUNDS):
        artifact = publishing.push({"a": uuid.uuid4().bytes}).manifest.digest
        some = threading.Event()

        def pull(api, artifact=artifact, some=some):
            """Ask until it is refused, and a few times more."""
            got, refused = [], 0
            while refused < 3:
                try:
                    got.append(api.request_grant("demo/m", grant_of(artifact)).event)
                    some.set()
                    assert refused == 0, "granted after a refusal"
                    assert len(got) < 10_000, "never refused"
                except Quarantined:
                    refused += 1
            return got

        def recall(artifact=artifact, some=some):
            assert some.wait(30)
            return registry.api().recall("demo/m", artifact, recall_of()).artifacts[0].recall.event

        with ThreadPoolExecutor(AT_ONCE + 1) as pool:
            pulls = [pool.submit(pull, api) for api in apis]
            at = pool.submit(recall).result()
            granted = [event for job in pulls for event in job.result()]
        assert granted
        assert all(event < at for event in granted), (granted, at)
        logged = registry.api().events(artifact=artifact, types=["artifact.granted"], limit=1000)
        assert sorted(granted)[-1000:] == [event.index for event in logged]


def test_recalls_of_one_artifact_at_once_make_one(registry, publishing):
    for kind in ("quarantine", "revocation"):
        artifact = publishing.push({"a": uuid.uuid4().bytes}).manifest.digest
        barrier = threading.Barrier(AT_ONCE)

        def recall(_n, artifact=artifact, barrier=barrier, kind=kind):
            barrier.wait(30)
            return registry.api().recall("demo/m", artifact, recall_of(kind)).artifacts[0]

        with ThreadPoolExecutor(AT_ONCE) as pool:
            made = list(pool.map(recall, range(AT_ONCE)))
        assert sum(row.changed for row in made) == 1
        assert len({row.recall.id for row in made}) == 1


def test_publishing_elsewhere_and_a_recall_at_once_leave_no_copy_that_nobody_decided_on(registry, publishing):
    """Either the new repository is among those the recall was decided for, or the artifact never came there."""
    for round_ in range(ROUNDS):
        files = {"a": uuid.uuid4().bytes}
        manifest = publishing.push(files).manifest
        pusher = registry.api(registry.token("person:racer", "push:demo/*"))
        elsewhere = f"demo/copy{round_}"
        state = pusher.begin_publication(elsewhere, publishing.request(manifest))
        publishing.upload(pusher, state.id, state.missing[0], files["a"])
        barrier = threading.Barrier(2)

        def publish(state=state, barrier=barrier, pusher=pusher):
            barrier.wait(30)
            try:
                return pusher.finish_publication(state.id).event
            except Quarantined:
                return None

        def recall(manifest=manifest, barrier=barrier):
            barrier.wait(30)
            return registry.api().recall("demo/m", manifest.digest, recall_of()).artifacts[0]

        with ThreadPoolExecutor(2) as pool:
            published, made = pool.submit(publish), pool.submit(recall)
            event, row = published.result(), made.result()
        assert (elsewhere in row.repositories) == (event is not None)
