"""Marks on faces: what may be an eye or a nostril is taken back, what crosses a face is not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from models import likeness
from models.imaging import Mask, Raster, turn_back

LEFT_EYE, NOSTRIL = (111, 199), (140, 224)  # (row, column) in the astronaut's picture


def astronaut() -> np.ndarray:
    return np.ascontiguousarray(data.astronaut()[:300, 80:380])


def at(point: tuple[int, int]) -> tuple[int, int]:
    """(x, y) in the part of the picture used here."""
    return point[1] - 80, point[0]


def face() -> likeness.Box:
    (found,) = likeness.faces_of(Raster(astronaut()))
    return found


def test_the_face_is_found_where_it_is_in_every_orientation_and_at_every_size() -> None:
    box = face()
    x, y = at(LEFT_EYE)
    assert box.left < x < box.left + box.width and box.top < y < box.top + box.height / 2
    for orientation in range(1, 9):
        stored = turn_back(astronaut(), orientation)
        eye = np.zeros(astronaut().shape[:2], np.uint8)
        eye[y, x] = 1
        row, column = (int(v[0]) for v in np.nonzero(turn_back(eye, orientation)))
        (found,) = likeness.faces_of(Raster(stored, orientation=orientation))
        assert found.left < column < found.left + found.width, orientation
        assert found.top < row < found.top + found.height, orientation
    large = cv2.resize(astronaut(), None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC)
    (found,) = likeness.faces_of(Raster(np.asarray(large, np.uint8)))
    assert found.width == pytest.approx(5 * box.width, rel=0.25)
    assert likeness.faces_of(Raster(np.ascontiguousarray(data.coffee()))) == []


def test_a_mark_on_an_eye_is_taken_back_and_a_crease_across_the_face_stays_without_the_nostril_it_runs_into() -> None:
    picture, box = astronaut(), face()
    crease = np.zeros(picture.shape[:2], np.uint8)
    x, y = at(NOSTRIL)
    cv2.line(crease, (box.left - 20, y - 9), (box.left + box.width + 20, y - 9), 255, 5)
    picture[crease > 0] = 250
    eye, nostril = np.zeros_like(crease), np.zeros_like(crease)
    cv2.circle(eye, at(LEFT_EYE), 6, 255, -1)
    cv2.ellipse(nostril, (x, y), (10, 6), 0, 0, 360, 255, -1)
    picture[(nostril > 0) | (eye > 0)] = 30
    mask = Mask(np.maximum(np.maximum(crease, eye), nostril))
    assert likeness.spare(mask, Raster(picture), [box]) >= 2
    assert mask.stored[eye > 0].mean() < 0.2 * 255
    assert mask.stored[(nostril > 0) & (crease == 0)].mean() < 0.3 * 255
    assert mask.stored[crease > 0].mean() > 0.9 * 255


def test_the_same_marks_away_from_faces_stay() -> None:
    picture = astronaut()
    marks = np.zeros(picture.shape[:2], np.uint8)
    for x in range(20, 280, 20):
        cv2.circle(marks, (x, 285), 5, 255, -1)
    picture[marks > 0] = 10
    mask = Mask(marks.copy())
    assert likeness.spare(mask, Raster(picture), [face()]) == 0
    assert np.array_equal(mask.stored, marks)


@pytest.mark.parametrize("bits", [8, 16])
def test_masks_of_floats_and_scans_of_16_bits_will_do_and_boxes_may_reach_over_the_edge(bits: int) -> None:
    picture = astronaut() if bits == 8 else astronaut().astype(np.uint16) * 257
    box = likeness.Box(left=-10, top=-30, width=400, height=400)
    values = np.zeros(picture.shape[:2], np.float32)
    cv2.circle(values, at(LEFT_EYE), 6, 1.0, -1)
    mask = Mask(values)
    likeness.spare(mask, Raster(picture), [box])
    assert mask.stored.dtype == np.float32 and mask.values.max() <= 1
