"""The bytes of a publication under way: uploads opened under keys of their own, written in parts, measured by the server.

An upload is its attempt's, an attempt its principal's; both are looked up again on every request, and so is the right to push.
"""

import uuid
from collections.abc import Sequence
from functools import lru_cache

from sqlalchemy.orm import defer
from sqlmodel import Session, col, select

from modelreg import manifests
from modelreg.errors import BlobMissing, Conflict, DigestMismatch, NotFound
from modelreg.manifests import FileEntry
from modelreg_server import storage
from modelreg_server.callers import Caller, denied
from modelreg_server.database import Database, insert_if_absent
from modelreg_server.identity import Verb
from modelreg_server.measuring import BlobFacts, Measuring, facts_of
from modelreg_server.storage import BlobStore, Upload
from modelreg_server.tables import Attempt, Blob, BlobUpload, Publication, Repository

_QUERY_BATCH = 500  # bound parameters in one statement
_MEASURE_WAIT_SECONDS = 5.0


def open_attempt(session: Session, caller: Caller, attempt_id: str, *, lock: bool = False) -> Attempt:
    """The caller's attempt, without its manifest and bundle (loaded when they are touched).

    With `lock`, nobody else finishes it until the transaction ends.

    Raises:
        NotFound: no such attempt, or another principal's, or expired.
        Forbidden: the caller's right to push ended meanwhile.
    """
    query = select(Attempt).where(Attempt.id == attempt_id).options(defer(Attempt.manifest), defer(Attempt.bundle))  # type: ignore[arg-type]  # columns, to SQLAlchemy
    row = session.exec(query.with_for_update() if lock else query).one_or_none()
    if row is None or row.principal != caller.principal.name or caller.now >= row.expires_at:
        raise NotFound(f"there is no open publication {attempt_id[:40]} of yours; push again")
    if not may_push_or_sign(session, caller, row.repository, row.artifact_digest):
        detail = f"{caller.principal.name} may not push to {row.repository} any more"
        raise denied(caller.principal, Verb.PUSH, row.repository, detail=detail)
    return row


def uploads(
    database: Database, store: BlobStore, caller: Caller, attempt_id: str, blobs: Sequence[str]
) -> list[tuple[BlobUpload, frozenset[int]]]:
    """The uploads of the named blobs, opened where there are none, each with the parts that are written.

    Raises:
        NotFound: no such attempt, or a blob that its manifest does not name.
    """
    with database.reading() as session:
        declared = _declared(open_attempt(session, caller, attempt_id).manifest)
        known = {row.blake3 for row in _upload_rows(session, attempt_id, blobs)}
    if unknown := [blake3 for blake3 in blobs if blake3 not in declared]:
        raise NotFound(f"the manifest of this publication has no blob {unknown[0]}")
    opened = [_open_upload(store, attempt_id, declared[blake3]) for blake3 in blobs if blake3 not in known]
    with database.writing() as session, session.begin():
        # A row that is there already is another request's, which won; nothing was written under our key.
        lost = [row for row in opened if not insert_if_absent(session, [row])]
    for row in lost:
        store.discard(upload_of(row))
    with database.reading() as session:
        rows = {row.blake3: row for row in _upload_rows(session, attempt_id, blobs)}
        session.expunge_all()
    return [(rows[blake3], _written_parts(store, rows[blake3])) for blake3 in blobs]


def open_uploads(session: Session, caller: Caller, attempt_id: str, blobs: Sequence[str]) -> dict[str, BlobUpload]:
    """Uploads of the caller's attempt, by BLAKE3.

    Raises:
        NotFound: one of them was not opened.
    """
    open_attempt(session, caller, attempt_id)
    rows = {row.blake3: row for row in _upload_rows(session, attempt_id, blobs)}
    if unknown := [blake3 for blake3 in blobs if blake3 not in rows]:
        raise _not_open(unknown[0])
    session.expunge_all()
    return rows


def _not_open(blake3: str) -> NotFound:
    return NotFound(f"no upload of {blake3} is open in this publication; ask for it first")


def open_upload(session: Session, caller: Caller, attempt_id: str, blake3: str) -> BlobUpload:
    """One upload of the caller's attempt; raises as `open_uploads`."""
    return open_uploads(session, caller, attempt_id, [blake3])[blake3]


def taking_parts(row: BlobUpload) -> Upload:
    """The store's view of an upload that still takes parts.

    Raises:
        Conflict: it is measured already.
    """
    if row.measured_at is not None:
        raise Conflict(f"the blob {row.blake3} is already uploaded and measured")
    return upload_of(row)


def measure(
    database: Database, store: BlobStore, measuring: Measuring, caller: Caller, attempt_id: str, blake3: str
) -> tuple[bool, int]:
    """Have an uploaded blob measured; returns whether it is done, and the bytes measured so far.

    Raises:
        DigestMismatch: the bytes are not what was declared; the upload is gone, a new one can be opened.
        NotFound: it went like that in another request, a moment ago.
        Conflict: parts are missing.
    """
    with database.reading() as session:
        row = open_upload(session, caller, attempt_id, blake3)
    if row.measured_at is None:
        declared = BlobFacts(row.blake3, row.sha256, row.chunks_sha256, row.size_bytes)
        try:
            progress = measuring.wait(upload_of(row), declared, _MEASURE_WAIT_SECONDS)
        except DigestMismatch:
            with database.writing() as session, session.begin():
                # Locked: of several requests that measure at once, one finds it and the others find it gone.
                if (stale := session.get(BlobUpload, row.id, with_for_update=True)) is not None:
                    session.delete(stale)
            store.discard(upload_of(row))
            raise
        except (BlobMissing, Conflict):
            # Another request may have found wrong bytes here, and discarded them while this one was about to look.
            with database.reading() as session:
                if session.get(BlobUpload, row.id) is None:
                    raise _not_open(blake3) from None
            raise
        if progress is not None:
            return False, progress
        with database.writing() as session, session.begin():
            if (current := session.get(BlobUpload, row.id, with_for_update=True)) is not None:
                current.measured_at = caller.now
    return True, row.size_bytes


def upload_of(row: BlobUpload) -> Upload:
    """The store's view of an upload row."""
    return Upload(row.key, row.size_bytes, row.part_bytes, row.token)


@lru_cache(maxsize=2)
def _declared(raw_manifest: bytes) -> dict[str, FileEntry]:
    """The files of a manifest by BLAKE3. Cached: an attempt asks for it once for every batch of blobs."""
    return {entry.blake3: entry for entry in manifests.parse(raw_manifest).files}


def _upload_rows(session: Session, attempt_id: str, blobs: Sequence[str]) -> list[BlobUpload]:
    query = select(BlobUpload).where(BlobUpload.attempt_id == attempt_id, col(BlobUpload.blake3).in_(blobs))
    return list(session.exec(query))


def _open_upload(store: BlobStore, attempt_id: str, entry: FileEntry) -> BlobUpload:
    upload_id = str(uuid.uuid4())
    part_bytes = storage.part_bytes_for(entry.size, manifests.CHUNK_BYTES)
    upload = store.start(storage.blob_key(entry.blake3, upload_id), entry.size, part_bytes)
    facts = facts_of(entry)
    return BlobUpload(
        id=upload_id,
        attempt_id=attempt_id,
        blake3=facts.blake3,
        sha256=facts.sha256,
        chunks_sha256=facts.chunks_sha256,
        size_bytes=facts.size_bytes,
        part_bytes=part_bytes,
        key=upload.key,
        token=upload.token,
        measured_at=None,
    )


def _written_parts(store: BlobStore, row: BlobUpload) -> frozenset[int]:
    upload = upload_of(row)
    if row.measured_at is not None:
        return frozenset(range(1, upload.part_count + 1))
    return store.written_parts(upload)


def may_push_or_sign(session: Session, caller: Caller, repository: str, artifact: str) -> bool:
    """Whether the caller may publish, or may sign and the artifact is published here already."""
    if caller.principal.may(Verb.PUSH, repository):
        return True
    if not caller.principal.may(Verb.SIGN, repository):
        return False
    query = (
        select(Publication.id)
        .join(Repository, col(Repository.id) == col(Publication.repository_id))
        .where(Repository.name == repository, Publication.artifact_digest == artifact)
    )
    return session.exec(query).one_or_none() is not None


def stored_keys(session: Session, attempt_id: str, blobs: Sequence[str]) -> dict[str, str]:
    """Where each blob rests: what this attempt uploaded, else what is accepted already."""
    keys: dict[str, str] = {}
    for start in range(0, len(blobs), _QUERY_BATCH):
        batch = blobs[start : start + _QUERY_BATCH]
        keys |= dict(session.exec(select(Blob.blake3, Blob.key).where(col(Blob.blake3).in_(batch))).all())
        keys |= {row.blake3: row.key for row in _upload_rows(session, attempt_id, batch) if row.measured_at is not None}
    return keys
