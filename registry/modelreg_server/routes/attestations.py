"""Signed statements about artifacts over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from modelreg import wire_attestations as models
from modelreg_server import attestations, parentage
from modelreg_server.callers import Caller
from modelreg_server.dependencies import PartsDep, ReadSession, RepositoryDep, Requires
from modelreg_server.guarding import GuardedRoute
from modelreg_server.identity import Verb
from modelreg_server.routes import REPOSITORY, ArtifactPath
from modelreg_server.tables import AttestationRow

router = APIRouter(tags=["attestations"], route_class=GuardedRoute)
# Which verb it takes goes by the statement's kind; the operation asks for it once it is verified.
Stater = Annotated[Caller, Depends(Requires(Verb.PUSH, or_verb=Verb.APPROVE))]
Reader = Annotated[Caller, Depends(Requires(Verb.READ_METADATA))]
_ATTESTATIONS = REPOSITORY + "/artifacts/{artifact}/attestations"


@router.post(_ATTESTATIONS, status_code=201, summary="Record a signed statement about an artifact")
def submit(
    repository: RepositoryDep,
    artifact: ArtifactPath,
    request: models.AttestationRequest,
    caller: Stater,
    parts: PartsDep,
) -> models.AttestationInfo:
    """Verified under the registry's trust policy; `artifact.attested`. Sending it again changes nothing."""
    row = attestations.submit(
        parts.database,
        caller,
        repository,
        artifact,
        request.bundle.encode(),
        parts.trust_policy(),
        then=parentage.received,
    )
    return info_of(row)


@router.get(_ATTESTATIONS, summary="Signed statements about an artifact")
def listed(
    repository: RepositoryDep,
    artifact: ArtifactPath,
    _caller: Reader,
    session: ReadSession,
    kind: Annotated[str | None, Query(pattern="^[a-z-]{1,20}$")] = None,
    after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
) -> models.Attestations:
    """With their bundles, oldest first: whoever relies on one verifies it."""
    attestations.require_held(session, repository, artifact)
    rows, more = attestations.page(session, repository, artifact, kind, after)
    return models.Attestations(artifact=artifact, attestations=[info_of(row) for row in rows], next_after=more)


def info_of(row: AttestationRow) -> models.AttestationInfo:
    """A row as it is answered."""
    return models.AttestationInfo(
        kind=row.kind,
        statement=row.statement,
        bundle=row.bundle.decode(),
        authority=row.authority,
        identity=row.identity,
        signed_at=row.signed_at,
        added_at=row.added_at,
        added_by=row.added_by,
        event=row.event_index,
    )
