"""TIFF, read by our own lines: the libraries fill missing or short tiles with zeros and say nothing.

TIFF 6.0 with Adobe's Technical Note 2 (JPEG) and BigTIFF; 8 and 16 bits, gray and RGB, strips and tiles.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.codecs.directory import Directory, exif_block, tiff_head
from models.codecs.jpeg import read_jpeg
from models.codecs.stored import COLOURS, DEPTHS, Broken, Buffer, Foreign, Pixels, Stored, check_opaque

_COMPRESSIONS = {1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32946: "deflate", 32773: "PackBits", 50000: "zstd"}
_FOREIGN_COMPRESSIONS = {2: "CCITT", 3: "CCITT G3", 4: "CCITT G4", 6: "old-style JPEG"} | {
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    50001: "WebP",
}
_PHOTOMETRICS = {3: "a palette picture", 4: "a transparency mask", 5: "CMYK", 6: "uncompressed YCbCr"} | {
    8: "CIE L*a*b*",
    9: "ICC L*a*b*",
    32803: "a colour filter array",
    34892: "linear raw",
}
_SAMPLE_FORMATS = {2: "signed integers", 3: "floating-point samples", 5: "complex integers", 6: "complex floats"}
_SEGMENT_LIMIT = 1 << 26  # pixels of a tile larger than the picture: nobody tiles so, only a bomb does


def open_tiff(data: Buffer) -> Stored:
    """The TIFF file in ``data``: its first full page, and how many there are; raises Broken."""
    order, big, offset = tiff_head(data)
    pages: list[Directory] = []
    seen: set[int] = set()
    while offset:
        if offset in seen:
            raise Broken("a chain of pages that ends", f"a circle at byte {offset}")
        seen.add(offset)
        pages.append(Directory(data, offset, order, big))
        offset = pages[-1].next if len(seen) < 10_000 else 0
    if not pages:
        raise Broken("a TIFF with a page", "none")
    # Thumbnails and transparency masks are no pages of their own.
    main = [p for p in pages if not p.number(254, 0) & 0b101 and p.number(255, 1) != 2] or pages[:1]
    page, notes = main[0], list[str]()
    width, height = page.number(256, 0), page.number(257, 0)
    if width < 1 or height < 1:
        raise Broken("a width and a height", f"{width} x {height} pixels")
    try:
        exif = exif_block(page.entries())
    except Broken:
        exif = None
        notes.append("unreadable Exif block dropped")
    bits = page.numbers(258, (1,))
    return Stored(
        media_type="image/tiff", width=width, height=height, channels=page.number(277, 1), bits=int(bits[0]),
        read=lambda: _read_tiff(data, page, order, width, height),
        pages=len(main), refusal=_refuse_tiff(page, len(main)), icc=page.block(34675), dpi=page.dpi(),
        orientation=page.orientation(), exif=exif, xmp=page.block(700), iptc=page.block(33723),
        description=page.text(270), notes=tuple(notes),
    )  # fmt: skip


def _refuse_tiff(page: Directory, pages: int) -> Foreign | None:
    """What makes this TIFF a picture that is not restored, in words; None where nothing does."""
    bits, formats = set(page.numbers(258, (1,)).tolist()), set(page.numbers(339, (1,)).tolist())
    compression, photometric, samples = page.number(259, 1), page.number(262, 1), page.number(277, 1)
    if pages > 1:
        return Foreign("one page", f"{pages} pages")
    if photometric not in (0, 1, 2) and not (photometric == 6 and compression == 7):
        return Foreign(COLOURS, _PHOTOMETRICS.get(photometric, f"photometric interpretation {photometric}"))
    if formats - {1, 4}:
        return Foreign("unsigned integer samples", _SAMPLE_FORMATS.get(formats.pop(), f"sample formats {formats}"))
    if len(bits) > 1 or not bits & ({8} if compression == 7 else {8, 16}):
        return Foreign(DEPTHS, " and ".join(str(b) for b in sorted(bits)) + (" bit" if bits == {1} else " bits"))
    if compression not in _COMPRESSIONS:
        found = _FOREIGN_COMPRESSIONS.get(compression, f"compression {compression}")
        return Foreign("compression none, LZW, deflate, PackBits, zstd or JPEG", found)
    if page.number(317, 1) not in (1, 2):
        return Foreign("no predictor or the horizontal one", f"predictor {page.number(317, 1)}")
    if page.number(266, 1) != 1:
        return Foreign("the usual order of bits", f"fill order {page.number(266, 1)}")
    if photometric == 6 and page.number(284, 1) == 2:
        return Foreign("YCbCr samples side by side", "YCbCr in separate planes")
    colours = 1 if photometric in (0, 1) else 3
    if samples not in (colours, colours + 1):
        return Foreign(f"{colours} channels and at most one of alpha", f"{samples} channels")
    return None


def _read_tiff(data: Buffer, page: Directory, order: str, width: int, height: int) -> tuple[Pixels, list[str]]:
    """Pixels (H, W, 1|3) of a page that ``_refuse_tiff`` let pass: every strip or tile there, whole, in its place."""
    photometric, samples, planar = page.number(262, 1), page.number(277, 1), page.number(284, 1) == 2
    compression, predictor = page.number(259, 1), page.number(317, 1)
    dtype = np.dtype(np.uint8 if page.number(258, 1) == 8 else np.uint16)
    colours = 1 if photometric in (0, 1) else 3
    tiled = 322 in page or 324 in page
    what = "tile" if tiled else "strip"
    wide, tall = (page.number(322, 0), page.number(323, 0)) if tiled else (width, min(page.number(278, height), height))
    if wide < 1 or tall < 1 or wide * tall > max(_SEGMENT_LIMIT, width * height):
        raise Broken(f"{what}s of a sane size", f"{wide} x {tall} pixels")
    across, down, channels = -(-width // wide), -(-height // tall), 1 if planar else samples
    total = across * down * (samples if planar else 1)
    offsets = page.numbers(324 if tiled and 324 in page else 273)
    counts = page.numbers(325 if tiled and 325 in page else 279)
    if not len(counts) and compression == 1 and len(offsets) == total == down:  # allowed by TIFF 5 for plain strips
        rows = np.minimum(tall, height - tall * np.arange(down))
        counts = rows * (width * channels * dtype.itemsize)
    if len(offsets) != total or len(counts) != total or {offsets.dtype.kind, counts.dtype.kind} - set("ui"):
        raise Broken(f"{total} {what}s", f"{len(offsets)} offsets and {len(counts)} sizes")
    tables = page.block(347) or b""
    pixels: Pixels = np.empty((height, width, colours), dtype)

    def place(i: int) -> None:
        plane, at = divmod(i, across * down)
        y, x = at // across * tall, at % across * wide
        rows, columns = min(tall, height - y), min(wide, width - x)
        start, size = int(offsets[i]), int(counts[i])
        if size < 1 or start < 8 or start + size > len(data):
            found = f"no {what}" if size < 1 else f"one that ends at byte {start + size} of {len(data)}"
            found = f"one in the header, at byte {start}" if size > 0 and start < 8 else found
            raise Broken(f"{what} {i + 1} of {total}", found)
        need = tall if tiled else rows
        try:
            if compression == 7:
                stream = data[start : start + size]
                segment: Pixels = _read_jpeg_segment(stream, tables, need, wide, channels, photometric == 2)
            else:
                raw = _unpack(data, start, size, compression, tall * wide * channels * dtype.itemsize)
                segment = _shape(raw, dtype.newbyteorder(">" if order == ">" else "<"), (need, wide, channels))
        except Broken as error:
            raise Broken(f"{what} {i + 1} of {total}: {error.expected}", error.found) from error
        if predictor == 2 and compression in (5, 8, 32946, 50000):
            segment = _undo_differences(segment)
        if planar and plane < colours:
            pixels[y : y + rows, x : x + columns, plane] = segment[:rows, :columns, 0]
        elif not planar:
            pixels[y : y + rows, x : x + columns] = segment[:rows, :columns, :colours]
        if (plane if planar else samples - 1) >= colours:
            check_opaque(segment[:rows, :columns, -1:])

    if compression == 1:
        for i in range(total):
            place(i)
    else:
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            _run_all(pool, place, total)
    notes = ["opaque alpha dropped"] if samples > colours else []
    if photometric == 0:
        np.invert(pixels, out=pixels)
        notes.append("white-is-zero inverted to black-is-zero")
    return pixels, notes


def _run_all(pool: ThreadPoolExecutor, place: Callable[[int], None], total: int) -> None:
    """Calls ``place`` for 0 .. total - 1; the first error ends it, and what has not begun is not begun."""
    try:
        for _ in pool.map(place, range(total)):
            pass
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise


def _undo_differences(segment: Pixels) -> Pixels:
    import imagecodecs

    whole: Pixels = imagecodecs.delta_decode(segment, axis=1)
    return whole


def _unpack(data: Buffer, start: int, size: int, compression: int, room: int) -> Buffer | NDArray[np.uint8]:
    """The decompressed bytes of one strip or tile, ``room`` at most (a last strip may be compressed at full height)."""
    import imagecodecs

    if compression == 1:
        return np.frombuffer(data, np.uint8, size, start)
    decoders = {5: imagecodecs.lzw_decode, 32773: imagecodecs.packbits_decode, 50000: imagecodecs.zstd_decode}
    decoder = decoders.get(compression, imagecodecs.deflate_decode)
    try:
        unpacked = bytes(decoder(data[start : start + size], out=room))
    except (RuntimeError, ValueError) as error:
        raise Broken(f"at most {room} bytes of sound {_COMPRESSIONS[compression]} data", str(error)) from error
    return unpacked


def _shape(raw: Buffer | NDArray[np.uint8], dtype: np.dtype[Any], shape: tuple[int, int, int]) -> Pixels:
    """``raw`` as native samples (rows, columns, channels); more than that is padding, less is Broken."""
    need = math.prod(shape) * dtype.itemsize
    if len(raw) < need:
        raise Broken(f"{need} bytes", f"{len(raw)} bytes")
    segment: Pixels = np.frombuffer(raw, dtype, math.prod(shape)).reshape(shape)
    return segment if segment.dtype.isnative else segment.astype(np.uint16)


def _read_jpeg_segment(
    stream: bytes, tables: bytes, rows: int, columns: int, channels: int, is_rgb: bool
) -> NDArray[np.uint8]:
    """One JPEG strip or tile, made a whole JPEG file: tables spliced in, and Adobe's marker to say RGB or YCbCr."""
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + (b"\0" if is_rgb else b"\x01")
    inner = tables[2:].removesuffix(b"\xff\xd9")
    return read_jpeg(b"\xff\xd8" + adobe + inner + stream[2:], (rows, columns, channels))
