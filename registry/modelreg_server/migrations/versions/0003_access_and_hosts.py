"""Access grants, hosts and their invitations, sensitive repositories, and the verified host of an event."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "access_grant",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.Column("verb", sa.String(length=20), nullable=False),
        sa.Column("repository", sa.String(length=128), nullable=False),
        sa.Column("environment", sa.String(length=63), nullable=True),
        sa.Column("host_class", sa.String(length=20), nullable=True),
        sa.Column("zone", sa.String(length=63), nullable=True),
        sa.Column("not_after", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_by", sa.String(length=200), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_grant")),
    )
    op.create_index(op.f("ix_access_grant_subject"), "access_grant", ["subject"])
    op.create_table(
        "host",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("host_class", sa.String(length=20), nullable=False),
        sa.Column("zone", sa.String(length=63), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.String(length=71), nullable=False),
        sa.Column("enrolled_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("invited_by", sa.String(length=200), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_by", sa.String(length=200), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_host")),
        sa.UniqueConstraint("key_id", name=op.f("uq_host_key_id")),
    )
    living = sa.text("revoked_at IS NULL")
    op.create_index("uq_host_living_name", "host", ["name"], unique=True, sqlite_where=living, postgresql_where=living)
    op.create_table(
        "host_invitation",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("host_class", sa.String(length=20), nullable=False),
        sa.Column("zone", sa.String(length=63), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("host_id", sa.String(length=36), nullable=True),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_host_invitation")),
        sa.UniqueConstraint("hash", name=op.f("uq_host_invitation_hash")),
    )
    op.create_index(op.f("ix_host_invitation_name"), "host_invitation", ["name"])
    op.create_table(
        "used_nonce",
        sa.Column("host_id", sa.String(length=36), nullable=False),
        sa.Column("nonce", sa.String(length=64), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("host_id", "nonce", name=op.f("pk_used_nonce")),
    )
    op.create_index(op.f("ix_used_nonce_expires_at"), "used_nonce", ["expires_at"])
    op.add_column("repository", sa.Column("sensitive", sa.Boolean(), nullable=False, server_default=sa.false()))
    # ADD COLUMN, never a batch: SQLite would copy the table, and the log's triggers would be gone.
    op.add_column("custody_event", sa.Column("verified_host", sa.String(length=100), nullable=True))
    op.add_column("custody_event", sa.Column("verified_host_class", sa.String(length=20), nullable=True))
    op.add_column("custody_event", sa.Column("verified_host_zone", sa.String(length=63), nullable=True))
    op.create_index(op.f("ix_custody_event_verified_host"), "custody_event", ["verified_host"])
