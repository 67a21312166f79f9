"""The tables that say whether a detector is worth keeping: frozen set, clean pictures, hairlines, real lines, cost.

``python -m models.training.evaluate DATA`` prints them for the bundled weights, ``--weight FILE`` for others, each
beside the classical detector and beside the same network at 256 px; ``--adopt`` puts the file in the place of the
bundled weights if, and only if, it is better on the frozen set and harms clean pictures no more.
``DATA`` is the folder with ``bench`` and ``real``; nothing in it was trained on.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from models.nets.detect import LearntDetector
from models.training import frozen
from models.training.contest import (
    RIM_PX,
    Frozen,
    classical_contender,
    combined_contender,
    cost,
    learnt,
    luma_of,
    on_clean,
    on_frozen,
    on_real,
    real_totals,
    shrunk,
)
from models.training.frozen import FrozenMark

log = logging.getLogger(__name__)

WEIGHT = Path(__file__).parents[1] / "weights" / "detect.safetensors"
TIMES = (1, 4, 8)
WIDTHS = (1, 2, 4, 8)
CLEAN_LIMIT = 0.001
GOALS = {"auc": 0.97, "f1": 0.75, "clean": CLEAN_LIMIT, "hairline": 0.7}


def compare(data: Path, detector: LearntDetector, *, times: Sequence[int] = TIMES) -> dict[str, Any]:
    """All measures of classical, learnt, both combined and learnt at 256 px, as plain values by contender.

    ``data``: the folder with ``bench`` (and ``real``, where real lines are measured). Takes minutes on two cores.
    """
    contenders = [classical_contender(), learnt(detector), combined_contender(detector), shrunk(detector)]
    bench = data / "bench"
    out: dict[str, Any] = {"contenders": [c.name for c in contenders], "frozen": {}, "marks": {}, "kinds": {}}
    for enlarged in times:
        found = on_frozen(contenders, frozen.frozen_pictures(bench, enlarged))
        out["frozen"][enlarged] = {name: result.summary() for name, result in found.items()}
        if enlarged == 1:
            out["rim"] = {name: result.rim() for name, result in found.items()}
            out["kinds"] = {name: _by_kind(result) for name, result in found.items()}
            out["widths"] = {name: {w: result.recall(_of_width(w)) for w in WIDTHS} for name, result in found.items()}
    out["clean"] = on_clean(contenders, bench)
    if (data / "real").is_dir():
        out["real"] = on_real(contenders, data / "real")
    large = luma_of(next(iter(frozen.frozen_pictures(bench, 8))).damaged)
    out["cost"] = {c.name: cost(c, large) for c in contenders}
    return out


def _of_width(width_px: int) -> Callable[[FrozenMark], bool]:
    return lambda mark: mark.width_px == width_px


def _of_kind(kind: str) -> Callable[[FrozenMark], bool]:
    return lambda mark: mark.kind == kind


def _by_kind(result: Frozen) -> dict[str, tuple[float, float, float]]:
    """AUC and AP of a kind's pixels against all sound ones, and its recall within 2 px."""
    return {
        kind: (scored.roc_auc(), scored.average_precision(), result.recall(_of_kind(kind)))
        for kind, scored in sorted(result.by_kind.items())
    }


def tables(measured: dict[str, Any]) -> str:
    """The measures of ``compare`` as Markdown tables, goals beside them."""
    names = measured["contenders"]
    lines = [f"Frozen set {frozen.VERSION}; damaged: mask at least 0.25, sound: under 0.1.", ""]
    columns = ("auc", "ap", "f1", "iou", "precision", "recall", "best_f1", "hairline", "worn")
    lines += _head(("detector", "enlarged", *columns))
    for times, results in measured["frozen"].items():
        lines += [_row((name, f"{times}x", *(results[name][c] for c in columns))) for name in names]
    lines += ["", "Recall within 2 px by width of the mark (not enlarged):", ""]
    lines += _head(("detector", "1", "2", "4", "8+"))
    lines += [_row((name, *measured["widths"][name].values())) for name in names]
    kinds = sorted(measured["kinds"][names[0]])
    lines += ["", "AUC / AP / recall within 2 px by kind (not enlarged):", "", *_head(("detector", *kinds))]
    for name in names:
        found = measured["kinds"][name]
        lines.append(_row((name, *(" / ".join(f"{v:.2f}" for v in found[kind]) for kind in kinds))))
    lines += ["", "Untouched BSD100, marks as delivered:", "", *_head(("detector", "share marked", "worst picture"))]
    lines += [_row((name, *(f"{v:.3%}" for v in measured["clean"][name]))) for name in names]
    if "real" in measured:
        lines += ["", "Real photographs with drawn damage, 3 px tolerance:", ""]
        lines += _head(("detector", "line recall", "precision", "pictures"))
        lines += [_row((name, *real_totals(found).values())) for name, found in measured["real"].items()]
        lines += ["", "Line recall / precision by picture:", "", *_head(("picture", *names))]
        for found in zip(*(measured["real"][name] for name in names), strict=True):
            lines.append(_row((found[0].file, *(f"{x.line_recall:.2f} / {x.precision:.2f}" for x in found))))
    lines += ["", "Touched pixels around hits left uncovered when marks grow by 0, 1, 2 … px:", ""]
    lines += _head(("detector", *(str(px) for px in range(RIM_PX))))
    lines += [_row((name, *(f"{v:.1%}" for v in left))) for name, left in measured["rim"].items()]
    lines += ["", "Cost:", "", *_head(("detector", "megapixels", "s/MP", "peak memory above before, MB", "threads"))]
    for name, spent in measured["cost"].items():
        figures = f"{spent.megapixels:.1f}", f"{spent.s_per_mp:.2f}", f"{spent.peak_mb:.0f}", spent.threads
        lines.append(_row((name, *figures)))
    learnt_1x, clean = measured["frozen"][1]["learnt"], measured["clean"]["learnt"][0]
    reached = {"auc": learnt_1x["auc"], "f1": learnt_1x["f1"], "clean": clean, "hairline": learnt_1x["hairline"]}
    lines += ["", "Goals:", "", *_head(("goal", "wanted", "found", "reached"))]
    for name, wanted in GOALS.items():
        met = reached[name] <= wanted if name == "clean" else reached[name] >= wanted
        sign = "<=" if name == "clean" else ">="
        lines.append(_row((name, f"{sign} {wanted}", f"{reached[name]:.4f}", "yes" if met else "no")))
    return "\n".join(lines) + "\n"


def _head(names: Sequence[str]) -> list[str]:
    return [_row(names), "|" + "---|" * len(names)]


def _row(values: Sequence[object]) -> str:
    return "| " + " | ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in values) + " |"


def wins(measured: dict[str, Any], name: str = "combined") -> bool:
    """Whether ``name`` may be the default: on the frozen set a better F1 than classical, clean pictures as clean."""
    one, clean = measured["frozen"][1], measured["clean"]
    better = one[name]["f1"] > one["classical"]["f1"]
    return bool(better and clean[name][0] <= clean["classical"][0])


def adopt(candidate: Path, bench: Path, *, place: Path = WEIGHT) -> bool:
    """Puts ``candidate`` in the place of the bundled weights if it is better; says whether it did.

    Better: a higher F1 on the frozen set at its own thresholds, and at most 0.1 % of clean pictures marked or no more
    than before. Where there are no weights yet, the first to keep clean pictures clean is better than none.
    """
    new = _judged(candidate, bench)
    if place.is_file():
        old = _judged(place, bench)
        if new[0] <= old[0] or new[1] > max(old[1], CLEAN_LIMIT):
            log.info("weights_kept f1=%.4f clean=%.5f refused_f1=%.4f refused_clean=%.5f", *old, *new)
            return False
    shutil.copyfile(candidate, place)
    log.info("weights_adopted f1=%.4f clean=%.5f file=%s", *new, candidate)
    return True


def _judged(weight: Path, bench: Path) -> tuple[float, float]:
    contender = learnt(LearntDetector.load(weight))
    found = on_frozen([contender], frozen.frozen_pictures(bench))[contender.name]
    return found.counts.f1, on_clean([contender], bench)[contender.name][0]


def report(data: Path, weight: Path = WEIGHT) -> str:
    """The tables for the weights at ``weight``: what ``glassplate bench quality`` shows of detection."""
    return tables(compare(data, LearntDetector.load(weight)))


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    first = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m models.training.evaluate", description=first)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weight", type=Path, default=WEIGHT)
    parser.add_argument("--adopt", action="store_true")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if given.adopt:
        return 0 if adopt(given.weight, given.data / "bench") else 1
    sys.stdout.write(report(given.data, given.weight))
    return 0


if __name__ == "__main__":
    sys.exit(main())
