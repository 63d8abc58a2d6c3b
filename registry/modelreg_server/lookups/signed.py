"""Who signed it: recorded signatures, with the bytes that it takes to verify them again."""

from sqlalchemy import func
from sqlmodel import Session, col, select

from modelreg.answers import AsOf, RecordedSignature, SignaturesAnswer, SignedManifest
from modelreg_server.lookups.sight import Sight, repositories_of, visible
from modelreg_server.lookups.subjects import Subject
from modelreg_server.tables import Artifact, Publication, Signature

MAX_SIGNATURES = 200
MAX_BYTES = 64 * 1024 * 1024  # of manifests and bundles in one answer; what does not fit is named without its bytes


def signatures(session: Session, sight: Sight, subject: Subject, as_of: AsOf) -> SignaturesAnswer:
    """The signatures on every artifact of a subject."""
    room = MAX_BYTES
    manifests: list[SignedManifest] = []
    found: list[RecordedSignature] = []
    more = False
    for artifact, publications in visible(session, sight, subject.artifacts, as_of.time).items():
        names = repositories_of(session, publications)
        size = session.exec(select(func.length(Artifact.manifest)).where(Artifact.digest == artifact)).one()
        manifest = None
        if size <= room:
            manifest = session.exec(select(Artifact.manifest).where(Artifact.digest == artifact)).one().decode()
            room -= size
        manifests.append(SignedManifest(artifact=artifact, manifest=manifest))
        for publication in publications:
            for number, length in _sizes(session, publication, as_of):
                if len(found) == MAX_SIGNATURES:
                    more = True
                    break
                row = session.get_one(Signature, number)
                fits = manifest is not None and length <= room
                room -= length if fits else 0
                found.append(recorded(row, names[publication.repository_id], artifact, with_bundle=fits))
                session.expunge(row)
    return SignaturesAnswer(
        as_of=as_of,
        asked=subject.asked,
        found=subject.found,
        truncated=subject.truncated or more,
        signatures=found,
        manifests=manifests,
    )


def recorded(row: Signature, repository: str, artifact: str, *, with_bundle: bool = False) -> RecordedSignature:
    """A signature as it is answered."""
    return RecordedSignature(
        repository=repository,
        artifact=artifact,
        authority=row.authority,
        identity=row.identity,
        key=row.key_id,
        added_at=row.added_at,
        added_by=row.added_by,
        trusted_time=row.signed_at,
        bundle=row.bundle.decode() if with_bundle else None,
    )


def _sizes(session: Session, publication: Publication, as_of: AsOf) -> list[tuple[int, int]]:
    query = (
        select(Signature.id, func.length(Signature.bundle))
        .where(Signature.publication_id == publication.id, col(Signature.added_at) <= as_of.time)
        .order_by(col(Signature.id))
    )
    return [(number, length) for number, length in session.exec(query) if number is not None]
