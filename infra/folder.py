"""The data folder of one embedded stack: who it is, where everything is while it is up, and its locks."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.processes import StackError
from infra.settings import STACK_FILE

IDENTITY_FILE = "identity.json"
LOCK_SECONDS = 180.0
PARTS = ("logs", "objects", "prefect")


class Lock:
    """A lock between processes that the system takes back from a killed one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def take(self, patience_seconds: float) -> bool:
        """Whether we hold it now, after waiting that long at most."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + patience_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    os.close(descriptor)
                    return False
                time.sleep(0.1)
            except BaseException:
                os.close(descriptor)
                raise
            else:
                self._descriptor = descriptor
                return True

    def release(self) -> None:
        """Gives it back; nothing if we do not hold it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Folder:
    """``identity.json`` (id, passwords, the ports of last time), ``stack.json`` (while up), ``logs/`` and the locks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack_file = path / STACK_FILE
        self._writing = threading.Lock()

    def prepare(self) -> None:
        """Makes the parts of the folder and, once, the identity; within ``change``."""
        for name in PARTS:
            (self.path / name).mkdir(mode=0o700, exist_ok=True)
        if not self.exists():
            made = {
                "id": secrets.token_hex(8),
                "postgres_password": secrets.token_urlsafe(24),
                "s3_access_key_id": f"glassplate{secrets.token_hex(5)}",
                "s3_secret_access_key": secrets.token_urlsafe(30),
                "ports": {},
            }
            _write(self.path / IDENTITY_FILE, made)

    def exists(self) -> bool:
        """Whether a stack was ever started from here."""
        return (self.path / IDENTITY_FILE).is_file()

    def identity(self) -> dict[str, Any]:
        """The stack's id, passwords and ports."""
        try:
            found: dict[str, Any] = json.loads((self.path / IDENTITY_FILE).read_text())
        except PermissionError as error:
            raise StackError(f"the stack of {self.path} belongs to another user: {error}") from error
        return found

    def ports(self, service: str) -> dict[str, int]:
        """The ports that a service has, or had last time; empty before its first start."""
        found: dict[str, int] = self.identity()["ports"].get(service, {})
        return found

    def remember(self, service: str, ports: Mapping[str, int]) -> None:
        """Keeps a service's ports for the next time."""
        with self._writing:
            identity = self.identity()
            identity["ports"][service] = dict(ports)
            _write(self.path / IDENTITY_FILE, identity)

    def read(self) -> dict[str, Any]:
        """What stack.json says; empty when no stack is up."""
        try:
            found: dict[str, Any] = json.loads(self.stack_file.read_text())
        except FileNotFoundError:
            return {}
        return found

    def write(self, document: Mapping[str, object]) -> None:
        """Replaces stack.json."""
        _write(self.stack_file, document)

    def log(self, service: str) -> Path:
        """The log file of a service."""
        return self.path / "logs" / f"{service}.log"

    def owner_lock(self) -> Lock:
        """Held by the process that watches over the stack, as long as it lives."""
        return Lock(self.path / ".owner.lock")

    @contextmanager
    def change(self) -> Iterator[None]:
        """Within it nobody else starts or stops services of this folder."""
        if not self.path.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            # As root, PostgreSQL's user must be able to pass through; what lies inside is closed.
            self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)
        lock = Lock(self.path / ".change.lock")
        if not lock.take(LOCK_SECONDS):
            raise StackError(
                f"{self.path}: somebody else is starting or stopping this stack since more than {LOCK_SECONDS:.0f} s"
            )
        try:
            yield
        finally:
            lock.release()


def _write(path: Path, document: object) -> None:
    """Writes a small JSON file whole or not at all, readable by us alone."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    part.write_text(json.dumps(document, indent=1))
    part.replace(path)
