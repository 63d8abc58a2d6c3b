"""Trust data for everybody: TUF metadata and the files it names; the operator's way to publish them."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path
from starlette.responses import Response

from modelreg import wire
from modelreg.trust_metadata import METADATA_NAME, TARGET_NAME
from modelreg_server import trust_files
from modelreg_server.callers import Caller
from modelreg_server.dependencies import PartsDep, Public, ReadSession, Requires
from modelreg_server.guarding import GuardedRoute
from modelreg_server.identity import Verb

router = APIRouter(prefix="/v1/trust", tags=["trust"], route_class=GuardedRoute)
# No credential: a host must learn of a revocation also when its token has expired, and nothing in here is secret.
PUBLIC = [Depends(Public())]


@router.get("/metadata/{name}", dependencies=PUBLIC, response_class=Response, summary="TUF metadata")
def metadata(name: Annotated[str, Path(pattern=f"^{METADATA_NAME}$")], session: ReadSession) -> Response:
    """One file of the trust repository, as it was published; whoever reads it verifies it from a pinned root on."""
    return Response(trust_files.serve(session, name), media_type="application/json")


@router.get(
    "/targets/{name}", dependencies=PUBLIC, response_class=Response, summary="A trust policy or revocation list"
)
def target(name: Annotated[str, Path(pattern=f"^{TARGET_NAME}$")], session: ReadSession) -> Response:
    """A file that the targets metadata names, under its SHA-256."""
    return Response(trust_files.serve(session, name), media_type="application/toml")


@router.put("", summary="Publish a new version of the trust repository")
def publish(
    request: wire.TrustPublication, caller: Annotated[Caller, Depends(Requires(Verb.ADMIN))], parts: PartsDep
) -> wire.TrustPublished:
    """Served only if it follows from what is served now: root by root, no version lower, every threshold met."""
    offered = trust_files.Offered(
        roots=tuple(raw.encode() for raw in request.roots),
        timestamp=request.timestamp.encode(),
        snapshot=request.snapshot.encode(),
        targets=request.targets.encode(),
        files={name: raw.encode() for name, raw in request.files.items()},
    )
    published = trust_files.publish(parts.database, caller, offered)
    return wire.TrustPublished(versions=dict(published.versions), event=published.event_index)
