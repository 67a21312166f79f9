"""Both detectors together: the network knows cracks, folds and tears, the classical one dust and thin scratches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models import classical
from models.imaging import Mask
from models.nets.detect import DetectConfig, LearntDetector, marks, opened, worked_scores

ALONE = classical.ClassicalConfig(blob_gate_monochrome=0.084, line_gate_monochrome=2.55)
"""Half of the gates for colour: what the classical detector must find of a monochrome scan to be believed alone."""


def detect(
    luma: NDArray[np.float32], detector: LearntDetector, *, monochrome: bool = True, dilated: bool = True
) -> Mask:
    """The damage of a scan: (H, W) luma in [0, 1] of any size -> Mask of 0 and 1, 1 where either detector marks.

    The network tells worn monochrome prints from sound ones better than the classical detector does (docs/quality.md):
    where its gate stays shut, the other's opens less easily than it would alone. ``dilated``: marks grown as each
    detector grows them for inpainting, else as thin as found.
    """
    worked = worked_scores(luma, detector)
    config = DetectConfig() if dilated else DetectConfig(dilate_px=0)
    found = marks(worked, luma.shape, detector.calibration, config, monochrome=monochrome)
    alone = monochrome and not opened(worked, detector.calibration, monochrome=True).any()
    own = ALONE if alone else classical.ClassicalConfig()
    own = own if dilated else replace(own, dilate_px=0)
    np.maximum(found.values, classical.detect(luma, own, monochrome=monochrome).mask.values, out=found.values)
    return found
