"""Faces found on every kind of scan, counted where no model is installed, restored where one is registered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from skimage import data
from torch import nn

from flows.restore import open_shelf
from models.imaging import Raster, turn_upright
from models.network import Network
from models.registry import ModelCard
from small_archive import Archive
from tasks import faces, networks, stage
from tasks.contracts import CLEANED, ENHANCED, BadOutput, Outcome, Plate
from tasks.recipe import FacesConfig
from tasks.shelf import Shelf
from tasks.stage import Workshop
from toy_models import registered

UNDONE = {6: 8, 8: 6}


def portrait(bits: int = 8, channels: int = 3, orientation: int = 1) -> Raster:
    """The astronaut's head and shoulders, 256 px, one face, stored as ``orientation`` says."""
    picture = data.astronaut()[:256, 100:356]
    if channels == 1:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[:, :, None]
    stored = turn_upright(np.ascontiguousarray(picture), UNDONE.get(orientation, orientation))
    return Raster(stored if bits == 8 else stored.astype(np.uint16) * 257, orientation=orientation)


@pytest.fixture
def shop(archive: Archive, weights_dir: Path) -> Workshop:
    return archive.shop(models=Shelf(weights_dir=weights_dir, device="cpu"))


@pytest.fixture
def restoring(archive: Archive, weights_dir: Path, tmp_path: Path) -> Workshop:
    """A workshop whose settings register a face network of random weights."""
    update = {"models": [registered(tmp_path, "face")], "weights_dir": weights_dir, "device": "cpu"}
    return archive.shop(models=open_shelf(archive.settings.model_copy(update=update)))


def test_faces_are_counted_on_colour_gray_sixteen_bit_and_turned_scans(shop: Workshop, plated: Any) -> None:
    scans = {
        "colour.tif": portrait(), "gray.tif": portrait(8, 1), "deep.tif": portrait(16, 1),
        "turned.tif": portrait(orientation=6), "none.tif": Raster(np.ascontiguousarray(data.coffee()[:200, :200])),
    }  # fmt: skip
    results = {r.scan: r for r in faces.faces.fn(plated(scans, shop), FacesConfig(), shop)}
    for name in ("colour.tif", "gray.tif", "deep.tif", "turned.tif"):
        found = results[name]
        assert (found.outcome, found.reason) == (Outcome.SKIPPED, "no face model installed (1 face found)"), name
        assert found.measures["faces_found"] == 1
        assert (found.model_id, found.data_terms) == ("centerface", "research-only"), "the detector did its work"
    assert results["none.tif"].reason == "no faces found"
    assert all(ENHANCED not in r.plate.layers for r in results.values() if r.plate)


@pytest.mark.parametrize(("bits", "channels", "orientation"), [(8, 3, 1), (16, 1, 1), (8, 3, 8)])
def test_a_registered_model_changes_the_face_and_nothing_else(
    bits: int, channels: int, orientation: int, restoring: Workshop, plated: Any, tmp_path: Path
) -> None:
    scan = portrait(bits, channels, orientation)
    (result,) = faces.faces.fn(plated({"a.tif": scan}, restoring), FacesConfig(), restoring)
    assert result.plate is not None, result.reason
    assert (result.outcome, result.model_id, result.measures["faces_restored"]) == (Outcome.DONE, "toy-face", 1)
    made = stage.layer(result.plate, ENHANCED, restoring.blobs(result.plate.restoration_id), tmp_path)
    assert (made.pixels.shape, made.bits, made.orientation) == (scan.pixels.shape, bits, orientation)
    moved = np.abs(made.pixels.astype(int) - scan.pixels).max(axis=2)
    seen = turn_upright(moved.astype(np.uint16), orientation)
    assert seen[100:140, 105:145].mean() > 2 * (1 if bits == 8 else 257)
    assert not seen[:, :10].any()
    assert not seen[:, 246:].any()


def test_the_face_goes_into_the_enhanced_layer_with_the_cleaned_face_under_it() -> None:
    class Same(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 0.001

    class Detector:
        def detect_faces(self, rgb8: Any, *, min_score: float) -> Any:
            from models.nets.centerface import Face

            points = np.array([[203, 102], [247, 105], [223, 125], [203, 142], [241, 144]], np.float32) - (100, 0)
            return [Face(80, 60, 172, 176, points, 0.9)]

    cleaned = portrait()
    enhanced = cleaned.with_pixels(np.full_like(cleaned.pixels, 1) * np.array([9, 20, 40], np.uint8))
    net = Network(ModelCard("same", "face", "none", licence="MIT", data_terms="free"), Same(), "cpu", torch.float32)
    plate = Plate("a.tif", {CLEANED: cleaned, ENHANCED: enhanced})
    output = faces.mend_faces(plate, FacesConfig(), Detector(), net, lambda *_: "")  # type: ignore[arg-type]
    made = output.layers[ENHANCED].pixels
    middle = (slice(115, 130), slice(115, 130))
    assert np.abs(made[middle].astype(int) - cleaned.pixels[middle]).max() <= 1
    np.testing.assert_array_equal(made[:, :5], enhanced.pixels[:, :5])


def test_a_face_network_that_gives_nonsense_fails_the_scan_and_keeps_the_face(
    shop: Workshop, weights_dir: Path
) -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * float("inf")

    net = Network(ModelCard("bad", "face", "none", licence="MIT", data_terms="free"), Broken(), "cpu", torch.float32)
    kept: list[bytes] = []

    def keep(scan: str, evidence: bytes) -> str:
        kept.append(evidence)
        return f"s3://kept/{scan}"

    card = faces.detector_of(shop.models)
    assert card is not None
    plate = Plate("a.tif", {CLEANED: portrait()})
    with pytest.raises(BadOutput, match=r"s3://kept/a\.tif"):
        faces.mend_faces(plate, FacesConfig(), networks.face_detector(card, shop), net, keep)
    assert len(kept[0]) > 512 * 512 * 3 * 4


def test_a_detector_that_is_not_permitted_is_not_used(archive: Archive, plated: Any) -> None:
    shop = archive.shop(models=Shelf(data_terms=frozenset({"free"}), device="cpu"))
    (result,) = faces.faces.fn(plated({"a.tif": portrait()}, shop), FacesConfig(), shop)
    assert (result.outcome, result.reason, result.model_id) == (Outcome.SKIPPED, "no permitted face detector", None)


def test_both_models_decide_the_restoration(restoring: Workshop, shop: Workshop) -> None:
    assert len(faces.stage_of(FacesConfig(), restoring.models).weights()) == 2
    assert len(faces.stage_of(FacesConfig(), shop.models).weights()) == 1
