"""What this machine has to tell the registry and could not: a durable queue, delivered in order later.

    <state_dir>/outbox/<registry>/0000000000000042.json    one report; the name is its place
                                  add.lock, deliver.lock   held while one is added, while they are delivered
                                  rejected/                what the registry refused for good, with its reason

A report is on disk before what it tells of happens, and is removed after the registry has recorded it: killed in between it
is sent twice, and reports can be repeated. Entries are what this user's processes wrote; one that cannot be read is set
aside like one that is refused, so that it does not hold up the others.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from modelreg.durable import make_folder, replace_file, sync_folder
from modelreg.errors import ModelregError, RecordUnavailable, Unauthenticated, Unreachable, Untrusted

SCHEMA = "modelreg/queued-report/v1"
MAX_QUEUED = 10_000
RESERVED = 1_000  # of them for ends of loads: who was allowed to start must be able to say that it ended
MAX_REPORT_BYTES = 16 * 1024
MAX_REJECTED = 1_000  # the newest; older ones are removed
ADD_SECONDS = 30.0  # for another command that adds one; that takes milliseconds

Kind = Literal["received", "loaded", "unloaded"]
# Trying again later may help: the registry is away, its log is, or this machine's credential is not in order.
_LATER = (Unreachable, RecordUnavailable, Unauthenticated)


@dataclass(frozen=True)
class Queued:
    """A report: for which grant (`received`, `loaded`) or load (`unloaded`), under which repository, as it will be sent."""

    kind: Kind
    subject: str
    repository: str
    artifact: str
    host: str
    purpose: str
    report: dict[str, Any]

    def dump(self) -> bytes:
        """The file's bytes."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1).encode()

    @classmethod
    def load(cls, raw: bytes) -> Self:
        """Read a file back.

        Raises:
            ValueError: it is none of ours.
        """
        members = json.loads(raw)
        if not isinstance(members, dict) or members.pop("schema", None) != SCHEMA:
            raise ValueError("not a queued report")
        try:
            found = cls(**members)
        except TypeError:
            raise ValueError("not the members of a queued report") from None
        texts = (found.subject, found.repository, found.artifact, found.host, found.purpose)
        if found.kind not in get_args(Kind) or not isinstance(found.report, dict):
            raise ValueError("a queued report of an unknown kind")
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a queued report with another type of member")
        return found


@dataclass(frozen=True)
class Delivered:
    """What a delivery came to: `stopped` says why it went no further, if it did not reach the end."""

    sent: int = 0
    rejected: int = 0
    left: int = 0
    stopped: str | None = None


class Outbox:
    """The queue for one registry, below one folder. Several processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return len(self._names())

    def add(self, queued: Queued) -> Path:
        """Put a report at the end; durable when this returns.

        Raises:
            RecordUnavailable: the queue is full, or the report is larger than one may be.
        """
        raw = queued.dump()
        if len(raw) > MAX_REPORT_BYTES:
            raise RecordUnavailable(f"a report of {len(raw)} bytes; the limit of the queue is {MAX_REPORT_BYTES}")
        with self._locked("add") as held:
            if not held:
                raise RecordUnavailable(
                    f"another modelreg command holds {self.folder / 'add.lock'} and does not let go"
                )
            names = self._names()
            if len(names) >= MAX_QUEUED - (0 if queued.kind == "unloaded" else RESERVED):
                raise RecordUnavailable(
                    f"{len(names)} reports wait in {self.folder} for the registry, which is as many as may; when it answers "
                    "again run `modelreg report`"
                )
            # Past every number that was ever used: a name that is free again must not come before those that wait.
            path = self.folder / f"{max(int(names[-1][:-5]) if names else 0, self._last()) + 1:016d}.json"
            replace_file(path, raw, mode=0o600)
            replace_file(self.folder / "last", path.stem.encode(), mode=0o600)
        return path

    def deliver(self, send: Callable[[Queued], object], *, wait_seconds: float = 0.0) -> Delivered:
        """Send what waits, oldest first, and remove what was recorded. One process at a time; others wait so long for it.

        `send` raises what the registry answers. A refusal for good sets the report aside with its reason; trouble that may
        pass stops the delivery, so that the order stays. What does not hold of an answer stops it too.
        """
        sent = rejected = 0
        if not self.folder.is_dir() or not self._names():
            return Delivered()
        with self._locked("deliver", wait_seconds) as held:
            if not held:
                return Delivered(left=len(self), stopped="another command delivers them now")
            for name in self._names():
                path = self.folder / name
                try:
                    queued = Queued.load(path.read_bytes())
                except (OSError, ValueError) as error:
                    self._set_aside(path, str(error))
                    rejected += 1
                    continue
                try:
                    send(queued)
                except (*_LATER, Untrusted) as error:
                    return Delivered(sent, rejected, len(self._names()), f"{error.title}: {error.detail}")
                except ModelregError as error:
                    self._set_aside(path, f"{error.code}: {error.detail}")
                    rejected += 1
                    continue
                path.unlink(missing_ok=True)
                sync_folder(self.folder)
                sent += 1
        return Delivered(sent, rejected, len(self._names()))

    def _names(self) -> list[str]:
        """The files of the queue, in order; nothing else in the folder is one."""
        try:
            found = os.listdir(self.folder)  # noqa: PTH208  # names, not paths
        except FileNotFoundError:
            return []
        return sorted(name for name in found if len(name) == 21 and name.endswith(".json") and name[:16].isdecimal())

    def _last(self) -> int:
        try:
            return int((self.folder / "last").read_text("ascii")[:16])
        except (FileNotFoundError, ValueError):
            return 0

    def _set_aside(self, path: Path, reason: str) -> None:
        rejected = self.folder / "rejected"
        make_folder(rejected)
        replace_file(rejected / f"{path.stem}.reason", reason[:1000].encode("utf-8", "replace"), mode=0o600)
        path.rename(rejected / path.name)
        sync_folder(rejected)
        sync_folder(self.folder)
        kept = sorted(rejected.glob("*.json"))
        for old in kept[:-MAX_REJECTED]:
            old.unlink(missing_ok=True)
            old.with_suffix(".reason").unlink(missing_ok=True)

    @contextmanager
    def _locked(self, what: str, wait_seconds: float = ADD_SECONDS) -> Iterator[bool]:
        """Adding and delivering have a lock each: what is to be told now must not wait for a registry that is slow."""
        make_folder(self.folder)
        fd = os.open(self.folder / f"{what}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            until = time.monotonic() + wait_seconds
            while not (held := _taken(fd)) and time.monotonic() < until:
                time.sleep(0.05)
            yield held
        finally:
            os.close(fd)


def _taken(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
