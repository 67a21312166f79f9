"""One scan by hand, a batch by hand, and how scans are put into groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows import restore as flow
from infra.store import Store
from small_archive import Archive
from tasks.contracts import Course, ImageRef, MasterRef, Outcome, PlateRef, StageResult
from tasks.recipe import RecipeName


def course(scan: str, megapixels: float | None) -> Course:
    if megapixels is None:
        return Course(scan=scan, results=(StageResult(stage="ingest", scan=scan, outcome=Outcome.FAILED),))
    image = ImageRef(uri="s3://m/k", sha256="0", width=1000, height=int(megapixels * 1000), media_type="image/tiff")
    master = MasterRef(
        bucket="m", key=scan, etag="e", version_id=None, size=1, image=image, channels=1, bits=8, orientation=1,
        icc_name=None, dpi=None,
    )  # fmt: skip
    plate = PlateRef(restoration_id="r", attempt=1, planned_at="", folder="", master=master)
    return Course(scan=scan, results=(StageResult(stage="ingest", scan=scan, outcome=Outcome.DONE, plate=plate),))


def test_groups_are_formed_by_size_and_the_largest_goes_alone() -> None:
    scans = [
        course("big", 150),
        course("gone", None),
        course("a", 20),
        course("b", 30),
        course("c", 60),
        course("d", 40),
    ]
    names = [[c.scan for c in group] for group in flow.groups(scans, 100)]
    assert names == [["gone"], ["a", "b", "d"], ["c"], ["big"]]


def test_every_scan_is_in_exactly_one_group() -> None:
    scans = [course(str(i), 1 + i % 7) for i in range(50)]
    together = [c.scan for group in flow.groups(scans, 12) for c in group]
    assert sorted(together) == sorted(c.scan for c in scans)


@pytest.mark.usefixtures("prefect")
class TestByHand:
    def scan(self, key: str, recipe: RecipeName = RecipeName.ARCHIVAL) -> Any:
        return flow.restore_scan(key, recipe, return_state=True)

    def test_one_scan_is_restored_and_a_second_time_found_done(self, archive: Archive, scans: Path) -> None:
        archive.put("plate.jpg", scans / "prokudin-00056-blue.jpg")
        state = self.scan("plate.jpg")
        assert state.is_completed()
        files = archive.keys()
        assert len(files) == 6
        again = self.scan("plate.jpg")
        assert again.is_completed()
        assert archive.keys() == files
        assert archive.rows("SELECT state, attempts FROM restorations") == [("restored", 1)]

    def test_a_key_that_is_not_there_fails_and_names_it(self, archive: Archive) -> None:
        state = self.scan("no/such.tif")
        assert state.is_failed()
        assert "no/such.tif" in state.message

    def test_a_broken_scan_ends_in_quarantine_and_says_why(self, archive: Archive, scans: Path) -> None:
        archive.put("cut.jpg", scans / "cut-short.jpg")
        state = self.scan("cut.jpg")
        assert state.name == "Quarantined"
        assert "cut.jpg" in state.message

    def test_a_batch_goes_on_after_a_bad_scan_and_says_that_it_failed(self, archive: Archive, scans: Path) -> None:
        archive.put("plate.jpg", scans / "prokudin-00056-blue.jpg")
        state = flow.restore_batch(["no/such.tif", "plate.jpg", "plate.jpg"], return_state=True)
        assert state.name == "CompletedWithFailures"
        assert "no/such.tif" in state.message
        assert archive.rows("SELECT key, state FROM restorations") == [("plate.jpg", "restored")]

    def test_something_else_under_a_derivatives_key_is_an_incident_and_stays(
        self, archive: Archive, scans: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        archive.put("plate.jpg", scans / "prokudin-00056-blue.jpg")
        real = Store.put_new

        def planted(self: Store, bucket: str, key: str, *args: Any, **kwargs: Any) -> Any:
            if key.endswith("/cleaned.tif"):
                self._client().put_object(Bucket=bucket, Key=key, Body=b"somebody else's file")
            return real(self, bucket, key, *args, **kwargs)

        monkeypatch.setattr(Store, "put_new", planted)
        state = self.scan("plate.jpg")
        assert state.is_failed()
        (key,) = [key for key in archive.keys("restored/") if key.endswith("cleaned.tif")]
        assert archive.store.read(archive.settings.restored_bucket, key) == b"somebody else's file"
        ((error,),) = archive.rows("SELECT error_type FROM stage_runs WHERE stage = 'publish'")
        assert error == "Incident"

    def test_a_killed_run_resumes_where_it_stopped(
        self, archive: Archive, scans: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        archive.put("plate.jpg", scans / "prokudin-00056-blue.jpg")
        from tasks import publish

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setenv("GLASSPLATE_LEASE_SECONDS", "1")
        real = publish.record_of
        monkeypatch.setattr(publish, "record_of", killed)
        with pytest.raises(KeyboardInterrupt):
            flow.restore_scan("plate.jpg")
        assert len(archive.keys("restored/")) == 5, "the run died inside publish"
        monkeypatch.setattr(publish, "record_of", real)
        import time

        time.sleep(1.2)  # until the dead run's claim has run out
        assert self.scan("plate.jpg").is_completed()
        assert len(archive.keys("restored/")) == 6
        reused = archive.rows("SELECT stage, reused FROM stage_runs WHERE last_attempt ORDER BY position")
        assert ("detect", True) in reused
        assert ("inpaint", True) in reused
