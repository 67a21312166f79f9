"""Lines and cloudy fields to draw damage with: curves, soft strokes of exact width, smooth random fields."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (N, 2), x then y, in pixels


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A part of the picture and how far each of its pixels is covered: ``alpha`` (h, w) float32 in [0, 1]."""

    top: int
    left: int
    alpha: NDArray[np.float32]

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the picture that the patch lies on."""
        h, w = self.alpha.shape
        return slice(self.top, self.top + h), slice(self.left, self.left + w)


def smooth(rng: np.random.Generator, count: int, knots: int) -> NDArray[np.float64]:
    """``count`` values of a smooth random curve, about -1..1, with ``knots`` places where it may turn."""
    return np.interp(np.linspace(0.0, 1.0, count), np.linspace(0.0, 1.0, knots), rng.standard_normal(knots) * 0.6)


def curve(
    rng: np.random.Generator,
    start: tuple[float, float],
    angle: float,
    length_px: float,
    bend: float,
    jitter_px: float = 0.0,
) -> Points:
    """A polyline from ``start`` heading ``angle`` (radians), turning by about ``bend`` radians on its way."""
    count = int(np.clip(length_px / 4.0, 6, 160))
    heading = angle + bend * np.cumsum(smooth(rng, count, 5)) / count * 2.0 + bend * 0.3 * smooth(rng, count, 4)
    step = length_px / (count - 1)
    points = np.stack([np.cos(heading), np.sin(heading)], 1) * step
    points[0] = start
    path = np.cumsum(points, 0)
    if jitter_px > 0:
        path[1:-1] += rng.standard_normal((count - 2, 2)) * jitter_px
    return path


def through(rng: np.random.Generator, shape: tuple[int, int], angle: float) -> tuple[tuple[float, float], float]:
    """Start and length of a line at ``angle`` that crosses the whole picture through a random point of it."""
    h, w = shape
    reach = float(np.hypot(h, w))
    x, y = rng.uniform(0.05, 0.95) * w, rng.uniform(0.05, 0.95) * h
    return (x - np.cos(angle) * reach, y - np.sin(angle) * reach), 2.0 * reach


def gaps(rng: np.random.Generator, count: int, share: float) -> NDArray[np.bool_]:
    """Which of ``count`` segments are drawn when about ``share`` of the line is missing, in runs."""
    if share <= 0:
        return np.ones(count, np.bool_)
    run = np.interp(np.arange(count), np.linspace(0, count, max(count // 4, 3)), rng.random(max(count // 4, 3)))
    return np.asarray(run > np.quantile(run, share))


def stroke(
    points: Points,
    widths_px: NDArray[np.float64],
    shape: tuple[int, int],
    drawn: NDArray[np.bool_] | None = None,
    soft_px: float = 0.0,
) -> Patch | None:
    """The polyline as a soft stroke; ``widths_px`` one a point, from 0.3 px; None when it misses the picture."""
    pad = float(widths_px.max()) / 2 + 2 + 3 * soft_px
    box = _box(points.min(0) - pad, points.max(0) + pad, shape)
    if box is None:
        return None
    top, left, bottom, right = box
    times = 4 if widths_px.min() < 4 else 2
    while times > 1 and (bottom - top) * (right - left) * times * times > 4_000_000:
        times //= 2
    canvas = np.zeros(((bottom - top) * times, (right - left) * times), np.uint8)
    place = np.round(((points - (left, top)) * times - 0.5) * 16).astype(np.int32)
    thick = np.maximum(np.round((widths_px[:-1] + widths_px[1:]) / 2 * times), 1).astype(int)
    keep = np.ones(len(thick), np.bool_) if drawn is None else drawn[: len(thick)]
    key = np.where(keep, thick, 0)
    edges = np.flatnonzero(np.diff(key)) + 1
    for begin, end in zip([0, *edges], [*edges, len(key)], strict=True):
        if key[begin]:
            cv2.polylines(canvas, [place[begin : end + 1]], False, 255, int(key[begin]), cv2.LINE_8, 4)
    alpha = cv2.resize(canvas, (right - left, bottom - top), interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0
    if soft_px > 0.2:
        alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), soft_px), np.float32)
    return Patch(top, left, np.asarray(alpha, np.float32))


def polygon(points: Points, shape: tuple[int, int], soft_px: float = 0.0) -> Patch | None:
    """The inside of a closed polyline as a soft patch; None when it misses the picture."""
    pad = 2 + 3 * soft_px
    box = _box(points.min(0) - pad, points.max(0) + pad, shape)
    if box is None:
        return None
    top, left, bottom, right = box
    times = 2
    canvas = np.zeros(((bottom - top) * times, (right - left) * times), np.uint8)
    cv2.fillPoly(canvas, [np.round(((points - (left, top)) * times - 0.5) * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
    alpha = cv2.resize(canvas, (right - left, bottom - top), interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0
    if soft_px > 0.2:
        alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), soft_px), np.float32)
    return Patch(top, left, np.asarray(alpha, np.float32))


def merged(patches: list[Patch | None]) -> Patch | None:
    """All patches as one, the greater alpha where they overlap; None when none is left."""
    found = [patch for patch in patches if patch is not None]
    if len(found) < 2:
        return found[0] if found else None
    top, left = min(p.top for p in found), min(p.left for p in found)
    bottom = max(p.top + p.alpha.shape[0] for p in found)
    right = max(p.left + p.alpha.shape[1] for p in found)
    alpha = np.zeros((bottom - top, right - left), np.float32)
    for patch in found:
        y, x = patch.top - top, patch.left - left
        view = alpha[y : y + patch.alpha.shape[0], x : x + patch.alpha.shape[1]]
        np.maximum(view, patch.alpha, out=view)
    return Patch(top, left, alpha)


def placed(alpha: NDArray[np.float32], centre: tuple[float, float], shape: tuple[int, int]) -> Patch | None:
    """``alpha`` with its middle at ``centre`` (x, y), cut at the picture's edges; None when nothing is left."""
    h, w = alpha.shape
    top, left = round(centre[1] - h / 2), round(centre[0] - w / 2)
    y0, x0, y1, x1 = max(-top, 0), max(-left, 0), min(h, shape[0] - top), min(w, shape[1] - left)
    if y1 <= y0 or x1 <= x0:
        return None
    return Patch(top + y0, left + x0, np.ascontiguousarray(alpha[y0:y1, x0:x1]))


def turned(alpha: NDArray[np.uint8], rng: np.random.Generator, scale: float) -> NDArray[np.float32]:
    """A stamp scaled, turned by any angle and perhaps mirrored, float32 in [0, 1]."""
    if scale < 0.7:  # warping alone would skip pixels and break thin lines
        size = (max(round(alpha.shape[1] * scale * 1.2), 2), max(round(alpha.shape[0] * scale * 1.2), 2))
        alpha = np.asarray(cv2.resize(alpha, size, interpolation=cv2.INTER_AREA), np.uint8)
        scale = 1 / 1.2
    if rng.random() < 0.5:
        alpha = alpha[:, ::-1]
    h, w = alpha.shape
    angle = rng.uniform(0, 360)
    cos, sin = abs(np.cos(np.radians(angle))), abs(np.sin(np.radians(angle)))
    out = (int((w * cos + h * sin) * scale) + 3, int((w * sin + h * cos) * scale) + 3)
    matrix = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), angle, scale)
    matrix[:, 2] += (out[0] / 2 - (w - 1) / 2, out[1] / 2 - (h - 1) / 2)
    turn = cv2.warpAffine(np.ascontiguousarray(alpha), matrix, out, flags=cv2.INTER_LINEAR)
    return np.asarray(turn, np.float32) / np.float32(255.0)


def cloud(rng: np.random.Generator, shape: tuple[int, int], cell_px: float, octaves: int = 1) -> NDArray[np.float32]:
    """A smooth random field (H, W) float32, mean about 0, spread about 1; blobs of ``cell_px``, finer by octave."""
    h, w = shape
    total = np.zeros(shape, np.float32)
    weight = 0.0
    for octave in range(octaves):
        cell = max(cell_px / 2**octave, 1.0)
        grid = rng.standard_normal((int(h / cell) + 3, int(w / cell) + 3), dtype=np.float32)
        size = (int(grid.shape[1] * cell) + 1, int(grid.shape[0] * cell) + 1)
        big = cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC if cell < 16 else cv2.INTER_LINEAR)
        y, x = (big.shape[0] - h) // 2, (big.shape[1] - w) // 2
        total += big[y : y + h, x : x + w] * np.float32(0.5**octave)
        weight += 0.25**octave
    return total * np.float32(1.3 / weight**0.5)


def _box(low: Points, high: Points, shape: tuple[int, int]) -> tuple[int, int, int, int] | None:
    top, left = max(int(np.floor(low[1])), 0), max(int(np.floor(low[0])), 0)
    bottom, right = min(int(np.ceil(high[1])) + 1, shape[0]), min(int(np.ceil(high[0])) + 1, shape[1])
    return (top, left, bottom, right) if bottom > top and right > left else None
