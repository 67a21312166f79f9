"""GAN 1 from end to end: tone set right over the whole picture, then detail tile by tile, at the picture's own size."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from models import network, tiling, tone
from models.evidence import evidence, held_back
from models.imaging import Mask, Raster
from models.nets.enhance import EnhanceNet
from models.network import Network, NetworkError, Stats

PROBE_PX = 320
LARGEST_FACTOR = 4  # beyond, what the network makes would be seen only as blots


@dataclass(frozen=True, eq=False, slots=True)
class Enhanced:
    """One picture after both parts.

    ``tone_share``: how much of the tone's change was made, 0 where it was sound. ``detail_share``: how much of the
    detail's, less than 1 where it was large and nothing says that the scan was worn.
    """

    raster: Raster
    stats: Stats
    tone_share: float
    detail_share: float


def is_ours(net: Network) -> bool:
    """Whether the network has both parts, and so is to be called here and not by ``network.restore`` alone."""
    return isinstance(net.module, EnhanceNet)


def enhance(
    rasters: Sequence[Raster],
    net: Network,
    *,
    masks: Sequence[Mask | None] | None = None,
    restore_tone: bool = True,
    strength: float = 0.0,
    scale: int = 1,
    factors: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    on_tile: Callable[[int], None] | None = None,
) -> list[Enhanced | NetworkError]:
    """Each picture enhanced, or the error that only it had, in the order given.

    ``net``: of an EnhanceNet. ``masks``: what was filled. ``strength``: from fidelity, 0, to the
    critic's weights, 1. The rest as ``network.restore``, but that a picture of low effective resolution is worked at
    1/factor of its size and the difference enlarged.
    """
    module = net.module
    if not isinstance(module, EnhanceNet):
        raise TypeError(f"{net.card.id}: expected a network of tone and detail, found {type(module).__name__}")
    worked = list(factors) if factors is not None else factors_of(rasters)
    toned, shares, seconds = list(rasters), [0.0] * len(rasters), [0.0] * len(rasters)
    for i, raster in enumerate(rasters if restore_tone else ()):
        begun = time.perf_counter()
        found = tone.predict(raster, module.tone, old=age_of(raster, net, worked[i]))
        toned[i], shares[i] = tone.apply(raster, found), found.share
        seconds[i] = time.perf_counter() - begun
    detail = Network(net.card, module.between(strength), str(net.device), net.dtype)
    results = network.restore(
        toned, detail, scale=scale, factors=worked, masks=masks or [None] * len(rasters), tile_px=net.tile_px,
        names=names, on_tile=on_tile,
    )  # fmt: skip
    net.tile_px = detail.tile_px  # what a lack of memory has taught
    done: list[Enhanced | NetworkError] = []
    for i, result in enumerate(results):
        if isinstance(result, NetworkError):
            done.append(result)
            continue
        share = 1.0 if scale > 1 else evidence(toned[i], result.raster, result.stats.factor).share
        made = held_back(toned[i], result.raster, share)
        stats = replace(result.stats, seconds=result.stats.seconds + seconds[i])
        done.append(Enhanced(made, stats, shares[i], share))
    return done


def age_of(raster: Raster, net: Network, factor: int) -> float:
    """How plainly grain or blur say that a scan is old, 0 to 1: what the fidelity part does to its middle.

    Looked at in ``PROBE_PX`` worked pixels, before tone is touched.
    """
    side = PROBE_PX * factor
    top, left = (max(length - side, 0) // 2 for length in (raster.height, raster.width))
    middle = raster.with_pixels(tiling.cut(raster.pixels, top, left, side))
    (done,) = network.restore([middle], net, factors=[factor], masks=[None])
    return 0.0 if isinstance(done, NetworkError) else evidence(middle, done.raster, factor).openness


def factors_of(rasters: Sequence[Raster]) -> list[int]:
    """How far each picture is reduced before the detail part."""
    return [network.work_factor(raster, LARGEST_FACTOR) for raster in rasters]
