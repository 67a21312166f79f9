"""From a scan's own colour space to sRGB and back, in float, tile by tile."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.ImageCms import ImageCmsProfile

from models.imaging import Raster

PROFILE_DATE = struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
STEPS = 18  # 0, 15, …, 255: nodes that 8-bit conversion hits exactly, far enough apart that its rounding stays small
SAME_WITHIN = 1.5 / 255

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class Space:
    """A colour space as two tables, or none where it is sRGB (or gray of about that curve) already.

    ``to_table``, ``from_table``: own -> sRGB and sRGB -> own; (18, 18, 18, 3) by R, G, B, or (18,) for gray.
    """

    to_table: Floats | None = None
    from_table: Floats | None = None

    def to_srgb(self, own: Floats) -> Floats:
        """(h, w, 1|3) in [0, 1] of this space -> (h, w, 3) in [0, 1] of sRGB."""
        if own.shape[2] == 1:
            gray = own if self.to_table is None else _curve(own, self.to_table)
            return np.repeat(gray, 3, axis=2)
        return own if self.to_table is None else _cube(own, self.to_table)

    def own_change(self, own: Floats, residual: Floats) -> Floats:
        """What ``residual``, given in sRGB, changes in this space: (h, w, C), exactly 0 where the residual is 0.

        ``own`` (h, w, C): the picture in this space. Only the difference passes through the tables, so colours that
        sRGB does not hold stay as they are.
        """
        if own.shape[2] == 1:
            residual = residual.mean(axis=2, keepdims=True, dtype=np.float32)
        if self.to_table is None or self.from_table is None:
            return residual
        if own.shape[2] == 1:
            srgb = _curve(own, self.to_table)
            return _curve(srgb + residual, self.from_table) - _curve(srgb, self.from_table)
        srgb = _cube(own, self.to_table)
        return _cube(srgb + residual, self.from_table) - _cube(srgb, self.from_table)


SRGB = Space()
LUMINANCE = np.array([0.212671, 0.715160, 0.072169], np.float32)  # of linear sRGB


def linear(srgb: Floats) -> Floats:
    """Linear light in [0, 1] of encoded sRGB in [0, 1] (IEC 61966-2-1)."""
    high = np.power((srgb + np.float32(0.055)) * np.float32(1 / 1.055), np.float32(2.4))
    return np.asarray(np.where(srgb <= 0.04045, srgb * np.float32(1 / 12.92), high), np.float32)


def encoded(light: Floats) -> Floats:
    """The other way; clipped to [0, 1]."""
    light = np.clip(light, 0, 1)
    curved = np.float32(1.055) * np.power(light, np.float32(1 / 2.4)) - np.float32(0.055)
    return np.asarray(np.where(light <= 0.0031308, light * np.float32(12.92), curved), np.float32)


def srgb_profile() -> bytes:
    """An ICC profile of sRGB, the same bytes every time: LittleCMS writes the time of day into its own."""
    made = ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return made[:24] + PROFILE_DATE + made[36:]


def space_of(raster: Raster) -> Space:
    """The colour space of a raster by its embedded profile; without one, or with one that cannot be used, sRGB.

    A profile that differs from sRGB by less than 1.5 levels anywhere counts as sRGB.
    """
    if raster.icc is None:
        return SRGB
    try:
        profile = ImageCmsProfile(io.BytesIO(raster.icc))
        srgb = ImageCmsProfile(ImageCms.createProfile("sRGB"))
        if raster.pixels.shape[2] == 1:
            return _gray_space(profile, srgb)
        nodes = _nodes()
        to_table = _converted(nodes, profile, srgb).reshape(STEPS, STEPS, STEPS, 3)
        if np.abs(to_table - nodes.reshape(to_table.shape) / np.float32(255)).max() <= SAME_WITHIN:
            return SRGB
        return Space(to_table, _converted(nodes, srgb, profile).reshape(STEPS, STEPS, STEPS, 3))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return SRGB


def _gray_space(profile: ImageCmsProfile, srgb: ImageCmsProfile) -> Space:
    ramp = np.linspace(0, 255, STEPS).round().astype(np.uint8).reshape(-1, 1)
    to_srgb = ImageCms.buildTransform(profile, srgb, "L", "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
    image = ImageCms.applyTransform(Image.fromarray(ramp, "L"), to_srgb)
    if image is None:
        return SRGB
    to_table = np.maximum.accumulate(np.asarray(image)[:, 0, 1].astype(np.float32) / 255)
    own = ramp[:, 0].astype(np.float32) / 255
    if np.abs(to_table - own).max() <= SAME_WITHIN:
        return SRGB
    rising = to_table + np.linspace(0, 1e-4, STEPS, dtype=np.float32)
    return Space(to_table, np.interp(own, rising, own).astype(np.float32))


def _nodes() -> NDArray[np.uint8]:
    axis = np.linspace(0, 255, STEPS).round().astype(np.uint8)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(1, -1, 3)


def _converted(nodes: NDArray[np.uint8], source: ImageCmsProfile, target: ImageCmsProfile) -> Floats:
    transform = ImageCms.buildTransform(source, target, "RGB", "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
    image = ImageCms.applyTransform(Image.fromarray(nodes, "RGB"), transform)
    if image is None:
        raise ValueError("the profile converts nothing")
    return np.asarray(image).astype(np.float32) / np.float32(255)


def _curve(values: Floats, table: Floats) -> Floats:
    axis = np.linspace(0, 1, len(table), dtype=np.float32)
    return np.interp(values, axis, table).astype(np.float32)


def _cube(values: Floats, table: Floats) -> Floats:
    """Trilinear look-up of (h, w, 3) in (R, G, B, 3); values outside [0, 1] count as the nearest inside."""
    volume = torch.from_numpy(table).permute(3, 0, 1, 2)[None]
    where = torch.from_numpy(np.ascontiguousarray(values[None, None, :, :, ::-1])) * 2 - 1  # B is the innermost axis
    found = torch.nn.functional.grid_sample(volume, where, "bilinear", "border", align_corners=True)
    return found[0, :, 0].permute(1, 2, 0).contiguous().numpy()
