"""Proofs for what was just committed: the receipt of an entry, and that the log continues what a client knows.

An entry's audit path comes from the transaction that appended it, in memory. A consistency proof needs older nodes as well;
finished nodes never change, so those that were committed are kept, as many as there is room for.
"""

import base64
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelreg import merkle, receipts
from modelreg_server import custody_tree
from modelreg_server.custody_tree import Sealed
from modelreg_server.database import Database

MAX_KEPT_NODES = 1 << 16


@dataclass(frozen=True)
class Proof:
    """A receipt's text, and base64 hashes that lead from the size a client knows to the receipt's checkpoint."""

    index: int
    receipt: str
    consistency: list[str]


class CommittedNodes:
    """Reads finished nodes of the committed tree; the last used ones from memory. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: OrderedDict[merkle.Node, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, nodes: Mapping[merkle.Node, bytes]) -> None:
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
            with self._database.reading() as session:
                read = dict(zip(missing, custody_tree.reader(session)(missing), strict=True))
            self.add(read)
            found |= read
        return [found[node] for node in nodes]


def prove(sealed: Sealed, index: int, note: bytes, known_size: int | None, committed: CommittedNodes) -> Proof:
    """The proof of an entry that a committed transaction appended.

    Args:
        note: the transaction's checkpoint, perhaps with signatures of witnesses.
        known_size: of the newest checkpoint that the client has verified; one larger than the log is answered with nothing
            to lead there, and the client refuses.
    """
    path = merkle.inclusion(index, sealed.size, lambda nodes: [sealed.nodes[node] for node in nodes])
    return _proof(sealed, index, path, note, known_size, committed)


def prove_again(head: Sealed, index: int, note: bytes, known_size: int | None, committed: CommittedNodes) -> Proof:
    """The proof of an entry that was committed before, with the head that holds it."""
    path = merkle.inclusion(index, head.size, committed.read)
    return _proof(head, index, path, note, known_size, committed)


def _proof(
    sealed: Sealed, index: int, path: Sequence[bytes], note: bytes, known_size: int | None, committed: CommittedNodes
) -> Proof:
    known = known_size if known_size is not None and known_size < sealed.size else 0
    consistency = merkle.consistency(known, sealed.size, committed.read)
    text = receipts.render(sealed.entries[index - sealed.started_at], index, path, note).decode()
    return Proof(index, text, [base64.b64encode(value).decode() for value in consistency])
