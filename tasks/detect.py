"""Plate -> damage mask."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from prefect import task

from models import classical, combined, imaging, likeness, tint
from models.imaging import Mask, Raster
from models.nets import detect as net
from models.nets.detect import LearntDetector
from models.registry import card as card_of
from tasks import stage
from tasks.contracts import MASTER, Plate, PlateRef, StageOutput, StageResult
from tasks.networks import weights_of
from tasks.recipe import DetectConfig
from tasks.shelf import Shelf
from tasks.stage import Stage, Workshop

NETWORK = "glassplate-detect-1"
TINT_LONG_SIDE_PX = 512
SURE_OF_COLOUR = 0.9  # below it a stained or yellowed print is likelier than a colour photograph
_resident: dict[Path, LearntDetector] = {}


def stage_of(config: DetectConfig, models: Shelf) -> Stage:
    """What this stage reads and uses under ``config``.

    ``combined`` is the classical detector alone where the allow-list does not permit the network: nothing else could
    run at all there, and the model's name in the result says so.
    """
    model = config.model
    if model == "combined" and models.refusal(card_of(NETWORK, models.cards)) is not None:
        model = "classical"
    own = {"classical": (classical,), NETWORK: (net,)}.get(model, (combined, classical, net))
    card = models.card(NETWORK if model == "combined" else model)
    return Stage("detect", reads=(MASTER,), code=(sys.modules[__name__], tint, likeness, *own), card=card)


def find_damage(plate: Plate, config: DetectConfig, /, detector: LearntDetector | None = None) -> StageOutput:
    """The mask of what is damaged on the master; all zero when nothing is found that is worth mending.

    Found by ``detector``, by the classical detector when there is none, or by both, as ``config.model`` says. Nothing
    is marked inside ``protect``, nor what may be a feature of a face (``models.likeness``).
    Measures: ``damage_coverage`` (share of pixels, 0..1), ``damage_components`` (connected regions),
    ``spared_on_faces`` (marks taken back).
    """
    scan = plate[MASTER]
    monochrome = not _in_colour(scan)
    # The luma is handed over and not kept: a detector lets go of it once it has looked.
    if detector is None:
        mask = classical.detect(imaging.luminance(scan), monochrome=monochrome).mask
    elif config.model == "combined":
        mask = combined.detect(imaging.luminance(scan), detector, monochrome=monochrome)
    else:
        mask = net.detect(imaging.luminance(scan), detector, monochrome=monochrome)
    mask = protected(mask, config.protect)
    spared = likeness.spare(mask, scan, likeness.faces_of(scan)) if config.spare_faces and mask.coverage else 0
    count = classical.component_count(mask.damaged().view(np.uint8))
    measures = {"damage_coverage": mask.coverage, "damage_components": float(count), "spared_on_faces": float(spared)}
    return StageOutput(mask=mask, measures=measures)


def _in_colour(scan: Raster) -> bool:
    """Whether the scan is surely a colour photograph: damage must then be plainer before it counts."""
    found = tint.decide(imaging.srgb8(scan, long_side_px=TINT_LONG_SIDE_PX))
    return found.kind is tint.Kind.COLOUR and found.confidence >= SURE_OF_COLOUR


def protected(mask: Mask, rectangles: Sequence[tuple[int, int, int, int]]) -> Mask:
    """``mask`` with nothing inside the rectangles (left, top, width, height), which may reach over its edge."""
    if not rectangles:
        return mask
    stored = mask.stored.copy()
    for left, top, width, height in rectangles:
        stored[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = 0
    return Mask(stored)


@task(name="detect", task_run_name="detect", **stage.GPU)
def detect(plates: list[PlateRef], config: DetectConfig, shop: Workshop) -> list[StageResult]:
    """Each plate with its damage mask."""
    chosen = stage_of(config, shop.models)

    def find(plate: Plate, own: DetectConfig, /) -> StageOutput:
        # Weights that cannot be used fail each scan with the reason; they are loaded once a process.
        detector = _detector(weights_of(chosen.card, shop)) if chosen.card and chosen.card.files else None
        return find_damage(plate, own, detector)

    return stage.run(chosen, find, plates, config, shop)


def _detector(path: Path) -> LearntDetector:
    if path not in _resident:
        _resident[path] = LearntDetector.load(path)
    return _resident[path]
