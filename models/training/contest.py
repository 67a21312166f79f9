"""Detectors side by side: on the frozen set, on clean pictures, on real ones, by cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models import classical, combined, peak
from models.nets.detect import DetectConfig, LearntDetector, marks, scores, worked_scores
from models.tiling import is_gray
from models.training import frozen, real_lines
from models.training.frozen import FrozenMark, FrozenPicture
from models.training.measures import HIDDEN, Counts, Scores, count

Luma = NDArray[np.float32]
Flags = NDArray[np.bool_]

REC_709 = np.array([0.2126, 0.7152, 0.0722], np.float32)
LINES = ("scratch", "hair", "crease")
HAIRLINE_OVER_NOISE = 3.0
SHRUNK_PX = 256
RIM_PX = 6
NOTHING = Counts(0, 0, 0, 0)


@dataclass(frozen=True, eq=False, slots=True)
class Examined:
    """What a detector says of one scan, all (H, W): ``score`` float32 in [0, 1] before any threshold; bool marks.

    ``marked``: as thin as it finds them; ``delivered``: as they would be used, grown by its own amount.
    """

    score: NDArray[np.float32]
    marked: Flags
    delivered: Flags


@dataclass(frozen=True, eq=False, slots=True)
class Contender:
    """A detector to be measured: its name, and what it says of a luma that is (True) or is not of a gray picture."""

    name: str
    examine: Callable[[Luma, bool], Examined]


def classical_contender() -> Contender:
    """The detector without weights. It gives an answer and no score: its AUC and AP are those of the answer."""

    def examine(luma: Luma, gray: bool) -> Examined:
        thin = classical.detect(luma, classical.ClassicalConfig(dilate_px=0), monochrome=gray).mask.values
        delivered = classical.detect(luma, monochrome=gray).mask.values
        return Examined(thin, thin >= 0.5, delivered >= 0.5)

    return Contender("classical", examine)


def learnt(detector: LearntDetector, name: str = "learnt", config: DetectConfig = DetectConfig()) -> Contender:
    """The network over its pyramid."""
    thin = replace(config, dilate_px=0)

    def examine(luma: Luma, gray: bool) -> Examined:
        worked = worked_scores(luma, detector, config)
        marked, delivered = (
            marks(worked, luma.shape, detector.calibration, how, monochrome=gray).values > 0 for how in (thin, config)
        )
        return Examined(scores(worked, luma.shape), marked, delivered)

    return Contender(name, examine)


def combined_contender(detector: LearntDetector) -> Contender:
    """Both detectors together; its score is the network's, raised to 1 where only the classical detector marks."""

    def examine(luma: Luma, gray: bool) -> Examined:
        thin, delivered = (
            combined.detect(luma, detector, monochrome=gray, dilated=way).values > 0 for way in (False, True)
        )
        score = scores(worked_scores(luma, detector), luma.shape)
        classical_only = thin & (score < detector.calibration.keep)
        return Examined(np.where(classical_only, np.float32(1), score), thin, delivered)

    return Contender("combined", examine)


def shrunk(detector: LearntDetector) -> Contender:
    """The same network on the scan shrunk to a short side of 256 px, as Bringing Old Photos Back to Life does."""
    one = learnt(detector, config=DetectConfig(levels=1))

    def examine(luma: Luma, gray: bool) -> Examined:
        ratio = SHRUNK_PX / min(luma.shape)
        if ratio >= 1:
            return one.examine(luma, gray)
        size = (round(luma.shape[1] * ratio), round(luma.shape[0] * ratio))
        found = one.examine(np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.float32), gray)
        parts = (part.astype(np.float32) for part in (found.score, found.marked, found.delivered))
        score, marked, delivered = (cv2.resize(p, luma.shape[::-1], interpolation=cv2.INTER_LINEAR) for p in parts)
        return Examined(np.asarray(score, np.float32), np.asarray(marked >= 0.5), np.asarray(delivered >= 0.5))

    return Contender("learnt at 256 px", examine)


@dataclass(eq=False, slots=True)
class Frozen:
    """What one contender did on the frozen set at one enlargement."""

    scores: Scores = field(default_factory=Scores)
    counts: Counts = NOTHING
    by_kind: dict[str, Scores] = field(default_factory=dict)
    marks: list[tuple[FrozenMark, float, int]] = field(default_factory=list)
    worn: Counts = NOTHING
    rim_left: NDArray[np.int64] = field(default_factory=lambda: np.zeros(RIM_PX, np.int64))
    rim_all: int = 0

    def recall(self, wanted: Callable[[FrozenMark], bool]) -> float:
        """Share of the wanted marks' pixels within 2 px of a found one; NaN when there is no such mark."""
        chosen = [(share, pixels) for mark, share, pixels in self.marks if wanted(mark)]
        total = sum(pixels for _, pixels in chosen)
        return sum(share * pixels for share, pixels in chosen) / total if total else float("nan")

    def hairline_recall(self) -> float:
        """Of lines of 1 px whose change is at least three times the local noise."""
        return self.recall(lambda m: m.width_px == 1 and m.kind in LINES and m.over_noise >= HAIRLINE_OVER_NOISE)

    def see_rim(self, marked: Flags, mask: NDArray[np.float32]) -> None:
        """Counts touched pixels (mask of at least 0.1) within 6 px of a right mark that stay bare as it grows."""
        hit = (marked & (mask >= HIDDEN)).astype(np.uint8)
        near = _grown(hit, RIM_PX) & (mask >= HIDDEN)
        self.rim_all += int(near.sum())
        self.rim_left += np.array([int((near & ~_grown(hit, px)).sum()) for px in range(RIM_PX)])

    def rim(self) -> list[float]:
        """Share of touched pixels around right marks left bare when marks grow by 0, 1, 2, … px."""
        return [float(left) / max(self.rim_all, 1) for left in self.rim_left]

    def summary(self) -> dict[str, float]:
        """The figures by name."""
        best, threshold = self.scores.best()
        return {
            "auc": self.scores.roc_auc(),
            "ap": self.scores.average_precision(),
            "f1": self.counts.f1,
            "iou": self.counts.iou,
            "precision": self.counts.precision,
            "recall": self.counts.recall,
            "best_f1": best,
            "best_threshold": threshold,
            "hairline": self.hairline_recall(),
            "worn": self.worn.marked_share,
        }


def luma_of(pixels: NDArray[np.uint8]) -> Luma:
    """(H, W) float32 in [0, 1] of (H, W, 1 or 3) uint8, as ``imaging.luminance``."""
    scaled = pixels.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(scaled[..., 0] if pixels.shape[2] == 1 else scaled @ REC_709, dtype=np.float32)


def on_frozen(contenders: Sequence[Contender], pictures: Iterable[FrozenPicture]) -> dict[str, Frozen]:
    """Every contender on every picture; damaged is where the mask is at least 0.25, sound where it is under 0.1."""
    results = {c.name: Frozen() for c in contenders}
    for picture in pictures:
        damaged, worn, gray = luma_of(picture.damaged), luma_of(picture.worn), picture.damaged.shape[2] == 1
        kinds = {kind: np.isin(picture.labels, numbers) for kind, numbers in _numbers(picture).items()}
        for contender in contenders:
            result = results[contender.name]
            found = contender.examine(damaged, gray)
            result.scores.add(found.score, picture.mask)
            result.counts += count(found.marked, picture.mask)
            result.worn += count(contender.examine(worn, gray).marked, np.zeros_like(picture.mask))
            result.see_rim(found.marked, picture.mask)
            for kind, where in kinds.items():
                result.by_kind.setdefault(kind, Scores()).add(found.score, picture.mask, where)
            result.marks += frozen.recall_by_mark(found.marked, picture)
    return results


def _numbers(picture: FrozenPicture) -> dict[str, list[int]]:
    out: dict[str, list[int]] = {}
    for mark in picture.marks:
        out.setdefault(mark.kind, []).append(mark.number)
    return out


def on_clean(contenders: Sequence[Contender], bench: Path) -> dict[str, tuple[float, float]]:
    """Share of all pixels of the untouched BSD100 that is marked, and the worst picture's share, marks as delivered."""
    results: dict[str, tuple[float, float]] = {}
    pictures = [_read(path) for path in sorted((bench / "BSD100").glob("*.png"))]
    for contender in contenders:
        marked = [contender.examine(luma, False).delivered for luma in pictures]
        whole = sum(int(m.sum()) for m in marked) / sum(m.size for m in marked)
        results[contender.name] = whole, max(float(m.mean()) for m in marked)
    return results


def _read(path: Path) -> Luma:
    stored = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if stored is None:
        raise FileNotFoundError(f"{path}: expected a picture, found nothing that decodes")
    return luma_of(np.asarray(stored[:, :, ::-1], np.uint8))


@dataclass(frozen=True, slots=True)
class RealLines:
    """On one real picture: line recall, recall inside areas, precision (NaN where not all damage was drawn)."""

    file: str
    line_recall: float
    area_recall: float
    precision: float
    line_px: int
    found_px: int


def on_real(contenders: Sequence[Contender], real: Path) -> dict[str, list[RealLines]]:
    """Every contender, marks as thin as it finds them, on the real pictures with drawn damage; 3-px tolerance."""
    results: dict[str, list[RealLines]] = {c.name: [] for c in contenders}
    for annotation in real_lines.load_annotations():
        pixels = real_lines.read_picture(annotation, real)
        luma, gray = luma_of(pixels), is_gray(pixels)
        for contender in contenders:
            s = real_lines.line_scores(contender.examine(luma, gray).marked, annotation)
            line = RealLines(annotation.file, s.line_recall, s.area_recall, s.precision, s.line_px, s.found_px)
            results[contender.name].append(line)
    return results


def real_totals(lines: Sequence[RealLines]) -> dict[str, float]:
    """Over all pictures: recall weighted by length, precision by what was found where all damage is drawn."""
    drawn = [(x.line_recall, x.line_px) for x in lines if x.line_px]
    found = [(x.precision, x.found_px) for x in lines if not np.isnan(x.precision)]
    return {"line_recall": _weighted(drawn), "precision": _weighted(found), "pictures": float(len(lines))}


def _weighted(values: Sequence[tuple[float, int]]) -> float:
    total = sum(weight for _, weight in values)
    return sum(value * weight for value, weight in values) / total if total else float("nan")


def _grown(marked: NDArray[np.uint8], px: int) -> Flags:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * px + 1, 2 * px + 1))
    return np.asarray(cv2.dilate(marked, kernel) > 0)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one scan: seconds by megapixel on the threads in use, and by how much the process's peak memory rose."""

    megapixels: float
    s_per_mp: float
    peak_mb: float
    threads: int


def cost(contender: Contender, luma: Luma) -> Cost:
    """Measured once, its memory beyond what the process held before."""
    memory, before = peak.PeakMemory(), peak.so_far()
    begun = time.perf_counter()
    contender.examine(luma, True)
    seconds = time.perf_counter() - begun
    return Cost(
        luma.size / 1e6, seconds / (luma.size / 1e6), (memory.peak_bytes() - before) / 2**20, torch.get_num_threads()
    )
