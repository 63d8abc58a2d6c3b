"""Session tokens and whose identity stands behind them; tokens of issuers that were used; `identity` of events."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Plain ADD COLUMN on both databases: batch mode would copy `custody_event`, and lose its triggers with the old table.
    op.add_column("custody_event", sa.Column("identity", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("token", sa.Column("kind", sa.String(length=10), nullable=False, server_default="api"))
    op.add_column("token", sa.Column("identity", sa.JSON(none_as_null=True), nullable=True))
    op.create_table(
        "used_token",
        sa.Column("issuer", sa.String(length=500), nullable=False),
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("length(token_sha256) = 64", name=op.f("ck_used_token_token_sha256_hex")),
        sa.PrimaryKeyConstraint("issuer", "token_sha256", name=op.f("pk_used_token")),
    )
    op.create_index(op.f("ix_used_token_expires_at"), "used_token", ["expires_at"], unique=False)
