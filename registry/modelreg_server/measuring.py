"""The server measures every uploaded blob itself, reading it back: what a client states is only a claim.

Measuring a large blob outlives any sensible request, so it runs on a small pool and requests look in on it. A process
that dies loses only the work; the next request starts it again.
"""

import hashlib
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field

from modelreg.errors import DigestMismatch
from modelreg.hashing import Measure
from modelreg.manifests import CHUNK_BYTES, FileEntry
from modelreg_server.storage import BlobStore, Upload


@dataclass(frozen=True)
class BlobFacts:
    """What is said or found of a blob: hex digests, bytes; `chunks_sha256` stands for all chunk digests."""

    blake3: str
    sha256: str
    chunks_sha256: str
    size_bytes: int


def facts_of(entry: FileEntry) -> BlobFacts:
    """The facts a manifest states of a file's bytes."""
    chunks = hashlib.sha256("".join(entry.chunk_digests()).encode()).hexdigest()
    return BlobFacts(entry.blake3, entry.sha256, chunks, entry.size)


@dataclass
class _Job:
    future: Future[None]
    progress: list[int] = field(default_factory=lambda: [0])


class Measuring:
    """Measurements under way in this process, one for each upload."""

    def __init__(self, store: BlobStore, threads: int) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(threads, "measure")
        self._blake3_pool = ThreadPoolExecutor(threads, "measure-blake3")
        self._jobs: dict[str, _Job] = {}
        self._lock = threading.Lock()

    def wait(self, upload: Upload, declared: BlobFacts, seconds: float) -> int | None:
        """Finish the upload and measure it, waiting at most `seconds`.

        Returns:
            None when the blob is what was declared, else the bytes measured so far; ask again.

        Raises:
            DigestMismatch: it is not; the caller discards the upload.
            BlobMissing, StorageUnavailable, Conflict: from the store.
        """
        with self._lock:
            job = self._jobs.get(upload.key)
            if job is None:
                progress = [0]
                future = self._pool.submit(self._measure, upload, declared, progress)
                job = self._jobs[upload.key] = _Job(future, progress)
        try:
            job.future.result(seconds)
        except NotYet:
            if not job.future.done():
                return job.progress[0]
            raise
        finally:
            if job.future.done():
                with self._lock:
                    self._jobs.pop(upload.key, None)
        return None

    def close(self) -> None:
        """Stop taking work; what runs is abandoned (measuring changes nothing)."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._blake3_pool.shutdown(wait=False, cancel_futures=True)

    def _measure(self, upload: Upload, declared: BlobFacts, progress: list[int]) -> None:
        self._store.finish(upload)
        measure = Measure(CHUNK_BYTES, self._blake3_pool if declared.size_bytes > CHUNK_BYTES else None)
        chunk = bytearray()
        for block in self._store.read(upload.key, 0, upload.size_bytes):
            chunk += block
            progress[0] += len(block)
            if len(chunk) >= CHUNK_BYTES:
                measure.update(memoryview(chunk)[:CHUNK_BYTES])
                chunk = chunk[CHUNK_BYTES:]
        if chunk:
            measure.update(memoryview(chunk))
        measured = facts_of(measure.entry(""))
        if measured != declared:
            raise DigestMismatch(
                "the blob arrived with other bytes than the manifest says; the upload is discarded, push again",
                expected=f"blake3:{declared.blake3} sha256:{declared.sha256}",
                measured=f"blake3:{measured.blake3} sha256:{measured.sha256}",
            )
