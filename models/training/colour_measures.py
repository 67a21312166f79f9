"""How far colours are from the true ones, and whether there is any: CIEDE2000, ab PSNR, colourfulness, near-gray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000

from models.metrics import colourfulness
from models.nets.colour import AB_UNIT
from models.training.measures import Pair

NEAR_GRAY = 5.0  # of CIELAB chroma: below it nobody would name the colour
AB_PEAK = 255.0  # levels of 8-bit a and b
FAITHFUL = (0.5, 1.2)  # colourfulness against the truth's

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Colours:
    """One picture's colours against the truth.

    ``ciede_mean``, ``ciede_p95``: colour difference over its pixels; ``ab_psnr``: in dB, of a and b together;
    ``colourfulness``, ``true_colourfulness``: D. Hasler and S. Suesstrunk, 2003; ``near_gray``,
    ``true_near_gray``: share of its pixels with a chroma under 5.
    """

    ciede_mean: float
    ciede_p95: float
    ab_psnr: float
    colourfulness: float
    true_colourfulness: float
    near_gray: float
    true_near_gray: float


def ciede2000(one: Floats, other: Floats) -> Floats:
    """(…,) CIEDE2000 of (…, 3) CIELAB colours (G. Sharma et al., 2005)."""
    return np.asarray(deltaE_ciede2000(one, other), np.float32)  # type: ignore[no-untyped-call]


def colours_of(lab: Floats, truth: Floats) -> Colours:
    """The measures of (H, W, 3) CIELAB against a truth of that shape; ValueError when shapes differ."""
    if lab.shape != truth.shape or lab.ndim != 3 or lab.shape[2] != 3:
        raise ValueError(f"colours_of: expected two pictures (H, W, 3), found {lab.shape} and {truth.shape}")
    apart = ciede2000(lab, truth)
    error = float(np.mean(np.square(lab[:, :, 1:] - truth[:, :, 1:], dtype=np.float64)))
    return Colours(
        ciede_mean=float(apart.mean()),
        ciede_p95=float(np.quantile(apart, 0.95)),
        ab_psnr=float(10 * np.log10(AB_PEAK**2 / max(error, 1e-4))),
        colourfulness=colourfulness(shown(lab)),
        true_colourfulness=colourfulness(shown(truth)),
        near_gray=near_gray(lab),
        true_near_gray=near_gray(truth),
    )


def near_gray(lab: Floats) -> float:
    """Share of the pixels of (H, W, 3) CIELAB with a chroma under 5."""
    return float((np.hypot(lab[:, :, 1], lab[:, :, 2]) < NEAR_GRAY).mean())


def shown(lab: Floats) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 sRGB of CIELAB, clipped to what sRGB holds."""
    rgb = cv2.cvtColor(np.ascontiguousarray(lab, np.float32), cv2.COLOR_Lab2RGB)
    return np.asarray(np.clip(np.rint(rgb * 255), 0, 255), np.uint8)


def together(found: Sequence[Colours]) -> dict[str, float]:
    """Means over pictures; ``colourfulness`` is the sum over the truth's sum, so that a nearly gray truth cannot rule.

    Keys: ``ciede_mean``, ``ciede_p95``, ``ab_psnr``, ``colourfulness``, ``near_gray``, ``true_near_gray``.
    """
    true_sum = sum(one.true_colourfulness for one in found)
    return {
        "ciede_mean": float(np.mean([one.ciede_mean for one in found])),
        "ciede_p95": float(np.mean([one.ciede_p95 for one in found])),
        "ab_psnr": float(np.mean([one.ab_psnr for one in found])),
        "colourfulness": sum(one.colourfulness for one in found) / max(true_sum, 1e-6),
        "near_gray": float(np.mean([one.near_gray for one in found])),
        "true_near_gray": float(np.mean([one.true_near_gray for one in found])),
    }


def colour_measures(pairs: Sequence[Pair]) -> dict[str, float]:
    """Of a, b in units of 50 against ``target``, on the picture's own ``light``: ``together`` and two figures more.

    ``gain``: by what share the mean CIEDE2000 lies below that of leaving the pictures gray; ``merit``: that, less how
    far colourfulness lies outside 0.5-1.2 of the truth's: what a network that must not be gray is chosen by.
    """
    made, gray = [], []
    for output, sample in pairs:
        truth = in_lab(sample["light"], sample["target"])
        made.append(colours_of(in_lab(sample["light"], output), truth))
        gray.append(float(ciede2000(in_lab(sample["light"], np.zeros_like(output)), truth).mean()))
    measured = together(made)
    measured["gain"] = 1 - measured["ciede_mean"] / max(float(np.mean(gray)), 1e-6)
    outside = max(FAITHFUL[0] - measured["colourfulness"], measured["colourfulness"] - FAITHFUL[1], 0.0)
    return {**measured, "merit": measured["gain"] - outside}


def in_lab(light: Floats, ab: Floats) -> Floats:
    """(H, W, 3) CIELAB of ``light`` (1, H, W) in [0, 1] and ``ab`` (2, H, W) in units of 50."""
    return np.ascontiguousarray(np.moveaxis(np.concatenate([light * 100, ab * AB_UNIT]), 0, 2), np.float32)


def colour_panels(output: Floats, sample: Mapping[str, Floats]) -> list[Floats]:
    """(H, W, 3) pictures in [0, 1] for a sheet: the gray given, the truth, the result on the truth's lightness."""
    gray = np.repeat(np.clip(sample["input"][0], 0, 1)[:, :, None], 3, axis=2)
    pictures = [shown(in_lab(sample["light"], ab)) for ab in (sample["target"], output)]
    return [gray, *(np.asarray(picture, np.float32) / np.float32(255) for picture in pictures)]
