"""Reading the custody log as a log: its head, proofs, entries and tiles, all from the database."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import Session, col, select

from modelreg import merkle, tiles
from modelreg.errors import LogNotIntact, NotFound, RecordUnavailable
from modelreg.tiles import Tile
from modelreg_server import custody_identities, custody_tree
from modelreg_server.custody import CustodyEvent
from modelreg_server.custody_identities import CustodyIdentity
from modelreg_server.custody_tree import CustodyHead

MAX_ENTRIES = 256


@dataclass(frozen=True)
class Entries:
    """Entries in order from `start`, and what opens their commitments as far as it was not erased."""

    start: int
    entries: list[bytes]
    openings: list[CustodyIdentity]


def checkpoint(session: Session) -> bytes:
    """The signed head.

    Raises:
        NotFound: nothing was appended since the log has a key.
    """
    note = _head(session)[1]
    if note is None:
        raise NotFound("the custody log has no checkpoint yet: it gets one with the next event")
    return note


def inclusion(session: Session, index: int, size: int) -> list[bytes]:
    """The audit path of an entry in the log of `size` entries.

    Raises:
        NotFound: the log is not that long, or the entry is not in it.
    """
    _require_size(session, size)
    if index >= size:
        raise NotFound(f"a log of {size} entries has no entry {index}")
    return merkle.inclusion(index, size, custody_tree.reader(session))


def consistency(session: Session, old: int, new: int) -> list[bytes]:
    """The proof that the log of `old` entries is the beginning of that of `new`.

    Raises:
        NotFound: the log is not that long.
    """
    _require_size(session, new)
    if old > new:
        raise NotFound(f"a log of {new} entries does not continue one of {old}")
    return merkle.consistency(old, new, custody_tree.reader(session))


def entries(session: Session, start: int, stop: int) -> Entries:
    """Entries `start` to `stop` (exclusive; cut at the log's end, and at 256 of them).

    Raises:
        LogNotIntact: one of them is missing.
    """
    stop = min(stop, start + MAX_ENTRIES, _head(session)[0])
    query = select(CustodyEvent.index, CustodyEvent.entry, CustodyEvent.actor, CustodyEvent.about)
    rows = session.exec(
        query.where(col(CustodyEvent.index) >= start, col(CustodyEvent.index) < stop).order_by(col(CustodyEvent.index))
    ).all()
    if [row[0] for row in rows] != list(range(start, stop)):
        raise LogNotIntact(f"the custody log misses an entry between {start} and {stop}")
    opened = custody_identities.opened(session, [name for row in rows for name in row[2:]])
    return Entries(start, [row[1] for row in rows], list(opened.values()))


def tile(session: Session, wanted: Tile) -> bytes:
    """The bytes of a tile or entry bundle, full or partial.

    Raises:
        NotFound: the log is not long enough to have it.
    """
    size = _head(session)[0]
    if wanted.stop << (tiles.HEIGHT * (wanted.level or 0)) > size:
        raise NotFound(f"the custody log has {size} entries and no such tile yet")
    if wanted.level is None:
        return tiles.join_entries(entries(session, wanted.start, wanted.stop).entries)
    return b"".join(_run(session, wanted.level * tiles.HEIGHT, wanted.start, wanted.stop))


def _run(session: Session, level: int, start: int, stop: int) -> Sequence[bytes]:
    """Neighbouring nodes of one level."""
    node = custody_tree.CustodyNode
    query = select(node.hash).where(node.level == level, col(node.index) >= start, col(node.index) < stop)
    found = session.exec(query.order_by(col(node.index))).all()
    if len(found) != stop - start:
        raise LogNotIntact(f"the custody log misses a node at level {level} between {start} and {stop}")
    return found


def _head(session: Session) -> tuple[int, bytes | None]:
    found = session.exec(select(CustodyHead.size, CustodyHead.checkpoint)).one_or_none()
    if found is None:
        raise RecordUnavailable("the custody log has no head; run `modelreg-server migrate`")
    return found


def _require_size(session: Session, size: int) -> None:
    if size > (there := _head(session)[0]):
        raise NotFound(f"the custody log has {there} entries, not {size}")
