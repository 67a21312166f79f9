"""Damage filled by an inpainting network: in crops with their surroundings, coarse to fine where it is wide.

For networks that take a picture and a mask, such as LaMa: Suvorov et al., "Resolution-robust Large Mask Inpainting with
Fourier Convolutions", WACV 2022.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from models import fill, tiling
from models.colour import Space, space_of
from models.fill import FillConfig, Flags, Pixels
from models.imaging import Mask, Raster
from models.network import Network, NonFiniteOutput, TileTooLarge, WrongSize

# 640 px at most are seen at once: LaMa then needs about 1.5 GB. 128 px around a mark tell what belongs there. Damage
# into which a square of 128 px fits is filled from half size first, so that no crop is a hole without surroundings.
SEEN = FillConfig(crop_px=384, margin_px=128, direct_width_px=128, rim_px=16)
MULTIPLE_PX = 8  # sides of what the network sees, where its module does not say otherwise
SMALLEST_CROP_PX = 64
GROUND_RADIUS_PX = 3
_BAND_ROWS = 512


@dataclass(frozen=True, eq=False, slots=True)
class Retouched:
    """The filled picture; how many crops the network saw; how often lack of memory was answered by smaller ones.

    ``peak_bytes``: of the GPU during the call, 0 on a CPU.
    """

    raster: Raster
    crops: int = 0
    halvings: int = 0
    peak_bytes: int = 0


@dataclass(eq=False, slots=True)
class _Brush:
    """The network with all it must know of one picture."""

    net: Network
    name: str
    space: Space
    gray: bool
    on_crop: Callable[[int], None]
    crops: int = 0


def retouch(
    raster: Raster,
    mask: Mask,
    net: Network,
    name: str,
    *,
    config: FillConfig = SEEN,
    on_crop: Callable[[int], None] = lambda _: None,
) -> Retouched:
    """``raster`` with the pixels where ``mask`` >= 0.5 filled by ``net``; every other pixel bit-exact, checked.

    Same size, bit depth, ICC and metadata; gray or RGB, uint8 or uint16. Gray around the damage is gray inside it. The
    network sees sRGB; what it gives is added to the picture in float32 and in the picture's own space, so that 16 bits
    stay 16 bits. An empty mask gives ``raster`` itself. A crop sees what earlier ones have filled, so that no step
    shows where a mark is cut. Memory beyond the input: as of ``fill.fill``, and the network on one crop of at most
    ``crop_px + 2 * margin_px``; ``on_crop(1)`` is called after each. Raises ValueError for a mask of another size or
    one that leaves nothing to fill from, NonFiniteOutput, WrongSize, TileTooLarge, ``fill.ChangedOutside``.
    """
    if mask.shape != raster.pixels.shape[:2]:
        raise ValueError(f"{name}: expected a mask of {raster.pixels.shape[:2]}, found {mask.shape}")
    damaged: Flags = mask.damaged().view(np.uint8)
    if not damaged.any():
        return Retouched(raster)
    brush = _Brush(net, name, space_of(raster), _gray_outside(raster.pixels, damaged), on_crop)
    on_gpu, halvings = net.device.type == "cuda", 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(net.device)
    while True:
        try:
            out = _filled(raster.pixels, damaged, brush, config)
            break
        except torch.OutOfMemoryError as error:
            if on_gpu:
                torch.cuda.empty_cache()
            if config.crop_px // 2 < SMALLEST_CROP_PX:
                found = str(error).partition("\n")[0] or "out of memory"
                raise TileTooLarge(name, expected=f"room for a crop of {config.crop_px} px", found=found) from error
            config, halvings = _halved(config), halvings + 1
    fill.check_untouched(raster.pixels, out, damaged)
    peak = torch.cuda.max_memory_allocated(net.device) if on_gpu else 0
    return Retouched(raster.with_pixels(out), brush.crops, halvings, peak)


def _filled(pixels: Pixels, damaged: Flags, brush: _Brush, config: FillConfig) -> Pixels:
    """A copy of ``pixels`` with the damaged ones filled: wide damage from a half-size fill, then the rest in crops."""
    out, left = pixels.copy(), damaged.copy()
    inside = fill.deep_inside(damaged, config)
    half: Pixels | None = None
    if inside is not None:
        half_pixels, half_damaged = fill.half_size_of(pixels, damaged)
        if not half_damaged.all():
            half = _filled(half_pixels, half_damaged, brush, config)
    for y0, y1, x0, x1 in _crops(damaged, config.crop_px):
        a, b = _seen(y0, y1, damaged.shape[0], config.margin_px)
        c, d = _seen(x0, x1, damaged.shape[1], config.margin_px)
        picture, hole = out[a:b, c:d].copy(), left[a:b, c:d].copy()
        if half is not None and inside is not None:
            deep = (inside[a:b, c:d] & hole) != 0
            coarse = half[a // 2 : (b + 1) // 2, c // 2 : (d + 1) // 2]
            big = cv2.resize(coarse, (coarse.shape[1] * 2, coarse.shape[0] * 2), interpolation=cv2.INTER_LINEAR)
            picture[deep] = big.reshape(*big.shape[:2], -1)[: b - a, : d - c][deep]
            hole[deep] = 0
        painted = _painted(picture, hole, brush)
        write = left[y0:y1, x0:x1] != 0
        out[y0:y1, x0:x1][write] = painted[y0 - a : y1 - a, x0 - c : x1 - c][write]
        left[y0:y1, x0:x1] = 0
    return out


def _painted(picture: Pixels, hole: Flags, brush: _Brush) -> Pixels:
    """``picture`` (h, w, C) with ``hole`` filled by the network, which sees whole multiples of what it wants."""
    if not hole.any():
        return picture
    height, width = hole.shape
    if hole.all():
        raise ValueError(
            f"{brush.name}: expected some picture around the damage, found {height} x {width} pixels without any"
        )
    # The network's answer is applied as a change of a plain fill and not of the damage, whose own colours may lie
    # outside sRGB and would shine through.
    ground = tiling.region(fill.inpainted(picture, hole, GROUND_RADIUS_PX, "telea"), 0, height, 0, width)
    srgb = brush.space.to_srgb(ground)
    multiple = getattr(brush.net.module, "multiple_px", MULTIPLE_PX)
    rows, columns = (tiling.reflected(0, -(-side // multiple) * multiple, side) for side in (height, width))
    given = np.ascontiguousarray(srgb[rows][:, columns], np.float32)
    made = brush.net(given[None], hole[rows][:, columns].astype(np.float32)[None])[0]
    brush.crops += 1
    brush.on_crop(1)
    if made.shape != given.shape:
        raise WrongSize(brush.name, expected=f"a crop {given.shape}", found=str(made.shape))
    if not np.isfinite(made).all():
        found = f"{1 - float(np.isfinite(made).mean()):.1%} NaN or infinite"
        raise NonFiniteOutput(brush.name, expected="finite pixels", found=found, evidence=given)
    change = made[:height, :width] - srgb
    filled = tiling.add_residual(ground, change, brush.space, brush.gray, picture.dtype)
    return np.where(hole[:, :, None] != 0, filled, picture)


def _crops(damaged: Flags, crop_px: int) -> Iterator[tuple[int, int, int, int]]:
    """(y0, y1, x0, x1): boxes that together hold all damage once, at most one to a square of ``crop_px``.

    A dusty scan thus costs as many calls as it has squares, not as it has specks. Boxes begin at multiples of 8.
    """
    height, width = damaged.shape
    for top in range(0, height, crop_px):
        for left in range(0, width, crop_px):
            part = damaged[top : top + crop_px, left : left + crop_px]
            if not part.any():
                continue
            rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
            y0, x0 = top + int(rows[0]) // 8 * 8, left + int(columns[0]) // 8 * 8
            yield y0, top + int(rows[-1]) + 1, x0, left + int(columns[-1]) + 1


def _seen(first: int, last: int, length_px: int, margin_px: int) -> tuple[int, int]:
    """What is seen along one axis of a box: itself and its margins, moved inwards at the picture's ends.

    Begins at a multiple of 8; as long as the box with both margins where the picture is, rounded up to one.
    """
    size_px = -(-(last - first) // 8) * 8 + 2 * margin_px
    start = max(min(first - margin_px, length_px - size_px), 0) // 8 * 8
    return start, min(max(start + size_px, last), length_px)


def _halved(config: FillConfig) -> FillConfig:
    return dataclasses.replace(
        config, crop_px=config.crop_px // 16 * 8, margin_px=config.margin_px // 16 * 8,
        direct_width_px=config.direct_width_px // 2, rim_px=config.rim_px // 2,
    )  # fmt: skip


def _gray_outside(pixels: Pixels, damaged: Flags) -> bool:
    """Whether the undamaged pixels are gray: a stain or a stamp on it does not make a photograph a coloured one."""
    if pixels.shape[2] == 1:
        return True
    for top in range(0, pixels.shape[0], _BAND_ROWS):
        known = pixels[top : top + _BAND_ROWS][damaged[top : top + _BAND_ROWS] == 0]
        if len(known) and not tiling.is_gray(known[:, None]):
            return False
    return True
