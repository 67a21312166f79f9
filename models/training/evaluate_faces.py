"""What a face network is worth, and whether the identity gate holds: tables, by one command.

``python -m models.training.evaluate_faces DATA --detector centerface.onnx`` prints, of ``bench/faces`` worn at three
levels (``face_measures.LEVELS``, seeds made of the files' names) and split by set (AAF colour 256 px, LFW gray 128 px):

- how many faces the detector finds;
- every method against the true face: ``--x4plus FILE`` adds Real-ESRGAN on the first ``--subset`` faces of a set;
  the enhancement network ``glassplate-enhance-1`` works the whole picture. Faces are compared upright in the template,
  where the pipeline works them; of ours, before grain is matched to the surroundings; the row ``pasted`` is after that,
  in the worn picture;
- what ours does to the same faces as they are, which need nothing;
- the gate: restorations at the middle level that pass, and swaps that are reverted, of people held out of training
  (``train/faces``) and of ``bench/faces``. A swap puts another person's restored face of the same set and of one of the
  most similar poses in place of the restoration.

``--calibrate`` prints the limits instead that held-out people would set. Nothing measured here was trained on.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models import enhancement, identity, network, registry
from models.identity import Likeness
from models.nets.centerface import CenterFace
from models.nets.face import FaceNet
from models.network import Network, NetworkError
from models.training.bench_faces import (
    SETS,
    SOUND,
    Nearness,
    Worn,
    cases_of,
    nearness,
    pasted,
    raster_of,
    restored,
    subjects,
)
from models.training.data import TrainingDataError
from models.training.face_measures import LEVELS
from models.weights import WeightsError, load_strictly, read_state

log = logging.getLogger(__name__)

WEIGHTS = Path(registry.__file__).parent / "weights"
ENHANCER = "glassplate-enhance-1"
SWAPS = 500
FIDELITIES = (0.0, 0.5, 1.0)
COLUMNS = ("PSNR, dB", "SSIM", "MS-SSIM", "landmark error", "lost", "identity", "faces")

Floats = NDArray[np.float32]
Method = Callable[[Floats], Floats]
"""(H, W, 3) worn picture -> (H, W, 3), float32 sRGB."""


def reduced(picture: Floats) -> Floats:
    """At half size by area, and back by cubic interpolation: what any editor does against grain."""
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return np.asarray(np.clip(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1), np.float32)


def by_network(net: Network) -> Method:
    """A network for whole pictures, as the enhance stage calls it, at the picture's own size; tone is left alone."""

    def mend(picture: Floats) -> Floats:
        raster = raster_of(picture, False)
        (result,) = (
            enhancement.enhance([raster], net, restore_tone=False, factors=[1])
            if enhancement.is_ours(net)
            else network.restore([raster], net, factors=[1])
        )
        if isinstance(result, NetworkError):
            raise result
        return result.raster.pixels.astype(np.float32) / np.float32(255)

    return mend


def compare(
    cases: Sequence[Worn], net: Network | None, others: Mapping[str, Method], slow: Mapping[str, Method],
    subset: int, detector: CenterFace,
) -> dict[str, list[Nearness]]:  # fmt: skip
    """By method, each face's nearness to the truth; ``slow`` methods see the first ``subset`` faces alone."""
    truths = [case.aligned(case.subject.picture) for case in cases]
    marks = [identity.landmarks_in(truth, detector, FaceNet.zoom) for truth in truths]

    def rows(faces: Sequence[Floats]) -> list[Nearness]:
        known = zip(faces, truths[: len(faces)], marks[: len(faces)], strict=True)  # slow methods see the first ones
        return [nearness(face, truth, mark, detector) for face, truth, mark in known]

    found = {"input": rows([case.aligned(case.picture) for case in cases])}
    for name, method in {"bicubic": reduced, **others}.items():
        found[name] = rows([case.aligned(method(case.picture)) for case in cases])
    if slow:
        some = cases[:subset]
        found[f"input, first {len(some)}"] = found["input"][: len(some)]
        for name, method in slow.items():
            found[f"{name}, first {len(some)}"] = rows([case.aligned(method(case.picture)) for case in some])
    if net is not None:
        for fidelity in FIDELITIES:
            made = restored(cases, net, fidelity)
            found[f"ours, fidelity {fidelity:g}"] = rows(made)
            if fidelity == 0.5:
                found["ours, fidelity 0.5, pasted"] = rows(
                    [pasted(case, face) for case, face in zip(cases, made, strict=True)]
                )
    return found


def swaps(cases: Sequence[Worn], detector: CenterFace, count: int = SWAPS) -> Iterator[tuple[int, int]]:
    """Pairs of different people (of different series), those of most similar pose first for each face."""
    marks = [case.seat.aligned_points(case.face.landmarks) / case.seat.side_px for case in cases]
    sides = [case.seat.side_px for case in cases]
    order: list[list[int]] = []
    for i, mark in enumerate(marks):
        others = [
            (float(np.abs(mark - marks[j]).mean()), j)
            for j in range(len(cases))
            if cases[j].subject.series != cases[i].subject.series and sides[j] == sides[i]
        ]
        order.append([j for _, j in sorted(others)])
    given = 0
    for rank in range(max(map(len, order), default=0)):
        for i, others_of in enumerate(order):
            if rank < len(others_of) and given < count:
                given += 1
                yield i, others_of[rank]


def likenesses(
    cases: Sequence[Worn], net: Network, fidelity: float, detector: CenterFace, count: int = SWAPS
) -> tuple[list[Likeness], list[Likeness]]:
    """What the gate measures of every restoration, and of ``count`` swaps."""
    before, after = [case.aligned(case.picture) for case in cases], restored(cases, net, fidelity)
    seen = [identity.landmarks_in(face, detector, FaceNet.zoom) for face in before]
    there = [identity.landmarks_in(face, detector, FaceNet.zoom) for face in after]
    points = [case.seat.aligned_points(case.face.landmarks) for case in cases]

    def measured(i: int, j: int) -> Likeness:
        own, other = seen[i], there[j]
        return Likeness(
            movement=math.inf if other is None else identity.movement(points[i] if own is None else own, other),
            low_difference=identity.low_difference(before[i], after[j], FaceNet.zoom),
            distance=identity.structure_distance(before[i], after[j], FaceNet.zoom),
        )

    own = [measured(i, i) for i in range(len(cases))]
    return own, [measured(i, j) for i, j in swaps(cases, detector, count)]


def quality_tables(
    data: Path, net: Network | None, others: Mapping[str, Method], slow: Mapping[str, Method], subset: int,
    detector: CenterFace,
) -> str:  # fmt: skip
    """Markdown: the recall of the detector, then a table for every set and level."""
    lines = ["### Faces found in worn `bench/faces`", "", "| set | " + " | ".join(LEVELS) + " |", "|---|---|---|---|"]
    tables: list[str] = []
    for name in ("AAF", "LFW"):
        recalls = []
        for level in LEVELS:
            cases = cases_of(subjects(data, "bench/faces", name), level, detector)
            recalls.append(f"{sum(case.found for case in cases)} of {len(cases)}")
            found = compare(cases, net, others, slow, subset, detector)
            tables += ["", f"### {name}, {level}", "", "| method | " + " | ".join(COLUMNS) + " |", "|---" * 8 + "|"]
            tables += [_row(method, rows) for method, rows in found.items()]
            log.info("measured set=%s level=%s", name, level)
        lines.append(f"| {name} | " + " | ".join(recalls) + " |")
    return "\n".join([*lines, *tables, ""])


def harm_table(data: Path, net: Network, detector: CenterFace) -> str:
    """Markdown: how far faces that need nothing are from themselves once they are restored."""
    lines = [
        "",
        "### Faces that need nothing",
        "",
        "| set | fidelity | PSNR, dB | SSIM | identity | faces |",
        "|---" * 6 + "|",
    ]
    for name in ("AAF", "LFW"):
        cases = cases_of(subjects(data, "bench/faces", name), SOUND, detector)
        truths = [case.aligned(case.picture) for case in cases]
        for fidelity in FIDELITIES:
            made = restored(cases, net, fidelity)
            rows = [nearness(face, truth, None, detector) for face, truth in zip(made, truths, strict=True)]
            psnr, ssim, same = (float(np.mean([getattr(r, w) for r in rows])) for w in ("psnr", "ssim", "identity"))
            lines.append(f"| {name} | {fidelity:g} | {psnr:.2f} | {ssim:.3f} | {same:.3f} | {len(rows)} |")
    return "\n".join([*lines, ""])


def _row(method: str, rows: Sequence[Nearness]) -> str:
    psnr, ssim, multi, same = (
        float(np.mean([getattr(r, what) for r in rows])) for what in ("psnr", "ssim", "ms_ssim", "identity")
    )
    moved = [r.landmarks for r in rows if not math.isnan(r.landmarks)]
    error = f"{np.mean(moved):.3f}" if moved else ""
    lost = len(rows) - len(moved)
    return f"| {method} | {psnr:.2f} | {ssim:.3f} | {multi:.3f} | {error} | {lost} | {same:.3f} | {len(rows)} |"


def gate_table(data: Path, net: Network, detector: CenterFace) -> str:
    """Markdown: of every set, restorations at the middle level that pass and swaps that are reverted."""
    lines = ["", "### The identity gate", "", f"Limits: {identity.LIMITS}", ""]
    lines += ["| people | set | fidelity | restorations that pass | swaps reverted |", "|---|---|---|---|---|"]
    for who, folder, names in (("held out", "train/faces", SETS), ("bench", "bench/faces", ("AAF", "LFW"))):
        for name in names:
            cases = cases_of(subjects(data, folder, name, held_out=who == "held out"), "middle", detector)
            for fidelity in FIDELITIES:
                own, swapped = likenesses(cases, net, fidelity, detector)
                passed = sum(identity.verdict(one) is None for one in own)
                reverted = sum(identity.verdict(one) is not None for one in swapped)
                shares = f"{_share(passed, len(own))} | {_share(reverted, len(swapped))}"
                lines.append(f"| {who} | {name} | {fidelity:g} | {shares} |")
            log.info("gate people=%s set=%s", who, name)
    return "\n".join([*lines, ""])


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.1%})" if whole else "none to measure"


def calibration(data: Path, net: Network, detector: CenterFace) -> str:
    """Markdown: how each measure lies for restorations and for swaps of held-out people, and limits between them.

    Restorations at the middle level and at fidelity 0, where they differ most.
    """
    lines = ["| set | measure | restorations 50 / 95 / 99 / 100 % | swaps 0 / 1 / 5 / 50 % |", "|---|---|---|---|"]
    for name in SETS:
        cases = cases_of(subjects(data, "train/faces", name, held_out=True), "middle", detector)
        own, swapped = likenesses(cases, net, 0.0, detector)
        if not swapped:
            continue
        for what in ("movement", "low_difference", "distance"):
            one, other = ([getattr(x, what) for x in group] for group in (own, swapped))
            mine = " / ".join(f"{np.quantile(one, q):.3f}" for q in (0.5, 0.95, 0.99, 1))
            theirs = " / ".join(f"{np.quantile(other, q):.3f}" for q in (0, 0.01, 0.05, 0.5))
            lines.append(f"| {name} | {what} | {mine} | {theirs} |")
    return "\n".join([*lines, ""])


def open_net(path: Path) -> Network:
    """Our network with the weights of the file at ``path``, on the CPU; raises UnusableWeights."""
    card = registry.ModelCard(id="face", purpose="face", arch="face", licence="Apache-2.0", data_terms="unknown")
    return Network(card, load_strictly(FaceNet(), read_state(path), str(path)), "cpu")


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    first = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m models.training.evaluate_faces", description=first)
    parser.add_argument("data", type=Path, help="folder with bench and train")
    parser.add_argument("--detector", type=Path, required=True, help="weights of centerface")
    parser.add_argument("--face", type=Path, default=WEIGHTS / "face.safetensors")
    parser.add_argument("--x4plus", type=Path, help="weights of realesrgan-x4plus")
    parser.add_argument("--enhance", type=Path, default=WEIGHTS / "enhance.safetensors")
    parser.add_argument("--subset", type=int, default=3, help="faces of a set and level that x4plus sees")
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--gate-only", action="store_true")
    parser.add_argument("--threads", type=int, default=None)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if given.threads:
        torch.set_num_threads(given.threads)
        cv2.setNumThreads(given.threads)
    try:
        detector = CenterFace(registry.card("centerface"), given.detector)
        net = open_net(given.face)
        if given.calibrate:
            sys.stdout.write(calibration(given.data, net, detector))
            return 0
        if not given.gate_only:
            slow: dict[str, Method] = {}
            if given.x4plus:
                slow["x4plus reduced"] = by_network(network.load(registry.card("realesrgan-x4plus"), given.x4plus))
            others: dict[str, Method] = {}
            if given.enhance.is_file():
                others[ENHANCER] = by_network(network.load(registry.card(ENHANCER), given.enhance))
            sys.stdout.write(quality_tables(given.data, net, others, slow, given.subset, detector))
            sys.stdout.write(harm_table(given.data, net, detector))
        sys.stdout.write(gate_table(given.data, net, detector))
    except (TrainingDataError, WeightsError) as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
