"""PNG, 8 and 16 bits: every chunk against its checksum, every row there."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

from models.codecs.directory import BLOCK_LIMIT, exif_facts
from models.codecs.stored import COLOURS, DEPTHS, Broken, Buffer, Foreign, Pixels, Stored, as_text, drop_opaque

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def open_png(data: Buffer) -> Stored:
    """The PNG file in ``data``, its chunks listed to the last; raises Broken."""
    chunks: dict[bytes, list[tuple[int, int]]] = {}
    at, name = 8, b""
    while name != b"IEND":
        head = data[at : at + 8]
        size, name = int.from_bytes(head[:4], "big"), bytes(head[4:])
        if len(head) < 8 or at + 12 + size > len(data):
            raise Broken("a PNG up to its IEND chunk", f"an end at byte {len(data)}")
        if (name == b"IHDR") != (at == 8):
            raise Broken("a PNG that begins with IHDR", f"chunk {name!r} at byte {at}")
        chunks.setdefault(name, []).append((at + 8, at + 8 + size))
        at += 12 + size
    header = data[16:29]
    if chunks[b"IHDR"] != [(16, 29)] or b"IDAT" not in chunks:
        raise Broken("a PNG with a header and pixels", "one without")
    width, height, bits, colour = struct.unpack(">IIBB", header[:10])
    if not width or not height or colour not in _PNG_CHANNELS or bits not in (1, 2, 4, 8, 16):
        raise Broken("a PNG header", f"{width} x {height} pixels, {bits} bits, colour type {colour}")

    def first(name: bytes) -> bytes | None:
        return bytes(data[slice(*chunks[name][0])]) if name in chunks else None

    notes: list[str] = []
    exif, frames, density = first(b"eXIf"), first(b"acTL"), first(b"pHYs")
    exif = exif.removeprefix(b"Exif\0\0") if exif else None
    orientation, dpi, description = exif_facts(exif, notes) if exif else (1, None, None)
    if density is not None and len(density) == 9 and density[8] == 1:
        x, y = struct.unpack(">II", density[:8])
        dpi = (x * 0.0254, y * 0.0254) if x and y else dpi
    pages = max(1, int.from_bytes(frames[:4], "big")) if frames else 1
    refusal = None
    if pages > 1:
        refusal = Foreign("one page", f"{pages} pages")
    elif colour == 3:
        refusal = Foreign(COLOURS, "a palette picture")
    elif bits < 8:
        refusal = Foreign(DEPTHS, f"{bits} bit{'s' * (bits > 1)}")
    texts = dict(_png_texts(data, chunks))
    xmp = texts.get("XML:com.adobe.xmp")
    return Stored(
        media_type="image/png", width=width, height=height, channels=_PNG_CHANNELS[colour], bits=bits,
        read=lambda: _read_png(data, chunks), pages=pages, refusal=refusal,
        icc=_png_profile(first(b"iCCP"), notes), dpi=dpi, orientation=orientation, exif=exif, xmp=xmp,
        description=as_text(texts.get("Description", b"")) or description, notes=tuple(notes),
    )  # fmt: skip


def _read_png(data: Buffer, chunks: dict[bytes, list[tuple[int, int]]]) -> tuple[Pixels, list[str]]:
    import imagecodecs

    view = memoryview(data)
    for name, places in chunks.items():
        for start, end in places:
            if zlib.crc32(view[start - 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
                raise Broken(f"chunk {name.decode('latin-1')} with its checksum", "another checksum")
    if b"iCCP" in chunks:  # libpng would judge the profile on standard error; it does not change a pixel
        start, end = chunks[b"iCCP"][0]
        data = data[: start - 8] + data[end + 4 :]
    try:
        pixels: Pixels = imagecodecs.png_decode(data)
    except (RuntimeError, ValueError) as error:
        raise Broken("a PNG that decodes to its last pixel", str(error)) from error
    notes: list[str] = []
    return drop_opaque(pixels if pixels.ndim == 3 else pixels[..., None], notes), notes


def inflate(packed: bytes) -> bytes | None:
    """``packed`` inflated; None where it is no whole zlib stream or a bomb."""
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(packed, BLOCK_LIMIT)
    except zlib.error:
        return None
    return raw if stream.eof else None


def _png_profile(chunk: bytes | None, notes: list[str]) -> bytes | None:
    if chunk is None:
        return None
    profile = inflate(chunk.partition(b"\0")[2][1:])
    if not profile:
        notes.append("unreadable ICC profile")
    return profile or None


def _png_texts(data: Buffer, chunks: dict[bytes, list[tuple[int, int]]]) -> Iterable[tuple[str, bytes]]:
    """(keyword, text) of the tEXt and iTXt chunks."""
    for name in (b"tEXt", b"iTXt"):
        for start, end in chunks.get(name, ()):
            keyword, _, rest = bytes(data[start:end]).partition(b"\0")
            if name == b"iTXt":
                packed, parts = rest[:1] == b"\x01", rest[2:].split(b"\0", 2)
                text = (inflate(parts[-1]) or b"") if packed else parts[-1]
                rest = text if len(parts) == 3 else b""
            elif name == b"tEXt":
                rest = rest.decode("latin-1").encode()
            if rest:
                yield keyword.decode("latin-1"), rest


def encode_png(pixels: Pixels, blocks: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """``pixels`` (H, W, 1|3) uint8 or uint16 as PNG bytes, with extra (name, body) chunks behind its header."""
    import imagecodecs

    packed = bytes(imagecodecs.png_encode(pixels[..., 0] if pixels.shape[2] == 1 else pixels, level=2))
    extra = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in blocks
    )
    return packed[:33] + extra + packed[33:] if extra else packed
