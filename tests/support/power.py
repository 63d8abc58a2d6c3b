"""What a power cut leaves of a process's files: its system calls, recorded by `strace`, replayed without what was not synced.

The model is as bad as a disk may be. A write is durable when an fsync or fdatasync of its file that began after it has ended;
until then it may be lost, or some of its 512-byte sectors may be there, in any choice. Names are not modelled: a file that
exists when the recording begins exists after the cut. Memory-mapped files (SQLite's `-shm`) are lost.
"""

import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
_CALL = re.compile(r"^(?P<thread>\d+) +(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<name>\w+)\()(?P<rest>.*)$")
_FILE = re.compile(r"^\d+<(?P<path>[^>]*)>")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


def why_not() -> str | None:
    """Why nothing can be recorded on this machine, or None."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"strace may not trace: {tried.stderr.strip()[:200]}"


class Recording:
    """The calls of a running process from now until `stop`, in the order in which they began and ended."""

    def __init__(self, pid: int, log: Path) -> None:
        self._log = log
        calls = "pwrite64,write,fsync,fdatasync,ftruncate,sendto"
        command = ["strace", "-f", "-y", "-xx", "-s", "1000000", "-e", f"trace={calls}", "-o", str(log), "-p", str(pid)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert self._process.stderr is not None
        assert b"attached" in self._process.stderr.readline()

    def stop(self) -> None:
        time.sleep(0.2)
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)
        self._process.stderr.close()

    def calls(self) -> Iterator[tuple[str, str, str, bool]]:
        """Thread, name, arguments and whether this is the call's end; a call that nobody interrupted is both at once."""
        begun: dict[str, tuple[str, str]] = {}
        for line in self._log.read_text(errors="replace").splitlines():
            match = _CALL.match(line)
            if match is None:
                continue
            thread = match["thread"]
            if match["resumed"]:
                name, arguments = begun.pop(thread, ("", ""))
                if name == match["resumed"]:
                    yield thread, name, arguments + match["rest"], True
            elif "<unfinished ...>" in line:
                begun[thread] = match["name"], match["rest"].partition(" <unfinished")[0]
                yield thread, *begun[thread], False
            else:
                yield thread, match["name"], match["rest"], False
                yield thread, match["name"], match["rest"], True


@dataclass
class Disk:
    """Files as a power cut would leave them. `durable` survives; `pending` may."""

    durable: dict[str, bytearray]
    pending: dict[str, list[tuple[int, bytes | None]]] = field(default_factory=dict)  # offset and bytes, or truncation
    syncing: dict[str, tuple[str, int]] = field(default_factory=dict)

    def feed(self, thread: str, name: str, arguments: str, ended: bool) -> None:
        """Take one call in."""
        path = _FILE.match(arguments)
        if path is None or (file := _decoded(path["path"])) not in self.durable:
            return
        pending = self.pending.setdefault(file, [])
        if name in {"fsync", "fdatasync"}:
            if not ended:
                self.syncing[thread] = file, len(pending)
            elif arguments.rstrip().endswith("= 0"):
                _, count = self.syncing.pop(thread)
                for offset, data in pending[:count]:
                    _apply(self.durable[file], offset, data)
                del pending[:count]
                # Another sync of the same file that is under way has that many fewer to wait for.
                for other, (theirs, waiting) in self.syncing.items():
                    if theirs == file:
                        self.syncing[other] = file, max(0, waiting - count)
        elif name == "pwrite64" and ended:
            text = _TEXT.search(arguments)
            assert text is not None, arguments[:200]
            data = bytes.fromhex(text[1].replace("\\x", ""))
            offset = int(arguments.rpartition(")")[0].rpartition(", ")[2])
            pending.append((offset, data))
        elif name == "ftruncate" and ended:
            pending.append((int(arguments.rpartition(")")[0].rpartition(", ")[2]), None))
        else:
            assert name not in {"write"}, "SQLite writes at offsets"

    def after_a_cut(self, dice: random.Random | None) -> dict[str, bytes]:
        """What is there when power is back; with dice, some sectors of what was not synced are as well."""
        left = {}
        for file, durable in self.durable.items():
            content = bytearray(durable)
            for offset, data in self.pending.get(file, []) if dice else []:
                if data is None:
                    if dice.random() < 0.5:
                        _apply(content, offset, None)
                    continue
                for at in range(0, len(data), SECTOR):
                    if dice.random() < 0.5:
                        _apply(content, offset + at, data[at : at + SECTOR])
            left[file] = bytes(content)
        return left


def sent(name: str, arguments: str) -> bytes:
    """The bytes of a `sendto`."""
    text = _TEXT.search(arguments) if name == "sendto" else None
    return bytes.fromhex(text[1].replace("\\x", "")) if text else b""


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _decoded(path: str) -> str:
    return bytes.fromhex(path.replace("\\x", "")).decode() if path.startswith("\\x") else path
