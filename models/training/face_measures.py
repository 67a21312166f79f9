"""How near a restored face is to the true one while a network learns, and the three levels of wear it is judged at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.damage import DamageRecipe, Effect
from models.portrait import face_share
from models.training.face_data import WORN, worn_face
from models.training.measures import Pair

Floats = NDArray[np.float32]
SOUND = 1e-7  # mean square of an input that was not worn: there is nothing to gain
LEAST_GAIN_DB = 0.5  # what a network that draws detail may come down to before it counts against it

_ALWAYS = replace(
    WORN, motion=Effect(0.0, 0.0, 0.0), halftone=Effect(0.0, 0.0, 0.0), scanner=Effect(0.0, 0.0, 0.0)
)  # fmt: skip
# Blur in parts of the side, as detail is lost in parts of a face; grain, noise and JPEG as they are in any scan.
LEVELS: Mapping[str, tuple[float, DamageRecipe]] = {
    name: (
        blur,
        replace(
            _ALWAYS,
            name=name,
            defocus=Effect(0.0, 0.0, 0.0),
            grain=Effect(1.0, grain, grain),
            noise=Effect(1.0, noise, noise),
            jpeg=Effect(1.0, loss, loss),
        ),
    )
    for name, blur, grain, noise, loss in (
        ("light", 1 / 320, 0.02, 0.005, 15),
        ("middle", 1 / 160, 0.045, 0.01, 40),
        ("heavy", 1 / 64, 0.08, 0.02, 65),
    )
}


def worn_at(face: Floats, level: str, rng: np.random.Generator) -> Floats:
    """``face`` (S, S, 1 or 3) float32 in [0, 1] worn as ``LEVELS`` says: the same generator gives the same pixels."""
    share, recipe = LEVELS[level]
    sigma = share * face.shape[0]
    return worn_face(face, rng, replace(recipe, defocus=Effect(1.0, sigma, sigma)))


def face_measures(pairs: Sequence[Pair]) -> dict[str, float]:
    """Of faces in [0, 1] against ``target``, on the face itself: ``gain`` in dB over the input, ``psnr``, ``detail``.

    ``detail``: second differences against the truth's, 1 where the face is as sharp as it was; ``input_detail`` that of
    the input, grain and all. ``merit``: 1 less how far detail is from 1, and less what gain falls short of 0.5 dB: what
    a network that draws detail is kept by.
    """
    gains, psnrs, details, before = [], [], [], []
    for output, sample in pairs:
        share = face_share(output.shape[-1], 1.0)
        given, made = (_error(x, sample["target"], share) for x in (sample["input"], output))
        if given > SOUND:
            gains.append(10 * np.log10(given / made))
        psnrs.append(-10 * np.log10(made))
        true = _detail(sample["target"], share)
        details.append(_detail(output, share) / true)
        before.append(_detail(sample["input"], share) / true)
    gain, detail = float(np.mean(gains or [0.0])), float(np.median(details))
    merit = 1 - abs(1 - detail) - max(LEAST_GAIN_DB - gain, 0.0)
    return {
        "gain": gain,
        "psnr": float(np.mean(psnrs)),
        "detail": detail,
        "input_detail": float(np.median(before)),
        "merit": merit,
    }


def _error(output: Floats, target: Floats, share: Floats) -> float:
    apart = np.square(np.clip(output, 0, 1) - target).mean(0)
    return max(float((apart * share).sum() / share.sum()), 1e-9)


def _detail(picture: Floats, share: Floats) -> float:
    luma = picture.mean(0)
    second = 4 * luma[1:-1, 1:-1] - luma[:-2, 1:-1] - luma[2:, 1:-1] - luma[1:-1, :-2] - luma[1:-1, 2:]
    inside = share[1:-1, 1:-1]
    return max(float((np.abs(second) * inside).sum() / inside.sum()), 1e-4)


def face_panels(output: Floats, sample: Mapping[str, Floats]) -> list[Floats]:
    """(S, S, 3) pictures in [0, 1] for a sheet, cut to 128 px: what was given, what was made, the truth."""
    panels = [np.clip(np.moveaxis(x, 0, 2), 0, 1) for x in (sample["input"], output, sample["target"])]
    step = max(1, panels[0].shape[0] // 128)
    return [np.ascontiguousarray(panel[::step, ::step]) for panel in panels]
