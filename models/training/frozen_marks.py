"""Version 1 of the marks of the frozen evaluation: never edited; a better one is a version 2 beside it.

It shares no line with ``models/damage``, for two reasons. The simulator is tuned again and again and the examination
must not move with it; and a network is not to be examined on the very strokes it was taught with. Everything is drawn
in float64 from distances, without OpenCV, so that versions and machines agree after rounding to 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float64]
WIDTHS = {1: (0.8, 1.2), 2: (1.7, 2.4), 4: (3.3, 4.8), 8: (7.0, 13.0)}
"""Classes of width in pixels and what each is drawn from; 8 stands for 8 and more."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """One mark: ``alpha`` (H, W) in [0, 1], its kind and class of width, how opaque it is.

    ``strength``: its change, signed, in local noises (see ``frozen.FrozenMark``).
    """

    kind: str
    width_px: int
    alpha: Array
    strength: float
    opaque: float


def draw_marks(rng: np.random.Generator, shape: tuple[int, int], strength: tuple[float, float]) -> list[Drawn]:
    """The marks of one picture; how many grows with its area. ``strength``: its bounds, log-uniform."""
    area = shape[0] * shape[1] / 154_000
    plan: list[str] = []
    for kind, low, high in (("scratch", 4, 9), ("hair", 1, 3), ("speck", 8, 24), ("spot", 1, 4)):
        plan += [kind] * round(float(rng.integers(low, high + 1)) * area)
    for kind, chance in (("crease", 0.5), ("flake", 0.6), ("stain", 0.25)):
        plan += [kind] if rng.random() < chance else []
    marks = []
    for kind in plan:
        over = float(np.exp(rng.uniform(*np.log(strength)))) * (-1 if rng.random() < 0.35 else 1)
        width = int(rng.choice([1, 2, 4, 8], p=(0.4, 0.3, 0.2, 0.1)))
        alpha, width = DRAW[kind](rng, shape, width)
        if alpha.max() > 0.25:
            opaque = 0.0 if kind == "stain" else float(rng.uniform(0.3, 1.0))
            marks.append(Drawn(kind, width, alpha, over, opaque))
    return marks


def _scratch(rng: np.random.Generator, shape: tuple[int, int], width: int) -> tuple[Array, int]:
    h, w = shape
    angle, bend = rng.uniform(0, np.pi), rng.normal(0, 0.4) * (rng.random() < 0.7)
    length = min(h, w) * np.exp(rng.uniform(np.log(0.15), np.log(1.3)))
    path = _path(rng, rng.uniform(0, 1, 2) * (w, h), angle, length, bend)
    broken = rng.uniform(0, 0.5) if rng.random() < 0.5 else 0.0
    return _line(rng, shape, path, _width(rng, width), broken), width


def _hair(rng: np.random.Generator, shape: tuple[int, int], width: int) -> tuple[Array, int]:
    width = min(width, 2)
    length = min(shape) * rng.uniform(0.08, 0.4)
    start = rng.uniform(0, 1, 2) * (shape[1], shape[0])
    return _line(
        rng, shape, _path(rng, start, rng.uniform(0, 7), length, rng.normal(0, 3.0)), _width(rng, width)
    ), width


def _crease(rng: np.random.Generator, shape: tuple[int, int], width: int) -> tuple[Array, int]:
    h, w = shape
    angle, reach = rng.uniform(0, np.pi), float(np.hypot(h, w))
    way = np.array([np.cos(angle), np.sin(angle)])
    path = _path(rng, rng.uniform(0.2, 0.8, 2) * (w, h) - way * reach, angle, 2 * reach, 0.02)
    path += rng.normal(0, 0.8, path.shape)
    return _line(rng, shape, path, _width(rng, width), 0.15), width


def _speck(rng: np.random.Generator, shape: tuple[int, int], width: int) -> tuple[Array, int]:
    size, stretch, turn = _width(rng, width) * 1.3, rng.uniform(1, 2.2), rng.uniform(0, np.pi)
    return _ellipse(shape, rng.uniform(0, 1, 2) * (shape[1], shape[0]), size / 2, stretch, turn, 1.0), width


def _spot(rng: np.random.Generator, shape: tuple[int, int], width: int) -> tuple[Array, int]:
    size = rng.uniform(8, 20)
    soft = rng.uniform(1, 5)
    return _ellipse(shape, rng.uniform(0, 1, 2) * (shape[1], shape[0]), size / 2, rng.uniform(1, 1.3), 0.0, soft), 8


def _flake(rng: np.random.Generator, shape: tuple[int, int], width: int) -> tuple[Array, int]:
    return _blotch(rng, shape, rng.uniform(8, 30), 1.2), 8


def _stain(rng: np.random.Generator, shape: tuple[int, int], width: int) -> tuple[Array, int]:
    return _blotch(rng, shape, rng.uniform(25, 60), 8.0), 8


DRAW = {
    "scratch": _scratch,
    "hair": _hair,
    "crease": _crease,
    "speck": _speck,
    "spot": _spot,
    "flake": _flake,
    "stain": _stain,
}


def draw_wires(rng: np.random.Generator, picture: Array) -> Array:
    """``picture`` (H, W, C) with one to four dark wires from side to side: content, which nobody may mark."""
    h, w = picture.shape[:2]
    tone, y, slope, sag = (
        rng.uniform(0, 0.25),
        rng.uniform(0.05, 0.6) * h,
        rng.normal(0, 0.2) * h,
        rng.uniform(0, 0.1) * h,
    )
    t = np.linspace(-0.02, 1.02, 30)
    width = rng.uniform(0.8, 2.2)
    for _ in range(int(rng.integers(1, 5))):
        y += rng.uniform(4, 0.08 * h)
        path = np.stack([t * w, y + slope * t + 4 * sag * t * (1 - t)], 1)
        picture = picture + _line(rng, (h, w), path, width)[:, :, None] * (tone - picture)
    return picture


def _width(rng: np.random.Generator, width: int) -> float:
    return float(rng.uniform(*WIDTHS[width]))


def _path(rng: np.random.Generator, start: Array, angle: float, length: float, bend: float) -> Array:
    """A polyline of steps of about 8 px whose heading turns by ``bend`` radians in all, not evenly."""
    count = max(int(length / 8), 5)
    pace = np.interp(np.linspace(0, 1, count), np.linspace(0, 1, 5), rng.normal(1, 0.8, 5))
    heading = angle + bend * np.cumsum(pace) / count
    steps = np.stack([np.cos(heading), np.sin(heading)], 1) * (length / count)
    return np.asarray(start + np.cumsum(steps, 0) - steps[0])


def _line(rng: np.random.Generator, shape: tuple[int, int], path: Array, width: float, broken: float = 0.0) -> Array:
    """Coverage by a polyline: 1 within half its width, falling to 0 over one pixel; thinner than 1 px is fainter."""
    wave = np.interp(np.arange(len(path)), np.linspace(0, len(path), 9), rng.uniform(0.75, 1.2, 9))
    gone = np.interp(np.arange(len(path)), np.linspace(0, len(path), 12), rng.random(12))
    kept = gone >= np.quantile(gone, broken) if broken else np.ones(len(path), np.bool_)
    alpha = np.zeros(shape)
    for k in range(len(path) - 1):
        if not kept[k]:
            continue
        (ax, ay), (bx, by) = path[k], path[k + 1]
        half = width * wave[k] / 2
        x0, x1 = max(int(min(ax, bx) - half - 1), 0), min(int(max(ax, bx) + half + 3), shape[1])
        y0, y1 = max(int(min(ay, by) - half - 1), 0), min(int(max(ay, by) + half + 3), shape[0])
        if x1 <= x0 or y1 <= y0:
            continue
        px, py = np.arange(x0, x1)[None, :] - ax, np.arange(y0, y1)[:, None] - ay
        dx, dy = bx - ax, by - ay
        t = np.clip((px * dx + py * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
        distance = np.hypot(px - t * dx, py - t * dy)
        cover = np.clip(half - distance + 0.5, 0, min(2 * half, 1.0))
        view = alpha[y0:y1, x0:x1]
        np.maximum(view, cover, out=view)
    return alpha


def _ellipse(shape: tuple[int, int], at: Array, radius: float, stretch: float, turn: float, soft: float) -> Array:
    x, y = np.arange(shape[1])[None, :] - at[0], np.arange(shape[0])[:, None] - at[1]
    u, v = x * np.cos(turn) + y * np.sin(turn), -x * np.sin(turn) + y * np.cos(turn)
    distance = np.hypot(u / np.sqrt(stretch), v * np.sqrt(stretch))
    return np.asarray(np.clip((radius - distance) / soft + 0.5, 0, min(2 * radius, 1.0)))


def _blotch(rng: np.random.Generator, shape: tuple[int, int], size: float, edge: float) -> Array:
    """A ragged blot: an ellipse's distance disturbed by smooth noise."""
    at = rng.uniform(0, 1, 2) * (shape[1], shape[0])
    x, y = np.arange(shape[1])[None, :] - at[0], np.arange(shape[0])[:, None] - at[1]
    rough = sum(_noise(rng, shape, size / part) / part for part in (2.0, 6.0))
    distance = np.hypot(x * rng.uniform(0.7, 1.4), y) + rough * size * 0.35
    return np.asarray(np.clip((size / 2 - distance) / edge + 0.5, 0, 1))


def _noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Array:
    field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="reflect", truncate=3.0)
    return np.asarray(field / (field.std() + 1e-12))
