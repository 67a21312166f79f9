"""How well a mask agrees with the damage people drew on real photographs: line recall and precision within 3 pixels.

``annotations.json`` holds the drawings and the sha256 of each picture, no picture. They were drawn by eye on enlarged
pictures before any network had seen them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

DRAWN = Path(__file__).with_name("annotations.json")
IGNORED = "ignore"


@dataclass(frozen=True, slots=True, eq=False)
class DrawnMark:
    """One mark: ``kind``, ``points`` (N, 2) x then y in pixels, closed when a polygon, ``width_px`` of a polyline."""

    kind: str
    closed: bool
    width_px: float
    points: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """The damage drawn on one real picture.

    ``complete``: every visible mark is drawn, so that what is found elsewhere is a false alarm; else only recall can be
    measured. Marks of kind ``ignore`` are parts that count neither way (a web page's arrow, a plate's rim).
    """

    file: str
    sha256: str
    complete: bool
    note: str
    marks: tuple[DrawnMark, ...]


@dataclass(frozen=True, slots=True)
class LineScores:
    """How a mask agrees with an annotation.

    ``line_recall``: share of the length of all polylines with a found pixel within the tolerance (``line_px`` long);
    ``area_recall``: share of the pixels inside polygons that are found (``area_px`` many); ``precision``: share of the
    found pixels within the tolerance of a drawn mark (``found_px`` many). NaN where there is nothing to divide by, and
    for the precision of an annotation that is not complete.
    """

    line_recall: float
    area_recall: float
    precision: float
    line_px: int
    area_px: int
    found_px: int


def load_annotations(file: Path = DRAWN) -> tuple[Annotation, ...]:
    """Every annotated picture, in the file's order."""
    return tuple(
        Annotation(
            entry["file"],
            entry["sha256"],
            entry["complete"],
            entry["note"],
            tuple(
                DrawnMark(m["kind"], m["shape"] == "polygon", m["width_px"], np.array(m["points"], np.float64))
                for m in entry["marks"]
            ),
        )
        for entry in json.loads(file.read_text())["pictures"]
    )


def read_picture(annotation: Annotation, real: Path) -> NDArray[np.uint8]:
    """The annotated picture (H, W, 3) RGB uint8 from the folder ``real``; ``ValueError`` when it is another file."""
    content = (real / annotation.file).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != annotation.sha256:
        raise ValueError(f"{annotation.file}: expected sha256 {annotation.sha256}, found {found}")
    stored = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if stored is None:
        raise ValueError(f"{annotation.file}: expected a picture, found nothing that decodes")
    return np.ascontiguousarray(np.asarray(stored, np.uint8)[:, :, ::-1])


def drawn_mask(annotation: Annotation, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Where damage was drawn: polylines at their width, polygons filled, without the ignored parts."""
    canvas = np.zeros(shape, np.uint8)
    for mark in annotation.marks:
        if mark.kind != IGNORED:
            _draw(canvas, mark)
    return canvas.astype(np.bool_) & ~ignored_mask(annotation, shape)


def line_scores(mask: NDArray[np.generic], annotation: Annotation, tolerance_px: float = 3) -> LineScores:
    """``mask`` (H, W), bool or soft (found from 0.5), as large as the annotated picture, against the annotation."""
    shape = (mask.shape[0], mask.shape[1])
    skipped = ignored_mask(annotation, shape)
    found = (mask.astype(np.float32) >= 0.5) & ~skipped
    near_found = _distance_to(found) <= tolerance_px
    lines, areas = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    length = hit = 0
    for mark in annotation.marks:
        if mark.kind == IGNORED:
            continue
        if mark.closed:
            _draw(areas, mark)
            continue
        _draw(lines, mark)
        x, y = _along(mark.points, shape)
        kept = ~skipped[y, x]
        length += int(kept.sum())
        hit += int((near_found[y, x] & kept).sum())
    inside = areas.astype(np.bool_) & ~skipped
    near_drawn = _distance_to((lines > 0) | inside) <= tolerance_px
    count = int(found.sum())
    return LineScores(
        hit / length if length else float("nan"),
        float(found[inside].mean()) if inside.any() else float("nan"),
        float(near_drawn[found].mean()) if count and annotation.complete else float("nan"),
        length,
        int(inside.sum()),
        count,
    )


def ignored_mask(annotation: Annotation, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The parts that count neither way."""
    canvas = np.zeros(shape, np.uint8)
    for mark in annotation.marks:
        if mark.kind == IGNORED:
            _draw(canvas, mark)
    return canvas.astype(np.bool_)


def _draw(canvas: NDArray[np.uint8], mark: DrawnMark) -> None:
    points = np.round(mark.points * 16).astype(np.int32)
    if mark.closed:
        cv2.fillPoly(canvas, [points], 1, cv2.LINE_8, 4)
    else:
        cv2.polylines(canvas, [points], False, 1, max(round(mark.width_px), 1), cv2.LINE_8, 4)


def _along(points: NDArray[np.float64], shape: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Columns and rows of one point a pixel along a polyline, those outside the picture left out."""
    steps = np.hypot(*np.diff(points, axis=0).T)
    way = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.arange(0.5, max(way[-1], 1.0))
    x = np.round(np.interp(at, way, points[:, 0])).astype(np.intp)
    y = np.round(np.interp(at, way, points[:, 1])).astype(np.intp)
    inside = (x >= 0) & (x < shape[1]) & (y >= 0) & (y < shape[0])
    return x[inside], y[inside]


def _distance_to(there: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance of every pixel to the nearest one that is there; infinite when none is."""
    if not there.any():
        return np.full(there.shape, np.inf, np.float32)
    return np.asarray(cv2.distanceTransform((~there).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)
