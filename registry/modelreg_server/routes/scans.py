"""Scanning over HTTP: a publication is scanned when it finishes; here it is scanned again, with the rules of today."""

from typing import Annotated

from fastapi import APIRouter, Depends

from modelreg import wire_scans as models
from modelreg_server import scanning
from modelreg_server.callers import Caller
from modelreg_server.dependencies import PartsDep, RepositoryDep, Requires
from modelreg_server.guarding import GuardedRoute
from modelreg_server.identity import Verb
from modelreg_server.routes import REPOSITORY, ArtifactPath

router = APIRouter(tags=["attestations"], route_class=GuardedRoute)
Scanner = Annotated[Caller, Depends(Requires(Verb.PUSH, or_verb=Verb.APPROVE))]


@router.post(REPOSITORY + "/artifacts/{artifact}/scans", status_code=201, summary="Scan an artifact again")
def again(repository: RepositoryDep, artifact: ArtifactPath, caller: Scanner, parts: PartsDep) -> models.ScanRecorded:
    """Reads the stored bytes, signs what it finds and records it; `artifact.scanned`, also when nothing is found."""
    row, report = scanning.again(parts.database, parts.store, caller, repository, artifact)
    listed = report.blocking + tuple(finding for finding in report.findings if finding.severity == "warn")
    return models.ScanRecorded(
        artifact=artifact,
        statement=row.statement,
        bundle=row.bundle.decode(),
        rules_version=report.rules_version,
        complete=report.complete,
        findings=[models.ScanFinding(**finding.as_json()) for finding in listed[: scanning.MAX_LISTED]],
        finding_count=len(report.findings),
        event=row.event_index,
    )
