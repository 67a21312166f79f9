"""Filled damage: OpenCV inpainting in crops, 8 and 16 bit, with every pixel outside the mask left as it is.

Telea: "An image inpainting technique based on the fast marching method", J. Graphics Tools 9(1), 2004.
Navier-Stokes: Bertalmio, Bertozzi, Sapiro, "Navier-Stokes, fluid dynamics, and image and video inpainting", CVPR 2001.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from models.imaging import Mask, Raster

Method = Literal["telea", "navier_stokes"]
Pixels = NDArray[Any]  # (h, w, c) uint8 or uint16
Flags = NDArray[np.uint8]  # (h, w), 0 or 1

_FLAGS = {"telea": cv2.INPAINT_TELEA, "navier_stokes": cv2.INPAINT_NS}
_BLOCK_PX = 8  # damage is grouped on a grid of this pitch: marks less than two blocks apart share a crop
_BAND_ROWS = 512  # rows handled at once where a whole picture is gone through


class ChangedOutside(Exception):
    """A pixel outside the mask was about to change: the fill is refused. ``str()`` says how many and where."""


@dataclass(frozen=True, slots=True)
class FillConfig:
    """How damage is filled. Lengths in pixels of the scan."""

    crop_px: int = 768  # longest side of a crop without its margin. Larger: fewer cuts, more memory; a multiple of 8
    margin_px: int = 32  # picture around a crop that is seen but not written; a multiple of 8
    radii_px: tuple[int, ...] = (3, 5, 9)  # inpainting radii to choose from; cost grows with the square
    radius_per_half_width: float = 1.5  # a mark takes the smallest radius >= this x half its width (else the largest)
    direct_width_px: int = 17  # where a square of this side fits into the damage, its inside comes from half size
    rim_px: int = 4  # ring inpainted at full size around what came from half size, so that no step shows


def fill(raster: Raster, mask: Mask, method: Method = "telea", config: FillConfig = FillConfig()) -> Raster:
    """``raster`` with the pixels where ``mask`` >= 0.5 filled from around them; every other pixel bit-exact, checked.

    Same size, bit depth, ICC and metadata; gray or RGB, uint8 or uint16 (16 bit is filled channel by channel). An empty
    mask gives ``raster`` itself. Deterministic. Memory beyond the input: a copy of the pixels, two bytes a pixel for
    masks, a crop; with damage wider than ``direct_width_px`` also half-size copies (a third more). Such damage is
    filled coarse to fine: its inside at half size (again and again), then a rim at full size. No grain is added.
    Raises ValueError for a mask of another size or one that covers the whole picture, ChangedOutside if a pixel outside
    the mask changed.
    """
    if mask.shape != raster.pixels.shape[:2]:
        raise ValueError(f"fill: expected a mask of {raster.pixels.shape[:2]}, found {mask.shape}")
    damaged: Flags = mask.damaged().view(np.uint8)
    share = np.count_nonzero(damaged) / damaged.size
    if share == 0:
        return raster
    if share == 1:
        raise ValueError("fill: expected a mask that leaves some picture to fill from, found one that covers all of it")
    out = _filled(raster.pixels, damaged, method, config)
    check_untouched(raster.pixels, out, damaged)
    return raster.with_pixels(out)


def _filled(pixels: Pixels, damaged: Flags, method: Method, config: FillConfig) -> Pixels:
    """A copy of ``pixels`` with the damaged ones filled: wide damage from a half-size fill, then the rest in crops."""
    out = pixels.copy()
    inside = deep_inside(damaged, config)
    half: Pixels | None = None
    if inside is not None:
        half_pixels, half_damaged = half_size_of(pixels, damaged)
        if not half_damaged.all():
            half = _filled(half_pixels, half_damaged, method, config)
    for y0, y1, x0, x1, own in _crops(damaged, config.crop_px):
        m = config.margin_px
        a, b, c, d = max(y0 - m, 0), min(y1 + m, damaged.shape[0]), max(x0 - m, 0), min(x1 + m, damaged.shape[1])
        picture, hole = pixels[a:b, c:d].copy(), damaged[a:b, c:d].copy()
        if half is not None and inside is not None:
            deep = inside[a:b, c:d] != 0
            coarse = half[a // 2 : (b + 1) // 2, c // 2 : (d + 1) // 2]
            big = cv2.resize(coarse, (coarse.shape[1] * 2, coarse.shape[0] * 2), interpolation=cv2.INTER_LINEAR)
            picture[deep] = big.reshape(*big.shape[:2], -1)[: b - a, : d - c][deep]
            hole[deep] = 0
        mended = _inpaint_by_width(picture, hole, method, config)
        write = own != 0
        out[y0:y1, x0:x1][write] = mended[y0 - a : y1 - a, x0 - c : x1 - c][write]
    return out


def _inpaint_by_width(picture: Pixels, hole: Flags, method: Method, config: FillConfig) -> Pixels:
    """``picture`` with ``hole`` inpainted, each mark with the radius its own width asks for."""
    if not hole.any():
        return picture
    if hole.all():  # only when a picture is hardly larger than its damage and the half-size fill had nothing either
        return picture
    count, labels = cv2.connectedComponents(hole, connectivity=8)
    depth = cv2.distanceTransform(hole, cv2.DIST_L2, 3)
    half_width = np.zeros(count, np.float32)
    np.maximum.at(half_width, labels[hole != 0], depth[hole != 0])
    wanted = np.searchsorted(config.radii_px, half_width * config.radius_per_half_width)
    choice = np.minimum(wanted, len(config.radii_px) - 1)[labels]
    out = picture.copy()
    for i, radius in enumerate(config.radii_px):
        pick = (choice == i) & (hole != 0)
        if pick.any():
            out[pick] = inpainted(picture, hole, radius, method)[pick]
    return out


def inpainted(picture: Pixels, hole: Flags, radius_px: int, method: Method) -> Pixels:
    """``cv2.inpaint``, channel by channel: it takes 16 bit only with one channel."""
    channels = [
        cv2.inpaint(np.ascontiguousarray(picture[:, :, i]), hole, radius_px, _FLAGS[method])
        for i in range(picture.shape[2])
    ]
    return np.stack(channels, axis=2)


def deep_inside(damaged: Flags, config: FillConfig) -> Flags | None:
    """Damage that lies deeper than the rim inside wide damage, or None where no damage is wide."""
    square = np.ones((config.direct_width_px, config.direct_width_px), np.uint8)
    seeds = cv2.erode(damaged, square, borderType=cv2.BORDER_CONSTANT, borderValue=1)
    if not seeds.any():
        return None
    side = config.direct_width_px - 2 * config.rim_px
    return np.asarray(cv2.dilate(seeds, np.ones((side, side), np.uint8)), np.uint8)


def half_size_of(pixels: Pixels, damaged: Flags) -> tuple[Pixels, Flags]:
    """Half size, rounded up: each pixel the mean of its undamaged ones; damaged where fewer than half are left."""
    height, width, channels = pixels.shape
    small = np.empty(((height + 1) // 2, (width + 1) // 2, channels), pixels.dtype)
    flags = np.empty(small.shape[:2], np.uint8)
    for y in range(0, height, _BAND_ROWS):
        band, hurt = pixels[y : y + _BAND_ROWS], damaged[y : y + _BAND_ROWS]
        pad = ((0, band.shape[0] % 2), (0, width % 2))
        known = np.pad(1 - hurt, pad, mode="edge").astype(np.float32)[:, :, None]
        light = np.pad(band, (*pad, (0, 0)), mode="edge").astype(np.float32) * known
        rows = slice(y // 2, y // 2 + known.shape[0] // 2)
        weight = known.reshape(known.shape[0] // 2, 2, -1, 2, 1).sum(axis=(1, 3))
        total = light.reshape(known.shape[0] // 2, 2, -1, 2, channels).sum(axis=(1, 3))
        small[rows] = np.rint(total / np.maximum(weight, 1)).astype(pixels.dtype)
        flags[rows] = weight[:, :, 0] < 2
    return small, flags


def _crops(damaged: Flags, crop_px: int) -> Iterator[tuple[int, int, int, int, Flags]]:
    """(y0, y1, x0, x1, own): boxes that together hold all damage once; ``own`` marks the pixels to write.

    Marks that lie near each other share a box; a box larger than ``crop_px`` is cut. Boxes start at multiples of 8.
    """
    height, width = damaged.shape
    rows = np.maximum.reduceat(damaged, np.arange(0, height, _BLOCK_PX), axis=0)
    blocks = np.maximum.reduceat(rows, np.arange(0, width, _BLOCK_PX), axis=1)
    near = cv2.dilate(blocks, np.ones((3, 3), np.uint8))
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
    step = crop_px // _BLOCK_PX
    for label in range(1, count):
        left, top, wide, high = (int(v) for v in boxes[label, :4])
        for by in range(top, top + high, step):
            for bx in range(left, left + wide, step):
                group = labels[by : min(by + step, top + high), bx : min(bx + step, left + wide)] == label
                y0, x0 = by * _BLOCK_PX, bx * _BLOCK_PX
                y1, x1 = min(y0 + group.shape[0] * _BLOCK_PX, height), min(x0 + group.shape[1] * _BLOCK_PX, width)
                member = group.repeat(_BLOCK_PX, axis=0).repeat(_BLOCK_PX, axis=1)[: y1 - y0, : x1 - x0]
                own: Flags = damaged[y0:y1, x0:x1] * member
                if own.any():
                    yield y0, y1, x0, x1, own


def check_untouched(before: Pixels, after: Pixels, damaged: Flags) -> None:
    """Raises ChangedOutside unless every pixel outside ``damaged`` is the same in both."""
    for y in range(0, before.shape[0], _BAND_ROWS):
        rows = slice(y, y + _BAND_ROWS)
        changed = (before[rows] != after[rows]).any(axis=2) & (damaged[rows] == 0)
        if changed.any():
            first = np.argwhere(changed)[0]
            raise ChangedOutside(
                f"fill: expected no change outside the mask, found {np.count_nonzero(changed)} changed pixels "
                f"in rows {y}..{y + changed.shape[0] - 1}, the first at row {y + first[0]}, column {first[1]}"
            )
