"""What a review of the record found."""

from datetime import timedelta

import pytest
from sqlalchemy import delete, select, update

from modelreg import merkle
from modelreg.digests import Digest
from modelreg_server import custody, database, log_checking, log_erasing, log_publishing, log_verifying
from modelreg_server.custody import Actor, Event, EventType
from modelreg_server.custody_identities import CustodyIdentity
from modelreg_server.custody_tree import CustodyHead
from modelreg_server.tables import Artifact, Recall, Repository, RuntimeLoad, Tag, table_of
from support.logs import DIGEST, NOW, append_some, opened_log, publish

LATER = NOW + timedelta(hours=1)
OTHER = "sha256:" + "cd" * 32
IDENTITY, EVENT = table_of(CustodyIdentity), table_of(custody.CustodyEvent)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").make_database("log")
    return f"sqlite:///{tmp_path / 'log.sqlite3'}"


def findings(opened, copies, segments=None):
    with opened.reading() as session:
        return log_verifying.verify(database.one_state(session), copies, segments).findings


def refused(opened, person, at=LATER):
    """A refusal whose words are the same for everybody."""
    event = Event(EventType.ARTIFACT_REFUSED, "demo/m", DIGEST, about=person, personal={"detail": "it is quarantined"})
    with opened.writing() as session, session.begin():
        return custody.append(session, Actor(person, None), event, at)


def test_whoever_is_erased_takes_nobody_elses_words_along(url):
    with opened_log(url, 10) as (opened, copies):
        refused(opened, "person:alice")
        index = refused(opened, "person:bob")
        log_erasing.erase(opened, copies, "person:alice", "", LATER)
        with opened.reading() as session:
            row = session.get(custody.CustodyEvent, index)
            about = session.get(CustodyIdentity, row.about)
            assert about is not None
            assert about.principal == "person:bob"
        assert findings(opened, copies) == ()


def test_whom_an_opening_is_about_cannot_be_changed_unnoticed(url):
    with opened_log(url, 10) as (opened, copies):
        index = refused(opened, "person:bob")
        with opened.engine.begin() as connection:
            about = connection.execute(select(EVENT.c.about).where(EVENT.c.index == index)).scalar_one()
            changed = update(IDENTITY).where(IDENTITY.c.commitment == about).values(principal="person:eve")
            assert connection.execute(changed).rowcount == 1
        assert [finding.index for finding in findings(opened, copies)][:1] == [index]


def test_a_log_that_grows_while_it_is_verified_is_intact(url):
    with opened_log(url, 600) as (opened, copies):

        def segments(connection, ranges):
            """Others append and publish before the verifier has read what it compares with."""
            found = [log_verifying.verify_segment(connection, *each) for each in ranges]
            append_some(opened, range(600, 1000))
            publish(opened, copies, 600)
            return iter(found)

        assert findings(opened, copies, segments) == ()


def test_an_erasure_moves_the_epoch_so_that_requests_under_way_are_looked_at_again(url):
    with opened_log(url, 10) as (opened, copies):
        erased = log_erasing.erase(opened, copies, "person:p1", "", LATER)
        with opened.reading() as session:
            assert custody.epoch(session) == erased.event


def appended(opened, kind, **members):
    """An event about the artifact."""
    event = Event(kind, "demo/m", DIGEST, **members)
    with opened.writing() as session, session.begin():
        return custody.append(session, Actor("person:bob", None), event, LATER)


def kept(opened, *rows):
    with opened.writing() as session, session.begin():
        session.add_all(rows)


def recalled(opened):
    index = appended(opened, EventType.ARTIFACT_QUARANTINED, detail={"recall": "r1", "reason": "bad"})
    row = Recall(
        id="r1", artifact_digest=DIGEST, kind="quarantine", reason="bad", created_at=LATER, created_by="person:bob",
        event_index=index,
    )  # fmt: skip
    kept(opened, row)
    return index


def loaded(opened):
    index = appended(opened, EventType.ARTIFACT_LOADED, host="gpu-1", detail={"load": "l1"})
    row = RuntimeLoad(
        id="l1", artifact_digest=DIGEST, repository="demo/m", host="gpu-1", boot_id="b", pid=1, command="c",
        loaded_at=LATER, event_index=index, last_seen_at=LATER,
    )  # fmt: skip
    kept(opened, row)
    return index


def tagged(opened):
    """A tag that was moved twice; returns the index of its last move."""
    with opened.writing() as session, session.begin():
        repository = Repository(name="demo/m", created_at=NOW)
        session.add(repository)
        session.flush()
        moves = [Event(EventType.TAG_MOVED, "demo/m", digest, tag="prod") for digest in (OTHER, DIGEST)]
        _, index = [custody.append(session, Actor("person:bob", None), move, LATER) for move in moves]
        number = repository.id
    artifacts = [Artifact(digest=digest, manifest=b"", size_bytes=0, file_count=0) for digest in (OTHER, DIGEST)]
    kept(opened, *artifacts)
    row = {"repository_id": number, "name": "prod", "artifact_digest": DIGEST, "event_index": index}
    kept(opened, Tag(**row, moved_at=LATER, moved_by="person:bob"))
    return index


RECALL, LOAD, TAG, HEAD = map(table_of, (Recall, RuntimeLoad, Tag, CustodyHead))


@pytest.mark.parametrize(
    ("make", "spoil"),
    [
        (recalled, delete(RECALL)),
        (recalled, update(RECALL).values(lifted_at=LATER, lifted_by="person:eve", lifted_event_index=0)),
        (recalled, update(RECALL).values(lifted_at=LATER, lifted_by="person:eve")),
        (recalled, update(RECALL).values(artifact_digest=OTHER)),
        (recalled, update(RECALL).values(kind="revocation")),
        (recalled, update(RECALL).values(reason="good")),
        (loaded, update(LOAD).values(artifact_digest=OTHER)),
        (loaded, update(LOAD).values(host="gpu-2")),
        (loaded, update(LOAD).values(verified_host="gpu-1")),
        (loaded, update(LOAD).values(ended_at=LATER)),
        (loaded, update(LOAD).values(ended_at=LATER, ended_event_index=0)),
    ],
)
def test_what_decides_and_what_runs_cannot_be_changed_beside_the_log_unnoticed(url, make, spoil):
    with opened_log(url, 10) as (opened, copies):
        index = make(opened)
        assert findings(opened, copies) == ()
        with opened.engine.begin() as connection:
            assert connection.execute(spoil).rowcount == 1
        assert findings(opened, copies)[0].index == index


def test_a_released_quarantine_is_over_and_one_that_is_held_open_beside_the_log_is_found(url):
    with opened_log(url, 10) as (opened, copies):
        recalled(opened)
        index = appended(opened, EventType.ARTIFACT_RELEASED, detail={"recall": "r1", "reason": "good again"})
        over = update(RECALL).values(lifted_at=LATER, lifted_by="person:bob", lifted_event_index=index)
        with opened.engine.begin() as connection:
            connection.execute(over)
        assert findings(opened, copies) == ()
        with opened.engine.begin() as connection:
            connection.execute(update(RECALL).values(lifted_at=None, lifted_by=None, lifted_event_index=None))
        assert findings(opened, copies)[0].index == index


def test_a_tag_that_was_moved_back_beside_the_log_is_found(url):
    with opened_log(url, 10) as (opened, copies):
        index = tagged(opened)
        assert findings(opened, copies) == ()
        back = update(TAG).values(artifact_digest=OTHER, event_index=index - 1)
        with opened.engine.begin() as connection:
            connection.execute(back)
        assert findings(opened, copies)[0].index == index


def test_a_head_that_lost_its_signature_is_found_where_nothing_was_published(url):
    with opened_log(url, 10) as (opened, copies):
        copies.store.objects.clear()
        with opened.engine.begin() as connection:
            connection.execute(update(HEAD).values(checkpoint=None, appended_at=None))
        assert [finding.what for finding in findings(opened, copies)] == ["the head is not signed"]


def test_who_signed_stands_beside_the_log_and_not_in_it(own_registry, publishing_to):
    pushed = publishing_to(own_registry).push({"model.bin": b"x"})
    api = own_registry.api()
    (event,) = api.events(artifact=Digest.parse(pushed.published.artifact), types=["artifact.published"])
    assert event.detail["identity"] == "email:al@demo.example"
    with own_registry.parts.database.reading() as session:
        assert b"al@demo.example" not in session.get(custody.CustodyEvent, event.index).entry


def grow(opened, copies, numbers):
    append_some(opened, numbers)
    publish(opened, copies, numbers.start)


def test_a_server_starts_while_another_appends_and_publishes(url, monkeypatch):
    with opened_log(url, 300) as (opened, copies):
        real_list, real_growing = copies.store.list_copies, merkle.growing_from
        at = [300]

        def meanwhile():
            at[0] += 300
            grow(opened, copies, range(at[0] - 300, at[0]))

        def list_copies(folder, after=""):
            copies.store.list_copies = real_list
            meanwhile()
            return real_list(folder, after)

        def growing_from(size, frontier):
            monkeypatch.setattr(merkle, "growing_from", real_growing)
            meanwhile()
            return real_growing(size, frontier)

        monkeypatch.setattr(merkle, "growing_from", growing_from)
        log_checking.require_appendable(opened, copies, LATER)
        copies.store.list_copies = list_copies
        log_checking.require_appendable(opened, copies, LATER)
        assert at[0] == 900


def test_who_takes_over_publishing_sees_what_the_last_one_published(url, tmp_path):
    with opened_log(url, 30) as (opened, copies):
        publishing = log_publishing.Publishing(opened, copies, tmp_path / "lock", every_seconds=60, max_lag_seconds=60)

        def is_ours():
            """The other process publishes its last and lets go."""
            grow(opened, copies, range(30, 40))
            return True

        publishing._lock.is_ours = is_ours
        publishing.round()
        publishing.require_recent()
