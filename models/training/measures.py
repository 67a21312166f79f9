"""Measures of a soft mask against the truth, from counts by score, so that a set of any size fits in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BINS = 4096
HIDDEN, DAMAGED = 0.1, 0.25  # mask below: sound; at or above: damaged (a blurred 1-px line); between: not counted


def _zeros() -> NDArray[np.int64]:
    return np.zeros(BINS, np.int64)


@dataclass(slots=True, eq=False)
class Scores:
    """How many damaged and how many sound pixels had which score; ``add`` pictures, then read the measures.

    Scores lie in [0, 1] and are counted in 4,096 steps.
    """

    damaged: NDArray[np.int64] = field(default_factory=_zeros)
    sound: NDArray[np.int64] = field(default_factory=_zeros)

    def add(
        self, score: NDArray[np.float32], mask: NDArray[np.float32], where: NDArray[np.bool_] | None = None
    ) -> None:
        """Counts one picture: ``score`` and soft ``mask`` of one shape; ``where`` limits which damaged pixels count."""
        step = np.minimum((np.clip(score, 0, 1) * BINS).astype(np.int64), BINS - 1)
        hit = mask >= DAMAGED if where is None else (mask >= DAMAGED) & where
        self.damaged += np.bincount(step[hit], minlength=BINS)
        self.sound += np.bincount(step[mask < HIDDEN], minlength=BINS)

    def _falling(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Damaged and sound pixels found at each threshold, from the highest down."""
        return np.cumsum(self.damaged[::-1]).astype(np.float64), np.cumsum(self.sound[::-1]).astype(np.float64)

    def roc_auc(self) -> float:
        """Chance that a damaged pixel scores above a sound one, ties half; NaN without either."""
        hits, false = self._falling()
        if not hits[-1] or not false[-1]:
            return float("nan")
        return float(np.trapezoid(np.r_[0, hits] / hits[-1], np.r_[0, false] / false[-1]))

    def average_precision(self) -> float:
        """Mean precision over recall, steps as they fall; NaN without damaged pixels."""
        hits, false = self._falling()
        if not hits[-1]:
            return float("nan")
        precision = hits / np.maximum(hits + false, 1)
        return float(np.sum(np.diff(np.r_[0, hits]) / hits[-1] * precision))

    def at(self, threshold: float) -> Counts:
        """Hits, false alarms and misses when all scores at or above ``threshold`` are marked."""
        first = min(round(threshold * BINS), BINS)
        hits, false = int(self.damaged[first:].sum()), int(self.sound[first:].sum())
        return Counts(hits, false, int(self.damaged.sum()) - hits, int(self.sound.sum()) - false)

    def best(self) -> tuple[float, float]:
        """The highest F1 at any threshold, and that threshold."""
        hits, false = self._falling()
        if not hits[-1]:
            return float("nan"), 1.0
        f1 = 2 * hits / np.maximum(hits + false + hits[-1], 1)
        at = int(np.argmax(f1))
        return float(f1[at]), (BINS - 1 - at) / BINS

    def threshold_for(self, share: float) -> float:
        """The lowest threshold at which at most ``share`` of the sound pixels are marked."""
        false = np.cumsum(self.sound[::-1])
        allowed = int(np.searchsorted(false, share * max(int(self.sound.sum()), 1), side="right"))
        return (BINS - allowed) / BINS


@dataclass(frozen=True, slots=True)
class Counts:
    """Pixels by what was said and what is true."""

    hits: int
    false: int
    missed: int
    rejected: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.hits + other.hits, self.false + other.false, self.missed + other.missed, self.rejected + other.rejected
        )

    @property
    def precision(self) -> float:
        """Share of what was marked that is damaged; 1 when nothing was marked."""
        return self.hits / (self.hits + self.false) if self.hits + self.false else 1.0

    @property
    def recall(self) -> float:
        """Share of the damaged that was marked; NaN without damage."""
        return self.hits / (self.hits + self.missed) if self.hits + self.missed else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.hits / max(2 * self.hits + self.false + self.missed, 1)

    @property
    def iou(self) -> float:
        """Shared pixels over all pixels marked or damaged."""
        return self.hits / max(self.hits + self.false + self.missed, 1)

    @property
    def marked_share(self) -> float:
        """Share of sound pixels that were marked."""
        return self.false / max(self.false + self.rejected, 1)


def count(marked: NDArray[np.bool_], mask: NDArray[np.float32], where: NDArray[np.bool_] | None = None) -> Counts:
    """Counts of a binary answer; soft edges are not counted; ``where`` limits which damaged pixels count."""
    hit = mask >= DAMAGED if where is None else (mask >= DAMAGED) & where
    sound = mask < HIDDEN
    return Counts(
        int(np.count_nonzero(marked & hit)),
        int(np.count_nonzero(marked & sound)),
        int(np.count_nonzero(~marked & hit)),
        int(np.count_nonzero(~marked & sound)),
    )


Pair = tuple[NDArray[np.float32], Mapping[str, NDArray[np.float32]]]
"""What a network gave, (C, H, W), and the sample it was given."""


def mask_measures(pairs: Sequence[Pair]) -> dict[str, float]:
    """Of logits against ``target`` masks: ``auc``, ``ap``, ``f1`` at its best threshold, ``clean_share`` marked there.

    ``clean_share`` is of the samples whose target is empty. Damaged pixels count where ``seen`` is at least a half.
    """
    everywhere, clean = Scores(), Scores()
    for output, sample in pairs:
        score = _sigmoid(output[0])
        everywhere.add(score, sample["target"][0], sample["seen"][0] >= 0.5)
        if not sample["target"].any():
            clean.add(score, sample["target"][0])
    f1, threshold = everywhere.best()
    return {
        "auc": everywhere.roc_auc(),
        "ap": everywhere.average_precision(),
        "f1": f1,
        "clean_share": clean.at(threshold).marked_share,
    }


def mask_panels(output: NDArray[np.float32], sample: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """(H, W, 3) pictures in [0, 1] for a sheet: what was given, the true mask, what was found."""
    return [np.repeat(x[..., None], 3, 2) for x in (sample["input"][0] + 0.5, sample["target"][0], _sigmoid(output[0]))]


def picture_measures(pairs: Sequence[Pair]) -> dict[str, float]:
    """Of pictures in [0, 1] against ``target``: ``psnr`` in dB, mean over pictures."""
    errors = [float(np.mean(np.square(output - sample["target"]))) for output, sample in pairs]
    return {"psnr": float(np.mean([-10 * np.log10(max(error, 1e-10)) for error in errors]))}


def picture_panels(output: NDArray[np.float32], sample: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """(H, W, 3) pictures in [0, 1] for a sheet: what was given, the truth, what was made."""
    panels = [np.moveaxis(x, 0, 2) for x in (sample["input"], sample["target"], output)]
    return [np.clip(p if p.shape[2] == 3 else np.repeat(p[..., :1], 3, 2), 0, 1) for p in panels]


def _sigmoid(logit: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-np.clip(logit, -30, 30))), np.float32)
