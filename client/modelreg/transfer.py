"""Moving blobs in ranges and parts, on several connections, measuring every chunk as it lands.

Nothing here decides what is right: a download is held against the chunk digests of a `VerifiedManifest`, an upload is
measured by the server. Wrong chunks are fetched again a few times, then refused by name.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3
from urllib3.exceptions import HTTPError

from modelreg import connections, pieces, trees, wire
from modelreg.api import Api
from modelreg.cache import Cache, explained
from modelreg.connections import Transient
from modelreg.errors import BlobMissing, DigestMismatch, ModelregError, Unreachable
from modelreg.hashing import Progress, wrong_chunks
from modelreg.manifests import FileEntry
from modelreg.verification import VerifiedManifest

_BLOCK_BYTES = 256 * 1024
_CHUNKS_A_RANGE = 4  # 32 MiB: long enough for the round trip not to matter, short enough to share one file
_WRONG_TRIES = 3  # of one chunk, before the store is believed to hold wrong bytes
_URL_BATCH = 64
_URL_MARGIN_SECONDS = 15.0


def download(
    api: Api,
    grant: wire.Grant,
    verified: VerifiedManifest,
    cache: Cache,
    *,
    connections_at_once: int,
    progress: Progress,
) -> int:
    """Fetch every blob of the artifact that the store does not have; returns the bytes that were transferred.

    Each file is opened, resumed, fetched and admitted on its own, so an interrupted run keeps what it has.

    Raises:
        DigestMismatch: a chunk kept arriving wrong; the message names file and chunk, nothing of the file is admitted.
        Unreachable: registry or store stopped answering.
    """
    wanted = {entry.blake3: entry for entry in verified.manifest.files if not cache.has_blob(entry)}
    urls = _Urls(api, grant.id, sorted(wanted))
    total = _Counter()
    # Two pools: files wait for their ranges, so they may not share threads with them.
    ranges = ThreadPoolExecutor(connections_at_once, "range")
    files = ThreadPoolExecutor(connections_at_once, "file")
    try:
        jobs = [
            files.submit(_fetch_file, api, urls, verified, cache, entry, ranges, progress, total)
            for entry in sorted(wanted.values(), key=lambda entry: -entry.size)
        ]
        _all_or_first_error(jobs)
    finally:
        files.shutdown(cancel_futures=True)
        ranges.shutdown(cancel_futures=True)
    return total.value


def _fetch_file(
    api: Api,
    urls: "_Urls",
    verified: VerifiedManifest,
    cache: Cache,
    entry: FileEntry,
    pool: ThreadPoolExecutor,
    progress: Progress,
    total: "_Counter",
) -> None:
    chunk_bytes = verified.manifest.chunk_bytes
    with cache.incoming(entry) as (fd, path):
        if cache.has_blob(entry):  # another process was faster while we waited for the lock
            progress(entry.size)
            return
        fresh = os.fstat(fd).st_size == 0
        with explained(path):
            os.ftruncate(fd, entry.size)
        count = len(entry.chunk_digests())
        missing = list(range(count)) if fresh else wrong_chunks(fd, entry, chunk_bytes)
        progress(entry.size - sum(_chunk_size(entry, chunk_bytes, at) for at in missing))
        runs = pieces.runs(missing, _CHUNKS_A_RANGE)
        fetch = _Fetch(api, urls, entry, chunk_bytes, fd, path, progress, total)
        if len(runs) == 1:
            fetch.run(runs[0])
        elif runs:
            _all_or_first_error([pool.submit(fetch.run, run) for run in runs])
        cache.admit(verified, entry, fd, path)


@dataclass
class _Fetch:
    """One file being fetched into an open descriptor."""

    api: Api
    urls: "_Urls"
    entry: FileEntry
    chunk_bytes: int
    fd: int
    path: Path
    progress: Progress
    total: "_Counter"
    stopped: bool = False

    def run(self, chunks: range) -> None:
        """Fetch neighbouring chunks; what arrived right is never fetched again."""
        try:
            while chunks:
                before = chunks

                def attempt(run: range = before) -> int:
                    return self._read_range(run)

                arrived = connections.with_retries(attempt)
                chunks = chunks[arrived:]
                if arrived == 0:
                    self._retry_wrong(chunks[0])
                    chunks = chunks[1:]
        except BaseException:
            self.stopped = True
            raise

    def _retry_wrong(self, chunk: int) -> None:
        for _ in range(_WRONG_TRIES - 1):
            if connections.with_retries(lambda: self._read_range(range(chunk, chunk + 1))) == 1:
                return
        expected = self.entry.chunk_digests()[chunk]
        raise DigestMismatch(
            f"{ascii(self.entry.path)[1:-1]}, chunk {chunk}: the store sent wrong bytes {_WRONG_TRIES} times; nothing of "
            "this file was admitted, tell the registry's operators",
            path=self.entry.path,
            chunk=chunk,
            expected=f"blake3:{expected}",
        )

    def _read_range(self, chunks: range) -> int:
        """Fetch a run of chunks in one request; returns how many arrived right, from the front.

        Raises:
            Transient: the connection broke, or the answer was none. Chunks that were right before are kept by resuming.
        """
        start = chunks[0] * self.chunk_bytes
        stop = min(self.entry.size, (chunks[-1] + 1) * self.chunk_bytes)
        if start == stop:
            return self._check_empty()
        request = self.urls.get(self.entry.blake3)
        try:
            response = self.api.open_direct(request, {"Range": f"bytes={start}-{stop - 1}"})
        except Transient:
            self.urls.drop(self.entry.blake3)  # an expired URL answers 403; the next try asks for a new one
            raise
        try:
            expected_range = f"bytes {start}-{stop - 1}/{self.entry.size}"
            if response.status != 206 or response.headers.get("Content-Range") != expected_range:
                raise Transient("the blob store did not answer with the range that was asked for")
            seconds = connections.READ_SECONDS + (stop - start) / connections.SLOWEST_BYTES_A_SECOND
            with connections.within(response, seconds):
                return self._receive(response.stream(_BLOCK_BYTES), chunks)
        except HTTPError as error:
            raise Transient(f"the blob store broke off ({type(error).__name__})") from None
        finally:
            # Not drained: after an error what follows on this connection is not to be trusted.
            response.close()
            response.release_conn()

    def _receive(self, blocks: Iterable[bytes], chunks: range) -> int:
        digests = self.entry.chunk_digests()
        offset = chunks[0] * self.chunk_bytes
        right = 0
        hasher, left = blake3(), _chunk_size(self.entry, self.chunk_bytes, chunks[0])
        for block in blocks:
            if self.stopped:
                raise Transient("another part of the file failed")
            view = memoryview(block)
            while view:
                if right == len(chunks):
                    raise Transient("the blob store sent more than was asked for")
                piece = view[:left]
                hasher.update(piece)
                with explained(self.path):
                    pieces.write_at(self.fd, piece, offset)
                offset += len(piece)
                left -= len(piece)
                view = view[len(piece) :]
                if left == 0:
                    if hasher.hexdigest() != digests[chunks[right]]:
                        return right
                    self.progress(_chunk_size(self.entry, self.chunk_bytes, chunks[right]))
                    right += 1
                    if right < len(chunks):
                        hasher, left = blake3(), _chunk_size(self.entry, self.chunk_bytes, chunks[right])
            self.total.add(len(block))
        if right == 0:
            raise Transient("the blob store broke off before a chunk was whole")
        return right

    def _check_empty(self) -> int:
        return int(blake3().hexdigest() == self.entry.chunk_digests()[0])


def upload(
    api: Api,
    publication: str,
    missing: Sequence[str],
    entries: Iterable[FileEntry],
    root: Path,
    *,
    connections_at_once: int,
    progress: Progress,
) -> int:
    """Send the missing blobs, part by part, and have each measured; returns the bytes that were transferred.

    Raises:
        DigestMismatch: a file is not what was hashed before (it changed), or its bytes were changed on the way.
        Unreachable: registry or store stopped answering; pushing again resumes.
    """
    by_blake3 = {entry.blake3: entry for entry in entries}
    order = sorted(missing, key=lambda blob: -by_blake3[blob].size)
    total = _Counter()
    parts = ThreadPoolExecutor(connections_at_once, "part")
    files = ThreadPoolExecutor(connections_at_once, "blob")
    try:
        with trees.open_folder(root) as folder_fd:
            send = _Send(api, publication, folder_fd, parts, progress, total)
            for start in range(0, len(order), _URL_BATCH):
                batch = order[start : start + _URL_BATCH]
                opened = api.uploads(publication, batch)
                if sorted(plan.blake3 for plan in opened) != sorted(batch) or not all(
                    _fits(plan, by_blake3[plan.blake3]) for plan in opened
                ):
                    raise Unreachable(f"{api.registry} opened other uploads than those asked for")
                jobs = [files.submit(send.blob, by_blake3[plan.blake3], plan) for plan in opened]
                _all_or_first_error(jobs)
    finally:
        files.shutdown(cancel_futures=True)
        parts.shutdown(cancel_futures=True)
    return total.value


@dataclass
class _Send:
    """One publication being uploaded."""

    api: Api
    publication: str
    folder_fd: int
    pool: ThreadPoolExecutor
    progress: Progress
    total: "_Counter"

    def blob(self, entry: FileEntry, plan: wire.BlobToUpload) -> None:
        """Send the parts that are not written yet, then have the blob measured."""
        numbers = sorted(set(range(1, plan.part_count + 1)) - set(plan.written_parts))
        self.progress(entry.size - sum(_part_size(plan, number) for number in numbers))
        jobs = [self.pool.submit(connections.with_retries, self._part_job(entry, plan, number)) for number in numbers]
        _all_or_first_error(jobs)
        try:
            while self.api.measure(self.publication, plan.blake3).state != "measured":
                time.sleep(0.05)  # the registry itself waits a few seconds before it says "measuring"
        except (DigestMismatch, BlobMissing) as error:
            raise DigestMismatch(f"{ascii(entry.path)[1:-1]}: {error.detail}", **error.facts) from None

    def _part_job(self, entry: FileEntry, plan: wire.BlobToUpload, number: int) -> Callable[[], None]:
        return lambda: self._part(entry, plan, number)

    def _part(self, entry: FileEntry, plan: wire.BlobToUpload, number: int) -> None:
        size = _part_size(plan, number)
        requests = self.api.part_requests(self.publication, [wire.PartName(blake3=plan.blake3, number=number)])
        if len(requests) != 1:
            raise Unreachable(f"{self.api.registry} did not say how to send part {number} of {plan.blake3}")
        request = requests[0]
        with trees.open_below(self.folder_fd, entry.path) as fd:
            body = _FileRange(fd, (number - 1) * plan.part_bytes, size)
            response = self.api.open_direct(request, {"Content-Length": str(size)}, body)
            connections.finish(response)
        self.total.add(size)
        self.progress(size)


class _FileRange:
    """A range of an open file as a request body; `read` is all that urllib3 asks for."""

    def __init__(self, fd: int, start: int, size: int) -> None:
        self._fd = fd
        self._at = start
        self._left = size

    def read(self, size: int = -1) -> bytes:
        """The next bytes; fewer at the end of the range, or of a file that became shorter."""
        wanted = min(self._left, size if size >= 0 else self._left, _BLOCK_BYTES)
        data = os.pread(self._fd, wanted, self._at)
        if wanted and not data:
            raise ModelregError("a file became shorter while it was sent; stop the writer and push again")
        self._at += len(data)
        self._left -= len(data)
        return data


class _Urls:
    """Read requests by blob, asked for in batches and again before they expire."""

    def __init__(self, api: Api, grant: str, blobs: Sequence[str]) -> None:
        self._api = api
        self._grant = grant
        self._waiting = list(blobs)
        self._known: dict[str, tuple[wire.DirectRequest, float]] = {}
        self._lock = threading.Lock()

    def get(self, blake3: str) -> wire.DirectRequest:
        """A request that will live long enough to be sent."""
        with self._lock:
            found = self._known.get(blake3)
            if found is None or time.monotonic() > found[1]:
                batch = [blake3, *[blob for blob in self._waiting[:_URL_BATCH] if blob != blake3]][:_URL_BATCH]
                asked = time.monotonic()
                for request in self._api.read_requests(self._grant, batch):
                    until = asked + max(1.0, request.expires_in_seconds - _URL_MARGIN_SECONDS)
                    self._known[request.blake3] = (request, until)
                fetched = set(batch)
                self._waiting = [blob for blob in self._waiting if blob not in fetched]
            if blake3 not in self._known:
                raise Unreachable(f"{self._api.registry} did not say how to fetch {blake3}")
            return self._known[blake3][0]

    def drop(self, blake3: str) -> None:
        """Forget a request that did not work."""
        with self._lock:
            self._known.pop(blake3, None)


@dataclass
class _Counter:
    value: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, amount: int) -> None:
        with self._lock:
            self.value += amount


def _chunk_size(entry: FileEntry, chunk_bytes: int, at: int) -> int:
    return min(chunk_bytes, entry.size - at * chunk_bytes)


def _part_size(plan: wire.BlobToUpload, number: int) -> int:
    return min(plan.part_bytes, plan.size - (number - 1) * plan.part_bytes)


def _fits(plan: wire.BlobToUpload, entry: FileEntry) -> bool:
    return plan.size == entry.size and plan.part_count == max(1, -(-entry.size // plan.part_bytes))


def _all_or_first_error(jobs: Sequence[Future[None]]) -> None:
    """Wait for all; on the first failure cancel what has not started, wait for what has, and raise it."""
    done, pending = wait(jobs, return_when=FIRST_EXCEPTION)
    for job in pending:
        job.cancel()
    wait(pending)
    for job in done:
        job.result()
    for job in pending:
        if not job.cancelled():
            job.result()
