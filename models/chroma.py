"""Colour laid over a photograph's own lightness: predicted small, of the whole picture, and applied at full size."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from numpy.typing import NDArray

from models.colour import LUMINANCE, SRGB, encoded, linear, space_of, srgb_profile
from models.imaging import Raster, srgb8, turn_back
from models.nets.colour import AB_UNIT, HINTS, hint_of, small_size
from models.network import Network, NetworkError, NonFiniteOutput, WrongSize
from models.tiling import region

LONG_SIDE_PX = 512
MULTIPLE_PX = 32
BAND_ROWS = 256
HALVINGS = 8  # of the search for what sRGB holds
GUIDE_CONTRAST = 0.1  # of lightness in [0, 1]: weaker edges than this hardly guide; grain does not
# What another seed draws from: half of how far the means of a, b and of chroma of photographs lie from what the network
# makes of them without a hint, in units of 50 (0.15, 0.22, 0.23: root mean square over 256 held-out samples of recipe
# ``colour``). With the whole of it one seed in four is purple.
HINT_SPREAD = (0.08, 0.11, 0.11)
FURTHEST = 1.5  # of these spreads
MOST_LEVELS = 1.0
CORRECTIONS = 2
WHITE = np.array([0.950456, 1.0, 1.088754], np.float32)  # D65
TO_RGB = np.array(
    [[3.240479, -0.969256, 0.055648], [-1.537150, 1.875991, -0.204043], [-0.498535, 0.041556, 1.057311]], np.float32
)  # XYZ to linear sRGB, one row an axis of XYZ

Floats = NDArray[np.float32]


class LightnessChanged(NetworkError):
    """Colour would have changed what the photograph says: its lightness. Nothing is laid."""


def predict(raster: Raster, net: Network, name: str, seed: int = 0) -> Floats:
    """(h, w, 2) float32 CIELAB a, b of the stored picture, its long side at most 512 px, by a colour network.

    The network sees the whole upright picture in gray, (1, h, w, 3) sRGB, and gives it in colour. ``seed`` 0: what it
    holds for likeliest; any other: one of the other interpretations, the same for the same seed, from a network that
    takes hints (``models.nets.colour.SrgbColour``): a second look, told other mean colours than it gave the first time.
    Not larger than the network can tell apart (``colour_side_px``), so that ``lay`` knows what it did not see.
    Raises NonFiniteOutput, WrongSize.
    """
    seen = srgb8(raster, long_side_px=LONG_SIDE_PX).astype(np.float32) / np.float32(255)
    lab = cv2.cvtColor(seen, cv2.COLOR_RGB2Lab)
    lab[:, :, 1:] = 0
    gray = cv2.cvtColor(lab, cv2.COLOR_Lab2RGB).astype(np.float32, copy=False)
    colours = _seen(gray, net, name)
    if seed and getattr(net.module, "hinted", False):
        told = hint_of(np.moveaxis(colours, 2, 0) / np.float32(AB_UNIT))
        drawn = np.clip(np.random.default_rng(seed).normal(size=3), -FURTHEST, FURTHEST)
        told[:3] += (drawn * HINT_SPREAD).astype(np.float32)
        told[2] = max(told[2], 0.0)
        colours = _seen(gray, net, name, told)
    own_side_px = getattr(net.module, "colour_side_px", LONG_SIDE_PX)
    height, width = small_size(colours.shape[0], colours.shape[1], own_side_px)
    if (height, width) != colours.shape[:2]:
        colours = np.asarray(cv2.resize(colours, (width, height), interpolation=cv2.INTER_AREA), np.float32)
    return turn_back(colours, raster.orientation)


def _seen(gray: Floats, net: Network, name: str, hint: Floats | None = None) -> Floats:
    """(h, w, 2) a, b that the network gives the gray picture (h, w, 3)."""
    height, width = gray.shape[:2]
    below, beside = -height % MULTIPLE_PX, -width % MULTIPLE_PX
    given = np.pad(gray, ((0, below), (0, beside), (0, 0)), mode="edge")
    planes = np.broadcast_to(hint, (*given.shape[:2], HINTS)) if hint is not None else given[:, :, :0]
    made = net(np.ascontiguousarray(np.concatenate([given, planes], axis=2))[None])[0]
    if made.shape != given.shape:
        raise WrongSize(name, expected=f"a picture {given.shape}", found=str(made.shape))
    if not np.isfinite(made).all():
        raise NonFiniteOutput(name, expected="finite colours", found="NaN or infinity", evidence=given)
    colours = cv2.cvtColor(np.clip(made[:height, :width], 0, 1), cv2.COLOR_RGB2Lab)[:, :, 1:]
    return np.ascontiguousarray(colours, np.float32)


def lay(raster: Raster, colours: Floats, name: str, *, saturation: float = 1.0) -> Raster:
    """``raster`` in RGB with CIELAB a, b of ``colours`` (h, w, 2) and its own lightness, in its own bit depth.

    Colours are brought to full size and go with its lightness (``_guide``); ``saturation`` times them is laid. A
    gray raster becomes sRGB and says so by an sRGB profile (a gray profile never travels into an RGB picture); an RGB
    one keeps its space. In bands: memory holds the scan and its result. Raises LightnessChanged when any pixel's
    lightness would differ by more than one level of 8 bits.
    """
    height, width, channels = raster.pixels.shape
    top_value = np.iinfo(raster.pixels.dtype).max
    out = np.empty((height, width, 3), raster.pixels.dtype)
    space = space_of(raster)
    guide = _guide(raster, colours * np.float32(saturation))
    for top in range(0, height, BAND_ROWS):
        bottom = min(top + BAND_ROWS, height)
        own = region(raster.pixels, top, bottom, 0, width)
        srgb = space.to_srgb(own)
        gray = encoded(linear(srgb) @ LUMINANCE)
        coloured = _with_lightness_of(gray, _guided(guide, gray, (height, width), top))
        band = coloured
        if channels == 3:
            band = own + space.own_change(own, coloured - srgb)
            for _ in range(CORRECTIONS if space is not SRGB else 0):  # the space's tables are coarse
                coloured += (gray - encoded(linear(space.to_srgb(band)) @ LUMINANCE))[:, :, None]
                band = own + space.own_change(own, coloured - srgb)
        out[top:bottom] = np.clip(np.rint(band * np.float32(top_value)), 0, top_value)
        laid = region(out, top, bottom, 0, width)
        made = laid if channels == 1 else space.to_srgb(laid)
        apart = np.abs(encoded(linear(made) @ LUMINANCE) - gray)
        if (most := float(apart.max()) * 255) > MOST_LEVELS:
            row, column = np.unravel_index(int(apart.argmax()), apart.shape)
            where = f"{most:.2f} at row {top + int(row)}, column {int(column)}"
            raise LightnessChanged(name, expected="lightness changed by at most 1 level of 255", found=where)
    return dataclasses.replace(raster, pixels=out, icc=srgb_profile() if channels == 1 else raster.icc)


def _with_lightness_of(gray: Floats, colours: Floats) -> Floats:
    """(h, w, 3) sRGB of the lightness of ``gray`` (h, w) sRGB and CIELAB ``colours`` (h, w, 2).

    Where sRGB does not hold a colour, the same hue with less chroma stands for it: clipping would change lightness.
    Written out because OpenCV's own conversion rounds lightness to about 14 bits on the way.
    """
    y = linear(gray)
    fy = np.where(y > 0.008856, np.cbrt(y), y * np.float32(7.787) + np.float32(16 / 116))
    light = _light(fy, colours)
    outside = ((light < 0) | (light > 1)).any(axis=2)
    if outside.any():
        light[outside] = _held(fy[outside], colours[outside])
    return encoded(light)


def _light(fy: Floats, colours: Floats) -> Floats:
    """(…, 3) linear sRGB, not clipped, of f(Y) (…) and CIELAB a, b (…, 2)."""
    f = np.stack([fy + colours[..., 0] / 500, fy, fy - colours[..., 1] / 200], axis=-1)
    xyz = np.where(f > 0.206893, f**3, (f - np.float32(16 / 116)) / np.float32(7.787)) * WHITE
    return np.asarray(xyz @ TO_RGB, np.float32)


def _held(fy: Floats, colours: Floats) -> Floats:
    """(n, 3) linear sRGB of the same hue and lightness with the most chroma that sRGB holds, to 1/256 of it."""
    share = np.zeros(len(fy), np.float32)
    for halving in range(1, HALVINGS + 1):
        more = share + np.float32(0.5**halving)
        linear = _light(fy, colours * more[:, None])
        share = np.where(((linear >= 0) & (linear <= 1)).all(axis=1), more, share)
    return _light(fy, colours * share[:, None])


def _guide(raster: Raster, colours: Floats) -> Floats:
    """(h, w, 5) for each small pixel: a, b, how they go with lightness around it (two slopes), and its own lightness.

    The slopes are those of the guided filter (K. He et al., 2010) within 3 x 3 small pixels, averaged over as many:
    zero where lightness is even.
    """
    size = (colours.shape[1], colours.shape[0])
    seen = srgb8(raster, long_side_px=max(size), upright=False).astype(np.float32) / np.float32(255)
    gray = encoded(linear(seen) @ LUMINANCE)
    if gray.shape != size[::-1]:
        gray = np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), np.float32)

    def mean(values: Floats) -> Floats:
        return np.asarray(cv2.blur(values, (3, 3), borderType=cv2.BORDER_REPLICATE), np.float32)

    light, colour = mean(gray), mean(colours)
    spread = mean(gray * gray) - light * light + np.float32(GUIDE_CONTRAST**2)
    slope = (mean(np.asarray(gray[:, :, None] * colours, np.float32)) - light[:, :, None] * colour) / spread[:, :, None]
    return np.concatenate([colours, mean(np.asarray(slope, np.float32)), gray[:, :, None]], axis=2)


def _guided(guide: Floats, gray: Floats, size: tuple[int, int], top: int) -> Floats:
    """(rows, W, 2) a, b of the rows from ``top`` of a picture of ``size`` whose lightness there is ``gray``.

    Enlarged linearly; where lightness differs from what the small picture knew of it, colour goes along.
    """
    down, across = guide.shape[0] / size[0], guide.shape[1] / size[1]
    where = np.array([[across, 0, (across - 1) / 2], [0, down, (top + 0.5) * down - 0.5]], np.float64)
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    to = (size[1], gray.shape[0])
    large = [
        np.asarray(cv2.warpAffine(part, where, to, flags=how, borderMode=cv2.BORDER_REPLICATE), np.float32)
        for part in (np.ascontiguousarray(guide[:, :, :4]), np.ascontiguousarray(guide[:, :, 4]))
    ]
    return np.asarray(large[0][:, :, :2] + large[0][:, :, 2:] * (gray - large[1])[:, :, None], np.float32)
