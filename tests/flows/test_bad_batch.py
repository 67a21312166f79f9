"""The whole corpus of bad files in one batch, with one good scan among them: nothing stops it, nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from bad_files import corpus
from flows import restore as flow
from flows.verify import verify_all
from small_archive import Archive

pytestmark = [pytest.mark.usefixtures("prefect"), pytest.mark.timeout(900)]


def test_every_file_of_the_corpus_has_an_outcome_and_the_good_scan_is_restored(archive: Archive, scans: Path) -> None:
    cases = {f"box/{case.name}": case for case in corpus()}
    for key, case in cases.items():
        archive.put(key, case.body)
    archive.put("box/good.jpg", scans / "prokudin-00056-blue.jpg")
    before = archive.masters()
    keys = sorted(before)
    keys.insert(len(keys) // 2, keys.pop(keys.index("box/good.jpg")))
    state = flow.restore_batch(keys, return_state=True)
    assert state.is_completed(), state.message

    restorations = {key: (found, reason) for key, found, reason in archive.rows(
        "SELECT unnest(key || coalesce(other_keys, '{}')), state, reason FROM restorations"
    )}  # fmt: skip
    quarantined = {row[0]: row[1:] for row in archive.rows("SELECT key, reason, expected, found FROM quarantine")}
    assert restorations["box/good.jpg"] == ("restored", None)
    assert not set(restorations) & set(quarantined)
    for key, case in cases.items():
        if case.pixels is None:
            reason, expected, found = quarantined[key]
            assert reason == f"{reason.split(':')[0]}: expected {expected}, found {found}", key
            assert reason.startswith(case.error), key
        else:
            assert restorations[key][0] in ("restored", "skipped"), key
    assert set(restorations) | set(quarantined) == set(before)
    assert archive.masters() == before
    assert archive.keys("work/") == []
    assert verify_all(archive.settings).problems == ()
