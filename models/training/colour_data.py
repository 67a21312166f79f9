"""Samples for a colour network: whole small pictures, the grays that a film made of them, and their colours.

The sets ``photos`` and ``photos_small`` for variety, ``fsac`` (slides of 1939-44) for the colours of the time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from models.colour import LUMINANCE, encoded, linear
from models.damage import DamageRecipe, Effect, simulate
from models.damage.recipe import DETECT
from models.nets.colour import AB_UNIT, HINTS, hint_of
from models.training.data import SAMPLES_BEFORE_HELD_OUT, Arrays, Pictures, Stock

PERIOD = "fsac/"
PERIOD_BORDER_SHARE = 0.07  # of each side: mounts are up to 5 %, film notches on one side up to 4 %
AB_BINS, AB_BIN = 22, 10.0  # of CIELAB a and b, from -110 to 110
COUNTED_PICTURES = 256
COUNTED_SIDE_PX = 48
EVEN_SHARE = 0.5
SMOOTH_BINS = 0.7
RAREST, COMMONEST = 5.0, 0.4

Floats = NDArray[np.float32]

# What a scan of a black-and-white photograph suffers and gray can show; marks are mended before colour is laid.
WORN = replace(
    DETECT,
    name="worn gray",
    clean_share=1.0,
    decoy_share=0.0,
    defocus=Effect(0.5, 0.3, 1.4),
    motion=Effect(0.03, 2.0, 5.0),
    glare=Effect(0.03, 0.05, 0.2),
    vignette=Effect(0.4, 0.1, 0.5),
    fading=Effect(0.6, 0.05, 0.5),
    toning=Effect(0.0, 0.0, 0.0),
    grain=Effect(0.7, 0.01, 0.06),
    halftone=Effect(0.0, 0.0, 0.0),
    jpeg=Effect(0.4, 5.0, 40.0),
    scanner=Effect(0.4, 0.3, 0.8),
)


@dataclass(frozen=True, slots=True)
class ColourSampler:
    """Samples for a colour network, all (C, S, S) float32.

    ``input`` (5): gray sRGB in [0, 1], and four planes of a hint (``models.nets.colour.ColourNet``), zeros but for
    ``hint_share`` of the samples, and in every held-out one; ``target`` (2): CIELAB a, b in units of 50; ``light``
    (1): lightness of the picture in [0, 1], whatever its gray suffered; ``weight`` (1): how rare a pixel's colour is
    in the stock, 1 on average (R. Zhang et al., Colorful Image Colorization, 2016).

    Even samples have the picture's own lightness as gray, odd ones are old: what an emulsion made of the scene
    (``emulsion_share`` of them) and what the years and the scanner made of that (``worn``). ``period_share`` of all
    are of the set ``fsac``, where the stock has it.
    """

    side_px: int
    worn: DamageRecipe = WORN
    period_share: float = 0.35
    emulsion_share: float = 0.6
    hint_share: float = 0.2
    largest_zoom: float = 1.25  # over the size at which the short side just fits

    def __call__(self, stock: Stock, rng: np.random.Generator, number: int) -> Arrays:
        """See the class."""
        period, modern = _by_age(stock.pictures)
        chosen = period if period and (rng.random() < self.period_share or not modern) else modern
        index = chosen[int(rng.integers(len(chosen)))]
        picture = stock.pictures[index]
        if stock.pictures.entries[index].name.startswith(PERIOD):
            picture = without_border(picture, PERIOD_BORDER_SHARE)
        part = _framed(picture, self.side_px, rng, self.largest_zoom)
        lab = cv2.cvtColor(part, cv2.COLOR_RGB2Lab)
        gray = gray_of(part)
        if number % 2:
            film = emulsion(part, rng) if rng.random() < self.emulsion_share else gray
            gray = simulate(film[:, :, None], rng, self.worn, None).damaged[:, :, 0]
        ab = np.asarray(lab[:, :, 1:], np.float32)
        target = np.ascontiguousarray(np.moveaxis(ab, 2, 0)) / np.float32(AB_UNIT)
        light = np.asarray(lab[:, :, 0], np.float32)[None] / np.float32(100)
        weight = rarity(stock.pictures)[_bin_of(ab)][None]
        hint = np.zeros((HINTS, *gray.shape), np.float32)
        if number < SAMPLES_BEFORE_HELD_OUT and rng.random() < self.hint_share:
            hint[:] = hint_of(target)[:, None, None]
        return {"input": np.concatenate([gray[None], hint]), "target": target, "light": light, "weight": weight}


def without_border(picture: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """The picture without ``share`` of its shorter side at each of its four."""
    border = round(min(picture.shape[:2]) * share)
    return picture[border : picture.shape[0] - border, border : picture.shape[1] - border]


def gray_of(rgb: Floats) -> Floats:
    """(H, W) gray sRGB in [0, 1] of the same lightness as (H, W, 3) sRGB: what ``models.chroma`` shows a network."""
    return encoded(linear(rgb) @ LUMINANCE)


def emulsion(rgb: Floats, rng: np.random.Generator) -> Floats:
    """(H, W) gray in [0, 1]: (H, W, 3) sRGB as an emulsion of its time saw it, printed.

    Ordinary plates (to about 1890, and cheap ones long after) see blue alone, orthochromatic ones (to about 1925) blue
    and green, panchromatic film all three, blue most: skies go white, red lips black. Then exposure, and the curve of
    negative and print with its toe and shoulder (F. Hurter and V. C. Driffield, 1890).
    """
    kind = rng.random()
    if kind < 0.2:
        seen = (rng.uniform(0, 0.03), rng.uniform(0.02, 0.25), 1.0)
    elif kind < 0.65:
        seen = (rng.uniform(0.0, 0.08), rng.uniform(0.5, 1.2), rng.uniform(0.5, 1.0))
    else:
        seen = (rng.uniform(0.5, 1.1), rng.uniform(0.7, 1.2), rng.uniform(0.3, 0.9))
    weights = np.array(seen, np.float32) / np.float32(sum(seen))
    gray = np.power(encoded(linear(rgb) @ weights), np.float32(rng.uniform(0.75, 1.35)))
    steep = np.float32(rng.uniform(-0.2, 0.7))
    return np.asarray(np.clip(gray + steep * (gray * gray * (3 - 2 * gray) - gray), 0, 1), np.float32)


def rarity(pictures: Pictures) -> Floats:
    """(22 x 22,) weight of each bin of a, b: high for colours that few pixels of these pictures have; 1 on average.

    From 256 of the pictures, spread evenly over their order, so that every process finds the same. The share of a bin
    is mixed with an even one before it is turned over, so that the rarest does not count for all.
    """
    return _rarity(pictures)


@lru_cache(maxsize=4)
def _rarity(pictures: Pictures) -> Floats:
    counts = np.zeros(AB_BINS * AB_BINS, np.float64)
    for index in np.unique(np.linspace(0, len(pictures) - 1, COUNTED_PICTURES).astype(int)):
        picture = pictures[int(index)]
        if pictures.entries[int(index)].name.startswith(PERIOD):
            picture = without_border(picture, PERIOD_BORDER_SHARE)
        small = cv2.resize(picture, (COUNTED_SIDE_PX, COUNTED_SIDE_PX), interpolation=cv2.INTER_AREA)
        lab = cv2.cvtColor(small.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2Lab)
        counts += np.bincount(_bin_of(np.asarray(lab[:, :, 1:], np.float32)).ravel(), minlength=len(counts))
    true = counts / counts.sum()
    share = cv2.GaussianBlur(true.reshape(AB_BINS, AB_BINS), (0, 0), SMOOTH_BINS).ravel()
    even = 1 / max(int((share > 1e-6).sum()), 1)
    weight = 1 / ((1 - EVEN_SHARE) * share + EVEN_SHARE * even)
    weight = np.clip(weight / (weight * true).sum(), COMMONEST, RAREST)
    return np.asarray(weight / (weight * true).sum(), np.float32)


def _bin_of(ab: Floats) -> NDArray[np.int64]:
    """(H, W) number of the bin of (H, W, 2) a, b."""
    step = np.clip((ab + AB_BINS * AB_BIN / 2) / AB_BIN, 0, AB_BINS - 1).astype(np.int64)
    return np.asarray(step[:, :, 0] * AB_BINS + step[:, :, 1], np.int64)


@lru_cache(maxsize=4)
def _by_age(pictures: Pictures) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of the pictures of the period, and of the others."""
    old = [entry.name.startswith(PERIOD) for entry in pictures.entries]
    return tuple(i for i, is_old in enumerate(old) if is_old), tuple(i for i, is_old in enumerate(old) if not is_old)


def _framed(picture: NDArray[np.uint8], side_px: int, rng: np.random.Generator, largest_zoom: float) -> Floats:
    """(side, side, 3) float32 in [0, 1]: almost the whole picture, upright, perhaps mirrored.

    Colours depend on the scene, on what is above and on what is large: so no small parts, and no pictures on their
    side.
    """
    zoom = side_px / min(picture.shape[:2]) * float(rng.uniform(1, largest_zoom))
    size = max(side_px, round(picture.shape[1] * zoom)), max(side_px, round(picture.shape[0] * zoom))
    how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(picture, size, interpolation=how)
    top = int(rng.integers(scaled.shape[0] - side_px + 1))
    left = int(rng.integers(scaled.shape[1] - side_px + 1))
    part = scaled[top : top + side_px, left : left + side_px]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    return np.ascontiguousarray(part, dtype=np.float32) / np.float32(255)
