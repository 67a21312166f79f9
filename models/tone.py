"""Tone set right: fading, haze, yellowing and cast, seen in a 512-px thumbnail and undone at full size, in bands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models import tiling
from models.colour import space_of
from models.imaging import Raster, srgb8
from models.nets import tone as nets

LONG_SIDE_PX = 512
BAND_ROWS = 256
# How sure the network must be that a tone has suffered for a change to begin, and for it to be whole: of a scan that
# looks sound otherwise, and of one that is plainly grainy or blurred, and so old. Chosen on held-out training pictures
# by ``python -m models.training.calibrate_enhance``; what it costs and gives is in LOG.md.
STRICT, LENIENT = (0.95, 0.99), (0.5, 0.7)

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class Tone:
    """What is to be done to one picture's tone, in this order; float32, sRGB in [0, 1].

    ``matrix`` (3, 3): of a pixel's red, green, blue; ``curves`` (3, 17): values at 0, 1/16, … 1; ``gain``, ``offset``
    (64, 64, 3) over the whole stored picture. ``worn``: how likely the tone has suffered; ``share``: how much of the
    change is made, already part of the rest.
    """

    matrix: Floats
    curves: Floats
    gain: Floats
    offset: Floats
    worn: float
    share: float


def predict(raster: Raster, net: nn.Module, *, old: float = 0.0, share: float | None = None) -> Tone:
    """What is to be done to ``raster``'s tone by a float32 ``models.nets.tone.ToneNet``, which sees it whole and small.

    ``share`` in [0, 1] of it; without one none of it where the network takes the picture for sound (``share_of``).
    ``old``: how plainly worn the scan is otherwise, 0 to 1.
    """
    seen = srgb8(raster, long_side_px=LONG_SIDE_PX, upright=False).astype(np.float32) / np.float32(255)
    device = next(net.parameters()).device
    with torch.inference_mode():
        numbers = net(torch.from_numpy(np.ascontiguousarray(np.moveaxis(seen, 2, 0)))[None].to(device)).cpu()
        worn = float(torch.sigmoid(numbers[0, 0]))
        part = share_of(worn, old) if share is None else share
        done = nets.tones(numbers, share=part)
        gain, offset = (np.ascontiguousarray(f[0].permute(1, 2, 0).numpy()) for f in (done.gain, done.offset))
    return Tone(done.matrix[0].numpy(), done.curves[0].numpy(), gain, offset, worn, part)


def share_of(worn: float, old: float = 0.0) -> float:
    """How much of a change is made when the network is so sure that there is something to mend.

    A scan that is ``old`` (1) is believed sooner than one that is sharp and without grain (0).
    """
    begins, whole = (strict + (lenient - strict) * old for strict, lenient in zip(STRICT, LENIENT, strict=True))
    return float(np.clip((worn - begins) / (whole - begins), 0, 1))


def apply(raster: Raster, tone: Tone) -> Raster:
    """``raster`` with its tone set right, in its own space and bit depth; gray stays gray, in one channel or three.

    In bands: memory holds the scan and its result.
    """
    if tone.share == 0:
        return raster
    height, width = raster.height, raster.width
    space, gray = space_of(raster), tiling.is_gray(raster.pixels)
    out = np.empty_like(raster.pixels)
    for top in range(0, height, BAND_ROWS):
        bottom = min(top + BAND_ROWS, height)
        own = tiling.region(raster.pixels, top, bottom, 0, width)
        srgb = space.to_srgb(own)
        gain, offset = (_enlarged(field, (height, width), top, bottom) for field in (tone.gain, tone.offset))
        made = np.clip(curved(srgb, tone) * gain + offset, 0, 1)
        out[top:bottom] = tiling.add_residual(own, made - srgb, space, gray, out.dtype)
    return raster.with_pixels(out)


def curved(srgb: Floats, tone: Tone) -> Floats:
    """(h, w, 3) after matrix and curves."""
    mixed = srgb @ tone.matrix.T
    at = np.linspace(0, 1, tone.curves.shape[1], dtype=np.float32)
    return np.stack([np.interp(mixed[:, :, c], at, tone.curves[c]) for c in range(3)], axis=2).astype(np.float32)


def _enlarged(field: Floats, size: tuple[int, int], top: int, bottom: int) -> Floats:
    """Rows top..bottom-1 of ``field`` enlarged to ``size``, linear, pixel centres aligned.

    Written out because OpenCV's own places are rounded to 1/32 of a cell, which a smooth 16-bit sky would show.
    """
    above, below, down = _between(np.arange(top, bottom), field.shape[0], size[0])
    rows = field[above] + (field[below] - field[above]) * down[:, None, None]
    left, right, across = _between(np.arange(size[1]), field.shape[1], size[1])
    out: Floats = rows[:, left] + (rows[:, right] - rows[:, left]) * across[None, :, None]
    return out


def _between(at: NDArray[np.intp], cells: int, length: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """For pixels ``at`` of an axis of ``length``: the cells on both sides, and how far it is to the second."""
    where = np.clip((at + 0.5) * (cells / length) - 0.5, 0, cells - 1)
    first = np.minimum(where.astype(np.intp), cells - 2)
    return first, first + 1, (where - first).astype(np.float32)
