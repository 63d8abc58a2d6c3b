"""Collecting evidence of an artifact from its registry. Nothing is verified here: `evidence.verify` does, now and later."""

from datetime import UTC, datetime

from modelreg import __version__
from modelreg.api import Api
from modelreg.digests import Digest
from modelreg.errors import Unreachable
from modelreg.evidence import MAX_EVENTS, SCHEMA, EvidenceFile
from modelreg.wire_evidence import EvidenceEvent, EvidenceOpening


def collect(api: Api, artifact: Digest, now: datetime, *, identities: bool) -> EvidenceFile:
    """Ask for everything that is recorded of an artifact (audit everywhere).

    Args:
        api: the registry.
        artifact: whose evidence.
        now: when it is collected.
        identities: with who stands behind the entries; without, commitments stay closed.

    Raises:
        NotFound: it was never published there.
        Unreachable: the registry contradicts itself.
    """
    dossier = api.evidence(artifact)
    if dossier.artifact != str(artifact):
        raise Unreachable(f"{api.registry} answered about another artifact")
    events: list[EvidenceEvent] = []
    openings: dict[str, EvidenceOpening] = {}
    for page in api.evidence_events(artifact, dossier.size):
        events += page.events
        openings |= {opening.commitment: opening for opening in page.openings} if identities else {}
        if len(events) > MAX_EVENTS:
            break
    return EvidenceFile(
        schema_=SCHEMA,
        artifact=dossier.artifact,
        created_at=now.astimezone(UTC).replace(microsecond=0),
        tool=f"modelreg {__version__}",
        registry=api.registry,
        manifest=dossier.manifest,
        publications=dossier.publications,
        checkpoint=dossier.checkpoint,
        events=events[:MAX_EVENTS],
        events_cut=len(events) > MAX_EVENTS,
        openings=[openings[name] for name in sorted(openings)],
        derivations=dossier.derivations,
        recalls=dossier.recalls,
        trust=dossier.trust,
    )
