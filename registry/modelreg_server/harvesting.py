"""Reading the few files of a new artifact that say where it comes from, from the store, measured as they are read.

No gate: a file that cannot be read, or that the store has other bytes of, says nothing here, and whoever pulls finds out.
"""

from blake3 import blake3
from sqlmodel import Session, col, select

from modelreg.errors import BlobMissing
from modelreg.manifests import FileEntry, Manifest
from modelreg_server import model_claims
from modelreg_server.model_claims import Claim
from modelreg_server.storage import BlobStore
from modelreg_server.tables import ArtifactClass, Blob, BlobUpload

MAX_FILES = 8  # of weights, the first by path


def harvest(session: Session, store: BlobStore, attempt_id: str, manifest: Manifest) -> list[Claim]:
    """What the files of an artifact claim; nothing where it was asked for before.

    Raises:
        StorageUnavailable: the store does not answer; publishing again is safe.
    """
    if session.get(ArtifactClass, str(manifest.digest)) is not None:
        return []
    found: list[Claim] = []
    for entry in _wanted(manifest):
        key = _key_of(session, attempt_id, entry.blake3)
        head = _measured_head(store, key, entry, manifest.chunk_bytes) if key is not None else None
        if head is not None:
            found += model_claims.read(entry.path, head)
    return found


def _wanted(manifest: Manifest) -> list[FileEntry]:
    documents, weights = [], []
    for entry in manifest.files:
        match model_claims.reader_of(entry.path):
            case "card" | "adapter" if 0 < entry.size <= model_claims.MAX_DOCUMENT_BYTES:
                documents.append(entry)
            case "safetensors" | "gguf" if entry.size:
                weights.append(entry)
    return documents + weights[:MAX_FILES]


def _key_of(session: Session, attempt_id: str, blake3_hex: str) -> str | None:
    uploaded = select(BlobUpload.key).where(
        BlobUpload.attempt_id == attempt_id,
        BlobUpload.blake3 == blake3_hex,
        col(BlobUpload.measured_at).is_not(None),
    )
    return session.exec(uploaded).first() or session.exec(select(Blob.key).where(Blob.blake3 == blake3_hex)).first()


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
