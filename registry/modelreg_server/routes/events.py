"""Reading the record."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from sqlmodel import Session

from modelreg import wire
from modelreg.references import parse_repository
from modelreg_server import custody, custody_identities
from modelreg_server.callers import Caller, require
from modelreg_server.custody import CustodyEvent, EventType
from modelreg_server.custody_identities import CustodyIdentity
from modelreg_server.dependencies import ReadSession, Requires
from modelreg_server.guarding import GuardedRoute
from modelreg_server.identity import EVERYWHERE, Verb
from modelreg_server.routes import LimitQuery

_ACTOR = ("principal", "token_id", "client_address", "user_agent", "identity")
router = APIRouter(prefix="/v1", tags=["events"], route_class=GuardedRoute)


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
    """Events in the order of the log; without a repository, `audit` on `*/*` is needed."""
    if repository is not None:
        parse_repository(repository)
    require(caller, Verb.AUDIT, repository or EVERYWHERE)
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
    return wire.Events(events=infos_of(session, found), next_after=found[-1].index if more else None)


def infos_of(session: Session, rows: Sequence[CustodyEvent]) -> list[wire.EventInfo]:
    """Events as the API shows them, with the names that stand behind their commitments unless they were erased."""
    opened = custody_identities.opened(session, [name for row in rows for name in (row.actor, row.about)])
    return [_info(row, opened) for row in rows]


def _info(row: CustodyEvent, opened: Mapping[str, CustodyIdentity]) -> wire.EventInfo:
    actor, about = opened.get(row.actor or ""), opened.get(row.about or "")
    said = {name: value for name, value in (about.body if about else {}).items() if name != "about"}
    if row.actor is None:  # of a release before the commitments
        who = {name: getattr(row, name) for name in _ACTOR}
    else:
        who = dict.fromkeys(_ACTOR) | {"principal": row.principal}
        who |= {"token_id" if name == "token" else name: value for name, value in (actor.body if actor else {}).items()}
    return wire.EventInfo(
        index=row.index,
        type=row.type,
        recorded_at=row.recorded_at,
        **who,
        repository=row.repository,
        artifact=row.artifact,
        tag=row.tag,
        host=row.host,
        purpose=row.purpose,
        detail=row.detail | said,
        verified_host=row.verified_host,
        verified_host_class=row.verified_host_class,
        verified_host_zone=row.verified_host_zone,
    )


def outline_of(info: wire.EventInfo) -> wire.EventInfo:
    """What of an event is for who may see the repository, and not its record."""
    hidden = ("token_id", "client_address", "user_agent", "identity")
    hosts = ("host", "verified_host", "verified_host_class", "verified_host_zone")
    return info.model_copy(update=dict.fromkeys((*hidden, *hosts)))
