"""Datasets over HTTP. A dataset's name decides about access like a repository's."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from modelreg import wire_attestations
from modelreg import wire_datasets as models
from modelreg.digests import Digest
from modelreg_server import datasets
from modelreg_server.callers import Caller
from modelreg_server.dependencies import PartsDep, ReadSession, RepositoryDep, Requires
from modelreg_server.guarding import GuardedRoute
from modelreg_server.identity import Verb
from modelreg_server.routes import ArtifactPath, LimitQuery
from modelreg_server.routes.attestations import info_of as statement_of
from modelreg_server.tables import DatasetRecord

router = APIRouter(tags=["datasets"], route_class=GuardedRoute)
Registrar = Annotated[Caller, Depends(Requires(Verb.PUSH))]
Reader = Annotated[Caller, Depends(Requires(Verb.READ_METADATA))]
Approver = Annotated[Caller, Depends(Requires(Verb.APPROVE))]
_DATASET = "/v1/datasets/{namespace}/{name}"
_MAX_BUNDLES = 200  # in one answer


@router.get("/v1/datasets", summary="List datasets")
def listed(
    caller: Annotated[Caller, Depends(Requires(None))],
    session: ReadSession,
    after: Annotated[str, Query(max_length=128, pattern="^[a-z0-9._/-]*$")] = "",
    limit: LimitQuery = 100,
) -> models.Datasets:
    """The newest record of each that this principal may see, by name, without its bundle."""
    rows = datasets.page(session, caller.principal, after, limit)
    return models.Datasets(
        datasets=[_info(row, current=True, whole=False) for row in rows],
        next_after=rows[-1].name if len(rows) == limit else None,
    )


@router.post(_DATASET, status_code=201, summary="Register a dataset, or say something new of it")
def register(
    repository: RepositoryDep, request: models.DatasetRequest, caller: Registrar, parts: PartsDep
) -> models.DatasetInfo:
    """Verified under the registry's trust policy; `dataset.registered`. Sending it again changes nothing."""
    row = datasets.register(parts.database, caller, repository, request.bundle.encode(), parts.trust_policy())
    return _info(row, current=True)


@router.get(_DATASET, summary="All records of a dataset")
def show(repository: RepositoryDep, _caller: Reader, session: ReadSession) -> models.Datasets:
    """Newest first; the current one of each digest with its bundle, for whoever verifies it."""
    found = datasets.of_name(session, repository)
    return models.Datasets(
        datasets=[
            _info(item.row, current=item.current, whole=item.current and at < _MAX_BUNDLES)
            for at, item in enumerate(found[: models.MAX_RECORDS])
        ]
    )


@router.post(_DATASET + "/{artifact}/declassification", status_code=201, summary="Let a dataset's class be lowered")
def declassify(
    repository: RepositoryDep,
    artifact: ArtifactPath,
    request: models.DatasetRequest,
    caller: Approver,
    parts: PartsDep,
) -> wire_attestations.AttestationInfo:
    """A signed declassification; the next record of this digest may have the lower class. `artifact.attested`."""
    row = datasets.declassify(
        parts.database, caller, repository, Digest.parse(artifact), request.bundle.encode(), parts.trust_policy()
    )
    return statement_of(row)


def _info(row: DatasetRecord, *, current: bool, whole: bool = True) -> models.DatasetInfo:
    return models.DatasetInfo(
        name=row.name,
        digest=row.digest,
        owner=row.owner,
        classification=row.classification,
        lawful_basis=row.lawful_basis,
        residency=row.residency,
        retention_until=row.retention_until,
        source=row.source,
        statement=row.statement,
        bundle=row.bundle.decode() if whole else None,
        authority=row.authority,
        identity=row.identity,
        signed_at=row.signed_at,
        registered_at=row.registered_at,
        registered_by=row.registered_by,
        event=row.event_index,
        current=current,
    )
