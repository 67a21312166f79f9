"""From a trained detector's logits to an answer: thresholds measured on held-out pictures and stored in the weights.

``python -m models.training.calibrate WEIGHT --data SHARDS --out FILE``: of all thresholds and offsets that mark at
most 0.1 % of untouched held-out pictures, those with the best F1 on the same pictures damaged.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.damage import DamageRecipe, simulate
from models.nets.detect import Calibration, DetectNet, LearntDetector, linked, stepped
from models.training.data import LUMA, Stock, open_stock
from models.training.measures import Counts, count
from models.training.recipes import RECIPES, VISIBLE
from models.weights import read_state, write_state

log = logging.getLogger(__name__)

CLEAN_SHARE = 0.001
KEEP = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
SEED = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
LOWER_BY = (0.0, 1.0, 3.0)  # logits taken off the smaller sizes of the pyramid
PICTURES = 48


@dataclass(frozen=True, eq=False, slots=True)
class Answer:
    """Logits of one picture at its own size and at half size (enlarged again), and its true mask."""

    full: NDArray[np.float32]
    half: NDArray[np.float32] | None
    mask: NDArray[np.float32]

    def steps(self, lower_by: float) -> NDArray[np.uint8]:
        """As ``worked_scores`` would give it."""
        return stepped(self.full if self.half is None else np.maximum(self.full, self.half - np.float32(lower_by)))


def answers(detector: LearntDetector, stock: Stock, recipe: DamageRecipe | None, count_of: int) -> Iterator[Answer]:
    """Of held-out pictures, every other one enlarged twofold so that the pyramid has two levels to be measured."""
    places = np.linspace(0, len(stock.pictures) - 1, count_of).astype(int)
    for number, place in enumerate(places):
        picture = stock.pictures[int(place)].astype(np.float32) / np.float32(255)
        twice = number % 2 == 1
        if twice:
            picture = np.clip(cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), 0, 1)
        mask = np.zeros(picture.shape[:2], np.float32)
        if recipe is not None:
            made = simulate(picture, np.random.default_rng((7, number)), recipe, stock.stamps)
            picture, mask = made.damaged, made.mask
        luma = np.asarray(picture @ LUMA, np.float32)
        yield Answer(detector.logits(luma), _halved(luma, detector) if twice else None, mask)


def _halved(luma: NDArray[np.float32], detector: LearntDetector) -> NDArray[np.float32]:
    size = (luma.shape[1] // 2, luma.shape[0] // 2)
    found = detector.logits(np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.float32))
    return np.asarray(cv2.resize(found, luma.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def calibrate(
    detector: LearntDetector, stock: Stock, recipe: DamageRecipe = VISIBLE
) -> tuple[Calibration, dict[str, float]]:
    """The best calibration and what it gives on the held-out pictures: ``f1``, ``clean_share``.

    Where no choice keeps clean pictures clean enough, the one that harms them least.
    """
    clean = list(answers(detector, stock, None, PICTURES))
    damaged = list(answers(detector, stock, replace(recipe, clean_share=0.0), PICTURES))
    found: list[tuple[float, float, Calibration]] = []
    for lower_by in LOWER_BY:
        clean_steps, damaged_steps = [a.steps(lower_by) for a in clean], [a.steps(lower_by) for a in damaged]
        for keep, seed in product(KEEP, SEED):
            if seed < keep:
                continue
            share = _counted(clean_steps, clean, keep, seed).marked_share
            f1 = _counted(damaged_steps, damaged, keep, seed).f1
            found.append((share, f1, Calibration((0.0, -lower_by, -lower_by, -lower_by), keep, seed)))
    allowed = [choice for choice in found if choice[0] <= CLEAN_SHARE]
    share, f1, chosen = max(allowed, key=lambda c: c[1]) if allowed else min(found, key=lambda c: c[0])
    return chosen, {"f1": round(f1, 4), "clean_share": round(share, 6)}


def _counted(steps: Sequence[NDArray[np.uint8]], given: Sequence[Answer], keep: float, seed: float) -> Counts:
    low, high = (int(stepped(np.array([np.log(p / (1 - p))], np.float32))[0]) for p in (keep, seed))
    total = Counts(0, 0, 0, 0)
    for step, answer in zip(steps, given, strict=True):
        total += count(linked(step, low, high) > 0, answer.mask)
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    first = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m models.training.calibrate", description=first)
    parser.add_argument("weight", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of shards")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    recipe = RECIPES["detect"]
    stock = open_stock(given.data, recipe.sets, "held_out", free_data_only=recipe.free_data_only)
    state = read_state(given.weight)
    net = DetectNet()
    net.load_state_dict(state)
    chosen, measured = calibrate(LearntDetector(net), stock)
    write_state({**state, "calibration": torch.tensor(chosen.packed())}, given.out)
    log.info("%s", json.dumps({"event": "calibrated", **measured, "calibration": chosen.packed()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
