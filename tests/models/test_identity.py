"""The identity gate: lets a cleaner picture of the same face through, and nobody else."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from skimage import data

from models import identity, portrait
from models.identity import LIMITS, Likeness
from models.imaging import Raster
from models.nets.centerface import CenterFace, Face
from models.registry import card

LANDMARKS = np.array([[203, 102], [247, 105], [223, 125], [203, 142], [241, 144]], np.float32)  # of the astronaut


@pytest.fixture(scope="module")
def detector(weights_of: Callable[[str], Path]) -> CenterFace:
    return CenterFace(card("centerface"), weights_of("centerface"))


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """(256, 256, 3) the astronaut's face, upright in the template."""
    found = Face(180, 60, 272, 176, LANDMARKS, 0.9)
    seat = portrait.seat_of(found, 512, 512, 256)
    assert seat is not None
    return portrait.aligned(Raster(data.astronaut()), seat)


def worn(picture: np.ndarray) -> np.ndarray:
    soft = cv2.GaussianBlur(picture, (0, 0), 2.0)
    grain = np.random.default_rng(0).normal(0, 0.05, (*soft.shape[:2], 1))
    return np.clip(soft * 0.7 + 0.15 + grain, 0, 1).astype(np.float32)


def judged(before: np.ndarray, after: np.ndarray, detector: Any) -> tuple[Likeness, str | None]:
    found = identity.likeness(before, after, portrait.template(before.shape[0]), detector)
    return found, identity.verdict(found)


def test_a_face_made_clear_and_brought_back_from_fading_passes(face: np.ndarray, detector: CenterFace) -> None:
    found, why = judged(worn(face), face, detector)
    assert why is None, found
    assert found.measure == "structure"
    small = cv2.resize(face, (128, 128), interpolation=cv2.INTER_AREA)
    assert judged(worn(small), small, detector)[1] is None


def test_the_same_picture_does_not_differ_at_all(face: np.ndarray, detector: CenterFace) -> None:
    found, _ = judged(face, face, detector)
    assert found.movement == 0
    assert found.low_difference == pytest.approx(0, abs=1e-6)
    assert found.distance == pytest.approx(0, abs=1e-5)


def test_a_mirrored_face_is_somebody_else(face: np.ndarray, detector: CenterFace) -> None:
    found, why = judged(face, np.ascontiguousarray(face[:, ::-1]), detector)
    assert why is not None
    assert found.distance > LIMITS.structure


def test_a_face_gone_is_reverted(face: np.ndarray, detector: CenterFace) -> None:
    nothing = np.full_like(face, 0.5)
    found, why = judged(face, nothing, detector)
    assert math.isinf(found.movement)
    assert why == "no face is found in it any more"


def test_eyes_that_moved_are_reverted_by_their_way(face: np.ndarray, detector: CenterFace) -> None:
    shift = np.array([[1, 0, 0], [0, 1, 0.35 * portrait.eye_distance(portrait.template(256))]], np.float32)
    lower = cv2.warpAffine(face, shift, (256, 256), borderMode=cv2.BORDER_REFLECT)
    found, why = judged(face, lower, detector)
    assert 0.25 < found.movement < 0.5
    assert why is not None and why.startswith("landmarks moved")


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (Likeness(LIMITS.movement + 0.01, 0, 0), "landmarks moved"),
        (Likeness(0, LIMITS.low_difference + 0.01, 0), "the face differs at 32 px"),
        (Likeness(0, 0, LIMITS.structure + 0.01), "identity (structure) differs"),
        (Likeness(0, float("nan"), 0), "the face differs at 32 px"),
    ],
)
def test_each_limit_reverts_by_itself_and_says_which(found: Likeness, why: str) -> None:
    told = identity.verdict(found)
    assert told is not None and told.startswith(why)
    assert identity.verdict(Likeness(LIMITS.movement, LIMITS.low_difference, LIMITS.structure)) is None


def test_tone_and_contrast_are_not_identity(face: np.ndarray) -> None:
    faded = (face * 0.4 + 0.3).astype(np.float32)
    assert identity.structure_distance(face, faded) < 1e-3
    assert identity.low_difference(face, faded) < 0.02
