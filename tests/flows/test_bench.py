"""``glassplate bench`` in small: the numbers must be there and mean what they say; how good they are is not tested."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from prefect.settings import PREFECT_API_URL
from typer.testing import CliRunner

from db.ask import ask
from flows import machine, measure_memory, measure_pipeline, measure_plan, rehearsal
from flows.cli import app
from flows.restore import restore_batch
from infra.settings import Settings
from small_archive import Archive
from tasks.stage import GPU_TAG

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def stack(archive: Archive, prefect: None) -> Iterator[Settings]:
    """Settings of an empty archive with the tests' Prefect server; fresh processes find both."""
    yield archive.settings.model_copy(update={"prefect_api_url": PREFECT_API_URL.value()})


def row(words: str, name: str) -> list[str]:
    """The cells behind the first one, ``name``, of a Markdown table's row."""
    (line,) = [line for line in words.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_the_flow_is_measured_beside_a_bare_loop_and_two_workers_beside_one(stack: Settings) -> None:
    costs = measure_pipeline.measure(stack, scans=2, megapixels=0.3, rounds=1, workers=2)
    words = str(costs)
    for way in (measure_pipeline.BARE, measure_pipeline.STAGES, measure_pipeline.FLOW, measure_pipeline.SINGLE):
        seconds, at_work, cpu, peak_mb, _ = (float(cell) for cell in row(words, way))
        assert 0 < at_work <= seconds
        assert cpu > 0
        assert 100 < peak_mb < 5000
    runs = {way: laps[0].task_runs for way, laps in costs.rounds.items()}
    assert runs[measure_pipeline.BARE] == runs[measure_pipeline.STAGES] == 0, "these know no Prefect"
    assert runs[measure_pipeline.FLOW] == 6, "ingest, detect, inpaint, score, publish, record: both scans in a group"
    assert runs[measure_pipeline.SINGLE] == 12
    assert [lap.scans for lap in costs.crews[1][0]] == [2]
    assert [lap.scans for lap in costs.crews[2][0]] == [1, 1], "the scans are shared out"
    assert float(row(words, "bare loop / flow")[0]) > 0
    assert row(words, "bare loop / flow")[1] == ">= 0.9"
    assert row(words, "2 workers / 1, by the clock")[1] == ">= 1.8"
    assert stack.database_url is not None
    _, rows = ask(stack.database_url.get_secret_value(), "SELECT state, count(*) FROM restorations GROUP BY state")
    assert dict(map(tuple, rows)) == {"restored": 16}, "2 each by three ways and both crews, 1 to warm up each process"


def test_a_long_listing_is_planned_against_a_full_database_and_an_idle_night_starts_no_gpu_task_run(
    stack: Settings,
) -> None:
    costs = measure_plan.measure(stack, objects=2500)
    assert (costs.known.listed, costs.known.unchanged, costs.known.planned) == (2500, 2500, 0)
    assert (costs.unknown.listed, costs.unknown.unchanged, costs.unknown.planned) == (2500, 0, 2500)
    assert costs.idle.planned == 0
    assert costs.idle.gpu_task_runs == 0
    assert costs.idle.batches == 0
    assert costs.idle.task_runs > 0, "the night itself was there and was counted"
    words = str(costs)
    assert row(words, "of these tagged gpu") == ["0", "0"]
    assert row(words, "all known")[:3] == ["2,500", "2,500", "0"]
    assert row(words, "seconds, all known")[1] == "<= 60"


def test_gpu_task_runs_of_a_batch_are_counted_so_that_none_means_none(archive: Archive, prefect: None) -> None:
    rehearsal.put(archive.store, archive.settings.masters_bucket, ["a.tif"], [rehearsal.photograph(0.3)])
    state = restore_batch(["a.tif"], return_state=True)
    assert state.is_completed(), state.message
    assert measure_pipeline.task_runs(str(state.state_details.flow_run_id), GPU_TAG) == 2, "detect and inpaint"


def test_one_scan_s_memory_is_told_by_stage(archive: Archive) -> None:
    costs = measure_memory.measure(archive.settings, megapixels=1.0)
    assert [step.stage for step in costs.steps] == ["ingest", "detect", "inpaint", "score", "publish", "record"]
    assert costs.decoded_bytes == pytest.approx(3e6, rel=0.01)
    assert costs.peak_bytes == max(step.peak_bytes for step in costs.steps)
    assert costs.base_bytes < costs.peak_bytes
    assert "(3 x decoded + 1.5 GB)" in row(str(costs), "peak MB")[1]


def test_a_scan_made_to_measure_is_mended_the_same_way_bare_and_through_the_stages(
    archive: Archive, tmp_path: Path
) -> None:
    picture, key = rehearsal.photograph(0.5), f"{archive.settings.masters_prefix}bench/same.tif"
    path = rehearsal.write(picture, tmp_path / "scan.tif", "a title")
    found = rehearsal.bare(path, "scan", tmp_path, rehearsal.pure(archive.settings))
    assert 0 < found < 0.2
    rehearsal.put(archive.store, archive.settings.masters_bucket, [key], [picture])
    (course,) = rehearsal.staged([key], archive.shop(), archive.settings)
    (detected,) = (result for result in course.results if result.stage == "detect")
    assert detected.measures["damage_coverage"] == found, "a bare loop with another detector would compare nothing"
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"scan.tif", "cleaned.tif", "mask.png", "overlay.jpg", "difference.png", "preview.jpg"}


def test_the_same_seed_gives_the_same_scan_and_a_title_gives_other_bytes(tmp_path: Path) -> None:
    one, two = rehearsal.photograph(0.3, seed=4), rehearsal.photograph(0.3, seed=4)
    assert np.array_equal(one.pixels, two.pixels)
    first = rehearsal.write(one, tmp_path / "1.tif", "one").read_bytes()
    assert first != rehearsal.write(two, tmp_path / "2.tif", "two").read_bytes()
    large = rehearsal.photograph(0.3, enlarged=4)
    assert large.pixels.shape == one.pixels.shape


def test_the_machine_is_told_with_its_date_cores_and_gpu() -> None:
    told = machine.described()
    assert told.startswith(f"{datetime.now(UTC):%Y-%m}")
    assert re.search(r"\d+ cores, \d+ GB", told)
    assert "GPU: " in told


def _taken(megabytes: int) -> tuple[int, int, str]:
    with machine.Watch() as watch:
        taken = np.ones(megabytes * 1_000_000, np.uint8)
        del taken
    return os.getpid(), watch.peak_bytes - watch.base_bytes, os.environ.get("OMP_NUM_THREADS", "")


def test_work_alone_is_in_a_process_of_its_own_with_one_thread_and_its_peak_is_seen() -> None:
    pid, taken_bytes, threads = machine.alone(_taken, 200)
    assert pid != os.getpid()
    assert 190e6 < taken_bytes < 300e6
    assert threads == "1"


def test_the_commands_are_there() -> None:
    listed = CliRunner().invoke(app, ["bench", "--help"], env={"COLUMNS": "120"}).output
    for name in ("detect", "quality", "pipeline", "plan", "memory"):
        assert re.search(rf"\b{name}\b", listed), name
