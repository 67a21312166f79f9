"""What surrounds every stage: look for the finished result, load, apply, check, save, outcome, time.

A stage is a pure function on pixels, ``(Plate, config) -> StageOutput``; :func:`run` applies it to a group of plates
at rest. Every scan of the group gets its own outcome, and a finished one is written down at once under
``work/<restoration id>/``, so that a retry or a resumed run repeats nothing.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext

from db.ledger import Ledger
from db.records import LedgerConflict, LedgerUnavailable
from infra.store import Altered, Blobs, Denied, NotFound, Store, StoreUnavailable, Taken
from models import imaging
from models.imaging import ImagingError, Limits, Raster
from models.peak import PeakMemory, give_back
from models.registry import ModelCard
from tasks.contracts import (
    EVERY,
    LATEST,
    LAYERS,
    BadOutput,
    BadScan,
    Frozen,
    GlassplateError,
    GroupFailed,
    ImageRef,
    Incident,
    Outcome,
    Plate,
    PlateRef,
    Refused,
    StageOutput,
    StageResult,
    Unavailable,
    sha256_of,
)
from tasks.shelf import Shelf

log = logging.getLogger("glassplate.stage")

GPU_TAG = "gpu"
BACKOFF_S = [2.0, 10.0, 30.0]
PATIENT_BACKOFF_S = [2.0, 10.0, 30.0, 60.0, 120.0, 240.0]
UNLIMITED = Limits(max_megapixels=float("inf"), max_bytes=1 << 62)  # for what ingest has measured already

T = TypeVar("T")
C = TypeVar("C", bound=Frozen)


def worth_retrying(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed task run is tried again: only when something was out of reach."""
    try:
        state.result()
    except Unavailable:
        return True
    except Exception:  # noqa: BLE001 - any other failure is final, whatever it is
        return False
    return False


TASK: dict[str, Any] = {
    "retries": len(BACKOFF_S),
    "retry_delay_seconds": BACKOFF_S,
    "retry_condition_fn": worth_retrying,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}
GPU: dict[str, Any] = {**TASK, "tags": [GPU_TAG]}
PATIENT_TASK: dict[str, Any] = {  # the work is done: only the rows are missing, and a database restart may take minutes
    **TASK, "retries": len(PATIENT_BACKOFF_S), "retry_delay_seconds": PATIENT_BACKOFF_S,
}  # fmt: skip


@dataclass(frozen=True)
class Workshop:
    """Where a run's task runs find things; built once by the flow, holds no open connection."""

    store: Store
    ledger: Ledger
    masters_bucket: str
    restored_bucket: str
    restored_prefix: str
    work_prefix: str
    limits: Limits
    flow_run_id: str | None
    lease_seconds: int
    night_id: int | None = None
    models: Shelf = field(default_factory=Shelf)

    @property
    def holder(self) -> str:
        """Who owns the claims of this run."""
        return f"flow-run:{self.flow_run_id}"

    def blobs(self, restoration_id: str) -> Blobs:
        """The work area of one restoration."""
        return Blobs(self.store, self.restored_bucket, f"{self.work_prefix}{restoration_id}/")


@dataclass(frozen=True)
class Identity:
    """What besides master and recipe decides the pixels of a restoration."""

    stage_versions: Mapping[str, str]
    weights_sha256s: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """What a stage promises: the layers it reads, the model it uses, and whose code decides its pixels.

    ``reads``: layer names; ``LATEST`` stands for the most finished layer there is, ``EVERY`` for all. The first is the
    one its output is compared with. ``also``: models besides ``card`` that have a part in its pixels.
    """

    name: str
    reads: tuple[str, ...]
    code: tuple[ModuleType, ...]
    card: ModelCard | None = None
    also: tuple[ModelCard, ...] = ()
    reads_mask: bool = False
    needs_mask: bool = True  # of one that reads it: a plate without a mask is an error
    keeps_unmasked: bool = False  # pixels outside the mask come out bit-identical; checked on every scan
    scale: int = 1  # side of the new layer / side of the first one read
    adds_colour: bool = False  # the new layer is RGB even where the first one read is gray

    def version(self) -> str:
        """sha256 of the code that decides this stage's pixels, with the versions of cv2, numpy and torch."""
        return _version(self.name, self.code)

    def layers_of(self, ref: PlateRef) -> tuple[str, ...]:
        """The names of the layers it reads of this plate."""
        there = [name for name in LAYERS if name in ref.layers]
        names: list[str] = []
        for name in self.reads:
            names += there[:1] if name == LATEST else there if name == EVERY else [name]
        return tuple(dict.fromkeys(names))

    def weights(self) -> tuple[str, ...]:
        """sha256 of the weights of every model that has a part in its pixels."""
        cards = (*([self.card] if self.card else []), *self.also)
        return tuple(card.sha256 for card in cards if card.sha256)


@cache
def _version(name: str, code: tuple[ModuleType, ...]) -> str:
    digest = hashlib.sha256(name.encode())
    for module in sorted({*code, imaging}, key=lambda m: m.__name__):
        digest.update(inspect.getsource(module).encode())
    for package in ("opencv-python-headless", "numpy", "torch"):
        digest.update(f"{package}={importlib.metadata.version(package).split('+')[0]}".encode())
    return digest.hexdigest()


def survivors(results: Sequence[StageResult]) -> list[PlateRef]:
    """The plates that go on to the next stage."""
    return [result.plate for result in results if result.plate is not None]


def run(
    stage: Stage,
    apply: Callable[[Plate, C], StageOutput],
    plates: Sequence[PlateRef],
    config: C,
    shop: Workshop,
) -> list[StageResult]:
    """Each plate's outcome after ``apply``; raises GroupFailed when none survived.

    Raises Unavailable, for the task runner to retry, while retries are left and a scan could not be reached; the
    finished scans of the group are found again by their result key and not repeated.
    """
    return outcomes(stage.name, plates, lambda p: _one(stage, apply, p, config, shop), lambda p: p.scan)


def outcomes(
    stage: str, items: Sequence[T], work: Callable[[T], StageResult], scan: Callable[[T], str]
) -> list[StageResult]:
    """``work`` done for every item, with errors turned into that item's outcome.

    Raises Unavailable while retries are left, GroupFailed when no item survived.
    """
    results: list[StageResult] = []
    unreachable: Unavailable | None = None
    for item in items:
        started = time.perf_counter()
        result, error = _outcome(stage, item, work, scan(item))
        if isinstance(error, Unavailable):
            unreachable = error
        seconds = result.seconds or time.perf_counter() - started
        results.append(result.model_copy(update={"seconds": seconds, "task_run_id": _task_run_id()}))
        log.info(
            "stage=%s scan=%r outcome=%s reason=%r seconds=%.2f reused=%s",
            stage, result.scan, result.outcome.value, result.reason, seconds, result.reused,
        )  # fmt: skip
    if unreachable and _retries_left():
        raise unreachable
    if results and not any(r.outcome in (Outcome.DONE, Outcome.SKIPPED) for r in results):
        raise GroupFailed(stage, results)
    return results


def _outcome(
    stage: str, item: T, work: Callable[[T], StageResult], scan: str
) -> tuple[StageResult, GlassplateError | None]:
    try:
        try:
            return work(item), None
        except GlassplateError:
            raise
        except (StoreUnavailable, LedgerUnavailable) as error:
            raise Unavailable(scan, expected="an answer", found=str(error)) from error
        except NotFound as error:
            raise BadOutput(scan, expected="an object that was listed or saved before", found=str(error)) from error
        except Denied as error:
            raise Incident(scan, expected="permission", found=str(error)) from error
        except Taken as error:
            raise Incident(scan, expected="no other object under this key", found=str(error)) from error
        except LedgerConflict as error:
            raise Incident(scan, expected="rows that agree with this run", found=str(error)) from error
        except Altered as error:
            raise BadOutput(scan, expected="the bytes that were saved", found=str(error)) from error
        except MemoryError as error:
            raise BadOutput(scan, expected="memory for this scan", found="out of memory") from error
    except BadScan as error:
        return _failed(stage, scan, Outcome.QUARANTINED, error), error
    except GlassplateError as error:
        return _failed(stage, scan, Outcome.FAILED, error), error
    except Exception as error:
        # The last boundary: whatever went wrong with one scan must not take its neighbours along.
        log.exception("stage=%s scan=%r unexpected error", stage, scan)
        return _failed(stage, scan, Outcome.FAILED, error), None


def _failed(stage: str, scan: str, outcome: Outcome, error: Exception) -> StageResult:
    reason = str(error) or repr(error)
    return StageResult(stage=stage, scan=scan, outcome=outcome, reason=reason, error_type=type(error).__name__)


def run_together(
    stage: Stage,
    apply: Callable[[Sequence[Plate], C], Sequence[StageOutput | Exception]],
    plates: Sequence[PlateRef],
    config: C,
    shop: Workshop,
) -> list[StageResult]:
    """As ``run``, for a stage that works on all scans of the group at once: tiles of several scans share a batch.

    ``apply`` gives one output, or one error, a plate, in their order. When it raises, each scan is tried alone, so that
    one bad scan never fails its neighbours; what is out of reach for one is out of reach for all.
    """
    outputs: dict[str, StageOutput | Exception] = {}

    def loading(ref: PlateRef, folder: Path) -> Plate | None:
        known = shop.blobs(ref.restoration_id).get_json(_document(stage, ref, config))
        return load(stage, ref, shop.blobs(ref.restoration_id), folder) if known is None else None

    with tempfile.TemporaryDirectory(prefix="glassplate-") as folder:
        waiting: list[Plate] = []
        for ref in plates:
            result, error = _outcome(stage.name, ref, lambda r: _loaded(loading(r, Path(folder)), waiting), ref.scan)
            if result.outcome is Outcome.FAILED:
                outputs[ref.scan] = error or BadOutput(ref.scan, expected="a plate", found=result.reason or "none")
        if waiting:
            for plate, output in zip(waiting, _applied(stage.name, apply, waiting, config), strict=True):
                outputs[plate.scan] = output
        by_scan = {plate.scan: plate for plate in waiting}
        waiting.clear()

        def given(plate: Plate, _: C) -> StageOutput:
            output = outputs.pop(plate.scan)
            if isinstance(output, Exception):
                raise output
            return output

        def one(ref: PlateRef) -> StageResult:
            if isinstance(error := outputs.get(ref.scan), Exception):
                raise error
            return _one(stage, given, ref, config, shop, by_scan.pop(ref.scan, None))

        return outcomes(stage.name, plates, one, lambda p: p.scan)


def _applied(
    stage: str,
    apply: Callable[[Sequence[Plate], C], Sequence[StageOutput | Exception]],
    plates: Sequence[Plate],
    config: C,
) -> Sequence[StageOutput | Exception]:
    """What ``apply`` gives for each plate; where it raises, for each plate alone."""
    try:
        return apply(plates, config)
    except (Unavailable, Refused) as error:
        return [error] * len(plates)
    except Exception as error:
        if len(plates) == 1:
            return [error]
        log.exception("stage=%s scans=%d the group failed; each scan is tried alone", stage, len(plates))
        return [output for plate in plates for output in _applied(stage, apply, [plate], config)]


def _loaded(plate: Plate | None, waiting: list[Plate]) -> StageResult:
    if plate is not None:
        waiting.append(plate)
    return StageResult(stage="load", scan="", outcome=Outcome.DONE)


def _document(stage: Stage, ref: PlateRef, config: Frozen) -> str:
    return f"{stage.name}-{result_key(stage, ref, config)[:24]}"


def _one(
    stage: Stage,
    apply: Callable[[Plate, C], StageOutput],
    ref: PlateRef,
    config: C,
    shop: Workshop,
    in_hand: Plate | None = None,
) -> StageResult:
    if not shop.ledger.extend(ref.restoration_id, shop.holder, shop.lease_seconds):
        raise Incident(ref.scan, expected=f"the claim of {shop.holder}", found="a claim held by another run, or none")
    blobs = shop.blobs(ref.restoration_id)
    if (known := blobs.get_json(_document(stage, ref, config))) is not None:
        return _reused(StageResult.model_validate(known), ref)

    started = time.perf_counter()
    give_back()
    memory = PeakMemory()
    with tempfile.TemporaryDirectory(prefix="glassplate-") as folder:
        plate = in_hand or load(stage, ref, blobs, Path(folder))
        output = apply(plate, config)
        check(stage, stage.layers_of(ref)[0], plate, output)
        kept = save(ref, plate, output, blobs, Path(folder))
    card = None if output.without_model else output.model or stage.card
    result = StageResult(
        stage=stage.name,
        scan=ref.scan,
        outcome=Outcome.SKIPPED if output.skipped else Outcome.DONE,
        reason=output.skipped,
        plate=kept,
        restoration_id=ref.restoration_id,
        model_id=card.id if card else None,
        weights_sha256=card.sha256 if card else None,
        licence=card.licence if card else None,
        data_terms=card.data_terms if card else None,
        stage_version=stage.version(),
        result_key=result_key(stage, ref, config),
        device=output.device,
        seconds=output.seconds or time.perf_counter() - started,
        peak_memory_bytes=max(memory.peak_bytes(), output.peak_memory_bytes),
        measures={name: float(value) for name, value in output.measures.items()},
        scores=tuple(output.scores),
        faces=tuple(output.faces),
    )
    blobs.put_json(_document(stage, ref, config), result.model_dump(mode="json"))
    return result


def _reused(known: StageResult, ref: PlateRef) -> StageResult:
    """A result of an earlier attempt as this attempt's own: what is at rest stays, whose claim it is does not."""
    plate = known.plate.model_copy(update={"attempt": ref.attempt}) if known.plate else None
    return known.model_copy(update={"reused": True, "plate": plate})


def result_key(stage: Stage, ref: PlateRef, config: Frozen) -> str:
    """sha256 that names this very result: its inputs, settings, weights and code."""
    layers = {name: ref.layers[name].sha256 for name in stage.layers_of(ref) if name in ref.layers}
    mask = ref.mask.sha256 if ref.mask and stage.reads_mask else None
    model = stage.card.id if stage.card else None
    settings = config.model_dump(mode="json")
    return sha256_of([ref.master.image.sha256, layers, mask, settings, model, stage.weights(), stage.version()])


def load(stage: Stage, ref: PlateRef, blobs: Blobs, folder: Path) -> Plate:
    """The plate in hand: the layers ``stage`` reads, and the mask when it reads that; every byte verified."""
    layers = {name: layer(ref, name, blobs, folder) for name in stage.layers_of(ref)}
    mask = None
    if stage.reads_mask and (stage.needs_mask or ref.mask is not None):
        if ref.mask is None:
            raise BadOutput(ref.scan, expected=f"a damage mask before stage {stage.name}", found="none")
        blobs.fetch(ref.mask.sha256, folder / "mask")
        mask = imaging.read_mask(folder / "mask", ref.scan)
    return Plate(scan=ref.scan, layers=layers, mask=mask)


def layer(ref: PlateRef, name: str, blobs: Blobs, folder: Path) -> Raster:
    """One layer of the plate, decoded; its bytes verified by sha256. Raises BadOutput if it is absent or broken."""
    if (image := ref.layers.get(name)) is None:
        raise BadOutput(ref.scan, expected=f"layer {name!r}", found=f"layers {sorted(ref.layers)}")
    path = folder / f"{name}.layer"
    blobs.fetch(image.sha256, path)
    try:
        return imaging.decode(path, ref.scan, UNLIMITED)
    except ImagingError as error:  # it decoded at ingest: the work area is at fault, not the scan
        raise BadOutput(ref.scan, expected="a plate that decodes", found=str(error)) from error
    finally:
        path.unlink()


def check(stage: Stage, source_name: str, plate: Plate, output: StageOutput) -> None:
    """Raises BadOutput unless new layers and mask have the right size, type and range, and kept what was promised."""
    source = plate.layers[source_name]
    height, width, channels = source.pixels.shape
    expected = (height * stage.scale, width * stage.scale, 3 if stage.adds_colour else channels)
    for name, raster in output.layers.items():
        if raster is not source and (raster.pixels.shape != expected or raster.bits != source.bits):
            raise BadOutput(
                plate.scan,
                expected=f"{stage.name}: layer {name!r} of {expected} at {source.bits} bits",
                found=f"{raster.pixels.shape} at {raster.bits} bits",
            )
        if stage.keeps_unmasked and plate.mask is not None:
            before = imaging.pixel_sha256(source, outside=plate.mask)
            after = imaging.pixel_sha256(raster, outside=plate.mask)
            if before != after:
                raise BadOutput(plate.scan, expected=f"unmasked pixels {before[:16]}", found=f"{after[:16]}")
    if output.mask is not None:
        if output.mask.shape != (height, width):
            raise BadOutput(plate.scan, expected=f"mask of {(height, width)}", found=str(output.mask.shape))
        stored = output.mask.stored
        low, high = (float(stored.min()), float(stored.max())) if stored.dtype == np.float32 else (0.0, 1.0)
        if not (np.isfinite(low) and np.isfinite(high) and low >= 0.0 and high <= 1.0):
            raise BadOutput(plate.scan, expected="mask values in [0, 1]", found=f"[{low}, {high}]")


def save(ref: PlateRef, plate: Plate, output: StageOutput, blobs: Blobs, folder: Path) -> PlateRef:
    """``ref`` with the new layers and mask, which now lie in the work area under their sha256.

    A layer that is one of the plate's own rasters, untouched, keeps that raster's reference.
    """
    layers = dict(ref.layers)
    for name, raster in output.layers.items():
        if (same := next((n for n, r in plate.layers.items() if r is raster), None)) is not None:
            layers[name] = ref.layers[same]
            continue
        path = folder / f"{name}.tif"
        imaging.write_tiff(raster, path)
        layers[name] = _kept(path, blobs, raster.width, raster.height, "image/tiff")
    mask = ref.mask
    if output.mask is not None:
        path = folder / "mask.png"
        imaging.write_mask(output.mask, path)
        height, width = output.mask.shape
        mask = _kept(path, blobs, width, height, "image/png")
    return ref.model_copy(update={"layers": layers, "mask": mask})


def _kept(path: Path, blobs: Blobs, width: int, height: int, media_type: str) -> ImageRef:
    sha256 = blobs.put(path, media_type)
    path.unlink()
    return ImageRef(
        uri=f"s3://{blobs.bucket}/{blobs.prefix}{sha256}",
        sha256=sha256,
        width=width,
        height=height,
        media_type=media_type,
    )


def _task_run_id() -> str | None:
    context = TaskRunContext.get()
    return str(context.task_run.id) if context else None


def _retries_left() -> bool:
    context = TaskRunContext.get()
    return context is not None and context.task_run.run_count <= context.task.retries
