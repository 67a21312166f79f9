"""Questions from people: any SELECT on the public views, in a read-only transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import text

from db.connection import Database
from db.migrations.views import READER

TIMEOUT_SECONDS = 60


def ask(url: str, sql: str, values: Mapping[str, Any] | None = None) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of ``sql``, run as the read-only role; ``values`` fill its ``:name`` places.

    Raises LedgerUnavailable when the database is away, LedgerError for what the reader may not do or does not parse.
    """
    database = Database(url, pool_size=1)
    try:
        with database.transaction() as connection:
            connection.execute(text("SET TRANSACTION READ ONLY"))
            connection.execute(text(f"SET LOCAL statement_timeout = '{TIMEOUT_SECONDS}s'"))
            connection.execute(text(f"SET LOCAL ROLE {READER}"))
            statement = text(sql) if values else text(sql.replace(":", r"\:"))
            result = connection.execute(statement, dict(values or {}))
            return list(result.keys()), [tuple(row) for row in result]
    finally:
        database.close()
