"""Faces: an encoder that says what it sees, a style-modulated decoder that draws it; and the critic that trains it."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

WIDTHS = (32, 64, 128, 192)  # channels at 1/2, 1/4, 1/8, 1/16
STYLE = 192
MULTIPLE_PX = 16
SLOPE = 0.2
GAIN = 1.4  # what a leaky ReLU takes of the spread
HALF = 0.7  # of two things added, so that the sum spreads no wider than each
CONTRAST = 3.0  # pictures have a spread of about a third of their range: brought to one


class Modulated(nn.Module):
    """3x3 convolution whose filters are scaled by a style, then brought back to their size; leaky ReLU.

    Modulation and demodulation of T. Karras et al., StyleGAN2, 2020, done on what goes in and what comes out instead
    of on one set of filters a picture: the same numbers, and several times quicker on a CPU.
    """

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.filters = filters(into, out)
        self.scales = nn.Linear(STYLE, into)
        nn.init.zeros_(self.scales.bias)
        nn.init.normal_(self.scales.weight, std=0.02)

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """(N, into, h, w) and (N, STYLE) -> (N, out, h, w)."""
        scale = 1 + self.scales(style)
        power = self.filters.weight.float().square().sum((2, 3))  # (out, into)
        size = (scale.float().square() @ power.T + 1e-6).rsqrt()
        y = functional.conv2d(x * scale[:, :, None, None], self.filters.weight, None, padding=1)
        y = y * size[:, :, None, None].to(y.dtype) * GAIN
        bias = self.filters.bias
        return functional.leaky_relu(y if bias is None else y + bias[:, None, None], SLOPE)


class Residual(nn.Module):
    """Two convolutions beside the identity, no norm: a face is seen whole, and its contrast is part of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = filters(width, width)
        self.second = filters(width, width)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, width, h, w) -> the same shape."""
        out: torch.Tensor = x + self.second(functional.leaky_relu(self.first(x), SLOPE))
        return out


class Drawn(nn.Module):
    """One level of a decoder: what comes from below and what the encoder saw here, through two modulated filters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = Modulated(width, width)
        self.second = Modulated(width, width)

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """(N, width, h, w) and (N, STYLE) -> (N, width, h, w)."""
        out: torch.Tensor = HALF * (x + self.second(self.first(x, style), style))
        return out


class FaceNet(nn.Module):
    """(N, 3, S, S) aligned faces, sRGB in [0, 1] -> (N, 6, S, S): the faithful face, then the face with drawn detail.

    The form of GPEN (T. Yang et al., 2021) and GFPGAN (X. Wang et al., 2021), small: a U-Net encoder begun at half
    size; from its bottleneck a style, which modulates every layer of the decoder; the encoder's own features join at
    each level. ``faithful`` learns distance alone. Beside it a second, short decoder draws what was lost, taught by a
    critic; with ``fidelity`` f the face is f times the first and 1 - f times the second. Any side that is a multiple
    of 16; made for 128 and 256. 2.9 million parameters. Before training both are the input, exactly.
    """

    sides_px = (128, 256)  # of the aligned face: the smaller one for faces that have no more pixels
    zoom = 1.15  # the aligned face fills more of the square than in FFHQ's template
    faithful = True  # gives six channels

    def __init__(self, *, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.stem = nn.Sequential(filters(12, widths[0]), Residual(widths[0]))
        self.down = nn.ModuleList(nn.Sequential(filters(into, out, stride=2), Residual(out)) for into, out in pairs)
        self.style = nn.Sequential(
            nn.Linear(2 * widths[-1], STYLE), nn.LeakyReLU(SLOPE), nn.Linear(STYLE, STYLE), nn.LeakyReLU(SLOPE)
        )
        self.lift = nn.ModuleList(filters(out, into, 1) for into, out in pairs)
        self.draw = nn.ModuleList(Drawn(width) for width in widths)
        self.head = nn.Conv2d(widths[0], 12, 3, padding=1)
        self.detail_lift = filters(widths[1], widths[0], 1)
        self.detail_coarse = Drawn(widths[1])
        self.detail_fine = Drawn(widths[0])
        self.detail_head = nn.Conv2d(widths[0], 12, 3, padding=1)
        for head in (self.head, self.detail_head):
            for parameter in head.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        picture, coarse, fine, style = self.trunk(x)
        return torch.cat([picture, picture + self.detail(coarse, fine, style)], 1)

    def trunk(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The faithful face, the decoder's features at 1/4 and 1/2, and the style."""
        seen = self.stem(functional.pixel_unshuffle((x - 0.5) * CONTRAST, 2))
        kept = [seen]
        for down in self.down:
            kept.append(down(functional.leaky_relu(kept[-1], SLOPE)))
        mean, spread = kept[-1].mean((2, 3)), kept[-1].float().var((2, 3)).add(1e-6).sqrt().to(x.dtype)
        style = self.style(torch.cat([mean, spread], 1))
        drawn = self.draw[-1](kept[-1], style)
        levels = [drawn]
        for beside, lift, draw in zip(kept[-2::-1], reversed(self.lift), list(self.draw)[-2::-1], strict=True):
            drawn = draw(HALF * (beside + larger(lift(drawn))), style)
            levels.append(drawn)
        return x + functional.pixel_shuffle(self.head(levels[-1]), 2), levels[-2], levels[-1], style

    def detail(self, coarse: torch.Tensor, fine: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S): what is drawn over the faithful face."""
        y = self.detail_coarse(coarse, style)
        y = self.detail_fine(HALF * (fine + larger(self.detail_lift(y))), style)
        return functional.pixel_shuffle(self.detail_head(y), 2)


def filters(into: int, out: int, size: int = 3, *, stride: int = 1) -> nn.Conv2d:
    """A convolution that gives about the spread it was given (K. He et al., 2015): no norm brings it back."""
    made = nn.Conv2d(into, out, size, stride=stride, padding=size // 2)
    nn.init.kaiming_normal_(made.weight, a=SLOPE, nonlinearity="leaky_relu")
    nn.init.zeros_(made.bias)  # type: ignore[arg-type]
    return made


def larger(x: torch.Tensor) -> torch.Tensor:
    """(N, C, h, w) -> (N, C, 2h, 2w), bilinear."""
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class Faithful(FaceNet):
    """The same tensors while the faithful face is learnt: gives that alone, (N, 3, S, S)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.trunk(x)[0]


class Detailed(FaceNet):
    """The same tensors while detail is learnt: gives the face with it, (N, 3, S, S); all else stays as it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        with torch.no_grad():
            picture, coarse, fine, style = self.trunk(x)
        return picture + self.detail(coarse, fine, style)


class FaceCritic(nn.Sequential):
    """(N, 6, h, w) windows of faces and their detail -> (N, 1, h / 8, w / 8) scores, higher: more like a photograph.

    Each score is of a patch of 38 px (P. Isola et al., 2017). Nothing holds its filters but the penalty on its slope
    (R1): held by spectral norms as well it learnt nothing. 0.3 million parameters; used in training alone.
    """

    def __init__(self, *, widths: tuple[int, int, int] = (32, 64, 128)) -> None:
        first, second, third = widths
        super().__init__(
            _halving(6, first),
            nn.LeakyReLU(SLOPE),
            _halving(first, second),
            nn.LeakyReLU(SLOPE),
            _halving(second, third),
            nn.LeakyReLU(SLOPE),
            filters(third, third),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(third, 1, 1),
        )


def _halving(into: int, out: int) -> nn.Conv2d:
    made = nn.Conv2d(into, out, 4, 2, 1)
    nn.init.kaiming_normal_(made.weight, a=SLOPE, nonlinearity="leaky_relu")
    return made
