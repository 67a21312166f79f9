"""Can a small classifier tell simulated damage from real? Its cross-validated AUC, and what gives the simulator away.

``python -m models.training.realness DATA``. Real patches are cut from the annotated real pictures around drawn marks;
simulated ones from clean photographs put through the simulator, around pixels of their mask. It judges the simulator
only: nothing trained here is kept, and the real pictures never reach a product's weights.

What both sides share, so that the classifier must look at the damage and not at the file: gray, the same size of patch,
a mark in the middle, the same reduction by a quarter (which takes most of the JPEG blocks of the real files and the
sharpening of the clean ones), mean and spread of tones set alike, and folds by picture: no picture is on both sides.
What they do not share is what was photographed. So there are three more comparisons to read the first one by:
``unmarked``, real patches beside the marks against worn but unmarked simulated ones (what the photographs alone give
away); ``halves``, real pictures against other real pictures (chance); ``bare``, marks on clean photographs without any
wear (that the classifier can see at all). ``anywhere`` takes both sides from anywhere in the picture.

Measured (seed 7, statistics): marked 0.60 (network 0.66), unmarked 0.54, anywhere 0.66, bare 0.78, halves 0.62. Before
grain and noise were made rarer and finer: marked 0.67, unmarked 0.67, anywhere 0.74. What still gives it away: the fine
detail of the real pictures has heavier tails and more still area (they are JPEGs made small, with little grain left and
few strong marks), and their structure is more line-like. ``bare`` and ``halves`` also say how blunt this judge is:
16 pictures in folds by picture; a low AUC is no proof of likeness.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.damage import DETECT, DamageRecipe, Effect, Stamps, load_stamps, simulate
from models.training.real_lines import drawn_mask, ignored_mask, load_annotations, read_picture

log = logging.getLogger(__name__)

CUT_PX, PATCH_PX = 96, 72
FLAT = 0.02  # patches with a smaller spread of tones show nothing
FOLDS = 5
DAMAGED = ("scratched_heavy30", "scratched_misc", "prokudin_plates", "mugshots_glassplate", "portraits19c")
JUDGED: DamageRecipe = replace(DETECT, name="judged", clean_share=0.0, decoy_share=0.0)
WORN = replace(JUDGED, name="worn", clean_share=1.0)
NO_EFFECT = Effect(0.0, 0.0, 0.0)
BARE = replace(
    JUDGED,
    name="bare",
    defocus=NO_EFFECT,
    motion=NO_EFFECT,
    haze=NO_EFFECT,
    glare=NO_EFFECT,
    vignette=NO_EFFECT,
    fading=NO_EFFECT,
    toning=NO_EFFECT,
    grain=NO_EFFECT,
    noise=NO_EFFECT,
    halftone=NO_EFFECT,
    jpeg=NO_EFFECT,
    scanner=NO_EFFECT,
)


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """Gray patches (N, 72, 72) float32, spread and mean set alike, and the picture each was cut from."""

    pixels: NDArray[np.float32]
    pictures: NDArray[np.int64]


def real_patches(real: Path, rng: np.random.Generator, per_picture: int, *, marked: bool) -> Patches:
    """Patches around drawn marks of the annotated pictures, or with ``marked=False`` well away from any."""
    cut, groups = [], []
    for number, annotation in enumerate(load_annotations()):
        gray = cv2.cvtColor(read_picture(annotation, real), cv2.COLOR_RGB2GRAY).astype(np.float32) / np.float32(255)
        drawn = drawn_mask(annotation, (gray.shape[0], gray.shape[1]))
        if not marked and not annotation.complete:
            continue
        if not marked:  # so far from every mark and from what is ignored that none of it reaches into the patch
            kept_off = (drawn | ignored_mask(annotation, drawn.shape)).astype(np.uint8)
            drawn = cv2.dilate(kept_off, np.ones((CUT_PX // 2, CUT_PX // 2), np.uint8)) == 0
        for patch in _cuts(gray, drawn, rng, per_picture):
            cut.append(patch)
            groups.append(number)
    return Patches(np.stack(cut), np.array(groups))


def anywhere_patches(real: Path, rng: np.random.Generator, per_picture: int) -> Patches:
    """Patches from anywhere in every picture of the damaged collections, annotated or not."""
    cut, groups = [], []
    files = [path for folder in DAMAGED for path in sorted((real / folder).iterdir())]
    for number, path in enumerate(files):
        stored = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if stored is not None:
            gray = np.asarray(stored, np.float32) / np.float32(255)
            for patch in _cuts(gray, np.ones(gray.shape, np.bool_), rng, per_picture):
                cut.append(patch)
                groups.append(number)
    return Patches(np.stack(cut), np.array(groups))


def simulated_patches(
    photographs: list[Path],
    stamps: Stamps | None,
    rng: np.random.Generator,
    per_picture: int,
    recipe: DamageRecipe = JUDGED,
    *,
    marked: bool,
) -> Patches:
    """Patches of clean gray photographs put through ``recipe``: around its marks, or with ``marked=False`` anywhere."""
    cut, groups = [], []
    for number, path in enumerate(photographs):
        stored = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if stored is None or min(stored.shape) < CUT_PX + 8:
            continue
        clean = np.asarray(stored, np.float32)[:, :, None] / np.float32(255)
        made = simulate(clean, rng, recipe, stamps)
        where = made.mask > 0.4 if marked else np.ones(made.mask.shape, np.bool_)
        for patch in _cuts(made.damaged[:, :, 0], where, rng, per_picture):
            cut.append(patch)
            groups.append(10_000 + number)
    return Patches(np.stack(cut), np.array(groups))


def _cuts(
    gray: NDArray[np.float32], where: NDArray[np.bool_], rng: np.random.Generator, count: int
) -> list[NDArray[np.float32]]:
    """Up to ``count`` patches with their middle at places drawn from ``where``, flat ones left out."""
    half = CUT_PX // 2
    rows, columns = np.nonzero(where)
    if gray.shape[0] <= CUT_PX or gray.shape[1] <= CUT_PX or not rows.size:
        return []
    patches: list[NDArray[np.float32]] = []
    for pick in rng.integers(0, rows.size, 4 * count):
        shift = rng.integers(-24, 25, 2)
        y = int(np.clip(rows[pick] - half + shift[0], 0, gray.shape[0] - CUT_PX))
        x = int(np.clip(columns[pick] - half + shift[1], 0, gray.shape[1] - CUT_PX))
        patch = cv2.resize(gray[y : y + CUT_PX, x : x + CUT_PX], (PATCH_PX, PATCH_PX), interpolation=cv2.INTER_AREA)
        spread = float(patch.std())
        if spread >= FLAT and len(patches) < count:
            patches.append(np.asarray((patch - patch.mean()) / spread, np.float32))
    return patches


NAMES: tuple[str, ...] = (
    *(f"spectrum_{k}" for k in range(10)),
    *(f"{what}_{scale}" for scale in (1, 2, 4) for what in ("spread", "tails", "lean", "still")),
    "bright",
    "dark",
    "lean",
    *(f"lines_{scale}" for scale in (1, 2, 4)),
    "upright",
    "blocks",
)
"""What ``statistics`` measures, in its order."""


def statistics(patch: NDArray[np.float32]) -> NDArray[np.float32]:
    """About 30 numbers that say how a patch looks: ``NAMES`` has one a number.

    Spectrum by frequency; by scale the spread, tails and lean of the detail and how much of it is still; the brightest,
    darkest and the lean of the tones; how line-like and upright the structure is; steps at every eighth pixel.
    """
    power = np.abs(np.fft.rfft2(patch * np.outer(np.hanning(PATCH_PX), np.hanning(PATCH_PX)))) ** 2
    fy, fx = np.fft.fftfreq(PATCH_PX)[:, None], np.fft.rfftfreq(PATCH_PX)[None, :]
    ring = np.minimum((np.hypot(fy, fx) * 20).astype(int), 9)
    out = [float(np.log(power[ring == k].mean() + 1e-6)) for k in range(10)]
    for scale in (1, 2, 4):
        fine = cv2.GaussianBlur(patch, (0, 0), 0.6 * scale) - cv2.GaussianBlur(patch, (0, 0), 1.2 * scale)
        spread = float(fine.std()) + 1e-6
        unit = fine / spread
        still = float((np.abs(unit) < 0.2).mean())
        out += [float(np.log(spread)), float(np.log((unit**4).mean())), float((unit**3).mean()), still]
    out += [float(np.quantile(patch, 0.995)), float(np.quantile(patch, 0.005)), float((patch**3).mean())]
    upright = 0.0
    for scale in (1, 2, 4):
        soft = cv2.GaussianBlur(patch, (0, 0), float(scale))
        gx, gy = cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)
        xx, yy, xy = (cv2.GaussianBlur(v, (0, 0), 3.0 * scale) for v in (gx * gx, gy * gy, gx * gy))
        out.append(float((np.hypot(xx - yy, 2 * xy) / (xx + yy + 1e-6)).mean()))
        upright = float(((xx - yy) / (xx + yy + 1e-6)).mean())
    steps = np.abs(np.diff(patch, axis=1)).mean(0)
    out += [upright, float(np.log(np.max([steps[k::6].mean() for k in range(6)]) / (steps.mean() + 1e-6)))]
    return np.array(out, np.float32)


def _folds(pictures: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """The fold of every patch: all patches of a picture in one."""
    names = np.unique(pictures)
    order = dict(zip(rng.permutation(names).tolist(), range(len(names)), strict=True))
    return np.array([order[int(p)] % FOLDS for p in pictures])


def auc_of(score: NDArray[np.float64], label: NDArray[np.int64]) -> float:
    """Chance that a patch of label 1 scores above one of label 0, ties half."""
    low, high = np.sort(score[label == 0]), score[label == 1]
    below = np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")
    return float(below.mean() / 2 / len(low))


def judged_by_statistics(one: Patches, other: Patches, seed: int) -> tuple[float, list[tuple[str, float]]]:
    """Cross-validated AUC of a logistic regression on ``statistics``; each one's AUC alone, strongest first."""
    both = np.concatenate([one.pixels, other.pixels])
    label = np.repeat([0, 1], [len(one.pixels), len(other.pixels)])
    rng = np.random.default_rng(seed)
    fold = np.concatenate([_folds(one.pictures, rng), _folds(other.pictures, rng)])
    features = np.stack([statistics(patch) for patch in both])
    score = np.zeros(len(both))
    for k in range(FOLDS):
        train = fold != k
        mean, spread = features[train].mean(0), features[train].std(0) + 1e-6
        x = torch.from_numpy((features - mean) / spread).clamp(-4, 4)
        score[~train] = _logistic(x[train], torch.from_numpy(label[train]).float(), x[~train]).numpy()
    alone = [(name, auc_of(features[:, k].astype(np.float64), label)) for k, name in enumerate(NAMES)]
    return auc_of(score, label), sorted(alone, key=lambda pair: -abs(pair[1] - 0.5))


def _logistic(x: torch.Tensor, y: torch.Tensor, unseen: torch.Tensor) -> torch.Tensor:
    weights = torch.zeros(x.shape[1] + 1, requires_grad=True)
    balance = torch.where(y > 0, 0.5 / y.mean(), 0.5 / (1 - y.mean()))
    optimiser = torch.optim.LBFGS([weights], max_iter=80)

    def step() -> torch.Tensor:
        optimiser.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(x @ weights[:-1] + weights[-1], y, balance)
        loss = loss + 0.01 * (weights[:-1] ** 2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(step)  # type: ignore[no-untyped-call]
    return (unseen @ weights[:-1] + weights[-1]).detach()


def judged_by_network(one: Patches, other: Patches, seed: int, epochs: int = 12) -> float:
    """Cross-validated AUC of a small convolutional network on the patches themselves, mirrored at random."""
    both = torch.from_numpy(np.concatenate([one.pixels, other.pixels]))[:, None]
    label = np.repeat([0, 1], [len(one.pixels), len(other.pixels)])
    rng = np.random.default_rng(seed)
    fold = np.concatenate([_folds(one.pictures, rng), _folds(other.pictures, rng)])
    score = np.zeros(len(both))
    torch.manual_seed(seed)
    for k in range(FOLDS):
        train = np.flatnonzero(fold != k)
        net = nn.Sequential(
            *(layer for i, o in ((1, 12), (12, 24), (24, 32)) for layer in (
                nn.Conv2d(i, o, 3, stride=2, padding=1), nn.BatchNorm2d(o), nn.ReLU())),
            nn.Dropout2d(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 1),
        )  # fmt: skip
        optimiser = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.02)
        y = torch.from_numpy(label).float()
        share = float(label[train].mean())
        for _ in range(epochs):
            for part in np.array_split(rng.permutation(train), max(len(train) // 48, 1)):
                x = both[part].flip(3) if rng.random() < 0.5 else both[part]
                x = x.flip(2) if rng.random() < 0.5 else x
                balance = torch.where(y[part] > 0, 0.5 / share, 0.5 / (1 - share))
                loss = nn.functional.binary_cross_entropy_with_logits(net(x)[:, 0], y[part], balance)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        net.eval()
        with torch.no_grad():
            score[fold == k] = net(both[torch.from_numpy(fold == k)])[:, 0].numpy()
    return auc_of(score, label)


def halves(patches: Patches, seed: int) -> tuple[Patches, Patches]:
    """The same patches parted by picture into two, as a measure of what chance alone gives."""
    names = np.random.default_rng(seed).permutation(np.unique(patches.pictures))
    first = np.isin(patches.pictures, names[: len(names) // 2])
    return (
        Patches(patches.pixels[first], patches.pictures[first]),
        Patches(patches.pixels[~first], patches.pictures[~first]),
    )


def judge(data: Path, seed: int = 7, photographs: int = 240, *, network: bool = True) -> dict[str, float]:
    """The AUC of each comparison, logged with the statistics that give most away."""
    rng = np.random.default_rng(seed)
    stamps = load_stamps(data / "damage")
    files = sorted((data / "train" / "photos").glob("*.webp"))
    chosen = [files[k] for k in rng.choice(len(files), photographs, replace=False)]
    real = real_patches(data / "real", rng, 30, marked=True)
    made = simulated_patches(chosen, stamps, rng, 2, marked=True)
    compared = {
        "marked": (real, made),
        "unmarked": (
            real_patches(data / "real", rng, 40, marked=False),
            simulated_patches(chosen, stamps, rng, 2, WORN, marked=False),
        ),
        "anywhere": (
            anywhere_patches(data / "real", rng, 14),
            simulated_patches(chosen, stamps, rng, 2, marked=False),
        ),
        "bare": (real, simulated_patches(chosen, None, rng, 2, BARE, marked=True)),
        "halves": halves(real, seed),
    }
    found: dict[str, float] = {}
    for name, (one, other) in compared.items():
        auc, alone = judged_by_statistics(one, other, seed)
        found[f"{name}_statistics"] = auc
        if network:
            found[f"{name}_network"] = judged_by_network(one, other, seed)
        told = " ".join(f"{what}={value:.2f}" for what, value in alone[:8])
        log.info(
            "realness compared=%s patches=%d+%d statistics_auc=%.3f network_auc=%.3f tells=%s",
            name, len(one.pixels), len(other.pixels), auc, found.get(f"{name}_network", float("nan")), told,
        )  # fmt: skip
    return found


def main(arguments: list[str]) -> None:
    """Judges the simulator and logs what it found."""
    parser = argparse.ArgumentParser(description="Simulated against real damage.")
    parser.add_argument("data", type=Path, help="the folder with real/, damage/ and train/photos/")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--no-network", action="store_true", help="the statistics alone, in half a minute")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(2)
    judge(given.data, given.seed, network=not given.no_network)


if __name__ == "__main__":
    main(sys.argv[1:])
