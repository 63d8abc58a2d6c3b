"""GGUF v2 and v3: everything that llama.cpp computes with is checked before it could (docs/spec/gate.md).

    "GGUF"  u32 version  u64 tensors  u64 members
    members   text key, u32 type, value              texts are u64 length and UTF-8
    tensors   text name, u32 dimensions, u64 sizes, u32 type, u64 offset
    data      at the next multiple of `general.alignment` (32); each tensor at the next one behind the one before

Python's integers do not wrap, so sizes that overflow in C are simply too large here.
"""

import re
import struct
from dataclasses import dataclass, field
from math import prod
from typing import Any

from modelreg.gate import templates
from modelreg.gate.looking import Look
from modelreg.gate.readable import Cursor, Window
from modelreg.gate.report import Objection, shown

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_TENSORS = 65_535
MAX_MEMBERS = 65_535
MAX_KEY_BYTES = 256
MAX_NAME_BYTES = 63  # GGML_MAX_NAME, without its end
MAX_DIMENSIONS = 4
MAX_TEXT_BYTES = 16 * 1024 * 1024
MAX_ITEMS = 4_000_000  # of all arrays
MAX_HEADER_BYTES = 256 * 1024 * 1024
MAX_ALIGNMENT = 64 * 1024
_MAX_COUNT = 2**63 - 1

_KEY = re.compile(rb"[A-Za-z0-9_.\-/+:]{1,256}")
_ARCHITECTURE = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _ARRAY, _BOOL = 8, 9, 7
# Type: values in a block, bytes of a block.
BLOCKS = {
    **dict.fromkeys((0, 26), (1, 4)),
    **dict.fromkeys((1, 25, 30), (1, 2)),
    **dict.fromkeys((27, 28), (1, 8)),
    24: (1, 1),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    9: (32, 40),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    20: (32, 18),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    29: (256, 56),
    34: (256, 54),
    35: (256, 66),
    39: (32, 17),
    40: (64, 36),
    41: (128, 18),
}
# Arrays that are indexed by a token.
_BY_TOKEN = ("tokenizer.ggml.scores", "tokenizer.ggml.token_type")
_TOKENS = "tokenizer.ggml.tokens"
_KEPT = re.compile(
    r"general\.(architecture|alignment)|tokenizer\.chat_template(\..*)?|tokenizer\.chat_templates|"
    r"tokenizer\.ggml\.[a-z_]*_token_id"
)


@dataclass
class _Members:
    """What of the metadata the rules need: some values, and the length of each array."""

    keys: set[str] = field(default_factory=set)
    values: dict[str, Any] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    items: int = 0


def check(look: Look, window: Window) -> None:
    """Look at a GGUF file.

    Raises:
        Objection: `malformed` or `limit`.
    """
    cursor = Cursor(window)
    cursor.skip(len(MAGIC))
    version = cursor.unsigned(4)
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        raise _wrong("it is big-endian" if swapped else f"its version is {version}; known are 2 and 3")
    tensors, count = cursor.unsigned(8), cursor.unsigned(8)
    if tensors > MAX_TENSORS or count > MAX_MEMBERS:
        raise Objection("limit", f"{tensors} tensors and {count} members; the limits are {MAX_TENSORS}, {MAX_MEMBERS}")
    members = _Members()
    for _ in range(count):
        _member(cursor, members)
    alignment = _alignment(members)
    _semantics(look, members)
    _tensors(cursor, window, tensors, alignment)


def _member(cursor: Cursor, members: _Members) -> None:
    raw_key = _text(cursor, MAX_KEY_BYTES)
    if not _KEY.fullmatch(raw_key):
        raise _wrong(f"the key {shown(raw_key)} is none")
    key = raw_key.decode("ascii")
    if key in members.keys:
        raise _wrong(f"the key {shown(key)} is there twice")
    members.keys.add(key)
    kind = cursor.unsigned(4)
    kept = _KEPT.fullmatch(key) is not None
    if kind == _ARRAY:
        inner, length = cursor.unsigned(4), cursor.unsigned(8)
        members.items += length
        if members.items > MAX_ITEMS:
            raise Objection("limit", f"its arrays have more than {MAX_ITEMS} items")
        members.lengths[key] = length
        value: Any = _array(cursor, inner, length, key, kept=kept)
    else:
        value = _value(cursor, kind, key)
    if kept:
        members.values[key] = value
    if cursor.offset > MAX_HEADER_BYTES:
        raise Objection("limit", f"its metadata have more than {MAX_HEADER_BYTES} bytes")


def _value(cursor: Cursor, kind: int, key: str) -> Any:
    if kind == _TEXT:
        return _utf8(_text(cursor, MAX_TEXT_BYTES), key)
    layout = _SCALARS.get(kind)
    if layout is None:
        raise _wrong(f"{shown(key)} is of the type {kind}, which there is not")
    raw = cursor.take(struct.calcsize(layout))
    if kind == _BOOL and raw not in {b"\0", b"\1"}:
        raise _wrong(f"{shown(key)} is a truth value of {raw[0]}")
    return struct.unpack(layout, raw)[0]


def _array(cursor: Cursor, inner: int, length: int, key: str, *, kept: bool) -> list[Any]:
    if inner == _TEXT:
        if not kept:
            for _ in range(length):
                size = cursor.unsigned(8)
                if size > MAX_TEXT_BYTES:
                    raise Objection("limit", f"a text of {size} bytes; the limit is {MAX_TEXT_BYTES}")
                cursor.skip(size)
            return []
        return [_utf8(_text(cursor, MAX_TEXT_BYTES), key) for _ in range(length)]
    layout = _SCALARS.get(inner)
    if layout is None:
        raise _wrong(f"{shown(key)} is an array of the type {inner}, which llama.cpp does not read")
    cursor.skip(struct.calcsize(layout) * length)
    return []


def _text(cursor: Cursor, limit: int) -> bytes:
    size = cursor.unsigned(8)
    if size > limit:
        raise Objection("limit", f"a text of {size} bytes; the limit is {limit}")
    return cursor.take(size)


def _utf8(raw: bytes, key: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise _wrong(f"{shown(key)} is no UTF-8") from None


def _alignment(members: _Members) -> int:
    alignment = members.values.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise _wrong(f"general.alignment is {shown(alignment)}, no power of two from 8 to {MAX_ALIGNMENT}")
    return alignment


def _semantics(look: Look, members: _Members) -> None:
    """Metadata that llama.cpp indexes with, and texts that a runtime runs."""
    architecture = members.values.get("general.architecture")
    if not isinstance(architecture, str) or not _ARCHITECTURE.fullmatch(architecture):
        raise _wrong(f"general.architecture is {shown(architecture)}")
    tokens = members.lengths.get(_TOKENS)
    for key in _BY_TOKEN:
        if key in members.lengths and members.lengths[key] != tokens:
            raise _wrong(f"{key} has {members.lengths[key]} items for {tokens} tokens")
    for key, value in members.values.items():
        if key.endswith("_token_id") and tokens is not None:
            # All bits set stands for none.
            if not isinstance(value, int) or not (0 <= value < tokens or value in {-1, 2**32 - 1}):
                raise _wrong(f"{key} is {shown(value)}; there are {tokens} tokens")
        elif key.startswith("tokenizer.chat_template") and isinstance(value, str):
            for what in templates.objections(value):
                look.object("template-code", f"{shown(key)}: {what}")


def _tensors(cursor: Cursor, window: Window, count: int, alignment: int) -> None:
    names: set[bytes] = set()
    expected = 0
    ends_at = 0
    for _ in range(count):
        name = _text(cursor, MAX_NAME_BYTES)
        if name in names or not name:
            raise _wrong(f"the tensor {shown(name)} is there twice, or has no name")
        names.add(name)
        _utf8(name, "a tensor's name")
        dimensions = cursor.unsigned(4)
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise _wrong(f"the tensor {shown(name)} has {dimensions} dimensions")
        sizes = [cursor.unsigned(8) for _ in range(dimensions)]
        kind, offset = cursor.unsigned(4), cursor.unsigned(8)
        block = BLOCKS.get(kind)
        if block is None:
            raise _wrong(f"the tensor {shown(name)} is of the type {kind}, which this version does not know")
        values = prod(sizes)
        if values > _MAX_COUNT or sizes[0] % block[0]:
            raise _wrong(f"the tensor {shown(name)} has rows of {sizes[0]} values, or too many of them")
        if offset != expected:
            raise _wrong(f"the tensor {shown(name)} begins at {offset}; the one before ends at {expected}")
        ends_at = offset + values // block[0] * block[1]
        expected = _aligned(ends_at, alignment)
        if expected > window.size + alignment:
            raise _wrong(f"the tensor {shown(name)} ends behind the file")
    start = _aligned(cursor.offset, alignment) if count else cursor.offset
    rest = window.size - start - ends_at
    if rest < 0:
        raise _wrong(f"its tensors end {-rest} bytes behind the file")
    if rest >= alignment or (rest and any(window.read(window.size - rest, rest))):
        raise _wrong(f"{rest} bytes follow its last tensor")


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _wrong(what: str) -> Objection:
    return Objection("malformed", f"not a sound GGUF file: {what}")
