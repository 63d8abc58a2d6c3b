"""The log's Merkle tree inside the database: the head is the only commit point.

One row says how many entries there are, holds the frontier and the signed checkpoint; its lock is the log's lock. A
transaction that appends takes the lock, grows the tree in memory, and on its way to the commit writes the finished nodes and
the new head: state, entries, nodes and checkpoint are there together or not at all. Tiles in the blob store are copies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, LargeBinary, event, insert, text, tuple_
from sqlalchemy.exc import NoResultFound
from sqlmodel import Field, Session, SQLModel, col, select, update

from modelreg import checkpoints, merkle
from modelreg.errors import LogNotIntact, RecordUnavailable
from modelreg_server.tables import UtcDateTime

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_GROWING = "custody_growing"
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
        # Columns, not the row: a caller may expunge what the session holds.
        columns = select(CustodyHead.size, CustodyHead.frontier, CustodyHead.epoch, CustodyHead.appended_at)
        size, frontier, epoch, appended_at = session.exec(columns.with_for_update()).one()
    except NoResultFound:
        raise RecordUnavailable("the custody log has no head; run `modelreg-server migrate`") from None
    growth = Growth(merkle.growing_from(size, frontier), size, epoch, appended_at)
    session.info[_GROWING] = growth
    return growth


def grow(session: Session, entry: bytes, now: datetime, *, decisive: bool) -> int:
    """Add an entry's leaf inside the caller's transaction; returns its index."""
    growth = hold(session)
    index = growth.tree.append(merkle.leaf_hash(entry))
    growth.appended_at = max(now, growth.appended_at or now)
    if decisive:
        growth.epoch = index
    return index


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
    connection = session.connection()
    connection.execute(insert(CustodyNode), rows)
    connection.execute(
        update(CustodyHead).values(
            size=growth.tree.size,
            frontier=b"".join(growth.tree.frontier),
            checkpoint=signer.checkpoint(growth.tree.size, growth.tree.root()),
            epoch=growth.epoch,
            appended_at=growth.appended_at,
        )
    )


@event.listens_for(Session, "after_soft_rollback")
def _forget(session: Session, _previous: object) -> None:
    """A tree that was not committed never grew."""
    look_again(session)


def look_again(session: Session) -> None:
    """Forget what the session knows of head and identities: somebody wrote them in its transaction without it."""
    session.info.pop(_GROWING, None)
    session.info.pop("custody_identities", None)


def reader(session: Session) -> merkle.NodeReader:
    """Finished nodes from the database, which is believed no further than the root that they must lead to."""

    def read(nodes: Sequence[merkle.Node]) -> list[bytes]:
        found: dict[merkle.Node, bytes] = {}
        for start in range(0, len(nodes), _BATCH):
            named = tuple_(col(CustodyNode.level), col(CustodyNode.index)).in_(nodes[start : start + _BATCH])
            query = select(CustodyNode.level, CustodyNode.index, CustodyNode.hash).where(named)
            found |= {(level, index): value for level, index, value in session.exec(query)}
        if missing := [node for node in nodes if node not in found]:
            raise LogNotIntact(f"the custody log has no node at level {missing[0][0]}, index {missing[0][1]}")
        return [found[node] for node in nodes]

    return read
