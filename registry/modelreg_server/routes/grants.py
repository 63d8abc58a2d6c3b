"""Fetching over HTTP: grant, then URLs or bytes, then reports."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from starlette.responses import Response, StreamingResponse

from modelreg import host_reports, wire
from modelreg.errors import Invalid
from modelreg_server import loads, retrieval
from modelreg_server.callers import Caller
from modelreg_server.custody import EventType
from modelreg_server.dependencies import Parts, PartsDep, RepositoryDep, Requires
from modelreg_server.guarding import GuardedRoute
from modelreg_server.loads import Reported
from modelreg_server.promotion import Serving
from modelreg_server.routes import REPOSITORY, BlobPath, IdPath

router = APIRouter(tags=["grants"], route_class=GuardedRoute)
# `pull` is decided inside the operation: a refusal must be an event too.
Puller = Annotated[Caller, Depends(Requires(None))]
_GRANT = "/v1/grants/{grant_id}"
_ASK_AGAIN_BYTES = 64 * 1024 * 1024
_RANGE = re.compile(r"bytes=([0-9]{1,19})-([0-9]{1,19})?", re.ASCII)


@router.post(REPOSITORY + "/grants", status_code=201, summary="Ask to fetch an artifact", response_model=wire.Grant)
def grant(repository: RepositoryDep, request: wire.GrantRequest, caller: Puller, parts: PartsDep) -> Response:
    """Decides and records; the event is durable before this answers."""
    parts.publishing.require_recent()
    granted = retrieval.grant(
        parts.recorder,
        parts.known_artifacts,
        caller,
        repository,
        artifact=request.artifact,
        purpose=request.purpose,
        host=request.host,
        tag=request.tag,
        policy=lambda: parts.trust_policy() if parts.has_trust_policy else None,
        lifetime=timedelta(seconds=parts.settings.grant_seconds),
        known_size=request.known_size,
        serving=_serving(parts, request.environment),
    )
    answer = wire.Grant(
        id=granted.id,
        repository=repository,
        artifact=request.artifact,
        manifest=granted.permitted.manifest.decode(),
        bundles=[bundle.decode() for bundle in granted.permitted.bundles],
        event=granted.proof.index,
        expires_at=granted.expires_at,
        receipt=granted.proof.receipt,
        consistency=granted.proof.consistency,
        permit=granted.permit.decode() if granted.permit is not None else None,
    )
    # Built from parsed values, and perhaps megabytes of manifest: not validated a second time.
    return Response(answer.model_dump_json(), 201, media_type="application/json")


def _serving(parts: Parts, environment: str | None) -> Serving | None:
    if environment is None:
        return None
    return Serving(environment, parts.deciding(), timedelta(seconds=parts.settings.permit_seconds))


@router.post(_GRANT + "/read-requests", summary="How to fetch blobs")
def read_requests(grant_id: IdPath, request: wire.BlobNames, caller: Puller, parts: PartsDep) -> wire.DirectRequests:
    """A presigned GET for each blob, or this API's own path where bytes pass through the server."""
    policy = parts.trust_policy() if parts.has_trust_policy else None
    answers = []
    for blob in retrieval.granted_blobs(parts.database, caller, grant_id, request.blobs, policy):
        if parts.presigner is None:
            url, headers, seconds = f"/v1/grants/{grant_id}/blobs/{blob.blake3}", {}, parts.settings.grant_seconds
        else:
            signed = parts.presigner.presign_read(blob.key)
            url, headers, seconds = signed.url, signed.headers, signed.expires_in_seconds
        answers.append(
            wire.DirectRequest(blake3=blob.blake3, method="GET", url=url, headers=headers, expires_in_seconds=seconds)
        )
    return wire.DirectRequests(requests=answers)


@router.get(
    _GRANT + "/blobs/{blake3}",
    summary="Fetch a blob, or a range of it, through the server",
    response_class=StreamingResponse,
    responses={206: {"description": "The range asked for."}},
)
def read(
    grant_id: IdPath,
    blake3: BlobPath,
    caller: Puller,
    parts: PartsDep,
    range: Annotated[str | None, Header()] = None,  # noqa: A002  # the header's name
) -> StreamingResponse:
    """The bytes as stored; the client verifies them."""
    policy = parts.trust_policy() if parts.has_trust_policy else None
    blob = retrieval.granted_blobs(parts.database, caller, grant_id, [blake3], policy)[0]
    start, stop = parse_range(range, blob.size_bytes)
    headers = {"Content-Length": str(stop - start), "Accept-Ranges": "bytes"}
    if range is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{blob.size_bytes}"
    return StreamingResponse(
        _first_block_early(
            _until_recalled(
                parts.store.read(blob.key, start, stop),
                lambda: retrieval.require_not_recalled(parts.database, caller, grant_id),
            )
        ),
        206 if range is not None else 200,
        headers,
        "application/octet-stream",
    )


@router.post(_GRANT + "/receipts", status_code=201, summary="Report that every byte arrived and was verified")
def received(grant_id: IdPath, request: wire.ReceivedReport, caller: Puller, parts: PartsDep) -> wire.Recorded:
    """Appends `artifact.received`. With `reported_at` also after the grant has expired."""
    detail = {"transferred_bytes": request.transferred_bytes}
    if request.reported_at is not None or request.signature is not None:
        members = request.model_dump(exclude=set(host_reports.UNSIGNED))
        reported = Reported.of(request.reported_at, request.signature)
        late = loads.received_late(parts.recorder, caller, grant_id, members, reported, request.known_size)
        return wire.Recorded(event=late.index, receipt=late.receipt, consistency=late.consistency)
    proof = retrieval.report(parts.recorder, caller, grant_id, EventType.ARTIFACT_RECEIVED, detail, request.known_size)
    return wire.Recorded(event=proof.index, receipt=proof.receipt, consistency=proof.consistency)


class _RangeNotSatisfiable(Invalid):
    code = "range-not-satisfiable"
    title = "The range is not satisfiable"
    status = 416


def parse_range(untrusted_header: str | None, size_bytes: int) -> tuple[int, int]:
    """Read `bytes=first-last` or `bytes=first-` as (start, stop); one range only, inside the blob (RFC 9110 §14).

    Raises:
        Invalid: anything else; a range that starts behind the end is 416.
    """
    if untrusted_header is None:
        return 0, size_bytes
    match = _RANGE.fullmatch(untrusted_header)
    if match is None:
        raise Invalid("send one range as `bytes=first-last`", field="range", value=untrusted_header[:200])
    start = int(match[1])
    stop = min(int(match[2]) + 1, size_bytes) if match[2] else size_bytes
    if start >= stop:
        raise _RangeNotSatisfiable(
            f"the blob has {size_bytes} bytes; the range {untrusted_header[:60]} holds none of them",
            field="range",
            value=untrusted_header[:200],
        )
    return start, stop


def _until_recalled(blocks: Iterator[bytes], require: Callable[[], None]) -> Iterator[bytes]:
    """Ask again every few blocks: the answer to one request may be a hundred gigabytes, and take an hour."""
    sent = 0
    for block in blocks:
        if sent >= _ASK_AGAIN_BYTES:
            require()
            sent = 0
        sent += len(block)
        yield block


def _first_block_early(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Read the first block now, while a failure can still become a problem response."""
    first = next(blocks, b"")

    def all_blocks() -> Iterator[bytes]:
        yield first
        yield from blocks

    return all_blocks()
