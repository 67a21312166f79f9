"""Nights in the ledger: opened, sent out in batches, kept alive, closed; and what the next one can learn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, extract, func, select, update
from sqlalchemy.dialects.postgresql import insert

from db import statements
from db.connection import Database
from db.records import (
    BatchState,
    Event,
    LedgerConflict,
    ListedObject,
    Night,
    NightCounts,
    NightOutcome,
    NightState,
    Pace,
    Schedule,
    StageLine,
)
from db.statements import append, batch, night_schedule, nightly_run, restoration


class Nights:
    """The part of the ledger that nights need; ``db.ledger.Ledger`` is the whole."""

    _database: Database

    # -- the night itself ----------------------------------------------------------------------------------------

    def open_night(
        self,
        flow_run_id: str,
        recipe_name: str,
        prefix: str,
        *,
        scheduled_for: datetime | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> int:
        """Id of the night of this flow run; a night that was closed is open again (its flow was retried)."""
        with self._database.transaction() as connection:
            row = insert(nightly_run).values(
                flow_run_id=flow_run_id, recipe_name=recipe_name, prefix=prefix, scheduled_for=scheduled_for,
                parameters=dict(parameters or {}),
            )  # fmt: skip
            news = connection.execute(
                row.on_conflict_do_update(
                    index_elements=["flow_run_id"],
                    set_={"state": NightState.RUNNING, "finished_at": None, "alive_at": func.now()},
                    where=nightly_run.c.state != NightState.RUNNING,
                ).returning(nightly_run.c.id)
            ).scalar_one_or_none()
            if news is not None:
                detail = {"flow_run_id": flow_run_id, "recipe": recipe_name, "prefix": prefix}
                append(connection, Event("night_opened", detail, nightly_run_id=news))
                return int(news)
            known = select(nightly_run.c.id).where(nightly_run.c.flow_run_id == flow_run_id)
            return int(connection.execute(known).scalar_one())

    def close_night(self, night_id: int, state: NightState, counts: NightCounts, digest: str) -> None:
        """The night has its end, its counts and its digest (Markdown); the last call counts."""
        with self._database.transaction() as connection:
            before = connection.execute(
                select(nightly_run.c.state).where(nightly_run.c.id == night_id).with_for_update(key_share=True)
            ).scalar_one_or_none()
            if before is None:
                raise LedgerConflict(f"night {night_id}: expected a row, found none")
            values: dict[str, Any] = {"state": state, "digest": digest, **asdict(counts)}
            if before == NightState.RUNNING:
                values["finished_at"] = func.now()
            connection.execute(update(nightly_run).where(nightly_run.c.id == night_id).values(values))
            if before != state:
                append(connection, Event("night_closed", {"state": state, **asdict(counts)}, nightly_run_id=night_id))

    def close_silent_nights(self, silent_seconds: float, digest: str) -> tuple[int, ...]:
        """Ids of the nights that were still running by their rows but silent for so long; now they have failed."""
        limit = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, silent_seconds)
        silent = (nightly_run.c.state == NightState.RUNNING) & (nightly_run.c.alive_at < limit)
        with self._database.transaction() as connection:
            closed = connection.execute(
                update(nightly_run)
                .where(silent)
                .values(state=NightState.FAILED, finished_at=nightly_run.c.alive_at, digest=digest)
                .returning(nightly_run.c.id)
            )
            ids = tuple(sorted(int(night_id) for (night_id,) in closed))
            for night_id in ids:
                append(
                    connection, Event("night_closed", {"state": "failed", "reason": digest}, nightly_run_id=night_id)
                )
            return ids

    def night(self, night_id: int) -> Night | None:
        """The night, or None."""
        found = self._nights(nightly_run.c.id == night_id)
        return found[0] if found else None

    def nights_since(self, moment: datetime) -> tuple[Night, ...]:
        """The nights that were to start, or were still at work, at ``moment`` or later; oldest first."""
        later = (nightly_run.c.scheduled_for >= moment) | (nightly_run.c.started_at >= moment)
        return self._nights(later | nightly_run.c.finished_at.is_(None) | (nightly_run.c.finished_at >= moment))

    def _nights(self, where: Any) -> tuple[Night, ...]:
        silent = extract("epoch", func.now() - nightly_run.c.alive_at)
        statement = select(nightly_run, silent.label("silent")).where(where).order_by(nightly_run.c.id)
        with self._database.transaction() as connection:
            return tuple(_night(row) for row in connection.execute(statement).mappings())

    def night_outcomes(self, night_id: int) -> tuple[NightOutcome, ...]:
        """Every scan that the night worked on or put in quarantine, by key.

        A scan that ended before it could be claimed (it could not be fetched; its bytes were restored before) is in it
        when an event ``scan_failed`` or ``scan_skipped`` of this night, with a ``reason``, tells so.
        """
        with self._database.transaction() as connection:
            rows = connection.execute(statements.NIGHT_OUTCOMES, {"night_id": night_id}).mappings().all()
        return tuple(
            NightOutcome(**{**row, "stages": tuple(StageLine(**line) for line in row["stages"])}) for row in rows
        )

    def unended(self, night_id: int, bucket: str, keys: Sequence[str]) -> tuple[str, ...]:
        """Those of ``keys`` that this night has no end for yet: never begun, begun and not ended, or lost."""
        values = {"night_id": night_id, "bucket": bucket, "keys": list(keys)}
        with self._database.transaction() as connection:
            return tuple(connection.execute(statements.UNENDED, values).scalars())

    # -- batches -------------------------------------------------------------------------------------------------

    def batch_sent(self, night_id: int, number: int, scan_keys: Sequence[str], flow_run_id: str, attempts: int) -> None:
        """The batch was sent to a worker, for the ``attempts``-th time."""
        with self._database.transaction() as connection:
            row = insert(batch).values(
                nightly_run_id=night_id, number=number, scan_keys=list(scan_keys), attempts=attempts,
                flow_run_id=flow_run_id,
            )  # fmt: skip
            connection.execute(
                row.on_conflict_do_update(
                    index_elements=["nightly_run_id", "number"],
                    set_={
                        "attempts": row.excluded.attempts,
                        "flow_run_id": flow_run_id,
                        "scan_keys": row.excluded.scan_keys,
                        "state": BatchState.SUBMITTED,
                        "submitted_at": func.now(),
                        "alive_at": None,
                        "worker": None,
                        "finished_at": None,
                    },
                    where=batch.c.flow_run_id != flow_run_id,
                )
            )
            detail = {"batch": number, "attempt": attempts, "scans": len(scan_keys), "flow_run_id": flow_run_id}
            append(connection, Event("batch_sent", detail, nightly_run_id=night_id), once=f"batch_sent {flow_run_id}")

    def batch_broke_off(self, night_id: int, number: int, flow_run_id: str, reason: str) -> None:
        """That run of the batch did not come to its end; the reason stays with the batch."""
        with self._database.transaction() as connection:
            connection.execute(
                update(batch).where(batch.c.nightly_run_id == night_id, batch.c.number == number).values(reason=reason)
            )
            detail = {"batch": number, "flow_run_id": flow_run_id, "reason": reason}
            append(
                connection,
                Event("batch_broke_off", detail, nightly_run_id=night_id),
                once=f"batch_broke_off {flow_run_id}",
            )

    def end_batch(self, night_id: int, number: int, state: BatchState) -> None:
        """The batch is not sent again."""
        with self._database.transaction() as connection:
            connection.execute(
                update(batch)
                .where(batch.c.nightly_run_id == night_id, batch.c.number == number, batch.c.finished_at.is_(None))
                .values(state=state, finished_at=func.now())
            )

    # -- signs of life -------------------------------------------------------------------------------------------

    def alive(self, flow_run_id: str, holder: str, lease_seconds: float, worker: str) -> None:
        """The run lives: its batch's row says so, and every claim that is still its own is extended."""
        until = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, lease_seconds)
        with self._database.transaction() as connection:
            connection.execute(
                update(batch)
                .where(batch.c.flow_run_id == flow_run_id, batch.c.finished_at.is_(None))
                .values(state=BatchState.RUNNING, alive_at=func.clock_timestamp(), worker=worker)
            )
            connection.execute(update(restoration).where(restoration.c.claimed_by == holder).values(lease_until=until))

    def night_alive(self, night_id: int) -> None:
        """The night lives."""
        with self._database.transaction() as connection:
            connection.execute(
                update(nightly_run).where(nightly_run.c.id == night_id).values(alive_at=func.clock_timestamp())
            )

    def signs_of_life(self, flow_run_ids: Sequence[str]) -> dict[str, datetime | None]:
        """When the runs of these batches were last heard of; None: not yet."""
        statement = select(batch.c.flow_run_id, batch.c.alive_at).where(batch.c.flow_run_id.in_(list(flow_run_ids)))
        with self._database.transaction() as connection:
            return {row.flow_run_id: row.alive_at for row in connection.execute(statement)}

    def forfeit(self, holder: str, reason: str) -> tuple[str, ...]:
        """Keys of the scans whose claims ``holder``, a run that is gone, leaves behind; they may be claimed at once."""
        with self._database.transaction() as connection:
            gone = connection.execute(statements.FORFEIT, {"holder": holder, "reason": reason}).all()
            for key, restoration_id, number, night_id in gone:
                detail = {"attempt": number, "holder": holder, "reason": reason}
                append(connection, Event("lost", detail, key, restoration_id, night_id))
        return tuple(key for key, *_ in gone)

    # -- what is to be expected ----------------------------------------------------------------------------------

    def note_schedule(self, cron: str, timezone: str) -> None:
        """From now on nights start by this cron; nothing is written where that is so already."""
        with self._database.transaction() as connection:
            latest = select(night_schedule.c.cron, night_schedule.c.timezone).order_by(night_schedule.c.id.desc())
            found = connection.execute(latest.limit(1)).one_or_none()
            if found is None or tuple(found) != (cron, timezone):
                connection.execute(insert(night_schedule).values(cron=cron, timezone=timezone))

    def schedules(self) -> tuple[Schedule, ...]:
        """Every schedule there has been, oldest first."""
        statement = select(night_schedule.c.cron, night_schedule.c.timezone, night_schedule.c.since)
        with self._database.transaction() as connection:
            return tuple(Schedule(*row) for row in connection.execute(statement.order_by(night_schedule.c.id)))

    def known_megapixels(self, bucket: str, listed: Sequence[ListedObject]) -> dict[int, float]:
        """Megapixels of those of ``listed`` (by their place) that were opened before."""
        keys, sizes = [item.key for item in listed], [item.size_bytes for item in listed]
        with self._database.transaction() as connection:
            values = {"bucket": bucket, "keys": keys, "sizes": sizes}
            return {place - 1: float(size) for place, size in connection.execute(statements.KNOWN_MEGAPIXELS, values)}

    def pace(self, recipe_name: str) -> Pace:
        """How large this archive's files are for their pixels, and how fast this recipe has been."""
        with self._database.transaction() as connection:
            sizes = {media_type: float(size) for media_type, size in connection.execute(statements.BYTES_PER_MEGAPIXEL)}
            seconds = connection.execute(statements.SECONDS_PER_MEGAPIXEL, {"recipe_name": recipe_name}).scalar()
        return Pace(None if seconds is None else float(seconds), sizes)


def _night(row: RowMapping) -> Night:
    return Night(
        id=row["id"],
        flow_run_id=row["flow_run_id"],
        recipe_name=row["recipe_name"],
        prefix=row["prefix"],
        state=NightState(row["state"]),
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        counts=NightCounts(**{name: row[name] for name in NightCounts.__dataclass_fields__}),
        digest=row["digest"],
        scheduled_for=row["scheduled_for"],
        parameters=row["parameters"],
        silent_seconds=float(row["silent"]),
    )
