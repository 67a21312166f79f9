"""Detection as a stage: two detectors by name, protected rectangles, and what it measures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models import imaging
from models.imaging import Mask
from small_archive import Archive
from tasks import detect, ingest, stage
from tasks.contracts import MASTER, Outcome, Plate, Refused, StageResult
from tasks.recipe import DetectConfig, RestorationRecipe
from tasks.shelf import Shelf
from tasks.stage import Identity


@pytest.fixture
def plate(scans: Path) -> Plate:
    return Plate("plate-56", {MASTER: imaging.decode(scans / "prokudin-00056-blue.jpg", "plate-56")})


def test_a_damaged_plate_is_marked_and_measured(plate: Plate) -> None:
    output = detect.find_damage(plate, DetectConfig())
    assert output.mask is not None
    assert output.measures["damage_coverage"] == output.mask.coverage > 0.005
    assert output.measures["damage_components"] > 10


def test_nothing_is_marked_inside_a_protected_rectangle(plate: Plate) -> None:
    free = detect.find_damage(plate, DetectConfig()).mask
    kept = detect.find_damage(plate, DetectConfig(protect=((100, -5, 9000, 120),))).mask
    assert free is not None
    assert kept is not None
    assert free.values[:115, 100:].any()
    assert not kept.values[:115, 100:].any()
    assert np.array_equal(kept.values[115:], free.values[115:])
    assert np.array_equal(kept.values[:115, :100], free.values[:115, :100])


def test_no_rectangles_leave_the_mask_as_it_is() -> None:
    mask = Mask(np.ones((4, 4), np.float32))
    assert detect.protected(mask, ()) is mask


def test_the_learnt_detector_runs_as_a_stage_with_its_own_weights_in_the_result(archive: Archive, scans: Path) -> None:
    archive.put("plate.jpg", scans / "prokudin-00056-blue.jpg")
    result = detected(archive, DetectConfig(model="glassplate-detect-1"))
    assert result.outcome is Outcome.DONE
    assert result.model_id == "glassplate-detect-1"
    assert result.weights_sha256 == Shelf().card("glassplate-detect-1").sha256
    assert result.data_terms == "unknown"
    assert result.plate is not None
    assert result.plate.mask is not None


def test_by_default_both_detectors_search_and_the_network_is_named_in_the_result(archive: Archive, scans: Path) -> None:
    archive.put("plate.jpg", scans / "prokudin-00056-blue.jpg")
    result = detected(archive, DetectConfig())
    assert (result.outcome, result.model_id) == (Outcome.DONE, "glassplate-detect-1")
    chosen = detect.stage_of(DetectConfig(), Shelf())
    alone = {
        detect.stage_of(DetectConfig(model=name), Shelf()).version() for name in ("classical", "glassplate-detect-1")
    }
    assert chosen.version() not in alone


def test_where_the_network_is_not_permitted_the_classical_detector_searches_alone_and_says_so(
    archive: Archive, scans: Path
) -> None:
    archive.put("plate.jpg", scans / "prokudin-00056-blue.jpg")
    result = detected(archive, DetectConfig(), Shelf(data_terms=frozenset({"free"})))
    assert (result.outcome, result.model_id, result.weights_sha256) == (Outcome.DONE, "classical", None)
    with pytest.raises(Refused, match="training data unknown"):
        detect.stage_of(DetectConfig(model="glassplate-detect-1"), Shelf(data_terms=frozenset({"free"})))


def detected(archive: Archive, config: DetectConfig, models: Shelf | None = None) -> StageResult:
    """The result of the stage on the one scan of ``archive``."""
    shop = archive.shop() if models is None else replace(archive.shop(), models=models)
    recipe = RestorationRecipe(name="one", stages=(config,))
    refs = stage.survivors(ingest.ingest.fn(["plate.jpg"], recipe, Identity({}), shop))
    (result,) = detect.detect.fn(refs, config, shop)
    return result
