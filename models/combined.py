"""Both detectors together: the network knows cracks, folds and tears, the classical one dust and thin scratches."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from models import classical
from models.imaging import Mask
from models.nets.detect import DetectConfig, LearntDetector, company, marks, worked_scores

ALONE = classical.ClassicalConfig(blob_gate_monochrome=0.084, line_gate_monochrome=2.55)
"""Half of the gates for colour: what the classical detector must find of a monochrome scan to be believed alone."""
IN_COLOUR = 2.0
"""So many times the share that opens the network's gate for monochrome, and the classical one is believed in colour."""
PLAIN = DetectConfig(keep=0.85, seed=0.985)
"""What of the network's own marks counts in a colour photograph: a sound one has more to lose."""

FRAME_PX = 1024
FRAME_SHARE = 0.06


def detect(
    luma: NDArray[np.float32], detector: LearntDetector, *, monochrome: bool = True, dilated: bool = True
) -> Mask:
    """The damage of a scan: (H, W) luma in [0, 1] of any size -> Mask of 0 and 1, 1 where either detector marks.

    The network tells damaged pictures from sound ones better than the classical detector does (docs/quality.md), so it
    says how far that one is believed. Of a monochrome scan: by its usual gates where the network's gate is open, by
    stricter ones where it is shut. Of a colour photograph: by its gates for colour, and only where the network is
    nearly sure of damage; of the network's own marks only the plainest count there. ``dilated``: marks grown as each
    detector grows them for inpainting, else as thin as found.
    """
    worked, levels, shape = worked_scores(luma, detector), classical.levels(luma), luma.shape
    del luma  # four bytes a pixel: of a large scan the most of all there is here
    calibration = detector.calibration
    config = DetectConfig() if monochrome else PLAIN
    config = config if dilated else replace(config, dilate_px=0)
    found = marks(worked, shape, calibration, config, monochrome=monochrome)
    share = float(company(worked, calibration.sure).max())
    if monochrome or share >= IN_COLOUR * calibration.open_gray:
        own = classical.ClassicalConfig() if share >= calibration.open_gray else ALONE
        own = own if dilated else replace(own, dilate_px=0)
        more = classical.detect_in(levels, (shape[0], shape[1]), own, monochrome=monochrome).mask
        np.maximum(found.stored, more.stored, out=found.stored)
    leave_frame(found)
    return found


def leave_frame(mask: Mask) -> None:
    """Takes out of ``mask`` what runs along the scan's edge: the rim of a mount, a film's rebate, a plate's border.

    That is a connected mark at least a quarter as long as the scan's short side, four fifths of it within 6 % of that
    side from the edge. Judged on a mask of at most 1,024 px, so that labels of a large scan take no memory.
    """
    height, width = mask.shape
    factor = math.ceil(max(height, width) / FRAME_PX)
    size = (math.ceil(width / factor), math.ceil(height / factor))
    small = (cv2.resize(mask.values, size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
    count, labels, places, _ = cv2.connectedComponentsWithStats(small, connectivity=8)
    short, rim = min(size), max(round(FRAME_SHARE * min(size)), 1)
    inside = np.bincount(labels[rim:-rim, rim:-rim].ravel(), minlength=count)
    length = places[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1)
    gone = (length >= short / 4) & (inside <= 0.2 * places[:, cv2.CC_STAT_AREA])
    gone[0] = False
    if gone.any():
        where = cv2.resize(gone[labels].astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        mask.stored[where > 0] = 0
