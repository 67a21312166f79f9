"""Plate -> damage mask."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from prefect import task

from models import classical, imaging, tint
from models.imaging import DAMAGED, Mask, Raster
from models.nets import detect as net
from models.nets.detect import LearntDetector
from tasks import stage
from tasks.contracts import MASTER, Plate, PlateRef, StageOutput, StageResult
from tasks.networks import weights_of
from tasks.recipe import DetectConfig
from tasks.stage import Shelf, Stage, Workshop

TINT_LONG_SIDE_PX = 512
SURE_OF_COLOUR = 0.9  # below it a stained or yellowed print is likelier than a colour photograph
_resident: dict[Path, LearntDetector] = {}


def stage_of(config: DetectConfig, models: Shelf) -> Stage:
    """What this stage reads and uses under ``config``."""
    code = (sys.modules[__name__], classical, tint) if config.model == "classical" else (sys.modules[__name__], net)
    return Stage("detect", reads=(MASTER,), code=code, card=models.card(config.model))


def find_damage(plate: Plate, config: DetectConfig, /, detector: LearntDetector | None = None) -> StageOutput:
    """The mask of what is damaged on the master; all zero when nothing is found that is worth mending.

    Found by ``detector``, or by the classical detector when there is none. Nothing is marked inside ``protect``.
    Measures: ``damage_coverage`` (share of pixels, 0..1) and ``damage_components`` (connected regions).
    """
    scan = plate[MASTER]
    mask = _classical(scan) if detector is None else net.detect(imaging.luminance(scan), detector)
    mask = protected(mask, config.protect)
    marked = (mask.values >= DAMAGED).view(np.uint8)
    count = cv2.connectedComponents(marked, connectivity=8)[0] - 1 if marked.any() else 0
    return StageOutput(mask=mask, measures={"damage_coverage": mask.coverage, "damage_components": float(count)})


def _classical(scan: Raster) -> Mask:
    found = tint.decide(imaging.srgb8(scan, long_side_px=TINT_LONG_SIDE_PX))
    in_colour = found.kind is tint.Kind.COLOUR and found.confidence >= SURE_OF_COLOUR
    return classical.detect(imaging.luminance(scan), monochrome=not in_colour).mask


def protected(mask: Mask, rectangles: Sequence[tuple[int, int, int, int]]) -> Mask:
    """``mask`` with nothing inside the rectangles (left, top, width, height), which may reach over its edge."""
    if not rectangles:
        return mask
    values = mask.values.copy()
    for left, top, width, height in rectangles:
        values[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = 0.0
    return Mask(values)


@task(name="detect", task_run_name="detect", **stage.GPU)
def detect(plates: list[PlateRef], config: DetectConfig, shop: Workshop) -> list[StageResult]:
    """Each plate with its damage mask."""
    chosen = stage_of(config, shop.models)
    detector = _detector(weights_of(chosen.card, shop)) if chosen.card and chosen.card.files else None
    return stage.run(chosen, lambda plate, own: find_damage(plate, own, detector), plates, config, shop)


def _detector(path: Path) -> LearntDetector:
    if path not in _resident:
        _resident[path] = LearntDetector.load(path)
    return _resident[path]
