"""How good detection is: clean pictures left alone, film damage found, seconds per megapixel.

``python -m models.measure_detect DATA_DIR`` prints a table for each detector; DATA_DIR holds ``bench/BSD100`` (clean
pictures; with ``bench/Set14`` those to damage) and ``damage/film_masks/Scan*.png`` (hand-annotated damage of film
scans). No detector was trained or fitted on these pictures, but for the gates of the classical one: see there.

Protocol of the damaged set. Pictures: ``count`` of the bench, in an order drawn with a seed, again from the start when
they run out, with other damage. Masks: Scan2, 4, 6 and 7; the constants of ``classical`` were fitted with 1, 3 and 5.
The learnt detector has seen single specks of all seven, turned and scaled, never their place or company. A crop of 1 to
3 times the picture's size (log-uniform), mirrored at random, is reduced to the picture's size. Each mark is bright or
dark (per picture 90, 50 or 10 % bright) and shifts luma by 0.10 to 0.50 of full scale, uniformly, with an edge softened
by a Gaussian of sigma 0.4 to 1.0 px. Truth: pixels whose luma changed by more than 0.03; a mark clipped away in white
or black is no damage. F1, precision, recall and IoU pool the pixels of all pictures, those included that were called
clean. All these pictures are judged as colour pictures.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models import classical, combined
from models.imaging import DAMAGED, Mask
from models.nets import detect as net
from models.nets.detect import LearntDetector

Luma = NDArray[np.float32]
Find = Callable[[Luma], Mask]
"""A detector as the pipeline uses it: (H, W) luma in [0, 1] of a colour picture -> what it would have mended."""

WEIGHT = Path(__file__).parent / "weights" / "detect.safetensors"
DAMAGED_MASKS = (2, 4, 6, 7)
VISIBLE = 0.03  # smallest change of luma that counts as damage
_REC709 = np.array([0.2126, 0.7152, 0.0722], np.float32)


@dataclass(frozen=True, slots=True)
class DetectionTable:
    """What was measured; ``str()`` is a table to print."""

    clean_pictures: int
    clean_empty: int
    clean_marked: tuple[str, ...]  # names of clean pictures that were marked
    damaged_pictures: int
    damaged_found: int  # with a mask that is not empty
    truth_share: float
    precision: float
    recall: float
    f1: float
    iou: float
    seconds_per_megapixel: float
    seed: int
    names_sha256: str  # of the names of the damaged set, one a line

    def __str__(self) -> str:
        marked = ", ".join(self.clean_marked) or "none"
        return "\n".join(
            [
                f"clean pictures left empty   {self.clean_empty} of {self.clean_pictures} (marked: {marked})",
                f"damaged pictures found      {self.damaged_found} of {self.damaged_pictures}",
                f"F1 / precision / recall     {self.f1:.3f} / {self.precision:.3f} / {self.recall:.3f}, pooled pixels",
                f"IoU                         {self.iou:.3f}",
                f"damage in the pictures      {100 * self.truth_share:.2f} % of pixels",
                f"seconds per megapixel       {self.seconds_per_megapixel:.2f}",
                f"seed, names' sha256         {self.seed}, {self.names_sha256[:16]}",
            ]
        )


def classical_find(luma: Luma) -> Mask:
    """The classical detector with its gate for colour pictures."""
    return classical.detect(luma, monochrome=False).mask


def learnt_find(weight: Path = WEIGHT) -> Find:
    """The learnt detector with the weights at ``weight``."""
    detector = LearntDetector.load(weight)
    return lambda luma: net.detect(luma, detector, monochrome=False)


def combined_find(weight: Path = WEIGHT) -> Find:
    """Both detectors together, with the weights at ``weight``: what the recipes use."""
    detector = LearntDetector.load(weight)
    return lambda luma: combined.detect(luma, detector, monochrome=False)


def measure(data: Path, *, find: Find = classical_find, count: int = 120, seed: int = 2) -> DetectionTable:
    """Runs ``find`` over the clean bench and ``count`` seeded damaged pictures under ``data``; see the protocol above.

    Raises FileNotFoundError naming the folder that has no pictures.
    """
    pixels = seconds = 0.0
    marked: list[str] = []
    clean = _pictures(data / "bench" / "BSD100")
    for path in clean:
        luma = read_luma(path)
        start = time.perf_counter()
        found = find(luma)
        seconds, pixels = seconds + time.perf_counter() - start, pixels + luma.size
        if found.values.any():
            marked.append(path.name)
    rng = np.random.default_rng(seed)
    whole = [*clean, *_pictures(data / "bench" / "Set14")]
    order = rng.permutation(len(whole))
    chosen = [whole[order[i % len(whole)]] for i in range(count)]
    masks = [_film_mask(data / "damage" / "film_masks" / f"Scan{n}.png") for n in DAMAGED_MASKS]
    hit = false = missed = size = found_in = 0
    for path in chosen:
        luma, truth = damage_with_film(read_luma(path), masks[rng.integers(len(masks))], rng)
        start = time.perf_counter()
        mask = find(luma).values >= DAMAGED
        seconds, pixels = seconds + time.perf_counter() - start, pixels + luma.size
        hit += int(np.count_nonzero(mask & truth))
        false += int(np.count_nonzero(mask & ~truth))
        missed += int(np.count_nonzero(~mask & truth))
        size, found_in = size + mask.size, found_in + int(mask.any())
    names = "\n".join(p.name for p in chosen)
    return DetectionTable(
        clean_pictures=len(clean),
        clean_empty=len(clean) - len(marked),
        clean_marked=tuple(marked),
        damaged_pictures=len(chosen),
        damaged_found=found_in,
        truth_share=(hit + missed) / size,
        precision=hit / max(hit + false, 1),
        recall=hit / max(hit + missed, 1),
        f1=2 * hit / max(2 * hit + false + missed, 1),
        iou=hit / max(hit + false + missed, 1),
        seconds_per_megapixel=seconds / pixels * 1e6,
        seed=seed,
        names_sha256=hashlib.sha256(names.encode()).hexdigest(),
    )


def damage_with_film(luma: Luma, film: NDArray[np.uint8], rng: np.random.Generator) -> tuple[Luma, NDArray[np.bool_]]:
    """(damaged luma, truth): ``luma`` (H, W) in [0, 1] with a random crop of ``film`` (0 or 255) drawn onto it."""
    height, width = luma.shape
    scale = float(np.exp(rng.uniform(0, np.log(3))))
    crop_h, crop_w = min(int(height * scale), film.shape[0]), min(int(width * scale), film.shape[1])
    y, x = rng.integers(film.shape[0] - crop_h + 1), rng.integers(film.shape[1] - crop_w + 1)
    crop = film[y : y + crop_h, x : x + crop_w][:: rng.choice([1, -1]), :: rng.choice([1, -1])]
    alpha = cv2.resize(np.ascontiguousarray(crop), (width, height), interpolation=cv2.INTER_AREA) / np.float32(255)
    count, labels = cv2.connectedComponents((alpha > 0.02).astype(np.uint8))
    bright_share = rng.choice([0.9, 0.5, 0.1])
    shift = rng.uniform(0.10, 0.50, count) * np.where(rng.random(count) < bright_share, 1, -1)
    drawn = cv2.GaussianBlur((shift[labels] * alpha).astype(np.float32), (0, 0), rng.uniform(0.4, 1.0))
    damaged = np.clip(luma + drawn, 0, 1).astype(np.float32)
    return damaged, np.abs(damaged - luma) > VISIBLE


def read_luma(path: Path) -> Luma:
    """(H, W) float32 in [0, 1], Rec. 709 luma of the 8-bit picture at ``path``."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise FileNotFoundError(f"{path}: expected a picture, found none that decodes")
    return np.asarray(picture[:, :, ::-1].astype(np.float32) / 255 @ _REC709, np.float32)


def _film_mask(path: Path) -> NDArray[np.uint8]:
    film = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if film is None:
        raise FileNotFoundError(f"{path}: expected a film damage mask, found none that decodes")
    return np.asarray(film, np.uint8)


def _pictures(folder: Path) -> list[Path]:
    suffixes = (".png", ".jpg", ".jpeg", ".webp")
    found = sorted(path for path in folder.glob("*") if path.suffix in suffixes)
    if not found:
        raise FileNotFoundError(f"{folder}: expected pictures, found none")
    return found


def report(data: Path) -> str:
    """The tables of each detector and of both together: what ``glassplate bench detect`` shows."""
    found = {"classical": classical_find, "learnt": learnt_find(), "combined": combined_find()}
    return "\n\n".join(f"{name}\n{measure(data, find=find)}" for name, find in found.items())


if __name__ == "__main__":
    sys.stdout.write(f"{report(Path(sys.argv[1]))}\n")
