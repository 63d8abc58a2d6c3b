"""A database of an earlier release becomes one of this release, with everything that was in it."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from alembic import command
from sqlalchemy import column, insert, text
from sqlalchemy import table as sa_table
from sqlalchemy.exc import DBAPIError
from sqlmodel import select

from modelreg import checkpoints, merkle
from modelreg.canonical import canonical_json
from modelreg.errors import Misconfigured
from modelreg_server import (
    custody,
    custody_identities,
    custody_tree,
    database,
    log_entries,
    log_verifying,
    migrations,
)
from modelreg_server.custody import Actor, CustodyEvent, Event, EventType
from modelreg_server.custody_tree import CustodyHead
from modelreg_server.identity import tokens
from modelreg_server.log_copies import Copies
from modelreg_server.tables import Token, table_of
from support.logs import MemoryStore
from support.registry import signed


@pytest.fixture
def old(either_database):
    """Schema 0001 with an event and a token, written in its own words."""
    opened = database.connect(either_database["database_url"], 10)
    with opened.engine.begin() as connection:
        command.upgrade(migrations.configuration(connection), "0001")
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    at = now.replace(tzinfo=None) if opened.engine.dialect.name == "sqlite" else now
    with opened.engine.begin() as connection:
        connection.execute(
            text(
                'INSERT INTO custody_event ("index", type, recorded_at, principal, detail, entry) '
                "VALUES (0, 'tag.moved', :at, 'person:old', '{}', :entry)"
            ),
            {"at": at, "entry": b"{}"},
        )
        connection.execute(text("UPDATE custody_head SET size = 1"))
        connection.execute(
            text(
                "INSERT INTO token (id, hash, last_four, principal, scopes, created_at, created_by, expires_at) "
                "VALUES ('t', :hash, 'abcd', 'person:old', '[\"pull:a/b\"]', :at, 'person:admin', :end)"
            ),
            {"hash": "0" * 64, "at": at, "end": at.replace(year=2099)},
        )
    yield opened
    opened.dispose()


@pytest.mark.filterwarnings("ignore:The default datetime adapter:DeprecationWarning")
def test_events_and_tokens_of_the_first_schema_are_kept_and_stay_unalterable(old):
    with pytest.raises(Misconfigured, match="modelreg-server migrate"):
        migrations.require_current(old.engine)

    migrations.migrate(old.engine)

    migrations.require_current(old.engine)
    with old.reading() as session:
        event = session.get(CustodyEvent, 0)
        assert (event.principal, event.entry, event.identity) == ("person:old", b"{}", None)
        token = session.get(Token, "t")
        assert (token.kind, token.identity, token.scopes) == ("api", None, ["pull:a/b"])
    for statement in ("UPDATE custody_event SET identity = '{}'", "DELETE FROM custody_event"):
        with pytest.raises(DBAPIError, match="append-only"), old.engine.begin() as connection:
            connection.execute(text(statement))

    identity = {"issuer": "https://ci.example", "subject": "s", "claims": {"a": True, "b": 1, "c": "x"}}
    actor = Actor("workload:new", None, identity=identity)
    with signed(old).writing() as session, session.begin():
        assert custody.append(session, actor, Event(EventType.TOKEN_EXCHANGED), datetime.now(UTC)) == 1
        assert [row.kind for row in tokens.every_token(session, datetime.now(UTC))] == ["api"]
    with old.reading() as session:
        row = session.get(CustodyEvent, 1)
        assert custody_identities.opened(session, [row.actor])[row.actor].body["identity"] == identity
        # The old event is a leaf of the tree as well.
        assert merkle.root(2, custody_tree.reader(session)) == merkle.node_hash(
            *map(merkle.leaf_hash, (b"{}", row.entry))
        )
        assert checkpoints.parse(session.exec(select(CustodyHead)).one().checkpoint).size == 2
        # No identity is SQL's NULL, not JSON's null.
        assert session.connection().execute(text("SELECT count(*) FROM token WHERE identity IS NULL")).scalar() == 1


def test_thousands_of_events_become_a_tree_while_somebody_else_migrates_too(either_database):
    opened = signed(database.connect(either_database["database_url"], 10))
    with opened.engine.begin() as connection:
        command.upgrade(migrations.configuration(connection), "0004")
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    rows = []
    for number in range(3001):
        members = {
            "v": 1, "type": "tag.moved", "time": at.isoformat(timespec="microseconds"), "principal": "person:old",
            "token": None, "repository": "a/b", "artifact": None, "tag": "t", "host": None, "verified_host": None,
            "client_address": None, "user_agent": None, "identity": None, "purpose": None, "detail": {"n": number},
        }  # fmt: skip
        rows.append(log_entries.row_of(number, canonical_json(members)))
    columns = [name for name in log_entries.COLUMNS if name not in {"actor", "about"}]
    table = sa_table("custody_event", *(column(name, table_of(CustodyEvent).c[name].type) for name in columns))
    with opened.engine.begin() as connection:
        connection.execute(insert(table), [{name: row[name] for name in columns} for row in rows])
        connection.execute(text("UPDATE custody_head SET size = 3001"))

    with ThreadPoolExecutor() as threads:
        others = [database.connect(either_database["database_url"], 2) for _ in range(3)]
        list(threads.map(lambda one: migrations.migrate(one.engine), others))

    copies = Copies(MemoryStore(), opened.log_signer)
    for expected in (3001, 3002):
        with opened.reading() as session:
            report = log_verifying.verify(database.one_state(session), copies)
        assert (report.size, report.findings) == (expected, ())
        with opened.writing() as session, session.begin():
            custody.append(session, Actor("workload:new", None), Event(EventType.TAG_RESOLVED), datetime.now(UTC))
    for one in (opened, *others):
        one.dispose()
