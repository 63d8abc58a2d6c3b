"""The Merkle tree of the custody log: RFC 6962 §2.1, as numbers and hashes. Pure; nothing here reads or stores.

A tree of `size` leaves; a *finished node* `(level, index)` covers the `2**level` leaves from `index * 2**level` on and never
changes. The *frontier* of a size is the list of its largest finished nodes from left to right, one for every bit of the size:
enough to append to the tree and to compute its root. Hashes are 32 bytes.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from modelreg.errors import LogForked, LogNotIntact, LogRolledBack

HASH_BYTES = 32
MAX_SIZE = 2**63 - 1
MAX_PROOF_HASHES = 64
EMPTY_ROOT = hashlib.sha256(b"").digest()

Node = tuple[int, int]  # level, index
NodeReader = Callable[[Sequence[Node]], Sequence[bytes]]  # the hashes of finished nodes, in the order asked for


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf: SHA-256 over a zero byte and the entry."""
    return hashlib.sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node: SHA-256 over a one byte and both children."""
    return hashlib.sha256(b"\1" + left + right).digest()


@dataclass
class Growing:
    """A tree that grows: its size and frontier, and the nodes that `append` has finished since it was made."""

    size: int
    frontier: list[bytes]
    finished: list[tuple[int, int, bytes]] = field(default_factory=list)  # level, index, hash

    def append(self, leaf: bytes) -> int:
        """Add a leaf hash; returns its index. Amortised two nodes a leaf."""
        index = at = self.size
        level, value = 0, leaf
        self.finished.append((level, at, value))
        while at & 1:
            value = node_hash(self.frontier.pop(), value)
            level, at = level + 1, at >> 1
            self.finished.append((level, at, value))
        self.frontier.append(value)
        self.size += 1
        return index

    def root(self) -> bytes:
        """The root hash of the tree as it is now."""
        return fold(self.frontier)


def growing_from(size: int, frontier: bytes) -> Growing:
    """Read a stored frontier: the hashes of `peaks(size)`, one after the other.

    Raises:
        LogNotIntact: another number of hashes than the size has bits.
    """
    if size < 0 or len(frontier) != HASH_BYTES * size.bit_count():
        raise LogNotIntact(
            f"the head of the custody log is damaged: size {size} with {len(frontier)} bytes of frontier"
        )
    return Growing(size, [frontier[at : at + HASH_BYTES] for at in range(0, len(frontier), HASH_BYTES)])


def fold(frontier: Sequence[bytes]) -> bytes:
    """The root over a frontier (RFC 6962: from the right)."""
    if not frontier:
        return EMPTY_ROOT
    value = frontier[-1]
    for left in reversed(frontier[:-1]):
        value = node_hash(left, value)
    return value


def peaks(start: int, stop: int) -> list[Node]:
    """The finished nodes that cover the leaves `start` to `stop` (exclusive), from left to right.

    `start` must be a multiple of the largest power of two below or at `stop - start`; 0 always is.
    """
    found = []
    while start < stop:
        level = (stop - start).bit_length() - 1
        found.append((level, start >> level))
        start += 1 << level
    return found


def inclusion(index: int, size: int, read: NodeReader) -> list[bytes]:
    """The audit path of leaf `index` in the tree of `size` leaves (RFC 6962 §2.1.1), from the sibling up."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    return _read(_inclusion(index, 0, size), read)


def consistency(old: int, new: int, read: NodeReader) -> list[bytes]:
    """The proof that the tree of `old` leaves is the beginning of that of `new` (RFC 6962 §2.1.2)."""
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {old} is not the beginning of one of {new}")
    return [] if old in {0, new} else _read(_consistency(old, 0, new, whole=True), read)


def root(size: int, read: NodeReader) -> bytes:
    """The root of the tree of `size` leaves from its finished nodes."""
    return fold(read(peaks(0, size)))


def verify_inclusion(leaf: bytes, index: int, size: int, untrusted_path: Sequence[bytes], expected_root: bytes) -> None:
    """Hold an audit path against a root (RFC 9162 §2.1.3.2).

    Raises:
        LogNotIntact: it does not lead there.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise LogNotIntact(f"the receipt is for entry {index} of a log of {size}")
    at, last, value = index, size - 1, leaf
    for sibling in untrusted_path:
        if last == 0:
            raise LogNotIntact("the inclusion proof has too many hashes")
        if at & 1 or at == last:
            value = node_hash(sibling, value)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            value = node_hash(value, sibling)
        at, last = at >> 1, last >> 1
    if last != 0 or value != expected_root:
        raise LogNotIntact(f"the proof does not show entry {index} in the log of {size} entries")


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, untrusted_proof: Sequence[bytes]) -> None:
    """Hold a consistency proof against both roots (RFC 9162 §2.1.4.2).

    Raises:
        LogRolledBack: it is shorter.
        LogForked: it does not begin with the older one, or nothing shows it.
    """
    if _compared_at_once(old, old_root, new, new_root, untrusted_proof):
        return
    proof = list(untrusted_proof)
    if not proof:
        raise LogForked(f"nothing shows that the log of {new} entries continues that of {old}")
    if old & (old - 1) == 0:
        proof.insert(0, old_root)
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    ours = theirs = proof[0]
    for value in proof[1:]:
        if last == 0:
            raise LogNotIntact("the consistency proof has too many hashes")
        if at & 1 or at == last:
            ours, theirs = node_hash(value, ours), node_hash(value, theirs)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            theirs = node_hash(theirs, value)
        at, last = at >> 1, last >> 1
    if last != 0 or ours != old_root or theirs != new_root:
        raise LogForked(f"the log of {new} entries does not continue that of {old}: it was forked or rewritten")


def _compared_at_once(old: int, old_root: bytes, new: int, new_root: bytes, untrusted_proof: Sequence[bytes]) -> bool:
    """Whether there was nothing to prove: the same size, or nothing seen before."""
    if not 0 <= new <= MAX_SIZE:
        raise LogNotIntact(f"a log of {new} entries")
    if old > new:
        raise LogRolledBack(f"the log has {new} entries and had {old} when this machine looked before")
    if old not in {0, new}:
        return False
    if untrusted_proof:
        raise LogNotIntact("a consistency proof where none belongs")
    if old == new and old_root != new_root:
        raise LogForked(f"two different logs of {new} entries")
    return True


# A proof is a list of subtrees `[start, stop)`, each the fold of the finished nodes that cover it.
_Range = tuple[int, int]


def _inclusion(index: int, start: int, stop: int) -> list[_Range]:
    if stop - start == 1:
        return []
    middle = start + _left(stop - start)
    if index < middle:
        return [*_inclusion(index, start, middle), (middle, stop)]
    return [*_inclusion(index, middle, stop), (start, middle)]


def _consistency(old: int, start: int, stop: int, *, whole: bool) -> list[_Range]:
    """SUBPROOF of RFC 6962: `old` counts leaves from 0; `whole` while the old tree is still a whole subtree."""
    if old == stop:
        return [] if whole else [(start, stop)]
    middle = start + _left(stop - start)
    if old <= middle:
        return [*_consistency(old, start, middle, whole=whole), (middle, stop)]
    return [*_consistency(old, middle, stop, whole=False), (start, middle)]


def _left(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def _read(ranges: Sequence[_Range], read: NodeReader) -> list[bytes]:
    covers = [peaks(start, stop) for start, stop in ranges]
    hashes = iter(read([node for cover in covers for node in cover]))
    return [fold([next(hashes) for _ in cover]) for cover in covers]
