"""Signed statements about artifacts, and those that come with a publication."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "attestation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("repository", sa.String(length=128), nullable=False),
        sa.Column("about_digest", sa.String(length=71), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("statement", sa.String(length=71), nullable=False),
        sa.Column("bundle", sa.LargeBinary(), nullable=False),
        sa.Column("authority", sa.String(length=200), nullable=False),
        sa.Column("identity", sa.String(length=1000), nullable=False),
        sa.Column("key_id", sa.String(length=71), nullable=False),
        sa.Column("signed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("added_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("added_by", sa.String(length=200), nullable=False),
        sa.Column("event_index", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "length(about_digest) = 71 AND about_digest LIKE 'sha256:%'",
            name=op.f("ck_attestation_about_digest_digest"),
        ),
        sa.CheckConstraint(
            "length(statement) = 71 AND statement LIKE 'sha256:%'", name=op.f("ck_attestation_statement_digest")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attestation")),
        sa.UniqueConstraint("repository", "statement", "key_id", name=op.f("uq_attestation_repository")),
    )
    op.create_index(op.f("ix_attestation_about_digest"), "attestation", ["about_digest"])
    op.add_column(
        "publication_attempt", sa.Column("attestations", sa.JSON(), server_default=sa.text("'[]'"), nullable=False)
    )
