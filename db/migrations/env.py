"""What alembic runs: on the connection that ``db.migrations`` passes, else on the database of the settings."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from db.connection import Database
from db.schema import Base
from infra.settings import load

MIGRATION_LOCK = 0x676C617373  # any number that nobody else takes: "glass"


def migrate(connection: Connection) -> None:
    """The revisions asked for, in one transaction, while nobody else migrates this database."""
    context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
    with context.begin_transaction():
        # Released with the transaction; whoever waited here reads the revision only afterwards.
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        context.run_migrations()


def print_sql() -> None:
    """The revisions asked for as SQL (``--sql``), for somebody else to run."""
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},  # the usual style would double every percent sign
        target_metadata=Base.metadata,
        literal_binds=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def database_of_settings() -> Database:
    """The database of the settings."""
    url = load().database_url
    if url is None:
        raise SystemExit("expected GLASSPLATE_DATABASE_URL or a running `glassplate up`, found neither")
    return Database(url.get_secret_value(), pool_size=1)


if context.is_offline_mode():
    print_sql()
elif (given := context.config.attributes.get("connection")) is not None:
    migrate(given)
else:
    with database_of_settings().transaction() as opened:
        migrate(opened)
