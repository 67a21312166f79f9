"""The process that restores dies, or runs out of disk or memory; a second run finishes what the first began.

After each: every scan restored exactly once, no master touched, no object without a row.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.verify import verify_all
from small_archive import Archive, scratched

pytestmark = pytest.mark.timeout(600)

KEYS = ["box/a.tif", "box/b.tif"]
FILES = {"cleaned.tif", "mask.png", "overlay.jpg", "difference.png", "preview.jpg", "record.json"}
LEASE_SECONDS = 1
Batch = Callable[..., int]


@pytest.fixture(scope="module")
def program(open_folder: Path) -> Iterator[subprocess.Popen[str]]:
    """``tests/dying_batch.py``, which imports the pipeline once for all tests of this file."""
    tests = Path(__file__).parents[1]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("GLASSPLATE_", "PREFECT_"))
    }
    environment["PYTHONPATH"] = os.pathsep.join((str(tests.parent), str(tests)))
    with (open_folder / "dying.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(tests / "dying_batch.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            text=True, env=environment,
        )  # fmt: skip
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


@pytest.fixture
def batch(program: subprocess.Popen[str], archive: Archive, monkeypatch: pytest.MonkeyPatch) -> Batch:
    """A function that restores both scans in a process of its own and returns how that ended: 0, or minus a signal."""
    for seed, key in enumerate(KEYS):
        archive.put(key, scratched(seed))
    runs = iter(range(100))

    def run(fault: str | None = None, point: str = "") -> int:
        environment = {name: value for name, value in os.environ.items() if name.startswith("GLASSPLATE_")}
        order = {
            "environment": {**environment, "GLASSPLATE_LEASE_SECONDS": str(LEASE_SECONDS)}, "keys": KEYS,
            "run": f"run-{next(runs)}", "fault": fault, "point": point,
        }  # fmt: skip
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(json.dumps(order) + "\n")
        program.stdin.flush()
        return os.waitstatus_to_exitcode(int(program.stdout.readline()))

    return run


def states(archive: Archive) -> dict[str, str]:
    return dict(archive.rows("SELECT key, state FROM restorations"))


def all_is_well(archive: Archive, before: dict[str, str]) -> None:
    assert states(archive) == dict.fromkeys(KEYS, "restored")
    found = archive.keys("restored/")
    for key in KEYS:
        own = [name for name in found if name.startswith(f"restored/{key}/")]
        assert {name.rsplit("/", 1)[1] for name in own} == FILES
        assert len(own) == len(FILES), "one restoration of each scan, in one folder"
    assert archive.masters() == before
    assert archive.keys("work/") == []
    assert verify_all(archive.settings, read_masters=True).problems == ()
    ends = archive.rows("SELECT key, count(*) FROM events WHERE kind = 'restored' GROUP BY key")
    assert dict(ends) == dict.fromkeys(KEYS, 1), "restored once, not twice"


@pytest.mark.parametrize(
    "point",
    [
        "after the claim", "before detect", "before inpaint", "before score", "before publish", "after file 1",
        "after file 4", "after file 9", "before record", "before the commit", "after the commit",
    ],
)  # fmt: skip
def test_a_batch_killed_anywhere_is_finished_by_the_next(point: str, batch: Batch, archive: Archive) -> None:
    before = archive.masters()
    assert batch("kill", point) == -9
    assert archive.masters() == before
    assert set(states(archive).values()) != {"restored"}, "the first run was not over"
    time.sleep(LEASE_SECONDS + 0.2)  # until the dead run's claims have run out
    assert batch() == 0
    all_is_well(archive, before)


def test_a_scan_that_a_living_run_holds_is_left_to_it(batch: Batch, archive: Archive) -> None:
    before = archive.masters()
    assert batch("kill", "before detect") == -9
    with archive.ledger._database.transaction() as connection:
        connection.exec_driver_sql("UPDATE restoration SET lease_until = now() + interval '1 hour'")
    assert batch() == 0
    assert set(states(archive).values()) == {"running"}
    with archive.ledger._database.transaction() as connection:
        connection.exec_driver_sql("UPDATE restoration SET lease_until = now()")
    assert batch() == 0
    all_is_well(archive, before)


@pytest.mark.parametrize("point", ["before ingest", "before detect", "before inpaint", "before publish"])
def test_a_full_disk_fails_the_scans_with_a_reason_and_the_next_run_restores_them(
    point: str, batch: Batch, archive: Archive
) -> None:
    before = archive.masters()
    assert batch("disk", point) == 0, "the process lives, its scans fail"
    assert "restored" not in states(archive).values()
    reasons = {reason for (reason,) in archive.rows("SELECT detail ->> 'reason' FROM events WHERE kind LIKE '%failed'")}
    assert reasons
    assert all("File too large" in reason for reason in reasons), reasons
    assert batch() == 0
    all_is_well(archive, before)


def test_one_scan_without_memory_fails_alone_and_is_restored_by_the_next_run(batch: Batch, archive: Archive) -> None:
    before = archive.masters()
    assert batch("memory", f"in inpaint of {KEYS[0]}") == 0
    assert states(archive) == {KEYS[0]: "failed", KEYS[1]: "restored"}
    ((reason,),) = archive.rows("SELECT reason FROM restorations WHERE state = 'failed'")
    assert "expected memory for this scan, found out of memory" in reason
    assert archive.keys(f"restored/{KEYS[0]}/") == []
    assert batch() == 0
    all_is_well(archive, before)
