"""NIQE and BRISQUE: how natural a picture looks, judged without a reference by the statistics of its contrast."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize, signal, special

PARAMETERS = Path(__file__).parent / "weights"
BLOCK_PX = 96
GAMMAS = np.arange(0.2, 10.001, 0.001)
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))

Doubles = NDArray[np.float64]


def niqe(picture: NDArray[np.uint8]) -> float:
    """NIQE of (H, W, 3) RGB or (H, W) gray uint8: 2 to 4 for good photographs, higher is worse.

    A. Mittal et al., Making a "Completely Blind" Image Quality Analyzer, 2013; natural-picture model of its authors,
    luma of BT.601 as in their program. NaN when the picture holds fewer than two 96-pixel blocks with any contrast.
    """
    model = _niqe_model()
    if picture.ndim == 3:
        luma = (picture.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255 + 16).round()
    else:
        luma = picture.astype(np.float64)
    rows, columns = luma.shape[0] // BLOCK_PX, luma.shape[1] // BLOCK_PX
    if rows * columns < 2:
        return math.nan
    luma = luma[: rows * BLOCK_PX, : columns * BLOCK_PX].astype(np.float32)
    window = model["gaussian_window"]
    features = [_block_features(_normalised(luma, window), BLOCK_PX)]
    features.append(_block_features(_normalised(_halved(luma), window), BLOCK_PX // 2))
    all_features = np.concatenate(features, axis=1)
    sound = all_features[~np.isnan(all_features).any(axis=1)]
    if len(sound) < 2:
        return math.nan
    with np.errstate(invalid="ignore"):
        distance = model["mu_pris_param"].ravel() - np.nanmean(all_features, axis=0)
    spread = np.linalg.pinv((model["cov_pris_param"] + np.cov(sound, rowvar=False)) / 2)
    return float(np.sqrt(distance @ spread @ distance))


def brisque(picture: NDArray[np.uint8]) -> float:
    """BRISQUE of (H, W, 3) RGB or (H, W) gray uint8: about 0 (good) to 100, higher is worse.

    A. Mittal et al., No-Reference Image Quality Assessment in the Spatial Domain, 2012; the support vectors are those
    of the ``brisque`` package and so are the details of the features. NaN for a picture without contrast or under
    16 pixels.
    """
    if min(picture.shape[:2]) < 16:
        return math.nan
    luma = picture.astype(np.float64) / 255
    if picture.ndim == 3:
        luma = luma @ np.array([0.2125, 0.7154, 0.0721])
    model = _brisque_model()
    small = cv2.resize(luma, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC).astype(np.float64)
    features = np.array([*_brisque_features(luma), *_brisque_features(small)])
    if not np.isfinite(features).all():
        return math.nan
    scaled = -1 + 2 * (features - model["lowest"]) / (model["highest"] - model["lowest"])
    apart = np.square(model["vectors"] - scaled).sum(axis=1)
    return float(model["coefficients"] @ np.exp(-0.05 * apart) - model["rho"])


@functools.cache
def _niqe_model() -> dict[str, Doubles]:
    with np.load(PARAMETERS / "niqe_params.npz", allow_pickle=False) as file:
        return {name: file[name].astype(np.float64) for name in file.files}


@functools.cache
def _brisque_model() -> dict[str, Doubles]:
    with np.load(PARAMETERS / "brisque_params.npz", allow_pickle=False) as file:
        return {name: file[name].astype(np.float64) for name in file.files}


def _normalised(luma: Doubles, window: Doubles) -> Doubles:
    """Mean subtracted, contrast normalised: (x - mean) / (deviation + 1) in a Gaussian window, edges continued."""
    mean = ndimage.convolve(luma, window, mode="nearest")
    square = ndimage.convolve(np.square(luma), window, mode="nearest")
    out: Doubles = (luma - mean) / (np.sqrt(np.abs(square - np.square(mean))) + 1)
    return out


def _halved(luma: Doubles) -> Doubles:
    """Half the size by an antialiased cubic (a = -0.5, eight taps, mirrored edges), rows and columns even."""
    at = np.abs(np.arange(-3.5, 4.0)) / 2
    near, far = 1.5 * at**3 - 2.5 * at**2 + 1, -0.5 * at**3 + 2.5 * at**2 - 4 * at + 2
    taps = np.where(at <= 1, near, far)
    taps = (taps / taps.sum()).astype(np.float32)
    luma = luma / np.float32(255)
    for axis in (0, 1):
        wide = np.pad(luma, [(3, 4) if a == axis else (0, 0) for a in (0, 1)], mode="symmetric")
        count = luma.shape[axis] // 2
        luma = sum(tap * np.take(wide, np.arange(count) * 2 + k, axis=axis) for k, tap in enumerate(taps))
    return luma * np.float32(255)


def _block_features(normal: Doubles, side: int) -> Doubles:
    """(blocks, 18) generalised Gaussian parameters of the values and of the products of four kinds of neighbours."""
    rows, columns = normal.shape[0] // side, normal.shape[1] // side
    blocks = normal.reshape(rows, side, columns, side).transpose(2, 0, 1, 3).reshape(-1, side, side)
    alpha, left, right = _fitted(blocks)
    features = [alpha, (left + right) / 2]
    for shift in SHIFTS:
        alpha, left, right = _fitted(blocks * np.roll(blocks, shift, axis=(1, 2)))
        features += [alpha, (right - left) * special.gamma(2 / alpha) / special.gamma(1 / alpha), left, right]
    return np.stack(features, axis=1)


@functools.cache
def _gamma_ratios() -> Doubles:
    ratios: Doubles = special.gamma(2 / GAMMAS) ** 2 / (special.gamma(1 / GAMMAS) * special.gamma(3 / GAMMAS))
    return ratios


def _fitted(blocks: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Shape and both scales of an asymmetric generalised Gaussian for each of (n, h, w) blocks; NaN for flat ones."""
    flat = blocks.reshape(len(blocks), -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        left = np.sqrt(np.square(np.minimum(flat, 0)).sum(axis=1) / (flat < 0).sum(axis=1))
        right = np.sqrt(np.square(np.maximum(flat, 0)).sum(axis=1) / (flat > 0).sum(axis=1))
        skew = left / right
        ratio = np.abs(flat).mean(axis=1) ** 2 / np.square(flat).mean(axis=1)
        ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    table = _gamma_ratios()
    above = np.clip(np.searchsorted(table, np.nan_to_num(ratio)), 1, len(table) - 1)
    nearest = np.where(table[above] - ratio < ratio - table[above - 1], above, above - 1)
    alpha = np.where(np.isnan(ratio), np.nan, GAMMAS[nearest])
    scale = np.sqrt(special.gamma(1 / alpha) / special.gamma(3 / alpha))
    return alpha, left * scale, right * scale


def _brisque_features(luma: Doubles) -> list[float]:
    """18 features of one size: shape and variance of the values, four parameters for each kind of neighbours."""
    at = np.square(np.arange(-3, 4, dtype=np.float64))
    window = 1 / (2 * np.pi * (7 / 6) ** 2) * np.exp(-(at[:, None] + at) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    mean, square = (signal.convolve2d(x, window, "same") for x in (luma, np.square(luma)))
    normal = (luma - mean) / (np.sqrt(np.abs(square - np.square(mean))) + 1 / 255)
    alpha, left, right = _fitted_exactly(normal)
    features = [alpha, (left**2 + right**2) / 2]
    pairs = (
        normal[:, :-1] * normal[:, 1:],
        normal[:-1] * normal[1:],
        normal[:-1, :-1] * normal[1:, 1:],
        normal[1:, :-1] * normal[:-1, 1:],
    )
    for products in pairs:
        alpha, left, right = _fitted_exactly(products)
        spread = np.sqrt(special.gamma(1 / alpha) / special.gamma(3 / alpha))
        mean = (right - left) * spread * special.gamma(2 / alpha) / special.gamma(1 / alpha)
        features += [alpha, float(mean), left**2, right**2]
    return features


def _fitted_exactly(values: Doubles) -> tuple[float, float, float]:
    """Shape and the deviations of the two sides of an asymmetric generalised Gaussian; zero counts as the right."""
    below, rest = values[values < 0], values[values >= 0]
    if not below.size or not rest.any():
        return math.nan, math.nan, math.nan
    left, right = math.sqrt(np.mean(np.square(below))), math.sqrt(np.mean(np.square(rest)))
    skew = left / right
    ratio = float(np.mean(np.abs(values)) ** 2 / np.mean(np.square(values)))
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2

    def off(alpha: float) -> float:
        return float(special.gamma(2 / alpha) ** 2 / (special.gamma(1 / alpha) * special.gamma(3 / alpha))) - ratio

    lowest, highest = 0.05, 100.0
    if off(lowest) > 0 or off(highest) < 0:
        return (lowest if off(lowest) > 0 else highest), left, right
    return float(optimize.brentq(off, lowest, highest, xtol=1e-10)), left, right
