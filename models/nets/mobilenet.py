"""MobileNetV2 as a trunk: what a network that has learnt ImageNet sees in a photograph, at five sizes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from models.weights import State, UnusableWeights

PLAN = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STEM = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's R, G, B: what the published weights expect
EPSILON = 1e-5  # of the published batch norms

Plan = tuple[tuple[int, int, int, int], ...]


class Bottleneck(nn.Module):
    """Widen, look around channel by channel, narrow without a curve; beside the identity where shapes allow it."""

    def __init__(self, into: int, out: int, stride: int, times: int) -> None:
        super().__init__()
        wide = into * times
        self.widen = nn.Conv2d(into, wide, 1) if times != 1 else nn.Identity()
        self.widens = times != 1
        self.around = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide)
        self.narrow = nn.Conv2d(wide, out, 1)
        self.beside = stride == 1 and into == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, into, h, w) -> (N, out, ceil(h / stride), ceil(w / stride))."""
        wide = functional.relu6(self.widen(x)) if self.widens else x
        out: torch.Tensor = self.narrow(functional.relu6(self.around(wide)))
        return x + out if self.beside else out


class GrayTrunk(nn.Module):
    """(N, 1, H, W) gray sRGB in [0, 1] -> features at 1/2, 1/4, 1/8, 1/16, 1/32; H and W multiples of 32.

    M. Sandler et al., MobileNetV2, 2018, without its last convolution and its classifier. Batch norms are folded into
    the convolutions before them, and so is the preparation that the published weights expect of a gray picture.
    1.8 million parameters.
    """

    def __init__(self, *, plan: Plan = PLAN, stem: int = STEM) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, stem, 3, 2, 1, padding_mode="replicate")
        self.blocks = nn.ModuleList()
        self.taps: list[int] = []
        self.widths: list[int] = []
        into = stem
        for times, out, count, stride in plan:
            for i in range(count):
                if i == 0 and stride == 2:  # what comes before a step down is the finest of its size
                    self.taps.append(len(self.blocks) - 1)
                    self.widths.append(into)
                self.blocks.append(Bottleneck(into, out, stride if i == 0 else 1, times))
                into = out
        self.taps.append(len(self.blocks) - 1)
        self.widths.append(into)

    def forward(self, given: torch.Tensor) -> list[torch.Tensor]:
        """See the class; ``widths`` are their channels."""
        x = functional.relu6(self.stem(given))
        seen = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.taps:
                seen.append(x)
        return seen


def from_torchvision(published: Mapping[str, torch.Tensor]) -> State:
    """The tensors of a ``GrayTrunk`` from those of torchvision's ``mobilenet_v2``; raises UnusableWeights."""
    state: State = {}
    try:
        weight, bias = _folded(published, "features.0.0", "features.0.1")
        mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
        state["stem.weight"] = (weight / std).sum(1, keepdim=True)
        state["stem.bias"] = bias - (weight * mean / std).sum((1, 2, 3))
        at = 0
        for times, _, count, _ in PLAN:
            for _ in range(count):
                there, here = f"features.{at + 1}.conv", f"blocks.{at}"
                parts = [("around", "0.0", "0.1"), ("narrow", "1", "2")]
                if times != 1:
                    parts = [("widen", "0.0", "0.1"), ("around", "1.0", "1.1"), ("narrow", "2", "3")]
                for name, filters, norm in parts:
                    weight, bias = _folded(published, f"{there}.{filters}", f"{there}.{norm}")
                    state |= {f"{here}.{name}.weight": weight, f"{here}.{name}.bias": bias}
                at += 1
    except KeyError as error:
        found = f"none called {error.args[0]}"
        raise UnusableWeights(
            "MobileNetV2", expected="the tensors of torchvision's mobilenet_v2", found=found
        ) from error
    return state


def _folded(published: Mapping[str, torch.Tensor], filters: str, norm: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution with the batch norm that follows it worked in."""
    gain = published[f"{norm}.weight"] / torch.sqrt(published[f"{norm}.running_var"] + EPSILON)
    bias = published[f"{norm}.bias"] - published[f"{norm}.running_mean"] * gain
    return published[f"{filters}.weight"] * gain[:, None, None, None], bias
