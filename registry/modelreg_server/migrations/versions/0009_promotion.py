"""Decisions about serving in an environment, the policies that made them, and the environment of a grant."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "promotion_policy",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("first_used_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event_index", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "length(digest) = 71 AND digest LIKE 'sha256:%'", name=op.f("ck_promotion_policy_digest_digest")
        ),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_promotion_policy")),
    )
    op.create_table(
        "promotion_decision",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("repository", sa.String(length=128), nullable=False),
        sa.Column("artifact_digest", sa.String(length=71), nullable=False),
        sa.Column("environment", sa.String(length=63), nullable=False),
        sa.Column("allowed", sa.Boolean(), nullable=False),
        sa.Column("policy_digest", sa.String(length=71), nullable=False),
        sa.Column("facts", sa.LargeBinary(), nullable=False),
        sa.Column("decision", sa.LargeBinary(), nullable=False),
        sa.Column("verdict", sa.LargeBinary(), nullable=False),
        sa.Column("statement", sa.String(length=71), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.Column("event_index", sa.BigInteger(), nullable=False),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("withdrawn_by", sa.String(length=200), nullable=True),
        sa.Column("withdrawn_reason", sa.String(length=200), nullable=True),
        sa.Column("withdrawn_event_index", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "length(artifact_digest) = 71 AND artifact_digest LIKE 'sha256:%'",
            name=op.f("ck_promotion_decision_artifact_digest_digest"),
        ),
        sa.CheckConstraint(
            "length(statement) = 71 AND statement LIKE 'sha256:%'", name=op.f("ck_promotion_decision_statement_digest")
        ),
        sa.ForeignKeyConstraint(
            ["policy_digest"],
            ["promotion_policy.digest"],
            name=op.f("fk_promotion_decision_policy_digest_promotion_policy"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotion_decision")),
    )
    op.create_index(op.f("ix_promotion_decision_repository"), "promotion_decision", ["repository"])
    op.create_index(
        "ix_promotion_decision_subject", "promotion_decision", ["artifact_digest", "environment", "repository"]
    )
    op.add_column("artifact_grant", sa.Column("environment", sa.String(length=63), nullable=True))
