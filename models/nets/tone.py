"""A tiny network that sees a whole picture small and says how its tone is to be set right: matrix, curves, two fields.

What years do to tone is a law of few numbers, and it is undone in the reverse order: a 3 x 3 matrix (the dye that is
gone), a rising curve for each channel (fading), a coarse field of gain and offset (haze, which lies thicker in some
places). After M. Gharbi et al., Deep Bilateral Learning for Real-Time Image Enhancement, 2017: predicted small, applied
at full size; curves instead of a bilateral grid, so that nothing can turn light into dark.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from models.nets.detect import Block, Convolution

SIDE_PX = 128  # what the network looks at, whatever the picture's shape
KNOTS = 16
FIELD = 8
SMOOTH_FIELD = 64  # cells after cubic enlargement: linear between them is smooth enough for any scan
QUANTILES = 21
GLOBAL = 9 + 3 * (1 + KNOTS) + 1
PARAMETERS = GLOBAL + 6 * FIELD * FIELD
RISING = 0.5413  # softplus of this is 1: the curve's step before training
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, eq=False, slots=True)
class Tones:
    """What is done to a batch's tone, in this order; all tensors begin with the batch.

    ``matrix`` (N, 3, 3); ``curves`` (N, 3, 17): values at 0, 1/16, … 1, rising; ``gain`` and ``offset``
    (N, 3, 64, 64), over the whole picture; ``worn`` (N,): logit of the tone having suffered at all.
    """

    matrix: torch.Tensor
    curves: torch.Tensor
    gain: torch.Tensor
    offset: torch.Tensor
    worn: torch.Tensor


class ToneNet(nn.Module):
    """(N, 3, H, W) sRGB in [0, 1], whole pictures of any size -> (N, 445) numbers for ``tones``.

    0.4 million parameters. Sees 128 x 128 px, and the quantiles of channels, luma and chroma at 64 x 64. Before
    training every number but the first (how sure it is) is 0, which changes nothing, exactly.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.Sequential(
            Convolution(3, 24, stride=2),
            Convolution(24, 32, stride=2),
            Convolution(32, 64, stride=2),
            Convolution(64, 96, stride=2),
            Block(96),
        )
        self.mixed = nn.Sequential(nn.Linear(96 + 5 * QUANTILES, 192), nn.ReLU(), nn.Linear(192, 128), nn.ReLU())
        self.whole = nn.Linear(128, GLOBAL - 1)
        self.sure = nn.Sequential(nn.Linear(96 + 5 * QUANTILES, 64), nn.LeakyReLU(0.1), nn.Linear(64, 1))
        self.near = nn.Conv2d(96, 64, 1)
        self.told = nn.Linear(128, 64)
        self.field = nn.Sequential(nn.ReLU(), nn.Conv2d(64, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 6, 1))
        for last in (self.whole, self.field[-1]):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """See the class."""
        small = picture
        if picture.shape[-2:] != (SIDE_PX, SIDE_PX):
            small = functional.interpolate(picture, (SIDE_PX, SIDE_PX), mode="area")
        near = self.seen(small - 0.5)
        facts = torch.cat([near.mean((2, 3)), quantiles(small) - 0.5], 1)
        mixed = self.mixed(facts)
        field = self.field(self.near(near) + self.told(mixed)[:, :, None, None])
        return torch.cat([self.sure(facts), self.whole(mixed), field.flatten(1)], 1)


def quantiles(picture: torch.Tensor) -> torch.Tensor:
    """(N, 105) of (N, 3, H, W): 21 quantiles each of red, green, blue, luma and chroma, from least to most."""
    small = functional.avg_pool2d(picture, 2)
    luma = (small * small.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    chroma = small.amax(1, keepdim=True) - small.amin(1, keepdim=True)
    ordered = torch.cat([small, luma, chroma], 1).flatten(2).sort(-1).values
    at = torch.linspace(0, 1, QUANTILES, device=picture.device)
    at = at * at * (3 - 2 * at)  # closer together at both ends: black and white points say most
    picked = ordered[:, :, (at * (ordered.shape[2] - 1)).round().long()]
    return picked.flatten(1)


def tones(numbers: torch.Tensor, *, share: torch.Tensor | float = 1.0) -> Tones:
    """What (N, 445) numbers of a ToneNet say. ``share`` (N,) or one in [0, 1]: 0 leaves pictures as they are."""
    worn = numbers[:, 0]
    part = torch.as_tensor(share, dtype=numbers.dtype, device=numbers.device).reshape(-1, 1)
    numbers = numbers * part
    matrix = torch.eye(3, device=numbers.device) + 0.3 * numbers[:, 1:10].reshape(-1, 3, 3)
    curve = numbers[:, 10:GLOBAL].reshape(-1, 3, 1 + KNOTS)
    steps = functional.softplus(curve[:, :, 1:] + RISING) / KNOTS
    base = 0.25 * curve[:, :, :1]
    curves = torch.cat([base, base + steps.cumsum(2)], 2)
    coarse = numbers[:, GLOBAL:].reshape(-1, 6, FIELD, FIELD)
    field = functional.interpolate(coarse, (SMOOTH_FIELD, SMOOTH_FIELD), mode="bicubic", align_corners=False)
    return Tones(matrix, curves, torch.exp(0.5 * field[:, :3]), 0.25 * field[:, 3:], worn)


def applied(done: Tones, picture: torch.Tensor) -> torch.Tensor:
    """(N, 3, h, w) sRGB, whole pictures after ``done``; not clamped. For training; ``models.tone`` does it in bands."""
    mixed = torch.einsum("nij,njhw->nihw", done.matrix, picture)
    at = mixed.clamp(0, 1) * KNOTS
    below = at.detach().floor().clamp(max=KNOTS - 1)
    index = below.long().flatten(2)
    lower = done.curves.gather(2, index).reshape(at.shape)
    upper = done.curves.gather(2, index + 1).reshape(at.shape)
    curved = lower + (at - below) * (upper - lower)
    size = (picture.shape[2], picture.shape[3])
    gain, offset = (functional.interpolate(f, size, mode="bilinear") for f in (done.gain, done.offset))
    return curved * gain + offset
