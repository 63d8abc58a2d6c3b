"""Recalls over HTTP: quarantine, release, revoke; what hosts ask and say."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from modelreg import wire
from modelreg import wire_recalls as models
from modelreg_server import confirmations, recalls
from modelreg_server.callers import Caller
from modelreg_server.confirmations import Standing
from modelreg_server.dependencies import PartsDep, ReadSession, RepositoryDep, Requires
from modelreg_server.guarding import GuardedRoute
from modelreg_server.identity import Verb
from modelreg_server.recalls import Outcome
from modelreg_server.routes import REPOSITORY, ArtifactPath, IdPath, LimitQuery
from modelreg_server.tables import Recall

router = APIRouter(tags=["recalls"], route_class=GuardedRoute)
# On the repository that is named; the operation asks for the others that hold the artifact.
Recaller = Annotated[Caller, Depends(Requires(Verb.QUARANTINE, or_verb=Verb.ADMIN))]
Anyone = Annotated[Caller, Depends(Requires(None))]
_ARTIFACT = REPOSITORY + "/artifacts/{artifact}"
_RECALL = "/v1/recalls/{recall_id}"


@router.post(_ARTIFACT + "/recall", summary="Quarantine or revoke an artifact")
def recall(
    repository: RepositoryDep, artifact: ArtifactPath, request: models.RecallRequest, caller: Recaller, parts: PartsDep
) -> models.Recalled:
    """Holds in every repository, for grants that were given too; `artifact.quarantined` or `artifact.revoked`."""
    if request.dry_run:
        with parts.database.reading() as session:
            found = recalls.preview(session, caller, repository, artifact, kind=request.kind, cascade=request.cascade)
    else:
        found = recalls.recall(
            parts.database,
            caller,
            repository,
            artifact,
            kind=request.kind,
            reason=request.reason,
            cascade=request.cascade,
        )
    return models.Recalled(dry_run=request.dry_run, artifacts=[_reached(outcome) for outcome in found])


@router.post(_ARTIFACT + "/release", summary="Lift a quarantine")
def release(
    repository: RepositoryDep, artifact: ArtifactPath, request: models.ReleaseRequest, caller: Recaller, parts: PartsDep
) -> models.Released:
    """Appends `artifact.released`; a revocation stays."""
    row, changed = recalls.release(parts.database, caller, repository, artifact, reason=request.reason)
    return models.Released(recall=_info(row), changed=changed)


@router.get("/v1/recalls", summary="Open recalls")
def open_recalls(
    caller: Anyone,
    session: ReadSession,
    after: Annotated[int, Query(ge=-1, lt=2**63)] = -1,
    limit: LimitQuery = 100,
) -> models.Recalls:
    """Of artifacts in repositories that this principal may see."""
    found, next_after = recalls.open_recalls(session, caller, after, limit)
    return models.Recalls(recalls=[_info(row) for row in found], next_after=next_after)


@router.post("/v1/recalls/check", summary="What is recalled among these artifacts")
def check(request: models.RecallCheck, caller: Anyone, session: ReadSession) -> models.RecallAnswer:
    """For every authenticated host: it names what it holds, so nothing else is told; and what it is waited for."""
    expected = []
    if request.host is not None or caller.principal.host is not None:
        expected = confirmations.expected_of(session, caller, request.host or "")
    return models.RecallAnswer(
        recalls=[_open(row) for row in recalls.recalled_among(session, request.artifacts)],
        expected=[_open(row) for row in expected],
    )


@router.post(_RECALL + "/confirmations", status_code=201, summary="Say what this host did with a recalled artifact")
def confirm(recall_id: IdPath, request: models.ConfirmationRequest, caller: Anyone, parts: PartsDep) -> wire.Recorded:
    """Appends `recall.confirmed`; in the name of the host whose key signed, else of the name that it claims."""
    detail = request.model_dump(mode="json", include={"processes", "unseen_processes", "noticed_at"}, exclude_none=True)
    index = confirmations.confirm(parts.database, caller, recall_id, request.host, request.state, detail)
    return wire.Recorded(event=index)


@router.get(_RECALL + "/status", summary="Which hosts have not confirmed")
def status(recall_id: IdPath, caller: Anyone, session: ReadSession) -> models.RecallStatus:
    """Needs `audit`, `quarantine` or `admin` on every repository that holds the artifact."""
    found = confirmations.status(session, caller, recall_id)
    return models.RecallStatus(
        recall=_info(found.recall),
        as_of=caller.now,
        hosts=[_host(standing) for standing in found.hosts],
        unsettled=found.unsettled,
        complete=found.complete,
    )


@router.post("/v1/alterations", status_code=201, summary="Report that files changed on this host")
def alteration(request: models.AlterationReport, caller: Anyone, parts: PartsDep) -> wire.Recorded:
    """Appends `artifact.altered`."""
    detail = request.model_dump(mode="json", exclude={"artifact", "repository", "host"}, exclude_none=True)
    index = confirmations.report_alteration(
        parts.database, caller, request.artifact, request.repository, request.host, detail
    )
    return wire.Recorded(event=index)


def _reached(outcome: Outcome) -> models.RecalledArtifact:
    reached = outcome.reached
    return models.RecalledArtifact(
        artifact=reached.artifact or None,
        parent=reached.parent,
        relation=reached.relation,
        grade=reached.grade,
        depth=reached.depth,
        repositories=outcome.repositories,
        changed=outcome.changed,
        allowed=outcome.allowed,
        recall=_info(outcome.row) if outcome.row else None,
    )


def _info(row: Recall) -> models.RecallInfo:
    return models.RecallInfo(
        id=row.id,
        artifact=row.artifact_digest,
        kind=row.kind,
        reason=row.reason,
        created_at=row.created_at,
        created_by=row.created_by,
        event=row.event_index,
        lifted_at=row.lifted_at,
        lifted_by=row.lifted_by,
    )


def _open(row: Recall) -> models.OpenRecall:
    return models.OpenRecall(
        id=row.id,
        artifact=row.artifact_digest,
        kind=row.kind,
        reason=row.reason,
        created_at=row.created_at,
    )


def _host(standing: Standing) -> models.RecallHost:
    said = standing.confirmation
    return models.RecallHost(
        host=standing.host.name,
        verified=standing.host.verified,
        exposure=standing.exposure,
        running=standing.running,
        event=standing.event if standing.event >= 0 else None,
        event_at=standing.event_at,
        last_seen_at=standing.last_seen_at,
        state=said.state if said else None,
        confirmed_at=said.confirmed_at if said else None,
        settled=standing.settled,
    )
