"""One call for every image-to-image network: scans in, tiles through the network, residuals added to the scans."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from models import tiling
from models.colour import space_of
from models.imaging import Mask, Raster
from models.nets import colour, enhance, face, rrdbnet, span
from models.peak import so_far
from models.registry import ModelCard
from models.resolution import effective_scale
from models.tiling import Canvas, Floats, is_gray, resized
from models.weights import Convert, UnusableWeights, converted, load_strictly, read_state, verify

TONE_BOX_PX = 13  # worked pixels, applied twice: what changes more slowly is tone, and stays the scan's; it reaches
# 12 px, less than a tile discards, so that tiles cannot show
DISCARD_PX = 32  # of a network that does not say how far its output depends on what lies outside the tile
MEASURED_THREADS = 2  # what the cards' cpu_* measures were taken with
GPU_BATCH = 8


class NetworkError(Exception):
    """Root of what a network raises for one picture: what was expected, what was found."""

    def __init__(self, name: str, *, expected: str, found: str) -> None:
        super().__init__(f"{name}: expected {expected}, found {found}")
        self.name, self.expected, self.found = name, expected, found


class NonFiniteOutput(NetworkError):
    """The network gave NaN or infinity; ``evidence`` is the tile it was given, (h, w, 3) float32 sRGB."""

    def __init__(self, name: str, *, expected: str, found: str, evidence: Floats) -> None:
        super().__init__(name, expected=expected, found=found)
        self.evidence = evidence


class WrongSize(NetworkError):
    """The network gave another size than its card says."""


class TileTooLarge(NetworkError):
    """Even the smallest tile does not fit into the device's memory."""


@dataclass(frozen=True, slots=True)
class Stats:
    """How one picture went through. ``peak_bytes``: of the GPU during the call, on a CPU of the process so far.

    ``factor``: worked at 1/factor of the scan's size. ``halvings``: how often a smaller tile answered a lack of
    memory. ``seconds``: this picture's share of the call.
    """

    tiles: int
    tile_px: int
    halvings: int
    factor: int
    seconds: float
    peak_bytes: int
    dtype: str
    device: str


@dataclass(frozen=True, eq=False, slots=True)
class Restored:
    """One picture after the network, in its own colour space, bit depth and number of channels."""

    raster: Raster
    stats: Stats


@dataclass(frozen=True, eq=False, slots=True)
class Architecture:
    """How to build a network, and how to read an ncnn ``.bin`` where its weights are published as one."""

    build: Callable[[], nn.Module]
    from_ncnn: Convert | None = None


ARCHES: dict[str, Architecture] = {
    "colour": Architecture(colour.SrgbColour),
    "enhance": Architecture(enhance.EnhanceNet),
    "face": Architecture(face.FaceNet),
    "rrdbnet": Architecture(rrdbnet.RRDBNet, rrdbnet.from_ncnn),
    "span": Architecture(span.SPAN, span.from_ncnn),
}


class Network:
    """A card, its network on a device, and one call.

    ``module``: takes (N, 3, h, w) sRGB in [0, 1], gives (N, 3, h * scale, w * scale). An attribute ``precise`` of the
    module names layers that stay float32; they receive their input in float32 and decide the output's dtype. An
    attribute ``discard_px`` says how much of a tile's inner sides to discard, so that tiles cannot be seen.
    """

    def __init__(
        self, card: ModelCard, module: nn.Module, device: str = "auto", dtype: torch.dtype | None = None
    ) -> None:
        self.card = card
        self.device = torch.device(_chosen(device))
        self.dtype = dtype or fitting_dtype(self.device)
        module = module.eval().requires_grad_(False).to(self.device, self.dtype)
        for name in getattr(module, "precise", ()):
            module.get_submodule(name).float()
        if card.arch != "spandrel":  # some of those count on the usual order in memory
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.module = module
        self.tile_px = card.tile_px * (2 if self.device.type == "cuda" else 1)
        self.discard_px: int = getattr(module, "discard_px", DISCARD_PX)
        self.batch = GPU_BATCH if self.device.type == "cuda" else 1

    def __call__(self, pictures: Floats, masks: Floats | None = None) -> Floats:
        """(N, h, w, 3) float32 sRGB in [0, 1] -> (N, h * scale, w * scale, 3) float32, not clamped, not checked.

        ``masks``: (N, h, w) float32, 1 = damaged, for a network that fills damage. The same pictures give the same
        on the same class of device. Raises torch.OutOfMemoryError.
        """
        given = [torch.from_numpy(pictures).to(self.device, self.dtype).permute(0, 3, 1, 2)]  # NHWC is channels_last
        if masks is not None:
            given.append(torch.from_numpy(masks).to(self.device, self.dtype)[:, None])
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            out: torch.Tensor = self.module(*given)
            return out.float().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def load(card: ModelCard, path: Path, device: str = "auto", dtype: torch.dtype | None = None) -> Network:
    """The card's network with the weights of the file at ``path``, which must be the pinned file.

    ncnn ``.bin`` files are converted once and kept as safetensors beside the file. ``device``: ``auto``, ``cpu``,
    ``cuda`` or ``cuda:N``. Raises MissingWeights, AlteredWeights, UnusableWeights.
    """
    sha256 = card.files[0].sha256
    if card.arch == "spandrel":
        from models.nets.thirdparty import load_with_spandrel  # only where the optional extra is installed

        module = load_with_spandrel(verify(path, sha256, card.id))
        fitting = dtype or fitting_dtype(torch.device(_chosen(device)))
        return Network(card, module, device, fitting if fitting in module.supports else torch.float32)
    if card.arch not in ARCHES:
        raise UnusableWeights(card.id, expected=f"an arch of {', '.join(ARCHES)} or spandrel", found=card.arch)
    arch = ARCHES[card.arch]
    if path.suffix == ".bin" and arch.from_ncnn is not None:
        state = converted(path, sha256, card.id, arch.from_ncnn, pinned=card.state_sha256)
    else:
        state = read_state(verify(path, sha256, card.id))
    return Network(card, load_strictly(arch.build(), state, card.id), device, dtype)


_resident: dict[tuple[str, str | None, str], Network] = {}


def resident(card: ModelCard, path: Path, device: str = "auto") -> Network:
    """The card's network, loaded once per process and device and kept."""
    key = (card.id, card.sha256, _chosen(device))
    if key not in _resident:
        _resident[key] = load(card, path, device)
    return _resident[key]


def fitting_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, float16 on older GPUs, float32 on other CPUs.

    Decided by what the processor can do and not by a stopwatch, so that a device class always gives the same pixels.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    can = torch.cpu.get_capabilities()
    return torch.bfloat16 if can.get("avx512_bf16") or can.get("amx_bf16") else torch.float32


def device_class(device: torch.device) -> str:
    """``cpu`` or the GPU's name: what must be the same for the same pixels."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def estimate_seconds(card: ModelCard, megapixels: float, device: str = "auto") -> float | None:
    """How long ``restore`` will take for so many worked megapixels, or ``None`` where the card has no such figure.

    From the card's seconds per megapixel of network input; worked megapixels are the scan's times ``effective_scale``
    squared. On a CPU in proportion to its threads.
    """
    where = torch.device(_chosen(device))
    per_mp = card.measures.get(f"{where.type}_{str(fitting_dtype(where)).removeprefix('torch.')}_s_per_mp")
    if per_mp is None:
        return None
    return per_mp * megapixels * (MEASURED_THREADS / torch.get_num_threads() if where.type == "cpu" else 1.0)


def work_factor(raster: Raster, network_scale: int) -> int:
    """1, 2, 4 or 8: how far a scan can be reduced before the network without losing more than noise.

    At most the network's own enlargement, so that what it makes reaches the scan's size again.
    """
    luma = raster.pixels[:, :, min(1, raster.pixels.shape[2] - 1)]  # green: most of luma, and no copy of a large scan
    return min(round(1 / effective_scale(luma)), max(network_scale, 1))


def apply_residual(raster: Raster, residual: Floats, *, strength: float = 1.0) -> Raster:
    """``raster`` with an sRGB residual (H, W, 3) float32 added in the raster's own space and bit depth, clamped.

    Gray stays gray: then all channels change by the residual's mean.
    """
    if residual.shape != (raster.height, raster.width, 3):
        expected = f"a residual ({raster.height}, {raster.width}, 3)"
        raise WrongSize("residual", expected=expected, found=str(residual.shape))
    space, gray = space_of(raster), is_gray(raster.pixels)
    out = np.empty_like(raster.pixels)
    for top in range(0, raster.height, tiling.FLUSH_ROWS):
        rows = slice(top, min(top + tiling.FLUSH_ROWS, raster.height))
        own = tiling.region(raster.pixels, rows.start, rows.stop, 0, raster.width)
        out[rows] = tiling.add_residual(own, residual[rows] * np.float32(strength), space, gray, out.dtype)
    return raster.with_pixels(out)


def restore(
    rasters: Sequence[Raster],
    network: Network,
    *,
    scale: int = 1,
    strength: float = 1.0,
    factors: Sequence[int] | None = None,
    masks: Sequence[Mask | None] | None = None,
    keep_tone: bool = True,
    tile_px: int | None = None,
    names: Sequence[str] | None = None,
    on_tile: Callable[[int], None] | None = None,
) -> list[Restored | NetworkError]:
    """Each picture after the network, or the error that only this picture had, in the order given.

    Every picture is worked at 1/factor of its size (``factors``; default: ``work_factor`` of each). The network's
    output is brought to ``scale`` (1, 2 or 4) times the scan's size by area, where it is larger, and compared with the
    scan at that size; where the network does not reach that size, they are compared at its size and the difference is
    enlarged. The difference, times ``strength``, is added to the scan in its own space and bit depth.
    ``masks``: of each picture, for a network that takes one beside it.
    ``keep_tone``: what changes more slowly than about 25 worked pixels is taken out of the difference: a network for
    detail neither shifts colour nor, in bfloat16, steps a smooth 16-bit sky. Tiles of several pictures share a batch;
    memory is bounded by the tile, the scan and its result. Lack of GPU memory is answered by smaller batches, then
    smaller tiles (``Stats.halvings``), which the network keeps from then on. ``on_tile(n)`` is called after each batch
    of n tiles. Results in the list: Restored, NonFiniteOutput, WrongSize, TileTooLarge.
    """
    if scale not in (1, 2, 4):
        raise ValueError(f"scale: expected 1, 2 or 4, found {scale}")
    if network.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(network.device)
    called = list(names) if names is not None else [f"picture {i}" for i in range(len(rasters))]
    worked = list(factors) if factors is not None else [work_factor(r, network.card.scale) for r in rasters]
    smallest_px, halvings = tiling.smallest_tile_px(network.discard_px), 0
    side_px = max(min(tile_px or network.tile_px, network.tile_px), smallest_px)
    results: dict[int, Restored | NetworkError] = {}
    seconds = [0.0] * len(rasters)
    canvases: dict[int, Canvas] = {}

    def canvas(index: int) -> Canvas:
        if index not in canvases:
            raster = rasters[index]
            gray = is_gray(raster.pixels)
            space, mask = space_of(raster), masks[index] if masks is not None else None
            if mask is not None and mask.shape != (raster.height, raster.width):
                raise ValueError(f"{called[index]}: expected a mask of the picture's size, found {mask.shape}")
            canvases[index] = Canvas(raster, space, scale, worked[index], side_px, network.discard_px, gray, mask)
        return canvases[index]

    while len(results) < len(rasters):
        begun = time.perf_counter()
        group = _next_group([i for i in range(len(rasters)) if i not in results], canvas, network.batch)
        originals = [canvas(i).tile(tile) for i, tile in group]
        given = np.stack([resized(o, 1 / worked[i]) for o, (i, _) in zip(originals, group, strict=True)])
        told = None if masks is None else np.stack([_reduced(canvas(i).mask_tile(t), worked[i]) for i, t in group])
        try:
            made = network(given, told)
        except torch.OutOfMemoryError as error:
            if network.device.type == "cuda":
                torch.cuda.empty_cache()
            halvings += 1
            if len(group) > 1:
                network.batch = len(group) // 2
            elif max(given.shape[1:3]) // 2 >= smallest_px:
                side_px = network.tile_px = max(given.shape[1:3]) // 2
                canvases.clear()  # pictures not finished begin again, so that each has tiles of one size
            else:
                i, found = group[0][0], str(error).partition("\n")[0] or "out of memory"
                results[i] = TileTooLarge(called[i], expected=f"room for a tile of {given.shape[1]} px", found=found)
            continue
        for (i, tile), original, x, y in zip(group, originals, given, made, strict=True):
            if i in results:
                continue
            fault = _fault(called[i], canvas(i).corner(tile), x, y, network.card.scale)
            if fault is not None:
                results[i] = fault
                continue
            residual = _residual(original, y, scale, worked[i], network.card.scale, keep_tone)
            canvas(i).take(residual * np.float32(strength))
            seconds[i] += (time.perf_counter() - begun) / len(group)
        for i in {i for i, _ in group if i not in results and canvas(i).finished}:
            stats = _stats(network, canvas(i), halvings, seconds[i])
            results[i] = Restored(rasters[i].with_pixels(canvases.pop(i).out), stats)
        if on_tile is not None:
            on_tile(len(group))
    return [results[i] for i in range(len(rasters))]


def _next_group(waiting: Sequence[int], canvas: Callable[[int], Canvas], batch: int) -> list[tuple[int, int]]:
    """(picture, tile) pairs for one batch: tiles of equal size, in order, of as few pictures as fill it."""
    group: list[tuple[int, int]] = []
    shape = None
    for i in waiting:
        c = canvas(i)
        if shape not in (None, (c.tile_height, c.tile_width)):
            break
        shape = (c.tile_height, c.tile_width)
        group += [(i, tile) for tile in range(c.taken, min(c.tiles, c.taken + batch - len(group)))]
        if len(group) >= batch:
            break
    return group


def _reduced(mask: Floats, factor: int) -> Floats:
    return resized(mask[:, :, None], 1 / factor)[:, :, 0]


def _residual(original: Floats, y: Floats, scale: int, factor: int, network_scale: int, keep_tone: bool) -> Floats:
    """What the network's tile ``y`` changes at ``scale * factor`` output pixels per worked pixel, float32 sRGB.

    ``original``: the scan's tile at full size, ``factor`` pixels per worked pixel.
    """
    ratio = scale * factor
    compared = min(network_scale, ratio)  # per worked pixel
    residual = resized(y, compared / network_scale) - resized(resized(original, scale), compared / ratio)
    if keep_tone:
        tone = resized(residual, 1 / compared)
        for _ in range(2):
            tone = cv2.blur(tone, (TONE_BOX_PX, TONE_BOX_PX)).astype(np.float32, copy=False)
        residual = residual - resized(tone, compared)
    return resized(residual, ratio / compared)


def _fault(name: str, corner: tuple[int, int], x: Floats, y: Floats, network_scale: int) -> NetworkError | None:
    expected = (x.shape[0] * network_scale, x.shape[1] * network_scale, 3)
    if y.shape != expected:
        return WrongSize(name, expected=f"a tile {expected}", found=str(y.shape))
    if not np.isfinite(y).all():
        share = 1 - float(np.isfinite(y).mean())
        found = f"{share:.1%} NaN or infinite in the tile at row {corner[0]}, column {corner[1]}"
        return NonFiniteOutput(name, expected="finite pixels", found=found, evidence=x)
    return None


def _stats(network: Network, canvas: Canvas, halvings: int, seconds: float) -> Stats:
    peak = torch.cuda.max_memory_allocated(network.device) if network.device.type == "cuda" else so_far()
    return Stats(
        tiles=canvas.tiles,
        tile_px=max(canvas.tile_height, canvas.tile_width),
        halvings=halvings,
        factor=canvas.factor,
        seconds=seconds,
        peak_bytes=peak,
        dtype=str(network.dtype).removeprefix("torch."),
        device=device_class(network.device),
    )


def _chosen(device: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
