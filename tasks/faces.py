"""Plates -> faces found on the cleaned layer, restored in the latest one, each of them still who it was."""

from __future__ import annotations

import dataclasses
import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from prefect import task

from models import colour, identity, imaging, network, portrait, tiling
from models.imaging import Raster, turn_upright
from models.nets import centerface, embedding
from models.nets import face as face_net
from models.nets.centerface import CenterFace, Face
from models.nets.embedding import Embedding
from models.network import Network, NetworkError
from models.portrait import Floats, Seat
from models.registry import ModelCard
from tasks import networks, stage
from tasks.contracts import CLEANED, ENHANCED, LATEST, FoundFace, Plate, PlateRef, StageOutput, StageResult
from tasks.recipe import FacesConfig
from tasks.shelf import Shelf
from tasks.stage import Stage, Workshop

log = logging.getLogger("glassplate.faces")

DETECTOR = "centerface"
DETECTION_LONG_SIDE_PX = 2560  # the largest size the detector looks at
TURNED_BACK = {6: 8, 8: 6}  # the other orientations undo themselves
FaceOutcome = Literal["restored", "reverted", "left alone"]
RESTORED: FaceOutcome = "restored"
REVERTED: FaceOutcome = "reverted"
LEFT_ALONE: FaceOutcome = "left alone"


@dataclasses.dataclass(eq=False, slots=True)
class _Case:
    """One face on its way: where it was found, how it sits, and what came of it."""

    plate: int
    face: Face
    outcome: FaceOutcome = LEFT_ALONE
    reason: str | None = None
    seat: Seat | None = None
    before: Floats | None = None
    after: Floats | None = None
    found: identity.Likeness | None = None


def stage_of(config: FacesConfig, models: Shelf) -> Stage:
    """What this stage reads and uses under ``config``. Raises Refused for a model named but not permitted."""
    restorer, detector = restorer_of(config, models), detector_of(models)
    judge = models.first("face_identity")
    return Stage(
        "faces",
        reads=(LATEST, CLEANED),
        code=(sys.modules[__name__], portrait, identity, centerface, embedding, face_net, network, tiling, colour),
        card=restorer or detector,
        also=tuple(card for card in (detector, judge) if card) if restorer else (),
    )


def restorer_of(config: FacesConfig, models: Shelf) -> ModelCard | None:
    """The face model: the one named; under ``auto`` the first that is registered and permitted, else ours."""
    if config.model == "none":
        return None
    return models.first("face") if config.model == "auto" else models.card_for("face", config.model)


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
    plates: Sequence[Plate],
    config: FacesConfig,
    detector: CenterFace,
    net: Network | None,
    keep: Callable[[str, bytes], str],
    judge: Embedding | None = None,
    /,
) -> list[StageOutput | Exception]:
    """Each plate with its faces restored in the latest layer, or why none was, or the error it alone had.

    Faces are found once a scan, on the cleaned layer; those of all scans go through the network together. Each is
    aligned by its landmarks and restored at the network's side from the cleaned pixels; where ``models.identity``
    finds somebody else in it, it is reverted; else it is put back behind a soft mask in the latest layer's tone, grain
    and bit depth. A gray face stays gray. Faces lower than ``config.smallest_px`` are left alone. Every face found is
    one of ``faces`` of its output. ``judge``: a registered network that measures identity in place of structure.
    Measures: ``faces_found``, ``faces_restored``, ``faces_reverted``, ``faces_left_alone``. Errors in the list:
    BadOutput.
    """
    upright = [_turned(plate[CLEANED], plate[CLEANED].orientation) for plate in plates]
    cases: list[_Case] = []
    for index, plate in enumerate(plates):
        found = find_faces(plate[CLEANED], detector, config.min_score)
        cases += [_Case(index, face) for face in sorted(found, key=lambda f: f.height_px)]
    errors = _restore(cases, plates, upright, config, net, detector, judge) if net is not None else {}
    outputs: list[StageOutput | Exception] = []
    for index, plate in enumerate(plates):
        own = [case for case in cases if case.plate == index]
        if (error := errors.get(index)) is not None:
            outputs.append(networks.bad_output(plate.scan, error, keep))
        else:
            outputs.append(_output(plate, upright[index], own, config, net))
    return outputs


def _restore(
    cases: Sequence[_Case],
    plates: Sequence[Plate],
    upright: Sequence[Raster],
    config: FacesConfig,
    net: Network,
    detector: CenterFace,
    judge: Embedding | None,
) -> dict[int, NetworkError]:
    """Fills in what came of every case; the first error of each plate that had one."""
    sides = getattr(net.module, "sides_px", (portrait.THEIRS_PX,))
    zoom = float(getattr(net.module, "zoom", 1.0))
    errors: dict[int, NetworkError] = {}
    seated: list[tuple[_Case, Seat, Floats]] = []
    for case in cases:
        source = upright[case.plate]
        if case.face.height_px < config.smallest_px:
            case.reason = f"smaller than {config.smallest_px} px"
            continue
        side_px = portrait.side_for(case.face, sides, zoom)
        case.seat = portrait.seat_of(case.face, source.height, source.width, side_px, zoom)
        if case.seat is None:
            case.reason = "its landmarks fit no face"
            continue
        case.before = portrait.aligned(source, case.seat)
        seated.append((case, case.seat, case.before))
    answers = portrait.restored(
        [before for _, _, before in seated],
        net,
        config.fidelity,
        [tiling.is_gray(upright[case.plate].pixels) for case, _, _ in seated],
        [plates[case.plate].scan for case, _, _ in seated],
    )
    for (case, seat, before), answer in zip(seated, answers, strict=True):
        if isinstance(answer, NetworkError):
            errors.setdefault(case.plate, answer)
            continue
        points = seat.aligned_points(case.face.landmarks)
        case.found = identity.likeness(before, answer, points, detector, zoom, judge)
        case.reason = identity.verdict(case.found, embedding_limit=config.embedding_limit if judge else None)
        case.outcome, case.after = (RESTORED, answer) if case.reason is None else (REVERTED, None)
    return errors


def _output(
    plate: Plate, source: Raster, cases: Sequence[_Case], config: FacesConfig, net: Network | None
) -> StageOutput:
    counts = Counter(case.outcome for case in cases)
    measures = {"faces_found": float(len(cases))} | {
        f"faces_{outcome.replace(' ', '_')}": float(counts[outcome]) for outcome in (RESTORED, REVERTED, LEFT_ALONE)
    }
    if net is None:
        for case in cases:
            case.reason = "no face model installed" if config.model != "none" else "faces are only counted"
    rows = tuple(_row(number, case, config, net) for number, case in enumerate(cases, 1))
    if not cases:
        return StageOutput(skipped="no faces found", measures=measures)
    if not counts[RESTORED]:
        return StageOutput(skipped=_why_none(cases, net), measures=measures, faces=rows)
    assert net is not None, "a face was restored"
    latest = plate.latest()
    target = _turned(latest, latest.orientation)
    for case in cases:
        if case.seat is not None and case.before is not None and case.after is not None:
            change = portrait.change_of(case.before, case.after)
            target = portrait.pasted(target, source, case.seat, change)
    mended = _turned(target, TURNED_BACK.get(latest.orientation, latest.orientation))
    device = network.device_class(net.device)
    return StageOutput(layers={ENHANCED: mended}, measures=measures, device=device, faces=rows)


def _why_none(cases: Sequence[_Case], net: Network | None) -> str:
    """Why no face of a plate was restored."""
    count = f"{len(cases)} face{'s' if len(cases) > 1 else ''} found"
    if net is None:
        return f"{cases[0].reason} ({count})"
    reasons = Counter(f"{case.outcome}: {(case.reason or '').partition(' (')[0]}" for case in cases)
    return f"no face restored ({count}; {', '.join(f'{n} {why}' for why, n in sorted(reasons.items()))})"


def _row(number: int, case: _Case, config: FacesConfig, net: Network | None) -> FoundFace:
    face, found = case.face, case.found
    used = net.card if net is not None and found is not None else None
    return FoundFace(
        number=number,
        box=(face.x0, face.y0, face.x1, face.y1),
        landmarks=tuple((float(x), float(y)) for x, y in face.landmarks),
        height_px=face.height_px,
        score=face.score,
        outcome=case.outcome,
        reason=case.reason,
        worked_px=case.seat.side_px if case.seat and used else None,
        fidelity=config.fidelity if used else None,
        landmark_movement=found.movement if found and math.isfinite(found.movement) else None,
        low_difference=found.low_difference if found else None,
        identity_distance=found.distance if found else None,
        identity_measure=found.measure if found else None,
        model_id=used.id if used else None,
        weights_sha256=used.sha256 if used else None,
    )


def _turned(raster: Raster, orientation: int) -> Raster:
    """``raster`` with its pixels turned as Exif tag 274 says; what it says of itself stays."""
    pixels: Any = raster.pixels
    return raster if orientation == 1 else raster.with_pixels(turn_upright(pixels, orientation))


@task(name="faces", task_run_name="faces", **stage.GPU)
def faces(plates: list[PlateRef], config: FacesConfig, shop: Workshop) -> list[StageResult]:
    """Each plate with its faces counted, and restored where a face model is permitted."""
    here, keep = stage_of(config, shop.models), networks.keeping_evidence(plates, shop)

    def apply(loaded: Sequence[Plate], config: FacesConfig) -> list[StageOutput | Exception]:
        card = detector_of(shop.models)
        if card is None:
            return [StageOutput(skipped="no permitted face detector", without_model=True) for _ in loaded]
        restorer = restorer_of(config, shop.models)
        net = networks.network_of(restorer, shop) if restorer else None
        named = shop.models.first("face_identity") if net else None
        judge = networks.face_embedding(named, shop) if named else None
        outputs = mend_faces(loaded, config, networks.face_detector(card, shop), net, keep, judge)
        return [  # where nothing went through the face model, only the detector had a part
            dataclasses.replace(output, model=card)
            if isinstance(output, StageOutput) and not any(face.model_id for face in output.faces)
            else output
            for output in outputs
        ]

    return stage.run_together(here, apply, plates, config, shop)
