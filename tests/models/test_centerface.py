from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from models.nets.centerface import CenterFace, Face
from models.registry import card
from models.weights import AlteredWeights, MissingWeights


@pytest.fixture(scope="module")
def detector(weights_of: Callable[[str], Path]) -> CenterFace:
    return CenterFace(card("centerface"), weights_of("centerface"))


def _is_the_astronaut(face: Face, scale: float = 1.0, shift_px: tuple[int, int] = (0, 0)) -> None:
    x, y = shift_px
    box = np.array([face.x0 - x, face.y0 - y, face.x1 - x, face.y1 - y]) / scale
    np.testing.assert_allclose(box, [180, 60, 272, 176], atol=14)
    points = (face.landmarks - (x, y)) / scale
    np.testing.assert_allclose(points, [[203, 102], [247, 105], [223, 125], [203, 142], [241, 144]], atol=8)
    assert face.score > 0.8


def test_the_face_is_found_with_its_landmarks(detector: CenterFace):
    (face,) = detector.detect_faces(data.astronaut())
    _is_the_astronaut(face)


def test_a_gray_picture_gives_the_same_face(detector: CenterFace):
    gray = np.repeat(cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
    (face,) = detector.detect_faces(gray)
    _is_the_astronaut(face)


def test_every_size_and_order_of_sizes_gives_the_same_face(detector: CenterFace):
    picture = data.astronaut()
    for scale in (1.0, 1.7, 0.6, 1.0):
        resized = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        (face,) = detector.detect_faces(resized)
        _is_the_astronaut(face, scale)


def test_a_small_face_in_a_large_picture_of_odd_size_is_found_where_it_is(detector: CenterFace):
    large = np.full((1403, 1999, 3), 128, np.uint8)
    large[801:1313, 1207:1719] = data.astronaut()
    (face,) = detector.detect_faces(large)
    _is_the_astronaut(face, 1.0, (1207, 801))


def test_a_picture_without_faces_gives_none(detector: CenterFace):
    assert detector.detect_faces(data.coffee()) == []
    assert detector.detect_faces(np.zeros((40, 9, 3), np.uint8)) == []


def test_another_shape_or_depth_is_refused(detector: CenterFace):
    for wrong in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.uint16)):
        with pytest.raises(ValueError, match="expected \\(h, w, 3\\) uint8"):
            detector.detect_faces(wrong)


def test_missing_and_altered_weights_are_named(tmp_path: Path):
    centerface = card("centerface")
    with pytest.raises(MissingWeights, match=r"centerface\.onnx.*glassplate models fetch centerface"):
        CenterFace(centerface, tmp_path / "centerface.onnx")
    (tmp_path / "centerface.onnx").write_bytes(b"other")
    with pytest.raises(AlteredWeights, match=centerface.files[0].sha256):
        CenterFace(centerface, tmp_path / "centerface.onnx")
