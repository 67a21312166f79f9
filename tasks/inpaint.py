"""Plate + mask -> cleaned plate: damage filled by OpenCV, or by an inpainting network that settings register."""

from __future__ import annotations

import sys
from collections.abc import Callable

from prefect import task

from models import colour, fill, network, retouch, tiling
from models.nets import thirdparty
from models.network import Network, NetworkError
from models.registry import ModelCard
from tasks import networks, stage
from tasks.contracts import CLEANED, MASTER, Plate, PlateRef, Refused, StageOutput, StageResult
from tasks.recipe import InpaintConfig
from tasks.shelf import Shelf
from tasks.stage import Stage, Workshop

NO_DAMAGE = "no damage found"
# What a recipe calls the built-in methods. `auto` is one of them where settings register no inpainting network.
METHODS: dict[str, fill.Method] = {
    "auto": "telea",
    "telea": "telea",
    "opencv-telea": "telea",
    "navier_stokes": "navier_stokes",
    "opencv-navier-stokes": "navier_stokes",
}


def stage_of(config: InpaintConfig, models: Shelf) -> Stage:
    """What this stage reads and uses under ``config``.

    A model that may not be used is no error here: there may be nothing to mend. It fails every scan that is damaged.
    """
    try:
        card = model_of(config, models)
    except Refused:
        card = None
    by_network = (retouch, network, tiling, colour, thirdparty) if card and card.files else ()
    return Stage(
        "inpaint",
        reads=(MASTER,),
        code=(sys.modules[__name__], fill, *by_network),
        card=card,
        reads_mask=True,
        keeps_unmasked=True,
    )


def model_of(config: InpaintConfig, models: Shelf) -> ModelCard:
    """The model named, or with ``auto`` the first that settings register, else Telea.

    Raises Refused for one that the allow-list does not permit, that is for something else, or that there is none of;
    a registered one that is refused is not replaced by another behind the archive's back.
    """
    if config.model == "auto" and (registered := models.registered("inpaint")) is not None:
        return models.permitted(registered)
    method = METHODS.get(config.model)
    return models.card_for("inpaint", f"opencv-{method.replace('_', '-')}" if method else config.model)


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
    cleaned = fill.fill(master, plate.mask, METHODS[config.model])
    return StageOutput(layers={CLEANED: cleaned}, measures={"filled_share": plate.mask.coverage})


def retouch_damage(
    plate: Plate, net: Callable[[], Network], keep: Callable[[str, bytes], str], on_crop: Callable[[int], None], /
) -> StageOutput:
    """As ``fill_damage``, by a network: what it gives outside the mask is not looked at.

    ``net`` gives the network when there is damage; ``keep``: where the evidence of a bad output goes. Measures:
    ``filled_share``, ``crops`` (how many the network saw), ``halvings`` (smaller crops for lack of memory).
    Raises BadOutput when the network gives something that is no picture.
    """
    assert plate.mask is not None, "stage.load gives the mask to every stage that reads it"
    if plate.mask.coverage == 0.0:
        return StageOutput(layers={CLEANED: plate[MASTER]}, skipped=NO_DAMAGE, without_model=True)
    resident = net()
    try:
        done = retouch.retouch(plate[MASTER], plate.mask, resident, plate.scan, on_crop=on_crop)
    except NetworkError as error:
        raise networks.bad_output(plate.scan, error, keep) from error
    return StageOutput(
        layers={CLEANED: done.raster},
        measures={
            "filled_share": plate.mask.coverage, "crops": float(done.crops), "halvings": float(done.halvings),
        },
        device=network.device_class(resident.device),
        peak_memory_bytes=done.peak_bytes,
    )  # fmt: skip


@task(name="inpaint", task_run_name="inpaint", **stage.GPU)
def inpaint(plates: list[PlateRef], config: InpaintConfig, shop: Workshop) -> list[StageResult]:
    """Each plate with its cleaned layer."""
    here = stage_of(config, shop.models)
    keep, on_crop = networks.keeping_evidence(plates, shop), networks.keeping_claims(plates, shop)

    def apply(plate: Plate, config: InpaintConfig) -> StageOutput:
        if here.card is not None and not here.card.files:
            return fill_damage(plate, config)
        return retouch_damage(plate, lambda: networks.network_of(model_of(config, shop.models), shop), keep, on_crop)

    return stage.run(here, apply, plates, config, shop)
