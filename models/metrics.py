"""What can be measured of a picture: alone, against a reference, and of a mask against the truth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.measure import blur_effect

from models.naturalness import brisque, niqe

Direction = Literal["higher", "lower", "neither"]
DIRECTIONS: Mapping[str, Direction] = {  # which way is better; of "neither", a change is only worth knowing
    "psnr": "higher",
    "ssim": "higher",
    "ms_ssim": "higher",
    "ciede2000": "lower",
    "niqe": "lower",
    "brisque": "lower",
    "sharpness": "higher",
    "noise": "lower",
    "contrast": "neither",
    "colourfulness": "neither",
    "damage_coverage": "lower",
    "psnr_outside_mask": "higher",
    "ssim_outside_mask": "higher",
    "iou": "higher",
    "f1": "higher",
    "auc": "higher",
    "average_precision": "higher",
}

WINDOW_PX, WINDOW_SIGMA, BAND_ROWS = 11, 1.5, 256
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
VIEWING_MEGAPIXELS = 4.0

Picture = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32] | NDArray[np.float64]
Flags = NDArray[np.bool_]


def psnr(a: Picture, b: Picture, *, outside: Flags | None = None) -> float:
    """Peak signal to noise ratio in dB of two pictures of one shape and dtype; infinite when they are equal.

    The peak is the dtype's largest value, 1 for floats. ``outside``: (H, W), pixels that are left out.
    """
    _same(a, b)
    total, count = 0.0, 0
    for top in range(0, a.shape[0], BAND_ROWS):
        rows = slice(top, top + BAND_ROWS)
        squares = np.square(a[rows].astype(np.float64) - b[rows])
        if outside is not None:
            squares = squares[~outside[rows]]
        total, count = total + float(squares.sum()), count + squares.size
    if count == 0:
        return math.nan
    return math.inf if total == 0 else 10 * math.log10(_peak(a) ** 2 * count / total)


def ssim(a: Picture, b: Picture, *, outside: Flags | None = None) -> float:
    """Mean structural similarity, at most 1, of two pictures (H, W) or (H, W, C) of one shape and dtype.

    Z. Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, 2004: Gaussian window of
    11 px, sigma 1.5; channels averaged; a border of 5 px left out. ``outside``: (H, W), pixels whose whole window is
    left out. In bands, so that memory does not grow with the picture. NaN when nothing is left to measure.
    """
    _same(a, b)
    reach = WINDOW_PX // 2
    ignored = None
    if outside is not None:
        ignored = cv2.dilate(outside.astype(np.uint8), np.ones((WINDOW_PX, WINDOW_PX), np.uint8)).astype(bool)
    total, count, height = 0.0, 0, a.shape[0]
    for top in range(reach, height - reach, BAND_ROWS):
        bottom = min(top + BAND_ROWS, height - reach)
        rows = slice(top - reach, bottom + reach)
        structure, contrast = _similarity(a[rows], b[rows], _peak(a))
        values = structure * contrast
        if ignored is not None:
            values = values[~ignored[top:bottom, reach : a.shape[1] - reach]]
        total, count = total + float(values.sum()), count + values.size
    return total / count if count else math.nan


def ms_ssim(a: Picture, b: Picture) -> float:
    """Multi-scale structural similarity of two pictures (H, W, C) or (H, W) of one shape and dtype, sides over 160 px.

    Z. Wang et al., Multiscale Structural Similarity for Image Quality Assessment, 2003; five scales, halved by mean.
    """
    _same(a, b)
    if min(a.shape[:2]) <= (WINDOW_PX - 1) * 16:
        raise ValueError(f"ms_ssim: expected sides over {(WINDOW_PX - 1) * 16} px, found {a.shape[:2]}")
    peak, product = _peak(a), np.ones(1)
    x, y = (p.astype(np.float64).reshape(*p.shape[:2], -1) for p in (a, b))
    for level, weight in enumerate(MS_SSIM_WEIGHTS):
        structure, contrast = _similarity(x, y, peak)
        last = level == len(MS_SSIM_WEIGHTS) - 1
        values = structure * contrast if last else contrast
        product = product * np.maximum(values.mean(axis=(0, 1)), 0) ** weight
        if not last:
            x, y = _half(x), _half(y)
    return float(product.mean())


def ciede2000(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Mean CIEDE2000 colour difference of two sRGB pictures (H, W, 3) uint8; about 1 is just visible."""
    _same(a, b)
    return float(np.mean(deltaE_ciede2000(rgb2lab(a), rgb2lab(b))))  # type: ignore[no-untyped-call]


def colourfulness(picture: NDArray[np.uint8]) -> float:
    """Colourfulness of (H, W, 3) sRGB uint8: 0 gray, 15 slightly, 33 moderately, 59 quite, 109 extremely colourful.

    D. Hasler and S. Suesstrunk, Measuring Colourfulness in Natural Images, 2003.
    """
    red, green, blue = (picture[:, :, i].astype(np.float64) for i in range(3))
    across, along = red - green, (red + green) / 2 - blue
    return math.hypot(across.std(), along.std()) + 0.3 * math.hypot(across.mean(), along.mean())


def sharpness(picture: NDArray[np.uint8]) -> float:
    """0 (blurred) to 1 (sharp) of (H, W, 3) RGB or (H, W) uint8: how much a further blur would take away.

    F. Crete et al., The Blur Effect, 2007, turned so that higher is sharper. Grain counts as sharpness: read it
    beside ``noise``.
    """
    return 1 - float(blur_effect(_luma(picture) / 255, h_size=11))  # type: ignore[no-untyped-call]


def noise(picture: NDArray[np.uint8]) -> float:
    """Standard deviation of the noise, in levels of 255: median of the finest diagonal wavelet coefficients / 0.6745.

    D. Donoho and I. Johnstone, Ideal Spatial Adaptation by Wavelet Shrinkage, 1994 (Haar). (H, W, 3) RGB or (H, W).
    """
    luma = _luma(picture)
    luma = luma[: luma.shape[0] // 2 * 2, : luma.shape[1] // 2 * 2]
    diagonal = (luma[::2, ::2] - luma[1::2, ::2] - luma[::2, 1::2] + luma[1::2, 1::2]) / 2
    return float(np.median(np.abs(diagonal)) / 0.6745) if diagonal.size else math.nan


def noise_immerkaer(picture: NDArray[np.uint8]) -> float:
    """Standard deviation of the noise, in levels of 255, by the mean of a second difference; fine texture adds to it.

    J. Immerkaer, Fast Noise Variance Estimation, 1996. (H, W, 3) RGB or (H, W), sides over 2 px.
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float64)
    second = cv2.filter2D(_luma(picture), cv2.CV_64F, kernel)[1:-1, 1:-1]
    return float(math.sqrt(math.pi / 2) / 6 * np.abs(second).mean())


def contrast(picture: NDArray[np.uint8]) -> float:
    """Standard deviation of luma in [0, 1] (E. Peli, Contrast in Complex Images, 1990): 0 flat, 0.5 at most."""
    return float(_luma(picture).std() / 255)


def viewing_size(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture, area-reduced to four megapixels if it has more: what the blind scores are taken of."""
    megapixels = picture.shape[0] * picture.shape[1] / 1e6
    if megapixels <= VIEWING_MEGAPIXELS:
        return picture
    ratio = math.sqrt(VIEWING_MEGAPIXELS / megapixels)
    size = (round(picture.shape[1] * ratio), round(picture.shape[0] * ratio))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def blind_scores(picture: NDArray[np.uint8]) -> dict[str, float]:
    """All that is measured of a picture alone, (H, W, 3) sRGB uint8, at viewing size; what has no value is left out."""
    seen = viewing_size(picture)
    scores = {
        "sharpness": sharpness(seen),
        "noise": noise(seen),
        "niqe": niqe(seen),
        "brisque": brisque(seen),
        "contrast": contrast(seen),
        "colourfulness": colourfulness(seen),
    }
    return {name: value for name, value in scores.items() if math.isfinite(value)}


def mask_scores(predicted: NDArray[np.float32], truth: Flags, *, threshold: float = 0.5) -> dict[str, float]:
    """iou, f1, auc and average_precision of predicted damage in [0, 1] against the truth, arrays of any one shape.

    Two empty masks agree: iou and f1 are 1. auc and average_precision are left out where the truth has one class.
    """
    marked = predicted >= threshold
    both, either = int(np.count_nonzero(marked & truth)), int(np.count_nonzero(marked | truth))
    sizes = int(np.count_nonzero(marked)) + int(np.count_nonzero(truth))
    scores = {"iou": both / either if either else 1.0, "f1": 2 * both / sizes if sizes else 1.0}
    positives = int(np.count_nonzero(truth))
    negatives = truth.size - positives
    if positives and negatives:
        order = np.argsort(predicted, axis=None, kind="stable")[::-1]
        values, hits = predicted.ravel()[order], truth.ravel()[order]
        ends = np.append(np.flatnonzero(np.diff(values)), values.size - 1)  # ties count together
        true = np.cumsum(hits)[ends].astype(np.float64)
        false = ends + 1 - true
        recall, precision = true / positives, true / (ends + 1)
        scores["auc"] = float(np.trapezoid(np.append(0, recall), np.append(0, false / negatives)))
        scores["average_precision"] = float(np.sum(np.diff(np.append(0, recall)) * precision))
    return scores


def _same(a: Picture, b: Picture) -> None:
    if a.shape != b.shape or a.dtype != b.dtype:
        raise ValueError(
            f"expected two pictures of one shape and dtype, found {a.shape} {a.dtype}, {b.shape} {b.dtype}"
        )


def _peak(a: Picture) -> float:
    return {1: 255.0, 2: 65535.0}[a.dtype.itemsize] if a.dtype.kind == "u" else 1.0


def _luma(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(H, W) float64 in 0..255, Rec. 709 weights."""
    values = picture.astype(np.float64)
    return (
        values @ np.array([0.2126, 0.7152, 0.0722]) if values.ndim == 3 and values.shape[2] == 3 else values.squeeze()
    )


def _similarity(a: Picture, b: Picture, peak: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The luminance and the contrast-structure term of SSIM where the whole window fits, each (h, w, C)."""
    reach = WINDOW_PX // 2

    def mean(x: NDArray[np.float64]) -> NDArray[np.float64]:
        soft = cv2.GaussianBlur(x, (WINDOW_PX, WINDOW_PX), WINDOW_SIGMA).astype(np.float64, copy=False)
        return soft.reshape(*x.shape[:2], -1)[reach:-reach, reach:-reach]

    x, y = a.astype(np.float64) / peak, b.astype(np.float64) / peak
    mean_x, mean_y = mean(x), mean(y)
    spread_x, spread_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    together = mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return luminance, (2 * together + 0.03**2) / (spread_x + spread_y + 0.03**2)


def _half(x: NDArray[np.float64]) -> NDArray[np.float64]:
    tensor = torch.from_numpy(x).permute(2, 0, 1)[None]
    odd = [side % 2 for side in x.shape[:2]]
    return torch.nn.functional.avg_pool2d(tensor, 2, padding=odd)[0].permute(1, 2, 0).contiguous().numpy()
