"""The embedded Prefect server and its worker: what they are started with, and the few questions asked of their API."""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import sysconfig
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from infra.settings import Settings

USUAL_PORT = 4200
_PACKAGES = Path(__file__).resolve().parent.parent
_LOCAL = ("127.0.0.1", "localhost")
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach our loopback

# Measured with the server's data in PostgreSQL: writing in batches takes a task run's overhead from 11-20 ms to 9-14.
_BATCHING = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "50",
}


def server_command() -> list[str]:
    """The server's command line; its address and port come from its environment, which its UI reads too."""
    return [sys.executable, "-m", "prefect", "server", "start"]


def worker_command(settings: Settings) -> list[str]:
    """The worker's command line. No ``--limit``: with it a worker dies when a crashed run is rescheduled."""
    line = [sys.executable, "-m", "prefect", "worker", "start", "--pool", settings.work_pool, "--type", "process"]
    return [*line, "--name", worker_name(settings)]


def worker_name(settings: Settings) -> str:
    """The name under which the worker of this data folder reports to the server."""
    return f"{socket.gethostname()} {settings.data_dir}".replace("/", "-")


def server_environment(data_dir: Path, port: int, database_url: str) -> dict[str, str]:
    """What the server runs with: loopback only, its data in PostgreSQL, nothing sent to anybody."""
    return {
        **_inherited(keep_prefect=False),
        **_home(data_dir),
        **_BATCHING,
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),  # not --port: the UI would call the usual one
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database_url,
        # The default lets any page in a browser on this machine call the API.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",  # calls out from the browser; the first UI does not
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(data_dir / "prefect" / "ui"),
        # In memory, slots of a limit would leak for ever when the server restarts; these lie in PREFECT_HOME.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_TASKS_TAG_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
    }


def temporary(data_dir: Path) -> Path:
    """The folder of the worker's and the flow runs' temporary files."""
    return data_dir / "prefect" / "tmp"


def client_environment(settings: Settings) -> dict[str, str]:
    """What a Prefect client (a worker, a flow run, the command line) needs to use the API that ``settings`` name."""
    environment = {**_home(settings.data_dir), "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false"}
    if settings.prefect_api_url is not None:
        environment["PREFECT_API_URL"] = settings.prefect_api_url
    if settings.prefect_api_key is not None:
        environment["PREFECT_API_KEY"] = settings.prefect_api_key.get_secret_value()
    if settings.prefect_auth_string is not None:
        environment["PREFECT_API_AUTH_STRING"] = settings.prefect_auth_string.get_secret_value()
    return environment


def worker_environment(settings: Settings, given: Settings) -> dict[str, str]:
    """What the worker and its flow runs see: the API, and the settings that were given; the rest is in stack.json."""
    environment = {
        **_inherited(keep_prefect=given.prefect_api_url is not None),
        **client_environment(settings),
        **given.environment(),
        "GLASSPLATE_S3_IDENTITY": "worker",  # of the embedded store: its policy forbids writing masters
        # Prefect's own /tmp/runner_storage belongs to whoever on the machine was first; and scans are large.
        "TMPDIR": str(temporary(settings.data_dir)),
        "PREFECT_LOGGING_EXTRA_LOGGERS": "glassplate",  # what stages say is read in the UI, beside their run
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    }
    if Path(sysconfig.get_path("purelib")).resolve() != _PACKAGES:
        # Run from a checkout: a flow run stands in a folder of its own and must find the rooms all the same.
        paths = [str(_PACKAGES), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return environment


def answers(settings: Settings) -> str | None:
    """None if the API takes our credentials and answers; else what it said instead."""
    try:
        _ask(settings, "POST", "/work_pools/filter", {"limit": 1})
    except (OSError, ValueError) as error:
        return str(error)
    return None


def healthy(port: int) -> bool:
    """Whether an embedded server on this port says that it is well."""
    try:
        with _DIRECT.open(f"http://127.0.0.1:{port}/api/health", timeout=5) as answer:
            return bool(json.load(answer) is True)
    except (OSError, ValueError):
        return False


def ensure_pool(settings: Settings) -> None:
    """The work pool exists afterwards; one that is there keeps its limit. The worker fills in its job template."""
    try:
        _ask(settings, "GET", f"/work_pools/{quote(settings.work_pool)}", None)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        pool = {"name": settings.work_pool, "type": "process", "concurrency_limit": settings.work_pool_slots}
        try:
            _ask(settings, "POST", "/work_pools/", pool)
        except urllib.error.HTTPError as second:
            if second.code != 409:  # made by somebody else meanwhile
                raise


def last_report(settings: Settings) -> datetime | None:
    """When our worker last reported to the API (by its clock); None if it is not known there or counts as offline."""
    found = _ask(settings, "POST", f"/work_pools/{quote(settings.work_pool)}/workers/filter", {})
    for worker in found:
        if worker["name"] == worker_name(settings) and worker["status"] == "ONLINE":
            return datetime.fromisoformat(worker["last_heartbeat_time"])
    return None


def _ask(settings: Settings, method: str, path: str, body: object) -> Any:
    """One call of the API; urllib's HTTPError (an OSError) if it refuses."""
    headers = {"Content-Type": "application/json"}
    if settings.prefect_api_key is not None:
        headers["Authorization"] = f"Bearer {settings.prefect_api_key.get_secret_value()}"
    elif settings.prefect_auth_string is not None:
        code = base64.b64encode(settings.prefect_auth_string.get_secret_value().encode()).decode()
        headers["Authorization"] = f"Basic {code}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{settings.prefect_api_url}{path}", data, headers, method=method)
    local = urlsplit(str(settings.prefect_api_url)).hostname in _LOCAL
    with _DIRECT.open(request, timeout=10) if local else urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def _home(data_dir: Path) -> dict[str, str]:
    """Prefect's own files in our data folder, the user's profiles not read, nothing sent to anybody."""
    home = data_dir / "prefect"
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
        "PREFECT_CLI_COLORS": "false",
        "NO_PROXY": ",".join(name for name in (os.environ.get("NO_PROXY", ""), *_LOCAL) if name),
    }


def _inherited(*, keep_prefect: bool) -> dict[str, str]:
    """Our environment; without PREFECT_* ones, which are about some other server, unless they are about ours."""
    return {name: value for name, value in os.environ.items() if keep_prefect or not name.startswith("PREFECT_")}
