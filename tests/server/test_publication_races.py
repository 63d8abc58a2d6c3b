"""Publishing at once: clients who ask again too early, several who publish the same, tags pulled both ways.

On both databases: SQLite lets one writer in at a time, PostgreSQL lets many in and sees what others committed meanwhile.
"""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import select

from modelreg import pki, signing, wire
from modelreg.errors import Conflict, DigestMismatch, ModelregError, NotFound
from modelreg_server.custody import CustodyEvent
from modelreg_server.sweeping import sweep
from modelreg_server.tables import Attempt, Blob, BlobUpload
from support.registry import running_registry

AT_ONCE = 8
ROUNDS = 3


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def registry(request, tmp_path_factory):
    settings = {}
    if request.param == "postgresql":
        settings["database_url"] = request.getfixturevalue("postgres").make_database("races")
    with running_registry(tmp_path_factory.mktemp("registry"), **settings) as running:
        yield running


@pytest.fixture
def api(registry):
    return registry.api(connections_at_once=AT_ONCE)


def at_once(actions):
    """Run them in threads that start together; each one's answer or error, in order."""
    barrier = threading.Barrier(len(actions))

    def run(action):
        barrier.wait(30)
        try:
            return action()
        except ModelregError as error:
            return error

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(run, actions))


def ready(publishing, api, files, *tags, repository="demo/m", backwards=False, **more):
    """A publication whose every blob is uploaded and measured, in the order asked for."""
    manifest = publishing.manifest(files)
    state = api.begin_publication(repository, publishing.request(manifest, *tags, **more))
    data = {entry.blake3: files[entry.path] for entry in manifest.files}
    for blob in sorted(state.missing, reverse=backwards):
        publishing.upload(api, state.id, blob, data[blob])
    return manifest, state


def events_about(registry, manifest, *types):
    return [e for e in registry.whole_log() if e.artifact == str(manifest.digest) and e.type in types]


def assert_log_is_whole(registry):
    """Indexes are contiguous; returns the types of all events."""
    with registry.parts.database.reading() as session:
        rows = session.exec(select(CustodyEvent.index, CustodyEvent.type).order_by(CustodyEvent.index)).all()
    assert [index for index, _type in rows] == list(range(len(rows)))
    return [type_ for _index, type_ in rows]


def bytes_of(registry, blake3):
    with registry.parts.database.reading() as session:
        row = session.exec(select(Blob).where(Blob.blake3 == blake3)).one()
    return b"".join(registry.parts.store.read(row.key, 0, row.size_bytes))


def second_signer(registry, name):
    leaf = pki.issue_signer(name, registry.trust.intermediate, datetime.now(UTC))
    return signing.CertificateSigner(leaf.private_key, (leaf.certificate, registry.trust.intermediate.certificate))


def test_finishing_at_once_publishes_once_and_keeps_the_bytes(registry, publishing, api):
    """A client whose answer is late asks again while the first request still runs."""
    for round_ in range(ROUNDS):
        data = b"finish at once %d" % round_
        manifest, state = ready(publishing, api, {"a": data}, f"t{round_}")
        answers = at_once([lambda s=state: api.finish_publication(s.id)] * AT_ONCE)

        assert all(answer == answers[0] for answer in answers)
        assert answers[0].created is True
        assert len(events_about(registry, manifest, "artifact.published")) == 1
        assert len(events_about(registry, manifest, "tag.moved")) == 1
        assert bytes_of(registry, manifest.files[0].blake3) == data
    assert_log_is_whole(registry)


def test_several_principals_who_publish_the_same_artifact_at_once_make_one_event(registry, publishing):
    for round_ in range(ROUNDS):
        files = {"a": b"several principals %d" % round_, "b": b"two files %d" % round_}
        apis = [registry.api(registry.token(f"person:racer-{n}", "push:demo/*")) for n in range(4)]
        states = [ready(publishing, api, files) for api in apis]
        manifest = states[0][0]

        answers = at_once([lambda a=a, s=s: a.finish_publication(s[1].id) for a, s in zip(apis, states, strict=True)])

        assert sorted(answer.created for answer in answers) == [False, False, False, True]
        assert len({answer.event for answer in answers}) == 1
        assert len(events_about(registry, manifest, "artifact.published")) == 1
        for entry in manifest.files:
            assert bytes_of(registry, entry.blake3) == files[entry.path]


def test_artifacts_that_share_blobs_are_published_at_once_without_waiting_for_each_other(registry, publishing):
    """Half of them uploaded the blobs in the other order: locks taken in that order would form a circle."""
    for round_ in range(ROUNDS):
        shared = {f"{n}": b"shared %d %d" % (round_, n) for n in range(5)}
        apis = [registry.api(registry.token(f"person:sharer-{n}", "push:demo/*")) for n in range(4)]
        states = [
            ready(publishing, api, {**shared, "own": b"%d %d" % (round_, n)}, repository=f"demo/shared-{n}", backwards=n % 2 == 1)
            for n, api in enumerate(apis)
        ]  # fmt: skip

        answers = at_once([lambda a=a, s=s: a.finish_publication(s[1].id) for a, s in zip(apis, states, strict=True)])

        assert [getattr(answer, "created", answer) for answer in answers] == [True] * 4
        for manifest, _state in states:
            for entry in manifest.files:
                assert len(bytes_of(registry, entry.blake3)) == entry.size
    assert_log_is_whole(registry)


def test_one_artifact_goes_into_several_repositories_at_once(registry, publishing, api):
    for round_ in range(ROUNDS):
        files = {"a": b"several repositories %d" % round_}
        names = [f"demo/copy-{round_}-{n}" for n in range(4)]
        states = [ready(publishing, api, files, repository=name) for name in names]

        answers = at_once([lambda s=s: api.finish_publication(s[1].id) for s in states])

        assert [answer.created for answer in answers] == [True] * 4
        assert sorted(e.repository for e in events_about(registry, states[0][0], "artifact.published")) == names


def test_beginning_at_once_opens_one_publication(registry, publishing, api):
    for round_ in range(ROUNDS):
        request = publishing.request(publishing.manifest({"a": b"begin at once %d" % round_}))
        answers = at_once([lambda r=request: api.begin_publication("demo/m", r)] * AT_ONCE)
        assert len({answer.id for answer in answers}) == 1


def test_uploads_opened_at_once_are_one_upload(registry, publishing, api):
    data = b"opened at once"
    manifest = publishing.manifest({"a": data})
    blob = manifest.files[0].blake3
    state = api.begin_publication("demo/m", publishing.request(manifest))

    answers = at_once([lambda: api.uploads(state.id, [blob])] * AT_ONCE)

    assert all(answer == answers[0] for answer in answers)
    with registry.parts.database.reading() as session:
        assert len(session.exec(select(BlobUpload).where(BlobUpload.blake3 == blob)).all()) == 1
    publishing.upload(api, state.id, blob, data)
    assert api.finish_publication(state.id).created is True


def test_measuring_at_once_says_the_same_to_all(registry, publishing, api):
    data = b"measured at once" * 100_000
    manifest = publishing.manifest({"a": data})
    blob = manifest.files[0].blake3
    state = api.begin_publication("demo/m", publishing.request(manifest))
    publishing.upload(api, state.id, blob, data, measure=False)

    answers = at_once([lambda: api.measure(state.id, blob)] * AT_ONCE)

    assert {answer.state for answer in answers} == {"measured"}
    assert api.finish_publication(state.id).created is True


def test_wrong_bytes_measured_at_once_are_refused_to_all_and_gone(registry, publishing, api):
    for round_ in range(4 * ROUNDS):
        right = b"right, at once %d" % round_
        manifest = publishing.manifest({"a": right})
        blob = manifest.files[0].blake3
        state = api.begin_publication("demo/m", publishing.request(manifest))
        publishing.upload(api, state.id, blob, b"wrong" + right[5:], measure=False)

        answers = at_once([lambda s=state, b=blob: api.measure(s.id, b)] * AT_ONCE)

        assert {type(answer) for answer in answers} <= {DigestMismatch, NotFound}
        assert DigestMismatch in {type(answer) for answer in answers}
        publishing.upload(api, state.id, blob, right)
        assert api.finish_publication(state.id).created is True
        assert bytes_of(registry, blob) == right


def test_measuring_and_finishing_at_once_never_publishes_what_is_not_measured(registry, publishing, api):
    for round_ in range(ROUNDS):
        data = b"measure and finish %d" % round_
        manifest = publishing.manifest({"a": data})
        blob = manifest.files[0].blake3
        state = api.begin_publication("demo/m", publishing.request(manifest))
        publishing.upload(api, state.id, blob, data, measure=False)

        answers = at_once(
            [lambda s=state, b=blob: api.measure(s.id, b)] * 2 + [lambda s=state: api.finish_publication(s.id)] * 4
        )

        assert all(isinstance(answer, wire.Published | Conflict) for answer in answers[2:])
        assert api.finish_publication(state.id).created is True
        assert len(events_about(registry, manifest, "artifact.published")) == 1


def test_several_signers_at_once_stand_beside_each_other(registry, publishing):
    for round_ in range(ROUNDS):
        files = {"a": b"several signers %d" % round_}
        names = [f"email:signer-{n}@demo.example" for n in range(4)]
        apis = [registry.api(registry.token(f"person:signer-{n}", "push:demo/*", "pull:demo/*")) for n in range(4)]
        states = [
            ready(publishing, api, files, signer=second_signer(registry, name))
            for api, name in zip(apis, names, strict=True)
        ]
        manifest = states[0][0]

        answers = at_once([lambda a=a, s=s: a.finish_publication(s[1].id) for a, s in zip(apis, states, strict=True)])

        assert sorted(answer.created for answer in answers) == [False, False, False, True]
        signatures = registry.api().artifact("demo/m", manifest.digest).signatures
        assert sorted(row.identity for row in signatures) == names
        assert len(events_about(registry, manifest, "artifact.published")) == 1
        assert len(events_about(registry, manifest, "artifact.signed")) == 3


def test_of_movers_who_expect_the_same_exactly_one_moves_the_tag(registry, publishing, api):
    artifacts = [publishing.push({"a": b"mover %d" % n}).published.artifact for n in range(AT_ONCE)]
    at = "none"
    for _round in range(ROUNDS):
        answers = at_once(
            [
                lambda a=artifact, at=at: api.move_tag("demo/m", "contested", wire.TagRequest(artifact=a, expected=at))
                for artifact in artifacts
                if artifact != at
            ]
        )
        won = [answer for answer in answers if not isinstance(answer, ModelregError)]
        assert len(won) == 1
        assert all(isinstance(answer, Conflict) for answer in answers if answer not in won)
        at = won[0].artifact
    history = api.tag_history("demo/m", "contested")
    assert [e.detail["from"] for e in history] == [None, *(e.artifact for e in history[:-1])]


def test_tags_moved_at_once_leave_a_history_without_a_gap(registry, publishing, api):
    artifacts = [publishing.push({"a": b"pulled both ways %d" % n}).published.artifact for n in range(4)]
    at_once(
        [
            lambda a=artifacts[n % 4]: api.move_tag("demo/m", "both-ways", wire.TagRequest(artifact=a))
            for n in range(AT_ONCE)
        ]
    )

    history = api.tag_history("demo/m", "both-ways")
    assert [e.detail["from"] for e in history] == [None, *(e.artifact for e in history[:-1])]
    assert {tag.tag: tag.artifact for tag in api.tags("demo/m")}["both-ways"] == history[-1].artifact
    assert_log_is_whole(registry)


def test_publications_that_move_one_tag_at_once_name_the_true_from(registry, publishing, api):
    states = [ready(publishing, api, {"a": b"one tag %d" % n}, "shared-tag") for n in range(AT_ONCE)]

    answers = at_once([lambda s=s: api.finish_publication(s[1].id) for s in states])

    assert all(answer.created for answer in answers)
    history = api.tag_history("demo/m", "shared-tag")
    assert len(history) == AT_ONCE
    assert [e.detail["from"] for e in history] == [None, *(e.artifact for e in history[:-1])]


def test_pushes_pulls_and_tags_at_once_leave_a_log_without_a_gap(registry, publishing):
    first = publishing.push({"a": b"pulled meanwhile"}).manifest
    api = registry.api(connections_at_once=AT_ONCE)

    def pull():
        for _ in range(5):
            api.request_grant("demo/m", wire.GrantRequest(artifact=str(first.digest), purpose="pull", host="h"))

    def push(number):
        for n in range(3):
            publishing.push({"a": b"pushed meanwhile %d %d" % (number, n)}, tags=("latest",))

    answers = at_once([*[pull] * 4, *[lambda n=n: push(n) for n in range(4)]])

    assert answers == [None] * 8
    counts = Counter(assert_log_is_whole(registry))
    assert counts["artifact.granted"] >= 20


def test_sweeping_leaves_alone_what_may_still_be_finishing(own_registry, publishing_to):
    """A finish that began in an attempt's last moment may commit after it expired: its bytes must be there then."""
    publishing, api = publishing_to(own_registry), own_registry.api()
    manifest, state = ready(publishing, api, {"a": b"last moment"})
    parts = own_registry.parts
    with parts.database.reading() as session:
        expires_at = session.get_one(Attempt, state.id).expires_at

    assert sweep(parts.database, parts.store, expires_at + timedelta(minutes=59)) == 0
    assert api.finish_publication(state.id).created is True
    assert bytes_of(own_registry, manifest.files[0].blake3) == b"last moment"
    assert sweep(parts.database, parts.store, expires_at + timedelta(hours=2)) == 0
    assert bytes_of(own_registry, manifest.files[0].blake3) == b"last moment"
