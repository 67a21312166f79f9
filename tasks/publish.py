"""Derivatives, mask and sidecars -> archive bucket, never over anything."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
from prefect import task

from infra.store import Blobs
from models import imaging, views
from models.imaging import Mask, Raster
from tasks import stage
from tasks.contracts import (
    CLEANED,
    COLORIZED,
    ENHANCED,
    MASTER,
    BadOutput,
    Course,
    DerivativeRef,
    Outcome,
    PlateRef,
    StageResult,
)
from tasks.recipe import RestorationRecipe
from tasks.stage import Workshop

PREVIEW_LONG_SIDE_PX = 1600

IPTC_TYPE = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
ALGORITHMICALLY_ENHANCED = "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicallyEnhanced"
TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
DC_SOURCE = "{http://purl.org/dc/elements/1.1/}source"
XMP_TOOL = "{http://ns.adobe.com/xap/1.0/}CreatorTool"
# A derivative's layer -> the stages that decide its pixels, and what its difference map and preview are called.
MADE_BY = {
    CLEANED: ("inpaint",),
    ENHANCED: ("inpaint", "enhance", "faces"),
    COLORIZED: ("inpaint", "enhance", "faces", "colorize"),
}
PREFIX = {CLEANED: "", ENHANCED: "enhanced_", COLORIZED: "colorized_"}
LABELS = {
    CLEANED: "cleaned: only damaged pixels changed, every other pixel identical to the master",
    "mask": "damage mask: 255 where the cleaned derivative was filled, soft values below 128 are unchanged",
    "overlay": "the master with its damage highlighted",
    "preview": "reduced JPEG of the cleaned derivative, for looking at",
    "difference": "absolute difference between master and cleaned derivative",
    ENHANCED: "enhanced: detail, noise and faces reworked by a trained network; every pixel may differ from the master",
    "enhanced_preview": "reduced JPEG of the enhanced derivative, for looking at",
    "enhanced_difference": "absolute difference between master and enhanced derivative, at the master's size",
    COLORIZED: "colorized: colours invented by a trained network; the photograph holds none",
    "colorized_preview": "reduced JPEG of the colorized derivative, for looking at",
    "colorized_difference": "absolute difference between master and colorized derivative, at the master's size",
    "record": "what was done: recipe, stages, models, hashes",
}


class _Shelf:
    """One restoration's folder in the archive bucket; every file goes there once."""

    def __init__(self, plate: PlateRef, shop: Workshop) -> None:
        self.bucket, self.shop = shop.restored_bucket, shop
        self.folder = plate.folder
        self.files: list[DerivativeRef] = []

    def put(
        self, kind: str, path: Path, media_type: str, raster: Raster | None = None, outside: str | None = None
    ) -> None:
        """Puts the file at ``path`` and removes it here; the store reads it back and compares."""
        sha256 = _sha256(path)
        key, size = self.folder + path.name, path.stat().st_size
        self.shop.store.put_new(
            self.bucket, key, path, media_type=media_type, sha256=sha256, metadata={"glassplate-kind": kind}
        )
        path.unlink()
        self.files.append(
            DerivativeRef(
                kind=kind, bucket=self.bucket, key=key, sha256=sha256, size=size, media_type=media_type,
                width=raster.width if raster else None, height=raster.height if raster else None,
                bits=raster.bits if raster else None, label=LABELS[kind], outside_mask_sha256=outside,
            )
        )  # fmt: skip


def shelve(course: Course, recipe: RestorationRecipe, shop: Workshop) -> StageResult:
    """One scan's files put into the archive bucket: a set for each derivative that differs from the master, a record.

    The record alone when nothing changed. Raises BadOutput when the cleaned file that would be published does not hold
    the master's pixels outside the mask; of the other derivatives no pixel is promised.
    """
    plate = course.plate
    assert plate is not None, "only survivors are published"
    shelf = _Shelf(plate, shop)
    changed = [n for n in MADE_BY if n in plate.layers and plate.layers[n].sha256 != plate.layers[MASTER].sha256]
    with tempfile.TemporaryDirectory(prefix="glassplate-") as name:
        folder = Path(name)
        if changed:
            master = stage.layer(plate, MASTER, shop.blobs(plate.restoration_id), folder)
            for layer in changed:
                _put_derivative(layer, course, plate, master, shelf, folder)
        path = folder / "record.json"
        path.write_bytes(record_of(course, plate, recipe, shelf.files))
        shelf.put("record", path, "application/json")
    reason = None if changed else next((r.reason for r in course.results if r.outcome is Outcome.SKIPPED), None)
    return StageResult(
        stage="publish",
        scan=plate.scan,
        outcome=Outcome.DONE if changed else Outcome.SKIPPED,
        reason=reason,
        plate=plate,
        derivatives=tuple(shelf.files),
        measures={"published_bytes": float(sum(f.size for f in shelf.files))},
    )


def _put_derivative(name: str, course: Course, plate: PlateRef, master: Raster, shelf: _Shelf, folder: Path) -> None:
    """One derivative with its difference map and preview; the cleaned one also with its mask and overlay."""
    blobs = shelf.shop.blobs(plate.restoration_id)
    made = stage.layer(plate, name, blobs, folder)
    packet = imaging.label_xmp(
        made.metadata.xmp,
        [
            (IPTC_TYPE, source_type(name, course)),
            (DC_SOURCE, f"sha256:{plate.master.image.sha256}"),
            (XMP_TOOL, f"glassplate {importlib.metadata.version('glassplate')}, restoration {plate.restoration_id}"),
        ],
    )
    path = folder / f"{name}.tif"
    imaging.write_tiff(made, path, software="glassplate", xmp=packet)
    del made  # a large scan and its copy are too much at once
    made = imaging.decode(path, plate.scan, stage.UNLIMITED)  # from here on: what a reader of the file will see
    mask = _mask(plate, blobs, folder) if name == CLEANED else None
    shelf.put(name, path, "image/tiff", made, _same_outside(plate, master, made, mask) if mask else None)
    if mask is not None:
        shelf.put("mask", folder / "mask.png", "image/png")
        overlay = Raster(views.highlighted(master, mask, long_side_px=PREVIEW_LONG_SIDE_PX))
        imaging.write_jpeg(overlay, folder / "overlay.jpg")
        shelf.put("overlay", folder / "overlay.jpg", "image/jpeg", overlay)
    prefix = PREFIX[name]
    difference = views.difference(master, _at_size_of(master, made))
    imaging.write_png(difference, folder / f"{prefix}difference.png")
    shelf.put(f"{prefix}difference", folder / f"{prefix}difference.png", "image/png", difference)
    preview = Raster(imaging.srgb8(made, long_side_px=PREVIEW_LONG_SIDE_PX))
    imaging.write_jpeg(preview, folder / f"{prefix}preview.jpg")
    shelf.put(f"{prefix}preview", folder / f"{prefix}preview.jpg", "image/jpeg", preview)


def source_type(name: str, course: Course) -> str:
    """The IPTC DigitalSourceType of a derivative: made with a trained network, or by an algorithm alone."""
    trained = any(r.weights_sha256 for r in course.results if r.stage in MADE_BY[name] and r.outcome is Outcome.DONE)
    return TRAINED if trained else ALGORITHMICALLY_ENHANCED


def _mask(plate: PlateRef, blobs: Blobs, folder: Path) -> Mask:
    """The damage mask, left as ``mask.png`` in ``folder``."""
    if plate.mask is None:
        raise BadOutput(plate.scan, expected="a damage mask beside the cleaned layer", found="none")
    blobs.fetch(plate.mask.sha256, folder / "mask.png")
    return imaging.read_mask(folder / "mask.png", plate.scan)


def _at_size_of(master: Raster, made: Raster) -> Raster:
    """An enlarged derivative area-reduced to the master's size, as it is compared there; any other as it is."""
    if made.pixels.shape[:2] == master.pixels.shape[:2]:
        return made
    small: Any = cv2.resize(made.pixels, (master.width, master.height), interpolation=cv2.INTER_AREA)
    return made.with_pixels(small.reshape(master.height, master.width, made.pixels.shape[2]))


def _same_outside(plate: PlateRef, master: Raster, written: Raster, mask: Mask) -> str:
    """Hash of the pixels outside the mask, found equal in the master and in the file about to be published."""
    expected = imaging.pixel_sha256(master, outside=mask)
    found = imaging.pixel_sha256(written, outside=mask)
    if expected != found:
        raise BadOutput(plate.scan, expected=f"unmasked pixels {expected}", found=f"{found} in the derivative")
    return found


def record_of(course: Course, plate: PlateRef, recipe: RestorationRecipe, files: Sequence[DerivativeRef]) -> bytes:
    """The JSON sidecar. It holds no run ids and no timings, so that a resumed run writes the same bytes."""
    master = plate.master
    document = {
        "glassplate": importlib.metadata.version("glassplate"),
        "restoration_id": plate.restoration_id,
        "planned_at": plate.planned_at,
        "master": {
            "bucket": master.bucket, "key": master.key, "etag": master.etag, "version_id": master.version_id,
            "sha256": master.image.sha256, "bytes": master.size, "media_type": master.image.media_type,
            "width": master.image.width, "height": master.image.height, "channels": master.channels,
            "bits": master.bits, "orientation": master.orientation, "notes": list(master.notes),
        },
        "recipe": {"name": recipe.name, "digest": recipe.digest(), "stages": recipe.model_dump(mode="json")["stages"]},
        "stages": [
            {
                "stage": r.stage, "outcome": r.outcome.value, "reason": r.reason, "model": r.model_id,
                "weights_sha256": r.weights_sha256, "licence": r.licence, "data_terms": r.data_terms,
                "stage_version": r.stage_version, "measures": dict(r.measures),
            }
            for r in course.results if r.stage != "ingest"
        ],
        "scores": [
            {**s.model_dump(), "value": s.value if math.isfinite(s.value) else str(s.value)}  # JSON has no infinity
            for r in course.results for s in r.scores
        ],
        "files": [f.model_dump(mode="json", exclude={"bucket"}, exclude_none=True) for f in files],
    }  # fmt: skip
    return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@task(name="publish", task_run_name="publish", **stage.TASK)
def publish(courses: list[Course], recipe: RestorationRecipe, shop: Workshop) -> list[StageResult]:
    """Each surviving scan's derivatives and sidecars in the archive bucket, read back and verified."""
    return stage.outcomes("publish", courses, lambda c: shelve(c, recipe, shop), lambda c: c.scan)
