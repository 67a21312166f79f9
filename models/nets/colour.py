"""A small network that guesses a photograph's colours from its grays, of the whole picture at once; and its critic."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from models.nets.detect import Block, Convolution
from models.nets.mobilenet import PLAN, STEM, GrayTrunk, Plan

SIDE_PX = 256  # the long side at which colours are guessed: things are then as large as they were in training
WIDTHS = (32, 64, 96, 160, 192)  # the decoder's channels at 1/2, 1/4, 1/8, 1/16, 1/32
HINTS = 4
HEADS = 4
MULTIPLE_PX = 32
AB_UNIT = 50.0  # CIELAB a, b of a plainly coloured thing: the network counts in these
WHITE = (0.950456, 1.0, 1.088754)  # D65, as models.chroma
TO_RGB = (
    (3.240479, -1.537150, -0.498535),
    (-0.969256, 1.875991, 0.041556),
    (0.055648, -0.204043, 1.057311),
)  # XYZ to linear sRGB
HALVINGS = 8  # steps of the search for the most chroma that sRGB holds: to 1/256 of it


class Everywhere(nn.Module):
    """Every place looks at every other (A. Vaswani et al., 2017), so that a sky knows of the sea beneath it.

    Beside the identity, and nothing more than that before training.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.asked = nn.Conv2d(width, 3 * width, 1)
        self.told = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.told.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, width, h, w) -> the same shape; memory grows with (h w)²: for the coarsest level only."""
        count, width, height, across = x.shape
        parts = self.asked(x).reshape(count, 3, HEADS, width // HEADS, height * across)
        query, key, value = parts.unbind(1)
        like = torch.softmax(query.transpose(2, 3) @ key * (width // HEADS) ** -0.5, dim=-1)
        seen = (value @ like.transpose(2, 3)).reshape(x.shape)
        out: torch.Tensor = x + self.told(seen)
        return out


class ColourNet(nn.Module):
    """(N, 1, H, W) gray sRGB in [0, 1] -> (N, 2, H, W) CIELAB a, b in units of 50; any size, padded to 32 inside.

    A trunk that has learnt ImageNet (``models.nets.mobilenet``) and a decoder after O. Ronneberger et al., U-Net, 2015,
    with sums instead of concatenations, down to half size; attention over the whole picture at 1/16. 3.2 million
    parameters. Before training it gives no colour at all, exactly.

    Four more planes (N, 5, H, W) are a hint, each even: the mean a, b and the mean chroma of the picture in units of
    50, and 1 where there is a hint. Without them the network answers with what is likeliest.
    """

    def __init__(self, *, widths: tuple[int, ...] = WIDTHS, plan: Plan = PLAN, stem: int = STEM) -> None:
        super().__init__()
        self.widths = widths
        self.trunk = GrayTrunk(plan=plan, stem=stem)
        fine_to_coarse = list(zip(self.trunk.widths, widths, strict=True))
        self.lift = nn.ModuleList(nn.Conv2d(into, out, 1) for into, out in reversed(fine_to_coarse))
        self.narrow = nn.ModuleList(nn.Conv2d(out, into, 1) for into, out in reversed(list(pairwise(widths))))
        self.up = nn.ModuleList(Convolution(width, width) for width in reversed(widths[:-1]))
        far = widths[-2]
        self.far = nn.Sequential(Everywhere(far), Block(far), Block(far))
        self.told = nn.Linear(HINTS, far, bias=False)
        self.near = Block(widths[-3])
        self.head = nn.Conv2d(widths[0], 2, 3, padding=1)
        for parameter in (*self.head.parameters(), *self.told.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """See the class."""
        height, width = given.shape[-2:]
        gray, hint = given[:, :1], given[:, 1:, 0, 0]
        gray = functional.pad(gray, (0, -width % MULTIPLE_PX, 0, -height % MULTIPLE_PX), mode="replicate")
        *finer, coarsest = self.trunk(gray)
        x = self.lift[0](coarsest)
        steps = zip(reversed(finer), self.lift[1:], self.narrow, self.up, strict=True)
        for step, (beside, lift, narrow, up) in enumerate(steps):
            x = up(lift(beside) + functional.interpolate(narrow(x), scale_factor=2, mode="nearest"))
            if step == 0:
                x = self.far(x + self.told(hint)[:, :, None, None]) if hint.shape[1] else self.far(x)
            elif step == 1:
                x = self.near(x)
        ab = functional.interpolate(self.head(x), scale_factor=2, mode="bilinear", align_corners=False)
        return ab[..., :height, :width]


class SrgbColour(ColourNet):
    """The same network with the same weights, as ``models.chroma`` and ``models.network`` call one.

    (N, 3, H, W) sRGB of a gray picture -> (N, 3, H, W) sRGB with its lightness and the colours guessed at a long side
    of 256 px; chroma is reduced where sRGB does not hold it. Colours are float32 whatever the weights are. ``hinted``:
    the four planes of a hint may follow the picture's three.
    """

    hinted = True
    colour_side_px = SIDE_PX // 2  # of its long side: the decoder ends at half size

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """See the class."""
        gray, hint = given[:, :3].float().mean(1, keepdim=True), given[:, 3:].float()
        size = (gray.shape[2], gray.shape[3])
        seen = torch.cat([gray, hint], 1)
        small = functional.interpolate(seen, small_size(*size), mode="area")
        ab = super().forward(small.to(self.head.weight.dtype)).float() * AB_UNIT
        return with_lightness(gray, functional.interpolate(ab, size, mode="bilinear", align_corners=False))


def with_lightness(gray: torch.Tensor, ab: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) sRGB of the lightness of ``gray`` (N, 1, H, W) sRGB and CIELAB ``ab`` (N, 2, H, W), float32.

    Where sRGB does not hold a colour, one of the same hue and less chroma stands for it, so that lightness stays.
    """
    gray = gray.clamp(0, 1)
    y = torch.where(gray <= 0.04045, gray / 12.92, ((gray + 0.055) / 1.055).clamp(min=0) ** 2.4)
    fy = torch.where(y > 0.008856, y.clamp(min=1e-9) ** (1 / 3), y * 7.787 + 16 / 116)
    low, high = torch.zeros_like(gray), torch.ones_like(gray)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        linear = _linear(fy, ab * middle)
        held = ((linear >= 0) & (linear <= 1)).all(1, keepdim=True)
        low, high = torch.where(held, middle, low), torch.where(held, high, middle)
    whole = _linear(fy, ab)
    held = ((whole >= 0) & (whole <= 1)).all(1, keepdim=True)
    linear = torch.where(held, whole, _linear(fy, ab * low)).clamp(0, 1)
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=1e-9) ** (1 / 2.4) - 0.055)


def _linear(fy: torch.Tensor, ab: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) linear sRGB, not clamped, of f(Y) (N, 1, H, W) and a, b (N, 2, H, W)."""
    f = torch.cat([fy + ab[:, :1] / 500, fy, fy - ab[:, 1:] / 200], 1)
    xyz = torch.where(f > 0.206893, f**3, (f - 16 / 116) / 7.787) * f.new_tensor(WHITE)[:, None, None]
    return torch.einsum("rx,nxhw->nrhw", f.new_tensor(TO_RGB), xyz)


def hint_of(ab: NDArray[np.float32]) -> NDArray[np.float32]:
    """(4,) what a ColourNet is told of colours (2, H, W) in units of 50: their means, their mean chroma, and 1."""
    chroma = float(np.hypot(ab[0], ab[1]).mean())
    return np.array([float(ab[0].mean()), float(ab[1].mean()), chroma, 1.0], np.float32)


def small_size(height: int, width: int, side_px: int = SIDE_PX) -> tuple[int, int]:
    """Height and width with a long side of at most ``side_px``."""
    ratio = min(1.0, side_px / max(height, width))
    return max(1, round(height * ratio)), max(1, round(width * ratio))


class PatchCritic(nn.Sequential):
    """(N, 3, H, W) lightness and a, b (``in_lab``) -> (N, 1, H / 8, W / 8) scores, higher is more like a photograph.

    Each score is of a patch of 38 px (P. Isola et al., Image-to-Image Translation, 2017), each filter held by its
    spectral norm (T. Miyato et al., 2018). 0.7 million parameters; used in training alone.
    """

    def __init__(self, *, widths: tuple[int, int, int] = (48, 96, 192)) -> None:
        first, second, third = widths
        super().__init__(
            spectral_norm(nn.Conv2d(3, first, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(first, second, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(second, third, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(third, third, 3, 1, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(third, 1, 1)),
        )
