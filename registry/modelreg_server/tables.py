"""Rows. Built from parsed values only (a `table=True` model validates nothing), never returned by a route.

The custody log's tables are `custody`'s own. Sizes are BIGINT; times are aware UTC; digests are CHECK-constrained text.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Index,
    LargeBinary,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.engine import Dialect
from sqlmodel import Field, SQLModel

SQLModel.metadata.naming_convention = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """Aware in, aware UTC out, on both databases (SQLite forgets offsets)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive time: it would be somebody's local time."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Give the offset back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def table_of(kind: type[SQLModel]) -> Table:
    """The table behind a class of rows, for statements that need no objects."""
    return SQLModel.metadata.tables[str(kind.__tablename__)]


def hex_64_check(column: str) -> CheckConstraint:
    """64 characters; the alphabet is the parsers' business, the length keeps a truncated value out."""
    return CheckConstraint(f"length({column}) = 64", name=f"{column}_hex")


def artifact_check(column: str) -> CheckConstraint:
    """`sha256:` and 64 characters."""
    return CheckConstraint(f"length({column}) = 71 AND {column} LIKE 'sha256:%'", name=f"{column}_digest")


class Token(SQLModel, table=True):
    """A token of ours; `hash` is the SHA-256 of the whole token text, the text itself is never stored.

    `kind` is `api` (an administrator issued it) or `session` (exchanged; then `identity` says for whose token).
    """

    id: str = Field(primary_key=True, max_length=36)
    hash: str = Field(unique=True, max_length=64)
    last_four: str = Field(max_length=4)
    principal: str = Field(max_length=200)
    scopes: list[str] = Field(sa_type=JSON)
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=200)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    last_used_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    kind: str = Field(default="api", max_length=10, sa_column_kwargs={"server_default": "api"})
    identity: dict[str, Any] | None = Field(default=None, sa_type=JSON(none_as_null=True))


class UsedToken(SQLModel, table=True):
    """An issuer's token that was exchanged; kept until it could not be accepted any more, so that it is good once."""

    __tablename__ = "used_token"
    __table_args__ = (hex_64_check("token_sha256"),)

    issuer: str = Field(primary_key=True, max_length=500)
    token_sha256: str = Field(primary_key=True, max_length=64)
    used_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(index=True, sa_type=UtcDateTime)


class Repository(SQLModel, table=True):
    """Made by the first publication. The bytes of a `sensitive` one go to verified hosts only, not to workstations."""

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True, max_length=128)
    created_at: datetime = Field(sa_type=UtcDateTime)
    sensitive: bool = Field(default=False, sa_column_kwargs={"server_default": false()})


class Blob(SQLModel, table=True):
    """Bytes the server measured itself. `key` is the one accepted upload; `chunks_sha256` stands for all chunks."""

    __table_args__ = (hex_64_check("blake3"), hex_64_check("sha256"), hex_64_check("chunks_sha256"))

    blake3: str = Field(primary_key=True, max_length=64)
    sha256: str = Field(index=True, max_length=64)
    chunks_sha256: str = Field(max_length=64)
    size_bytes: int = Field(sa_type=BigInteger)
    key: str = Field(max_length=200)
    measured_at: datetime = Field(sa_type=UtcDateTime)


class Artifact(SQLModel, table=True):
    """One immutable set of files; the same artifact may be published in several repositories."""

    __table_args__ = (artifact_check("digest"),)

    digest: str = Field(primary_key=True, max_length=71)
    manifest: bytes = Field(sa_type=LargeBinary)
    size_bytes: int = Field(sa_type=BigInteger)
    file_count: int
    root_digest: str | None = Field(default=None, index=True, max_length=71)  # what OMS calls it: of all files' SHA-256


class ArtifactFile(SQLModel, table=True):
    """A file of an artifact: which blobs it needs, and the way from a digest back to names."""

    __tablename__ = "artifact_file"

    artifact_digest: str = Field(primary_key=True, foreign_key="artifact.digest", max_length=71)
    path: str = Field(primary_key=True, sa_type=String(1024))
    blake3: str = Field(foreign_key="blob.blake3", index=True, max_length=64)
    sha256: str = Field(index=True, max_length=64)


class Publication(SQLModel, table=True):
    """An artifact in a repository."""

    __table_args__ = (UniqueConstraint("repository_id", "artifact_digest"),)

    id: int | None = Field(default=None, primary_key=True)
    repository_id: int = Field(foreign_key="repository.id")
    artifact_digest: str = Field(foreign_key="artifact.digest", index=True, max_length=71)
    published_at: datetime = Field(sa_type=UtcDateTime)
    published_by: str = Field(max_length=200)
    event_index: int = Field(sa_type=BigInteger)


class Signature(SQLModel, table=True):
    """A bundle over a publication, one a signing key; a second signer's bundle stands beside the first."""

    __table_args__ = (UniqueConstraint("publication_id", "key_id"),)

    id: int | None = Field(default=None, primary_key=True)
    publication_id: int = Field(foreign_key="publication.id")
    key_id: str = Field(index=True, max_length=71)
    bundle: bytes = Field(sa_type=LargeBinary)
    authority: str = Field(max_length=200)
    identity: str = Field(index=True, max_length=1000)
    added_at: datetime = Field(sa_type=UtcDateTime)
    added_by: str = Field(max_length=200)
    signed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)  # the trusted time, as verified when it came


class AttestationRow(SQLModel, table=True):
    """A signed statement about an artifact or a dataset, kept once; added and never taken away.

    `statement` is the SHA-256 of what was signed; `authority` is `registry` for what the registry said itself.
    """

    __tablename__ = "attestation"
    __table_args__ = (
        UniqueConstraint("repository", "statement", "key_id"),  # two people may sign the same words
        artifact_check("about_digest"),
        artifact_check("statement"),
    )

    id: int | None = Field(default=None, primary_key=True)
    repository: str = Field(max_length=128)
    about_digest: str = Field(index=True, max_length=71)
    kind: str = Field(max_length=20)
    statement: str = Field(max_length=71)
    bundle: bytes = Field(sa_type=LargeBinary)
    authority: str = Field(max_length=200)
    identity: str = Field(max_length=1000)
    key_id: str = Field(max_length=71)
    signed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    added_at: datetime = Field(sa_type=UtcDateTime)
    added_by: str = Field(max_length=200)
    event_index: int = Field(sa_type=BigInteger)


class Tag(SQLModel, table=True):
    """Where a tag points now; the history is the log's, and `event_index` is the tag's version."""

    repository_id: int = Field(primary_key=True, foreign_key="repository.id")
    name: str = Field(primary_key=True, max_length=128)
    artifact_digest: str = Field(foreign_key="artifact.digest", index=True, max_length=71)
    event_index: int = Field(sa_type=BigInteger)
    moved_at: datetime = Field(sa_type=UtcDateTime)
    moved_by: str = Field(max_length=200)


class Attempt(SQLModel, table=True):
    """A publication under way. Finished when `event_index` is set; a repeated `finish` gives the same answer."""

    __tablename__ = "publication_attempt"
    __table_args__ = (artifact_check("artifact_digest"),)

    id: str = Field(primary_key=True, max_length=36)
    repository: str = Field(index=True, max_length=128)
    artifact_digest: str = Field(max_length=71)
    principal: str = Field(max_length=200)
    manifest: bytes = Field(sa_type=LargeBinary)
    bundle: bytes = Field(sa_type=LargeBinary)
    tags: list[str] = Field(sa_type=JSON)
    parents: list[dict[str, str]] = Field(default=[], sa_type=JSON, sa_column_kwargs={"server_default": text("'[]'")})
    attestations: list[str] = Field(default=[], sa_type=JSON, sa_column_kwargs={"server_default": text("'[]'")})
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    event_index: int | None = Field(default=None, sa_type=BigInteger)
    created: bool | None = None


class BlobUpload(SQLModel, table=True):
    """One upload of one blob in an attempt: what was declared; `measured_at` once the server has found it so."""

    __tablename__ = "blob_upload"
    __table_args__ = (UniqueConstraint("attempt_id", "blake3"), hex_64_check("blake3"))

    id: str = Field(primary_key=True, max_length=36)
    attempt_id: str = Field(foreign_key="publication_attempt.id", max_length=36)
    blake3: str = Field(max_length=64)
    sha256: str = Field(max_length=64)
    chunks_sha256: str = Field(max_length=64)
    size_bytes: int = Field(sa_type=BigInteger)
    part_bytes: int = Field(sa_type=BigInteger)
    key: str = Field(max_length=200)
    token: str = Field(max_length=1000)
    measured_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class GrantRow(SQLModel, table=True):
    """Permission to fetch, and the event that recorded it."""

    __tablename__ = "artifact_grant"

    id: str = Field(primary_key=True, max_length=36)
    event_index: int = Field(sa_type=BigInteger)
    repository: str = Field(max_length=128)
    artifact_digest: str = Field(foreign_key="artifact.digest", max_length=71)
    principal: str = Field(max_length=200)
    purpose: str = Field(max_length=20)
    host: str = Field(max_length=200)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    environment: str | None = Field(default=None, max_length=63)  # it was given for serving there


class AccessGrantRow(SQLModel, table=True):
    """A grant of `access`, as an administrator wrote it; ended by `revoked_at`, never deleted."""

    __tablename__ = "access_grant"

    id: str = Field(primary_key=True, max_length=36)
    subject: str = Field(index=True, max_length=200)
    verb: str = Field(max_length=20)
    repository: str = Field(max_length=128)
    environment: str | None = Field(max_length=63)
    host_class: str | None = Field(max_length=20)
    zone: str | None = Field(max_length=63)
    not_after: datetime | None = Field(sa_type=UtcDateTime)
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=200)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    revoked_by: str | None = Field(default=None, max_length=200)


class HostInvitation(SQLModel, table=True):
    """What an administrator says of a machine before it enrols. `hash` is the SHA-256 of the one-time token's text.

    Open until it is used (`host_id` says by which host), withdrawn or expired.
    """

    __tablename__ = "host_invitation"

    id: str = Field(primary_key=True, max_length=36)
    hash: str = Field(unique=True, max_length=64)
    name: str = Field(index=True, max_length=100)
    host_class: str = Field(max_length=20)
    zone: str = Field(max_length=63)
    labels: dict[str, str] = Field(sa_type=JSON)
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=200)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    host_id: str | None = Field(default=None, max_length=36)
    withdrawn_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class Host(SQLModel, table=True):
    """A machine and its Ed25519 key (DER SubjectPublicKeyInfo). One living host a name; a key enrols once, ever."""

    __table_args__ = (
        Index(
            "uq_host_living_name",
            "name",
            unique=True,
            sqlite_where=text("revoked_at IS NULL"),
            postgresql_where=text("revoked_at IS NULL"),
        ),
    )

    id: str = Field(primary_key=True, max_length=36)
    name: str = Field(max_length=100)
    host_class: str = Field(max_length=20)
    zone: str = Field(max_length=63)
    labels: dict[str, str] = Field(sa_type=JSON)
    public_key: bytes = Field(sa_type=LargeBinary)
    key_id: str = Field(unique=True, max_length=71)
    enrolled_at: datetime = Field(sa_type=UtcDateTime)
    invited_by: str = Field(max_length=200)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    revoked_by: str | None = Field(default=None, max_length=200)


class UsedNonce(SQLModel, table=True):
    """A host signature that was accepted, remembered for as long as it would be accepted again."""

    __tablename__ = "used_nonce"

    host_id: str = Field(primary_key=True, max_length=36)
    nonce: str = Field(primary_key=True, max_length=64)
    expires_at: datetime = Field(index=True, sa_type=UtcDateTime)


class TrustFile(SQLModel, table=True):
    """A file of the published trust repository, by the name it is served under; old versions stay for slow clients."""

    __tablename__ = "trust_file"
    __table_args__ = (hex_64_check("sha256"),)

    name: str = Field(primary_key=True, max_length=100)
    content: bytes = Field(sa_type=LargeBinary)
    sha256: str = Field(max_length=64)
    published_at: datetime = Field(sa_type=UtcDateTime)
    event_index: int = Field(sa_type=BigInteger)


class RuntimeLoad(SQLModel, table=True):
    """An artifact in a runtime's memory, as the host that started it reported. `id` is the host's own.

    Running until `ended_at` is set; whoever has not been seen for three `heartbeat_seconds` is stale, not ended.
    """

    __tablename__ = "runtime_load"
    __table_args__ = (artifact_check("artifact_digest"),)

    id: str = Field(primary_key=True, max_length=36)
    artifact_digest: str = Field(index=True, max_length=71)
    repository: str = Field(max_length=128)
    grant_id: str | None = Field(default=None, max_length=36)
    host: str = Field(index=True, max_length=200)
    verified_host: str | None = Field(default=None, index=True, max_length=100)
    boot_id: str = Field(max_length=64)
    pid: int = Field(sa_type=BigInteger)
    command: str = Field(max_length=200)
    runtime: str | None = Field(default=None, max_length=100)
    runtime_version: str | None = Field(default=None, max_length=100)
    loaded_at: datetime = Field(sa_type=UtcDateTime)
    event_index: int = Field(index=True, sa_type=BigInteger)
    heartbeat_seconds: int | None = None
    last_seen_at: datetime = Field(sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    ended_event_index: int | None = Field(default=None, sa_type=BigInteger)
    end_reason: str | None = Field(default=None, max_length=200)


class Derivation(SQLModel, table=True):
    """`child` was made from `parent`; either may be unknown here. `grade` says how that is known."""

    __tablename__ = "derivation"
    __table_args__ = (artifact_check("child"), artifact_check("parent"))

    child: str = Field(primary_key=True, max_length=71)
    parent: str = Field(primary_key=True, index=True, max_length=71)
    relation: str = Field(primary_key=True, max_length=20)
    grade: str = Field(max_length=10)  # attested, claimed, inferred
    recorded_at: datetime = Field(sa_type=UtcDateTime)
    event_index: int = Field(sa_type=BigInteger)


class Recall(SQLModel, table=True):
    """An artifact taken back, in every repository: `quarantine` until it is lifted, or `revocation` for good.

    One that is open an artifact; a revocation lifts the quarantine it takes the place of.
    """

    __table_args__ = (
        artifact_check("artifact_digest"),
        Index(
            "uq_recall_open",
            "artifact_digest",
            unique=True,
            sqlite_where=text("lifted_at IS NULL"),
            postgresql_where=text("lifted_at IS NULL"),
        ),
    )

    id: str = Field(primary_key=True, max_length=36)
    artifact_digest: str = Field(index=True, max_length=71)
    kind: str = Field(max_length=12)
    reason: str = Field(max_length=200)
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=200)
    event_index: int = Field(sa_type=BigInteger)
    lifted_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    lifted_by: str | None = Field(default=None, max_length=200)
    lifted_event_index: int | None = Field(default=None, sa_type=BigInteger)


class RecallConfirmation(SQLModel, table=True):
    """What a host said last of a recalled artifact. `state` is `removed`, `absent`, `holding` or `running`.

    A verified host and a name that a client claims are two hosts, whatever they are called.
    """

    __tablename__ = "recall_confirmation"

    recall_id: str = Field(primary_key=True, foreign_key="recall.id", max_length=36)
    host: str = Field(primary_key=True, max_length=200)
    verified: bool = Field(primary_key=True)
    state: str = Field(max_length=10)
    confirmed_at: datetime = Field(sa_type=UtcDateTime)
    event_index: int = Field(sa_type=BigInteger)


class DatasetRecord(SQLModel, table=True):
    """A signed record of a dataset, by name and digest; added and never taken away. The newest of a digest holds."""

    __tablename__ = "dataset"
    __table_args__ = (
        UniqueConstraint("name", "statement", "key_id"),
        artifact_check("digest"),
        artifact_check("statement"),
    )

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(max_length=128)
    digest: str = Field(index=True, max_length=71)
    owner: str = Field(max_length=200)
    classification: str = Field(max_length=12)
    lawful_basis: str = Field(max_length=200)
    residency: list[str] = Field(sa_type=JSON)
    retention_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    source: str | None = Field(default=None, max_length=2000)
    statement: str = Field(max_length=71)
    bundle: bytes = Field(sa_type=LargeBinary)
    authority: str = Field(max_length=200)
    identity: str = Field(max_length=1000)
    key_id: str = Field(max_length=71)
    signed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    registered_at: datetime = Field(sa_type=UtcDateTime)
    registered_by: str = Field(max_length=200)
    event_index: int = Field(sa_type=BigInteger)


class DatasetUse(SQLModel, table=True):
    """`artifact` was made with `dataset`; either may be unknown here. `statement` is null where nobody signed that."""

    __tablename__ = "dataset_use"
    __table_args__ = (artifact_check("artifact"), artifact_check("dataset"))

    artifact: str = Field(primary_key=True, max_length=71)
    dataset: str = Field(primary_key=True, index=True, max_length=71)
    name: str = Field(max_length=200)
    grade: str = Field(max_length=10)  # attested, claimed
    statement: str | None = Field(default=None, max_length=71)
    recorded_at: datetime = Field(sa_type=UtcDateTime)
    event_index: int = Field(sa_type=BigInteger)


class ArtifactClass(SQLModel, table=True):
    """How sensitive an artifact is, as far as that is known; made when it is published, and when facts change.

    `unknown_inputs` counts the parents and datasets of which nothing is known here; `lowered_by` who declassified it.
    """

    __tablename__ = "artifact_class"
    __table_args__ = (artifact_check("artifact"),)

    artifact: str = Field(primary_key=True, max_length=71)
    declared: str | None = Field(default=None, max_length=12)
    inherited: str | None = Field(default=None, max_length=12)
    effective: str | None = Field(default=None, max_length=12)
    lowered_by: str | None = Field(default=None, max_length=1000)
    unknown_inputs: int = 0
    updated_at: datetime = Field(sa_type=UtcDateTime)


class ModelClaim(SQLModel, table=True):
    """What a file of an artifact says of it: of a base, how, of datasets, a licence. Nobody's word, kept with its place.

    `resolved` is the digest of what the value names here, where it names something here exactly.
    """

    __tablename__ = "model_claim"
    __table_args__ = (artifact_check("artifact"),)

    id: int | None = Field(default=None, primary_key=True)
    artifact: str = Field(index=True, max_length=71)
    kind: str = Field(max_length=20)  # base_model, relation, dataset, licence
    value: str = Field(max_length=500)
    path: str = Field(sa_type=String(1024))
    member: str = Field(max_length=200)
    resolved: str | None = Field(default=None, max_length=71)
    recorded_at: datetime = Field(sa_type=UtcDateTime)


class PromotionPolicyText(SQLModel, table=True):
    """A promotion policy that decided something, by the SHA-256 of its bytes; never changed, or nothing could be replayed.

    `event_index` is the newest `policy.changed` that names it: the row with the highest one decided last.
    """

    __tablename__ = "promotion_policy"
    __table_args__ = (artifact_check("digest"),)

    digest: str = Field(primary_key=True, max_length=71)
    content: bytes = Field(sa_type=LargeBinary)
    first_used_at: datetime = Field(sa_type=UtcDateTime)
    event_index: int = Field(sa_type=BigInteger)


class PromotionDecision(SQLModel, table=True):
    """An answer to whether an artifact may serve in an environment, with the bytes it was made of and the signed verdict.

    One that is `allowed` holds until `withdrawn_at` is set; `statement` is the SHA-256 of what the verdict signs.
    """

    __tablename__ = "promotion_decision"
    __table_args__ = (
        artifact_check("artifact_digest"),
        artifact_check("statement"),
        Index("ix_promotion_decision_subject", "artifact_digest", "environment", "repository"),
    )

    id: int | None = Field(default=None, primary_key=True)
    repository: str = Field(index=True, max_length=128)
    artifact_digest: str = Field(max_length=71)
    environment: str = Field(max_length=63)
    allowed: bool
    policy_digest: str = Field(foreign_key="promotion_policy.digest", max_length=71)
    facts: bytes = Field(sa_type=LargeBinary)
    decision: bytes = Field(sa_type=LargeBinary)
    verdict: bytes = Field(sa_type=LargeBinary)
    statement: str = Field(max_length=71)
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=200)
    event_index: int = Field(sa_type=BigInteger)
    withdrawn_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    withdrawn_by: str | None = Field(default=None, max_length=200)
    withdrawn_reason: str | None = Field(default=None, max_length=200)
    withdrawn_event_index: int | None = Field(default=None, sa_type=BigInteger)
