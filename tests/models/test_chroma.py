"""Colour laid over a photograph: its own lightness stays, in every depth, orientation and profile."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
import torch
from PIL import ImageCms
from skimage import data
from skimage.color import rgb2lab
from torch import nn

from models import chroma
from models.colour import LUMINANCE, SRGB, encoded, linear, space_of, srgb_profile
from models.imaging import Raster, luminance, turn_upright
from models.nets.colour import SrgbColour
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
    return chroma.lay(raster, chroma.predict(raster, net, "a.tif"), "a.tif")


@pytest.mark.parametrize("bits", [8, 16])
def test_gray_becomes_rgb_and_its_lightness_stays(bits: int) -> None:
    camera = data.camera()[:300, :402, None]
    pixels = np.ascontiguousarray(camera // 2 + 60)
    raster = Raster(pixels if bits == 8 else pixels.astype(np.uint16) * 257 + 100, icc=b"a gray profile")
    out = coloured(raster)
    assert (out.bits, out.pixels.shape, out.icc) == (bits, (300, 402, 3), srgb_profile())
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
    out = chroma.lay(raster, np.ascontiguousarray(colours), "a.tif").pixels
    rgb, own = (x.astype(np.float32) / np.iinfo(out.dtype).max for x in (out, np.repeat(raster.pixels, 3, axis=2)))
    made = rgb2lab(rgb)
    assert np.abs(made[:, :, 0] - rgb2lab(own)[:, :, 0]).max() < (0.6 if bits == 8 else 0.03)
    told = np.hypot(made[:, 60:200, 1], made[:, 60:200, 2])
    assert told.min() > 10, "chroma is reduced to what fits, not given up"
    hue = np.arctan2(made[:, 60:200, 2], made[:, 60:200, 1]) - turn
    assert np.abs(np.angle(np.exp(1j * hue))).max() < 0.1


SRGB_ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def wide_profile() -> bytes:
    """sRGB's curve with the primaries of Adobe RGB (1998), adapted to D50."""
    primaries = {
        b"rXYZ": (0.60974, 0.31111, 0.01947),
        b"gXYZ": (0.20528, 0.62567, 0.06087),
        b"bXYZ": (0.14919, 0.06322, 0.74457),
    }
    icc = bytearray(SRGB_ICC)
    for entry in range(132, 132 + 12 * int.from_bytes(icc[128:132], "big"), 12):
        if (xyz := primaries.get(bytes(icc[entry : entry + 4]))) is not None:
            at = int.from_bytes(icc[entry + 4 : entry + 8], "big")
            icc[at + 8 : at + 20] = struct.pack(">3i", *(round(value * 65536) for value in xyz))
    return bytes(icc)


def light_of(raster: Raster) -> np.ndarray:
    """(H, W) gray in levels of 8 bits of the same lightness, by the raster's own profile."""
    top = np.float32(1 / np.iinfo(raster.pixels.dtype).max)
    return 255 * encoded(linear(space_of(raster).to_srgb(raster.pixels.astype(np.float32) * top)) @ LUMINANCE)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("icc", [None, SRGB_ICC, wide_profile()], ids=["none", "srgb", "wide"])
def test_no_pixel_of_a_toned_scan_changes_its_lightness_by_more_than_a_level(icc: bytes | None, bits: int) -> None:
    gray = np.tile(np.arange(256), (96, 1))
    toned = np.stack([np.clip(gray + 8, 0, 255), gray * 0.93, gray * 0.8], axis=2).astype(np.uint8)
    raster = Raster(np.ascontiguousarray(toned if bits == 8 else toned.astype(np.uint16) * 257), icc=icc)
    colours = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 1, (36, 96, 2)).astype(np.float32), (0, 0), 4)
    out = chroma.lay(raster, np.asarray(colours * (40 / colours.std()), np.float32), "t.tif")
    assert out.icc == icc and out.bits == bits
    assert np.abs(light_of(out) - light_of(raster)).max() <= 1
    assert np.abs(out.pixels.astype(int) - raster.pixels).mean() > 5 * (257 if bits == 16 else 1)


def test_colour_that_would_change_the_lightness_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    true = chroma._with_lightness_of
    monkeypatch.setattr(chroma, "_with_lightness_of", lambda gray, colours: true(gray, colours) + np.float32(0.01))
    with pytest.raises(chroma.LightnessChanged, match=r"t\.tif: .*at most 1 level.*found [23]\.\d+ at row \d+"):
        chroma.lay(Raster(np.full((40, 60, 1), 120, np.uint8)), np.zeros((20, 30, 2), np.float32), "t.tif")


def test_colour_ends_where_lightness_does_and_not_where_the_small_picture_puts_it() -> None:
    pixels = np.full((400, 640, 1), 70, np.uint8)
    pixels[:, 321:] = 190
    truth = np.where(np.arange(640) < 321, -15, 15)
    small = cv2.resize(np.tile(truth.astype(np.float32), (400, 1)), (40, 25), interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(small, (0, 0), 0.7)
    out = chroma.lay(Raster(pixels), np.stack([soft, 0 * soft], axis=2), "t.tif").pixels
    made = rgb2lab(out)[200, :, 1]
    linear_only = cv2.resize(soft, (640, 400), interpolation=cv2.INTER_LINEAR)[200]
    near = np.s_[301:341]
    assert np.abs(made - truth)[near].mean() < 0.9 * np.abs(linear_only - truth)[near].mean()


def test_saturation_scales_the_chroma_and_none_leaves_the_picture_gray() -> None:
    raster = Raster(np.full((40, 60, 1), 120, np.uint8))
    colours = np.broadcast_to(np.array([10, -14], np.float32), (20, 30, 2)).copy()
    chromas = [
        float(np.hypot(*rgb2lab(chroma.lay(raster, colours, "t.tif", saturation=s).pixels)[20, 30, 1:]))
        for s in (0.0, 0.5, 1.0, 2.0)
    ]
    assert chromas == pytest.approx([0, 8.6, 17.2, 34.4], abs=0.6)


def test_a_seed_gives_one_other_interpretation_and_a_network_without_hints_has_none() -> None:
    torch.manual_seed(0)
    net = SrgbColour(widths=(8, 8, 12, 16, 16), plan=((1, 8, 1, 1), *((2, 8, 1, 2),) * 4), stem=8).eval()
    for layer in (net.head, net.told):
        nn.init.normal_(layer.weight, std=0.5)
    raster = Raster(np.ascontiguousarray(data.camera()[:200, :256, None]))
    hinted = Network(CARD, net, "cpu", torch.float32)
    plain, one, again, other = (chroma.predict(raster, hinted, "a.tif", seed) for seed in (0, 1, 1, 2))
    assert np.array_equal(one, again)
    assert min(np.abs(a - b).mean() for a, b in ((plain, one), (one, other), (plain, other))) > 0.02
    halves = Network(CARD, Halves(), "cpu", torch.float32)
    assert np.array_equal(*(chroma.predict(raster, halves, "a.tif", seed) for seed in (0, 7)))


def test_the_srgb_profile_is_the_same_at_any_time_of_day_and_means_srgb() -> None:
    profile = srgb_profile()
    assert profile == srgb_profile() and profile[24:26] == (2026).to_bytes(2, "big")
    assert space_of(Raster(np.zeros((2, 2, 3), np.uint8), icc=profile)) is SRGB
