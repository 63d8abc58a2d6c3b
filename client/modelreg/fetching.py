"""Fetching the files of a source into a staging area: in ranges, on several connections, hashing what lands.

SHA-256 follows the chunks as they come, in order, whoever brings the next one; so a file is measured when it is whole, and
measured again when it is published. A file that is not what its source declares loses its bytes, not only its name.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial

from blake3 import blake3

from modelreg import connections, pieces
from modelreg.cache import explained
from modelreg.connections import Transient
from modelreg.errors import DigestMismatch, ModelregError, Unreachable
from modelreg.hashing import Progress
from modelreg.sources import GIT_SHA1, SHA256, RemoteFile, Resolved, Upstream
from modelreg.staging import BLOCK_BYTES, Staging, chunk_count, chunk_range

_CHUNKS_A_RANGE = 32  # 32 MiB: long enough for the round trip not to matter, short enough to share one file
_AT_ONCE = 256  # ranges that wait for a connection; a source may have thousands of files


@dataclass(frozen=True)
class Fetched:
    """What is in the staging area now. `sha256` by path, each measured in this run."""

    sha256: Mapping[str, str]
    transferred_bytes: int
    kept_bytes: int


def fetch(
    upstream: Upstream, resolved: Resolved, staging: Staging, *, connections_at_once: int, progress: Progress
) -> Fetched:
    """Bring every file of the source into the staging area; what is there already and right is not fetched again.

    Raises:
        DigestMismatch: a file is not what the source declares; nothing of it is kept.
        Unreachable, Unauthenticated, NotFound: the source stopped answering; the next run goes on.
    """
    staging.keep_only(resolved)
    run = _Run(upstream, staging, progress)
    pool = ThreadPoolExecutor(connections_at_once, "import")
    jobs: set[Future[None]] = set()
    try:
        for file in sorted(resolved.files, key=lambda file: -file.size):
            for job in run.begin(file):
                jobs.add(pool.submit(job))
                if len(jobs) >= _AT_ONCE:
                    jobs = _without_done(jobs)
        while jobs:
            jobs = _without_done(jobs)
    finally:
        run.stopped = True
        pool.shutdown(cancel_futures=True)
    return Fetched(run.sha256, run.transferred, run.kept)


def _without_done(jobs: set[Future[None]]) -> set[Future[None]]:
    """Wait for some of many jobs, or for all of few; raises what the first of them raised."""
    done, pending = wait(jobs, return_when=FIRST_EXCEPTION if len(jobs) < _AT_ONCE else FIRST_COMPLETED)
    for job in done:
        job.result()
    return pending


@dataclass
class _Run:
    """One run of `fetch`."""

    upstream: Upstream
    staging: Staging
    progress: Progress
    sha256: dict[str, str] = field(default_factory=dict)
    transferred: int = 0
    kept: int = 0
    stopped: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, file: RemoteFile) -> list[Callable[[], None]]:
        """What is to be done for a file. The first job measures what is kept, and may find that nothing else is needed."""
        if self.staging.is_whole(file):
            return [partial(self._again, file)]
        if not file.ranged:
            self.staging.drop(file)  # nobody knows whether the rest would belong to it
        have = self.staging.start(file)
        self._count_kept(sum(_size(file, at) for at in have))
        landing = _Landing(self, file, have)
        missing = [at for at in range(chunk_count(file)) if at not in have]
        if not missing:
            return [landing.settle]
        runs = pieces.runs(missing, _CHUNKS_A_RANGE if file.ranged else len(missing))
        landing.open_runs = len(runs)
        return [partial(landing.fetch, run) for run in runs]

    def add(self, count: int) -> None:
        with self._lock:
            self.transferred += count

    def keep(self, file: RemoteFile, sha256: str) -> None:
        with self._lock:
            self.sha256[file.path] = sha256

    def _count_kept(self, count: int) -> None:
        with self._lock:
            self.kept += count
        self.progress(count)

    def _again(self, file: RemoteFile) -> None:
        """Measure a file that was whole in an earlier run; one that is not right any more is fetched anew."""
        measured = _Measure(file)
        path = self.staging.files / file.path
        with path.open("rb") as opened:
            while block := opened.read(BLOCK_BYTES):
                measured.update(block)
        declares = file.declared.keys() & {SHA256, GIT_SHA1}
        right = measured.problem() is None if declares else measured.sha256 == self.staging.whole_sha256(file)
        if right:
            self._count_kept(file.size)
            self.keep(file, measured.sha256)
            return
        self.staging.drop(file)
        for job in self.begin(file):
            job()


@dataclass
class _Landing:
    """A file whose chunks come in any order; `_next` is the first that SHA-256 has not read."""

    run: _Run
    file: RemoteFile
    landed: dict[int, str]
    open_runs: int = 0
    _next: int = 0
    _reading: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._measure = _Measure(self.file)

    def fetch(self, chunks: range) -> None:
        """Fetch neighbouring chunks; what arrived is not asked for again."""
        while chunks:
            chunks = connections.with_retries(partial(self._receive, chunks))
        with self._lock:
            self.open_runs -= 1
            last = self.open_runs == 0
        if last:
            self.settle()

    def settle(self) -> None:
        """Every chunk is there: hold the file against what is declared, and give it its name.

        Raises:
            DigestMismatch: it is something else; its bytes are gone.
        """
        self._read_on()
        assert self._next == chunk_count(self.file)
        if (problem := self._measure.problem()) is not None:
            self.run.staging.drop(self.file)
            raise problem
        self.run.staging.finish(self.file, self._measure.sha256)
        self.run.keep(self.file, self._measure.sha256)

    def _receive(self, chunks: range) -> range:
        """Fetch a run of chunks in one request; returns those that did not arrive, if any did.

        Raises:
            Transient: none did, or not all of a file that comes in one piece.
        """
        try:
            self._stream(chunks)
        except Transient:
            if chunks[0] not in self.landed or not self.file.ranged:
                raise
        arrived = next((count for count, at in enumerate(chunks) if at not in self.landed), len(chunks))
        if arrived == 0 or (arrived < len(chunks) and not self.file.ranged):
            raise Transient(f"{self.file.uri} broke off")
        return chunks[arrived:]

    def _stream(self, chunks: range) -> None:
        start, stop = chunk_range(self.file, chunks[0])[0], chunk_range(self.file, chunks[-1])[1]
        path = self.run.staging.partial(self.file)
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with self.run.upstream.open_range(self.file, start, stop) as blocks:
                hasher, offset, at = blake3(), start, chunks[0]
                for block in blocks:
                    if self.run.stopped:
                        raise ModelregError("another file failed")
                    self.run.add(len(block))
                    view = memoryview(block)
                    while view:
                        end = chunk_range(self.file, at)[1]
                        piece = view[: end - offset]
                        if at not in chunks or not piece:
                            raise Transient(f"{self.file.uri} sent more than was asked for")
                        hasher.update(piece)
                        with explained(path):
                            pieces.write_at(fd, piece, offset)
                        offset += len(piece)
                        view = view[len(piece) :]
                        if offset == end:
                            self._land(at, hasher.hexdigest())
                            hasher, at = blake3(), at + 1
        finally:
            os.close(fd)

    def _land(self, at: int, digest: str) -> None:
        if (before := self.landed.get(at)) is not None:
            # In one piece from the start again, and SHA-256 has read the first try.
            if before != digest:
                raise Unreachable(f"{self.file.uri} changed while it was fetched; import again")
            return
        if self.file.ranged:
            self.run.staging.note(self.file, at, digest)
        self.run.progress(_size(self.file, at))
        with self._lock:
            self.landed[at] = digest
        self._read_on()

    def _read_on(self) -> None:
        """Let SHA-256 read what follows on what it has read; one thread at a time, and nobody waits for it."""
        with self._lock:
            if self._reading:
                return
            self._reading = True
        fd = -1
        try:
            fd = os.open(self.run.staging.partial(self.file), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            while True:
                with self._lock:
                    if self._next not in self.landed:
                        self._reading = False
                        return
                self._measure.read(fd, *chunk_range(self.file, self._next))
                self._next += 1
        finally:
            if fd >= 0:
                os.close(fd)


class _Measure:
    """The digests of a file whose bytes come in order."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._git = None
        if GIT_SHA1 in file.declared:
            self._git = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)  # git's, and all that is declared

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def update(self, block: bytes) -> None:
        self._sha256.update(block)
        if self._git is not None:
            self._git.update(block)

    def read(self, fd: int, start: int, stop: int) -> None:
        """Read a range that was written a moment ago."""
        while start < stop:
            block = os.pread(fd, min(BLOCK_BYTES, stop - start), start)
            if not block:
                raise ModelregError(f"{ascii(self._file.path)[1:-1]} became shorter while it was fetched")
            self.update(block)
            start += len(block)

    def problem(self) -> DigestMismatch | None:
        """Why the bytes are not what the source declares, or None."""
        found = {SHA256: self.sha256, GIT_SHA1: self._git.hexdigest() if self._git is not None else ""}
        for algorithm, measured in found.items():
            declared = self._file.declared.get(algorithm)
            if declared is not None and declared != measured:
                path = ascii(self._file.path)[1:-1]
                return DigestMismatch(
                    f"{path}: the source declares {algorithm}:{declared}, received was {algorithm}:{measured}; nothing of it "
                    "was kept. Import again; if it stays so, the source or the way to it was tampered with",
                    path=self._file.path,
                    expected=f"{algorithm}:{declared}",
                    measured=f"{algorithm}:{measured}",
                )
        return None


def _size(file: RemoteFile, at: int) -> int:
    start, stop = chunk_range(file, at)
    return stop - start
