"""Scores: before and after of the same size, fidelity outside the mask, nothing where nothing changed."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
from skimage import data

from models import metrics
from models.imaging import Mask, Raster
from small_archive import Archive
from tasks import score
from tasks.contracts import CLEANED, COLORIZED, ENHANCED, MASTER, Outcome, Plate, Score
from tasks.recipe import ScoreConfig

MASK = Mask(np.zeros((256, 256), np.float32))
MASK.values[40:60, 40:80] = 1.0


def camera() -> np.ndarray:
    return np.ascontiguousarray(data.camera()[100:356, 100:356, None])


def scored(mask: Mask | None = MASK, **layers: Raster) -> dict[tuple[str, str, str], Score]:
    plate = Plate("a.tif", {MASTER: Raster(camera()), **layers}, mask)
    output = score.measure(plate, ScoreConfig())
    return {(s.derivative, s.metric, s.moment): s for s in output.scores}


def cleaned() -> Raster:
    pixels = camera()
    pixels[40:60, 40:80] = 128
    return Raster(pixels)


def test_every_derivative_has_its_rows() -> None:
    blurred = Raster(cv2.GaussianBlur(camera(), (0, 0), 2)[:, :, None])
    found = scored(cleaned=cleaned(), enhanced=blurred)
    blind = {"sharpness", "noise", "niqe", "brisque", "contrast", "colourfulness", "damage_coverage"}
    for derivative in (CLEANED, ENHANCED):
        for moment in ("before", "after"):
            assert {m for d, m, at in found if (d, at) == (derivative, moment)} == blind
        assert {m for d, m, at in found if (d, at) == (derivative, "fidelity")} == {
            "ssim_outside_mask", "psnr_outside_mask",
        }  # fmt: skip
    assert not [key for key in found if key[0] == COLORIZED]
    before, after = (found[ENHANCED, "sharpness", moment].value for moment in ("before", "after"))
    assert after < before
    assert found[ENHANCED, "noise", "after"].value < found[ENHANCED, "noise", "before"].value
    assert found[CLEANED, "niqe", "after"].direction == "lower"
    assert found[CLEANED, "contrast", "after"].direction == "neutral"


def test_what_is_untouched_outside_the_mask_has_infinite_psnr_there() -> None:
    found = scored(cleaned=cleaned())
    assert math.isinf(found[CLEANED, "psnr_outside_mask", "fidelity"].value)
    assert found[CLEANED, "ssim_outside_mask", "fidelity"].value == pytest.approx(1.0)
    blurred = scored(cleaned=Raster(cv2.GaussianBlur(camera(), (0, 0), 2)[:, :, None]))
    assert 10 < blurred[CLEANED, "psnr_outside_mask", "fidelity"].value < 40


def test_an_enlarged_derivative_is_compared_at_the_masters_size() -> None:
    larger = Raster(cv2.resize(camera(), (1024, 1024), interpolation=cv2.INTER_CUBIC)[:, :, None])
    found = scored(enhanced=larger)
    assert found[ENHANCED, "psnr_outside_mask", "fidelity"].value > 35
    for metric in ("sharpness", "contrast"):
        before, after = (found[ENHANCED, metric, moment].value for moment in ("before", "after"))
        assert after == pytest.approx(before, rel=0.05)


def test_a_large_scan_is_scored_at_viewing_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "VIEWING_MEGAPIXELS", 0.04)
    large = camera()
    mask = Mask(np.zeros(large.shape[:2], np.float32))
    mask.values[100:103, :] = 1
    mended = large.copy()
    mended[100:103] = 0
    plate = Plate("a.tif", {MASTER: Raster(large), CLEANED: Raster(mended)}, mask)
    output = score.measure(plate, ScoreConfig())
    assert output.measures["scored_megapixels"] <= 0.04
    (psnr,) = [s.value for s in output.scores if s.metric == "psnr_outside_mask"]
    assert math.isinf(psnr), "reduced pixels that touch the mask do not count"


def test_turned_scans_meet_their_mask_where_it_is() -> None:
    pixels = np.ascontiguousarray(camera()[:, :200])
    mended = pixels.copy()
    mended[10:20, 150:190] = 0
    mask = Mask(np.zeros((256, 200), np.float32))
    mask.values[10:20, 150:190] = 1
    for orientation in (3, 6, 7):
        layers = {MASTER: Raster(pixels, orientation=orientation), CLEANED: Raster(mended, orientation=orientation)}
        output = score.measure(Plate("a.tif", layers, mask), ScoreConfig())
        (psnr,) = [s.value for s in output.scores if s.metric == "psnr_outside_mask"]
        assert math.isinf(psnr), orientation


def test_a_tiny_picture_is_scored_as_far_as_it_can_be() -> None:
    tiny = camera()[:20, :24].copy()
    changed = tiny // 2
    plate = Plate("a.tif", {MASTER: Raster(tiny), CLEANED: Raster(changed)}, Mask(np.zeros((20, 24), np.float32)))
    output = score.measure(plate, ScoreConfig())
    assert output.scores
    assert all(not math.isnan(s.value) for s in output.scores)
    assert "niqe" not in {s.metric for s in output.scores}


def test_the_stage_reads_what_there_is_and_keeps_infinity(archive: Archive, plated: Any) -> None:
    shop = archive.shop()
    (ref,) = plated({"a.tif": Raster(camera())}, shop, {"a.tif": MASK})
    (left,) = score.score.fn([ref], ScoreConfig(), shop)
    assert (left.outcome, left.reason) == (Outcome.SKIPPED, score.UNCHANGED)

    (other,) = plated({"b.tif": cleaned()}, shop, {"b.tif": MASK})
    blobs = shop.blobs(ref.restoration_id)
    blobs.put(shop.store.read(archive.settings.masters_bucket, "b.tif"), "image/tiff")
    changed = ref.model_copy(update={"layers": {**ref.layers, CLEANED: other.layers[MASTER]}})
    (done,) = score.score.fn([changed], ScoreConfig(), shop)
    (again,) = score.score.fn([changed], ScoreConfig(), shop)
    assert done.outcome is Outcome.DONE
    assert again.reused
    for result in (done, again):
        (psnr,) = [s.value for s in result.scores if s.metric == "psnr_outside_mask"]
        assert math.isinf(psnr)
