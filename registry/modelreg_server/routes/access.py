"""Access grants: given, listed, ended and explained."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from modelreg import wire
from modelreg.references import parse_repository
from modelreg_server import access_grants
from modelreg_server.access import AccessDecision, AccessGrant, HostClass
from modelreg_server.callers import Caller, require
from modelreg_server.dependencies import ReadSession, Requires, WriteSession
from modelreg_server.guarding import GuardedRoute
from modelreg_server.identity import Verb
from modelreg_server.routes import IdPath
from modelreg_server.tables import AccessGrantRow

router = APIRouter(prefix="/v1/access", tags=["access"], route_class=GuardedRoute)
Administrator = Annotated[Caller, Depends(Requires(Verb.ADMIN))]


@router.post("/grants", status_code=201, summary="Give access")
def grant(request: wire.AccessGrantRequest, caller: Administrator, session: WriteSession) -> wire.AccessGrantInfo:
    """One verb for the subjects and on the repositories of two patterns; recorded as `access.granted`."""
    lifetime = request.expires_in_seconds
    wanted = AccessGrant(
        subject=request.subject,
        verb=Verb(request.verb),
        repository=request.repository,
        environment=request.environment,
        host_class=HostClass(request.host_class) if request.host_class else None,
        zone=request.zone,
        not_after=None if lifetime is None else caller.now + timedelta(seconds=lifetime),
    )
    with session.begin():
        answer = _info(access_grants.grant(session, caller.actor, wanted, caller.now))
    return answer


@router.get("/grants", summary="List access grants")
def every_grant(
    _caller: Administrator, session: ReadSession, subject: Annotated[wire.Subject | None, Query()] = None
) -> wire.AccessGrantList:
    """All of them, newest first, ended ones too; with a subject, those whose pattern names it."""
    return wire.AccessGrantList(grants=[_info(row) for row in access_grants.every_grant(session, subject)])


@router.delete("/grants/{grant_id}", summary="End an access grant")
def revoke(grant_id: IdPath, caller: Administrator, session: WriteSession) -> wire.AccessGrantInfo:
    """It applies no more from the next request on; recorded as `access.revoked`."""
    with session.begin():
        answer = _info(access_grants.revoke(session, caller.actor, grant_id, caller.now))
    return answer


@router.get("/decision", summary="Whether somebody may, and why")
def explain(
    caller: Annotated[Caller, Depends(Requires(None))],
    session: ReadSession,
    subject: Annotated[wire.Subject, Query()],
    verb: Annotated[Verb, Query()],
    repository: Annotated[str, Query(max_length=128)],
    host_class: Annotated[HostClass | None, Query()] = None,
    zone: Annotated[wire.PlaceName | None, Query()] = None,
    environment: Annotated[wire.PlaceName | None, Query()] = None,
) -> wire.AccessExplanation:
    """Needs `audit` or `admin` on the repository; on all of them to see grants on others too.

    Asking decides nothing and appends no event, unless it is refused.
    """
    parse_repository(repository)
    if not caller.principal.may(Verb.ADMIN, repository):
        require(caller, Verb.AUDIT, repository)
    found = access_grants.explain(
        session,
        subject,
        verb,
        repository,
        environment=environment,
        host_class=host_class,
        zone=zone,
        now=caller.now,
    )
    everything = any(caller.principal.may_everywhere(right) for right in (Verb.ADMIN, Verb.AUDIT))
    about = None if everything else repository
    return wire.AccessExplanation(
        subject=subject,
        verb=verb.value,
        repository=repository,
        sensitive=found.request.sensitive,
        allowed=found.decision.allowed,
        reasons=_reasons(found.decision, about),
        tokens=[
            wire.AccessOfToken(token_id=token_id, allowed=decision.allowed, reasons=_reasons(decision, about))
            for token_id, decision in found.tokens
            if about is None or decision.reasons_on(about)
        ],
    )


def _reasons(decision: AccessDecision, about: str | None) -> list[wire.AccessReason]:
    """All reasons, or those of grants on one repository."""
    return [
        wire.AccessReason(grant=str(reason.grant), origin=reason.grant.origin, applies=reason.applies, text=reason.text)
        for reason in (decision.reasons if about is None else decision.reasons_on(about))
    ]


def _info(row: AccessGrantRow) -> wire.AccessGrantInfo:
    return wire.AccessGrantInfo(
        id=row.id,
        subject=row.subject,
        verb=row.verb,
        repository=row.repository,
        environment=row.environment,
        host_class=row.host_class,
        zone=row.zone,
        not_after=row.not_after,
        created_at=row.created_at,
        created_by=row.created_by,
        revoked_at=row.revoked_at,
        revoked_by=row.revoked_by,
    )
