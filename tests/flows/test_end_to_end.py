"""The README's first command as a person runs it: embedded stack, a night through the worker, and what it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import cv2
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

from infra import settings as places

pytestmark = pytest.mark.timeout(1500)

Glassplate = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def glassplate(open_folder: Path) -> Iterator[Glassplate]:
    """Runs the command line with a data folder of its own, and stops whatever is left at the end."""
    folder = open_folder / "demo"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("GLASSPLATE_", "PREFECT_"))},
        "GLASSPLATE_DATA_DIR": str(folder),
        "GLASSPLATE_NIGHTLY_CRON": "30 2 * * *",
        "GLASSPLATE_TIMEZONE": "Europe/Berlin",
        "COLUMNS": "200",
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli", *arguments]
        return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=900, check=False)

    yield run
    run("down")


@pytest.fixture(scope="module")
def demo(glassplate: Glassplate, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the demo printed, and the folder it filled."""
    to = tmp_path_factory.mktemp("out")
    done = glassplate("demo", "--to", str(to))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, to


def test_the_demo_shows_every_scan_with_its_outcome(demo: tuple[str, Path], scans: Path) -> None:
    printed, _ = demo
    for path in scans.iterdir():
        assert path.name in printed
    for words in ("restored", "quarantined", "detect: done", "inpaint: ", "Prefect UI", "glassplate sql"):
        assert words in printed


def test_the_demo_leaves_pictures_and_a_contact_sheet(demo: tuple[str, Path]) -> None:
    _, to = demo
    sheet = cv2.imread(str(to / "contact-sheet.png"))
    assert sheet.shape[0] > 1000
    assert len({tuple(pixel) for pixel in sheet[::50, ::50].reshape(-1, 3)}) > 50, "a sheet with pictures on it"
    record = json.loads((to / "prokudin-00056-blue.jpg" / "record.json").read_text())
    assert [stage["stage"] for stage in record["stages"]] == [
        "detect",
        "inpaint",
        "enhance",
        "faces",
        "colorize",
        "score",
    ]
    cleaned = cv2.imread(str(to / "prokudin-00056-green-16bit.tif" / "cleaned.tif"), cv2.IMREAD_UNCHANGED)
    assert cleaned.dtype == "uint16"


def test_a_second_demo_finds_everything_done(demo: tuple[str, Path], glassplate: Glassplate, tmp_path: Path) -> None:
    again = glassplate("demo", "--to", str(tmp_path))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "0 planned" in again.stdout
    assert (tmp_path / "contact-sheet.png").is_file()


def test_the_services_answer_and_sql_and_verify_work(demo: tuple[str, Path], glassplate: Glassplate) -> None:
    status = glassplate("status")
    assert status.returncode == 0, status.stdout
    assert status.stdout.count("running") >= 4
    counted = glassplate("sql", "SELECT count(*) AS n FROM restorations WHERE state = 'restored'", "--as-json")
    assert json.loads(counted.stdout)[0]["n"] >= 2
    refused = glassplate("sql", "DELETE FROM restoration")
    assert refused.returncode != 0
    verified = glassplate("verify")
    assert verified.returncode == 0
    assert "0 problems" in verified.stdout


def test_a_scan_restored_by_hand_runs_through_the_worker(demo: tuple[str, Path], glassplate: Glassplate) -> None:
    done = glassplate("restore", "demo/travel-0030.png")
    assert done.returncode == 0, done.stdout + done.stderr
    failed = glassplate("restore", "demo/no-such.png")
    assert failed.returncode == 1
    assert "no-such.png" in failed.stdout


def test_a_dry_run_estimates_and_the_check_finds_no_night_missing(
    demo: tuple[str, Path], glassplate: Glassplate
) -> None:
    estimated = glassplate("nightly", "--prefix", "demo/", "--force", "--exclude", "*.png", "--dry-run")
    assert estimated.returncode == 0, estimated.stdout + estimated.stderr
    assert "hours of one worker's work" in estimated.stdout
    refused = glassplate("nightly", "--stop-starting-at", "25:00")
    assert refused.returncode == 2
    assert "stop_starting_at" in refused.stdout
    checked = glassplate("nights")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "No night was due yet" in checked.stdout


def test_the_server_creates_the_nights_that_cron_and_time_zone_say(
    demo: tuple[str, Path], glassplate: Glassplate, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLASSPLATE_DATA_DIR", str(open_folder / "demo"))
    api = places.load().prefect_api_url
    assert api is not None
    wanted = DeploymentFilter(name=DeploymentFilterName(any_=["nightly-archive"]))
    until, starts = time.monotonic() + 120, []
    with SyncPrefectClient(api) as client:
        while len(starts) < 3 and time.monotonic() < until:
            runs = client.read_flow_runs(deployment_filter=wanted)
            starts = sorted(run.expected_start_time for run in runs if run.auto_scheduled and run.expected_start_time)
            time.sleep(1)
    assert len(starts) >= 3
    assert all(start > datetime.now(UTC) for start in starts)
    local = [start.astimezone(ZoneInfo("Europe/Berlin")) for start in starts]
    assert {(start.hour, start.minute) for start in local} == {(2, 30)}
    assert len({start.date() for start in local}) == len(local), "one night a day"


def test_down_stops_everything(demo: tuple[str, Path], glassplate: Glassplate) -> None:
    assert glassplate("down").returncode == 0
    assert glassplate("status").returncode == 1
    assert "No stack is running" in glassplate("sql", "SELECT 1").stdout
