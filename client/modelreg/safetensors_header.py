"""The header of a safetensors file: which tensors it holds, of what type and shape, and where their bytes are.

    8 bytes        length of the header, little-endian
    header         a JSON object, padded with spaces: {"name": {"dtype", "shape", "data_offsets": [begin, end]}, …}, and
                   maybe "__metadata__": {"key": "text", …}
    the rest       the tensors' bytes, without a hole and without an overlap

A reader that is laxer than another one reads other tensors than the other one; ours refuses what any of them might.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

from modelreg.canonical import MAX_INTEGER, strict_json
from modelreg.errors import Invalid

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_VALUES = 4_000_000  # commas and brackets: what a parsed header costs in memory, about 100 bytes each
MAX_TENSORS = 500_000
MAX_DIMENSIONS = 64
MAX_NAME_CHARS = 4096

METADATA = "__metadata__"
BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}

Read = Callable[[int, int], bytes]  # the bytes from start to stop, or fewer where there are no more


@dataclass(frozen=True)
class Tensor:
    """One tensor; its bytes stand in the file from `start` to `stop`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """A file's tensors by name, and its free text."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read(read_range: Read, file_bytes: int) -> Header:
    """Read the header of a safetensors file of that many bytes.

    Args:
        read_range: gives untrusted bytes of the file.
        file_bytes: how long the file is.

    Raises:
        Invalid: it is no safetensors file, or one that two readers might read differently.
    """
    raw_length = read_range(0, LENGTH_BYTES)
    if len(raw_length) != LENGTH_BYTES:
        raise _refused("it ends before its header")
    length = int.from_bytes(raw_length, "little")
    if length > MAX_HEADER_BYTES:
        raise _refused(f"its header would have {length} bytes; the limit is {MAX_HEADER_BYTES}")
    if LENGTH_BYTES + length > file_bytes:
        raise _refused(f"its header would have {length} bytes, the whole file has {file_bytes}")
    raw = read_range(LENGTH_BYTES, LENGTH_BYTES + length)
    if len(raw) != length:
        raise _refused("it became shorter while it was read")
    return parse(raw, file_bytes)


def parse(raw: bytes, file_bytes: int) -> Header:
    """Read the header's JSON. `raw` is untrusted, and begins at byte 8 of a file of `file_bytes`.

    Raises:
        Invalid: as `read`.
    """
    if not raw.startswith(b"{") or not raw.rstrip(b" ").endswith(b"}"):
        raise _refused("its header is no JSON object padded with spaces")
    if sum(raw.count(mark) for mark in (b"{", b"[", b",")) > MAX_VALUES:
        raise _refused(f"its header holds more than {MAX_VALUES} values")
    try:
        document = strict_json(raw)
    except ValueError as error:
        raise _refused(f"its header is not JSON: {error}") from None
    assert isinstance(document, dict)  # it begins with {
    metadata = _metadata(document.pop(METADATA, {}))
    if len(document) > MAX_TENSORS:
        raise _refused(f"it holds {len(document)} tensors; the limit is {MAX_TENSORS}")
    data_start = LENGTH_BYTES + len(raw)
    tensors = {name: _tensor(name, item, data_start) for name, item in document.items()}
    _require_full_cover(tensors, data_start, file_bytes)
    return Header(tensors, metadata)


def _metadata(untrusted: Any) -> dict[str, str]:
    if not isinstance(untrusted, dict):
        raise _refused(f"{METADATA} is not an object")
    for name, value in untrusted.items():
        if not isinstance(value, str) or not _is_text(name) or not _is_text(value):
            raise _refused(f"{METADATA} holds something that is no text under {_short(name)}")
    return untrusted


def _tensor(name: str, untrusted: Any, data_start: int) -> Tensor:
    where = f"the tensor {_short(name)}"
    if not name or len(name) > MAX_NAME_CHARS or not _is_text(name):
        raise _refused(f"{where} has a name that is empty, no text, or longer than {MAX_NAME_CHARS} characters")
    if not isinstance(untrusted, dict) or untrusted.keys() != {"dtype", "shape", "data_offsets"}:
        raise _refused(f"{where} has not exactly the members dtype, shape, data_offsets")
    dtype, shape, offsets = untrusted["dtype"], untrusted["shape"], untrusted["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _refused(f"{where} is of the type {_short(dtype)}, which this version does not know")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_count, shape)):
        raise _refused(f"{where} has a shape that is no list of up to {MAX_DIMENSIONS} sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise _refused(f"{where} has data_offsets that are not two positions")
    begin, end = offsets
    bits = prod(shape) * BITS[dtype]
    if begin > end or bits != (end - begin) * 8:
        raise _refused(f"{where} has {bits} bits by type and shape, and the bytes from {begin} to {end}")
    return Tensor(name, dtype, tuple(shape), data_start + begin, data_start + end)


def _require_full_cover(tensors: dict[str, Tensor], data_start: int, file_bytes: int) -> None:
    ordered = sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.stop))
    if (ordered[0].start if ordered else file_bytes) != data_start:
        raise _refused("there are bytes before its first tensor")
    for tensor, following in pairwise(ordered):
        if following.start != tensor.stop:
            kind = "overlap" if following.start < tensor.stop else "leave a hole between them"
            raise _refused(f"the tensors {_short(tensor.name)} and {_short(following.name)} {kind}")
    if ordered and ordered[-1].stop != file_bytes:
        raise _refused(f"its tensors end at byte {ordered[-1].stop}, the file at {file_bytes}")


def _is_count(untrusted: Any) -> bool:
    return isinstance(untrusted, int) and not isinstance(untrusted, bool) and 0 <= untrusted <= MAX_INTEGER


def _is_text(text: str) -> bool:
    """No lone surrogate: it could not be printed, nor compared by anybody who reads UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _refused(why: str) -> Invalid:
    return Invalid(f"not a safetensors file: {why}", field="safetensors")


def _short(value: object) -> str:
    return ascii(value)[:120]
