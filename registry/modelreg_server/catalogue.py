"""Looking at what there is: repositories, artifacts and their details, as far as the principal may see."""

from dataclasses import dataclass

from sqlalchemy import func
from sqlmodel import Session, col, select

from modelreg.errors import NotFound
from modelreg_server import classifying, custody
from modelreg_server.callers import Caller
from modelreg_server.custody import Event, EventType
from modelreg_server.database import Database
from modelreg_server.identity import Principal, Verb
from modelreg_server.tables import Artifact, Publication, Repository, Signature, Tag
from modelreg_server.tagging import repository_row


@dataclass(frozen=True)
class Listed:
    """A publication with the size of its artifact and the tags that point at it."""

    publication: Publication
    artifact: str
    size_bytes: int
    files: int
    tags: list[str]


def repositories(session: Session, principal: Principal, after: str, limit: int) -> list[tuple[Repository, int]]:
    """Repositories by name after `after` that the principal may see, each with its number of artifacts."""
    found: list[tuple[Repository, int]] = []
    while len(found) < limit:
        counted = (
            select(Repository, func.count(col(Publication.id)))
            .join(Publication, col(Publication.repository_id) == col(Repository.id))
            .where(col(Repository.name) > after)
            .group_by(*Repository.__table__.columns)  # type: ignore[attr-defined]  # SQLModel hides the table
            .order_by(col(Repository.name))
            .limit(limit)
        )
        page = list(session.exec(counted))
        if not page:
            break
        after = page[-1][0].name
        found += [(row, count) for row, count in page if principal.may(Verb.READ_METADATA, row.name)]
    return found[:limit]


def artifacts(session: Session, repository: str, before: int | None, limit: int) -> list[Listed]:
    """Artifacts of a repository, newest first, before a publication id."""
    row = repository_row(session, repository)
    query = (
        select(Publication, Artifact.size_bytes, Artifact.file_count)
        .join(Artifact, col(Artifact.digest) == col(Publication.artifact_digest))
        .where(Publication.repository_id == row.id)
        .order_by(col(Publication.id).desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(col(Publication.id) < before)
    tags = _tags_by_artifact(session, row)
    return [
        Listed(publication, publication.artifact_digest, size, files, tags.get(publication.artifact_digest, []))
        for publication, size, files in session.exec(query)
    ]


def detail(session: Session, repository: str, artifact: str) -> tuple[Listed, bytes, list[Signature]]:
    """One artifact with its manifest bytes and signatures.

    Raises:
        NotFound: the repository does not hold it.
    """
    row = repository_row(session, repository)
    publication = session.exec(
        select(Publication).where(Publication.repository_id == row.id, Publication.artifact_digest == artifact)
    ).one_or_none()
    if publication is None:
        raise NotFound(f"{repository} has no artifact {artifact}")
    stored = session.get_one(Artifact, artifact)
    signatures = session.exec(
        select(Signature).where(Signature.publication_id == publication.id).order_by(col(Signature.id))
    ).all()
    tags = _tags_by_artifact(session, row).get(artifact, [])
    return Listed(publication, artifact, stored.size_bytes, stored.file_count, tags), stored.manifest, list(signatures)


def change(database: Database, caller: Caller, repository: str, *, sensitive: bool) -> Repository:
    """Set what administrators set for a repository; setting it again is no event.

    Its artifacts are confidential at least while it is sensitive, and what was made from them.

    Raises:
        NotFound: there is no such repository; the first publication makes it.
        TooLarge: more artifacts than one change may reach.
    """
    with database.writing() as session, session.begin():
        row = repository_row(session, repository)
        custody.hold(session)
        session.refresh(row)
        if row.sensitive != sensitive:
            row.sensitive = sensitive
            event = Event(EventType.REPOSITORY_CHANGED, repository, detail={"sensitive": sensitive})
            custody.append(session, caller.actor, event, caller.now)
            session.flush()
            held = select(Publication.artifact_digest).where(Publication.repository_id == row.id)
            classifying.reconsider(session, session.exec(held).all(), caller.now)
        session.flush()
        session.expunge_all()
    return row


def _tags_by_artifact(session: Session, repository: Repository) -> dict[str, list[str]]:
    tags: dict[str, list[str]] = {}
    for tag in session.exec(select(Tag).where(Tag.repository_id == repository.id).order_by(col(Tag.name))):
        tags.setdefault(tag.artifact_digest, []).append(tag.name)
    return tags
