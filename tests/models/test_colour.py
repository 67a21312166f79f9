from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms
from skimage import data

from models.colour import SRGB, space_of
from models.imaging import Raster
from models.network import apply_residual

SRGB_ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _swapped_icc() -> bytes:
    """sRGB with the red and the blue primary exchanged: a space that is plainly another one."""
    icc = bytearray(SRGB_ICC)
    tags = {bytes(icc[i : i + 4]): i for i in range(132, 132 + 12 * int.from_bytes(icc[128:132], "big"), 12)}
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    icc[red + 4 : red + 12], icc[blue + 4 : blue + 12] = icc[blue + 4 : blue + 12], icc[red + 4 : red + 12]
    return bytes(icc)


def test_no_profile_an_srgb_profile_and_a_broken_one_count_as_srgb():
    pixels = np.ascontiguousarray(data.coffee()[:20, :20])
    for icc in (None, SRGB_ICC, b"no profile"):
        assert space_of(Raster(pixels, icc=icc)) is SRGB


def test_the_tables_agree_with_the_colour_management_of_pillow():
    pixels = np.ascontiguousarray(data.coffee()[:60, :80])
    icc = _swapped_icc()
    space = space_of(Raster(pixels, icc=icc))
    found = space.to_srgb(pixels.astype(np.float32) / 255)
    image = ImageCms.profileToProfile(
        Image.fromarray(pixels), ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )  # fmt: skip
    assert image is not None
    apart = np.abs(found * 255 - np.asarray(image).astype(np.float32))
    assert np.quantile(apart, 0.99) < 2


def test_no_residual_changes_nothing_in_any_space():
    pixels = np.ascontiguousarray(data.coffee()[:60, :80]).astype(np.uint16) * 257
    raster = Raster(pixels, icc=_swapped_icc())
    np.testing.assert_array_equal(apply_residual(raster, np.zeros((60, 80, 3), np.float32)).pixels, pixels)


def test_a_residual_in_srgb_lands_on_the_channel_that_shows_it():
    raster = Raster(np.full((4, 4, 3), 120, np.uint8), icc=_swapped_icc())
    raster.pixels[0, 0] = (100, 120, 150)  # not a gray picture
    residual = np.zeros((4, 4, 3), np.float32)
    residual[:, :, 0] = 0.1  # more red: in this space that is the third channel
    change = apply_residual(raster, residual).pixels[2, 2].astype(int) - 120
    assert change[2] > 20
    assert abs(change[0]) <= 3 and abs(change[1]) <= 3


def test_a_gray_scan_is_shown_to_the_network_in_three_equal_channels():
    gray = np.linspace(0, 1, 50, dtype=np.float32).reshape(5, 10, 1)
    shown = space_of(Raster(np.zeros((5, 10, 1), np.uint8))).to_srgb(gray)
    assert shown.shape == (5, 10, 3)
    np.testing.assert_array_equal(shown, np.repeat(gray, 3, axis=2))


@pytest.mark.parametrize("gamma", [1.0, 1.8])
def test_a_gray_profile_of_another_curve_is_followed_there_and_back(gamma: float):
    raster = Raster(np.full((4, 4, 1), 90, np.uint8), icc=_gray_icc(gamma))
    space = space_of(raster)
    assert space is not SRGB
    linear = (90 / 255) ** gamma
    encoded = 1.055 * linear ** (1 / 2.4) - 0.055
    assert space.to_srgb(raster.pixels.astype(np.float32) / 255)[0, 0, 0] == pytest.approx(encoded, abs=0.012)
    up = apply_residual(raster, np.full((4, 4, 3), 0.05, np.float32)).pixels
    wanted = 255 * (((encoded + 0.05 + 0.055) / 1.055) ** 2.4) ** (1 / gamma)
    assert int(up[0, 0, 0]) == pytest.approx(wanted, abs=4)


def _gray_icc(gamma: float) -> bytes:
    """A minimal gray profile of version 2: white point and a gamma curve."""
    white = b"XYZ " + bytes(4) + b"".join(round(v * 65536).to_bytes(4, "big") for v in (0.9642, 1.0, 0.8249))
    curve = b"curv" + bytes(4) + (1).to_bytes(4, "big") + round(gamma * 256).to_bytes(2, "big") + bytes(2)
    name = b"desc" + bytes(4) + (5).to_bytes(4, "big") + b"gray\0" + bytes(78)
    name += bytes(-len(name) % 4)
    tags, at, body = b"", 128 + 4 + 12 * 3, b""
    for signature, value in ((b"desc", name), (b"wtpt", white), (b"kTRC", curve)):
        tags += signature + (at + len(body)).to_bytes(4, "big") + len(value).to_bytes(4, "big")
        body += value
    size = 128 + 4 + len(tags) + len(body)
    header = size.to_bytes(4, "big") + bytes(4) + b"\x02\x10\0\0" + b"mntrGRAYXYZ " + bytes(12) + b"acsp" + bytes(28)
    header += b"".join(round(v * 65536).to_bytes(4, "big") for v in (0.9642, 1.0, 0.8249))
    return header.ljust(128, b"\0") + (3).to_bytes(4, "big") + tags + body
