"""A night on real PostgreSQL, real S3 and a real Prefect server: what is new is restored, once, and told of."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from db.records import LedgerUnavailable
from flows.nightly import nightly_archive
from models import imaging
from small_archive import Archive
from tasks import inpaint
from tasks.contracts import Plate, StageOutput
from tasks.recipe import RecipeName

pytestmark = pytest.mark.usefixtures("prefect")


def night(**parameters: Any) -> Any:
    return nightly_archive(**parameters, return_state=True)


def clean_picture() -> bytes:
    """A smooth picture on which there is nothing to mend."""
    y, x = np.mgrid[0:160, 0:200].astype(np.float32)
    pixels = np.stack([80 + x / 3, 90 + y / 3, 100 + (x + y) / 6], axis=2).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def filled(archive: Archive, scans: Path) -> Archive:
    archive.put("box 1/plate-56.jpg", scans / "prokudin-00056-blue.jpg")
    archive.put("box 1/plate-56-16bit.tif", scans / "prokudin-00056-green-16bit.tif")
    archive.put("box 1/clean.png", clean_picture())
    archive.put("box 1/cut-short.jpg", scans / "cut-short.jpg")
    archive.put("box 1/.DS_Store", b"\0" * 64)
    archive.put("box 1/plate-56_verso.jpg", scans / "travel-0030.png")
    archive.put("box 1/empty.tif", b"")
    return archive


def test_a_night_restores_what_is_damaged_keeps_what_is_not_and_quarantines_what_cannot_be_read(
    filled: Archive,
) -> None:
    before = filled.masters()
    state = night()
    assert state.is_completed(), state
    assert filled.masters() == before, "masters are never written"

    rows = {key: (state, reason) for key, state, reason in filled.rows("SELECT key, state, reason FROM restorations")}
    assert rows["box 1/plate-56.jpg"] == ("restored", None)
    assert rows["box 1/plate-56-16bit.tif"] == ("restored", None)
    assert rows["box 1/clean.png"] == ("skipped", "no damage found")
    ((key, reason),) = filled.rows("SELECT key, reason FROM quarantine")
    assert key == "box 1/cut-short.jpg"
    assert "UnreadableImage" in reason

    (counts,) = filled.rows(
        "SELECT listed, ignored, planned, restored, skipped, quarantined, failed, state FROM nightly_runs"
    )
    assert counts == (7, 3, 4, 2, 1, 1, 0, "completed")
    ((page,),) = filled.rows("SELECT digest FROM nightly_runs")
    for word in ("2 restored", "cut-short.jpg", "no damage found", "replace the scan"):
        assert word in page
    assert filled.keys("work/") == [], "plates between stages are deleted after publish"


def test_derivatives_keep_depth_and_every_pixel_outside_the_mask(filled: Archive, tmp_path: Path) -> None:
    night()
    for key, bits in (("box 1/plate-56.jpg", 8), ("box 1/plate-56-16bit.tif", 16)):
        ((prefix, master_sha256, coverage),) = filled.rows(
            f"SELECT prefix, master_sha256, damage_coverage FROM restorations WHERE key = '{key}'"
        )
        names = [found.removeprefix(prefix) for found in filled.keys(prefix)]
        assert sorted(names) == [
            "cleaned.tif", "difference.png", "mask.png", "overlay.jpg", "preview.jpg", "record.json",
        ]  # fmt: skip
        filled.store.download(filled.settings.masters_bucket, key, tmp_path / "master")
        for name in names:
            filled.store.download(filled.settings.restored_bucket, prefix + name, tmp_path / name)
        master = imaging.decode(tmp_path / "master", key)
        cleaned = imaging.decode(tmp_path / "cleaned.tif", key)
        mask = imaging.read_mask(tmp_path / "mask.png", key)
        assert cleaned.bits == bits
        assert cleaned.dpi == (300.0, 300.0)
        changed = (cleaned.pixels != master.pixels).any(axis=2)
        assert changed.any()
        assert not changed[mask.values < 0.5].any()
        assert coverage == pytest.approx(mask.coverage, rel=0.05)
        assert master_sha256 in (tmp_path / "record.json").read_text()
        assert b"algorithmicallyEnhanced" in (tmp_path / "cleaned.tif").read_bytes()


def test_an_idle_night_does_no_work_and_a_changed_master_is_looked_at_again(filled: Archive, scans: Path) -> None:
    night()
    files = filled.keys()
    state = night()
    assert state.is_completed()
    (counts,) = filled.rows(
        "SELECT planned, unchanged, known_quarantined FROM nightly_runs ORDER BY started_at DESC LIMIT 1"
    )
    assert counts == (0, 3, 1)
    assert filled.keys() == files

    bucket, body = filled.settings.masters_bucket, (scans / "travel-0030.png").read_bytes()
    filled.store._client().put_object(Bucket=bucket, Key="box 1/cut-short.jpg", Body=body)  # the archive mends its scan
    night()
    ((state,),) = filled.rows("SELECT state FROM restorations WHERE key = 'box 1/cut-short.jpg'")
    assert state in ("restored", "skipped")


def test_a_failed_stage_fails_the_night_and_is_tried_again_the_next(
    filled: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = inpaint.fill_damage

    def breaks(plate: Plate, config: Any) -> StageOutput:
        if plate.scan.endswith("plate-56.jpg"):
            raise ValueError("a bug that only this scan meets")
        return real(plate, config)

    monkeypatch.setattr(inpaint, "fill_damage", breaks)
    state = night()
    assert state.is_failed()
    assert state.name == "CompletedWithFailures"
    found = dict(filled.rows("SELECT key, state FROM restorations"))
    assert found["box 1/plate-56.jpg"] == "failed"
    assert found["box 1/plate-56-16bit.tif"] == "restored"
    ((page,),) = filled.rows("SELECT digest FROM nightly_runs")
    assert "a bug that only this scan meets" in page
    ((prefix,),) = filled.rows("SELECT prefix FROM restorations WHERE key = 'box 1/plate-56.jpg'")
    assert filled.keys(prefix) == [], "nothing of a failed restoration is published"

    monkeypatch.setattr(inpaint, "fill_damage", real)
    assert night().is_completed()
    ((state, attempts),) = filled.rows("SELECT state, attempts FROM restorations WHERE key = 'box 1/plate-56.jpg'")
    assert (state, attempts) == ("restored", 2)


def test_the_database_going_away_when_a_scan_ends_is_waited_for(
    filled: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    from db.ledger import Ledger
    from tasks.record import record

    real, failures = Ledger.record, iter([True, True])

    def away(self: Ledger, *args: Any, **kwargs: Any) -> None:
        if next(failures, False):
            raise LedgerUnavailable("postgresql://db: connection refused")
        real(self, *args, **kwargs)

    monkeypatch.setattr(Ledger, "record", away)
    monkeypatch.setattr(record, "retry_delay_seconds", [0.0] * 6)
    assert night(prefix="box 1/clean").is_completed()
    assert filled.rows("SELECT state FROM restorations") == [("skipped",)]


def test_the_same_bytes_under_two_keys_are_restored_once(archive: Archive, scans: Path) -> None:
    archive.put("a/plate.jpg", scans / "prokudin-00056-blue.jpg")
    archive.put("b/copy.jpg", scans / "prokudin-00056-blue.jpg")
    assert night().is_completed()
    assert archive.rows("SELECT key, other_keys, state FROM restorations") == [
        ("a/plate.jpg", ["b/copy.jpg"], "restored")
    ]
    assert len({key.rsplit("/", 1)[0] for key in archive.keys("restored/")}) == 1
    night()
    ((planned,),) = archive.rows("SELECT planned FROM nightly_runs ORDER BY started_at DESC LIMIT 1")
    assert planned == 0


def test_a_limit_leaves_the_rest_for_the_next_night(filled: Archive) -> None:
    night(limit=1)
    night(limit=10)
    counts = filled.rows("SELECT planned, left_over FROM nightly_runs ORDER BY started_at")
    assert counts == [(1, 3), (3, 0)]


def test_the_digest_is_an_artifact_people_find_in_prefect(filled: Archive) -> None:
    from prefect.client.orchestration import get_client

    night(recipe=RecipeName.FULL, prefix="box 1/clean")
    with get_client(sync_client=True) as client:
        artifacts = client.request("POST", "/artifacts/filter", json={"limit": 50}).json()
    pages = [a["data"] for a in artifacts if a["key"] == "digest"]
    assert any("1 planned: 0 restored, 1 skipped" in page for page in pages)
