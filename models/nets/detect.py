"""A small U-Net that finds scratches, dust, tears and stains; run over a pyramid, in tiles, at measured thresholds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from models.imaging import Mask
from models.resolution import effective_scale
from models.weights import load_strictly, read_state

WIDTHS = (32, 48, 96, 128)  # channels at 1/2, 1/4, 1/8, 1/16
FINE = 8  # channels that come back to full size
MULTIPLE_PX = 16
NEIGHBOURHOOD_PX = 21
FEATURES = 9
SPREAD, SPREAD_GAIN = 6, 4.0  # which feature is the local spread, and how many times it
LINE_PX = 15  # a line is summed over so many pixels: its noise falls by the root of that
DIRECTIONS = 12
BESIDE_PX = 3.0  # and compared with what lies so far to either side
NOISE_FLOOR = 0.015  # of [0, 1]: below this local spread, contrast is not amplified further
RARE = -4.0  # logit the network begins with: damage covers a few percent


def features(luma: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W) luma in [0, 1] -> (9, H, W): what is fixed and need not be learned.

    Luma; its difference from the neighbourhood in units of the local spread (so that a faded scan looks like a strong
    one); what is brighter or darker than a 5-px and an 11-px neighbourhood (white and black top-hats), in the same
    units; the local spread itself; how much a line of 15 px through the pixel is brighter, and how much darker, than
    both its sides, in the best of 12 directions. Purely local: no value depends on anything further away than 21 px.
    Made with OpenCV: the same in torch took a quarter of the time of a training step.
    """
    luma = np.ascontiguousarray(luma, np.float32)
    side = (NEIGHBOURHOOD_PX, NEIGHBOURHOOD_PX)
    centred = luma - np.float32(0.5)  # squares of small numbers: a bright, flat sky has no spread by rounding
    mean = cv2.blur(centred, side, borderType=cv2.BORDER_REPLICATE)
    square = cv2.blur(centred * centred, side, borderType=cv2.BORDER_REPLICATE)
    spread = np.sqrt(np.maximum(square - mean * mean, 0)) + np.float32(NOISE_FLOOR)
    half = np.float32(0.5) / spread
    out = np.empty((FEATURES, *luma.shape), np.float32)
    out[0] = centred
    np.clip((centred - mean) * half, -2, 2, out=out[1])
    for channel, width in ((2, 5), (4, 11)):
        around = np.ones((width, width), np.uint8)
        np.clip((luma - cv2.morphologyEx(luma, cv2.MORPH_OPEN, around)) * half, 0, 3, out=out[channel])
        np.clip((cv2.morphologyEx(luma, cv2.MORPH_CLOSE, around) - luma) * half, 0, 3, out=out[channel + 1])
    np.multiply(spread, SPREAD_GAIN, out=out[SPREAD])
    _lines((centred - mean) * half, out[7], out[8])
    return out


def _lines(contrast: NDArray[np.float32], bright: NDArray[np.float32], dark: NDArray[np.float32]) -> None:
    """Fills ``bright`` and ``dark`` (H, W) with the strength of the best line through each pixel, 0..3.

    A line must stand out from both its sides: the edge of a thing stands out from one only.
    """
    bright.fill(0)
    dark.fill(0)
    np.clip(contrast, -2, 2, out=contrast)  # one glint must not pass for a line
    reach = math.ceil(BESIDE_PX)
    height, width = contrast.shape
    for kernel, (dx, dy) in LINES:
        mean = cv2.filter2D(contrast, cv2.CV_32F, kernel, borderType=cv2.BORDER_REPLICATE)
        wide = cv2.copyMakeBorder(mean, reach, reach, reach, reach, cv2.BORDER_REPLICATE)
        one = wide[reach + dy : reach + dy + height, reach + dx : reach + dx + width]
        other = wide[reach - dy : reach - dy + height, reach - dx : reach - dx + width]
        np.maximum(bright, mean - np.maximum(one, other), out=bright)
        np.maximum(dark, np.minimum(one, other) - mean, out=dark)
    for strength in (bright, dark):
        np.clip(strength * 4, 0, 3, out=strength)


def _line_kernels() -> tuple[tuple[NDArray[np.float32], tuple[int, int]], ...]:
    """For each direction a line of LINE_PX that sums to 1, and the whole-pixel step to its side."""
    kernels = []
    for number in range(DIRECTIONS):
        angle = math.pi * number / DIRECTIONS
        along, at = (math.cos(angle), math.sin(angle)), np.arange(LINE_PX, dtype=np.float32) - LINE_PX // 2
        x, y = np.meshgrid(at, at)
        across = np.abs(y * along[0] - x * along[1])
        inside = np.abs(x * along[0] + y * along[1]) <= LINE_PX / 2
        kernel = (np.clip(1 - across, 0, 1) * inside).astype(np.float32)
        step = (round(-along[1] * BESIDE_PX), round(along[0] * BESIDE_PX))
        kernels.append((kernel / kernel.sum(), step))
    return tuple(kernels)


LINES = _line_kernels()


class Convolution(nn.Sequential):
    """3x3 convolution, batch norm (fixed after training, so that tiles cannot show), ReLU."""

    def __init__(self, into: int, out: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(into, out, 3, stride=stride, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        )


class Block(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.first = Convolution(width, width)
        self.second = Convolution(width, width, dilation=dilation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, width, h, w) -> the same shape."""
        out: torch.Tensor = x + self.second(self.first(x))
        return out


@dataclass(frozen=True, slots=True)
class Calibration:
    """From logits to an answer, measured on held-out pictures and kept with the weights.

    ``offsets`` are added to the logits of the pyramid's levels (1, 1/2, 1/4, 1/8 of the worked size) before the highest
    is taken; the sigmoid of that is the score. A connected mark of at least ``least_px`` pixels with scores of at least
    ``keep`` counts when it reaches ``seed`` somewhere: faint ends of a sure scratch are kept, faint texture is not.

    Damage comes in company, and what only looks like it does not: a mark counts only where at least the share
    ``open_colour`` (``open_gray``, when the scan is monochrome) of the 512 x 512 pixels around it scores ``sure``. A
    sound colour photograph is common and a spotless old monochrome print is not, so the second share is smaller.
    """

    offsets: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    keep: float = 0.5
    seed: float = 0.7
    least_px: int = 1
    sure: float = 0.97
    open_colour: float = 0.0
    open_gray: float = 0.0

    def packed(self) -> list[float]:
        """As the numbers of the buffer ``calibration``."""
        gate = [self.sure, self.open_colour, self.open_gray]
        return [*self.offsets, self.keep, self.seed, float(self.least_px), *gate]

    @classmethod
    def unpacked(cls, numbers: Sequence[float]) -> Calibration:
        """From the numbers of the buffer."""
        first, second, third, fourth, keep, seed, least_px, sure, colour, gray = numbers
        return cls((first, second, third, fourth), keep, seed, round(least_px), sure, colour, gray)


class DetectNet(nn.Module):
    """(N, 9, H, W) ``features`` -> (N, 1, H, W) logit of damage; any size, padded to 16 inside.

    A U-Net after O. Ronneberger et al., 2015, with sums instead of concatenations, begun at half size with the four
    pixels of each square side by side, and 1.1 million parameters. Gray and colour alike are judged by luma. No
    pooling over the picture and no instance norm: a pixel's logit depends on nothing further away than its receptive
    field, so that tiles with enough overlap cannot show.
    """

    calibration: torch.Tensor

    def __init__(self, *, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.widths = widths
        pairs = list(pairwise(widths))
        self.stem = nn.Sequential(Convolution(4 * FEATURES, widths[0]), Convolution(widths[0], widths[0]))
        self.down = nn.ModuleList(nn.Sequential(Convolution(into, out, stride=2), Block(out)) for into, out in pairs)
        self.far = Block(widths[-1], dilation=2)
        self.lift = nn.ModuleList(nn.Conv2d(out, into, 1) for into, out in pairs)
        self.up = nn.ModuleList(Convolution(width, width) for width in widths[:-1])
        self.fine = nn.Conv2d(widths[0], 4 * FINE, 1)
        self.head = nn.Conv2d(FINE + FEATURES, 1, 3, padding=1)
        self.head.bias = nn.Parameter(torch.full((1,), RARE))
        self.register_buffer("calibration", torch.tensor(Calibration().packed()))

    def calibrated(self) -> Calibration:
        """What the buffer says."""
        return Calibration.unpacked([float(v) for v in self.calibration.float().cpu()])

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """See the class."""
        height, width = given.shape[-2:]
        given = functional.pad(given, (0, -width % MULTIPLE_PX, 0, -height % MULTIPLE_PX), mode="replicate")
        x = self.stem(functional.pixel_unshuffle(given, 2))
        kept = []
        for down in self.down:
            kept.append(x)
            x = down(x)
        x = self.far(x)
        for beside, lift, up in zip(reversed(kept), reversed(self.lift), reversed(self.up), strict=True):
            x = up(beside + functional.interpolate(lift(x), scale_factor=2, mode="nearest"))
        full = functional.pixel_shuffle(self.fine(x), 2)
        out: torch.Tensor = self.head(torch.cat([full, given], 1))
        return out[..., :height, :width]


@dataclass(frozen=True, slots=True)
class DetectConfig:
    """How a scan is searched.

    ``keep`` and ``seed``: scores to use instead of the weights' calibration. ``dilate_px``: by how much the marks grow,
    so that less of a soft rim survives inpainting (measured: docs/quality.md), in pixels of the worked size.
    ``protect``: rectangles (left, top, width, height) in pixels of the scan where nothing is ever marked.
    """

    keep: float | None = None
    seed: float | None = None
    dilate_px: int = 1
    tile_px: int = 1024
    margin_px: int = 64
    levels: int = 4
    smallest_side_px: int = 192  # no level of the pyramid is smaller than this, but for the first
    protect: tuple[tuple[int, int, int, int], ...] = ()


class LearntDetector:
    """A DetectNet ready for use: norms folded into the convolutions, on one device, in the dtype that is fast there.

    ``network`` is left as it is. ``dtype``: float32 unless said otherwise; bfloat16 where the processor has it.
    """

    def __init__(self, network: DetectNet, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.calibration = network.calibrated()
        self.device, self.dtype = torch.device(device), dtype
        self.module = folded(network).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def load(cls, path: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> LearntDetector:
        """From a file of weights; raises UnusableWeights."""
        network = DetectNet()
        load_strictly(network, read_state(path), str(path))
        return cls(network, device, dtype)

    def logits(self, luma: NDArray[np.float32]) -> NDArray[np.float32]:
        """(h, w) luma in [0, 1] -> (h, w) logits of one tile, as they come out."""
        given = torch.from_numpy(features(luma))[None].to(self.device, memory_format=torch.channels_last)
        cast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)
        with torch.inference_mode(), cast:
            out: NDArray[np.float32] = self.module(given)[0, 0].float().cpu().numpy()
        return out


def folded(network: DetectNet) -> DetectNet:
    """A copy in evaluation mode whose norms are part of the convolutions before them: the same output, sooner."""
    copy = DetectNet(widths=network.widths)
    copy.load_state_dict(network.state_dict())
    copy.eval().requires_grad_(False)
    for module in copy.modules():
        if isinstance(module, Convolution):
            convolution, norm = module[0], module[1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[0] = torch.nn.utils.fusion.fuse_conv_bn_eval(convolution, norm)
                module[1] = nn.Identity()
    return copy


def detect(
    luma: NDArray[np.float32],
    detector: LearntDetector,
    config: DetectConfig = DetectConfig(),
    *,
    monochrome: bool = True,
) -> Mask:
    """The damage of a scan: (H, W) luma in [0, 1] of any size -> Mask of 0 and 1.

    Soft scans are searched at the size at which only noise would be lost (``effective_scale``), every scan at that
    size and up to three halvings of it, in tiles. ``monochrome``: the scan is no colour photograph. Beside the luma and
    its mask this holds one byte a worked pixel and what one tile needs.
    """
    worked, shape = worked_scores(luma, detector, config), luma.shape
    del luma  # the caller may have kept none
    return marks(worked, shape, detector.calibration, config, monochrome=monochrome)


def marks(
    worked: NDArray[np.uint8],
    shape: tuple[int, ...],
    calibration: Calibration,
    config: DetectConfig = DetectConfig(),
    *,
    monochrome: bool = True,
) -> Mask:
    """The answer at the scan's size ``shape`` (H, W) from the scores at the worked size."""
    keep = config.keep if config.keep is not None else calibration.keep
    seed = config.seed if config.seed is not None else calibration.seed
    where = opened(worked, calibration, monochrome=monochrome)
    marked = linked(worked, _step(keep), _step(max(seed, keep)), calibration.least_px, where)
    if config.dilate_px:
        side = 2 * config.dilate_px + 1
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        marked = np.asarray(cv2.dilate(marked, kernel), np.uint8)
    if marked.shape != shape:
        marked = np.asarray(cv2.resize(marked, shape[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
    for left, top, width, height in config.protect:
        marked[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = 0
    return Mask(np.multiply(marked, np.uint8(255), out=marked))


def opened(worked: NDArray[np.uint8], calibration: Calibration, *, monochrome: bool) -> NDArray[np.bool_]:
    """(h / 8, w / 8) whether the gate is open in each cell of 8 x 8: see ``Calibration``."""
    least = calibration.open_gray if monochrome else calibration.open_colour
    return np.asarray(company(worked, calibration.sure) >= np.float32(least))


CELL_PX = 8
AROUND_CELLS = 64


def company(worked: NDArray[np.uint8], sure: float) -> NDArray[np.float32]:
    """(h / 8, w / 8): for each cell of 8 x 8, the share of the 512 x 512 pixels around it that score ``sure``.

    ``worked``: (h, w) scores in 256 steps; in a scan no larger than that, the share of all of it.
    """
    size = (math.ceil(worked.shape[1] / CELL_PX), math.ceil(worked.shape[0] / CELL_PX))
    above = np.asarray(worked >= _step(sure), np.uint8) * np.uint8(255)
    cells = np.asarray(cv2.resize(above, size, interpolation=cv2.INTER_AREA), np.float32) / np.float32(255)
    if max(size) <= AROUND_CELLS:
        return np.full_like(cells, float(np.count_nonzero(above)) / above.size)
    around = (min(AROUND_CELLS, size[0]), min(AROUND_CELLS, size[1]))
    return np.asarray(cv2.blur(cells, around, borderType=cv2.BORDER_REFLECT), np.float32)


def scores(worked: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """(H, W) float32 in [0, 1] at the scan's size ``shape``: how likely each pixel is damaged, before any threshold."""
    if worked.shape != shape:
        worked = np.asarray(cv2.resize(worked, shape[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
    return _sigmoid(worked)


LOGIT_RANGE = 12.0  # scores at work are logits from -12 to 12 in 256 steps


def worked_scores(
    luma: NDArray[np.float32], detector: LearntDetector, config: DetectConfig = DetectConfig()
) -> NDArray[np.uint8]:
    """(h, w) uint8 at the worked size: the highest logit of the pyramid's levels, -12..12 in 256 steps."""
    factor = round(1 / effective_scale(luma))
    level = luma if factor == 1 else _reduced(luma, factor)
    fused: NDArray[np.uint8] | None = None
    for number in range(config.levels):
        if number:
            level = _reduced(level, 2)
            if min(level.shape) < config.smallest_side_px:
                break
        found = np.empty(level.shape, np.uint8)
        offset = detector.calibration.offsets[number]
        for outer, inner, own in tiles(level.shape, config.tile_px, config.margin_px):
            logits = detector.logits(level[outer])[inner] + np.float32(offset)
            found[own] = stepped(logits)
        if fused is None:
            fused = found
        else:
            np.maximum(fused, cv2.resize(found, fused.shape[::-1], interpolation=cv2.INTER_LINEAR), out=fused)
    if fused is None:
        raise ValueError(f"DetectConfig.levels: expected at least 1, found {config.levels}")
    return fused


def stepped(logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Logits from -12 to 12 in 256 steps; what lies outside counts as the end."""
    scaled = (logits + np.float32(LOGIT_RANGE)) * np.float32(255 / (2 * LOGIT_RANGE)) + np.float32(0.5)
    return np.asarray(np.clip(scaled, 0, 255), np.uint8)


def _step(score: float) -> int:
    """The step that a score in (0, 1) lies at."""
    sure = min(max(score, 1e-5), 1 - 1e-5)
    return int(stepped(np.array([math.log(sure / (1 - sure))], np.float32))[0])


def _sigmoid(steps: NDArray[np.uint8]) -> NDArray[np.float32]:
    logits = np.arange(256, dtype=np.float32) * np.float32(2 * LOGIT_RANGE / 255) - np.float32(LOGIT_RANGE)
    table: NDArray[np.float32] = 1 / (1 + np.exp(-logits))
    return table[steps]


def _reduced(luma: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    size = (math.ceil(luma.shape[1] / factor), math.ceil(luma.shape[0] / factor))
    return np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.float32)


Part = tuple[slice, slice]


def tiles(shape: Sequence[int], tile_px: int, margin_px: int) -> Iterator[tuple[Part, Part, Part]]:
    """Tiles that cover (h, w): what the network is given, which part of its answer counts, where that belongs.

    They begin at multiples of 16, as the network halves its picture four times: a tile then sees what the whole would.
    """
    core = max((tile_px - 2 * margin_px) // MULTIPLE_PX * MULTIPLE_PX, MULTIPLE_PX)
    margin = -(-margin_px // MULTIPLE_PX) * MULTIPLE_PX
    for top, bottom, first_row, last_row in _spans(shape[0], core, margin, tile_px):
        for left, right, first, last in _spans(shape[1], core, margin, tile_px):
            outer = slice(first_row, last_row), slice(first, last)
            inner = slice(top - first_row, bottom - first_row), slice(left - first, right - first)
            yield outer, inner, (slice(top, bottom), slice(left, right))


def _spans(length: int, core: int, margin: int, tile_px: int) -> Iterator[tuple[int, int, int, int]]:
    if length <= tile_px:
        yield 0, length, 0, length
        return
    for start in range(0, length, core):
        stop = min(start + core, length)
        yield start, stop, max(start - margin, 0), min(stop + margin, length)


BAND_PX = 16_000_000
BAND_MARGIN_PX = 256


def linked(
    score: NDArray[np.uint8], keep: int, seed: int, least_px: int = 1, where: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """(h, w) uint8, 1 where ``score`` >= ``keep`` in a connected mark of ``least_px`` that somewhere reaches ``seed``.

    ``where`` (smaller than the scan, enlarged to it) says where reaching it counts. Large pictures are looked through
    in bands that overlap by 256 rows: labels need four bytes a pixel.
    """
    height, width = score.shape
    out = np.zeros(score.shape, np.uint8)
    counts = None
    if where is not None:
        if not where.any():
            return out
        counts = cv2.resize(where.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    rows = max(BAND_PX // width, BAND_MARGIN_PX)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first, last = max(top - BAND_MARGIN_PX, 0), min(bottom + BAND_MARGIN_PX, height)
        band = score[first:last]
        count, labels, places, _ = cv2.connectedComponentsWithStats((band >= keep).astype(np.uint8), connectivity=8)
        reached = band >= seed if counts is None else (band >= seed) & (counts[first:last] > 0)
        sure = np.zeros(count, np.uint8)
        sure[labels[reached]] = 1
        sure[places[:, cv2.CC_STAT_AREA] < least_px] = 0
        sure[0] = 0
        out[top:bottom] = sure[labels[top - first : bottom - first]]
    return out
