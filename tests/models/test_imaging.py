"""Rasters in and out: every format, every refusal, every promise of ``models/imaging.py``."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from models import imaging
from models.imaging import (
    ImagingError,
    Limits,
    Mask,
    Metadata,
    OversizedImage,
    Raster,
    UnreadableImage,
    UnsupportedImage,
)

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:odd="http://example.org/odd#" odd:shelf="B 17" dc:format="x">'
    b"<!-- kept --><dc:title><rdf:Alt><rdf:li xml:lang='x-default'>M\xc3\xbchle</rdf:li></rdf:Alt></dc:title>"
    b'</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
IPTC = b"\x1c\x02\x69\x00\x05title\x1c\x02\x19\x00\x03key"
TRAINED = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"


def picture(bits: int = 8, channels: int = 3, height: int = 75, width: int = 101, seed: int = 0) -> np.ndarray:
    """Smooth with a little noise: (H, W) or (H, W, C), uint8 or uint16, full range."""
    rng = np.random.default_rng(seed)
    small = rng.random((5, 6, channels))
    smooth = np.clip(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1).reshape(height, width, -1)
    top = 2**bits - 1
    values = np.clip(smooth * top + rng.normal(0, top / 100, smooth.shape), 0, top)
    return values.astype(np.uint8 if bits == 8 else np.uint16)[..., slice(None) if channels > 1 else 0]


def same(raster: Raster, pixels: np.ndarray) -> bool:
    return raster.pixels.dtype == pixels.dtype and np.array_equal(raster.pixels, np.atleast_3d(pixels))


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


Size = tuple[int, int]


def png(pixels: np.ndarray, *extra: bytes, bits: int = 8, colour: int = 2, size: Size | None = None) -> bytes:
    height, width = size or pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(f">u{max(1, bits // 8)}").tobytes() for row in pixels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **({"quality": 90} | options))
    return file.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# --- what goes in comes out ---


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("compression", [None, "lzw", "adobe_deflate", "deflate", "packbits", "zstd"])
def test_every_lossless_tiff_decodes_to_the_very_pixels(
    tmp_path: Path, byteorder: Any, bits: int, channels: int, compression: str | None
) -> None:
    pixels = picture(bits, channels)
    predictors = (None, True) if compression not in (None, "packbits") else (None,)
    for tile in (None, (32, 16)):
        for predictor in predictors:
            for rowsperstrip in (None, 7) if tile is None else (None,):
                path = tmp_path / "scan.bin"
                tifffile.imwrite(
                    path, pixels, byteorder=byteorder, photometric="rgb" if channels == 3 else "minisblack", tile=tile,
                    compression=compression, predictor=predictor, rowsperstrip=rowsperstrip,
                )  # fmt: skip
                assert same(imaging.decode(path, "scan"), pixels), (tile, predictor, rowsperstrip)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("options", [{}, {"compression": "lzw", "predictor": True}, {"tile": (32, 32)}])
def test_a_planar_bigtiff_decodes_to_the_very_pixels(tmp_path: Path, bits: int, options: dict[str, Any]) -> None:
    pixels = picture(bits)
    path = tmp_path / "a.tif"
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", bigtiff=True, **options)
    assert same(imaging.decode(path, "a"), pixels)


@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero_is_inverted_with_a_note(tmp_path: Path, bits: int) -> None:
    pixels = picture(bits, 1)
    tifffile.imwrite(tmp_path / "a.tif", ~pixels, photometric="miniswhite")
    raster = imaging.decode(tmp_path / "a.tif", "a")
    assert same(raster, pixels) and raster.notes == ("white-is-zero inverted to black-is-zero",)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("tile", [None, (64, 48)])
@pytest.mark.parametrize("colours", ["YCBCR", "RGB"])
def test_a_jpeg_compressed_tiff_decodes_as_other_readers_do(
    tmp_path: Path, channels: int, tile: Any, colours: str
) -> None:
    path = tmp_path / "a.tif"
    arguments = {"level": 90} | ({"outcolorspace": colours} if channels == 3 else {})
    tifffile.imwrite(
        path, picture(8, channels, 200, 300), photometric="rgb" if channels == 3 else "minisblack", tile=tile,
        compression="jpeg", compressionargs=arguments, rowsperstrip=None if tile else 64,
    )  # fmt: skip
    assert same(imaging.decode(path, "a"), tifffile.imread(path))


def test_a_libtiff_jpeg_with_shared_tables_decodes_as_libtiff_does(tmp_path: Path) -> None:
    for mode in ("RGB", "L"):
        source = Image.fromarray(picture(8, 3, 150, 200)).convert(mode)
        source.save(tmp_path / "a.tif", compression="jpeg", quality=90)
        with Image.open(tmp_path / "a.tif") as theirs:
            assert same(imaging.decode(tmp_path / "a.tif", "a"), np.asarray(theirs.convert(mode)))


@pytest.mark.parametrize(("bits", "colour", "channels"), [(8, 0, 1), (16, 0, 1), (8, 2, 3), (16, 2, 3)])
def test_every_png_decodes_to_the_very_pixels(tmp_path: Path, bits: int, colour: int, channels: int) -> None:
    pixels = picture(bits, channels)
    raster = imaging.decode(write(tmp_path / "misnamed.tif", png(pixels, bits=bits, colour=colour)), "a")
    assert same(raster, pixels) and raster.notes == ()


@pytest.mark.parametrize(("bits", "colour", "channels"), [(8, 4, 1), (16, 4, 1), (8, 6, 3), (16, 6, 3)])
def test_opaque_alpha_is_dropped_with_a_note_and_real_alpha_is_refused(
    tmp_path: Path, bits: int, colour: int, channels: int
) -> None:
    pixels = np.atleast_3d(picture(bits, channels))
    alpha = np.full((*pixels.shape[:2], 1), 2**bits - 1, pixels.dtype)
    with_alpha = np.concatenate([pixels, alpha], axis=2)
    photometric = "rgb" if channels == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", with_alpha, photometric=photometric, extrasamples=["unassalpha"],
                     planarconfig="contig")  # fmt: skip
    write(tmp_path / "a.png", png(with_alpha, bits=bits, colour=colour))
    for name in ("a.tif", "a.png"):
        raster = imaging.decode(tmp_path / name, name)
        assert same(raster, pixels) and raster.notes == ("opaque alpha dropped",)
    with_alpha[40, 50, -1] -= 1
    tifffile.imwrite(tmp_path / "a.tif", with_alpha, photometric=photometric, extrasamples=["unassalpha"],
                     planarconfig="contig", compression="lzw", tile=(32, 32))  # fmt: skip
    write(tmp_path / "a.png", png(with_alpha, bits=bits, colour=colour))
    for name in ("a.tif", "a.png"):
        with pytest.raises(UnsupportedImage, match=f"{name}: .*found alpha that is not opaque"):
            imaging.decode(tmp_path / name, name)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"keep_rgb": True}])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_decodes_as_libjpeg_does(tmp_path: Path, channels: int, options: dict[str, Any]) -> None:
    data = jpeg(picture(8, channels), **options)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert same(imaging.decode(write(tmp_path / "a.png", data), "a"), expected)


def oddly_sampled_jpeg() -> bytes:
    """A uniform gray 16 x 16 JPEG sampled 2x2, 2x1, 1x1: TurboJPEG has no name for it, libjpeg reads it."""
    data = jpeg(np.full((16, 16, 3), 128, np.uint8), subsampling=0)
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    sampling = bytearray(data[:scan])
    for component, factors in enumerate((0x22, 0x21, 0x11)):
        sampling[frame + 11 + 3 * component] = factors
    # Standard Huffman codes of "no difference" and "end of block": 00 1010 for luma, 00 00 for chroma.
    coded = "001010" * 4 + "0000" * 3
    coded += "1" * (-len(coded) % 8)
    head = data[scan : scan + 14]
    return bytes(sampling) + head + int(coded, 2).to_bytes(len(coded) // 8, "big") + b"\xff\xd9"


def test_a_jpeg_with_odd_chroma_sampling_decodes_too(tmp_path: Path) -> None:
    raster = imaging.decode(write(tmp_path / "a.jpg", oddly_sampled_jpeg()), "a")
    assert same(raster, np.full((16, 16, 3), 128, np.uint8))


def test_a_16_bit_ramp_keeps_its_65536_levels_through_tiff_and_png(tmp_path: Path) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for pixels in (ramp[..., None], np.dstack([ramp, ramp[::-1], ramp.T])):
        raster = Raster(np.ascontiguousarray(pixels))
        imaging.write_tiff(raster, tmp_path / "a.tif")
        imaging.write_png(raster, tmp_path / "a.png")
        for name in ("a.tif", "a.png"):
            decoded = imaging.decode(tmp_path / name, name)
            assert same(decoded, pixels) and len(np.unique(decoded.pixels[..., 0])) == 65536
        assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), pixels.squeeze())


# --- metadata ---


def full_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[270], exif[271], exif[315], exif[306], exif[274] = "Mill at night", "Imacon", "A. N.", "1999:01:02 03:04:05", 6
    exif[305] = "ScanWare 3"
    exif.get_ifd(34665).update({36867: "1999:01:02 03:04:05", 33434: 0.25, 37500: b"maker\0note", 41729: b"\1"})
    exif.get_ifd(34853).update({1: "N", 2: (52.0, 30.0, 1.5)})
    return exif


def test_a_jpegs_metadata_comes_through_tiff_and_is_read_by_others(tmp_path: Path) -> None:
    irb = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC + b"\0" * (len(IPTC) % 2)
    data = jpeg(picture(), icc_profile=SRGB, dpi=(600, 599), exif=full_exif(), xmp=XMP)
    data = data[:2] + b"\xff\xed" + struct.pack(">H", len(irb) + 2) + irb + data[2:]
    scan = imaging.decode(write(tmp_path / "a.jpg", data), "a.jpg")
    assert (scan.icc, scan.dpi, scan.orientation) == (SRGB, (600, 599), 6)
    assert (scan.metadata.xmp, scan.metadata.iptc, scan.metadata.description) == (XMP, IPTC, "Mill at night")

    imaging.write_tiff(scan, tmp_path / "a.tif")
    once = imaging.decode(tmp_path / "a.tif", "a.tif")
    assert (once.icc, once.dpi, once.orientation) == (SRGB, (600, 599), 6)
    assert once.metadata.xmp == XMP and once.metadata.iptc == IPTC and once.metadata.description == "Mill at night"
    imaging.write_tiff(once, tmp_path / "b.tif")
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    assert imaging.decode(tmp_path / "b.tif", "b").metadata == once.metadata

    with Image.open(tmp_path / "a.tif") as theirs:
        theirs.load()
        assert np.array_equal(np.asarray(theirs), imaging.turn_upright(scan.pixels, 6))  # Pillow turns TIFFs itself
        exif = theirs.getexif()
        assert theirs.info["icc_profile"] == SRGB and theirs.info["dpi"] == (600, 599) and theirs.info["xmp"] == XMP
        assert exif[271] == "Imacon" and exif[315] == "A. N." and exif[305] == "ScanWare 3"
        details, place = exif.get_ifd(34665), exif.get_ifd(34853)
    assert details[36867] == "1999:01:02 03:04:05" and float(details[33434]) == 0.25
    assert details[37500] == b"maker\0note"
    assert place[1] == "N" and [float(v) for v in place[2]] == [52.0, 30.0, 1.5]


def test_big_endian_tiff_metadata_comes_out_the_same(tmp_path: Path) -> None:
    rasters = []
    for byteorder in ("<", ">"):
        tifffile.imwrite(
            tmp_path / "a.tif", picture(16), photometric="rgb", byteorder=byteorder, iccprofile=SRGB, metadata=None,
            resolution=(118.0, 236.0), resolutionunit="centimeter", software="ScanWare", description="Tür".encode(),
            extratags=[(274, 3, 1, 3, True), (700, 1, len(XMP), XMP, True), (315, 2, 3, "ab", True)],
        )  # fmt: skip
        rasters.append(imaging.decode(tmp_path / "a.tif", "a"))
    one, two = rasters
    assert one.metadata == two.metadata and one.metadata.description == "Tür" and one.metadata.xmp == XMP
    assert one.metadata.exif is not None and b"ScanWare" in one.metadata.exif
    for raster in rasters:
        assert raster.orientation == 3 and raster.icc == SRGB
        assert raster.dpi == pytest.approx((118 * 2.54, 236 * 2.54))


def test_a_pngs_metadata_comes_through(tmp_path: Path) -> None:
    exif = full_exif().tobytes().removeprefix(b"Exif\0\0")
    source = Raster(picture(16), SRGB, (300.0, 299.0), 6, Metadata(exif, XMP, None, "Türme"))
    imaging.write_png(source, tmp_path / "a.png")
    scan = imaging.decode(tmp_path / "a.png", "a")
    assert same(scan, source.pixels) and scan.icc == SRGB and scan.orientation == 6 and scan.notes == ()
    assert scan.dpi == pytest.approx((300, 299), abs=0.02)
    assert scan.metadata.xmp == XMP and scan.metadata.description == "Türme"
    assert b"Imacon" in (scan.metadata.exif or b"")
    with Image.open(tmp_path / "a.png") as theirs:
        assert theirs.info["icc_profile"] == SRGB and theirs.getexif()[274] == 6


def test_a_written_tiff_says_who_made_it_and_carries_the_given_packet(tmp_path: Path) -> None:
    scan = Raster(picture(), metadata=Metadata(xmp=b"old"))
    imaging.write_tiff(scan, tmp_path / "a.tif", software="glassplate 0.1", xmp=XMP)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        tags = tif.pages[0].tags
        assert tags[305].value == "glassplate 0.1" and tags[700].value == XMP and 306 not in tags
        assert tif.pages[0].is_tiled and tags[317].value == 2 and tags[259].value == 8


@pytest.mark.parametrize("suffix", ["tif", "png"])
@pytest.mark.parametrize("bits", [8, 16])
def test_the_same_raster_gives_the_same_bytes(tmp_path: Path, suffix: str, bits: int) -> None:
    exif = full_exif().tobytes().removeprefix(b"Exif\0\0")
    scan = Raster(picture(bits, 3, 700, 1100), SRGB, (300.0, 300.0), 6, Metadata(exif, XMP, IPTC, "x"))
    writer = imaging.write_tiff if suffix == "tif" else imaging.write_png
    for name in ("a", "b"):
        writer(scan, tmp_path / name)
        os.utime(tmp_path / name, (0, 0))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_huge_raster_is_written_as_bigtiff_with_its_exif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imaging, "BIGTIFF_FROM_BYTES", 1000)
    exif = full_exif().tobytes().removeprefix(b"Exif\0\0")
    imaging.write_tiff(Raster(picture(), metadata=Metadata(exif)), tmp_path / "a.tif")
    assert (tmp_path / "a.tif").read_bytes()[:4] == b"II+\0"
    back = imaging.decode(tmp_path / "a.tif", "a")
    assert same(back, picture()) and b"maker\0note" in (back.metadata.exif or b"")
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.pages[0].tags[34665].value["DateTimeOriginal"] == "1999:01:02 03:04:05"


def test_a_jpeg_is_written_with_profile_dpi_and_orientation_and_only_from_8_bits(tmp_path: Path) -> None:
    imaging.write_jpeg(Raster(picture(), SRGB, (300.0, 300.0), 8), tmp_path / "a.jpg")
    back = imaging.decode(tmp_path / "a.jpg", "a")
    assert (back.icc, back.dpi, back.orientation) == (SRGB, (300, 300), 8)
    assert np.abs(back.pixels.astype(int) - picture()).mean() < 4
    imaging.write_jpeg(Raster(picture(8, 1)[..., None]), tmp_path / "b.jpg")
    assert imaging.decode(tmp_path / "b.jpg", "b").dpi is None
    with pytest.raises(ValueError, match="expected 8 bits"):
        imaging.write_jpeg(Raster(picture(16)), tmp_path / "c.jpg")


# --- headers and limits ---


def test_the_header_is_read_by_content(tmp_path: Path) -> None:
    imaging.write_tiff(Raster(picture(16)), tmp_path / "a.jpg")
    found = imaging.probe(tmp_path / "a.jpg", "a")
    assert found == imaging.Header("image/tiff", 101, 75, 3, 16, 1)
    write(tmp_path / "b", png(np.zeros((4, 5, 2), np.uint8), colour=4))
    assert imaging.probe(tmp_path / "b", "b") == imaging.Header("image/png", 5, 4, 2, 8, 1)
    write(tmp_path / "c", jpeg(picture(8, 1)))
    assert imaging.probe(tmp_path / "c", "c") == imaging.Header("image/jpeg", 101, 75, 1, 8, 1)


def test_limits_are_checked_in_the_header_before_a_pixel_is_decoded(tmp_path: Path) -> None:
    tiny = np.zeros((1, 1), np.uint8)
    bomb = bytearray(jpeg(np.zeros((8, 8), np.uint8)))
    frame = bomb.index(b"\xff\xc0")
    bomb[frame + 5 : frame + 9] = struct.pack(">HH", 65000, 65000)
    tifffile.imwrite(tmp_path / "c", np.zeros((8, 8), np.uint8), photometric="minisblack")
    tiff = bytearray((tmp_path / "c").read_bytes())
    for tag in (256, 257):
        at = tiff.index(struct.pack("<HH", tag, 4)) if struct.pack("<HH", tag, 4) in tiff else -1
        kind, at = (4, at) if at >= 0 else (3, tiff.index(struct.pack("<HH", tag, 3)))
        tiff[at + 8 : at + 12] = struct.pack("<I" if kind == 4 else "<HH", *((65000,) if kind == 4 else (65000, 0)))
    files = {"a": png(tiny, size=(65000, 65000), colour=0), "b": bytes(bomb), "c": bytes(tiff)}
    for name, data in files.items():
        write(tmp_path / name, data)
        for call in (imaging.probe, imaging.decode):
            with pytest.raises(OversizedImage) as caught:
                call(tmp_path / name, name)
            expected = f"{name}: expected at most 400 megapixels, found 65000 x 65000 pixels (4225.0 megapixels)"
            assert str(caught.value) == expected
    with pytest.raises(OversizedImage, match="expected at most 10 bytes, found"):
        imaging.probe(tmp_path / "a", "a", Limits(max_bytes=10))


def test_our_limit_and_not_pillows_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    write(tmp_path / "a", jpeg(picture()))
    write(tmp_path / "b", png(picture()))
    write(tmp_path / "c", oddly_sampled_jpeg())
    for name in "abc":
        assert imaging.decode(tmp_path / name, name).bits == 8


# --- what is not restored, in words ---


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, pixels, **options)
    return path


def cmyk(path: Path) -> Path:
    Image.new("CMYK", (20, 10)).save(path, "JPEG")
    return path


def palette(path: Path, kind: str) -> Path:
    Image.fromarray(picture()).quantize(16).save(path, kind)
    return path


def pages(path: Path) -> Path:
    with tifffile.TiffWriter(path) as tif:
        for _ in range(3):
            tif.write(picture(), photometric="rgb")
    return path


def animation(path: Path) -> Path:
    frames = [Image.fromarray(picture(seed=n)) for n in range(2)]
    frames[0].save(path, "PNG", save_all=True, append_images=frames[1:])
    return path


def fill_order(tiff: bytes) -> bytes:
    """``tiff`` with its tag ResolutionUnit made FillOrder 2."""
    return tiff.replace(struct.pack("<HHIH", 296, 3, 1, 1), struct.pack("<HHIH", 266, 3, 1, 2))


GRAY = {"photometric": "minisblack"}
REFUSALS: dict[str, tuple[Any, str]] = {
    "CMYK JPEG": (cmyk, "expected gray or RGB, found CMYK"),
    "CMYK TIFF": (
        lambda p: save(p, np.zeros((9, 9, 4), np.uint8), photometric="separated"), "expected gray or RGB, found CMYK",
    ),
    "palette PNG": (lambda p: palette(p, "PNG"), "expected gray or RGB, found a palette picture"),
    "palette TIFF": (lambda p: palette(p, "TIFF"), "expected gray or RGB, found a palette picture"),
    "Lab": (lambda p: save(p, picture(), photometric="cielab"), "expected gray or RGB, found CIE L*a*b*"),
    "1-bit PNG": (
        lambda p: write(p, png(np.zeros((8, 1), np.uint8), bits=1, colour=0, size=(8, 8))),
        "expected 8 or 16 bits a sample, found 1 bit",
    ),
    "1-bit TIFF": (
        lambda p: save(p, picture(8, 1) > 99, photometric="minisblack"),
        "expected 8 or 16 bits a sample, found 1 bit",
    ),
    "float TIFF": (
        lambda p: save(p, picture(8, 1).astype(np.float32), **GRAY),
        "expected unsigned integer samples, found floating-point samples",
    ),
    "signed TIFF": (
        lambda p: save(p, picture(8, 1).astype(np.int16), **GRAY),
        "expected unsigned integer samples, found signed integers",
    ),
    "32-bit TIFF": (
        lambda p: save(p, picture(8, 1).astype(np.uint32), **GRAY), "expected 8 or 16 bits a sample, found 32 bits",
    ),
    "12-bit TIFF": (
        lambda p: save(p, picture(16, 1) >> 4, bitspersample=12, **GRAY),
        "expected 8 or 16 bits a sample, found 12 bits",
    ),
    "12-bit JPEG": (
        lambda p: write(p, imagecodecs.jpeg_encode(picture(16, 1) >> 4, bitspersample=12)),
        "expected 8 or 16 bits a sample, found 12 bits",
    ),
    "lossless JPEG": (
        lambda p: write(p, imagecodecs.jpeg_encode(picture(8, 1), lossless=True)),
        "expected baseline or progressive JPEG, found JPEG process SOF3",
    ),
    "JPEG 2000 in TIFF": (
        lambda p: save(p, picture(8, 3, 64, 64), photometric="rgb", compression="jpeg2000"),
        "expected compression none, LZW, deflate, PackBits, zstd or JPEG, found JPEG 2000",
    ),
    "fill order": (
        lambda p: write(p, fill_order(save(p, picture(8, 3), photometric="rgb").read_bytes())),
        "expected the usual order of bits, found fill order 2",
    ),
    "five channels": (
        lambda p: save(p, np.zeros((9, 9, 5), np.uint8), photometric="rgb", planarconfig="contig"),
        "expected 3 channels and at most one of alpha, found 5 channels",
    ),
    "pages": (pages, "expected one page, found 3 pages"),
    "animation": (animation, "expected one page, found 2 pages"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_sound_picture_that_is_not_restored_is_refused_in_words(tmp_path: Path, kind: str) -> None:
    make, words = REFUSALS[kind]
    path = make(tmp_path / "scan")
    imaging.probe(path, "box/7.tif")
    with pytest.raises(UnsupportedImage) as caught:
        imaging.decode(path, "box/7.tif")
    assert str(caught.value) == f"box/7.tif: {words}"


def test_thumbnails_and_reduced_copies_are_no_pages(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(picture(8, 3, 20, 30), photometric="rgb", subfiletype=1)
        tif.write(picture(), photometric="rgb", subifds=1)
        tif.write(picture(8, 3, 30, 40), photometric="rgb", subfiletype=1)
        tif.write(picture(8, 3, 20, 30), photometric="rgb", subfiletype=1)
    assert imaging.probe(tmp_path / "a.tif", "a").pages == 1
    assert same(imaging.decode(tmp_path / "a.tif", "a"), picture())


def test_a_colour_key_that_is_used_is_alpha(tmp_path: Path) -> None:
    pixels = picture()
    key = chunk(b"tRNS", struct.pack(">HHH", *(int(v) for v in pixels[0, 0])))
    with pytest.raises(UnsupportedImage, match="alpha that is not opaque"):
        imaging.decode(write(tmp_path / "a.png", png(pixels, key)), "a")


# --- what does not decode to its last pixel ---


def small_files(folder: Path) -> dict[str, bytes]:
    """One small valid file a kind, most with metadata."""
    exif = full_exif().tobytes().removeprefix(b"Exif\0\0")
    scan = Raster(picture(8, 3, 24, 40), SRGB, (300.0, 300.0), 6, Metadata(exif, XMP, IPTC, "x"))
    imaging.write_png(scan, folder / "p")
    files = {"png": (folder / "p").read_bytes(), "png16": png(picture(16, 1, 24, 40), bits=16, colour=0)}
    imaging.write_tiff(scan, folder / "t")
    files["tiff"] = (folder / "t").read_bytes()
    files["jpeg"] = jpeg(scan.pixels, exif=full_exif(), icc_profile=SRGB, xmp=XMP)
    files["progressive"] = jpeg(scan.pixels, progressive=True)
    for compression in (None, "lzw", "packbits", "zstd", "jpeg"):
        tifffile.imwrite(folder / "t", picture(8, 3, 64, 80), photometric="rgb", compression=compression,
                         rowsperstrip=16, metadata=None)  # fmt: skip
        files[f"tiff {compression}"] = (folder / "t").read_bytes()
    tifffile.imwrite(folder / "t", picture(16, 1, 40, 40), compression="lzw", bigtiff=True, byteorder=">", **GRAY)
    files["bigtiff"] = (folder / "t").read_bytes()
    return files


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    files = small_files(tmp_path_factory.mktemp("valid"))
    for name, data in files.items():
        imaging.decode(write(tmp_path_factory.mktemp("check") / "a", data), name)
    return files


def test_a_truncated_file_is_unreadable_wherever_it_ends(valid: dict[str, bytes], tmp_path: Path) -> None:
    for kind, data in valid.items():
        if "tiff" in kind:  # what lies behind the pixels may be read without the last byte
            continue
        for share in (0.0, 0.01, 0.2, 0.5, 0.9, 0.99):
            with pytest.raises(UnreadableImage):
                imaging.decode(write(tmp_path / "a", data[: int(len(data) * share)]), kind)
        for missing in (1, 2, 3, 12):
            with pytest.raises(UnreadableImage):
                imaging.decode(write(tmp_path / "a", data[:-missing]), kind)


@pytest.mark.parametrize("compression", [None, "lzw", "adobe_deflate", "packbits", "zstd", "jpeg"])
@pytest.mark.parametrize("harm", ["cut file", "missing", "short"])
def test_a_tiff_with_a_missing_or_cut_strip_is_unreadable(tmp_path: Path, compression: str | None, harm: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(8, 3, 64, 80), photometric="rgb", compression=compression, rowsperstrip=16)
    with tifffile.TiffFile(path) as tif:
        last = tif.pages[0].dataoffsets[3] + tif.pages[0].databytecounts[3]
        counts = tif.pages[0].databytecounts
        place = tif.pages[0].tags[279].valueoffset
        code = {3: "<4H", 4: "<4I"}[int(tif.pages[0].tags[279].dtype)]
    data = bytearray(path.read_bytes())
    if harm == "cut file":
        data = data[: last - 3]
    else:
        changed = (counts[0], 0 if harm == "missing" else counts[1] - 3, *counts[2:])
        data[place : place + struct.calcsize(code)] = struct.pack(code, *changed)
    strip = "strip 4 of 4" if harm == "cut file" else "strip 2 of 4"
    with pytest.raises(UnreadableImage, match=f"box/1.tif: expected {strip}"):
        imaging.decode(write(path, bytes(data)), "box/1.tif")


def test_a_png_with_a_bad_checksum_is_unreadable(tmp_path: Path) -> None:
    data = bytearray(png(picture(), chunk(b"tEXt", b"Description\0Schloss")))
    data[data.index(b"Schloss")] ^= 1
    with pytest.raises(UnreadableImage, match="expected chunk tEXt with its checksum"):
        imaging.decode(write(tmp_path / "a.png", bytes(data)), "a")


def test_a_png_with_too_few_rows_is_unreadable(tmp_path: Path) -> None:
    short = png(picture(8, 3, 70), size=(75, 101))
    with pytest.raises(UnreadableImage, match="Not enough image data"):
        imaging.decode(write(tmp_path / "a.png", short), "a")


@pytest.mark.parametrize(("progressive", "share"), [(False, 0.8), (True, 0.5)])
def test_most_jpegs_with_a_lost_sector_are_unreadable(tmp_path: Path, progressive: bool, share: float) -> None:
    whole = jpeg(picture(8, 3, 600, 800), progressive=progressive)
    found = 0
    for at in range(2048, len(whole) - 1024, 4096):
        harmed = bytearray(whole)
        harmed[at : at + 512] = bytes(512)
        try:
            imaging.decode(write(tmp_path / "a.jpg", bytes(harmed)), "a")
        except UnreadableImage:
            found += 1
    assert found >= share * len(range(2048, len(whole) - 1024, 4096)) > 5


NO_TIFFS = [b"II*\0", b"MM\0*\0\0\0\0", b"II+\0" + b"\xff" * 12]
NO_IMAGES = [b"", b"\0", *NO_TIFFS, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a"]


@pytest.mark.parametrize("data", NO_IMAGES)
def test_what_is_no_image_is_unreadable_and_named(tmp_path: Path, data: bytes) -> None:
    for call in (imaging.probe, imaging.decode):
        with pytest.raises(UnreadableImage, match=r"^box/9\.tif: expected .*, found "):
            call(write(tmp_path / "a", data), "box/9.tif")


REUSED = [HealthCheck.function_scoped_fixture]


@settings(max_examples=200, deadline=None, suppress_health_check=REUSED, derandomize=True)
@given(data=st.data())
def test_no_harmed_file_raises_anything_but_imaging_errors(
    data: st.DataObject, valid: dict[str, bytes], tmp_path: Path
) -> None:
    kind = data.draw(st.sampled_from(sorted(valid)))
    harmed = bytearray(valid[kind])
    for _ in range(data.draw(st.integers(0, 4))):
        # Headers are where parsers break: half of the harm is done to the first bytes.
        reach = data.draw(st.sampled_from([min(400, len(harmed)), len(harmed)]))
        harmed[data.draw(st.integers(0, reach - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(harmed), data.draw(st.integers(0, len(harmed)))]))
    path = write(tmp_path / "a", bytes(harmed[:cut]))
    try:
        raster = imaging.decode(path, "a", Limits(max_megapixels=4))
        imaging.srgb8(raster, long_side_px=32)
        imaging.write_tiff(raster, tmp_path / "b")
    except ImagingError as error:
        assert str(error).startswith("a: expected ")


# --- colour and looking ---


@pytest.mark.parametrize("kind", ["tif", "png", "jpg"])
@pytest.mark.parametrize("broken", [b"no profile at all", SRGB[:200], bytes(len(SRGB))])
def test_a_broken_profile_is_kept_noted_and_shown_as_srgb(tmp_path: Path, kind: str, broken: bytes) -> None:
    scan = Raster(picture(), icc=broken)
    {"tif": imaging.write_tiff, "png": imaging.write_png, "jpg": imaging.write_jpeg}[kind](scan, tmp_path / "a")
    back = imaging.decode(tmp_path / "a", "a")
    assert back.icc == broken and back.notes == ("unreadable ICC profile",)
    assert np.array_equal(imaging.srgb8(back), back.pixels)


def test_a_profile_for_another_kind_of_picture_is_noted(tmp_path: Path) -> None:
    gray = ImageCms.ImageCmsProfile(gray_profile(1.0)).tobytes()
    imaging.write_tiff(Raster(picture(), icc=gray), tmp_path / "a")
    assert imaging.decode(tmp_path / "a", "a").notes == ("ICC profile for GRAY, not for 3 channels",)


def gray_profile(gamma: float) -> io.BytesIO:
    """A minimal gray profile of one ``gamma``, ICC v2."""

    def s15(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    white = b"XYZ \0\0\0\0" + s15(0.9642) + s15(1.0) + s15(0.8249)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"g\0" + bytes(78)
    text += bytes(-len(text) % 4)
    tags = [(b"wtpt", white), (b"kTRC", curve), (b"desc", text)]
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, block in tags:
        table += name + struct.pack(">II", at + len(body), len(block))
        body += block
    head = struct.pack(">I", at + len(body)) + bytes(4) + b"\x02\x10\0\0" + b"mntrGRAYXYZ " + bytes(12) + b"acsp"
    head += bytes(28) + s15(0.9642) + s15(1.0) + s15(0.8249)
    return io.BytesIO(head.ljust(128, b"\0") + table + body)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_gray_profile_is_converted_to_srgb(bits: int) -> None:
    linear = np.linspace(0, 2**bits - 1, 256).astype(np.uint8 if bits == 8 else np.uint16).reshape(1, 256, 1)
    shown = imaging.srgb8(Raster(linear, icc=gray_profile(1.0).getvalue()))
    x = linear[0, :, 0] / (2**bits - 1)
    expected = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055) * 255
    assert np.abs(shown[0].astype(float) - expected[:, None]).max() < 1.6


def test_without_profile_rgb_is_shown_as_it_is_and_gray_as_gamma_2_2() -> None:
    rgb = Raster(picture())
    assert np.array_equal(imaging.srgb8(rgb), rgb.pixels)
    gray = imaging.srgb8(Raster(np.arange(256, dtype=np.uint8).reshape(1, 256, 1)))[0]
    assert (gray[:, 0] == gray[:, 2]).all() and (np.diff(gray[:, 0].astype(int)) >= 0).all()
    assert gray[0, 0] == 0 and gray[255, 0] == 255 and abs(int(gray[128, 0]) - 128) <= 2
    deep = imaging.srgb8(Raster((picture() * np.uint16(257)).astype(np.uint16)))
    assert np.array_equal(deep, picture())


def test_a_preview_is_reduced_by_area_and_turned_upright() -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:20, :40] = 200  # stored top left
    corners = [(0, 0), (0, -1), (-1, -1), (-1, 0), (0, 0), (0, -1), (-1, -1), (-1, 0)]
    for orientation, corner in enumerate(corners, start=1):
        shown = imaging.srgb8(Raster(pixels, orientation=orientation), long_side_px=20)
        assert shown.shape == ((10, 20, 3) if orientation < 5 else (20, 10, 3))
        assert shown[corner].tolist() == [200, 200, 200] and int((shown[..., 0] > 100).sum()) == 50
        lying = imaging.srgb8(Raster(pixels, orientation=orientation), long_side_px=20, upright=False)
        assert lying.shape == (10, 20, 3) and lying[0, 0, 0] == 200
    checker = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    assert np.abs(imaging.srgb8(Raster(checker), long_side_px=16).astype(int) - 128).max() <= 1


def test_every_orientation_is_shown_as_pillow_shows_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[274] = orientation
        data = jpeg(picture(8, 3, 40, 64), exif=exif)
        with Image.open(io.BytesIO(data)) as theirs:
            expected = np.asarray(ImageOps.exif_transpose(theirs))
        scan = imaging.decode(write(tmp_path / "a.jpg", data), "a")
        assert scan.orientation == orientation and scan.pixels.shape == (40, 64, 3)
        assert np.array_equal(imaging.srgb8(scan), expected)


@pytest.mark.parametrize("bits", [8, 16])
def test_luminance_is_rec_709_of_the_stored_values(bits: int) -> None:
    scan = Raster(picture(bits, 3, 300, 100))
    luma = imaging.luminance(scan)
    expected = scan.pixels @ np.array([0.2126, 0.7152, 0.0722]) / (2**bits - 1)
    assert luma.dtype == np.float32 and luma.shape == (300, 100) and np.abs(luma - expected).max() < 1e-5
    white = np.full((3, 4, 3), 2**bits - 1, scan.pixels.dtype)
    assert imaging.luminance(Raster(white)).max() <= 1.0
    gray = Raster(picture(bits, 1)[..., None])
    assert np.abs(imaging.luminance(gray) - gray.pixels[..., 0] / (2**bits - 1)).max() < 1e-6


# --- masks and hashes ---


def test_a_mask_comes_back_to_one_255th(tmp_path: Path) -> None:
    values = np.random.default_rng(1).random((300, 200), np.float32)
    values[:10], values[10:20] = 0.0, 1.0
    for name in ("a", "b"):
        imaging.write_mask(Mask(values), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    back = imaging.read_mask(tmp_path / "a", "a").values
    assert back.dtype == np.float32 and np.abs(back - values).max() <= 0.5 / 255 + 1e-6
    assert (back[:10] == 0).all() and (back[10:20] == 1).all()
    with pytest.raises(UnsupportedImage, match="expected an 8-bit gray mask, found 8 bits, 3 channels"):
        imaging.read_mask(write(tmp_path / "c", png(picture())), "c")


def test_the_pixel_hash_changes_with_pixels_shape_and_depth_and_with_nothing_else(tmp_path: Path) -> None:
    scan = Raster(picture(8, 3, 300, 100))
    imaging.write_tiff(scan, tmp_path / "a")
    assert imaging.pixel_sha256(imaging.decode(tmp_path / "a", "a")) == imaging.pixel_sha256(scan)
    changed = scan.pixels.copy()
    changed[299, 99, 2] ^= 1
    others = [changed, scan.pixels.reshape(100, 300, 3), scan.pixels.astype(np.uint16)]
    assert len({imaging.pixel_sha256(Raster(p)) for p in [scan.pixels, *others]}) == 4


def test_the_hash_outside_a_mask_sees_only_what_is_outside() -> None:
    scan = Raster(picture(16, 3, 300, 100))
    values = np.zeros((300, 100), np.float32)
    values[40:60, 10:30] = 0.5
    values[70:80] = 0.49  # below the line: such a pixel is the master's own
    inside, outside = scan.pixels.copy(), scan.pixels.copy()
    inside[50, 20] ^= 9
    outside[75, 20] ^= 9
    expected = imaging.pixel_sha256(scan, outside=Mask(values))
    assert imaging.pixel_sha256(Raster(inside), outside=Mask(values)) == expected
    assert imaging.pixel_sha256(Raster(outside), outside=Mask(values)) != expected
    with pytest.raises(ValueError, match="expected a mask of"):
        imaging.pixel_sha256(scan, outside=Mask(values[1:]))


# --- XMP ---

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


def parsed(packet: bytes) -> ElementTree.Element:
    assert packet.startswith(b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>')
    assert packet.endswith(b'<?xpacket end="w"?>')
    return ElementTree.fromstring(packet)


def test_a_label_is_set_and_everything_else_in_the_packet_stays() -> None:
    labels = [(TRAINED, "http://cv.iptc.org/newscodes/x"), ("{http://a.b/c}d", "<1 & 2>")]
    labelled = imaging.label_xmp(XMP, labels)
    root = parsed(labelled)
    assert [e.text for e in root.iter(TRAINED)] == ["http://cv.iptc.org/newscodes/x"]
    assert [e.text for e in root.iter("{http://a.b/c}d")] == ["<1 & 2>"]
    description = root.find(f".//{RDF}Description")
    assert description is not None and description.get("{http://example.org/odd#}shelf") == "B 17"
    assert [e.text for e in root.iter(f"{RDF}li")] == ["Mühle"]
    assert b'odd:shelf="B 17"' in labelled and b"<!-- kept -->" in labelled and b"<Iptc4xmpExt:Digital" in labelled
    assert imaging.label_xmp(labelled, labels) == labelled


def test_a_property_is_replaced_in_whatever_form_it_was() -> None:
    dc = "{http://purl.org/dc/elements/1.1/}"
    root = parsed(imaging.label_xmp(XMP, [(f"{dc}title", "neu"), (f"{dc}format", "image/tiff")]))
    assert [e.text for e in root.iter(f"{dc}title")] == ["neu"]
    assert [e.text for e in root.iter(f"{dc}format")] == ["image/tiff"]
    assert all(f"{dc}format" not in e.attrib for e in root.iter())


@pytest.mark.parametrize(
    "packet", [None, b"", b"no xml", XMP[:300], b"<a/>", b"\xff\xfe\x00", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
               b"<a>" * 5000 + b"</a>" * 5000],
)  # fmt: skip
def test_a_missing_or_broken_packet_is_replaced_by_one_that_says_only_the_label(packet: bytes | None) -> None:
    labelled = imaging.label_xmp(packet, [(TRAINED, "x")])
    root = parsed(labelled)
    assert [e.tag.rpartition("}")[2] for e in root.iter()] == ["xmpmeta", "RDF", "Description", "DigitalSourceType"]
    assert labelled == imaging.label_xmp(None, [(TRAINED, "x")])


def test_labels_do_not_depend_on_the_packets_before_them() -> None:
    first = imaging.label_xmp(None, [("{http://example.org/odd#}a", "x")])
    imaging.label_xmp(XMP, [("{http://example.org/odd#}a", "x")])
    assert imaging.label_xmp(None, [("{http://example.org/odd#}a", "x")]) == first


@pytest.mark.parametrize("pair", [("name", "x"), ("{}name", "x"), ("{a}", "x"), ("{a}b c", "x"), ("{a}b", "\0")])
def test_a_property_xml_cannot_hold_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="label_xmp: expected"):
        imaging.label_xmp(None, [pair])


def test_an_utf_16_packet_is_read() -> None:
    labelled = imaging.label_xmp(XMP.decode().encode("utf-16"), [(TRAINED, "x")])
    assert b"M\xc3\xbchle" in labelled


def test_a_mask_in_bytes_means_what_the_same_mask_in_floats_means(tmp_path: Path):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    narrow, wide = Mask(levels), Mask(levels.astype(np.float32) * np.float32(1 / 255))
    assert narrow.shape == (16, 16) and np.array_equal(narrow.values, wide.values)
    assert np.array_equal(narrow.damaged(), wide.damaged()) and narrow.coverage == wide.coverage == 0.5
    assert np.array_equal(narrow.part(slice(3, 5)), wide.values[3:5])
    for mask, name in ((narrow, "a.png"), (wide, "b.png")):
        imaging.write_mask(mask, tmp_path / name)
        again = imaging.read_mask(tmp_path / name, name)
        assert again.stored.dtype == np.uint8, "a large mask at rest is not blown up to floats"
        assert np.array_equal(again.stored, levels)
    with pytest.raises(ValueError, match="float32 or uint8"):
        Mask(np.zeros((4, 4), np.float64))  # type: ignore[arg-type]
