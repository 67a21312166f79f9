"""Losses: what a network is told. Each is a function (output, batch) -> named terms; the loop adds the terms up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

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
class ColourLoss:
    """For a colour network's a, b: Charbonnier distance to ``target``, and to its chroma, by how rare its colour is.

    Distance alone is least for the average of what a thing may be, and the average of red and green is brown. So rare
    colours count more (``batch["weight"]``, by ``rarity_share`` of what they would), and chroma counts by itself: there
    an average costs as much as an error.
    """

    rounding: float = 0.02  # in units of 50 of CIELAB: a difference of 1, which nobody sees
    chroma_weight: float = 0.3

    def __call__(self, output: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """``output`` and ``target`` (N, 2, H, W) of one unit, ``weight`` (N, 1, H, W) of about 1 on average."""
        made, target, weight = output.float(), batch["target"].float(), batch["weight"].float()
        apart = (made - target).square().sum(1, keepdim=True)
        chroma = (made.square().sum(1, keepdim=True) + self.rounding**2).sqrt()
        true_chroma = (target.square().sum(1, keepdim=True) + self.rounding**2).sqrt()
        return {
            "distance": (weight * (apart + self.rounding**2).sqrt()).mean(),
            "chroma": self.chroma_weight * (weight * (chroma - true_chroma).abs()).mean(),
        }


def in_lab(colours: torch.Tensor, batch: Batch) -> torch.Tensor:
    """(N, 3, H, W) for a critic: ``batch["light"]``, 0 in the middle, over a, b; what the gray suffered is not seen."""
    return torch.cat([2 * batch["light"] - 1, colours.to(batch["light"].dtype)], 1)


def critic_hinge(real: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """What a critic is told of its scores: real above 1, made below -1 (Lim and Ye, Geometric GAN, 2017)."""
    return functional.relu(1 - real.float()).mean() + functional.relu(1 + made.float()).mean()


def generator_hinge(made: torch.Tensor) -> torch.Tensor:
    """What the generator is told of the critic's scores of what it made: higher is better."""
    return -made.float().mean()
    rarity_share: float = 1.0
        weight = 1 + self.rarity_share * (weight - 1)
