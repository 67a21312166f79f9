"""A connection to the provenance database that survives pickling and forking, and says when it is out of reach."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from psycopg2 import errorcodes
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from db.records import LedgerConflict, LedgerError, LedgerUnavailable
from db.schema import storable

CONNECT_ARGS: Mapping[str, Any] = {
    "connect_timeout": 10,
    "application_name": "glassplate",
    # A server that vanishes in the middle of a statement is noticed within half a minute, not after two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
_NOT_MIGRATED = {errorcodes.UNDEFINED_TABLE, errorcodes.UNDEFINED_COLUMN}


class Database:
    """A PostgreSQL database by URL; connects at the first use, once per process.

    Threads may share it. A copy that went through pickle or fork opens connections of its own.
    """

    def __init__(self, url: str, *, pool_size: int = 4) -> None:
        self._url, self._pool_size = url, pool_size
        self._engine: Engine | None = None
        self._pid = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> tuple[str, int]:
        return self._url, self._pool_size

    def __setstate__(self, state: tuple[str, int]) -> None:
        url, pool_size = state
        self.__init__(url, pool_size=pool_size)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"Database({self.place!r})"

    @property
    def place(self) -> str:
        """The URL without its password; fit for messages."""
        return make_url(self._url).render_as_string(hide_password=True)

    def engine(self) -> Engine:
        """The engine of this process."""
        if self._engine is None or self._pid != os.getpid():
            # After a fork the lock may have been copied while held, and the parent's sockets are not ours to close.
            if self._pid not in (0, os.getpid()):
                self._lock = threading.Lock()
            with self._lock:
                if self._engine is not None and self._pid != os.getpid():
                    self._engine.dispose(close=False)
                    self._engine = None
                if self._engine is None:
                    self._engine = create_engine(
                        self._url,
                        pool_pre_ping=True,
                        pool_size=self._pool_size,
                        max_overflow=self._pool_size,
                        isolation_level="READ COMMITTED",
                        json_serializer=to_json,
                        connect_args=dict(CONNECT_ARGS),
                    )
                    self._pid = os.getpid()
        return self._engine

    def close(self) -> None:
        """Connections are closed; the next use opens new ones."""
        if self._engine is not None and self._pid == os.getpid():
            self._engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction, committed at the end and rolled back on an error.

        Raises LedgerUnavailable where the server is away, shutting down, full or read-only, or a lock was lost;
        LedgerConflict where a constraint refuses the rows; LedgerError where the tables are missing or the server
        refuses the statement itself.
        """
        try:
            with self.engine().begin() as connection:
                yield connection
        except (OperationalError, InterfaceError, PoolTimeout) as error:
            raise LedgerUnavailable(f"{self.place}: {_first_line(error)}") from error
        except IntegrityError as error:
            raise LedgerConflict(f"{self.place}: {_first_line(error)}") from error
        except DBAPIError as error:
            code = getattr(error.orig, "pgcode", None)
            if error.connection_invalidated or code == errorcodes.READ_ONLY_SQL_TRANSACTION:
                raise LedgerUnavailable(f"{self.place}: {_first_line(error)}") from error
            if code in _NOT_MIGRATED:
                raise LedgerError(f"{self.place}: expected a migrated database, found {_first_line(error)}") from error
            raise LedgerError(f"{self.place}: {_first_line(error)}") from error


def to_json(value: Any) -> str:
    """JSON that PostgreSQL takes: no NUL in strings, and infinite numbers as text that casts back to float8."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, default=str)


def _plain(value: Any) -> Any:
    match value:
        case float() if math.isnan(value):
            return "NaN"
        case float() if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        case str():
            return storable(value)
        case Mapping():
            return {storable(str(key)): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value


def _first_line(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return " ".join(str(cause).strip().split("\n")[:2])
