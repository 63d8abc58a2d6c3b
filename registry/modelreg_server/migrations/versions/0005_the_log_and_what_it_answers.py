"""The custody log becomes a Merkle tree, with erasable identities; loads, derivations and recalls get tables."""

import hashlib

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_BATCH = 1000


def upgrade() -> None:
    op.add_column("custody_event", sa.Column("actor", sa.String(length=64), nullable=True))
    op.add_column("custody_event", sa.Column("about", sa.String(length=64), nullable=True))
    op.create_index(op.f("ix_custody_event_actor"), "custody_event", ["actor"])
    op.create_index(op.f("ix_custody_event_about"), "custody_event", ["about"])
    op.create_table(
        "custody_identity",
        sa.Column("commitment", sa.String(length=64), nullable=False),
        sa.Column("plain_sha256", sa.String(length=64), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("principal", sa.String(length=200), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("commitment", name=op.f("pk_custody_identity")),
        sa.UniqueConstraint("plain_sha256", name=op.f("uq_custody_identity_plain_sha256")),
    )
    op.create_index(op.f("ix_custody_identity_principal"), "custody_identity", ["principal"])
    op.create_table(
        "custody_node",
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "index", name=op.f("pk_custody_node")),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("custody_head") as batch_op:
        batch_op.add_column(sa.Column("frontier", sa.LargeBinary(), server_default=sa.text("''"), nullable=False))
        batch_op.add_column(sa.Column("checkpoint", sa.LargeBinary(), nullable=True))
        batch_op.add_column(sa.Column("epoch", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
        batch_op.add_column(sa.Column("appended_at", sa.DateTime(timezone=True), nullable=True))
    _grow_the_tree()
    _more_tables()


def _grow_the_tree() -> None:
    """Give the events of the releases before their place in the tree. RFC 6962 §2.1, written out: a migration is frozen."""
    connection = op.get_bind()
    head = sa.table("custody_head", sa.column("size", sa.BigInteger), sa.column("frontier", sa.LargeBinary))
    events = sa.table("custody_event", sa.column("index", sa.BigInteger), sa.column("entry", sa.LargeBinary))
    nodes = sa.table(
        "custody_node",
        sa.column("level", sa.Integer),
        sa.column("index", sa.BigInteger),
        sa.column("hash", sa.LargeBinary),
    )
    size = connection.execute(sa.select(head.c.size)).scalar_one()
    stack: list[bytes] = []
    for start in range(0, size, _BATCH):
        query = sa.select(events.c.index, events.c.entry).where(events.c.index >= start).order_by(events.c.index)
        found = []
        for index, entry in connection.execute(query.limit(_BATCH)):
            level, at, value = 0, index, hashlib.sha256(b"\0" + entry).digest()
            found.append({"level": 0, "index": at, "hash": value})
            while at & 1:
                value = hashlib.sha256(b"\1" + stack.pop() + value).digest()
                level, at = level + 1, at >> 1
                found.append({"level": level, "index": at, "hash": value})
            stack.append(value)
        connection.execute(sa.insert(nodes), found)
    connection.execute(sa.update(head).values(frontier=b"".join(stack)))


def _more_tables() -> None:
    op.create_table(
        "runtime_load",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("artifact_digest", sa.String(length=71), nullable=False),
        sa.Column("repository", sa.String(length=128), nullable=False),
        sa.Column("grant_id", sa.String(length=36), nullable=True),
        sa.Column("host", sa.String(length=200), nullable=False),
        sa.Column("verified_host", sa.String(length=100), nullable=True),
        sa.Column("boot_id", sa.String(length=64), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=False),
        sa.Column("command", sa.String(length=200), nullable=False),
        sa.Column("runtime", sa.String(length=100), nullable=True),
        sa.Column("runtime_version", sa.String(length=100), nullable=True),
        sa.Column("loaded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event_index", sa.BigInteger(), nullable=False),
        sa.Column("heartbeat_seconds", sa.Integer(), nullable=True),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_event_index", sa.BigInteger(), nullable=True),
        sa.Column("end_reason", sa.String(length=200), nullable=True),
        _artifact_check("runtime_load", "artifact_digest"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runtime_load")),
    )
    for column in ("artifact_digest", "host", "verified_host"):
        op.create_index(op.f(f"ix_runtime_load_{column}"), "runtime_load", [column])
    op.create_table(
        "derivation",
        sa.Column("child", sa.String(length=71), nullable=False),
        sa.Column("parent", sa.String(length=71), nullable=False),
        sa.Column("relation", sa.String(length=20), nullable=False),
        sa.Column("grade", sa.String(length=10), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event_index", sa.BigInteger(), nullable=False),
        _artifact_check("derivation", "child"),
        _artifact_check("derivation", "parent"),
        sa.PrimaryKeyConstraint("child", "parent", "relation", name=op.f("pk_derivation")),
    )
    op.create_index(op.f("ix_derivation_parent"), "derivation", ["parent"])
    op.create_table(
        "recall",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("artifact_digest", sa.String(length=71), nullable=False),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.Column("event_index", sa.BigInteger(), nullable=False),
        sa.Column("lifted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lifted_by", sa.String(length=200), nullable=True),
        sa.Column("lifted_event_index", sa.BigInteger(), nullable=True),
        _artifact_check("recall", "artifact_digest"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recall")),
    )
    op.create_index(op.f("ix_recall_artifact_digest"), "recall", ["artifact_digest"])
    op.create_index(
        "uq_recall_open",
        "recall",
        ["artifact_digest"],
        unique=True,
        sqlite_where=sa.text("lifted_at IS NULL"),
        postgresql_where=sa.text("lifted_at IS NULL"),
    )
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


def _artifact_check(table: str, column: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(
        f"length({column}) = 71 AND {column} LIKE 'sha256:%'", name=op.f(f"ck_{table}_{column}_digest")
    )
