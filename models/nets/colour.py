"""A small U-Net that guesses a photograph's colours from its grays, of the whole picture at once; and its critic."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from models.nets.detect import Block, Convolution
from models.weights import load_strictly, read_state

SIDE_PX = 256  # the long side at which colours are guessed: things are then as large as they were in training
WIDTHS = (48, 96, 160, 256)  # channels at 1/2, 1/4, 1/8, 1/16
FINE = 8  # channels that come back to the small side
HEADS = 4
MULTIPLE_PX = 16
AB_UNIT = 50.0  # CIELAB a, b of a plainly coloured thing: the network counts in these
AB_LIMIT = 110.0  # sRGB holds nothing beyond
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
    """(N, 1, H, W) gray sRGB in [0, 1] -> (N, 2, H, W) CIELAB a, b in units of 50; any size, padded to 16 inside.

    A U-Net after O. Ronneberger et al., 2015, with sums instead of concatenations, begun at half size with the four
    pixels of each square side by side; attention over the whole picture at 1/16. 3.0 million parameters. Before
    training it gives no colour at all, exactly.
    """

    def __init__(self, *, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.widths = widths
        pairs = list(pairwise(widths))
        self.stem = nn.Sequential(Convolution(4, widths[0]), Convolution(widths[0], widths[0]))
        self.down = nn.ModuleList(
            nn.Sequential(Convolution(into, out, stride=2), Block(out) if out != widths[-1] else nn.Identity())
            for into, out in pairs
        )
        self.far = nn.Sequential(Everywhere(widths[-1]), Block(widths[-1], dilation=2))
        self.lift = nn.ModuleList(nn.Conv2d(out, into, 1) for into, out in pairs)
        self.up = nn.ModuleList(Convolution(width, width) for width in widths[:-1])
        self.fine = nn.Conv2d(widths[0], 4 * FINE, 1)
        self.head = nn.Conv2d(FINE + 1, 2, 3, padding=1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """See the class."""
        height, width = given.shape[-2:]
        given = functional.pad(given - 0.5, (0, -width % MULTIPLE_PX, 0, -height % MULTIPLE_PX), mode="replicate")
        x = self.stem(functional.pixel_unshuffle(given, 2))
        kept = []
        for down in self.down:
            kept.append(x)
            x = down(x)
        x = self.far(x)
        for beside, lift, up in zip(reversed(kept), reversed(self.lift), reversed(self.up), strict=True):
            x = up(beside + functional.interpolate(lift(x), scale_factor=2, mode="nearest"))
        full = functional.pixel_shuffle(self.fine(x), 2)
        out: torch.Tensor = self.head(torch.cat([full, given], 1))
        return out[..., :height, :width]


class SrgbColour(ColourNet):
    """The same network with the same weights, as ``models.chroma`` and ``models.network`` call one.

    (N, 3, H, W) sRGB of a gray picture -> (N, 3, H, W) sRGB with its lightness and the colours guessed at a long side
    of 256 px; chroma is reduced where sRGB does not hold it. Colours are float32 whatever the weights are.
    """

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """See the class."""
        gray = given.float().mean(1, keepdim=True)
        size = (gray.shape[2], gray.shape[3])
        small = functional.interpolate(gray, small_size(*size), mode="area")
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


def small_size(height: int, width: int, side_px: int = SIDE_PX) -> tuple[int, int]:
    """Height and width with a long side of at most ``side_px``."""
    ratio = min(1.0, side_px / max(height, width))
    return max(1, round(height * ratio)), max(1, round(width * ratio))


class LearntColour:
    """A ColourNet ready for use on one device: luminance in, colours at the small side out.

    ``network`` is left as it is. ``dtype``: float32 unless said otherwise; bfloat16 where the processor has it.
    """

    def __init__(self, network: ColourNet, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.device, self.dtype = torch.device(device), dtype
        kept = copy.deepcopy(network).eval().requires_grad_(False)
        self.module = kept.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def load(cls, path: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> LearntColour:
        """From a file of weights; raises UnusableWeights."""
        network = ColourNet()
        load_strictly(network, read_state(path), str(path))
        return cls(network, device, dtype)

    def __call__(self, luminance: NDArray[np.float32]) -> NDArray[np.float32]:
        """(H, W) gray sRGB in [0, 1] of any size -> (h, w, 2) float32 CIELAB a, b, the long side at most 256 px.

        What ``models.chroma.lay`` takes. Raises ValueError for another shape.
        """
        if luminance.ndim != 2 or not luminance.size:
            raise ValueError(f"luminance: expected (H, W), found {luminance.shape}")
        height, width = small_size(*luminance.shape)
        small = np.asarray(luminance, np.float32)
        if small.shape != (height, width):
            small = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA), np.float32)
        cast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)
        with torch.inference_mode(), cast:
            given = torch.from_numpy(np.ascontiguousarray(small))[None, None].to(self.device)
            ab = (self.module(given)[0].float() * AB_UNIT).clamp(-AB_LIMIT, AB_LIMIT)
            out: NDArray[np.float32] = ab.permute(1, 2, 0).contiguous().cpu().numpy()
        return out


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
