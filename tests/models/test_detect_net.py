"""The detector's network and how it searches a scan: features, tiles, pyramid, thresholds, what it never marks."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from models.nets import detect as module
from models.nets.detect import (
    Calibration,
    DetectConfig,
    DetectNet,
    LearntDetector,
    company,
    detect,
    features,
    folded,
    linked,
    marks,
    scores,
    stepped,
    tiles,
    worked_scores,
)

WEIGHT = Path(__file__).parents[2] / "models" / "weights" / "detect.safetensors"


def untrained(*, calibration: Calibration = Calibration()) -> DetectNet:
    torch.manual_seed(3)
    net = DetectNet()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
    nn.init.normal_(net.head.weight, 0, 0.5)
    net.calibration.copy_(torch.tensor(calibration.packed()))
    return net.eval()


def textured(height: int, width: int, seed: int = 1) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.random((9, 9), np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(coarse + rng.normal(0, 0.03, coarse.shape), 0, 1).astype(np.float32)


class Bright:
    """Stands in for a trained network: the logit is high where luma is high, whatever is around."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, calibration: Calibration = Calibration()) -> None:
        self.calibration = calibration
        self.seen: list[tuple[int, int]] = []

    def logits(self, luma: NDArray[np.float32]) -> NDArray[np.float32]:
        self.seen.append(luma.shape)
        return (luma - np.float32(0.5)) * np.float32(20)


def test_the_network_has_at_most_one_and_a_half_million_parameters() -> None:
    assert sum(p.numel() for p in DetectNet().parameters()) <= 1_500_000


@pytest.mark.parametrize("size", [(16, 16), (33, 47), (1, 5), (130, 64)])
def test_any_size_of_picture_comes_back_at_that_size(size: tuple[int, int]) -> None:
    assert LearntDetector(untrained()).logits(textured(*size)).shape == size


def test_features_of_a_faded_picture_are_nearly_those_of_the_strong_one() -> None:
    strong = textured(80, 90)
    faded = strong * np.float32(0.4) + np.float32(0.3)
    assert np.abs(features(strong)[1:6] - features(faded)[1:6]).mean() < 0.12
    line = strong.copy()
    line[40] += 0.4
    assert features(line)[2, 40].mean() > features(strong)[2, 40].mean() + 0.3, "a bright line stands out"
    assert features(1 - line)[3, 40].mean() > 0.3, "and so does a dark one"


def test_a_flat_bright_sky_has_no_features_by_rounding() -> None:
    sky = np.full((64, 64), 250 / 255, np.float32)
    assert np.abs(features(sky)[1:6]).max() < 1e-3


def test_folding_the_norms_changes_nothing_but_the_time() -> None:
    net = untrained()
    given = torch.from_numpy(features(textured(64, 96)))[None]
    with torch.inference_mode():
        assert torch.allclose(net(given), folded(net)(given), atol=1e-4)
    assert any(isinstance(m, nn.BatchNorm2d) for m in net.modules()), "the network given is left as it is"


def test_tiles_cover_every_pixel_once_and_begin_where_the_network_halves_evenly() -> None:
    for shape in ((100, 2000), (1024, 1024), (1025, 700), (513, 3001)):
        seen = np.zeros(shape, np.uint8)
        for outer, inner, own in tiles(shape, 512, 64):
            seen[own] += 1
            assert outer[0].start % 16 == outer[1].start % 16 == 0
            assert max(s.stop - s.start for s in outer) <= 512 + 16
            assert [s.stop - s.start for s in inner] == [s.stop - s.start for s in own]
            assert [o.start + i.start for o, i in zip(outer, inner, strict=True)] == [s.start for s in own]
        assert (seen == 1).all(), shape


def test_tiles_do_not_show() -> None:
    detector = LearntDetector(untrained())
    luma = textured(400, 600)
    whole = detector.logits(luma)
    put = np.empty_like(luma)
    for outer, inner, own in tiles(luma.shape, 288, 64):
        put[own] = detector.logits(luma[outer])[inner]
    assert np.abs(put - whole).max() < 0.02 * whole.std(), "the seams stay under 2 % of the logits' spread"


def test_the_smaller_sizes_are_searched_down_to_the_smallest_side() -> None:
    seen = Bright()
    worked_scores(textured(800, 900), seen, DetectConfig())
    assert seen.seen == [(800, 900), (400, 450), (200, 225)]
    only = Bright()
    worked_scores(textured(100, 120), only, DetectConfig())
    assert only.seen == [(100, 120)], "a small picture is searched at its own size whatever the limit"


def test_soft_scans_are_searched_at_the_size_where_only_noise_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "effective_scale", lambda luma: 0.25)
    seen = Bright()
    mask = detect(textured(1000, 1200), seen, DetectConfig(levels=1))
    assert seen.seen == [(250, 300)]
    assert mask.values.shape == (1000, 1200)


def test_offsets_hold_back_the_smaller_sizes() -> None:
    luma = np.zeros((400, 400), np.float32)
    luma[100:140, 100:140] = 0.6
    free = worked_scores(luma, Bright(), DetectConfig(levels=2))
    held = worked_scores(luma, Bright(Calibration((-5, -24, 0, 0))), DetectConfig(levels=2))
    assert held[120, 120] < free[120, 120]


def test_faint_ends_of_a_sure_mark_are_kept_and_faint_marks_alone_are_not() -> None:
    score = np.zeros((40, 60), np.uint8)
    score[10, 5:50] = 130
    score[10, 20] = 220
    score[30, 5:50] = 130
    found = linked(score, 120, 200)
    assert found[10, 5:50].all()
    assert not found[30].any()


def test_a_mark_that_crosses_bands_is_kept_in_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BAND_PX", 20 * 50)
    monkeypatch.setattr(module, "BAND_MARGIN_PX", 20)
    score = np.zeros((90, 50), np.uint8)
    score[10:50, 25] = 130
    score[12, 25] = 250
    score[45, 25] = 250
    assert linked(score, 120, 200)[10:50, 25].all()


def test_a_mark_of_too_few_pixels_is_none() -> None:
    score = np.zeros((40, 60), np.uint8)
    score[10, 5:15] = 250
    score[30, 5:9] = 250
    found = linked(score, 120, 200, least_px=5)
    assert found[10, 5:15].all() and not found[30].any()


def test_a_mark_counts_where_it_has_company_and_not_far_away_from_it() -> None:
    worked = np.zeros((600, 4000), np.uint8)
    worked[300, 100:500] = 255  # a long sure line
    worked[310, 100:110] = 255  # a short one beside it
    worked[300, 3500:3510] = 255  # and one far away
    calibration = Calibration(keep=0.5, seed=0.9, sure=0.97, open_colour=1.0, open_gray=400 / 512**2 / 2)
    found = marks(worked, worked.shape, calibration, DetectConfig(dilate_px=0), monochrome=True).values
    assert found[300, 100:500].all() and found[310, 100:110].all()
    assert not found[:, 3000:].any()
    assert not marks(worked, worked.shape, calibration, DetectConfig(dilate_px=0), monochrome=False).values.any()


def test_the_company_of_a_small_scan_is_its_share_of_sure_pixels() -> None:
    worked = np.zeros((200, 300), np.uint8)
    worked[:20] = 255
    assert np.allclose(company(worked, 0.97), 0.1)


def test_marks_grow_by_so_many_pixels_and_values_are_zero_or_one() -> None:
    luma = np.zeros((300, 300), np.float32)
    luma[150, 150] = 1
    thin = detect(luma, Bright(), DetectConfig(dilate_px=0, levels=1))
    grown = detect(luma, Bright(), DetectConfig(dilate_px=2, levels=1))
    assert thin.values.sum() == 1
    assert grown.values[150, 148:153].all() and not grown.values[150, 147]
    assert set(np.unique(grown.values)) == {0.0, 1.0}


def test_nothing_is_ever_marked_in_a_protected_rectangle() -> None:
    luma = np.ones((200, 200), np.float32)
    values = detect(luma, Bright(), DetectConfig(levels=1, protect=((20, 30, 50, 40), (-10, 190, 30, 100)))).values
    assert not values[30:70, 20:70].any() and not values[190:, :20].any()
    assert values[29, 20:70].all() and values[30:70, 19].all()


def test_scores_have_the_size_of_the_scan_and_rise_with_the_logit() -> None:
    luma = np.linspace(0, 1, 300 * 256, dtype=np.float32).reshape(300, 256)
    found = scores(worked_scores(luma, Bright(), DetectConfig(levels=1)), luma.shape)
    assert found.shape == luma.shape
    assert found[0, 0] < 0.01 and found[-1, -1] > 0.99
    assert (np.diff(found.ravel()) >= 0).all()


def test_logits_out_of_range_count_as_the_end() -> None:
    assert stepped(np.array([-99, 0, 99], np.float32)).tolist() == [0, 128, 255]


def test_a_large_scan_takes_no_more_memory_than_its_luma_mask_and_a_few_bytes_a_pixel() -> None:
    script = (
        "import resource, numpy as np, torch, cv2\n"
        "from models.nets.detect import *\n"
        "torch.set_num_threads(1); cv2.setNumThreads(1)\n"
        "class Quiet:\n"
        "    calibration = Calibration()\n"
        "    def logits(self, luma): return np.full(luma.shape, -5, np.float32)\n"
        "detect(np.zeros((600, 600), np.float32), Quiet())\n"
        "luma = np.tile(np.random.default_rng(0).random((100, 100), np.float32), (40, 40))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "detect(luma, Quiet())\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / luma.size)\n"
    )
    root = Path(__file__).parents[2]
    said = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True).stdout
    assert float(said) < 18, "bytes a pixel: 4 of the mask, 4 of labels in bands, the rest of the pyramid"
    assert resource.RUSAGE_SELF == 0


@pytest.mark.skipif(not WEIGHT.is_file(), reason="no trained weight is bundled")
def test_the_bundled_weight_finds_a_scratch_and_leaves_a_smooth_picture_alone() -> None:
    detector = LearntDetector.load(WEIGHT)
    smooth = cv2.GaussianBlur(textured(256, 256, 5), (0, 0), 1.2)
    assert detect(smooth, detector).coverage < 0.002
    scratched = smooth.copy()
    cv2.line(scratched, (40, 10), (90, 240), 0.95, 2, cv2.LINE_AA)
    truth = np.zeros((256, 256), np.uint8)
    cv2.line(truth, (40, 10), (90, 240), 1, 2)
    found = detect(scratched, detector).values
    assert found[truth > 0].mean() > 0.7
    assert WEIGHT.stat().st_size <= 3 * 2**20
