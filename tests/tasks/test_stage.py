"""What surrounds a stage: outcomes apart, results found again, checks that fail, promises that are kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from infra.store import StoreUnavailable
from models.imaging import Mask, Raster
from models.registry import ModelCard
from small_archive import Archive
from tasks import ingest, stage
from tasks.contracts import (
    MASTER,
    BadOutput,
    Frozen,
    GlassplateError,
    GroupFailed,
    Outcome,
    Plate,
    PlateRef,
    StageOutput,
    Unavailable,
)
from tasks.recipe import ARCHIVAL
from tasks.stage import Identity, Stage, Workshop


class Config(Frozen):
    """Settings of the stages made up here."""

    step: int = 1


CARD = ModelCard("lighter", "enhance", "sum", licence="MIT", data_terms="free")
LIGHTER = Stage(name="lighter", reads=(MASTER,), code=(sys.modules[__name__],), card=CARD)


def lighter(plate: Plate, config: Config) -> StageOutput:
    raster = plate[MASTER]
    return StageOutput(
        layers={"enhanced": raster.with_pixels(raster.pixels + raster.pixels.dtype.type(config.step))},
        measures={"step": config.step},
    )


def scan(value: int, folder: Path) -> bytes:
    path = folder / f"{value}.tif"
    tifffile.imwrite(path, np.full((24, 32, 3), value, np.uint8), photometric="rgb")
    return path.read_bytes()


@pytest.fixture
def plates(archive: Archive, tmp_path: Path) -> list[PlateRef]:
    for value in (10, 20, 30):
        archive.put(f"scan-{value}.tif", scan(value, tmp_path))
    results = ingest.ingest.fn(
        [f"scan-{v}.tif" for v in (10, 20, 30)], ARCHIVAL, Identity({"lighter": "1"}), archive.shop()
    )
    return stage.survivors(results)


def test_each_scan_gets_the_new_layer_and_an_outcome(plates: list[PlateRef], archive: Archive, tmp_path: Path) -> None:
    shop = archive.shop()
    results = stage.run(LIGHTER, lighter, plates, Config(step=5), shop)
    assert [r.outcome for r in results] == [Outcome.DONE] * 3
    after = stage.survivors(results)
    pixels = [stage.layer(p, "enhanced", shop.blobs(p.restoration_id), tmp_path).pixels for p in after]
    assert [int(p.max()) for p in pixels] == [15, 25, 35]
    first = results[0]
    assert (first.model_id, first.licence, first.data_terms) == ("lighter", "MIT", "free")
    assert (first.measures["step"], first.reused) == (5.0, False)
    assert first.seconds > 0
    assert first.peak_memory_bytes > 1_000_000
    assert first.stage_version == LIGHTER.version()


def test_a_scan_that_breaks_does_not_take_its_neighbours_along(plates: list[PlateRef], archive: Archive) -> None:
    def fragile(plate: Plate, config: Config) -> StageOutput:
        if int(plate[MASTER].pixels.max()) == 20:
            raise ZeroDivisionError("too dark")
        return lighter(plate, config)

    results = stage.run(LIGHTER, fragile, plates, Config(), archive.shop())
    assert [r.outcome for r in results] == [Outcome.DONE, Outcome.FAILED, Outcome.DONE]
    assert (results[1].error_type, results[1].reason) == ("ZeroDivisionError", "too dark")
    assert results[1].plate is None
    assert [p.scan for p in stage.survivors(results)] == ["scan-10.tif", "scan-30.tif"]


def test_a_group_of_which_nothing_survives_fails_with_every_reason(plates: list[PlateRef], archive: Archive) -> None:
    def broken(plate: Plate, config: Config) -> StageOutput:
        raise MemoryError

    with pytest.raises(GroupFailed) as failure:
        stage.run(LIGHTER, broken, plates, Config(), archive.shop())
    assert [r.error_type for r in failure.value.results] == ["BadOutput"] * 3
    assert "out of memory" in str(failure.value)


def test_a_finished_result_is_found_again_and_not_computed_twice(plates: list[PlateRef], archive: Archive) -> None:
    calls = []

    def counted(plate: Plate, config: Config) -> StageOutput:
        calls.append(plate.scan)
        return lighter(plate, config)

    first = stage.run(LIGHTER, counted, plates, Config(), archive.shop())
    again = stage.run(LIGHTER, counted, plates, Config(), archive.shop())
    assert len(calls) == 3
    assert all(r.reused for r in again)
    assert stage.survivors(again) == stage.survivors(first)
    stage.run(LIGHTER, counted, plates, Config(step=2), archive.shop())
    assert len(calls) == 6, "another setting is another result"


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("size", lambda p: StageOutput(layers={"enhanced": Raster(np.zeros((24, 31, 3), np.uint8))})),
        ("depth", lambda p: StageOutput(layers={"enhanced": Raster(np.zeros((24, 32, 3), np.uint16))})),
        ("channels", lambda p: StageOutput(layers={"enhanced": Raster(np.zeros((24, 32, 1), np.uint8))})),
        ("mask size", lambda p: StageOutput(mask=Mask(np.zeros((24, 31), np.float32)))),
        ("mask range", lambda p: StageOutput(mask=Mask(np.full((24, 32), 1.5, np.float32)))),
        ("mask nan", lambda p: StageOutput(mask=Mask(np.full((24, 32), np.nan, np.float32)))),
    ],
)
def test_output_of_the_wrong_kind_fails_the_scan(
    name: str, output: Callable[[Plate], StageOutput], plates: list[PlateRef], archive: Archive
) -> None:
    with pytest.raises(GroupFailed) as failure:
        stage.run(LIGHTER, lambda plate, config: output(plate), plates[:1], Config(), archive.shop())
    (result,) = failure.value.results
    assert result.error_type == "BadOutput"
    assert "scan-10.tif" in (result.reason or "")


def test_a_stage_that_promised_to_keep_unmasked_pixels_is_held_to_it() -> None:
    promise = replace(LIGHTER, reads_mask=True, keeps_unmasked=True)
    values = np.zeros((8, 8), np.float32)
    values[2:4, 2:4] = 1.0
    master = Raster(np.full((8, 8, 1), 100, np.uint8))
    plate = Plate("s.tif", {MASTER: master}, Mask(values))
    inside, outside = master.pixels.copy(), master.pixels.copy()
    inside[2, 2] = 7
    outside[0, 0] = 101
    stage.check(promise, MASTER, plate, StageOutput(layers={"cleaned": master.with_pixels(inside)}))
    with pytest.raises(BadOutput, match="unmasked pixels"):
        stage.check(promise, MASTER, plate, StageOutput(layers={"cleaned": master.with_pixels(outside)}))


def test_a_layer_returned_untouched_keeps_its_reference(plates: list[PlateRef], archive: Archive) -> None:
    def same(plate: Plate, config: Config) -> StageOutput:
        return StageOutput(layers={"cleaned": plate[MASTER]}, skipped="nothing to do")

    (result,) = stage.run(LIGHTER, same, plates[:1], Config(), archive.shop())
    assert result.outcome is Outcome.SKIPPED
    assert result.plate is not None
    assert result.plate.layers["cleaned"] == plates[0].layers[MASTER]


def test_a_spoiled_plate_is_noticed_before_it_is_used(plates: list[PlateRef], archive: Archive) -> None:
    shop = archive.shop()
    blobs = shop.blobs(plates[0].restoration_id)
    client = archive.store._client()
    client.put_object(Bucket=blobs.bucket, Key=blobs.prefix + plates[0].layers[MASTER].sha256, Body=b"rust")
    with pytest.raises(GroupFailed, match="sha256"):
        stage.run(LIGHTER, lighter, plates[:1], Config(), shop)


def test_a_run_that_lost_its_claim_stops(plates: list[PlateRef], archive: Archive) -> None:
    with pytest.raises(GroupFailed, match="claim"):
        stage.run(LIGHTER, lighter, plates, Config(), archive.shop("another-run"))


@pytest.mark.usefixtures("prefect")
def test_a_task_run_retries_only_the_scans_that_were_out_of_reach(
    plates: list[PlateRef], archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow, task

    calls: list[str] = []

    def flaky(plate: Plate, config: Config) -> StageOutput:
        calls.append(plate.scan)
        if plate.scan == "scan-20.tif" and calls.count(plate.scan) == 1:
            raise StoreUnavailable("s3://x: 503")
        return lighter(plate, config)

    @task(**{**stage.GPU, "retry_delay_seconds": [0.0, 0.0, 0.0]})
    def flaky_stage(refs: list[PlateRef], shop: Workshop) -> list[stage.StageResult]:
        return stage.run(LIGHTER, flaky, refs, Config(), shop)

    @flow
    def a_flow() -> list[stage.StageResult]:
        return flaky_stage(plates, archive.shop())

    results = a_flow()
    assert [r.outcome for r in results] == [Outcome.DONE] * 3
    assert calls == ["scan-10.tif", "scan-20.tif", "scan-30.tif", "scan-20.tif"]
    assert [r.reused for r in results] == [True, False, True]


@pytest.mark.usefixtures("prefect")
def test_a_scan_still_out_of_reach_after_all_retries_fails_alone(plates: list[PlateRef], archive: Archive) -> None:
    from prefect import flow, task

    def gone(plate: Plate, config: Config) -> StageOutput:
        if plate.scan == "scan-20.tif":
            raise StoreUnavailable("s3://x: 503")
        return lighter(plate, config)

    @task(**{**stage.TASK, "retries": 2, "retry_delay_seconds": [0.0, 0.0]})
    def gone_stage(refs: list[PlateRef], shop: Workshop) -> list[stage.StageResult]:
        return stage.run(LIGHTER, gone, refs, Config(), shop)

    @flow
    def a_flow() -> list[stage.StageResult]:
        return gone_stage(plates, archive.shop())

    results = a_flow()
    assert [r.outcome for r in results] == [Outcome.DONE, Outcome.FAILED, Outcome.DONE]
    assert results[1].error_type == Unavailable.__name__


def test_a_stage_version_changes_with_its_code() -> None:
    other = Stage(name="lighter", reads=(MASTER,), code=(sys.modules[__name__], stage))
    assert other.version() != LIGHTER.version()
    assert len(LIGHTER.version()) == 64


def test_a_result_found_again_belongs_to_the_attempt_that_found_it(plates: list[PlateRef], archive: Archive) -> None:
    stage.run(LIGHTER, lighter, plates[:1], Config(), archive.shop())
    second = plates[0].model_copy(update={"attempt": 2})
    (again,) = stage.run(LIGHTER, lighter, [second], Config(), archive.shop())
    assert again.reused
    assert again.plate is not None
    assert again.plate.attempt == 2


def test_a_group_worked_together_gives_each_scan_its_own_output_or_error(
    plates: list[PlateRef], archive: Archive
) -> None:
    groups: list[list[str]] = []

    def together(loaded: Sequence[Plate], config: Config) -> list[StageOutput | GlassplateError]:
        groups.append([plate.scan for plate in loaded])
        return [
            BadOutput(p.scan, expected="finite pixels", found="NaN") if p.scan == "scan-20.tif" else lighter(p, config)
            for p in loaded
        ]

    results = stage.run_together(LIGHTER, together, plates, Config(), archive.shop())
    assert [r.outcome for r in results] == [Outcome.DONE, Outcome.FAILED, Outcome.DONE]
    assert "NaN" in (results[1].reason or "")
    again = stage.run_together(LIGHTER, together, plates, Config(), archive.shop())
    assert [r.reused for r in again] == [True, False, True]
    assert groups == [["scan-10.tif", "scan-20.tif", "scan-30.tif"], ["scan-20.tif"]]
