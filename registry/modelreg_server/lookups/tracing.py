"""What is it: a digest of a file, an artifact or an OMS root, and everything that is recorded about what it leads to."""

from datetime import datetime

from sqlalchemy import func
from sqlalchemy.orm import defer
from sqlmodel import Session, col, select

from modelreg.answers import AsOf, Found, PublishedIn, RecordedSignature, TraceAnswer, TracedArtifact
from modelreg_server.custody import CustodyEvent, EventType
from modelreg_server.lookups.lineage import edge_of, edges_at
from modelreg_server.lookups.loads import outlines
from modelreg_server.lookups.sight import Sight, repositories_of, visible
from modelreg_server.lookups.signed import recorded
from modelreg_server.lookups.states import ACTIVE, states_of
from modelreg_server.lookups.subjects import Subject, tags_at
from modelreg_server.tables import Artifact, Publication, Signature

MAX_TRACED = 20  # artifacts described in full
_MAX_EDGES = 100


def trace(session: Session, sight: Sight, subject: Subject, as_of: AsOf) -> TraceAnswer:
    """Describe the first artifacts of a subject; one that is found twice is described under what it was asked by."""
    first: dict[str, Found] = {}
    for found in subject.found:
        first.setdefault(found.artifact, found)
    described = list(first.values())[:MAX_TRACED]
    return TraceAnswer(
        as_of=as_of,
        asked=subject.asked,
        found=subject.found,
        truncated=subject.truncated or len(first) > MAX_TRACED,
        artifacts=[_describe(session, sight, found, as_of) for found in described],
    )


def _describe(session: Session, sight: Sight, found: Found, as_of: AsOf) -> TracedArtifact:
    artifact, at = found.artifact, as_of.time
    columns = select(Artifact.size_bytes, Artifact.file_count, Artifact.root_digest)  # a manifest may be 32 MiB
    size_bytes, files, root = session.exec(columns.where(Artifact.digest == artifact)).one()
    publications = visible(session, sight, [artifact], at).get(artifact, [])
    names = repositories_of(session, publications)
    up, down = edges_at(session, sight, artifact, at)
    grants = session.exec(
        select(func.count())
        .select_from(CustodyEvent)
        .where(
            CustodyEvent.artifact == artifact,
            CustodyEvent.type == EventType.ARTIFACT_GRANTED.value,
            col(CustodyEvent.recorded_at) <= at,
            sight.covers(CustodyEvent.repository),
        )
    ).one()
    return TracedArtifact(
        found=found,
        size_bytes=size_bytes,
        files=files,
        root=root,
        publications=[
            PublishedIn(
                repository=names[row.repository_id],
                tags=tags_at(session, names[row.repository_id], artifact, as_of),
                published_at=row.published_at,
                published_by=row.published_by,
                event=row.event_index,
            )
            for row in publications
        ],
        source=_source(session, sight, artifact, at),
        state=states_of(session, [artifact], at).get(artifact, ACTIVE),
        signatures=[row for one in publications for row in _signatures(session, one, names[one.repository_id], as_of)],
        parents=[edge_of(edge) for edge in up[:_MAX_EDGES]],
        children=[edge_of(edge) for edge in down[:_MAX_EDGES]],
        grants=grants,
        live_loads=len(outlines(session, sight, [artifact], at)),
    )


def _source(session: Session, sight: Sight, artifact: str, at: datetime) -> str | None:
    """Where it was imported from last, as its importer signed it."""
    newest = (
        select(CustodyEvent.detail)
        .where(
            CustodyEvent.artifact == artifact,
            CustodyEvent.type == EventType.ARTIFACT_IMPORTED.value,
            col(CustodyEvent.recorded_at) <= at,
            sight.covers(CustodyEvent.repository),
        )
        .order_by(col(CustodyEvent.index).desc())
        .limit(1)
    )
    detail = session.exec(newest).one_or_none()
    return f"{detail['source']} at {detail['revision']}" if detail is not None else None


def _signatures(session: Session, publication: Publication, repository: str, as_of: AsOf) -> list[RecordedSignature]:
    query = (
        select(Signature)
        .options(defer(Signature.bundle))  # type: ignore[arg-type]  # a column, to SQLAlchemy
        .where(Signature.publication_id == publication.id, col(Signature.added_at) <= as_of.time)
        .order_by(col(Signature.id))
    )
    return [recorded(row, repository, publication.artifact_digest) for row in session.exec(query)]
