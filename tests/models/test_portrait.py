"""Faces aligned to the template and what a network changes of them put back where they are."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from skimage import data
from torch import nn

from models import portrait
from models.imaging import Raster
from models.nets.centerface import Face
from models.network import Network, NonFiniteOutput, WrongSize
from models.registry import ModelCard

CARD = ModelCard("faces", "face", "none", licence="MIT", data_terms="free")
LANDMARKS = np.array([[203, 102], [247, 105], [223, 125], [203, 142], [241, 144]], np.float32)  # of the astronaut


class Lighter(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.1


def face(scale: float = 1.0) -> Face:
    return Face(180 * scale, 60 * scale, 272 * scale, 176 * scale, LANDMARKS * scale, 0.9)


def network(module: nn.Module) -> Network:
    return Network(CARD, module, "cpu", torch.float32)


def mended(raster: Raster, found: Face, module: nn.Module, target: Raster | None = None) -> Raster:
    seat = portrait.seat_of(found, raster.height, raster.width)
    assert seat is not None
    change = portrait.change_of(raster, seat, network(module), "a.tif")
    return portrait.pasted(target or raster, raster, seat, change)


def test_the_landmarks_of_an_aligned_face_lie_on_the_template() -> None:
    seat = portrait.seat_of(face(), 512, 512)
    assert seat is not None
    there = LANDMARKS @ seat.forward[:, :2].T + seat.forward[:, 2]
    assert np.abs(there - portrait.TEMPLATE).max() < 40  # a similarity cannot bring every face to it exactly
    assert (seat.top, seat.left) >= (0, 0)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_a_network_that_changes_nothing_changes_no_pixel(scale: float) -> None:
    size = round(512 * scale)
    raster = Raster(np.ascontiguousarray(cv2.resize(data.astronaut(), (size, size), interpolation=cv2.INTER_AREA)))
    np.testing.assert_array_equal(mended(raster, face(scale), nn.Identity()).pixels, raster.pixels)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_change_lands_on_the_face_and_nowhere_else(scale: float) -> None:
    size = round(512 * scale)
    pixels = np.ascontiguousarray(cv2.resize(data.astronaut(), (size, size), interpolation=cv2.INTER_AREA) // 2)
    change = mended(Raster(pixels), face(scale), Lighter()).pixels.astype(int) - pixels
    middle = change[round(120 * scale) : round(130 * scale), round(215 * scale) : round(230 * scale)]
    assert abs(middle.mean() - 25.5) < 1
    assert not change[round(300 * scale) :].any()
    assert not change[:, : round(60 * scale)].any()
    steps = np.abs(np.diff(change[:, round(223 * scale), 0]))
    assert steps.max() <= 4 / min(scale, 1.0), "the change fades out"


def test_sixteen_bit_gray_stays_sixteen_bit_gray() -> None:
    class Red(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.tensor([0.3, 0.0, 0.0]).reshape(1, 3, 1, 1)

    luma = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2GRAY)[:, :, None].astype(np.uint16) * 128 + 7
    out = mended(Raster(luma), face(), Red())
    assert out.pixels.shape == luma.shape
    change = out.pixels.astype(int) - luma
    assert abs(change[120:130, 215:230].mean() - 6554) < 100
    three = Raster(np.repeat(luma, 3, axis=2))
    rgb = mended(three, face(), Red()).pixels
    assert (rgb.max(axis=2) == rgb.min(axis=2)).all()


def test_a_face_goes_into_an_enlarged_layer_at_its_place() -> None:
    source = Raster(data.astronaut() // 2)
    large = Raster(np.ascontiguousarray(cv2.resize(source.pixels, (1024, 1024), interpolation=cv2.INTER_CUBIC)))
    change = mended(source, face(), Lighter(), large).pixels.astype(int) - large.pixels
    assert abs(change[240:260, 430:460].mean() - 25.5) < 1.5
    assert not change[640:].any()


def test_a_face_at_the_border_is_mended_as_far_as_it_is_there() -> None:
    pixels = np.ascontiguousarray(data.astronaut()[90:, 200:] // 2)
    at_corner = Face(0, 0, 72, 86, LANDMARKS - (200, 90), 0.9)
    change = mended(Raster(pixels), at_corner, Lighter()).pixels.astype(int) - pixels
    assert abs(change[30:40, 15:30].mean() - 25.5) < 1


def test_what_is_no_face_is_an_error() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / 0

    raster = Raster(data.astronaut())
    with pytest.raises(NonFiniteOutput, match=r"a\.tif"):
        mended(raster, face(), Broken())
    with pytest.raises(WrongSize):
        mended(raster, face(), nn.AvgPool2d(2))
    nowhere = Face(0, 0, 9, 9, np.full((5, 2), 4.0, np.float32), 0.9)
    assert portrait.seat_of(nowhere, 512, 512) is None
