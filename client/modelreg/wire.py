"""What travels between client and registry (API v1): request and response models. Errors: `problem_details`.

Digests are `sha256:…` texts; a `blake3` field is 64 hex digits and names a blob inside an already named publication or
grant, never on its own. Times are RFC 3339 with offset. Both sides validate: neither trusts the other.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from modelreg.canonical import MAX_INTEGER
from modelreg.digests import HEX_64
from modelreg.errors import Invalid
from modelreg.references import MAX_REPOSITORY_CHARS, REPOSITORY, TAG

MAX_TAGS = 16
MAX_BATCH = 256  # blobs or parts named in one request
MAX_PARENTS = 64  # of one artifact, named in one publication
MAX_ATTESTATIONS = 16  # sent with one publication
MAX_ATTESTATION_CHARS = 16 * 1024 * 1024

Hex64 = Annotated[str, StringConstraints(pattern=f"^{HEX_64.pattern}$")]
ArtifactDigest = Annotated[str, StringConstraints(pattern=f"^sha256:{HEX_64.pattern}$")]
TagName = Annotated[str, StringConstraints(pattern=f"^{TAG.pattern}$")]
RepositoryName = Annotated[
    str,
    # The same grammar as `references`, without the named groups that JSON Schema does not know.
    StringConstraints(
        pattern="^" + REPOSITORY.pattern.replace("?P<namespace>", "?:").replace("?P<name>", "?:") + "$",
        max_length=MAX_REPOSITORY_CHARS,
    ),
]
AttestationText = Annotated[str, StringConstraints(max_length=MAX_ATTESTATION_CHARS)]
Word = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,200}$")]
# The registry's own parser decides; these keep nonsense off its tables.
Subject = Annotated[str, StringConstraints(pattern=r"^(person|workload|host):[\x21-\x7e]{1,190}$")]
RepositoryPattern = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9*._-]{1,64}/[a-z0-9*._-]{1,64}$", max_length=128)
]
VerbName = Literal["read-metadata", "pull", "push", "sign", "tag", "promote", "approve", "quarantine", "audit", "admin"]
HostClassName = Literal["server", "workstation", "ci"]
HostName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,99}$")]
PlaceName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]  # a zone or an environment
LabelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._/-]{0,62}$")]
LabelValue = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{0,100}$")]
Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{0,200}$")]


W = TypeVar("W", bound="Wire")


class Wire(BaseModel):
    """Unknown members are refused in requests; in responses too, so that a renamed field is noticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def request(model: type[W], **members: Any) -> W:
    """Make a request from what a user typed.

    Raises:
        Invalid: which member, and why.
    """
    try:
        return model(**members)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = "/".join(str(part) for part in first["loc"])
        raise Invalid(f"{where}: {first['msg']}", field=where) from None


class AccessGrantRequest(Wire):
    """Give the subjects of a pattern a verb on the repositories of a pattern, under conditions if need be."""

    subject: Subject
    verb: VerbName
    repository: RepositoryPattern
    environment: PlaceName | None = None
    host_class: HostClassName | None = None
    zone: PlaceName | None = None
    expires_in_seconds: Annotated[int, Field(ge=60, le=3660 * 86400)] | None = None


class AccessGrantInfo(Wire):
    """An access grant as it is recorded."""

    id: str
    subject: str
    verb: str
    repository: str
    environment: str | None
    host_class: str | None
    zone: str | None
    not_after: datetime | None
    created_at: datetime
    created_by: str
    revoked_at: datetime | None
    revoked_by: str | None


class AccessGrantList(Wire):
    """Access grants, newest first."""

    grants: list[AccessGrantInfo]


class AccessReason(Wire):
    """One grant that names the subject, and why it applies or not. `origin` is its id, or `scope`."""

    grant: str
    origin: str
    applies: bool
    text: str


class AccessOfToken(Wire):
    """What a token with scopes may: its scopes and nothing else."""

    token_id: str
    allowed: bool
    reasons: list[AccessReason]


class AccessExplanation(Wire):
    """`allowed` is what the subject's access grants say: for a token without scopes, a session, a host."""

    subject: str
    verb: str
    repository: str
    sensitive: bool
    allowed: bool
    reasons: list[AccessReason]
    tokens: list[AccessOfToken]


class Whoami(Wire):
    """The principal behind the credential that was sent, and the host whose key signed the request."""

    principal: str
    scopes: list[str]
    expires_at: datetime | None
    token_id: str | None
    host: str | None
    host_class: str | None
    host_zone: str | None
    grants: list[str]


class HostInvitationRequest(Wire):
    """Say what a machine is before it enrols: only an administrator's word counts."""

    name: HostName
    host_class: HostClassName
    zone: PlaceName
    labels: Annotated[dict[LabelName, LabelValue], Field(max_length=16)] = {}
    expires_in_seconds: Annotated[int, Field(ge=60, le=30 * 86400)] = 86400


class HostInvitationInfo(Wire):
    """An invitation without its secret."""

    id: str
    name: str
    host_class: str
    zone: str
    labels: dict[str, str]
    created_at: datetime
    created_by: str
    expires_at: datetime


class HostInvited(Wire):
    """The only time the enrolment token is shown."""

    token: str
    invitation: HostInvitationInfo


class HostEnrolment(Wire):
    """A host's public key: base64 of its DER SubjectPublicKeyInfo. The request is signed with it."""

    public_key: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{59}=$")]


class HostInfo(Wire):
    """A host as it is recorded."""

    id: str
    name: str
    host_class: str
    zone: str
    labels: dict[str, str]
    key_id: str
    enrolled_at: datetime
    invited_by: str
    revoked_at: datetime | None
    revoked_by: str | None


class HostRevoked(Wire):
    """The host of the name, if there ever was one, and how many open invitations were withdrawn."""

    host: HostInfo | None
    withdrawn_invitations: int


class HostList(Wire):
    """Hosts, newest first, and the invitations that are still open."""

    hosts: list[HostInfo]
    invitations: list[HostInvitationInfo]


class TokenRequest(Wire):
    """Ask for a token for a principal such as `person:alice` or `workload:ci`; scopes are `verb:repository-pattern`.

    A token with scopes has exactly those rights; one without (left out, not empty) has its principal's access grants.
    """

    principal: Word
    scopes: Annotated[list[Word], Field(min_length=1, max_length=64)] | None = None
    expires_in_seconds: Annotated[int, Field(ge=60, le=366 * 86400)]


class TokenInfo(Wire):
    """A token without its secret. `kind` is `api`, or `session` where it was exchanged for an issuer's token."""

    id: str
    kind: str
    principal: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None
    last_four: str


class TokenList(Wire):
    """Tokens, newest first."""

    tokens: list[TokenInfo]


class TokenIssued(Wire):
    """The only time the secret is shown."""

    token: str
    info: TokenInfo


class LoginOption(Wire):
    """A provider that people log in with: this registry is its client `client_id`."""

    name: str
    issuer: str
    client_id: str
    scopes: list[str]


class LoginOptions(Wire):
    """The providers, in the registry's order; none where only tokens are taken."""

    issuers: list[LoginOption]


class ExchangeRequest(Wire):
    """Exchange an issuer's token (a JWT). `issuer` is the registry's name for it, where several could be meant."""

    token: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,16384}$")]
    issuer: Word | None = None


class Exchanged(Wire):
    """A session token; the only time that its secret is shown."""

    token: str
    principal: str
    expires_at: datetime


Relation = Literal["finetune", "adapter", "merge", "quantized", "converted", "distilled"]


class Parent(Wire):
    """An artifact that another was made from, and how. It need not be in this registry."""

    artifact: ArtifactDigest
    relation: Relation


class PublicationRequest(Wire):
    """Begin, or resume, publishing an artifact: canonical manifest and OMS bundle as text, and what it was made from.

    `attestations` are bundles about this artifact; they are recorded with it, or it is not published.
    """

    manifest: str
    bundle: str
    tags: Annotated[list[TagName], Field(max_length=MAX_TAGS)] = []
    parents: Annotated[list[Parent], Field(max_length=MAX_PARENTS)] = []
    attestations: Annotated[list[AttestationText], Field(max_length=MAX_ATTESTATIONS)] = []


class BlobToUpload(Wire):
    """A blob the server has not measured yet. `written_parts` survived an earlier try."""

    blake3: Hex64
    size: Annotated[int, Field(ge=0)]
    part_bytes: Annotated[int, Field(ge=1)]
    part_count: Annotated[int, Field(ge=1)]
    written_parts: list[int]


class PublicationState(Wire):
    """An open publication and the blobs it still needs."""

    id: str
    repository: RepositoryName
    artifact: ArtifactDigest
    missing: list[Hex64]


class BlobNames(Wire):
    """Some blobs of this publication or grant."""

    blobs: Annotated[list[Hex64], Field(min_length=1, max_length=MAX_BATCH)]


class Uploads(Wire):
    """Where the uploads of the named blobs stand."""

    uploads: list[BlobToUpload]


class PartName(Wire):
    """Part `number` (from 1) of a blob."""

    blake3: Hex64
    number: Annotated[int, Field(ge=1, le=10_000)]


class PartNames(Wire):
    """Some parts about to be sent."""

    parts: Annotated[list[PartName], Field(min_length=1, max_length=MAX_BATCH)]


class DirectRequest(Wire):
    """One request to make: on the store itself (absolute URL, no credential of ours) or on the registry (path)."""

    blake3: Hex64
    number: int | None = None
    method: Literal["GET", "PUT"]
    url: str
    headers: dict[str, str]
    expires_in_seconds: Annotated[int, Field(ge=0, le=MAX_INTEGER)]


class DirectRequests(Wire):
    """One answer for each blob or part asked for, in the same order."""

    requests: list[DirectRequest]


class Measurement(Wire):
    """Whether the server has measured an uploaded blob and found it to be what was declared."""

    state: Literal["measuring", "measured"]
    measured_bytes: int


class Published(Wire):
    """The artifact exists. `event` is the index of `artifact.published`; `created` is false if it was there before."""

    repository: RepositoryName
    artifact: ArtifactDigest
    tags: list[TagName]
    event: int
    created: bool


class TagRequest(Wire):
    """Move a tag. With `expected`, only if it is there now (`none`: only if the tag does not exist)."""

    artifact: ArtifactDigest
    expected: ArtifactDigest | Literal["none"] | None = None


class TagInfo(Wire):
    """A tag and the event that put it there; `version` is that event's index."""

    tag: TagName
    artifact: ArtifactDigest
    version: int
    moved_at: datetime
    moved_by: str


class Tags(Wire):
    """Tags, sorted by name."""

    tags: list[TagInfo]


class RepositoryInfo(Wire):
    """A repository in a list."""

    repository: RepositoryName
    artifacts: int
    created_at: datetime
    sensitive: bool


class RepositoryChange(Wire):
    """What to set."""

    sensitive: bool


class RepositorySettings(Wire):
    """What is set for a repository."""

    repository: RepositoryName
    sensitive: bool


class Repositories(Wire):
    """A page; pass `next_after` as `after` for the next one."""

    repositories: list[RepositoryInfo]
    next_after: str | None


class ArtifactInfo(Wire):
    """An artifact in a list."""

    artifact: ArtifactDigest
    size_bytes: int
    files: int
    published_at: datetime
    published_by: str
    tags: list[TagName]


class Artifacts(Wire):
    """A page, newest first; pass `next_before` as `before` for the next one."""

    artifacts: list[ArtifactInfo]
    next_before: int | None


class SignatureInfo(Wire):
    """A signature as the server verified it when it came; the client verifies the bundle itself."""

    bundle: str
    authority: str
    identity: str
    added_at: datetime
    added_by: str


class ArtifactDetail(Wire):
    """Everything recorded about an artifact in one repository, without its bytes. `classification` is the effective one."""

    info: ArtifactInfo
    repository: RepositoryName
    sensitive: bool
    manifest: str
    signatures: list[SignatureInfo]
    classification: str | None = None


KnownSize = Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None


class GrantRequest(Wire):
    """Ask to fetch an artifact. `host` is what the client calls its machine (claimed); `tag` is what was resolved.

    `known_size` is the size of the newest checkpoint that this client has verified, if it has any. With `environment` it
    must be promoted there, and be promoted again with the facts of now; the answer then carries a permit.
    """

    artifact: ArtifactDigest
    purpose: Literal["pull", "launch", "verify"]
    host: Word
    tag: TagName | None = None
    known_size: KnownSize = None
    environment: PlaceName | None = None


class Grant(Wire):
    """Permission to fetch one artifact, recorded before this answer was sent. `event` is its index in the log.

    `receipt` is the text that proves it (`modelreg.receipts`); `consistency` leads from the client's `known_size` to the
    receipt's checkpoint (base64 hashes; empty where there was nothing to lead from, or the log is not that long). `permit`
    is a signed bundle (`modelreg.permits`), where an environment was asked for.
    """

    id: str
    repository: RepositoryName
    artifact: ArtifactDigest
    manifest: str
    bundles: list[str]
    event: int
    expires_at: datetime
    receipt: str
    consistency: list[str]
    permit: str | None = None


LoadId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
HostText = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,100}$")]


class ReportSignature(Wire):
    """A host key's signature over a report that was made while nobody could be told (`host_reports`)."""

    key_id: ArtifactDigest
    value: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{86}==$")]


class ReceivedReport(Wire):
    """The client has verified every byte, now or at `reported_at` (claimed)."""

    transferred_bytes: Annotated[int, Field(ge=0, le=MAX_INTEGER)]
    reported_at: datetime | None = None
    signature: ReportSignature | None = None
    known_size: KnownSize = None


class LoadedReport(Wire):
    """The client re-verified the files on disk and hands them to a runtime now, or did so at `reported_at` (claimed).

    `load` is the client's own id: the same report again is no second load. `artifact`, `files` and `size_bytes` are what it
    measured on its disk. Without `heartbeat_seconds` there are no heartbeats.
    """

    command: Line
    pid: Annotated[int, Field(ge=1, le=MAX_INTEGER)]
    boot_id: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{0,64}$")]
    client_version: Line
    load: LoadId | None = None
    artifact: ArtifactDigest | None = None
    files: Annotated[int, Field(ge=1, le=MAX_INTEGER)] | None = None
    size_bytes: Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None = None
    runtime: HostText | None = None
    runtime_version: HostText | None = None
    heartbeat_seconds: Annotated[int, Field(ge=1, le=86400)] | None = None
    reported_at: datetime | None = None
    signature: ReportSignature | None = None
    known_size: KnownSize = None


class UnloadedReport(Wire):
    """The runtime that held the artifact has ended. `exit_status` as a shell has it, negative for a signal; null: unseen."""

    reason: Line
    exit_status: Annotated[int, Field(ge=-255, le=255)] | None = None
    reported_at: datetime | None = None
    signature: ReportSignature | None = None
    known_size: KnownSize = None


class LoadState(Wire):
    """A load as the registry knows it; running while `ended_at` is null."""

    load: str
    artifact: ArtifactDigest
    last_seen_at: datetime
    ended_at: datetime | None


class Recorded(Wire):
    """The index of the event that was appended, and its proof as in `Grant`."""

    event: int
    receipt: str | None = None
    consistency: list[str] = []


class EventInfo(Wire):
    """One custody event. `host` is what the client called its machine; `verified_host` is whose key signed."""

    index: int
    type: str
    recorded_at: datetime
    principal: str
    token_id: str | None
    repository: str | None
    artifact: str | None
    tag: str | None
    host: str | None
    client_address: str | None
    user_agent: str | None
    purpose: str | None
    detail: dict[str, Any]
    identity: dict[str, Any] | None = None
    verified_host: str | None
    verified_host_class: str | None
    verified_host_zone: str | None


class Events(Wire):
    """A page, oldest first; pass `next_after` as `after` for the next one."""

    events: list[EventInfo]
    next_after: int | None


TrustText = Annotated[str, StringConstraints(max_length=1024 * 1024)]
TrustRootText = Annotated[str, StringConstraints(max_length=128 * 1024)]


class TrustPublication(Wire):
    """A trust repository as its operator has it: all roots in order, the newest of the rest, and the files by name."""

    roots: Annotated[list[TrustRootText], Field(min_length=1, max_length=1024)]
    timestamp: TrustRootText
    snapshot: TrustRootText
    targets: TrustRootText
    files: Annotated[
        dict[Annotated[str, StringConstraints(pattern=r"^(trust|revocations)\.toml$")], TrustText], Field()
    ]


class TrustPublished(Wire):
    """What is served now, by role and file, and the index of `trust.published`."""

    versions: dict[str, int]
    event: int


class SignatureRow(Wire):
    """A recorded signature: what it signs, and when that is known from. `trusted_time` is null where nothing proves it."""

    repository: str
    artifact: str
    tags: list[str]
    authority: str
    identity: str
    key: str
    added_at: datetime
    added_by: str
    published_at: datetime
    published_by: str
    trusted_time: datetime | None


class Signatures(Wire):
    """A page, in the order they were added; pass `next_after` as `after` for the next one. A page may be empty."""

    signatures: list[SignatureRow]
    next_after: int | None
