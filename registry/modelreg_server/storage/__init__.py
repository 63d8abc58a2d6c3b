"""The blob store port: where bytes rest, and what a store promises.

    blobs/blake3/<first two hex>/<64 hex>/<upload id>      one finished upload; `b3sum` checks it by hand
    log/<origin>/…                                         copies of the custody log, see `LogStore`

A store is **untrusted for integrity** (the server measures what it reads back; clients verify what they receive) and
trusted only for durability. Every upload has a key of its own and the database names the accepted one, so nothing here
decides a race and a key is written once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

MAX_PARTS = 10_000  # S3's limit for one multipart upload
MIN_PART_BYTES = 16 * 1024 * 1024  # two chunks; S3 asks for at least 5 MiB except in the last part


@dataclass(frozen=True)
class Upload:
    """One upload of one blob. `token` is the store's own word for it (S3: the multipart id), opaque to callers."""

    key: str
    size_bytes: int
    part_bytes: int
    token: str

    @property
    def part_count(self) -> int:
        """An empty blob has one empty part."""
        return max(1, -(-self.size_bytes // self.part_bytes))

    def part_size_bytes(self, number: int) -> int:
        """Size of part `number` (from 1): all are `part_bytes` long but the last."""
        return min(self.part_bytes, self.size_bytes - (number - 1) * self.part_bytes)


class BlobStore(Protocol):
    """Six methods. Each raises `StorageUnavailable` for what may pass, `BlobMissing` for what will not."""

    def start(self, key: str, size_bytes: int, part_bytes: int) -> Upload:
        """Open an upload to a key that was never used before. Costs one round trip at most.

        What a crash right after it leaves is found by nobody: keep uploads under a lifecycle rule.
        """
        ...

    def write_part(self, upload: Upload, number: int, body: Iterable[bytes]) -> None:
        """Write part `number` (from 1), replacing an earlier try; durable when it returns.

        Raises:
            Invalid: no such part, or the body is not exactly `upload.part_size_bytes(number)` bytes long; nothing of it
                counts.
            Conflict: the upload was finished or discarded.
        """
        ...

    def written_parts(self, upload: Upload) -> frozenset[int]:
        """Numbers of the parts that are wholly and durably there; all of them once `finish` has returned."""
        ...

    def finish(self, upload: Upload) -> None:
        """Make the parts readable under `upload.key`; durable when it returns; doing it again changes nothing.

        Raises:
            Conflict: parts are missing (facts: `missing`; all of them when the upload was discarded).
        """
        ...

    def read(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """Bytes `start` to `stop` (exclusive) in blocks of at most 1 MiB; never more, and less is an error.

        Lazy: errors come with the first block, so take it before you promise anything.
        """
        ...

    def discard(self, upload: Upload) -> None:
        """Remove everything of this upload, finished or not; removing nothing is fine."""
        ...


class LogStore(Protocol):
    """Small objects under `log/`: copies of the custody log, which nobody believes before a signature holds.

    Unlike a blob's, such a key may be written again. Each method raises `StorageUnavailable` for what may pass.
    """

    def put_copy(self, key: str, data: bytes) -> None:
        """Write an object, replacing an older one at once; durable when it returns."""
        ...

    def get_copy(self, key: str, max_bytes: int) -> bytes | None:
        """The whole object; None when there is none, or one of more than `max_bytes`."""
        ...

    def list_copies(self, folder: str, after: str = "") -> list[str]:
        """Names of objects right below a folder, in code point order, the first 1,000 behind `after`."""
        ...

    def remove_copy(self, key: str) -> None:
        """Remove an object; removing nothing is fine."""
        ...


@dataclass(frozen=True)
class PresignedRequest:
    """A bearer secret for one request on one object: never logged, never stored. `headers` must be sent as they are."""

    method: str
    url: str
    headers: dict[str, str]
    expires_in_seconds: int


class Presigner(Protocol):
    """A store that lets clients talk to it directly. The server presigns only after the event is committed."""

    def presign_part(self, upload: Upload, number: int) -> PresignedRequest:
        """A PUT of exactly part `number`; the length is signed."""
        ...

    def presign_read(self, key: str) -> PresignedRequest:
        """A GET of one key; the client adds its own `Range`."""
        ...


def blob_key(blake3_hex: str, upload_id: str) -> str:
    """The key of one upload of a blob. Both arguments are ours (64 hex digits; a UUID), never a client's raw text."""
    return f"blobs/blake3/{blake3_hex[:2]}/{blake3_hex}/{upload_id}"


def part_bytes_for(size_bytes: int, chunk_bytes: int) -> int:
    """The part size for a blob: whole chunks, at least `MIN_PART_BYTES`, at most `MAX_PARTS` parts."""
    smallest = max(MIN_PART_BYTES, -(-size_bytes // MAX_PARTS))
    return -(-smallest // chunk_bytes) * chunk_bytes
