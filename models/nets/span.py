"""SPAN: a small, fast network that enlarges four times."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from models.weights import NcnnFile, State, UnusableWeights

WIDTH = 48
RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K
INPUT_RANGE = 255.0


class AttentionBlock(nn.Module):
    """Three convolutions whose output is also its own attention: no parameters for it (equations 2 and 3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c1_r = nn.Conv2d(width, width, 3, padding=1)
        self.c2_r = nn.Conv2d(width, width, 3, padding=1)
        self.c3_r = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, width, h, w) -> the block's output and its first activation, both of that shape."""
        first = functional.silu(self.c1_r(x))
        last = self.c3_r(functional.silu(self.c2_r(first)))
        return (last + x) * (torch.sigmoid(last) - 0.5), first


class SPAN(nn.Module):
    """RGB in [0, 1] -> four times as high and wide, about [0, 1], not clamped.

    C. Wan et al., Swift Parameter-free Attention Network for Efficient Super-Resolution, 2024, in the form for use:
    the re-parameterised branches are one convolution each. Any height and width; an output pixel sees 21 pixels of
    input to each side.
    """

    scale = 4
    discard_px = 16
    precise = ("upsampler",)  # stays float32: its sums carry the shades between two steps of bfloat16

    mean: torch.Tensor

    def __init__(self, *, width: int = WIDTH) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(RGB_MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.conv_1 = nn.Conv2d(3, width, 3, padding=1)
        self.block_1 = AttentionBlock(width)
        self.block_2 = AttentionBlock(width)
        self.block_3 = AttentionBlock(width)
        self.block_4 = AttentionBlock(width)
        self.block_5 = AttentionBlock(width)
        self.block_6 = AttentionBlock(width)
        self.conv_2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_cat = nn.Conv2d(4 * width, width, 1)
        self.upsampler = nn.Conv2d(width, 3 * self.scale**2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, h, w) -> (N, 3, 4h, 4w) in the dtype of ``upsampler``."""
        first = self.conv_1((x - self.mean) * INPUT_RANGE)
        after_1, _ = self.block_1(first)
        out = after_1
        for block in (self.block_2, self.block_3, self.block_4, self.block_5):
            out, _ = block(out)
        out, inner = self.block_6(out)
        joined = self.conv_cat(torch.cat([first, self.conv_2(out), after_1, inner], 1))
        return functional.pixel_shuffle(self.upsampler(joined.to(self.upsampler.weight.dtype)), self.scale)


def from_ncnn(data: bytes) -> State:
    """The tensors of a SPAN x4 from the bytes of its ncnn ``.bin``; raises UnusableWeights when they do not fit."""
    file = NcnnFile(data, "SPAN")
    mean = file.constant(3)
    if not torch.allclose(mean, torch.tensor(RGB_MEAN), atol=1e-6):
        raise UnusableWeights("SPAN", expected=f"the mean {RGB_MEAN}", found=str(mean.tolist()))
    state: State = {}
    layers = [("conv_1", WIDTH, 3, 3)]
    layers += [(f"block_{b}.c{c}_r", WIDTH, WIDTH, 3) for b in range(1, 7) for c in (1, 2, 3)]
    layers += [("conv_2", WIDTH, WIDTH, 3), ("conv_cat", WIDTH, 4 * WIDTH, 1), ("upsampler", 48, WIDTH, 3)]
    for name, out, into, kernel_px in layers:
        state[f"{name}.weight"], state[f"{name}.bias"] = file.convolution(out, into, kernel_px)
    file.close()
    return state
