"""``glassplate verify --all``: every difference between archive and database is found, and nothing else is one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from flows import cli
from flows import restore as flow
from flows.verify import Verified, sweep, verify, verify_all
from small_archive import Archive, scratched

pytestmark = pytest.mark.usefixtures("prefect")


@pytest.fixture
def restored(archive: Archive) -> Archive:
    """Two restored scans, one of them twice in the archive, and one in quarantine."""
    for key, body in {"a.tif": scratched(1), "b.tif": scratched(2), "copy.tif": scratched(1), "bad.tif": b"no"}.items():
        archive.put(key, body)
    assert flow.restore_batch(["a.tif", "b.tif", "copy.tif", "bad.tif"], return_state=True).is_completed()
    return archive


def checked(archive: Archive, read_masters: bool = True) -> Verified:
    return verify_all(archive.settings, read_masters=read_masters)


def overwrite(archive: Archive, bucket: str, key: str, body: bytes) -> None:
    archive.store._client().put_object(Bucket=bucket, Key=key, Body=body)


def cleaned(archive: Archive) -> str:
    ((key,),) = archive.rows("SELECT cleaned_key FROM restorations WHERE key = 'b.tif'")
    return str(key)


Harm = Callable[[Archive], object]


def harm_file(archive: Archive) -> None:
    overwrite(archive, archive.settings.restored_bucket, cleaned(archive), b"rot")


def harm_delete(archive: Archive) -> None:
    archive.store._client().delete_object(Bucket=archive.settings.restored_bucket, Key=cleaned(archive))


def harm_orphan(archive: Archive) -> None:
    overwrite(archive, archive.settings.restored_bucket, f"{cleaned(archive)}.bak", b"whose?")


def harm_master(archive: Archive) -> None:
    overwrite(archive, archive.settings.masters_bucket, "b.tif", scratched(9))


def harm_quarantined(archive: Archive) -> None:
    overwrite(archive, archive.settings.masters_bucket, "bad.tif", b"not")


def harm_gone(archive: Archive) -> None:
    archive.store._client().delete_object(Bucket=archive.settings.masters_bucket, Key="copy.tif")


def harm_work(archive: Archive) -> None:
    ((owner,),) = archive.rows("SELECT restoration_id FROM restorations WHERE key = 'b.tif'")
    overwrite(archive, archive.settings.restored_bucket, f"work/{owner}/detect-1.json", b"{}")


def test_a_sound_archive_has_no_problems_and_everything_was_looked_at(restored: Archive) -> None:
    found = checked(restored)
    assert found.problems == ()
    assert (found.files, found.objects, found.masters, found.masters_read) == (12, 12, 4, 3)
    assert checked(restored, read_masters=False).masters_read == 0
    assert verify(restored.settings, None) == ([], 12)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (harm_file, r"b\.tif/.*/cleaned\.tif: expected sha256 [0-9a-f]{64} of restoration [0-9a-f]{16}, found "),
        (harm_delete, r"b\.tif/.*/cleaned\.tif: .*found nothing"),
        (harm_orphan, r"cleaned\.tif\.bak: expected a row of a published file, found none"),
        (harm_master, r"/b\.tif: expected ETag and size as read before, found "),
        (harm_quarantined, r"/bad\.tif: expected ETag and size as read before, found "),
        (harm_gone, r"/copy\.tif: expected the scan that was read before, found nothing"),
        (harm_work, r"/work/[0-9a-f]{16}/: expected only what an open restoration needs"),
    ],
)
def test_one_harm_is_one_problem_that_names_it(restored: Archive, harm: Harm, words: str) -> None:
    import re

    harm(restored)
    (problem,) = checked(restored).problems
    assert re.search(words, problem), problem


def test_bytes_that_rot_under_an_unchanged_etag_are_found_by_reading(
    restored: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infra.store import Fetched, Store

    real = Store.digest

    def rotten(self: Store, bucket: str, key: str) -> Fetched:
        found = real(self, bucket, key)
        return dataclasses.replace(found, sha256="0" * 64) if key == "b.tif" else found

    monkeypatch.setattr(Store, "digest", rotten)
    assert checked(restored, read_masters=False).problems == ()
    (problem,) = checked(restored).problems
    assert "/b.tif: expected sha256" in problem


def test_files_of_a_restoration_at_work_are_no_orphans_but_those_of_a_failed_one_are(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import publish

    archive.put("a.tif", scratched(1))

    def killed(*_: object) -> bytes:
        raise KeyboardInterrupt

    def breaks(*_: object) -> bytes:
        raise ValueError("no record today")

    real = publish.record_of
    monkeypatch.setenv("GLASSPLATE_LEASE_SECONDS", "1")
    monkeypatch.setattr(publish, "record_of", killed)
    with pytest.raises(KeyboardInterrupt):
        flow.restore_batch(["a.tif"])
    assert len(archive.keys("restored/")) == 5
    assert checked(archive).problems == ()
    monkeypatch.setattr(publish, "record_of", breaks)
    import time

    time.sleep(1.2)
    assert flow.restore_batch(["a.tif"], return_state=True).is_failed()
    assert len(checked(archive).problems) == 5
    monkeypatch.setattr(publish, "record_of", real)
    assert flow.restore_batch(["a.tif"], return_state=True).is_completed()
    assert checked(archive).problems == ()


def test_a_sweep_takes_away_what_finished_runs_left_and_nothing_else(restored: Archive) -> None:
    harm_work(restored)
    assert sweep(restored.settings) == 1
    assert sweep(restored.settings) == 0
    assert checked(restored).problems == ()


def test_the_command_says_what_it_found_and_its_exit_status_too(
    restored: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_attach", lambda: restored.settings)
    run = CliRunner()
    good = run.invoke(cli.app, ["verify", "--all", "--read-masters"])
    assert good.exit_code == 0, good.output
    assert "12 files read, 12 objects listed, 4 masters compared, 3 read, 0 problems" in good.output
    harm_orphan(restored)
    bad = run.invoke(cli.app, ["verify", "--all"])
    assert bad.exit_code == 1
    assert "found none" in bad.output
    assert run.invoke(cli.app, ["verify"]).exit_code == 0, "each published file is as it was"
