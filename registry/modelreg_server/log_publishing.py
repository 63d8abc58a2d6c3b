"""The thread that publishes the log: after commits, at most once a second, by one process at a time.

Appending never waits for it. Only when the store has taken nothing for `log_publish_max_lag_seconds` are grants refused:
then a lost database would lose too much of the record. A log that turns out to be another than the published one is
refused at once: its database was exchanged under the running server.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import select

from modelreg.errors import LogNotIntact, LogRolledBack, ModelregError, NotFound, RecordUnavailable
from modelreg_server import log_copies
from modelreg_server.custody_tree import CustodyHead
from modelreg_server.database import Database
from modelreg_server.log_copies import Copies

_FOLLOWING_SECONDS = 30.0  # between two looks at what the publishing process has published
_STOP_SECONDS = 30.0
_log = logging.getLogger(__name__)


class Publishing:
    """A background thread with the one state that others ask for: since when the store has been behind."""

    def __init__(
        self,
        database: Database,
        copies: Copies,
        lock_file: Path,
        *,
        every_seconds: float,
        max_lag_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._copies = copies
        self._lock = _Turn(database, copies.folder, lock_file)
        self._every_seconds = every_seconds
        self._max_lag_seconds = max_lag_seconds
        self._clock = clock
        self._published: int | None = None
        self._seen: tuple[float, int] | None = None  # when which size was there, while another process publishes
        self._behind_since: float | None = None
        self._not_intact: str | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-publishing", daemon=True)

    def start(self) -> None:
        """Begin publishing."""
        self._thread.start()

    def close(self) -> None:
        """Publish what is left, and stop; a store that hangs is waited for half a minute."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def require_recent(self) -> None:
        """Refuse to go on while the store has been behind for too long, or holds another log.

        Raises:
            RecordUnavailable: since when, or which.
        """
        if self._not_intact is not None:
            raise RecordUnavailable(f"{self._not_intact}; stop the server and run `modelreg-server log verify`")
        since = self._behind_since
        if since is not None and (lag := self._clock() - since) > self._max_lag_seconds:
            raise RecordUnavailable(
                f"the custody log could not be published to the blob store for {int(lag)} seconds; its operators must "
                "look at the store (MODELREG_LOG_PUBLISH_MAX_LAG_SECONDS bounds this)"
            )

    def round(self) -> None:
        """Publish if there is something new and it is our turn; remember whether the store is behind."""
        now = self._clock()
        try:
            if self._lock.is_ours():
                self._publish(now)
            else:
                self._follow(self._size(), now)
            self._not_intact = None
        except LogNotIntact as error:
            self._not_intact = error.detail
            _log.error("the custody log was not published: %s", error.detail)  # no traceback for a finding
        except (ModelregError, SQLAlchemyError, OSError) as error:
            if self._behind_since is None:
                self._behind_since = now
            detail = getattr(error, "detail", type(error).__name__)
            _log.error("the custody log was not published: %s", detail)

    def _publish(self, now: float) -> None:
        if self._published is None:
            newest = self._copies.newest()
            self._published = newest.size if newest else 0
        size = self._size()  # after that: another process may have published its last since
        if size < self._published:
            raise LogRolledBack(f"the custody log has {size} events, and {self._published} were published")
        if size > self._published:
            if self._behind_since is None:
                self._behind_since = now
            with self._database.reading() as session, contextlib.suppress(NotFound):  # not signed yet
                self._published = log_copies.publish(session, self._copies, self._published)
        self._behind_since = None

    def _follow(self, size: int, now: float) -> None:
        """Another process publishes: see now and then whether it does."""
        self._published = None
        if self._seen is None:
            self._seen = (now, size)
        seen_at, seen_size = self._seen
        if now - seen_at < min(_FOLLOWING_SECONDS, self._max_lag_seconds / 4):
            return
        newest = self._copies.newest()
        if newest is None or newest.size < seen_size:
            self._behind_since = self._behind_since if self._behind_since is not None else seen_at
            return
        self._behind_since = None
        self._seen = (now, size)

    def _size(self) -> int:
        with self._database.reading() as session:
            return session.exec(select(CustodyHead.size)).one()

    def _run(self) -> None:
        while not self._stopping.wait(self._every_seconds):
            self.round()
        self.round()
        self._lock.release()


class _Turn:
    """Who publishes: held until the process ends or loses its connection. Two at once would only do work twice."""

    def __init__(self, database: Database, name: str, lock_file: Path) -> None:
        self._database = database
        self._key = int.from_bytes(hashlib.sha256(f"publishing\0{name}".encode()).digest()[:8], "big", signed=True)
        self._lock_file = lock_file
        self._held: Connection | int | None = None

    def is_ours(self) -> bool:
        """Whether it is our turn, taking it if nobody has it."""
        postgresql = self._database.engine.dialect.name == "postgresql"
        if isinstance(self._held, Connection):
            try:
                self._held.execute(text("SELECT 1"))
                return True
            except SQLAlchemyError:
                self.release()
        if self._held is None:
            self._held = self._advisory() if postgresql else self._flock()
        return self._held is not None

    def release(self) -> None:
        """Let another process take its turn."""
        held, self._held = self._held, None
        if isinstance(held, Connection):
            held.invalidate()  # the lock is the server session's: the connection must end, not return to the pool
            held.close()
        elif held is not None:
            os.close(held)

    def _advisory(self) -> Connection | None:
        connection = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            if connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": self._key}).scalar_one():
                return connection
        except SQLAlchemyError:
            connection.close()
            raise
        connection.close()
        return None

    def _flock(self) -> int | None:
        descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor
