"""From a trained detector's logits to an answer: thresholds measured on held-out pictures and stored in the weights.

``python -m models.training.calibrate WEIGHT --data SHARDS --out FILE``. The gates are set by the share of sound
held-out pictures, half of them worn, that they keep shut: 90 % taken for colour, 75 % taken for monochrome. (Those
pictures are hard ones, small and enlarged: of sharp clean pictures far more are kept shut.) What counts as sure is what
tells damaged pictures from sound ones best.
The scores and the smallest mark are those with the best F1 on the same pictures damaged, among those that mark at most
0.3 % of the sound ones through the gate for monochrome: half of what the classical detector marks of clean pictures
taken for monochrome.
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

from models.damage import simulate
from models.nets.detect import Calibration, DetectConfig, DetectNet, LearntDetector, company, marks, worked_scores
from models.training.data import LUMA, Stock, open_stock
from models.training.measures import Counts, count
from models.training.recipes import RECIPES, VISIBLE
from models.weights import read_state, write_state

log = logging.getLogger(__name__)

SHUT_FOR_COLOUR, SHUT_FOR_GRAY = 0.9, 0.75
CLEAN_SHARE = 0.003
SURE = (0.8, 0.9, 0.95, 0.97, 0.985)
KEEP = (0.45, 0.6, 0.75)
SEED = (0.9, 0.97)
LEAST_PX = (6, 20)
PICTURES = 100
LARGEST_ZOOM = 2.5
DAMAGED, WORN = (replace(VISIBLE, decoy_share=0.0, clean_share=share) for share in (0.0, 1.0))
THIN = DetectConfig(dilate_px=0)


@dataclass(frozen=True, eq=False, slots=True)
class Answer:
    """Scores of one picture in 256 steps, at the size it was searched at, and its true mask."""

    worked: NDArray[np.uint8]
    mask: NDArray[np.float32]

    def counts(self, calibration: Calibration) -> Counts:
        """Pixels by what the detector would mark of a monochrome scan and what is true."""
        marked = marks(self.worked, self.mask.shape, calibration, THIN, monochrome=True)
        return count(marked.values > 0, self.mask)


def answers(detector: LearntDetector, stock: Stock, *, damaged: bool) -> Iterator[Answer]:
    """Of held-out pictures enlarged up to 2.5 times; damaged, or sound and every other one worn."""
    for number, place in enumerate(np.linspace(0, len(stock.pictures) - 1, PICTURES).astype(int)):
        rng = np.random.default_rng((7, number))
        zoom = float(rng.uniform(1, LARGEST_ZOOM))
        picture = cv2.resize(stock.pictures[int(place)], None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
        scan = np.asarray(picture, np.float32) / np.float32(255)
        mask = np.zeros(scan.shape[:2], np.float32)
        if damaged or number % 2:
            made = simulate(scan, rng, DAMAGED if damaged else WORN, stock.stamps if number % 3 == 0 else None)
            scan, mask = made.damaged, made.mask
        yield Answer(worked_scores(np.asarray(scan @ LUMA, np.float32), detector), mask)


def calibrate(detector: LearntDetector, stock: Stock) -> tuple[Calibration, dict[str, float]]:
    """The best calibration of a detector without offsets, and what it gives on held-out pictures taken for monochrome.

    Measures: ``gate_auc`` (how well the gate tells the pictures apart), ``f1``, ``clean_share`` (of pixels),
    ``clean_empty`` (of pictures). Where no choice marks few enough sound pixels, the one that marks fewest.
    """
    sound, damaged = (list(answers(detector, stock, damaged=way)) for way in (False, True))
    sure = max(SURE, key=lambda level: _told_apart(_shares(sound, level), _shares(damaged, level)))
    told = _told_apart(_shares(sound, sure), _shares(damaged, sure))
    colour, gray = (float(np.quantile(_shares(sound, sure), share)) for share in (SHUT_FOR_COLOUR, SHUT_FOR_GRAY))
    found: list[tuple[float, float, float, Calibration]] = []
    for keep, seed, least_px in product(KEEP, SEED, LEAST_PX):
        chosen = Calibration(keep=keep, seed=seed, least_px=least_px, sure=sure, open_colour=colour, open_gray=gray)
        false = [answer.counts(chosen) for answer in sound]
        right = _total([answer.counts(chosen) for answer in damaged])
        empty = sum(counts.false == 0 for counts in false) / len(false)
        found.append((right.f1, _total(false).marked_share, empty, chosen))
    allowed = [choice for choice in found if choice[1] <= CLEAN_SHARE]
    f1, share, empty, best = max(allowed, key=lambda c: c[0]) if allowed else min(found, key=lambda c: c[1])
    told = round(told, 4)
    return best, {"gate_auc": told, "f1": round(f1, 4), "clean_share": round(share, 6), "clean_empty": round(empty, 4)}


def _shares(given: Sequence[Answer], sure: float) -> NDArray[np.float32]:
    return np.array([company(answer.worked, sure).max() for answer in given], np.float32)


def _told_apart(sound: NDArray[np.float32], damaged: NDArray[np.float32]) -> float:
    """Chance that a damaged picture has the greater share, ties half."""
    above, same = damaged[:, None] > sound[None], damaged[:, None] == sound[None]
    return float((above + 0.5 * same).mean())


def _total(counts: Sequence[Counts]) -> Counts:
    return sum(counts, Counts(0, 0, 0, 0))


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
    net = DetectNet()
    state = {**read_state(given.weight), "calibration": net.calibration}  # a weight's own counts for nothing here
    net.load_state_dict(state)
    chosen, measured = calibrate(LearntDetector(net), stock)
    write_state({**state, "calibration": torch.tensor(chosen.packed())}, given.out)
    log.info("%s", json.dumps({"event": "calibrated", **measured, "calibration": chosen.packed()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
