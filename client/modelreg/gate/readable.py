"""Bytes to look at: something with a size, read in ranges. Reads are few and counted, whatever a file says of itself."""

import os
from typing import Protocol

from modelreg.gate.report import Objection

AHEAD_BYTES = 64 * 1024
WHOLE_BYTES = 1024 * 1024  # a file of so many is read at once
MAX_READS = 1024
MAX_READ_BYTES = 512 * 1024 * 1024
_BLOCKS = 4  # head, tail and what was read last


class Readable(Protocol):
    """Untrusted bytes of a known size."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on, all inside `size`. Fewer only if they are gone."""
        ...


class Held:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        """See `Readable`."""
        return self._data[offset : offset + length]


class OpenFile:
    """A file by its descriptor, which the caller closes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size

    @property
    def size(self) -> int:
        """As it was when it was opened."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """See `Readable`."""
        return os.pread(self._fd, length, offset)


class Window:
    """A `Readable` with read-ahead and a bound on what is asked of it.

    Every method raises `Objection`: `malformed` beyond the end, `limit` beyond the bound.
    """

    def __init__(self, source: Readable) -> None:
        self._source = source
        self.size = source.size
        self._blocks: list[tuple[int, bytes]] = []
        self._reads = 0
        self._bytes = 0

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes."""
        if length < 0 or offset < 0 or offset + length > self.size:
            raise Objection("malformed", f"it ends at byte {self.size}, before what it says is in it")
        for start, block in reversed(self._blocks):
            if start <= offset and offset + length <= start + len(block):
                return block[offset - start : offset - start + length]
        start, wanted = offset, max(length, AHEAD_BYTES)
        if self.size <= WHOLE_BYTES:
            start, wanted = 0, self.size
        elif offset >= self.size - AHEAD_BYTES:  # the tail at once
            start, wanted = self.size - AHEAD_BYTES, AHEAD_BYTES
        wanted = min(wanted, self.size - start)
        self._reads += 1
        self._bytes += wanted
        if self._reads > MAX_READS or self._bytes > MAX_READ_BYTES:
            raise Objection("limit", f"looking at it takes more than {MAX_READS} reads or {MAX_READ_BYTES} bytes")
        block = self._source.read(start, wanted)
        if len(block) != wanted:
            raise Objection("malformed", "it became shorter while it was read")
        if len(self._blocks) == _BLOCKS:
            del self._blocks[1]  # the head stays
        self._blocks.append((start, block))
        return block[offset - start : offset - start + length]

    def head(self, length: int) -> bytes:
        """The first bytes, or all there are."""
        return self.read(0, min(length, self.size))

    def tail(self, length: int) -> bytes:
        """The last bytes, or all there are."""
        length = min(length, self.size)
        return self.read(self.size - length, length)


class Cursor:
    """Reading a window from front to back."""

    def __init__(self, window: Window, start: int = 0, stop: int | None = None) -> None:
        self._window = window
        self._stop = window.size if stop is None else stop
        self._start = start  # of the buffer
        self._buffer = b""
        self._at = 0

    @property
    def offset(self) -> int:
        """Where the next byte stands."""
        return self._start + self._at

    @property
    def left(self) -> int:
        """Bytes before the end."""
        return self._stop - self.offset

    def take(self, length: int) -> bytes:
        """The next bytes."""
        stop = self._at + length
        if stop > len(self._buffer):
            self._fill(length)
            stop = length
        taken = self._buffer[self._at : stop]
        self._at = stop
        return taken

    def skip(self, length: int) -> None:
        """Go on behind the next bytes without reading them."""
        if length > self.left:
            raise Objection("malformed", f"it ends at byte {self._stop}, before what it says is in it")
        self._at += length

    def byte(self) -> int:
        """The next byte."""
        at = self._at
        if at >= len(self._buffer):
            self._fill(1)
            at = 0
        self._at = at + 1
        return self._buffer[at]

    def unsigned(self, size: int) -> int:
        """The next little-endian number of that many bytes."""
        return int.from_bytes(self.take(size), "little")

    def _fill(self, length: int) -> None:
        offset = self.offset
        if length > self._stop - offset or offset > self._stop:
            raise Objection("malformed", f"it ends at byte {self._stop}, before what it says is in it")
        ahead = min(max(length, AHEAD_BYTES if offset < 4 * AHEAD_BYTES else WHOLE_BYTES), self._stop - offset)
        self._start, self._buffer, self._at = offset, self._window.read(offset, ahead), 0
