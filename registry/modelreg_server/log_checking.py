"""Whether this database's log may be appended to: asked once, before anything is served.

A database that was restored from a backup is a rollback of the log; to append to it would fork the log and give clients
receipts that contradict those they have. The published checkpoints tell. Whoever can remove them from the store and
restore an old database at the same time is not noticed here, but by every client and witness that has seen more.
"""

import logging
from datetime import datetime, timedelta

from sqlalchemy import func
from sqlmodel import Session, col, select

from modelreg import checkpoints, merkle, notes
from modelreg.checkpoints import Checkpoint
from modelreg.errors import LogNotIntact, ModelregError, RecordUnavailable, StorageUnavailable
from modelreg.tiles import WIDTH, Tile
from modelreg_server import custody_tree
from modelreg_server.custody import CustodyEvent
from modelreg_server.custody_tree import CustodyHead, CustodyNode
from modelreg_server.database import Database, one_state
from modelreg_server.log_copies import Copies

MAX_CLOCK_BEHIND = timedelta(minutes=5)
_COMPARED = 16  # of the newest published checkpoints that are not newer than the head
_RECOVER = "stop every server on this database and run `modelreg-server log recover`"
_log = logging.getLogger(__name__)


def require_appendable(database: Database, copies: Copies, now: datetime) -> None:
    """Refuse to go on with a log that contradicts itself, was rolled back or forked, or lies in the future.

    Raises:
        RecordUnavailable: what is wrong, and what to do; also when the store cannot be asked.
    """
    try:
        sizes = copies.checkpoint_sizes()  # before the head: what others append and publish meanwhile is no rollback
        with database.reading() as session:
            one_state(session)
            head = _head(session)
            _require_consistent_head(session, head, copies)
            _require_clock(head, now)
            _compare(session, head, copies, sizes)
    except (LogNotIntact, StorageUnavailable) as error:
        raise RecordUnavailable(_sentence(error), log_problem=error.code) from None
    except (ValueError, TypeError, AttributeError):  # SQLite keeps any type in any column
        broken = LogNotIntact("a column of its head or newest event holds what is not of its type")
        raise RecordUnavailable(_sentence(broken), log_problem=broken.code) from None


def _sentence(error: ModelregError) -> str:
    if isinstance(error, StorageUnavailable):
        return f"nothing is served before the log was compared with its published copies, and: {error.detail}"
    return f"nothing is appended to this log: {error.detail}; see `modelreg-server log verify`"


def _head(session: Session) -> CustodyHead:
    head = session.exec(select(CustodyHead)).one_or_none()
    if head is None:
        raise RecordUnavailable("the custody log has no head; run `modelreg-server migrate`")
    return head


def _require_consistent_head(session: Session, head: CustodyHead, copies: Copies) -> None:
    """Frontier, nodes, events and checkpoint tell of the same log."""
    tree = merkle.growing_from(head.size, head.frontier)
    if custody_tree.reader(session)(merkle.peaks(0, head.size)) != tree.frontier:
        raise LogNotIntact("the head's frontier is not that of the stored nodes")
    events = col(CustodyEvent.index)
    count, newest = session.exec(select(func.count(events), func.max(events))).one()
    if (count, newest) != (head.size, head.size - 1 if head.size else None):
        raise LogNotIntact(f"the head counts {head.size} events, and there are {count}, up to index {newest}")
    if head.size:
        entry = session.exec(select(CustodyEvent.entry).where(CustodyEvent.index == newest)).one()
        leaf = session.exec(select(CustodyNode.hash).where(CustodyNode.level == 0, CustodyNode.index == newest)).one()
        if merkle.leaf_hash(entry) != leaf:
            raise LogNotIntact(f"the entry of event {newest} is not the one that was appended")
    if head.checkpoint is None:
        return  # of a release before the log had a key; a published checkpoint, if there is one, says otherwise
    signed = checkpoints.parse(head.checkpoint)
    if not notes.verified_by(notes.parse(head.checkpoint), [copies.key]) or signed.origin != copies.signer.origin:
        raise LogNotIntact("the head's checkpoint is not signed with this log's key")
    if (signed.size, signed.root) != (head.size, tree.root()):
        raise LogNotIntact(f"the head has {head.size} entries, and its checkpoint is of another log, of {signed.size}")


def _require_clock(head: CustodyHead, now: datetime) -> None:
    if head.appended_at is not None and now < head.appended_at - MAX_CLOCK_BEHIND:
        raise RecordUnavailable(
            f"this machine's clock says {now:%Y-%m-%d %H:%M:%S}Z, and the newest event is of "
            f"{head.appended_at:%Y-%m-%d %H:%M:%S}Z; set the clock, then start again"
        )


def _compare(session: Session, head: CustodyHead, copies: Copies, sizes: list[int]) -> None:
    """Hold the head against the published checkpoints. One that our key did not sign says nothing, but is warned of."""
    for size in (size for size in sizes if size > head.size):
        if copies.checkpoint(size) is not None:
            raise RecordUnavailable(
                f"this database was rolled back: its log has {head.size} events, and a log of {size} was published; "
                f"{_RECOVER}",
                size=head.size,
                published=size,
            )
    known = [
        found for found in map(copies.checkpoint, [size for size in sizes if size <= head.size][:_COMPARED]) if found
    ]
    for published in known:
        require_continues(session, head.size, published)
    if known and head.checkpoint is None:
        raise LogNotIntact(f"the head is not signed, and a log of {known[0].size} events was published")
    if head.checkpoint is not None and not known:
        _log.warning(
            "the blob store holds no published checkpoint of the log %s of %d events: it was never published here, or "
            "its copies were removed; a rollback of the database would not be noticed here",
            copies.signer.origin, head.size,
        )  # fmt: skip
    beyond = Tile(None, head.size // WIDTH + 1)
    if copies.store.get_copy(copies.tile(beyond), 1 << 24) is not None:
        _log.warning(
            "the blob store holds entries from %d on, and no checkpoint that is newer than %d events: the log may have "
            "been rolled back and its newest checkpoints removed", beyond.start, head.size,
        )  # fmt: skip


def require_continues(session: Session, size: int, published: Checkpoint) -> None:
    """Refuse a log of `size` entries that does not begin with a published one.

    Raises:
        LogNotIntact: another root, or a node is missing.
    """
    if published.size <= size and merkle.root(published.size, custody_tree.reader(session)) != published.root:
        raise LogNotIntact(
            f"the log does not continue the one of {published.size} events that was published: it was rewritten, or "
            "another database was restored"
        )
