"""What enhancement is worth: ``python -m models.training.evaluate_enhance DATA``; DATA holds ``bench``, ``damage``.

Prints, as Markdown: the frozen examination (models/training/worn.py) in colour and gray for the input, OpenCV, ours for
fidelity and ours by the critic, every condition alone and mixed, and mixed enlarged 4x; the same for the middle of a
few pictures with Real-ESRGAN x4plus reduced to size (``--x4plus FILE``: minutes a megapixel on a CPU); what happens to
clean pictures; the chain detect, fill, enhance; seconds and memory a megapixel.

``--weights FILE`` measures other weights than those of the card. Every number is a mean over pictures.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import torch

from models import enhancement, metrics, network
from models.enhancement import Enhanced
from models.imaging import Raster
from models.naturalness import brisque, niqe
from models.nets.enhance import EnhanceNet
from models.network import Network, Restored
from models.peak import PeakMemory
from models.registry import card
from models.training import chain, worn
from models.training.worn import CONDITIONS, ENLARGED, Picture
from models.weights import load_strictly, read_state

log = logging.getLogger("glassplate.evaluate_enhance")

INPUT, OPENCV = "input", "OpenCV"
FIDELITY, GAN, X4PLUS = "ours, fidelity", "ours, GAN", "x4plus reduced"
PARTS = ("colour", "gray", "x4plus", "clean", "chain", "cost")
WORN = tuple(condition for condition in CONDITIONS if condition != "clean")
MIXED_EVERY, EVERY, EVERY_LARGE = 2, 6, 9  # one picture in so many: mixed; other conditions and the chain; enlarged
CROP_PX = 192
COST_SIDE_PX = 2048

Mend = Callable[[Picture], Picture]


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one method on one condition: means over pictures."""

    psnr_db: float
    ssim: float
    ms_ssim: float
    niqe: float
    brisque: float
    ciede2000: float


@dataclass(frozen=True, slots=True)
class Sound:
    """What a method does to clean pictures: mean change of full scale, PSNR of all pixels together, the worst."""

    change_share: float
    psnr_db: float
    worst_db: float
    below_36: int
    untouched: int
    pictures: int
    most_colour: int  # levels between the channels of a gray picture, at most


def opencv(picture: Picture) -> Picture:
    """Non-local means (5), CLAHE (2.0, 8 x 8) on lightness, gray world: what can be done without a network."""
    quiet = cv2.fastNlMeansDenoisingColored(np.ascontiguousarray(picture[:, :, ::-1]), None, 5, 5, 7, 21)
    lab = cv2.cvtColor(quiet, cv2.COLOR_BGR2Lab)
    lab[:, :, 0] = cv2.createCLAHE(2.0, (8, 8)).apply(np.ascontiguousarray(lab[:, :, 0]))
    even = cv2.cvtColor(lab, cv2.COLOR_Lab2RGB).astype(np.float32)
    means = even.mean((0, 1))
    out = even * (means.mean() / np.maximum(means, 1))
    return np.asarray(np.clip(np.rint(out), 0, 255), np.uint8)


def ours(net: Network, strength: float, *, restore_tone: bool = True) -> Mend:
    """The pipeline's own way with an EnhanceNet; raises what it raises."""

    def mend(picture: Picture) -> Picture:
        (done,) = enhancement.enhance([Raster(picture)], net, strength=strength, restore_tone=restore_tone)
        if not isinstance(done, Enhanced):
            raise done
        return done.raster.pixels.astype(np.uint8, copy=False)

    return mend


def reduced(net: Network) -> Mend:
    """A network that enlarges, brought back to the picture's size, at the picture's full resolution."""

    def mend(picture: Picture) -> Picture:
        (done,) = network.restore([Raster(picture)], net, factors=[1])
        if not isinstance(done, Restored):
            raise done
        return done.raster.pixels.astype(np.uint8, copy=False)

    return mend


def scores(
    mend: Mend, files: Sequence[Path], condition: str, *, gray: bool, crop_px: int | None, large: bool
) -> Scores:
    """Means of ``mend`` on ``files`` worn as ``condition``; ``large``: enlarged 4x before, compared at their size."""
    rows = []
    for file in files:
        clean = worn.clean(file, gray=gray, crop_px=crop_px)
        given = worn.worn(clean, file.name, condition)
        made = mend(worn.scanned_large(given, file.name) if large else given)
        if large:
            made = np.asarray(cv2.resize(made, clean.shape[1::-1], interpolation=cv2.INTER_AREA), np.uint8)
        rows.append(_compared(clean, made))
    return Scores(*(float(v) for v in np.nanmean(np.array(rows), axis=0)))


def _compared(clean: Picture, made: Picture) -> tuple[float, ...]:
    return (
        min(metrics.psnr(clean, made), 99.0), metrics.ssim(clean, made), metrics.ms_ssim(clean, made), niqe(made),
        brisque(made), metrics.ciede2000(clean, made),
    )  # fmt: skip


def sound(mend: Mend, files: Sequence[Path], *, gray: bool) -> Sound:
    """What ``mend`` does to pictures that nothing is wrong with."""
    changes, errors, apart = [], [], 0
    for file in files:
        clean = worn.clean(file, gray=gray)
        made = mend(clean)
        difference = made.astype(np.float64) - clean
        changes.append(float(np.abs(difference).mean()) / 255)
        errors.append(float(np.square(difference).mean()))
        if gray:
            apart = max(apart, int((made.max(2) - made.min(2)).max()))
    db = [10 * np.log10(255**2 / max(error, 1e-9)) for error in errors]
    whole = 10 * np.log10(255**2 / max(float(np.mean(errors)), 1e-9))
    return Sound(
        float(np.mean(changes)), float(whole), float(min(db)), sum(d < 36 for d in db), sum(c == 0 for c in changes),
        len(files), apart,
    )  # fmt: skip


def cost(net: Network, file: Path) -> tuple[float, float, str]:
    """Seconds a megapixel, MB above what the process held, and on what: a picture tiled to 4.2 megapixels, worn."""
    given = worn.worn(worn.clean(file), file.name, "mixed")
    times = -(-COST_SIDE_PX // min(given.shape[:2]))
    large = np.ascontiguousarray(np.tile(given, (times, times, 1))[:COST_SIDE_PX, :COST_SIDE_PX])
    before = PeakMemory()
    held = before.peak_bytes()
    begun = time.perf_counter()
    (done,) = enhancement.enhance([Raster(large)], net, factors=[1])
    seconds = time.perf_counter() - begun
    if not isinstance(done, Enhanced):
        raise done
    on = f"{done.stats.device}, {done.stats.dtype}, {torch.get_num_threads()} threads"
    return seconds / (large.shape[0] * large.shape[1] / 1e6), (before.peak_bytes() - held) / 2**20, on


def loaded(weights: Path | None, device: str) -> Network:
    """Our network, of the card or of another file of weights; raises WeightsError."""
    chosen = card("glassplate-enhance-1")
    if weights is None:
        bundled = Path(network.__file__).with_name("weights") / chosen.files[0].name
        return network.load(chosen, bundled, device)
    return Network(chosen, load_strictly(EnhanceNet(), read_state(weights), str(weights)), device)


def report(
    data: Path,
    net: Network,
    x4plus: Network | None,
    *,
    subset: int = 4,
    limit: int | None = None,
    parts: Sequence[str] = PARTS,
) -> str:
    """The tables as Markdown, all or those of ``parts``.

    ``subset``: pictures for the slow network, which is left out without ``x4plus``; ``limit``: only so many in all.
    """
    files = worn.sources(data / "bench", limit)
    quick: dict[str, Mend] = {INPUT: lambda p: p, OPENCV: opencv, FIDELITY: ours(net, 0.0), GAN: ours(net, 1.0)}
    text = [_alone_and_mixed(quick, files, gray=tone == "gray") for tone in ("colour", "gray") if tone in parts]
    if "x4plus" in parts and x4plus is not None:
        text.append(_beside_the_slow_one({**quick, X4PLUS: reduced(x4plus)}, files, subset))
    if "clean" in parts:
        text.append(_sound_table({m: quick[m] for m in (OPENCV, FIDELITY, GAN)}, files))
    if "chain" in parts:
        text.append(chain.report(data, files[::EVERY], {FIDELITY: (net, 0.0), GAN: (net, 1.0)}))
    if "cost" in parts:
        per_mp, above_mb, on = cost(net, files[0])
        text.append(f"Cost: {per_mp:.2f} s a megapixel, peak {above_mb:.0f} MB above before ({on}), 4.2 megapixels.\n")
    return "\n".join(text)


def _alone_and_mixed(methods: dict[str, Mend], files: Sequence[Path], *, gray: bool) -> str:
    text, tone = [], "gray" if gray else "colour"
    for condition in WORN:
        chosen = files[:: MIXED_EVERY if condition == "mixed" else EVERY]
        rows = _rows(methods, chosen, condition, gray=gray, crop_px=None, large=False)
        text.append(_table(f"{condition}, {tone}, {len(chosen)} pictures", rows))
    few = files[::EVERY_LARGE]
    rows = _rows(methods, few, "mixed", gray=gray, crop_px=None, large=True)
    return "\n".join([*text, _table(f"mixed, {tone}, enlarged {ENLARGED}x, {len(few)} pictures", rows)])


def _beside_the_slow_one(methods: dict[str, Mend], files: Sequence[Path], subset: int) -> str:
    """Mixed in colour and gray on ``subset`` pictures, every other condition in colour on half of them."""
    few, text = files[:: max(1, len(files) // subset)][:subset], []
    for condition in WORN:
        for gray in (False, True) if condition == "mixed" else (False,):
            chosen = few if condition == "mixed" else few[::2]
            rows = _rows(methods, chosen, condition, gray=gray, crop_px=CROP_PX, large=False)
            what = f"{condition}, {'gray' if gray else 'colour'}, the middle {CROP_PX} px of {len(chosen)} pictures"
            text.append(_table(what, rows))
    return "\n".join(text)


def _rows(
    methods: dict[str, Mend], files: Sequence[Path], condition: str, *, gray: bool, crop_px: int | None, large: bool
) -> dict[str, Scores]:
    rows = {}
    for name, mend in methods.items():
        rows[name] = scores(mend, files, condition, gray=gray, crop_px=crop_px, large=large)
        log.info(
            "condition=%s gray=%s crop=%s large=%s method=%s %s", condition, gray, crop_px, large, name, rows[name]
        )
    return rows


def _table(title: str, rows: dict[str, Scores]) -> str:
    lines = ["| " + title + " | PSNR | SSIM | MS-SSIM | NIQE | BRISQUE | CIEDE2000 |", "|---|---|---|---|---|---|---|"]
    places = (2, 3, 3, 2, 1, 2)
    assert len(places) == len(fields(Scores))
    for name, row in rows.items():
        cells = (f"{value:.{digits}f}" for value, digits in zip(astuple(row), places, strict=True))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _sound_table(methods: dict[str, Mend], files: Iterable[Path]) -> str:
    lines = [
        "| clean pictures | change | PSNR of all | worst | under 36 dB | untouched | pictures | colour in gray |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for gray in (False, True):
        for name, mend in methods.items():
            s = sound(mend, list(files), gray=gray)
            log.info("clean gray=%s method=%s %s", gray, name, s)
            colour = f"{s.most_colour} levels" if gray else ""
            lines.append(
                f"| {name}, {'gray' if gray else 'colour'} | {s.change_share:.2%} | {s.psnr_db:.1f} | {s.worst_db:.1f} "
                f"| {s.below_36} | {s.untouched} | {s.pictures} | {colour} |"
            )
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the tables to standard output."""
    first = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m models.training.evaluate_enhance", description=first)
    parser.add_argument("data", type=Path, help="folder with bench/BSD100, bench/Set14 and damage")
    parser.add_argument("--weights", type=Path, help="of an EnhanceNet, instead of the card's")
    parser.add_argument("--x4plus", type=Path, help="weights of realesrgan-x4plus")
    parser.add_argument("--subset", type=int, default=4, help="pictures for the slow network")
    parser.add_argument("--limit", type=int, help="only so many pictures in all")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="only these tables")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if given.threads:
        torch.set_num_threads(given.threads)
        cv2.setNumThreads(given.threads)
    slow = network.load(card("realesrgan-x4plus"), given.x4plus, given.device) if given.x4plus else None
    net = loaded(given.weights, given.device)
    sys.stdout.write(report(given.data, net, slow, subset=given.subset, limit=given.limit, parts=given.parts))


if __name__ == "__main__":
    main()
