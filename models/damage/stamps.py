"""Shapes of real damage: soft alpha stamps and the marks people drew on scanned film."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

FILM_CLASSES: tuple[str, ...] = ("none", "dust", "scratch", "long_hair", "short_hair", "dirt", "other")


@dataclass(frozen=True, slots=True, eq=False)
class FilmStatistics:
    """Of one class of marks on the scanned films: how many, how large, how long and how wide."""

    per_megapixel: float
    area_px: tuple[float, float, float]  # 10th, 50th and 90th percentile
    length_px: tuple[float, float, float]
    width_px: tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Stamps:
    """Shapes to print damage with: each a uint8 alpha cropped to what it covers, 255 = whole.

    ``shapes`` by the folder's name (dirt, dots, hair, hair-short, lint, scratches, smut, spots, sprinkles, stain);
    ``film`` by the class of the film masks; ``statistics`` by the same class.
    """

    shapes: dict[str, tuple[NDArray[np.uint8], ...]]
    film: dict[str, tuple[NDArray[np.uint8], ...]]
    statistics: dict[str, FilmStatistics]


def load_stamps(folder: Path) -> Stamps:
    """The stamps and film masks under ``folder`` (``stamps/<class>/*.png``, ``film_masks/*_class.png``).

    Files are read in the order of their names, so that a seed chooses the same shape everywhere. Raises
    ``FileNotFoundError`` naming the folder when no stamp is found.
    """
    shapes: dict[str, tuple[NDArray[np.uint8], ...]] = {}
    for group in sorted(p for p in (folder / "stamps").glob("*") if p.is_dir()):
        read = [_cropped(_gray(path), floor=12) for path in sorted(group.glob("*.png"))]
        shapes[group.name] = tuple(shape for shape in read if shape is not None)
    film: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in FILM_CLASSES[1:]}
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in FILM_CLASSES[1:]}
    megapixels = 0.0
    for path in sorted((folder / "film_masks").glob("*_class.png")):
        labels = _gray(path)
        megapixels += labels.size / 1e6
        for value, name in enumerate(FILM_CLASSES[1:], start=1):
            found, boxes = _components(labels == value)
            film[name] += found
            rows[name] += boxes
    if not any(shapes.values()) and not megapixels:
        raise FileNotFoundError(f"{folder}: expected stamps/<class>/*.png or film_masks/*_class.png, found neither")
    statistics = {name: _statistics(measured, megapixels) for name, measured in rows.items() if measured}
    return Stamps(shapes, {name: tuple(found) for name, found in film.items()}, statistics)


def _gray(path: Path) -> NDArray[np.uint8]:
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise FileNotFoundError(f"{path}: expected a gray PNG, found nothing that decodes")
    return np.asarray(picture, np.uint8)


def _cropped(alpha: NDArray[np.uint8], floor: int) -> NDArray[np.uint8] | None:
    """The part above ``floor`` with 2 pixels around it; None when there is none."""
    rows, columns = np.flatnonzero((alpha > floor).any(1)), np.flatnonzero((alpha > floor).any(0))
    if not rows.size:
        return None
    return np.ascontiguousarray(alpha[max(rows[0] - 2, 0) : rows[-1] + 3, max(columns[0] - 2, 0) : columns[-1] + 3])


def _components(mask: NDArray[np.bool_]) -> tuple[list[NDArray[np.uint8]], list[tuple[float, float, float]]]:
    """Each connected mark of 4 to 40,000 pixels as a crop, and its area, length and width in pixels."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    crops, boxes = [], []
    for index in range(1, count):
        x, y, w, h, area = (int(v) for v in stats[index])
        if not 4 <= area <= 40_000:
            continue
        crop = np.pad((labels[y : y + h, x : x + w] == index).astype(np.uint8) * 255, 2)
        length = max(float(np.hypot(w, h)), area**0.5)
        crops.append(crop)
        boxes.append((float(area), length, area / length))
    return crops, boxes


def _statistics(measured: list[tuple[float, float, float]], megapixels: float) -> FilmStatistics:
    p10, p50, p90 = np.percentile(np.array(measured), (10, 50, 90), axis=0)
    area, length, width = (
        (round(float(p10[k]), 1), round(float(p50[k]), 1), round(float(p90[k]), 1)) for k in range(3)
    )
    return FilmStatistics(round(len(measured) / megapixels, 1), area, length, width)
