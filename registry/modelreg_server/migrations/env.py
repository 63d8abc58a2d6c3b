"""Alembic's entry point: runs on the connection that `migrations.migrate` passes in."""

from alembic import context
from sqlmodel import SQLModel

from modelreg_server import custody, tables

__all__ = ["custody", "tables"]  # imported for their rows

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
