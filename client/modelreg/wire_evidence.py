"""What the registry gives for an evidence file (API v1). Hashes and salts are base64; entries and bundles stand as texts."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from modelreg.merkle import MAX_PROOF_HASHES
from modelreg.wire import ArtifactDigest, Hex64, RepositoryName, TagName, Wire

MAX_EVENTS = 256  # of one answer
MAX_ENTRY_CHARS = 8 * 1024

Index = Annotated[int, Field(ge=0, lt=2**53)]
Base64Hash = Annotated[str, Field(max_length=44)]
ShortText = Annotated[str, Field(max_length=1000)]


class EvidenceSignature(Wire):
    """A bundle, and what the registry recorded of it when it came."""

    bundle: str
    authority: ShortText
    identity: ShortText
    added_at: datetime


class EvidencePublication(Wire):
    """The artifact in a repository; `event` is the index of the entry that says so, `tags` are those of now."""

    repository: RepositoryName
    published_at: datetime
    event: Index
    tags: list[TagName]
    signatures: list[EvidenceSignature]


class EvidenceDerivation(Wire):
    """An edge to a parent or a child, as the registry has it."""

    child: ArtifactDigest
    parent: ArtifactDigest
    relation: ShortText
    grade: ShortText
    recorded_at: datetime
    event: Index


class EvidenceRecall(Wire):
    """A quarantine or a revocation, and its end."""

    kind: ShortText
    reason: ShortText
    created_at: datetime
    event: Index
    lifted_at: datetime | None
    lifted_event: Index | None


class EvidenceTrust(Wire):
    """The trust policy that the registry held publications against when the evidence was made."""

    policy_version: int
    policy_digest: ArtifactDigest
    revocations_updated_at: datetime


class EvidenceDossier(Wire):
    """What is recorded of an artifact, and the checkpoint that its entries are proved against. `size` is the checkpoint's."""

    artifact: ArtifactDigest
    manifest: str
    publications: list[EvidencePublication]
    derivations: list[EvidenceDerivation]
    recalls: list[EvidenceRecall]
    trust: EvidenceTrust | None
    checkpoint: Annotated[str, Field(max_length=64 * 1024)]
    size: Index


class EvidenceEvent(Wire):
    """An entry of the log, with its audit path in the log of the checkpoint's size."""

    index: Index
    entry: Annotated[str, Field(max_length=MAX_ENTRY_CHARS)]
    path: Annotated[list[Base64Hash], Field(max_length=MAX_PROOF_HASHES)]


class EvidenceOpening(Wire):
    """What a commitment in an entry stands for: SHA-256 over `salt` and the canonical JSON of `body`."""

    commitment: Hex64
    salt: Annotated[str, Field(max_length=88)]
    body: dict[str, Any]


class EvidenceEvents(Wire):
    """A page, in the order of the log; `next_after` is None at the end."""

    events: Annotated[list[EvidenceEvent], Field(max_length=MAX_EVENTS)]
    openings: Annotated[list[EvidenceOpening], Field(max_length=2 * MAX_EVENTS)]
    next_after: Index | None
