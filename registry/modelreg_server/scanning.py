"""What the registry finds in the files of an artifact: read from the store, checked against the manifest, signed, recorded.

The store is untrusted, so a scan reads whole chunks and believes those whose BLAKE3 is the manifest's: the signed statement
is about the artifact, not about what a store answered. A scan has an event of its own, also when it found nothing.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import blake3
from sqlmodel import Session, col, select

from modelreg import __version__, attestations, gate, manifests
from modelreg.attestations import Kind
from modelreg.digests import Digest, sha256_of
from modelreg.errors import BlobMissing, Conflict, DigestMismatch, PolicyRefused
from modelreg.gate import Report
from modelreg.manifests import FileEntry, Manifest
from modelreg_server import custody
from modelreg_server.attestations import MAX_OF_ONE_ARTIFACT, require_held
from modelreg_server.callers import Caller
from modelreg_server.custody import Event, EventType
from modelreg_server.custody_tree import LogSigner
from modelreg_server.database import Database
from modelreg_server.storage import BlobStore
from modelreg_server.tables import Artifact, ArtifactFile, AttestationRow, Blob

MAX_LISTED = 200  # findings that a refusal lists
_NAMED = 3  # of them in its sentence
_KEPT_CHUNKS = 3
_THREADS = 8  # of one scan; most of it is waiting for the store
_HEAVY_BYTES = 4 * 1024 * 1024
# Of larger files so many at once in this process: parsing one may take some hundred MiB.
_HEAVY = threading.BoundedSemaphore(2)


@dataclass(frozen=True)
class Scanned:
    """A scan as it was signed. `row` is None until it is recorded."""

    report: Report
    bundle: bytes
    payload: bytes


class StoredFile:
    """A file of an artifact in the store, as a `gate.Readable`: whole chunks are read and verified, few are kept."""

    def __init__(self, store: BlobStore, key: str, entry: FileEntry, chunk_bytes: int) -> None:
        self._store = store
        self._key = key
        self._entry = entry
        self._chunk_bytes = chunk_bytes
        self._digests = entry.chunk_digests()
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    @property
    def size(self) -> int:
        """What the manifest says."""
        return self._entry.size

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of verified chunks.

        Raises:
            DigestMismatch, BlobMissing: the store has other bytes than were published.
            StorageUnavailable: from the store.
        """
        found = bytearray()
        while length > 0:
            index, begin = divmod(offset, self._chunk_bytes)
            piece = self._chunk(index)[begin : begin + length]
            found += piece
            offset, length = offset + len(piece), length - len(piece)
        return bytes(found)

    def _chunk(self, index: int) -> bytes:
        if (kept := self._kept.get(index)) is not None:
            self._kept.move_to_end(index)
            return kept
        start = index * self._chunk_bytes
        stop = min(start + self._chunk_bytes, self._entry.size)
        data = b"".join(self._store.read(self._key, start, stop))
        measured = blake3.blake3(data).hexdigest()
        if measured != self._digests[index] or len(data) != stop - start:
            raise DigestMismatch(
                f"the store holds other bytes of {self._entry.path} than were published",
                path=self._entry.path,
                expected=f"blake3:{self._digests[index]}",
                measured=f"blake3:{measured}",
            )
        self._kept[index] = data
        while len(self._kept) > _KEPT_CHUNKS:
            self._kept.popitem(last=False)
        return data


def scan(store: BlobStore, manifest: Manifest, keys: Mapping[str, str]) -> Report:
    """Scan the files of a manifest where they rest.

    Args:
        keys: the key in the store of every blob, by BLAKE3.

    Raises:
        DigestMismatch, BlobMissing, StorageUnavailable: the bytes cannot be had; nothing is said of them then.
    """
    names = frozenset(entry.path for entry in manifest.files)

    def look(entry: FileEntry) -> Report:
        stored = StoredFile(store, keys[entry.blake3], entry, manifest.chunk_bytes)
        with _HEAVY if entry.size > _HEAVY_BYTES else nullcontext():
            return gate.scan_file(entry.path, stored, names)

    if len(manifest.files) == 1:
        return gate.merged([look(manifest.files[0])])
    with ThreadPoolExecutor(_THREADS, "scan") as pool:
        return gate.merged(list(pool.map(look, manifest.files)))


def state(report: Report, caller: Caller, repository: str, artifact: Digest, signer: object) -> Scanned:
    """Sign what a scan found, as the registry."""
    assert isinstance(signer, LogSigner)
    predicate = report.predicate(__version__, caller.now)
    payload = attestations.build(Kind.SCAN, repository, artifact, predicate)
    return Scanned(report, attestations.sign_as_registry(payload, signer.key, signer.origin), payload)


def record(session: Session, caller: Caller, repository: str, artifact: Digest, scanned: Scanned) -> AttestationRow:
    """Keep a signed scan inside the caller's transaction, with `artifact.scanned`.

    Raises:
        Conflict: the artifact has as many statements as it can have.
    """
    query = select(AttestationRow.id).where(
        AttestationRow.repository == repository, AttestationRow.about_digest == str(artifact)
    )
    if len(session.exec(query).all()) >= MAX_OF_ONE_ARTIFACT:
        raise Conflict(f"{artifact} has {MAX_OF_ONE_ARTIFACT} statements already; it takes no more")
    report, statement = scanned.report, str(sha256_of(scanned.payload))
    signer = session.info["log_signer"]
    assert isinstance(signer, LogSigner)
    detail = {
        "kind": Kind.SCAN.value,
        "statement": statement,
        "authority": attestations.REGISTRY,
        "rules_version": report.rules_version,
        "blocking": len(report.blocking),
        "findings": len(report.findings),
        "complete": report.complete,
    }
    event = Event(EventType.ARTIFACT_SCANNED, repository, str(artifact), detail=detail)
    row = AttestationRow(
        repository=repository,
        about_digest=str(artifact),
        kind=Kind.SCAN.value,
        statement=statement,
        bundle=scanned.bundle,
        authority=attestations.REGISTRY,
        identity=f"key:{signer.origin}",
        key_id=str(sha256_of(signer.key.public_key().public_bytes_raw())),
        signed_at=None,
        added_at=caller.now,
        added_by=attestations.REGISTRY,
        event_index=custody.append(session, caller.actor, event, caller.now),
    )
    session.add(row)
    return row


def require_clean(report: Report) -> None:
    """Go on only if nothing blocks.

    Raises:
        PolicyRefused: something does; facts: `findings` (bounded), `finding_count`, `rules_version`.
    """
    blocking = report.blocking
    if not blocking:
        return
    named = "; ".join(f"{finding.path}: {finding.what}" for finding in blocking[:_NAMED])
    more = f"; and {len(blocking) - _NAMED} more" if len(blocking) > _NAMED else ""
    raise PolicyRefused(
        f"the gate blocks {len(blocking)} {'thing' if len(blocking) == 1 else 'things'}: {named}{more}; nothing is "
        "published. `modelreg scan` shows all of it before a push",
        findings=[finding.as_json() for finding in blocking[:MAX_LISTED]],
        finding_count=len(blocking),
        rules_version=report.rules_version,
    )


def again(
    database: Database, store: BlobStore, caller: Caller, repository: str, artifact: str
) -> tuple[AttestationRow, Report]:
    """Scan an artifact that is published, with the rules of today, and record what is found.

    Raises:
        NotFound: the repository does not hold it.
        BlobMissing: the store or the record lost bytes that were acknowledged.
        As `scan` and `record`.
    """
    digest = Digest.parse(artifact)
    with database.reading() as session:
        require_held(session, repository, artifact)
        manifest = manifests.parse(session.exec(select(Artifact.manifest).where(Artifact.digest == artifact)).one())
        query = (
            select(Blob.blake3, Blob.key)
            .join(ArtifactFile, col(ArtifactFile.blake3) == col(Blob.blake3))
            .where(ArtifactFile.artifact_digest == artifact)
            .distinct()
        )
        keys = dict(session.exec(query).all())
    _require_keys(manifest, keys)
    report = scan(store, manifest, keys)
    scanned = state(report, caller, repository, digest, database.log_signer)
    with database.writing() as session, session.begin():
        custody.hold(session)
        row = record(session, caller, repository, digest, scanned)
        session.flush()
        session.expunge_all()
    return row, report


def _require_keys(manifest: Manifest, keys: Mapping[str, str]) -> None:
    if lost := [entry.path for entry in manifest.files if entry.blake3 not in keys]:
        raise BlobMissing(f"no blob is recorded for {lost[0]}", path=lost[0])
