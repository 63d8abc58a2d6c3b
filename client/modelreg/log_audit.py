"""An auditor's look at the whole custody log: every entry, hashed here, must make the root that the log signed.

Where the bytes come from does not matter: the registry, or a copy of what it published. Nothing of them is believed before
the signature of the pinned log holds and the hashes lead there.
"""

from collections.abc import Callable
from dataclasses import dataclass

from modelreg import checkpoints, merkle, receipts, tiles
from modelreg.checkpoints import Checkpoint
from modelreg.errors import LogNotIntact
from modelreg.tiles import HEIGHT, WIDTH, Tile
from modelreg.trust import LogTrust


@dataclass(frozen=True)
class Audited:
    """A log that is intact: its verified head, and the size of the older one that it was shown to continue."""

    checkpoint: Checkpoint
    continues: int | None


def audit(
    untrusted_note: bytes,
    fetch: Callable[[Tile], bytes],
    trusted: LogTrust,
    seen: Checkpoint | None = None,
    progress: Callable[[int], None] = lambda _entries: None,
) -> Audited:
    """Verify a log up to a checkpoint: signature, witnesses, every entry, every hash, and that it continues `seen`.

    `fetch` gives the bytes of a tile, full or partial, untrusted; `seen` is a checkpoint that was verified before. Reads
    everything; memory does not grow with the log.

    Raises:
        LogNotIntact: what is wrong; the fact `index` names the first entry, where one can be named.
        LogRolledBack, LogForked: it does not continue `seen`.
    """
    head = checkpoints.verify(untrusted_note, trusted)
    read = tiles.reader(head.size, fetch)
    tree = merkle.Growing(0, [])
    for at in range(-(-head.size // WIDTH)):
        bundle = Tile(None, at, min(WIDTH, head.size - at * WIDTH))
        _add(tree, _entries(bundle, fetch), bundle, read)
        progress(bundle.width)
    if tree.root() != head.root:
        raise LogNotIntact(
            f"the entries and tiles agree, but do not make the root that was signed for {head.size} entries", index=None
        )
    if seen is not None:
        proof = merkle.consistency(seen.size, head.size, read) if seen.size <= head.size else []
        merkle.verify_consistency(seen.size, seen.root, head.size, head.root, proof)
    return Audited(head, seen.size if seen is not None else None)


def _entries(bundle: Tile, fetch: Callable[[Tile], bytes]) -> list[bytes]:
    entries = tiles.split_entries(fetch(bundle), bundle.width)
    for index, entry in enumerate(entries, bundle.start):
        try:
            receipts.members_of(entry)
        except LogNotIntact as error:
            raise LogNotIntact(f"entry {index}: {error.detail}", index=index) from None
    return entries


def _add(tree: merkle.Growing, entries: list[bytes], bundle: Tile, read: merkle.NodeReader) -> None:
    """Hash a bundle's entries into the tree, and hold them against the tiles: those say where a difference begins."""
    leaves = [merkle.leaf_hash(entry) for entry in entries]
    told = read(bundle.nodes())
    for index, (ours, theirs) in enumerate(zip(leaves, told, strict=True), bundle.start):
        if ours != theirs:
            raise LogNotIntact(f"entry {index} is not the one that is hashed in the log's tiles", index=index)
        tree.append(ours)
    above = {(level, at): value for level, at, value in tree.finished if level >= HEIGHT}
    tree.finished.clear()
    for ((level, at), ours), theirs in zip(above.items(), read(list(above)), strict=True):
        if ours != theirs:
            first = at << level
            raise LogNotIntact(f"the tiles above entry {first} are not those of the entries", index=first)
