"""The words of the pipeline: what travels between task runs, what a stage gives back, and what can go wrong.

Errors::

    GlassplateError
    ├── BadScan          the scan itself is at fault     -> quarantined, never retried
    ├── BadOutput        a stage's result failed a check -> failed, evidence kept
    ├── BadWeights       a file of weights is not the pinned one    -> failed, says how to fetch (tasks/fetch.py)
    ├── Refused          the allow-list does not permit this model   -> failed, says what is permitted
    ├── Incident         the archive holds something that must not be there -> failed, never overwritten
    ├── Unavailable      S3, database, Prefect, weights out of reach -> retried with backoff
    └── GroupFailed      no scan of a task run's group survived; carries every scan's StageResult

Lower rooms raise their own (``UnreadableImage``, ``StoreUnavailable``); ``tasks.stage`` translates them with ``from``.
A message names the scan, what was expected and what was found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.imaging import Mask, Raster
from models.registry import ModelCard

MASTER, CLEANED, ENHANCED, COLORIZED = "master", "cleaned", "enhanced", "colorized"
LAYERS = (COLORIZED, ENHANCED, CLEANED, MASTER)  # most finished first
LATEST = "latest"  # in what a stage reads: the most finished layer there is
EVERY = "every"  # in what a stage reads: all layers there are


class GlassplateError(Exception):
    """Root of the pipeline's errors; ``str()`` is fit for a digest."""

    def __init__(self, scan: str, *, expected: str, found: str) -> None:
        super().__init__(f"{scan}: expected {expected}, found {found}")
        self.scan, self.expected, self.found = scan, expected, found

    def __reduce__(self) -> tuple[Any, ...]:
        return _error, (type(self), self.scan, self.expected, self.found)


def _error(kind: type[GlassplateError], scan: str, expected: str, found: str) -> GlassplateError:
    return kind(scan, expected=expected, found=found)


class BadScan(GlassplateError):
    """The scan cannot be restored as it is: it goes to quarantine, its master stays where it is."""


class BadOutput(GlassplateError):
    """A stage gave something that must not be published; the scan fails and the evidence is kept."""


class Refused(GlassplateError):
    """A model whose licence or training data the archive's allow-list does not permit."""


class Incident(GlassplateError):
    """Something lies where a derivative belongs and is not that derivative; nothing is overwritten."""


class Unavailable(GlassplateError):
    """A service is out of reach for the moment."""


class Outcome(StrEnum):
    """How a stage, or a whole restoration, ended for one scan."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    QUARANTINED = "quarantined"


class Frozen(BaseModel):
    """A value: frozen, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageRef(Frozen):
    """An image at rest. Small; what travels between task runs."""

    uri: str
    sha256: str
    width: int
    height: int
    media_type: str


class MasterRef(Frozen):
    """A master as it was read: which object, which bytes, what picture."""

    bucket: str
    key: str
    etag: str
    version_id: str | None
    size: int
    image: ImageRef
    channels: int
    bits: int
    orientation: int
    icc_name: str | None
    dpi: tuple[float, float] | None
    notes: tuple[str, ...] = ()


class PlateRef(Frozen):
    """A plate at rest: its layers and mask by sha256 under ``work/<restoration id>/``."""

    restoration_id: str
    attempt: int
    planned_at: str  # ISO 8601, from the row that claims the scan: the date its sidecars carry
    folder: str  # where its derivatives go: <restored prefix><key>/<restoration id>/
    master: MasterRef
    layers: Mapping[str, ImageRef] = Field(default_factory=dict)
    mask: ImageRef | None = None

    @property
    def scan(self) -> str:
        """What messages call this scan: its key."""
        return self.master.key

    @property
    def megapixels(self) -> float:
        """Decoded size, millions of pixels."""
        return self.master.image.width * self.master.image.height / 1e6


@dataclass(frozen=True, eq=False)
class Plate:
    """A plate in hand: the layers a stage asked for, by name, and the damage mask once it is known.

    All layers have the master's height and width unless a stage's scale says otherwise.
    """

    scan: str
    layers: Mapping[str, Raster]
    mask: Mask | None = None

    def __getitem__(self, layer: str) -> Raster:
        return self.layers[layer]

    def latest(self) -> Raster:
        """The most finished layer in hand."""
        return next(self.layers[name] for name in LAYERS if name in self.layers)


class Score(Frozen):
    """One number about a derivative: metric, value, which direction is better, and when it was measured."""

    derivative: str
    metric: str
    value: float
    direction: Literal["higher", "lower", "neutral"]
    moment: Literal["before", "after", "fidelity"]


class FoundFace(Frozen):
    """One face of a plate, and what was done about it: a row of the view ``faces``.

    ``number`` from 1, smallest face first. ``box`` (left, top, right, bottom), ``landmarks`` (eyes, nose, corners of
    the mouth; x, y) and ``height_px`` in pixels of the upright picture. ``score``: how sure the detector is.
    ``reason``: why it was reverted or left alone. What follows is None where no network worked on it.
    """

    number: int
    box: tuple[float, float, float, float]
    landmarks: tuple[tuple[float, float], ...]
    height_px: float
    score: float
    outcome: Literal["restored", "reverted", "left alone"]
    reason: str | None = None
    worked_px: int | None = None
    fidelity: float | None = None
    landmark_movement: float | None = None
    low_difference: float | None = None
    identity_distance: float | None = None
    identity_measure: str | None = None
    model_id: str | None = None
    weights_sha256: str | None = None


@dataclass(frozen=True, eq=False)
class StageOutput:
    """What a stage's pure function returns: new layers or mask only, and what it measured on the way.

    ``skipped``: why nothing was changed (the layers still stand for the next stage), else None. ``model``: the one of
    the stage's ``also`` that did the work in place of its ``card``. ``without_model``: none had a part in this.
    ``seconds``: this scan's share where several were worked at once.
    """

    layers: Mapping[str, Raster] = field(default_factory=dict)
    mask: Mask | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    scores: Sequence[Score] = ()
    faces: Sequence[FoundFace] = ()
    skipped: str | None = None
    model: ModelCard | None = None
    without_model: bool = False
    device: str = "cpu"
    seconds: float = 0.0
    peak_memory_bytes: int = 0


class DerivativeRef(Frozen):
    """A published file: what lies beside what, and what it is in words."""

    kind: str  # cleaned, mask, overlay, preview, difference, enhanced, enhanced_difference, …, record
    bucket: str
    key: str
    sha256: str
    size: int
    media_type: str
    width: int | None = None
    height: int | None = None
    bits: int | None = None
    label: str = ""
    outside_mask_sha256: str | None = None


class StageResult(Frozen):
    """One scan's outcome at one stage: the row in ``stage_runs``.

    ``plate`` is None when the scan goes no further: it failed, is in quarantine, is finished already, or another
    run is at work on it.
    """

    stage: str
    scan: str
    outcome: Outcome
    plate: PlateRef | None = None
    restoration_id: str | None = None
    reason: str | None = None
    error_type: str | None = None
    model_id: str | None = None
    weights_sha256: str | None = None
    licence: str | None = None
    data_terms: str | None = None
    stage_version: str = ""
    result_key: str = ""
    device: str = "cpu"
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    reused: bool = False
    measures: Mapping[str, float] = Field(default_factory=dict)
    task_run_id: str | None = None
    derivatives: tuple[DerivativeRef, ...] = ()
    scores: tuple[Score, ...] = ()
    faces: tuple[FoundFace, ...] = ()


class Course(Frozen):
    """One scan's way through a recipe: every stage's result, in order."""

    scan: str
    results: tuple[StageResult, ...]

    @property
    def plate(self) -> PlateRef | None:
        """The plate as the last stage left it, or None when the scan went no further."""
        return self.results[-1].plate

    @property
    def last_plate(self) -> PlateRef | None:
        """The most advanced plate that exists, also of a scan that failed later."""
        return next((r.plate for r in reversed(self.results) if r.plate is not None), None)

    def then(self, result: StageResult) -> Course:
        """This course, one stage longer."""
        return Course(scan=self.scan, results=(*self.results, result))


class GroupFailed(GlassplateError):
    """No scan of the group survived the stage."""

    def __init__(self, stage: str, results: Sequence[StageResult]) -> None:
        super().__init__(
            f"stage {stage}",
            expected=f"at least one of {len(results)} scans to survive",
            found="; ".join(f"{r.scan}: {r.reason}" for r in results[:3]),
        )
        self.results = list(results)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.results[0].stage if self.results else "", self.results))


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no blanks: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str).encode()


def sha256_of(value: Any) -> str:
    """sha256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def restoration_id(
    master_sha256: str, recipe_digest: str, weights_sha256s: Sequence[str], stage_versions: Mapping[str, str]
) -> str:
    """16 hex digits that name the row, the folder and the claim of one restoration.

    The same master, recipe, weights and stage code give the same id, so a re-run does nothing twice.
    """
    return sha256_of([master_sha256, recipe_digest, list(weights_sha256s), dict(stage_versions)])[:16]
