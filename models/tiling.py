"""Tiles: where they lie, how they are read from a scan, how their residuals are blended and added to it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from models.colour import Space
from models.imaging import Mask, Raster

EDGE_PX = 8  # the picture is continued by reflection, so that a network's zero padding never meets a real pixel
RAMP_PX = 16  # next to what is discarded of a tile's side that has a neighbour: blended with the neighbour
MULTIPLE_PX = 8
CUBIC_REACH_PX = 4
GRAY_WITHIN = 2  # levels of 255
FLUSH_ROWS = 64

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8] | NDArray[np.uint16]


def smallest_tile_px(discard_px: int) -> int:
    """The smallest tile that still has 16 px of its own when ``discard_px`` of each side are discarded."""
    return 2 * discard_px + RAMP_PX + 16


def starts(length_px: int, tile_px: int, discard_px: int) -> tuple[int, ...]:
    """Where tiles of ``tile_px`` begin so that they cover ``length_px`` evenly; the last may reach a little beyond.

    Neighbours share at least ``discard_px`` of each and RAMP_PX. All begin at multiples of 8: a network that works at
    1/8 of the size sees the same squares of pixels whatever tile they are in.
    """
    if length_px <= tile_px:
        return (0,)
    last = math.ceil((length_px - tile_px) / MULTIPLE_PX)
    step = (tile_px - 2 * discard_px - RAMP_PX) // MULTIPLE_PX
    count = math.ceil(last / step) + 1
    return tuple(round(i * last / (count - 1)) * MULTIPLE_PX for i in range(count))


def ramp(length_px: int, first: bool, last: bool, discard_px: int, ramp_px: int) -> Floats:
    """(length,) weights of a tile along one axis: 0, rising, 1; ``first`` and ``last`` tiles keep their outer side."""
    at = np.arange(length_px, dtype=np.float32) + 0.5
    rising: Floats = np.clip((at - discard_px) / np.float32(ramp_px), 0, 1, dtype=np.float32)
    flat = np.ones_like(at)
    return (flat if first else rising) * (flat if last else rising[::-1])


def reflected(start: int, stop: int, length: int) -> NDArray[np.intp]:
    """Indices start..stop-1 of an axis of ``length``, those outside it mirrored at its ends."""
    at = np.arange(start, stop)
    if length == 1:
        return np.zeros_like(at)
    at = np.abs(at) % (2 * length - 2)
    return np.minimum(at, 2 * length - 2 - at)


def region(pixels: Pixels, top: int, bottom: int, left: int, right: int) -> Floats:
    """(bottom - top, right - left, C) in [0, 1]; rows and columns outside the picture are mirrored in."""
    height, width = pixels.shape[:2]
    if top >= 0 and left >= 0 and bottom <= height and right <= width:
        cut = pixels[top:bottom, left:right]
    else:
        cut = pixels[reflected(top, bottom, height)][:, reflected(left, right, width)]
    return cut.astype(np.float32) * np.float32(1 / np.iinfo(pixels.dtype).max)


def cut(pixels: Pixels, top: int, left: int, side_px: int) -> Pixels:
    """A copy of the square, or of what of it lies inside the picture."""
    return pixels[top : top + side_px, left : left + side_px].copy()


def resized(picture: Floats, ratio: float) -> Floats:
    """(h, w, C) -> (h * ratio, w * ratio, C): by area when smaller, cubic when larger. Pixel grids stay aligned."""
    if ratio == 1:
        return picture
    height, width = round(picture.shape[0] * ratio), round(picture.shape[1] * ratio)
    how = cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC
    out = cv2.resize(picture, (width, height), interpolation=how).astype(np.float32, copy=False)
    return out.reshape(height, width, picture.shape[2])


def is_gray(pixels: Pixels) -> bool:
    """Whether all channels are equal within 2 levels of 255; looked at in bands, so nothing large is made."""
    if pixels.shape[2] == 1:
        return True
    limit = GRAY_WITHIN * (257 if pixels.dtype == np.uint16 else 1)
    for top in range(0, pixels.shape[0], 256):
        band = pixels[top : top + 256]
        spread = band.max(axis=2).astype(np.int32) - band.min(axis=2)
        if int(spread.max()) > limit:
            return False
    return True


def add_residual(
    own: Floats, residual: Floats, space: Space, gray: bool, dtype: np.dtype[np.uint8] | np.dtype[np.uint16]
) -> Pixels:
    """``own`` (h, w, C) in [0, 1] of ``space`` plus an sRGB residual (h, w, 3), rounded and clamped to ``dtype``.

    ``gray``: every channel changes by the same, so that gray stays gray.
    """
    top = np.iinfo(dtype).max
    if gray:
        residual = np.repeat(residual.mean(axis=2, keepdims=True, dtype=np.float32), 3, axis=2)
    change = space.own_change(own, residual)
    if gray:
        change = change.mean(axis=2, keepdims=True, dtype=np.float32)
    summed = np.add(own, change, dtype=np.float32)
    np.multiply(summed, top, out=summed)
    np.rint(summed, out=summed)
    np.clip(summed, 0, top, out=summed)
    return summed.astype(np.uint8) if dtype == np.uint8 else summed.astype(np.uint16)


@dataclass(eq=False, slots=True)
class Canvas:
    """One picture on its way through a network: gives tiles out, takes their residuals in, fills ``out`` band by band.

    ``raster`` is worked at 1/``factor`` of its size; ``out`` has ``scale`` times its size. Residuals come at
    ``scale * factor`` pixels per worked pixel and wait, weighted, in one float32 band of one row of tiles.
    ``discard_px``: of a tile's side that has a neighbour: seen by the network, not used. ``mask``: of the
    raster's size, for networks that are told what was filled.
    """

    raster: Raster
    space: Space
    scale: int
    factor: int
    tile_px: int
    discard_px: int
    gray: bool
    mask: Mask | None = None
    out: Pixels = field(init=False)
    tile_height: int = field(init=False)
    tile_width: int = field(init=False)
    tops: tuple[int, ...] = field(init=False)
    lefts: tuple[int, ...] = field(init=False)
    given: int = field(init=False, default=0)
    taken: int = field(init=False, default=0)
    _sums: Floats = field(init=False)
    _weights: Floats = field(init=False)

    def __post_init__(self) -> None:
        pixels = self.raster.pixels
        height, width = (math.ceil(side / self.factor) + 2 * EDGE_PX for side in pixels.shape[:2])
        self.tile_height, self.tile_width = (
            min(self.tile_px, math.ceil(side / MULTIPLE_PX) * MULTIPLE_PX) for side in (height, width)
        )
        self.tops = starts(height, self.tile_height, self.discard_px)
        self.lefts = starts(width, self.tile_width, self.discard_px)
        self.out = np.empty((pixels.shape[0] * self.scale, pixels.shape[1] * self.scale, pixels.shape[2]), pixels.dtype)
        self._sums = np.zeros((self.tile_height * self.ratio, width * self.ratio, 3), np.float32)
        self._weights = np.zeros(self._sums.shape[:2], np.float32)

    @property
    def ratio(self) -> int:
        """Output pixels per worked pixel."""
        return self.scale * self.factor

    @property
    def tiles(self) -> int:
        """How many there are."""
        return len(self.tops) * len(self.lefts)

    @property
    def finished(self) -> bool:
        """Whether every tile has been taken in and ``out`` is complete."""
        return self.taken == self.tiles

    def corner(self, index: int) -> tuple[int, int]:
        """Top and left of tile ``index`` in worked pixels of the picture; may lie EDGE_PX outside it."""
        row, column = divmod(index, len(self.lefts))
        return self.tops[row] - EDGE_PX, self.lefts[column] - EDGE_PX

    def tile(self, index: int) -> Floats:
        """Tile ``index`` of the scan itself in sRGB: (tile_height * factor, tile_width * factor, 3)."""
        top, left = self.corner(index)
        bottom, right = top + self.tile_height, left + self.tile_width
        f = self.factor
        return self.space.to_srgb(region(self.raster.pixels, top * f, bottom * f, left * f, right * f))

    def mask_tile(self, index: int) -> Floats:
        """Tile ``index`` of the mask, (tile_height * factor, tile_width * factor); nothing damaged without one."""
        top, left = (f * self.factor for f in self.corner(index))
        height, width = self.tile_height * self.factor, self.tile_width * self.factor
        if self.mask is None:
            return np.zeros((height, width), np.float32)
        rows, columns = self.mask.shape
        part = self.mask.stored[np.ix_(reflected(top, top + height, rows), reflected(left, left + width, columns))]
        whole = 255 if part.dtype == np.uint8 else 1
        return np.multiply(part, np.float32(1 / whole), dtype=np.float32)

    def take(self, residual: Floats) -> None:
        """Blends in the residual of the next tile in order: (tile_height * ratio, tile_width * ratio, 3), sRGB."""
        row, column = divmod(self.taken, len(self.lefts))
        r, discard, ramp_px = self.ratio, self.discard_px * self.ratio, RAMP_PX * self.ratio
        down = ramp(residual.shape[0], row == 0, row == len(self.tops) - 1, discard, ramp_px)
        across = ramp(residual.shape[1], column == 0, column == len(self.lefts) - 1, discard, ramp_px)
        weight = down[:, None] * across
        left = self.lefts[column] * r
        right = min(left + residual.shape[1], self._sums.shape[1])
        self._sums[:, left:right] += (residual * weight[:, :, None])[:, : right - left]
        self._weights[:, left:right] += weight[:, : right - left]
        self.taken += 1
        if column == len(self.lefts) - 1:
            self._flush(row)

    def _flush(self, row: int) -> None:
        """Adds the rows that no later tile reaches to the scan, writes them to ``out``, moves the band down."""
        r = self.ratio
        top = self.tops[row] * r
        bottom = self.tops[row + 1] * r if row + 1 < len(self.tops) else top + self._sums.shape[0]
        edge = EDGE_PX * r
        first, last = max(top, edge), min(bottom, self.out.shape[0] + edge)
        for start in range(first, last, FLUSH_ROWS):  # a few rows at a time: the sum needs several copies of them
            stop = min(start + FLUSH_ROWS, last)
            rows, columns = slice(start - top, stop - top), slice(edge, edge + self.out.shape[1])
            weights = np.maximum(self._weights[rows, columns, None], np.float32(1e-6))
            residual = np.divide(self._sums[rows, columns], weights, dtype=np.float32)
            own = self._own(start - edge, stop - edge)
            self.out[start - edge : stop - edge] = add_residual(own, residual, self.space, self.gray, self.out.dtype)
        kept = self._sums.shape[0] - (bottom - top)
        for band in (self._sums, self._weights):
            band[:kept] = band[bottom - top :].copy()
            band[kept:] = 0

    def _own(self, top: int, bottom: int) -> Floats:
        """Rows top..bottom-1 of the scan at output size, in its own space."""
        if self.scale == 1:
            return region(self.raster.pixels, top, bottom, 0, self.raster.width)
        first, last = top // self.scale - CUBIC_REACH_PX, -(-bottom // self.scale) + CUBIC_REACH_PX
        reach = CUBIC_REACH_PX
        wide = region(self.raster.pixels, first, last, -reach, self.raster.width + reach)
        large = resized(wide, self.scale)
        inside = large[top - first * self.scale : bottom - first * self.scale]
        return inside[:, reach * self.scale : (reach + self.raster.width) * self.scale]
