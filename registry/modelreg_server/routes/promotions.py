"""Promotions over HTTP: may this serve there, since when, why not."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from modelreg import wire
from modelreg import wire_promotions as models
from modelreg_server import promotion
from modelreg_server.callers import Caller
from modelreg_server.dependencies import PartsDep, ReadSession, RepositoryDep, Requires
from modelreg_server.guarding import GuardedRoute
from modelreg_server.promotion import Judged
from modelreg_server.routes import REPOSITORY, ArtifactPath, LimitQuery
from modelreg_server.tables import PromotionDecision

router = APIRouter(tags=["promotions"], route_class=GuardedRoute)
# The verb depends on the environment that the body names: the operation asks for it.
Anyone = Annotated[Caller, Depends(Requires(None))]
_ARTIFACT = REPOSITORY + "/artifacts/{artifact}"


@router.post(_ARTIFACT + "/promotions", status_code=201, summary="Decide whether an artifact may serve somewhere")
def promote(
    repository: RepositoryDep, artifact: ArtifactPath, request: models.PromotionRequest, caller: Anyone, parts: PartsDep
) -> models.PromotionAnswer:
    """Appends `promotion.granted` or `promotion.refused`: a no is an answer too, with every rule's reason."""
    place = request.environment
    if request.dry_run:
        with parts.database.reading() as session:
            judged = promotion.preview(session, caller, repository, artifact, place, parts.deciding)
        return _previewed(judged)
    return answer_of(promotion.promote(parts.database, caller, repository, artifact, place, parts.deciding))


@router.post(_ARTIFACT + "/demotions", summary="Withdraw what allows an artifact to serve somewhere")
def demote(
    repository: RepositoryDep, artifact: ArtifactPath, request: models.DemotionRequest, caller: Anyone, parts: PartsDep
) -> models.Demoted:
    """Appends `promotion.withdrawn`; permits that are out live until they end."""
    rows = promotion.demote(parts.database, caller, repository, artifact, request.environment, request.reason)
    return models.Demoted(withdrawn=[info_of(row) for row in rows])


@router.get("/v1/promotions", summary="Decisions about what may serve where")
def listed(
    caller: Anyone,
    session: ReadSession,
    repository: Annotated[wire.RepositoryName | None, Query()] = None,
    artifact: Annotated[wire.ArtifactDigest | None, Query()] = None,
    environment: Annotated[wire.PlaceName | None, Query()] = None,
    live: Annotated[bool, Query()] = False,
    before: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
    limit: LimitQuery = 100,
) -> models.Promotions:
    """Of artifacts in repositories that this principal may see, newest first."""
    found, next_before = promotion.listed(
        session,
        caller,
        repository=repository,
        artifact=artifact,
        environment=environment,
        live=live,
        before=before,
        limit=limit,
    )
    return models.Promotions(promotions=[info_of(row) for row in found], next_before=next_before)


@router.get("/v1/promotions/{decision}", summary="A decision, with the facts and the signed verdict")
def one(decision: Annotated[int, Path(ge=1, lt=2**31)], caller: Anyone, session: ReadSession) -> models.PromotionAnswer:
    """For whoever may promote, approve or audit in its repository."""
    return answer_of(promotion.one(session, caller, decision))


def info_of(row: PromotionDecision) -> models.PromotionInfo:
    """A row as it is listed."""
    assert row.id is not None
    allowed = "live" if row.withdrawn_at is None else "withdrawn"
    return models.PromotionInfo(
        id=row.id,
        repository=row.repository,
        artifact=row.artifact_digest,
        environment=row.environment,
        state=allowed if row.allowed else "refused",
        verdict=row.statement,
        policy=row.policy_digest,
        created_at=row.created_at,
        created_by=row.created_by,
        event=row.event_index,
        withdrawn_at=row.withdrawn_at,
        withdrawn_by=row.withdrawn_by,
        withdrawn_reason=row.withdrawn_reason,
        withdrawn_event=row.withdrawn_event_index,
    )


def answer_of(row: PromotionDecision) -> models.PromotionAnswer:
    """A row with everything that it was made of."""
    return models.PromotionAnswer(
        facts=row.facts.decode(), decision=row.decision.decode(), verdict=row.verdict.decode(), info=info_of(row)
    )


def _previewed(judged: Judged) -> models.PromotionAnswer:
    return models.PromotionAnswer(
        facts=judged.facts.raw.decode(), decision=judged.decision.raw.decode(), verdict=None, info=None
    )
