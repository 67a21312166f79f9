"""The embedded default: starts, finds, watches and stops PostgreSQL, S3, the Prefect server and one worker.

All state lies in one data folder: ``identity.json`` (0600: the stack's id, passwords, the ports of last time),
``stack.json`` (0600: where everything is while it is up; ``infra.settings.load`` reads it), ``logs/``, ``objects/``,
``postgres/``, ``prefect/``. A process is found again by its mark (see ``infra.processes``), not by a pid in a file, so
that a killed stack needs no repair: the next start keeps what lives and answers, ends what does not, starts the rest.
"""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

import psutil
import psycopg2
from pydantic import SecretStr

from infra import postgres, prefect_server
from infra.folder import Folder, Lock
from infra.processes import StackError, alive, tail
from infra.services import DATABASE, NAMES, Progress, Services
from infra.settings import Settings
from infra.store import StoreError, open_store

WORKER_RESTARTS = 5
State = Literal["running", "stopped", "unreachable"]


@dataclass(frozen=True)
class ServiceStatus:
    """What a service said when it was asked just now. ``pid`` is None for one that is not ours."""

    name: str
    state: State
    url: str
    pid: int | None
    detail: str


class Running:
    """A stack that is up: its complete ``settings``, and its ``urls`` by service.

    ``attached`` is True where another living process started the stack and watches over it.
    """

    def __init__(self, services: Services, given: Settings, settings: Settings, owner: Lock | None) -> None:
        self.settings = settings
        self.urls = {name: _url(name, settings, {}) for name in NAMES}
        self.attached = owner is None
        self._services, self._given, self._owner = services, given, owner
        self._watched = services.main_processes()

    def stop(self) -> None:
        """Stops the services in order; nothing if ``attached``. A second call does nothing."""
        if self._owner is None:
            return
        try:
            down(self._given)
        finally:
            self._owner.release()
            self._owner = None

    def watch(self, progress: Progress, seconds: float = 1.0) -> None:
        """Returns when somebody else stopped the stack; StackError when a service died. A dead worker is restarted."""
        folder, restarts = self._services.folder, 0
        watched = self._watched
        while folder.stack_file.exists():
            for name, process in list(watched.items()):
                if alive(process) or not folder.stack_file.exists():
                    continue
                log, restarts = folder.log(name), restarts + 1
                said = f"{name}: its process {process.pid} died"
                if name != "worker" or restarts > WORKER_RESTARTS:
                    raise StackError(f"{said}; the end of {log}:\n{tail(log)}")
                progress(f"{said}, starting another; see {log}")
                with folder.change():
                    if folder.stack_file.exists():  # not stopped by somebody else meanwhile
                        watched[name] = self._services.start_worker(self.settings, self._given, progress)
                        _note(self._services, self._given, self.settings)
            time.sleep(seconds)


def start(
    settings: Settings, progress: Progress, only: AbstractSet[str] | None = None, *, usual_ports: bool = True
) -> Running:
    """The stack, up and answering: what ``settings`` leave unset, and a worker; ``only`` names fewer services.

    ``settings`` are those given by the user. What lives already is kept. The Prefect server brings the embedded
    PostgreSQL with it, even where the archive's own database is elsewhere. ``progress`` is called with a line of text,
    from several threads. What this call started is stopped again if it fails or is interrupted.
    """
    folder = Folder(settings.data_dir)
    services = Services(folder, usual_ports=usual_ports)
    given = _without_own(settings, folder)
    wanted = _wanted(given, only)
    with folder.change():
        folder.prepare()
        owner = folder.owner_lock()
        owned = owner.take(0)
        before = services.main_processes()
        try:
            full = _start(services, given, wanted, progress, owned)
        except BaseException:
            services.end([name for name in NAMES if name not in before], progress)
            if not before:
                folder.stack_file.unlink(missing_ok=True)
            owner.release()
            raise
        return Running(services, given, full, owner if owned else None)


def down(settings: Settings, progress: Progress = lambda line: None) -> list[str]:
    """The names of the services that were stopped, in order: worker, Prefect, S3, PostgreSQL. Also orphans."""
    folder = Folder(settings.data_dir)
    if not folder.exists():
        return []
    with folder.change():
        folder.stack_file.unlink(missing_ok=True)  # first: whoever watches sees that this is on purpose
        return Services(folder).end(NAMES, progress)


def status(settings: Settings) -> list[ServiceStatus]:
    """Each service, asked just now: a query, a listing, a call of the API, the worker's last report."""
    folder = Folder(settings.data_dir)
    given = _without_own(settings, folder)
    known = folder.read()
    full = given.completed(known.get("settings", {}))
    processes = Services(folder).main_processes()
    found = []
    for name in NAMES:
        embedded = name == "worker" or name in given.embedded
        process = processes.get(name) if embedded else None
        url = _url(name, full, known.get("urls", {}))
        if embedded and process is None:
            found.append(ServiceStatus(name, "stopped", url, None, "not started, or ended"))
            continue
        said, problem = _asked(name, full)
        detail = said if embedded else f"{said}; not ours"
        pid = None if process is None else process.pid
        found.append(ServiceStatus(name, "unreachable" if problem else "running", url, pid, detail))
    return found


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it SIGTERM and a closed terminal do what ctrl-C does, once: KeyboardInterrupt; later ones are ignored.

    A signal that was ignored before (``nohup``) stays ignored.
    """
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]

    def interrupt(number: int, frame: FrameType | None) -> None:
        for later in numbers:
            signal.signal(later, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(services: Services, given: Settings, wanted: set[str], progress: Progress, owned: bool) -> Settings:
    """Starts what is wanted and not there, in order, and returns the completed settings."""
    found: dict[str, psutil.Process] = services.main_processes()
    noted = services.folder.read()
    with ThreadPoolExecutor(2) as pool:
        jobs = {}
        if "postgres" in wanted:
            jobs["postgres"] = pool.submit(services.start_postgres, progress)
        if "s3" in wanted:
            jobs["s3"] = pool.submit(services.start_s3, given, progress)
        try:
            up = {name: job.result() for name, job in jobs.items()}
        except BaseException:
            services.cancelled.set()
            raise
    if "prefect" in wanted:
        up["prefect"] = services.start_prefect(progress)
    full = given.completed(_own_values(services, given))
    # Before the worker, whose flow runs read it; and not when we only look in on somebody else's stack.
    if owned or any(found.get(name) != process for name, process in up.items()):
        _note(services, given, full)
    if "worker" in wanted:
        if owned and noted.get("given") != _fingerprint(given):
            services.end(["worker"], progress)  # one left over carries other settings than those of today
        up["worker"] = services.start_worker(full, given, progress)
        if found.get("worker") != up["worker"]:
            _note(services, given, full)
    return full


def _note(services: Services, given: Settings, full: Settings) -> None:
    """Writes stack.json."""
    services.folder.write(
        {
            "settings": _own_values(services, given),
            "urls": {name: _url(name, full, {}) for name in NAMES},
            "pids": {name: process.pid for name, process in services.main_processes().items()},
            "given": _fingerprint(given),
        }
    )


def _wanted(given: Settings, only: AbstractSet[str] | None) -> set[str]:
    unknown = set(only or ()) - set(NAMES)
    if unknown:
        raise StackError(f"expected services out of {', '.join(NAMES)}, found {', '.join(sorted(unknown))}")
    wanted = {name for name in NAMES if only is None or name in only}
    wanted &= given.embedded | {"worker"}
    return wanted | ({"postgres"} if "prefect" in wanted else set())


def _own_values(services: Services, given: Settings) -> dict[str, str]:
    """The values of the unset settings, from what is up."""
    folder, up, own = services.folder, services.main_processes(), {}
    identity = folder.identity()
    if "postgres" in up and "postgres" in given.embedded:
        port = folder.ports("postgres")["sql"]
        own["database_url"] = postgres.url(port, identity["postgres_password"], DATABASE, "psycopg2")
    if "s3" in up and "s3" in given.embedded:
        own["s3_endpoint_url"] = f"http://127.0.0.1:{folder.ports('s3')['s3']}"
        own["s3_access_key_id"] = identity["s3_access_key_id"]
        own["s3_secret_access_key"] = identity["s3_secret_access_key"]
    if "prefect" in up and "prefect" in given.embedded:
        own["prefect_api_url"] = f"http://127.0.0.1:{folder.ports('prefect')['api']}/api"
    return own


def _without_own(settings: Settings, folder: Folder) -> Settings:
    """The settings without what ``load`` filled in from our own stack.json, so that those stay ours to start."""
    own = folder.read().get("settings", {})
    return Settings(**{name: value for name, value in _plain(settings).items() if own.get(name) != value})


def _plain(settings: Settings) -> dict[str, Any]:
    """The fields that were set, secrets as text."""
    dumped = settings.model_dump(exclude_unset=True)
    return {name: _text(value) for name, value in dumped.items()}


def _text(value: object) -> object:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _fingerprint(given: Settings) -> str:
    return hashlib.sha256(json.dumps(given.environment(), sort_keys=True).encode()).hexdigest()


def _url(name: str, full: Settings, known: dict[str, str]) -> str:
    """Where a service is, without its password."""
    if name == "postgres" and full.database_url is not None:
        scheme, _, rest = full.database_url.get_secret_value().partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"
    if name == "s3" and full.s3_endpoint_url is not None:
        return full.s3_endpoint_url
    if name in ("prefect", "worker") and full.prefect_api_url is not None:
        return full.prefect_api_url.removesuffix("/api") if name == "prefect" else full.prefect_api_url
    return known.get(name, "")


def _asked(name: str, full: Settings) -> tuple[str, bool]:
    """What a service says, and whether that is a problem."""
    try:
        if name == "postgres":
            return _asked_database(full), False
        if name == "s3":
            next(open_store(full).pages(full.masters_bucket, full.masters_prefix), None)
            return f"bucket {full.masters_bucket} can be listed", False
        if name == "prefect":
            problem = prefect_server.answers(full)
            return problem or "API answers", problem is not None
        reported = prefect_server.last_report(full)
    except (StoreError, psycopg2.Error, OSError, ValueError) as error:
        return str(error).strip() or type(error).__name__, True
    if reported is None:
        return f"does not poll {full.work_pool}", True
    return f"polls {full.work_pool}, last reported at {reported:%H:%M:%S} UTC", False


def _asked_database(full: Settings) -> str:
    if full.database_url is None:
        raise ValueError("no address known")
    scheme, _, rest = full.database_url.get_secret_value().partition("://")
    connection = psycopg2.connect(f"{scheme.partition('+')[0]}://{rest}", connect_timeout=5)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('server_version')")
            row = cursor.fetchone()
    finally:
        connection.close()
    return f"PostgreSQL {row[0] if row else '?'}"
