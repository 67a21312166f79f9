"""Nights on a real Prefect server with process workers: shared by two, beside runs by hand, with one worker killed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import psutil
import pytest
from PIL import Image
from prefect.client.orchestration import SyncPrefectClient

from db.ask import ask
from db.migrations import migrate
from flows.deploy import deploy
from infra import prefect_server, processes, stack
from infra.folder import Folder
from infra.settings import Settings
from infra.store import Store, open_store

pytestmark = pytest.mark.timeout(900)
PATIENCE_SECONDS = 400


def wait_until(what: Callable[[], Any], words: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """What ``what`` returns once it is true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.3)
    raise AssertionError(f"{words}: not within {seconds} s")


@dataclass
class House:
    """A stack without its worker, and the workers a test starts."""

    settings: Settings
    given: Settings
    client: SyncPrefectClient
    store: Store
    workers: dict[str, psutil.Process] = field(default_factory=dict)

    def worker(self, name: str, limit: int) -> None:
        """Starts a worker that takes so many runs at once."""
        folder = Folder(self.settings.data_dir)
        prefect_server.temporary(self.settings.data_dir).mkdir(parents=True, exist_ok=True)
        prefect_server.ensure_pool(self.settings)
        line = [*prefect_server.worker_command(self.settings)[:-1], name, "--limit", str(limit)]
        environment = prefect_server.worker_environment(self.settings, self.given)
        self.workers[name] = processes.spawn(
            folder.identity()["id"], "worker", line, log=self.log(name), environment=environment, folder=folder.path
        )

    def log(self, name: str) -> Path:
        return self.settings.data_dir / f"{name}.log"

    def took(self, name: str) -> set[str]:
        """Ids of the flow runs that a worker took."""
        lines = self.log(name).read_text(errors="replace").splitlines()
        return {line.rpartition("run '")[2].rstrip("'") for line in lines if "submitting flow run" in line}

    def kill(self, name: str) -> None:
        """SIGKILL for the worker and everything it started, as when its machine is switched off."""
        process = self.workers.pop(name)
        for victim in [process, *process.children(recursive=True)]:
            victim.kill()
        process.wait(10)

    def start(self, deployment: str, **parameters: Any) -> UUID:
        found = self.client.read_deployment_by_name(f"{deployment}/{deployment}")
        return self.client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    def state(self, run: UUID) -> Any:
        return self.client.read_flow_run(run).state

    def ended(self, run: UUID) -> Any:
        """The final state of a run, waited for."""

        def final() -> Any:
            state = self.state(run)
            return state if state is not None and state.is_final() else None

        return wait_until(final, f"run {run} ends")

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        assert self.settings.database_url is not None
        return ask(self.settings.database_url.get_secret_value(), sql)[1]

    def put(self, prefix: str, count: int) -> list[str]:
        """So many scans, each with a scratch and bytes of its own."""
        keys = []
        for number in range(count):
            y, x = np.mgrid[0:240, 0:320].astype(np.float32)
            pixels = np.stack([80 + x / 4, 90 + y / 3, 100 + (x + y) / 8], axis=2)
            pixels[20 : 200 + number, 100 + number * 3 : 102 + number * 3] = 255
            file = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
            keys.append(f"{prefix}{number:02d}.png")
            self.store._client().put_object(
                Bucket=self.settings.masters_bucket, Key=keys[-1], Body=file.getvalue() + prefix.encode()
            )
        return keys


@pytest.fixture(scope="module")
def house(open_folder: Path) -> Iterator[House]:
    given = Settings(
        data_dir=open_folder / "house",
        scans_per_batch=2,
        batches_in_flight=3,
        work_pool_slots=6,
        nightly_cron="0 3 1 1 *",
    )
    running = stack.start(given, print, {"postgres", "s3", "prefect"}, usual_ports=False)
    settings = running.settings
    assert settings.database_url is not None
    assert settings.prefect_api_url is not None
    migrate(settings.database_url.get_secret_value())
    store = open_store(settings)
    for bucket in (settings.masters_bucket, settings.restored_bucket):
        store.ensure_bucket(bucket)
    with SyncPrefectClient(settings.prefect_api_url) as client:
        prefect_server.ensure_pool(settings)
        deploy(settings, client)
        house = House(settings, given, client, store)
        yield house
        for name in list(house.workers):
            house.kill(name)
    running.stop()


@pytest.fixture(autouse=True)
def no_worker_is_left(house: House) -> Iterator[None]:
    yield
    for name in list(house.workers):
        house.kill(name)


def restored_once(house: House, keys: list[str], *, attempts: int = 1) -> None:
    prefix = keys[0].rpartition("/")[0]
    found = house.rows(f"SELECT key, state, attempts FROM restorations WHERE key LIKE '{prefix}/%' ORDER BY key")
    assert [(key, state) for key, state, _ in found] == [(key, "restored") for key in keys]
    assert max(tries for *_, tries in found) <= attempts
    ended = house.rows(
        f"SELECT key, count(*) FROM events WHERE kind = 'restored' AND key LIKE '{prefix}/%' GROUP BY key ORDER BY key"
    )
    assert ended == [(key, 1) for key in keys]


def test_two_workers_share_a_night_beside_a_second_night_and_a_run_by_hand(house: House) -> None:
    keys = house.put("shared/", 10)
    house.worker("first", 2)
    house.worker("second", 2)
    night = house.start("nightly-archive", prefix="shared/")
    wait_until(lambda: house.rows("SELECT 1 FROM batches WHERE state = 'running'"), "a batch is at work")
    another, by_hand = house.start("nightly-archive", prefix="shared/"), house.start("restore-scan", key=keys[-1])
    states = {name: house.ended(run) for name, run in (("hand", by_hand), ("another", another), ("night", night))}
    assert states["night"].is_completed(), states
    assert states["another"].is_cancelled(), states
    assert states["hand"].is_completed(), states
    restored_once(house, keys)

    assert house.rows("SELECT state, planned, failed, left_over FROM nightly_runs") == [("completed", 10, 0, 0)]
    batches = {run for (run,) in house.rows("SELECT flow_run_id FROM batches WHERE state = 'ended' AND attempts = 1")}
    assert len(batches) == 5
    assert {house.client.read_flow_run(UUID(run)).work_queue_name for run in batches} == {"default"}
    assert house.client.read_flow_run(by_hand).work_queue_name == "by-hand"
    # Three batches at once beside the night, and two runs at once for each worker: nobody can do it alone.
    for name in ("first", "second"):
        assert batches & house.took(name), name


def test_a_batch_whose_worker_is_killed_is_noticed_within_two_minutes_and_done_by_another(house: House) -> None:
    keys = house.put("killed/", 6)
    house.worker("parent", 1)
    night = house.start("nightly-archive", prefix="killed/")
    wait_until(lambda: house.rows("SELECT 1 FROM batches WHERE state = 'submitted'"), "batches wait for a worker")
    house.worker("victim", 2)
    wait_until(
        lambda: house.rows("SELECT 1 FROM restorations WHERE key LIKE 'killed/%' AND state = 'running'"),
        "a scan is in hand",
    )
    house.kill("victim")
    killed = time.monotonic()
    wait_until(lambda: house.rows("SELECT 1 FROM events WHERE kind = 'batch_broke_off'"), "the night notices", 150)
    assert time.monotonic() - killed < 120
    house.worker("heir", 3)
    state = house.ended(night)
    assert state.is_completed(), (state, house.rows("SELECT digest FROM nightly_runs ORDER BY started_at DESC LIMIT 1"))
    restored_once(house, keys, attempts=2)
    ((again, reason),) = house.rows("SELECT max(attempts), min(reason) FROM batches WHERE attempts > 1")
    assert again == 2
    assert reason.startswith("attempt 1: ")
    assert [key for key in keys if not house.rows(f"SELECT 1 FROM derivatives WHERE key = '{key}'")] == []


def test_a_night_whose_worker_is_killed_is_noticed_too_and_gives_way_to_the_next(house: House) -> None:
    keys = house.put("orphan/", 4)
    house.worker("doomed", 1)
    night = house.start("nightly-archive", prefix="orphan/")
    wait_until(lambda: len(house.rows("SELECT 1 FROM batches WHERE state = 'submitted'")) == 2, "batches wait")
    time.sleep(5)  # for its first heartbeat to arrive
    house.kill("doomed")
    killed = time.monotonic()
    wait_until(lambda: house.state(night).is_crashed(), "Prefect notices", 150)
    assert time.monotonic() - killed < 120
    assert "vanished" in house.state(night).message
    house.worker("next", 3)
    assert house.ended(house.start("nightly-archive", prefix="orphan/")).is_completed()
    for (run,) in house.rows("SELECT flow_run_id FROM batches WHERE keys[1] LIKE 'orphan/%'"):
        house.ended(UUID(run))
    restored_once(house, keys)


RENEWED_AFTER_SECONDS = 45
HOLDER = """
import sys, time
from pathlib import Path
from prefect import flow, task

@task(tags=["gpu"])
def hold(path, seconds):
    Path(path).touch()
    time.sleep(seconds)

@flow
def holding(path, seconds):
    hold(path, seconds)

holding(sys.argv[1], float(sys.argv[2]))
"""


def test_the_gpu_slot_survives_a_restart_of_the_server_and_is_freed_when_its_holder_is_killed(
    house: House, tmp_path: Path
) -> None:
    environment = {**os.environ, **prefect_server.client_environment(house.settings)}

    def holder(name: str, seconds: float) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-c", HOLDER, str(tmp_path / name), str(seconds)]
        with (tmp_path / f"{name}.log").open("wb") as log:
            return subprocess.Popen(line, env=environment, stdout=log, stderr=log)

    def slots() -> int:
        return house.client.read_global_concurrency_limit_by_name("tag:gpu").active_slots

    def restarted_in_time(name: str) -> subprocess.Popen[bytes] | None:
        """A holder that has lived through a restart, or None where that took as long as its first renewal stays out.

        A lease is renewed after 45 s. Where the server is away just then Prefect's client gives up, which is its own
        affair (docs/architecture.md) and would say nothing of what a restart does to leases.
        """
        process = holder(name, 600)
        wait_until((tmp_path / name).exists, f"{name} has the slot")
        began = time.monotonic()
        assert slots() == 1
        services = stack.Services(Folder(house.settings.data_dir), usual_ports=False)
        server = services.main_processes()["prefect"]
        server.kill()
        server.wait(30)  # while it dies its port is taken, and the next one would take another
        stack.start(house.given, print, {"postgres", "prefect"}, usual_ports=False)
        if time.monotonic() - began < RENEWED_AFTER_SECONDS - 5:
            return process
        process.kill()
        process.wait()
        wait_until(lambda: slots() == 0, "the slot is free for another try", 180)
        return None

    first = second = None
    try:
        first = next(filter(None, (restarted_in_time(f"first-{n}") for n in range(3))), None)
        assert first is not None, "the server was never back before the lease had to be renewed"
        assert slots() == 1, "the server forgot who has the slot"
        second = holder("second", 0)
        time.sleep(75)  # longer than a lease that nobody renews
        assert slots() == 1
        assert not (tmp_path / "second").exists(), "two held the only slot"
        first.kill()
        wait_until((tmp_path / "second").exists, "the slot of the killed holder is free", 180)
        wait_until(lambda: slots() == 0, "nothing leaked", 120)
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.wait()
