"""What keeps the exam out of the lessons: perceptual hashes of bench and real pictures; series that stay together."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

DISTANCE = 8
"""Two pictures match when at most so many of 64 bits differ.

Measured on 279 bench and real pictures: made small, saved as JPEG 60 and toned, each differs by 6 bits at most; cropped
by 4 % on each side, 46 % stay within 8. Of 12,365 training pictures 23 come within 8 (7 within 6), all of them aligned
faces of other people, no photograph: false alarms that cost nothing.
"""

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
NEIGHBOURS = 10
"""Numbered collections come in series: so many neighbouring numbers stay on one side of a split."""

HOUSES = 535
"""The Houses collection has so many houses and four rooms of each, numbered room by room."""


@dataclass(frozen=True, slots=True, eq=False)
class Hashes:
    """Perceptual hashes of pictures: ``names`` and, in the same order, ``bits`` (N,) uint64."""

    names: tuple[str, ...]
    bits: NDArray[np.uint64]


def perceptual_hash(picture: NDArray[np.uint8]) -> int:
    """64 bits that survive scaling, JPEG and a change of tone: signs of the low frequencies of the gray picture.

    ``picture`` (H, W), (H, W, 1) or (H, W, 3) RGB uint8. The cosine transform of 32 x 32 pixels; its 8 x 8 lowest
    coefficients but the mean, each above or below their median (Zauner 2010).
    """
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) if picture.ndim == 3 and picture.shape[2] == 3 else picture
    small = cv2.resize(np.ascontiguousarray(gray), (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    waves = np.asarray(cv2.dct(small))[:8, :8].copy()
    waves[0, 0] = 0.0  # the mean says nothing of the picture
    signs = (waves > np.median(waves)).ravel()
    return int(np.packbits(signs).view(">u8")[0])


def hashes_of(folders: list[Path]) -> Hashes:
    """The hashes of every picture under ``folders``, named by their path; ``FileNotFoundError`` when there is none."""
    names, bits = [], []
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES):
            stored = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if stored is None:
                log.warning("not_hashed file=%s reason=does not decode", path)
                continue
            names.append(str(path))
            bits.append(perceptual_hash(np.asarray(stored[:, :, ::-1], np.uint8)))
    if not names:
        raise FileNotFoundError(f"{', '.join(map(str, folders))}: expected pictures to guard against, found none")
    return Hashes(tuple(names), np.array(bits, np.uint64))


def forbidden_hashes(data: Path) -> Hashes:
    """The hashes of everything under ``data/bench`` and ``data/real``."""
    return hashes_of([data / "bench", data / "real"])


def match_of(picture: NDArray[np.uint8], forbidden: Hashes, distance: int = DISTANCE) -> str | None:
    """The name of the nearest forbidden picture within ``distance`` bits, as it is or mirrored; None when none is."""
    views = np.array([perceptual_hash(picture), perceptual_hash(np.ascontiguousarray(picture[:, ::-1]))], np.uint64)
    apart = np.bitwise_count(views[:, None] ^ forbidden.bits[None, :]).min(0)
    nearest = int(apart.argmin())
    return forbidden.names[nearest] if apart[nearest] <= distance else None


def matches(picture: NDArray[np.uint8], forbidden: Hashes, distance: int = DISTANCE) -> bool:
    """Whether ``picture`` (uint8, gray or RGB) is one of the forbidden pictures, scaled, mirrored or saved again."""
    return match_of(picture, forbidden, distance) is not None


def series_of(filename: str) -> str:
    """The name of what must stay on one side of a split: a person, a house, a row of neighbouring numbers.

    LFW by person. AAF, LSP, CCP (chictopia), Houses and CelebA carry no person or series in their names: neighbours by
    number stay together (AAF is sorted by sex and age; the same person may still be met again further on). Any other
    picture is its own series. Only the file's name counts, not its folder or type.
    """
    stem = Path(filename).stem
    person = re.fullmatch(r"lfw_(.+)_\d{4}", stem)
    if person:
        return f"lfw_{person[1]}"
    face = re.fullmatch(r"aaf_(\d+)A\d+", stem)
    if face:
        return f"aaf_{int(face[1]) // NEIGHBOURS}"
    numbered = re.fullmatch(r"(lsp|ccp|houses|cloth|hseg|fsac)_(\d+)", stem)
    if numbered:
        number = int(numbered[2]) - 1
        number = number % HOUSES if numbered[1] == "houses" else number
        return f"{numbered[1]}_{number // NEIGHBOURS}"
    period = re.fullmatch(r"20\d{8}", stem)  # the FSA/OWI colour slides: numbered as the photographer's rolls
    return f"fsac_{int(stem) // NEIGHBOURS}" if period else stem
