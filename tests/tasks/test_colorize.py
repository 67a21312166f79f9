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
from models.imaging import Raster
from models.network import Network
from models.registry import ModelCard
from small_archive import Archive
from tasks import colorize, stage
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


def test_without_a_model_gray_scans_are_skipped_and_say_so(archive: Archive, plated: Any) -> None:
    shop = archive.shop(models=Shelf(device="cpu"))
    first, second = colorize.colorize.fn(plated({"g.tif": gray(), "c.tif": colour()}, shop), ColorizeConfig(), shop)
    assert (first.outcome, first.reason) == (Outcome.SKIPPED, "no colour model installed (gray, 100% sure)")
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
