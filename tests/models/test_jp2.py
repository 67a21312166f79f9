"""JPEG 2000 in and out: the very pixels, what travels with them, and every refusal."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from models import imaging
from models.imaging import (
    ImagingError,
    Limits,
    Metadata,
    OversizedImage,
    Raster,
    UnreadableImage,
    UnsupportedImage,
)

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
TILE_PART = b"\xff\x90\0\x0a"
SIZ = b"\xff\x4f\xff\x51"


def picture(bits: int = 8, channels: int = 3, height: int = 75, width: int = 101) -> np.ndarray:
    """Smooth with a little noise: (H, W, C), uint8 or uint16, full range."""
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.random((5, 6, channels)), (width, height), interpolation=cv2.INTER_CUBIC)
    values = smooth.reshape(height, width, channels) + rng.normal(0, 0.01, (height, width, channels))
    return np.rint(np.clip(values, 0, 1) * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def encode(pixels: np.ndarray, kind: str = "jp2", **options: Any) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat=kind, **options))


def by_pillow(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG2000", **options)
    return file.getvalue()


def box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + name + body


def wrap(stream: bytes, header: bytes, shape: tuple[int, ...], bits: int = 8, more: bytes = b"") -> bytes:
    """``stream`` as a JP2 file whose header box holds ``header`` behind its ihdr."""
    ihdr = struct.pack(">IIHBBBB", shape[0], shape[1], shape[2], bits - 1, 7, 0, 0)
    head = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return head + box(b"jp2h", box(b"ihdr", ihdr) + header) + box(b"jp2c", stream) + more


def space(number: int) -> bytes:
    return box(b"colr", b"\1\0\0" + struct.pack(">I", number))


# --- what goes in comes out ---


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(75, 101), (1, 1), (1, 90), (300, 7)])
def test_a_written_jp2_decodes_to_the_very_pixels(
    tmp_path: Path, bits: int, channels: int, shape: tuple[int, int]
) -> None:
    pixels = picture(bits, channels, *shape)
    imaging.write_jp2(Raster(pixels), tmp_path / "a.tif")
    back = imaging.decode(tmp_path / "a.tif", "a")
    assert back.pixels.dtype == pixels.dtype and np.array_equal(back.pixels, pixels)
    assert (back.notes, back.icc, back.dpi, back.orientation) == ((), None, None, 1)
    assert imaging.probe(tmp_path / "a.tif", "a") == imaging.Header("image/jp2", shape[1], shape[0], channels, bits, 1)


def test_a_16_bit_ramp_keeps_its_65536_levels_through_jp2(tmp_path: Path) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for pixels in (ramp[..., None], np.dstack([ramp, ramp[::-1], ramp.T])):
        imaging.write_jp2(Raster(np.ascontiguousarray(pixels)), tmp_path / "a")
        assert np.array_equal(imaging.decode(tmp_path / "a", "a").pixels, pixels)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_bare_codestream_decodes_to_the_very_pixels(tmp_path: Path, bits: int, channels: int) -> None:
    pixels = picture(bits, channels)
    path = write(tmp_path / "a", encode(pixels.squeeze(), "j2k"))
    assert np.array_equal(imaging.decode(path, "a").pixels, pixels)
    assert imaging.probe(path, "a") == imaging.Header("image/jp2", 101, 75, channels, bits, 1)


@pytest.mark.parametrize("options", [{"tile_size": (32, 32)}, {"tile_size": (64, 48), "offset": (10, 20)}, {}])
def test_a_tiled_jp2_of_another_writer_decodes_to_the_very_pixels(tmp_path: Path, options: dict[str, Any]) -> None:
    path = write(tmp_path / "a", by_pillow(picture(), irreversible=False, **options))
    assert np.array_equal(imaging.decode(path, "a").pixels, picture())


def test_a_lossy_jp2_decodes_nearly(tmp_path: Path) -> None:
    path = write(tmp_path / "a", by_pillow(picture(), irreversible=True, quality_layers=[5]))
    assert np.abs(imaging.decode(path, "a").pixels.astype(int) - picture()).mean() < 5


def test_another_reader_sees_the_written_pixels_and_profile(tmp_path: Path) -> None:
    imaging.write_jp2(Raster(picture(), SRGB, (300.0, 300.0)), tmp_path / "a.jp2")
    with Image.open(tmp_path / "a.jp2") as theirs:
        assert theirs.format == "JPEG2000" and np.array_equal(np.asarray(theirs), picture())
        assert theirs.info["dpi"] == pytest.approx((300, 300), abs=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
def test_the_same_raster_gives_the_same_jp2_on_any_number_of_cores(
    tmp_path: Path, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = Raster(picture(bits, 3, 400, 500), SRGB, (300.0, 300.0), 6, Metadata(xmp=b"<x/>", description="x"))
    for cores in (1, 2, 4):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        imaging.write_jp2(scan, tmp_path / str(cores))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes() == (tmp_path / "4").read_bytes()


def test_what_travels_with_a_picture_comes_through_jp2(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[271], exif[315] = "Imacon", "A. N."
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    source = Raster(picture(16), SRGB, (600.0, 299.5), 6, Metadata(block, b"<x>M\xc3\xbchle</x>", b"\x1c\2iptc", "Tür"))
    imaging.write_jp2(source, tmp_path / "a")
    back = imaging.decode(tmp_path / "a", "a")
    assert (back.icc, back.orientation, back.notes) == (SRGB, 6, ())
    assert back.dpi == pytest.approx((600, 299.5), rel=1e-8)
    assert (back.metadata.xmp, back.metadata.iptc) == (source.metadata.xmp, source.metadata.iptc)
    assert back.metadata.description == "Tür" and b"Imacon" in (back.metadata.exif or b"")
    imaging.write_jp2(back, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("dpi", [1.0, 72.0, 118.11, 2400.0, 12800.0, 0.5])
def test_every_usual_resolution_is_kept(tmp_path: Path, dpi: float) -> None:
    imaging.write_jp2(Raster(picture(8, 1, 9, 9), dpi=(dpi, 2 * dpi)), tmp_path / "a")
    assert imaging.decode(tmp_path / "a", "a").dpi == pytest.approx((dpi, 2 * dpi), rel=1e-5)


def test_a_broken_profile_in_a_jp2_is_kept_and_noted(tmp_path: Path) -> None:
    imaging.write_jp2(Raster(picture(), icc=b"no profile at all"), tmp_path / "a")
    back = imaging.decode(tmp_path / "a", "a")
    assert back.icc == b"no profile at all" and back.notes == ("unreadable ICC profile",)


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("defined", [False, True])
def test_opaque_alpha_of_a_jp2_is_dropped_with_a_note_and_real_alpha_is_refused(
    tmp_path: Path, channels: int, defined: bool
) -> None:
    pixels = picture(8, channels)
    pixels[..., -1] = 255
    roles = b"".join(struct.pack(">HHH", n, 0, n + 1) for n in range(channels - 1))
    roles = struct.pack(">H", channels) + roles + struct.pack(">HHH", channels - 1, 1, 0)
    header = space(16 if channels == 4 else 17) + (box(b"cdef", roles) if defined else b"")
    path = write(tmp_path / "a", wrap(encode(pixels, "j2k"), header, pixels.shape))
    back = imaging.decode(path, "a")
    assert np.array_equal(back.pixels, pixels[..., :-1]) and back.notes == ("opaque alpha dropped",)
    pixels[40, 50, -1] = 254
    write(path, wrap(encode(pixels, "j2k"), header, pixels.shape))
    with pytest.raises(UnsupportedImage, match=r"a: .*found alpha that is not opaque"):
        imaging.decode(path, "a")


# --- what is not restored, in words ---


def with_components(data: bytes, change: bytes) -> bytes:
    """``data`` with the first channel's depth and sampling in its SIZ segment replaced."""
    at = data.index(SIZ) + 42
    return data[:at] + change + data[at + len(change) :]


RGB = encode(picture(), "j2k")
FOUR = encode(picture(8, 4), "j2k")
SWAPPED = struct.pack(">H9H", 3, 0, 0, 3, 1, 0, 2, 2, 0, 1)
PALETTE = box(b"pclr", b"\0\1\1\7\0") + box(b"cmap", b"\0\0\1\0")
REFUSALS: dict[str, tuple[bytes, str]] = {
    "12 bits": (encode(picture(16) >> 4, bitspersample=12), "expected 8 or 16 bits a sample, found 12 bits"),
    "1 bit": (with_components(encode(picture(8, 1)[..., 0], "j2k"), b"\0"),
              "expected 8 or 16 bits a sample, found 1 bit"),
    "signed": (encode(picture(16, 1)[..., 0].astype(np.int16)),
               "expected unsigned integer samples, found signed integers"),
    "depths": (with_components(RGB, b"\x0f"), "expected one depth for all channels, found 16, 8, 8 bits"),
    "subsampled": (with_components(RGB, b"\7\2\2"),
                   "expected every channel at full resolution, found subsampled channels"),
    "bare alpha": (FOUR, "expected gray or RGB, found 4 channels, the last of no known meaning"),
    "five": (encode(picture(8, 5), "j2k"), "expected 3 channels and at most one of alpha, found 5 channels"),
    "CMYK": (wrap(FOUR, space(12), (75, 101, 4)), "expected gray or RGB, found CMYK"),
    "CMYK profile": (wrap(FOUR, box(b"colr", b"\2\0\0" + SRGB[:16] + b"CMYK" + SRGB[20:]), (75, 101, 4)),
                     "expected gray or RGB, found CMYK"),
    "sYCC": (wrap(RGB, space(18), (75, 101, 3)), "expected gray or RGB, found sYCC"),
    "gray RGB": (wrap(RGB, space(17), (75, 101, 3)), "expected gray or RGB, found 3 channels called gray"),
    "palette": (wrap(encode(picture(8, 1)[..., 0], "j2k"), space(16) + PALETTE, (75, 101, 1)),
                "expected gray or RGB, found a palette picture"),
    "BGR": (wrap(RGB, space(16) + box(b"cdef", SWAPPED), (75, 101, 3)),
            "expected channels in their usual order, found a channel definition that says otherwise"),
    "pages": (wrap(RGB, space(16), (75, 101, 3), more=box(b"jp2c", RGB)), "expected one page, found 2 pages"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_sound_jp2_that_is_not_restored_is_refused_in_words(tmp_path: Path, kind: str) -> None:
    data, words = REFUSALS[kind]
    path = write(tmp_path / "scan", data)
    imaging.probe(path, "box/7.jp2")
    with pytest.raises(UnsupportedImage) as caught:
        imaging.decode(path, "box/7.jp2")
    assert str(caught.value) == f"box/7.jp2: {words}"


@pytest.mark.parametrize("kind", ["jp2", "j2k"])
def test_limits_are_checked_in_the_jp2_header_before_a_pixel_is_decoded(tmp_path: Path, kind: str) -> None:
    data = bytearray(encode(np.zeros((8, 8), np.uint8), kind))
    siz = data.index(SIZ)
    for at in (siz + 8, siz + 24):  # the picture and its only tile
        data[at : at + 8] = struct.pack(">II", 65000, 65000)
    if kind == "jp2":
        at = data.index(b"ihdr") + 4
        data[at : at + 8] = struct.pack(">II", 65000, 65000)
    path = write(tmp_path / "a", bytes(data))
    for call in (imaging.probe, imaging.decode):
        with pytest.raises(OversizedImage, match="found 65000 x 65000 pixels"):
            call(path, "a")


# --- what does not decode to its last pixel ---


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("valid")
    imaging.write_jp2(
        Raster(picture(16), SRGB, (300.0, 300.0), 6, Metadata(xmp=b"<x/>", description="x")), folder / "a"
    )
    return {
        "written": (folder / "a").read_bytes(),
        "bare": RGB,
        "gray": encode(picture(8, 1)[..., 0]),
        "tiled": by_pillow(picture(), irreversible=False, tile_size=(32, 32)),
        "layers": by_pillow(picture(), irreversible=True, quality_layers=[40, 20, 5]),
    }


def test_a_truncated_jp2_is_unreadable_wherever_it_ends(valid: dict[str, bytes], tmp_path: Path) -> None:
    for kind, data in valid.items():
        imaging.decode(write(tmp_path / "a", data), kind)
        for end in (*(int(len(data) * s) for s in (0, 0.01, 0.2, 0.5, 0.9, 0.99)), *(len(data) - n for n in (1, 2, 3))):
            for call in (imaging.probe, imaging.decode):
                with pytest.raises(UnreadableImage, match=f"^{kind}: expected "):
                    call(write(tmp_path / "a", data[:end]), kind)


def test_a_truncated_jp2_whose_box_runs_to_the_end_of_the_file_is_unreadable(tmp_path: Path) -> None:
    data = bytearray(encode(picture()))
    at = data.index(b"jp2c") - 4
    data[at : at + 4] = bytes(4)
    assert np.array_equal(imaging.decode(write(tmp_path / "a", bytes(data)), "a").pixels, picture())
    with pytest.raises(UnreadableImage, match="expected a tile-part of"):
        imaging.decode(write(tmp_path / "a", bytes(data[: len(data) * 9 // 10])), "a")


def test_a_jp2_cut_and_closed_again_is_unreadable(tmp_path: Path) -> None:
    cut = bytearray(RGB[: len(RGB) * 9 // 10])
    at = cut.index(TILE_PART)
    cut[at + 6 : at + 10] = struct.pack(">I", len(cut) - at)
    with pytest.raises(UnreadableImage, match="decodes to its last pixel"):
        imaging.decode(write(tmp_path / "a", bytes(cut) + b"\xff\xd9"), "a")


def test_a_jp2_without_one_of_its_tiles_is_unreadable(valid: dict[str, bytes], tmp_path: Path) -> None:
    data = valid["tiled"]
    data = data[data.index(SIZ) :]
    first = data.index(TILE_PART)
    size = int.from_bytes(data[first + 6 : first + 10], "big")
    imaging.decode(write(tmp_path / "a", data), "a")
    with pytest.raises(UnreadableImage, match="expected tile 1 of 12 in 1 parts, found 0 parts"):
        imaging.decode(write(tmp_path / "a", data[:first] + data[first + size :]), "a")


def test_a_jp2_whose_header_contradicts_its_codestream_is_unreadable(tmp_path: Path) -> None:
    path = write(tmp_path / "a", wrap(RGB, space(16), (76, 101, 3)))
    with pytest.raises(UnreadableImage, match="says what the codestream says"):
        imaging.probe(path, "a")


@pytest.mark.parametrize(
    "data", [SIZ, b"\0\0\0\x0cjP  \r\n\x87\n", b"\0\0\0\x0cjP  ", SIZ + b"\xff" * 60, SIZ + bytes(60)]
)
def test_the_beginning_of_a_jp2_alone_is_unreadable_and_named(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UnreadableImage, match=r"^box/9\.jp2: expected .*, found "):
        imaging.decode(write(tmp_path / "a", data), "box/9.jp2")


REUSED = [HealthCheck.function_scoped_fixture]


@settings(max_examples=200, deadline=None, suppress_health_check=REUSED, derandomize=True)
@given(data=st.data())
def test_no_harmed_jp2_raises_anything_but_imaging_errors(
    data: st.DataObject, valid: dict[str, bytes], tmp_path: Path
) -> None:
    kind = data.draw(st.sampled_from(sorted(valid)))
    harmed = bytearray(valid[kind])
    start = harmed.index(SIZ)
    for _ in range(data.draw(st.integers(0, 4))):
        first, last = data.draw(st.sampled_from([(0, 200), (start, start + 200), (0, len(harmed))]))
        harmed[data.draw(st.integers(first, last - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(harmed), len(harmed), data.draw(st.integers(0, len(harmed)))]))
    try:
        imaging.decode(write(tmp_path / "a", bytes(harmed[:cut])), "a", Limits(max_megapixels=4))
    except ImagingError as error:
        assert str(error).startswith("a: expected ")
