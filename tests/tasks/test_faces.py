"""Faces found on every kind of scan, counted where no model is installed, restored where one is registered."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from skimage import data
from torch import nn

from flows.restore import open_shelf
from models import identity, portrait
from models.imaging import Raster, turn_upright
from models.nets.centerface import Face
from models.network import Network, load
from models.registry import ModelCard, WeightFile
from small_archive import Archive
from tasks import faces, networks, record, stage
from tasks.contracts import CLEANED, ENHANCED, BadOutput, Course, Outcome, Plate, Refused, StageOutput
from tasks.recipe import FacesConfig
from tasks.shelf import Shelf
from tasks.stage import Workshop
from toy_models import architecture, registered, setting

UNDONE = {6: 8, 8: 6}


def portrait_of(bits: int = 8, channels: int = 3, orientation: int = 1) -> Raster:
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
    update = {"models": [registered(tmp_path, "face", change=0.6)], "weights_dir": weights_dir, "device": "cpu"}
    return archive.shop(models=open_shelf(archive.settings.model_copy(update=update)))


def test_faces_are_counted_on_colour_gray_sixteen_bit_and_turned_scans(shop: Workshop, plated: Any) -> None:
    scans = {
        "colour.tif": portrait_of(), "gray.tif": portrait_of(8, 1), "deep.tif": portrait_of(16, 1),
        "turned.tif": portrait_of(orientation=6), "none.tif": Raster(np.ascontiguousarray(data.coffee()[:200, :200])),
    }  # fmt: skip
    results = {r.scan: r for r in faces.faces.fn(plated(scans, shop), FacesConfig(model="none"), shop)}
    for name in ("colour.tif", "gray.tif", "deep.tif", "turned.tif"):
        found = results[name]
        assert (found.outcome, found.reason) == (Outcome.SKIPPED, "faces are only counted (1 face found)"), name
        assert found.measures["faces_found"] == 1
        assert (found.model_id, found.data_terms) == ("centerface", "research-only"), "the detector did its work"
    assert results["none.tif"].reason == "no faces found"
    assert all(ENHANCED not in r.plate.layers for r in results.values() if r.plate)
    without = tuple(card for card in shop.models.cards if card.purpose != "face")
    bare = dataclasses.replace(shop, models=dataclasses.replace(shop.models, cards=without))
    (found,) = faces.faces.fn(plated({"again.tif": portrait_of(8, 1, 6)}, bare), FacesConfig(), bare)
    assert (found.reason, found.model_id) == ("no face model installed (1 face found)", "centerface")
    assert [(f.outcome, f.reason) for f in found.faces] == [("left alone", "no face model installed")]


@pytest.mark.parametrize(("bits", "channels", "orientation"), [(8, 3, 1), (16, 1, 1), (8, 3, 8)])
def test_a_registered_model_changes_the_face_and_nothing_else(
    bits: int, channels: int, orientation: int, restoring: Workshop, plated: Any, tmp_path: Path
) -> None:
    scan = portrait_of(bits, channels, orientation)
    (result,) = faces.faces.fn(plated({"a.tif": scan}, restoring), FacesConfig(fidelity=0.0), restoring)
    assert result.plate is not None, result.reason
    assert (result.outcome, result.model_id, result.measures["faces_restored"]) == (Outcome.DONE, "toy-face", 1)
    made = stage.layer(result.plate, ENHANCED, restoring.blobs(result.plate.restoration_id), tmp_path)
    assert (made.pixels.shape, made.bits, made.orientation) == (scan.pixels.shape, bits, orientation)
    moved = np.abs(made.pixels.astype(int) - scan.pixels).max(axis=2)
    seen = turn_upright(moved.astype(np.uint16), orientation)
    assert seen[100:140, 105:145].mean() > 0.3 * (1 if bits == 8 else 257), result.faces
    assert not seen[:, :10].any()
    assert not seen[:, 246:].any()


class Fixed:
    """A detector that finds one face where it is told, and in aligned pictures where the template has it."""

    def __init__(self, height_px: float = 116.0, again: bool = True) -> None:
        self.height_px, self.again = height_px, again

    def detect_faces(self, rgb8: Any, *, min_score: float) -> list[Face]:
        if rgb8.shape[:2] == (256, 256) and min_score == identity.LEAST_SCORE:
            points = portrait.template(256)
            return [Face(0, 0, 256, 256, points, 0.9)] if self.again else []
        points = np.array([[203, 102], [247, 105], [223, 125], [203, 142], [241, 144]], np.float32) - (100, 0)
        return [Face(80, 60, 172, 60 + self.height_px, points.astype(np.float32), 0.9)]


class Same(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.001


def network_of(module: nn.Module) -> Network:
    return Network(ModelCard("own", "face", "none", licence="MIT", data_terms="free"), module, "cpu", torch.float32)


def mended(plate: Plate, module: nn.Module, detector: Any, **settings: Any) -> StageOutput:
    (output,) = faces.mend_faces([plate], FacesConfig(**settings), detector, network_of(module), lambda *_: "")
    assert isinstance(output, StageOutput), output
    return output


def test_the_face_goes_into_the_enhanced_layer_from_the_cleaned_one_in_its_tone() -> None:
    cleaned = portrait_of()
    enhanced = cleaned.with_pixels(np.clip(cleaned.pixels.astype(int) * 0.8 + 40, 0, 255).astype(np.uint8))
    blurred = enhanced.with_pixels(np.ascontiguousarray(cv2.GaussianBlur(enhanced.pixels, (0, 0), 2)))
    output = mended(Plate("a.tif", {CLEANED: cleaned, ENHANCED: blurred}), Same(), Fixed(), fidelity=0.0)
    made = output.layers[ENHANCED].pixels.astype(int)
    middle = (slice(100, 140), slice(108, 140))
    apart = [np.abs(x[middle].astype(int) - enhanced.pixels[middle]).mean() for x in (made, blurred.pixels)]
    assert apart[0] < 0.6 * apart[1], "what enhancing made of the face is not taken"
    np.testing.assert_array_equal(made[:, :5], blurred.pixels[:, :5])


def test_a_face_that_is_somebody_else_is_reverted_and_a_row_says_so() -> None:
    class Mirrored(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flip(2)

    output = mended(Plate("a.tif", {CLEANED: portrait_of()}), Mirrored(), Fixed(), fidelity=0.0)
    (row,) = output.faces
    assert not output.layers
    assert output.skipped is not None
    assert output.skipped.startswith("no face restored (1 face found; 1 reverted: the face differs at 32 px")
    assert (row.outcome, row.model_id, row.landmark_movement) == ("reverted", "own", 0.0)
    assert row.reason is not None and row.reason.startswith("the face differs at 32 px")
    assert row.low_difference is not None and row.low_difference > identity.LIMITS.low_difference


def test_a_face_that_is_none_any_more_is_reverted() -> None:
    output = mended(Plate("a.tif", {CLEANED: portrait_of()}), Same(), Fixed(again=False), fidelity=0.0)
    assert [(f.outcome, f.reason) for f in output.faces] == [("reverted", "no face is found in it any more")]
    assert output.measures["faces_reverted"] == 1


def test_a_small_face_is_left_alone_and_counted() -> None:
    output = mended(Plate("a.tif", {CLEANED: portrait_of()}), Same(), Fixed(height_px=20.0), smallest_px=24)
    assert output.skipped == "no face restored (1 face found; 1 left alone: smaller than 24 px)"
    assert output.measures["faces_left_alone"] == 1
    assert [(f.outcome, f.height_px, f.model_id) for f in output.faces] == [("left alone", 20.0, None)]


def test_faces_of_several_scans_go_through_the_network_together() -> None:
    calls = []

    class Counting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(x.shape[0])
            return x

    plates = [Plate(f"{n}.tif", {CLEANED: portrait_of()}) for n in range(3)]
    outputs = faces.mend_faces(plates, FacesConfig(), Fixed(), network_of(Counting()), lambda *_: "")  # type: ignore[arg-type]
    assert calls == [3]
    assert all(isinstance(o, StageOutput) and o.measures["faces_restored"] == 1 for o in outputs)


def test_a_face_network_that_gives_nonsense_fails_that_scan_and_keeps_the_face() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / (x.mean(dim=(1, 2, 3), keepdim=True) > 0.2)

    kept: list[bytes] = []

    def keep(scan: str, evidence: bytes) -> str:
        kept.append(evidence)
        return f"s3://kept/{scan}"

    dark = portrait_of().with_pixels(portrait_of().pixels // 8)
    plates = [Plate("a.tif", {CLEANED: portrait_of()}), Plate("b.tif", {CLEANED: dark})]
    whole, broken = faces.mend_faces(plates, FacesConfig(), Fixed(), network_of(Broken()), keep)  # type: ignore[arg-type]
    assert isinstance(whole, StageOutput)
    assert isinstance(broken, BadOutput) and "s3://kept/b.tif" in str(broken)
    assert len(kept[0]) > 512 * 512 * 3 * 4


def test_a_randomly_initialised_gfpgan_is_reverted(shop: Workshop, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = architecture("GFPGAN")(
        out_size=512, num_style_feat=512, channel_multiplier=2, decoder_load_path=None, fix_decoder=False,
        num_mlp=8, input_is_latent=True, different_w=True, narrow=1, sft_half=True,
    )  # fmt: skip
    torch.save({"params_ema": net.state_dict()}, tmp_path / "gfpgan.pth")
    model = setting(tmp_path / "gfpgan.pth", "face")
    card = ModelCard(
        id=model.id, purpose="face", arch="spandrel", licence="X", data_terms="unknown",
        files=(WeightFile(model.source, model.sha256, model.size_bytes),),
    )  # fmt: skip
    detector = faces.detector_of(shop.models)
    assert detector is not None
    found = networks.face_detector(detector, shop)
    loaded = load(card, tmp_path / "gfpgan.pth", "cpu", torch.float32)
    assert getattr(loaded.module, "architecture", "") == "GFPGAN"
    plate = Plate("a.tif", {CLEANED: portrait_of()})
    (output,) = faces.mend_faces([plate], FacesConfig(fidelity=0.0), found, loaded, lambda *_: "")
    assert isinstance(output, StageOutput)
    assert [(f.outcome, f.model_id) for f in output.faces] == [("reverted", "toy-face")]
    assert not output.layers


def test_faces_are_rows_once_a_restoration_is_recorded(restoring: Workshop, plated: Any, archive: Archive) -> None:
    none = Raster(np.ascontiguousarray(data.coffee()[:200, :200]))
    refs = plated({"a.tif": portrait_of(), "none.tif": none}, restoring)
    results = faces.faces.fn(refs, FacesConfig(), restoring)
    again = faces.faces.fn(refs, FacesConfig(), restoring)
    assert [r.faces for r in again] == [r.faces for r in results], "also when the result was there already"
    ended = [Course(scan=r.scan, results=(r, r.model_copy(update={"stage": "publish", "faces": ()}))) for r in results]
    record.record.fn(ended, restoring)
    rows = archive.rows("SELECT key, number, outcome, model_id, jsonb_array_length(landmarks), last_attempt FROM faces")
    assert rows == [("a.tif", 1, results[0].faces[0].outcome, "toy-face", 5, True)]


def test_a_detector_that_is_not_permitted_is_not_used(archive: Archive, plated: Any) -> None:
    shop = archive.shop(models=Shelf(data_terms=frozenset({"free"}), device="cpu"))
    (result,) = faces.faces.fn(plated({"a.tif": portrait_of()}, shop), FacesConfig(), shop)
    assert (result.outcome, result.reason, result.model_id) == (Outcome.SKIPPED, "no permitted face detector", None)


def test_every_model_that_has_a_part_decides_the_restoration(restoring: Workshop, tmp_path: Path) -> None:
    assert len(faces.stage_of(FacesConfig(), restoring.models).weights()) == 2
    assert len(faces.stage_of(FacesConfig(model="none"), restoring.models).weights()) == 1, "the detector alone"
    (tmp_path / "who.onnx").write_bytes(b"x")
    who = WeightFile(f"file:{tmp_path / 'who.onnx'}", "0" * 64, 1)
    judge = ModelCard("who", "face_identity", "onnx", licence="MIT", data_terms="free", files=(who,))
    shelf = dataclasses.replace(restoring.models, cards=(judge, *restoring.models.cards))
    assert faces.stage_of(FacesConfig(), shelf).weights()[-1] == "0" * 64
    with pytest.raises(Refused, match="expected a model for face, found one for face_detect"):
        faces.stage_of(FacesConfig(model="centerface"), shelf)
