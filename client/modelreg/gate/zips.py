"""ZIP, as strictly as no usual reader: the directory and the entries must tell the same, and cover every byte.

What one reader takes from the directory and another from the entries, or from a second directory, is the way in which
archives say two things at once; so nothing may stand before, between or behind.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from modelreg.gate.looking import MAX_MEMBERS
from modelreg.gate.readable import Window
from modelreg.gate.report import Objection, shown

ENTRY, DIRECTORY, END, END64, LOCATOR64 = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07")
_END_BYTES = 22
_MAX_COMMENT = 65535
MAX_DIRECTORY_BYTES = 8 * 1024 * 1024
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_DESCRIPTOR = 0x8
_LINK = 0o120000


@dataclass(frozen=True)
class Entry:
    """One file in the archive; its data stand from `start` on."""

    name: str
    method: int
    packed: int
    size: int
    crc: int
    start: int
    stop: int
    header: int

    @property
    def is_folder(self) -> bool:
        """Whether it stands for a folder."""
        return self.name.endswith("/") and self.size == 0


def ends_like_one(window: Window) -> bool:
    """Whether a reader that looks for the directory from the end finds one: also in a file that begins as another."""
    if window.size < _END_BYTES:
        return False
    tail = window.tail(_END_BYTES + _MAX_COMMENT)
    at = tail.rfind(END)
    while at >= 0:
        end = tail[at : at + _END_BYTES]
        if len(end) == _END_BYTES:
            size, offset, comment = struct.unpack_from("<IIH", end, 12)
            where = window.size - len(tail) + at
            # As readers do, the directory is looked for in front of its end, whatever was put before the archive.
            begins = where - size
            exact = at + _END_BYTES + comment <= len(tail)
            empty = size == 0 and offset == 0
            if exact and not empty and 0 <= begins < where and window.read(begins, 4) == DIRECTORY:
                return True
            if exact and size == 0xFFFFFFFF:
                return True
        at = tail.rfind(END, 0, at)
    return False


def entries(window: Window) -> list[Entry]:
    """The entries of an archive that is nothing but one.

    Raises:
        Objection: `archive-unsafe`, `malformed` or `limit`.
    """
    count, size, offset = _end(window)
    if count > MAX_MEMBERS or size > MAX_DIRECTORY_BYTES:
        raise Objection("limit", f"an archive of {count} entries, {size} bytes of directory")
    raw = window.read(offset, size)
    found, at = [], 0
    for _ in range(count):
        entry, at = _entry(window, raw, at)
        found.append(entry)
    if at != len(raw):
        raise _unsafe("its directory holds more than its entries")
    _require_names(found)
    _require_cover(found, offset)
    return found


def data_of(window: Window, entry: Entry, limit: int) -> bytes:
    """An entry's bytes, unpacked.

    Raises:
        Objection: `limit`, `malformed`, or `archive-unsafe` where it is packed in a way that is not read here.
    """
    if entry.size > limit:
        raise Objection("limit", f"it unpacks to {entry.size} bytes; there is room for {limit}")
    raw = window.read(entry.start, entry.packed)
    if entry.method == _DEFLATED:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            raw = unpacker.decompress(raw, entry.size + 1)
        except zlib.error:
            raise Objection("malformed", "it cannot be unpacked") from None
        if not unpacker.eof or unpacker.unused_data or unpacker.unconsumed_tail:
            raise Objection("malformed", "it unpacks to something else than it says")
    if len(raw) != entry.size or zlib.crc32(raw) != entry.crc:
        raise Objection("malformed", "its size or check sum is wrong")
    return raw


def peek(window: Window, entry: Entry, length: int) -> bytes:
    """The first bytes of an entry, whatever is wrong with the rest."""
    raw = window.read(entry.start, min(entry.packed, length))
    if entry.method == _STORED:
        return raw
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, length)
    except zlib.error:
        return b""


def _end(window: Window) -> tuple[int, int, int]:
    """Number of entries, bytes and offset of the directory. No comment: the end is the end."""
    if window.size < _END_BYTES:
        raise _unsafe("it has no directory")
    end = window.tail(_END_BYTES)
    if end[:4] != END:
        raise _unsafe("something follows its directory, or it has none")
    disk, first_disk, here, count, size, offset, comment = struct.unpack_from("<HHHHIIH", end, 4)
    if comment or disk or first_disk or here != count:
        raise _unsafe("it has a comment, or is one of several parts")
    behind = window.size - _END_BYTES
    if 0xFFFF in {here, count} or 0xFFFFFFFF in {size, offset} or _has_locator(window, behind):
        count, size, offset, behind = _end64(window, behind)
    if offset + size != behind:
        raise _unsafe("something stands before its entries, or between them and the directory")
    return count, size, offset


def _has_locator(window: Window, behind: int) -> bool:
    return behind >= 20 and window.read(behind - 20, 4) == LOCATOR64


def _end64(window: Window, behind: int) -> tuple[int, int, int, int]:
    if not _has_locator(window, behind):
        raise _unsafe("it promises a ZIP64 directory and has none")
    at = struct.unpack("<4sIQI", window.read(behind - 20, 20))[2]
    if at + 56 != behind - 20:
        raise _unsafe("its ZIP64 directory is not where it should be")
    mark, size, _, _, _, _, here, count, length, offset = struct.unpack("<4sQHHIIQQQQ", window.read(at, 56))
    if mark != END64 or size != 44 or here != count:
        raise _unsafe("its ZIP64 directory is none")
    return count, length, offset, at


def _entry(window: Window, raw: bytes, at: int) -> tuple[Entry, int]:
    if raw[at : at + 4] != DIRECTORY or len(raw) < at + 46:
        raise _unsafe("its directory is broken")
    fields = struct.unpack_from("<HHHHHHIIIHHHHHII", raw, at + 4)
    made_by, _, flags, method, _, _, crc, packed, size, n_name, n_extra, n_comment, disk, _, attributes, header = fields
    name = raw[at + 46 : at + 46 + n_name]
    extra = raw[at + 46 + n_name : at + 46 + n_name + n_extra]
    if len(name) != n_name or len(extra) != n_extra or n_comment or disk:
        raise _unsafe("an entry of its directory is broken, or has a comment")
    label = shown(name)
    if flags & _ENCRYPTED:
        raise _unsafe(f"{label} is encrypted")
    if method not in {_STORED, _DEFLATED}:
        raise _unsafe(f"{label} is packed by the method {method}, which is not read here")
    if made_by >> 8 == 3 and (attributes >> 16) & 0o170000 == _LINK:
        raise _unsafe(f"{label} is a symbolic link")
    wide = _wide(extra, [size == 0xFFFFFFFF, packed == 0xFFFFFFFF, header == 0xFFFFFFFF])
    size, packed, header = (next(wide) if narrow == 0xFFFFFFFF else narrow for narrow in (size, packed, header))
    start, stop = _local(window, header, name, flags, method, crc, packed, size)
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        raise _unsafe(f"the name {label} is no UTF-8") from None
    return Entry(text, method, packed, size, crc, start, stop, header), at + 46 + n_name + n_extra


def _wide(extra: bytes, wanted: list[bool]) -> Iterator[int]:
    """The 64-bit numbers of an entry whose 32-bit ones are full, in their order."""
    at = 0
    numbers: list[int] = []
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            body = extra[at + 4 : at + 4 + length]
            numbers = [value for (value,) in struct.iter_unpack("<Q", body[: len(body) // 8 * 8])]
        at += 4 + length
    if sum(wanted) > len(numbers):
        raise _unsafe("an entry promises 64-bit sizes and has none")
    return iter(numbers)


def _local(
    window: Window, header: int, name: bytes, flags: int, method: int, crc: int, packed: int, size: int
) -> tuple[int, int]:
    """Where an entry's data begin and where the next entry may; its own header must say what the directory says."""
    fixed = window.read(header, 30)
    mark, _, l_flags, l_method, _, _, l_crc, l_packed, l_size, n_name, n_extra = struct.unpack("<4sHHHHHIIIHH", fixed)
    if mark != ENTRY or l_flags != flags or l_method != method or window.read(header + 30, n_name) != name:
        raise _unsafe(f"{shown(name)} has another header than its directory says")
    extra = window.read(header + 30 + n_name, n_extra)
    start = header + 30 + n_name + n_extra
    if flags & _DESCRIPTOR:
        same = (l_crc, l_packed, l_size) in {(0, 0, 0), (crc, packed, size)} or l_size == 0xFFFFFFFF
        stop = _descriptor(window, start + packed, crc, packed, size)
    else:
        wide = _wide(extra, [l_size == 0xFFFFFFFF, l_packed == 0xFFFFFFFF])
        l_size, l_packed = (next(wide) if narrow == 0xFFFFFFFF else narrow for narrow in (l_size, l_packed))
        same = (l_crc, l_packed, l_size) == (crc, packed, size)
        stop = start + packed
    if not same:
        raise _unsafe(f"{shown(name)} has other sizes in its header than in the directory")
    return start, stop


def _descriptor(window: Window, at: int, crc: int, packed: int, size: int) -> int:
    room = window.read(at, min(24, window.size - at))
    for layout in ("<4sIII", "<4sIQQ", "<III", "<IQQ"):
        length = struct.calcsize(layout)
        if length <= len(room):
            values = struct.unpack_from(layout, room)
            if values[-3:] == (crc, packed, size) and (len(values) == 3 or values[0] == b"PK\x07\x08"):
                return at + length
    raise _unsafe("an entry has another trailer than its directory says")


def _require_names(found: list[Entry]) -> None:
    seen: set[str] = set()
    for entry in found:
        parts = entry.name.rstrip("/").split("/")
        if not {"", ".", ".."}.isdisjoint(parts) or "\\" in entry.name or "\0" in entry.name or ":" in parts[0]:
            raise _unsafe(f"{shown(entry.name)} leaves the folder")
        if (folded := entry.name.rstrip("/").casefold()) in seen:
            raise _unsafe(f"{shown(entry.name)} is there twice")
        seen.add(folded)


def _require_cover(found: list[Entry], directory: int) -> None:
    at = 0
    for entry in sorted(found, key=lambda entry: entry.header):
        if entry.header != at:
            raise _unsafe(f"{shown(entry.name)} overlaps another entry, or something hides before it")
        at = entry.stop
    if at != directory:
        raise _unsafe("something hides between its entries and its directory")


def _unsafe(what: str) -> Objection:
    return Objection("archive-unsafe", f"the ZIP archive: {what}")
