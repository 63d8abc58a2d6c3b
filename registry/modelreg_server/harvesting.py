"""Reading the few files of a new artifact that say where it comes from, from the store, measured as they are read.

No gate: a file that cannot be read, or that the store has other bytes of, says nothing here, and whoever pulls finds out.
"""

from collections.abc import Mapping, Sequence

from blake3 import blake3
from sqlmodel import Session

from modelreg.errors import BlobMissing
from modelreg.manifests import FileEntry, Manifest
from modelreg_server import model_claims
from modelreg_server.model_claims import Claim
from modelreg_server.storage import BlobStore
from modelreg_server.tables import ArtifactClass

MAX_FILES = 8  # of weights, the first by path


def wanted(session: Session, manifest: Manifest) -> list[FileEntry]:
    """The files of an artifact that are to be asked; none where they were asked before."""
    if session.get(ArtifactClass, str(manifest.digest)) is not None:
        return []
    documents, weights = [], []
    for entry in manifest.files:
        match model_claims.reader_of(entry.path):
            case "card" | "adapter" if 0 < entry.size <= model_claims.MAX_DOCUMENT_BYTES:
                documents.append(entry)
            case "safetensors" | "gguf" if entry.size:
                weights.append(entry)
    return documents + weights[:MAX_FILES]


def harvest(store: BlobStore, manifest: Manifest, files: Sequence[FileEntry], keys: Mapping[str, str]) -> list[Claim]:
    """What files claim; `keys` says by BLAKE3 where each rests. No database is held meanwhile: the store may be slow.

    Raises:
        StorageUnavailable: the store does not answer; publishing again is safe.
    """
    found: list[Claim] = []
    for entry in files:
        key = keys.get(entry.blake3)
        head = _measured_head(store, key, entry, manifest.chunk_bytes) if key is not None else None
        if head is not None:
            found += model_claims.read(entry.path, head)
    return found


def _measured_head(store: BlobStore, key: str, entry: FileEntry, chunk_bytes: int) -> bytes | None:
    """The first chunk of a file, if it is what the manifest says."""
    stop = min(entry.size, chunk_bytes, model_claims.MAX_HEAD_BYTES)
    if stop < min(entry.size, chunk_bytes):
        return None  # a chunk that is larger than what is read cannot be measured
    try:
        head = b"".join(store.read(key, 0, stop))
    except BlobMissing:
        return None
    return head if blake3(head).hexdigest() == entry.chunk_digests()[0] else None
