"""Cleaned plate -> enhanced plate: tone, blur, haze, grain and noise set right by a GAN; optionally enlarged."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from prefect import task

from models import colour, enhancement, evidence, metrics, network, resolution, tiling, tone
from models.enhancement import Enhanced
from models.imaging import Raster
from models.nets import detect, rrdbnet, span
from models.nets import enhance as enhance_net
from models.nets import tone as tone_net
from models.network import Network, NetworkError, Restored
from models.registry import CARDS, ModelCard
from tasks import networks, stage
from tasks.contracts import ENHANCED, LATEST, Plate, PlateRef, StageOutput, StageResult
from tasks.recipe import EnhanceConfig
from tasks.shelf import Shelf
from tasks.stage import Stage, Workshop

log = logging.getLogger("glassplate.enhance")

OURS, FAST, BEST = "glassplate-enhance-1", "span-x4", "realesrgan-x4plus"
# Up to here `auto` takes the better network on a CPU too: about a quarter of a minute a scan on two cores, without
# bfloat16; beyond, what it does to texture and faces is not worth the wait. Decided by the master's size and not by a
# clock, so that a scan always gets the same network.
SMALL_MEGAPIXELS = 0.05
# How far from fidelity to the critic's weights, where the recipe does not say. A GAN that loses to its own fidelity
# model is not the default: docs/quality.md.
FIDELITY = 0.0
OTHERS_STRENGTH = 1.0  # of a network of others: all that it changes
INVISIBLE_LEVELS = 0.5  # of 255, root mean square: what SPAN does to a scan that is sharp already


def stage_of(config: EnhanceConfig, models: Shelf) -> Stage:
    """What this stage reads and uses under ``config``. Raises Refused for a model named but not permitted."""
    cards = candidates(config, models)
    ours = any(card.arch == "enhance" for card in cards)
    nets = (enhancement, evidence, tone, enhance_net, tone_net, detect) if ours else (span, rrdbnet)
    return Stage(
        "enhance",
        reads=(LATEST,),
        code=(sys.modules[__name__], network, tiling, resolution, colour, *nets),
        card=cards[0] if cards else None,
        also=cards[1:],
        reads_mask=ours,  # where something was filled, texture is to come back
        needs_mask=False,
        scale=config.scale,
    )


def candidates(config: EnhanceConfig, models: Shelf) -> tuple[ModelCard, ...]:
    """The models this stage may use: the usual one, then the one for small scans; none where none is permitted.

    With ``auto``: one that settings register; at the scan's own size ours; to enlarge it, those of others.
    """
    if config.model != "auto":
        return (models.card(config.model),)
    known = {card.id for card in CARDS}
    permitted = {c.id: c for c in models.cards if c.purpose == "enhance" and models.refusal(c) is None}
    registered = [c for c in models.cards if c.purpose == "enhance" and c.id not in known]
    if registered:
        return tuple(card for card in registered[:1] if card.id in permitted)
    on_gpu = networks.device_type(models) == "cuda"
    of_others = [BEST] if on_gpu else [FAST, BEST]
    wanted = [OURS] if config.scale == 1 and OURS in permitted else of_others
    return tuple(permitted[name] for name in wanted if name in permitted)


def choice(cards: Sequence[ModelCard], megapixels: float) -> ModelCard:
    """Which of the candidates works a scan of this size."""
    return cards[-1] if megapixels <= SMALL_MEGAPIXELS else cards[0]


def sharpen(
    plates: Sequence[Plate],
    config: EnhanceConfig,
    resident: Mapping[str, Network],
    keep: Callable[[str, bytes], str],
    on_tile: Callable[[int], None],
    /,
) -> list[StageOutput | Exception]:
    """Each plate's enhanced layer, ``config.scale`` times the size of the layer read, or the error it alone had.

    ``resident``: the candidate networks by card id, in their order; tiles of scans that share one share its batches.
    ``keep``: where the evidence of a bad output goes. Each scan is worked at its effective resolution, so that a soft
    print scanned at 20 megapixels costs what it holds. Measures: ``estimated_seconds`` (from the model card, where it
    has a figure), ``work_factor``, ``tiles``, ``tile_px``, ``halvings``, ``change_levels`` (root mean square, of 255),
    with our network ``tone_share`` and ``detail_share`` (how much of its changes was made: none of the tone's where
    that is sound, less of the detail's where nothing says that the scan is worn).
    A change of less than half a level is not passed off as an enhancement: such a scan is skipped.
    """
    nets = list(resident.values())
    by_net: dict[str, list[int]] = defaultdict(list)
    for i, plate in enumerate(plates):
        by_net[choice([net.card for net in nets], plate.latest().megapixels).id].append(i)
    outputs: dict[int, StageOutput | Exception] = {}
    for model_id, group in by_net.items():
        net, rasters = resident[model_id], [plates[i].latest() for i in group]
        ours = enhancement.is_ours(net)
        largest = enhancement.LARGEST_FACTOR if ours else net.card.scale
        factors = [network.work_factor(raster, largest) for raster in rasters]
        estimates = [_estimate(net, raster, factor) for raster, factor in zip(rasters, factors, strict=True)]
        log.info(
            "stage=enhance model=%s device=%s scans=%d megapixels=%.2f worked_megapixels=%.2f estimated_seconds=%s",
            model_id, net.device, len(group), sum(r.megapixels for r in rasters),
            sum(r.megapixels / f**2 for r, f in zip(rasters, factors, strict=True)),
            "unknown" if None in estimates else f"{sum(e or 0.0 for e in estimates):.1f}",
        )  # fmt: skip
        names = [plates[i].scan for i in group]
        results: Sequence[Restored | Enhanced | NetworkError]
        if ours:
            masks = [plates[i].mask for i in group]
            strength = FIDELITY if config.strength is None else config.strength
            results = enhancement.enhance(
                rasters, net, masks=masks, restore_tone=config.tone == "restore", strength=strength,
                scale=config.scale, factors=factors, names=names, on_tile=on_tile,
            )  # fmt: skip
        else:
            strength = OTHERS_STRENGTH if config.strength is None else config.strength
            results = network.restore(
                rasters, net, scale=config.scale, strength=strength, factors=factors, names=names, on_tile=on_tile
            )
        for i, result, estimate in zip(group, results, estimates, strict=True):
            outputs[i] = _output(plates[i], result, estimate, net.card, keep)
    return [outputs[i] for i in range(len(plates))]


def _estimate(net: Network, raster: Raster, factor: int) -> float | None:
    return network.estimate_seconds(net.card, raster.megapixels / factor**2, net.device.type)


def _output(
    plate: Plate,
    result: Restored | Enhanced | NetworkError,
    estimate: float | None,
    card: ModelCard,
    keep: Callable[[str, bytes], str],
) -> StageOutput | Exception:
    if isinstance(result, NetworkError):
        return networks.bad_output(plate.scan, result, keep)
    stats = result.stats
    measures = {
        "work_factor": float(stats.factor), "tiles": float(stats.tiles), "tile_px": float(stats.tile_px),
        "halvings": float(stats.halvings),
    }  # fmt: skip
    if isinstance(result, Enhanced):
        measures |= {"tone_share": result.tone_share, "detail_share": result.detail_share}
    if estimate is not None:
        measures["estimated_seconds"] = estimate
    done = StageOutput(
        layers={ENHANCED: result.raster}, measures=measures, model=card, device=stats.device, seconds=stats.seconds,
        peak_memory_bytes=stats.peak_bytes,
    )  # fmt: skip
    if result.raster.pixels.shape == plate.latest().pixels.shape:
        measures["change_levels"] = 255 / 10 ** (metrics.psnr(plate.latest().pixels, result.raster.pixels) / 20)
        if measures["change_levels"] < INVISIBLE_LEVELS:
            why = f"no visible change ({measures['change_levels']:.2f} of 255 levels)"
            return dataclasses.replace(done, layers={}, skipped=why)
    return done


@task(name="enhance", task_run_name="enhance", **stage.GPU)
def enhance(plates: list[PlateRef], config: EnhanceConfig, shop: Workshop) -> list[StageResult]:
    """Each plate with its enhanced layer."""
    here = stage_of(config, shop.models)
    cards = (*([here.card] if here.card else []), *here.also)

    def apply(loaded: Sequence[Plate], config: EnhanceConfig) -> list[StageOutput | Exception]:
        if (why := _why_not(config, cards, shop.models)) is not None:
            return [StageOutput(skipped=why, without_model=True) for _ in loaded]
        needed = {choice(cards, plate.latest().megapixels).id for plate in loaded}
        resident = {card.id: networks.network_of(card, shop) for card in cards if card.id in needed}
        keep, on_tile = networks.keeping_evidence(plates, shop), networks.keeping_claims(plates, shop)
        return sharpen(loaded, config, resident, keep, on_tile)

    return stage.run_together(here, apply, plates, config, shop)


def _why_not(config: EnhanceConfig, cards: Sequence[ModelCard], models: Shelf) -> str | None:
    """Why nothing is enhanced, or None."""
    if config.strength == 0 and config.scale == 1 and not any(card.arch == "enhance" for card in cards):
        return "strength 0"
    if not cards:
        refused = [f"{c.id}: {models.refusal(c)}" for c in models.cards if c.purpose == "enhance"]
        return "no permitted enhance model" + (f" ({'; '.join(refused)})" if refused else "")
    return None
