"""How much better an enhanced sample is than what was given, and what happens to sound ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.nets import tone
from models.training.measures import Pair

Floats = NDArray[np.float32]
SOUND_WITHIN = 1e-4  # of full scale, on average: a sample that is given as its own target


def detail_measures(pairs: Sequence[Pair]) -> dict[str, float]:
    """Of pictures (3, H, W): ``psnr`` and ``gain`` over the input, both of worn samples; ``sound_psnr`` of clean ones.

    ``texture``: mean strength of edges against the target's, 1 is as strong; ``merit``: ``gain`` less 4 dB for each
    factor of e that texture is off, what a network that must make texture is chosen by.
    """
    gained, given, sound, made, true = [], [], [], 0.0, 0.0
    for output, sample in pairs:
        before, after = (_psnr(picture, sample["target"]) for picture in (sample["input"][:3], output))
        if float(np.abs(sample["input"][:3] - sample["target"]).mean()) < SOUND_WITHIN:
            sound.append(min(after, 60.0))
            continue
        gained.append(after)
        given.append(before)
        made, true = made + _edges(output), true + _edges(sample["target"])
    gain, texture = float(np.mean(gained) - np.mean(given)), made / max(true, 1e-9)
    worn = {"psnr": float(np.mean(gained)), "gain": gain, "texture": texture}
    return {**worn, "sound_psnr": float(np.mean(sound or [60.0])), "merit": gain - 4 * abs(float(np.log(texture)))}


def detail_panels(output: Floats, sample: Mapping[str, Floats]) -> list[Floats]:
    """(H, W, 3) pictures in [0, 1] for a sheet: what was given, the truth, what was made."""
    return [np.clip(np.moveaxis(x[:3], 0, 2), 0, 1) for x in (sample["input"], sample["target"], output)]


def tone_measures(pairs: Sequence[Pair]) -> dict[str, float]:
    """Of a ToneNet's numbers (445,): ``gain`` in dB over the input on worn samples, ``sound_psnr`` on the others.

    ``told_apart``: how often a worn sample has the higher ``worn`` of a worn and a sound one. ``merit``: ``gain``, less
    a quarter of what ``sound_psnr`` lacks of 36 dB.
    """
    gains, sound, worn_logits, sound_logits = [], [], [], []
    for numbers, sample in pairs:
        given = half(torch.from_numpy(sample["input"])[None])
        done = tone.tones(torch.from_numpy(numbers)[None])
        made = tone.applied(done, given).clamp(0, 1)[0].numpy()
        after = _psnr(made, sample["target"])
        if sample["worn"][0] > 0:
            gains.append(after - _psnr(given[0].numpy(), sample["target"]))
            worn_logits.append(float(done.worn))
        else:
            sound.append(min(_psnr(made, given[0].numpy()), 60.0))
            sound_logits.append(float(done.worn))
    apart = np.subtract.outer(np.array(worn_logits), np.array(sound_logits))
    gain, sound_psnr = float(np.mean(gains or [0.0])), float(np.mean(sound or [60.0]))
    told = float(np.mean(apart > 0)) if apart.size else 1.0
    merit = gain - 0.25 * max(36 - sound_psnr, 0.0)
    return {"gain": gain, "sound_psnr": sound_psnr, "told_apart": told, "merit": merit}


def tone_panels(numbers: Floats, sample: Mapping[str, Floats]) -> list[Floats]:
    """(64, 64, 3) pictures in [0, 1] for a sheet: what was given, the truth, what was made."""
    given = half(torch.from_numpy(sample["input"])[None])
    made = tone.applied(tone.tones(torch.from_numpy(numbers)[None]), given)[0].numpy()
    return [np.clip(np.moveaxis(x, 0, 2), 0, 1) for x in (given[0].numpy(), sample["target"], made)]


def half(picture: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) at half its size by area."""
    return torch.nn.functional.avg_pool2d(picture, 2)


def _psnr(made: Floats, truth: Floats) -> float:
    error = float(np.mean(np.square(np.clip(made, 0, 1) - truth, dtype=np.float64)))
    return -10 * float(np.log10(max(error, 1e-10)))


def _edges(picture: Floats) -> float:
    luma = np.ascontiguousarray(picture.mean(0), np.float32)
    return float(np.abs(cv2.Laplacian(luma, cv2.CV_32F)).mean())
