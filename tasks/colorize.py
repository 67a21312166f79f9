"""Plate without colour -> colorized plate: chroma by a GAN, lightness kept."""

from __future__ import annotations

import sys
from collections.abc import Callable

from prefect import task

from models import chroma, colour, imaging, network, tint
from models.nets import colour as nets_colour
from models.nets import detect as nets_detect  # the convolutions that both networks are made of
from models.nets import mobilenet
from models.network import Network, NetworkError
from models.registry import ModelCard
from models.tint import Kind, Tint
from tasks import networks, stage
from tasks.contracts import COLORIZED, LATEST, Plate, PlateRef, StageOutput, StageResult
from tasks.recipe import ColorizeConfig
from tasks.shelf import Shelf
from tasks.stage import Stage, Workshop

SURE = 0.75  # of a photograph that is in one tone only: what may be in colour is left alone
DECISION_LONG_SIDE_PX = 1024


def stage_of(config: ColorizeConfig, models: Shelf) -> Stage:
    """What this stage reads and uses under ``config``. Raises Refused for a model named but not permitted."""
    return Stage(
        "colorize",
        reads=(LATEST,),
        code=(sys.modules[__name__], chroma, tint, network, colour, nets_colour, mobilenet, nets_detect),
        card=model_of(config, models),
        adds_colour=True,
    )


def model_of(config: ColorizeConfig, models: Shelf) -> ModelCard | None:
    """The colour model: the one named, or the first permitted: those that settings register come before ours."""
    return models.first("colorize") if config.model == "auto" else models.card(config.model)


def add_colour(
    plate: Plate, config: ColorizeConfig, net: Callable[[], Network] | None, keep: Callable[[str, bytes], str], /
) -> StageOutput:
    """The colorized layer of a gray, sepia or toned photograph, or the reason why there is none.

    ``net`` gives the network when it is needed; None: no colour model is permitted. Measures: ``colour_confidence``
    (that the photograph is in colour, 0..1), ``tone_spread`` and ``tone_chroma`` of the decision (``models.tint``).
    Raises BadOutput when the network gives something that is no picture, or colours that would change its lightness.
    """
    latest = plate.latest()
    found = tint.decide(imaging.srgb8(latest, long_side_px=DECISION_LONG_SIDE_PX))
    measures = {
        "colour_confidence": found.confidence if found.kind is Kind.COLOUR else 1 - found.confidence,
        "tone_spread": found.spread,
        "tone_chroma": found.chroma,
    }
    if not config.ask_colour and (why := _in_colour(found)) is not None:
        return StageOutput(skipped=why, measures=measures, without_model=True)
    if net is None:
        why = f"no permitted colour model ({found.kind}, {found.confidence:.0%} sure)"
        return StageOutput(skipped=why, measures=measures, without_model=True)
    resident = net()
    try:
        coloured = chroma.lay(
            latest, chroma.predict(latest, resident, plate.scan, config.seed), plate.scan, saturation=config.saturation
        )
    except NetworkError as error:
        raise networks.bad_output(plate.scan, error, keep) from error
    return StageOutput(layers={COLORIZED: coloured}, measures=measures, device=network.device_class(resident.device))


def _in_colour(found: Tint) -> str | None:
    """Why a photograph is not coloured, or None."""
    if found.kind is Kind.COLOUR:
        return "in colour already" if found.confidence >= SURE else f"in colour already ({found.confidence:.0%} sure)"
    return None if found.confidence >= SURE else f"may be in colour already ({found.kind}, {found.confidence:.0%} sure)"


@task(name="colorize", task_run_name="colorize", **stage.GPU)
def colorize(plates: list[PlateRef], config: ColorizeConfig, shop: Workshop) -> list[StageResult]:
    """Each plate with its colorized layer, where it is without colour and a colour model is registered."""
    here, keep = stage_of(config, shop.models), networks.keeping_evidence(plates, shop)
    card = here.card
    net = (lambda: networks.network_of(card, shop)) if card else None
    return stage.run(here, lambda plate, c: add_colour(plate, c, net, keep), plates, config, shop)
