"""NumPy's `.npy`: a header of Python literals, read by a grammar and not by Python, and exactly as many bytes as it says."""

import re
from math import prod

from modelreg.gate.readable import Window
from modelreg.gate.report import Objection, shown

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 64 * 1024
_HEADER = re.compile(
    r"\{'descr': ('[^'\\]{1,20}'|\[[^\]\\]{1,8192}\]), 'fortran_order': (True|False), "
    r"'shape': \(([0-9, ]{0,400})\), ?\} *\n?"
)
_PLAIN = re.compile(r"[<>|=]?([biufcSUVmM?])([0-9]{0,9})(\[[a-z0-9]{1,8}\])?")
_FIELD = re.compile(r"\('([^'\\]{1,200})', '([<>|=]?[biufcSUV?][0-9]{0,9})'(?:, \(([0-9, ]{0,100})\))?\)(?:, |$)")


def check(window: Window) -> bool:
    """Look at an array; returns whether its items are Python objects, and the rest a pickle.

    Raises:
        Objection: `malformed` or `limit`.
    """
    start, header = _header(window)
    found = _HEADER.fullmatch(header)
    if found is None:
        if "O" in header:
            return True
        raise _wrong(f"its header is {shown(header)}")
    descr, _, shape = found.groups()
    size = _item_bytes(descr)
    if size is None:
        return True
    values = prod(int(part) for part in shape.replace(" ", "").split(",") if part)
    if start + values * size != window.size:
        raise _wrong(f"it has {window.size - start} bytes for {values} items of {size}")
    return False


def data_start(window: Window) -> int:
    """Where the items begin."""
    return _header(window)[0]


def _header(window: Window) -> tuple[int, str]:
    fixed = window.read(0, min(window.size, 12))
    version = fixed[6:8]
    if version not in {b"\1\0", b"\2\0", b"\3\0"}:
        raise _wrong("its version is none of 1, 2, 3")
    begin = 10 if version == b"\1\0" else 12
    length = int.from_bytes(fixed[8:begin], "little")
    if length > MAX_HEADER_BYTES:
        raise Objection("limit", f"a NumPy header of {length} bytes; the limit is {MAX_HEADER_BYTES}")
    return begin + length, window.read(begin, length).decode("latin-1")


def _item_bytes(descr: str) -> int | None:
    """Bytes of an item; None where it is an object."""
    if descr.startswith("'"):
        return _plain_bytes(descr[1:-1])
    at, size = 0, 0
    body = descr[1:-1]
    while at < len(body):
        part = _FIELD.match(body, at)
        if part is None:
            if re.search(r"'[<>|=]?O", body):
                return None
            raise _wrong("its items are of a type that is not read here")
        inner = _plain_bytes(part[2])
        if inner is None:
            return None
        size += inner * prod(int(number) for number in (part[3] or "1").replace(" ", "").split(",") if number)
        at = part.end()
    return size


def _plain_bytes(descr: str) -> int | None:
    if descr.lstrip("<>|=").startswith("O"):
        return None
    found = _PLAIN.fullmatch(descr)
    if found is None:
        raise _wrong(f"its items are of the type {shown(descr)}")
    count = int(found[2] or 1)
    return count * 4 if found[1] == "U" else count


def _wrong(what: str) -> Objection:
    return Objection("malformed", f"not a sound NumPy file: {what}")
