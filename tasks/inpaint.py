"""Plate + mask -> cleaned plate, by OpenCV inpainting."""

from __future__ import annotations

import sys

from prefect import task

from models import fill
from tasks import stage
from tasks.contracts import CLEANED, MASTER, Plate, PlateRef, StageOutput, StageResult
from tasks.recipe import InpaintConfig
from tasks.stage import Shelf, Stage, Workshop

NO_DAMAGE = "no damage found"


def stage_of(config: InpaintConfig, models: Shelf) -> Stage:
    """What this stage reads and uses under ``config``."""
    return Stage(
        "inpaint",
        reads=(MASTER,),
        code=(sys.modules[__name__], fill),
        card=models.card(f"opencv-{config.method.replace('_', '-')}"),
        reads_mask=True,
        keeps_unmasked=True,
    )


def fill_damage(plate: Plate, config: InpaintConfig, /) -> StageOutput:
    """The cleaned layer: damaged pixels filled from their surroundings, every other pixel the master's own.

    With an empty mask the cleaned layer is the master itself and the stage says ``skipped: no damage found``.
    Telea, "An image inpainting technique based on the fast marching method" (2004); Bertalmio, Bertozzi and Sapiro,
    "Navier-Stokes, fluid dynamics, and image and video inpainting" (2001).
    """
    assert plate.mask is not None, "stage.load gives the mask to every stage that reads it"
    master = plate[MASTER]
    if plate.mask.coverage == 0.0:
        return StageOutput(layers={CLEANED: master}, skipped=NO_DAMAGE, without_model=True)
    cleaned = fill.fill(master, plate.mask, config.method)
    return StageOutput(layers={CLEANED: cleaned}, measures={"filled_share": plate.mask.coverage})


@task(name="inpaint", task_run_name="inpaint", **stage.GPU)
def inpaint(plates: list[PlateRef], config: InpaintConfig, shop: Workshop) -> list[StageResult]:
    """Each plate with its cleaned layer."""
    return stage.run(stage_of(config, shop.models), fill_damage, plates, config, shop)
