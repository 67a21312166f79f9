"""Damage filled by OpenCV or by a registered LaMa: which of them, under which terms, and never the damage as result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from flows.restore import open_shelf, restore_scan
from infra.settings import RegisteredModel
from models.imaging import Mask, Raster
from models.network import Network
from models.registry import ModelCard
from small_archive import Archive
from tasks import inpaint, stage
from tasks.contracts import CLEANED, MASTER, BadOutput, GroupFailed, Outcome, Plate, StageResult
from tasks.recipe import InpaintConfig
from tasks.shelf import Shelf
from tasks.stage import Workshop
from toy_models import lama_weights, registered, setting


@pytest.fixture(scope="session")
def lama_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a random LaMa; one file a session, for it is large."""
    return lama_weights(tmp_path_factory.mktemp("lama"))


def shop_with(archive: Archive, *models: RegisteredModel, **settings: Any) -> Workshop:
    """A workshop of an archive whose settings register these models."""
    update = {"models": list(models), "device": "cpu", **settings}
    return archive.shop(models=open_shelf(archive.settings.model_copy(update=update)))


def scan(channels: int = 1, bits: int = 8) -> Raster:
    """72 x 88 pixels of a smooth picture with a white scratch, as ``damage()`` says."""
    y, x = np.mgrid[0:72, 0:88].astype(np.float64)
    base = 0.45 + 0.2 * np.sin(x / 13) + 0.15 * np.cos(y / 11)
    layers = np.stack([base * k for k in (1.0, 0.8, 0.6)[:channels]], axis=2)
    layers[damage().values > 0] = 1
    return Raster((layers * 255).astype(np.uint8) if bits == 8 else (layers * 65535).astype(np.uint16))


def damage() -> Mask:
    values = np.zeros((72, 88), np.float32)
    values[8:64, 40:45] = 1
    return Mask(values)


def failure(plates: Any, config: InpaintConfig, shop: Workshop) -> StageResult:
    """The result of the one scan of a group of which nothing survived."""
    with pytest.raises(GroupFailed) as failed:
        inpaint.inpaint.fn(plates, config, shop)
    (result,) = failed.value.results
    assert (result.outcome, result.plate) == (Outcome.FAILED, None)
    return result


@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (3, 8), (1, 16), (3, 16)])
def test_a_registered_lama_fills_the_damage_and_no_other_pixel_changes(
    channels: int, bits: int, archive: Archive, plated: Any, lama_file: Path, tmp_path: Path
) -> None:
    shop = shop_with(archive, setting(lama_file, "inpaint", licence="Apache-2.0"))
    refs = plated({"s.tif": scan(channels, bits)}, shop, {"s.tif": damage()})
    (result,) = inpaint.inpaint.fn(refs, InpaintConfig(), shop)
    assert result.plate is not None, result.reason
    assert (result.outcome, result.model_id, result.licence, result.data_terms) == (
        Outcome.DONE, "toy-inpaint", "Apache-2.0", "unknown",
    )  # fmt: skip
    assert result.weights_sha256 == shop.models.cards[0].sha256
    assert (result.measures["crops"], result.measures["halvings"], result.device) == (1.0, 0.0, "cpu")
    made = stage.layer(result.plate, CLEANED, shop.blobs(result.plate.restoration_id), tmp_path)
    before, inside = scan(channels, bits).pixels, damage().values > 0
    assert (made.pixels.shape, made.bits) == (before.shape, bits)
    assert np.array_equal(made.pixels[~inside], before[~inside])
    assert np.unique(made.pixels[inside]).size > 20, "random weights give random pixels, not the white they were given"
    assert (made.pixels[inside] != before[inside]).any(axis=1).mean() > 0.7
    if bits == 16:
        assert np.count_nonzero(made.pixels[inside] % 257) > 0.7 * made.pixels[inside].size

    (again,) = inpaint.inpaint.fn(refs, InpaintConfig(model="toy-inpaint"), shop)
    assert (again.outcome, again.reused) == (Outcome.DONE, False), "another setting"
    assert again.plate is not None
    assert again.plate.layers[CLEANED] == result.plate.layers[CLEANED], "the same pixels, to the byte"


def test_a_named_method_is_taken_whatever_is_registered_and_telea_where_nothing_is(
    archive: Archive, plated: Any, lama_file: Path
) -> None:
    shop = shop_with(archive, setting(lama_file, "inpaint"))
    refs = plated({"s.tif": scan()}, shop, {"s.tif": damage()})
    for name, model_id in (("telea", "opencv-telea"), ("navier_stokes", "opencv-navier-stokes")):
        (result,) = inpaint.inpaint.fn(refs, InpaintConfig(model=name), shop)
        assert (result.outcome, result.model_id, result.weights_sha256) == (Outcome.DONE, model_id, None)
    (result,) = inpaint.inpaint.fn(refs, InpaintConfig(), archive.shop())
    assert result.model_id == "opencv-telea"


def test_networks_have_a_part_in_the_stage_only_where_one_is_used(archive: Archive, lama_file: Path) -> None:
    with_lama = shop_with(archive, setting(lama_file, "inpaint")).models
    telea, lama = (inpaint.stage_of(InpaintConfig(model=m), with_lama) for m in ("telea", "auto"))
    assert telea.version() == inpaint.stage_of(InpaintConfig(), Shelf()).version()
    assert telea.version() != lama.version()
    assert (telea.weights(), lama.weights()) == ((), (with_lama.cards[0].sha256,))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"allowed_licences": ["Apache-2.0"]}, "licence MIT, permitted are Apache-2.0"),
        ({"allowed_data_terms": ["free"]}, "training data unknown, permitted is free"),
    ],
)
@pytest.mark.parametrize("model", ["auto", "toy-inpaint"])
def test_a_refused_model_fails_the_damaged_scan_and_says_why(
    model: str, settings: dict[str, Any], why: str, archive: Archive, plated: Any, lama_file: Path
) -> None:
    shop = shop_with(archive, setting(lama_file, "inpaint"), **settings)
    whole = Mask(np.zeros((72, 88), np.float32))
    refs = plated({"s.tif": scan(), "t.tif": scan(3)}, shop, {"s.tif": damage(), "t.tif": whole})
    damaged, undamaged = inpaint.inpaint.fn(refs, InpaintConfig(model=model), shop)
    assert (damaged.outcome, damaged.error_type, damaged.plate) == (Outcome.FAILED, "Refused", None)
    assert damaged.reason == f"toy-inpaint: expected a permitted model, found {why}"
    assert (undamaged.outcome, undamaged.reason) == (Outcome.SKIPPED, "no damage found")


def test_a_model_that_is_not_there_or_is_for_something_else_fails_and_says_so(
    archive: Archive, plated: Any, lama_file: Path, tmp_path: Path
) -> None:
    shop = shop_with(archive, setting(lama_file, "inpaint"))
    refs = plated({"s.tif": scan()}, shop, {"s.tif": damage()})
    unknown = failure(refs, InpaintConfig(model="lama-2"), shop)
    assert unknown.error_type == "Refused"
    assert "lama-2: expected a model for inpaint" in (unknown.reason or "")
    assert "toy-inpaint" in (unknown.reason or ""), "the ids there are"
    other = failure(refs, InpaintConfig(model="span-x4"), shop)
    assert other.reason == "span-x4: expected a model for inpaint, found one for enhance"

    compact = shop_with(archive, registered(tmp_path, "inpaint"))
    wrong = failure(refs, InpaintConfig(), compact)
    assert wrong.error_type == "BadWeights"
    assert "expected a network that takes a mask, for inpaint, found" in (wrong.reason or "")


def test_missing_and_altered_weights_fail_and_say_how_to_fetch(archive: Archive, plated: Any, tmp_path: Path) -> None:
    path = tmp_path / "lama.safetensors"
    path.write_bytes(b"tensors")
    shop = shop_with(archive, setting(path, "inpaint"))
    refs = plated({"s.tif": scan()}, shop, {"s.tif": damage()})
    path.write_bytes(b"others!")
    altered = failure(refs, InpaintConfig(), shop)
    assert altered.error_type == "BadWeights"
    assert str(path) in (altered.reason or "")
    assert "glassplate models fetch toy-inpaint" in (altered.reason or "")
    path.unlink()
    missing = failure(refs, InpaintConfig(), shop)
    assert missing.error_type == "Unavailable"
    assert "glassplate models fetch toy-inpaint" in (missing.reason or "")


def test_a_network_that_gives_nonsense_fails_the_scan_and_keeps_the_evidence() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return x / mask.mean() * float("nan")

    card = ModelCard("bad", "inpaint", "none", licence="MIT", data_terms="free")
    net = Network(card, Broken(), "cpu", torch.float32)
    with pytest.raises(BadOutput, match=r"s\.tif.*s3://kept"):
        inpaint.retouch_damage(
            Plate("s.tif", {MASTER: scan()}, damage()), lambda: net, lambda *_: "s3://kept", lambda _: None
        )


@pytest.mark.usefixtures("prefect")
def test_what_a_registered_lama_did_can_be_asked_in_sql(
    archive: Archive, lama_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = setting(lama_file, "inpaint", licence="Apache-2.0")
    monkeypatch.setenv("GLASSPLATE_MODELS", json.dumps([mine.model_dump()]))
    monkeypatch.setenv("GLASSPLATE_DEVICE", "cpu")
    pixels = np.full((128, 160), 90, np.uint8)
    pixels[:, 60:63] = 255
    Image.fromarray(pixels).save(tmp_path / "p.png")
    archive.put("p.png", tmp_path / "p.png")
    state: Any = restore_scan("p.png", "archival", return_state=True)
    assert state.is_completed(), state
    told = ("toy-inpaint", mine.sha256, "Apache-2.0", "unknown")
    columns = "model_id, weights_sha256, licence, data_terms"
    assert archive.rows(f"SELECT outcome, {columns} FROM stage_runs WHERE stage = 'inpaint'") == [("done", *told)]
    assert archive.rows(f"SELECT {columns} FROM model_usage WHERE model_id = 'toy-inpaint'") == [told]
