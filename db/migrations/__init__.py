"""Migrations: the database brought to this version of the tables and views, or back.

The functions here take a URL; ``alembic -c db/alembic.ini upgrade head`` does the same with the URL of the settings.
Two processes may migrate at once: the second waits for the first and finds nothing left to do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from db.connection import Database
from db.records import LedgerError

INI = Path(__file__).parent.parent / "alembic.ini"
_one_at_a_time = threading.Lock()  # alembic keeps the running migration in module globals


def head() -> str:
    """The newest revision this version of glassplate knows."""
    newest = ScriptDirectory.from_config(Config(str(INI))).get_current_head()
    if newest is None:
        raise LedgerError(f"{INI}: expected revisions beside it, found none")
    return newest


def current(url: str) -> str | None:
    """The revision the database stands at; None: it was never migrated."""
    database = Database(url, pool_size=1)
    try:
        with database.transaction() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        database.close()


def migrate(url: str, revision: str = "head") -> str:
    """The revision the database stands at, which is the newest one (or ``revision``).

    Raises LedgerUnavailable where the server is away, LedgerError where the database is newer than this program.
    """
    _run(url, lambda config: command.upgrade(config, revision))
    return head() if revision == "head" else revision


def downgrade(url: str, revision: str = "base") -> None:
    """The database is back at an older revision; what that one has no place for is gone."""
    _run(url, lambda config: command.downgrade(config, revision))


def _run(url: str, step: Callable[[Config], None]) -> None:
    database = Database(url, pool_size=1)
    try:
        with _one_at_a_time, database.transaction() as connection:
            config = Config(str(INI))
            config.attributes["connection"] = connection
            step(config)
    except CommandError as error:
        raise LedgerError(f"{database.place}: expected a revision up to {head()}, found: {error}") from error
    finally:
        database.close()
