"""One open recall an artifact; a verified host's confirmation and a claimed name's never share a row."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "uq_recall_open",
        "recall",
        ["artifact_digest"],
        unique=True,
        sqlite_where=sa.text("lifted_at IS NULL"),
        postgresql_where=sa.text("lifted_at IS NULL"),
    )
    # Nothing has written this table yet.
    op.drop_table("recall_confirmation")
    op.create_table(
        "recall_confirmation",
        sa.Column("recall_id", sa.String(length=36), nullable=False),
        sa.Column("host", sa.String(length=200), nullable=False),
        sa.Column("verified", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event_index", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["recall_id"], ["recall.id"], name=op.f("fk_recall_confirmation_recall_id_recall")),
        sa.PrimaryKeyConstraint("recall_id", "host", "verified", name=op.f("pk_recall_confirmation")),
    )
