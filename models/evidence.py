"""Whether what a network did to a picture looks like mending, and how far it is held back where it does not.

A network that takes grain away also takes fine texture of sound pictures away. What it changes tells the two apart:
where a picture is flat, a sound one has nothing to take; where it is busy, a blurred one has edges to sharpen.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.imaging import Raster

# Chosen on held-out training pictures by ``python -m models.training.calibrate_enhance``: see LOG.md.
FLAT_BEGINS, FLAT_OPEN = 4.0, 6.0  # levels of 255 taken from flat parts: of 95 % of sound pictures it takes less
SHARPER_BEGINS, SHARPER_OPEN = 0.12, 0.3  # share by which fine contrast grew in busy parts
CALM_LEVELS = 3.0  # root mean square: 38.6 dB
LOOKED_AT_PX = 1536
FLAT_SHARE = 0.3
BAND_ROWS = 256

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of a change: ``flat``, root mean square of the mean channel's in flat parts, in levels of 255; ``whole``, of all;
    ``sharper``: by what share fine contrast grew (or, negative, fell) in busy parts.
    """

    flat: float
    sharper: float
    whole: float

    @property
    def openness(self) -> float:
        """0: nothing says that the picture was worn; 1: it plainly was."""
        grainy = (self.flat - FLAT_BEGINS) / (FLAT_OPEN - FLAT_BEGINS)
        blurred = (self.sharper - SHARPER_BEGINS) / (SHARPER_OPEN - SHARPER_BEGINS)
        return float(np.clip(max(grainy, blurred), 0, 1))

    @property
    def share(self) -> float:
        """How much of the change is made: all of it when open, else so much that it stays calm."""
        closed = (1 - self.openness) * self.whole
        return 1.0 if closed <= CALM_LEVELS else CALM_LEVELS / closed


def evidence(before: Raster, after: Raster, factor: int = 1) -> Evidence:
    """What the change from ``before`` to ``after``, of one size, says; looked at in the middle 1536 px.

    ``factor``: the change was made at 1/factor of the size, where it is looked at.
    """
    top, left = (max(side - LOOKED_AT_PX, 0) // 2 for side in (before.height, before.width))
    first, last = (_looked_at(raster, top, left, factor) for raster in (before, after))
    old, new = (np.asarray(part.mean(axis=2), np.float32) for part in (first, last))
    change = new - old
    soft = cv2.GaussianBlur(new, (0, 0), 2.0)
    slope = np.hypot(cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1))
    flat, busy = (slope <= np.quantile(slope, FLAT_SHARE)), (slope >= np.quantile(slope, 1 - FLAT_SHARE))
    fine = old - cv2.GaussianBlur(old, (0, 0), 1.5)
    along = float((change * fine)[busy].sum() / max(float(np.square(fine)[busy].sum()), 1e-6))
    return Evidence(_rms(change[flat]), along, _rms(last - first))


def held_back(before: Raster, after: Raster, share: float) -> Raster:
    """``before`` with ``share`` of the change to ``after``, rounded; ``after`` itself for all of it."""
    if share >= 1:
        return after
    out = np.empty_like(after.pixels)
    for top in range(0, before.height, BAND_ROWS):
        rows = slice(top, top + BAND_ROWS)
        old = before.pixels[rows].astype(np.float32)
        out[rows] = np.rint(old + np.float32(share) * (after.pixels[rows] - old))
    return after.with_pixels(out)


def _looked_at(raster: Raster, top: int, left: int, factor: int) -> Floats:
    """(h, w, C) in levels of 255, the part that is looked at, reduced by ``factor``."""
    part = raster.pixels[top : top + LOOKED_AT_PX, left : left + LOOKED_AT_PX].astype(np.float32)
    size = max(1, part.shape[1] // factor), max(1, part.shape[0] // factor)
    small = part if factor == 1 else cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    levels = np.asarray(small, np.float32) / np.float32(1 if raster.bits == 8 else 257)
    return levels.reshape(*levels.shape[:2], -1)


def _rms(change: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(change, dtype=np.float64)))) if change.size else 0.0
