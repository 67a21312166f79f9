from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from models.resolution import edge_loss, effective_scale


def _enlarged(picture: np.ndarray, times: int, grain: float, contrast: float = 1.0) -> np.ndarray:
    large = cv2.resize(picture, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC).astype(np.float64)
    large = 128 + (cv2.GaussianBlur(large, (0, 0), 0.4 * times) - 128) * contrast
    return np.clip(large + np.random.default_rng(0).normal(0, grain, large.shape), 0, 255).astype(np.uint8)


GRAY = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2GRAY)


@pytest.mark.parametrize(
    "picture", [np.tile(GRAY, (4, 4)), np.tile(data.camera(), (3, 3)), np.tile(data.coins(), (5, 5))]
)
def test_a_sharp_picture_keeps_its_size(picture: np.ndarray):
    assert effective_scale(picture) == 1
    assert effective_scale(picture.astype(np.uint16) * 257) == 1


@pytest.mark.parametrize("grain", [0.0, 2.0, 6.0])
@pytest.mark.parametrize("contrast", [1.0, 0.4])
def test_an_enlarged_print_is_seen_through_grain_and_fading(grain: float, contrast: float):
    assert effective_scale(_enlarged(GRAY, 4, grain * contrast, contrast)) == 1 / 4
    assert effective_scale(_enlarged(GRAY[:, :400], 2, grain * contrast, contrast)) in (1, 1 / 2)


def test_a_picture_is_never_reduced_below_512_px():
    assert effective_scale(_enlarged(GRAY[:100, :100], 8, 1)) == 1
    assert effective_scale(_enlarged(GRAY[:160, :160], 8, 1)) == 1 / 2


def test_the_sharpest_part_of_a_large_picture_decides():
    soft = np.tile(_enlarged(GRAY, 4, 1), (2, 2))
    assert effective_scale(soft) < 1
    soft[1100:1612, 1100:1612] = GRAY
    assert effective_scale(soft) == 1


def test_a_picture_without_edges_loses_nothing():
    assert edge_loss(np.full((64, 64), 7, np.float32), 2) == 0
