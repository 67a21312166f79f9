"""Colour only for what has none, by a registered model only, and never in place of the photograph's own lightness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage import data
from skimage.color import rgb2lab
from torch import nn

from flows.restore import open_shelf
from models.colour import LUMINANCE, encoded, linear, srgb_profile
from models.imaging import Raster
from models.network import Network
from models.registry import ModelCard
from small_archive import Archive
from tasks import colorize, networks, stage
from tasks.contracts import CLEANED, COLORIZED, BadOutput, Outcome, Plate
from tasks.recipe import ColorizeConfig
from tasks.shelf import Shelf
from tasks.stage import Workshop
from toy_models import registered


def gray(bits: int = 8) -> Raster:
    pixels = np.ascontiguousarray(data.camera()[100:228, 180:308, None] // 2 + 60)
    return Raster(pixels if bits == 8 else pixels.astype(np.uint16) * 257)


def colour() -> Raster:
    return Raster(np.ascontiguousarray(data.astronaut()[:128, :128]))


@pytest.fixture
def colouring(archive: Archive, tmp_path: Path) -> Workshop:
    """A workshop whose settings register a colour network of random weights."""
    update = {"models": [registered(tmp_path, "colorize")], "device": "cpu"}
    return archive.shop(models=open_shelf(archive.settings.model_copy(update=update)))


def test_without_a_permitted_model_gray_scans_are_skipped_and_say_so(archive: Archive, plated: Any) -> None:
    shop = archive.shop(models=Shelf(device="cpu", data_terms=frozenset({"free"})))
    first, second = colorize.colorize.fn(plated({"g.tif": gray(), "c.tif": colour()}, shop), ColorizeConfig(), shop)
    assert (first.outcome, first.reason) == (Outcome.SKIPPED, "no permitted colour model (gray, 100% sure)")
    assert (second.outcome, second.reason) == (Outcome.SKIPPED, "in colour already")
    assert first.measures["colour_confidence"] < 0.01 < 0.75 < second.measures["colour_confidence"]
    assert first.model_id is None


@pytest.mark.parametrize("bits", [8, 16])
def test_a_registered_model_colours_a_gray_scan_and_keeps_its_lightness(
    bits: int, colouring: Workshop, plated: Any, tmp_path: Path
) -> None:
    (result,) = colorize.colorize.fn(plated({"g.tif": gray(bits)}, colouring), ColorizeConfig(), colouring)
    assert result.plate is not None, result.reason
    assert (result.outcome, result.model_id, result.data_terms) == (Outcome.DONE, "toy-colorize", "unknown")
    made = stage.layer(result.plate, COLORIZED, colouring.blobs(result.plate.restoration_id), tmp_path)
    assert (made.pixels.shape, made.bits) == ((128, 128, 3), bits)
    top = np.iinfo(made.pixels.dtype).max
    lab = rgb2lab(made.pixels / top)
    own = rgb2lab(np.repeat(gray(bits).pixels / top, 3, axis=2))
    assert np.abs(lab[:, :, 0] - own[:, :, 0]).max() < 0.7
    assert np.hypot(lab[:, :, 1], lab[:, :, 2]).mean() > 1


def test_what_is_in_colour_or_may_be_is_coloured_only_when_asked_for(colouring: Workshop, plated: Any) -> None:
    refs = plated({"c.tif": colour()}, colouring)
    (left,) = colorize.colorize.fn(refs, ColorizeConfig(), colouring)
    assert (left.outcome, left.reason) == (Outcome.SKIPPED, "in colour already")
    (asked,) = colorize.colorize.fn(refs, ColorizeConfig(ask_colour=True), colouring)
    assert asked.outcome is Outcome.DONE

    barely = np.repeat(gray().pixels, 3, axis=2).astype(int)
    barely[:, 40:80, 0] += 12
    plate = Plate("m.tif", {CLEANED: Raster(barely.astype(np.uint8))})
    output = colorize.add_colour(plate, ColorizeConfig(), None, lambda *_: "")
    assert output.skipped is not None
    assert "in colour already (" in output.skipped


def test_a_colour_network_that_gives_nonsense_fails_the_scan_and_keeps_the_evidence() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * float("nan")

    card = ModelCard("bad", "colorize", "none", licence="MIT", data_terms="free")
    net = Network(card, Broken(), "cpu", torch.float32)
    plate = Plate("g.tif", {CLEANED: gray()})
    with pytest.raises(BadOutput, match=r"g\.tif.*s3://kept"):
        colorize.add_colour(plate, ColorizeConfig(), lambda: net, lambda *_: "s3://kept")


def portrait(bits: int = 8) -> Raster:
    luma = np.rint(data.astronaut()[:256, 100:356] @ np.array([0.2126, 0.7152, 0.0722])).astype(np.uint8)[:, :, None]
    return Raster(np.ascontiguousarray(luma if bits == 8 else luma.astype(np.uint16) * 257 + 11))


@pytest.mark.parametrize("bits", [8, 16])
def test_our_own_model_is_the_default_and_lays_colour_over_the_lightness_of_the_scan(
    bits: int, archive: Archive, plated: Any, tmp_path: Path
) -> None:
    shop = archive.shop(models=Shelf(device="cpu"))
    (result,) = colorize.colorize.fn(plated({"p.tif": portrait(bits)}, shop), ColorizeConfig(), shop)
    assert result.plate is not None, result.reason
    assert (result.outcome, result.model_id) == (Outcome.DONE, "glassplate-colour-1")
    made = stage.layer(result.plate, COLORIZED, shop.blobs(result.plate.restoration_id), tmp_path)
    assert (made.bits, made.icc) == (bits, srgb_profile()), "a gray scan without profile becomes sRGB and says so"
    top = np.iinfo(made.pixels.dtype).max
    gray, rgb = portrait(bits).pixels.astype(np.float32) / top, made.pixels.astype(np.float32) / top
    assert np.abs(encoded(linear(rgb) @ LUMINANCE) - gray[:, :, 0]).max() * 255 <= 1
    lab = rgb2lab(rgb)
    face = lab[50:110, 90:150].reshape(-1, 3)
    assert face[:, 1].mean() > 3 and face[:, 2].mean() > 3, "skin is neither gray nor green nor blue"
    again = colorize.add_colour(
        Plate("p.tif", {CLEANED: portrait(bits)}), ColorizeConfig(), lambda: network_of_default(shop), lambda *_: ""
    )
    assert np.array_equal(again.layers[COLORIZED].pixels, made.pixels), "the same scan gives the same colours"


def network_of_default(shop: Workshop) -> Network:
    card = shop.models.first("colorize")
    assert card is not None
    return networks.network_of(card, shop)


def test_saturation_and_seed_are_settings_of_the_recipe_and_change_what_comes_out(archive: Archive) -> None:
    shop = archive.shop(models=Shelf(device="cpu"))

    def chroma_of(config: ColorizeConfig) -> Any:
        plate = Plate("p.tif", {CLEANED: portrait()})
        made = colorize.add_colour(plate, config, lambda: network_of_default(shop), lambda *_: "").layers[COLORIZED]
        return rgb2lab(made.pixels)[:, :, 1:]

    plain, pale, other = (
        chroma_of(config) for config in (ColorizeConfig(), ColorizeConfig(saturation=0.5), ColorizeConfig(seed=3))
    )
    assert np.hypot(*pale.T).mean() == pytest.approx(0.5 * np.hypot(*plain.T).mean(), rel=0.15)
    assert np.abs(other - plain).mean() > 0.3
    assert np.array_equal(other, chroma_of(ColorizeConfig(seed=3)))
