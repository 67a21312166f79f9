"""What the enhancers are worth: ``python -m models.measure_quality DATA_DIR --span FILE --x4plus FILE``.

``DATA_DIR`` holds clean pictures in ``BSD100`` and ``Set14``. Each is spoiled with a seed made of its name: Gaussian
blur of 0.6 to 1.4 px, grain of 3 to 10 levels (half of it the same in all channels), JPEG of quality 50 to 80. Then it
is restored and compared with the clean picture. The second table enlarges the spoiled pictures 4x (cubic), blurs them
like a scanner's optics (1.2 px) and adds its grain (2.5 levels); results are reduced to the clean picture's size to be
compared, so that both tables are in the same terms; every third picture is in it. The slow network is measured on the
middle 192 x 192 px of a few pictures of both sets, and the others on the same ones beside it; enlarged, these are
worked at a quarter of their size, as their effective resolution would have it if they were not so small.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models import peak
from models.imaging import Raster
from models.metrics import psnr, ssim
from models.naturalness import niqe
from models.network import Network, NetworkError, fitting_dtype, load, restore
from models.registry import card

log = logging.getLogger("glassplate.measure_quality")

SETS = ("BSD100", "Set14")
CROP_PX, ENLARGED = 192, 4
NETWORKS = {"SPAN x4, reduced": "span-x4", "Real-ESRGAN x4plus, reduced": "realesrgan-x4plus"}
INPUT, OPENCV = "input as it is", "OpenCV: non-local means, unsharp mask"

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Row:
    """One method on one set of pictures: means, processor seconds per megapixel and the process' memory."""

    method: str
    pictures: int
    psnr_db: float
    ssim: float
    niqe: float
    seconds_per_mp: float
    peak_mb: float


def spoiled(clean: Picture, name: str) -> Picture:
    """The picture (H, W, 3) RGB as a bad copy of it: blurred, grainy, JPEG; the same for the same name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    soft = cv2.GaussianBlur(clean, (0, 0), rng.uniform(0.6, 1.4)).astype(np.float64)
    grain = rng.uniform(3, 10) / np.sqrt(2)
    soft += rng.normal(0, grain, soft.shape) + rng.normal(0, grain, soft.shape[:2])[:, :, None]
    levels = np.clip(soft, 0, 255).round().astype(np.uint8)
    quality = int(rng.integers(50, 81))
    _, packed = cv2.imencode(".jpg", levels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    unpacked = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    if unpacked is None:
        raise ValueError(f"{name}: expected a JPEG that decodes, found none")
    return np.ascontiguousarray(unpacked[:, :, ::-1]).astype(np.uint8, copy=False)


def scanned_large(small: Picture, name: str) -> Picture:
    """The picture as a scanner would give it at four times the resolution: no more detail, its own blur and grain."""
    rng = np.random.default_rng(zlib.crc32(name.encode()) + 1)
    large = cv2.resize(small, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC).astype(np.float64)
    grainy = np.add(cv2.GaussianBlur(large, (0, 0), 1.2), rng.normal(0, 2.5, large.shape), dtype=np.float64)
    out: Picture = np.clip(grainy, 0, 255).round().astype(np.uint8)
    return out


def opencv_baseline(picture: Picture) -> Picture:
    """Non-local means (h = 5) and an unsharp mask (1.5 px, 0.6): what can be done without a network."""
    quiet = cv2.fastNlMeansDenoisingColored(np.ascontiguousarray(picture[:, :, ::-1]), None, 5, 5, 7, 21)[:, :, ::-1]
    sharp = cv2.addWeighted(quiet, 1.6, cv2.GaussianBlur(quiet, (0, 0), 1.5), -0.6, 0)
    return np.ascontiguousarray(sharp).astype(np.uint8, copy=False)


def measure(data_dir: Path, weights: Mapping[str, Path], *, subset: int = 8, limit: int | None = None) -> str:
    """The two pairs of tables as Markdown. ``weights``: file by card id; networks without one are left out.

    ``subset``: how many pictures the slow network sees. ``limit``: only so many pictures in all, for trying out.
    Every method runs in a process of its own, so that its memory is its own. Raises FileNotFoundError when the sets
    are not there.
    """
    files = [file for name in SETS for file in sorted((data_dir / name).glob("*.png"))][:limit]
    if not files:
        raise FileNotFoundError(f"{data_dir}: expected PNG files in {' and '.join(SETS)}, found none")
    few = files[:: max(1, len(files) // subset)][:subset]
    known = {method: weights[id_] for method, id_ in NETWORKS.items() if id_ in weights}
    fast = [INPUT, OPENCV, *(m for m in known if NETWORKS[m] == "span-x4")]
    text = []
    for large in (False, True):
        whole = files[:: 3 if large else 1]
        for chosen, cropped, methods in ((whole, False, fast), (few, True, [INPUT, OPENCV, *known])):
            rows = [_in_a_process(method, chosen, cropped, large, known.get(method)) for method in methods]
            text.append(_table(rows, cropped, large))
    return "\n".join(text)


def _in_a_process(method: str, files: Sequence[Path], cropped: bool, large: bool, weights: Path | None) -> Row:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        row = pool.submit(measure_method, method, files, cropped, large, weights).result()
    log.info("%s", row)
    return row


def measure_method(method: str, files: Sequence[Path], cropped: bool, large: bool, weights: Path | None) -> Row:
    """One row: ``method`` on ``files``, the middle of each when ``cropped``, enlarged first when ``large``."""
    mend = _mending(method, weights, [ENLARGED] if large and cropped else None)
    values, seconds, megapixels = [], 0.0, 0.0
    for file in files:
        clean = _clean(file, cropped)
        given = spoiled(clean, file.name)
        if large:
            given = scanned_large(given, file.name)
        begun = time.process_time()
        made = mend(given)
        seconds += time.process_time() - begun
        megapixels += given.shape[0] * given.shape[1] / 1e6
        if large:
            made = cv2.resize(made, (clean.shape[1], clean.shape[0]), interpolation=cv2.INTER_AREA).astype(np.uint8)
        values.append((psnr(clean, made), ssim(clean, made), niqe(made)))
    means = np.nanmean(np.array(values), axis=0)
    peak_mb = peak.so_far() / 2**20
    each = seconds / torch.get_num_threads() / megapixels
    return Row(method, len(files), float(means[0]), float(means[1]), float(means[2]), each, peak_mb)


def _mending(method: str, weights: Path | None, factors: Sequence[int] | None) -> Callable[[Picture], Picture]:
    if method == INPUT:
        return lambda picture: picture
    if method == OPENCV:
        return opencv_baseline
    if weights is None:
        raise ValueError(f"{method}: expected a file of weights, found none")
    network: Network = load(card(NETWORKS[method]), weights, "cpu")

    def mend(picture: Picture) -> Picture:
        (result,) = restore([Raster(picture)], network, factors=factors)
        if isinstance(result, NetworkError):
            raise result
        return result.raster.pixels.astype(np.uint8, copy=False)

    return mend


def _clean(file: Path, cropped: bool) -> Picture:
    picture = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if picture is None:
        raise FileNotFoundError(f"{file}: expected a picture, found none that decodes")
    top, left = ((side - CROP_PX) // 2 if cropped and side > CROP_PX else 0 for side in picture.shape[:2])
    size = CROP_PX if cropped else max(picture.shape)
    return np.ascontiguousarray(picture[top : top + size, left : left + size, ::-1]).astype(np.uint8, copy=False)


def _table(rows: Sequence[Row], cropped: bool, large: bool) -> str:
    kind = "enlarged 4x with scanner blur and grain" if large else "at their own size"
    part = f", the middle {CROP_PX} x {CROP_PX} px" if cropped else ""
    dtype = str(fitting_dtype(torch.device("cpu"))).removeprefix("torch.")
    lines = [
        f"### {rows[0].pictures} pictures{part}, {kind}",
        "",
        f"| method | PSNR dB | SSIM | NIQE | s / megapixel ({torch.get_num_threads()} cores, {dtype}) | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        time_ = "" if r.method == INPUT else f"{r.seconds_per_mp:.3g}"
        lines.append(f"| {r.method} | {r.psnr_db:.2f} | {r.ssim:.4f} | {r.niqe:.2f} | {time_} | {r.peak_mb:.0f} |")
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the tables to standard output."""
    parser = argparse.ArgumentParser(prog="python -m models.measure_quality", description="Measures the enhancers.")
    parser.add_argument("data_dir", type=Path, help="folder with BSD100 and Set14")
    parser.add_argument("--span", type=Path, help="weights of span-x4")
    parser.add_argument("--x4plus", type=Path, help="weights of realesrgan-x4plus")
    parser.add_argument("--subset", type=int, default=8, help="pictures for the slow network")
    parser.add_argument("--limit", type=int, help="only so many pictures in all")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    files = {"span-x4": given.span, "realesrgan-x4plus": given.x4plus}
    weights = {name: path for name, path in files.items() if path is not None}
    sys.stdout.write(measure(given.data_dir, weights, subset=given.subset, limit=given.limit))


if __name__ == "__main__":
    main()
