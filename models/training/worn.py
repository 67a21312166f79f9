"""The frozen examination of enhancement: clean pictures worn in seven ways, the same for the same file for ever.

Seeds are the crc32 of file and condition. What wears them is ``models.damage``, which training draws from too; the
pictures (BSD100, Set14) and the draws are not training's. Strengths are stated here and in docs/quality.md.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.damage import light
from models.training.data import LUMA
from models.training.enhance_data import yellowed

SEED = 6
SETS = ("BSD100", "Set14")
ENLARGED = 4

Floats = NDArray[np.float32]
Picture = NDArray[np.uint8]
Wear = Callable[[Floats, np.random.Generator], Floats]


def _blur(x: Floats, rng: np.random.Generator) -> Floats:
    if rng.random() < 0.25:
        return light.motion(x, rng, float(rng.uniform(4, 8)))
    return light.blurred(x, float(rng.uniform(1.0, 2.0)))


def _haze(x: Floats, rng: np.random.Generator) -> Floats:
    return light.haze(x, rng, float(rng.uniform(0.3, 0.6)))


def _noise(x: Floats, rng: np.random.Generator) -> Floats:
    grainy = light.grain(x, rng, float(rng.uniform(0.03, 0.07)))
    return light.noise(grainy, rng, float(rng.uniform(0.01, 0.03)))


def _fading(x: Floats, rng: np.random.Generator) -> Floats:
    faded = light.faded(x, rng, float(rng.uniform(0.25, 0.6)))
    return faded if x.shape[2] == 1 else yellowed(faded, rng, float(rng.uniform(0.3, 1.0)))


def _jpeg(x: Floats, rng: np.random.Generator) -> Floats:
    return light.jpeg(x, int(rng.integers(15, 41)))


def _mixed(x: Floats, rng: np.random.Generator) -> Floats:
    x = light.blurred(x, float(rng.uniform(0.6, 1.6)))
    if rng.random() < 0.5:
        x = light.haze(x, rng, float(rng.uniform(0.15, 0.4)))
    x = light.grain(x, rng, float(rng.uniform(0.015, 0.05)))
    x = light.faded(np.clip(x, 0, 1), rng, float(rng.uniform(0.2, 0.5)))
    if rng.random() < 0.5 and x.shape[2] == 3:
        x = yellowed(x, rng, float(rng.uniform(0.2, 0.8)))
    x = light.noise(light.blurred(x, 0.4), rng, float(rng.uniform(0.005, 0.02)))
    return light.jpeg(x, int(rng.integers(35, 76)))


CONDITIONS: dict[str, Wear] = {
    "clean": lambda x, _: x,
    "blur": _blur,
    "haze": _haze,
    "noise": _noise,
    "fading": _fading,
    "jpeg": _jpeg,
    "mixed": _mixed,
}


def sources(bench: Path, limit: int | None = None) -> list[Path]:
    """The clean pictures, in order of set and name; raises FileNotFoundError when there are none."""
    files = [file for name in SETS for file in sorted((bench / name).glob("*.png"))][:limit]
    if not files:
        raise FileNotFoundError(f"{bench}: expected PNG files in {' and '.join(SETS)}, found none")
    return files


def clean(file: Path, *, gray: bool = False, crop_px: int | None = None) -> Picture:
    """(H, W, 3) uint8 of a source, the middle ``crop_px`` of it; ``gray``: its luma in all three channels."""
    stored = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if stored is None:
        raise FileNotFoundError(f"{file}: expected a picture, found none that decodes")
    picture = stored[:, :, ::-1]
    if crop_px is not None:
        top, left = (max(side - crop_px, 0) // 2 for side in picture.shape[:2])
        picture = picture[top : top + crop_px, left : left + crop_px]
    if gray:
        luma = np.rint(picture.astype(np.float32) @ LUMA)
        picture = np.repeat(luma[:, :, None], 3, axis=2)
    return np.ascontiguousarray(picture, np.uint8)


def worn(picture: Picture, name: str, condition: str) -> Picture:
    """``picture`` (H, W, 3) uint8 worn as ``condition`` says; gray, if it is. The same for the same name."""
    rng = np.random.default_rng([SEED, zlib.crc32(f"{name} {condition}".encode())])
    gray = bool((picture == picture[:, :, :1]).all())
    x = (picture[:, :, :1] if gray else picture).astype(np.float32) / np.float32(255)
    made = np.rint(np.clip(CONDITIONS[condition](x, rng), 0, 1) * 255).astype(np.uint8)
    return np.repeat(made, 3, axis=2) if gray else made


def scanned_large(small: Picture, name: str) -> Picture:
    """The picture as a scanner would give it at four times the resolution: no more detail, its own blur and grain."""
    rng = np.random.default_rng(zlib.crc32(name.encode()) + 1)
    large = cv2.resize(small, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    soft = cv2.GaussianBlur(large, (0, 0), 1.2)
    gray = bool((small == small[:, :, :1]).all())
    field = rng.standard_normal((*large.shape[:2], 1 if gray else 3), dtype=np.float32) * np.float32(2.5)
    return np.asarray(np.rint(np.clip(soft + field, 0, 255)), np.uint8)
