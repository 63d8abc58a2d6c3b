"""Connections and transactions: SQLite (WAL, synchronous=FULL) or PostgreSQL.

`reading` and `writing` are two faces of one pool. On SQLite a writing transaction begins IMMEDIATE: it waits for its
turn at the start instead of failing in the middle. Nothing here commits; operations do, with `session.begin()`.
"""

import hashlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, CursorResult, Engine, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlmodel import Session, SQLModel

from modelreg.errors import Misconfigured

_BUSY_SECONDS = 30
_INSERT_BATCH = 500  # rows a statement; both databases limit bound parameters to 32,766


@dataclass(frozen=True)
class Database:
    """An engine and its two faces. `log_signer` is what a session that appends to the custody log is sealed with."""

    engine: Engine
    log_signer: object | None = None

    def reading(self) -> Session:
        """A session for looking; on PostgreSQL its transaction is READ ONLY."""
        return Session(self.engine.execution_options(modelreg_writes=False))

    def writing(self) -> Session:
        """A session for changing."""
        info = {"log_signer": self.log_signer}
        return Session(self.engine.execution_options(modelreg_writes=True), info=info)

    def dispose(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def connect(url: str, pool_size: int = 40) -> Database:
    """Open the database and assert that acknowledged commits are durable.

    Raises:
        Misconfigured: unreachable, or SQLite without WAL and synchronous=FULL.
    """
    engine = create_engine(url, pool_size=pool_size, max_overflow=0, pool_pre_ping=not url.startswith("sqlite"))
    if engine.dialect.name == "sqlite":
        if engine.url.database:
            Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
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


def _configure_sqlite(connection: Any, _record: ConnectionPoolEntry) -> None:
    assert isinstance(connection, sqlite3.Connection)
    connection.isolation_level = None  # we say BEGIN ourselves
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_SECONDS * 1000}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("modelreg_writes", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _begin_postgresql(connection: Connection) -> None:
    if not connection.get_execution_options().get("modelreg_writes", True):
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")


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
