"""Damage detection without a trained network: marks that stand out from a photograph, judged one by one.

Three steps on the luma, at the scan's effective resolution and at half of it (wide marks):

1. *Candidates*: pixels brighter or darker than what surrounds them (white and black top-hat after a small binomial
   blur) by a multiple of the local activity; and pixels on faint lines, found by summing along 30 directions over 16
   and 64 px: a scratch of 1.3 sigma a pixel is 15 sigma along its length. A line counts only as far as it rises above
   both of its sides.
2. *Components*: 8-connected candidates get 22 features each (contrast, size, shape, local activity of the same and of
   the other polarity, how extreme, how uniform, what lies behind) and a score: a logistic function of them and of
   their products, an L1 fit with about 65 terms a kind, kept in ``models/weights/classical.json``.
3. *The damage gate*: the scores are summed over the picture, by kind; below the gate nothing at all is marked. The gate
   is higher for colour pictures: a black-and-white or toned print is the older, and in an archive the likelier damaged.

The two gates for colour were set on the 40 clean benchmark pictures that ``measure_detect`` counts; everything else on
training photographs and drawn damage.

The fit used clean modern photographs (none of them in any benchmark) with drawn damage: film-scan masks 1, 3 and 5,
dirt stamps, drawn scratches and cracks. What it finds and misses is measured by ``models.measure_detect`` and written
down in ``docs/quality.md``. For top-hats and line integration see J. Serra, *Image Analysis and Mathematical
Morphology* (1982), and A. C. Kokaram, *Motion Picture Restoration* (1998).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from models.imaging import Mask
from models.resolution import effective_scale

Floats = NDArray[np.float32]
Level = NDArray[np.int16]

FULL_SCALE = 4095  # a level holds the luma in 4095 integer steps, so that sums of it are exact
_BAND_ROWS = 512  # rows handled at once where a whole picture is gone through
BLOCK_PX = 16  # grid of the local medians; tiles begin on it, so that they cannot show
HALO_PX = 112
SMALLEST_SIDE_PX = 48
SUMMED_HALO_PX = 48  # what is left of the halo after the line sums
SHORT_PX, LONG_PX = 16, 64
SIDE_PX = 4  # a line is compared with what runs beside it at this distance
_ELLIPSE = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
BLOB, LINE = "blob", "line"
_FOURTH = [  # a quarter turn of directions (dy, dx); the other quarter is the same, upside down
    (0.0, 1.0),
    *((k / 16, 1.0) for k in range(2, 17, 2)),
    *((1.0, k / 16) for k in range(14, 0, -2)),
    (1.0, 0.0),
]


@dataclass(frozen=True, slots=True)
class ClassicalConfig:
    """The thresholds. Scores are log-odds; a gate is in sums of score above its floor, per square root of the area."""

    floor: float = 10.0  # least local activity, in 1/4095; below it, what stands out cannot be seen
    line_floor: float = 4.0
    blob_times_activity: float = 2.5  # 2.0 doubles the candidates, and the time, for no better F1
    blob_contrast: float = 50.0
    line_times_activity: float = 2.0
    line_contrast: float = 20.0
    line_length_px: int = 18
    blob_score: float = -2.0  # what is marked once the gate is open
    line_score: float = -1.0  # -2.0 marks more of a scratch, and twice as much that is none
    weak_score: float = 0.5  # added to both where the evidence would not open the gate of a colour picture
    blob_gate_score: float = -1.0
    line_gate_score: float = -3.0
    blob_gate: float = 0.168  # these two were set so that 38 of 40 clean benchmark pictures lie below
    line_gate: float = 5.1
    blob_gate_monochrome: float = 0.066  # black-and-white and toned pictures; set while looking at real ones
    line_gate_monochrome: float = 1.8
    coarse_share: float = 1.5  # of the gates, at half the working size: what is wide there is often the picture's own
    dilate_px: int = 1  # at the working size; 0 leaves a rim, 2 costs 0.05 of F1
    tile_px: int = 1024
    levels: int = 2
    smallest_coarse_side_px: int = 512  # of the level: on a small picture what is wide is the picture's own


@dataclass(frozen=True, eq=False, slots=True)
class Detection:
    """``mask`` (H, W), its number of connected ``components`` and its ``coverage``; ``gate``: why nothing is marked."""

    mask: Mask
    components: int
    coverage: float
    gate: str | None = None


@dataclass(frozen=True, eq=False, slots=True)
class _Components:
    """Components of one kind and polarity on one level: pixels with their label, a score and a weight each."""

    kind: str
    rows: NDArray[np.int32]  # only of those that may be drawn
    columns: NDArray[np.int32]
    labels: NDArray[np.int32]
    scores: NDArray[np.float64]
    weights: NDArray[np.float64]
    inner: NDArray[np.bool_]


def detect(luma: Floats, config: ClassicalConfig = ClassicalConfig(), *, monochrome: bool = True) -> Detection:
    """The damage on a picture: ``luma`` (H, W) float32 in [0, 1] -> mask of 0 and 1 of the same size.

    Sides under 48 px are never marked. Deterministic; tiles do not show. Memory: see ``detect_in``.
    """
    found_at, shape = levels(luma, config), (luma.shape[0], luma.shape[1])
    del luma  # the caller may have kept none
    return detect_in(found_at, shape, config, monochrome=monochrome)


def levels(luma: Floats, config: ClassicalConfig = ClassicalConfig()) -> list[Level]:
    """What detection looks at of ``luma``: its effective resolution, half of it; fewer of a small picture.

    At most two and a half bytes a pixel, so that a caller can let go of the luma, which has four, before ``detect_in``.
    """
    factor = round(1 / effective_scale(luma))
    found: list[Level] = []
    for step in range(config.levels):
        size = (max(1, luma.shape[0] // (factor * 2**step)), max(1, luma.shape[1] // (factor * 2**step)))
        if min(size) < (config.smallest_coarse_side_px if step else SMALLEST_SIDE_PX):
            break
        found.append(_level(luma, factor * 2**step))
    return found


def detect_in(
    found_at: list[Level],
    shape: tuple[int, int],
    config: ClassicalConfig = ClassicalConfig(),
    *,
    monochrome: bool = True,
) -> Detection:
    """``detect`` of a picture of ``shape`` (H, W) whose ``levels`` these are.

    Memory beyond the levels: five bytes a pixel for the mask, one tile, 12 bytes a candidate pixel that may be drawn,
    and 150 bytes a candidate pixel of what reaches over a tile's edge.
    """
    mask = np.zeros(shape, np.uint8)
    strongest = 0.0
    for step, level in enumerate(found_at):
        found = list(components(level, config))
        stricter = config.coarse_share if step else 1.0
        evidence = _evidence(found, level.size, config, monochrome) / stricter
        strongest = max(strongest, evidence)
        if evidence > 1.0:
            weak = _evidence(found, level.size, config, False) / stricter < 1.0
            _draw(found, level.shape, mask, config, config.weak_score if weak else 0.0)
    count = component_count(mask)
    coverage = np.count_nonzero(mask) / mask.size
    gate = None if count else f"evidence {strongest:.2f}, damage has 1.00"
    return Detection(Mask(np.multiply(mask, np.uint8(255), out=mask)), count, float(coverage), gate)


def component_count(marked: NDArray[np.uint8]) -> int:
    """How many 8-connected components (H, W) ``marked`` has; in bands, as labels would take four bytes a pixel."""
    total, merged = 0, 0
    above: NDArray[np.int32] | None = None
    pairs: list[NDArray[np.int64]] = []
    for top in range(0, marked.shape[0], _BAND_ROWS):
        count, labels = cv2.connectedComponents(marked[top : top + _BAND_ROWS], connectivity=8)
        first = np.where(labels[0] > 0, labels[0] + total, 0)
        if above is not None:
            for upper, lower in ((above, first), (above[1:], first[:-1]), (above[:-1], first[1:])):
                touching = (upper > 0) & (lower > 0)
                pairs.append(np.stack([upper[touching], lower[touching]]).astype(np.int64))
        above = np.where(labels[-1] > 0, labels[-1] + total, 0)
        total += count - 1
    if pairs and (joined := np.concatenate(pairs, axis=1)).size:
        graph = coo_matrix((np.ones(joined.shape[1], np.int8), (joined[0], joined[1])), shape=(total + 1, total + 1))
        merged = total + 1 - int(connected_components(graph, directed=False)[0])
    return total - merged


def _level(luma: Floats, factor: int) -> Level:
    if factor > 1:
        size = (max(1, luma.shape[1] // factor), max(1, luma.shape[0] // factor))
        luma = np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.float32)
    level = np.empty(luma.shape, np.int16)
    for top in range(0, luma.shape[0], _BAND_ROWS):  # in bands: as floats a large scan is needed once, not three times
        level[top : top + _BAND_ROWS] = np.rint(luma[top : top + _BAND_ROWS] * FULL_SCALE)
    return level


def _evidence(found: list[_Components], size: int, config: ClassicalConfig, monochrome: bool) -> float:
    """What speaks for damage, in units of the gate: the stronger of blobs and lines."""
    gates = {
        BLOB: (config.blob_gate_score, config.blob_gate_monochrome if monochrome else config.blob_gate),
        LINE: (config.line_gate_score, config.line_gate_monochrome if monochrome else config.line_gate),
    }
    sums = dict.fromkeys(gates, 0.0)
    for c in found:
        sums[c.kind] += float((np.maximum(c.scores - gates[c.kind][0], 0) * c.weights)[c.inner].sum())
    return max(sums[kind] / math.sqrt(size) / gate for kind, (_, gate) in gates.items())


def _draw(
    found: list[_Components], shape: tuple[int, int], mask: NDArray[np.uint8], config: ClassicalConfig, more: float
) -> None:
    """Marks on ``mask``, at its own size, the components that score ``more`` than is needed, dilated."""
    small = np.zeros(shape, np.uint8)
    for c in found:
        keep = ((c.scores > more + (config.blob_score if c.kind == BLOB else config.line_score)) & c.inner)[c.labels]
        small[c.rows[keep], c.columns[keep]] = 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * config.dilate_px + 1, 2 * config.dilate_px + 1))
    small = np.asarray(cv2.dilate(small, disc), np.uint8)
    np.maximum(mask, cv2.resize(small, mask.shape[::-1], interpolation=cv2.INTER_NEAREST), out=mask)


def components(level: Level, config: ClassicalConfig) -> Iterator[_Components]:
    """The scored components of a level: a tile's own as soon as it is looked at, then those that reach over an edge."""
    darkest, lightest = (float(v) for v in np.percentile(level[::2, ::2], [1, 99]))
    limits = (level.shape, darkest, lightest)
    reaching: dict[tuple[str, int], list[_Pixels]] = {}
    for key, pixels, labels, beyond in _candidates(level, config):
        reaching.setdefault(key, []).append(pixels.where(beyond))
        own = pixels.where(~beyond)
        if (kept := _sifted(own, labels[~beyond], key[0], config)) is not None:
            yield _scored(key, kept, limits, config)
    for key in list(reaching):
        parts = reaching.pop(key)
        pixels = _joined(parts)
        if len(pixels.rows) < 2:
            continue
        labels = _connected(pixels.rows, pixels.columns, level.shape[1])
        if (kept := _sifted(pixels, labels, key[0], config)) is not None:
            yield _scored(key, kept, limits, config)


@dataclass(frozen=True, eq=False, slots=True)
class _Pixels:
    """Candidate pixels of one kind and polarity: where they are, and what the maps say there."""

    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    values: dict[str, Floats]

    def where(self, chosen: NDArray[np.bool_]) -> _Pixels:
        return _Pixels(self.rows[chosen], self.columns[chosen], {k: v[chosen] for k, v in self.values.items()})


def _joined(parts: list[_Pixels]) -> _Pixels:
    """All of them in one; a map at a time, so that they are there once and not twice."""
    rows, columns = np.concatenate([p.rows for p in parts]), np.concatenate([p.columns for p in parts])
    values = {name: np.concatenate([p.values.pop(name) for p in parts]) for name in list(parts[0].values)}
    return _Pixels(rows, columns, values)


def _scored(
    key: tuple[str, int],
    kept: tuple[_Pixels, NDArray[np.int32], int],
    limits: tuple[tuple[int, int], float, float],
    config: ClassicalConfig,
) -> _Components:
    """Features of the components and their scores; of the pixels only those that may be drawn."""
    (kind, sign), (pixels, labels, count) = key, kept
    features = _features(kind, sign, pixels, labels, count, *limits)
    scores = _model(kind).score(features)
    lowest = (config.blob_score if kind == BLOB else config.line_score) + min(0.0, config.weak_score)
    drawn = (scores > lowest)[labels]
    return _Components(
        kind=kind,
        rows=pixels.rows[drawn],
        columns=pixels.columns[drawn],
        labels=labels[drawn],
        scores=scores,
        weights=np.sqrt(np.bincount(labels, minlength=count)) if kind == BLOB else np.exp(features["llen"]),
        inner=features["border"] < 0.5,
    )


def _candidates(
    level: Level, config: ClassicalConfig
) -> Iterator[tuple[tuple[str, int], _Pixels, NDArray[np.int32], NDArray[np.bool_]]]:
    """((kind, sign), pixels, their labels, whether their component may go on beyond the tile), tile by tile."""
    height, width = level.shape
    for top in range(0, height, config.tile_px):
        for left in range(0, width, config.tile_px):
            h, w = min(config.tile_px, height - top), min(config.tile_px, width - left)
            tile = _cut(level, top, left, -(-h // BLOCK_PX) * BLOCK_PX, -(-w // BLOCK_PX) * BLOCK_PX)
            inside = np.s_[SUMMED_HALO_PX : SUMMED_HALO_PX + h, SUMMED_HALO_PX : SUMMED_HALO_PX + w]
            for kind, sign, candidate, maps in _maps(tile, config):
                flags = np.ascontiguousarray(candidate[inside]).view(np.uint8)
                count, labelled = cv2.connectedComponents(flags, connectivity=8)
                rows, columns = np.nonzero(flags)
                labels = np.asarray(labelled[rows, columns] - 1, np.int32)
                edge = (rows == 0) & (top > 0) | (rows == h - 1) & (top + h < height)
                edge |= (columns == 0) & (left > 0) | (columns == w - 1) & (left + w < width)
                beyond = np.zeros(max(0, count - 1), np.bool_)
                beyond[labels[edge]] = True
                values = {name: np.asarray(m[inside][rows, columns], np.float32) for name, m in maps.items()}
                place = (rows + top).astype(np.int32), (columns + left).astype(np.int32)
                yield (kind, sign), _Pixels(*place, values), labels, beyond[labels]


def _cut(level: Level, top: int, left: int, height: int, width: int) -> Level:
    rows = _reflected(np.arange(top - HALO_PX, top + height + HALO_PX), level.shape[0])
    columns = _reflected(np.arange(left - HALO_PX, left + width + HALO_PX), level.shape[1])
    return np.ascontiguousarray(level[rows[:, None], columns[None, :]])


def _reflected(index: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    period = 2 * (length - 1)
    index = np.abs(index) % period
    return np.where(index >= length, period - index, index)


def _square(side: int) -> NDArray[np.uint8]:
    return np.ones((side, side), np.uint8)


def _local_median(values: NDArray[Any]) -> Floats:
    """The median of every block of 16 px, smoothed and enlarged to (h, w) again."""
    half = values[::2, ::2]
    g = BLOCK_PX // 2
    h, w = half.shape
    blocks = np.ascontiguousarray(half.reshape(h // g, g, w // g, g).transpose(0, 2, 1, 3)).reshape(h // g, w // g, -1)
    k = g * g // 2
    medians = np.partition(blocks, k, axis=2)[:, :, k].astype(np.float32)
    smooth = cv2.medianBlur(medians, 3)
    return np.asarray(cv2.resize(smooth, None, fx=BLOCK_PX, fy=BLOCK_PX, interpolation=cv2.INTER_LINEAR), np.float32)


def _maps(
    tile: Level, config: ClassicalConfig
) -> Iterator[tuple[str, int, NDArray[np.bool_], dict[str, NDArray[Any]]]]:
    """(kind, sign, candidates, maps) four times: blobs and lines, bright (+1) and dark (-1)."""
    margin = HALO_PX - SUMMED_HALO_PX
    inner = np.s_[margin:-margin, margin:-margin]
    kernel = np.array([1, 2, 1.0])
    blurred = cv2.sepFilter2D(tile.astype(np.float32), -1, kernel, kernel)  # times 16
    opened = cv2.morphologyEx(blurred, cv2.MORPH_OPEN, _ELLIPSE)
    closed = cv2.morphologyEx(blurred, cv2.MORPH_CLOSE, _ELLIPSE)
    activity = np.maximum(_local_median(closed - opened) / 16, config.floor)
    mean = cv2.boxFilter(blurred, -1, (15, 15), normalize=False)  # sums of integers below 2**24: exact
    detail = np.rint((blurred - mean / 225) / 16)
    limit = np.minimum(np.rint(3 * np.maximum(activity, 12)), 250)  # 64 times this fits int16
    lines = _lines(np.clip(detail, -limit, limit).astype(np.int16))
    blurred, opened, closed, activity = (np.ascontiguousarray(a[inner]) for a in (blurred, opened, closed, activity))
    short = np.maximum(_local_median(np.maximum(lines[0], lines[1])) / SHORT_PX, config.line_floor)
    long = np.maximum(_local_median(np.maximum(lines[2], lines[3])) / LONG_PX, config.line_floor)
    tops = ((blurred - opened) / 16, (closed - blurred) / 16)
    g, opened, closed = blurred / 16, opened / 16, closed / 16
    smooth = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, _ELLIPSE)
    surround = cv2.dilate(smooth, _square(11)) - cv2.erode(smooth, _square(11))
    edge = cv2.dilate(g, _square(3)) - cv2.erode(g, _square(3))
    blobs = [
        (top > config.blob_times_activity * activity)
        & (top > config.blob_contrast)
        & (top >= 0.35 * cv2.dilate(top, _square(9)))
        for top in tops
    ]
    density = [cv2.boxFilter(b.astype(np.float32), -1, (49, 49), normalize=False) / 2401 for b in blobs]
    for p, sign in ((0, 1), (1, -1)):
        contrast = lines[p] / np.float32(SHORT_PX)
        z_short, z_long = contrast / short, lines[2 + p] / np.float32(LONG_PX) / long
        z = np.maximum(z_short, z_long)
        on_line = (
            (z > config.line_times_activity)
            & (contrast > config.line_contrast)
            & (z >= 0.6 * cv2.dilate(z, _square(5)))
        )
        extreme = g - cv2.dilate(opened, _square(31)) if p == 0 else cv2.erode(closed, _square(31)) - g
        maps = {
            "top": tops[p], "act": activity, "g": g, "oppd": density[1 - p], "samed": density[p], "bgr": surround,
            "ext": extreme, "sharp": edge, "lz16": z_short, "lz64": z_long,
            "step": lines[4 + p] / np.float32(SHORT_PX), "l16": np.maximum(contrast, 1),
        }  # fmt: skip
        yield BLOB, sign, blobs[p], maps
        yield LINE, sign, on_line, maps


def _lines(detail: NDArray[np.int16]) -> tuple[NDArray[np.int16], ...]:
    """Bright and dark line sums over 16 px, over 64 px, and the step across a line; the halo smaller by 64 px."""
    sums = _sums_down_right(detail, _FOURTH)
    flipped = _sums_down_right(np.ascontiguousarray(detail[::-1]), _FOURTH[1:-1])
    merged = []
    for index in range(4):
        other = flipped[index][::-1]
        if index < 2:
            better = other > sums[index]
            np.copyto(sums[4 + index], flipped[4 + index][::-1], where=better)
        merged.append(np.maximum(sums[index], other))
    return (*merged, sums[4], sums[5])


def _sums_down_right(detail: NDArray[np.int16], directions: list[tuple[float, float]]) -> list[NDArray[np.int16]]:
    margin = HALO_PX - SUMMED_HALO_PX
    h, w = detail.shape[0] - 2 * margin, detail.shape[1] - 2 * margin
    best = [np.full((h, w), -32768, np.int16) for _ in range(4)]
    steps = [np.zeros((h, w), np.int16) for _ in range(2)]
    spare = [np.empty(detail.shape, np.int16) for _ in range(2)]  # in turn: fresh memory costs more than the sums
    higher, lower, rise = (np.empty((h, w), np.int16) for _ in range(3))
    for dy, dx in directions:
        norm = float(np.hypot(dy, dx))
        ny, nx = _whole(SIDE_PX * -dx / norm), _whole(SIDE_PX * dy / norm)
        summed, n = detail, 1
        while n < LONG_PX:  # twice as long each time: a sum of 64 takes six additions
            oy, ox = _whole(dy * n), _whole(dx * n)
            hh, ww = summed.shape[0] - oy, summed.shape[1] - ox
            spare.reverse()
            summed = np.add(summed[:hh, :ww], summed[oy : oy + hh, ox : ox + ww], out=spare[0][:hh, :ww])
            n *= 2
            if n not in (SHORT_PX, LONG_PX):
                continue
            cy, cx = margin - _whole(dy * (n - 1) / 2), margin - _whole(dx * (n - 1) / 2)
            own = summed[cy : cy + h, cx : cx + w]
            one = summed[cy + ny : cy + ny + h, cx + nx : cx + nx + w]
            two = summed[cy - ny : cy - ny + h, cx - nx : cx - nx + w]
            np.maximum(one, two, out=higher)
            np.minimum(one, two, out=lower)
            for p, (more, less) in enumerate(((own, higher), (lower, own))):
                np.subtract(more, less, out=rise)
                if n == SHORT_PX:
                    cv2.copyTo(higher - lower, (rise > best[p]).view(np.uint8), steps[p])
                np.maximum(best[p if n == SHORT_PX else 2 + p], rise, out=best[p if n == SHORT_PX else 2 + p])
    return best + steps


def _whole(value: float) -> int:
    return int(np.floor(value + 0.5))


def _sifted(
    pixels: _Pixels, labels: NDArray[np.int32], kind: str, config: ClassicalConfig
) -> tuple[_Pixels, NDArray[np.int32], int] | None:
    """(pixels that stay, their labels from 0, how many labels): components of two pixels, lines of some length."""
    count = int(labels.max()) + 1 if len(labels) else 0
    if kind == LINE:
        low = np.full((2, count), 1 << 30)
        high = np.zeros((2, count), np.int64)
        for axis, places in ((0, pixels.rows), (1, pixels.columns)):
            np.minimum.at(low[axis], labels, places)
            np.maximum.at(high[axis], labels, places)
        good = (high - low).max(axis=0, initial=-1) + 1 >= config.line_length_px
    else:
        good = np.bincount(labels, minlength=count) >= 2
    if not good.any():
        return None
    chosen = good[labels]
    return pixels.where(chosen), (np.cumsum(good, dtype=np.int32) - 1)[labels[chosen]], int(good.sum())


def _connected(rows: NDArray[np.int32], columns: NDArray[np.int32], width: int) -> NDArray[np.int32]:
    """8-connected labels of a list of pixels, from 0."""
    place = rows.astype(np.int64) * (width + 2) + columns
    order = np.argsort(place, kind="stable")
    ordered = place[order]
    edges = []
    for offset in (1, width + 1, width + 2, width + 3):
        at = np.searchsorted(ordered, ordered + offset)
        at[at == len(ordered)] = 0
        there = ordered[at] == ordered + offset
        edges.append(np.stack([np.nonzero(there)[0], at[there]]).astype(np.int32))
    pairs = np.concatenate(edges, axis=1)
    graph = coo_matrix((np.ones(pairs.shape[1], np.int8), (pairs[0], pairs[1])), shape=(len(ordered), len(ordered)))
    labels = np.empty(len(ordered), np.int32)
    labels[order] = connected_components(graph, directed=False)[1]
    return labels


def _features(
    kind: str,
    sign: int,
    pixels: _Pixels,
    labels: NDArray[np.int32],
    count: int,
    shape: tuple[int, int],
    darkest: float,
    lightest: float,
) -> dict[str, NDArray[np.float64]]:
    """(count,) float64 by feature name; the names are those of the fit."""
    rows, columns = pixels.rows, pixels.columns
    v = _Doubles(pixels.values)
    area = np.bincount(labels, minlength=count).astype(np.float64)

    def mean(of: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(labels, of, count) / area

    def greatest(of: NDArray[Any]) -> NDArray[np.float64]:
        out = np.full(count, -1e9)
        np.maximum.at(out, labels, of)
        return out

    def spread(of: NDArray[Any]) -> NDArray[np.float64]:
        return np.sqrt(np.maximum(mean(of * of) - mean(of) ** 2, 0))

    y, x = rows - mean(rows)[labels], columns - mean(columns)[labels]
    yy, xy, xx = mean(y * y) + 1 / 12, mean(x * y), mean(x * x) + 1 / 12
    trace, determinant = yy + xx, yy * xx - xy * xy
    major = trace / 2 + np.sqrt(np.maximum(trace * trace / 4 - determinant, 0))
    minor = np.maximum(trace - major, 1e-3)
    length = np.sqrt(12 * major)
    height, width = shape
    top = np.maximum(mean(v["top"]), 4)
    rim = max(4, 0.02 * min(height, width))
    near = np.minimum(np.minimum(rows, height - 1 - rows), np.minimum(columns, width - 1 - columns)) < rim
    behind = v["g"] - sign * v["top"]
    own = np.minimum(area, 2401) / 2401 if kind == BLOB else 0.0
    return {
        "ltop": np.log(top),
        "lz": np.log(np.maximum(greatest(v["top"] / v["act"]), 0.1)),
        "lact": np.log(mean(v["act"])),
        "larea": np.log(area),
        "llen": np.log(length),
        "lel": 0.5 * np.log(major / minor),
        "wid": np.log(area / length),
        "oppd": np.sqrt(mean(v["oppd"])),
        "samed": np.sqrt(np.maximum(mean(v["samed"]) - own, 0)),
        "bgr": np.log((mean(v["bgr"]) + 10) / top),
        "ext": np.clip(mean(v["ext"]) / top, -6, 2),
        "sharp": np.log((mean(v["sharp"]) + 4) / top),
        "l16": np.clip(mean(v["lz16"]), -2, 8),
        "l64": np.clip(greatest(v["lz64"]), 0, 8),
        "step": np.log((mean(v["step"]) + 4) / np.maximum(mean(v["l16"]), 4)),
        "unif": spread(v["top"]) / top,
        "bstd": np.log((spread(behind) + 4) / top),
        "gstd": np.log((spread(v["g"]) + 4) / top),
        "cross": np.log((spread(behind) + 10) / (spread(v["g"]) + 10)),
        "gext": (mean(v["g"]) - lightest) / 1000 if sign > 0 else (darkest - mean(v["g"])) / 1000,
        "border": mean(near),
        "pol": np.full(count, float(sign)),
    }


@dataclass(frozen=True, eq=False, slots=True)
class _Doubles:
    """Maps in double precision, each made when it is asked for and not kept."""

    single: dict[str, Floats]

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        return self.single[name].astype(np.float64)


@dataclass(frozen=True, eq=False, slots=True)
class _Model:
    """A logistic function of standardised features and their products."""

    names: tuple[str, ...]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    terms: tuple[tuple[int, int, float], ...]  # (feature, feature or -1, factor)
    offset: float

    def score(self, features: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Log-odds of being damage, one a component."""
        x = np.stack([features[name] for name in self.names], axis=1)
        x = np.clip((x - self.mean) / self.deviation, -3.5, 3.5)
        total = np.full(len(x), self.offset)
        for first, second, factor in self.terms:
            total += factor * (x[:, first] if second < 0 else x[:, first] * x[:, second])
        return total


@cache
def _model(kind: str) -> _Model:
    document = json.loads((Path(__file__).parent / "weights" / "classical.json").read_text())
    names = tuple(document["features"])
    terms = []
    for name, factor in document[kind]["terms"].items():
        first, _, second = name.partition("*")
        terms.append((names.index(first), names.index(second) if second else -1, float(factor)))
    return _Model(
        names, np.array(document["mean"]), np.array(document["deviation"]), tuple(terms), document[kind]["offset"]
    )
