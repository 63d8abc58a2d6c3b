"""Connections and transactions: SQLite (WAL, synchronous=FULL) or PostgreSQL.

`reading` and `writing` are two faces of one pool. On SQLite a writing transaction begins IMMEDIATE: it waits for its
turn at the start instead of failing in the middle. It waits for a lock file beside the database and not in SQLite's busy
handler, whose growing naps starve one of two busy processes (seen). Nothing here commits; operations do, with
`session.begin()`.
"""

import fcntl
import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Connection, CursorResult, Engine, Table, create_engine, event, inspect, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DisconnectionError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlmodel import Session, SQLModel

from modelreg.errors import Misconfigured, RecordUnavailable

_BUSY_SECONDS = 30
_PING_IDLE_SECONDS = 1.0
_TURN_POLL_SECONDS = 0.001  # waited for by one thread of each process; a commit takes longer
_INSERT_BATCH = 500  # rows a statement; both databases limit bound parameters to 32,766


@dataclass(frozen=True)
class Database:
    """An engine and its two faces. `log_signer` is what a session that appends to the custody log is sealed with."""

    engine: Engine
    log_signer: object | None = None

    def reading(self) -> Session:
        """A session for looking; on PostgreSQL its transaction is READ ONLY."""
        return Session(self._reading_engine)

    def glancing(self) -> Session:
        """A session for single statements that need not agree with each other: no BEGIN and no ROLLBACK on PostgreSQL."""
        return Session(self._glancing_engine)

    def writing(self) -> Session:
        """A session for changing."""
        return Session(self._writing_engine, info={"log_signer": self.log_signer})

    @cached_property
    def _reading_engine(self) -> Engine:
        return self.engine.execution_options(modelreg_writes=False)

    @cached_property
    def _glancing_engine(self) -> Engine:
        if self.engine.dialect.name == "postgresql":
            return self.engine.execution_options(isolation_level="AUTOCOMMIT", modelreg_writes=False)
        return self._reading_engine

    @cached_property
    def _writing_engine(self) -> Engine:
        return self.engine.execution_options(modelreg_writes=True)

    def dispose(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def connect(url: str, pool_size: int = 40) -> Database:
    """Open the database and assert that acknowledged commits are durable.

    Raises:
        Misconfigured: unreachable, or SQLite without WAL and synchronous=FULL.
    """
    engine = create_engine(url, pool_size=pool_size, max_overflow=0)
    if engine.dialect.name == "sqlite":
        if engine.url.database:
            Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            turn = WriteTurn(Path(f"{engine.url.database}.lock"))
            event.listen(engine, "connect", turn.open)
            event.listen(engine, "begin", turn.take)  # before BEGIN IMMEDIATE
            event.listen(engine, "checkin", turn.give)
            event.listen(engine, "close", turn.close)
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        event.listen(engine, "checkin", _note_use)
        event.listen(engine, "checkout", _ping_if_idle)
        event.listen(engine, "begin", _begin_postgresql)
    try:
        with engine.connect() as connection:
            _require_durable(connection)
    except Misconfigured:
        engine.dispose()
        raise
    except OperationalError as error:
        engine.dispose()
        raise Misconfigured(f"the database does not answer: {error.orig}", setting="MODELREG_DATABASE_URL") from None
    return Database(engine)


class WriteTurn:
    """Whose turn it is to write to a SQLite file: one thread of a process, and one process, at a time.

    Taken where a writing transaction begins, given back with the connection, however that ends; the system takes it from a
    process that dies.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._here = threading.Lock()

    def open(self, _connection: Any, record: ConnectionPoolEntry) -> None:
        """Each connection has the lock file open for itself."""
        record.info["turn_file"] = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self, connection: Connection) -> None:
        """Wait until nobody else writes.

        Raises:
            RecordUnavailable: somebody has been writing for too long.
        """
        info = connection.info
        if info.get("turn_taken") or not _writes(connection):
            return
        deadline = time.monotonic() + _BUSY_SECONDS
        if not self._here.acquire(timeout=_BUSY_SECONDS):
            raise _busy()
        try:
            while not _locked(info["turn_file"]):
                if time.monotonic() > deadline:
                    raise _busy()
                time.sleep(_TURN_POLL_SECONDS)
        except BaseException:
            self._here.release()
            raise
        info["turn_taken"] = True

    def give(self, _connection: Any, record: ConnectionPoolEntry) -> None:
        """Let the next one write."""
        if record.info.pop("turn_taken", False):
            fcntl.flock(record.info["turn_file"], fcntl.LOCK_UN)
            self._here.release()

    def close(self, _connection: Any, record: ConnectionPoolEntry) -> None:
        """Close the lock file with the connection."""
        self.give(None, record)
        os.close(record.info.pop("turn_file"))


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _busy() -> RecordUnavailable:
    return RecordUnavailable(f"somebody else has been writing to the database for {_BUSY_SECONDS} seconds; try again")


def _writes(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("modelreg_writes", True))


def _configure_sqlite(connection: Any, _record: ConnectionPoolEntry) -> None:
    assert isinstance(connection, sqlite3.Connection)
    connection.isolation_level = None  # we say BEGIN ourselves
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_SECONDS * 1000}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if _writes(connection) else "BEGIN")


def _begin_postgresql(connection: Connection) -> None:
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    # Said with the BEGIN that goes before the first statement; a database that its administrator made read-only stays so.
    driver.read_only = None if _writes(connection) else True


def _note_use(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info["used_at"] = time.monotonic()


def _ping_if_idle(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
    """A connection that rested may be dead. Asking every time would cost as much as a query."""
    if time.monotonic() - record.info.get("used_at", time.monotonic()) < _PING_IDLE_SECONDS:
        return
    try:
        connection.execute("")
        connection.rollback()
    except psycopg.OperationalError as error:
        raise DisconnectionError from error


def _require_durable(connection: Connection) -> None:
    """With synchronous=NORMAL a power cut loses acknowledged commits (seen), so it is asserted, not hoped for."""
    if connection.dialect.name == "sqlite":
        journal = connection.execute(text("PRAGMA journal_mode")).scalar_one()
        synchronous = connection.execute(text("PRAGMA synchronous")).scalar_one()
        foreign_keys = connection.execute(text("PRAGMA foreign_keys")).scalar_one()
        if (journal, synchronous, foreign_keys) != ("wal", 2, 1):
            raise Misconfigured(
                f"SQLite runs with journal_mode={journal}, synchronous={synchronous}; needs wal and 2 (FULL)"
            )
    elif connection.execute(text("SHOW synchronous_commit")).scalar_one() == "off":
        raise Misconfigured("PostgreSQL runs with synchronous_commit=off; acknowledged events could be lost")


def one_at_a_time(session: Session, *names: str) -> None:
    """Wait for every other transaction that named the same, until it ends; then see what it committed.

    For what no row can be locked for, because it does not exist yet. SQLite lets one writer in at a time anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        key = int.from_bytes(hashlib.sha256("\0".join(names).encode()).digest()[:8], signed=True)
        session.connection().execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def one_state(session: Session) -> Connection:
    """The connection of a fresh session, in a transaction that sees one state, whatever is committed meanwhile."""
    if session.get_bind().dialect.name == "postgresql":
        return session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
    return session.connection()  # SQLite has no other


def table_of(rows: type[SQLModel]) -> Table:
    """The table of a class of rows, for statements that know no rows."""
    table = inspect(rows).local_table
    assert isinstance(table, Table)
    return table


@contextmanager
def turn(database: Database, name: str) -> Iterator[None]:
    """Hold a name against every other thread and process on this database, for what must not be a transaction."""
    if database.engine.dialect.name == "postgresql":
        with database.reading() as session:
            one_at_a_time(session, name)
            yield
        return
    file = os.open(f"{database.engine.url.database}.{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def insert_if_absent(session: Session, rows: Sequence[SQLModel]) -> int:
    """Insert rows of one table unless their keys are taken; returns how many were new.

    Waits for a concurrent transaction that inserts the same key, and then lets it win. All columns must be set.
    """
    if not rows:
        return 0
    table = type(rows[0])
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    values = [row.model_dump(exclude={"id"} if getattr(row, "id", "") is None else set()) for row in rows]
    new = 0
    for start in range(0, len(values), _INSERT_BATCH):
        statement = insert(table).values(values[start : start + _INSERT_BATCH]).on_conflict_do_nothing()
        # Without the option SQLAlchemy 2.1 forgets the count on PostgreSQL, and -1 reads as "all were new".
        result = session.connection().execute(statement, execution_options={"preserve_rowcount": True})
        assert isinstance(result, CursorResult)
        assert result.rowcount >= 0
        new += result.rowcount
    return new
