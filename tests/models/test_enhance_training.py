"""Learning enhancement: samples, losses, measures, the recipes one after the other, the frozen examination."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.metrics import psnr
from models.nets.enhance import DetailNet
from models.nets.tone import PARAMETERS, ToneNet
from models.training import assemble, calibrate_enhance, data, enhance_measures, evaluate_enhance, features, worn
from models.training.enhance_data import DetailSampler, ToneSampler, yellowed
from models.training.enhance_measures import detail_measures, tone_measures
from models.training.loop import train
from models.training.losses import FeatureLoss, PictureLoss, ToneLoss
from models.training.recipes import RECIPES
from models.weights import UnusableWeights, file_sha256, read_state, write_state


def scene(rng: np.random.Generator) -> np.ndarray:
    """(120, 140, 3) RGB with edges, dark and light parts and colours."""
    picture = cv2.resize(rng.integers(0, 255, (6, 7, 3), np.uint8), (140, 120), interpolation=cv2.INTER_NEAREST)
    cv2.circle(picture, (int(rng.integers(20, 120)), int(rng.integers(20, 100))), 18, (5, 5, 5), -1)
    cv2.line(picture, (0, int(rng.integers(120))), (139, int(rng.integers(120))), (250, 250, 250), 3)
    return np.asarray(picture, np.uint8)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("enhance"), np.random.default_rng(5)
    (root / "train/photos").mkdir(parents=True)
    for i in range(48):
        cv2.imwrite(str(root / f"train/photos/bsds_{i:04d}.webp"), scene(rng), [cv2.IMWRITE_WEBP_QUALITY, 101])
    for name in ("bench/Set14", "real"):
        (root / name).mkdir(parents=True)
        noise = cv2.resize(rng.integers(0, 255, (5, 7, 3), np.uint8), (150, 100), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(root / name / "a.png"), noise)
    (root / "SOURCES.tsv").write_text("file\tsource\tlicence\tdata_terms\n")
    data.pack(root, root / "shards", ["photos"])
    return root / "shards"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def drawn(shards: Path, sampler: data.Sampler, count: int) -> list[data.Arrays]:
    samples = data.Samples(data.open_stock(shards, ["photos"], "train"), sampler, 3, 0, count)
    return [samples[i] for i in range(count)]


def batch(samples: list[data.Arrays]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.stack([s[name] for s in samples])) for name in samples[0]}


def test_a_detail_sample_depends_on_its_number_alone_and_a_share_is_clean_gray_or_marked(shards: Path) -> None:
    samples = drawn(shards, DetailSampler(crop_px=64), 80)
    again = drawn(shards, DetailSampler(crop_px=64), 3)
    np.testing.assert_array_equal(samples[2]["input"], again[2]["input"])
    clean = [s for s in samples if np.abs(s["input"][:3] - s["target"]).max() == 0]
    gray = [s for s in samples if (s["target"] == s["target"][:1]).all()]
    marked = [s for s in samples if s["input"][3].any()]
    assert 8 <= len(clean) <= 26
    assert 14 <= len(gray) <= 36
    assert 10 <= len(marked) <= 35
    assert all((s["input"][:3] == s["input"][:1]).all() for s in gray), "gray in is gray out, so gray in is gray given"
    assert not any(s["input"][3].any() for s in clean)


def test_what_was_filled_lies_under_the_mask_and_a_rim_may_be_left(shards: Path) -> None:
    sampler = replace(
        DetailSampler(crop_px=96), clean_share=0.0, marked_share=1.0, **{
            name: replace(getattr(DetailSampler(), name), chance=0.0)
            for name in ("defocus", "motion", "grain", "noise", "jpeg")
        },
    )  # fmt: skip
    changed_outside, marked = 0.0, 0
    for sample in drawn(shards, sampler, 20):
        mask = sample["input"][3] > 0
        assert set(np.unique(sample["input"][3])) <= {0.0, 1.0}
        assert mask.mean() < 0.6
        marked += bool(mask.any())
        apart = np.abs(sample["input"][:3] - sample["target"]).max(0)
        changed_outside = max(changed_outside, float((apart > 0.1)[~mask].mean()))
    assert marked >= 16, "now and then a mark misses the picture"
    assert changed_outside > 0.005


def test_a_tone_sample_is_sound_or_worn_and_a_toned_print_keeps_its_tone(shards: Path) -> None:
    samples = drawn(shards, ToneSampler(), 100)
    worn_ones = [s for s in samples if s["worn"][0]]
    assert 55 <= len(worn_ones) <= 85
    apart = [np.abs(enhance_measures.half(torch.from_numpy(s["input"])[None])[0].numpy() - s["target"]).mean()
             for s in samples]  # fmt: skip
    sound = [a for a, s in zip(apart, samples, strict=True) if not s["worn"][0]]
    assert max(sound) < 0.06
    assert np.median([a for a, s in zip(apart, samples, strict=True) if s["worn"][0]]) > 2 * np.median(sound)
    toned = replace(ToneSampler(), gray_share=0.0, toned_share=1.0, sound_share=0.0, glare=replace(
        ToneSampler().glare, chance=0.0), haze=replace(ToneSampler().haze, chance=0.0))  # fmt: skip
    for sample in drawn(shards, toned, 10):
        bright = sample["target"][0] > 0.3
        hue = sample["target"][2][bright] / sample["target"][0][bright]
        assert float(np.ptp(hue)) < 0.02, "one tone"


def test_yellowing_takes_blue_and_keeps_white_near() -> None:
    white = np.ones((4, 4, 3), np.float32)
    casts = np.array([yellowed(white, np.random.default_rng(i), 1.0)[0, 0] for i in range(40)])
    assert (casts <= 1.0001).all()
    assert np.median(casts[:, 2]) < np.median(casts[:, 0]) - 0.1


def test_the_tone_loss_is_least_for_sound_pictures_left_alone_and_for_knowing_them(shards: Path) -> None:
    given = batch(drawn(shards, replace(ToneSampler(), sound_share=1.0), 4))
    nothing, wild = torch.zeros((4, PARAMETERS)), torch.randn((4, PARAMETERS))
    assert float(ToneLoss()(nothing, given)["distance"]) < 0.006
    assert float(ToneLoss()(wild, given)["distance"]) > 0.05
    sure = nothing.clone()
    sure[:, 0] = -5
    assert float(ToneLoss()(sure, given)["known"]) < float(ToneLoss()(nothing, given)["known"]) / 10


def test_the_feature_loss_says_what_is_missing_and_sees_lost_texture_that_distance_hardly_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    target = torch.from_numpy(rng.random((2, 3, 64, 64), np.float32))
    with pytest.raises(UnusableWeights, match=r"first layers of VGG16.*features.py"):
        FeatureLoss(file=str(tmp_path / "none.safetensors"))(target, {"target": target})
    file = tmp_path / "layers.safetensors"
    torch.manual_seed(0)
    write_state({k: v.half() for k, v in features.Features().state_dict().items()}, file)
    features.load.cache_clear()
    loss = FeatureLoss(file=str(file), looked_at=2, side_px=32)
    same, smooth = (
        loss(target, {"target": target}),
        loss(target.mean((2, 3), True).expand_as(target), {"target": target}),
    )
    assert float(same["features"]) == 0 < float(smooth["features"])
    assert read_state(file).keys() == features.Features().state_dict().keys()


def test_measures_count_worn_samples_for_gain_and_clean_ones_for_harm(shards: Path) -> None:
    samples = drawn(shards, DetailSampler(crop_px=64), 20)
    nothing = detail_measures([(s["input"][:3], s) for s in samples])
    everything = detail_measures([(s["target"], s) for s in samples])
    assert nothing["gain"] == pytest.approx(0)
    assert nothing["sound_psnr"] == 60
    assert everything["gain"] > 20 and everything["texture"] == pytest.approx(1)
    harmed = detail_measures([(np.clip(s["target"] + 0.1, 0, 1), s) for s in samples])
    assert harmed["sound_psnr"] < 25
    tones = drawn(shards, ToneSampler(), 12)
    idle = tone_measures([(np.zeros(PARAMETERS, np.float32), s) for s in tones])
    assert idle["gain"] == pytest.approx(0, abs=0.05)
    assert idle["sound_psnr"] > 55
    knowing = [(np.where(np.arange(PARAMETERS) == 0, s["worn"][0], 0).astype(np.float32), s) for s in tones]
    assert tone_measures(knowing)["told_apart"] == 1


@pytest.mark.parametrize("name", ["tone", "detail"])
def test_the_loss_falls_on_one_batch(shards: Path, name: str) -> None:
    recipe = RECIPES[name]
    sampler = DetailSampler(crop_px=48, easy_until=10) if name == "detail" else ToneSampler(sound_share=0.0)
    torch.manual_seed(0)
    given, net = batch(drawn(shards, sampler, 4)), recipe.build()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    losses = []
    for _ in range(40):
        loss = next(iter(recipe.loss(net(given["input"]), given).values()))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    fallen = losses[0] - losses[-1]
    assert fallen > (0.02 if name == "detail" else 0.15 * losses[0]), (
        "a fifth of a decibel, or a seventh of the distance"
    )


def test_easy_samples_come_first_and_clean_ones_last(shards: Path) -> None:
    sampler = DetailSampler(crop_px=48, easy_until=12, clean_from=40, marked_share=0.0)
    samples = drawn(shards, sampler, 100)
    clean = [i for i, s in enumerate(samples) if np.abs(s["input"][:3] - s["target"]).max() == 0]
    assert clean and min(clean) >= 40
    noise = [s["input"][:3] - s["target"] for s in samples[:12]]
    assert max(abs(float(n.mean())) for n in noise) < 0.03, "noise alone: no fading, no blur"


def test_the_recipes_train_one_after_the_other(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = {"steps": 2, "batch": 2, "held_out": 4, "measure_minutes": 60.0}
    train(replace(RECIPES["tone"], **short), shards, tmp_path / "t", minutes=5, workers=0)
    assert set(read_state(tmp_path / "t/best.safetensors")) == set(ToneNet().state_dict())
    small = {**short, "sampler": DetailSampler(crop_px=48)}
    train(replace(RECIPES["detail"], **small), shards, tmp_path / "d", minutes=5, workers=0)
    gan = replace(RECIPES["detail_gan"], **small, loss=PictureLoss())
    measured = train(gan, shards, tmp_path / "g", minutes=5, workers=0, start=tmp_path / "d/best.safetensors")
    assert measured["psnr"] > 10
    assert set(read_state(tmp_path / "g/best.safetensors")) == set(DetailNet().state_dict())
    out = tmp_path / "enhance.safetensors"
    assert assemble.main([*(str(tmp_path / name) for name in "tdg"), str(out)]) == 0
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["sha256"] == file_sha256(out)
    assert [card[part]["recipe"] for part in assemble.PARTS] == ["tone", "detail", "detail_gan"]
    stock = data.open_stock(shards, ["photos"], "held_out")
    words = calibrate_enhance.report(stock, evaluate_enhance.loaded(out, "cpu"), 3)
    assert words.count("| 0.95 | 0.99 |") == 1 and words.count("sound pictures,") == 2
    assert assemble.main([*(str(tmp_path / name) for name in "dtg"), str(out)]) == 1, "another network's weights"


def test_the_tables_name_every_method_and_stage(tmp_path: Path) -> None:
    (tmp_path / "bench/Set14").mkdir(parents=True)
    picture = cv2.resize(scene(np.random.default_rng(1)), (240, 200), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / "bench/Set14/a.png"), picture)
    net = evaluate_enhance.loaded(None, "cpu")
    words = evaluate_enhance.report(tmp_path, net, None, parts=["gray", "clean", "chain"])
    for condition in evaluate_enhance.WORN:
        assert f"| {condition}, gray, 1 pictures |" in words
    assert "| mixed, gray, enlarged 4x, 1 pictures |" in words
    assert words.count("| ours, fidelity | ") == len(evaluate_enhance.WORN) + 1
    assert "| filled by the true mask, ours, GAN |" in words
    assert "| 0 levels |" in words, "gray stays gray"


@pytest.mark.parametrize("condition", [name for name in worn.CONDITIONS if name != "clean"])
def test_the_examination_wears_pictures_the_same_way_for_ever_and_gray_stays_gray(condition: str) -> None:
    picture = scene(np.random.default_rng(1))
    first = worn.worn(picture, "a.png", condition)
    np.testing.assert_array_equal(first, worn.worn(picture, "a.png", condition))
    assert not np.array_equal(first, worn.worn(picture, "b.png", condition))
    assert 7 < psnr(picture, first) < 40
    gray = np.repeat(picture[:, :, :1], 3, axis=2)
    made = worn.worn(gray, "a.png", condition)
    assert (made == made[:, :, :1]).all()


def test_scores_of_the_truth_are_perfect_and_sound_pictures_are_counted(tmp_path: Path) -> None:
    (tmp_path / "Set14").mkdir()
    picture = cv2.resize(scene(np.random.default_rng(1)), (280, 240), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / "Set14/a.png"), picture)
    (file,) = worn.sources(tmp_path)
    truth = worn.clean(file)
    perfect = evaluate_enhance.scores(lambda _: truth, [file], "mixed", gray=False, crop_px=None, large=False)
    assert (perfect.psnr_db, perfect.ssim, perfect.ciede2000) == (99, pytest.approx(1), 0)
    given = evaluate_enhance.scores(lambda p: p, [file], "mixed", gray=False, crop_px=None, large=False)
    assert given.psnr_db == pytest.approx(psnr(truth, worn.worn(truth, "a.png", "mixed")))
    darker = evaluate_enhance.sound(lambda p: p - np.minimum(p, 10), [file], gray=False)
    assert 0.03 < darker.change_share <= 10 / 255
    assert (darker.below_36, darker.untouched, darker.pictures) == (1, 0, 1)
    assert evaluate_enhance.sound(lambda p: p, [file], gray=True).untouched == 1
    with pytest.raises(FileNotFoundError, match="expected PNG files"):
        worn.sources(tmp_path / "none")
