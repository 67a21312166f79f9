"""Colour laid over a photograph's own lightness: predicted small, of the whole picture, and applied at full size."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from numpy.typing import NDArray

from models.colour import space_of
from models.imaging import Raster, srgb8
from models.network import Network, NonFiniteOutput, WrongSize
from models.tiling import region

LONG_SIDE_PX = 512
MULTIPLE_PX = 32
BAND_ROWS = 256
HALVINGS = 8  # of the search for what sRGB holds
WHITE = np.array([0.950456, 1.0, 1.088754], np.float32)  # D65
TO_RGB = np.array(
    [[3.240479, -0.969256, 0.055648], [-1.537150, 1.875991, -0.204043], [-0.498535, 0.041556, 1.057311]], np.float32
)  # XYZ to linear sRGB, one row an axis of XYZ

Floats = NDArray[np.float32]


def predict(raster: Raster, net: Network, name: str) -> Floats:
    """(h, w, 2) float32 CIELAB a, b of the stored picture, its long side at most 512 px, by a colour network.

    The network sees the whole upright picture in gray, (1, h, w, 3) sRGB, and gives it in colour.
    Raises NonFiniteOutput, WrongSize.
    """
    seen = srgb8(raster, long_side_px=LONG_SIDE_PX).astype(np.float32) / np.float32(255)
    lab = cv2.cvtColor(seen, cv2.COLOR_RGB2Lab)
    lab[:, :, 1:] = 0
    gray = cv2.cvtColor(lab, cv2.COLOR_Lab2RGB).astype(np.float32, copy=False)
    height, width = gray.shape[:2]
    below, beside = -height % MULTIPLE_PX, -width % MULTIPLE_PX
    given = np.pad(gray, ((0, below), (0, beside), (0, 0)), mode="edge")
    made = net(given[None])[0]
    if made.shape != given.shape:
        raise WrongSize(name, expected=f"a picture {given.shape}", found=str(made.shape))
    if not np.isfinite(made).all():
        raise NonFiniteOutput(name, expected="finite colours", found="NaN or infinity", evidence=given)
    colours = cv2.cvtColor(np.clip(made[:height, :width], 0, 1), cv2.COLOR_RGB2Lab)[:, :, 1:]
    return _stored(np.ascontiguousarray(colours, np.float32), raster.orientation)


def lay(raster: Raster, colours: Floats) -> Raster:
    """``raster`` in RGB with CIELAB a, b of ``colours`` (h, w, 2) and its own lightness, in its own bit depth.

    A gray raster becomes sRGB without profile (a gray profile never travels into an RGB picture); an RGB one keeps its
    space. In bands: memory holds the scan and its result.
    """
    height, width, channels = raster.pixels.shape
    top_value = np.iinfo(raster.pixels.dtype).max
    out = np.empty((height, width, 3), raster.pixels.dtype)
    space = space_of(raster)
    for top in range(0, height, BAND_ROWS):
        bottom = min(top + BAND_ROWS, height)
        own = region(raster.pixels, top, bottom, 0, width)
        srgb = space.to_srgb(own)
        coloured = _with_lightness_of(srgb, _enlarged(colours, (height, width), top, bottom))
        band = coloured if channels == 1 else own + space.own_change(own, coloured - srgb)
        out[top:bottom] = np.clip(np.rint(band * np.float32(top_value)), 0, top_value)
    return dataclasses.replace(raster, pixels=out, icc=None if channels == 1 else raster.icc)


def _with_lightness_of(srgb: Floats, colours: Floats) -> Floats:
    """(h, w, 3) sRGB of the lightness of ``srgb`` and CIELAB ``colours`` (h, w, 2).

    Where sRGB does not hold a colour, the same hue with less chroma stands for it: clipping would change lightness.
    Written out because OpenCV's own conversion rounds lightness to about 14 bits on the way.
    """
    low, high = srgb / np.float32(12.92), ((srgb + np.float32(0.055)) / np.float32(1.055)) ** 2.4
    linear = np.where(srgb <= 0.04045, low, high)
    y = linear @ np.array([0.212671, 0.715160, 0.072169], np.float32)
    fy = np.where(y > 0.008856, np.cbrt(y), y * np.float32(7.787) + np.float32(16 / 116))
    linear = _linear(fy, colours)
    outside = ((linear < 0) | (linear > 1)).any(axis=2)
    if outside.any():
        linear[outside] = _held(fy[outside], colours[outside])
    linear = np.clip(linear, 0, 1)
    out = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.power(linear, 1 / 2.4) - 0.055)
    return np.asarray(np.clip(out, 0, 1), np.float32)


def _linear(fy: Floats, colours: Floats) -> Floats:
    """(…, 3) linear sRGB, not clipped, of f(Y) (…) and CIELAB a, b (…, 2)."""
    f = np.stack([fy + colours[..., 0] / 500, fy, fy - colours[..., 1] / 200], axis=-1)
    xyz = np.where(f > 0.206893, f**3, (f - np.float32(16 / 116)) / np.float32(7.787)) * WHITE
    return np.asarray(xyz @ TO_RGB, np.float32)


def _held(fy: Floats, colours: Floats) -> Floats:
    """(n, 3) linear sRGB of the same hue and lightness with the most chroma that sRGB holds, to 1/256 of it."""
    share = np.zeros(len(fy), np.float32)
    for halving in range(1, HALVINGS + 1):
        more = share + np.float32(0.5**halving)
        linear = _linear(fy, colours * more[:, None])
        share = np.where(((linear >= 0) & (linear <= 1)).all(axis=1), more, share)
    return _linear(fy, colours * share[:, None])


def _enlarged(colours: Floats, size: tuple[int, int], top: int, bottom: int) -> Floats:
    """Rows top..bottom-1 of ``colours`` enlarged to ``size``, linear, pixel centres aligned."""
    down, across = colours.shape[0] / size[0], colours.shape[1] / size[1]
    where = np.array([[across, 0, (across - 1) / 2], [0, down, (top + 0.5) * down - 0.5]], np.float64)
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    found = cv2.warpAffine(colours, where, (size[1], bottom - top), flags=how, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, np.float32)


def _stored(upright: Floats, orientation: int) -> Floats:
    """An upright picture back in stored orientation: what ``imaging.turn_upright`` does, undone."""
    if orientation in (2, 3, 6, 7):
        upright = upright[:, ::-1]
    if orientation in (3, 4, 7, 8):
        upright = upright[::-1]
    if orientation >= 5:
        upright = upright.swapaxes(0, 1)
    return np.ascontiguousarray(upright)
