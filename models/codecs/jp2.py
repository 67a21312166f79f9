"""JPEG 2000 (ISO/IEC 15444-1), 8 and 16 bits: JP2 files and bare codestreams, every tile-part there."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from models.codecs.directory import exif_facts
from models.codecs.stored import COLOURS, DEPTHS, Broken, Buffer, Foreign, Pixels, Stored, drop_opaque

SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
CODESTREAM = b"\xff\x4f\xff\x51"
EXIF_UUID = b"JpgTiffExif->JP2"
XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
IPTC_UUID = bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38")
_ENUMERATED = {12: "CMYK", 14: "CIE L*a*b*", 18: "sYCC"}
_SRGB, _GRAY = 16, 17
_PROFILED = {b"CMYK": "CMYK", b"Lab ": "CIE L*a*b*"}


@dataclass(frozen=True, slots=True)
class _Codestream:
    """Where a codestream lies in the file, and its SIZ segment."""

    start: int
    end: int
    width: int
    height: int
    components: tuple[tuple[int, int, int], ...]  # (Ssiz, XRsiz, YRsiz)

    def refusal(self) -> Foreign | None:
        if any((dx, dy) != (1, 1) for _, dx, dy in self.components):
            return Foreign("every channel at full resolution", "subsampled channels")
        if any(size & 0x80 for size, _, _ in self.components):
            return Foreign("unsigned integer samples", "signed integers")
        depths = [size + 1 for size, _, _ in self.components]
        if len(set(depths)) > 1:
            return Foreign("one depth for all channels", f"{', '.join(map(str, depths[:5]))} bits")
        if depths[0] not in (8, 16):
            return Foreign(DEPTHS, f"{depths[0]} bit{'s' * (depths[0] > 1)}")
        if len(depths) > 4:
            return Foreign("3 channels and at most one of alpha", f"{len(depths)} channels")
        return None


@dataclass(slots=True)
class _Wrapping:
    """What the boxes around a codestream say of it."""

    space: int | None = None  # enumerated colour space
    icc: bytes | None = None
    palette: bool = False
    roles: dict[int, tuple[int, int]] = field(default_factory=dict)  # channel: (type, association)
    dpi: tuple[float, float] | None = None

    def refusal(self, channels: int) -> Foreign | None:
        if self.palette:
            return Foreign(COLOURS, "a palette picture")
        if self.space not in (None, _SRGB, _GRAY):
            return Foreign(COLOURS, _ENUMERATED.get(self.space or 0, f"enumerated colour space {self.space}"))
        if self.icc is not None and self.icc[16:20] in _PROFILED:
            return Foreign(COLOURS, _PROFILED[self.icc[16:20]])
        colours = channels - (channels % 2 == 0)
        if self.space is not None and colours != (3 if self.space == _SRGB else 1):
            return Foreign(COLOURS, f"{channels} channels called {'sRGB' if self.space == _SRGB else 'gray'}")
        if any(self.roles.get(n, (0, n + 1)) not in ((0, n + 1), (0, 0)) for n in range(colours)):
            return Foreign("channels in their usual order", "a channel definition that says otherwise")
        # Without a definition, what follows enumerated colours is taken for alpha, as common writers mean it.
        kind = self.roles[colours][0] if colours in self.roles else (1 if self.space and not self.roles else -1)
        if channels > colours and kind not in (1, 2):
            return Foreign(COLOURS, f"{channels} channels, the last of no known meaning")
        return None


def open_jp2(data: Buffer) -> Stored:
    """The JP2 file or bare codestream in ``data``, listed to its last tile-part; raises Broken."""
    notes: list[str] = []
    wrapping, blocks, pages = _Wrapping(), dict[bytes, bytes](), 1
    if data[:4] == CODESTREAM:
        stream = _walk_codestream(data, 0, len(data))
    else:
        boxes = list(_boxes(data, 0, len(data)))
        streams = [(start, end) for name, start, end in boxes if name == b"jp2c"]
        headers = [(start, end) for name, start, end in boxes if name == b"jp2h"]
        if data[:12] != SIGNATURE or not streams or not headers:
            raise Broken("a JP2 file with a header and a codestream", "one without")
        pages = len(streams)
        stream = _walk_codestream(data, *streams[0])
        _read_header(data, *headers[0], stream, wrapping)
        for name, start, end in boxes:
            if name == b"uuid" and end - start > 16:
                blocks.setdefault(bytes(data[start : start + 16]), bytes(data[start + 16 : end]))
    exif = blocks.get(EXIF_UUID, b"").removeprefix(b"Exif\0\0") or None
    orientation, dpi, description = exif_facts(exif, notes) if exif else (1, None, None)
    channels = len(stream.components)
    refusal = Foreign("one page", f"{pages} pages") if pages > 1 else stream.refusal()
    return Stored(
        media_type="image/jp2", width=stream.width, height=stream.height, channels=channels,
        bits=(stream.components[0][0] & 0x7F) + 1, read=lambda: _read_jp2(data, stream), pages=pages,
        refusal=refusal or wrapping.refusal(channels), icc=wrapping.icc, dpi=wrapping.dpi or dpi,
        orientation=orientation, exif=exif, xmp=blocks.get(XMP_UUID), iptc=blocks.get(IPTC_UUID),
        description=description, notes=tuple(notes),
    )  # fmt: skip


def _boxes(data: Buffer, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of the contents of every box between ``at`` and ``end``; raises Broken where one is cut."""
    while at < end:
        head = data[at : min(at + 16, end)]
        size, skip = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, skip = int.from_bytes(head[8:16], "big"), 16
        elif size == 0:
            size = end - at
        if len(head) < skip or size < skip or at + size > end:
            raise Broken("a whole JP2 box", f"a cut one at byte {at} of {len(data)}")
        yield bytes(head[4:8]), at + skip, at + size
        at += size


def _walk_codestream(data: Buffer, start: int, end: int) -> _Codestream:
    """The codestream between ``start`` and ``end``, each tile-part found whole up to the end marker; raises Broken.

    OpenJPEG may take a codestream for whole that ends early, so the lengths of the tile-parts decide.
    """
    head = data[start : min(start + 42, end)]
    if len(head) < 42 or head[:4] != CODESTREAM:
        raise Broken("a JPEG 2000 codestream", f"first bytes {head[:4].hex(' ')}")
    length, _, x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, count = struct.unpack(">HH8IH", head[4:])
    at = start + 4 + length
    if length != 38 + 3 * count or not count or at > end:
        raise Broken("a JPEG 2000 header", f"{count} channels in {length} bytes")
    sizes = struct.iter_unpack(">BBB", data[start + 42 : at])
    components = tuple((int(depth), int(dx), int(dy)) for depth, dx, dy in sizes)
    if not (tile_x0 <= x0 < min(x1, tile_x0 + tile_x) and tile_y0 <= y0 < min(y1, tile_y0 + tile_y)):
        found = f"pixels {x0}..{x1} x {y0}..{y1} in tiles of {tile_x} x {tile_y} from {tile_x0}, {tile_y0}"
        raise Broken("a JPEG 2000 header", found)
    if any(not dx or not dy for _, dx, dy in components):
        raise Broken("a JPEG 2000 header", "a channel sampled every 0 pixels")
    tiles = -((tile_x0 - x1) // tile_x) * -((tile_y0 - y1) // tile_y)
    if tiles > 65535:
        raise Broken("at most 65535 tiles", f"{tiles} tiles")
    while (marker := data[at : min(at + 4, end)])[:2] != b"\xff\x90":
        size = int.from_bytes(marker[2:], "big")
        if len(marker) < 4 or marker[0] != 0xFF or size < 2:
            raise Broken("a JPEG 2000 codestream up to its tiles", f"an end or no marker at byte {at} of {len(data)}")
        at += 2 + size
    _walk_tiles(data, at, end, tiles)
    return _Codestream(start, end, x1 - x0, y1 - y0, components)


def _walk_tiles(data: Buffer, at: int, end: int, tiles: int) -> None:
    """Raises Broken unless every part of all ``tiles`` lies between ``at`` and the end marker."""
    found, expected = [0] * tiles, [1] * tiles
    while (head := data[at : min(at + 12, end)])[:2] == b"\xff\x90":
        if len(head) < 12 or head[2:4] != b"\0\x0a":
            raise Broken("a whole tile-part", f"a cut one at byte {at} of {len(data)}")
        tile, size, _, parts = struct.unpack(">HIBB", head[4:])
        size = size or end - 2 - at
        if tile >= tiles or size < 14 or at + size + 2 > end:
            raise Broken(f"a tile-part of {size} bytes of one of {tiles} tiles", f"tile {tile} cut at byte {end}")
        found[tile] += 1
        expected[tile] = max(expected[tile], parts)
        at += size
    if data[at : min(at + 2, end)] != b"\xff\xd9":
        raise Broken("a JPEG 2000 codestream up to its end marker", f"none at byte {at} of {len(data)}")
    for tile in range(tiles):
        if found[tile] < expected[tile]:
            raise Broken(f"tile {tile + 1} of {tiles} in {expected[tile]} parts", f"{found[tile]} parts")


def _read_header(data: Buffer, start: int, end: int, stream: _Codestream, wrapping: _Wrapping) -> None:
    """Fills ``wrapping`` from the JP2 header box; raises Broken where it contradicts the codestream."""
    boxes = list(_boxes(data, start, end))
    sizes = struct.pack(">IIH", stream.height, stream.width, len(stream.components))
    if not boxes or boxes[0][0] != b"ihdr" or data[boxes[0][1] : boxes[0][1] + 10] != sizes:
        raise Broken("a JP2 header that says what the codestream says", "another size, or none")
    for name, at, stop in boxes:
        body = bytes(data[at:stop])
        if name == b"colr" and body[:1] == b"\1" and len(body) >= 7 and wrapping.space is None:
            wrapping.space = int.from_bytes(body[3:7], "big")
        elif name == b"colr" and body[:1] in (b"\2", b"\3") and wrapping.icc is None:
            wrapping.icc = body[3:] or None
        elif name == b"pclr":
            wrapping.palette = True
        elif name == b"cdef":
            whole = body[2 : 2 + (len(body) - 2) // 6 * 6]
            wrapping.roles = {n: (kind, which) for n, kind, which in struct.iter_unpack(">HHH", whole)}
        elif name == b"res ":  # how it was captured, rather than how it should be displayed
            found = {kind: bytes(data[first:last]) for kind, first, last in _boxes(data, at, stop)}
            wrapping.dpi = _resolution(found.get(b"resc", b"")) or _resolution(found.get(b"resd", b""))


def _resolution(body: bytes) -> tuple[float, float] | None:
    """(x, y) dots an inch of a resolution box, which has them per metre and the vertical one first."""
    if len(body) != 10:
        return None
    up, down, left, right, up_power, left_power = struct.unpack(">HHHHbb", body)
    if not (up and down and left and right):
        return None
    return left / right * 10.0**left_power * 0.0254, up / down * 10.0**up_power * 0.0254


def _threads() -> int:
    return min(4, os.cpu_count() or 1)  # of no influence on a single byte


def _read_jp2(data: Buffer, stream: _Codestream) -> tuple[Pixels, list[str]]:
    import imagecodecs

    # OpenJPEG takes missing packets for empty ones and fills gigabytes with gray. Even a blank sheet's paper has grain:
    # less than a bit for each of the usual 64 x 64 blocks is no scan.
    size, blocks = stream.end - stream.start, -(-stream.width // 64) * -(-stream.height // 64)
    if blocks > 8 * size:
        raise Broken(f"coded data of {blocks} blocks", f"{size} bytes")
    try:  # the bare codestream: OpenJPEG shall not act on what the boxes say
        pixels: Pixels = imagecodecs.jpeg2k_decode(data[stream.start : stream.end], numthreads=_threads())
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise Broken("a JPEG 2000 codestream that decodes to its last pixel", str(error)) from error
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    expected = len(stream.components), np.dtype(f"u{(stream.components[0][0] + 1) // 8}")
    if (pixels.shape[2], pixels.dtype) != expected:
        raise Broken(f"{expected[0]} channels of {expected[1]}", f"{pixels.shape[2]} of {pixels.dtype}")
    notes: list[str] = []
    return drop_opaque(pixels, notes), notes


def encode_jp2(
    pixels: Pixels,
    *,
    icc: bytes | None = None,
    dpi: tuple[float, float] | None = None,
    blocks: Iterable[tuple[bytes, bytes]] = (),
) -> bytes:
    """``pixels`` (H, W, 1|3) uint8 or uint16 as a reversible JP2 file, with (uuid, body) ``blocks`` of metadata.

    The reversible 5/3 wavelet and colour transform in one tile and one layer: decoding gives the very pixels.
    """
    import imagecodecs

    height, width, channels = pixels.shape
    bits = pixels.dtype.itemsize * 8
    stream = imagecodecs.jpeg2k_encode(
        pixels[..., 0] if channels == 1 else pixels, level=0, codecformat="j2k", reversible=True, numthreads=_threads()
    )
    space = b"\2\0\0" + icc if icc else b"\1\0\0" + (_SRGB if channels == 3 else _GRAY).to_bytes(4, "big")
    header = _box(b"ihdr", struct.pack(">IIHBBBB", height, width, channels, bits - 1, 7, 0, 0)) + _box(b"colr", space)
    if dpi is not None and (resolution := _resolution_body(dpi)):
        header += _box(b"res ", _box(b"resc", resolution))
    parts = [SIGNATURE, _box(b"ftyp", b"jp2 \0\0\0\0jp2 "), _box(b"jp2h", header)]
    parts += [_box(b"uuid", uuid + body) for uuid, body in blocks]
    return b"".join([*parts, _box(b"jp2c", bytes(stream))])


def _box(name: bytes, body: bytes) -> bytes:
    if len(body) + 8 < 1 << 32:
        return struct.pack(">I", len(body) + 8) + name + body
    return b"\0\0\0\1" + name + struct.pack(">Q", len(body) + 16) + body


def _resolution_body(dpi: tuple[float, float]) -> bytes:
    """A capture resolution box's contents, the nearest it can say to ``dpi``; empty where that is out of its range."""
    found = []
    for dots in (dpi[1], dpi[0]):
        metre = Fraction(dots).limit_denominator(1000) * 5000 / 127
        near = [((metre / 10**power).limit_denominator(65535), power) for power in range(8)]
        near = [(ratio, power) for ratio, power in near if 0 < ratio.numerator <= 65535]
        if not near:
            return b""
        found.append(min(near, key=lambda choice: abs(choice[0] * 10 ** choice[1] - metre)))
    (up, up_power), (left, left_power) = found
    fractions = up.numerator, up.denominator, left.numerator, left.denominator
    return struct.pack(">HHHHbb", *fractions, up_power, left_power)
