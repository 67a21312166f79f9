"""Plate -> faces found on the cleaned layer and, where a face model is registered, restored in the latest one."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from prefect import task

from models import colour, imaging, network, portrait, tiling
from models.imaging import Raster, turn_upright
from models.nets import centerface
from models.nets.centerface import CenterFace, Face
from models.network import Network, NetworkError
from models.registry import ModelCard
from tasks import networks, stage
from tasks.contracts import CLEANED, ENHANCED, LATEST, Plate, PlateRef, StageOutput, StageResult
from tasks.recipe import FacesConfig
from tasks.shelf import Shelf
from tasks.stage import Stage, Workshop

log = logging.getLogger("glassplate.faces")

DETECTOR = "centerface"
DETECTION_LONG_SIDE_PX = 2560  # the largest size the detector looks at
TURNED_BACK = {6: 8, 8: 6}  # the other orientations undo themselves


def stage_of(config: FacesConfig, models: Shelf) -> Stage:
    """What this stage reads and uses under ``config``. Raises Refused for a model named but not permitted."""
    restorer, detector = restorer_of(config, models), detector_of(models)
    return Stage(
        "faces",
        reads=(LATEST, CLEANED),
        code=(sys.modules[__name__], portrait, centerface, network, tiling, colour),
        card=restorer or detector,
        also=(detector,) if restorer and detector else (),
    )


def restorer_of(config: FacesConfig, models: Shelf) -> ModelCard | None:
    """The face model: the one named, or the first that is registered and permitted."""
    return models.card(config.model) if config.model else models.first("face")


def detector_of(models: Shelf) -> ModelCard | None:
    """What finds the faces, where it is permitted."""
    found = next((card for card in models.cards if card.id == DETECTOR), None)
    return found if found and models.refusal(found) is None else None


def find_faces(raster: Raster, detector: CenterFace, min_score: float) -> list[Face]:
    """The faces in pixels of the upright picture; right on gray and 16-bit scans, which are looked at as 8-bit sRGB."""
    seen = imaging.srgb8(raster, long_side_px=DETECTION_LONG_SIDE_PX)
    ratio = max(raster.height, raster.width) / max(seen.shape[:2])
    return [
        dataclasses.replace(
            f,
            x0=f.x0 * ratio,
            y0=f.y0 * ratio,
            x1=f.x1 * ratio,
            y1=f.y1 * ratio,
            landmarks=(f.landmarks * ratio).astype(np.float32),
        )
        for f in detector.detect_faces(seen, min_score=min_score)
    ]


def mend_faces(
    plate: Plate, config: FacesConfig, detector: CenterFace, net: Network | None, keep: Callable[[str, bytes], str], /
) -> StageOutput:
    """The faces of the cleaned layer restored in the latest one, or the reason why none was.

    Each face is aligned by its landmarks, restored at 512 px from the cleaned pixels and put back behind a soft mask,
    in the layer's own bit depth; a gray face stays gray. Measures: ``faces_found``, ``faces_restored``.
    Raises BadOutput when the network gives something that is no face.
    """
    cleaned, latest = plate[CLEANED], plate.latest()
    faces = find_faces(cleaned, detector, config.min_score)
    measures = {"faces_found": float(len(faces)), "faces_restored": 0.0}
    if not faces:
        return StageOutput(skipped="no faces found", measures=measures)
    if net is None:
        count = f"{len(faces)} face{'s' if len(faces) > 1 else ''} found"
        return StageOutput(skipped=f"no face model installed ({count})", measures=measures)
    source, target = _turned(cleaned, cleaned.orientation), _turned(latest, latest.orientation)
    restored = 0
    try:
        for face in sorted(faces, key=lambda f: f.height_px):
            if (seat := portrait.seat_of(face, source.height, source.width)) is None:
                continue
            target = portrait.pasted(target, source, seat, portrait.change_of(source, seat, net, plate.scan))
            restored += 1
    except NetworkError as error:
        raise networks.bad_output(plate.scan, error, keep) from error
    measures["faces_restored"] = float(restored)
    if not restored:
        return StageOutput(skipped="no face with usable landmarks", measures=measures)
    mended = _turned(target, TURNED_BACK.get(latest.orientation, latest.orientation))
    return StageOutput(layers={ENHANCED: mended}, measures=measures, device=network.device_class(net.device))


def _turned(raster: Raster, orientation: int) -> Raster:
    """``raster`` with its pixels turned as Exif tag 274 says; what it says of itself stays."""
    pixels: Any = raster.pixels
    return raster if orientation == 1 else raster.with_pixels(turn_upright(pixels, orientation))


@task(name="faces", task_run_name="faces", **stage.GPU)
def faces(plates: list[PlateRef], config: FacesConfig, shop: Workshop) -> list[StageResult]:
    """Each plate with its faces counted, and restored where a face model is registered."""
    here, keep = stage_of(config, shop.models), networks.keeping_evidence(plates, shop)

    def apply(plate: Plate, config: FacesConfig) -> StageOutput:
        card = detector_of(shop.models)
        if card is None:
            return StageOutput(skipped="no permitted face detector", without_model=True)
        restorer = restorer_of(config, shop.models)
        net = networks.network_of(restorer, shop) if restorer else None
        output = mend_faces(plate, config, networks.face_detector(card, shop), net, keep)
        return dataclasses.replace(output, model=card) if output.skipped else output  # only the detector had a part

    return stage.run(here, apply, plates, config, shop)
