"""Losses: what a network is told. Each is a function (output, batch) -> named terms; the loop adds the terms up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from models.nets import tone
from models.training import features
from models.training.face_data import windows

Batch = Mapping[str, torch.Tensor]
Loss = Callable[[torch.Tensor, Batch], dict[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class MaskLoss:
    """For a detector's logit: weighted cross-entropy, plus overlap over the batch.

    Pixels of thin marks weigh ``thin_weight``, those of thick ones (a stain, a tear; ``batch["thick"]``) only
    ``thick_weight``: one stain has more pixels than a hundred scratches and would drown them. Damaged pixels that
    nobody could see (``batch["seen"]``: a scuff under heavy grain) weigh ``unseen_weight`` of that: the exact mask has
    many of them, and they teach nothing but to guess. The overlap (Dice, F. Milletari et al., V-Net, 2016) is taken
    over the whole batch and not by picture: the clean half of a batch has nothing to overlap with and only adds noise.
    """

    thin_weight: float = 4.0
    thick_weight: float = 0.2
    unseen_weight: float = 0.1
    overlap_weight: float = 0.5
    gain: float = 2.0  # on the target: a 1-px line under the scanner's blur is half covered, and wholly damaged

    def __call__(self, output: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """``output`` (N, 1, H, W) logits; ``target``, ``thick`` and ``seen`` of ``batch`` (N, 1, H, W) in [0, 1]."""
        logit, target = output.float(), (self.gain * batch["target"].float()).clamp(max=1)
        thick = (self.gain * batch["thick"].float()).clamp(max=1)
        seen = 1 - target * (1 - self.unseen_weight) * (1 - batch["seen"].float())
        weight = 1 + (self.thin_weight - 1) * (target - thick).clamp(min=0) + (self.thick_weight - 1) * thick
        entropy = functional.binary_cross_entropy_with_logits(logit, target, weight * seen)
        found, counted = logit.sigmoid(), seen * (1 + (self.thick_weight - 1) * thick)
        shared, both = (counted * found * target).sum(), (counted * (found + target)).sum()
        return {"entropy": entropy, "overlap": self.overlap_weight * (1 - (2 * shared + 1) / (both + 1))}


@dataclass(frozen=True, slots=True)
class PictureLoss:
    """For a picture: Charbonnier distance (a rounded absolute difference) to ``target``."""

    rounding: float = 1e-3
    weight: float = 1.0

    def __call__(self, output: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """``output`` and ``batch["target"]`` (N, C, H, W) in [0, 1]."""
        difference = output.float() - batch["target"].float()
        return {"distance": self.weight * (difference.square() + self.rounding**2).sqrt().mean()}


@dataclass(frozen=True, slots=True)
class FaceLoss:
    """For a face: Charbonnier distance to ``target`` by ``batch["weight"]``, of pixels and of their differences.

    The second keeps edges where the first would rather have an average of where they may be.
    """

    rounding: float = 1e-3
    edges: float = 0.5
    weight: float = 1.0

    def __call__(self, output: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """``output`` and ``target`` (N, 3, S, S) in [0, 1], ``weight`` (N, 1, S, S) of 1 on average."""
        apart, weight = output.float() - batch["target"].float(), batch["weight"].float()
        down, across = apart[:, :, 1:] - apart[:, :, :-1], apart[..., 1:] - apart[..., :-1]
        edges = (weight[:, :, 1:] * self._round(down)).mean() + (weight[..., 1:] * self._round(across)).mean()
        return {
            "distance": self.weight * (weight * self._round(apart)).mean(),
            "edges": self.weight * self.edges * edges,
        }

    def _round(self, apart: torch.Tensor) -> torch.Tensor:
        return (apart.square() + self.rounding**2).sqrt()


def face_windows(faces: torch.Tensor, batch: Batch) -> torch.Tensor:
    """(5 N, 6, S/2, S/2) for a critic: each eye, the mouth, the nose as they are, and the whole at half size, about 0.

    So four fifths of what it judges is of eyes, mouth and nose (X. Wang et al., GFPGAN, 2021, has critics for each).
    Beside the picture its finest detail, six times as strong: a critic that sees the picture alone learns faces first.
    """
    side = faces.shape[-1]
    half = side // 2
    parts = [faces[..., top : top + half, left : left + half] for top, left in windows(side)]
    whole = functional.interpolate(faces.float(), scale_factor=0.5, mode="area").to(faces.dtype)
    seen = torch.cat([*parts, whole])
    fine = seen - functional.avg_pool2d(seen, 5, 1, 2, count_include_pad=False)
    return torch.cat([2 * seen - 1, 6 * fine], 1)


@dataclass(frozen=True, slots=True)
class ColourLoss:
    """For a colour network's a, b: Charbonnier distance to ``target``, and to its chroma, by how rare its colour is.

    Distance alone is least for the average of what a thing may be, and the average of red and green is brown. So rare
    colours count more (``batch["weight"]``, by ``rarity_share`` of what they would), and chroma counts by itself: there
    an average costs as much as an error.
    """

    rounding: float = 0.02  # in units of 50 of CIELAB: a difference of 1, which nobody sees
    chroma_weight: float = 0.3
    rarity_share: float = 1.0

    def __call__(self, output: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """``output`` and ``target`` (N, 2, H, W) of one unit, ``weight`` (N, 1, H, W) of about 1 on average."""
        made, target, weight = output.float(), batch["target"].float(), batch["weight"].float()
        weight = 1 + self.rarity_share * (weight - 1)
        apart = (made - target).square().sum(1, keepdim=True)
        chroma = (made.square().sum(1, keepdim=True) + self.rounding**2).sqrt()
        true_chroma = (target.square().sum(1, keepdim=True) + self.rounding**2).sqrt()
        return {
            "distance": (weight * (apart + self.rounding**2).sqrt()).mean(),
            "chroma": self.chroma_weight * (weight * (chroma - true_chroma).abs()).mean(),
        }


@dataclass(frozen=True, slots=True)
class RelativeLoss:
    """For a picture: the error of each sample in bels, so that none rules the batch.

    The negative PSNR, as L. Chen et al., Simple Baselines for Image Restoration, 2022. Errors far under ``floor`` count
    alike: a sound sample that is left nearly as it was must not outweigh what could be gained on the others.
    """

    floor: float = 3e-4  # mean square: 35 dB

    def __call__(self, output: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """``output`` and ``batch["target"]`` (N, 3, H, W) in [0, 1]."""
        error = (output.float() - batch["target"].float()).square().mean((1, 2, 3))
        return {"error": (error + self.floor).log10().mean()}


@dataclass(frozen=True, slots=True)
class ToneLoss:
    """For a ToneNet's numbers: how far the tone they make is from ``target``, and whether they know a sound picture.

    A sound picture must come out as it was: there the distance is to what was given, and counts ``sound_weight`` times.
    """

    rounding: float = 2e-3
    sound_weight: float = 1.5
    worn_weight: float = 0.03

    def __call__(self, output: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """``output`` (N, 445); ``input`` (N, 3, 128, 128), ``target`` (N, 3, 64, 64), ``worn`` (N, 1) of ``batch``."""
        given, worn = functional.avg_pool2d(batch["input"].float(), 2), batch["worn"].float()
        done = tone.tones(output.float())
        made = tone.applied(done, given)
        asked = torch.where(worn[:, :, None, None] > 0, batch["target"].float(), given)
        distance = ((made - asked).square() + self.rounding**2).sqrt().mean((1, 2, 3))
        weight = 1 + (self.sound_weight - 1) * (1 - worn[:, 0])
        known = functional.binary_cross_entropy_with_logits(done.worn[:, None], worn)
        return {"distance": (weight * distance).mean(), "known": self.worn_weight * known}


@dataclass(frozen=True, slots=True)
class FeatureLoss:
    """For a picture: Charbonnier distance, and how far it is from ``target`` in the eyes of VGG16's first layers.

    J. Johnson et al., Perceptual Losses, 2016. ``file``: the layers, made as models/training/features.py says, found
    from the folder that training is started in; without it the first step raises UnusableWeights, which says so. Of
    each batch the first ``looked_at`` samples count, the middle ``side_px`` of them: VGG16 is slow.
    """

    file: str = "features.safetensors"
    rounding: float = 1e-3
    distance_weight: float = 0.5
    feature_weight: float = 0.1
    looked_at: int = 4
    side_px: int = 64

    def __call__(self, output: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """``output`` and ``batch["target"]`` (N, 3, H, W) in [0, 1]."""
        made, target = output.float(), batch["target"].float()
        distance = ((made - target).square() + self.rounding**2).sqrt().mean()
        top, left = ((side - self.side_px) // 2 for side in made.shape[2:])
        part = (slice(self.looked_at), slice(None), slice(top, top + self.side_px), slice(left, left + self.side_px))
        trunk = features.load(self.file, str(made.device))
        with torch.no_grad():
            true = trunk(target[part])
        seen = torch.stack([(a - b).abs().mean() for a, b in zip(trunk(made[part]), true, strict=True)]).sum()
        return {"distance": self.distance_weight * distance, "features": self.feature_weight * seen}


def as_it_is(picture: torch.Tensor, batch: Batch) -> torch.Tensor:
    """(N, 3, H, W) for a critic: the picture itself."""
    return picture.float()


def in_lab(colours: torch.Tensor, batch: Batch) -> torch.Tensor:
    """(N, 3, H, W) for a critic: ``batch["light"]``, 0 in the middle, over a, b; what the gray suffered is not seen."""
    return torch.cat([2 * batch["light"] - 1, colours.to(batch["light"].dtype)], 1)


def critic_hinge(real: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """What a critic is told of its scores: real above 1, made below -1 (Lim and Ye, Geometric GAN, 2017)."""
    return functional.relu(1 - real.float()).mean() + functional.relu(1 + made.float()).mean()


def generator_hinge(made: torch.Tensor) -> torch.Tensor:
    """What the generator is told of the critic's scores of what it made: higher is better."""
    return -made.float().mean()


def slope_penalty(scores: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """R1 (L. Mescheder et al., 2018): the squared slope of a critic's scores at real pictures, mean over pictures.

    ``seen``: what was scored, and asked for its gradient.
    """
    (slope,) = torch.autograd.grad(scores.float().sum(), seen, create_graph=True)
    return slope.float().square().sum((1, 2, 3)).mean()
