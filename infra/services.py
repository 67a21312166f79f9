"""The four services of one data folder: each found alive and kept, or started until it answers; and their stopping."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psutil

from infra import postgres, prefect_server, weed
from infra.folder import Folder
from infra.processes import Account, StackError, alive, choose_port, end, listens, living, spawn, tail
from infra.settings import Settings, worker_keys
from infra.store import Store, StoreError

NAMES = ("postgres", "s3", "prefect", "worker")  # in the order of starting; stopped the other way round
PREFECT_DATABASE = "prefect"
DATABASE = "glassplate"
START_SECONDS = {"postgres": 60.0, "s3": 60.0, "prefect": 120.0, "worker": 90.0}
ADOPT_SECONDS = 10.0  # how long one that lives already may take to answer before it is ended
ATTEMPTS = 3  # a port may be taken by somebody else between our look and the service's

_STOPPING = {
    "worker": (signal.SIGTERM, 15.0),
    "prefect": (signal.SIGTERM, 10.0),
    "s3": (signal.SIGTERM, 15.0),
    "postgres": (signal.SIGINT, 20.0),  # "fast": open transactions are rolled back, nobody is waited for
}
# A word of the main process's command line: flow runs carry the worker's mark too, and may outlive it.
_MAIN_WORDS = {"postgres": "-D", "s3": "mini", "prefect": "server", "worker": "worker"}

Progress = Callable[[str], None]
Ports = Mapping[str, int]


class Services:
    """Starts, finds and ends the services of one folder. Its ``start_*`` return the main process, which answers."""

    def __init__(self, folder: Folder, *, usual_ports: bool = True) -> None:
        self.folder = folder
        self.usual_ports = usual_ports
        self.cancelled = threading.Event()

    def main_processes(self) -> dict[str, psutil.Process]:
        """The living main process of each service that has one."""
        if not self.folder.exists():
            return {}
        found: dict[str, psutil.Process] = {}
        for service, processes in living(self.folder.identity()["id"]).items():
            for process in processes:
                with suppress(psutil.Error):
                    if service not in found and _MAIN_WORDS[service] in process.cmdline():
                        found[service] = process
        return found

    def end(self, names: Iterable[str], progress: Progress) -> list[str]:
        """The names of the services that had processes, in the order they were ended; orphans included."""
        ended = []
        stack_id = self.folder.identity()["id"]
        for name in sorted(names, key=NAMES.index, reverse=True):
            if name not in living(stack_id):
                continue
            progress(f"{name}: stopping")
            number, patience = _STOPPING[name]
            main = self.main_processes().get(name)
            end([] if main is None else [main], first=number, patience_seconds=patience)
            # The main process ends its own children; whoever is left now is an orphan.
            end(living(stack_id).get(name, []), first=signal.SIGTERM, patience_seconds=5)
            if name == "s3":
                weed.clear_sockets(self.folder.ports("s3"))
            ended.append(name)
        return ended

    def start_postgres(self, progress: Progress) -> psutil.Process:
        """The embedded PostgreSQL with its two databases."""
        identity = self.folder.identity()
        password = identity["postgres_password"]

        def problem(ports: Ports, process: psutil.Process) -> str | None:
            return postgres.answers(ports["sql"], password)

        adopted = self._adopted("postgres", problem, progress)
        if adopted is not None:
            return adopted
        place = postgres.prepare(self.folder.path, identity["id"], password)
        postgres.clear_stale(place)

        def begin(ports: Ports) -> psutil.Process:
            line = postgres.command(place, ports["sql"])
            return self._spawn("postgres", line, {"PATH": "/usr/bin:/bin"}, place.files, place.account)

        process, ports = self._started("postgres", self._single("postgres", "sql", postgres.USUAL_PORT), begin, problem)
        for name in (PREFECT_DATABASE, DATABASE):
            postgres.create_database(ports["sql"], password, name)
        progress(f"postgres: ready on port {ports['sql']}" + self._instead(ports["sql"], postgres.USUAL_PORT))
        if place.files.parent != self.folder.path and place.account is not None:
            whom = f"user {place.account.name}, who may not enter {self.folder.path}"
            progress(f"postgres: does not run as root but as {whom}; its files are in {place.files}")
        return process

    def start_s3(self, settings: Settings, progress: Progress) -> psutil.Process:
        """The embedded S3 with the buckets that the settings name."""
        identity = self.folder.identity()
        keys = (identity["s3_access_key_id"], identity["s3_secret_access_key"])
        buckets = sorted({settings.masters_bucket, settings.restored_bucket})

        def problem(ports: Ports, process: psutil.Process) -> str | None:
            # Only ours takes our keys: an answer proves that this port is not somebody else's store.
            url = f"http://127.0.0.1:{ports['s3']}"
            try:
                for pair in (keys, worker_keys(*keys)):  # the worker's last: its policy must be that of these settings
                    store = Store(url, settings.s3_region, pair[0], pair[1], attempts=1, timeout_seconds=5)
                    for bucket in buckets:
                        store.ensure_bucket(bucket)
            except StoreError as error:
                return str(error)
            return None

        def choose(attempt: int) -> dict[str, int]:
            usual = weed.USUAL_PORT if self.usual_ports and attempt == 0 else None
            return weed.choose_ports(usual, self.folder.ports("s3") if attempt == 0 else {})

        def begin(ports: Ports) -> psutil.Process:
            weed.write_identities(self.folder.path, settings, *keys)
            line = weed.command(self.folder.path, ports, buckets)
            return self._spawn("s3", line, weed.environment(*keys), self.folder.path / weed.FOLDER)

        adopted = self._adopted("s3", problem, progress)
        if adopted is not None:
            return adopted
        process, ports = self._started("s3", choose, begin, problem)
        progress(f"s3: ready on port {ports['s3']}" + self._instead(ports["s3"], weed.USUAL_PORT))
        return process

    def start_prefect(self, progress: Progress) -> psutil.Process:
        """The embedded Prefect server, its data in the embedded PostgreSQL."""

        def problem(ports: Ports, process: psutil.Process) -> str | None:
            ours = prefect_server.healthy(ports["api"]) and listens(process, ports["api"])
            return None if ours else "not healthy"

        adopted = self._adopted("prefect", problem, progress)
        if adopted is not None:
            return adopted
        password = self.folder.identity()["postgres_password"]
        database = postgres.url(self.folder.ports("postgres")["sql"], password, PREFECT_DATABASE, "asyncpg")

        def begin(ports: Ports) -> psutil.Process:
            environment = prefect_server.server_environment(self.folder.path, ports["api"], database)
            return self._spawn("prefect", prefect_server.server_command(), environment, self.folder.path / "prefect")

        choose = self._single("prefect", "api", prefect_server.USUAL_PORT)
        process, ports = self._started("prefect", choose, begin, problem)
        progress(f"prefect: ready on port {ports['api']}" + self._instead(ports["api"], prefect_server.USUAL_PORT))
        return process

    def start_worker(self, full: Settings, given: Settings, progress: Progress) -> psutil.Process:
        """A process worker of the work pool, which is made if need be; it reads ``given``, and stack.json."""
        earlier: datetime | None = None  # the last report of a predecessor of the same name

        def problem(ports: Ports, process: psutil.Process) -> str | None:
            try:
                reported = prefect_server.last_report(full)
            except (OSError, ValueError) as error:
                return str(error)
            return "has not reported" if reported is None or reported == earlier else None

        try:
            prefect_server.ensure_pool(full)
            adopted = self._adopted("worker", problem, progress)
            if adopted is not None:
                return adopted
            earlier = prefect_server.last_report(full)
        except (OSError, ValueError) as error:
            raise StackError(f"worker: expected an answer of {full.prefect_api_url}, found: {error}") from error
        temporary = prefect_server.temporary(self.folder.path)
        if "worker" not in living(self.folder.identity()["id"]):
            shutil.rmtree(temporary, ignore_errors=True)  # of flow runs that were killed
        temporary.mkdir(exist_ok=True)

        def begin(ports: Ports) -> psutil.Process:
            environment = prefect_server.worker_environment(full, given)
            return self._spawn("worker", prefect_server.worker_command(full), environment, self.folder.path / "prefect")

        process, _ = self._started("worker", lambda attempt: {}, begin, problem)
        progress(f"worker: polls the work pool {full.work_pool}")
        return process

    def _single(self, service: str, name: str, usual: int) -> Callable[[int], dict[str, int]]:
        """Chooses one port: that of last time, the usual one, any."""

        def choose(attempt: int) -> dict[str, int]:
            first = self.folder.ports(service).get(name, usual if self.usual_ports else None)
            return {name: choose_port(first if attempt == 0 else None)}

        return choose

    def _adopted(
        self, service: str, problem: Callable[[Ports, psutil.Process], str | None], progress: Progress
    ) -> psutil.Process | None:
        """The living process if it answers; one that does not is ended."""
        process = self.main_processes().get(service)
        ports = self.folder.ports(service)
        if process is not None and (ports or service == "worker"):
            until = time.monotonic() + ADOPT_SECONDS
            while alive(process) and time.monotonic() < until:
                if problem(ports, process) is None:
                    return process
                time.sleep(0.2)
        if process is not None:
            self.end((service,), progress)
        return None

    def _started(
        self,
        service: str,
        choose: Callable[[int], dict[str, int]],
        begin: Callable[[Ports], psutil.Process],
        problem: Callable[[Ports, psutil.Process], str | None],
    ) -> tuple[psutil.Process, dict[str, int]]:
        """A new process that answers, and its ports; other ports are tried when it ends at once."""
        for attempt in range(ATTEMPTS):
            ports = choose(attempt)
            if ports:
                self.folder.remember(service, ports)
            process = begin(ports)
            if self._answers(service, ports, process, problem):
                return process, ports
        raise StackError(f"{service}: it ended instead of starting. {self._end_of(service)}")

    def _answers(
        self,
        service: str,
        ports: Ports,
        process: psutil.Process,
        problem: Callable[[Ports, psutil.Process], str | None],
    ) -> bool:
        """True once the service answers, False when its process ended; StackError when it takes too long."""
        until, pause, said = time.monotonic() + START_SECONDS[service], 0.05, None
        while time.monotonic() < until:
            if self.cancelled.is_set():
                raise StackError(f"{service}: the start was interrupted")
            if not alive(process):
                return False
            said = problem(ports, process)
            if said is None:
                return alive(process)
            time.sleep(pause)
            pause = min(0.5, pause * 1.3)
        limit = START_SECONDS[service]
        raise StackError(f"{service}: expected an answer within {limit:.0f} s, found: {said}. {self._end_of(service)}")

    def _spawn(
        self, service: str, line: list[str], environment: dict[str, str], folder: Path, account: Account | None = None
    ) -> psutil.Process:
        stack_id, log = self.folder.identity()["id"], self.folder.log(service)
        return spawn(stack_id, service, line, log=log, environment=environment, folder=folder, account=account)

    def _end_of(self, service: str) -> str:
        return f"The end of {self.folder.log(service)}:\n{tail(self.folder.log(service))}"

    def _instead(self, port: int, usual: int) -> str:
        return f" (not the usual {usual})" if self.usual_ports and port != usual else ""
