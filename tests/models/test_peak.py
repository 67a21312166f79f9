"""The memory a piece of work takes: not what was held before, and not what its parent held."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models import peak

LINUX = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux lets a process set its mark back"
)


@LINUX
def test_the_mark_is_set_back_and_rises_with_what_is_taken() -> None:
    earlier = np.ones(300_000_000, np.uint8)
    del earlier
    memory, before = peak.PeakMemory(), peak.so_far()
    taken = np.ones(100_000_000, np.uint8)
    del taken
    assert 90e6 < memory.peak_bytes() - before < 200e6


@LINUX
def test_a_process_does_not_count_what_the_one_that_started_it_held() -> None:
    ballast = np.ones(600_000_000, np.uint8)
    script = "from models import peak; print(peak.so_far())"
    root = Path(__file__).parents[2]
    said = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True).stdout
    assert int(said) < 200e6
    assert ballast[-1]
