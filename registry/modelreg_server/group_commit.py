"""Small appending operations of many requests, committed together: rows, entries, nodes and checkpoint in one transaction.

Whoever finds nobody committing does it at once, for itself; whoever comes meanwhile queues and is committed with the next
group, by the first of those who wait. A single client never waits for company. Under load a group is what came during one
commit and a few milliseconds more: a commit costs as much for thirty as for one.

Units of a group run one after the other, with the log's lock held. One that raises undoes itself and nothing else. Nobody is
told anything before the commit is durable; if it fails, every unit of the group fails with it.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlmodel import Session, select

from modelreg import merkle
from modelreg.errors import LogNotIntact, ModelregError, RecordUnavailable
from modelreg_server import custody, custody_tree
from modelreg_server.custody import CustodyEvent
from modelreg_server.custody_proofs import CommittedNodes, Head, Proof, prove
from modelreg_server.custody_tree import CustodyHead, Sealed
from modelreg_server.database import Database, turn

_log = logging.getLogger(__name__)
MAX_UNITS = 128  # in a group: the log's lock is held for all of them
GATHER_SECONDS = 0.004  # for company, where the last group had some

T = TypeVar("T")


class Witnesses(Protocol):
    """Asks others to vouch for a checkpoint. Bounded in time; may return the note as it is."""

    def cosign(self, note: bytes, size: int, proof: Callable[[int], Sequence[bytes]]) -> bytes:
        """The note with what signatures there are. `proof(old_size)` leads from an older size to `size`."""
        ...


@dataclass(frozen=True)
class Recorded(Generic[T]):
    """What a unit returned, durable; and the way to the proof of the last event that it appended."""

    value: T
    _index: int | None
    _entry: bytes
    _head: Head | None
    _committed: CommittedNodes

    def proof(self, known_size: int | None) -> Proof:
        """The receipt of the unit's last event, and what leads there from the size a client knows."""
        assert self._index is not None
        assert self._head is not None
        return prove(self._head, self._index, self._entry, known_size, self._committed)


class _Unit:
    """A queued piece of work. It is woken when it is done, or to commit the group that it is the first of."""

    def __init__(self, work: Callable[[Session], object], only_appends: bool) -> None:
        self.work = work
        self.only_appends = only_appends
        self.leads = False
        self.woken = threading.Event()
        self.value: Any = None
        self.index: int | None = None
        self.error: Exception | None = None
        self.settled = False
        self.entry = b""
        self.head: Head | None = None


class Recorder:
    """Commits units of work in groups. One a process; thread-safe."""

    def __init__(self, database: Database, witnesses: Witnesses | None = None) -> None:
        self.database = database
        self._witnesses = witnesses
        self._committed = CommittedNodes(database)
        self._lock = threading.Lock()
        self._queue: deque[_Unit] = deque()
        self._committing = False
        self._company = False  # had the last group

    def record(self, work: Callable[[Session], T], *, only_appends: bool = False) -> Recorded[T]:
        """Do a unit of work in the transaction of a group, and return when that is durable.

        The session is the group's: work does not commit it, returns no row of it, and does only what is quick. It runs
        with the log's lock held, so it must not wait for a row that others lock before they append.

        Args:
            only_appends: work changes nothing by itself, it only appends and inserts late; then a savepoint is spared.

        Raises:
            RecordUnavailable: the group was not committed; nothing happened.
            Exception: what `work` raised; nothing of it happened.
        """
        unit = _Unit(work, only_appends)
        with self._lock:
            self._queue.append(unit)
            unit.leads, self._committing = not self._committing, True
        if not unit.leads:
            unit.woken.wait()
        if unit.leads:
            self._lead()
        if unit.error is not None:
            raise unit.error
        if not unit.settled:  # whoever led was torn out of it
            raise RecordUnavailable("the record was not written; try again later")
        return Recorded(unit.value, unit.index, unit.entry, unit.head, self._committed)

    def prove_again(self, index: int, known_size: int | None) -> Proof:
        """The proof of an event that was committed before, in the log as it is now.

        Raises:
            LogNotIntact, RecordUnavailable: the database lacks what it needs.
        """
        with self.database.reading() as session:
            entry = session.exec(select(CustodyEvent.entry).where(CustodyEvent.index == index)).one_or_none()
        if entry is None:
            raise LogNotIntact(f"the custody log has no entry {index}")
        return prove(self.newest(), index, entry, known_size, self._committed)

    def newest(self) -> Head:
        """The log's head as it is now, with what witnesses sign of it.

        Raises:
            RecordUnavailable: nothing was appended since the log has a key.
        """
        return self._witnessed(self._newest())

    def _lead(self) -> None:
        """Commit what is queued, from this thread's own unit on; then somebody else leads."""
        if self._company:
            time.sleep(GATHER_SECONDS)
        with self._lock:
            group = [self._queue.popleft() for _ in range(min(MAX_UNITS, len(self._queue)))]
        self._company = len(group) > 1
        try:
            self._commit(group)
        finally:
            with self._lock:
                self._committing = bool(self._queue)
                if self._queue:
                    self._queue[0].leads = True
                    self._queue[0].woken.set()
            for unit in group:
                unit.woken.set()

    def _commit(self, group: Sequence[_Unit]) -> None:
        try:
            sealed = self._transact(group)
        except Exception as error:  # noqa: BLE001  # nothing is durable, so nobody may be told otherwise
            self._fail(group, error)
            return
        head = None
        if sealed is not None:
            self._committed.follow(sealed)
            head = self._witnessed(Head(sealed.size, sealed.note))
        for unit in group:
            unit.settled, unit.head = True, head
            if sealed is not None and unit.index is not None:
                unit.entry = sealed.entries[unit.index - sealed.started_at]

    def _fail(self, group: Sequence[_Unit], error: Exception) -> None:
        """Say so to every unit; but where it is one unit's fault, do each again, alone."""
        unavailable = isinstance(error, ModelregError | OperationalError | InterfaceError)
        if not unavailable and len(group) > 1:
            for unit in group:
                self._commit([unit])
            return
        _log.error("a group of %d was not committed", len(group), exc_info=error)
        detail = error.detail if isinstance(error, ModelregError) else "the record cannot be written; try again later"
        for unit in group:
            unit.error = RecordUnavailable(detail) if unavailable else error

    def _transact(self, group: Sequence[_Unit]) -> Sealed | None:
        with self.database.writing() as session:
            with session.begin():
                custody.hold(session)
                for unit in group:
                    _run(session, unit)
            return custody_tree.sealed(session)

    def _witnessed(self, head: Head) -> Head:
        """The head with what witnesses sign of it; with several workers the newest, for none vouches for an older one then."""
        if self._witnesses is None:
            return head
        try:
            with turn(self.database, "witnesses"):
                head = self._newest()
                return replace(head, note=self._witnesses.cosign(head.note, head.size, self._proof_to(head.size)))
        except Exception:  # noqa: BLE001  # the event is durable; whoever demands witnesses refuses the receipt
            _log.exception("the witnesses were not asked")
            return head

    def _proof_to(self, size: int) -> Callable[[int], Sequence[bytes]]:
        return lambda old_size: merkle.consistency(old_size, size, self._committed.read)

    def _newest(self) -> Head:
        with self.database.reading() as session:
            found = session.exec(select(CustodyHead.size, CustodyHead.checkpoint)).one_or_none()
        if found is None or found[1] is None:
            raise RecordUnavailable("the custody log has no signed head; it gets one with the next event")
        return Head(found[0], found[1])


def _run(session: Session, unit: _Unit) -> None:
    """Do a unit's work. If it refuses, everything is as before it."""
    before = custody_tree.mark(session)
    unit.value, unit.error, unit.index = None, None, None
    try:
        unit.value = unit.work(session) if unit.only_appends else _inside_savepoint(session, unit.work)
    except ModelregError as error:
        unit.error = error
        custody_tree.return_to(session, before)
        return
    size = custody_tree.hold(session).tree.size
    unit.index = size - 1 if size > before.size else None


def _inside_savepoint(session: Session, work: Callable[[Session], object]) -> object:
    connection = session.connection()
    connection.exec_driver_sql("SAVEPOINT unit")
    try:
        value = work(session)
        session.flush()
    except ModelregError:
        session.expunge_all()  # what it changed and did not flush
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT unit")
        connection.exec_driver_sql("RELEASE SAVEPOINT unit")
        raise
    connection.exec_driver_sql("RELEASE SAVEPOINT unit")
    return value
