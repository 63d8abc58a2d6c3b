"""Publishing over HTTP: see `publication` for the steps."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Annotated

import anyio.from_thread
from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from modelreg import wire
from modelreg.errors import Invalid
from modelreg_server import publication, uploading
from modelreg_server.callers import Caller
from modelreg_server.dependencies import PartsDep, ReadSession, RepositoryDep, Requires
from modelreg_server.guarding import GuardedRoute
from modelreg_server.identity import Verb
from modelreg_server.routes import REPOSITORY, BlobPath, IdPath
from modelreg_server.traffic import MAX_PUBLICATION_BYTES

router = APIRouter(tags=["publications"], route_class=GuardedRoute)
Pusher = Annotated[Caller, Depends(Requires(Verb.PUSH, or_verb=Verb.SIGN))]
# Below an id there is no repository in the path; the operation finds it and checks `push` or `sign` on it.
Publisher = Annotated[Caller, Depends(Requires(None))]
Sender = Annotated[Caller, Depends(Requires(None, streams=True))]
PartNumber = Annotated[int, Path(ge=1, le=10_000)]
_PUBLICATION = "/v1/publications/{publication_id}"
_STREAM_BLOCK_BYTES = 512 * 1024


async def _publication_request(request: Request, _caller: Pusher) -> wire.PublicationRequest:
    """The body, read only after the caller is known: it may be far larger than any other."""
    request.scope["modelreg_body_limit"] = MAX_PUBLICATION_BYTES
    try:
        return wire.PublicationRequest.model_validate_json(await request.body())
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_input=False, include_url=False)) from None


@router.post(
    REPOSITORY + "/publications",
    status_code=201,
    summary="Begin or resume a publication",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": wire.PublicationRequest.model_json_schema()}},
        }
    },
)
def begin(
    repository: RepositoryDep,
    caller: Pusher,
    parts: PartsDep,
    request: Annotated[wire.PublicationRequest, Depends(_publication_request)],
) -> wire.PublicationState:
    """Verify manifest and signature, and say which blobs are missing."""
    missing = publication.begin(
        parts.database,
        caller,
        repository,
        request.manifest.encode(),
        request.bundle.encode(),
        request.tags,
        parts.trust_policy(),
        timedelta(seconds=parts.settings.publication_seconds),
        request.parents,
        request.attestations,
    )
    return wire.PublicationState(
        id=missing.attempt.id,
        repository=repository,
        artifact=missing.attempt.artifact_digest,
        missing=missing.blobs,
    )


@router.post(_PUBLICATION + "/uploads", summary="Open uploads, or see where they stand")
def uploads(publication_id: IdPath, request: wire.BlobNames, caller: Publisher, parts: PartsDep) -> wire.Uploads:
    """Part size and written parts of each named blob."""
    found = uploading.uploads(parts.database, parts.store, caller, publication_id, request.blobs)
    return wire.Uploads(
        uploads=[
            wire.BlobToUpload(
                blake3=row.blake3,
                size=row.size_bytes,
                part_bytes=row.part_bytes,
                part_count=uploading.upload_of(row).part_count,
                written_parts=sorted(written),
            )
            for row, written in found
        ]
    )


@router.post(_PUBLICATION + "/part-requests", summary="How to send parts")
def part_requests(
    publication_id: IdPath, request: wire.PartNames, caller: Publisher, parts: PartsDep, session: ReadSession
) -> wire.DirectRequests:
    """A presigned PUT for each part, or this API's own path where bytes pass through the server."""
    answers = []
    rows = uploading.open_uploads(session, caller, publication_id, sorted({part.blake3 for part in request.parts}))
    for part in request.parts:
        upload = uploading.taking_parts(rows[part.blake3])
        if part.number > upload.part_count:
            raise Invalid(f"blob {part.blake3} has {upload.part_count} parts", field="number", value=part.number)
        if parts.presigner is None:
            path = f"/v1/publications/{publication_id}/blobs/{part.blake3}/parts/{part.number}"
            answers.append(_request(part, path, {}, parts.settings.publication_seconds))
        else:
            signed = parts.presigner.presign_part(upload, part.number)
            answers.append(_request(part, signed.url, signed.headers, signed.expires_in_seconds))
    return wire.DirectRequests(requests=answers)


def _request(part: wire.PartName, url: str, headers: dict[str, str], seconds: int) -> wire.DirectRequest:
    return wire.DirectRequest(
        blake3=part.blake3, number=part.number, method="PUT", url=url, headers=headers, expires_in_seconds=seconds
    )


async def _body_blocks(request: Request, _caller: Sender) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body as blocks of about half a MiB: one hop to a worker thread for each, not for each packet."""

    async def blocks() -> AsyncIterator[bytes]:
        block = bytearray()
        async for piece in request.stream():
            block += piece
            if len(block) >= _STREAM_BLOCK_BYTES:
                yield bytes(block)
                block.clear()
        yield bytes(block)

    yield blocks()


@router.put(
    _PUBLICATION + "/blobs/{blake3}/parts/{number}",
    status_code=204,
    summary="Send a part through the server",
    openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {}}}},
)
def write_part(
    publication_id: IdPath,
    blake3: BlobPath,
    number: PartNumber,
    request: Request,
    caller: Sender,
    parts: PartsDep,
    body: Annotated[AsyncIterator[bytes], Depends(_body_blocks)],
) -> Response:
    """The raw bytes of one part; exactly as long as the part is."""
    with parts.database.reading() as session:
        upload = uploading.taking_parts(uploading.open_upload(session, caller, publication_id, blake3))
    if number > upload.part_count:
        raise Invalid(f"blob {blake3} has {upload.part_count} parts", field="number", value=number)
    request.scope["modelreg_body_limit"] = upload.part_size_bytes(number)
    parts.store.write_part(upload, number, _pulled(body))
    return Response(status_code=204)


def _pulled(body: AsyncIterator[bytes]) -> Iterator[bytes]:
    """The async body, pulled from this worker thread."""

    async def next_block() -> bytes | None:
        return await anext(body, None)

    while (block := anyio.from_thread.run(next_block)) is not None:
        if block:
            yield block


@router.post(_PUBLICATION + "/blobs/{blake3}/measurement", summary="Have an uploaded blob measured")
def measure(publication_id: IdPath, blake3: BlobPath, caller: Publisher, parts: PartsDep) -> wire.Measurement:
    """Waits a few seconds; `measuring` means ask again. Wrong bytes are discarded and reported as a mismatch."""
    done, measured = uploading.measure(parts.database, parts.store, parts.measuring, caller, publication_id, blake3)
    return wire.Measurement(state="measured" if done else "measuring", measured_bytes=measured)


@router.post(_PUBLICATION + "/finish", status_code=201, summary="Make the artifact exist")
def finish(publication_id: IdPath, caller: Publisher, parts: PartsDep) -> wire.Published:
    """Artifact, signature, tags and events in one transaction; repeating it gives the same answer."""
    attempt = publication.finish(
        parts.database,
        parts.store,
        caller,
        publication_id,
        parts.trust_policy(),
        refuse_findings=parts.settings.gate == "refuse",
    )
    assert attempt.event_index is not None
    return wire.Published(
        repository=attempt.repository,
        artifact=attempt.artifact_digest,
        tags=attempt.tags,
        event=attempt.event_index,
        created=bool(attempt.created),
    )
