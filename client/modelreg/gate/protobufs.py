"""Protobuf files of models, told apart by their fields: SentencePiece vocabularies, ONNX, TensorFlow's SavedModel.

A message has no magic and no name in it, so a file is what its outermost fields fit, from the first byte to the last.
"""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

from modelreg.gate import configs
from modelreg.gate.looking import Look
from modelreg.gate.readable import Cursor, Window
from modelreg.gate.report import Objection, shown

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
MAX_FIELDS = 3_000_000  # of one file
MAX_DEPTH = 40
_MAX_TEXT_BYTES = 64 * 1024
_MAX_PIECE_BYTES = 64 * 1024
_PROBED = 64  # fields by which a file is recognised

# Field number: wire type.
_SENTENCEPIECE = {1: LENGTH, 2: LENGTH, 3: LENGTH, 4: LENGTH, 5: LENGTH}
_PIECE = {1: LENGTH, 2: FIXED32, 3: VARINT}
_ONNX = {
    1: VARINT,
    2: LENGTH,
    3: LENGTH,
    4: LENGTH,
    5: VARINT,
    6: LENGTH,
    7: LENGTH,
    8: LENGTH,
    14: LENGTH,
    20: LENGTH,
    25: LENGTH,
    26: LENGTH,
}
_SAVED_MODEL = {1: VARINT, 2: LENGTH}
# Where in ONNX tensors and nodes can be: message, then field, then the message there.
_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _SPARSE, _FUNCTION, _TRAINING, _STRINGS = range(9)
_ONNX_TREE = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _TENSOR: {13: _STRINGS},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _STRINGS: {},
}
_NODE_DOMAIN, _STRINGS_KEY, _STRINGS_VALUE = 7, 1, 2
_DOMAINS = frozenset(
    {b"", b"ai.onnx", b"ai.onnx.ml", b"ai.onnx.training", b"ai.onnx.preview.training", b"com.microsoft"}
)


@dataclass(frozen=True)
class Field:
    """One field: its number, wire type, where its content is, and of a varint its value."""

    number: int
    kind: int
    start: int
    stop: int
    value: int


def recognise(window: Window) -> str | None:
    """Which of the formats a file is: `sentencepiece`, `onnx`, `savedmodel`, or None."""
    for name, known in (("sentencepiece", _SENTENCEPIECE), ("onnx", _ONNX), ("savedmodel", _SAVED_MODEL)):
        seen: list[int] = []
        try:
            for field in fields(Cursor(window)):
                if known.get(field.number) != field.kind:
                    break
                seen.append(field.number)
                if len(seen) >= _PROBED:
                    break
            else:
                seen.append(0)  # to the end
        except Objection:
            continue
        whole = bool(seen) and (seen[-1] == 0 or len(seen) >= _PROBED)
        if not whole or len(seen) < 2:
            continue
        if name == "sentencepiece" and seen[0] == 1 and _is_piece(window):
            return name
        if name == "onnx" and seen[0] == 1 and 7 in seen and 8 in seen:
            return name
        if name == "savedmodel" and seen[0] == 1 and 2 in seen:
            return name
    return None


def _is_piece(window: Window) -> bool:
    first = next(iter(fields(Cursor(window))))
    inner = list(fields(Cursor(window, first.start, first.stop)))
    return bool(inner) and all(_PIECE.get(field.number) == field.kind for field in inner)


def fields(cursor: Cursor) -> Iterator[Field]:
    """The fields of a message; their content is not read.

    Raises:
        Objection: `malformed`: it is no message.
    """
    while cursor.left:
        key = _varint(cursor)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise Objection("malformed", "a protobuf field without a number")
        value = 0
        start = cursor.offset
        if kind == VARINT:
            value = _varint(cursor)
        elif kind == FIXED64:
            cursor.skip(8)
        elif kind == FIXED32:
            cursor.skip(4)
        elif kind == LENGTH:
            length = _varint(cursor)
            start = cursor.offset
            cursor.skip(length)
        else:
            raise Objection("malformed", f"a protobuf field of the wire type {kind}")
        yield Field(number, kind, start, cursor.offset, value)


def _varint(cursor: Cursor) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = cursor.byte()
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise Objection("malformed", "a protobuf number that does not end")


def check_sentencepiece(window: Window) -> None:
    """Every piece is a text, a score and a kind.

    Raises:
        Objection: `malformed` or `limit`.
    """
    for count, field in enumerate(fields(Cursor(window))):
        if count >= MAX_FIELDS:
            raise Objection("limit", f"more than {MAX_FIELDS} protobuf fields")
        if _SENTENCEPIECE.get(field.number) != field.kind:
            raise Objection("malformed", f"a vocabulary with the field {field.number}")
        if field.number == 1:
            if field.stop - field.start > _MAX_PIECE_BYTES:
                raise Objection("limit", f"a piece of more than {_MAX_PIECE_BYTES} bytes")
            for inner in fields(Cursor(window, field.start, field.stop)):
                if _PIECE.get(inner.number) != inner.kind:
                    raise Objection("malformed", "a piece that is no text, score and kind")


def check_onnx(look: Look, window: Window) -> None:
    """Data kept beside the model stay in the artifact; operators of other libraries are named.

    Raises:
        Objection: `malformed` or `limit`.
    """
    left = MAX_FIELDS
    folder = posixpath.dirname(look.name)
    todo = [(_MODEL, 0, window.size, 0)]
    while todo:
        message, start, stop, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise Objection("limit", f"graphs more than {MAX_DEPTH} deep")
        if message == _STRINGS:
            _external(look, folder, window, start, stop)
            continue
        for field in fields(Cursor(window, start, stop)):
            left -= 1
            if not left:
                raise Objection("limit", f"more than {MAX_FIELDS} protobuf fields")
            if message == _MODEL and _ONNX.get(field.number) != field.kind:
                raise Objection("malformed", f"an ONNX model with the field {field.number}")
            if field.kind != LENGTH:
                continue
            if (inner := _ONNX_TREE[message].get(field.number)) is not None:
                todo.append((inner, field.start, field.stop, depth + 1))
            elif message == _NODE and field.number == _NODE_DOMAIN:
                domain = _bytes(window, field)
                if domain not in _DOMAINS:
                    look.object("onnx-custom-op", f"an operator of {shown(domain, 60)}")


def _external(look: Look, folder: str, window: Window, start: int, stop: int) -> None:
    """A text by its key, of a tensor's data elsewhere; whichever comes first, or last, for whichever reader."""
    found = [field for field in fields(Cursor(window, start, stop)) if field.kind == LENGTH]
    if any(field.number == _STRINGS_KEY and _bytes(window, field) == b"location" for field in found):
        for field in found:
            if field.number == _STRINGS_VALUE:
                name = _bytes(window, field).decode("utf-8", "backslashreplace")
                configs.require_name(look, folder, name, "external data", "onnx-external-data")


def _bytes(window: Window, field: Field) -> bytes:
    if field.stop - field.start > _MAX_TEXT_BYTES:
        raise Objection("limit", f"a name of more than {_MAX_TEXT_BYTES} bytes")
    return window.read(field.start, field.stop - field.start)
