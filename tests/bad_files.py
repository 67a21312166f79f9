"""The corpus of bad files: what archives really find in their buckets, made here byte by byte, and what must happen.

Each case is kept (``pixels``: what must come out, to the bit) or goes to quarantine (``error``, and words that its
reason must contain: what was expected, what was found). ``bomb`` marks those that would eat memory or time.
"""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

Pixels = NDArray[Any]
Tag = tuple[int, int, Sequence[int] | bytes]  # number, type, values
SHORT, LONG, RATIONAL, ASCII, UNDEFINED = 3, 4, 5, 2, 7
_WIDTHS = {1: "B", 2: "B", 3: "H", 4: "I", 5: "I", 7: "B", 12: "d"}


@dataclass(frozen=True, eq=False)
class Case:
    """One file. ``name`` is its key; its extension may lie."""

    name: str
    body: bytes
    pixels: Pixels | None = None
    error: str = ""  # UnreadableImage, UnsupportedImage or OversizedImage
    expected: str = ""  # regular expressions
    found: str = ""
    note: str = ""  # of one that is kept
    bomb: bool = False


def _ground(channels: int = 3, bits: int = 8, height: int = 47, width: int = 61) -> Pixels:
    rng = np.random.default_rng(7)
    small = rng.random((4, 5, channels))
    smooth = np.clip(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)
    values = np.clip(smooth.reshape(height, width, channels) * (2**bits - 1), 0, 2**bits - 1)
    noisy = values + rng.normal(0, 2**bits / 100, values.shape)
    return np.clip(noisy, 0, 2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)


RGB, GRAY, DEEP = _ground(3), _ground(1), _ground(3, 16)
HEIGHT, WIDTH = RGB.shape[:2]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


# --- TIFF, put together by hand so that everything in it can be wrong ---


def _directory(tags: Iterable[Tag], at: int, following: int = 0) -> bytes:
    """A little-endian directory that lies at byte ``at``, its long values behind it."""
    rows, values = b"", b""
    listed = list(tags)
    room = at + 2 + 12 * len(listed) + 4
    for number, kind, given in listed:
        packed = given if isinstance(given, bytes) else struct.pack(f"<{len(given)}{_WIDTHS[kind]}", *given)
        count = len(given) // 2 if kind == RATIONAL else len(given)
        if len(packed) > 4:
            rows += struct.pack("<HHII", number, kind, count, room + len(values))
            values += packed + b"\0" * (len(packed) % 2)
        else:
            rows += struct.pack("<HHI", number, kind, count) + packed.ljust(4, b"\0")
    return struct.pack("<H", len(listed)) + rows + struct.pack("<I", following) + values


def tiff(strips: Sequence[bytes], changes: dict[int, Tag | None] | None = None, first: int | None = None) -> bytes:
    """An 8-bit RGB TIFF; ``changes`` replace or remove (None) its tags, ``first`` is where it says its directory is."""
    data, places = b"", []
    for strip in strips:
        places.append(8 + len(data))
        data += strip
    data += b"\0" * (len(data) % 2)
    usual: dict[int, Tag] = {
        256: (256, LONG, [WIDTH]), 257: (257, LONG, [HEIGHT]), 258: (258, SHORT, [8, 8, 8]), 259: (259, SHORT, [1]),
        262: (262, SHORT, [2]), 273: (273, LONG, places), 277: (277, SHORT, [3]),
        278: (278, LONG, [-(-HEIGHT // len(strips))]), 279: (279, LONG, [len(s) for s in strips]),
    }  # fmt: skip
    tags: dict[int, Tag | None] = {**usual, **(changes or {})}
    at = 8 + len(data)
    listed = [tag for _, tag in sorted(tags.items()) if tag is not None]
    return b"II*\0" + struct.pack("<I", at if first is None else first) + data + _directory(listed, at)


def _short(number: int, *values: int) -> dict[int, Tag | None]:
    return {number: (number, SHORT, values)}


def _long(number: int, *values: int) -> dict[int, Tag | None]:
    return {number: (number, LONG, values)}


PLAIN = tiff([RGB.tobytes()])


def _written(pixels: Pixels, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **({"photometric": "rgb" if pixels.shape[-1] == 3 else "minisblack"} | options))
    return file.getvalue()


def _flipped(data: bytes, at: int, bit: int = 0x10) -> bytes:
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


def _tiffs() -> Iterable[Case]:
    unreadable, foreign, oversized = "UnreadableImage", "UnsupportedImage", "OversizedImage"
    packed = zlib.compress(RGB.tobytes())
    deflated = tiff([packed], _short(259, 8))
    half = [RGB[:24].tobytes(), RGB[24:].tobytes()]

    def bad(name: str, body: bytes, expected: str, found: str, error: str = unreadable, bomb: bool = False) -> Case:
        return Case(f"{name}.tif", body, error=error, expected=expected, found=found, bomb=bomb)

    yield bad("truncated in the header", PLAIN[:6], "TIFF header", "6 bytes")
    yield bad("truncated in the directory", PLAIN[:-40], "directory", "bytes")
    yield bad("truncated in the pixels", _written(RGB)[: 256 + 4000], "strip 1 of 1", "ends at byte")
    yield bad("truncated by one byte", _written(RGB)[:-1], "strip 1 of 1", "ends at byte")
    yield bad("bit flipped in deflate", _flipped(deflated, 300), "sound deflate data", ".")
    yield bad("bit flipped in its magic", _flipped(PLAIN, 2), "TIFF, PNG, JPEG", "first bytes 49 49 3a")
    yield bad("directory beyond the end", tiff([RGB.tobytes()], first=1 << 30), "directory at byte 1073741824", "bytes")
    body = bytearray(PLAIN)
    body[8 + 8602 + 2 + 9 * 12 : 8 + 8602 + 6 + 9 * 12] = struct.pack("<I", 8 + 8602)
    yield bad("directory that follows itself", bytes(body), "a chain of pages that ends", "a circle")
    yield bad("size 0 x 0", tiff([b""], _long(256, 0) | _long(257, 0)), "a width and a height", "0 x 0")
    yield bad("width 0", tiff([b"x"], _long(256, 0)), "a width and a height", "0 x 47")
    yield bad("1024 bits a sample", tiff(half, _short(258, 1024, 1024, 1024)), "8 or 16 bits", "1024 bits", foreign)
    yield bad("0 bits a sample", tiff(half, _short(258, 0, 0, 0)), "8 or 16 bits", "0 bits", foreign)
    yield bad("mixed depths", tiff(half, _short(258, 8, 16, 8)), "8 or 16 bits", "8 and 16 bits", foreign)
    yield bad("12 bits", tiff(half, _short(258, 12, 12, 12)), "8 or 16 bits", "12 bits", foreign)
    yield bad("1 bit", _written(GRAY[..., 0] > 99, photometric="minisblack"), "8 or 16 bits", "1 bit", foreign)
    yield bad("palette", tiff([GRAY.tobytes()], {**_short(262, 3), **_short(258, 8), **_short(277, 1)}),
              "gray or RGB", "palette", foreign)  # fmt: skip
    yield bad("cmyk", _written(_ground(4), photometric="separated"), "gray or RGB", "CMYK", foreign)
    yield bad("lab", tiff(half, _short(262, 8)), "gray or RGB", r"L\*a\*b", foreign)
    yield bad("raw colour filter array", tiff(half, _short(262, 32803)), "gray or RGB", "colour filter", foreign)
    yield bad("float32", _written(GRAY[..., 0].astype(np.float32), photometric="minisblack"),
              "unsigned integer", "floating-point", foreign)  # fmt: skip
    yield bad("signed", tiff(half, _short(339, 2, 2, 2)), "unsigned integer", "signed", foreign)
    pages = np.stack([GRAY[..., 0], GRAY[..., 0]])
    yield bad("two pages", _written(pages, photometric="minisblack"), "one page", "2 pages", foreign)
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(RGB, photometric="rgb")
        writer.write(RGB[::4, ::4], photometric="rgb", subfiletype=1)
    yield Case("a page and its thumbnail.tif", file.getvalue(), RGB)
    planes = np.ascontiguousarray(RGB.transpose(2, 0, 1))
    yield Case("planar.tif", _written(planes, photometric="rgb", planarconfig="separate"), RGB)
    separate = _short(284, 2) | _long(278, HEIGHT)
    yield bad("planar with a plane missing", tiff([planes[0].tobytes(), planes[1].tobytes()], separate),
              "3 strips", "2 offsets")  # fmt: skip
    yield bad("no strips", tiff(half, {273: None, 279: None}), "2 strips", "0 offsets and 0 sizes")
    yield bad("strips of 0 bytes", tiff(half, _long(279, 0, 0)), "strip 1 of 2", "no strip")
    yield bad("one strip of two", tiff(half, _long(273, 8) | _long(279, 4392)), "2 strips", "1 offsets")
    yield bad("strip beyond the end", tiff(half, _long(273, 8, 1 << 28)), "strip 2 of 2", "ends at byte")
    yield bad("strip in the header", tiff(half, _long(273, 0, 4400)), "strip 1 of 2", "header")
    yield bad("strip of 4 GB", tiff(half, _long(279, 0xFFFFFFF0, 4209)), "strip 1 of 2", "ends at byte")
    yield bad("strip too short", tiff(half, _long(279, 100, 4209)), "strip 1 of 2: 4392 bytes", "100 bytes")
    yield bad("places that are text", tiff(half, {273: (273, ASCII, b"8\0")}), "numbers in tag 273", "type 2")
    yield bad("two thousand million places", tiff(half, {273: None}) and _swollen(), "tag 273 in the file", "values")
    tiled = _written(RGB, tile=(16, 16))
    yield Case("tiled.tif", tiled, RGB)
    yield bad("a tile missing", _without_tile(tiled), "tile 2 of 12", "no tile")
    tile = _long(322, 1 << 17) | _long(323, 1 << 17) | _long(324, 8) | _long(325, 99) | {273: None, 279: None}
    yield bad("tiles of 17 gigapixels", tiff(half, tile), "tiles of a sane size", "131072 x 131072", bomb=True)
    yield bad("tiles of width 0", tiff(half, {**tile, **_long(322, 0)}), "tiles of a sane size", "0 x ")
    yield bad("lzw garbage", tiff([b"\xa5\x5a" * 3000], _short(259, 5)), "strip 1 of 1", ".")
    yield bad("lzw truncated", tiff([imagecodecs.lzw_encode(RGB.tobytes())[:-900]], _short(259, 5)), "8601 bytes", ".")
    yield bad("packbits garbage", tiff([b"\x81\x00" * 20], _short(259, 32773)), "strip 1 of 1", ".")
    yield bad("zstd garbage", tiff([b"\xff" * 500], _short(259, 50000)), "sound zstd data", ".")
    yield bad(
        "strip that inflates to a gigabyte", tiff([_zeros(1 << 30)], _short(259, 8)), "strip 1 of 1", ".", bomb=True
    )
    yield bad("header of 3600 megapixels", tiff([b"x"], _long(256, 60_000) | _long(257, 60_000)),
              "at most", "60000 x 60000 pixels", oversized, bomb=True)  # fmt: skip
    yield bad("header of 4294967295 x 4294967295", tiff([b"x"], _long(256, 0xFFFFFFFF) | _long(257, 0xFFFFFFFF)),
              "at most", "4294967295 x 4294967295", oversized, bomb=True)  # fmt: skip
    wide = _long(256, 20_000) | _long(257, 20_000) | _long(278, 20_000) | _short(259, 8)
    yield bad("400 megapixels of nothing", tiff([packed], wide), "strip 1 of 1", "8601 bytes", bomb=True)
    yield bad("unknown predictor", tiff([packed], _short(259, 8) | _short(317, 3)), "predictor", "predictor 3", foreign)
    yield bad("bits in the other order", tiff(half, _short(266, 2)), "order of bits", "fill order 2", foreign)
    yield bad("old-style jpeg", tiff(half, _short(259, 6) | _short(262, 6)), ".", "YCbCr|old-style JPEG", foreign)
    yield bad("fax", tiff([b"\0" * 99], {**_short(259, 4), **_short(258, 1), **_short(277, 1), **_short(262, 0)}),
              ".", "1 bit|CCITT G4", foreign)  # fmt: skip
    in_jpeg = _written(RGB, compression="jpeg", compressionargs={"level": 90})
    yield Case("jpeg inside.tif", in_jpeg, tifffile.imread(io.BytesIO(in_jpeg)))
    spoiled = in_jpeg.replace(b"\xff\xdb", b"\xff\xfe")
    yield bad("jpeg inside without a table", spoiled, "a JPEG without errors", ".")
    yield bad("five channels", tiff([b"x"], _short(277, 5) | _short(258, 8, 8, 8, 8, 8)), "3 channels", "5 ch", foreign)
    opaque, sheer = np.dstack([RGB, np.full_like(GRAY, 255)]), np.dstack([RGB, GRAY])
    yield Case("opaque alpha.tif", _written(opaque, photometric="rgb"), RGB, note="opaque alpha dropped")
    yield bad("real alpha.tif", _written(sheer, photometric="rgb"), "opaque", "not opaque", foreign)
    yield Case("16 bits, big-endian.tif", _written(DEEP, byteorder=">"), DEEP)
    yield Case("white is zero.tif", _written(~GRAY, photometric="miniswhite"), GRAY, note="white-is-zero inverted")
    yield Case("bigtiff.tif", _written(RGB, bigtiff=True), RGB)
    yield bad("bigtiff cut", _written(RGB, bigtiff=True)[:12], "TIFF header", "12 bytes")
    yield Case("garbage behind it.tif", _written(RGB) + b"\0\xff" * 999, RGB)
    for name, resolution in {
        "huge dpi": [4_000_000_000, 1], "dpi 0 by 0": [0, 0], "dpi 1 by 0": [1, 0], "tiny dpi": [1, 4_000_000_000],
    }.items():  # fmt: skip
        tags: dict[int, Tag | None] = {n: (n, RATIONAL, resolution) for n in (282, 283)}
        yield Case(f"{name}.tif", tiff(half, tags | _long(278, 24)), RGB)
    yield Case("orientation 99.tif", tiff(half, _short(274, 99) | _long(278, 24)), RGB)
    yield Case("icc of noise.tif", _written(RGB, iccprofile=bytes(range(256)) * 4), RGB, note="unreadable ICC profile")
    yield Case("icc cut.tif", _written(RGB, iccprofile=SRGB[:200]), RGB, note="unreadable ICC profile")
    yield bad("icc outside the file", tiff(half, {34675: (34675, UNDEFINED, b"")}) and _icc_outside(), "tag 34675", ".")
    circle = _long(34665, 8 + 8602)  # the Exif directory is the picture's own
    yield Case("exif that is the picture itself.tif", tiff(half, circle | _long(278, 24)), RGB)
    yield Case("exif beyond the end.tif", tiff(half, _long(34665, 1 << 30) | _long(278, 24)), RGB, note="Exif")


def _swollen() -> bytes:
    """The count of the strips' places is 2,000,000,000."""
    body = bytearray(tiff([RGB[:24].tobytes(), RGB[24:].tobytes()]))
    at = body.index(struct.pack("<HH", 273, LONG))
    body[at + 4 : at + 8] = struct.pack("<I", 2_000_000_000)
    return bytes(body)


def _icc_outside() -> bytes:
    body = bytearray(tiff([RGB.tobytes()], {34675: (34675, UNDEFINED, SRGB)}))
    at = body.index(struct.pack("<HH", 34675, UNDEFINED))
    body[at + 8 : at + 12] = struct.pack("<I", 1 << 30)
    return bytes(body)


def _without_tile(body: bytes) -> bytes:
    with tifffile.TiffFile(io.BytesIO(body)) as opened:
        tag = opened.pages[0].tags[325]  # type: ignore[union-attr]
        at, width = tag.valueoffset, {3: 2, 4: 4}[int(tag.dtype)]
    return body[: at + width] + bytes(width) + body[at + 2 * width :]


@cache
def _zeros(size: int) -> bytes:
    """``size`` zeros, deflated: a thousandth of that."""
    packer, block = zlib.compressobj(9), bytes(1 << 24)
    return b"".join([packer.compress(block) for _ in range(size >> 24)]) + packer.flush()


# --- PNG ---


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(rows: bytes, *extra: bytes, width: int = WIDTH, height: int = HEIGHT, bits: int = 8, colour: int = 2) -> bytes:
    """A PNG of these filtered rows, with extra chunks before them."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    packed = rows if rows[:1] == b"\x78" else zlib.compress(rows)
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _rows(pixels: Pixels) -> bytes:
    return b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in pixels)


def _pngs() -> Iterable[Case]:
    unreadable, foreign, oversized = "UnreadableImage", "UnsupportedImage", "OversizedImage"
    whole = png(_rows(RGB))

    def bad(name: str, body: bytes, expected: str, found: str, error: str = unreadable, bomb: bool = False) -> Case:
        return Case(f"{name}.png", body, error=error, expected=expected, found=found, bomb=bomb)

    yield bad("signature alone", whole[:8], "up to its IEND", "end at byte 8")
    yield bad("cut in its header", whole[:20], "up to its IEND", "end at byte 20")
    yield bad("cut in its pixels", whole[: len(whole) // 2], "up to its IEND", "end at byte")
    yield bad("without its end", whole[:-12], "up to its IEND", "end at byte")
    yield bad("bit flipped in the pixels", _flipped(whole, len(whole) // 2), "chunk IDAT with its checksum", "another")
    yield bad("bad checksum of a text", png(_rows(RGB), _flipped(_chunk(b"tEXt", b"a\0b"), 9)), "chunk tEXt", "another")
    yield bad("chunk of 2 GB", whole[:33] + struct.pack(">I", 0x7FFFFFFF) + b"IDAT", "up to its IEND", "end at byte")
    yield bad("width 0", png(b"\0", width=0), "a PNG header", "0 x 47")
    yield bad("colour type 5", png(_rows(RGB), colour=5), "a PNG header", "colour type 5")
    yield bad("3 bits", png(_rows(RGB), bits=3), "a PNG header", "3 bits")
    yield bad("palette", png(_rows(GRAY), _chunk(b"PLTE", bytes(768)), colour=3), "gray or RGB", "palette", foreign)
    yield bad("palette without its palette", png(_rows(GRAY), colour=3), "gray or RGB", "palette", foreign)
    yield bad("1 bit", png(b"\0" * 9 * HEIGHT, bits=1, colour=0), "8 or 16 bits", "1 bit", foreign)
    yield bad("4 bits", png(b"\0" * 32 * HEIGHT, bits=4, colour=0), "8 or 16 bits", "4 bits", foreign)
    yield bad("rows missing", png(_rows(RGB[:20])), "decodes to its last pixel", ".")
    yield bad("filter 7", png(b"".join(b"\7" + row.tobytes() for row in RGB)), "decodes to its last pixel", ".")
    yield bad("no pixels at all", whole[:33] + _chunk(b"IEND", b""), "a header and pixels", "without")
    yield bad("two headers", whole[:33] + whole[8:], "begins with IHDR", "IHDR")
    yield bad("header of 2147483647 x 2147483647", png(b"\0", width=2**31 - 1, height=2**31 - 1),
              "at most", "2147483647 x 2147483647", oversized, bomb=True)  # fmt: skip
    yield bad("400 megapixels of nothing", png(b"\0", width=20_000, height=20_000), "last pixel", ".", bomb=True)
    yield Case("rows for a gigabyte.png", png(_zeros(1 << 30)), np.zeros_like(RGB), bomb=True)  # the picture is whole
    frames = _chunk(b"acTL", struct.pack(">II", 3, 0))
    yield bad("animated", png(_rows(RGB), frames), "one page", "3 pages", foreign)
    yield Case("animated with one frame.png", png(_rows(RGB), _chunk(b"acTL", struct.pack(">II", 1, 0))), RGB)
    yield Case("16 bits.png", png(_rows(DEEP), bits=16), DEEP)
    opaque, sheer = np.dstack([RGB, np.full_like(GRAY, 255)]), np.dstack([RGB, GRAY])
    yield Case("opaque alpha.png", png(_rows(opaque), colour=6), RGB, note="opaque alpha dropped")
    yield bad("real alpha", png(_rows(sheer), colour=6), "opaque", "not opaque", foreign)
    key = _chunk(b"tRNS", struct.pack(">HHH", *(int(v) for v in RGB[3, 3])))
    yield bad("a colour that is transparent", png(_rows(RGB), key), "opaque", "not opaque", foreign)
    yield Case("garbage behind it.png", whole + b"<html>" * 50, RGB)
    profile = _chunk(b"iCCP", b"x\0\0" + _zeros(1 << 28))
    yield Case("profile of 256 MB.png", png(_rows(RGB), profile), RGB, note="unreadable ICC profile", bomb=True)
    text = _chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + _zeros(1 << 28))
    yield Case("packet of 256 MB.png", png(_rows(RGB), text), RGB, bomb=True)
    yield Case("exif of noise.png", png(_rows(RGB), _chunk(b"eXIf", bytes(range(99)))), RGB, note="unreadable Exif")


# --- JPEG ---


def _jpeg(pixels: Pixels, mode: str | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, "JPEG", **({"quality": 92} | options))
    return file.getvalue()


def _seen(body: bytes) -> Pixels:
    """What libjpeg makes of a sound JPEG."""
    return np.atleast_3d(imagecodecs.jpeg8_decode(body))


def _frame(body: bytes) -> int:
    """Where the frame header's marker is."""
    at = 2
    while body[at + 1] not in (0xC0, 0xC1, 0xC2):
        at += 2 + int.from_bytes(body[at + 2 : at + 4], "big")
    return at


def _framed(body: bytes, **changes: int) -> bytes:
    """A JPEG with another marker, precision, height or width in its frame header."""
    at, out = _frame(body), bytearray(body)
    out[at + 1] = changes.get("marker", out[at + 1])
    out[at + 4] = changes.get("bits", out[at + 4])
    for name, where in (("height", 5), ("width", 7)):
        if name in changes:
            out[at + where : at + where + 2] = struct.pack(">H", changes[name])
    return bytes(out)


def _jpegs() -> Iterable[Case]:
    unreadable, foreign = "UnreadableImage", "UnsupportedImage"
    whole, progressive = _jpeg(RGB), _jpeg(RGB, progressive=True)

    def bad(name: str, body: bytes, expected: str, found: str, error: str = unreadable, bomb: bool = False) -> Case:
        return Case(f"{name}.jpg", body, error=error, expected=expected, found=found, bomb=bomb)

    yield bad("start alone", b"\xff\xd8\xff", "up to its end marker|whole JPEG segment", "byte")
    yield bad("cut in a segment", whole[:100], "a whole JPEG segment", "a cut one")
    yield bad("cut in its pixels", whole[: len(whole) // 2], "up to its end marker", "an end in its coded data")
    yield bad("without its end", whole[:-2], "up to its end marker", "an end in its coded data")
    yield bad("cut and closed", whole[: len(whole) // 2] + b"\xff\xd9", "a JPEG without errors", ".")
    yield bad("progressive, cut and closed", progressive[: len(progressive) * 3 // 4] + b"\xff\xd9", "errors", ".")
    yield bad("a stretch lost", whole[:800] + whole[1100:], "a JPEG without errors", ".")
    yield Case("the usual codes left out.jpg", whole.replace(b"\xff\xc4", b"\xff\xfe"), _seen(whole))
    yield bad("no table of steps", whole.replace(b"\xff\xdb", b"\xff\xfe"), "a JPEG without errors", ".")
    yield bad("12 bits", _framed(whole, marker=0xC1, bits=12), "8 or 16 bits", "12 bits", foreign)
    yield bad("arithmetic", _framed(whole, marker=0xC9), "baseline or progressive", "SOF9", foreign)
    yield bad("lossless", _framed(whole, marker=0xC3), "baseline or progressive", "SOF3", foreign)
    yield bad("height 0", _framed(whole, height=0), "a frame", "height=0")
    yield bad("too high", _framed(whole, height=6000), "coded data of|a JPEG without errors", ".")
    yield bad("a little too high", _framed(whole, height=90), "a JPEG without errors", ".")
    yield Case("header of 4295 megapixels.jpg", _framed(whole, height=65535, width=65535), None, "OversizedImage",
               "at most", "65535 x 65535", bomb=True)  # fmt: skip
    yield Case("346 megapixels of nothing.jpg", _framed(whole, height=18600, width=18600), None, unreadable,
               "coded data of 5405625 blocks", "bytes", bomb=True)  # fmt: skip
    yield bad("1200 scans", _many_scans(progressive), "1 to 100 scans", "and 12.. scans", bomb=True)
    yield bad("cmyk", _jpeg(_ground(4), "CMYK"), "gray or RGB", "CMYK", foreign)
    yield bad("garbage before it", b"\0\0" + whole, "TIFF, PNG, JPEG", "first bytes 00 00 ff d8")
    yield Case("garbage behind it.jpg", whole + bytes(500), _seen(whole))
    yield Case("two in one file.jpg", whole + _jpeg(GRAY[..., 0]), _seen(whole))
    yield Case("gray.jpg", _jpeg(GRAY[..., 0]), _seen(_jpeg(GRAY[..., 0])))
    yield Case("progressive.jpg", progressive, _seen(progressive))
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"
    yield Case("exif cut.jpg", _jpeg(RGB, exif=exif), _seen(whole), note="unreadable Exif block")
    yield Case("icc for ink.jpg", _jpeg(RGB, icc_profile=SRGB[:16] + b"CMYK" + SRGB[20:]), _seen(whole), note="CMYK")


def _many_scans(progressive: bytes) -> bytes:
    """A scan repeated until a decoder would work on it for minutes."""
    start = progressive.rindex(b"\xff\xda")
    return progressive[:start] + progressive[start:-2] * 1200 + b"\xff\xd9"


# --- JPEG 2000 ---


def _jp2s() -> Iterable[Case]:
    unreadable, foreign = "UnreadableImage", "UnsupportedImage"
    whole = bytes(imagecodecs.jpeg2k_encode(RGB, level=0, codecformat="jp2", reversible=True))
    bare = bytes(imagecodecs.jpeg2k_encode(RGB, level=0, codecformat="j2k", reversible=True))
    size = bare.index(b"\xff\x51") + 6

    def bad(name: str, body: bytes, expected: str, found: str, error: str = unreadable) -> Case:
        return Case(f"{name}.jp2", body, error=error, expected=expected, found=found)

    yield bad("signature alone", whole[:12], "a header and a codestream", "without")
    yield bad("cut in its header", whole[:50], "JP2 box", "a cut one")
    yield bad("cut in its pixels", whole[: len(whole) // 2], "JP2 box", "a cut one")
    yield bad("without its end", bare[:-2], "tile-part|end marker", ".")
    yield bad(
        "another size in its header", _flipped(whole, whole.index(b"ihdr") + 7), "header that says", "another size"
    )
    huge = bare[:size] + struct.pack(">II", 60_000, 60_000) + bare[size + 8 :]
    huge = huge[: size + 16] + struct.pack(">II", 60_000, 60_000) + huge[size + 24 :]
    yield Case("header of 3600 megapixels.j2k", huge, None, "OversizedImage", "at most", "60000 x 60000", bomb=True)
    wide = bare[:size] + struct.pack(">II", 18_600, 18_600) + bare[size + 8 :]
    wide = wide[: size + 16] + struct.pack(">II", 18_600, 18_600) + wide[size + 24 :]
    yield Case(
        "346 megapixels of nothing.j2k", wide, None, unreadable, "coded data of 84681 blocks", "bytes", bomb=True
    )
    tiny = bare[: size + 16] + struct.pack(">II", 1, 1) + bare[size + 24 :]
    yield bad("2867 tiles of one pixel", tiny, "tile", ".")
    yield bad("a channel at half size", _flipped(bare, size + 34 + 1, 3), "full resolution", "subsampled", foreign)
    yield bad("12 bits a sample", bytes(imagecodecs.jpeg2k_encode(DEEP >> 4, bitspersample=12, codecformat="jp2")),
              "8 or 16 bits", "12 bits", foreign)  # fmt: skip
    yield Case("bare codestream.j2k", bare, RGB)
    yield Case("sound.jp2", whole, RGB)


# --- what is no scan at all, or is called something else ---


def _strangers() -> Iterable[Case]:
    known = "a TIFF, PNG, JPEG or JPEG 2000 file"

    def saved(kind: str) -> bytes:
        file = io.BytesIO()
        Image.fromarray(RGB).save(file, kind)
        return file.getvalue()

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("scan.tif", PLAIN)
    bodies = {
        "a gif.jpg": saved("GIF"), "a bitmap.jpg": saved("BMP"), "a webp.jpg": saved("WEBP"),
        "a pdf.tif": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n", "a page.jpg": b"<!DOCTYPE html><html>404 Not Found</html>",
        "a drawing.png": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
        "text.tif": "Größe".encode(), "utf-16.tif": "Größe".encode("utf-16"),
        "an archive.tif": archive.getvalue(), "zeros.tif": bytes(4096),
        "packed.tif": gzip.compress(PLAIN, mtime=0), "one byte.jpg": b"\xff", "noise.png": bytes(DEEP[:9].tobytes()),
        "a photoshop file.tif": b"8BPS\0\1" + bytes(40), "heic.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "jpeg xl.jpg": b"\xff\x0a" + bytes(60), "a resource fork.tif": b"\0\5\x16\7\0\2\0\0Mac OS X        ",
        "a program.jpg": b"MZ\x90\0" + bytes(60),
    }  # fmt: skip
    for name, body in bodies.items():
        yield Case(name, body, None, "UnreadableImage", known, "first bytes")
    yield Case("empty.tif", b"", None, "UnreadableImage", ".", "an empty (object|file)")
    yield Case("a tiff called.jpg", PLAIN, RGB)
    yield Case("a png called.tif", png(_rows(RGB)), RGB)
    yield Case("a jpeg called.png", _jpeg(RGB), _seen(_jpeg(RGB)))
    yield Case("no extension", PLAIN + b"\0", RGB)


@cache
def corpus() -> tuple[Case, ...]:
    """Every case; names are distinct, and so are bytes."""
    return (*_tiffs(), *_pngs(), *_jpegs(), *_jp2s(), *_strangers())
