"""Filling damage: better inside the mask, untouched outside it, at 8 and 16 bits, gray and colour."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from models import fill
from models.imaging import Mask, Raster


def picture(channels: int, bits: int) -> Raster:
    """A smooth picture with some structure, 120 x 160."""
    y, x = np.mgrid[0:120, 0:160].astype(np.float64)
    base = 0.5 + 0.2 * np.sin(x / 23) + 0.15 * np.cos(y / 17) + 0.1 * (x > 80)
    layers = np.stack([base * k for k in (1.0, 0.9, 0.8)[:channels]], axis=2)
    full = 255 if bits == 8 else 65535
    return Raster((layers * full).astype(np.uint8 if bits == 8 else np.uint16))


def scratched(raster: Raster) -> tuple[Raster, Mask]:
    values = np.zeros((raster.height, raster.width), np.float32)
    for row in range(10, 110):
        values[row, 30 + row // 4 : 33 + row // 4] = 1.0
    values[60:84, 100:130] = 1.0
    pixels = raster.pixels.copy()
    pixels[values > 0] = np.iinfo(pixels.dtype).max
    return raster.with_pixels(pixels), Mask(values)


def error(a: NDArray[np.generic], b: NDArray[np.generic], where: NDArray[np.bool_]) -> float:
    return float(np.abs(a[where].astype(np.float64) - b[where].astype(np.float64)).mean()) / np.iinfo(a.dtype).max


@pytest.mark.parametrize("method", ["telea", "navier_stokes"])
@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (3, 8), (1, 16), (3, 16)])
def test_a_fill_comes_near_the_truth_and_touches_nothing_else(
    channels: int, bits: int, method: Literal["telea", "navier_stokes"]
) -> None:
    truth = picture(channels, bits)
    damaged, mask = scratched(truth)
    filled = fill.fill(damaged, mask, method)
    inside = mask.values >= 0.5
    assert filled.pixels.dtype == truth.pixels.dtype
    assert np.array_equal(filled.pixels[~inside], damaged.pixels[~inside])
    assert error(filled.pixels, truth.pixels, inside) < 0.1 * error(damaged.pixels, truth.pixels, inside)


def test_sixteen_bits_are_filled_with_sixteen_bits() -> None:
    truth = picture(1, 16)
    damaged, mask = scratched(truth)
    inside = mask.values >= 0.5
    values = np.unique(fill.fill(damaged, mask, "telea").pixels[inside])
    assert np.count_nonzero(values % 257) > 100, "not 8-bit values widened to 16"


def test_an_empty_mask_gives_the_same_raster_back() -> None:
    scan = picture(3, 8)
    assert fill.fill(scan, Mask(np.zeros((120, 160), np.float32)), "telea") is scan


def test_soft_mask_values_below_one_half_are_not_filled() -> None:
    damaged, mask = scratched(picture(3, 8))
    soft = Mask(np.maximum(mask.values, np.float32(0.49)))
    filled = fill.fill(damaged, soft, "telea")
    assert np.array_equal(filled.pixels[mask.values == 0], damaged.pixels[mask.values == 0])


def test_filling_twice_gives_the_same_pixels() -> None:
    damaged, mask = scratched(picture(3, 8))
    assert np.array_equal(fill.fill(damaged, mask, "telea").pixels, fill.fill(damaged, mask, "telea").pixels)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a mask of"):
        fill.fill(picture(1, 8), Mask(np.zeros((5, 5), np.float32)), "telea")


def test_a_mask_that_covers_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="covers all of it"):
        fill.fill(picture(1, 8), Mask(np.ones((120, 160), np.float32)), "telea")
