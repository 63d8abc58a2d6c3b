"""Compressed streams: unpacked as far as there is room, to look at what is in them."""

import zlib
from typing import Protocol

from modelreg.gate.readable import WHOLE_BYTES, Window
from modelreg.gate.report import Objection

_LZMA_MEMORY_BYTES = 128 * 1024 * 1024
MAGICS = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x5d\0\0", "lzma"),
)
FORMATS = frozenset({"gzip", "bzip2", "xz", "lzma", "zlib"})


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def is_zlib(head: bytes) -> bool:
    """Whether it begins as a zlib stream, as joblib writes them, and unpacks."""
    if len(head) < 8 or head[0] & 0x0F != 8 or head[0] >> 4 > 7 or int.from_bytes(head[:2], "big") % 31:
        return False
    try:
        return bool(zlib.decompressobj().decompress(head, 64))
    except zlib.error:
        return False


def unpack(window: Window, name: str, room: int) -> tuple[bytes, Objection | None]:
    """The stream's content, and what is wrong with the rest of it: also what is broken is looked at as far as it goes.

    `room` is how many bytes may come out.
    """
    found = bytearray()
    at = 0
    try:
        unpacker = _unpacker(name)
        while not unpacker.eof:
            if at >= window.size:
                return bytes(found), Objection("malformed", "the compressed stream has no end")
            block = window.read(at, min(WHOLE_BYTES, window.size - at))
            at += len(block)
            while True:
                found += unpacker.decompress(block, room + 1 - len(found))
                if len(found) > room:
                    return bytes(found[:room]), Objection("limit", f"it unpacks to more than {room} bytes")
                block = getattr(unpacker, "unconsumed_tail", b"")
                if not block and (getattr(unpacker, "needs_input", True) or _at_end(unpacker)):
                    break
    except (zlib.error, OSError, EOFError, ValueError, MemoryError) as error:
        return bytes(found), Objection("malformed", f"the compressed stream is broken: {type(error).__name__}")
    except Exception as error:
        if type(error).__name__ != "LZMAError":
            raise
        return bytes(found), Objection("malformed", "the compressed stream is broken, or needs too much memory")
    if unpacker.unused_data or at < window.size:
        return bytes(found), Objection("archive-unsafe", "something follows the compressed stream")
    return bytes(found), None


def _at_end(unpacker: _Unpacker) -> bool:
    return unpacker.eof


def _unpacker(name: str) -> _Unpacker:
    if name in {"gzip", "zlib"}:
        return zlib.decompressobj(31 if name == "gzip" else 15)
    # Imported late: a Python may have been built without them.
    try:
        if name == "bzip2":
            import bz2  # noqa: PLC0415

            return bz2.BZ2Decompressor()
        import lzma  # noqa: PLC0415
    except ImportError:
        raise Objection("limit", f"this Python cannot unpack {name}") from None
    container = lzma.FORMAT_XZ if name == "xz" else lzma.FORMAT_ALONE
    return lzma.LZMADecompressor(container, memlimit=_LZMA_MEMORY_BYTES)
