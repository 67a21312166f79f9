"""The loop on tiny recipes: it learns, it survives a kill with the same curve, it trains against a critic."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from models.damage.recipe import DETECT, KINDS, Effect, Mark
from models.nets.detect import Calibration, DetectNet, LearntDetector
from models.training import calibrate, data, guard
from models.training.data import DamageSampler
from models.training.loop import PART_BYTES, TrainingError, train
from models.training.losses import MaskLoss, PictureLoss
from models.training.measures import mask_measures, mask_panels, picture_measures, picture_panels
from models.training.recipes import RECIPES, Adversarial, Recipe

NEVER, NOTHING = Effect(0.0, 0.0, 0.0), {kind: replace(getattr(DETECT, kind), chance=0.0) for kind in KINDS[1:]}
SCRATCHED = replace(
    DETECT,
    name="scratched",
    clean_share=0.0,
    decoy_share=0.0,
    fading=NEVER,
    halftone=NEVER,
    jpeg=NEVER,
    motion=NEVER,
    **NOTHING | {"scratch": Mark(1.0, (4, 6), (2.0, 4.0), (0.4, 0.6), 0.0)},
)


def small_net() -> nn.Module:
    return DetectNet(widths=(8, 12, 16, 16))


@dataclass(frozen=True)
class Noisy:
    """Smooth gray pictures under noise: what a tiny restorer is taught on."""

    side_px: int = 32

    def __call__(self, stock: data.Stock, rng: np.random.Generator, number: int) -> data.Arrays:
        smooth = cv2.resize(rng.random((4, 4), np.float32), (self.side_px, self.side_px), interpolation=cv2.INTER_CUBIC)
        noisy = smooth + rng.normal(0, 0.2, smooth.shape)
        return {"input": noisy[None].astype(np.float32), "target": smooth[None].astype(np.float32)}


class Restorer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 12, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(12, 12, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(12, 1, 5, padding=2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def small_critic() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 4, 2, 1))


def beside_input(picture: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([picture, batch["input"]], 1)


SCRATCHES = Recipe(
    name="scratches",
    build=small_net,
    sampler=DamageSampler(64, SCRATCHED, replace(SCRATCHED, clean_share=1.0)),
    loss=MaskLoss(),
    measure=mask_measures,
    panels=mask_panels,
    best="ap",
    sets=("photos",),
    seed=1,
    batch=8,
    steps=60,
    learning_rate=5e-3,
    warmup_steps=5,
    average_decay=0.9,
    held_out=12,
    measure_minutes=0.001,
)
AGAINST_A_CRITIC = Recipe(
    name="critic",
    build=Restorer,
    sampler=Noisy(),
    loss=PictureLoss(),
    measure=picture_measures,
    panels=picture_panels,
    best="psnr",
    sets=("photos",),
    seed=2,
    batch=8,
    steps=60,
    learning_rate=3e-3,
    warmup_steps=5,
    average_decay=0.9,
    held_out=8,
    measure_minutes=100.0,
    adversarial=Adversarial(small_critic, beside_input, 0.01, 20, 1e-3),
)


def make_data(folder: Path, *, seed: int = 0) -> Path:
    """A folder like ../shared/data with a few pictures of shapes."""
    rng = np.random.default_rng(seed)
    for name in ("train/photos", "bench/BSD100", "real/misc", "damage"):
        (folder / name).mkdir(parents=True)
    rows = ["file\tsource\tlicence\tdata_terms"]
    for i in range(64):
        picture = cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)
        cv2.circle(picture, tuple(int(v) for v in rng.integers(20, 80, 2)), 15, (20, 200, 90), -1)
        cv2.imwrite(str(folder / f"train/photos/bsds_{i:04d}.webp"), picture, [cv2.IMWRITE_WEBP_QUALITY, 90])
        rows.append(f"train/photos/bsds_{i:04d}.webp\there\tCC0-1.0\t{'free' if i % 2 else 'research-only'}")
    cv2.imwrite(str(folder / "bench/BSD100/img_000.png"), rng.integers(0, 255, (90, 120, 3), np.uint8))
    (folder / "SOURCES.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    data.pack(make_data(folder / "given"), folder / "shards", ["photos"])
    return folder / "shards"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def events(out: Path, event: str) -> list[dict[str, object]]:
    lines = (json.loads(line) for line in (out / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == event]


def curve(out: Path) -> list[tuple[object, ...]]:
    return [(line["step"], line["entropy"], line["overlap"], line["rate"]) for line in events(out, "step")]


def at_the_end(out: Path) -> dict[str, torch.Tensor]:
    """The averaged weights that a finished run left in its checkpoint."""
    pointer = json.loads((out / "checkpoint.json").read_text())
    assert pointer["step"] == SCRATCHES.steps
    content = b"".join((out / part).read_bytes() for part in pointer["parts"])
    state: dict[str, torch.Tensor] = torch.load(io.BytesIO(content), weights_only=True)["average"]
    return state


@pytest.mark.timeout(240)
def test_a_short_training_ends_better_than_it_began_and_its_best_weight_detects(shards: Path, tmp_path: Path) -> None:
    measured = train(replace(SCRATCHES, steps=150, measure_minutes=0.02), shards, tmp_path, minutes=2, workers=0)
    first = events(tmp_path, "measure")[0]
    assert first["ap"] < measured["ap"], (first, measured)
    assert measured["ap"] > 0.6, measured
    losses = [float(line["entropy"]) for line in events(tmp_path, "step")]
    assert losses[-1] < 0.7 * losses[0]
    card = json.loads((tmp_path / "best.json").read_text())
    assert card["measures"]["ap"] == max(line["ap"] for line in events(tmp_path, "measure"))
    assert card["data_terms"] == "research-only"
    assert list(tmp_path.glob("sheet-*.png"))
    detector = LearntDetector(small_loaded(tmp_path / "best.safetensors"))
    assert detector.logits(np.zeros((32, 40), np.float32)).shape == (32, 40)


def small_loaded(path: Path) -> DetectNet:
    from models.weights import load_strictly, read_state

    net = DetectNet(widths=(8, 12, 16, 16))
    load_strictly(net, read_state(path), str(path))
    return net


class Contrast:
    """A detector that calls damaged what is much brighter than its neighbourhood; it needs no weights."""

    calibration = Calibration()

    def logits(self, luma: np.ndarray) -> np.ndarray:
        return np.asarray(60 * (luma - cv2.blur(luma, (15, 15))) - 6, np.float32)


def test_calibration_keeps_its_gates_shut_on_sound_pictures_and_open_on_damaged_ones(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "PICTURES", 12)
    monkeypatch.setattr(calibrate, "KEEP", (0.5,))
    monkeypatch.setattr(calibrate, "LEAST_PX", (1,))
    stock = data.open_stock(shards, ["photos"], "train")
    chosen, measured = calibrate.calibrate(Contrast(), stock)
    assert 0.5 <= measured["gate_auc"] <= 1
    assert 0 <= chosen.open_gray <= chosen.open_colour
    sound = list(calibrate.answers(Contrast(), stock, damaged=False))
    shut = [not answer.counts(replace(chosen, open_gray=chosen.open_colour)).false for answer in sound]
    assert sum(shut) >= len(shut) * 0.8
    loose = replace(chosen, open_gray=0.0)
    assert sum(a.counts(loose).false for a in sound) >= sum(a.counts(chosen).false for a in sound)
    assert Calibration.unpacked(chosen.packed()) == chosen


@pytest.mark.timeout(240)
def test_a_killed_run_goes_on_with_the_very_same_curve(shards: Path, tmp_path: Path) -> None:
    train(SCRATCHES, shards, tmp_path / "whole", minutes=10, workers=0)
    script = tmp_path / "killed.py"
    script.write_text(
        f"import sys, torch\nsys.path[:0] = [{str(Path(__file__).parent)!r}]\ntorch.set_num_threads(1)\n"
        "from pathlib import Path\nfrom test_training import SCRATCHES\nfrom models.training.loop import train\n"
        f"train(SCRATCHES, Path({str(shards)!r}), Path({str(tmp_path / 'killed')!r}), minutes=10,"
        " workers=int(sys.argv[1]))\n"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen([sys.executable, str(script), "0"], cwd=root, env=environment)
    pointer = tmp_path / "killed" / "checkpoint.json"
    waiting_until = time.monotonic() + 60
    while not (pointer.is_file() and json.loads(pointer.read_text())["step"] >= 15):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < waiting_until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = json.loads(pointer.read_text())["step"]
    assert 15 <= reached < SCRATCHES.steps
    # In a process of its own: a worker forked from this one would inherit whatever threads earlier tests left in it.
    subprocess.run([sys.executable, str(script), "1"], cwd=root, env=environment, check=True, timeout=100)
    assert [line["step"] for line in events(tmp_path / "killed", "begin")][-1] >= 15
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    # Not best.safetensors: which measurement is the best depends on when there was time to measure.
    whole, resumed = (at_the_end(tmp_path / name) for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_generator_learns_against_a_critic_and_resumes_with_it(shards: Path, tmp_path: Path) -> None:
    brief = replace(AGAINST_A_CRITIC, steps=20, falling_share=0.01)
    alone = train(brief, shards, tmp_path / "short", minutes=2, workers=0)
    ended = train(AGAINST_A_CRITIC, shards, tmp_path / "long", minutes=2, workers=0)
    assert ended["psnr"] > alone["psnr"]
    lines = events(tmp_path / "long", "step")
    assert "critic" not in lines[1] and "critic" in lines[2]
    saved = torch.load(tmp_path / "long" / "checkpoint-0000060" / "part-000", weights_only=True)
    assert {"critic", "critic_optimizer", "average"} <= set(saved)


def test_the_time_budget_ends_a_run_with_a_measurement_and_a_checkpoint(shards: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    measured = train(replace(SCRATCHES, steps=100_000, measure_minutes=50), shards, tmp_path, minutes=0.08, workers=0)
    assert time.monotonic() - begun < 20
    assert set(measured) == {"auc", "ap", "f1", "clean_share"}
    assert events(tmp_path, "end")
    saved = torch.load(next(tmp_path.glob("checkpoint-*/part-000")), weights_only=True)
    assert saved["falls_from"] is not None, "the learning rate began to fall before the time was over"


def test_a_checkpoint_of_another_recipe_is_refused(shards: Path, tmp_path: Path) -> None:
    train(replace(SCRATCHES, steps=2), shards, tmp_path, minutes=1, workers=0)
    with pytest.raises(TrainingError, match="expected one of recipe"):
        train(replace(SCRATCHES, steps=2, seed=9), shards, tmp_path, minutes=1, workers=0)


def test_checkpoints_come_in_files_of_at_most_16_mib(shards: Path, tmp_path: Path) -> None:
    wide = replace(SCRATCHES, build=DetectNet, steps=1, batch=2, held_out=1)
    train(wide, shards, tmp_path, minutes=1, workers=0)
    parts = sorted(tmp_path.glob("checkpoint-*/*"))
    assert len(parts) >= 2
    assert max(part.stat().st_size for part in parts) <= PART_BYTES
    train(replace(wide), shards, tmp_path, minutes=1, workers=0)


def test_every_recipe_has_a_digest_that_another_process_gives_too() -> None:
    code = "from models.training.recipes import RECIPES; print({k: r.digest() for k, r in RECIPES.items()})"
    root = Path(__file__).parents[2]
    said = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert said.strip() == str({name: recipe.digest() for name, recipe in RECIPES.items()})


def test_a_sample_depends_on_its_number_alone(shards: Path) -> None:
    stock = data.open_stock(shards, ["photos"], "train")
    sampler = SCRATCHES.sampler
    ahead, later = data.Samples(stock, sampler, 3, 0, 9), data.Samples(stock, sampler, 3, 4, 5)
    assert np.array_equal(ahead[5]["input"], later[1]["input"])
    assert not np.array_equal(ahead[5]["input"], ahead[6]["input"])
    assert ahead[5]["target"].any() and not ahead[6]["target"].any(), "odd samples are damaged, even ones clean"


def test_splits_share_no_series_and_free_data_only_keeps_only_free_pictures(shards: Path) -> None:
    train_side, held = (data.Pictures(shards, ["photos"], split) for split in ("train", "held_out"))
    assert not {e.series for e in train_side.entries} & {e.series for e in held.entries}
    free = data.Pictures(shards, ["photos"], "train", free_data_only=True)
    assert {e.terms for e in free.entries} == {"free"}
    assert 0 < len(free) < len(train_side)


def test_a_picture_that_looks_like_a_benchmark_or_real_one_is_not_packed(tmp_path: Path) -> None:
    given = make_data(tmp_path / "given", seed=4)
    benched = cv2.imread(str(given / "train/photos/bsds_0007.webp"))
    brighter = np.clip(cv2.resize(benched, (160, 120)).astype(int) + 12, 0, 255).astype(np.uint8)
    cv2.imwrite(str(given / "bench/BSD100/img_001.png"), brighter)
    data.pack(given, tmp_path / "shards", ["photos"])
    names = {e.name for s in ("train", "held_out") for e in data.Pictures(tmp_path / "shards", ["photos"], s).entries}
    assert "photos/bsds_0007.webp" not in names
    assert "photos/bsds_0008.webp" in names


def test_shards_are_small_and_the_same_each_time(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = data.pack(make_data(tmp_path / "given"), tmp_path / "again", ["photos"])
    assert [p.read_bytes() for p in again] == [(shards / p.name).read_bytes() for p in again]
    monkeypatch.setattr(data, "SHARD_BYTES", data.INDEX_BYTES + 60_000)
    split = data.pack(tmp_path / "given", tmp_path / "split", ["photos"])
    assert len([p for p in split if p.name.startswith("photos")]) > 1
    counts = [len(data.Pictures(folder, ["photos"], "train")) for folder in (tmp_path / "split", shards)]
    assert counts[0] == counts[1]


def test_missing_shards_say_how_to_pack_them(tmp_path: Path) -> None:
    with pytest.raises(data.TrainingDataError, match=r"python -m models\.training\.data pack"):
        data.open_stock(tmp_path, ["photos"], "train")


def test_the_guard_is_what_packing_uses() -> None:
    assert data.guard is guard
