"""TAR (ustar, GNU long names, pax), read header by header; whatever is no plain file or folder is refused."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from modelreg.gate.looking import MAX_MEMBERS
from modelreg.gate.readable import Window
from modelreg.gate.report import Objection, shown

_BLOCK = 512
_MAX_EXTRA_BYTES = 64 * 1024  # of a pax header or a long name
_OCTAL = re.compile(rb" *[0-7]*[ \0]*")
MAGIC_AT, MAGIC = 257, b"ustar"


@dataclass(frozen=True)
class Member:
    """One file in the archive."""

    name: str
    start: int
    size: int


def is_header(block: bytes) -> bool:
    """Whether a block is a member's header: its check sum is right."""
    if len(block) < _BLOCK or not any(block[:_BLOCK]):
        return False
    try:
        stated = int(block[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    return stated == sum(block[:148]) + 8 * 0x20 + sum(block[156:_BLOCK])


def members(window: Window) -> Iterator[Member]:
    """The files in an archive, in their order.

    Raises:
        Objection: `archive-unsafe`, `malformed` or `limit`.
    """
    at, count, long_name = 0, 0, None
    while at + _BLOCK <= window.size:
        block = window.read(at, _BLOCK)
        if not any(block):
            _require_end(window, at)
            return
        count += 1
        if count > MAX_MEMBERS:
            raise Objection("limit", f"an archive of more than {MAX_MEMBERS} entries")
        if not is_header(block):
            raise _unsafe("a header whose check sum is wrong")
        size, kind, start = _number(block[124:136]), block[156:157], at + _BLOCK
        at = start + -(-size // _BLOCK) * _BLOCK
        if start + size > window.size:
            raise Objection("malformed", "a member ends behind the archive")
        if kind in {b"x", b"g", b"L"}:
            if size > _MAX_EXTRA_BYTES:
                raise Objection("limit", f"a header of {size} bytes")
            extra = window.read(start, size)
            if kind == b"L":
                long_name = extra.rstrip(b"\0")
            elif kind == b"x":
                long_name = _pax(extra) or long_name
            continue
        name = _name(block, long_name)
        long_name = None
        if kind in {b"0", b"\0", b"7"}:
            yield Member(name, start, size)
        elif kind != b"5":
            raise _unsafe(f"{shown(name)} is a link or a device")
    raise Objection("malformed", "the TAR archive has no end")


def _require_end(window: Window, at: int) -> None:
    """Zeros only: a reader that ignores an end would go on."""
    left = window.size - at
    if left > 1024 * 1024 or any(window.read(at, left)):
        raise _unsafe("something follows its end")


def _number(raw: bytes) -> int:
    if raw[0] & 0x80:
        return int.from_bytes(bytes([raw[0] & 0x7F]) + raw[1:], "big")
    if not _OCTAL.fullmatch(raw):
        raise _unsafe("a size that is no number")
    return int(raw.strip(b" \0") or b"0", 8)


def _pax(extra: bytes) -> bytes | None:
    """The path that a pax header gives; a size of its own would be another than the header's."""
    path, at = None, 0
    while at < len(extra):
        space = extra.find(b" ", at, at + 8)
        length = extra[at:space] if space > at else b""
        if not length.isdigit() or int(length) < 5 or at + int(length) > len(extra):
            raise _unsafe("a pax header that is none")
        name, _, value = extra[space + 1 : at + int(length) - 1].partition(b"=")
        if name == b"path":
            path = value
        elif name == b"size" or name.startswith(b"GNU.sparse") or name == b"linkpath":
            raise _unsafe(f"a pax header with {shown(name)}")
        at += int(length)
    return path


def _name(block: bytes, long_name: bytes | None) -> str:
    raw = long_name
    if raw is None:
        raw, prefix = block[:100].rstrip(b"\0"), b""
        if block[MAGIC_AT : MAGIC_AT + 6] == b"ustar\0":
            prefix = block[345:500].rstrip(b"\0")
        raw = prefix + b"/" + raw if prefix else raw
    name = raw.decode("utf-8", "surrogateescape").removeprefix("./")
    parts = name.rstrip("/").split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise _unsafe(f"{shown(name)} leaves the folder")
    return shown(name, 1024)


def _unsafe(what: str) -> Objection:
    return Objection("archive-unsafe", f"the TAR archive: {what}")
