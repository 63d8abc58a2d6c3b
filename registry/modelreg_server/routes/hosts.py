"""Machines as hosts: invited, enrolled, listed, ended."""

from base64 import b64decode
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request

from modelreg import wire
from modelreg_server import enrolment
from modelreg_server.access import HostClass, HostFacts
from modelreg_server.callers import Caller
from modelreg_server.dependencies import (
    Invited,
    ReadSession,
    Requires,
    RequiresInvitation,
    WriteSession,
    received_of,
)
from modelreg_server.guarding import GuardedRoute
from modelreg_server.identity import Verb
from modelreg_server.tables import Host, HostInvitation

router = APIRouter(prefix="/v1/hosts", tags=["hosts"], route_class=GuardedRoute)
Administrator = Annotated[Caller, Depends(Requires(Verb.ADMIN))]
NamePath = Annotated[wire.HostName, Path()]


@router.post("/invitations", status_code=201, summary="Invite a machine")
def invite(request: wire.HostInvitationRequest, caller: Administrator, session: WriteSession) -> wire.HostInvited:
    """The enrolment token is in this answer and nowhere else; recorded as `host.invited`."""
    facts = HostFacts(request.name, HostClass(request.host_class), request.zone)
    with session.begin():
        text, row = enrolment.invite(
            session,
            caller.actor,
            facts,
            labels=dict(request.labels),
            lifetime=timedelta(seconds=request.expires_in_seconds),
            now=caller.now,
        )
        answer = wire.HostInvited(token=text, invitation=_invitation(row))
    return answer


@router.post("", status_code=201, summary="Become a host")
def enrol(
    body: wire.HostEnrolment,
    request: Request,
    invited: Annotated[Invited, Depends(RequiresInvitation())],
    session: WriteSession,
) -> wire.HostInfo:
    """Takes an enrolment token and a signature with the new key; recorded as `host.enrolled`."""
    with session.begin():
        row = enrolment.enrol(
            session,
            invited.actor,
            received_of(request),
            b64decode(body.public_key),
            invited.invitation_id,
            invited.now,
        )
        answer = _info(row)
    return answer


@router.get("", summary="List hosts")
def every_host(caller: Administrator, session: ReadSession) -> wire.HostList:
    """Hosts, newest first, ended ones too, and open invitations."""
    return wire.HostList(
        hosts=[_info(row) for row in enrolment.every_host(session)],
        invitations=[_invitation(row) for row in enrolment.open_invitations(session, caller.now)],
    )


@router.get("/{name}", summary="Show a host")
def show(name: NamePath, _caller: Administrator, session: ReadSession) -> wire.HostInfo:
    """The host of this name; if it was ended, the last one."""
    return _info(enrolment.host(session, name))


@router.delete("/{name}", summary="End a host")
def revoke(name: NamePath, caller: Administrator, session: WriteSession) -> wire.HostRevoked:
    """Its key is refused from the next request on, and open invitations are withdrawn; recorded as `host.revoked`."""
    with session.begin():
        row, withdrawn = enrolment.revoke(session, caller.actor, name, caller.now)
        answer = wire.HostRevoked(host=_info(row) if row else None, withdrawn_invitations=withdrawn)
    return answer


def _info(row: Host) -> wire.HostInfo:
    return wire.HostInfo(
        id=row.id,
        name=row.name,
        host_class=row.host_class,
        zone=row.zone,
        labels=row.labels,
        key_id=row.key_id,
        enrolled_at=row.enrolled_at,
        invited_by=row.invited_by,
        revoked_at=row.revoked_at,
        revoked_by=row.revoked_by,
    )


def _invitation(row: HostInvitation) -> wire.HostInvitationInfo:
    return wire.HostInvitationInfo(
        id=row.id,
        name=row.name,
        host_class=row.host_class,
        zone=row.zone,
        labels=row.labels,
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
    )
