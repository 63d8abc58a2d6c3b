"""What an import has fetched so far, kept on disk so that the next run goes on: also after kill -9 or a power cut.

    imports/<key>/lock            one run at a time
    imports/<key>/partial/<name>          bytes of a file that is not whole, by the SHA-256 of its path
    imports/<key>/partial/<name>.chunks   `<chunk> <BLAKE3>` a line, written after the chunk
    imports/<key>/partial/<name>.whole    SHA-256 of a file that is whole, where the source declares none
    imports/<key>/files/<path>    whole files that are what the source declares

`key` stands for one immutable state of one source, so nothing of another state is ever gone on with. Nothing that is found
is trusted: a kept chunk counts if it still has the BLAKE3 that was measured when it came, a whole file if it is measured
again and right.
"""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from modelreg import trees
from modelreg.cache import explained
from modelreg.digests import is_hex_64
from modelreg.durable import make_folder, sync_folder
from modelreg.errors import Conflict, ModelregError
from modelreg.sources import RemoteFile, Resolved

BLOCK_BYTES = 1024 * 1024
CHUNK_BYTES = 1024 * 1024  # what a connection that breaks, or a process that dies, has to fetch again
_LINE = re.compile(rb"([0-9]{1,9}) ([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True)
class Staging:
    """The folder of one source's state, locked."""

    folder: Path

    @property
    def files(self) -> Path:
        """Where whole files are; the folder that is published."""
        return self.folder / "files"

    def partial(self, file: RemoteFile) -> Path:
        """Where the bytes of a file are while it is not whole."""
        return self.folder / "partial" / hashlib.sha256(file.path.encode()).hexdigest()

    def journal(self, file: RemoteFile) -> Path:
        """Where it is written which of them are there."""
        return self.partial(file).with_suffix(".chunks")

    def is_whole(self, file: RemoteFile) -> bool:
        """Whether the file has its final name and size; says nothing about its bytes."""
        try:
            return (self.files / file.path).lstat().st_size == file.size
        except (FileNotFoundError, NotADirectoryError):
            return False

    def start(self, file: RemoteFile) -> dict[int, str]:
        """Make the partial file as long as the file; returns the chunks in it that are as they came, with their BLAKE3.

        What is found may be anything: a chunk of another length, a line that was cut, bytes that rotted.
        """
        path, journal = self.partial(file), self.journal(file)
        with explained(path):
            make_folder(path.parent)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                kept = self._kept(fd, file) if os.fstat(fd).st_size == file.size else {}
                os.ftruncate(fd, file.size)
            finally:
                os.close(fd)
            lines = [b"%d %s\n" % (at, digest.encode()) for at, digest in sorted(kept.items())]
            journal.write_bytes(b"".join(lines))
        return kept

    def note(self, file: RemoteFile, chunk: int, digest: str) -> None:
        """Remember that a chunk came; its bytes are in the partial file already."""
        fd = os.open(self.journal(file), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, b"%d %s\n" % (chunk, digest.encode()))
        finally:
            os.close(fd)

    def finish(self, file: RemoteFile, sha256: str) -> None:
        """Give a file its final name. It must have been measured, and held against what the source declares."""
        path, final = self.partial(file), self.files / file.path
        with explained(path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            path.with_suffix(".whole").write_text(sha256)
            make_folder(final.parent)
            path.rename(final)
            sync_folder(final.parent)
            self.journal(file).unlink(missing_ok=True)

    def whole_sha256(self, file: RemoteFile) -> str | None:
        """What a whole file had when it came."""
        try:
            text = self.partial(file).with_suffix(".whole").read_text()
        except (OSError, ValueError):
            return None
        return text if is_hex_64(text) else None

    def drop(self, file: RemoteFile) -> None:
        """Forget everything of a file: its bytes are wrong, and nobody could tell which."""
        partial = self.partial(file)
        for path in (partial, self.journal(file), partial.with_suffix(".whole"), self.files / file.path):
            path.unlink(missing_ok=True)

    def keep_only(self, resolved: Resolved) -> None:
        """Remove what does not belong to this source: the folder is published as it is."""
        wanted = {file.path for file in resolved.files}
        if self.files.exists():
            for path in set(trees.list_files(self.files)) - wanted:
                (self.files / path).unlink()

    def remove(self) -> None:
        """Everything was published: remove it all."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _kept(self, fd: int, file: RemoteFile) -> dict[int, str]:
        kept: dict[int, str] = {}
        try:
            lines = self.journal(file).read_bytes().splitlines()
        except FileNotFoundError:
            return kept
        for line in lines:
            if (match := _LINE.fullmatch(line)) is not None and int(match[1]) < chunk_count(file):
                kept[int(match[1])] = match[2].decode()
        return {at: digest for at, digest in kept.items() if chunk_digest(fd, file, at) == digest}


def chunk_count(file: RemoteFile) -> int:
    """How many chunks a file has; an empty one has none."""
    return -(-file.size // CHUNK_BYTES)


def chunk_range(file: RemoteFile, at: int) -> tuple[int, int]:
    """Where a chunk begins and ends."""
    return at * CHUNK_BYTES, min(file.size, (at + 1) * CHUNK_BYTES)


def chunk_digest(fd: int, file: RemoteFile, at: int) -> str:
    """BLAKE3 of a chunk as it is on disk now."""
    hasher = blake3()
    start, stop = chunk_range(file, at)
    while start < stop and (block := os.pread(fd, min(BLOCK_BYTES, stop - start), start)):
        hasher.update(block)
        start += len(block)
    return hasher.hexdigest()


@contextmanager
def opened(cache_dir: Path, resolved: Resolved) -> Iterator[Staging]:
    """The staging area of a source's state, for this run alone.

    Raises:
        Conflict: another run fetches the same.
        ModelregError: no space for what is to be fetched.
    """
    folder = cache_dir / "imports" / hashlib.sha256(resolved.key.encode()).hexdigest()
    with explained(folder):
        make_folder(folder / "files")
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another import of {resolved.source} runs on this machine; wait for it") from None
        staging = Staging(folder)
        _require_space(staging, resolved)
        yield staging
    finally:
        os.close(fd)


def _require_space(staging: Staging, resolved: Resolved) -> None:
    needed = sum(file.size for file in resolved.files)
    here = sum(path.stat().st_blocks * 512 for path in staging.folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(staging.folder).free + here
    if needed > free:
        raise ModelregError(
            f"{resolved.source} has {needed} bytes and there are {free} left at {staging.folder}; free some, or set "
            "cache_dir elsewhere",
            path=str(staging.folder),
        )
