"""What the registry answers to the questions of an incident (docs/how-to/incident-questions.md).

Every answer says which schema it has, what it is as of, and how sure each row is. `confidence` is that of the weakest
thing a row says: `recorded` (an event of a known machine or of the registry itself), `claimed` (somebody's word),
`inferred`, `stale` (somebody stopped saying so), `unknown`. What is not known is a row too.

`checked` and `local` are never the registry's: the client fills them, after it verified.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from modelreg.wire import ArtifactDigest, EventInfo, Wire

Confidence = Literal["recorded", "claimed", "inferred", "stale", "unknown"]
LoadState = Literal["running", "stale", "unknown", "ended"]


class AsOf(Wire):
    """`time` is the instant asked about, `answered_at` now; the record held `log_size` events when this was answered."""

    time: datetime
    answered_at: datetime
    log_size: int

    @property
    def is_now(self) -> bool:
        """Whether no other time was asked about."""
        return self.time == self.answered_at


class Found(Wire):
    """An artifact that the question is about, and how what was asked led to it."""

    artifact: ArtifactDigest
    by: Literal["artifact", "file", "root", "reference", "dataset"]  # dataset: it was made with it
    path: str | None = None


class Unknown(Wire):
    """What the record cannot say, and of how many."""

    what: str
    count: int
    text: str


class Answer(Wire):
    """What all answers have. `truncated` says that rows were left out; totals and counts are of all of them."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)

    as_of: AsOf
    asked: str
    found: list[Found]
    truncated: bool
    unknown: list[Unknown] = Field(default_factory=list)


class ArtifactState(Wire):
    """Whether the registry serves it: what recalls say."""

    state: Literal["active", "quarantined", "revoked"]
    reason: str | None = None
    since: datetime | None = None
    by: str | None = None


class Checked(Wire):
    """What the client found when it verified a signature itself; `code` and `why_not` are the refusal."""

    verified: bool
    code: str | None = None
    why_not: str | None = None
    identity: str | None = None
    authority: str | None = None
    signed_at: datetime | None = None


class RecordedSignature(Wire):
    """A signature as the registry recorded it. `bundle` is null where it would be too much for one answer."""

    repository: str
    artifact: ArtifactDigest
    authority: str
    identity: str
    key: str
    added_at: datetime
    added_by: str
    trusted_time: datetime | None
    bundle: str | None = None
    checked: Checked | None = None


class LineageEdge(Wire):
    """`child` was made from `parent`; `grade` says how that is known."""

    child: ArtifactDigest
    parent: ArtifactDigest
    relation: str
    grade: str
    confidence: Confidence
    recorded_at: datetime
    event: int


class LineageNode(Wire):
    """An artifact in a lineage. `depth` counts edges from what was asked, negative towards parents.

    One that is not `known` was named as a parent and is not in this registry, or not for this caller to see. `classification`
    is the effective class of now; null where it is not known, and for another time.
    """

    artifact: ArtifactDigest
    depth: int
    known: bool
    repositories: list[str]
    state: ArtifactState
    confidence: Confidence
    classification: str | None = None


class UsedDataset(Wire):
    """`artifact` was made with `dataset`. `classification` is that of its newest record, if there is one to see."""

    artifact: ArtifactDigest
    dataset: ArtifactDigest
    name: str
    grade: str
    classification: str | None
    event: int


class FileClaim(Wire):
    """What a file of an artifact says, which nobody signed as provenance; `resolved` is what it names in this registry."""

    artifact: ArtifactDigest
    kind: str
    value: str
    path: str
    member: str
    resolved: str | None


class PublishedIn(Wire):
    """A repository that holds the artifact; `event` is the index of its publication."""

    repository: str
    tags: list[str]
    published_at: datetime
    published_by: str
    event: int


class TracedArtifact(Wire):
    """Everything about one artifact. `source` is null where nothing is recorded of where the bytes first came from."""

    found: Found
    size_bytes: int
    files: int
    root: str | None
    publications: list[PublishedIn]
    source: str | None
    state: ArtifactState
    signatures: list[RecordedSignature]
    parents: list[LineageEdge]
    children: list[LineageEdge]
    grants: int
    live_loads: int


class LocalFile(Wire):
    """What the client can say of a file or folder itself."""

    path: str
    size_bytes: int
    sha256: str
    blake3: str | None
    format: str
    detail: dict[str, str | int]


class TraceAnswer(Answer):
    """What a digest is. No artifacts: it was never in this registry, as far as this caller may know."""

    schema_: Annotated[Literal["modelreg/trace/v1"], Field(alias="schema")] = "modelreg/trace/v1"
    artifacts: list[TracedArtifact]
    local: LocalFile | None = None


class PullRow(Wire):
    """A decision on a pull, and whether the bytes arrived as far as the client said so."""

    event: int
    at: datetime
    decision: Literal["granted", "refused"]
    reason: str | None
    principal: str
    host: str | None
    verified_host: str | None
    verified_host_class: str | None
    verified_host_zone: str | None
    client_address: str | None
    repository: str | None
    artifact: ArtifactDigest
    tag: str | None
    purpose: str | None
    grant: str | None
    received_at: datetime | None
    confidence: Confidence


class PullsAnswer(Answer):
    """Pulls, newest first; pass `next_before` as `before` for the next page."""

    schema_: Annotated[Literal["modelreg/pulls/v1"], Field(alias="schema")] = "modelreg/pulls/v1"
    pulls: list[PullRow]
    granted: int
    refused: int
    next_before: int | None = None


class LoadRow(Wire):
    """An artifact in a runtime's memory. `method` is how it was last seen: the report of the load, or a heartbeat."""

    artifact: ArtifactDigest
    repository: str
    host: str
    verified_host: str | None
    pid: int | None
    boot_id: str | None
    command: str | None
    runtime: str | None
    runtime_version: str | None
    loaded_at: datetime
    last_seen_at: datetime
    ended_at: datetime | None
    end_reason: str | None
    state: LoadState
    method: Literal["receipt", "heartbeat"]
    confidence: Confidence
    event: int


class LoadedAnswer(Answer):
    """Where it is loaded, what runs first."""

    schema_: Annotated[Literal["modelreg/loaded/v1"], Field(alias="schema")] = "modelreg/loaded/v1"
    loads: list[LoadRow]
    counts: dict[LoadState, int]


class LineageAnswer(Answer):
    """Parents (`up`) and children (`down`), transitively, as edges; a circle of claims ends where it began.

    `datasets` are those of the artifacts and their ancestors, `claims` those of the artifacts.
    """

    schema_: Annotated[Literal["modelreg/lineage/v1"], Field(alias="schema")] = "modelreg/lineage/v1"
    up: list[LineageEdge]
    down: list[LineageEdge]
    nodes: list[LineageNode]
    datasets: list[UsedDataset] = Field(default_factory=list)
    claims: list[FileClaim] = Field(default_factory=list)


class ReachedArtifact(Wire):
    """An artifact within reach, and why: asked for, published, signed or held by what was asked for, or derived."""

    artifact: ArtifactDigest
    why: str
    depth: int
    confidence: Confidence
    repositories: list[str]
    state: ArtifactState
    grants: int
    live_loads: int


class ReachedHost(Wire):
    """A machine that was granted or runs something within reach. Not `verified`: its name is what a client said."""

    host: str
    verified: bool
    host_class: str | None
    zone: str | None
    artifacts: int
    grants: int
    received: int
    last_granted_at: datetime | None
    live_loads: int
    stale_loads: int
    invited_by: str | None
    confidence: Confidence


class Person(Wire):
    """Somebody to call, and why."""

    principal: str
    roles: list[Literal["publisher", "signer", "puller", "inviter"]]
    grants: int
    last_at: datetime | None


class ReachCounts(Wire):
    """Of everything within reach, also of what was left out of the lists."""

    artifacts: int
    descendants: int
    grants: int
    received: int
    hosts: int
    live_loads: int
    stale_loads: int
    people: int


class BlastRadiusAnswer(Answer):
    """Artifacts, their descendants, who pulled them, the hosts, the live loads, and the people to call."""

    schema_: Annotated[Literal["modelreg/blast-radius/v1"], Field(alias="schema")] = "modelreg/blast-radius/v1"
    kind: Literal["artifact", "signer", "principal", "host"]
    counts: ReachCounts
    artifacts: list[ReachedArtifact]
    hosts: list[ReachedHost]
    loads: list[LoadRow]
    people: list[Person]


class SignedManifest(Wire):
    """The manifest that signatures are held against; null where it would be too much for one answer."""

    artifact: ArtifactDigest
    manifest: str | None


class SignaturesAnswer(Answer):
    """Recorded signatures with what it takes to verify them."""

    schema_: Annotated[Literal["modelreg/signatures/v1"], Field(alias="schema")] = "modelreg/signatures/v1"
    signatures: list[RecordedSignature]
    manifests: list[SignedManifest]


class TimelineAnswer(Answer):
    """Events in the order of the log: the newest that fit; pass `next_before` as `before` for those before them."""

    schema_: Annotated[Literal["modelreg/timeline/v1"], Field(alias="schema")] = "modelreg/timeline/v1"
    events: list[EventInfo]
    total: int
    next_before: int | None = None
