"""Damage filled by a network: what it sees, what of its answer is taken, and what is done when it gives nonsense."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import ImageCms
from torch import nn
from torch.nn import functional

from models import fill, retouch
from models.fill import FillConfig
from models.imaging import Mask, Raster
from models.network import Network, NonFiniteOutput, TileTooLarge, WrongSize
from models.registry import ModelCard

CARD = ModelCard("toy", "inpaint", "spandrel", licence="MIT", data_terms="free")
SMALL = FillConfig(crop_px=64, margin_px=32, direct_width_px=32, rim_px=8)


class Around(nn.Module):
    """A masked network that gives the mean of the known pixels within 20 px, and notes what it was shown."""

    masked = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []
        self.known: list[float] = []

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        self.seen.append((x.shape[2], x.shape[3]))
        self.known.append(float(1 - mask.mean()))
        known = 1 - mask
        return mean_around(x * known) / mean_around(known).clamp_min(1e-6)


def mean_around(x: torch.Tensor) -> torch.Tensor:
    return functional.avg_pool2d(functional.avg_pool2d(x, (41, 1), 1, (20, 0)), (1, 41), 1, (0, 20))


class Giving(nn.Module):
    """A masked network whose answer is made of its input by a function."""

    masked = True

    def __init__(self, answer: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.answer(x)


def network(module: nn.Module) -> Network:
    return Network(CARD, module, "cpu", torch.float32)


def picture(channels: int, bits: int, height: int = 120, width: int = 160) -> Raster:
    """A smooth picture with some structure."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    base = 0.5 + 0.2 * np.sin(x / 23) + 0.15 * np.cos(y / 17)
    layers = np.stack([base * k for k in (1.0, 0.9, 0.8)[:channels]], axis=2)
    full = 255 if bits == 8 else 65535
    return Raster((layers * full).astype(np.uint8 if bits == 8 else np.uint16))


def scratched(raster: Raster) -> tuple[Raster, Mask]:
    values = np.zeros((raster.height, raster.width), np.float32)
    for row in range(10, raster.height - 10):
        values[row, 30 + row // 4 : 35 + row // 4] = 1.0
    pixels = raster.pixels.copy()
    pixels[values > 0] = np.iinfo(pixels.dtype).max
    return raster.with_pixels(pixels), Mask(values)


def error(a: NDArray[np.generic], b: NDArray[np.generic], where: NDArray[np.bool_]) -> float:
    return float(np.abs(a[where].astype(np.float64) - b[where].astype(np.float64)).mean()) / np.iinfo(a.dtype).max


@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (3, 8), (1, 16), (3, 16)])
def test_a_fill_is_what_the_network_gives_and_touches_nothing_else(channels: int, bits: int) -> None:
    truth = picture(channels, bits)
    damaged, mask = scratched(truth)
    filled = retouch.retouch(damaged, mask, network(Around()), "s").raster
    inside = mask.values >= 0.5
    assert (filled.pixels.dtype, filled.pixels.shape) == (truth.pixels.dtype, truth.pixels.shape)
    assert np.array_equal(filled.pixels[~inside], damaged.pixels[~inside])
    assert error(filled.pixels, truth.pixels, inside) < 0.2 * error(damaged.pixels, truth.pixels, inside)

    dark = retouch.retouch(damaged, mask, network(Giving(lambda x: x * 0 + 0.25)), "s").raster
    top = np.iinfo(truth.pixels.dtype).max
    assert np.abs(dark.pixels[inside].astype(float) / top - 0.25).max() <= 0.5001 / top, "to the last bit"
    assert np.array_equal(dark.pixels[~inside], damaged.pixels[~inside])


def test_sixteen_bits_are_filled_with_sixteen_bits() -> None:
    damaged, mask = scratched(picture(1, 16))
    filled = retouch.retouch(damaged, mask, network(Around()), "s").raster
    assert np.count_nonzero(np.unique(filled.pixels[mask.values > 0]) % 257) > 256


def test_gray_stays_gray_whatever_the_network_gives_and_the_damage_is_coloured() -> None:
    gray = picture(1, 8)
    pixels = np.repeat(gray.pixels, 3, axis=2)
    _, mask = scratched(gray)
    pixels[mask.values > 0] = (200, 20, 20)  # red ink
    tinted = Giving(lambda x: x * 0 + torch.tensor([0.9, 0.3, 0.3]).reshape(1, 3, 1, 1))
    filled = retouch.retouch(Raster(pixels), mask, network(tinted), "s").raster.pixels.astype(int)
    assert (filled.max(axis=2) - filled.min(axis=2)).max() <= 1
    coloured = picture(3, 8)
    filled = retouch.retouch(coloured, mask, network(tinted), "s").raster.pixels.astype(int)
    assert np.abs(filled[mask.values > 0] - np.array([229.5, 76.5, 76.5])).max() <= 0.5


def test_the_network_sees_the_damage_with_its_surroundings_in_crops_of_whole_multiples() -> None:
    scan = picture(1, 8, 1003, 1209)
    values = np.zeros((1003, 1209), np.float32)
    values[::97, ::89] = 1  # dust everywhere
    module = Around()
    done = retouch.retouch(scan, Mask(values), network(module), "s")
    assert done.crops == len(module.seen) == 3 * 4, "squares, not specks"
    assert all(264 <= side <= 640 and side % 8 == 0 for shape in module.seen for side in shape)

    values[:] = 0
    values[0:4, 1200:] = 1  # at the corner, too, it sees as much
    module = Around()
    retouch.retouch(scan, Mask(values), network(module), "s")
    assert all(side >= 264 for side in module.seen[0])


def test_a_small_picture_is_continued_to_what_the_network_wants() -> None:
    class Wanting(Around):
        multiple_px = 32

    small = picture(3, 8, 21, 45)
    values = np.zeros((21, 45), np.float32)
    values[9:12, 40:] = 1
    module = Wanting()
    filled = retouch.retouch(small, Mask(values), network(module), "s").raster
    assert module.seen == [(32, 64)]
    assert error(filled.pixels, small.pixels, values > 0) < 0.1


def test_wide_damage_is_filled_from_half_size_so_that_no_crop_is_all_hole() -> None:
    truth = picture(3, 16, 400, 420)
    values = np.zeros((400, 420), np.float32)
    values[40:360, 50:370] = 1
    module = Around()
    done = retouch.retouch(truth, Mask(values), network(module), "s", config=SMALL)
    assert min(module.known) > 0.02
    assert max(max(shape) for shape in module.seen) <= 64 + 2 * 32
    inside = done.raster.pixels[values > 0].astype(float) / 65535
    assert inside.min() > 0.2 and inside.max() < 0.8, "everything was filled, nothing from beyond the picture's range"
    assert not np.array_equal(done.raster.pixels[200, 200], truth.pixels[200, 200])


def test_where_a_mark_is_cut_the_next_crop_goes_on_from_what_the_last_one_filled() -> None:
    begins: list[int] = []

    class Noting(Around):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            begins.append(int(mask[0, 0].amax(dim=0).argmax()))
            return super().forward(x, mask)

    scan = picture(1, 16, 96, 400)
    values = np.zeros((96, 400), np.float32)
    values[46:50, 8:392] = 1
    filled = retouch.retouch(scan, Mask(values), network(Noting()), "s", config=SMALL).raster.pixels[48, :, 0]
    assert begins == [8, 32, 32, 32, 32, 48, 56], "in each crop behind the margin that lies on the filled side"
    assert (np.abs(np.diff(filled.astype(float)))[10:390] / 65535).max() < 0.02, "no step shows"


def test_an_empty_mask_gives_the_same_raster_back_and_asks_nobody() -> None:
    module = Around()
    scan = picture(3, 8)
    assert retouch.retouch(scan, Mask(np.zeros((120, 160), np.float32)), network(module), "s").raster is scan
    assert module.seen == []


def test_a_mask_of_another_size_or_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"s: expected a mask of \(120, 160\), found \(5, 5\)"):
        retouch.retouch(picture(1, 8), Mask(np.zeros((5, 5), np.float32)), network(Around()), "s")
    with pytest.raises(ValueError, match="s: expected some picture around the damage"):
        retouch.retouch(picture(1, 8), Mask(np.ones((120, 160), np.float32)), network(Around()), "s")


def test_nonsense_is_an_error_with_the_evidence() -> None:
    damaged, mask = scratched(picture(3, 8))
    with pytest.raises(NonFiniteOutput, match=r"s.*100\.0% NaN") as failure:
        retouch.retouch(damaged, mask, network(Giving(lambda x: x * float("nan"))), "s")
    assert failure.value.evidence.shape[2] == 3
    with pytest.raises(WrongSize, match="s: expected a crop"):
        retouch.retouch(damaged, mask, network(Giving(lambda x: x[:, :, ::2])), "s")


def test_lack_of_memory_is_answered_by_smaller_crops() -> None:
    def short(x: torch.Tensor) -> torch.Tensor:
        if max(x.shape[2:]) > room:
            raise torch.OutOfMemoryError("no room")
        return x * 0 + 0.5

    scan = picture(1, 8, 500, 700)
    values = np.zeros((500, 700), np.float32)
    values[20:480, 30:40] = 1
    room = 330
    done = retouch.retouch(scan, Mask(values), network(Giving(short)), "s")
    assert done.halvings == 1
    assert np.abs(done.raster.pixels[values > 0].astype(float) - 127.5).max() <= 0.5
    room = 8
    with pytest.raises(TileTooLarge, match="s: expected room for a crop of 96 px, found no room"):
        retouch.retouch(scan, Mask(values), network(Giving(short)), "s")


def test_a_change_outside_the_mask_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    damaged, mask = scratched(picture(3, 8))
    monkeypatch.setattr(retouch, "_filled", lambda pixels, *_: pixels + 1)
    with pytest.raises(fill.ChangedOutside):
        retouch.retouch(damaged, mask, network(Around()), "s")


def test_a_picture_in_another_colour_space_is_filled_in_its_own() -> None:
    icc = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(icc[i : i + 4]): i for i in range(132, 132 + 12 * int.from_bytes(icc[128:132], "big"), 12)}
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    icc[red + 4 : red + 12], icc[blue + 4 : blue + 12] = icc[blue + 4 : blue + 12], icc[red + 4 : red + 12]
    damaged, mask = scratched(Raster(picture(3, 8).pixels, icc=bytes(icc)))  # red and blue have changed places
    orange = Giving(lambda x: x * 0 + torch.tensor([0.7, 0.4, 0.2]).reshape(1, 3, 1, 1))
    filled = retouch.retouch(damaged, mask, network(orange), "s").raster
    assert filled.icc == bytes(icc)
    assert np.abs(filled.pixels[mask.values > 0] - np.array([51.0, 102.0, 178.5])).max() <= 6
