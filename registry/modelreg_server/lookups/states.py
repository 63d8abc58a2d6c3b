"""Whether artifacts are served: what recalls said by a time."""

from collections.abc import Iterable
from datetime import datetime

from sqlmodel import Session, col, or_, select

from modelreg.answers import ArtifactState
from modelreg_server.lookups.sight import batches
from modelreg_server.tables import Recall

ACTIVE = ArtifactState(state="active")
QUARANTINE = "quarantine"


def states_of(session: Session, artifacts: Iterable[str], at: datetime) -> dict[str, ArtifactState]:
    """The artifacts that were recalled at that time; whoever is absent is active. A revocation outweighs a quarantine."""
    found: dict[str, ArtifactState] = {}
    for batch in batches(artifacts):
        query = (
            select(Recall)
            .where(
                col(Recall.artifact_digest).in_(batch),
                col(Recall.created_at) <= at,
                or_(col(Recall.lifted_at).is_(None), col(Recall.lifted_at) > at),
            )
            .order_by(col(Recall.created_at), col(Recall.event_index))
        )
        for recall in session.exec(query):
            revoked = recall.kind != QUARANTINE  # an unknown kind is taken for the worse one
            present = found.get(recall.artifact_digest)
            if present is None or (revoked and present.state == "quarantined"):
                found[recall.artifact_digest] = ArtifactState(
                    state="revoked" if revoked else "quarantined",
                    reason=recall.reason,
                    since=recall.created_at,
                    by=recall.created_by,
                )
    return found
