"""Reading the record."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from modelreg import wire
from modelreg.errors import Forbidden
from modelreg.references import parse_repository
from modelreg_server import custody
from modelreg_server.callers import Caller, denied
from modelreg_server.custody import CustodyEvent, EventType
from modelreg_server.dependencies import ReadSession, Requires
from modelreg_server.identity import Verb
from modelreg_server.routes import LimitQuery

router = APIRouter(prefix="/v1", tags=["events"])


@router.get("/events", summary="Custody events")
def events(
    caller: Annotated[Caller, Depends(Requires(None))],
    session: ReadSession,
    repository: Annotated[str | None, Query(max_length=128)] = None,
    artifact: Annotated[wire.ArtifactDigest | None, Query()] = None,
    type: Annotated[list[EventType] | None, Query()] = None,  # noqa: A002  # the parameter's name on the wire
    after: Annotated[int, Query(ge=-1, lt=2**63)] = -1,
    newest: bool = False,
    limit: LimitQuery = 100,
) -> wire.Events:
    """Events in the order of the log; without a repository, the scope `audit:*/*` is needed."""
    if repository is not None:
        parse_repository(repository)
        if not caller.principal.may(Verb.AUDIT, repository):
            raise denied(caller.principal, Verb.AUDIT, repository)
    elif not caller.principal.may_everywhere(Verb.AUDIT):
        raise Forbidden(
            f"{caller.principal.name} may not read the whole record; name a repository, or ask for audit:*/*"
        )
    found = custody.events(
        session,
        repository=repository,
        artifact=artifact,
        types=[kind.value for kind in type or []],
        after=after,
        newest=newest,
        limit=limit,
    )
    more = len(found) == limit and not newest
    return wire.Events(events=[info_of(row) for row in found], next_after=found[-1].index if more else None)


def info_of(row: CustodyEvent) -> wire.EventInfo:
    """An event as the API shows it."""
    return wire.EventInfo(
        index=row.index,
        type=row.type,
        recorded_at=row.recorded_at,
        principal=row.principal,
        token_id=row.token_id,
        repository=row.repository,
        artifact=row.artifact,
        tag=row.tag,
        host=row.host,
        client_address=row.client_address,
        user_agent=row.user_agent,
        purpose=row.purpose,
        detail=row.detail,
        identity=row.identity,
    )
