"""What this machine has seen of custody logs: the newest checkpoint of each, which every later one must continue.

    <state_dir>/logs/<origin>-<digest>/checkpoint    the signed note; replaced only by one that was proven to continue it
                                       tags.json     the version of each tag, as its last answer gave it
                                       lock          held from the question to the verified answer

The lock spans the request: two commands that asked with the same checkpoint would each get a proof from it, and nothing
would show that their two answers are one log. Remove a log's folder and the machine forgets: a rollback goes unnoticed once.
"""

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modelreg import checkpoints, notes
from modelreg.checkpoints import Checkpoint
from modelreg.durable import make_folder, replace_file
from modelreg.errors import LogForked, LogNotIntact, LogRolledBack, Misconfigured, Unreachable
from modelreg.trust import LogTrust

WAIT_SECONDS = 120.0  # for another command's question to the same registry
_UNSAFE = re.compile(r"[^A-Za-z0-9.-]+", re.ASCII)


@dataclass
class Seen:
    """The newest checkpoint of one log on this machine, while its lock is held. `newest` is None at first sight."""

    folder: Path
    newest: Checkpoint | None

    @property
    def size(self) -> int | None:
        """What to ask a consistency proof from."""
        return self.newest.size if self.newest is not None else None

    def advance(self, verified: Checkpoint) -> None:
        """Remember a checkpoint that was verified to continue the newest one; durable when this returns."""
        if self.newest is not None and verified.size <= self.newest.size:
            assert (verified.size, verified.root) == (self.newest.size, self.newest.root)
            return
        replace_file(self.folder / "checkpoint", verified.note, mode=0o600)
        self.newest = verified

    def require_tag(self, repository: str, tag: str, version: int, artifact: str) -> None:
        """Refuse a tag that went back: its version is the index of the event that moved it, which only grows.

        Raises:
            LogRolledBack: an older version than this machine has seen.
            LogForked: the same version, pointing elsewhere.
            Misconfigured: the memory is damaged.
        """
        known_version, known_artifact = self._tags().get(f"{repository}:{tag}", (-1, ""))
        if version < known_version:
            raise LogRolledBack(
                f"{repository}:{tag} was moved by entry {version}, says the registry, and this machine has seen it moved by "
                f"entry {known_version}: an old answer"
            )
        if version == known_version and artifact != known_artifact:
            raise LogForked(
                f"{repository}:{tag} points at {artifact} since entry {version}, says the registry, and it pointed at "
                f"{known_artifact} since the same entry before"
            )

    def remember_tag(self, repository: str, tag: str, version: int, artifact: str) -> None:
        """Remember where a tag points; durable when this returns."""
        tags = self._tags()
        if tags.get(f"{repository}:{tag}") != (version, artifact):
            tags[f"{repository}:{tag}"] = (version, artifact)
            replace_file(self.folder / "tags.json", json.dumps(tags, indent=1).encode(), mode=0o600)

    def _tags(self) -> dict[str, tuple[int, str]]:
        path = self.folder / "tags.json"
        try:
            found = json.loads(path.read_text("utf-8"))
            return {name: (int(version), str(artifact)) for name, (version, artifact) in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise _damaged(path, str(error)) from None


@contextmanager
def held(state_dir: Path, trusted: LogTrust) -> Iterator[Seen]:
    """Hold what is known of a log against other commands, for one question to its registry.

    Raises:
        Misconfigured: the memory is damaged.
        Unreachable: another command has waited for the same registry all the while.
    """
    folder = folder_of(state_dir, trusted)
    make_folder(folder)
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _wait(fd, folder)
        yield Seen(folder, newest(state_dir, trusted))
    finally:
        os.close(fd)


def newest(state_dir: Path, trusted: LogTrust) -> Checkpoint | None:
    """The newest checkpoint that this machine has seen, or None.

    It was verified when it was written; the log's keys may have been changed since. What a pinned key has signed is held
    against that key again, so that a flipped bit does not pass for a fork.

    Raises:
        Misconfigured: it cannot be read, or is damaged.
    """
    path = folder_of(state_dir, trusted) / "checkpoint"
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from None
    try:
        found = checkpoints.parse(raw)
        notes.verified_by(notes.parse(raw), (*trusted.keys, *trusted.witnesses))
    except LogNotIntact as error:
        raise _damaged(path, error.detail) from None
    if found.origin != trusted.origin:
        raise _damaged(path, f"it is of the log {found.origin[:200]}")
    return found


def folder_of(state_dir: Path, trusted: LogTrust) -> Path:
    """Where a log is remembered: a readable name, and a digest that tells two apart."""
    digest = hashlib.sha256(trusted.origin.encode()).hexdigest()[:16]
    return state_dir / "logs" / f"{_UNSAFE.sub('-', trusted.origin)[:80]}-{digest}"


def _wait(fd: int, folder: Path) -> None:
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise Unreachable(
                    f"another modelreg command has been asking this registry for {WAIT_SECONDS:.0f} s (it holds "
                    f"{folder / 'lock'})"
                ) from None
            time.sleep(0.02)


def _damaged(path: Path, why: str) -> Misconfigured:
    return Misconfigured(
        f"{path}, what this machine has seen of a custody log, is damaged: {why}; restore it from a backup, or remove it to "
        "forget what was seen (a log that was rolled back would then pass once)",
        path=str(path),
    )
