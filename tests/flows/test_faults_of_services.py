"""S3 refuses, hangs up and cuts bodies short; PostgreSQL restarts mid-batch: nothing is lost or doubled."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from db.ledger import Ledger
from db.migrations import migrate
from faulty_s3 import Faulty, faulty
from flows import restore as flow
from flows.verify import verify_all
from infra import stack
from infra.folder import Folder
from infra.services import Services
from infra.settings import Settings
from small_archive import Archive, scratched
from tasks import inpaint
from tasks.contracts import Plate

pytestmark = [pytest.mark.usefixtures("prefect"), pytest.mark.timeout(600)]

KEYS = [f"box/{name}.tif" for name in "abcde"]


def filled(archive: Archive) -> dict[str, str]:
    for seed, key in enumerate(KEYS):
        archive.put(key, scratched(seed))
    return archive.masters()


def all_is_well(archive: Archive, before: dict[str, str]) -> None:
    assert dict(archive.rows("SELECT key, state FROM restorations")) == dict.fromkeys(KEYS, "restored")
    assert len(archive.keys("restored/")) == 6 * len(KEYS)
    assert len({key.rsplit("/", 1)[0] for key in archive.keys("restored/")}) == len(KEYS)
    assert archive.masters() == before
    assert archive.keys("work/") == []
    assert verify_all(archive.settings, read_masters=True).problems == ()
    ends = archive.rows("SELECT key, count(*) FROM events WHERE kind = 'restored' GROUP BY key")
    assert dict(ends) == dict.fromkeys(KEYS, 1)


def test_a_store_that_fails_one_call_in_ten_costs_time_and_nothing_else(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = filled(archive)
    shares = {"refuse": 0.04, "refuse after": 0.01, "cut": 0.04, "hang up": 0.01}
    with faulty(str(archive.settings.s3_endpoint_url), Faulty(shares=shares)) as plan:  # type: ignore[arg-type]
        monkeypatch.setenv("GLASSPLATE_S3_ENDPOINT_URL", plan.url)
        state = flow.restore_batch(KEYS, return_state=True)
    assert state.is_completed(), state.message
    for fault in shares:
        assert plan.did[fault] > 0, plan.did
    all_is_well(archive, before)


def test_scans_that_a_dead_store_left_undone_are_restored_when_it_is_back(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = filled(archive)
    for stage in (flow.ingest.ingest, flow.detect.detect, flow.inpaint.inpaint, flow.score.score, flow.publish.publish):
        monkeypatch.setattr(stage, "retries", 0)
    real = inpaint.fill_damage

    def goes_away(plate: Plate, *arguments: Any) -> Any:
        if plate.scan == KEYS[2]:
            plan.shares = {"refuse": 1.0}
        return real(plate, *arguments)

    with faulty(str(archive.settings.s3_endpoint_url), Faulty()) as plan:
        monkeypatch.setenv("GLASSPLATE_S3_ENDPOINT_URL", plan.url)
        monkeypatch.setattr(inpaint, "fill_damage", goes_away)
        monkeypatch.setattr(
            flow, "open_store", lambda settings: replace(archive.store, endpoint_url=plan.url, attempts=2)
        )
        assert flow.restore_batch(KEYS, return_state=True).is_failed()
        assert "503" in str(archive.rows("SELECT reason FROM restorations WHERE state = 'failed'"))
    assert archive.masters() == before
    monkeypatch.undo()
    state = restored_again(archive, monkeypatch)
    assert state.is_completed(), state.message
    all_is_well(archive, before)


def restored_again(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in archive.settings.environment().items():
        monkeypatch.setenv(name, value)
    return flow.restore_batch(KEYS, return_state=True)


@pytest.fixture
def own_database(
    archive: Archive, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Archive, Services]]:
    """The archive on a PostgreSQL server of this test's own, and what stops and starts it."""
    monkeypatch.delenv("GLASSPLATE_DATABASE_URL")
    folder = open_folder / f"own-{uuid4().hex}"
    running = stack.start(Settings(data_dir=folder), print, {"postgres"}, usual_ports=False)
    assert running.settings.database_url is not None
    url = running.settings.database_url.get_secret_value()
    migrate(url)
    monkeypatch.setenv("GLASSPLATE_DATABASE_URL", url)
    settings = archive.settings.model_copy(update={"database_url": SecretStr(url)})
    ledger = Ledger(url)
    yield replace(archive, settings=settings, ledger=ledger), Services(Folder(folder), usual_ports=False)
    ledger.close()
    running.stop()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["restarted", "killed"])
def test_a_database_that_restarts_in_the_middle_of_a_batch_is_waited_for(
    own_database: tuple[Archive, Services], monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    archive, services = own_database
    before = filled(archive)
    real, restarts = inpaint.fill_damage, list[threading.Timer]()

    def begin_again() -> None:
        services.start_postgres(lambda line: None)

    def stops(plate: Plate, *arguments: Any) -> Any:
        if plate.scan == KEYS[1] and not restarts:
            (process,) = services.main_processes().values()
            process.send_signal(how)
            process.wait(30)
            services.end(["postgres"], lambda line: None)
            restarts.append(threading.Timer(1.5, begin_again))
            restarts[0].start()
        return real(plate, *arguments)

    monkeypatch.setattr(inpaint, "fill_damage", stops)
    state = flow.restore_batch(KEYS, return_state=True)
    restarts[0].join()
    assert state.is_completed(), state.message
    all_is_well(archive, before)
    reused = archive.rows("SELECT count(*) FROM stage_runs WHERE stage = 'inpaint' AND reused")
    assert reused >= [(1,)], "what was done before the restart was not done again"


def test_a_prefect_server_that_restarts_in_the_middle_of_a_batch_costs_a_second_run_at_most(
    archive: Archive, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLASSPLATE_LEASE_SECONDS", "2")
    before, folder = filled(archive), open_folder / f"server-{uuid4().hex}"
    monkeypatch.delenv("GLASSPLATE_DATABASE_URL")
    running = stack.start(Settings(data_dir=folder), print, {"prefect"}, usual_ports=False)
    assert archive.settings.database_url is not None
    monkeypatch.setenv("GLASSPLATE_DATABASE_URL", archive.settings.database_url.get_secret_value())
    services, real, restarted = Services(Folder(folder), usual_ports=False), inpaint.fill_damage, list[bool]()

    def restarts(plate: Plate, *arguments: Any) -> Any:
        if plate.scan == KEYS[1] and not restarted:
            restarted.append(True)
            services.end(["prefect"], lambda line: None)
            services.start_prefect(lambda line: None)
        return real(plate, *arguments)

    monkeypatch.setattr(inpaint, "fill_damage", restarts)
    try:
        with temporary_settings({PREFECT_API_URL: running.settings.prefect_api_url}):
            with suppress(Exception):  # how the run ends that lost its server is not the point: nothing is lost
                flow.restore_batch(KEYS, return_state=True)
            assert restarted
            assert archive.masters() == before
            time.sleep(2.2)  # until the claims of a run that broke off have run out
            state = flow.restore_batch(KEYS, return_state=True)
            assert state.is_completed(), state.message
    finally:
        running.stop()
    all_is_well(archive, before)
