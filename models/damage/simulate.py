"""A clean picture in, the same picture after a hard life out, with the exact soft mask of what was done to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.damage import light
from models.damage.decoys import draw_decoy
from models.damage.marks import DRAW, Layer
from models.damage.recipe import KINDS, DamageRecipe, Mark
from models.damage.stamps import Stamps

VISIBLE = 0.025
"""A change smaller than this share of full scale cannot be seen: the mask fades out with it."""

ON_NEGATIVE = {"scratch": 0.5, "hair": 0.4, "dust": 0.5, "dot": 0.7, "emulsion": 0.6, "fingerprint": 0.4, "stain": 0.3}
"""How often a kind sits on the negative (beneath fading, grain and print) rather than on the print or the glass."""


@dataclass(frozen=True, slots=True, eq=False)
class Damaged:
    """One simulated picture.

    ``clean`` (H, W, C) float32 in [0, 1]: what a perfect restoration would return (decoys included, they are content);
    ``damaged`` the same shape: what the scanner saw; ``mask`` (H, W) float32 in [0, 1]: 1 = wholly covered by damage;
    ``kinds`` (H, W) uint8: index into ``KINDS`` of the mark that covers most, 0 where the mask is below 0.1;
    ``strength`` (H, W) float32: by how much (of full scale, in the channel that changed most) marks moved a pixel when
    they were laid on, before what came after them; 0 where there is none: what can be seen depends on it, and on how
    busy the picture is there;
    ``parameters``: everything drawn, plain values (``parameters["marks"]`` lists the marks with kind, width, change).
    """

    clean: NDArray[np.float32]
    damaged: NDArray[np.float32]
    mask: NDArray[np.float32]
    kinds: NDArray[np.uint8]
    strength: NDArray[np.float32]
    parameters: dict[str, Any]


def simulate(
    picture: NDArray[np.float32], rng: np.random.Generator, recipe: DamageRecipe, stamps: Stamps | None
) -> Damaged:
    """``picture`` damaged as ``recipe`` says, drawn from ``rng`` alone: the same state gives the same pixels.

    ``picture`` is (H, W, C) float32 in [0, 1], C 1 (gray) or 3 (RGB), any size from 32 x 32; it is not written to.
    Without ``stamps`` every mark is drawn from strokes alone. Raises ``ValueError`` for another shape.
    """
    if picture.ndim != 3 or picture.shape[2] not in (1, 3) or min(picture.shape[:2]) < 32:
        raise ValueError(f"picture: expected (H, W, 1 or 3) from 32 x 32, found {picture.shape}")
    shape = (picture.shape[0], picture.shape[1])
    clean = np.asarray(picture, np.float32)
    decoys: list[str] = []
    if recipe.decoys and rng.random() < recipe.decoy_share:
        clean = clean.copy()
        for _ in range(int(rng.integers(1, 3))):
            name = recipe.decoys[int(rng.integers(len(recipe.decoys)))]
            draw_decoy(name, clean, rng)
            decoys.append(name)
        clean = np.clip(clean, 0, 1)
    strengths = {name: light.drawn(rng, getattr(recipe, name)) for name in EFFECTS}
    beneath, above = _draw_marks(shape, rng, recipe, stamps)
    mask, best, strength = (np.zeros(shape, np.float32) for _ in range(3))
    found = _Found(mask, best, strength, np.zeros(shape, np.uint8))

    x = _scene(clean, rng, strengths)
    share = rng.uniform(0, 1)
    x = x if not strengths["grain"] else light.grain(x, rng, strengths["grain"] * share)
    x = x.copy() if x is clean or x is picture else x
    for layer in beneath:
        _lay(x, layer, found)
    x = _print(x, rng, strengths)
    for layer in above:
        _lay(x, layer, found)
    kinds = found.kinds
    np.clip(x, 0, 1, out=x)
    if strengths["grain"]:
        x = light.grain(x, rng, strengths["grain"] * (1 - share))
    x = light.blurred(x, strengths["scanner"])
    if strengths["scanner"] > 0.3:
        mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), strengths["scanner"]), np.float32)
    if strengths["noise"]:
        x = light.noise(x, rng, strengths["noise"])
    if strengths["jpeg"]:
        x = light.jpeg(x, 100 - round(strengths["jpeg"]))
    kinds[mask < 0.1] = 0
    parameters: dict[str, Any] = {"recipe": recipe.name, "decoys": decoys, **strengths}
    parameters["marks"] = [_record(layer) for layer in (*beneath, *above)]
    return Damaged(clean, np.clip(x, 0, 1), np.clip(mask, 0, 1), kinds, found.strength, parameters)


EFFECTS = (
    "defocus",
    "motion",
    "haze",
    "glare",
    "vignette",
    "fading",
    "toning",
    "grain",
    "noise",
    "halftone",
    "jpeg",
    "scanner",
)


def _draw_marks(
    shape: tuple[int, int], rng: np.random.Generator, recipe: DamageRecipe, stamps: Stamps | None
) -> tuple[list[Layer], list[Layer]]:
    """The marks on the negative and those on the print, none for the clean share."""
    beneath: list[Layer] = []
    above: list[Layer] = []
    if rng.random() < recipe.clean_share:
        return beneath, above
    chosen: list[tuple[str, Mark]] = []
    marks: list[tuple[str, Mark]] = [(kind, getattr(recipe, kind)) for kind in KINDS[1:]]
    chosen = [(kind, mark) for kind, mark in marks if rng.random() < mark.chance]
    if not chosen:  # a marked picture has at least one mark
        chances = np.array([mark.chance for _, mark in marks])
        if not chances.any():
            return beneath, above
        chosen = [marks[int(rng.choice(len(marks), p=chances / chances.sum()))]]
    area = shape[0] * shape[1] / 65536
    for kind, mark in chosen:
        grows = area if kind in ("dust", "dot") else area**0.5
        count = round(int(rng.integers(mark.count[0], mark.count[1] + 1)) * float(np.clip(grows, 0.25, 30)))
        # Marks of one kind on one picture look alike: they share a sign and a range of contrast.
        middle = float(rng.uniform(*mark.contrast))
        spread = (max(middle * 0.6, mark.contrast[0]), min(middle * 1.4, mark.contrast[1]))
        dark = mark.dark if rng.random() < 0.25 else float(rng.random() < mark.dark)
        alike = Mark(mark.chance, mark.count, mark.width_px, spread, dark)
        target = beneath if rng.random() < ON_NEGATIVE.get(kind, 0.0) else above
        for _ in range(max(count, 1)):
            target.extend(DRAW[kind](rng, shape, alike, stamps))
    return beneath, above


def _scene(x: NDArray[np.float32], rng: np.random.Generator, strengths: dict[str, float]) -> NDArray[np.float32]:
    """Lens and air, before there is any film."""
    x = light.blurred(x, strengths["defocus"])
    if strengths["motion"]:
        x = light.motion(x, rng, strengths["motion"])
    if strengths["haze"]:
        x = light.haze(x, rng, strengths["haze"])
    return x


def _print(x: NDArray[np.float32], rng: np.random.Generator, strengths: dict[str, float]) -> NDArray[np.float32]:
    """From the negative to the print in the archive's box."""
    if strengths["vignette"]:
        x = light.vignette(x, rng, strengths["vignette"])
    if strengths["fading"]:
        x = light.faded(x, rng, strengths["fading"])
    if strengths["toning"]:
        x = light.toned(x, rng, strengths["toning"])
    if strengths["halftone"]:
        x = light.halftone(x, rng, strengths["halftone"])
    if strengths["glare"]:
        x = light.glare(x, rng, strengths["glare"])
    return x


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """What the marks laid so far cover: see ``Damaged``; ``best`` is the cover of the mark that ``kinds`` names."""

    mask: NDArray[np.float32]
    best: NDArray[np.float32]
    strength: NDArray[np.float32]
    kinds: NDArray[np.uint8]


def _lay(x: NDArray[np.float32], layer: Layer, found: _Found) -> None:
    """Lays one mark on ``x`` in place and enters what can be seen of it in ``found``."""
    mask, best, kinds = found.mask, found.best, found.kinds
    window, alpha = layer.patch.window, layer.patch.alpha
    under = x[window]
    change = layer.change if isinstance(layer.change, float) else layer.change[:, :, None]
    tint = np.array(layer.tint if x.shape[2] == 3 else (1.0,), np.float32)
    step = np.asarray(change * tint, np.float32)
    if layer.opaque > 0:
        weights = alpha.reshape(-1)
        level = weights @ under.reshape(-1, x.shape[2]) / max(float(weights.sum()), 1e-6)
        step = step + np.float32(layer.opaque) * (level - under)
    after = np.clip(under + alpha[:, :, None] * step, 0, 1)
    moved = cv2.absdiff(after, under)
    seen = moved.max(2) if moved.ndim == 3 and x.shape[2] == 3 else moved.reshape(alpha.shape)
    # What shows is judged over a few pixels: a line does not end where it crosses its own gray.
    shown = cv2.dilate(np.ascontiguousarray(seen), np.ones((5, 5), np.uint8))
    cover = alpha * np.minimum(shown / np.float32(VISIBLE), np.float32(1))
    x[window] = after
    np.maximum(found.strength[window], seen, out=found.strength[window])
    mask[window] = 1 - (1 - mask[window]) * (1 - cover)
    first = (cover >= best[window]) & (cover >= 0.1)
    np.copyto(best[window], cover, where=first)
    np.copyto(kinds[window], KINDS.index(layer.kind), where=first)


def _record(layer: Layer) -> dict[str, Any]:
    patch = layer.patch
    change = layer.change if isinstance(layer.change, float) else float(np.mean(layer.change))
    return {
        "kind": layer.kind,
        "width_px": round(layer.width_px, 2),
        "change": round(change, 4),
        "opaque": round(layer.opaque, 3),
        "box": (patch.left, patch.top, patch.alpha.shape[1], patch.alpha.shape[0]),
    }
