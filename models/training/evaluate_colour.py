"""The table that says whether colours are worth laying: against leaving the picture gray, and against one brown tone.

``python -m models.training.evaluate_colour DATA`` prints the rows gray, sepia and that of the weights that come along;
``--weight fidelity=FILE --weight gan=FILE`` (as often as wanted) rows of other weights in their place. ``--speed``
prints what colouring takes of scans of 1, 4 and 20 megapixels. ``DATA`` is the folder with ``bench``, ``real`` and
``train``; nothing measured here was trained on. Sets:

- ``bench``: colour pictures of BSD100, Set14 and the faces, made gray; pictures stored gray are left out;
- ``fsac``: slides of 1939-44 of the held-out series, their mounts cropped, made gray;
- ``prokudin``: plates of c. 1910 in their true colour, made gray. The channels of a ``prokudin_colour`` picture are the
  three records of its plate, moved over each other and cropped: no further alignment is needed (its blue channel is
  the plate's upper record pixel for pixel). 4 % of each side is cut off, where the records do not cover each other.
  Plate 00056v has lost its emulsion in places; its sky is false in the truth, for every row alike;
- ``prokudin blue``: the same, but the network is given the plate's blue record, which is what an ordinary plate of the
  time saw; colours are laid on the same lightness as before, so that the rows can be compared.

Colours go the way of every scan (``models.chroma.lay``), on pictures of at most 256 px.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models import chroma
from models.imaging import Raster
from models.nets.colour import SrgbColour
from models.network import Network
from models.peak import PeakMemory
from models.registry import ModelCard
from models.training.colour_data import PERIOD_BORDER_SHARE, gray_of, without_border
from models.training.colour_measures import FAITHFUL, Colours, colours_of, together
from models.training.data import TrainingDataError, split_of
from models.training.guard import series_of
from models.weights import WeightsError, load_strictly, read_state

log = logging.getLogger(__name__)

LONG_SIDE_PX = 256
GRAY_WITHIN = 2  # levels between channels: what counts as gray everywhere here
PLATE_RIM_SHARE = 0.04
SEPIA_AB = (7.0, 18.0)  # CIELAB of a middling sepia print
NEARER = 0.1  # the goal: by so much nearer to the truth than gray
SETS = ("bench", "fsac", "prokudin", "prokudin blue")
COLUMNS = ("CIEDE2000 mean", "p95", "ab PSNR, dB", "colourfulness / truth", "near-gray", "of the truth")

BUNDLED = Path(__file__).parents[1] / "weights" / "colour.safetensors"
SUFFIXES = (".png", ".jpg", ".webp")

Floats = NDArray[np.float32]
Colourer = Callable[[Floats], Floats]
"""(H, W) gray sRGB in [0, 1] -> (h, w, 2) CIELAB a, b."""


@dataclass(frozen=True, eq=False, slots=True)
class Subject:
    """One picture to colour.

    ``name``: FOLDER/NAME; ``seen``: (H, W) gray sRGB in [0, 1], what the network is given; ``truth``: (H, W, 3) uint8.
    """

    name: str
    seen: Floats
    truth: NDArray[np.uint8]


def gray(luminance: Floats) -> Floats:
    """No colour: what every colour must beat."""
    return np.zeros((*luminance.shape, 2), np.float32)


def sepia(luminance: Floats) -> Floats:
    """One brown tone everywhere: what a network that dares nothing would give."""
    return np.broadcast_to(np.array(SEPIA_AB, np.float32), (*luminance.shape, 2)).copy()


def learnt(file: Path) -> Colourer:
    """The colours of a ColourNet with the weights in ``file``, the way of every scan; raises UnusableWeights."""
    net = _network(file)

    def colours(luminance: Floats) -> Floats:
        levels = np.rint(luminance * 65535).astype(np.uint16)
        return chroma.predict(Raster(np.repeat(levels[:, :, None], 3, axis=2)), net, file.stem)

    return colours


def speed(file: Path, megapixels: Sequence[float] = (1, 4, 20)) -> str:
    """A Markdown table: seconds and peak memory of colouring one gray 8-bit scan of each size, in this process."""
    net = _network(file)
    lines = [
        f"| megapixels, {torch.get_num_threads()} threads | guess, s | lay, s | wanted, s | peak MB | pixels, MB |",
        "|---" * 6 + "|",
    ]
    for size in (0.3, *megapixels):  # the first one warms up
        height = round((size * 1e6 * 3 / 4) ** 0.5)
        width = round(size * 1e6 / height)
        ramp = np.add.outer(np.arange(height), np.arange(width))
        scan = Raster(np.ascontiguousarray((128 + 90 * np.sin(ramp / 37.0)).astype(np.uint8)[:, :, None]))
        memory, begun = PeakMemory(), time.perf_counter()
        colours = chroma.predict(scan, net, file.stem)
        guessed = time.perf_counter()
        made = chroma.lay(scan, colours, file.stem)
        ended = time.perf_counter()
        if size in megapixels:
            held = (scan.pixels.nbytes + made.pixels.nbytes) / 1e6
            figures = f"{guessed - begun:.2f} | {ended - guessed:.2f} | <= {3 + size / 2:g}"
            lines.append(f"| {size:g} | {figures} | {memory.peak_bytes() / 1e6:.0f} | {held:.0f} |")
    return "\n".join(lines) + "\n"


def _network(file: Path) -> Network:
    card = ModelCard(file.stem, "colorize", "colour", licence="", data_terms="unknown")
    return Network(card, load_strictly(SrgbColour(), read_state(file), str(file)), "cpu", torch.float32)


def subjects(data: Path, name: str) -> Iterator[Subject]:
    """The pictures of one of ``SETS``. Raises TrainingDataError when there is none."""
    folders = {"bench": ("bench",), "fsac": ("train/fsac",)}.get(name, ("real/prokudin_colour",))
    paths = [path for folder in folders for path in sorted((data / folder).rglob("*")) if path.suffix in SUFFIXES]
    if name == "fsac":
        paths = [path for path in paths if split_of(series_of(f"fsac/{path.name}")) == "held_out"]
    some = False
    for path in paths:
        stored = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if stored is None:
            raise TrainingDataError(f"{path}: expected a picture, found nothing that decodes")
        rgb = np.asarray(cv2.cvtColor(stored, cv2.COLOR_BGR2RGB), np.uint8)
        if int((rgb.max(2) - rgb.min(2)).max()) <= GRAY_WITHIN:
            continue
        if name != "bench":
            rgb = without_border(rgb, PERIOD_BORDER_SHARE if name == "fsac" else PLATE_RIM_SHARE)
        some = True
        rgb = _reduced(rgb)
        whole = rgb.astype(np.float32) / np.float32(255)
        yield Subject(
            f"{path.parent.name}/{path.stem}", whole[:, :, 2] if name == "prokudin blue" else gray_of(whole), rgb
        )
    if not some:
        raise TrainingDataError(f"{data}: expected colour pictures in {', '.join(folders)}, found none")


def _reduced(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    ratio = LONG_SIDE_PX / max(rgb.shape[:2])
    if ratio >= 1:
        return np.ascontiguousarray(rgb)
    size = max(1, round(rgb.shape[1] * ratio)), max(1, round(rgb.shape[0] * ratio))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def coloured(subject: Subject, colourer: Colourer) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 sRGB: the truth's lightness with the colours guessed for what was seen."""
    own = gray_of(subject.truth.astype(np.float32) / np.float32(255))
    raster = Raster(np.repeat(np.rint(own * 255).astype(np.uint8)[:, :, None], 3, axis=2))
    return np.asarray(chroma.lay(raster, colourer(subject.seen), subject.name).pixels, np.uint8)


def compare(
    data: Path, colourers: Mapping[str, Colourer], names: Sequence[str] = SETS
) -> dict[str, dict[str, dict[str, Colours]]]:
    """By set, by row, by picture. About 0.03 core-seconds a picture and row, and what the network takes."""
    found: dict[str, dict[str, dict[str, Colours]]] = {}
    for name in names:
        rows: dict[str, dict[str, Colours]] = {row: {} for row in colourers}
        for subject in subjects(data, name):
            truth = _lab(subject.truth)
            for row, colourer in colourers.items():
                rows[row][subject.name] = colours_of(_lab(coloured(subject, colourer)), truth)
        found[name] = rows
    return found


def _lab(rgb: NDArray[np.uint8]) -> Floats:
    return np.asarray(cv2.cvtColor(rgb.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2Lab), np.float32)


def tables(found: Mapping[str, Mapping[str, Mapping[str, Colours]]]) -> str:
    """Markdown: the table, the goals of every row but the first two, and the plates one by one."""
    lines = ["| set | pictures | row | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 3) + "|"]
    goals = [
        "| set | row | CIEDE2000 below gray | colourfulness | goal of fidelity | goal of a GAN |",
        "|---" * 6 + "|",
    ]
    for name, rows in found.items():
        measured = {row: together(list(by_picture.values())) for row, by_picture in rows.items()}
        for row, m in measured.items():
            figures = f"{m['ciede_mean']:.2f} | {m['ciede_p95']:.2f} | {m['ab_psnr']:.2f} | {m['colourfulness']:.2f}"
            shares = f"{m['near_gray']:.1%} | {m['true_near_gray']:.1%}"
            lines.append(f"| {name} | {len(rows[row])} | {row} | {figures} | {shares} |")
            if row not in BASELINES and "gray" in measured:
                below = 1 - m["ciede_mean"] / measured["gray"]["ciede_mean"]
                alive = FAITHFUL[0] <= m["colourfulness"] <= FAITHFUL[1]
                met = ["yes" if reached else "no" for reached in (below >= NEARER, below >= 0 and alive)]
                goals.append(f"| {name} | {row} | {below:.1%} | {m['colourfulness']:.2f} | {met[0]} | {met[1]} |")
    parts = [lines] if len(goals) == 2 else [lines, goals]
    if "prokudin" in found:
        plates = found["prokudin"]
        head = [f"| plate, CIEDE2000 | {' | '.join(plates)} |", "|---" * (len(plates) + 1) + "|"]
        for plate in next(iter(plates.values())):
            figures = " | ".join(f"{by_picture[plate].ciede_mean:.2f}" for by_picture in plates.values())
            head.append(f"| {Path(plate).name} | {figures} |")
        parts.append(head)
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


BASELINES: Mapping[str, Colourer] = {"gray": gray, "sepia": sepia}


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    first = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m models.training.evaluate_colour", description=first)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weight", action="append", default=[], metavar="[NAME=]FILE", help="a row; may be repeated")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--speed", action="store_true", help="seconds and memory by size of the scan instead")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    files = {name or Path(file).stem: Path(file) for name, _, file in (w.rpartition("=") for w in given.weight)}
    files = files or {"glassplate-colour-1": BUNDLED}
    try:
        if given.speed:
            sys.stdout.write("\n".join(speed(file) for file in files.values()))
        else:
            colourers = {**BASELINES, **{name: learnt(file) for name, file in files.items()}}
            sys.stdout.write(tables(compare(given.data, colourers, given.sets)))
    except (TrainingDataError, WeightsError) as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
