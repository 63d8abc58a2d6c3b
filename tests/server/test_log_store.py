"""The log and its copies: published in order, compared at the start, and enough to bring a rolled back database forward."""

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, select, text, update

from modelreg import merkle, tiles
from modelreg.errors import LogForked, LogNotIntact, NotFound, RecordUnavailable
from modelreg_server import (
    database,
    log_checking,
    log_copies,
    log_erasing,
    log_publishing,
    log_recovery,
    log_verifying,
)
from modelreg_server.custody import CustodyEvent
from modelreg_server.custody_identities import CustodyIdentity
from modelreg_server.custody_tree import CustodyHead, CustodyNode
from modelreg_server.log_copies import Copies
from modelreg_server.storage.directory import DirectoryStore
from modelreg_server.storage.s3 import S3Store
from modelreg_server.tables import table_of
from support.logs import NOW, MemoryStore, append_some, opened_log, publish, without_triggers
from support.registry import cli, running_registry, s3_settings, signed

LATER = NOW + timedelta(hours=1)
EVENT, HEAD, IDENTITY = table_of(CustodyEvent), table_of(CustodyHead), table_of(CustodyIdentity)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").make_database("log")
    return f"sqlite:///{tmp_path / 'log.sqlite3'}"


@pytest.fixture(params=["directory", "s3"])
def store(request, tmp_path):
    if request.param == "directory":
        return DirectoryStore(tmp_path / "store")
    given = s3_settings(request.getfixturevalue("s3_server"))
    return S3Store(**{name.removeprefix("s3_"): value for name, value in given.items()})


def execute(opened, *statements):
    with opened.engine.begin() as connection:
        without_triggers(connection)
        for statement in statements:
            connection.execute(statement)


def truncate(opened, size, signer):
    """The database as a backup from `size` events ago has it."""
    with opened.engine.begin() as connection:
        without_triggers(connection)
        leaves = connection.execute(select(EVENT.c.entry).where(EVENT.c.index < size).order_by(EVENT.c.index)).scalars()
        tree = merkle.Growing(0, [])
        for entry in leaves:
            tree.append(merkle.leaf_hash(entry))
        named = {
            name
            for row in connection.execute(select(EVENT.c.actor, EVENT.c.about).where(EVENT.c.index < size))
            for name in row
        }
        last = connection.execute(
            select(EVENT.c.recorded_at).where(EVENT.c.index < size).order_by(EVENT.c.index.desc())
        )
        at = last.scalars().first()
        connection.execute(delete(EVENT).where(EVENT.c.index >= size))
        connection.execute(delete(IDENTITY).where(IDENTITY.c.commitment.not_in(named)))
        node = table_of(CustodyNode)
        for level in range(20):
            connection.execute(delete(node).where(node.c.level == level, node.c.index >= size >> level))
        note = signer.checkpoint(size, tree.root()) if size else None
        connection.execute(
            update(HEAD).values(size=size, frontier=b"".join(tree.frontier), checkpoint=note, appended_at=at)
        )


def everything(opened):
    with opened.engine.connect() as connection:
        rows = connection.execute(select(EVENT).order_by(EVENT.c.index)).all()
        people = connection.execute(select(IDENTITY).order_by(IDENTITY.c.commitment)).all()
    return rows, people


def findings(opened, copies):
    with opened.reading() as session:
        return log_verifying.verify(session.connection(), copies).findings


# Publishing.


def test_data_comes_before_the_checkpoint_and_publishing_again_changes_nothing(url):
    with opened_log(url, 300) as (opened, copies):
        store = copies.store
        assert [key.removeprefix(copies.folder + "/") for key in store.written[-2:]] == [
            f"checkpoints/{300:019}",
            "checkpoint",
        ]
        before, store.written = dict(store.objects), []
        assert publish(opened, copies) == 300
        assert store.objects == before
        store.written.clear()
        append_some(opened, range(300, 320))
        assert publish(opened, copies, 300) == 320
        assert not [key for key in store.written if key.endswith("/000")]  # full tiles are not written again


def test_the_published_tiles_and_entries_make_the_published_root(url, store):
    with opened_log(url, 700) as (opened, in_memory):
        copies = Copies(store, in_memory.signer)
        publish(opened, copies)
        newest = copies.newest()
        assert newest.size == 700
        assert merkle.root(700, tiles.reader(700, copies.read_tile)) == newest.root
        leaves = []
        for bundle in (tile for tile in tiles.tiles_of(700) if tile.level is None):
            leaves += [merkle.leaf_hash(e) for e in tiles.split_entries(copies.read_tile(bundle), bundle.width)]
        tree = merkle.Growing(0, [])
        for leaf in leaves:
            tree.append(leaf)
        assert tree.root() == newest.root
        assert findings(opened, copies) == ()


def test_partial_tiles_go_when_the_full_one_is_there_and_readers_of_old_sizes_still_read(url):
    with opened_log(url, 0) as (opened, copies):
        since, sizes = 0, (3, 100, 255, 256, 300, 511, 513)
        for size in sizes:
            append_some(opened, range(since, size))
            since = publish(opened, copies, since)
        partial = sorted(key for key in copies.store.objects if ".p/" in key and "/tile/0/" in key)
        assert partial == [f"{copies.folder}/tile/0/002.p/1"]
        for size in sizes:
            known = copies.checkpoint(size)
            assert merkle.root(size, tiles.reader(size, copies.read_tile)) == known.root


def test_old_checkpoints_are_cleared_away_and_the_newest_stay(url, monkeypatch):
    monkeypatch.setattr(log_copies, "KEPT_CHECKPOINTS", 5)
    with opened_log(url, 240) as (opened, copies):
        since = 240
        for size in range(241, 260):
            append_some(opened, range(since, size))
            since = publish(opened, copies, since)
        assert copies.checkpoint_sizes() == [*range(259, 256, -1), *range(256, 251, -1)]


def test_a_crash_between_any_two_writes_leaves_copies_that_the_next_round_completes(url):
    class Crash(Exception):
        pass

    with opened_log(url, 0) as (opened, copies):
        append_some(opened, range(300))
        crashes = 0
        for survive in range(0, 20, 2):
            store = MemoryStore()
            crashing = Copies(store, copies.signer)
            real_put, left = store.put_copy, [survive]

            def put(key, data, real_put=real_put, left=left):
                if left[0] == 0:
                    raise Crash
                left[0] -= 1
                real_put(key, data)

            store.put_copy = put
            try:
                publish(opened, crashing)
            except Crash:
                crashes += 1
            newest = crashing.newest()
            store.put_copy = real_put
            if newest is not None:
                assert merkle.root(300, tiles.reader(300, crashing.read_tile)) == newest.root
            publish(opened, crashing, newest.size if newest else 0)
            assert findings(opened, crashing) == ()
            assert crashing.newest().size == 300
        assert 3 < crashes < 10


def running(opened, copies, tmp_path, **more):
    values = {"every_seconds": 0.05, "max_lag_seconds": 3600, **more}
    return log_publishing.Publishing(opened, copies, tmp_path / "publishing.lock", **values)


def eventually(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_thread_publishes_what_is_committed_and_the_rest_when_it_stops(url, tmp_path):
    with opened_log(url, 0) as (opened, copies):
        publishing = running(opened, copies, tmp_path)
        publishing.start()
        append_some(opened, range(20))
        eventually(lambda: (newest := copies.newest()) and newest.size == 20)
        append_some(opened, range(20, 50))
        publishing.close()
        assert copies.newest().size == 50


def test_one_process_publishes_and_another_takes_over_when_it_ends(url, tmp_path):
    with opened_log(url, 10) as (opened, copies):
        second = database.connect(url, 4)
        first, other = running(opened, copies, tmp_path), running(second, copies, tmp_path)
        first.round()
        append_some(opened, range(10, 20))
        other.round()
        assert copies.newest().size == 10  # not its turn
        first.round()
        assert copies.newest().size == 20
        first._lock.release()
        append_some(opened, range(20, 30))
        other.round()
        assert copies.newest().size == 30
        other._lock.release()
        second.dispose()


def test_a_store_that_fails_stops_no_append_and_after_the_lag_stops_grants(url, tmp_path):
    with opened_log(url, 10) as (opened, copies):
        now = [0.0]
        publishing = running(opened, copies, tmp_path, max_lag_seconds=60, clock=lambda: now[0])
        publishing.round()
        copies.store.fails = True
        append_some(opened, range(10, 20))
        for at in (1.0, 30.0, 60.0):
            now[0] = at
            publishing.round()
            publishing.require_recent()
        now[0] = 62.0
        with pytest.raises(RecordUnavailable, match="61 seconds") as refusal:
            publishing.require_recent()
        assert refusal.value.exit_code == 32
        append_some(opened, range(20, 25))
        copies.store.fails = False
        publishing.round()
        publishing.require_recent()
        assert copies.newest().size == 25
        publishing._lock.release()


def test_a_follower_notices_that_nobody_publishes(url, tmp_path):
    with opened_log(url, 10) as (opened, copies):
        second, now = database.connect(url, 4), [0.0]
        leader = running(opened, copies, tmp_path)
        leader.round()  # and then it hangs
        follower = running(second, copies, tmp_path, max_lag_seconds=60, clock=lambda: now[0])
        follower.round()
        append_some(opened, range(10, 20))
        for at in range(0, 100, 20):
            now[0] = float(at)
            follower.round()
        now[0] = 16.0
        follower.require_recent()
        now[0] = 120.0
        with pytest.raises(RecordUnavailable):
            follower.require_recent()
        leader._lock.release()
        second.dispose()


def test_a_database_exchanged_under_a_running_server_is_noticed(url, tmp_path):
    with opened_log(url, 60) as (opened, copies):
        publishing = running(opened, copies, tmp_path)
        publishing.round()
        truncate(opened, 40, copies.signer)
        publishing.round()
        with pytest.raises(RecordUnavailable, match="40 events, and 60 were published"):
            publishing.require_recent()
        publishing._lock.release()


# The check at the start.


def test_an_intact_log_may_be_appended_to(url, store):
    with opened_log(url, 300) as (opened, in_memory):
        copies = Copies(store, in_memory.signer)
        log_checking.require_appendable(opened, copies, LATER)
        publish(opened, copies)
        log_checking.require_appendable(opened, copies, LATER)
        append_some(opened, range(300, 310))
        log_checking.require_appendable(opened, copies, LATER)


def refused(opened, copies, match, now=LATER):
    with pytest.raises(RecordUnavailable, match=match) as refusal:
        log_checking.require_appendable(opened, copies, now)
    assert refusal.value.exit_code == 32


def test_a_rolled_back_database_is_refused_and_told_what_to_do(url):
    with opened_log(url, 60) as (opened, copies):
        truncate(opened, 40, copies.signer)
        refused(opened, copies, "modelreg-server log recover")


def test_a_database_that_went_on_after_a_rollback_is_refused(url):
    with opened_log(url, 60) as (opened, copies):
        truncate(opened, 40, copies.signer)
        append_some(opened, range(500, 540))
        refused(opened, copies, "does not continue")


def test_an_empty_database_is_refused_where_a_log_was_published(url):
    with opened_log(url, 60) as (opened, copies):
        truncate(opened, 0, copies.signer)
        refused(opened, copies, "log recover")


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        (update(HEAD).values(frontier=bytes(32 * 4)), "frontier"),
        (update(HEAD).values(frontier=b""), "damaged"),
        (update(HEAD).values(checkpoint=None), "not signed"),
        (update(HEAD).values(checkpoint=b"x\n1\n\n"), "three lines|not a signed note"),
        (delete(EVENT).where(EVENT.c.index == 7), "there are 59"),
        (delete(EVENT).where(EVENT.c.index == 59), "there are 59"),
        (update(EVENT).where(EVENT.c.index == 59).values(entry=b"{}"), "event 59"),
        (text("DELETE FROM custody_node WHERE level = 5"), "no node at level 5"),
        (text("DELETE FROM custody_head"), "modelreg-server migrate"),
    ],
)
def test_a_head_that_contradicts_itself_is_refused(url, statement, match):
    with opened_log(url, 60) as (opened, copies):
        execute(opened, statement)
        refused(opened, copies, match)


def test_a_clock_behind_the_newest_event_is_refused(url):
    with opened_log(url, 60) as (opened, copies):
        newest = NOW + timedelta(seconds=59)
        log_checking.require_appendable(opened, copies, newest - timedelta(minutes=4))
        refused(opened, copies, "set the clock", newest - timedelta(minutes=6))


def test_a_store_that_cannot_be_asked_is_refused(url):
    with opened_log(url, 60) as (opened, copies):
        copies.store.fails = True
        refused(opened, copies, "compared with its published copies")


def test_garbage_in_the_store_blocks_nobody_and_hides_nothing(url, caplog):
    with opened_log(url, 60) as (opened, copies):
        append_some(opened, range(60, 80))
        publish(opened, copies, 60)
        stranger = signed(opened).log_signer
        for size, note in (
            (10**9, b"garbage"),
            (10**9 + 1, stranger.checkpoint(10**9 + 1, bytes(32))),
            (10**9 + 2, copies.signer.checkpoint(5, bytes(32))),
            (90, b""),
            (2**63, b"x"),
        ):
            copies.store.put_copy(f"{copies.folder}/checkpoints/{size:019}", note)
        copies.store.put_copy(f"{copies.folder}/checkpoints/nonsense", b"x")
        with caplog.at_level(logging.WARNING):
            log_checking.require_appendable(opened, copies, LATER)
        assert "not ours" in caplog.text
        truncate(opened, 70, copies.signer)
        refused(opened, copies, "a log of 80 was published")


def test_copies_that_were_removed_are_warned_of(url, caplog):
    """What the store alone can show: that nothing is published, or entries without their checkpoint."""
    with opened_log(url, 600) as (opened, copies):
        for key in [key for key in copies.store.objects if "checkpoint" in key]:
            copies.store.remove_copy(key)
        truncate(opened, 100, copies.signer)
        with caplog.at_level(logging.WARNING):
            log_checking.require_appendable(opened, copies, LATER)
        assert "no published checkpoint" in caplog.text
        assert "may have been rolled back" in caplog.text


# Recovery.


@pytest.mark.parametrize("left", [0, 255, 256, 299])
def test_recovery_restores_every_published_event(url, store, left):
    with opened_log(url, 300) as (opened, in_memory):
        copies = Copies(store, in_memory.signer)
        publish(opened, copies)
        before = everything(opened)
        truncate(opened, left, copies.signer)
        refused(opened, copies, "log recover")

        recovered = log_recovery.recover(opened, copies, LATER)

        assert (recovered.start, recovered.stop) == (left, 300)
        rows, people = everything(opened)
        assert rows[:300] == before[0]
        assert [row for row in before[1] if row not in people] == []
        assert [row.type for row in rows[300:]] == ["log.recovered"]
        assert rows[300].detail == {"from": left, "to": 300, "openings": recovered.openings}
        assert findings(opened, copies) == ()
        log_checking.require_appendable(opened, copies, LATER)
        append_some(opened, range(300, 310))
        publish(opened, copies, 300)
        assert findings(opened, copies) == ()
        again = log_recovery.recover(opened, copies, LATER)
        assert again.start == again.stop


def test_recovery_says_what_the_restored_events_speak_of(url):
    with opened_log(url, 60) as (opened, copies):
        truncate(opened, 40, copies.signer)
        spoken_of = log_recovery.recover(opened, copies, LATER).spoken_of
    assert set(spoken_of) == {"artifact.granted", "tag.moved", "token.issued", "artifact.loaded"}
    assert spoken_of["tag.moved"] == [f"demo/m:v1@sha256:{'ab' * 32}"]


def test_a_fork_is_not_recovered_into(url):
    with opened_log(url, 60) as (opened, copies):
        truncate(opened, 40, copies.signer)
        append_some(opened, range(500, 510))
        before = everything(opened)
        with pytest.raises(LogForked, match="part at event 40"):
            log_recovery.recover(opened, copies, LATER)
        assert everything(opened) == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda entry: entry.replace(b'"n"', b'"m"'),
        lambda entry: entry[:-1],
        lambda entry: b"",
    ],
)
@pytest.mark.parametrize("what", ["tile/entries/000.p/200", "tile/0/000.p/200"])
def test_altered_copies_restore_nothing(url, what, spoil):
    with opened_log(url, 200) as (opened, copies):
        truncate(opened, 40, copies.signer)
        key = f"{copies.folder}/{what}"
        altered = spoil(copies.store.objects[key])
        if altered == copies.store.objects[key]:
            altered = bytes(len(altered))
        copies.store.objects[key] = altered
        before = everything(opened)
        with pytest.raises(LogNotIntact):
            log_recovery.recover(opened, copies, LATER)
        assert everything(opened) == before


def test_published_openings_that_were_forged_restore_nothing(url):
    with opened_log(url, 200) as (opened, copies):
        truncate(opened, 40, copies.signer)
        key = copies.openings(0)
        copies.store.objects[key] = copies.store.objects[key].replace(b"person:p1", b"person:p2")
        with pytest.raises(LogNotIntact, match="openings of bundle 0"):
            log_recovery.recover(opened, copies, LATER)


def test_copies_that_were_altered_or_lost_are_found_when_they_are_read(url):
    with opened_log(url, 300) as (_opened, copies):
        assert log_verifying.copies_findings(copies) == []
        bundle = f"{copies.folder}/tile/entries/000"
        copies.store.objects[bundle] = copies.store.objects[bundle].replace(b'"n":17,', b'"n":71,')
        assert [it.index for it in log_verifying.copies_findings(copies)] == [17]
        del copies.store.objects[bundle]
        assert "no tile entries/000" in log_verifying.copies_findings(copies)[0].what


# Erasure.


def test_an_erased_person_is_nowhere_and_the_log_is_intact(url, store):
    with opened_log(url, 300) as (opened, in_memory):
        copies = Copies(store, in_memory.signer)
        publish(opened, copies)
        erased = log_erasing.erase(opened, copies, "person:p3", "asked for it", LATER)
        assert erased.openings
        assert erased.bundles == (0, 1)
        assert findings(opened, copies) == ()
        rows, people = everything(opened)
        assert "person:p3" not in str(people)
        assert rows[-1].type == "identity.erased"
        assert b"p3" not in rows[-1].entry
        for index in (0, 1):
            published = log_copies.read_openings(copies, index)
            assert published.rows
            assert "person:p3" not in str(published.rows)
        publish(opened, copies, 300)
        with pytest.raises(NotFound):
            log_erasing.erase(opened, copies, "person:p3", "", LATER)


def test_whoever_was_erased_after_the_backup_stays_erased_after_recovery(url):
    with opened_log(url, 300) as (opened, copies):
        with opened.engine.connect() as connection:
            remembered = connection.execute(select(IDENTITY).where(IDENTITY.c.principal == "person:p3")).all()
        log_erasing.erase(opened, copies, "person:p3", "", LATER)
        publish(opened, copies, 300)
        truncate(opened, 200, copies.signer)
        with opened.engine.begin() as connection:  # what the backup still knew
            connection.execute(IDENTITY.insert(), [row._asdict() for row in remembered])

        recovered = log_recovery.recover(opened, copies, LATER)

        assert recovered.erased == 1
        assert "person:p3" not in str(everything(opened)[1])
        assert findings(opened, copies) == ()


def test_a_publisher_that_is_at_it_does_not_bring_an_erased_person_back(url):
    with opened_log(url, 30) as (opened, copies):
        real_put = copies.store.put_copy

        def put(key, data):
            """The erasure commits, and is published, while this process holds what it read before."""
            copies.store.put_copy = real_put
            log_erasing.erase(opened, copies, "person:p1", "", LATER)
            real_put(key, data)

        copies.store.put_copy = put
        with opened.reading() as session:
            log_copies.publish_openings(session, copies, 0)
        assert "person:p1" not in str(log_copies.read_openings(copies, 0).rows)


@pytest.mark.parametrize(
    ("principal", "reason"), [("host:gpu-1", ""), ("person:", ""), ("person:p3", "P3 asked"), ("p3", "")]
)
def test_what_cannot_be_erased_is_refused(url, principal, reason):
    with opened_log(url, 10) as (opened, copies):
        with pytest.raises(Exception, match="erased|reason"):
            log_erasing.erase(opened, copies, principal, reason, LATER)
        assert len(everything(opened)[0]) == 10


def test_an_opening_that_was_altered_is_found_where_it_is_first_named(url):
    with opened_log(url, 60) as (opened, copies):
        execute(
            opened, update(IDENTITY).where(IDENTITY.c.principal == "person:p4").values(body={"principal": "person:p4"})
        )
        assert findings(opened, copies)[0].index == 4


# Without a record nothing is served.


def grant_of(registry, publishing):
    artifact = publishing.push({"a": b"bytes"}, tags=("v1",)).published.artifact
    return registry.token(), {"artifact": artifact, "purpose": "pull", "host": "h"}


def asked(http, request):
    token, body = request
    return http("POST", "/v1/repositories/demo/m/grants", token, json=body)


def test_a_store_that_takes_no_copies_for_too_long_stops_grants_with_exit_32(
    either_database, tmp_path, publishing_to, http_to
):
    with running_registry(
        tmp_path / "registry", **either_database, log_publish_seconds=0.05, log_publish_max_lag_seconds=1
    ) as registry:
        request, http = grant_of(registry, publishing_to(registry)), http_to(registry.url)
        assert asked(http, request).status == 201
        publishing = registry.parts.publishing
        working = publishing._copies
        broken = MemoryStore()
        broken.fails = True
        publishing._copies = Copies(broken, working.signer)
        eventually(lambda: asked(http, request).status == 503)
        assert asked(http, request).code == "record-unavailable"
        pulled = cli("pull", "demo/m:v1", env=registry.environment(tmp_path / "home"))
        assert pulled.returncode == 32, pulled.stderr
        publishing._copies = working
        eventually(lambda: asked(http, request).status == 201)


def test_a_postgresql_that_goes_away_stops_grants_with_exit_32(tmp_path, publishing_to, http_to):
    from support import postgres

    with postgres.own_postgres(fsync=False) as server:
        with running_registry(tmp_path / "registry", database_url=server.make_database("gone")) as registry:
            request, http = grant_of(registry, publishing_to(registry)), http_to(registry.url)
            assert asked(http, request).status == 201
            server.stop()
            answer = asked(http, request)
            assert (answer.status, answer.code) == (503, "record-unavailable")
            server.start()
            eventually(lambda: asked(http, request).status == 201)


FULL = """CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = 'disk_full'; END $$;
    CREATE TRIGGER full_disk BEFORE INSERT ON custody_node EXECUTE FUNCTION full_disk()"""


def test_a_postgresql_whose_disk_is_full_stops_grants_with_exit_32(tmp_path, publishing_to, http_to, postgres):
    with running_registry(tmp_path / "registry", database_url=postgres.make_database("full")) as registry:
        request, http = grant_of(registry, publishing_to(registry)), http_to(registry.url)
        with registry.parts.database.engine.begin() as connection:
            connection.execute(text(FULL))
        for _ in range(3):
            answer = asked(http, request)
            assert (answer.status, answer.code) == (503, "record-unavailable")
        with registry.parts.database.engine.begin() as connection:
            connection.execute(text("DROP TRIGGER full_disk ON custody_node"))
        assert asked(http, request).status == 201


@pytest.mark.parametrize("trouble", ["disk full", "read-only"])
def test_an_sqlite_that_cannot_write_stops_grants_with_exit_32(tmp_path, publishing_to, http_to, trouble):
    with running_registry(tmp_path / "registry") as registry:
        request, http = grant_of(registry, publishing_to(registry)), http_to(registry.url)
        engine = registry.parts.database.engine
        before = asked(http, request)
        assert before.status == 201

        from sqlalchemy import event

        def cramp(connection, _record, _proxy):
            if trouble == "read-only":
                connection.execute("PRAGMA query_only=ON")
            else:
                pages = connection.execute("PRAGMA page_count").fetchone()[0]
                connection.execute(f"PRAGMA max_page_count={pages}")

        event.listen(engine, "checkout", cramp)
        answers = [asked(http, request) for _ in range(60)]
        event.remove(engine, "checkout", cramp)
        engine.dispose()
        assert {answer.status for answer in answers} <= {201, 503}
        assert (answers[-1].status, answers[-1].code) == (503, "record-unavailable")
        assert asked(http, request).status == 201
        found = [row.type for row in everything(registry.parts.database)[0]]
        assert found.count("artifact.granted") == 2 + sum(answer.status == 201 for answer in answers)


# The commands.


def server_command(folder, *arguments, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODELREG_")}
    command = [sys.executable, "-c", "import modelreg_server as s; raise SystemExit(s.main())", *arguments]
    env = {**kept, "MODELREG_DATA_DIR": str(folder), **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def test_the_commands_of_an_operator_from_backup_to_recovery(tmp_path):
    folder, backup = tmp_path / "data", tmp_path / "backup.sqlite3"
    assert server_command(folder, "init").returncode == 0
    key = server_command(folder, "log", "key")
    vkey = key.stdout.splitlines()[0]
    from modelreg import trust

    assert f'keys = ["{vkey}"]' in key.stdout
    assert trust.parse_key(vkey, "x", 1).name in key.stdout
    with sqlite3.connect(folder / "registry.sqlite3") as source, sqlite3.connect(backup) as target:
        source.backup(target)
    source.close()
    target.close()
    opened = database.connect(f"sqlite:///{folder / 'registry.sqlite3'}")
    from modelreg_server import log_keys
    from modelreg_server.settings import Settings

    signer = log_keys.open_signer(Settings(data_dir=folder), opened)
    from dataclasses import replace

    opened = replace(opened, log_signer=signer)
    append_some(opened, range(30), datetime.now(UTC) - timedelta(minutes=1))
    publish(opened, Copies(DirectoryStore(folder), signer))
    opened.dispose()
    intact = server_command(folder, "log", "verify")
    assert (intact.returncode, intact.stderr) == (0, "")
    assert "intact: 31 events" in intact.stdout

    for leftover in folder.glob("registry.sqlite3*"):
        leftover.unlink()
    shutil.copy(backup, folder / "registry.sqlite3")
    served = server_command(folder, "serve", "--port", "0")
    assert served.returncode == 32
    assert "modelreg-server log recover" in served.stderr
    verified = server_command(folder, "log", "verify", "--json")
    assert verified.returncode == 32
    assert '"index": 1' in verified.stdout
    assert server_command(folder, "log", "erase-identity", "person:p1").returncode == 32

    recovered = server_command(folder, "log", "recover")
    assert recovered.returncode == 0, recovered.stderr
    assert "restored 30 events, 1 to 30" in recovered.stdout
    assert "tag.moved" in recovered.stdout
    nothing = server_command(folder, "log", "recover")
    assert (nothing.returncode, nothing.stdout) == (32, "")
    assert server_command(folder, "log", "republish").returncode == 0
    erased = server_command(folder, "log", "erase-identity", "person:p1", "--reason", "on request")
    assert erased.returncode == 0, erased.stderr
    assert server_command(folder, "log", "verify", "--copies").returncode == 0
    with sqlite3.connect(folder / "registry.sqlite3") as altering:
        note = bytearray(altering.execute("SELECT checkpoint FROM custody_head").fetchone()[0])
        note[-20] = ord("A") if note[-20] != ord("A") else ord("B")
        altering.execute("UPDATE custody_head SET checkpoint = ?", (bytes(note),))
    altering.close()
    for arguments in (("log", "verify"), ("serve", "--port", "0")):
        forged = server_command(folder, *arguments)
        assert forged.returncode == 32, (arguments, forged)


def test_init_does_not_begin_another_log_where_one_was_published(tmp_path):
    folder = tmp_path / "data"
    assert server_command(folder, "init").returncode == 0
    for leftover in folder.glob("registry.sqlite3*"):
        leftover.unlink()
    again = server_command(folder, "init")
    assert again.returncode == 32
    assert "log recover" in again.stderr


def test_events_of_a_release_before_the_tree_verify_and_are_named_as_not_erasable(url):
    from modelreg.canonical import canonical_json
    from modelreg_server import log_entries

    with opened_log(url, 0) as (opened, copies):
        tree, rows = merkle.Growing(0, []), []
        for number in range(20):
            members = dict.fromkeys(
                ("identity", "repository", "artifact", "tag", "host", "verified_host", "client_address", "purpose")
            )
            members |= {
                "v": 1,
                "type": "tag.moved",
                "time": f"{NOW.isoformat(timespec='microseconds')}",
                "detail": {"n": number},
            }
            members |= {"principal": f"person:p{number % 2}", "token": "t", "user_agent": "modelreg/0.1"}
            rows.append(log_entries.row_of(number, canonical_json(members)))
            tree.append(merkle.leaf_hash(rows[-1]["entry"]))
        nodes = [{"level": level, "index": index, "hash": value} for level, index, value in tree.finished]
        with opened.engine.begin() as connection:  # as migration 0005 leaves them
            connection.execute(EVENT.insert(), rows)
            connection.execute(table_of(CustodyNode).insert(), nodes)
            connection.execute(update(HEAD).values(size=20, frontier=b"".join(tree.frontier)))

        assert findings(opened, copies) == ()
        log_checking.require_appendable(opened, copies, LATER)
        append_some(opened, range(5))
        publish(opened, copies)
        assert findings(opened, copies) == ()

        erased = log_erasing.erase(opened, copies, "person:p1", "", LATER)
        assert erased.not_erasable == tuple(range(1, 20, 2))
        truncate(opened, 10, copies.signer)
        log_recovery.recover(opened, copies, LATER)
        assert findings(opened, copies) == ()
        assert [row._asdict() for row in everything(opened)[0][:20]] == rows
