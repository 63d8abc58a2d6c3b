"""What a pickle would import and call, read from its opcodes. Nothing is unpickled, imported or called.

The machine of opcodes is followed with placeholders for values; texts are kept, because `STACK_GLOBAL` takes its names from
the stack and the memo. What an unpickler would do before it meets a mistake counts: it has done it by then.
"""

import pickletools
import re
from dataclasses import dataclass, field

from modelreg.gate.readable import Cursor, Window
from modelreg.gate.report import Objection, shown

MAX_OPCODES = 200_000
MAX_PICKLES = 64  # one behind another, as old torch files have them
MAX_LINE_BYTES = 64 * 1024
MAX_IMPORTS = 1000
_MAX_TEXT_BYTES = 4096  # of a name
_MAX_STACK = 100_000

_NUMBER = re.compile(rb"\s*[+-]?[0-9]{1,4300}L?\s*")
_FLOAT = re.compile(rb"\s*[+-]?(inf|nan|[0-9.]{1,400}([eE][+-]?[0-9]{1,10})?)\s*")
_COUNT = re.compile(rb"[0-9]{1,18}")
_QUOTED = re.compile(rb"\s*(\".*\"|'.*')\s*", re.DOTALL)
_LINES = {
    "INT": _NUMBER,
    "LONG": _NUMBER,
    "FLOAT": _FLOAT,
    "GET": _COUNT,
    "PUT": _COUNT,
    "STRING": _QUOTED,
}
_TEXTS = {
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "UNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE",
    "BINUNICODE8",
}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_CALLS = {"REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "EXT1", "EXT2", "EXT4"}
# What torch.save and numpy write for tensors; an import of anything else is named by a rule of its own.
HARMLESS = frozenset(
    {
        "collections.OrderedDict",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "numpy.dtype",
        "numpy.ndarray",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor_v2",
        "torch.BFloat16Storage",
        "torch.BoolStorage",
        "torch.ByteStorage",
        "torch.CharStorage",
        "torch.DoubleStorage",
        "torch.FloatStorage",
        "torch.HalfStorage",
        "torch.IntStorage",
        "torch.LongStorage",
        "torch.ShortStorage",
        "torch.Size",
    }
)
_MARK = object()


@dataclass(frozen=True)
class _Op:
    name: str
    size: int | None  # of its argument: a number of bytes, or one of pickletools' negative words
    below: int  # values that it takes from the stack, below a mark if it takes one
    marked: bool
    pushed: int


def _table() -> list[_Op | None]:
    found: list[_Op | None] = [None] * 256
    for code in pickletools.opcodes:
        before = code.stack_before
        marked = pickletools.markobject in before
        below = before.index(pickletools.markobject) if marked else len(before)
        size = code.arg.n if code.arg is not None else None
        found[ord(code.code)] = _Op(code.name, size, below, marked, len(code.stack_after))
    return found


_OPS = _table()
_PREFIXED = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


@dataclass
class Opcodes:
    """What was followed. `why` it ended, if not at a STOP; `stop` is the offset behind the last STOP.

    `endless`: sound as far as it was followed, and nobody knows what comes then.
    """

    imports: dict[str, None] = field(default_factory=dict)  # in the order of the first mention
    calls: int = 0
    pickles: int = 0
    stop: int | None = None
    why: str | None = None
    endless: bool = False

    @property
    def acts(self) -> bool:
        """An unpickler would have done something by then: called, or finished with what it imported; or it still might."""
        return self.calls > 0 or (self.pickles > 0 and bool(self.imports)) or self.endless

    @property
    def unusual(self) -> list[str]:
        """Imports that no tensor needs."""
        return [name for name in self.imports if name not in HARMLESS]


def follow(window: Window, max_opcodes: int = MAX_OPCODES) -> Opcodes:
    """Follow the pickles at the beginning of some bytes as far as they go."""
    found = Opcodes()
    cursor = Cursor(window)
    left = max_opcodes
    try:
        while found.pickles < MAX_PICKLES and cursor.left:
            left = _one(cursor, found, left)
            found.pickles += 1
            found.stop = cursor.offset
    except Objection as objection:
        found.why, found.endless = objection.what, objection.rule == "limit"
    return found


def _one(cursor: Cursor, found: Opcodes, left: int) -> int:
    """Follow one pickle to its STOP; returns how many opcodes may still follow."""
    stack: list[object] = []
    memo: dict[int, object] = {}
    while left:
        left -= 1
        op = _OPS[cursor.byte()]
        if op is None:
            raise Objection("malformed", f"no opcode at byte {cursor.offset - 1}")
        if op.name == "STOP":
            if not stack:
                raise Objection("malformed", "a STOP with nothing on the stack")
            return left
        argument = _argument(cursor, op)
        _step(op, argument, stack, memo, found)
        if len(stack) > _MAX_STACK:
            raise Objection("limit", f"more than {_MAX_STACK} values on the stack")
    raise Objection("limit", "more opcodes than are followed")


def _step(op: _Op, argument: object, stack: list[object], memo: dict[int, object], found: Opcodes) -> None:
    name = op.name
    if name in _PUTS or name == "MEMOIZE":
        if not stack or stack[-1] is _MARK:
            raise Objection("malformed", "nothing to memoize")
        memo[len(memo) if name == "MEMOIZE" else _number(argument)] = stack[-1]
        return
    if name in _GETS:
        number = _number(argument)
        if number not in memo:
            raise Objection("malformed", "a memo that was never set")
        stack.append(memo[number])
        return
    taken = _pop(op, stack)
    if name in {"GLOBAL", "INST"}:
        _import(found, str(argument).replace("\n", ".", 1))
    elif name == "STACK_GLOBAL":
        known = all(isinstance(part, str) for part in taken)
        _import(found, ".".join(map(str, taken)) if known else "(a computed name)")
    elif name.startswith("EXT"):
        _import(found, f"copyreg.extension.{argument}")
    if name in _CALLS:
        found.calls += 1
    if name == "MARK":
        stack.append(_MARK)
    elif name == "DUP":
        stack += [taken[0], taken[0]]
    elif name in _TEXTS:
        stack.append(argument)
    else:
        stack.extend([None] * op.pushed)


def _pop(op: _Op, stack: list[object]) -> list[object]:
    if op.marked or (op.name == "POP" and stack and stack[-1] is _MARK):
        at = len(stack) - 1
        while at >= 0 and stack[at] is not _MARK:
            at -= 1
        if at < 0:
            raise Objection("malformed", f"{op.name} without a mark")
        above = len(stack) - at - 1
        if op.name == "OBJ" and not above:
            raise Objection("malformed", "OBJ without a class")
        del stack[at:]
        below = 0 if op.name == "POP" else op.below
    else:
        below = op.below
    if len(stack) < below or any(value is _MARK for value in stack[len(stack) - below :] if below):
        raise Objection("malformed", f"{op.name} takes more than there is")
    taken = stack[len(stack) - below :]
    del stack[len(stack) - below :]
    return taken


def _argument(cursor: Cursor, op: _Op) -> object:
    size = op.size
    if size is None:
        return None
    if size >= 0:
        return int.from_bytes(cursor.take(size), "little")
    if size == pickletools.UP_TO_NEWLINE:
        line = _line(cursor)
        if op.name in {"GLOBAL", "INST"}:
            return f"{line.decode('utf-8', 'replace')}\n{_line(cursor).decode('utf-8', 'replace')}"
        wanted = _LINES.get(op.name)
        if wanted is not None and not wanted.fullmatch(line):
            raise Objection("malformed", f"{op.name} with something else behind it")
        if op.name == "STRING":
            return line.strip()[1:-1].decode("utf-8", "replace")
        return line.decode("utf-8", "replace")
    length = cursor.unsigned(_PREFIXED[size])
    if length > cursor.left:
        raise Objection("malformed", f"{op.name} is longer than the file")
    if op.name in _TEXTS and length <= _MAX_TEXT_BYTES:
        return cursor.take(length).decode("utf-8", "replace")
    cursor.skip(length)
    return None


def _line(cursor: Cursor) -> bytes:
    line = bytearray()
    while (byte := cursor.byte()) != 0x0A:
        line.append(byte)
        if len(line) > MAX_LINE_BYTES:
            raise Objection("limit", "a line that does not end")
    return bytes(line)


def _number(argument: object) -> int:
    return int(argument) if isinstance(argument, (int, str)) else -1


def _import(found: Opcodes, name: str) -> None:
    if len(found.imports) < MAX_IMPORTS:
        found.imports[shown(name, 200)] = None
