"""What a power cut leaves of files, from the system calls that wrote them: synced bytes for certain, others perhaps.

`strace` lists every write, truncation, sync and removal of a process, and what it acknowledged on its standard output, in
one order. Cut anywhere: of each file the bytes of its last sync are there, and of what was written since then nothing,
everything, or some of it, whole or torn at a sector.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
_CALL = re.compile(r"^(?:\[pid +)?\d+\]? +(?P<name>\w+)\((?P<rest>.*)\) += (?P<result>-?\d+)")
_FILE = re.compile(r"\d+<(?P<path>[^>]*)>")
_HEX_PATH = re.compile(r"<((?:\\x[0-9a-f]{2})+)>")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass
class File:
    """The bytes that are certain, and the writes since: (offset, data), or (length, None) for a truncation."""

    synced: bytearray = field(default_factory=bytearray)
    since: list[tuple[int, bytes | None]] = field(default_factory=list)


@dataclass
class Disk:
    """Files below a folder as calls change them; `acknowledged` is what went to standard output."""

    folder: str
    files: dict[str, File] = field(default_factory=dict)
    acknowledged: bytes = b""

    def left_over(self, chance: random.Random | None, into: Path) -> None:
        """Write what is left after a cut now. Without `chance` nothing that was not synced is there."""
        into.mkdir(parents=True)
        for path, file in self.files.items():
            content = bytearray(file.synced)
            for change in file.since if chance else ():
                if chance.randrange(2):
                    _apply(content, *_torn(change, chance))
            (into / Path(path).name).write_bytes(content)

    def apply(self, line: str) -> bool:
        """Follow one line of the trace; true where it changed something."""
        match = _CALL.match(line)
        if match is None or int(match["result"]) < 0:
            return False
        name, rest = match["name"], match["rest"]
        if name in {"unlink", "unlinkat"}:
            path = _text(rest)
            return self.files.pop(path, None) is not None
        on = _FILE.match(rest)
        if on is None:
            return False
        if name == "write" and rest.startswith("1<"):
            self.acknowledged += _bytes(rest)[: int(match["result"])]
            return True
        path = on["path"]
        if not path.startswith(self.folder) or path.endswith("-shm"):  # shared memory is made anew at every start
            return False
        file = self.files.setdefault(path, File())
        match name:
            case "pwrite64":
                data = _bytes(rest)[: int(match["result"])]
                file.since.append((int(rest.rpartition(", ")[2]), data))
            case "ftruncate":
                file.since.append((int(rest.rpartition(", ")[2]), None))
            case "fsync" | "fdatasync":
                for change in file.since:
                    _apply(file.synced, *change)
                file.since.clear()
            case other:
                raise AssertionError(f"{other} on {path} is not simulated")
        return True


def calls(trace: Path) -> Iterator[str]:
    """The lines of a trace with readable paths, those that another thread interrupted put together again."""
    open_calls: dict[str, str] = {}
    with trace.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            pid = line.partition(" ")[0]
            if "<unfinished ...>" in line:
                open_calls[pid] = line.partition("<unfinished ...>")[0].rstrip()
            elif "resumed>" in line:
                line = open_calls.pop(pid) + line.partition("resumed>")[2]  # noqa: PLW2901
                yield _HEX_PATH.sub(lambda match: f"<{_hex(match[1]).decode()}>", line)
            else:
                yield _HEX_PATH.sub(lambda match: f"<{_hex(match[1]).decode()}>", line)


def _torn(change: tuple[int, bytes | None], chance: random.Random) -> tuple[int, bytes | None]:
    at, data = change
    if data is None or len(data) <= SECTOR or chance.randrange(3):
        return change
    return at, data[: SECTOR * chance.randrange(1, len(data) // SECTOR + 1)]


def _apply(content: bytearray, at: int, data: bytes | None) -> None:
    if data is None:
        del content[at:]
        content.extend(bytes(at - len(content)))
        return
    content.extend(bytes(max(0, at - len(content))))
    content[at : at + len(data)] = data


def _bytes(rest: str) -> bytes:
    match = _STRING.search(rest)
    assert match, rest[:200]
    return _hex(match[1])


def _hex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _text(rest: str) -> str:
    return _bytes(rest).decode()
