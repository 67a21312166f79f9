"""JPEG: baseline and progressive, 8 bits, gray and colour; whatever libjpeg would only warn of is an error."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.codecs.directory import exif_facts
from models.codecs.stored import COLOURS, DEPTHS, Broken, Buffer, Foreign, Stored, as_text

_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # ends coded data: neither a stuffed byte nor a restart
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_JPEG_PROCESSES = {0xC0, 0xC1, 0xC2}
_SCAN_LIMIT = 100  # ten are usual; each is a way through the whole picture, and a file may name thousands


@dataclass(frozen=True, slots=True)
class _Frame:
    process: int
    bits: int
    height: int
    width: int
    channels: int

    def refusal(self) -> Foreign | None:
        if self.bits != 8:
            return Foreign(DEPTHS, f"{self.bits} bits")
        if self.process not in _JPEG_PROCESSES:
            return Foreign("baseline or progressive JPEG", f"JPEG process SOF{self.process - 0xC0}")
        if self.channels not in (1, 3):
            return Foreign(COLOURS, "CMYK" if self.channels == 4 else f"{self.channels} channels")
        return None


def _walk_jpeg(data: Buffer) -> tuple[_Frame, list[tuple[int, int, int]]]:
    """The frame header and every (marker, start, end) segment up to the end marker; raises Broken."""
    frame: _Frame | None = None
    segments: list[tuple[int, int, int]] = []
    at, scans = 2, 0
    while True:
        while data[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        head = data[at : at + 4]
        if len(head) < 2 or head[0] != 0xFF:
            raise Broken("a JPEG up to its end marker", f"an end or no marker at byte {at} of {len(data)}")
        if head[1] == 0xD9:
            break
        if len(head) < 4 or at + 2 + (length := int.from_bytes(head[2:4], "big")) > len(data) or length < 2:
            raise Broken("a whole JPEG segment", f"a cut one at byte {at} of {len(data)}")
        start, at = at + 4, at + 2 + length
        segments.append((head[1], start, at))
        if head[1] in _FRAMES and frame is None:
            if length < 8:
                raise Broken("a JPEG frame header", f"{length} bytes")
            bits, height, width, channels = struct.unpack(">BHHB", data[start : start + 6])
            frame = _Frame(head[1], bits, height, width, channels)
        elif head[1] == 0xDA:
            scans += 1
            end = _NEXT_MARKER.search(data, at)
            if end is None:
                raise Broken("a JPEG up to its end marker", f"an end in its coded data at byte {len(data)}")
            at = end.start()
    if frame is None or not 0 < scans <= _SCAN_LIMIT or not frame.width or not frame.height:
        raise Broken(f"a JPEG with a frame and 1 to {_SCAN_LIMIT} scans", f"{frame} and {scans} scans")
    return frame, segments


def read_jpeg(stream: Buffer, shape: tuple[int, int, int] | None = None) -> NDArray[np.uint8]:
    """Pixels (H, W, 1|3) uint8 of a JPEG stream, ``shape`` where it must have one; whatever libjpeg warns of is Broken.

    Rows may be more than ``shape`` asks for (a last strip at full height). Raises Broken, Foreign.
    """
    import simplejpeg  # type: ignore[import-untyped, unused-ignore]

    frame, _ = _walk_jpeg(stream)
    if (refusal := frame.refusal()) is not None:
        raise refusal
    # No Huffman code is shorter than a bit, and every block has one: a small file that promises more is a bomb.
    if (blocks := -(-frame.width // 8) * -(-frame.height // 8)) > 8 * len(stream):
        raise Broken(f"coded data of {blocks} blocks", f"{len(stream)} bytes")
    if shape is not None and ((frame.width, frame.channels) != shape[1:] or frame.height < shape[0]):
        raise Broken(f"a JPEG of {shape}", f"one of {(frame.height, frame.width, frame.channels)}")
    try:
        colours = "GRAY" if frame.channels == 1 else "RGB"
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(stream, colours, strict=True)
    except ValueError as error:
        if "subsampling" not in str(error):
            raise Broken("a JPEG without errors", str(error)) from error
        pixels = _read_odd_jpeg(stream)
    return pixels


def _read_odd_jpeg(stream: Buffer) -> NDArray[np.uint8]:
    """A JPEG whose chroma is sampled in a way TurboJPEG does not name; libjpeg's warnings are lost here."""
    import imagecodecs

    try:
        pixels: NDArray[np.uint8] = imagecodecs.jpeg8_decode(bytes(stream), outcolorspace="RGB")
    except (RuntimeError, ValueError) as error:
        raise Broken("a JPEG without errors", str(error)) from error
    return pixels if pixels.ndim == 3 else pixels[..., None]


def open_jpeg(data: Buffer) -> Stored:
    """The JPEG file in ``data``, its coded data walked to the end marker; raises Broken."""
    frame, segments = _walk_jpeg(data)
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    comment: str | None = None
    dpi: tuple[float, float] | None = None
    orientation, notes, profile = 1, list[str](), dict[int, bytes]()
    for marker, start, end in segments:
        body = bytes(data[start:end])
        if marker == 0xE0 and body[:5] == b"JFIF\0" and len(body) >= 12:
            unit, x, y = struct.unpack(">BHH", body[7:12])
            factor = {1: 1.0, 2: 2.54}.get(unit, 0.0)
            dpi = (x * factor, y * factor) if x and y and factor else dpi
        elif marker == 0xE1 and body[:6] == b"Exif\0\0" and exif is None:
            exif = body[6:]
        elif marker == 0xE1 and body[:29] == b"http://ns.adobe.com/xap/1.0/\0" and xmp is None:
            xmp = body[29:]
        elif marker == 0xE2 and body[:12] == b"ICC_PROFILE\0" and len(body) > 14:
            profile[body[12]] = body[14:]
        elif marker == 0xED and body[:14] == b"Photoshop 3.0\0":
            iptc = _photoshop_iptc(body[14:]) or iptc
        elif marker == 0xFE and comment is None:
            comment = as_text(body.split(b"\0")[0])
    if exif is not None:
        orientation, exif_dpi, description = exif_facts(exif, notes)
        dpi, comment = dpi or exif_dpi, description or comment
    return Stored(
        media_type="image/jpeg", width=frame.width, height=frame.height, channels=frame.channels, bits=frame.bits,
        read=lambda: (read_jpeg(data), []), refusal=frame.refusal(),
        icc=b"".join(profile[n] for n in sorted(profile)) or None,
        dpi=dpi, orientation=orientation, exif=exif, xmp=xmp, iptc=iptc, description=comment, notes=tuple(notes),
    )  # fmt: skip


def _photoshop_iptc(block: bytes) -> bytes | None:
    """The IPTC record (resource 0x0404) of a Photoshop resource block."""
    at = 0
    while block[at : at + 4] == b"8BIM" and len(block) >= at + 12:
        name = 1 + block[at + 6]
        begin = at + 6 + name + name % 2 + 4
        size = int.from_bytes(block[begin - 4 : begin], "big")
        if block[at + 4 : at + 6] == b"\x04\x04":
            return block[begin : begin + size] or None
        at = begin + size + size % 2
    return None
