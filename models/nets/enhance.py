"""GAN 1: a small U-Net that takes blur, grain, noise and JPEG away tile by tile; its critic; both parts together.

No norm and no pooling over the picture: a pixel depends on its neighbourhood alone, so that tiles cannot show.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from models.nets.tone import ToneNet

WIDTHS = (32, 64, 128)  # channels at 1/2, 1/4, 1/8
ENCODING, DECODING = (1, 1, 2), (2, 2)  # residual blocks at each size, going down and coming up
MULTIPLE_PX = 8


class Residual(nn.Module):
    """Two convolutions beside the identity, and nothing more than that before training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, width, h, w) -> the same shape."""
        out: torch.Tensor = x + self.second(functional.relu(self.first(x)))
        return out


class DetailNet(nn.Module):
    """(N, 4, H, W), sRGB in [0, 1] and damage mask -> (N, 3, H, W) sRGB; any size, padded to 8 inside.

    A U-Net after O. Ronneberger et al., 2015, with sums instead of concatenations, begun at half size with the four
    pixels of each square side by side; residual blocks without norms (B. Lim et al., Enhanced Deep Residual Networks,
    2017). 0.97 million parameters, about 41,000 multiplications a pixel. Before training it gives back the picture,
    exactly.
    """

    def __init__(self, *, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.stem = nn.Conv2d(16, widths[0], 3, padding=1)
        self.encode = nn.ModuleList(_blocks(w, n) for w, n in zip(widths, ENCODING, strict=True))
        self.down = nn.ModuleList(nn.Conv2d(into, out, 3, stride=2, padding=1) for into, out in pairs)
        self.lift = nn.ModuleList(nn.Conv2d(out, into, 1) for into, out in pairs)
        self.decode = nn.ModuleList(_blocks(w, n) for w, n in zip(widths[:-1], DECODING, strict=True))
        self.head = nn.Conv2d(widths[0], 12, 3, padding=1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """See the class."""
        height, width = given.shape[-2:]
        padded = functional.pad(given, (0, -width % MULTIPLE_PX, 0, -height % MULTIPLE_PX), mode="replicate")
        x = self.encode[0](functional.relu(self.stem(functional.pixel_unshuffle(padded - 0.5, 2))))
        kept = []
        for down, encode in zip(self.down, list(self.encode)[1:], strict=True):
            kept.append(x)
            x = encode(functional.relu(down(x)))
        for beside, lift, decode in zip(reversed(kept), reversed(self.lift), reversed(self.decode), strict=True):
            x = decode(beside + functional.interpolate(lift(x), scale_factor=2, mode="nearest"))
        residual = functional.pixel_shuffle(self.head(x), 2)
        out: torch.Tensor = given[:, :3] + residual[..., :height, :width]
        return out


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Residual(width) for _ in range(count)))


class EnhanceNet(nn.Module):
    """Everything in one file of weights: tone, detail for fidelity, detail by the critic. 2.3 million parameters.

    As a network it is its fidelity part; ``between`` gives the others. It takes the damage mask beside the picture, and
    works without.
    """

    scale = 1
    discard_px = 48
    precise = ("tone",)

    def __init__(self) -> None:
        super().__init__()
        self.tone = ToneNet()
        self.fidelity = DetailNet()
        self.gan = DetailNet()

    def forward(self, picture: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(N, 3, H, W) sRGB and (N, 1, H, W) mask -> (N, 3, H, W) sRGB of the fidelity part."""
        out: torch.Tensor = self.fidelity(with_mask(picture, mask))
        return out

    def between(self, strength: float) -> Between:
        """The detail part ``strength`` of the way from fidelity (0) to the critic's (1): a network of its own."""
        return Between(self.fidelity, self.gan, strength)


class Between(nn.Module):
    """A DetailNet whose weights lie between two others' (X. Wang et al., ESRGAN, 2018: network interpolation)."""

    scale = 1
    discard_px = EnhanceNet.discard_px

    def __init__(self, fidelity: DetailNet, gan: DetailNet, strength: float) -> None:
        super().__init__()
        self.detail = DetailNet().requires_grad_(False)
        first, last = fidelity.state_dict(), gan.state_dict()
        self.detail.load_state_dict({name: torch.lerp(first[name], last[name], strength) for name in first})

    def forward(self, picture: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(N, 3, H, W) sRGB and (N, 1, H, W) mask -> (N, 3, H, W) sRGB."""
        out: torch.Tensor = self.detail(with_mask(picture, mask))
        return out


def with_mask(picture: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """(N, 4, H, W): the picture over its mask, over nothing damaged where there is none."""
    return torch.cat([picture, torch.zeros_like(picture[:, :1]) if mask is None else mask], 1)


class UNetCritic(nn.Module):
    """(N, 3, H, W) sRGB -> (N, 1, H / 2, W / 2) scores, higher is more like a photograph; sides a multiple of 8.

    A U-Net says for each place what it thinks of it, with all of its surroundings in view (E. Schoenfeld et al., A
    U-Net Based Discriminator, 2020; X. Wang et al., Real-ESRGAN, 2021), each filter held by its spectral norm
    (T. Miyato et al., 2018). 0.4 million parameters; used in training alone.
    """

    def __init__(self, *, widths: tuple[int, int, int] = (32, 64, 96)) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = spectral_norm(nn.Conv2d(12, first, 3, padding=1))
        self.down = spectral_norm(nn.Conv2d(first, second, 4, 2, 1))
        self.deep = spectral_norm(nn.Conv2d(second, third, 4, 2, 1))
        self.lift = spectral_norm(nn.Conv2d(third, second, 3, padding=1))
        self.rise = spectral_norm(nn.Conv2d(second, first, 3, padding=1))
        self.last = nn.Conv2d(first, 1, 1)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """See the class."""
        half = _leaky(self.stem(functional.pixel_unshuffle(picture - 0.5, 2)))
        quarter = _leaky(self.down(half))
        eighth = _leaky(self.deep(quarter))
        quarter = quarter + _leaky(self.lift(functional.interpolate(eighth, scale_factor=2, mode="nearest")))
        half = half + _leaky(self.rise(functional.interpolate(quarter, scale_factor=2, mode="nearest")))
        out: torch.Tensor = self.last(half)
        return out


def _leaky(x: torch.Tensor) -> torch.Tensor:
    return functional.leaky_relu(x, 0.2)
