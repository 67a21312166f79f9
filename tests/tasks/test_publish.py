"""Every derivative is labelled for what it is, has its own difference map, and only the cleaned one promises pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from skimage import data

from models import imaging
from models.imaging import Mask, Raster
from small_archive import Archive
from tasks import publish
from tasks.contracts import (
    CLEANED,
    COLORIZED,
    ENHANCED,
    Course,
    ImageRef,
    Outcome,
    PlateRef,
    Score,
    StageResult,
)
from tasks.recipe import FULL
from tasks.stage import Workshop

MASK = Mask(np.zeros((96, 128), np.float32))
MASK.values[10:20, 30:40] = 1.0


def master() -> np.ndarray:
    return np.ascontiguousarray(data.camera()[200:296, 200:328, None])


def mended() -> np.ndarray:
    pixels = master()
    pixels[10:20, 30:40] = 200
    return pixels


@pytest.fixture
def course(archive: Archive, plated: Any, tmp_path: Path) -> Any:
    """A function that makes a course whose plate has these layers, with every stage that made them done."""
    shop = archive.shop()
    (ref,) = plated({"box/a.tif": Raster(master(), dpi=(600.0, 600.0))}, shop, {"box/a.tif": MASK})

    def put(raster: Raster) -> ImageRef:
        path = tmp_path / "layer.tif"
        imaging.write_tiff(raster, path)
        sha256 = shop.blobs(ref.restoration_id).put(path, "image/tiff")
        return ImageRef(
            uri="s3://w/l", sha256=sha256, width=raster.width, height=raster.height, media_type="image/tiff"
        )

    def make(**layers: Raster) -> tuple[Course, Workshop]:
        plate: PlateRef = ref.model_copy(update={"layers": {**ref.layers, **{n: put(r) for n, r in layers.items()}}})
        weights = {"enhance": "e" * 64, "colorize": "c" * 64}
        ran = [("inpaint", CLEANED), ("enhance", ENHANCED), ("colorize", COLORIZED)]
        results = [
            StageResult(
                stage=stage, scan=ref.scan, outcome=Outcome.DONE if layer in layers else Outcome.SKIPPED, plate=plate,
                reason=None if layer in layers else f"no {layer}", weights_sha256=weights.get(stage),
                data_terms="research-only" if stage in weights else "free",
            )
            for stage, layer in ran
        ]  # fmt: skip
        infinite = Score(
            derivative=CLEANED, metric="psnr_outside_mask", value=float("inf"), direction="higher", moment="fidelity"
        )
        results.append(StageResult(stage="score", scan=ref.scan, outcome=Outcome.DONE, plate=plate, scores=(infinite,)))
        return Course(scan=ref.scan, results=tuple(results)), shop

    return make


def files(result: StageResult, shop: Workshop, folder: Path) -> dict[str, Path]:
    for file in result.derivatives:
        shop.store.download(file.bucket, file.key, folder / file.key.rsplit("/", 1)[-1])
    return {f.kind: folder / f.key.rsplit("/", 1)[-1] for f in result.derivatives}


def test_three_derivatives_each_with_label_difference_and_source_type(course: Any, tmp_path: Path) -> None:
    sharp = cv2.addWeighted(mended(), 1.5, cv2.GaussianBlur(mended(), (0, 0), 2), -0.5, 0)[:, :, None]
    colour = np.ascontiguousarray(np.repeat(sharp, 3, axis=2) // 2 + np.array([60, 30, 0], np.uint8))
    done, shop = course(cleaned=Raster(mended()), enhanced=Raster(sharp), colorized=Raster(colour))
    result = publish.shelve(done, FULL, shop)
    assert result.outcome is Outcome.DONE
    found = files(result, shop, tmp_path)
    assert {path.name for path in found.values()} == {
        "cleaned.tif", "mask.png", "overlay.jpg", "difference.png", "preview.jpg", "record.json",
        "enhanced.tif", "enhanced_difference.png", "enhanced_preview.jpg",
        "colorized.tif", "colorized_difference.png", "colorized_preview.jpg",
    }  # fmt: skip
    by_kind = {f.kind: f for f in result.derivatives}
    assert by_kind[CLEANED].outside_mask_sha256 is not None
    assert by_kind[ENHANCED].outside_mask_sha256 is None
    assert "every pixel may differ" in by_kind[ENHANCED].label
    assert "invented" in by_kind[COLORIZED].label
    assert b"algorithmicallyEnhanced" in found[CLEANED].read_bytes()
    for kind in (ENHANCED, COLORIZED):
        assert b"compositeWithTrainedAlgorithmicMedia" in found[kind].read_bytes()
        assert imaging.decode(found[kind], kind).pixels.shape[:2] == (96, 128)
    difference = imaging.decode(found["enhanced_difference"], "d").pixels[:, :, 0].astype(int)
    np.testing.assert_array_equal(difference, np.abs(sharp[:, :, 0].astype(int) - master()[:, :, 0]))
    record = json.loads(found["record"].read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert record["scores"][0]["value"] == "inf"
    assert {s["data_terms"] for s in record["stages"]} == {"free", "research-only", None}


def test_an_enlarged_derivative_is_compared_at_the_masters_size(course: Any, tmp_path: Path) -> None:
    large = cv2.resize(master(), (512, 384), interpolation=cv2.INTER_CUBIC)[:, :, None]
    done, shop = course(enhanced=Raster(large))
    result = publish.shelve(done, FULL, shop)
    found = files(result, shop, tmp_path)
    assert set(found) == {ENHANCED, "enhanced_difference", "enhanced_preview", "record"}, "cleaned is the master itself"
    assert imaging.decode(found[ENHANCED], "e").pixels.shape == (384, 512, 1)
    difference = imaging.decode(found["enhanced_difference"], "d").pixels
    assert difference.shape == (96, 128, 1)
    assert difference.mean() < 4


def test_when_nothing_changed_only_the_record_is_published_and_says_why(course: Any, tmp_path: Path) -> None:
    done, shop = course()
    result = publish.shelve(done, FULL, shop)
    assert (result.outcome, result.reason) == (Outcome.SKIPPED, "no cleaned")
    assert [f.kind for f in result.derivatives] == ["record"]
