"""Proofs for what was just committed: the receipt of an entry, and that the log continues what a client knows.

Finished nodes never change, so those that were committed are kept, as many as there is room for: what a transaction has just
appended is proven from memory.
"""

import base64
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from modelreg import merkle, receipts
from modelreg_server import custody_tree
from modelreg_server.custody_tree import Sealed
from modelreg_server.database import Database

MAX_KEPT_NODES = 1 << 16
MAX_FOLLOWED = 1 << 12  # entries of other workers that are read at once; after more, each proof reads what it needs


@dataclass(frozen=True)
class Proof:
    """A receipt's text, and base64 hashes that lead from the size a client knows to the receipt's checkpoint."""

    index: int
    receipt: str
    consistency: list[str]


@dataclass(frozen=True)
class Head:
    """A committed size of the log and its checkpoint, perhaps with signatures of witnesses."""

    size: int
    note: bytes


class CommittedNodes:
    """Reads finished nodes of the committed tree; the last used ones from memory. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: OrderedDict[merkle.Node, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._size = 0

    def follow(self, sealed: Sealed) -> None:
        """Keep the nodes of a group that was just committed, and those of other workers' groups since the last one.

        Otherwise every proof of the group would ask the database for them. Called by one thread at a time. Never raises: the
        group is durable, and proofs read what is missing.
        """
        self._add(sealed.nodes)
        since, self._size = self._size, sealed.size
        if since and 0 < sealed.started_at - since <= MAX_FOLLOWED:
            with suppress(SQLAlchemyError), self._database.glancing() as session:
                self._add(custody_tree.finished_between(session, since, sealed.started_at))

    def _add(self, nodes: Mapping[merkle.Node, bytes]) -> None:
        """Keep nodes that were committed: never others, for a rolled back one would be believed."""
        with self._lock:
            self._kept.update(nodes)
            while len(self._kept) > MAX_KEPT_NODES:
                self._kept.popitem(last=False)

    def read(self, nodes: Sequence[merkle.Node]) -> list[bytes]:
        """A `merkle.NodeReader`.

        Raises:
            LogNotIntact: the database lacks one.
        """
        found: dict[merkle.Node, bytes] = {}
        with self._lock:
            for node in nodes:
                if node in self._kept:
                    self._kept.move_to_end(node)
                    found[node] = self._kept[node]
        if missing := [node for node in nodes if node not in found]:
            with self._database.glancing() as session:
                read = dict(zip(missing, custody_tree.reader(session)(missing), strict=True))
            self._add(read)
            found |= read
        return [found[node] for node in nodes]


def prove(head: Head, index: int, entry: bytes, known_size: int | None, committed: CommittedNodes) -> Proof:
    """The proof that an entry is in the log with this head.

    Args:
        known_size: of the newest checkpoint that the client has verified; one larger than the log is answered with nothing
            to lead there, and the client refuses.

    Raises:
        LogNotIntact: the database lacks a node.
    """
    path = merkle.inclusion(index, head.size, committed.read)
    known = known_size if known_size is not None and known_size < head.size else 0
    consistency = merkle.consistency(known, head.size, committed.read)
    text = receipts.render(entry, index, path, head.note).decode()
    return Proof(index, text, [base64.b64encode(value).decode() for value in consistency])
