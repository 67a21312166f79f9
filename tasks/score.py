"""Before, after -> quality scores of every derivative."""

from __future__ import annotations

import math
import sys
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from prefect import task

from models import classical, imaging, metrics, naturalness, tint, views
from models.imaging import DAMAGED, Mask, Raster
from models.tint import Kind
from tasks import stage
from tasks.contracts import (
    CLEANED,
    COLORIZED,
    ENHANCED,
    EVERY,
    MASTER,
    Plate,
    PlateRef,
    Score,
    StageOutput,
    StageResult,
)
from tasks.recipe import ScoreConfig
from tasks.shelf import Shelf
from tasks.stage import Stage, Workshop

DERIVATIVES = (CLEANED, ENHANCED, COLORIZED)
UNCHANGED = "nothing changed, nothing to measure"
Direction = Literal["higher", "lower", "neutral"]
Picture = NDArray[np.uint8]


def stage_of(config: ScoreConfig, models: Shelf) -> Stage:
    """What this stage reads: every layer there is, and the mask."""
    code = (sys.modules[__name__], metrics, naturalness, classical, tint)
    return Stage("score", reads=(MASTER, EVERY), code=code, reads_mask=True)


def measure(plate: Plate, config: ScoreConfig, /) -> StageOutput:
    """What can be measured of each derivative: alone before and after, and its fidelity to the master.

    Every picture is looked at as people see it: upright 8-bit sRGB at the master's size, at most four megapixels; an
    enlarged derivative is area-reduced to that. Before and after: sharpness, noise, niqe, brisque, contrast,
    colourfulness, and the damage that the classical detector finds. Fidelity: SSIM and PSNR outside the mask, infinite
    where nothing there was changed. What has no value (NIQE of a tiny picture) is left out.
    """
    master = plate[MASTER]
    changed = {name: plate.layers[name] for name in DERIVATIVES if name in plate.layers and _differs(plate, name)}
    if not changed:
        return StageOutput(skipped=UNCHANGED)
    long_side_px = _long_side_px(master)
    seen = imaging.srgb8(master, long_side_px=long_side_px)
    mended = _outside(plate.mask, seen, master.orientation)
    monochrome = tint.decide(seen).kind is not Kind.COLOUR  # what detection asks, too; the master's answer is for all
    before = _alone(seen, monochrome)
    scores: list[Score] = []
    for name, raster in changed.items():
        picture = imaging.srgb8(raster, long_side_px=long_side_px)
        if picture.shape != seen.shape:  # rounding of an enlarged derivative's size
            picture = cv2.resize(picture, seen.shape[1::-1], interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        scores += [_score(name, metric, value, "before") for metric, value in before.items()]
        scores += [_score(name, metric, value, "after") for metric, value in _alone(picture, monochrome).items()]
        fidelity = {
            "ssim_outside_mask": metrics.ssim(seen, picture, outside=mended),
            "psnr_outside_mask": metrics.psnr(seen, picture, outside=mended),
        }
        scores += [_score(name, m, v, "fidelity") for m, v in fidelity.items() if not math.isnan(v)]
    return StageOutput(scores=scores, measures={"scored_megapixels": seen.shape[0] * seen.shape[1] / 1e6})


def _differs(plate: Plate, name: str) -> bool:
    """Whether a layer holds other pixels than the master."""
    layer, master = plate[name].pixels, plate[MASTER].pixels
    return layer.shape != master.shape or not np.array_equal(layer, master)


def _long_side_px(master: Raster) -> int:
    """Long side of the picture that is measured: at most four megapixels, so that it is not reduced once more."""
    longest = max(master.height, master.width)
    ratio = math.sqrt(min(1.0, metrics.VIEWING_MEGAPIXELS / master.megapixels))
    return longest if ratio == 1.0 else math.floor(longest * ratio) - 1


def _alone(picture: Picture, monochrome: bool) -> dict[str, float]:
    found = classical.detect(imaging.luminance(Raster(picture)), monochrome=monochrome)
    return {**metrics.blind_scores(picture), "damage_coverage": found.coverage}


def _outside(mask: Mask | None, seen: Picture, orientation: int) -> NDArray[np.bool_] | None:
    """(h, w) what the mask covers of the measured picture, one pixel wider, as reduced pixels mix with neighbours."""
    if mask is None:
        return None
    size = (seen.shape[0], seen.shape[1])
    covered = views.preview_mask(mask, size, orientation=orientation) >= DAMAGED
    if size not in (mask.shape, mask.shape[::-1]):
        covered = cv2.dilate(covered.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.bool_)
    return covered


def _score(derivative: str, metric: str, value: float, moment: Literal["before", "after", "fidelity"]) -> Score:
    better = metrics.DIRECTIONS[metric]
    direction: Direction = "neutral" if better == "neither" else better
    return Score(derivative=derivative, metric=metric, value=value, direction=direction, moment=moment)


@task(name="score", task_run_name="score", **stage.TASK)
def score(plates: list[PlateRef], config: ScoreConfig, shop: Workshop) -> list[StageResult]:
    """Each plate with its scores."""
    return stage.run(stage_of(config, shop.models), measure, plates, config, shop)
