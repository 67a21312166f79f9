"""The classical detector on pictures made here: what must be found, what must not, and that tiles do not show."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models import classical
from models.classical import ClassicalConfig

Floats = NDArray[np.float32]


def print_of(seed: int, height: int = 320, width: int = 400, grain: float = 0.012) -> Floats:
    """A soft picture with film grain."""
    rng = np.random.default_rng(seed)
    soft = cv2.resize(rng.random((6, 8)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    noise = cv2.GaussianBlur(rng.normal(0, 1, (height, width)).astype(np.float32), (0, 0), 0.7)
    return np.clip(0.3 + 0.4 * soft + grain * noise / noise.std(), 0, 1).astype(np.float32)


def with_lines(luma: Floats, value: float) -> tuple[Floats, NDArray[np.bool_]]:
    """``luma`` with four long scratches, and where they are."""
    drawn = np.zeros(luma.shape, np.uint8)
    height, width = luma.shape
    for k in range(4):
        cv2.line(drawn, (width // 6 + k * 60, 5), (width // 6 + k * 60 + 25, height - 6), 255, 2, cv2.LINE_AA)
    alpha = drawn.astype(np.float32) / 255
    return np.clip(luma + alpha * value, 0, 1).astype(np.float32), drawn > 127


@pytest.mark.parametrize("sign", [1, -1])
def test_long_scratches_are_marked_along_most_of_their_length(sign: int) -> None:
    damaged, truth = with_lines(print_of(1), sign * 0.25)
    found = classical.detect(damaged)
    marked = found.mask.values >= 0.5
    assert (marked & truth).sum() / truth.sum() > 0.7
    assert (cv2.dilate(truth.astype(np.uint8), np.ones((9, 9), np.uint8))[marked] > 0).mean() > 0.7
    assert found.gate is None
    assert found.components >= 4
    assert found.coverage == pytest.approx(marked.mean())


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_marked_on_a_clean_print_with_grain(seed: int) -> None:
    found = classical.detect(print_of(seed))
    assert found.components == 0
    assert not found.mask.values.any()
    assert found.gate is not None


def test_specks_are_marked_and_whole() -> None:
    luma = print_of(3)
    rng = np.random.default_rng(5)
    truth = np.zeros(luma.shape, np.uint8)
    for _ in range(40):
        cv2.circle(truth, (int(rng.integers(20, 380)), int(rng.integers(20, 300))), 2, 1, -1)
    found = classical.detect(np.where(truth > 0, np.float32(0.97), luma))
    assert (found.mask.values[truth > 0] >= 0.5).mean() > 0.8


def test_tiles_do_not_show() -> None:
    damaged, _ = with_lines(print_of(7, 500, 620), 0.3)
    whole = classical.detect(damaged, ClassicalConfig(tile_px=1024))
    tiled = classical.detect(damaged, ClassicalConfig(tile_px=128))
    assert whole.components > 0
    assert np.array_equal(whole.mask.values, tiled.mask.values)


def test_a_colour_picture_needs_more_evidence_than_a_black_and_white_one() -> None:
    config = ClassicalConfig()
    damaged, _ = with_lines(print_of(9), 0.3)
    strict = replace(config, blob_gate=1e9, line_gate=1e9)
    assert classical.detect(damaged, config).components > 0
    assert classical.detect(damaged, strict, monochrome=False).components == 0


def test_a_picture_smaller_than_48_px_is_never_marked() -> None:
    assert classical.detect(np.ones((20, 30), np.float32)).components == 0


def test_components_are_counted_across_the_bands_in_which_they_are_looked_at() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.01, 0.3, 0.41, 0.9):
        marked = (rng.random((1300, 90)) < share).astype(np.uint8)
        assert classical.component_count(marked) == cv2.connectedComponents(marked, connectivity=8)[0] - 1
