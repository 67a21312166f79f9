"""The frozen examination of damage detectors: the same damaged pictures for ever, or a loud error.

Version 1: 54 clean pictures (BSD100, Set14) with drawn marks of known kind and width, every other one in gray, a third
with wires that are no damage; the same pictures enlarged 4 and 8 times with scanner blur and grain. ``frozen_v1.json``
holds seed, version and the sha256 of every source and every picture; each is verified before it is handed out.
``python -m models.training.frozen BENCH`` verifies all; with ``--write`` it makes the list of a NEW version.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from models.training.frozen_marks import Array, Drawn, draw_marks, draw_wires

log = logging.getLogger(__name__)

VERSION = "frozen-1"
SEED = 20261122
STRENGTH = (2.0, 12.0)  # bounds of a mark's change in local noises: the classical detector stays under F1 0.5
CHANGE = (0.05, 0.6)  # and in any case so much of full scale
LISTED = Path(__file__).with_name("frozen_v1.json")
ENLARGED = {1: ("BSD100", "Set14"), 4: ("BSD100",), 8: ("BSD100",)}
HOW_MANY = {1: 54, 4: 12, 8: 4}
SMALLEST_MARK_PX = 4


class FrozenMismatch(Exception):
    """The examination is not the one that was frozen: names the picture, the hash on the list and the one found."""


@dataclass(frozen=True, slots=True)
class FrozenMark:
    """One mark: ``number`` in the label map, kind, class of width (1, 2, 4, 8 = 8 and more), change in [0, 1].

    ``over_noise`` is the size of the change over the local noise: the standard deviation of what a Gaussian of 2 px
    takes from the picture within 12 px of the mark, grain and texture alike, measured before the mark was laid on.
    """

    number: int
    kind: str
    width_px: int
    change: float
    over_noise: float


@dataclass(frozen=True, slots=True, eq=False)
class FrozenPicture:
    """One picture of the examination, ``times`` as large as its source.

    ``clean``, ``worn`` (blur and grain, no mark) and ``damaged`` (H, W, 1 or 3) uint8, RGB; ``mask`` (H, W) float32 in
    [0, 1]; ``labels`` (H, W) uint16, 0 or the number of the mark that covers the pixel most.
    """

    name: str
    times: int
    clean: NDArray[np.uint8]
    worn: NDArray[np.uint8]
    damaged: NDArray[np.uint8]
    mask: NDArray[np.float32]
    labels: NDArray[np.uint16]
    marks: tuple[FrozenMark, ...]

    def sha256(self) -> str:
        """Over size, worn and damaged pixels, the mask in 8 bits and the labels."""
        digest = hashlib.sha256(repr(self.damaged.shape).encode())
        for part in (self.worn, self.damaged, np.round(self.mask * 255).astype(np.uint8), self.labels.astype("<u2")):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


def sources(bench: Path, times: int = 1) -> list[Path]:
    """The clean pictures of the examination at one enlargement, in its order; raises when any is not there."""
    found = [path for folder in ENLARGED[times] for path in sorted((bench / folder).glob("*.png"))]
    if len(found) < HOW_MANY[times]:
        raise FileNotFoundError(f"{bench}: expected {HOW_MANY[times]} PNG in {ENLARGED[times]}, found {len(found)}")
    return found[: HOW_MANY[times]]


def frozen_pictures(bench: Path, times: int = 1, *, listed: Path = LISTED) -> Iterator[FrozenPicture]:
    """The examination at one enlargement (1, 4, 8), each picture verified before it is yielded.

    ``bench`` is the folder with BSD100 and Set14. Raises ``FrozenMismatch`` for another source, generator or seed.
    """
    listing = json.loads(listed.read_text())
    if (listing["version"], listing["seed"]) != (VERSION, SEED):
        raise FrozenMismatch(
            f"{listed.name}: expected version {VERSION} and seed {SEED}, "
            f"found {listing['version']} and {listing['seed']}"
        )
    for path in sources(bench, times):
        name = f"{path.parent.name}/{path.name}"
        source = hashlib.sha256(path.read_bytes()).hexdigest()
        if source != listing["sources"][name]:
            raise FrozenMismatch(f"{name}: expected source sha256 {listing['sources'][name]}, found {source}")
        picture = make(path, times)
        made = picture.sha256()
        expected = listing["pictures"][f"{name} x{times}"]
        if made != expected:
            raise FrozenMismatch(
                f"{name} x{times}: expected sha256 {expected} of {VERSION}, found {made}. The generator or a library "
                "under it gives other pixels: measures are not comparable. Mend it, or freeze a new version beside it."
            )
        yield picture


def make(path: Path, times: int) -> FrozenPicture:
    """One picture of the examination, made from its clean source; unverified."""
    name = f"{path.parent.name}/{path.name}"
    rng = np.random.default_rng([SEED, int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")])
    with Image.open(path) as stored:
        clean = np.asarray(stored.convert("RGB"), np.float64) / 255.0
    if rng.random() < 0.5:
        clean = clean @ np.array([0.299, 0.587, 0.114])[:, None]
    if rng.random() < 1 / 3:
        clean = draw_wires(rng, clean)
    shape = (clean.shape[0], clean.shape[1])
    beneath, above, sigma = rng.uniform(0, 0.02), rng.uniform(0.004, 0.02), rng.uniform(0.2, 0.7)
    worn = _grainy(rng, clean, beneath)
    drawn = draw_marks(rng, shape, STRENGTH)
    noise = _local_noise(worn)
    damaged, mask, labels = worn, np.zeros(shape), np.zeros(shape, np.uint16)
    most = np.full(shape, 0.25)
    marks = []
    for number, mark in enumerate(drawn, start=1):
        near = ndimage.maximum_filter(mark.alpha > 0.25, 25)
        around = max(float(noise[near].mean()) ** 0.5, 1e-3)
        size = float(np.clip(abs(mark.strength) * around, *CHANGE))
        damaged, change = _lay(damaged, mark, size if mark.strength > 0 else -size)
        mask = 1 - (1 - mask) * (1 - mark.alpha)
        labels = np.where(mark.alpha > most, number, labels).astype(np.uint16)
        most = np.maximum(most, mark.alpha)
        marks.append(FrozenMark(number, mark.kind, mark.width_px, round(change, 4), round(abs(change) / around, 3)))
    seed = int(rng.integers(2**32))
    worn, damaged = (_grainy(np.random.default_rng(seed), _soft(picture, sigma), above) for picture in (worn, damaged))
    mask = ndimage.gaussian_filter(mask, sigma, mode="reflect", truncate=4.0)
    made = FrozenPicture(
        name, 1, _levels(clean), _levels(worn), _levels(damaged), mask.astype(np.float32), labels, tuple(marks)
    )
    return made if times == 1 else _enlarged(made, times, rng)


def recall_by_mark(
    found: NDArray[np.bool_], picture: FrozenPicture, tolerance_px: int = 2
) -> list[tuple[FrozenMark, float, int]]:
    """For each mark its recall, the share of its pixels within ``tolerance_px`` of a found one, and how many they are.

    ``found`` (H, W) bool. Marks covered by others or outside the picture but for fewer than 4 pixels are left out.
    """
    if tolerance_px:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * tolerance_px + 1, 2 * tolerance_px + 1))
        found = cv2.dilate(found.astype(np.uint8), kernel).astype(np.bool_)
    size = len(picture.marks) + 1
    all_px = np.bincount(picture.labels.ravel(), minlength=size)
    hit_px = np.bincount(picture.labels[found], minlength=size)
    return [
        (mark, float(hit_px[mark.number] / all_px[mark.number]), int(all_px[mark.number]))
        for mark in picture.marks
        if all_px[mark.number] >= SMALLEST_MARK_PX
    ]


def _lay(picture: Array, mark: Drawn, change: float) -> tuple[Array, float]:
    """The mark on the picture and its change, which turns its sign where it would leave the range.

    The part that is opaque replaces what is beneath by the level around it.
    """
    around = _soft(picture, 6.0)
    level = float(around[mark.alpha > 0.25].mean())
    change = change if 0.02 < level + change < 0.98 else -change
    target = picture + mark.opaque * (around - picture) + change
    return np.asarray(picture + mark.alpha[:, :, None] * (target - picture)), change


def _local_noise(picture: Array) -> Array:
    """Variance of the fine part of the picture (H, W), smoothed over about 12 px."""
    gray = picture.mean(2)
    fine = gray - ndimage.gaussian_filter(gray, 2.0, truncate=4.0)
    return np.asarray(np.maximum(ndimage.uniform_filter(fine * fine, 25), 0.0))


def _grainy(rng: np.random.Generator, picture: Array, deviation: float) -> Array:
    field = ndimage.gaussian_filter(rng.standard_normal(picture.shape[:2]), 0.6, truncate=4.0)
    return np.asarray(picture + (field / (field.std() + 1e-12))[:, :, None] * deviation)


def _soft(picture: Array, sigma: float) -> Array:
    return np.asarray(ndimage.gaussian_filter(picture, (sigma, sigma, 0), mode="reflect", truncate=4.0))


def _levels(picture: Array) -> NDArray[np.uint8]:
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _enlarged(small: FrozenPicture, times: int, rng: np.random.Generator) -> FrozenPicture:
    """The picture as a finer scanner would have seen it: larger, softened by its lens, with its own grain."""
    h, w = small.mask.shape
    size = (w * times, h * times)

    def grow(plane: NDArray[np.uint8], way: Image.Resampling) -> NDArray[np.uint8]:
        return np.asarray(Image.fromarray(plane).resize(size, way))

    def scan(picture: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        grain = np.random.default_rng(seed)
        planes = [
            grow(np.ascontiguousarray(picture[:, :, c]), Image.Resampling.BICUBIC) for c in range(picture.shape[2])
        ]
        soft = [ndimage.gaussian_filter(plane.astype(np.float64), 0.45 * times, truncate=3.0) for plane in planes]
        field = ndimage.gaussian_filter(grain.standard_normal((h * times, w * times)), 1.0, truncate=4.0)
        field *= 0.02 * 255 / field.std()
        return np.stack([np.round(np.clip(plane + field, 0, 255)).astype(np.uint8) for plane in soft], 2)

    seed = int(rng.integers(2**32))
    mask = grow(np.round(small.mask * 255).astype(np.uint8), Image.Resampling.BICUBIC)
    labels = np.repeat(np.repeat(small.labels, times, 0), times, 1)
    clean = np.stack(
        [
            grow(np.ascontiguousarray(small.clean[:, :, c]), Image.Resampling.BICUBIC)
            for c in range(small.clean.shape[2])
        ],
        2,
    )
    return FrozenPicture(
        small.name,
        times,
        clean,
        scan(small.worn, seed),
        scan(small.damaged, seed),
        mask.astype(np.float32) / np.float32(255),
        labels,
        small.marks,
    )


def listing_of(bench: Path) -> dict[str, object]:
    """What ``frozen_v1.json`` holds: version, seed, sha256 of sources and of every picture at every enlargement."""
    pictures = {
        f"{path.parent.name}/{path.name} x{times}": make(path, times).sha256()
        for times in ENLARGED
        for path in sources(bench, times)
    }
    files = {f"{p.parent.name}/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in sources(bench)}
    return {
        "version": VERSION,
        "seed": SEED,
        "strength": STRENGTH,
        "change": CHANGE,
        "sources": files,
        "pictures": pictures,
    }


def main(arguments: list[str]) -> None:
    """Verifies the examination, or with ``--write FILE`` lists a new version."""
    parser = argparse.ArgumentParser(description="The frozen examination of damage detectors.")
    parser.add_argument("bench", type=Path)
    parser.add_argument("--write", type=Path, help="write the hashes to this file: only for a new version")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if given.write:
        given.write.write_text(json.dumps(listing_of(given.bench), indent=1) + "\n")
        log.info("frozen_listed file=%s", given.write)
        return
    for times in ENLARGED:
        count = sum(1 for _ in frozen_pictures(given.bench, times))
        log.info("frozen_verified version=%s times=%d pictures=%d", VERSION, times, count)


if __name__ == "__main__":
    main(sys.argv[1:])
