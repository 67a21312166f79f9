"""Samples for the two parts of enhancement: whole pictures with a worn tone, and parts of pictures with worn detail."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from models.damage import DamageRecipe, Effect, Mark, light, simulate
from models.damage.recipe import DETECT
from models.nets.tone import SIDE_PX
from models.training.data import LUMA, Arrays, Stock, crop

Floats = NDArray[np.float32]

NONE = Effect(0.0, 0.0, 0.0)
NEVER = Mark(0.0, (1, 1), (1.0, 1.0), (0.1, 0.1))

# What wears a tone, then what wears detail.
HAZE = Effect(0.35, 0.08, 0.6)  # share of veil
FADING = Effect(0.6, 0.08, 0.65)  # share of contrast lost
CAST = Effect(0.5, 0.15, 1.0)  # strength
GLARE = Effect(0.08, 0.05, 0.35)  # added light
DEFOCUS = Effect(0.65, 0.3, 2.2)  # sigma, px
MOTION = Effect(0.08, 2.0, 6.0)  # length, px
GRAIN = Effect(0.6, 0.008, 0.08)  # standard deviation
NOISE = Effect(0.55, 0.003, 0.05)  # standard deviation
JPEG = Effect(0.6, 8.0, 65.0)  # 100 - quality

# Marks alone, as a detector finds them: they are filled, and what is left of them is what the network must hide.
MARKS = replace(
    DETECT, name="marks", clean_share=0.0, decoy_share=0.0,
    scratch=Mark(0.8, (2, 7), (0.8, 5.0), (0.15, 0.6), 0.3),
    hair=Mark(0.3, (1, 4), (0.8, 3.0), (0.15, 0.6), 0.5),
    dust=Mark(0.5, (5, 40), (1.5, 7.0), (0.2, 0.7), 0.35),
    dot=Mark(0.3, (2, 20), (1.5, 7.0), (0.2, 0.7), 0.4),
    crease=NEVER, tear=NEVER, corner=NEVER, stain=NEVER, emulsion=NEVER, fingerprint=NEVER, tape=NEVER,
    defocus=NONE, motion=NONE, haze=NONE, glare=NONE, vignette=NONE, fading=NONE, toning=NONE, grain=NONE, noise=NONE,
    halftone=NONE, jpeg=NONE, scanner=NONE,
)  # fmt: skip


def yellowed(picture: Floats, rng: np.random.Generator, strength: float) -> Floats:
    """A colour picture (H, W, 3) whose dyes have gone unevenly: a cast, mostly yellow, and some of the colour lost."""
    tone = np.array([rng.uniform(0.93, 1.0), rng.uniform(0.82, 0.97), rng.uniform(0.5, 0.85)], np.float32)
    if rng.random() < 0.3:
        tone = tone[rng.permutation(3)]
    gray = (picture @ LUMA)[:, :, None]
    picture = picture + (gray - picture) * np.float32(strength * rng.uniform(0.0, 0.5))
    return np.asarray(picture * (1 - np.float32(strength) * (1 - tone)), np.float32)


@dataclass(frozen=True, slots=True)
class ToneSampler:
    """Whole pictures small, float32: ``input`` (3, 128, 128); ``target`` (3, 64, 64); ``worn`` (1,), 0 or 1.

    ``sound_share`` keep their tone; noise, blur and JPEG come to all and are not asked to be undone. ``gray_share``
    are gray. ``toned_share`` are gray prints in one tone, which is theirs and stays: only their fading is undone.
    """

    sound_share: float = 0.3
    gray_share: float = 0.25
    toned_share: float = 0.1
    haze: Effect = HAZE
    fading: Effect = FADING
    cast: Effect = CAST
    glare: Effect = GLARE

    def __call__(self, stock: Stock, rng: np.random.Generator, number: int) -> Arrays:
        """See the class."""
        picture = stock.pictures[int(rng.integers(len(stock.pictures)))]
        clean = _most_of(picture, rng)
        kind = rng.random()
        colour = kind >= self.gray_share + self.toned_share
        if not colour:
            clean = np.repeat((clean @ LUMA)[:, :, None], 3, axis=2)
            if kind >= self.gray_share:
                tint = np.array([1.0, rng.uniform(0.82, 0.97), rng.uniform(0.55, 0.85)], np.float32)
                clean = clean * (1 - np.float32(rng.uniform(0.2, 1.0)) * (1 - tint))
        x, worn = clean, False
        if rng.random() >= self.sound_share:
            x, worn = self._worn(clean, rng, colour)
        if rng.random() < 0.5:
            x = light.blurred(x, float(rng.uniform(0.2, 0.8)))
        if rng.random() < 0.5:
            x = light.grain(x, rng, float(rng.uniform(0.005, 0.04)))
        target = cv2.resize(clean, (SIDE_PX // 2, SIDE_PX // 2), interpolation=cv2.INTER_AREA)
        return {
            "input": _first(np.clip(x, 0, 1)),
            "target": _first(np.asarray(target, np.float32)),
            "worn": np.array([worn], np.float32),
        }

    def _worn(self, x: Floats, rng: np.random.Generator, colour: bool) -> tuple[Floats, bool]:
        strengths = [light.drawn(rng, effect) for effect in (self.haze, self.fading, self.cast, self.glare)]
        if not any(strengths[:2]) and not (colour and strengths[2]):
            strengths[1] = float(rng.uniform(self.fading.low, self.fading.high))
        haze, fading, cast, glare = strengths
        if haze:
            x = light.haze(x, rng, haze)
        if fading:
            faded = light.faded(x if colour else x[:, :, :1], rng, fading)
            # A toned print keeps its tone when it fades: what is lost is the same share of every channel.
            x = faded if colour else np.asarray(faded * x / np.maximum(x[:, :, :1], np.float32(1e-3)), np.float32)
        if cast and colour:
            x = yellowed(x, rng, cast)
        if glare:
            x = light.glare(x, rng, glare)
        return np.clip(x, 0, 1), True


def _most_of(picture: NDArray[np.uint8], rng: np.random.Generator) -> Floats:
    """(128, 128, 3) float32 in [0, 1] of 60 to 100 % of each side, perhaps mirrored; shapes are not kept, as in use."""
    height, width = (round(side * rng.uniform(0.6, 1.0)) for side in picture.shape[:2])
    top, left = int(rng.integers(picture.shape[0] - height + 1)), int(rng.integers(picture.shape[1] - width + 1))
    part = picture[top : top + height, left : left + width]
    part = part[:, ::-1] if rng.random() < 0.5 else part
    small = cv2.resize(part, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) / np.float32(255)


@dataclass(frozen=True, slots=True)
class DetailSampler:
    """Parts of pictures, float32: ``input`` (4, S, S), worn sRGB over the damage mask; ``target`` (3, S, S).

    ``clean_share`` are given as they are. Others are worn twice (X. Wang et al., Real-ESRGAN, 2021: second-order
    degradation): lens, emulsion and an early copy, then print, scanner and JPEG. Fading, where it comes, comes to the
    target too: tone is not this network's to mend; and some are set right after it, with the noise and the JPEG that
    this makes stronger. ``marked_share`` carry marks, found all but for a rim, and filled.

    What is easy comes first, or nothing is learnt (models/training/LOG.md): samples numbered below ``easy_until`` are
    only noisy, and heavily; clean ones begin at ``clean_from``.
    """

    crop_px: int = 96
    easy_until: int = 0
    clean_from: int = 0
    clean_share: float = 0.15
    gray_share: float = 0.3
    marked_share: float = 0.3
    largest_zoom: float = 1.3
    marks: DamageRecipe = MARKS
    defocus: Effect = DEFOCUS
    motion: Effect = MOTION
    grain: Effect = GRAIN
    noise: Effect = NOISE
    jpeg: Effect = JPEG

    def __call__(self, stock: Stock, rng: np.random.Generator, number: int) -> Arrays:
        """See the class."""
        picture = stock.pictures[int(rng.integers(len(stock.pictures)))]
        target = crop(picture, self.crop_px, rng, self.largest_zoom)
        if rng.random() < self.gray_share:
            target = np.asarray((target @ LUMA)[:, :, None], np.float32)
        mask = np.zeros(target.shape[:2], np.float32)
        x = target
        if number < self.easy_until:
            x = light.noise(light.grain(x, rng, float(rng.uniform(0.0, 0.1))), rng, float(rng.uniform(0.0, 0.08)))
        elif number < self.clean_from or rng.random() >= self.clean_share:
            marked = rng.random() < self.marked_share
            target, x = self._worn(target, rng)
            if marked:
                x, mask = self._filled(x, rng, stock)
        elif rng.random() < 0.5:  # sound and pale: fine texture of little contrast is not noise
            target = x = _pale(target, *_paleness(rng))
        given = [np.broadcast_to(p, (*p.shape[:2], 3)) for p in (np.clip(x, 0, 1), target)]
        return {"input": np.concatenate([_first(given[0]), mask[None]]), "target": _first(given[1])}

    def _worn(self, clean: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """What is to come back, and what is given."""
        strengths = {name: light.drawn(rng, getattr(self, name)) for name in ("defocus", "motion", "grain", "noise")}
        x = light.blurred(clean, strengths["defocus"])
        if strengths["motion"]:
            x = light.motion(x, rng, strengths["motion"])
        if rng.random() < 0.2:
            x = _reduced(x, rng)
        if strengths["grain"]:
            x = light.grain(x, rng, strengths["grain"])
        if rng.random() < 0.25:
            x = light.jpeg(x, int(rng.integers(50, 95)))
        low, lost = _paleness(rng) if rng.random() < 0.45 else (0.0, 0.0)
        x = _pale(x, low, lost)
        if rng.random() < 0.5:
            x = light.blurred(x, float(rng.uniform(0.3, 0.9)))
        if strengths["noise"]:
            x = light.noise(x, rng, strengths["noise"] * (1 - lost / 2))
        if (stored := light.drawn(rng, self.jpeg)) > 0:
            x = light.jpeg(x, 100 - round(stored))
        if lost and rng.random() < 0.5:
            return clean, np.clip((x - np.float32(low)) / np.float32(1 - lost), 0, 1)
        return _pale(clean, low, lost), x

    def _filled(self, x: Floats, rng: np.random.Generator, stock: Stock) -> tuple[Floats, Floats]:
        """The picture with marks found and filled as the pipeline does it, and the mask of what was filled."""
        made = simulate(np.clip(x, 0, 1), rng, self.marks, None)
        grown = float(rng.uniform(0.1, 0.6))  # a high level leaves a rim of the mark outside the mask
        found = (made.mask > grown).astype(np.uint8)
        if rng.random() < 0.5:
            found = np.asarray(cv2.dilate(found, np.ones((3, 3), np.uint8)), np.uint8)
        levels = np.round(made.damaged * 255).astype(np.uint8)
        filled = np.asarray(cv2.inpaint(levels, found, 3, cv2.INPAINT_TELEA), np.float32) / np.float32(255)
        hole = found[:, :, None] > 0
        out = np.where(hole, filled.reshape(made.damaged.shape), made.damaged)
        return np.asarray(out, np.float32), found.astype(np.float32)


def _paleness(rng: np.random.Generator) -> tuple[float, float]:
    """Where black lies, and how much contrast is lost."""
    lost = float(rng.uniform(0.1, 0.6))
    return float(lost * rng.uniform(0, 1)), lost


def _pale(x: Floats, low: float, lost: float) -> Floats:
    return np.asarray(x * np.float32(1 - lost) + np.float32(low), np.float32)


def _reduced(x: Floats, rng: np.random.Generator) -> Floats:
    """Reduced to 0.45 to 0.9 of its size and enlarged again."""
    height, width = x.shape[:2]
    size = tuple(max(8, round(side * rng.uniform(0.45, 0.9))) for side in (width, height))
    small = cv2.resize(x, size, interpolation=cv2.INTER_AREA)
    how = cv2.INTER_CUBIC if rng.random() < 0.7 else cv2.INTER_LINEAR
    return light.channelled(cv2.resize(small, (width, height), interpolation=how))


def _first(picture: NDArray[np.float32]) -> Floats:
    """Channels first."""
    return np.ascontiguousarray(np.moveaxis(picture, 2, 0), np.float32)
