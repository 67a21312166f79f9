"""Evidence of mending: grain taken from flat parts, edges sharpened; texture alone taken is held back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from models.evidence import CALM_LEVELS, Evidence, evidence, held_back
from models.imaging import Raster


def scene(bits: int = 8) -> np.ndarray:
    """(160, 160, 3): flat sky above, strong texture below, in levels of 255."""
    rng = np.random.default_rng(3)
    texture = cv2.GaussianBlur(rng.normal(0, 60, (160, 160)), (0, 0), 0.8)
    texture[:90] = 0
    picture = 120 + texture + 20 * (np.arange(160)[:, None] > 89)
    return np.repeat(np.clip(picture, 0, 255)[:, :, None], 3, 2)


def raster(levels: np.ndarray, bits: int = 8) -> Raster:
    whole = np.rint(np.clip(levels, 0, 255) * (1 if bits == 8 else 257))
    return Raster(whole.astype(np.uint8 if bits == 8 else np.uint16))


@pytest.mark.parametrize("bits", [8, 16])
def test_grain_taken_away_and_edges_sharpened_are_mending(bits: int) -> None:
    sound = scene()
    grainy = sound + np.random.default_rng(1).normal(0, 7, (160, 160, 1))
    found = evidence(raster(grainy, bits), raster(sound, bits))
    assert found.flat == pytest.approx(7, abs=0.8)
    assert (found.openness, found.share) == (1, 1)
    blurred = cv2.GaussianBlur(sound, (0, 0), 1.0)
    found = evidence(raster(blurred, bits), raster(sound, bits))
    assert found.sharper > 0.5
    assert found.share == 1


def test_texture_taken_away_is_held_to_a_calm_change() -> None:
    sound = scene()
    smoothed = sound.copy()
    smoothed[90:] = cv2.GaussianBlur(sound, (0, 0), 1.2)[90:]
    before, after = raster(sound), raster(smoothed)
    found = evidence(before, after)
    assert found.flat < 1 and found.sharper < 0 and found.whole > 2 * CALM_LEVELS
    assert found.openness == 0
    kept = held_back(before, after, found.share).pixels
    change = kept.astype(float) - before.pixels
    assert np.sqrt(np.square(change).mean()) == pytest.approx(CALM_LEVELS, rel=0.1)
    assert held_back(before, after, 1.0) is after


def test_a_small_change_needs_no_evidence_and_half_the_evidence_allows_twice_the_change() -> None:
    assert Evidence(0.5, 0.0, CALM_LEVELS).share == 1
    assert Evidence(0.5, 0.0, 2 * CALM_LEVELS).share == pytest.approx(0.5)
    assert Evidence(5.0, 0.0, 2 * CALM_LEVELS).share == 1
    assert Evidence(5.0, 0.0, 4 * CALM_LEVELS).share == pytest.approx(0.5)


def test_a_large_soft_scan_is_judged_at_the_size_it_was_worked_at() -> None:
    sound = scene()
    grainy = sound + np.random.default_rng(1).normal(0, 6, (160, 160, 1))
    large = [raster(cv2.resize(p, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)) for p in (grainy, sound)]
    assert evidence(large[0], large[1], 2).flat == pytest.approx(4.7, abs=0.4), "a little is lost in between"
