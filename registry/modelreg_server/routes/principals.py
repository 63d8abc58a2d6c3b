"""Who am I, and the tokens an administrator gives out."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends

from modelreg import wire
from modelreg_server.callers import Caller
from modelreg_server.dependencies import ReadSession, Requires, WriteSession
from modelreg_server.guarding import GuardedRoute
from modelreg_server.identity import Verb, parse_scope, tokens
from modelreg_server.routes import IdPath
from modelreg_server.tables import Token

router = APIRouter(prefix="/v1", tags=["principals"], route_class=GuardedRoute)
Administrator = Annotated[Caller, Depends(Requires(Verb.ADMIN))]


@router.get("/whoami", summary="The principal behind the token")
def whoami(caller: Annotated[Caller, Depends(Requires(None))]) -> wire.Whoami:
    """Name, rights and end of the credential that was sent, and the host whose key signed the request."""
    principal = caller.principal
    return wire.Whoami(
        principal=principal.name,
        scopes=[str(scope) for scope in principal.scopes],
        expires_at=principal.expires_at,
        token_id=principal.token_id,
        host=principal.host.name if principal.host else None,
        host_class=principal.host.host_class.value if principal.host else None,
        host_zone=principal.host.zone if principal.host else None,
        grants=[str(grant) for grant in principal.grants],
    )


@router.post("/tokens", status_code=201, summary="Issue a token")
def issue(request: wire.TokenRequest, caller: Administrator, session: WriteSession) -> wire.TokenIssued:
    """Issue a token; its text is in this answer and nowhere else."""
    with session.begin():
        text, row = tokens.issue(
            session,
            caller.actor,
            principal=request.principal,
            scopes=[parse_scope(scope) for scope in request.scopes or []],
            lifetime=timedelta(seconds=request.expires_in_seconds),
            now=caller.now,
        )
        answer = wire.TokenIssued(token=text, info=_info(row))
    return answer


@router.get("/tokens", summary="List tokens")
def every_token(caller: Administrator, session: ReadSession) -> wire.TokenList:
    """All API tokens and live session tokens, newest first, without their secrets."""
    return wire.TokenList(tokens=[_info(row) for row in tokens.every_token(session, caller.now)])


@router.delete("/tokens/{token_id}", summary="Revoke a token")
def revoke(token_id: IdPath, caller: Administrator, session: WriteSession) -> wire.TokenInfo:
    """End a token; it is refused from the next request on."""
    with session.begin():
        answer = _info(tokens.revoke(session, caller.actor, token_id, caller.now))
    return answer


def _info(row: Token) -> wire.TokenInfo:
    return wire.TokenInfo(
        id=row.id,
        kind=row.kind,
        principal=row.principal,
        scopes=row.scopes,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        last_four=row.last_four,
    )
