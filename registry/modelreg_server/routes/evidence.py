"""The registry's part of an evidence file (docs/spec/evidence.md)."""

from base64 import b64encode
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from modelreg import wire, wire_evidence
from modelreg.errors import Misconfigured, Untrusted
from modelreg_server import evidence
from modelreg_server.callers import Caller, require
from modelreg_server.dependencies import Parts, PartsDep, ReadSession, Requires
from modelreg_server.guarding import GuardedRoute
from modelreg_server.identity import EVERYWHERE, Verb

router = APIRouter(prefix="/v1/evidence", tags=["evidence"], route_class=GuardedRoute)
Anybody = Annotated[Caller, Depends(Requires(None))]
ArtifactQuery = Annotated[wire.ArtifactDigest, Query()]


@router.get("", summary="What is recorded of an artifact, in every repository")
def dossier(
    artifact: ArtifactQuery, caller: Anybody, session: ReadSession, parts: PartsDep
) -> wire_evidence.EvidenceDossier:
    """Manifest, bundles, derivations, recalls, and a checkpoint to prove entries against; `audit` on `*/*` is needed."""
    require(caller, Verb.AUDIT, EVERYWHERE)
    found = evidence.dossier(session, artifact, parts.recorder)
    return wire_evidence.EvidenceDossier(
        artifact=artifact,
        manifest=found.manifest.decode(),
        publications=[_publication(item) for item in found.publications],
        derivations=[
            wire_evidence.EvidenceDerivation(
                child=row.child,
                parent=row.parent,
                relation=row.relation,
                grade=row.grade,
                recorded_at=row.recorded_at,
                event=row.event_index,
            )
            for row in found.derivations
        ],
        recalls=[
            wire_evidence.EvidenceRecall(
                kind=row.kind,
                reason=row.reason,
                created_at=row.created_at,
                event=row.event_index,
                lifted_at=row.lifted_at,
                lifted_event=row.lifted_event_index,
            )
            for row in found.recalls
        ],
        trust=_trust(parts),
        checkpoint=found.checkpoint.decode(),
        size=found.size,
    )


@router.get("/events", summary="The log's entries about an artifact, each with its proof")
def events(
    artifact: ArtifactQuery,
    size: Annotated[int, Query(ge=1, lt=2**53)],
    caller: Anybody,
    session: ReadSession,
    after: Annotated[int, Query(ge=-1, lt=2**53)] = -1,
) -> wire_evidence.EvidenceEvents:
    """Entries in the log of `size` entries, with who stands behind them as far as it was not erased."""
    require(caller, Verb.AUDIT, EVERYWHERE)
    page = evidence.events(session, artifact, size=size, after=after)
    return wire_evidence.EvidenceEvents(
        events=[
            wire_evidence.EvidenceEvent(
                index=item.index,
                entry=item.entry.decode(),
                path=[b64encode(value).decode() for value in item.path],
            )
            for item in page.events
        ],
        openings=[
            wire_evidence.EvidenceOpening(commitment=row.commitment, salt=b64encode(row.salt).decode(), body=row.body)
            for row in page.openings
        ],
        next_after=page.next_after,
    )


def _publication(item: evidence.Published) -> wire_evidence.EvidencePublication:
    return wire_evidence.EvidencePublication(
        repository=item.repository,
        published_at=item.publication.published_at,
        event=item.publication.event_index,
        tags=item.tags,
        signatures=[
            wire_evidence.EvidenceSignature(
                bundle=row.bundle.decode(), authority=row.authority, identity=row.identity, added_at=row.added_at
            )
            for row in item.signatures
        ],
    )


def _trust(parts: Parts) -> wire_evidence.EvidenceTrust | None:
    if not parts.has_trust_policy:
        return None
    try:
        policy = parts.trust_policy()
    except (Misconfigured, Untrusted):
        return None  # the rest is evidence all the same
    return wire_evidence.EvidenceTrust(
        policy_version=policy.version,
        policy_digest=str(policy.digest),
        revocations_updated_at=policy.revocations.updated_at,
    )
