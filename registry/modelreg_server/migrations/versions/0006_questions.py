"""What look-ups need: OMS root digests, the parents of a publication under way, indexes for the questions of an incident."""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_REACH = ("artifact", "type", "verified_host", "host", "principal", "recorded_at", "repository", "index")


def upgrade() -> None:
    op.add_column("artifact", sa.Column("root_digest", sa.String(length=71), nullable=True))
    op.create_index(op.f("ix_artifact_root_digest"), "artifact", ["root_digest"])
    _compute_roots()
    op.add_column(
        "publication_attempt", sa.Column("parents", sa.JSON(), server_default=sa.text("'[]'"), nullable=False)
    )
    op.create_index("ix_custody_event_reach", "custody_event", list(_REACH))
    op.drop_index("ix_custody_event_artifact", "custody_event")  # the one above begins with it
    op.create_index(op.f("ix_custody_event_host"), "custody_event", ["host"])
    op.create_index(op.f("ix_signature_identity"), "signature", ["identity"])
    op.create_index(op.f("ix_signature_key_id"), "signature", ["key_id"])
    op.create_index(op.f("ix_runtime_load_event_index"), "runtime_load", ["event_index"])


def _compute_roots() -> None:
    """From the manifests that are there. RFC 8785 lists the files in the order that OMS hashes them in."""
    connection = op.get_bind()
    artifact = sa.table(
        "artifact",
        sa.column("digest", sa.String),
        sa.column("manifest", sa.LargeBinary),
        sa.column("root_digest", sa.String),
    )
    digests = connection.execute(sa.select(artifact.c.digest)).scalars().all()
    for digest in digests:  # one at a time: a manifest may be 32 MiB
        raw = connection.execute(sa.select(artifact.c.manifest).where(artifact.c.digest == digest)).scalar_one()
        files = json.loads(raw)["files"]
        root = hashlib.sha256(b"".join(bytes.fromhex(file["sha256"]) for file in files)).hexdigest()
        connection.execute(sa.update(artifact).where(artifact.c.digest == digest).values(root_digest=f"sha256:{root}"))
