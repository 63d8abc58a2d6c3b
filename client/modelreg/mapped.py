"""Which processes have a file mapped, and what bytes they really have (procfs; Linux).

A loader that maps its weights keeps the inode it opened. Whoever renames another file over the path changes nothing for
that process and everything for the next one; whoever writes into the file changes the running process at once. So a path
says nothing of a process: its mappings do.

    /proc/PID/maps         device, inode and path of every mapping, with " (deleted)" behind a name that is gone
    /proc/PID/map_files/   the mapped files themselves, to open; takes root (CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE)
    /proc/PID/fd/          second best, where the process kept its descriptor
    /proc/PID/environ      `MODELREG_ARTIFACT`, as `launch` sets it: finds runtimes that read and mapped nothing

Another user's processes can be seen by root only; how many were not is counted.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_DELETED = " (deleted)"
_MAPS_LINE = re.compile(
    r"(?P<range>[0-9a-f]+-[0-9a-f]+) \S+ [0-9a-f]+ (?P<major>[0-9a-f]+):(?P<minor>[0-9a-f]+) (?P<inode>\d+) +(?P<path>/.*)"
)
_ARTIFACT = re.compile(rb"(?:^|\0)MODELREG_ARTIFACT=(sha256:[0-9a-f]{64})(?:\0|$)")
_GONE = (FileNotFoundError, ProcessLookupError)
_FILE_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, order=True)
class Process:
    """A process that cannot be mistaken for a later one of the same id. `started` is in clock ticks since boot."""

    pid: int
    started: int

    def runs(self) -> bool:
        """Whether it still does; one that ended and was not waited for does not."""
        found = _look(self.pid)
        return found is not None and found[0] == self


@dataclass(frozen=True)
class Mapping:
    """A file that a process has mapped. `path` is what the kernel calls it now; `device` and `inode` what it is."""

    process: Process
    path: Path
    deleted: bool
    device: int
    inode: int
    range: str

    @contextmanager
    def opened(self) -> Iterator[int | None]:
        """A descriptor of the very file that is mapped, or None where this process may not have one."""
        fd = self._open()
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)

    def _open(self) -> int | None:
        folder = _PROC / str(self.process.pid)
        try:
            return os.open(folder / "map_files" / self.range, _FILE_FLAGS)
        except OSError:
            pass
        try:
            candidates = [*(folder / "fd").iterdir(), self.path]
        except OSError:
            candidates = [self.path]
        for path in candidates:
            try:
                fd = os.open(path, _FILE_FLAGS)
            except OSError:
                continue
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) == (self.device, self.inode):
                return fd
            os.close(fd)
        return None


@dataclass(frozen=True)
class Scan:
    """What the processes of this machine have: mappings that were asked for, and launched artifacts by process."""

    mappings: tuple[Mapping, ...]
    launched: dict[str, tuple[Process, ...]]
    unseen: int


def scan(wanted: Callable[[Path, int, int], bool]) -> Scan:
    """Look at every process but this one. O(mappings of the machine).

    Args:
        wanted: whether a mapping of this path, device and inode is of interest.
    """
    mappings: list[Mapping] = []
    launched: dict[str, list[Process]] = {}
    unseen = 0
    for pid in sorted(int(path.name) for path in _PROC.iterdir() if path.name.isdigit()):
        found = _look(pid) if pid != os.getpid() else None
        if found is None:
            continue
        process = found[0]
        try:
            mappings += _mappings_of(process, wanted)
            if match := _ARTIFACT.search((_PROC / str(pid) / "environ").read_bytes()):
                launched.setdefault(match[1].decode(), []).append(process)
        except _GONE:
            continue
        except OSError:
            unseen += 1
    return Scan(tuple(mappings), {artifact: tuple(found) for artifact, found in launched.items()}, unseen)


def topmost(processes: set[Process]) -> list[Process]:
    """Those whose parent is none of them: to stop a runtime is to stop the process that started its workers."""
    pids = {process.pid for process in processes}
    return sorted(process for process in processes if (found := _look(process.pid)) and found[1] not in pids)


def _mappings_of(process: Process, wanted: Callable[[Path, int, int], bool]) -> Iterator[Mapping]:
    seen: set[tuple[int, int]] = set()
    with (_PROC / str(process.pid) / "maps").open(encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            match = _MAPS_LINE.fullmatch(line.rstrip("\n"))
            if match is None:
                continue
            device, inode = os.makedev(int(match["major"], 16), int(match["minor"], 16)), int(match["inode"])
            name = match["path"].replace("\\012", "\n")
            path = Path(name.removesuffix(_DELETED))
            if (device, inode) not in seen and wanted(path, device, inode):
                seen.add((device, inode))
                yield Mapping(process, path, name.endswith(_DELETED), device, inode, match["range"])


def _look(pid: int) -> tuple[Process, int] | None:
    """The process and its parent's id, or None where there is none that runs."""
    try:
        raw = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The name in brackets is the process's own choice, brackets and all.
    state, parent, *rest = raw[raw.rindex(b")") + 2 :].split()
    if state in {b"Z", b"X", b"x"}:
        return None
    return Process(pid, int(rest[17])), int(parent)
