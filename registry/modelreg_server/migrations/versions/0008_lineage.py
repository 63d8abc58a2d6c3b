"""Datasets and their use, how sensitive artifacts are, what their files claim."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def _digest(table: str, column: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(
        f"length({column}) = 71 AND {column} LIKE 'sha256:%'", name=op.f(f"ck_{table}_{column}_digest")
    )


def upgrade() -> None:
    time = sa.DateTime(timezone=True)
    op.create_table(
        "dataset",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=False),
        sa.Column("classification", sa.String(length=12), nullable=False),
        sa.Column("lawful_basis", sa.String(length=200), nullable=False),
        sa.Column("residency", sa.JSON(), nullable=False),
        sa.Column("retention_until", time, nullable=True),
        sa.Column("source", sa.String(length=2000), nullable=True),
        sa.Column("statement", sa.String(length=71), nullable=False),
        sa.Column("bundle", sa.LargeBinary(), nullable=False),
        sa.Column("authority", sa.String(length=200), nullable=False),
        sa.Column("identity", sa.String(length=1000), nullable=False),
        sa.Column("key_id", sa.String(length=71), nullable=False),
        sa.Column("signed_at", time, nullable=True),
        sa.Column("registered_at", time, nullable=False),
        sa.Column("registered_by", sa.String(length=200), nullable=False),
        sa.Column("event_index", sa.BigInteger(), nullable=False),
        _digest("dataset", "digest"),
        _digest("dataset", "statement"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset")),
        sa.UniqueConstraint("name", "statement", "key_id", name=op.f("uq_dataset_name")),
    )
    op.create_index(op.f("ix_dataset_digest"), "dataset", ["digest"])
    op.create_table(
        "dataset_use",
        sa.Column("artifact", sa.String(length=71), nullable=False),
        sa.Column("dataset", sa.String(length=71), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("grade", sa.String(length=10), nullable=False),
        sa.Column("statement", sa.String(length=71), nullable=True),
        sa.Column("recorded_at", time, nullable=False),
        sa.Column("event_index", sa.BigInteger(), nullable=False),
        _digest("dataset_use", "artifact"),
        _digest("dataset_use", "dataset"),
        sa.PrimaryKeyConstraint("artifact", "dataset", name=op.f("pk_dataset_use")),
    )
    op.create_index(op.f("ix_dataset_use_dataset"), "dataset_use", ["dataset"])
    op.create_table(
        "artifact_class",
        sa.Column("artifact", sa.String(length=71), nullable=False),
        sa.Column("declared", sa.String(length=12), nullable=True),
        sa.Column("inherited", sa.String(length=12), nullable=True),
        sa.Column("effective", sa.String(length=12), nullable=True),
        sa.Column("lowered_by", sa.String(length=1000), nullable=True),
        sa.Column("unknown_inputs", sa.Integer(), nullable=False),
        sa.Column("updated_at", time, nullable=False),
        _digest("artifact_class", "artifact"),
        sa.PrimaryKeyConstraint("artifact", name=op.f("pk_artifact_class")),
    )
    op.create_table(
        "model_claim",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("artifact", sa.String(length=71), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("value", sa.String(length=500), nullable=False),
        sa.Column("path", sa.String(length=1024), nullable=False),
        sa.Column("member", sa.String(length=200), nullable=False),
        sa.Column("resolved", sa.String(length=71), nullable=True),
        sa.Column("recorded_at", time, nullable=False),
        _digest("model_claim", "artifact"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_claim")),
    )
    op.create_index(op.f("ix_model_claim_artifact"), "model_claim", ["artifact"])
