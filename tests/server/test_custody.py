"""The record: append-only, without gaps, in the same transaction as the state, and before any URL; on both databases."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from alembic import command
from sqlalchemy import event as listening
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlmodel import select

from modelreg import merkle, wire
from modelreg.errors import Misconfigured, RecordUnavailable, TooLarge
from modelreg_server import custody, custody_tree, database, migrations
from modelreg_server.custody import Actor, CustodyEvent, Event, EventType
from support.registry import cli, running_registry, signed

ACTOR = Actor("person:test", None)


@pytest.fixture
def opened(either_database):
    """A migrated database of each kind with three events."""
    opened = signed(database.connect(either_database["database_url"], 10))
    migrations.migrate(opened.engine)
    for _ in range(3):
        append(opened)
    yield opened
    opened.dispose()


def append(opened, **detail):
    with opened.writing() as session, session.begin():
        return custody.append(session, ACTOR, Event(EventType.TAG_MOVED, detail=detail), datetime.now(UTC))


def rows(opened):
    with opened.reading() as session:
        found = session.exec(select(CustodyEvent).order_by(CustodyEvent.index)).all()
        session.expunge_all()
    return found


ALTERING = [
    "UPDATE custody_event SET principal = 'person:forger'",
    'UPDATE custody_event SET principal = principal WHERE "index" = 1',
    "DELETE FROM custody_event",
    'DELETE FROM custody_event WHERE "index" = 2',
]
REST = """token_id, repository, artifact, tag, host, client_address, user_agent, purpose, detail, entry, identity, verified_host,
    verified_host_class, verified_host_zone, actor, about"""
COPY = f"""custody_event ("index", type, recorded_at, principal, {REST})
    SELECT "index", type, recorded_at, 'person:forger', {REST} FROM custody_event WHERE "index" = 1"""
ONLY_SQLITE = [f"INSERT OR REPLACE INTO {COPY}", f"REPLACE INTO {COPY}"]
ONLY_POSTGRESQL = [
    "TRUNCATE custody_event",
    "TRUNCATE custody_event CASCADE",
    'INSERT INTO custody_event SELECT * FROM custody_event WHERE "index" = 1 '
    "ON CONFLICT (\"index\") DO UPDATE SET principal = 'person:forger'",
    "WITH gone AS (DELETE FROM custody_event RETURNING 1) SELECT count(*) FROM gone",
]


def refuses(opened, statement):
    before = [row.model_dump() for row in rows(opened)]
    with pytest.raises(DBAPIError, match="append-only"), opened.engine.begin() as connection:
        connection.execute(text(statement))
    assert [row.model_dump() for row in rows(opened)] == before


@pytest.mark.parametrize("statement", ALTERING)
def test_the_database_itself_refuses_to_alter_the_record(opened, statement):
    refuses(opened, statement)


@pytest.mark.parametrize("statement", ONLY_SQLITE)
def test_sqlite_refuses_to_replace_a_row(tmp_path, statement):
    opened = signed(database.connect(f"sqlite:///{tmp_path / 'own.sqlite3'}"))
    migrations.migrate(opened.engine)
    for _ in range(3):
        append(opened)
    refuses(opened, statement)
    opened.dispose()


@pytest.mark.parametrize("statement", ONLY_POSTGRESQL)
def test_postgresql_refuses_to_truncate_and_to_upsert(postgres, statement):
    opened = signed(database.connect(postgres.make_database("own"), 5))
    migrations.migrate(opened.engine)
    for _ in range(3):
        append(opened)
    refuses(opened, statement)
    opened.dispose()


def test_a_foreign_connection_cannot_alter_the_record_either(tmp_path):
    """The trigger is in the file, not in our connection."""
    path = tmp_path / "own.sqlite3"
    opened = signed(database.connect(f"sqlite:///{path}"))
    migrations.migrate(opened.engine)
    append(opened)
    opened.dispose()
    for statement in ("DELETE FROM custody_event", "UPDATE custody_event SET host = 'x'", ONLY_SQLITE[0]):
        connection = sqlite3.connect(path)
        try:
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement.replace("= 1", "= 0"))
        finally:
            connection.close()


def test_append_rolls_back_with_its_transaction_and_leaves_no_gap(opened):
    with pytest.raises(RuntimeError, match="changed my mind"), opened.writing() as session, session.begin():
        assert custody.append(session, ACTOR, Event(EventType.TAG_MOVED), datetime.now(UTC)) == 3
        session.flush()
        raise RuntimeError("changed my mind")

    assert [row.index for row in rows(opened)] == [0, 1, 2]
    assert append(opened) == 3


def test_an_entry_is_canonical_and_says_what_the_columns_say(opened):
    import json

    from modelreg.canonical import canonical_json

    append(opened, unit="Ω", n=1)
    row = rows(opened)[-1]
    entry = json.loads(row.entry)
    assert canonical_json(entry) == row.entry
    assert entry["detail"] == row.detail == {"unit": "Ω", "n": 1}
    assert datetime.fromisoformat(entry["time"]) == row.recorded_at
    assert row.recorded_at.tzinfo is not None


def test_inserting_what_is_there_already_counts_as_nothing_on_both_databases(opened):
    """The count decides: whether a nonce is new, whether a signature is an event, whether an upload lost a race."""
    from modelreg_server.tables import Repository

    def insert(*names):
        rows = [Repository(name=name, created_at=datetime.now(UTC)) for name in names]
        with opened.writing() as session, session.begin():
            return database.insert_if_absent(session, rows)

    assert [insert("a/b"), insert("a/b"), insert("a/b", "a/c"), insert()] == [1, 0, 1, 0]


def test_an_entry_over_its_limit_is_refused_and_nothing_is_appended(opened):
    with pytest.raises(TooLarge):
        append(opened, text="x" * custody.MAX_ENTRY_BYTES)
    assert append(opened) == 3


def test_without_a_head_nothing_can_be_appended(opened):
    with opened.engine.begin() as connection:
        connection.execute(text("DELETE FROM custody_head"))
    with pytest.raises(RecordUnavailable):
        append(opened)


def test_threads_that_append_at_once_share_no_index(opened):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: append(opened), range(100)))
    assert sorted(found) == list(range(3, 103))


def test_concurrent_grants_are_recorded_contiguously(either_database, tmp_path, publishing_to):
    with running_registry(tmp_path / "registry", **either_database) as registry:
        artifact = publishing_to(registry).push({"a": b"granted often"}).published.artifact
        request = wire.GrantRequest(artifact=artifact, purpose="pull", host="h")
        api = registry.api(connections_at_once=8)

        def twenty_five(_):
            return [api.request_grant("demo/m", request) for _ in range(25)]

        with ThreadPoolExecutor(8) as pool:
            grants = [grant for some in pool.map(twenty_five, range(8)) for grant in some]

        found = rows(registry.parts.database)
    assert [row.index for row in found] == list(range(len(found)))
    granted = {row.index: row.detail["grant"] for row in found if row.type == "artifact.granted"}
    assert len(granted) == 200
    assert granted == {grant.event: grant.id for grant in grants}


@pytest.fixture
def failing_commits():
    """Makes commits of a database fail when asked, as a full disk or a lost server would."""
    undo = []

    def fail(opened, kinds=("artifact.granted", "artifact.refused")):
        def refuse(connection):
            newest = connection.exec_driver_sql('SELECT type FROM custody_event ORDER BY "index" DESC LIMIT 1').scalar()
            if newest in kinds:
                raise OperationalError("COMMIT", {}, Exception("disk I/O error"))

        listening.listen(opened.engine, "commit", refuse)
        undo.append((opened.engine, refuse))

    def stop():
        for engine, refuse in undo:
            listening.remove(engine, "commit", refuse)
        undo.clear()

    fail.stop = stop
    yield fail
    stop()


def test_a_commit_that_fails_gives_no_grant_and_exit_32(
    either_database, tmp_path, publishing_to, http_to, failing_commits
):
    with running_registry(tmp_path / "registry", **either_database) as registry:
        artifact = publishing_to(registry).push({"a": b"no event, no URL"}, tags=("v1",)).published.artifact
        env = registry.environment(tmp_path / "home")
        request = {"artifact": artifact, "purpose": "pull", "host": "h"}
        token = registry.token()
        assert http_to(registry.url)("GET", "/v1/whoami", token).status == 200
        before = len(rows(registry.parts.database))

        failing_commits(registry.parts.database)
        answer = http_to(registry.url)("POST", "/v1/repositories/demo/m/grants", token, json=request)
        assert (answer.status, answer.code) == (503, "record-unavailable")
        assert "grant" not in answer.json
        pulled = cli("pull", f"demo/m@{artifact}", env=env)
        assert pulled.returncode == 32, pulled.stderr
        assert pulled.stdout == ""
        failing_commits.stop()

        after = rows(registry.parts.database)
        assert [row for row in after[before:] if row.type.startswith("artifact.")] == []
        assert [row.index for row in after] == list(range(len(after)))
        assert cli("pull", f"demo/m@{artifact}", env=env).returncode == 0


def test_a_publication_whose_commit_fails_does_not_exist_and_can_be_finished(
    own_registry, publishing_to, failing_commits
):
    publishing, api = publishing_to(own_registry), own_registry.api()
    failing_commits(own_registry.parts.database, ("artifact.published", "tag.moved", "artifact.scanned"))
    with pytest.raises(RecordUnavailable):
        publishing.push({"a": b"not yet"}, tags=("v1",), api=api)
    failing_commits.stop()

    assert list(api.repositories()) == []
    assert "artifact.published" not in [row.type for row in rows(own_registry.parts.database)]
    pushed = publishing.push({"a": b"not yet"}, tags=("v1",), api=api)
    assert (pushed.published.created, pushed.transferred_bytes) == (True, 0)


def test_the_event_is_committed_before_a_byte_or_a_url_is_given(own_registry, publishing_to):
    """What the grant answers is in the database already, seen through another connection."""
    publishing = publishing_to(own_registry)
    artifact = publishing.push({"a": b"committed first"}).published.artifact
    grant = own_registry.api().request_grant(
        "demo/m", wire.GrantRequest(artifact=artifact, purpose="launch", host="gpu-1")
    )
    path = own_registry.parts.settings.data_dir / "registry.sqlite3"
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        found = connection.execute('SELECT type, purpose, host FROM custody_event WHERE "index" = ?', (grant.event,))
        assert found.fetchone() == ("artifact.granted", "launch", "gpu-1")
    finally:
        connection.close()


def test_alembic_finds_no_difference_between_migrations_and_tables(opened):
    with opened.engine.connect() as connection:
        command.check(migrations.configuration(connection))


def test_migrating_twice_changes_nothing(opened):
    before = [row.model_dump() for row in rows(opened)]
    migrations.migrate(opened.engine)
    assert [row.model_dump() for row in rows(opened)] == before


def test_a_database_that_was_never_migrated_is_refused(either_database):
    opened = database.connect(either_database["database_url"])
    with pytest.raises(Misconfigured, match="modelreg-server migrate"):
        migrations.require_current(opened.engine)
    opened.dispose()


def test_sqlite_runs_wal_with_synchronous_full_on_every_connection(tmp_path):
    opened = database.connect(f"sqlite:///{tmp_path / 'own.sqlite3'}", 4)
    connections = [opened.engine.connect() for _ in range(4)]
    for connection in connections:
        assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar_one() == 2
        assert connection.execute(text("PRAGMA foreign_keys")).scalar_one() == 1
        connection.close()
    opened.dispose()


@pytest.mark.parametrize("pragma", ["synchronous=NORMAL", "synchronous=OFF", "journal_mode=DELETE", "foreign_keys=OFF"])
def test_a_sqlite_connection_that_could_lose_commits_is_refused_at_start(tmp_path, monkeypatch, pragma):
    configure = database._configure_sqlite

    def weaker(connection, record):
        configure(connection, record)
        connection.execute(f"PRAGMA {pragma}")

    monkeypatch.setattr(database, "_configure_sqlite", weaker)
    with pytest.raises(Misconfigured, match="journal_mode"):
        database.connect(f"sqlite:///{tmp_path / 'own.sqlite3'}")


def test_a_postgresql_that_acknowledges_before_it_writes_is_refused_at_start(postgres):
    url = postgres.make_database("lossy")
    name = url.rpartition("/")[2].partition("?")[0]
    opened = database.connect(url)
    with opened.engine.begin() as connection:
        connection.execute(text(f'ALTER DATABASE "{name}" SET synchronous_commit = off'))
    opened.dispose()
    with pytest.raises(Misconfigured, match="synchronous_commit"):
        database.connect(url)


def test_a_session_for_reading_cannot_write_on_postgresql(postgres):
    opened = database.connect(postgres.make_database("reading"))
    migrations.migrate(opened.engine)
    with pytest.raises(DBAPIError, match="read-only"), opened.reading() as session:
        session.connection().execute(text("UPDATE custody_head SET size = 7"))
    opened.dispose()


def test_a_proof_looks_its_nodes_up_and_does_not_read_the_whole_tree(tmp_path):
    """A full scan is fast while the log is young, and made grants slower with every event (seen)."""
    opened = signed(database.connect(f"sqlite:///{tmp_path / 'own.sqlite3'}"))
    migrations.migrate(opened.engine)
    for _ in range(9):
        append(opened)
    asked = []
    listening.listen(opened.engine, "before_cursor_execute", lambda *call: asked.append(call[2:4]))
    with opened.reading() as session:
        merkle.consistency(3, 9, custody_tree.reader(session))
        (query,) = [call for call in asked if "custody_node" in call[0]]
        plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {query[0]}", query[1]).all()
    assert [step[-1] for step in plan if "custody_node" in step[-1]], plan
    assert not [step for step in plan if step[-1].startswith("SCAN custody_node")], plan
    opened.dispose()
