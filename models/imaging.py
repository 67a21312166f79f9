"""Rasters and masks: TIFF, PNG and JPEG in and out without losing bit depth, ICC, dpi or metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MEDIA_TYPES = {"image/tiff": ".tif", "image/png": ".png", "image/jpeg": ".jpg"}


class ImagingError(Exception):
    """Root of what imaging raises. ``str()`` names the file, what was expected and what was found."""

    def __init__(self, name: str, *, expected: str, found: str) -> None:
        super().__init__(f"{name}: expected {expected}, found {found}")
        self.name, self.expected, self.found = name, expected, found


class UnreadableImage(ImagingError):
    """Not an image of a supported type, or one that does not decode to its last pixel."""


class UnsupportedImage(ImagingError):
    """A sound image of a kind that is not restored: real alpha, CMYK, palette, 1 bit, float, several pages."""


class OversizedImage(ImagingError):
    """More pixels or bytes than the limits allow; found in the header, before decoding."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is checked before decoding."""

    max_megapixels: float = 400.0
    max_bytes: int = 4_000_000_000


@dataclass(frozen=True, slots=True)
class Header:
    """What the file says of itself, read without decoding pixels."""

    media_type: str
    width: int
    height: int
    channels: int  # as stored, alpha included
    bits: int
    pages: int


@dataclass(frozen=True, slots=True)
class Metadata:
    """Metadata blocks carried unchanged from the scan to its derivatives; ``None`` where the scan has none."""

    exif: bytes | None = None  # TIFF-structured Exif block, without the "Exif\\0\\0" prefix
    xmp: bytes | None = None
    iptc: bytes | None = None
    description: str | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Raster:
    """Pixels in hand, exactly as stored.

    ``pixels``: (H, W, C) with C = 3 (RGB) or 1 (gray), uint8 or uint16, C-contiguous, in the picture's own colour
    space and in *stored* orientation. ``icc``: the embedded profile or ``None`` (then sRGB, or gray of gamma 2.2).
    ``dpi``: (x, y) or ``None``. ``orientation``: the Exif/TIFF tag 274, 1..8, never applied to ``pixels``.
    ``notes``: facts of decoding an archivist must see, such as ``"opaque alpha dropped"``.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    orientation: int = 1
    metadata: Metadata = field(default_factory=Metadata)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        p = self.pixels
        if p.ndim != 3 or p.shape[2] not in (1, 3) or p.dtype not in (np.uint8, np.uint16) or 0 in p.shape:
            raise ValueError(f"Raster: expected (H, W, 1|3) uint8|uint16, found {p.shape} {p.dtype}")

    @property
    def height(self) -> int:
        """Rows, stored orientation."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns, stored orientation."""
        return int(self.pixels.shape[1])

    @property
    def bits(self) -> int:
        """8 or 16."""
        return int(self.pixels.dtype.itemsize) * 8

    @property
    def megapixels(self) -> float:
        """Millions of pixels."""
        return self.height * self.width / 1e6

    def with_pixels(self, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> Raster:
        """The same picture with other pixels; ICC, dpi, orientation and metadata stay."""
        return replace(self, pixels=pixels)


@dataclass(frozen=True, eq=False, slots=True)
class Mask:
    """Damage: ``values`` (H, W) float32 in [0, 1], 1 = damaged; same size and orientation as its raster."""

    values: NDArray[np.float32]

    def __post_init__(self) -> None:
        v = self.values
        if v.ndim != 2 or v.dtype != np.float32:
            raise ValueError(f"Mask: expected (H, W) float32, found {v.shape} {v.dtype}")

    @property
    def coverage(self) -> float:
        """Share of pixels at or above 0.5."""
        return float(np.count_nonzero(self.values >= 0.5) / self.values.size)


def probe(path: Path, name: str, limits: Limits = Limits()) -> Header:
    """The header of the image file at ``path``, by content and not by extension; pixels are not decoded.

    Raises UnreadableImage, OversizedImage (pixels or bytes over ``limits``).
    """
    raise NotImplementedError


def decode(path: Path, name: str, limits: Limits = Limits()) -> Raster:
    """The picture at ``path``, decoded to its last pixel; ``name`` is what errors call it.

    Opaque alpha is dropped with a note. Raises UnreadableImage, UnsupportedImage, OversizedImage.
    """
    raise NotImplementedError


def write_tiff(raster: Raster, path: Path, *, software: str | None = None, xmp: bytes | None = None) -> None:
    """Writes ``raster`` as a lossless TIFF (deflate, predictor, tiled; BigTIFF when needed).

    Keeps bit depth, ICC, dpi, orientation and metadata (``xmp`` replaces the raster's packet).
    The same raster gives the same bytes.
    """
    raise NotImplementedError


def write_png(raster: Raster, path: Path) -> None:
    """Writes ``raster`` as PNG, 8 or 16 bit, with ICC and dpi. The same raster gives the same bytes."""
    raise NotImplementedError


def write_jpeg(raster: Raster, path: Path, *, quality: int = 88) -> None:
    """Writes an 8-bit ``raster`` as JPEG with ICC and dpi: previews and sheets only."""
    raise NotImplementedError


def write_mask(mask: Mask, path: Path) -> None:
    """Writes ``mask`` as an 8-bit gray PNG (0..255)."""
    raise NotImplementedError


def read_mask(path: Path, name: str) -> Mask:
    """The mask that ``write_mask`` wrote, to 1/255."""
    raise NotImplementedError


def srgb8(raster: Raster, *, long_side_px: int | None = None, upright: bool = True) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 sRGB for looking at: profile converted, area-reduced to ``long_side_px``, turned upright."""
    raise NotImplementedError


def luminance(raster: Raster) -> NDArray[np.float32]:
    """(H, W) float32 in [0, 1]: Rec. 709 luma of the stored values, no profile applied; what detection looks at."""
    raise NotImplementedError


def pixel_sha256(raster: Raster, *, outside: Mask | None = None) -> str:
    """sha256 over shape, dtype and pixel values; with ``outside``, only over pixels where that mask is 0."""
    raise NotImplementedError


def label_xmp(packet: bytes | None, properties: Sequence[tuple[str, str]]) -> bytes:
    """An XMP packet equal to ``packet`` (or new) with ``properties`` set: (``"{namespace}name"``, text) pairs."""
    raise NotImplementedError
