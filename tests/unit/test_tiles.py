"""Tiles, bundles and an auditor: every size to 1,000 by definition, and every alteration named by its index."""

import json
import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modelreg import checkpoints, log_audit, merkle, notes, tiles
from modelreg.canonical import canonical_json
from modelreg.errors import Invalid, LogForked, LogNotIntact, LogRolledBack
from modelreg.tiles import Tile
from modelreg.trust import LogTrust

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ORIGIN = "log.example"
TRUSTED = LogTrust(ORIGIN, (notes.key_of(ORIGIN, notes.ED25519, KEY.public_key()),))


def entry(number):
    return canonical_json({"v": 2, "type": "tag.moved", "time": "2026-11-24T12:00:00.000000+00:00", "n": number})


class Log:
    """A log in memory with its tiles."""

    def __init__(self, size, first=0):
        self.size = size
        self.entries = [entry(number + first) for number in range(size)]
        self.tree = merkle.Growing(0, [])
        self.roots = [self.tree.root()]
        for it in self.entries:
            self.tree.append(merkle.leaf_hash(it))
            self.roots.append(self.tree.root())
        self.nodes = {(level, index): value for level, index, value in self.tree.finished}
        self.note = checkpoints.sign(ORIGIN, size, self.tree.root(), KEY)

    def read(self, wanted):
        return [self.nodes[node] for node in wanted]

    def fetch(self, tile):
        if tile.level is None:
            return tiles.join_entries(self.entries[tile.start : tile.stop])
        return b"".join(self.read(tile.nodes()))


LONG = Log(1000)


def test_every_proof_of_every_size_to_a_thousand_verifies_and_the_tiles_make_every_root():
    """Half a million inclusion proofs would take minutes: of each size a spread of indexes, and every older size's kind."""
    for size in range(1, 1001):
        root = LONG.roots[size]
        assert merkle.root(size, LONG.read) == root
        for index in {0, size // 3, size // 2, size - 1, size & (size - 1), *range(size % 37, size, 97)} - {size}:
            path = merkle.inclusion(index, size, LONG.read)
            merkle.verify_inclusion(merkle.leaf_hash(LONG.entries[index]), index, size, path, root)
            with pytest.raises(LogNotIntact):
                merkle.verify_inclusion(merkle.leaf_hash(b"another"), index, size, path, root)
        for old in {1, size // 2, size - 1, size & (size - 1), *range(size % 41, size, 89)} - {0, size}:
            proof = merkle.consistency(old, size, LONG.read)
            merkle.verify_consistency(old, LONG.roots[old], size, root, proof)
            with pytest.raises(LogForked):
                merkle.verify_consistency(old, bytes(32), size, root, proof)


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 513, 1000])
def test_tiles_of_a_size_are_those_of_the_specification(size):
    found = list(tiles.tiles_of(size))
    for level in range(4):
        count = size >> (8 * level)
        at_level = [tile for tile in found if tile.level == level]
        assert [tile.width for tile in at_level] == [256] * (count // 256) + ([count % 256] if count % 256 else [])
        assert [tile.index for tile in at_level] == list(range(-(-count // 256)))
    assert len([tile for tile in found if tile.level is None]) == -(-size // 256)


def test_the_example_of_the_specification_of_seventy_thousand_entries():
    found = list(tiles.tiles_of(70_000))
    assert [(level, width, len([t for t in found if (t.level, t.width) == (level, width)])) for level, width in
            ((0, 256), (0, 112), (1, 256), (1, 17), (2, 1))] == [(0, 256, 273), (0, 112, 1), (1, 256, 1), (1, 17, 1), (2, 1, 1)]  # fmt: skip
    assert len([tile for tile in found if tile.level is not None]) == 277
    assert Tile(0, 1234067).path == "0/x001/x234/067"
    assert Tile(None, 273, 112).path == "entries/273.p/112"


@pytest.mark.parametrize("since", [0, 1, 255, 256, 257, 300, 511, 512, 999])
def test_what_is_new_since_a_size_completes_what_was_there(since):
    """The tiles of an older log and the new ones are together those of the log, but for partial ones that grew."""
    for size in {since, since + 1, 600, 1000}:
        if size < since:
            continue
        both = set(tiles.tiles_of(since)) | set(tiles.tiles_of(size, since))
        assert set(tiles.tiles_of(size)) <= both
        assert not set(tiles.tiles_of(size, since)) & set(tiles.tiles_of(since))


@pytest.mark.parametrize("index", [0, 7, 999, 1000, 1234067, 10**9, 2**40])
def test_paths_are_read_as_they_are_written(index):
    for tile in (Tile(0, index), Tile(None, index, 3), Tile(1, index, 255)):
        if tile.stop << (8 * (tile.level or 0)) <= merkle.MAX_SIZE:
            assert tiles.parse_path(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    ["", "0", "0/1", "0/0001", "00/000", "8/000", "-1/000", "0/x000/000", "0/000.p/0", "0/000.p/256", "0/000.p/01", "0/000/",
     "0/000.p/1\n", "entries/../000", "0/٠٠٠", "data/000", "entries/x1/000", "7/x999/x999/999"],
)  # fmt: skip
def test_another_spelling_of_a_path_is_refused(path):
    with pytest.raises(Invalid):
        tiles.parse_path(path)


def test_bundles_that_were_changed_anywhere_are_refused_or_hold_other_entries():
    entries = [b"a", b"bc" * 100, bytes(8192)]
    raw = tiles.join_entries(entries)
    assert tiles.split_entries(raw, 3) == entries
    for width in (0, 1, 2, 4):
        with pytest.raises(LogNotIntact):
            tiles.split_entries(raw, width)
    for cut in (1, 2, 3, 100, len(raw) - 1):
        with pytest.raises(LogNotIntact):
            tiles.split_entries(raw[:-cut], 3)
    for other in (
        raw + b"\0",
        raw + b"\0\1x",
        tiles.join_entries([b"", b"x", b"y"]),
        tiles.join_entries([b"x" * 8193] * 3),
    ):
        with pytest.raises(LogNotIntact):
            tiles.split_entries(other, 3)
    with pytest.raises(LogNotIntact):
        tiles.split_hashes(bytes(65), 2)


def test_a_node_that_a_log_does_not_have_is_refused():
    read = tiles.reader(300, LONG.fetch)
    with pytest.raises(LogNotIntact):
        read([(0, 300)])
    with pytest.raises(LogNotIntact):
        read([(8, 1)])


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 700])
def test_an_auditor_finds_an_intact_log_intact_and_that_it_continues_an_older_one(size):
    log = Log(size)
    older = [
        None,
        *(checkpoints.verify(checkpoints.sign(ORIGIN, old, log.roots[old], KEY), TRUSTED) for old in (1, size)),
    ]
    for seen in older:
        audited = log_audit.audit(log.note, log.fetch, TRUSTED, seen)
        assert (audited.checkpoint.size, audited.checkpoint.root) == (size, log.roots[size])
        assert audited.continues == (seen.size if seen else None)


def test_an_auditor_names_the_first_entry_that_was_altered():
    log = Log(600)
    for index in (0, 1, 254, 255, 256, 400, 599):
        entries, log.entries = log.entries, list(log.entries)
        log.entries[index] = entry(10**6)
        with pytest.raises(LogNotIntact) as refusal:
            log_audit.audit(log.note, log.fetch, TRUSTED)
        assert refusal.value.facts["index"] == index
        log.entries[index] = b'{"v":3}'
        with pytest.raises(LogNotIntact) as refusal:
            log_audit.audit(log.note, log.fetch, TRUSTED)
        assert refusal.value.facts["index"] == index
        log.entries = entries


def test_an_auditor_refuses_tiles_that_were_altered_anywhere():
    log = Log(600)
    chance = random.Random(7)
    for tile in tiles.tiles_of(600):
        if tile.level is None:
            continue

        def fetch(wanted, tile=tile):
            raw = bytearray(log.fetch(wanted))
            if wanted == tile:
                raw[chance.randrange(len(raw))] ^= 1
            return bytes(raw)

        with pytest.raises(LogNotIntact):
            log_audit.audit(log.note, fetch, TRUSTED)


def test_an_auditor_refuses_a_fork_a_rollback_and_a_strangers_log():
    log, other = Log(300), Log(300, first=5)
    seen = checkpoints.verify(checkpoints.sign(ORIGIN, 200, other.roots[200], KEY), TRUSTED)
    with pytest.raises(LogForked):
        log_audit.audit(log.note, log.fetch, TRUSTED, seen)
    with pytest.raises(LogForked):
        log_audit.audit(log.note, log.fetch, TRUSTED, checkpoints.verify(other.note, TRUSTED))
    longer = checkpoints.verify(LONG.note, TRUSTED)
    with pytest.raises(LogRolledBack):
        log_audit.audit(log.note, log.fetch, TRUSTED, longer)
    with pytest.raises(LogNotIntact):
        log_audit.audit(log.note, other.fetch, TRUSTED)
    stranger = checkpoints.sign(ORIGIN, 300, other.roots[300], Ed25519PrivateKey.generate())
    with pytest.raises(LogNotIntact):
        log_audit.audit(stranger, other.fetch, TRUSTED)
    assert json.loads(log.entries[0])["n"] == 0
