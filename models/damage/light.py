"""What happens to the whole picture: lens, air, chemistry, paper, printing and the scanner.

Every function takes and returns (H, W, C) float32 in [0, 1] and draws only from ``rng``.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from models.damage.recipe import Effect
from models.damage.strokes import cloud

Picture = NDArray[np.float32]


def drawn(rng: np.random.Generator, effect: Effect) -> float:
    """The strength of an effect, 0 when it does not come; always draws twice, so that seeds stay comparable."""
    comes, strength = rng.random() < effect.chance, float(rng.uniform(effect.low, effect.high))
    return strength if comes else 0.0


def channelled(picture: NDArray[np.generic]) -> Picture:
    """``picture`` with its channel axis: cv2 drops it where there is one channel."""
    return np.asarray(picture if picture.ndim == 3 else picture[:, :, None], np.float32)


def blurred(picture: Picture, sigma_px: float) -> Picture:
    """Gaussian blur; unchanged below 0.15 px."""
    return picture if sigma_px < 0.15 else channelled(cv2.GaussianBlur(picture, (0, 0), sigma_px))


def motion(picture: Picture, rng: np.random.Generator, length_px: float) -> Picture:
    """Blur along a straight, slightly bent way of the camera."""
    size = int(length_px) // 2 * 2 + 3
    kernel = np.zeros((size, size), np.uint8)
    angle, middle, reach = rng.uniform(0, np.pi), (size - 1) / 2, length_px / 2
    step = np.array([np.cos(angle), np.sin(angle)]) * reach
    side = np.array([-np.sin(angle), np.cos(angle)]) * reach * rng.normal(0, 0.15)
    way = np.round((np.array([-step, side, step]) + middle) * 16).astype(np.int32)
    cv2.polylines(kernel, [way], False, 255, 1, cv2.LINE_AA, 4)
    weights = kernel.astype(np.float32)
    return channelled(cv2.filter2D(picture, -1, weights / weights.sum(), borderType=cv2.BORDER_REFLECT))


def haze(picture: Picture, rng: np.random.Generator, share: float) -> Picture:
    """A veil of light that is thicker in some parts of the picture."""
    h, w = picture.shape[:2]
    veil = np.clip(0.6 + 0.35 * cloud(rng, (h, w), max(h, w) / 2), 0, 1)[:, :, None] * np.float32(share)
    return np.asarray(picture * (1 - veil) + veil * np.float32(rng.uniform(0.6, 0.95)), np.float32)


def glare(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """A soft reflection somewhere on the picture."""
    h, w = picture.shape[:2]
    yy, xx = np.mgrid[:h, :w].astype(np.float32)
    turn, reach = rng.uniform(0, np.pi), max(h, w) * rng.uniform(0.15, 0.5)
    u = (xx - rng.uniform(0, w)) * np.cos(turn) + (yy - rng.uniform(0, h)) * np.sin(turn)
    v = -(xx - rng.uniform(0, w)) * np.sin(turn) + (yy - rng.uniform(0, h)) * np.cos(turn)
    light = np.exp(-((u / reach) ** 2) - (v / (reach * rng.uniform(0.2, 1.0))) ** 2) * strength
    return np.asarray(picture + light[:, :, None].astype(np.float32) * (1 - picture), np.float32)


def vignette(picture: Picture, rng: np.random.Generator, lost: float) -> Picture:
    """Darker towards the corners, around a centre that need not be the middle."""
    h, w = picture.shape[:2]
    y = (np.arange(h, dtype=np.float32)[:, None] / h - np.float32(rng.uniform(0.4, 0.6))) * 2
    x = (np.arange(w, dtype=np.float32)[None, :] / w - np.float32(rng.uniform(0.4, 0.6))) * 2
    away = np.asarray(np.clip((x * x + y * y) / 2, 0, 1), np.float32)
    fall = np.float32(1) - np.float32(lost) * np.power(away, np.float32(rng.uniform(0.8, 1.6)))
    return np.asarray(picture * fall[:, :, None], np.float32)


def faded(picture: Picture, rng: np.random.Generator, lost: float) -> Picture:
    """Contrast lost between a raised black and a lowered white, with a gamma of its own for each channel."""
    low = lost * rng.uniform(0, 1)
    gamma = np.asarray(rng.uniform(0.75, 1.35) * rng.uniform(0.93, 1.07, picture.shape[2]), np.float32)
    return np.asarray(np.power(np.clip(picture, 0, 1), gamma) * np.float32(1 - lost) + np.float32(low), np.float32)


def toned(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """A gray print gone brown or yellow, or a colour picture gone to its surviving dye; gray pictures stay gray."""
    if picture.shape[2] == 1:
        return picture
    tone = np.array([1.0, rng.uniform(0.82, 0.97), rng.uniform(0.55, 0.85)], np.float32)
    if rng.random() < 0.2:
        tone = tone[rng.permutation(3)]
    if rng.random() < 0.7:
        gray = (picture @ np.array([0.299, 0.587, 0.114], np.float32))[:, :, None]
        picture = picture + (gray - picture) * np.float32(rng.uniform(0.6, 1.0))
    return np.asarray(picture * (1 - np.float32(strength) * (1 - tone)), np.float32)


def grain(picture: Picture, rng: np.random.Generator, deviation: float) -> Picture:
    """Silver grain: clumps of about a pixel to three, the same in every channel, strongest in the middle tones."""
    h, w = picture.shape[:2]
    clump = rng.uniform(0.4, 1.3)
    field = rng.standard_normal((h, w), dtype=np.float32)
    if clump > 0.5:
        field = np.asarray(cv2.GaussianBlur(field, (0, 0), clump), np.float32)
        field *= np.float32(max(2 * np.sqrt(np.pi) * clump * 0.98, 1.0))
    tone = np.clip(picture[:, :, picture.shape[2] // 2], 0, 1)
    field *= np.float32(deviation) * (np.float32(0.45) + np.float32(2.2) * tone * (1 - tone))
    return np.asarray(picture + field[:, :, None], np.float32)


def noise(picture: Picture, rng: np.random.Generator, deviation: float) -> Picture:
    """The scanner's own noise: every pixel and channel for itself."""
    field = rng.standard_normal(picture.shape, dtype=np.float32)
    return np.asarray(picture + field * np.float32(deviation), np.float32)


def halftone(picture: Picture, rng: np.random.Generator, depth: float) -> Picture:
    """A printer's screen of round dots, as in pictures copied from a newspaper."""
    h, w = picture.shape[:2]
    turn, period = rng.choice([np.pi / 4, 0.26, 0.0]) + rng.normal(0, 0.02), rng.uniform(2.6, 5.0)
    y, x = np.arange(h, dtype=np.float32)[:, None], np.arange(w, dtype=np.float32)[None, :]
    k = np.float32(2 * np.pi / period)
    screen = np.cos((x * np.cos(turn) + y * np.sin(turn)) * k) + np.cos((y * np.cos(turn) - x * np.sin(turn)) * k)
    ink = np.clip((picture - 0.5) * 3 + screen[:, :, None].astype(np.float32) * 0.75 + 0.5, 0, 1)
    return np.asarray(picture + np.float32(depth) * (ink - picture), np.float32)


def jpeg(picture: Picture, quality: int) -> Picture:
    """Saved as a JPEG and opened again."""
    levels = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    stored = levels[:, :, ::-1] if levels.shape[2] == 3 else levels
    done, packed = cv2.imencode(".jpg", np.ascontiguousarray(stored), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"picture of shape {picture.shape}: expected cv2 to encode it as JPEG, found that it did not")
    flag = cv2.IMREAD_COLOR if levels.shape[2] == 3 else cv2.IMREAD_GRAYSCALE
    opened = channelled(np.asarray(cv2.imdecode(packed, flag)))
    return np.ascontiguousarray(opened[:, :, ::-1] if opened.shape[2] == 3 else opened) / np.float32(255)
