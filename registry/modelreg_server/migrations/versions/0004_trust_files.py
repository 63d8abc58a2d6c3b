"""The published trust repository: TUF metadata and the files it names; the trusted time of a signature."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("signature", sa.Column("signed_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "trust_file",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event_index", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("length(sha256) = 64", name=op.f("ck_trust_file_sha256_hex")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_trust_file")),
    )
