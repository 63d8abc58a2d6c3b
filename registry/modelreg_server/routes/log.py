"""The custody log for whoever checks it: the signed head, proofs, tiles; entries for auditors.

Head, proofs and hash tiles tell nothing but how many events there are, so every principal may have them: hosts hold their
receipts against them. Entries are for `audit` on everything.
"""

from base64 import b64encode
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from starlette.responses import Response

from modelreg import tiles, wire_log
from modelreg_server import log_reading
from modelreg_server.callers import Caller, require
from modelreg_server.dependencies import ReadSession, Requires
from modelreg_server.guarding import GuardedRoute
from modelreg_server.identity import EVERYWHERE, Verb

router = APIRouter(prefix="/v1/log", tags=["log"], route_class=GuardedRoute)
Anybody = Annotated[Caller, Depends(Requires(None))]
Number = Annotated[int, Query(ge=0, lt=2**63)]


@router.get("/checkpoint", response_class=Response, summary="The signed head of the custody log")
def checkpoint(_caller: Anybody, session: ReadSession) -> Response:
    """A C2SP checkpoint, signed note."""
    headers = {"Cache-Control": "no-store"}
    return Response(log_reading.checkpoint(session), 200, headers, "text/plain; charset=utf-8")


@router.get("/proof", summary="That an entry is in the log")
def proof(index: Number, size: Number, _caller: Anybody, session: ReadSession) -> wire_log.InclusionProof:
    """The audit path of entry `index` in the log of `size` entries (RFC 6962)."""
    hashes = log_reading.inclusion(session, index, size)
    return wire_log.InclusionProof(index=index, size=size, hashes=[_text(value) for value in hashes])


@router.get("/consistency", summary="That the log was only added to")
def consistency(old: Number, new: Number, _caller: Anybody, session: ReadSession) -> wire_log.ConsistencyProof:
    """The consistency proof between two sizes of the log (RFC 6962)."""
    hashes = log_reading.consistency(session, old, new)
    return wire_log.ConsistencyProof(old=old, new=new, hashes=[_text(value) for value in hashes])


@router.get("/entries", summary="Entries, and who stands behind them")
def entries(start: Number, end: Number, caller: Anybody, session: ReadSession) -> wire_log.LogEntries:
    """Entries `start` to `end` (exclusive), at most 256, fewer at the end; `audit` on `*/*` is needed."""
    require(caller, Verb.AUDIT, EVERYWHERE)
    found = log_reading.entries(session, start, max(start, end))
    openings = [
        wire_log.Opening(commitment=row.commitment, salt=_text(row.salt), body=row.body) for row in found.openings
    ]
    return wire_log.LogEntries(start=start, entries=[_text(entry) for entry in found.entries], openings=openings)


@router.get("/tile/{path:path}", response_class=Response, summary="A tile or an entry bundle (tlog-tiles)")
def tile(
    path: Annotated[str, Path(pattern=f"^{tiles.PATTERN}$", max_length=60)], caller: Anybody, session: ReadSession
) -> Response:
    """`L/N[.p/W]` or `entries/N[.p/W]`; entry bundles need `audit` on `*/*`."""
    wanted = tiles.parse_path(path)
    if wanted.level is None:
        require(caller, Verb.AUDIT, EVERYWHERE)
    headers = {"Cache-Control": "private, max-age=31536000, immutable"}
    return Response(log_reading.tile(session, wanted), 200, headers, "application/octet-stream")


def _text(value: bytes) -> str:
    return b64encode(value).decode()
