"""Who signed what: the question before a revocation."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from modelreg import wire
from modelreg_server import signatures
from modelreg_server.callers import Caller, require
from modelreg_server.dependencies import PartsDep, ReadSession, Requires
from modelreg_server.guarding import GuardedRoute
from modelreg_server.identity import EVERYWHERE, Verb
from modelreg_server.routes import LimitQuery

router = APIRouter(prefix="/v1", tags=["signatures"], route_class=GuardedRoute)


@router.get("/signatures", summary="Signatures of a signer, a key, or on an artifact")
def find(
    caller: Annotated[Caller, Depends(Requires(None))],
    session: ReadSession,
    parts: PartsDep,
    identity: Annotated[str | None, Query(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f\x7f]*$")] = None,
    key: Annotated[
        wire.ArtifactDigest | None,
        Query(description="sha256 of a key or certificate, the signer's or the time stamp's."),
    ] = None,
    artifact: Annotated[wire.ArtifactDigest | None, Query()] = None,
    after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: LimitQuery = 100,
) -> wire.Signatures:
    """Every recorded signature that matches all that is given, across repositories; needs the scope `audit:*/*`."""
    require(caller, Verb.AUDIT, EVERYWHERE)
    # Issuers that are pinned stand in no bundle; without them a plan would miss what their revocation withdraws.
    policy = parts.trust_policy() if key is not None and parts.has_trust_policy else None
    found, next_after = signatures.page(
        session, identity=identity, key=key, artifact=artifact, policy=policy, after=after, limit=limit
    )
    return wire.Signatures(
        signatures=[
            wire.SignatureRow(
                repository=item.repository,
                artifact=item.publication.artifact_digest,
                tags=item.tags,
                authority=item.signature.authority,
                identity=item.signature.identity,
                key=item.signature.key_id,
                added_at=item.signature.added_at,
                added_by=item.signature.added_by,
                published_at=item.publication.published_at,
                published_by=item.publication.published_by,
                trusted_time=item.trusted_time,
            )
            for item in found
        ],
        next_after=next_after,
    )
