"""Scans made for measuring, and their way through the stages without Prefect: with S3 and PostgreSQL, or bare."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flows.demo import own_scans
from flows.restore import STAGES, groups, identity, open_shelf
from infra.settings import Settings
from infra.store import Store
from models import imaging, views
from models.imaging import Metadata, Raster
from models.nets.detect import LearntDetector
from tasks import detect, ingest, inpaint, publish, record, score
from tasks.contracts import CLEANED, MASTER, Course, Outcome, Plate, StageOutput, StageResult
from tasks.fetch import fetch
from tasks.publish import PREVIEW_LONG_SIDE_PX
from tasks.recipe import RECIPES, DetectConfig, RecipeName, RestorationRecipe, ScoreConfig
from tasks.stage import Workshop

ARCHIVAL = RECIPES[RecipeName.ARCHIVAL]
Pure = Mapping[str, Callable[[Plate, Any], StageOutput]]
SCRATCHES_PER_MEGAPIXEL, DUST_PER_MEGAPIXEL = 1.0, 6.0
GRAIN = 2.0  # standard deviation, in levels
_BAND_ROWS = 1024


def photograph(megapixels: float, seed: int = 0, enlarged: int = 1) -> Raster:
    """(H, W, 3) uint8, a damaged black-and-white photograph scanned in RGB, the same for the same seed.

    A real photograph repeated side by side, every other time mirrored, with scratches and dust drawn on it; then
    ``enlarged`` so many times, and grain added. 1 is as full of detail as its resolution allows, the most work there is
    for a detector; most archives' scans hold a half to a quarter of that.
    """
    rng = np.random.default_rng(seed)
    repeated = imaging.decode(own_scans() / "fsa-LC-USF33-012762.jpg", "the photograph to repeat")
    small = np.asarray(repeated.pixels[..., 0], np.uint8)
    width = max(64, round(math.sqrt(megapixels * 1e6 * 4 / 3)))
    height = max(48, round(megapixels * 1e6 / width))
    rows, columns = _mirrored(-(-height // enlarged), small.shape[0]), _mirrored(-(-width // enlarged), small.shape[1])
    gray = small[rows[:, None], columns[None, :]]
    _damage(gray, rng)
    if enlarged > 1:
        large = cv2.resize(gray, None, fx=enlarged, fy=enlarged, interpolation=cv2.INTER_CUBIC)
        gray = np.asarray(large, np.uint8)[:height, :width]
    scan = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _BAND_ROWS):
        band = gray[top : top + _BAND_ROWS]
        scan[top : top + _BAND_ROWS] = np.clip(band + rng.normal(0, GRAIN, band.shape), 0, 255)[..., None]
    return Raster(scan, dpi=(600.0, 600.0))


def _damage(gray: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Scratches and dust drawn on it, so many a megapixel."""
    (height, width), megapixels = gray.shape, gray.size / 1e6
    for _ in range(max(2, round(SCRATCHES_PER_MEGAPIXEL * megapixels))):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        points = np.cumsum([(x, y), *rng.normal((4, 30), (6, 12), (12, 2))], axis=0)
        cv2.polylines(gray, [np.rint(points).astype(np.int32)], False, 245, int(rng.integers(2, 4)), cv2.LINE_AA)
    for _ in range(max(6, round(DUST_PER_MEGAPIXEL * megapixels))):
        at = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.circle(gray, at, int(rng.integers(2, 5)), 250, -1, cv2.LINE_AA)


def _mirrored(length: int, period: int) -> NDArray[np.int64]:
    index = np.arange(length) % (2 * period)
    return np.where(index < period, index, 2 * period - 1 - index)


def put(store: Store, bucket: str, keys: Sequence[str], rasters: Sequence[Raster]) -> None:
    """The pictures lie under these keys as TIFF masters, taken in turn; no two of them are the same bytes."""
    for number, key in enumerate(keys):
        with tempfile.TemporaryDirectory(prefix="glassplate-") as folder:
            path = write(rasters[number % len(rasters)], Path(folder) / "scan.tif", key)
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            store.put_new(bucket, key, path, media_type="image/tiff", sha256=sha256, metadata={})


def write(raster: Raster, path: Path, title: str) -> Path:
    """``path``, now a TIFF of the picture with a title of its own."""
    imaging.write_tiff(replace(raster, metadata=Metadata(description=title)), path)
    return path


def pure(settings: Settings) -> Pure:
    """The stages' functions on pixels as recipe ``archival`` uses them, with the same network loaded."""
    card = detect.stage_of(DetectConfig(), open_shelf(settings)).card
    assert card is not None, "there is always a detector"
    paths = fetch(card, settings.weights_dir or settings.data_dir / "weights")
    detector = LearntDetector.load(paths[0]) if paths else None
    return {
        "detect": lambda plate, config: detect.find_damage(plate, config, detector),
        "inpaint": inpaint.fill_damage,
    }


def bare(path: Path, name: str, folder: Path, stages: Pure, recipe: RestorationRecipe = ARCHIVAL) -> float:
    """The damage coverage of the scan at ``path``; what would be published of it lies in ``folder``.

    The pure functions of the stages and the files of publish, nothing else: no store, no database, no checks, no
    Prefect. Recipe ``archival`` only.
    """
    master = imaging.decode(path, name)
    plate, coverage = Plate(name, {MASTER: master}), 0.0
    for config in recipe.stages:
        output = stages[config.stage](plate, config)
        plate = Plate(name, {**plate.layers, **output.layers}, output.mask or plate.mask)
        coverage = output.measures.get("damage_coverage", coverage)
    score.measure(plate, ScoreConfig())
    assert plate.mask is not None, "detect gives a mask"
    imaging.write_tiff(plate[CLEANED], folder / "cleaned.tif", software="glassplate")
    imaging.write_mask(plate.mask, folder / "mask.png")
    overlay = Raster(views.highlighted(master, plate.mask, long_side_px=PREVIEW_LONG_SIDE_PX))
    imaging.write_jpeg(overlay, folder / "overlay.jpg")
    imaging.write_png(views.difference(master, plate[CLEANED]), folder / "difference.png")
    preview = Raster(imaging.srgb8(plate[CLEANED], long_side_px=PREVIEW_LONG_SIDE_PX))
    imaging.write_jpeg(preview, folder / "preview.jpg")
    return coverage


def staged(
    keys: Sequence[str],
    shop: Workshop,
    settings: Settings,
    done: Callable[[str], None] = lambda stage: None,
    recipe: RestorationRecipe = ARCHIVAL,
) -> list[Course]:
    """Every scan's course through the same stages as ``flows.restore.restore``, each called without Prefect.

    ``done`` is called with a stage's name when a group has passed it. Raises what a stage raises, RuntimeError for a
    scan that was not restored.
    """
    read: Any = ingest.ingest
    ingested: list[StageResult] = read.fn(list(keys), recipe, identity(recipe, shop.models), shop)
    if refused := [result for result in ingested if result.plate is None]:
        raise RuntimeError(f"{refused[0].scan}: expected it read, found {refused[0].outcome} ({refused[0].reason})")
    done("ingest")
    ended: list[Course] = []
    for group in groups([Course(scan=r.scan, results=(r,)) for r in ingested], settings.megapixels_per_task):
        for name, call in _steps(recipe, shop):
            results = {result.scan: result for result in call(group)}
            group = [course.then(results[course.scan]) for course in group]
            done(name)
        ended += group
    for course in ended:
        if (last := course.results[-2]).outcome is not Outcome.DONE:  # the last one is record's
            raise RuntimeError(f"{course.scan}: expected it restored, found {last.outcome.value} ({last.reason})")
    return ended


def _steps(
    recipe: RestorationRecipe, shop: Workshop
) -> Iterator[tuple[str, Callable[[list[Course]], list[StageResult]]]]:
    """What follows ingest, by name, each a call on the courses of a group."""

    def on_plates(task: Any, config: Any) -> Callable[[list[Course]], list[StageResult]]:
        return lambda group: task.fn([course.plate for course in group], config, shop)

    for config in recipe.stages:
        yield config.stage, on_plates(STAGES[config.stage][1], config)
    yield "score", on_plates(score.score, ScoreConfig())
    publishing: Any = publish.publish
    yield "publish", lambda group: publishing.fn(group, recipe, shop)
    recording: Any = record.record
    yield "record", lambda group: recording.fn(group, shop)
