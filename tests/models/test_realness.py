"""The judge of the simulator sees what is there to see, nothing where nothing is, and never cheats by picture."""

import numpy as np
import pytest

from models.training.realness import (
    CUT_PX,
    FOLDS,
    NAMES,
    PATCH_PX,
    Patches,
    _cuts,
    _folds,
    auc_of,
    halves,
    judged_by_statistics,
    statistics,
)


def patches(seed: int, noise: float, first: int) -> Patches:
    rng = np.random.default_rng(seed)
    ramp = np.linspace(-1, 1, PATCH_PX)[None, :, None]
    made = ramp * rng.uniform(0.5, 1, (60, 1, 1)) + rng.normal(0, noise, (60, PATCH_PX, PATCH_PX))
    made = (made - made.mean((1, 2), keepdims=True)) / made.std((1, 2), keepdims=True)
    return Patches(made.astype(np.float32), first + np.arange(60) // 4)


def test_statistics_have_a_name_each_and_are_finite() -> None:
    made = statistics(patches(0, 0.3, 0).pixels[0])
    assert made.shape == (len(NAMES),)
    assert np.isfinite(made).all()


def test_auc_counts_pairs_and_ties_half() -> None:
    label = np.array([0, 0, 1, 1])
    assert auc_of(np.array([0.1, 0.2, 0.3, 0.4]), label) == 1.0
    assert auc_of(np.array([0.4, 0.3, 0.2, 0.1]), label) == 0.0
    assert auc_of(np.zeros(4), label) == 0.5
    assert auc_of(np.array([0.1, 0.3, 0.2, 0.4]), label) == pytest.approx(0.75)


def test_plainly_noisier_patches_are_told_apart_and_alike_ones_are_not() -> None:
    apart, alone = judged_by_statistics(patches(0, 0.1, 0), patches(1, 0.6, 1000), 3)
    assert apart > 0.95
    assert abs(alone[0][1] - 0.5) > 0.4
    alike, _ = judged_by_statistics(patches(0, 0.3, 0), patches(1, 0.3, 1000), 3)
    assert 0.3 < alike < 0.7


def test_a_picture_is_never_in_two_folds_or_two_halves() -> None:
    made = patches(0, 0.3, 0)
    fold = _folds(made.pictures, np.random.default_rng(0))
    assert set(fold.tolist()) == set(range(FOLDS))
    assert all(len(set(fold[made.pictures == p].tolist())) == 1 for p in np.unique(made.pictures))
    one, other = halves(made, 0)
    assert not set(one.pictures.tolist()) & set(other.pictures.tolist())
    assert len(one.pixels) + len(other.pixels) == 60


def test_cut_patches_are_set_alike_and_flat_ones_left_out() -> None:
    rng = np.random.default_rng(0)
    gray = rng.uniform(0.2, 0.9, (2 * CUT_PX, 3 * CUT_PX)).astype(np.float32)
    cut = _cuts(gray, np.ones(gray.shape, np.bool_), rng, 5)
    assert len(cut) == 5
    for patch in cut:
        assert patch.shape == (PATCH_PX, PATCH_PX)
        assert abs(float(patch.mean())) < 1e-3
        assert float(patch.std()) == pytest.approx(1, abs=1e-3)
    assert _cuts(np.full_like(gray, 0.5), np.ones(gray.shape, np.bool_), rng, 5) == []
    assert _cuts(gray[:40, :40], np.ones((40, 40), np.bool_), rng, 5) == []
