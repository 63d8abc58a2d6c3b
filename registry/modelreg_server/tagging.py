"""Tags: movable labels whose every move and resolution is an event. A tag's version is its event's index."""

from sqlmodel import Session, col, select

from modelreg.errors import Conflict, NotFound
from modelreg_server import custody
from modelreg_server.callers import Caller, absent
from modelreg_server.custody import CustodyEvent, Event, EventType
from modelreg_server.database import Database
from modelreg_server.group_commit import Recorder
from modelreg_server.tables import Publication, Repository, Tag


def move_tag(session: Session, caller: Caller, repository: Repository, name: str, artifact: str) -> int:
    """Point a tag at an artifact inside the caller's transaction; returns its version. Staying is no event."""
    assert repository.id is not None
    custody.hold(session)  # one mover at a time, so that every event names the true `from`
    tag = session.get(Tag, (repository.id, name), with_for_update=True)
    if tag is not None and tag.artifact_digest == artifact:
        return tag.event_index
    detail = {"from": tag.artifact_digest if tag else None}
    event = Event(EventType.TAG_MOVED, repository.name, artifact, tag=name, detail=detail)
    index = custody.append(session, caller.actor, event, caller.now)
    if tag is None:
        tag = Tag(
            repository_id=repository.id,
            name=name,
            artifact_digest=artifact,
            event_index=index,
            moved_at=caller.now,
            moved_by=caller.principal.name,
        )
    tag.artifact_digest, tag.event_index = artifact, index
    tag.moved_at, tag.moved_by = caller.now, caller.principal.name
    session.add(tag)
    return index


def set_tag(database: Database, caller: Caller, repository: str, name: str, artifact: str, expected: str | None) -> Tag:
    """Move a tag to a published artifact; with `expected`, only from there (`none`: only if it is new).

    Raises:
        NotFound: the repository does not hold the artifact.
        Conflict: the tag is somewhere else than expected.
    """
    with database.writing() as session, session.begin():
        row = repository_row(session, repository)
        published = session.exec(
            select(Publication).where(Publication.repository_id == row.id, Publication.artifact_digest == artifact)
        ).one_or_none()
        if published is None:
            raise NotFound(f"{repository} has no artifact {artifact}")
        custody.hold(session)
        current = session.get(Tag, (row.id, name))
        at = current.artifact_digest if current else "none"
        if expected is not None and at != expected:
            raise Conflict(f"{repository}:{name} is at {at}, not at {expected}", current=at)
        move_tag(session, caller, row, name, artifact)
        session.flush()
        tag = session.get_one(Tag, (row.id, name))
        session.expunge_all()
    return tag


def resolve_tag(recorder: Recorder, caller: Caller, repository: str, name: str) -> Tag:
    """Where a tag points, once; resolving is an event.

    Raises:
        NotFound: no such tag.
    """

    def resolve(session: Session) -> Tag:
        row = repository_row(session, repository)
        tag = session.get(Tag, (row.id, name), populate_existing=True)
        if tag is None:
            raise NotFound(f"{repository} has no tag {name}; `modelreg ls {repository}` lists what there is")
        event = Event(EventType.TAG_RESOLVED, repository, tag.artifact_digest, tag=name)
        custody.append(session, caller.actor, event, caller.now)
        session.expunge(tag)
        return tag

    return recorder.record(resolve, only_appends=True).value


def tags_of(session: Session, repository: str) -> list[Tag]:
    """All tags of a repository, by name."""
    row = repository_row(session, repository)
    return list(session.exec(select(Tag).where(Tag.repository_id == row.id).order_by(col(Tag.name))))


def history(session: Session, repository: str, name: str, limit: int) -> list[CustodyEvent]:
    """The last moves of a tag, oldest first: the log is the history."""
    repository_row(session, repository)
    return custody.events(
        session, repository=repository, tag=name, types=[EventType.TAG_MOVED], newest=True, limit=limit
    )


def repository_row(session: Session, name: str) -> Repository:
    """The repository of this name.

    Raises:
        NotFound: there is none.
    """
    row = session.exec(select(Repository).where(Repository.name == name)).one_or_none()
    if row is None:
        raise absent(name)
    return row
