"""Reading some chunks of an artifact straight from the store, each measured; nothing is kept."""

from collections import OrderedDict

from blake3 import blake3
from urllib3.exceptions import HTTPError

from modelreg import connections, wire
from modelreg.api import Api
from modelreg.connections import Transient
from modelreg.errors import DigestMismatch, NotFound, Unreachable
from modelreg.manifests import FileEntry
from modelreg.verification import VerifiedManifest

_KEPT_CHUNKS = 2
_TRIES = 3  # of one chunk, before the store is believed to hold wrong bytes


class GrantedBytes:
    """The bytes of an artifact that was granted and verified, by the chunk. Not for several threads."""

    def __init__(self, api: Api, grant: wire.Grant, verified: VerifiedManifest) -> None:
        self._api = api
        self._grant = grant
        self._chunk_bytes = verified.manifest.chunk_bytes
        self._entries = {entry.path: entry for entry in verified.manifest.files}
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self.transferred_bytes = 0

    def read(self, path: str, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`, fewer where the file ends; every chunk they are in is measured.

        Raises:
            DigestMismatch: a chunk kept arriving wrong.
            Unreachable: registry or store stopped answering.
        """
        entry = self._entries.get(path)
        if entry is None:
            raise NotFound(f"the artifact has no file {path!a}")
        stop = min(stop, entry.size)
        if start >= stop:
            return b""
        chunks = range(start // self._chunk_bytes, -(-stop // self._chunk_bytes))
        data = b"".join([self._chunk(entry, at) for at in chunks])
        offset = chunks.start * self._chunk_bytes
        return data[start - offset : stop - offset]

    def _chunk(self, entry: FileEntry, at: int) -> bytes:
        key = (entry.blake3, at)
        if key in self._kept:
            return self._kept[key]
        expected = entry.chunk_digests()[at]
        for _ in range(_TRIES):
            data = connections.with_retries(lambda: self._fetch(entry, at))
            if blake3(data).hexdigest() == expected:
                self._kept[key] = data
                if len(self._kept) > _KEPT_CHUNKS:
                    self._kept.popitem(last=False)
                return data
        raise DigestMismatch(
            f"{ascii(entry.path)[1:-1]}, chunk {at}: the store sent wrong bytes {_TRIES} times; tell the registry's operators",
            path=entry.path,
            chunk=at,
            expected=f"blake3:{expected}",
        )

    def _fetch(self, entry: FileEntry, at: int) -> bytes:
        start = at * self._chunk_bytes
        stop = min(entry.size, start + self._chunk_bytes)
        requests = self._api.read_requests(self._grant.id, [entry.blake3])
        if [request.blake3 for request in requests] != [entry.blake3]:
            raise Unreachable(f"{self._api.registry} did not say how to fetch {entry.blake3}")
        response = self._api.open_direct(requests[0], {"Range": f"bytes={start}-{stop - 1}"})
        try:
            if response.status != 206:
                raise Transient("the blob store did not answer with the range that was asked for")
            seconds = connections.READ_SECONDS + (stop - start) / connections.SLOWEST_BYTES_A_SECOND
            with connections.within(response, seconds):
                data = response.read(stop - start)
        except HTTPError as error:
            raise Transient(f"the blob store broke off ({type(error).__name__})") from None
        finally:
            response.close()
            response.release_conn()
        self.transferred_bytes += len(data)
        return data
