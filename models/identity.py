"""The identity gate: whether a restored face is still the face it was made of, decided by measures, not by a person."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models import portrait
from models.nets.centerface import CenterFace
from models.nets.embedding import Embedding
from models.portrait import eye_distance

STRUCTURE = "structure"
LOW_PX = 32
STRUCTURE_PX = 48
LOOKED_AT_PX = 256  # the side at which landmarks are found
LEAST_SCORE = 0.3  # an aligned face is one: what is asked is where, and whether a network still sees it
NEAR = 0.5  # of the eye distance: a face whose landmarks lie further from the template is another one, behind it

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Likeness:
    """How a restored face differs from the face it was made of.

    ``movement``: the furthest landmark's way, of the eye distance; infinite where no face is found in it any more.
    ``low_difference``: root mean square of the 32-px versions' difference, of their contrast, each at its own mean and
    contrast. ``distance``: of identity, by ``measure``: ``structure`` (1 less the correlation of gradients of the inner
    face at 48 px) or a registered embedding's name.
    """

    movement: float
    low_difference: float
    distance: float
    measure: str = STRUCTURE


@dataclass(frozen=True, slots=True)
class Limits:
    """Beyond any of these a face is reverted.

    Set on 287 faces of held-out people with ``models.training.evaluate_faces --calibrate``: between what restorations
    at the middle level of wear come to (at most 0.26, 0.27, 0.05) and what 500 swaps of each set do (0.52 and more,
    0.31 and more; how far landmarks lie apart says little of who somebody is, and much of a face pulled out of shape).
    """

    movement: float = 0.25
    low_difference: float = 0.4
    structure: float = 0.15


LIMITS = Limits()


def likeness(
    before: Floats,
    after: Floats,
    landmarks: Floats,
    detector: CenterFace,
    zoom: float = 1.0,
    embedding: Embedding | None = None,
) -> Likeness:
    """What changed between two aligned faces (S, S, 3) float32 sRGB in [0, 1].

    ``landmarks`` (5, 2): where they were found in the picture, aligned; used where none are found in ``before`` anew.
    ``embedding``: measures identity in place of structure.
    """
    found = landmarks_in(before, detector, zoom)
    there = landmarks_in(after, detector, zoom)
    points = portrait.template(before.shape[0], zoom)
    return Likeness(
        movement=math.inf if there is None else movement(landmarks if found is None else found, there),
        low_difference=low_difference(before, after, zoom),
        distance=embedding.distance(before, after, points) if embedding else structure_distance(before, after, zoom),
        measure=embedding.name if embedding else STRUCTURE,
    )


def verdict(found: Likeness, limits: Limits = LIMITS, embedding_limit: float | None = None) -> str | None:
    """Why the face is to be reverted, or None. ``embedding_limit``: of the embedding that measured ``distance``."""
    furthest = limits.structure if embedding_limit is None else embedding_limit
    if math.isinf(found.movement):
        return "no face is found in it any more"
    for what, value, limit in (
        ("landmarks moved", found.movement, limits.movement),
        ("the face differs at 32 px", found.low_difference, limits.low_difference),
        (f"identity ({found.measure}) differs", found.distance, furthest),
    ):
        if not value <= limit:
            return f"{what} (by {value:.3f}, limit {limit:.3f})"
    return None


def landmarks_in(face: Floats, detector: CenterFace, zoom: float = 1.0) -> Floats | None:
    """(5, 2) landmarks of an aligned face in its own pixels, found anew; None where no face sits in the template."""
    side_px = face.shape[0]
    how = cv2.INTER_AREA if side_px > LOOKED_AT_PX else cv2.INTER_CUBIC
    seen = cv2.resize(face, (LOOKED_AT_PX, LOOKED_AT_PX), interpolation=how)
    levels = np.ascontiguousarray(np.rint(np.clip(seen, 0, 1) * 255).astype(np.uint8))
    wanted = portrait.template(LOOKED_AT_PX, zoom)
    reach = NEAR * eye_distance(wanted)
    best, least = None, reach
    for found in detector.detect_faces(levels, min_score=LEAST_SCORE):
        away = float(np.abs(found.landmarks - wanted).mean())
        if away < least:
            best, least = found.landmarks, away
    return None if best is None else np.asarray(best * (side_px / LOOKED_AT_PX), np.float32)


def movement(before: Floats, after: Floats) -> float:
    """The longest way of a landmark between two sets of (5, 2), as a share of the eye distance of the first."""
    return float(np.linalg.norm(after - before, axis=1).max() / max(eye_distance(before), 1e-6))


def low_difference(before: Floats, after: Floats, zoom: float = 1.0) -> float:
    """Root mean square of the difference of the inner faces at 32 px, each with its mean and contrast taken out."""
    one, other = (_normal(cv2.resize(portrait.inner(x, zoom), (LOW_PX, LOW_PX), interpolation=cv2.INTER_AREA)) for x in
                  (before, after))  # fmt: skip
    return float(np.sqrt(np.mean(np.square(one - other))))


def structure_distance(before: Floats, after: Floats, zoom: float = 1.0) -> float:
    """0 (the same) to 2: 1 less the correlation of the gradients of the inner faces' luma at 48 px, grain smoothed."""
    one, other = _gradients(portrait.inner(before, zoom)), _gradients(portrait.inner(after, zoom))
    return float(1 - (one * other).sum() / max(math.sqrt(float((one**2).sum() * (other**2).sum())), 1e-9))


def _normal(picture: NDArray[np.generic]) -> Floats:
    """Every channel less its mean, over the spread of luma."""
    values = np.asarray(picture, np.float32)
    spread = max(float(values.mean(axis=2).std()), 1e-3)
    return np.asarray((values - values.mean(axis=(0, 1))) / np.float32(spread), np.float32)


def _gradients(inner: Floats) -> Floats:
    luma = cv2.resize(inner.mean(axis=2), (STRUCTURE_PX, STRUCTURE_PX), interpolation=cv2.INTER_AREA)
    luma = cv2.GaussianBlur(luma, (0, 0), 1.0)
    return np.stack([cv2.Sobel(luma, cv2.CV_32F, 1, 0), cv2.Sobel(luma, cv2.CV_32F, 0, 1)]).astype(np.float32)
