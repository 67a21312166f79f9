"""One function a kind of damage: each returns layers, where they lie and how they change what they cover."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.damage.recipe import Mark
from models.damage.stamps import Stamps
from models.damage.strokes import Patch, cloud, curve, gaps, merged, placed, polygon, smooth, stroke, through, turned


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One mark ready to be laid on the picture.

    ``change`` is signed, in [0, 1] of full scale, a number or a map as large as the patch. ``opaque`` in [0, 1]: 0 adds
    the change to the picture beneath, 1 replaces the picture by one level (what lay beneath is gone). ``tint`` scales
    the change by channel. ``width_px`` is that of the line or the diameter of the spot.
    """

    kind: str
    patch: Patch
    change: float | NDArray[np.float32]
    opaque: float
    width_px: float
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)


Draw = Callable[[np.random.Generator, tuple[int, int], Mark, Stamps | None], list[Layer]]
WHITE = (1.0, 1.0, 1.0)


def width_of(rng: np.random.Generator, mark: Mark) -> float:
    """A width between the mark's bounds, thin ones oftener (log-uniform)."""
    low, high = mark.width_px
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def change_of(rng: np.random.Generator, mark: Mark) -> float:
    """A signed change between the mark's bounds."""
    size = float(rng.uniform(*mark.contrast))
    return -size if rng.random() < mark.dark else size


def scratch(rng: np.random.Generator, shape: tuple[int, int], mark: Mark, stamps: Stamps | None) -> list[Layer]:
    """A long fine line, a curved one, one across the whole film, or a scuff of many short ones."""
    change, side = change_of(rng, mark), min(shape)
    way = rng.random()
    if way < 0.12 and stamps is not None and stamps.shapes.get("scratches"):
        return _stamped(rng, shape, stamps.shapes["scratches"], "scratch", change, rng.uniform(0.3, 0.9), 1.5)
    width, bend, angle = width_of(rng, mark), abs(rng.normal(0, 0.5)), rng.uniform(0, np.pi)
    if way < 0.3:  # along the film's transport: straight, through the whole picture, often in company
        angle = rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.03)
        start, length = through(rng, shape, angle)
        path = curve(rng, start, angle, length, 0.03)
        aside = rng.uniform(2, 14) * np.array([np.sin(angle), np.cos(angle)])
        others = [path + aside * k for k in range(int(rng.integers(1, 4)))]
    elif way < 0.45:  # a scuff
        centre, count = rng.uniform(0, 1, 2) * (shape[1], shape[0]), int(rng.integers(4, 12))
        spread, width = side * rng.uniform(0.04, 0.15), min(width, 2.0)
        others = []
        for _ in range(count):
            x, y = centre + rng.normal(0, spread, 2)
            turned_by, length = angle + rng.normal(0, 0.15), spread * rng.uniform(0.5, 2.5)
            others.append(curve(rng, (x, y), turned_by, length, bend * 0.5))
    else:
        start = (rng.uniform(-0.1, 1.0) * shape[1], rng.uniform(-0.1, 1.0) * shape[0])
        length = side * float(np.exp(rng.uniform(np.log(0.08), np.log(1.4))))
        others = [curve(rng, start, rng.uniform(0, 2 * np.pi), length, bend, 0.15 if rng.random() < 0.3 else 0.0)]
    missing, soft = max(rng.uniform(-0.5, 0.6), 0.0), float(rng.uniform(0.0, 0.7))
    opaque = float(rng.uniform(0.2, 1.0))
    patches = []
    for path in others:
        count = len(path)
        widths = width * np.clip(1.0 + 0.35 * smooth(rng, count, 8), 0.4, 1.8)
        if rng.random() < 0.6:  # runs out at both ends
            ends = np.minimum(np.arange(count) + 1, count - np.arange(count))
            widths = widths * np.clip(ends / (0.15 * count + 1), 0.25, 1)
        patches.append(stroke(path, np.maximum(widths, 0.5), shape, gaps(rng, count, missing), soft))
    patch = merged(patches)
    return [] if patch is None else [Layer("scratch", _uneven(rng, patch, 0.5), change, opaque, width)]


def hair(rng: np.random.Generator, shape: tuple[int, int], mark: Mark, stamps: Stamps | None) -> list[Layer]:
    """A hair or a fibre that lay on the film or the glass: even width, curled, both ends in the picture."""
    change, width = change_of(rng, mark), width_of(rng, mark)
    groups: list[tuple[NDArray[np.uint8], ...]] = []
    if stamps is not None:
        groups = [stamps.shapes.get(name, ()) for name in ("hair", "hair-short", "lint")]
        groups += [stamps.film.get(name, ()) for name in ("long_hair", "short_hair")]
    if groups and rng.random() < 0.5:
        group = groups[int(rng.integers(len(groups)))]
        if group:
            return _stamped(rng, shape, group, "hair", change, width / 4.0, width)
    length = min(shape) * float(rng.uniform(0.06, 0.5))
    start = (rng.uniform(0, 1) * shape[1], rng.uniform(0, 1) * shape[0])
    path = curve(rng, start, rng.uniform(0, 2 * np.pi), length, float(rng.uniform(0.5, 4.0)))
    patch = stroke(path, np.full(len(path), max(width, 0.6)), shape, None, float(rng.uniform(0.2, 0.9)))
    return [] if patch is None else [Layer("hair", patch, change, float(rng.uniform(0.5, 1.0)), width)]


def dust(rng: np.random.Generator, shape: tuple[int, int], mark: Mark, stamps: Stamps | None) -> list[Layer]:
    """A speck of any shape: one from a scanned film, or a small cloud cut at a level."""
    change, width = change_of(rng, mark), width_of(rng, mark)
    centre = (rng.uniform(0, 1) * shape[1], rng.uniform(0, 1) * shape[0])
    found = (stamps.film.get("dust", ()) + stamps.film.get("dirt", ())) if stamps else ()
    if found and rng.random() < 0.6:
        speck = found[int(rng.integers(len(found)))]
        alpha = turned(speck, rng, width / max(min(speck.shape) - 4, 2))
    else:
        size = int(np.ceil(width)) + 6
        yy, xx = np.mgrid[:size, :size].astype(np.float32) - np.float32(size / 2 - 0.5)
        turn, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 2.2)
        u, v = xx * np.cos(turn) + yy * np.sin(turn), -xx * np.sin(turn) + yy * np.cos(turn)
        ragged = np.float32(1) + np.float32(0.25) * cloud(rng, (size, size), max(width / 2, 2.0))
        alpha = np.clip(width / 2 * ragged - np.hypot(u / stretch, v * stretch**0.5) + 0.5, 0, 1).astype(np.float32)
    soft = rng.uniform(0.0, 0.8)
    if soft > 0.25:
        alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), soft), np.float32)
    patch = placed(alpha, centre, shape)
    return [] if patch is None else [Layer("dust", patch, change, float(rng.uniform(0.5, 1.0)), width)]


def dot(rng: np.random.Generator, shape: tuple[int, int], mark: Mark, stamps: Stamps | None) -> list[Layer]:
    """A round spot: an air bell, a drop, a pinhole; sometimes with a rim of the other sign."""
    change, width = change_of(rng, mark), width_of(rng, mark)
    centre = (rng.uniform(0, 1) * shape[1], rng.uniform(0, 1) * shape[0])
    groups = [stamps.shapes.get(name, ()) for name in ("spots", "sprinkles", "dirt")] if stamps else []
    if groups and rng.random() < 0.12:
        group = groups[int(rng.integers(len(groups)))]
        if group:
            return _stamped(rng, shape, group, "dot", change, rng.uniform(0.25, 0.9), width)
    edge = float(rng.uniform(0.8, 1.0 + width / 4))
    size = int(np.ceil(width * 1.4 + 2 * edge)) + 4
    yy, xx = np.mgrid[:size, :size].astype(np.float32) - np.float32(size / 2 - 0.5) + rng.uniform(-0.5, 0.5, (2, 1, 1))
    distance = np.hypot(xx * rng.uniform(0.85, 1.18), yy)
    alpha = np.clip((width / 2 - distance) / edge + 0.5, 0, 1).astype(np.float32)
    patch = placed(alpha, centre, shape)
    if patch is None:
        return []
    layers = [Layer("dot", patch, change, float(rng.uniform(0.4, 1.0)), width)]
    if width > 4 and rng.random() < 0.3:
        rim = np.exp(-(((distance - width / 2 - edge) / edge) ** 2)).astype(np.float32)
        ring = placed(rim, centre, shape)
        layers += [] if ring is None else [Layer("dot", ring, -0.4 * change, 0.2, width)]
    return layers


def crease(rng: np.random.Generator, shape: tuple[int, int], mark: Mark, stamps: Stamps | None) -> list[Layer]:
    """A fold: a cracked bright line with light on one side of it and shade on the other; or a web of cracks."""
    change, width = change_of(rng, mark), width_of(rng, mark)
    if rng.random() < 0.35:
        return _cracks(rng, shape, change, min(width, 3.0))
    angle = float(rng.uniform(0, np.pi))
    start, length = through(rng, shape, angle)
    if rng.random() < 0.5:
        length *= rng.uniform(0.3, 0.7)
    path = curve(rng, start, angle, length, 0.12, 0.3)
    path += (smooth(rng, len(path), 40) * width * 0.5)[:, None] * np.array([-np.sin(angle), np.cos(angle)])
    layers = []
    band = float(rng.uniform(3, 10)) * max(width, 1.5)
    if rng.random() < 0.8:
        yy, xx = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
        along = (path - path[0]) @ np.array([np.cos(angle), np.sin(angle)])
        across = (path - path[0]) @ np.array([-np.sin(angle), np.cos(angle)])
        u = (xx - path[0, 0]) * np.cos(angle) + (yy - path[0, 1]) * np.sin(angle)
        v = -(xx - path[0, 0]) * np.sin(angle) + (yy - path[0, 1]) * np.cos(angle)
        order = np.argsort(along)
        d = v - np.interp(u, along[order], across[order]).astype(np.float32)
        depth = float(rng.uniform(0.03, 0.14))
        ends = np.clip(np.minimum(u - along.min(), along.max() - u) / 30.0, 0, 1)
        shade = (np.sign(d) * np.exp(-np.abs(d) / band) * depth * ends).astype(np.float32)
        # Half a mask: a shaded fold is damage to be evened out, not picture that is gone.
        soft = np.minimum(np.abs(shade) / np.float32(0.12), np.float32(0.45))
        layers.append(Layer("crease", Patch(0, 0, soft), shade / np.maximum(soft, np.float32(1e-6)), 0.0, band))
    widths = width * np.clip(0.8 + 0.7 * smooth(rng, len(path), 30), 0.3, 2.0)
    drawn = gaps(rng, len(path), max(rng.uniform(-0.3, 0.5), 0.0))
    patch = stroke(path, np.maximum(widths, 0.5), shape, drawn, rng.uniform(0.2, 0.6))
    if patch is not None:
        layers.append(Layer("crease", _uneven(rng, patch, 0.4), change, float(rng.uniform(0.5, 1.0)), width))
    return layers


def tear(rng: np.random.Generator, shape: tuple[int, int], mark: Mark, stamps: Stamps | None) -> list[Layer]:
    """A rip from an edge inwards: a ragged wedge of bare paper that closes to a line."""
    start, inward = _edge_point(rng, shape)
    path = curve(rng, start, inward + rng.normal(0, 0.4), min(shape) * rng.uniform(0.15, 0.7), 1.0, 0.8)
    width = max(width_of(rng, mark), 1.5)
    widths = width * np.linspace(1.6, 0.15, len(path)) * np.clip(1 + 0.5 * smooth(rng, len(path), 20), 0.3, 2)
    patch = stroke(path, np.maximum(widths, 0.6), shape, None, float(rng.uniform(0.2, 0.6)))
    if patch is None:
        return []
    level, noise = change_of(rng, mark), cloud(rng, patch.alpha.shape, 2.0) * np.float32(0.03)
    layers = [Layer("tear", patch, np.float32(level) + noise, 1.0, width)]
    side = stroke(path + rng.uniform(-1, 1, 2) * width * 0.7, np.maximum(widths * 0.35, 0.6), shape, None, 0.6)
    return layers if side is None else [Layer("tear", side, -abs(level) * 0.6, 0.3, width), *layers]


def corner(rng: np.random.Generator, shape: tuple[int, int], mark: Mark, stamps: Stamps | None) -> list[Layer]:
    """A corner or a piece of an edge that is gone: one level of the scanner's lid or bed, with a torn rim of paper."""
    h, w = shape
    a, b = rng.uniform(0.06, 0.35) * w, rng.uniform(0.06, 0.35) * h
    cx, cy = (int(v) for v in rng.integers(0, 2, 2))
    steps = 24
    t = np.linspace(0, 1, steps)
    ragged = smooth(rng, steps, 12) * 0.04 * min(a, b) + rng.standard_normal(steps) * 0.6
    edge = np.stack([a * (1 - t) + ragged, b * t + ragged], 1)
    flip = np.array([[1 - 2 * cx, 1 - 2 * cy]])
    base = np.array([[w * cx, h * cy]])
    outline = np.vstack([edge, [[-4.0, b + 4], [-4.0, -4.0], [a + 4, -4.0]]]) * flip + base
    patch = polygon(outline, shape, float(rng.uniform(0.2, 0.7)))
    if patch is None:
        return []
    change = change_of(rng, mark)
    layers = [Layer("corner", patch, change, 1.0, float(min(a, b)))]
    rim = stroke(edge * flip + base, np.full(steps, max(width_of(rng, mark), 1.0)), shape, None, 0.5)
    return layers if rim is None else [*layers, Layer("corner", rim, abs(change), 0.9, float(min(a, b)))]


def stain(rng: np.random.Generator, shape: tuple[int, int], mark: Mark, stamps: Stamps | None) -> list[Layer]:
    """A blot with a tide line, or one from the stamps; darkens or bleaches what it covers, often brown."""
    change, width = change_of(rng, mark), width_of(rng, mark)
    brown = (0.6, 0.9, 1.3) if change < 0 and rng.random() < 0.6 else WHITE
    groups = [stamps.shapes.get("stain", ()), stamps.shapes.get("smut", ())] if stamps else []
    if groups and rng.random() < 0.4 and any(groups):
        group = groups[0] or groups[1]
        return _stamped(rng, shape, group, "stain", change, width / 220.0, width, opaque=0.1, tint=brown)
    alpha = _blob(rng, width, float(rng.uniform(1.0, 6.0)))
    inner = np.asarray(cv2.GaussianBlur(alpha, (0, 0), max(width / 14, 1.0)), np.float32)
    tide = np.clip(alpha - inner, 0, 1) * np.float32(rng.uniform(0.0, 1.6))
    alpha = np.clip(alpha * np.float32(rng.uniform(0.4, 0.9)) + tide, 0, 1).astype(np.float32)
    patch = placed(alpha, (rng.uniform(0, 1) * shape[1], rng.uniform(0, 1) * shape[0]), shape)
    return [] if patch is None else [Layer("stain", patch, change, 0.1, width, brown)]


def emulsion(rng: np.random.Generator, shape: tuple[int, int], mark: Mark, stamps: Stamps | None) -> list[Layer]:
    """Flaked or eaten emulsion: ragged patches of one level, in a cluster, often near an edge."""
    change, width = change_of(rng, mark), width_of(rng, mark)
    groups = [stamps.shapes.get("smut", ()), stamps.shapes.get("dots", ())] if stamps else []
    if groups and all(groups) and rng.random() < 0.3:
        return _stamped(rng, shape, groups[int(rng.integers(2))], "emulsion", change, width / 120.0, width, opaque=0.95)
    x, y = rng.uniform(0, 1, 2) if rng.random() < 0.5 else (rng.uniform(0, 1), rng.choice([0.02, 0.98]))
    layers = []
    for _ in range(int(rng.integers(1, 7))):
        size = max(width * float(np.exp(rng.normal(-0.5, 0.5))), 2.0)
        alpha = _blob(rng, size, 0.6, ragged=float(rng.uniform(0.3, 0.8)))
        centre = ((x + rng.normal(0, 0.1)) * shape[1], (y + rng.normal(0, 0.1)) * shape[0])
        patch = placed(alpha, centre, shape)
        if patch is not None:
            layers.append(Layer("emulsion", patch, change, float(rng.uniform(0.8, 1.0)), size))
    return layers


def fingerprint(rng: np.random.Generator, shape: tuple[int, int], mark: Mark, stamps: Stamps | None) -> list[Layer]:
    """Part of a print of a finger: faint curved ridges in an oval, patchy."""
    high = int(np.clip(min(shape) * rng.uniform(0.2, 0.5), 24, 400))
    wide = int(high * rng.uniform(0.6, 0.8))
    period = float(np.clip(high / rng.uniform(10, 22), 2.6, 16))
    yy, xx = np.mgrid[:high, :wide].astype(np.float32)
    x, y = (xx - wide / 2) / wide * 2, (yy - high / 2) / high * 2
    bow = np.float32(rng.uniform(0.4, 1.4))
    phase = np.hypot(x * bow, y - np.float32(rng.uniform(-0.2, 0.6))) * np.float32(high / 2)
    phase += cloud(rng, (high, wide), high / 4) * np.float32(period * 0.7)
    ridges = np.clip(0.5 + 1.2 * np.sin(phase * np.float32(2 * np.pi / period)), 0, 1)
    oval = np.clip((1 - np.hypot(x, y)) * 3, 0, 1) * np.clip(0.7 + 0.5 * cloud(rng, (high, wide), high / 6), 0, 1)
    alpha = turned(np.asarray(ridges * oval * 255, np.uint8), rng, 1.0)
    patch = placed(alpha, (rng.uniform(0, 1) * shape[1], rng.uniform(0, 1) * shape[0]), shape)
    return [] if patch is None else [Layer("fingerprint", patch, change_of(rng, mark), 0.1, period / 2)]


def tape(rng: np.random.Generator, shape: tuple[int, int], mark: Mark, stamps: Stamps | None) -> list[Layer]:
    """A strip of tape or its ghost: an even veil with straight sides, ragged ends and specks caught in it."""
    change, width = change_of(rng, mark), width_of(rng, mark)
    angle = float(rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.25))
    centre = np.array([rng.uniform(0, 1) * shape[1], rng.uniform(0, 1) * shape[0]])
    length = min(shape) * rng.uniform(0.3, 1.2)
    ends = np.linspace(-0.5, 0.5, 12)
    ragged = rng.standard_normal((2, 12)) * 1.5
    u = np.concatenate([length / 2 + ragged[0], -length / 2 + ragged[1]])
    v = np.concatenate([ends * width, ends[::-1] * width])
    outline = centre + np.stack([u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle)], 1)
    patch = polygon(outline, shape, 0.4)
    if patch is None:
        return []
    yellow = (0.5, 0.8, 1.4) if change < 0 and rng.random() < 0.7 else WHITE
    veil = np.float32(change) * (1 + np.float32(0.25) * cloud(rng, patch.alpha.shape, max(width / 3, 3.0), 2))
    layers = [Layer("tape", patch, veil, float(rng.uniform(0.1, 0.5)), width, yellow)]
    sides = [outline[[0, 23]], outline[[11, 12]]]
    for side in sides:
        line = stroke(np.linspace(side[0], side[1], 8), np.full(8, 1.2), shape, None, 0.4)
        if line is not None and rng.random() < 0.7:
            layers.append(Layer("tape", line, 1.2 * change, 0.3, width, yellow))
    return layers


def _uneven(rng: np.random.Generator, patch: Patch, depth: float) -> Patch:
    """The patch fading in and out over its length, as scraped lines do."""
    wave = cloud(rng, (patch.alpha.shape[0], patch.alpha.shape[1]), 24.0)
    fade = np.clip(np.float32(1.0) - np.float32(depth) * np.abs(wave), 0.15, 1.0)
    return Patch(patch.top, patch.left, np.asarray(patch.alpha * fade, np.float32))


def _stamped(
    rng: np.random.Generator,
    shape: tuple[int, int],
    group: tuple[NDArray[np.uint8], ...],
    kind: str,
    change: float,
    scale: float,
    width_px: float,
    opaque: float = 0.7,
    tint: tuple[float, float, float] = WHITE,
) -> list[Layer]:
    alpha = turned(group[int(rng.integers(len(group)))], rng, float(np.clip(scale, 0.15, 1.5)))
    patch = placed(alpha, (rng.uniform(0, 1) * shape[1], rng.uniform(0, 1) * shape[0]), shape)
    return [] if patch is None else [Layer(kind, patch, change, opaque, width_px, tint)]


def _blob(rng: np.random.Generator, width_px: float, edge_px: float, ragged: float = 0.35) -> NDArray[np.float32]:
    """A blot of about ``width_px``: a disc whose distance is disturbed by a cloud, then cut."""
    size = int(width_px * 1.8) + 8
    yy, xx = np.mgrid[:size, :size].astype(np.float32) - np.float32(size / 2 - 0.5)
    field = np.hypot(xx * np.float32(rng.uniform(0.7, 1.4)), yy) / np.float32(width_px / 2)
    field = field + np.float32(ragged) * cloud(rng, (size, size), max(width_px / 3, 2.0), 3)
    alpha = np.clip((1 - field) * np.float32(width_px / 2 / edge_px) + 0.5, 0, 1)
    frame = np.clip((size / 2 - np.maximum(np.abs(xx), np.abs(yy))) / 3, 0, 1)
    return np.asarray(alpha * frame, np.float32)


def _cracks(rng: np.random.Generator, shape: tuple[int, int], change: float, width: float) -> list[Layer]:
    """A branching web of cracks that share one level."""
    place = (float(rng.uniform(0, 1) * shape[1]), float(rng.uniform(0, 1) * shape[0]))
    tips = [(place, float(rng.uniform(0, 2 * np.pi)), float(min(shape) * rng.uniform(0.3, 0.9)), width)]
    patches: list[Patch | None] = []
    opaque, soft = float(rng.uniform(0.5, 1.0)), float(rng.uniform(0.2, 0.6))
    while tips and len(patches) < 14:
        start, angle, length, thick = tips.pop(0)
        path = curve(rng, start, angle, length, 0.7, 0.7)
        widths = thick * np.linspace(1, 0.5, len(path)) * np.clip(1 + 0.4 * smooth(rng, len(path), 16), 0.4, 1.8)
        patches.append(stroke(path, np.maximum(widths, 0.5), shape, None, soft))
        for _ in range(int(rng.integers(1, 4))):
            if length > 20 and thick > 0.7:
                fork = path[int(rng.integers(len(path) // 4, len(path)))]
                turn = rng.choice([-1, 1]) * rng.uniform(0.4, 1.3)
                shorter = length * rng.uniform(0.3, 0.7)
                tips.append(((float(fork[0]), float(fork[1])), angle + turn, shorter, thick * 0.75))
    patch = merged(patches)
    return [] if patch is None else [Layer("crease", _uneven(rng, patch, 0.4), change, opaque, width)]


def _edge_point(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[tuple[float, float], float]:
    """A point on the picture's edge and the direction that leads inwards."""
    h, w = shape
    side, at = int(rng.integers(4)), float(rng.uniform(0.05, 0.95))
    x = (0.0, w - 1.0, at * w, at * w)[side]
    y = (at * h, at * h, 0.0, h - 1.0)[side]
    return (x, y), (0.0, np.pi, np.pi / 2, -np.pi / 2)[side]


DRAW: dict[str, Draw] = {
    "scratch": scratch,
    "hair": hair,
    "dust": dust,
    "dot": dot,
    "crease": crease,
    "tear": tear,
    "corner": corner,
    "stain": stain,
    "emulsion": emulsion,
    "fingerprint": fingerprint,
    "tape": tape,
}
