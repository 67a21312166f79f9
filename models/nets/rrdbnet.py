"""RRDBNet: the generator of ESRGAN and Real-ESRGAN."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from models.weights import NcnnFile, State

WIDTH, GROWTH, BLOCKS = 64, 32, 23
STRIP_PX = 64  # rows of input that are enlarged at a time; 1024 x 64 x 1024 floats are 268 MB, several times over
STRIP_MARGIN_PX = 2  # what an output row can see: three 3x3 kernels at 4x and one at 2x reach under 2 rows of input


class DenseBlock(nn.Module):
    """Five convolutions, each seeing all before it; a fifth of their sum is added to the input."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(width + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(width + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(width + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(width + 4 * growth, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, width, h, w) -> the same shape."""
        seen = [x]
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen.append(functional.leaky_relu_(conv(torch.cat(seen, 1)), 0.2))
        last: torch.Tensor = self.conv5(torch.cat(seen, 1))
        return last.mul_(0.2).add_(x) if not last.requires_grad else last * 0.2 + x


class ResidualBlock(nn.Module):
    """Residual in residual: three dense blocks and a fifth of them added to the input."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(width, growth)
        self.rdb2 = DenseBlock(width, growth)
        self.rdb3 = DenseBlock(width, growth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, width, h, w) -> the same shape."""
        out: torch.Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return out * 0.2 + x


class RRDBNet(nn.Module):
    """RGB in [0, 1] -> four times as high and wide, about [0, 1], not clamped.

    X. Wang et al., ESRGAN, 2018; weights of Real-ESRGAN, 2021. Any height and width. The names of the layers are
    those of the public ``.pth`` files. Without gradients the enlarging half runs in strips of rows, to the same
    result, so that memory stays that of the half before it.
    """

    scale = 4
    discard_px = 40  # a cut is felt by up to 19 levels beside it, 4 at 40 px, 1 at 60 px, 0 at 100 px (measured)
    precise = ("conv_last",)  # stays float32: its sums carry the shades between two steps of bfloat16

    def __init__(self, *, width: int = WIDTH, growth: int = GROWTH, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(width, growth) for _ in range(blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, h, w) -> (N, 3, 4h, 4w) in the dtype of ``conv_last``."""
        first = self.conv_first(x)
        features: torch.Tensor = first + self.conv_body(self.body(first))
        height = features.shape[2]
        if features.requires_grad or height <= STRIP_PX:
            return self._enlarge(features)
        strips = []
        for top in range(0, height, STRIP_PX):
            bottom = min(top + STRIP_PX, height)
            above, below = min(top, STRIP_MARGIN_PX), min(height - bottom, STRIP_MARGIN_PX)
            strip = self._enlarge(features[:, :, top - above : bottom + below])
            strips.append(strip[:, :, 4 * above : strip.shape[2] - 4 * below])
        return torch.cat(strips, 2)

    def _enlarge(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.leaky_relu_(self.conv_up1(functional.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
        x = functional.leaky_relu_(self.conv_up2(functional.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
        x = functional.leaky_relu_(self.conv_hr(x), 0.2)
        out: torch.Tensor = self.conv_last(x.to(self.conv_last.weight.dtype))
        return out


def from_ncnn(data: bytes) -> State:
    """The tensors of an RRDBNet from the bytes of its ncnn ``.bin``; raises UnusableWeights when they do not fit."""
    file = NcnnFile(data, "RRDBNet")
    state: State = {}
    dense = [(f"conv{k + 1}", WIDTH if k == 4 else GROWTH, WIDTH + k * GROWTH) for k in range(5)]
    layers = [("conv_first", WIDTH, 3)]
    for block in range(BLOCKS):
        layers += [(f"body.{block}.rdb{r}.{name}", out, into) for r in (1, 2, 3) for name, out, into in dense]
    layers += [(name, WIDTH, WIDTH) for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr")]
    layers.append(("conv_last", 3, WIDTH))
    for name, out, into in layers:
        state[f"{name}.weight"], state[f"{name}.bias"] = file.convolution(out, into, 3)
    file.close()
    return state
