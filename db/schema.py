"""The tables, singular; what people query are the plural views in ``db/views``.

Every time is the database's clock. Keys, hashes and ids are stored as they are; free text (reasons, labels, digests)
is stored as ``Prose``, because an error message may carry bytes that PostgreSQL refuses.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

STATES = ("planned", "running", "restored", "skipped", "failed", "quarantined")
ATTEMPT_STATES = ("running", "restored", "skipped", "failed", "quarantined", "lost")
OUTCOMES = ("done", "skipped", "failed", "quarantined")
FACE_OUTCOMES = ("restored", "reverted", "left alone")
NIGHT_STATES = ("running", "completed", "completed_with_failures", "failed")
BATCH_STATES = ("submitted", "running", "ended", "crashed", "cancelled")


def storable(words: str) -> str:
    """``words`` without what PostgreSQL's text refuses: NUL and lone surrogates become U+FFFD."""
    return words.replace("\x00", "\ufffd").encode("utf-8", "surrogatepass").decode("utf-8", "replace")


class Prose(TypeDecorator[str]):
    """Free text, made storable on its way in."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """The text as it is stored."""
        return None if value is None else storable(value)


def _one_of(column: str, allowed: tuple[str, ...]) -> CheckConstraint:
    quoted = ", ".join(f"'{word}'" for word in allowed)
    return CheckConstraint(f"{column} IN ({quoted})", name=f"{column}_known")


def _hex(column: str, digits: int) -> CheckConstraint:
    return CheckConstraint(f"{column} ~ '^[0-9a-f]{{{digits}}}$'", name=f"{column}_is_hex")


class Base(DeclarativeBase):
    """Root of the tables, with constraint names that migrations can rely on."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        str: Text,
        float: Double,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
    }


class Master(Base):
    """A master by its bytes: what was decoded, once, whatever keys it lies under."""

    __tablename__ = "master"
    __table_args__ = (_hex("sha256", 64),)

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    width: Mapped[int]
    height: Mapped[int]
    channels: Mapped[int]
    bits: Mapped[int]
    media_type: Mapped[str]
    orientation: Mapped[int] = mapped_column(server_default=text("1"))
    dpi_x: Mapped[float | None]
    dpi_y: Mapped[float | None]
    icc_name: Mapped[str | None] = mapped_column(Prose)
    notes: Mapped[list[str]] = mapped_column(ARRAY(Prose), server_default=text("'{}'"))
    first_read: Mapped[datetime] = mapped_column(server_default=func.now())


class Scan(Base):
    """An object in the masters bucket that was opened once; a changed object is a new row."""

    __tablename__ = "scan"
    __table_args__ = (
        # Key (1,024 bytes), etag and version id (1,024) stay below a B-tree entry's 2,704 bytes.
        UniqueConstraint(
            "bucket", "key", "etag", "size_bytes", "version_id",
            name="uq_scan_object", postgresql_nulls_not_distinct=True,
        ),
        CheckConstraint("octet_length(key) BETWEEN 1 AND 1024", name="key_length"),
    )  # fmt: skip

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    bucket: Mapped[str]
    key: Mapped[str]
    etag: Mapped[str]
    version_id: Mapped[str | None]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    last_modified: Mapped[datetime | None]
    first_seen: Mapped[datetime] = mapped_column(server_default=func.now())
    master_sha256: Mapped[str | None] = mapped_column(ForeignKey("master.sha256"), index=True)


class NightlyRun(Base):
    """One night: what it counted and its digest."""

    __tablename__ = "nightly_run"
    __table_args__ = (_one_of("state", NIGHT_STATES),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    flow_run_id: Mapped[str] = mapped_column(unique=True)
    recipe_name: Mapped[str]
    prefix: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=text("'running'"))
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
    listed: Mapped[int] = mapped_column(server_default=text("0"))
    ignored: Mapped[int] = mapped_column(server_default=text("0"))
    unchanged: Mapped[int] = mapped_column(server_default=text("0"))
    known_quarantined: Mapped[int] = mapped_column(server_default=text("0"))
    given_up: Mapped[int] = mapped_column(server_default=text("0"))
    planned: Mapped[int] = mapped_column(server_default=text("0"))
    restored: Mapped[int] = mapped_column(server_default=text("0"))
    skipped: Mapped[int] = mapped_column(server_default=text("0"))
    quarantined: Mapped[int] = mapped_column(server_default=text("0"))
    failed: Mapped[int] = mapped_column(server_default=text("0"))
    left: Mapped[int] = mapped_column(server_default=text("0"))
    digest: Mapped[str] = mapped_column(Prose, server_default=text("''"))
    excluded: Mapped[int] = mapped_column(server_default=text("0"))
    cold: Mapped[int] = mapped_column(server_default=text("0"))
    parameters: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    scheduled_for: Mapped[datetime | None] = mapped_column(index=True)
    alive_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Batch(Base):
    """Scans of a night that go to a worker together: how often they were sent, and the last sign of life."""

    __tablename__ = "batch"
    __table_args__ = (_one_of("state", BATCH_STATES), UniqueConstraint("nightly_run_id", "number"))

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    nightly_run_id: Mapped[int] = mapped_column(ForeignKey("nightly_run.id"))
    number: Mapped[int]
    scan_keys: Mapped[list[str]]
    attempts: Mapped[int]
    flow_run_id: Mapped[str] = mapped_column(unique=True)
    worker: Mapped[str | None] = mapped_column(Prose)
    state: Mapped[str] = mapped_column(server_default=text("'submitted'"))
    reason: Mapped[str | None] = mapped_column(Prose)
    submitted_at: Mapped[datetime] = mapped_column(server_default=func.now())
    alive_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class NightSchedule(Base):
    """From when on nights start at which times; what a check compares the nights with."""

    __tablename__ = "night_schedule"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    cron: Mapped[str]
    timezone: Mapped[str]
    since: Mapped[datetime] = mapped_column(server_default=func.now())


class Restoration(Base):
    """One master restored one way; the row that a run must hold to work on it."""

    __tablename__ = "restoration"
    __table_args__ = (
        _one_of("state", STATES),
        _hex("id", 16),
        CheckConstraint("(claimed_by IS NULL) = (lease_until IS NULL)", name="lease_has_holder"),
        CheckConstraint("(state = 'running') = (claimed_by IS NOT NULL)", name="running_is_claimed"),
        Index("ix_restoration_master_recipe", "master_sha256", "recipe_name"),
        Index("ix_restoration_claimed_by", "claimed_by", postgresql_where=text("claimed_by IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    master_sha256: Mapped[str] = mapped_column(ForeignKey("master.sha256"))
    scan_id: Mapped[int] = mapped_column(ForeignKey("scan.id"), index=True)
    recipe_name: Mapped[str]
    recipe_digest: Mapped[str]
    recipe: Mapped[dict[str, Any]]
    prefix: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=text("'planned'"))
    reason: Mapped[str | None] = mapped_column(Prose)
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    claimed_by: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    planned_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Attempt(Base):
    """One claim that was won: who worked on a restoration, for which night, and how that ended."""

    __tablename__ = "attempt"
    __table_args__ = (_one_of("state", ATTEMPT_STATES),)

    restoration_id: Mapped[str] = mapped_column(ForeignKey("restoration.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    scan_id: Mapped[int] = mapped_column(ForeignKey("scan.id"), index=True)
    holder: Mapped[str]
    nightly_run_id: Mapped[int | None] = mapped_column(ForeignKey("nightly_run.id"), index=True)
    flow_run_id: Mapped[str | None]
    glassplate_version: Mapped[str]
    device: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=text("'running'"))
    reason: Mapped[str | None] = mapped_column(Prose)
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class StageRun(Base):
    """One stage of one attempt."""

    __tablename__ = "stage_run"
    __table_args__ = (
        _one_of("outcome", OUTCOMES),
        UniqueConstraint("restoration_id", "attempt", "stage"),
        ForeignKeyConstraint(["restoration_id", "attempt"], ["attempt.restoration_id", "attempt.number"]),
        Index("ix_stage_run_model", "model_id", "weights_sha256"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    restoration_id: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[int]
    position: Mapped[int]
    stage: Mapped[str]
    outcome: Mapped[str]
    reason: Mapped[str | None] = mapped_column(Prose)
    error_type: Mapped[str | None]
    model_id: Mapped[str | None]
    weights_sha256: Mapped[str | None]
    licence: Mapped[str | None]
    data_terms: Mapped[str | None] = mapped_column(Prose)
    stage_version: Mapped[str]
    result_key: Mapped[str]
    device: Mapped[str]
    seconds: Mapped[float]
    peak_memory_bytes: Mapped[int] = mapped_column(BigInteger)
    reused: Mapped[bool]
    measures: Mapped[dict[str, Any]]
    flow_run_id: Mapped[str | None]
    task_run_id: Mapped[str | None]
    recorded_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Derivative(Base):
    """A published object; its sha256 is the truth about it."""

    __tablename__ = "derivative"
    __table_args__ = (UniqueConstraint("bucket", "key"), _hex("sha256", 64))

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    restoration_id: Mapped[str] = mapped_column(ForeignKey("restoration.id"), index=True)
    kind: Mapped[str]
    bucket: Mapped[str]
    key: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    media_type: Mapped[str]
    width: Mapped[int | None]
    height: Mapped[int | None]
    bits: Mapped[int | None]
    label: Mapped[str] = mapped_column(Prose)
    outside_mask_sha256: Mapped[str | None]
    published_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Score(Base):
    """One number about one derivative."""

    __tablename__ = "score"
    __table_args__ = (
        _one_of("direction", ("higher", "lower", "neutral")),
        _one_of("moment", ("before", "after", "fidelity")),
        UniqueConstraint("restoration_id", "derivative", "metric", "moment"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    restoration_id: Mapped[str] = mapped_column(ForeignKey("restoration.id"))
    derivative: Mapped[str]
    metric: Mapped[str]
    value: Mapped[float]
    direction: Mapped[str]
    moment: Mapped[str]


class Face(Base):
    """One face that an attempt found: where, and what was done about it and why."""

    __tablename__ = "face"
    __table_args__ = (
        _one_of("outcome", FACE_OUTCOMES),
        UniqueConstraint("restoration_id", "attempt", "number"),
        ForeignKeyConstraint(["restoration_id", "attempt"], ["attempt.restoration_id", "attempt.number"]),
        Index("ix_face_model", "model_id", "weights_sha256"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    restoration_id: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[int]
    number: Mapped[int]
    box_left: Mapped[float]
    box_top: Mapped[float]
    box_right: Mapped[float]
    box_bottom: Mapped[float]
    landmarks: Mapped[list[list[float]]] = mapped_column(JSONB)
    height_px: Mapped[float]
    score: Mapped[float]
    outcome: Mapped[str]
    reason: Mapped[str | None] = mapped_column(Prose)
    worked_px: Mapped[int | None]
    fidelity: Mapped[float | None]
    landmark_movement: Mapped[float | None]
    low_difference: Mapped[float | None]
    identity_distance: Mapped[float | None]
    identity_measure: Mapped[str | None]
    model_id: Mapped[str | None]
    weights_sha256: Mapped[str | None]


class Event(Base):
    """Something that happened. Append-only: a trigger refuses UPDATE, DELETE and TRUNCATE."""

    __tablename__ = "event"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    kind: Mapped[str]
    scan_key: Mapped[str | None] = mapped_column(index=True)
    restoration_id: Mapped[str | None] = mapped_column(ForeignKey("restoration.id"), index=True)
    nightly_run_id: Mapped[int | None] = mapped_column(ForeignKey("nightly_run.id"), index=True)
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    once: Mapped[str | None] = mapped_column(unique=True)


class Quarantined(Base):
    """An object that cannot be restored as it is; the master stays where it is."""

    __tablename__ = "quarantined"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    scan_id: Mapped[int] = mapped_column(ForeignKey("scan.id"), unique=True)
    reason: Mapped[str] = mapped_column(Prose)
    expected: Mapped[str] = mapped_column(Prose)
    found: Mapped[str] = mapped_column(Prose)
    quarantined_at: Mapped[datetime] = mapped_column(server_default=func.now())
    released_at: Mapped[datetime | None]
    released_by: Mapped[str | None]
    nightly_run_id: Mapped[int | None] = mapped_column(ForeignKey("nightly_run.id"), index=True)
    flow_run_id: Mapped[str | None]
