"""Rasters and masks: TIFF, PNG, JPEG and JPEG 2000 in and out without losing bit depth, ICC, dpi or metadata."""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from models import codecs
from models.codecs.directory import (
    EXIF_IFD,
    GPS_IFD,
    Entries,
    Field,
    append_directories,
    exif_block,
    read_exif,
)
from models.codecs.jp2 import EXIF_UUID, IPTC_UUID, XMP_UUID, encode_jp2
from models.codecs.png import encode_png
from models.codecs.xmp import label_packet

_Sample = TypeVar("_Sample", np.uint8, np.uint16, np.float32)

MEDIA_TYPES = {"image/tiff": ".tif", "image/png": ".png", "image/jpeg": ".jpg", "image/jp2": ".jp2"}
BIGTIFF_FROM_BYTES = 3_900_000_000  # a classic TIFF ends at 4 GiB; noise may grow a little under deflate


DAMAGED = 0.5  # at or above this value of the mask a pixel is filled; below it is the master's own, bit by bit


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
    """Damage of (H, W) pixels from 0 to 1, 1 = damaged; same size and orientation as its raster.

    ``stored``: float32 in [0, 1], or uint8 with 255 for 1, as masks are at rest: a quarter of the memory, which is 600
    MB of a scan of 200 megapixels.
    """

    stored: NDArray[np.float32] | NDArray[np.uint8]

    def __post_init__(self) -> None:
        v = self.stored
        if v.ndim != 2 or v.dtype not in (np.float32, np.uint8):
            raise ValueError(f"Mask: expected (H, W) float32 or uint8, found {v.shape} {v.dtype}")

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.stored.shape[0], self.stored.shape[1]

    @property
    def values(self) -> NDArray[np.float32]:
        """(H, W) float32 in [0, 1]; of a mask stored as uint8 a new array."""
        return self.part(slice(None))

    def part(self, rows: slice) -> NDArray[np.float32]:
        """These rows of ``values``: of a large mask as many as are needed."""
        some = self.stored[rows]
        if some.dtype == np.uint8:
            return np.multiply(some, np.float32(1 / 255), dtype=np.float32)
        return np.asarray(some, np.float32)

    def damaged(self, rows: slice = slice(None)) -> NDArray[np.bool_]:
        """(H, W) what counts as damaged, or these rows of it."""
        some = self.stored[rows]
        return np.asarray(some >= (DAMAGED if some.dtype == np.float32 else round(255 * DAMAGED)), np.bool_)

    @property
    def coverage(self) -> float:
        """Share of pixels that count as damaged."""
        return sum(int(np.count_nonzero(self.damaged(rows))) for rows in _bands(*self.shape)) / self.stored.size


def probe(path: Path, name: str, limits: Limits = Limits()) -> Header:
    """The header of the image file at ``path``, by content and not by extension; pixels are not decoded.

    Raises UnreadableImage, OversizedImage (pixels or bytes over ``limits``).
    """
    stored = _open(path, name, limits)
    return Header(stored.media_type, stored.width, stored.height, stored.channels, stored.bits, stored.pages)


def decode(path: Path, name: str, limits: Limits = Limits()) -> Raster:
    """The picture at ``path``, decoded to its last pixel; ``name`` is what errors call it.

    Opaque alpha is dropped with a note. Raises UnreadableImage, UnsupportedImage, OversizedImage.
    """
    stored = _open(path, name, limits)
    with _named(name):
        if stored.refusal is not None:
            raise stored.refusal
        pixels, notes = stored.read()
    if pixels.shape[:2] != (stored.height, stored.width):
        expected, found = f"{stored.width} x {stored.height} pixels", f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise UnreadableImage(name, expected=expected, found=found)
    if stored.icc is not None:
        notes += _profile_notes(stored.icc, pixels.shape[2])
    return Raster(
        pixels=pixels, icc=stored.icc, dpi=stored.dpi, orientation=stored.orientation,
        metadata=Metadata(stored.exif, stored.xmp, stored.iptc, stored.description),
        notes=(*stored.notes, *notes),
    )  # fmt: skip


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Turns whatever decoding raises into an ImagingError that names the scan; only lack of memory passes."""
    try:
        yield
    except codecs.Foreign as error:
        raise UnsupportedImage(name, expected=error.expected, found=error.found) from error
    except codecs.Broken as error:
        raise UnreadableImage(name, expected=error.expected, found=error.found) from error
    except MemoryError:
        raise
    except Exception as error:  # a parser met bytes that nobody foresaw: the scan is at fault, not the night
        found = f"{type(error).__name__}: {error}"
        raise UnreadableImage(name, expected="an image that decodes", found=found) from error


def _open(path: Path, name: str, limits: Limits) -> codecs.Stored:
    """The container at ``path``, within ``limits``."""
    size = path.stat().st_size
    if size > limits.max_bytes:
        raise OversizedImage(name, expected=f"at most {limits.max_bytes} bytes", found=f"{size} bytes")
    if not size:
        raise UnreadableImage(name, expected="a TIFF, PNG, JPEG or JPEG 2000 file", found="an empty file")
    with path.open("rb") as file, _named(name):
        # Mapped, not read: what a decoder has passed can be given back to the system at any time.
        stored = codecs.open_container(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if stored.width * stored.height > limits.max_megapixels * 1e6:
        expected = f"at most {limits.max_megapixels:g} megapixels"
        found = f"{stored.width} x {stored.height} pixels ({stored.width * stored.height / 1e6:.1f} megapixels)"
        raise OversizedImage(name, expected=expected, found=found)
    return stored


def write_tiff(raster: Raster, path: Path, *, software: str | None = None, xmp: bytes | None = None) -> None:
    """Writes ``raster`` as a lossless TIFF (deflate, predictor, tiled; BigTIFF when needed).

    Keeps bit depth, ICC, dpi, orientation and metadata (``xmp`` replaces the raster's packet).
    The same raster gives the same bytes.

    Of the Exif block, the descriptive tags (maker, model, artist, copyright, date, software, host, titles) become tags
    of the TIFF, and the Exif, GPS and interoperability directories follow the pixels with every value as it was. Its
    thumbnail, its statements on size and resolution, and maker notes' pointers to elsewhere in the old file are lost.
    """
    entries = _exif_entries(raster.metadata.exif)
    meta = raster.metadata
    private = {pointer: entries.pop(pointer) for pointer in (EXIF_IFD, GPS_IFD) if pointer in entries}
    if software is not None:
        entries.pop(305, None)
    big = raster.pixels.nbytes > BIGTIFF_FROM_BYTES
    tags: list[tuple[int, int, int, object, bool]] = [
        (tag, entry.kind, entry.count, entry.raw, True) for tag, entry in entries.items() if isinstance(entry, Field)
    ]
    tags += [(pointer - 1, 16 if big else 4, 1, 0, True) for pointer in private]
    if raster.orientation != 1:
        tags.append((274, 3, 1, raster.orientation, True))
    for tag, kind, block in ((700, 1, meta.xmp if xmp is None else xmp), (33723, 7, meta.iptc)):
        if block:
            tags.append((tag, kind, len(block), block, True))
    pixels = raster.pixels if raster.pixels.shape[2] == 3 else raster.pixels[..., 0]
    side_px = 512 if max(raster.height, raster.width) > 512 else 256
    tifffile.imwrite(
        path, pixels, bigtiff=big, byteorder="<", photometric="rgb" if pixels.ndim == 3 else "minisblack",
        compression="adobe_deflate", compressionargs={"level": 3}, predictor=True, tile=(side_px, side_px),
        planarconfig="contig" if pixels.ndim == 3 else None, maxworkers=min(4, os.cpu_count() or 1), metadata=None,
        software=False if software is None else software.encode(), iccprofile=raster.icc, extratags=tags,
        description=None if meta.description is None else meta.description.encode(),
        resolution=raster.dpi, resolutionunit=None if raster.dpi is None else "inch",
    )  # fmt: skip
    if private:
        append_directories(path, private, big)


def _exif_entries(exif: bytes | None) -> Entries:
    """The entries of an Exif block; ``{}`` where there is none or it cannot be read (decoding has noted that)."""
    try:
        return read_exif(exif)[1] if exif else {}
    except codecs.Broken:
        return {}


def write_png(raster: Raster, path: Path) -> None:
    """Writes ``raster`` as PNG, 8 or 16 bit, with ICC and dpi. The same raster gives the same bytes.

    Exif (descriptive tags, Exif and GPS directories, orientation), XMP and description travel too; IPTC has no place.
    """
    blocks: list[tuple[bytes, bytes]] = []
    if raster.icc:
        blocks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(raster.icc)))
    if raster.dpi is not None:
        blocks.append((b"pHYs", struct.pack(">IIB", *(round(d / 0.0254) for d in raster.dpi), 1)))
    if exif := _upright_exif(raster):
        blocks.append((b"eXIf", exif))
    description, xmp = (raster.metadata.description or "").encode(), raster.metadata.xmp or b""
    texts = (("Description", description), ("XML:com.adobe.xmp", xmp))
    blocks += [(b"iTXt", key.encode() + b"\0\0\0\0\0" + text) for key, text in texts if text]
    path.write_bytes(encode_png(raster.pixels, blocks))


def write_jp2(raster: Raster, path: Path) -> None:
    """Writes ``raster`` as lossless JPEG 2000 (JP2), 8 or 16 bit, with ICC and dpi. The same raster, the same bytes.

    Exif as ``write_png`` has it and the description in it, XMP and IPTC travel in the boxes usual for them.
    """
    meta = raster.metadata
    given = ((EXIF_UUID, _upright_exif(raster, meta.description)), (XMP_UUID, meta.xmp), (IPTC_UUID, meta.iptc))
    blocks = [(uuid, block) for uuid, block in given if block]
    path.write_bytes(encode_jp2(raster.pixels, icc=raster.icc, dpi=raster.dpi, blocks=blocks))


def _upright_exif(raster: Raster, description: str | None = None) -> bytes | None:
    """The raster's Exif block with its orientation and ``description`` in it; None where there is nothing to say."""
    entries = _exif_entries(raster.metadata.exif)
    if description:
        text = description.encode() + b"\0"
        entries[270] = Field(2, len(text), text)
    if raster.orientation != 1:
        entries[274] = Field(3, 1, raster.orientation.to_bytes(2, "little"))
    return exif_block(entries)


def write_jpeg(raster: Raster, path: Path, *, quality: int = 88) -> None:
    """Writes an 8-bit ``raster`` as JPEG with ICC and dpi: previews and sheets only. ValueError on 16 bits."""
    if raster.bits != 8:
        raise ValueError(f"{path.name}: expected 8 bits a sample for JPEG, found {raster.bits}")
    pixels = raster.pixels if raster.pixels.shape[2] == 3 else raster.pixels[..., 0]
    exif = exif_block({274: Field(3, 1, raster.orientation.to_bytes(2, "little"))}) if raster.orientation != 1 else None
    dpi = raster.dpi and (round(raster.dpi[0]), round(raster.dpi[1]))
    Image.fromarray(pixels).save(
        path, "JPEG", quality=quality, optimize=True, icc_profile=raster.icc, dpi=dpi or (0, 0),
        exif=b"Exif\0\0" + exif if exif else b"",
    )  # fmt: skip


def write_mask(mask: Mask, path: Path) -> None:
    """Writes ``mask`` as an 8-bit gray PNG (0..255)."""
    levels = mask.stored
    if levels.dtype != np.uint8:
        levels = np.empty(mask.shape, np.uint8)
        for rows in _bands(*mask.shape):
            levels[rows] = np.rint(np.clip(mask.part(rows), 0.0, 1.0) * 255.0)
    path.write_bytes(encode_png(np.asarray(levels, np.uint8)[:, :, None]))


def read_mask(path: Path, name: str) -> Mask:
    """The mask that ``write_mask`` wrote, to 1/255; raises as ``decode`` does."""
    raster = decode(path, name, Limits(max_megapixels=4000.0))
    if raster.bits != 8 or raster.pixels.shape[2] != 1:
        found = f"{raster.bits} bits, {raster.pixels.shape[2]} channels"
        raise UnsupportedImage(name, expected="an 8-bit gray mask", found=found)
    return Mask(np.ascontiguousarray(raster.pixels[..., 0], np.uint8))


def _bands(height: int, width: int, pixels: int = 1 << 21) -> Iterator[slice]:
    """Slices of rows of about ``pixels`` pixels each: what a whole scan must never need at once as floats."""
    step = max(1, pixels // width)
    for top in range(0, height, step):
        yield slice(top, min(height, top + step))


def srgb8(raster: Raster, *, long_side_px: int | None = None, upright: bool = True) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 sRGB for looking at: profile converted, area-reduced to ``long_side_px``, turned upright."""
    channels = raster.pixels.shape[2]
    pixels: NDArray[Any] = raster.pixels
    scale = 1.0 if long_side_px is None else long_side_px / max(raster.height, raster.width)
    if scale < 1.0:
        size = max(1, round(raster.width * scale)), max(1, round(raster.height * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], channels)
    convert = _to_srgb(raster.icc, channels)
    rgb = np.empty((*pixels.shape[:2], 3), np.uint8)
    for rows in _bands(*pixels.shape[:2]):
        band = pixels[rows]
        narrow = band if band.dtype == np.uint8 else ((band.astype(np.uint32) + 128) // 257).astype(np.uint8)
        rgb[rows] = convert(narrow)
    return turn_upright(rgb, raster.orientation) if upright else rgb


def turn_upright(pixels: NDArray[_Sample], orientation: int) -> NDArray[_Sample]:
    """``pixels`` (H, W, ...) as Exif tag 274 says they are to be seen, C-contiguous."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def turn_back(upright: NDArray[_Sample], orientation: int) -> NDArray[_Sample]:
    """An upright picture (H, W, ...) in stored orientation: what ``turn_upright`` does, undone."""
    if orientation in (2, 3, 6, 7):
        upright = upright[:, ::-1]
    if orientation in (3, 4, 7, 8):
        upright = upright[::-1]
    if orientation >= 5:
        upright = upright.swapaxes(0, 1)
    return np.ascontiguousarray(upright)


_ICC_MODES = {"GRAY": "L", "RGB": "RGB"}


def _open_profile(icc: bytes, channels: int) -> tuple[ImageCms.ImageCmsProfile, str]:
    """A profile and the Pillow mode it reads; ValueError where it is broken or not for such pixels."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        space = profile.profile.xcolor_space.strip()
    except (OSError, ImageCms.PyCMSError) as error:
        raise ValueError("unreadable ICC profile") from error
    if space not in _ICC_MODES or (space == "GRAY" and channels == 3):
        raise ValueError(f"ICC profile for {space}, not for {channels} channels")
    return profile, _ICC_MODES[space]


def _profile_notes(icc: bytes, channels: int) -> list[str]:
    """What is wrong with a profile; its bytes are kept all the same."""
    try:
        _profile_transform(icc, channels)
    except ValueError as error:
        return [str(error)]
    return []


def _profile_transform(icc: bytes, channels: int) -> tuple[ImageCms.ImageCmsTransform, str]:
    """The way from a profile to sRGB and the Pillow mode it reads; ValueError where the profile is of no use."""
    profile, mode = _open_profile(icc, channels)
    # Left to itself, lcms works gray out on a few nodes and is ten levels off in the shadows of a linear scan.
    exact = ImageCms.Flags.NOOPTIMIZE if channels == 1 else ImageCms.Flags.HIGHRESPRECALC
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION | exact
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    try:
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(profile, srgb, mode, "RGB", intent, flags), mode
    except ImageCms.PyCMSError as error:
        raise ValueError("unreadable ICC profile") from error


def _to_srgb(icc: bytes | None, channels: int) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """What turns (h, w, 1|3) uint8 into sRGB: by profile, else RGB as it is and gray from gamma 2.2."""
    if icc is None:
        return _without_profile
    try:
        transform, mode = _profile_transform(icc, channels)
    except ValueError:
        return _without_profile

    def convert(band: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(ImageCms.applyTransform(Image.fromarray(band), transform), np.uint8)

    if channels == 3:
        return convert
    levels = np.arange(256, dtype=np.uint8)[None]  # all a gray picture can hold: convert these, look up the rest
    curve = convert(levels if mode == "L" else np.repeat(levels[..., None], 3, axis=2))[0]
    return lambda band: curve[band[..., 0]]


def _without_profile(band: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if band.shape[2] == 3:
        return band
    linear = (np.arange(256) / 255.0) ** 2.2
    curve = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    return np.repeat(np.rint(curve * 255.0).astype(np.uint8)[band], 3, axis=2)


def luminance(raster: Raster) -> NDArray[np.float32]:
    """(H, W) float32 in [0, 1]: Rec. 709 luma of the stored values, no profile applied; what detection looks at."""
    top = np.float32(1 / np.iinfo(raster.pixels.dtype).max)
    luma = np.empty(raster.pixels.shape[:2], np.float32)
    if raster.pixels.shape[2] == 1:
        return np.multiply(raster.pixels[..., 0], top, out=luma)
    weights = np.array([0.2126, 0.7152, 0.0722], np.float32) * top
    for rows in _bands(raster.height, raster.width):
        cv2.transform(raster.pixels[rows].astype(np.float32), weights[None], dst=luma[rows])
    return np.clip(luma, 0.0, 1.0, out=luma)


def pixel_sha256(raster: Raster, *, outside: Mask | None = None) -> str:
    """sha256 over shape, dtype and pixel values; with ``outside``, only over pixels it does not call damaged."""
    if outside is not None and outside.shape != raster.pixels.shape[:2]:
        raise ValueError(f"pixel_sha256: expected a mask of {raster.pixels.shape[:2]}, found {outside.shape}")
    digest = hashlib.sha256(f"{raster.pixels.shape} {raster.pixels.dtype}".encode())
    for rows in _bands(raster.height, raster.width):
        band = raster.pixels[rows] if outside is None else raster.pixels[rows][~outside.damaged(rows)]
        digest.update(np.ascontiguousarray(band, band.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def label_xmp(packet: bytes | None, properties: Sequence[tuple[str, str]]) -> bytes:
    """An XMP packet equal to ``packet`` (or new) with ``properties`` set: (``"{namespace}name"``, text) pairs.

    A property that is there already, in whatever form, is replaced. A broken packet is replaced by one that holds
    ``properties`` and nothing else. The same packet and properties give the same bytes, and labelling twice changes
    nothing more. ValueError on a property without a namespace or with characters XML cannot hold.
    """
    return label_packet(packet, properties)
