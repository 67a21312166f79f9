"""The corpus of bad files: each kept right or put in quarantine with a reason, none of which stops a batch."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest

from bad_files import Case, corpus
from models import imaging
from models.imaging import ImagingError, Raster
from models.peak import PeakMemory

BOMB_BYTES = 600_000_000  # of memory that a bomb may touch; its promise is a gigabyte and more
BOMB_SECONDS = 60.0


def cases() -> list[pytest.param]:
    return [pytest.param(case, id=case.name) for case in corpus()]


def opened(case: Case, folder: Path) -> Raster:
    path = folder / "scan"
    path.write_bytes(case.body)
    imaging.probe(path, case.name)
    return imaging.decode(path, case.name)


def test_the_corpus_is_large_and_no_case_is_there_twice() -> None:
    assert len(corpus()) >= 60
    assert len({case.name for case in corpus()}) == len({case.body for case in corpus()}) == len(corpus())


@pytest.mark.parametrize("case", cases())
def test_a_bad_file_is_kept_right_or_refused_with_a_reason(case: Case, tmp_path: Path) -> None:
    if case.pixels is None:
        with pytest.raises(ImagingError) as caught:
            opened(case, tmp_path)
        assert type(caught.value).__name__ == case.error
        assert re.search(case.expected, caught.value.expected), caught.value
        assert re.search(case.found, caught.value.found), caught.value
        assert case.name in str(caught.value)
        return
    raster = opened(case, tmp_path)
    np.testing.assert_array_equal(raster.pixels, case.pixels)
    assert case.note in " ".join(raster.notes)
    imaging.write_tiff(raster, tmp_path / "again.tif")  # what was let in can be published
    np.testing.assert_array_equal(imaging.decode(tmp_path / "again.tif", case.name).pixels, case.pixels)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in corpus() if case.bomb])
def test_a_bomb_takes_bounded_memory_and_time(case: Case, tmp_path: Path) -> None:
    before, started = _resident_bytes(), time.monotonic()
    memory = PeakMemory()
    if case.pixels is None:
        with pytest.raises(ImagingError):
            opened(case, tmp_path)
    else:
        opened(case, tmp_path)
    assert memory.peak_bytes() - before < BOMB_BYTES
    assert time.monotonic() - started < BOMB_SECONDS


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")
