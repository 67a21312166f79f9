from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage import data
from torch import nn

from models.imaging import Raster
from models.network import (
    MEASURED_THREADS,
    Network,
    NonFiniteOutput,
    Restored,
    TileTooLarge,
    WrongSize,
    apply_residual,
    estimate_seconds,
    fitting_dtype,
    load,
    resident,
    restore,
    work_factor,
)
from models.registry import ModelCard, WeightFile, card
from models.weights import AlteredWeights, UnusableWeights, file_sha256, write_state

PLAIN = ModelCard(id="toy", purpose="enhance", arch="toy", licence="CC0-1.0", data_terms="free", tile_px=96)
TIMES_FOUR = replace(PLAIN, scale=4)


class Enlarge(nn.Module):
    """Every pixel becomes 4 x 4: reduced by area, the scan again."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(x, scale_factor=4, mode="nearest")


class Random(nn.Module):
    """Six random convolutions beside the picture itself."""

    discard_px = 16

    def __init__(self, scale: int) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.scale = scale
        layers: list[nn.Module] = [nn.Conv2d(3, 12, 3, padding=1), nn.SiLU()]
        for _ in range(4):
            layers += [nn.Conv2d(12, 12, 3, padding=1), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.last = nn.Conv2d(12, 3 * scale**2, 3, padding=1)
        self.precise = ("last",)
        with torch.no_grad():
            for convolution in self.body[::2]:
                convolution.weight.mul_(1.6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added = self.last(self.body(x * 8).to(self.last.weight.dtype))
        return nn.functional.pixel_shuffle(added, self.scale) + nn.functional.interpolate(
            x.to(added.dtype), scale_factor=self.scale, mode="bilinear"
        )


class Add(nn.Module):
    def __init__(self, r: float, g: float, b: float) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([r, g, b]).reshape(1, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.shift


def _network(module: nn.Module, c: ModelCard = PLAIN, dtype: torch.dtype = torch.float32) -> Network:
    return Network(c, module, "cpu", dtype)


def _coffee(bits: int = 8) -> Raster:
    pixels = np.ascontiguousarray(data.coffee()[100:203, 50:175])
    return Raster(pixels if bits == 8 else pixels.astype(np.uint16) * 257)


def _one(*args: object, **kwargs: object) -> Restored:
    (result,) = restore(*args, **kwargs)  # type: ignore[arg-type]
    assert isinstance(result, Restored)
    return result


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_a_network_that_changes_nothing_changes_nothing(bits: int, factor: int):
    raster = _coffee(bits)
    plain = _one([raster], _network(nn.Identity()), factors=[factor])
    np.testing.assert_array_equal(plain.raster.pixels, raster.pixels)
    if factor == 1:
        supersampled = _one([raster], _network(Enlarge(), TIMES_FOUR), factors=[1])
        np.testing.assert_array_equal(supersampled.raster.pixels, raster.pixels)
        assert supersampled.stats.tiles >= 4


def test_strength_nought_changes_nothing_and_half_does_half():
    raster = _coffee(16)
    whole, half, none = (
        _one([raster], _network(Random(1)), factors=[1], strength=s).raster.pixels.astype(int) for s in (1, 0.5, 0)
    )
    np.testing.assert_array_equal(none, raster.pixels)
    inside = (whole > 0) & (whole < 65535)
    np.testing.assert_allclose((half - none)[inside], ((whole - none) / 2)[inside], atol=1)
    assert np.abs(whole - none).mean() > 257


def _away_from_the_edge(a: Raster, b: Raster) -> np.ndarray:
    apart = np.abs(a.pixels.astype(int) - b.pixels)
    return apart[8:-8, 8:-8] / (1 if a.bits == 8 else 257)


@pytest.mark.parametrize(
    ("module", "scale", "factor"),
    [*itertools.product(["random x1", "random x4"], [1, 4], [1, 2]), ("span-x4", 1, 1), ("span-x4", 4, 1)],
)
def test_tiles_cannot_be_seen(module: str, scale: int, factor: int, weights_of: Callable[[str], Path]):
    if module == "span-x4":
        network = load(card(module), weights_of(module), "cpu", torch.float32)
    else:
        of = 1 if module.endswith("x1") else 4
        network = _network(Random(of), replace(PLAIN, scale=of))
    network.tile_px = 1024
    raster = Raster(np.tile(_coffee(16).pixels, (factor, factor, 1)))
    whole = _one([raster], network, factors=[factor], scale=scale)
    tiled = _one([raster], network, factors=[factor], scale=scale, tile_px=88)
    assert whole.stats.tiles == 1 and tiled.stats.tiles > 4
    if scale == 1 and factor == 1:
        assert np.abs(whole.raster.pixels.astype(int) - raster.pixels).mean() > 100, "nothing to see a tile by"
    apart = _away_from_the_edge(whole.raster, tiled.raster)
    assert np.quantile(apart, 0.999) <= 1
    assert apart.max() <= 3


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_the_result_has_scale_times_the_size_and_lies_where_the_scan_lies(scale: int):
    raster = _coffee()
    raster = raster.with_pixels(cv2.GaussianBlur(raster.pixels, (0, 0), 4))
    for network in (_network(nn.Identity()), _network(Enlarge(), TIMES_FOUR)):
        for factor in (1, 2):
            out = _one([raster], network, scale=scale, factors=[factor]).raster
            assert (out.height, out.width) == (raster.height * scale, raster.width * scale)
            back = cv2.resize(out.pixels, (raster.width, raster.height), interpolation=cv2.INTER_AREA)
            assert np.abs((back.astype(int) - raster.pixels).mean()) < 0.1
            apart = np.abs(back.astype(int) - raster.pixels)[4:-4, 4:-4].mean()
            for axis, by in ((0, 1), (0, -1), (1, 1), (1, -1)):
                moved = np.roll(raster.pixels, by, axis=axis).astype(int)
                assert apart < 0.7 * np.abs(back - moved)[4:-4, 4:-4].mean(), "a pixel or half of one beside its place"


def test_pictures_share_batches_and_each_gets_what_it_gets_alone():
    rasters = [
        _coffee(),
        Raster(np.ascontiguousarray(data.camera()[:150, :190, None])),
        _coffee(16),
        Raster(np.ascontiguousarray(data.chelsea()[:40, :31])),
        Raster(np.full((1, 1, 3), 200, np.uint8)),
    ]
    network = _network(Random(1))
    network.batch = 5
    sizes: list[int] = []
    together = restore(rasters, network, factors=[1] * 5, on_tile=sizes.append)
    assert max(sizes) == 5 and sum(sizes) == sum(r.stats.tiles for r in together if isinstance(r, Restored))
    for raster, result in zip(rasters, together, strict=True):
        assert isinstance(result, Restored)
        alone = _one([raster], _network(Random(1)), factors=[1]).raster
        assert result.raster.pixels.shape == raster.pixels.shape and result.raster.pixels.dtype == raster.pixels.dtype
        assert np.abs(alone.pixels.astype(int) - result.raster.pixels).max() <= (1 if raster.bits == 8 else 20)


def test_gray_stays_gray_in_one_channel_and_in_three():
    gray = np.ascontiguousarray(data.camera()[:120, :140, None])
    network = _network(Add(0.3, 0.0, 0.0))
    one = _one([Raster(gray)], network, factors=[1], keep_tone=False).raster.pixels
    np.testing.assert_allclose(one.astype(int), np.minimum(gray.astype(int) + round(0.1 * 255), 255), atol=1)
    three = _one([Raster(np.repeat(gray, 3, axis=2))], network, factors=[1], keep_tone=False).raster.pixels
    np.testing.assert_array_equal(three, np.repeat(one, 3, axis=2))
    toned = np.repeat(gray, 3, axis=2)
    toned[:, :, 2] = toned[:, :, 2] // 2
    shifted = _one([Raster(toned)], network, factors=[1], keep_tone=False).raster.pixels
    np.testing.assert_array_equal(shifted[:, :, 1:], toned[:, :, 1:])


def test_a_shift_of_tone_is_kept_out_of_the_result_unless_it_is_wanted():
    raster = _coffee()
    kept = _one([raster], _network(Add(0.1, 0.0, -0.1)), factors=[1]).raster.pixels
    np.testing.assert_array_equal(kept, raster.pixels)
    let = _one([raster], _network(Add(0.1, 0.0, -0.1)), factors=[1], keep_tone=False).raster.pixels
    assert np.abs(let.astype(int) - raster.pixels).max() == 26


@pytest.mark.parametrize("model", ["random", "span-x4"])
def test_a_16_bit_ramp_keeps_its_levels_through_bfloat16(model: str, weights_of: Callable[[str], Path]):
    ramp = np.linspace(20000, 44000, 400).round().astype(np.uint16)
    raster = Raster(np.repeat(np.tile(ramp, (80, 1))[:, :, None], 3, axis=2))
    if model == "random":
        network = _network(Random(1), PLAIN, torch.bfloat16)
    else:
        network = load(card(model), weights_of(model), "cpu", torch.bfloat16)
    out = _one([raster], network, factors=[1]).raster.pixels
    assert len(np.unique(out)) > 256
    middle = out[40, 20:-20, 1].astype(float)
    assert np.abs(middle - ramp[20:-20]).max() < 2 * 257
    fine = cv2.blur(middle[:, None], (1, 31))[:, 0][20:-20]
    assert (np.diff(fine) > 0).mean() > 0.95, "the ramp rises in steps"


def test_a_picture_with_nan_or_a_wrong_size_fails_alone():
    class Fussy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = x.clone()
            out[(x[:, :1] > 0.99).expand_as(x)] = float("nan")
            return out

    dark = Raster(np.full((100, 120, 3), 40, np.uint8))
    bright = Raster(np.full((100, 120, 3), 40, np.uint8))
    bright.pixels[70, 80] = 255
    network = _network(Fussy())
    network.batch = 4
    first, second, third = restore([dark, bright, dark], network, factors=[1] * 3, names=["a.tif", "b.tif", "c.tif"])
    assert isinstance(first, Restored) and isinstance(third, Restored)
    assert isinstance(second, NonFiniteOutput)
    assert "b.tif: expected finite pixels" in str(second) and "NaN or infinite in the tile at row" in str(second)
    assert second.evidence.max() > 0.99
    (wrong,) = restore([dark], _network(nn.Identity(), TIMES_FOUR), factors=[1], names=["a.tif"])
    assert isinstance(wrong, WrongSize) and "a.tif: expected a tile (384, 384, 3), found (96, 96, 3)" in str(wrong)


class Small(nn.Module):
    """A device on which so many pixels fit."""

    discard_px = 0

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] * x.shape[2] * x.shape[3] > self.pixels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return x + 0.01 * torch.sin(40 * x)


def test_lack_of_memory_is_answered_by_smaller_batches_and_tiles_and_recorded():
    rasters = [_coffee(16), _coffee(16)]
    c = replace(PLAIN, tile_px=256)
    network = _network(Small(90 * 90), c)
    network.batch = 4
    results = restore(rasters, network, factors=[1, 1])
    assert network.batch == 1 and network.tile_px == 72
    for result in results:
        assert isinstance(result, Restored)
        assert result.stats.halvings == 2 and result.stats.tile_px == 72
        easily = _one([rasters[0]], _network(Small(1 << 30), c), factors=[1])
        assert easily.stats.halvings == 0
        assert _away_from_the_edge(result.raster, easily.raster).max() <= 0.1


def test_when_not_even_the_smallest_tile_fits_the_picture_says_so():
    (result,) = restore([_coffee()], _network(Small(10)), factors=[1], names=["big.tif"])
    assert isinstance(result, TileTooLarge)
    assert "big.tif: expected room for a tile of" in str(result) and "CUDA out of memory" in str(result)


@pytest.mark.parametrize(("factor", "tile_px"), [(1, 512), (4, 256)])
def test_memory_is_bounded_by_the_tile_and_the_result(factor: int, tile_px: int):
    raster = Raster(np.random.default_rng(0).integers(0, 256, (5000, 5000, 3), dtype=np.uint8))
    network = _network(nn.Identity(), replace(PLAIN, tile_px=tile_px))
    tracemalloc.start()
    out = _one([raster], network, factors=[factor]).raster
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert out.pixels.shape == raster.pixels.shape
    assert peak - out.pixels.nbytes < 260e6  # a float32 copy of the picture alone would be 300 MB


def test_a_soft_scan_is_worked_reduced_and_a_sharp_one_is_not():
    sharp = Raster(np.ascontiguousarray(np.tile(data.astronaut(), (3, 3, 1))))
    soft = cv2.resize(data.astronaut(), (2560, 2560), interpolation=cv2.INTER_CUBIC)
    soft = np.clip(soft + np.random.default_rng(0).normal(0, 3, soft.shape), 0, 255).astype(np.uint8)
    assert work_factor(sharp, 4) == 1
    assert work_factor(Raster(soft), 4) == 4
    assert work_factor(Raster(soft), 1) == 1
    assert work_factor(Raster(np.ascontiguousarray(soft[:, :, :1])), 2) == 2


def test_a_residual_is_added_in_the_scans_own_depth_and_clamped():
    raster = Raster(np.array([[[0, 30000, 65535]]], np.uint16))
    out = apply_residual(raster, np.full((1, 1, 3), 1 / 65535 * 5, np.float32)).pixels
    assert out.tolist() == [[[5, 30005, 65535]]]
    down = apply_residual(raster, np.full((1, 1, 3), -0.5, np.float32), strength=2).pixels
    assert down.tolist() == [[[0, 0, 0]]]
    with pytest.raises(WrongSize, match=r"expected a residual \(1, 1, 3\), found \(1, 2, 3\)"):
        apply_residual(raster, np.zeros((1, 2, 3), np.float32))


def test_time_is_estimated_from_what_was_measured_and_unknown_otherwise():
    dtype = str(fitting_dtype(torch.device("cpu"))).removeprefix("torch.")
    measured = replace(PLAIN, measures={f"cpu_{dtype}_s_per_mp": 3.0})
    seconds = estimate_seconds(measured, 20, "cpu")
    assert seconds == pytest.approx(60 * MEASURED_THREADS / torch.get_num_threads())
    assert estimate_seconds(PLAIN, 20, "cpu") is None
    for c in (card("span-x4"), card("realesrgan-x4plus")):
        assert (estimate_seconds(c, 1, "cpu") or 0) > 0
    assert (estimate_seconds(card("realesrgan-x4plus"), 1, "cpu") or 0) > 10 * (
        estimate_seconds(card("span-x4"), 1, "cpu") or 0
    )


def test_a_network_is_loaded_once_per_process(weights_of: Callable[[str], Path]):
    span, path = card("span-x4"), weights_of("span-x4")
    assert resident(span, path, "cpu") is resident(span, path, "cpu")


def test_safetensors_load_too_and_altered_ones_do_not(tmp_path: Path, weights_of: Callable[[str], Path]):
    known = load(card("span-x4"), weights_of("span-x4"), "cpu", torch.float32)
    path = tmp_path / "span.safetensors"
    write_state(known.module.state_dict(), path)
    pinned = WeightFile(f"file:{path}", file_sha256(path), path.stat().st_size)
    ours = replace(card("span-x4"), id="ours", files=(pinned,))
    given = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    np.testing.assert_array_equal(load(ours, path, "cpu", torch.float32)(given), known(given))
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(AlteredWeights, match="glassplate models fetch ours"):
        load(ours, path, "cpu")
    with pytest.raises(UnusableWeights, match=r"expected an arch of .*rrdbnet, span or spandrel, found nothing"):
        load(replace(ours, arch="nothing"), path, "cpu")


def test_another_scale_is_refused():
    with pytest.raises(ValueError, match="expected 1, 2 or 4, found 3"):
        restore([_coffee()], _network(nn.Identity()), scale=3)
