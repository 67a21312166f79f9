from __future__ import annotations

import itertools
import math
import tracemalloc

import cv2
import numpy as np
import pytest
import pytorch_msssim
import torch
from skimage import color, data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from models import metrics
from models.naturalness import brisque, niqe

RNG_SEED = 7


def _noisy(picture: np.ndarray, sigma: float) -> np.ndarray:
    spoiled = picture + np.random.default_rng(RNG_SEED).normal(0, sigma, picture.shape)
    return np.clip(spoiled, 0, 255).round().astype(np.uint8)


PAIRS = {
    "noisy": (data.coffee(), _noisy(data.coffee(), 20)),
    "blurred": (data.astronaut()[:301, :333], cv2.GaussianBlur(data.astronaut(), (0, 0), 2)[:301, :333]),
    "gray": (data.camera(), _noisy(data.camera(), 9)),
    "16 bit": (data.chelsea().astype(np.uint16) * 257, _noisy(data.chelsea(), 5).astype(np.uint16) * 257),
}


@pytest.fixture(params=PAIRS, name="pair")
def _pair(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    return PAIRS[request.param]


def test_psnr_and_ssim_agree_with_scikit_image(pair: tuple[np.ndarray, np.ndarray]):
    a, b = pair
    peak = np.iinfo(a.dtype).max
    assert metrics.psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=peak), abs=1e-3)
    axis = 2 if a.ndim == 3 else None
    reference = structural_similarity(
        a, b, data_range=peak, channel_axis=axis, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert metrics.ssim(a, b) == pytest.approx(reference, abs=1e-4)


def test_ms_ssim_agrees_with_pytorch_msssim(pair: tuple[np.ndarray, np.ndarray]):
    a, b = (p[:259, :300].reshape(259, 300, -1) for p in pair)
    x, y = (torch.from_numpy(p.astype(np.float64)).permute(2, 0, 1)[None] for p in (a, b))
    reference = float(pytorch_msssim.ms_ssim(x, y, data_range=float(np.iinfo(a.dtype).max)))
    assert metrics.ms_ssim(a, b) == pytest.approx(reference, abs=1e-3)


def test_ms_ssim_refuses_a_picture_too_small_for_five_scales():
    with pytest.raises(ValueError, match="expected sides over 160 px, found \\(160, 200\\)"):
        metrics.ms_ssim(np.zeros((160, 200), np.uint8), np.zeros((160, 200), np.uint8))


# Computed once by basicsr 1.4.2 (niqe.py, with its niqe_pris_params.npz) and by brisque 0.2.0 (its own features, scaled
# and put through its own support vectors) on pictures that come with scikit-image.
@pytest.mark.parametrize(
    ("picture", "expected_niqe", "expected_brisque"),
    [
        (data.astronaut(), 3.064607, 10.794863),
        (data.coffee(), 4.115242, 3.047926),
        (data.chelsea(), 2.625536, 2.870767),
        (data.rocket(), 6.969131, 4.233154),
        (cv2.GaussianBlur(data.astronaut(), (0, 0), 2), 7.282206, 64.270657),
        (_noisy(data.coffee(), 20), 10.868357, 40.701949),
    ],
    ids=["astronaut", "coffee", "chelsea", "rocket", "blurred", "noisy"],
)
def test_niqe_and_brisque_agree_with_their_references(
    picture: np.ndarray, expected_niqe: float, expected_brisque: float
):
    assert niqe(picture) == pytest.approx(expected_niqe, abs=1e-3)
    assert brisque(picture) == pytest.approx(expected_brisque, abs=1e-3)


def test_a_picture_without_contrast_has_no_natural_statistics():
    flat = np.full((200, 200, 3), 90, np.uint8)
    assert math.isnan(niqe(flat)) and math.isnan(brisque(flat))
    assert math.isnan(niqe(data.coffee()[:95])) and math.isnan(brisque(data.coffee()[:15]))
    scores = metrics.blind_scores(flat)
    assert "niqe" not in scores and scores["contrast"] == 0 and scores["colourfulness"] == 0


def test_ciede2000_is_the_mean_of_known_differences():
    a = np.array([[[200, 30, 60], [10, 10, 10]]], np.uint8)
    assert metrics.ciede2000(a, a) == 0
    b = np.array([[[190, 40, 60], [30, 10, 10]]], np.uint8)
    one_by_one = [float(color.deltaE_ciede2000(color.rgb2lab(a[:, i]), color.rgb2lab(b[:, i]))[0]) for i in (0, 1)]
    assert metrics.ciede2000(a, b) == pytest.approx(sum(one_by_one) / 2, abs=1e-6)
    assert min(one_by_one) > 1


def test_colourfulness_follows_its_formula_and_order():
    picture = data.coffee()
    r, g, b = (picture[..., i].astype(float) for i in range(3))
    rg, yb = r - g, 0.5 * (r + g) - b
    expected = np.sqrt(rg.var() + yb.var()) + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2)
    assert metrics.colourfulness(picture) == pytest.approx(expected, abs=1e-9)
    gray = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
    assert metrics.colourfulness(gray) == 0


@pytest.mark.parametrize("sigma", [3.0, 10.0])
def test_noise_is_measured_to_a_tenth_on_a_smooth_picture(sigma: float):
    ramp = np.tile(np.linspace(60, 190, 512), (512, 1))
    noisy = np.clip(ramp + np.random.default_rng(0).normal(0, sigma, ramp.shape), 0, 255).round().astype(np.uint8)
    assert metrics.noise(noisy) == pytest.approx(sigma, rel=0.1)
    assert metrics.noise_immerkaer(noisy) == pytest.approx(sigma, rel=0.1)


def test_blur_lowers_sharpness_and_fading_lowers_contrast():
    picture = data.astronaut()
    soft = cv2.GaussianBlur(picture, (0, 0), 3)
    assert metrics.sharpness(picture) > metrics.sharpness(soft) + 0.1
    faded = (picture * 0.5 + 64).astype(np.uint8)
    assert metrics.contrast(faded) == pytest.approx(metrics.contrast(picture) / 2, rel=0.02)


def test_what_is_outside_the_mask_decides_and_what_is_inside_does_not():
    a = data.coffee()
    hole = np.zeros(a.shape[:2], bool)
    hole[100:160, 200:300] = True
    inside = a.copy()
    inside[hole] = 255 - inside[hole]
    assert metrics.psnr(a, inside, outside=hole) == math.inf
    assert metrics.ssim(a, inside, outside=hole) == pytest.approx(1.0, abs=1e-12)
    assert metrics.ssim(a, inside) < 0.999
    beside = inside.copy()
    beside[50, 50] ^= 128
    assert metrics.psnr(a, beside, outside=hole) < 80
    assert metrics.ssim(a, beside, outside=hole) < 1
    everything = np.ones(a.shape[:2], bool)
    assert math.isnan(metrics.psnr(a, a, outside=everything)) and math.isnan(metrics.ssim(a, a, outside=everything))


def test_similarity_of_a_large_picture_needs_little_memory():
    a = np.random.default_rng(0).integers(0, 256, (4000, 1500, 3), dtype=np.uint8)
    tracemalloc.start()
    metrics.ssim(a, a)
    metrics.psnr(a, a)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * a.nbytes  # at once and in float64 it would be more than 80


def test_unequal_pictures_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 4\) uint8, \(4, 5\) uint8"):
        metrics.psnr(np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8))
    with pytest.raises(ValueError, match="uint16"):
        metrics.ssim(np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint16))


def test_mask_scores_are_those_of_counting():
    rng = np.random.default_rng(5)
    truth = rng.random((8, 9)) < 0.3
    predicted = np.clip(truth * 0.3 + rng.random((8, 9)) * 0.7, 0, 1).round(1).astype(np.float32)  # rounded: has ties
    scores = metrics.mask_scores(predicted, truth)
    marked = predicted >= 0.5
    assert scores["iou"] == pytest.approx((marked & truth).sum() / (marked | truth).sum())
    assert scores["f1"] == pytest.approx(2 * (marked & truth).sum() / (marked.sum() + truth.sum()))
    pairs = list(itertools.product(predicted[truth], predicted[~truth]))
    assert scores["auc"] == pytest.approx(sum((p > n) + (p == n) / 2 for p, n in pairs) / len(pairs))
    average = 0.0
    recall_before = 0.0
    for level in sorted(set(predicted.ravel()), reverse=True):
        at = predicted >= level
        recall, precision = (at & truth).sum() / truth.sum(), (at & truth).sum() / at.sum()
        average, recall_before = average + (recall - recall_before) * precision, recall
    assert scores["average_precision"] == pytest.approx(average)


def test_empty_masks_agree_and_have_no_ranking():
    nothing = np.zeros((3, 3), np.float32)
    assert metrics.mask_scores(nothing, nothing > 0) == {"iou": 1.0, "f1": 1.0}
    assert metrics.mask_scores(nothing + 1, nothing > 0) == {"iou": 0.0, "f1": 0.0}


def test_every_score_has_a_direction():
    names = set(metrics.blind_scores(data.chelsea()))
    names |= set(metrics.mask_scores(np.eye(3, dtype=np.float32), np.eye(3) > 0))
    assert len(names) == 10
    assert names <= set(metrics.DIRECTIONS)


def test_the_blind_scores_are_taken_at_four_megapixels():
    large = cv2.resize(data.coffee(), (3600, 2400), interpolation=cv2.INTER_CUBIC)
    seen = metrics.viewing_size(large)
    assert seen.shape == (1633, 2449, 3)
    assert metrics.viewing_size(data.coffee()).shape == data.coffee().shape
