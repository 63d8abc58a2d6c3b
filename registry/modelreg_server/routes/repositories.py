"""Repositories, artifacts and tags: looking, and moving tags."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from modelreg import wire
from modelreg_server import catalogue, classifying, tagging
from modelreg_server.access_grants import is_sensitive
from modelreg_server.callers import Caller
from modelreg_server.dependencies import PartsDep, ReadSession, RepositoryDep, Requires
from modelreg_server.guarding import GuardedRoute
from modelreg_server.identity import Verb
from modelreg_server.routes import REPOSITORY, ArtifactPath, LimitQuery, TagPath
from modelreg_server.routes.events import infos_of, outline_of
from modelreg_server.tables import Tag

router = APIRouter(tags=["repositories"], route_class=GuardedRoute)
Reader = Annotated[Caller, Depends(Requires(Verb.READ_METADATA))]
Administrator = Annotated[Caller, Depends(Requires(Verb.ADMIN))]
Tagger = Annotated[Caller, Depends(Requires(Verb.TAG))]


@router.get("/v1/repositories", summary="List repositories")
def repositories(
    caller: Annotated[Caller, Depends(Requires(None))],
    session: ReadSession,
    after: Annotated[str, Query(max_length=128, pattern="^[a-z0-9._/-]*$")] = "",  # PostgreSQL knows no NUL
    limit: LimitQuery = 100,
) -> wire.Repositories:
    """Repositories this principal may see, by name."""
    found = catalogue.repositories(session, caller.principal, after, limit)
    return wire.Repositories(
        repositories=[
            wire.RepositoryInfo(
                repository=row.name, artifacts=count, created_at=row.created_at, sensitive=row.sensitive
            )
            for row, count in found
        ],
        next_after=found[-1][0].name if len(found) == limit else None,
    )


@router.patch(REPOSITORY, summary="Change a repository")
def change(
    repository: RepositoryDep, request: wire.RepositoryChange, caller: Administrator, parts: PartsDep
) -> wire.RepositorySettings:
    """Whether its bytes are for verified hosts only; recorded as `repository.changed`."""
    row = catalogue.change(parts.database, caller, repository, sensitive=request.sensitive)
    return wire.RepositorySettings(repository=row.name, sensitive=row.sensitive)


@router.get(REPOSITORY + "/artifacts", summary="List artifacts")
def artifacts(
    repository: RepositoryDep,
    _caller: Reader,
    session: ReadSession,
    before: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    limit: LimitQuery = 100,
) -> wire.Artifacts:
    """Artifacts of a repository, newest first."""
    found = catalogue.artifacts(session, repository, before, limit)
    return wire.Artifacts(
        artifacts=[_artifact(item) for item in found],
        next_before=found[-1].publication.id if len(found) == limit else None,
    )


@router.get(REPOSITORY + "/artifacts/{artifact}", summary="Show an artifact")
def artifact(
    repository: RepositoryDep, artifact: ArtifactPath, _caller: Reader, session: ReadSession
) -> wire.ArtifactDetail:
    """Everything recorded about an artifact; no bytes."""
    item, manifest, signatures = catalogue.detail(session, repository, artifact)
    return wire.ArtifactDetail(
        info=_artifact(item),
        repository=repository,
        sensitive=is_sensitive(session, repository),
        manifest=manifest.decode(),
        signatures=[
            wire.SignatureInfo(
                bundle=row.bundle.decode(),
                authority=row.authority,
                identity=row.identity,
                added_at=row.added_at,
                added_by=row.added_by,
            )
            for row in signatures
        ],
        classification=classifying.effective_of(session, [artifact]).get(artifact),
    )


@router.get(REPOSITORY + "/tags", summary="List tags")
def tags(repository: RepositoryDep, _caller: Reader, session: ReadSession) -> wire.Tags:
    """All tags of a repository, by name. Listing is not resolving: it appends no event."""
    return wire.Tags(tags=[_tag(row) for row in tagging.tags_of(session, repository)])


@router.get(REPOSITORY + "/tags/{tag}", summary="Resolve a tag")
def resolve(repository: RepositoryDep, tag: TagPath, caller: Reader, parts: PartsDep) -> wire.TagInfo:
    """Where the tag points now; recorded as `tag.resolved`."""
    return _tag(tagging.resolve_tag(parts.recorder, caller, repository, tag))


@router.put(REPOSITORY + "/tags/{tag}", summary="Move a tag")
def move(
    repository: RepositoryDep, tag: TagPath, request: wire.TagRequest, caller: Tagger, parts: PartsDep
) -> wire.TagInfo:
    """Point the tag at a published artifact; recorded as `tag.moved`."""
    return _tag(tagging.set_tag(parts.database, caller, repository, tag, request.artifact, request.expected))


@router.get(REPOSITORY + "/tags/{tag}/history", summary="Where a tag has been")
def history(
    repository: RepositoryDep, tag: TagPath, caller: Reader, session: ReadSession, limit: LimitQuery = 100
) -> wire.Events:
    """The tag's last moves, oldest first. Token, claims, address and machine of who moved it are for auditors."""
    found = infos_of(session, tagging.history(session, repository, tag, limit))
    may_audit = caller.principal.may(Verb.AUDIT, repository)
    return wire.Events(events=found if may_audit else [outline_of(info) for info in found], next_after=None)


def _artifact(item: catalogue.Listed) -> wire.ArtifactInfo:
    return wire.ArtifactInfo(
        artifact=item.artifact,
        size_bytes=item.size_bytes,
        files=item.files,
        published_at=item.publication.published_at,
        published_by=item.publication.published_by,
        tags=item.tags,
    )


def _tag(row: Tag) -> wire.TagInfo:
    return wire.TagInfo(
        tag=row.name,
        artifact=row.artifact_digest,
        version=row.event_index,
        moved_at=row.moved_at,
        moved_by=row.moved_by,
    )
