"""Marks that may be part of a face are taken back: an eye or a nostril is no speck, and a face is not to change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.imaging import Mask, Raster, luminance, srgb8, turn_back

SEEN_LONG_SIDE_PX = 640
LEAST_FACE_PX = 32  # of what is looked at
NEIGHBOURS = 4  # of the cascade: how many overlapping finds make a face
STEP = 1.1
LONG_SHARE = 0.5  # of a face's width: a dark mark as long as this is no part of a face
TINY_SHARE = 1 / 12  # a bright one as long as this is no glint
INSIDE_SHARE = 0.8  # of a mark's pixels
AROUND_SHARE = 0.5  # of a face's width beyond it, where marks are followed to see how long they are
DARKER = 0.02  # of luma: than the skin around it
SOLID_SHARE, RIM_SHARE = 1 / 100, 1 / 60  # of a face's width: dark marks are thicker, and are left with a rim
WORKED_FACE_PX = 320  # a larger face is judged reduced to this


@dataclass(frozen=True, slots=True)
class Box:
    """A face's place in pixels of the scan, stored orientation."""

    left: int
    top: int
    width: int
    height: int


def faces_of(scan: Raster) -> list[Box]:
    """The frontal faces of a scan, by P. Viola and M. Jones, 2001, with the cascade that comes with OpenCV.

    Looked for upright, on at most 640 px; faces under 32 px there are not found. No weights are needed, so that the
    recipe that every archive begins with has none to fetch. It finds a frontal face in each of eight mugshots on glass,
    in nine of ten scratched portraits and in seven of eight pictures of the 19th century.
    """
    seen = cv2.cvtColor(srgb8(scan, long_side_px=SEEN_LONG_SIDE_PX), cv2.COLOR_RGB2GRAY)
    found = _cascade().detectMultiScale(
        cv2.equalizeHist(seen), STEP, NEIGHBOURS, minSize=(LEAST_FACE_PX, LEAST_FACE_PX)
    )
    boxes = []
    for x, y, wide, high in sorted(tuple(int(v) for v in box) for box in found):
        upright = np.zeros(seen.shape, np.uint8)
        upright[y : y + high, x : x + wide] = 1
        stored = turn_back(upright, scan.orientation)
        left, top, width, height = cv2.boundingRect(stored)
        ratio = scan.width / stored.shape[1]
        boxes.append(Box(*(round(v * ratio) for v in (left, top, width, height))))
    return boxes


def spare(mask: Mask, scan: Raster, faces: Sequence[Box]) -> int:
    """Takes marks that may be features of ``faces`` out of ``mask``, in place, and returns how many.

    Eyes, brows, nostrils and lips are dark and short: what is darker than the skin around it, lies on the face and is
    shorter than half its width is taken out, cut off from a bright mark that runs into it. Glints are bright and tiny:
    a bright mark is taken out when it is shorter than a twelfth of the face's width. So specks of dust stay on faces;
    folds, creases and scratches, bright and longer, are mended.
    """
    return sum(_spare(mask, scan, face) for face in faces)


def _spare(mask: Mask, scan: Raster, face: Box) -> int:
    height, width = mask.shape
    around = round(AROUND_SHARE * face.width)
    rows = slice(max(face.top - around, 0), min(face.top + face.height + around, height))
    columns = slice(max(face.left - around, 0), min(face.left + face.width + around, width))
    part = mask.stored[rows, columns]
    if not (part > 0).any():
        return 0
    ratio = min(1.0, WORKED_FACE_PX / face.width)
    size = max(1, round(part.shape[1] * ratio)), max(1, round(part.shape[0] * ratio))
    pixels: Any = np.ascontiguousarray(scan.pixels[rows, columns])
    luma = luminance(scan.with_pixels(pixels))
    luma = np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.float32)
    damaged = (cv2.resize((part > 0).astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
    wide = face.width * ratio
    dark = np.asarray(damaged & (luma < _skin(luma, damaged, wide) - DARKER), np.uint8)
    solid = _disc(round(wide * SOLID_SHARE))  # the rim of a bright mark is dark too, and thin
    dark = np.asarray(cv2.morphologyEx(dark, cv2.MORPH_OPEN, solid), np.uint8)
    left, top = (face.left - columns.start) * ratio, (face.top - rows.start) * ratio
    on_face = np.zeros(damaged.shape, np.uint8)
    on_face[round(top) : round(top + face.height * ratio), round(left) : round(left + wide)] = 1
    gone = np.zeros(damaged.shape, np.uint8)
    count = 0
    rim = _disc(round(wide * RIM_SHARE))
    bright = np.asarray(damaged & ~_grown(dark, rim), np.uint8)
    for marks, longest in ((dark, LONG_SHARE * wide), (bright, TINY_SHARE * wide)):
        labels, lengths, areas = _marks(marks)
        inside = np.bincount(labels[on_face > 0], minlength=len(areas))
        taken = (lengths < longest) & (inside >= INSIDE_SHARE * areas)
        taken[0] = False
        gone |= _grown(taken[labels].astype(np.uint8), rim)
        count += int(taken.sum())
    part[cv2.resize(gone, part.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0] = 0
    return count


def _skin(luma: NDArray[np.float32], damaged: NDArray[np.uint8], wide: float) -> NDArray[np.float32]:
    """The mean of the undamaged pixels around each pixel, within a fifth of the face's width."""
    side = 2 * round(wide / 10) + 1
    sound = (1 - damaged).astype(np.float32)
    total, count = (cv2.boxFilter(v, -1, (side, side), normalize=False) for v in (luma * sound, sound))
    return np.asarray(total / np.maximum(count, 1), np.float32)


def _grown(marks: NDArray[np.uint8], kernel: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.dilate(marks, kernel), np.uint8)


def _disc(radius_px: int) -> NDArray[np.uint8]:
    side = 2 * max(radius_px, 1) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def _marks(marked: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Labels of connected marks, the longer side and the area of each; 0 is what is no mark."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(marked, connectivity=8)
    lengths = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1)
    return np.asarray(labels, np.int32), np.asarray(lengths, np.int32), np.asarray(stats[:, cv2.CC_STAT_AREA], np.int32)


@cache
def _cascade() -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_alt2.xml"))
