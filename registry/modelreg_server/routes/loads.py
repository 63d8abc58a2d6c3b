"""Loads over HTTP: reported under a grant, kept alive and ended under their own id."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from modelreg import host_reports, wire
from modelreg_server import loads
from modelreg_server.callers import Caller
from modelreg_server.custody_proofs import Proof
from modelreg_server.dependencies import PartsDep, Requires
from modelreg_server.guarding import GuardedRoute
from modelreg_server.loads import Reported
from modelreg_server.routes import IdPath

router = APIRouter(tags=["loads"], route_class=GuardedRoute)
# Whose a grant or a load is, the operation decides: another principal's is absent.
Reporter = Annotated[Caller, Depends(Requires(None))]
LoadPath = Annotated[wire.LoadId, Path(description="The id that the reporting host gave the load.")]


@router.post("/v1/grants/{grant_id}/loads", status_code=201, summary="Report that the files are handed to a runtime")
def loaded(grant_id: IdPath, request: wire.LoadedReport, caller: Reporter, parts: PartsDep) -> wire.Recorded:
    """Appends `artifact.loaded`, once for a load's id. With `reported_at` also after the grant has expired."""
    members = request.model_dump(exclude=set(host_reports.UNSIGNED))
    reported = Reported.of(request.reported_at, request.signature)
    return _recorded(loads.loaded(parts.recorder, caller, grant_id, members, reported, request.known_size))


@router.post("/v1/loads/{load_id}/heartbeat", summary="Say that the runtime still runs")
def heartbeat(load_id: LoadPath, caller: Reporter, parts: PartsDep) -> wire.LoadState:
    """Not an event: remembers when the load was last heard of."""
    row = loads.seen(parts.database, caller, load_id)
    return wire.LoadState(
        load=row.id, artifact=row.artifact_digest, last_seen_at=row.last_seen_at, ended_at=row.ended_at
    )


@router.post("/v1/loads/{load_id}/end", status_code=201, summary="Report that the runtime has ended")
def ended(load_id: LoadPath, request: wire.UnloadedReport, caller: Reporter, parts: PartsDep) -> wire.Recorded:
    """Appends `artifact.unloaded`, once."""
    members = request.model_dump(exclude=set(host_reports.UNSIGNED))
    reported = Reported.of(request.reported_at, request.signature)
    return _recorded(loads.ended(parts.recorder, caller, load_id, members, reported, request.known_size))


def _recorded(proof: Proof) -> wire.Recorded:
    return wire.Recorded(event=proof.index, receipt=proof.receipt, consistency=proof.consistency)
