"""Tiles and entry bundles of the custody log, as C2SP tlog-tiles has them. Pure: names, encodings, and reading hashes back.

    tile/<L>/<N>[.p/<W>]        hashes: up to 256 finished nodes of level 8*L, one after the other
    tile/entries/<N>[.p/<W>]    entries: up to 256, each behind its length (two bytes, big-endian)

`<N>` is written in groups of three digits, all but the last behind an `x`: 1234067 is `x001/x234/067`. A tile of fewer than
256 is partial and says its width. Whoever fetches one believes it no further than a signed root that it leads to.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from modelreg import merkle
from modelreg.errors import Invalid, LogNotIntact
from modelreg.merkle import HASH_BYTES

WIDTH = 256
HEIGHT = 8  # levels of the tree in a tile
MAX_TILE_LEVEL = 7  # 256**8 is more than `merkle.MAX_SIZE`
MAX_ENTRY_BYTES = 8 * 1024
MAX_BUNDLE_BYTES = WIDTH * (2 + MAX_ENTRY_BYTES)
PATTERN = r"(?:[0-7]|entries)(?:/x[0-9]{3}){0,6}/[0-9]{3}(?:\.p/[1-9][0-9]{0,2})?"
_PATH = re.compile(
    r"(?P<level>[0-7]|entries)/(?P<index>(?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)
_CACHED_TILES = 64


@dataclass(frozen=True)
class Tile:
    """Which tile: `level` None is an entry bundle; `width` 256 is a full one."""

    level: int | None
    index: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """What stands after `tile/`."""
        groups = [f"{self.index % 1000:03}"]
        rest = self.index // 1000
        while rest:
            groups.insert(0, f"x{rest % 1000:03}")
            rest //= 1000
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return "/".join(["entries" if self.level is None else str(self.level), *groups]) + partial

    @property
    def start(self) -> int:
        """The index of its first entry, or of its first node within the level `8 * level` of the tree."""
        return self.index * WIDTH

    @property
    def stop(self) -> int:
        """The index behind its last entry or node."""
        return self.start + self.width

    def nodes(self) -> list[merkle.Node]:
        """The finished nodes that it holds (an entry bundle: the leaves that its entries hash to)."""
        return [((self.level or 0) * HEIGHT, index) for index in range(self.start, self.stop)]


def parse_path(untrusted_path: str) -> Tile:
    """Read what stands after `tile/`.

    Raises:
        Invalid: anything but the one way in which a tile's path is written.
    """
    match = _PATH.fullmatch(untrusted_path)
    if match is not None:
        level = None if match["level"] == "entries" else int(match["level"])
        index = int(match["index"].replace("x", "").replace("/", ""))
        tile = Tile(level, index, int(match["width"] or WIDTH))
        if (
            tile.path == untrusted_path
            and tile.width <= WIDTH
            and tile.stop << (HEIGHT * (level or 0)) <= merkle.MAX_SIZE
        ):
            return tile
    raise Invalid("this is no path of a tile; write L/N or entries/N, as tlog-tiles does", field="path")


def tiles_of(size: int, since: int = 0) -> Iterator[Tile]:
    """The tiles and entry bundles of a log of `size` entries that one of `since` entries does not have, entries first."""
    level: int | None = None
    while level is None or (size >> (HEIGHT * level)):
        shift = HEIGHT * (level or 0)
        count, known = size >> shift, since >> shift
        for index in range(known // WIDTH, -(-count // WIDTH)):
            width = min(WIDTH, count - index * WIDTH)
            if index * WIDTH + width > known:
                yield Tile(level, index, width)
        level = 0 if level is None else level + 1


def join_entries(entries: Sequence[bytes]) -> bytes:
    """The bytes of an entry bundle."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def split_entries(untrusted: bytes, width: int) -> list[bytes]:
    """The entries of a bundle; nothing says yet that they are the log's.

    Raises:
        LogNotIntact: not exactly `width` entries of at most 8 KiB.
    """
    found: list[bytes] = []
    at = 0
    while at < len(untrusted) and len(found) < width:
        length = int.from_bytes(untrusted[at : at + 2], "big")
        entry = untrusted[at + 2 : at + 2 + length]
        if len(entry) < length or not 0 < length <= MAX_ENTRY_BYTES:
            break
        found.append(entry)
        at += 2 + length
    if len(found) != width or at != len(untrusted):
        raise LogNotIntact(f"an entry bundle that does not hold {width} entries")
    return found


def split_hashes(untrusted: bytes, width: int) -> list[bytes]:
    """The hashes of a tile; nothing says yet that they are the log's.

    Raises:
        LogNotIntact: not exactly `width` hashes.
    """
    if len(untrusted) != width * HASH_BYTES:
        raise LogNotIntact(f"a tile of {len(untrusted)} bytes that should hold {width} hashes")
    return [untrusted[at : at + HASH_BYTES] for at in range(0, len(untrusted), HASH_BYTES)]


def reader(size: int, fetch: Callable[[Tile], bytes]) -> merkle.NodeReader:
    """Finished nodes of a log of `size` entries from its tiles; believed no further than the root they lead to.

    `fetch` gets the bytes of a tile as that size has it, full or partial, and may raise.

    Raises:
        LogNotIntact: a node that such a log does not have, a tile of another length.
    """
    cache: dict[Tile, list[bytes]] = {}

    def read(nodes: Sequence[merkle.Node]) -> list[bytes]:
        return [_node(size, node, hashes) for node in nodes]

    def hashes(tile: Tile) -> list[bytes]:
        if tile not in cache:
            while len(cache) >= _CACHED_TILES:
                cache.pop(next(iter(cache)))
            cache[tile] = split_hashes(fetch(tile), tile.width)
        return cache[tile]

    return read


def _node(size: int, node: merkle.Node, hashes: Callable[[Tile], list[bytes]]) -> bytes:
    level, index = node
    tile_level, height = divmod(level, HEIGHT)
    count = size >> (HEIGHT * tile_level)
    first = index << height
    if (index + 1) << level > size:
        raise LogNotIntact(f"a log of {size} entries has no node at level {level}, index {index}")
    at = first // WIDTH
    found = hashes(Tile(tile_level, at, min(WIDTH, count - at * WIDTH)))[first % WIDTH : first % WIDTH + (1 << height)]
    while len(found) > 1:
        found = [merkle.node_hash(*found[at : at + 2]) for at in range(0, len(found), 2)]
    return found[0]
