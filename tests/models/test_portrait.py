"""Faces aligned to the template and what a network changes of them put back where they are, without a seam."""

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
from models.nets.face import FaceNet
from models.network import Network, NonFiniteOutput, WrongSize
from models.registry import ModelCard

CARD = ModelCard("faces", "face", "none", licence="MIT", data_terms="free")
LANDMARKS = np.array([[203, 102], [247, 105], [223, 125], [203, 142], [241, 144]], np.float32)  # of the astronaut


class Sharper(nn.Module):
    """Adds what a blur takes away, four times."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        blurred = nn.functional.avg_pool2d(x, 5, 1, 2, count_include_pad=False)
        return x + 4 * (x - blurred)


class Red(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wave = torch.arange(x.shape[-1]) % 8 / 8.0
        return x + wave * torch.tensor([0.3, 0.0, 0.0]).reshape(1, 3, 1, 1)


def face(scale: float = 1.0, shift: tuple[float, float] = (0, 0)) -> Face:
    return Face(180 * scale, 60 * scale, 272 * scale, 176 * scale, (LANDMARKS * scale - shift).astype(np.float32), 0.9)


def network(module: nn.Module) -> Network:
    return Network(CARD, module, "cpu", torch.float32)


def mended(raster: Raster, found: Face, module: nn.Module, target: Raster | None = None, side_px: int = 512) -> Raster:
    seat = portrait.seat_of(found, raster.height, raster.width, side_px)
    assert seat is not None
    before = portrait.aligned(raster, seat)
    gray = bool((raster.pixels.max(axis=2) == raster.pixels.min(axis=2)).all())
    (after,) = portrait.restored([before], network(module), 0.0, [gray], ["a.tif"])
    assert isinstance(after, np.ndarray), after
    return portrait.pasted(target or raster, raster, seat, portrait.change_of(before, after))


@pytest.mark.parametrize(("side_px", "zoom"), [(512, 1.0), (128, 1.15)])
def test_the_landmarks_of_an_aligned_face_lie_on_the_template(side_px: int, zoom: float) -> None:
    seat = portrait.seat_of(face(), 512, 512, side_px, zoom)
    assert seat is not None
    there = seat.aligned_points(LANDMARKS)
    assert np.abs(there - portrait.template(side_px, zoom)).max() < side_px * 0.08  # no similarity fits every face
    assert (seat.top, seat.left) >= (0, 0)
    assert portrait.aligned(Raster(data.astronaut()), seat).shape == (side_px, side_px, 3)


def test_the_square_is_as_large_as_the_face_has_pixels() -> None:
    sides, zoom = FaceNet.sides_px, FaceNet.zoom
    assert portrait.side_for(face(0.5), sides, zoom) == 128
    assert portrait.side_for(face(1.5), sides, zoom) == 256
    assert portrait.side_for(face(9.0), sides, zoom) == 256
    assert portrait.side_for(face(0.1), (512,)) == 512


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_a_network_that_changes_nothing_changes_no_pixel(scale: float) -> None:
    size = round(512 * scale)
    raster = Raster(np.ascontiguousarray(cv2.resize(data.astronaut(), (size, size), interpolation=cv2.INTER_AREA)))
    np.testing.assert_array_equal(mended(raster, face(scale), nn.Identity()).pixels, raster.pixels)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_change_lands_on_the_face_and_nowhere_else(scale: float) -> None:
    size = round(512 * scale)
    pixels = np.ascontiguousarray(cv2.resize(data.astronaut(), (size, size), interpolation=cv2.INTER_AREA) // 2)
    made = mended(Raster(pixels), face(scale), Sharper()).pixels.astype(int)
    change = np.abs(made - pixels)
    middle = (slice(round(95 * scale), round(150 * scale)), slice(round(195 * scale), round(250 * scale)))
    assert change[middle].mean() > 1.2
    assert not change[round(200 * scale) :].any()
    assert not change[:, : round(140 * scale)].any()
    assert not change[:, round(310 * scale) :].any()


def test_a_change_of_tone_stays_out_so_that_the_face_cannot_stand_out() -> None:
    class Yellow(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 0.7 + torch.tensor([0.25, 0.2, 0.0]).reshape(1, 3, 1, 1)

    pixels = np.full((512, 512, 3), 120, np.uint8)
    assert np.abs(mended(Raster(pixels), face(), Yellow()).pixels.astype(int) - 120).max() <= 1


def test_the_face_takes_tone_and_contrast_of_the_layer_it_is_put_into() -> None:
    source = Raster(data.astronaut())
    faded = Raster((data.astronaut() * 0.55 + 50).astype(np.uint8))
    made = mended(faded, face(), nn.Identity(), source).pixels.astype(int)
    inside = (slice(95, 150), slice(195, 250))
    apart = np.abs(made[inside] - source.pixels[inside])
    assert apart.mean() < 3, "what was faded before enhancement is not faded beside an enhanced picture"
    assert np.abs(faded.pixels[inside].astype(int) - source.pixels[inside]).mean() > 15


def test_grain_comes_back_as_far_as_the_surroundings_are_grainy() -> None:
    class Clean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.avg_pool2d(x, 13, 1, 6, count_include_pad=False)

    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(data.astronaut(), (0, 0), 6)
    grainy = np.clip(smooth + rng.normal(0, 12, (512, 512, 1)), 0, 255).astype(np.uint8)
    inside = (slice(110, 140), slice(205, 241))

    def grain(pixels: np.ndarray) -> float:
        part = pixels[inside].astype(float).mean(axis=2)
        return float((part[::2, ::2] - part[1::2, ::2] - part[::2, 1::2] + part[1::2, 1::2]).std() / 2)

    kept = mended(Raster(grainy), face(), Clean(), side_px=256).pixels
    gone = mended(Raster(grainy), face(), Clean(), Raster(smooth), side_px=256).pixels
    assert grain(kept) > 0.6 * grain(grainy)
    assert grain(gone) < 0.35 * grain(grainy), "around it there is none"


def test_sixteen_bit_gray_stays_sixteen_bit_gray() -> None:
    luma = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2GRAY)[:, :, None].astype(np.uint16) * 128 + 7
    out = mended(Raster(luma), face(), Red())
    assert out.pixels.shape == luma.shape
    change = np.abs(out.pixels.astype(int) - luma)
    assert change[110:140, 205:240].mean() > 300
    three = Raster(np.repeat(luma, 3, axis=2))
    rgb = mended(three, face(), Red()).pixels
    assert (rgb.max(axis=2) == rgb.min(axis=2)).all()


def test_a_face_goes_into_an_enlarged_layer_at_its_place() -> None:
    source = Raster(data.astronaut() // 2)
    large = Raster(np.ascontiguousarray(cv2.resize(source.pixels, (1024, 1024), interpolation=cv2.INTER_CUBIC)))
    change = np.abs(mended(source, face(), Sharper(), large).pixels.astype(int) - large.pixels)
    assert change[190:300, 390:500].mean() > 1.5
    assert not change[400:].any()


def test_a_face_at_the_border_is_mended_as_far_as_it_is_there() -> None:
    pixels = np.ascontiguousarray(data.astronaut()[90:, 200:] // 2)
    change = np.abs(mended(Raster(pixels), face(shift=(200, 90)), Sharper()).pixels.astype(int) - pixels)
    assert change[:50, :45].mean() > 1.5


def test_fidelity_goes_from_the_drawn_face_to_the_faithful_one() -> None:
    class Both(nn.Module):
        faithful = True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x * 0 + 0.25, x * 0 + 0.75], 1)

    faces = [np.full((128, 128, 3), 0.5, np.float32), np.full((256, 256, 3), 0.5, np.float32)]
    for fidelity, expected in ((1.0, 0.25), (0.5, 0.5), (0.0, 0.75)):
        made = portrait.restored(faces, network(Both()), fidelity, [False, True], ["a", "b"])
        assert [m.shape for m in made] == [f.shape for f in faces]  # type: ignore[union-attr]
        assert all(np.allclose(m, expected) for m in made)  # type: ignore[arg-type]
    theirs = portrait.restored(faces[:1], network(nn.Threshold(2.0, 1.0)), 0.5, [False], ["a"])
    assert np.allclose(theirs[0], 0.75), "of theirs, the face as it was stands for the faithful one"


def test_what_is_no_face_is_an_error_of_that_face_alone() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / (x > 0.1)

    faces = [np.full((64, 64, 3), 0.5, np.float32), np.full((64, 64, 3), 0.05, np.float32)]
    whole, broken = portrait.restored(faces, network(Broken()), 0.0, [False, False], ["a.tif", "b.tif"])
    assert isinstance(whole, np.ndarray)
    assert isinstance(broken, NonFiniteOutput) and "b.tif" in str(broken)
    (small,) = portrait.restored(faces[:1], network(nn.AvgPool2d(2)), 0.0, [False], ["a.tif"])
    assert isinstance(small, WrongSize)
    nowhere = Face(0, 0, 9, 9, np.full((5, 2), 4.0, np.float32), 0.9)
    assert portrait.seat_of(nowhere, 512, 512) is None
