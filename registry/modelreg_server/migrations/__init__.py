"""Schema migrations: Alembic, configured in Python; `versions/` ships in the wheel.

A migration works with the code of the release before it, takes a lock, and never rewrites `custody_event`.
"""

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from modelreg.errors import Misconfigured

_LOCK_ID = 0x6D6F64656C726567  # "modelreg", for pg_advisory_xact_lock


def configuration(connection: Connection | None = None) -> Config:
    """The Alembic configuration; there is no ini file."""
    config = Config()
    config.set_main_option("script_location", "modelreg_server:migrations")
    config.attributes["connection"] = connection
    return config


def migrate(engine: Engine) -> None:
    """Bring the database to the newest schema; waits for another process that does the same."""
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL lock_timeout = '10s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK_ID})
        command.upgrade(configuration(connection), "head")


def require_current(engine: Engine) -> None:
    """Refuse a database of another schema than this code's.

    Raises:
        Misconfigured: it was never migrated, or is older or newer.
    """
    newest = ScriptDirectory.from_config(configuration()).get_current_head()
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current != newest:
        raise Misconfigured(
            f"the database has schema {current or 'none'}, this version needs {newest}; run `modelreg-server migrate`",
            setting="MODELREG_DATABASE_URL",
        )
