"""How much of a scan's resolution is picture and how much is only scanner and grain."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

FACTORS = (2, 4, 8)
LOSS_LIMIT = 0.16  # sharp pictures lose 0.22 to 0.98 at half size, the same ones enlarged 4x lose 0.07 to 0.17 at 1/4
CROP_PX = 1024
CROPS = 8
SMALLEST_SIDE_PX = 512  # below this there is no time to save, only detail to lose


def effective_scale(luma: NDArray[np.floating] | NDArray[np.uint8] | NDArray[np.uint16]) -> float:
    """1, 1/2, 1/4 or 1/8: the smallest size, relative to the scan, at which nothing but noise would be lost.

    ``luma``: (H, W), any range; only differences count. The scan is reduced by area and enlarged again; what is lost
    along its strongest edges, less what is lost where it is flat (grain, which is everywhere), is compared with the
    strength of those edges, so that a faded scan is judged like a strong one. Large scans are judged by the eight
    crops of 1024 px with most contrast, and the sharpest of them decides. A side under 512 px is never asked for.
    """
    factor = 1
    crops = _busiest_crops(luma)
    for candidate in FACTORS:
        if min(luma.shape[:2]) / candidate < SMALLEST_SIDE_PX:
            break
        if max(edge_loss(crop, candidate) for crop in crops) > LOSS_LIMIT:
            break
        factor = candidate
    return 1 / factor


def edge_loss(luma: NDArray[np.float32], factor: int) -> float:
    """What reducing (H, W) ``luma`` by ``factor`` loses along edges beyond noise, in strengths of those edges.

    0: nothing; above 1: all. A picture without any edges gives 0.
    """
    height, width = luma.shape[0] // factor, luma.shape[1] // factor
    whole = luma[: height * factor, : width * factor]
    small = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    back = cv2.resize(small, (width * factor, height * factor), interpolation=cv2.INTER_CUBIC)
    lost = cv2.resize(np.square(whole - back), (width, height), interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(small, (0, 0), 1.0)
    slope = np.hypot(cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)) / 8
    near = cv2.dilate(slope, np.ones((3, 3), np.uint8))
    edges, flat = near >= np.quantile(near, 0.95), near <= np.median(near)
    strength = float(np.sqrt(np.mean(np.square(slope[edges]))))
    if strength == 0:
        return 0.0
    return float(np.sqrt(max(float(np.mean(lost[edges]) - np.mean(lost[flat])), 0.0))) / strength


def _busiest_crops(luma: NDArray[np.floating] | NDArray[np.uint8] | NDArray[np.uint16]) -> list[NDArray[np.float32]]:
    height, width = luma.shape[:2]
    if height * width <= CROPS * CROP_PX**2:
        return [np.ascontiguousarray(luma, dtype=np.float32)]
    crops = []
    for top in range(0, max(height - CROP_PX, 0) + 1, CROP_PX):
        for left in range(0, max(width - CROP_PX, 0) + 1, CROP_PX):
            crop = luma[top : top + CROP_PX, left : left + CROP_PX]
            crops.append((float(np.std(crop[::8, ::8])), top, left))
    crops.sort(reverse=True)
    return [
        np.ascontiguousarray(luma[top : top + CROP_PX, left : left + CROP_PX], dtype=np.float32)
        for _, top, left in crops[:CROPS]
    ]
