"""What goes into the ledger and what comes out: frozen values, none of them tied to SQLAlchemy or to the pipeline.

Errors::

    LedgerError
    ├── LedgerUnavailable   the database is out of reach for the moment -> the same call may be repeated
    └── LedgerConflict      the ledger holds something that contradicts the call -> repeating does not help
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class LedgerError(Exception):
    """Root of what the ledger raises."""


class LedgerUnavailable(LedgerError):
    """The database is out of reach; every call is idempotent, so it may simply be repeated."""


class LedgerConflict(LedgerError):
    """What the ledger holds contradicts the call."""


class State(StrEnum):
    """Where a restoration stands. ``restored`` and ``skipped`` are final; the others may be claimed (again)."""

    PLANNED = "planned"
    RUNNING = "running"
    RESTORED = "restored"
    SKIPPED = "skipped"
    FAILED = "failed"
    QUARANTINED = "quarantined"

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do, ever."""
        return self in (State.RESTORED, State.SKIPPED)


class NightState(StrEnum):
    """Where a night stands."""

    RUNNING = "running"
    COMPLETED = "completed"
    COMPLETED_WITH_FAILURES = "completed_with_failures"
    FAILED = "failed"


class ClaimStatus(StrEnum):
    """``claimed``: go ahead. ``finished``: was done before. ``running``: somebody else has it."""

    CLAIMED = "claimed"
    FINISHED = "finished"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object as the masters bucket lists it. ``version_id`` None: the listing does not tell."""

    key: str
    etag: str
    size_bytes: int
    last_modified: datetime | None = None
    version_id: str | None = None


@dataclass(frozen=True, slots=True)
class PageDiff:
    """One page of a listing against the ledger; the counts and ``todo`` add up to the page.

    ``todo``, in the page's order: new and changed objects, and those whose restoration is not finished.
    ``unchanged``: restored or skipped with this recipe before. ``quarantined``: in quarantine and not released.
    ``given_up``: failed or lost as often as allowed; ``Ledger.release`` gives such a scan another chance.
    """

    todo: tuple[ListedObject, ...]
    unchanged: int
    quarantined: int
    given_up: int


@dataclass(frozen=True, slots=True)
class MasterFacts:
    """What was read from a master's bytes. ``dpi`` is (x, y)."""

    sha256: str
    size_bytes: int
    width: int
    height: int
    channels: int
    bits: int
    media_type: str
    orientation: int = 1
    dpi: tuple[float, float] | None = None
    icc_name: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedRestoration:
    """One restoration to be: ``id`` is the 16 hex digits of the restoration id, ``recipe`` is JSON-ready."""

    id: str
    scan_id: int
    master_sha256: str
    recipe_name: str
    recipe_digest: str
    recipe: Mapping[str, Any]
    prefix: str
    glassplate_version: str
    device: str = "cpu"
    nightly_run_id: int | None = None
    flow_run_id: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to a claim.

    ``attempt`` is the number to record under (1, 2, …). ``holder`` and ``lease_until`` tell who has it and how long.
    ``prefix`` is where its derivatives go; it can differ from the planned one when the same bytes also lie under
    another key, for the first key that was restored keeps the restoration.
    """

    status: ClaimStatus
    restoration_id: str
    state: State
    reason: str | None
    attempt: int
    planned_at: datetime
    holder: str | None
    lease_until: datetime | None
    prefix: str


@dataclass(frozen=True, slots=True)
class StageRun:
    """One stage of one attempt. ``outcome``: done, skipped, failed or quarantined."""

    stage: str
    outcome: str
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
    measures: Mapping[str, float] = field(default_factory=dict)
    flow_run_id: str | None = None
    task_run_id: str | None = None


@dataclass(frozen=True, slots=True)
class Derivative:
    """A published object. ``label`` says in words what it is; ``outside_mask_sha256`` hashes the untouched pixels."""

    kind: str
    bucket: str
    key: str
    sha256: str
    size_bytes: int
    media_type: str
    label: str
    width: int | None = None
    height: int | None = None
    bits: int | None = None
    outside_mask_sha256: str | None = None
    published_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """One number about a derivative. ``direction``: higher, lower or neutral; ``moment``: before, after, fidelity."""

    derivative: str
    metric: str
    value: float
    direction: str
    moment: str


@dataclass(frozen=True, slots=True)
class Face:
    """One face found in a scan and what was done about it. ``outcome``: restored, reverted or left alone.

    ``box`` (left, top, right, bottom), ``landmarks`` (x, y of eyes, nose, corners of the mouth) and ``height_px`` in
    pixels of the upright picture; the fields from ``worked_px`` on are None where no network worked on it.
    """

    number: int
    box: tuple[float, float, float, float]
    landmarks: tuple[tuple[float, float], ...]
    height_px: float
    score: float
    outcome: str
    reason: str | None = None
    worked_px: int | None = None
    fidelity: float | None = None
    landmark_movement: float | None = None
    low_difference: float | None = None
    identity_distance: float | None = None
    identity_measure: str | None = None
    model_id: str | None = None
    weights_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; ``at`` is filled in by the database."""

    kind: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    scan_key: str | None = None
    restoration_id: str | None = None
    nightly_run_id: int | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NightCounts:
    """A night in numbers; ``listed`` is the sum of the next five, of ``left``, ``excluded`` and ``cold``.

    ``planned`` is what was begun, ``left`` what waits for the next night. ``quarantined`` counts the newly quarantined;
    ``restored`` + ``skipped`` + ``quarantined`` + ``failed`` is ``planned`` when the night came to its end.
    """

    listed: int = 0
    ignored: int = 0
    unchanged: int = 0
    known_quarantined: int = 0
    given_up: int = 0
    planned: int = 0
    restored: int = 0
    skipped: int = 0
    quarantined: int = 0
    failed: int = 0
    left: int = 0
    excluded: int = 0
    cold: int = 0


class BatchState(StrEnum):
    """Where a batch stands. ``crashed``: it was sent as often as allowed and never came to its end."""

    SUBMITTED = "submitted"
    RUNNING = "running"
    ENDED = "ended"
    CRASHED = "crashed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Pace:
    """What the archive's own history says of size and speed, for an estimate.

    ``seconds_per_megapixel`` of one recipe, all stages together; None where nothing was measured yet.
    ``bytes_per_megapixel`` of the masters read so far, by media type.
    """

    seconds_per_megapixel: float | None
    bytes_per_megapixel: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Nights start by this cron in this time zone, from ``since`` on."""

    cron: str
    timezone: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Night:
    """One nightly run as the ledger has it.

    ``scheduled_for``: the moment it was meant to start. ``silent_seconds``: time since its last sign of life.
    """

    id: int
    flow_run_id: str
    recipe_name: str
    prefix: str
    state: NightState
    started_at: datetime
    finished_at: datetime | None
    counts: NightCounts
    digest: str
    scheduled_for: datetime | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    silent_seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class StageLine:
    """A stage in a digest: what ran, or why it did not."""

    stage: str
    outcome: str
    reason: str | None
    model_id: str | None
    data_terms: str | None = None


@dataclass(frozen=True, slots=True)
class NightOutcome:
    """One scan of a night, for its digest.

    ``state``: the end of this night's last attempt at it (restored, skipped, failed, quarantined), ``running`` where it
    has not ended, ``lost`` where its run vanished, or its lease ran out and somebody else took over.
    What ended before it could be claimed has attempt 0 and no stages, and no id where no restoration is known.
    """

    key: str
    restoration_id: str | None
    attempt: int
    state: str
    reason: str | None
    damage_coverage: float | None
    stages: tuple[StageLine, ...]
    prefix: str | None
    cleaned_key: str | None
    seconds: float
    error_type: str | None = None


@dataclass(frozen=True, slots=True)
class Restoration:
    """A restoration with everything recorded by its last attempt."""

    id: str
    bucket: str
    key: str
    etag: str
    version_id: str | None
    master_sha256: str
    recipe_name: str
    recipe_digest: str
    recipe: Mapping[str, Any]
    state: State
    reason: str | None
    attempts: int
    holder: str | None
    lease_until: datetime | None
    planned_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    prefix: str
    stage_runs: tuple[StageRun, ...]
    derivatives: tuple[Derivative, ...]
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An object in quarantine, or that was."""

    bucket: str
    key: str
    etag: str
    version_id: str | None
    reason: str
    expected: str
    found: str
    quarantined_at: datetime
    released_at: datetime | None
    released_by: str | None


@dataclass(frozen=True, slots=True)
class History:
    """All the ledger knows of one key, oldest first."""

    restorations: tuple[Restoration, ...]
    quarantined: tuple[Quarantined, ...]
    events: tuple[Event, ...]
