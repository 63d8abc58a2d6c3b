"""The log's Merkle tree inside the database: the head is the only commit point.

One row says how many entries there are, holds the frontier and the signed checkpoint; its lock is the log's lock. A
transaction that appends takes the lock, grows the tree in memory, and on its way to the commit writes the finished nodes and
the new head: state, entries, nodes and checkpoint are there together or not at all. Tiles in the blob store are copies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Insert, LargeBinary, and_, bindparam, event, insert, or_, text, update
from sqlalchemy import select as columns
from sqlalchemy.exc import NoResultFound
from sqlmodel import Field, Session, SQLModel, col

from modelreg import checkpoints, merkle
from modelreg.errors import LogNotIntact, RecordUnavailable
from modelreg_server.database import table_of
from modelreg_server.tables import UtcDateTime

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_GROWING = "custody_growing"
_SEALED = "custody_sealed"
_BATCH = 500


class CustodyHead(SQLModel, table=True):
    """One row, made by the migration: how many events there are. Its lock is the log's lock.

    `epoch` is the index of the newest event that can change what a grant's decision rests on.
    """

    __tablename__ = "custody_head"

    id: int = Field(primary_key=True)
    size: int = Field(sa_type=BigInteger)
    frontier: bytes = Field(default=b"", sa_type=LargeBinary, sa_column_kwargs={"server_default": text("''")})
    checkpoint: bytes | None = Field(default=None, sa_type=LargeBinary)
    epoch: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": text("0")})
    appended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class CustodyNode(SQLModel, table=True):
    """A finished node of the Merkle tree: the hash over the `2**level` leaves from `index * 2**level` on."""

    __tablename__ = "custody_node"
    __table_args__ = {"sqlite_with_rowid": False}

    level: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    index: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    hash: bytes = Field(sa_type=LargeBinary)


# Statements that every append and every request need: made once, of columns and not of rows.
_LOCK_HEAD = columns(
    col(CustodyHead.size), col(CustodyHead.frontier), col(CustodyHead.epoch), col(CustodyHead.appended_at)
).with_for_update()
_EPOCH = columns(col(CustodyHead.epoch))
_MOVE_HEAD = update(table_of(CustodyHead))
_NODES = columns(col(CustodyNode.level), col(CustodyNode.index), col(CustodyNode.hash))
_AMONG = _NODES.where(
    col(CustodyNode.level).in_(bindparam("levels", expanding=True)),
    col(CustodyNode.index).in_(bindparam("indexes", expanding=True)),
)


@cache
def _insert(table: type[SQLModel]) -> Insert:
    return insert(table_of(table))


@dataclass(frozen=True)
class LogSigner:
    """The log's name and key: what makes a head a checkpoint."""

    origin: str
    key: "Ed25519PrivateKey"

    def checkpoint(self, size: int, root: bytes) -> bytes:
        """The signed note of a head."""
        return checkpoints.sign(self.origin, size, root, self.key)


@dataclass
class Growth:
    """What a transaction appends: the tree as it will be, and what else the head says then."""

    tree: merkle.Growing
    started_at: int
    epoch: int
    appended_at: datetime | None
    entries: list[bytes] = field(default_factory=list)
    rows: list[tuple[type[SQLModel], dict[str, Any]]] = field(default_factory=list)  # to be inserted with them
    before: dict[merkle.Node, bytes] = field(default_factory=dict)  # the frontier that was there


@dataclass(frozen=True)
class Sealed:
    """What a transaction appended: entries from `started_at` on, the signed head, and the nodes that prove them.

    True once the transaction is committed. `nodes` suffice for the audit path of each of these entries.
    """

    started_at: int
    size: int
    note: bytes
    entries: list[bytes]
    nodes: dict[merkle.Node, bytes]


def hold(session: Session) -> Growth:
    """Take the log's lock until the caller's transaction ends; every other appender waits.

    Raises:
        RecordUnavailable: the database was never migrated.
        LogNotIntact: the head contradicts itself.
    """
    growth = session.info.get(_GROWING)
    if isinstance(growth, Growth):
        return growth
    try:
        size, frontier, epoch, appended_at = session.connection().execute(_LOCK_HEAD).one()
    except NoResultFound:
        raise RecordUnavailable("the custody log has no head; run `modelreg-server migrate`") from None
    tree = merkle.growing_from(size, frontier)
    before = dict(zip(merkle.peaks(0, size), tree.frontier, strict=True))
    growth = Growth(tree, size, epoch, appended_at, before=before)
    session.info[_GROWING] = growth
    return growth


def grow(session: Session, entry: bytes, now: datetime, *, decisive: bool) -> int:
    """Add an entry's leaf inside the caller's transaction; returns its index."""
    growth = hold(session)
    index = growth.tree.append(merkle.leaf_hash(entry))
    growth.entries.append(entry)
    growth.appended_at = max(now, growth.appended_at or now)
    if decisive:
        growth.epoch = index
    return index


def insert_late(session: Session, table: type[SQLModel], **values: Any) -> None:
    """Insert a row on the way to the commit, together with the others of its table: for rows that tell of an entry.

    Queries of the same transaction do not see it yet.
    """
    hold(session).rows.append((table, values))


@dataclass(frozen=True)
class Mark:
    """Where a transaction's growth stood."""

    size: int
    frontier: list[bytes]
    finished: int
    rows: int
    epoch: int
    appended_at: datetime | None


def mark(session: Session) -> Mark:
    """Where the log stands inside the caller's transaction, to `return_to`."""
    growth = hold(session)
    tree = growth.tree
    return Mark(tree.size, list(tree.frontier), len(tree.finished), len(growth.rows), growth.epoch, growth.appended_at)


def return_to(session: Session, where: Mark) -> None:
    """Forget what was appended since; the caller undoes the rows."""
    growth = hold(session)
    growth.tree.size, growth.tree.frontier = where.size, list(where.frontier)
    growth.epoch, growth.appended_at = where.epoch, where.appended_at
    del growth.tree.finished[where.finished :]
    del growth.entries[where.size - growth.started_at :]
    del growth.rows[where.rows :]
    session.info.pop("custody_identities", None)


@event.listens_for(Session, "before_commit")
def _seal(session: Session) -> None:
    """Write nodes and head with the rest of the transaction: nobody can append and forget it."""
    growth: Growth | None = session.info.pop(_GROWING, None)
    session.info.pop("custody_identities", None)
    if growth is None or growth.tree.size == growth.started_at:
        return
    signer = session.info.get("log_signer")
    if not isinstance(signer, LogSigner):
        raise RecordUnavailable("this process has no log key and cannot sign the custody log's head")
    rows: list[dict[str, Any]] = [
        {"level": level, "index": index, "hash": value} for level, index, value in growth.tree.finished
    ]
    note = signer.checkpoint(growth.tree.size, growth.tree.root())
    nodes = growth.before | {(level, index): value for level, index, value in growth.tree.finished}
    session.info[_SEALED] = Sealed(growth.started_at, growth.tree.size, note, growth.entries, nodes)
    connection = session.connection()
    for table, late in _by_table(growth.rows).items():
        connection.execute(_insert(table), late)
    connection.execute(_insert(CustodyNode), rows)
    head = {
        "size": growth.tree.size,
        "frontier": b"".join(growth.tree.frontier),
        "checkpoint": note,
        "epoch": growth.epoch,
        "appended_at": growth.appended_at,
    }
    connection.execute(_MOVE_HEAD, head)


def _by_table(rows: Sequence[tuple[type[SQLModel], dict[str, Any]]]) -> dict[type[SQLModel], list[dict[str, Any]]]:
    found: dict[type[SQLModel], list[dict[str, Any]]] = {}
    for table, values in rows:
        found.setdefault(table, []).append(values)
    return found


@event.listens_for(Session, "after_soft_rollback")
def _forget(session: Session, _previous: object) -> None:
    """A tree that was not committed never grew."""
    look_again(session)


def look_again(session: Session) -> None:
    """Forget what the session knows of head and identities: somebody wrote them in its transaction without it."""
    session.info.pop(_GROWING, None)
    session.info.pop("custody_identities", None)


def sealed(session: Session) -> Sealed | None:
    """What the last committed transaction of this session appended, if anything."""
    found = session.info.get(_SEALED)
    return found if isinstance(found, Sealed) else None


def epoch(session: Session) -> int:
    """Index of the newest event that can change a decision; read it before what the decision rests on.

    Raises:
        RecordUnavailable: the database was never migrated.
    """
    growth = session.info.get(_GROWING)
    if isinstance(growth, Growth):
        return growth.epoch
    found = session.connection().execute(_EPOCH).scalar_one_or_none()
    if found is None:
        raise RecordUnavailable("the custody log has no head; run `modelreg-server migrate`")
    return int(found)


def reader(session: Session) -> merkle.NodeReader:
    """Finished nodes from the database, which is believed no further than the root that they must lead to."""

    def read(nodes: Sequence[merkle.Node]) -> list[bytes]:
        found: dict[merkle.Node, bytes] = {}
        for start in range(0, len(nodes), _BATCH):
            some = nodes[start : start + _BATCH]
            # Two lists, and a few rows too many: for a list of pairs SQLite reads the whole table.
            wanted = {"levels": sorted({level for level, _ in some}), "indexes": sorted({index for _, index in some})}
            rows = session.connection().execute(_AMONG, wanted)
            found |= {(level, index): value for level, index, value in rows}
        if missing := [node for node in nodes if node not in found]:
            raise LogNotIntact(f"the custody log has no node at level {missing[0][0]}, index {missing[0][1]}")
        return [found[node] for node in nodes]

    return read


def finished_between(session: Session, old: int, new: int) -> dict[merkle.Node, bytes]:
    """The nodes that the entries from `old` to `new` (exclusive) finished, in one query."""
    ranges = [
        and_(
            col(CustodyNode.level) == level,
            col(CustodyNode.index) >= old >> level,
            col(CustodyNode.index) < new >> level,
        )
        for level in range(new.bit_length())
        if old >> level < new >> level
    ]
    if not ranges:
        return {}
    rows = session.connection().execute(_NODES.where(or_(*ranges)))
    return {(level, index): value for level, index, value in rows}
