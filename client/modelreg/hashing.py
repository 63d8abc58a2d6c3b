"""Measuring files: several digests in one read, many threads, never a whole file in memory.

Two jobs. `hash_tree` measures everything a manifest says (SHA-256, BLAKE3, BLAKE3 of every chunk) in one read of each
file; SHA-256 is the slow one, so BLAKE3 runs beside it on another thread. `check_files` holds files against digests
already known, with BLAKE3 by chunk on all cores; it never trusts a time stamp.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from blake3 import blake3

from modelreg import manifests, trees
from modelreg.errors import Conflict, DigestMismatch, Invalid, ManifestInvalid
from modelreg.manifests import FileEntry

T = TypeVar("T")
Progress = Callable[[int], None]  # bytes done since the last call; called from any thread

_BLOCK_BYTES = 512 * 1024  # stays inside L2, and half the calls of 256 KiB; from 1 MiB on it does not
_WHOLE_BLOCK_BYTES = 4 * 1024 * 1024  # a BLAKE3 over a whole big file splits each block over the cores; 8 MiB: slower
_MAX_REPORTED = 100


def hash_tree(
    root: Path,
    *,
    left_out: frozenset[str] = frozenset(),
    chunk_bytes: int = manifests.CHUNK_BYTES,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[FileEntry]:
    """Measure every file below a folder. Reads each file once; at most one chunk a thread is in memory.

    Raises:
        NotFound, Invalid: as `trees.list_files`.
        ManifestInvalid: a name no manifest may hold (before anything is read).
        Conflict: a file changed while it was read.
    """
    paths = trees.list_files(root, left_out)
    manifests.require_names(paths)
    workers = threads or _cores()
    with (
        trees.open_folder(root) as folder_fd,
        ThreadPoolExecutor(workers, "hash") as pool,
        ThreadPoolExecutor(workers, "hash-blake3") as blake3_pool,
    ):
        # Big files first: the last file to finish should be a small one.
        sizes = {path: _size_of(folder_fd, path) for path in paths}
        jobs = [
            pool.submit(_hash_file, folder_fd, path, chunk_bytes, blake3_pool, progress)
            for path in sorted(paths, key=lambda path: -sizes[path])
        ]
        return sorted(_results(jobs), key=lambda entry: entry.path)


def hash_file(path: Path, *, progress: Progress | None = None) -> FileEntry:
    """Measure one file, wherever it is, through links as well; its name stands as the entry's path.

    Raises:
        OSError: it cannot be read.
        Conflict: it changed while it was read.
    """
    path = path.resolve()
    with trees.open_folder(path.parent) as folder_fd, ThreadPoolExecutor(1, "hash-blake3") as pool:
        return _hash_file(folder_fd, path.name, manifests.CHUNK_BYTES, pool, progress)


@dataclass(frozen=True)
class Problem:
    """One file that is not what was promised. `chunk` counts from 0; None where the whole file was measured."""

    path: str
    what: str
    expected: str | None = None
    measured: str | None = None
    chunk: int | None = None

    def __str__(self) -> str:
        where = f"{ascii(self.path)[1:-1]}" + (f", chunk {self.chunk}" if self.chunk is not None else "")
        if self.expected is None:
            return f"{where}: {self.what}"
        return f"{where}: {self.what} (expected {self.expected}, measured {self.measured})"


def check_files(
    root: Path,
    entries: Sequence[FileEntry],
    *,
    chunk_bytes: int = manifests.CHUNK_BYTES,
    left_out: frozenset[str] = frozenset(),
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Hold a folder against verified entries: the same names, nothing extra, every byte (step 9 of `verification`).

    An entry without `blake3` (a foreign signature) is measured with SHA-256, one of size -1 has no stated size. Reads
    each file once, by chunk on all cores.

    Raises:
        DigestMismatch: the first problem in the message, up to a hundred in the fact `problems`.
        ManifestInvalid: no entry at all; an empty folder proves nothing.
        NotFound, Invalid: as `trees.list_files`.
    """
    if not entries:
        raise ManifestInvalid("an artifact needs at least one file")
    expected = {entry.path for entry in entries}
    present = set(trees.list_files(root, left_out))
    problems = [Problem(path, "missing") for path in sorted(expected - present)]
    problems += [Problem(path, "not part of the artifact") for path in sorted(present - expected)]
    # One thread more than cores: somebody always waits for a read.
    with trees.open_folder(root) as folder_fd, ThreadPoolExecutor(threads or _cores() + 1, "check") as pool:
        jobs: list[Future[list[Problem]]] = []
        whole = []
        for entry in entries:
            if entry.path in present and _uses_every_core(entry, chunk_bytes):
                whole.append(entry)
            elif entry.path in present:
                jobs += _check_jobs(pool, folder_fd, entry, chunk_bytes, progress)
        for found in _results(jobs):
            problems += found
        for entry in whole:  # one after the other, when the pool is idle: they would take the cores from each other
            problems += _check_whole(folder_fd, entry, progress)
    if problems:
        first, more = problems[0], len(problems) - 1
        raise DigestMismatch(
            f"{root}: {first}" + (f", and {more} more" if more else ""),
            problems=[vars(problem) for problem in problems[:_MAX_REPORTED]],
        )


def wrong_chunks(fd: int, entry: FileEntry, chunk_bytes: int) -> list[int]:
    """The chunks of an open, maybe partial file that do not hold the right bytes (for resuming). One thread."""
    problems = _check_run(fd, entry, chunk_bytes, range(len(entry.chunk_digests())), None)
    return [problem.chunk or 0 for problem in problems]


def _uses_every_core(entry: FileEntry, chunk_bytes: int) -> bool:
    """A big file without chunk digests, as a signature alone describes it: only BLAKE3 itself can split the work."""
    return bool(entry.blake3) and len(entry.chunk_digests()) == 1 and entry.size > chunk_bytes


def _check_jobs(
    pool: ThreadPoolExecutor, folder_fd: int, entry: FileEntry, chunk_bytes: int, progress: Progress | None
) -> Iterable[Future[list[Problem]]]:
    """One job for a small file or one measured with SHA-256, several for a big one."""
    count = len(entry.chunk_digests())
    if not entry.blake3:
        yield pool.submit(_check_whole, folder_fd, entry, progress)
        return
    run = 8  # chunks a job: 64 MiB, enough to hide the cost of opening the file again
    for start in range(0, count, run):
        chunks = range(start, min(count, start + run))
        yield pool.submit(_check_opened, folder_fd, entry, chunk_bytes, chunks, progress)


def _check_opened(
    folder_fd: int, entry: FileEntry, chunk_bytes: int, chunks: range, progress: Progress | None
) -> list[Problem]:
    try:
        with trees.open_below(folder_fd, entry.path) as fd:
            if (size := os.fstat(fd).st_size) != entry.size:
                # Reported once, by the job that has the first chunk.
                return [_size_problem(entry, size)] if chunks.start == 0 else []
            return _check_run(fd, entry, chunk_bytes, chunks, progress)
    except (OSError, Invalid) as error:
        return [Problem(entry.path, f"cannot be read: {error}")]


def _check_run(fd: int, entry: FileEntry, chunk_bytes: int, chunks: range, progress: Progress | None) -> list[Problem]:
    buffer = memoryview(bytearray(_BLOCK_BYTES))
    digests = entry.chunk_digests()
    problems = []
    for at in chunks:
        hasher = blake3()
        start, stop = at * chunk_bytes, min(entry.size, (at + 1) * chunk_bytes)
        while start < stop:
            count = os.preadv(fd, [buffer[: stop - start]], start)
            if count == 0:
                break
            hasher.update(buffer[:count])
            start += count
            if progress:
                progress(count)
        measured = hasher.hexdigest()
        if start != stop or measured != digests[at]:
            chunk = at if len(digests) > 1 else None
            problems.append(Problem(entry.path, "wrong bytes", f"blake3:{digests[at]}", f"blake3:{measured}", chunk))
    return problems


def _check_whole(folder_fd: int, entry: FileEntry, progress: Progress | None) -> list[Problem]:
    algorithm = "blake3" if entry.blake3 else "sha256"
    hasher = blake3(max_threads=blake3.AUTO) if entry.blake3 else hashlib.sha256()
    try:
        with trees.open_below(folder_fd, entry.path) as fd:
            size = os.fstat(fd).st_size
            if entry.size >= 0 and size != entry.size:
                return [_size_problem(entry, size)]
            for block in _read_ahead(fd, min(_WHOLE_BLOCK_BYTES, size + 1)):
                hasher.update(block)
                if progress:
                    progress(len(block))
    except (OSError, Invalid) as error:
        return [Problem(entry.path, f"cannot be read: {error}")]
    expected, measured = entry.blake3 or entry.sha256, hasher.hexdigest()
    if measured == expected:
        return []
    return [Problem(entry.path, "wrong bytes", f"{algorithm}:{expected}", f"{algorithm}:{measured}")]


def _read_ahead(fd: int, block_bytes: int) -> Iterator[memoryview]:
    """The file in blocks, the next one read while the caller works on this one; a block lives until the next is asked for.

    Half again as fast as reading in turn. Mapping the file would be faster still, and a truncated file would kill us.
    """
    buffers = [memoryview(bytearray(block_bytes)) for _ in range(2)]
    with ThreadPoolExecutor(1, "read-ahead") as reader:
        offset, turn = 0, 0
        ahead = reader.submit(os.preadv, fd, [buffers[0]], 0)
        while count := ahead.result():
            offset += count
            block = buffers[turn][:count]
            turn = 1 - turn
            ahead = reader.submit(os.preadv, fd, [buffers[turn]], offset)
            yield block


def _size_problem(entry: FileEntry, size: int) -> Problem:
    return Problem(entry.path, "wrong size", f"{entry.size} bytes", f"{size} bytes")


class Measure:
    """SHA-256, BLAKE3 and BLAKE3 per chunk of bytes that arrive in order, for whoever reads them from elsewhere.

    Feed whole chunks (`chunk_bytes` each, the last may be shorter). With a pool, BLAKE3 runs on a thread of its own.
    """

    def __init__(self, chunk_bytes: int, pool: ThreadPoolExecutor | None = None) -> None:
        self._pool = pool
        self._chunk_bytes = chunk_bytes
        self._sha256 = hashlib.sha256()
        self._blake3 = blake3()
        self._chunks: list[str] = []
        self.size = 0

    def update(self, chunk: memoryview | bytes) -> None:
        """Add the next chunk. Returns when both digests have read it, so the caller may reuse the buffer."""
        if self.size % self._chunk_bytes:
            raise ValueError("only the last chunk may be short")
        beside = self._pool.submit(self._update_blake3, chunk) if self._pool else None
        self._sha256.update(chunk)
        if beside:
            beside.result()
        else:
            self._update_blake3(chunk)
        self.size += len(chunk)

    def _update_blake3(self, chunk: memoryview | bytes) -> None:
        self._blake3.update(chunk)
        self._chunks.append(blake3(chunk).hexdigest())

    def entry(self, path: str) -> FileEntry:
        """What was measured, as a manifest writes it."""
        chunks = tuple(self._chunks) if len(self._chunks) > 1 else ()
        return FileEntry(path, self.size, self._sha256.hexdigest(), self._blake3.hexdigest(), chunks)


def _hash_file(
    folder_fd: int, path: str, chunk_bytes: int, blake3_pool: ThreadPoolExecutor, progress: Progress | None
) -> FileEntry:
    with trees.open_below(folder_fd, path) as fd:
        before = os.fstat(fd)
        small = before.st_size <= chunk_bytes
        buffer = memoryview(bytearray(min(chunk_bytes, before.st_size + 1)))
        measure = Measure(chunk_bytes, None if small else blake3_pool)
        while count := _fill(fd, buffer):
            measure.update(buffer[:count])
            if progress:
                progress(count)
            # The end, or past it: a file that grows is refused below, and not read for as long as it grows.
            if count < len(buffer) or measure.size > before.st_size:
                break
        after = os.fstat(fd)
    # A writer leaves a mark here; one that forges the times is caught when the bytes are measured again.
    if _identity(before) != _identity(after) or measure.size != after.st_size:
        raise Conflict(f"{path} changed while it was read; stop the writer and try again", path=path)
    return measure.entry(path)


def _fill(fd: int, buffer: memoryview) -> int:
    """Read until the buffer is full or the file ends."""
    filled = 0
    while filled < len(buffer):
        count = os.readv(fd, [buffer[filled : filled + 1024 * 1024]])
        if count == 0:
            break
        filled += count
    return filled


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _size_of(folder_fd: int, path: str) -> int:
    return os.stat(path, dir_fd=folder_fd, follow_symlinks=False).st_size


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _results(jobs: Sequence[Future[T]]) -> list[T]:
    """All results; the first failure, also an interrupt, cancels what has not started."""
    try:
        return [job.result() for job in jobs]
    except BaseException:
        for job in jobs:
            job.cancel()
        raise
