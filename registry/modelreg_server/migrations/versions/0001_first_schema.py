"""The first schema. `custody_event` refuses UPDATE, DELETE and TRUNCATE from its first day."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "artifact",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("manifest", sa.LargeBinary(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("file_count", sa.Integer(), nullable=False),
        sa.CheckConstraint("length(digest) = 71 AND digest LIKE 'sha256:%'", name=op.f("ck_artifact_digest_digest")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_artifact")),
    )
    op.create_table(
        "blob",
        sa.Column("blake3", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("chunks_sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("length(blake3) = 64", name=op.f("ck_blob_blake3_hex")),
        sa.CheckConstraint("length(chunks_sha256) = 64", name=op.f("ck_blob_chunks_sha256_hex")),
        sa.CheckConstraint("length(sha256) = 64", name=op.f("ck_blob_sha256_hex")),
        sa.PrimaryKeyConstraint("blake3", name=op.f("pk_blob")),
    )
    with op.batch_alter_table("blob", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_blob_sha256"), ["sha256"], unique=False)

    op.create_table(
        "custody_event",
        sa.Column("index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("type", sa.String(length=40), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("principal", sa.String(length=200), nullable=False),
        sa.Column("token_id", sa.String(length=36), nullable=True),
        sa.Column("repository", sa.String(length=128), nullable=True),
        sa.Column("artifact", sa.String(length=71), nullable=True),
        sa.Column("tag", sa.String(length=128), nullable=True),
        sa.Column("host", sa.String(length=200), nullable=True),
        sa.Column("client_address", sa.String(length=100), nullable=True),
        sa.Column("user_agent", sa.String(length=200), nullable=True),
        sa.Column("purpose", sa.String(length=40), nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("entry", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("index", name=op.f("pk_custody_event")),
    )
    with op.batch_alter_table("custody_event", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_custody_event_artifact"), ["artifact"], unique=False)
        batch_op.create_index(batch_op.f("ix_custody_event_principal"), ["principal"], unique=False)
        batch_op.create_index(batch_op.f("ix_custody_event_repository"), ["repository"], unique=False)
        batch_op.create_index(batch_op.f("ix_custody_event_type"), ["type"], unique=False)

    op.create_table(
        "custody_head",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_custody_head")),
    )
    op.create_table(
        "publication_attempt",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("repository", sa.String(length=128), nullable=False),
        sa.Column("artifact_digest", sa.String(length=71), nullable=False),
        sa.Column("principal", sa.String(length=200), nullable=False),
        sa.Column("manifest", sa.LargeBinary(), nullable=False),
        sa.Column("bundle", sa.LargeBinary(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event_index", sa.BigInteger(), nullable=True),
        sa.Column("created", sa.Boolean(), nullable=True),
        sa.CheckConstraint(
            "length(artifact_digest) = 71 AND artifact_digest LIKE 'sha256:%'",
            name=op.f("ck_publication_attempt_artifact_digest_digest"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_publication_attempt")),
    )
    with op.batch_alter_table("publication_attempt", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_publication_attempt_repository"), ["repository"], unique=False)

    op.create_table(
        "repository",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_repository")),
        sa.UniqueConstraint("name", name=op.f("uq_repository_name")),
    )
    op.create_table(
        "token",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("last_four", sa.String(length=4), nullable=False),
        sa.Column("principal", sa.String(length=200), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token")),
        sa.UniqueConstraint("hash", name=op.f("uq_token_hash")),
    )
    op.create_table(
        "artifact_file",
        sa.Column("artifact_digest", sa.String(length=71), nullable=False),
        sa.Column("path", sa.String(length=1024), nullable=False),
        sa.Column("blake3", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_digest"], ["artifact.digest"], name=op.f("fk_artifact_file_artifact_digest_artifact")
        ),
        sa.ForeignKeyConstraint(["blake3"], ["blob.blake3"], name=op.f("fk_artifact_file_blake3_blob")),
        sa.PrimaryKeyConstraint("artifact_digest", "path", name=op.f("pk_artifact_file")),
    )
    with op.batch_alter_table("artifact_file", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_artifact_file_blake3"), ["blake3"], unique=False)
        batch_op.create_index(batch_op.f("ix_artifact_file_sha256"), ["sha256"], unique=False)

    op.create_table(
        "artifact_grant",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("event_index", sa.BigInteger(), nullable=False),
        sa.Column("repository", sa.String(length=128), nullable=False),
        sa.Column("artifact_digest", sa.String(length=71), nullable=False),
        sa.Column("principal", sa.String(length=200), nullable=False),
        sa.Column("purpose", sa.String(length=20), nullable=False),
        sa.Column("host", sa.String(length=200), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_digest"], ["artifact.digest"], name=op.f("fk_artifact_grant_artifact_digest_artifact")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artifact_grant")),
    )
    op.create_table(
        "blob_upload",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("attempt_id", sa.String(length=36), nullable=False),
        sa.Column("blake3", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("chunks_sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("part_bytes", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("token", sa.String(length=1000), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("length(blake3) = 64", name=op.f("ck_blob_upload_blake3_hex")),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["publication_attempt.id"], name=op.f("fk_blob_upload_attempt_id_publication_attempt")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_blob_upload")),
        sa.UniqueConstraint("attempt_id", "blake3", name=op.f("uq_blob_upload_attempt_id")),
    )
    op.create_table(
        "publication",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("repository_id", sa.Integer(), nullable=False),
        sa.Column("artifact_digest", sa.String(length=71), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("published_by", sa.String(length=200), nullable=False),
        sa.Column("event_index", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_digest"], ["artifact.digest"], name=op.f("fk_publication_artifact_digest_artifact")
        ),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repository.id"], name=op.f("fk_publication_repository_id_repository")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_publication")),
        sa.UniqueConstraint("repository_id", "artifact_digest", name=op.f("uq_publication_repository_id")),
    )
    with op.batch_alter_table("publication", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_publication_artifact_digest"), ["artifact_digest"], unique=False)

    op.create_table(
        "tag",
        sa.Column("repository_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("artifact_digest", sa.String(length=71), nullable=False),
        sa.Column("event_index", sa.BigInteger(), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("moved_by", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["artifact_digest"], ["artifact.digest"], name=op.f("fk_tag_artifact_digest_artifact")),
        sa.ForeignKeyConstraint(["repository_id"], ["repository.id"], name=op.f("fk_tag_repository_id_repository")),
        sa.PrimaryKeyConstraint("repository_id", "name", name=op.f("pk_tag")),
    )
    with op.batch_alter_table("tag", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_tag_artifact_digest"), ["artifact_digest"], unique=False)

    op.create_table(
        "signature",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("publication_id", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.String(length=71), nullable=False),
        sa.Column("bundle", sa.LargeBinary(), nullable=False),
        sa.Column("authority", sa.String(length=200), nullable=False),
        sa.Column("identity", sa.String(length=1000), nullable=False),
        sa.Column("added_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("added_by", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(
            ["publication_id"], ["publication.id"], name=op.f("fk_signature_publication_id_publication")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_signature")),
        sa.UniqueConstraint("publication_id", "key_id", name=op.f("uq_signature_publication_id")),
    )
    _make_log_append_only()


def _make_log_append_only() -> None:
    op.execute("INSERT INTO custody_head (id, size) VALUES (1, 0)")
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            """
            CREATE FUNCTION custody_event_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'custody_event is append-only'; END $$
            """
        )
        op.execute(
            """
            CREATE TRIGGER custody_event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON custody_event
            FOR EACH STATEMENT EXECUTE FUNCTION custody_event_refuse()
            """
        )
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"""
            CREATE TRIGGER custody_event_no_{verb.lower()} BEFORE {verb} ON custody_event
            BEGIN SELECT RAISE(ABORT, 'custody_event is append-only'); END
            """
        )
    # INSERT OR REPLACE deletes the old row without firing the DELETE trigger.
    op.execute(
        """
        CREATE TRIGGER custody_event_no_replace BEFORE INSERT ON custody_event
        WHEN EXISTS (SELECT 1 FROM custody_event WHERE "index" = NEW."index")
        BEGIN SELECT RAISE(ABORT, 'custody_event is append-only'); END
        """
    )
