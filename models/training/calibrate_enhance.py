"""From when on a tone is believed to have suffered: chosen on held-out training pictures, never on the examination's.

``python -m models.training.calibrate_enhance SHARDS --weights FILE`` prints, for gates from lenient to strict, what
they do to sound pictures and leave of the gain on worn ones; then what the detail part alone does to sound ones.
The gates kept are written into ``models.tone`` (STRICT, LENIENT) by hand, with the reason in LOG.md.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models import tone
from models.imaging import Raster
from models.metrics import psnr
from models.nets import tone as nets
from models.network import Network
from models.training import data
from models.training.data import LUMA, Stock
from models.training.enhance_data import FADING, HAZE, ToneSampler
from models.training.enhance_measures import half
from models.training.evaluate_enhance import loaded, ours

log = logging.getLogger(__name__)

GATES = ((0.5, 0.7), (0.6, 0.8), (0.7, 0.85), (0.8, 0.9), (0.85, 0.95), (0.9, 0.97), (0.95, 0.99))
LIMIT_DB = 36.0
SEED = 9


@dataclass(frozen=True, eq=False, slots=True)
class Seen:
    """One picture's tone: how sure the network was; mean square and mean of the change it would make; its gain, dB."""

    worn: float
    error: float
    change: float
    gain_db: float


def sound_pictures(stock: Stock, net: Network) -> list[Seen]:
    """Every held-out picture as it is, every third one in gray, with all of the change the network would make."""
    seen = []
    for i in range(len(stock.pictures)):
        picture = stock.pictures[i]
        if i % 3 == 0:
            gray = np.rint(picture.astype(np.float32) @ LUMA)
            picture = np.repeat(gray[:, :, None], 3, axis=2).astype(np.uint8)
        raster = Raster(np.ascontiguousarray(picture))
        found = tone.predict(raster, net.module.get_submodule("tone"), share=1.0)
        change = (tone.apply(raster, found).pixels.astype(np.float64) - picture) / 255
        seen.append(Seen(found.worn, float(np.square(change).mean()), float(np.abs(change).mean()), 0.0))
    return seen


def worn_pictures(stock: Stock, net: Network, count: int) -> list[Seen]:
    """Held-out samples of the tone sampler, all of them worn, at least as plainly as the examination's."""
    module = net.module.get_submodule("tone")
    sampler = ToneSampler(sound_share=0.0, toned_share=0.0)
    log.info("worn samples: haze %s, fading %s", HAZE, FADING)
    seen = []
    for i in range(count):
        sample = sampler(stock, np.random.default_rng((SEED, i)), i)
        given, target = (torch.from_numpy(sample[name])[None] for name in ("input", "target"))
        with torch.inference_mode():
            done = nets.tones(module(given))
            made = nets.applied(done, half(given)).clamp(0, 1)
        before, after = (float((picture - target).square().mean()) for picture in (half(given), made))
        sure = float(torch.sigmoid(done.worn))
        seen.append(Seen(sure, 0.0, 0.0, 10 * float(np.log10(max(before, 1e-6) / max(after, 1e-6)))))
    return seen


def report(stock: Stock, net: Network, count: int) -> str:
    """The tables as Markdown."""
    sound, worn = sound_pictures(stock, net), worn_pictures(stock, net, count)
    lines = [
        "| begins | whole | sound touched | under 36 dB | worst | mean change | PSNR of all | gain on worn, dB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for begins, whole in GATES:
        share = _share([s.worn for s in sound], begins, whole)
        errors = np.square(share) * [s.error for s in sound]
        db = -10 * np.log10(np.maximum(errors, 1e-9))
        change = float((share * [s.change for s in sound]).mean())
        gain = float((_share([s.worn for s in worn], begins, whole) * [s.gain_db for s in worn]).mean())
        lines.append(
            f"| {begins} | {whole} | {(share > 0).mean():.1%} | {(db < LIMIT_DB).mean():.1%} | {db.min():.1f} | "
            f"{change:.2%} | {-10 * np.log10(max(errors.mean(), 1e-9)):.1f} | {gain:.2f} |"
        )
    for strength in (0.0, 1.0):
        mend = ours(net, strength, restore_tone=False)
        found = [psnr(p, mend(p)) for p in (stock.pictures[i] for i in range(0, len(stock.pictures), 4))]
        low, least = float(np.mean(np.array(found) < LIMIT_DB)), float(np.min(found))
        lines.append(
            f"\nDetail, strength {strength}: {len(found)} sound pictures, {low:.1%} under 36 dB, worst {least:.1f}"
        )
    return "\n".join([*lines, ""])


def _share(worn: Sequence[float], begins: float, whole: float) -> NDArray[np.float64]:
    return np.clip((np.array(worn) - begins) / (whole - begins), 0, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the tables to standard output."""
    first = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m models.training.calibrate_enhance", description=first)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--weights", type=Path, help="of an EnhanceNet, instead of the card's")
    parser.add_argument("--count", type=int, default=400, help="worn samples")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    stock = data.open_stock(given.shards, ("photos",), "held_out")
    sys.stdout.write(report(stock, loaded(given.weights, "cpu"), given.count))


if __name__ == "__main__":
    main()
