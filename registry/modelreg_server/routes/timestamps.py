"""Time stamps over HTTP (RFC 3161 §3.4: a reply, or an HTTP error)."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from modelreg.errors import Invalid, NotFound
from modelreg_server import timestamping
from modelreg_server.callers import Caller, denied
from modelreg_server.dependencies import PartsDep, Requires
from modelreg_server.guarding import GuardedRoute
from modelreg_server.identity import EVERYWHERE, Verb

router = APIRouter(prefix="/v1", tags=["timestamps"], route_class=GuardedRoute)
QUERY, REPLY = "application/timestamp-query", "application/timestamp-reply"


_SIGNING = (Verb.PUSH, Verb.SIGN, Verb.APPROVE)


def _stamped(caller: Annotated[Caller, Depends(Requires(None))]) -> Caller:
    """Whoever may sign something somewhere: signing comes before it is known where to, and a digest says nothing of it."""
    if not any(caller.principal.may_somewhere(verb) for verb in _SIGNING):
        raise denied(
            caller.principal,
            Verb.PUSH,
            EVERYWHERE,
            detail="only who may push, sign or approve somewhere has something to stamp",
        )
    return caller


Stamped = Annotated[Caller, Depends(_stamped)]


async def _query(request: Request, _caller: Stamped) -> bytes:
    request.scope["modelreg_body_limit"] = timestamping.MAX_QUERY_BYTES
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != QUERY:
        raise Invalid(f"send the query as {QUERY}", field="content-type")
    return await request.body()


@router.post(
    "/timestamps",
    summary="Time stamp a digest",
    response_class=Response,
    responses={200: {"description": "DER TimeStampResp.", "content": {REPLY: {}}}},
    openapi_extra={"requestBody": {"required": True, "content": {QUERY: {}}}},
)
def stamp(caller: Stamped, parts: PartsDep, query: Annotated[bytes, Depends(_query)]) -> Response:
    """RFC 3161: DER `TimeStampReq` in, DER `TimeStampResp` out, with the registry's clock. Appends no event."""
    if parts.tsa is None:
        raise NotFound("this registry runs no time-stamping authority; its operator can set MODELREG_TSA_KEY")
    return Response(timestamping.reply(parts.tsa, query, caller.now), media_type=REPLY)
