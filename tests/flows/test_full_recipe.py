"""The full recipe from master to digest, with small random networks registered as third-party models."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from flows import sheet
from flows.nightly import nightly_archive
from flows.restore import open_shelf, restore_scan
from models import imaging
from small_archive import Archive
from toy_models import registered

pytestmark = pytest.mark.usefixtures("prefect")


def portrait(damaged: bool) -> bytes:
    """A gray portrait of 192 px with one face, and a white scratch where ``damaged``."""
    luma = np.rint(data.astronaut()[10:202, 120:312] @ np.array([0.2126, 0.7152, 0.0722]) * 0.7 + 20).astype(np.uint8)
    if damaged:
        luma[:, 20:23] = 0
    file = io.BytesIO()
    Image.fromarray(luma).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def own_models(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [
        registered(tmp_path, "enhance", scale=2, change=5.0),
        registered(tmp_path, "face"),
        registered(tmp_path, "colorize"),
    ]
    monkeypatch.setenv("GLASSPLATE_MODELS", json.dumps([m.model_dump() for m in models]))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "glassplate" / "weights"
    monkeypatch.setenv("GLASSPLATE_WEIGHTS_DIR", str(cache))
    monkeypatch.setenv("GLASSPLATE_DEVICE", "cpu")


@pytest.mark.usefixtures("own_models")
def test_a_gray_portrait_is_enhanced_its_face_restored_coloured_scored_and_traced(
    archive: Archive, tmp_path: Path
) -> None:
    archive.put("p.png", portrait(damaged=True))
    state: Any = restore_scan("p.png", "full", return_state=True)
    assert state.is_completed(), state
    stages = archive.rows("SELECT stage, outcome, model_id FROM stage_runs ORDER BY position")
    assert [stage for stage, _, _ in stages] == [
        "ingest", "detect", "inpaint", "enhance", "faces", "colorize", "score", "publish",
    ]  # fmt: skip
    models = {stage: model for stage, outcome, model in stages if outcome == "done"}
    assert (models["enhance"], models["faces"], models["colorize"]) == ("toy-enhance", "toy-face", "toy-colorize")
    kinds = {kind for (kind,) in archive.rows("SELECT kind FROM derivatives")}
    assert {"enhanced", "enhanced_difference", "colorized", "colorized_preview", "record"} <= kinds

    ((scores,),) = archive.rows("SELECT scores FROM restorations")
    assert scores["enhanced.sharpness.after"] != scores["enhanced.sharpness.before"]
    assert 0 < scores["enhanced.ssim_outside_mask.fidelity"] <= 1
    assert scores["colorized.colourfulness.before"] == 0 < scores["colorized.colourfulness.after"]
    if "cleaned" in kinds:
        assert float(scores["cleaned.psnr_outside_mask.fidelity"]) == float("inf")

    ((prefix,),) = archive.rows("SELECT prefix FROM restorations")
    picture = sheet.make([("p.png", "restored", "", prefix)], archive.settings, archive.store, tmp_path)
    assert imaging.decode(picture, "sheet").pixels.shape[1] > 5 * 480
    assert (tmp_path / "p.png" / "colorized.tif").exists()


def test_a_night_with_our_own_models_restores_faces_and_says_what_was_used(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "glassplate" / "weights"
    monkeypatch.setenv("GLASSPLATE_WEIGHTS_DIR", str(cache))
    monkeypatch.setattr("tasks.enhance.SMALL_MEGAPIXELS", 0.0)
    archive.put("one.png", portrait(damaged=False))
    archive.put("two.png", portrait(damaged=True))
    nightly_archive("full", return_state=True)
    ((page,),) = archive.rows("SELECT digest FROM nightly_runs")
    assert "| faces |" not in page
    assert archive.rows("SELECT outcome, model_id FROM faces") == [("restored", "glassplate-face-1")] * 2
    assert "no colour model installed" not in page
    (used,) = [line for line in page.splitlines() if "models trained on research-only data were used" in line]
    assert "glassplate-face-1" in used


def test_settings_make_the_shelf_and_a_taken_id_is_refused(archive: Archive, tmp_path: Path) -> None:
    mine = registered(tmp_path, "face")
    shelf = open_shelf(archive.settings.model_copy(update={"models": [mine], "allowed_licences": ["MIT"]}))
    assert shelf.weights_dir == archive.settings.data_dir / "weights"
    assert shelf.first("face") is shelf.cards[0]
    assert shelf.first("enhance") is None, "neither licence of ours is MIT"
    taken = mine.model_copy(update={"id": "span-x4"})
    with pytest.raises(ValueError, match="ids of their own, found span-x4"):
        open_shelf(archive.settings.model_copy(update={"models": [taken]}))
