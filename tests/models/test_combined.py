"""Both detectors together: either may mark, and one gate speaks for both of a monochrome scan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models import classical, combined
from models.imaging import Mask
from models.nets.detect import Calibration
from models.nets.detect import detect as learnt


class Band:
    """Stands in for a trained network: sure of damage in ten columns in the middle, where the scan is bright."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration

    def logits(self, luma: NDArray[np.float32]) -> NDArray[np.float32]:
        out = np.full(luma.shape, -8, np.float32)
        out[:, 180:190] = np.where(luma[:, 180:190] > 0.8, 8, -8)
        return out


def dusty(*, scratched: bool, specks: int = 60, level: float = 0.9) -> NDArray[np.float32]:
    """(300, 400) gray film with specks; ``scratched``: bright along a band that only the network minds."""
    rng = np.random.default_rng(1)
    luma = np.clip(rng.normal(0.4, 0.02, (300, 400)), 0, 1).astype(np.float32)
    for _ in range(specks):
        y, x = rng.integers(5, 290), rng.integers(30, 390)
        luma[y : y + 3, x : x + 3] = level
    if scratched:
        luma[:, 180:190] = 0.95
    return luma


CALIBRATION = Calibration(keep=0.5, seed=0.9, sure=0.97, open_colour=1.0, open_gray=0.001)


def test_what_either_detector_marks_is_marked() -> None:
    luma, net = dusty(scratched=True), Band(CALIBRATION)
    one, other = learnt(luma, net).values, classical.detect(luma).mask.values
    assert one.any() and other.any() and (one != other).any()
    assert np.array_equal(combined.detect(luma, net).values, np.maximum(one, other))


def test_of_a_monochrome_scan_the_classical_detector_needs_more_where_the_networks_gate_is_shut() -> None:
    levels, counts = (0.5, 0.55, 0.6, 0.7), (1, 2, 3, 4)
    found = [dusty(specks=count, scratched=False, level=level) for count in counts for level in levels]
    doubtful = [
        x for x in found if classical.detect(x).components and not classical.detect(x, combined.ALONE).components
    ]
    assert doubtful, "expected scans that open one gate and not the other"
    shut, open_ = Band(CALIBRATION), Band(replace(CALIBRATION, open_gray=0.0))
    assert not combined.detect(doubtful[0], shut, monochrome=True).values.any()
    assert combined.detect(doubtful[0], open_, monochrome=True).values.any()
    dusty_all_over = dusty(specks=60, scratched=False)
    assert combined.detect(dusty_all_over, shut, monochrome=True).values.any()


def test_of_a_colour_scan_the_classical_detector_is_believed_where_the_network_is_nearly_sure() -> None:
    luma = dusty(scratched=True)
    alone = classical.detect(luma, monochrome=False).mask.values
    assert alone.any()
    share = 10 / 400  # of the scan: the band the network is sure of
    near, far = (Band(replace(CALIBRATION, open_gray=share / times)) for times in (2.5, 1.5))
    assert np.array_equal(combined.detect(luma, near, monochrome=False).values, alone)
    assert not combined.detect(luma, far, monochrome=False).values.any()


def test_what_runs_along_the_edge_is_a_frame_and_what_crosses_the_scan_is_not() -> None:
    values = np.zeros((1500, 2400), np.float32)
    values[30:1450, 40:60] = 1  # the rim of a mount
    values[700:704, :] = 0  # and not joined to
    values[:, 1200:1204] = 1  # a scratch through the whole scan
    values[20:40, 2000:2040] = 1  # and a speck at the edge
    mask = Mask(values)
    combined.leave_frame(mask)
    assert not values[:, 40:60].any()
    assert values[:, 1200:1204].all() and values[20:40, 2000:2040].all()
