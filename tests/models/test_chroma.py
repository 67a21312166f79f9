"""Colour laid over a photograph: its own lightness stays, in every depth, orientation and profile."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import ImageCms
from skimage import data
from skimage.color import rgb2lab
from torch import nn

from models import chroma
from models.imaging import Raster, luminance, turn_upright
from models.network import Network, NonFiniteOutput, WrongSize
from models.registry import ModelCard

CARD = ModelCard("reddish", "colorize", "none", licence="MIT", data_terms="free")


class Halves(nn.Module):
    """Reddens the left half of what it is given, and turns the right half blue."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x.clone() * 0.8
        half = x.shape[3] // 2
        out[:, 0, :, :half] += 0.15
        out[:, 2, :, half:] += 0.15
        return out


def coloured(raster: Raster, module: nn.Module | None = None) -> Raster:
    net = Network(CARD, module or Halves(), "cpu", torch.float32)
    return chroma.lay(raster, chroma.predict(raster, net, "a.tif"))


@pytest.mark.parametrize("bits", [8, 16])
def test_gray_becomes_rgb_and_its_lightness_stays(bits: int) -> None:
    camera = data.camera()[:300, :402, None]
    pixels = np.ascontiguousarray(camera // 2 + 60)
    raster = Raster(pixels if bits == 8 else pixels.astype(np.uint16) * 257 + 100, icc=b"a gray profile")
    out = coloured(raster)
    assert (out.bits, out.pixels.shape, out.icc) == (bits, (300, 402, 3), None)
    rgb = out.pixels.astype(np.float32) / np.iinfo(out.pixels.dtype).max
    own = np.repeat(raster.pixels, 3, axis=2).astype(np.float32) / np.iinfo(out.pixels.dtype).max
    apart = rgb2lab(rgb)[:, :, 0] - rgb2lab(own)[:, :, 0]
    assert np.abs(apart).max() < (0.5 if bits == 8 else 0.03)
    assert rgb[:, :180, 0].mean() > rgb[:, :180, 2].mean() + 0.05
    assert rgb[:, 220:, 2].mean() > rgb[:, 220:, 0].mean() + 0.05


def test_the_network_sees_the_upright_picture_and_its_colours_land_where_they_belong() -> None:
    pixels = np.full((64, 96, 1), 120, np.uint8)
    for orientation in range(1, 9):
        out = coloured(Raster(pixels, orientation=orientation))
        assert out.pixels.shape == (64, 96, 3)
        seen = turn_upright(out.pixels, orientation).astype(int)
        redder, middle = seen[:, :, 0] > seen[:, :, 2], seen.shape[1] // 2
        assert redder[:, : middle - 4].all(), orientation
        assert not redder[:, middle + 4 :].any(), orientation


def test_a_toned_rgb_scan_keeps_its_profile() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    toned = np.ascontiguousarray(np.repeat(data.camera()[:100, :120, None] // 2 + 50, 3, axis=2))
    toned[:, :, 2] -= 30
    raster = Raster(toned, icc=profile)
    out = coloured(raster)
    assert out.icc == profile
    assert np.abs(luminance(out).mean() - luminance(raster).mean()) < 0.03


def test_what_is_no_picture_is_an_error_with_evidence() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * float("nan")

    raster = Raster(np.full((40, 50, 1), 90, np.uint8))
    with pytest.raises(NonFiniteOutput) as error:
        coloured(raster, Broken())
    assert error.value.evidence.shape == (64, 64, 3)
    with pytest.raises(WrongSize, match=r"a\.tif"):
        coloured(raster, nn.AvgPool2d(2))


def test_a_16_bit_ramp_keeps_its_levels() -> None:
    ramp = np.tile(np.linspace(20000, 44000, 1200).astype(np.uint16), (40, 1))[:, :, None]
    green = coloured(Raster(np.ascontiguousarray(ramp))).pixels[20, :560, 1].astype(int)
    assert len(np.unique(green)) > 500


@pytest.mark.parametrize("bits", [8, 16])
def test_colours_that_srgb_does_not_hold_lose_chroma_and_not_lightness(bits: int) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint16)[None, :, None], (120, 1, 1)) * (1 if bits == 8 else 257)
    raster = Raster(np.ascontiguousarray(ramp.astype(np.uint8 if bits == 8 else np.uint16)))
    turn = np.linspace(0, 2 * np.pi, 120, dtype=np.float32)[:, None]
    colours = np.stack([np.cos(turn), np.sin(turn)], axis=2) * np.ones((1, 256, 1), np.float32) * 90
    out = chroma.lay(raster, np.ascontiguousarray(colours)).pixels
    rgb, own = (x.astype(np.float32) / np.iinfo(out.dtype).max for x in (out, np.repeat(raster.pixels, 3, axis=2)))
    made = rgb2lab(rgb)
    assert np.abs(made[:, :, 0] - rgb2lab(own)[:, :, 0]).max() < (0.6 if bits == 8 else 0.03)
    told = np.hypot(made[:, 60:200, 1], made[:, 60:200, 2])
    assert told.min() > 10, "chroma is reduced to what fits, not given up"
    hue = np.arctan2(made[:, 60:200, 2], made[:, 60:200, 1]) - turn
    assert np.abs(np.angle(np.exp(1j * hue))).max() < 0.1
