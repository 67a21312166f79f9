"""The one place of statements: what was seen, who works on what, how it ended.

Every method is one transaction and may be repeated: a call whose answer was lost does no harm the second time.
Errors are those of ``db.records``. Times are the database's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import RowMapping, func
from sqlalchemy.dialects.postgresql import insert

from db import statements
from db.connection import Database
from db.nights import Nights
from db.records import (
    Claim,
    ClaimStatus,
    Derivative,
    Event,
    Face,
    History,
    LedgerConflict,
    ListedObject,
    MasterFacts,
    PageDiff,
    PlannedRestoration,
    Quarantined,
    Restoration,
    Score,
    StageRun,
    State,
)
from db.statements import append, locked, quarantined


class Ledger(Nights):
    """The provenance database at ``url`` (postgresql+psycopg2://…); nothing is opened before the first call.

    It may be shared by threads, pickled and carried across a fork.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)

    def __repr__(self) -> str:
        return f"Ledger({self._database.place!r})"

    def close(self) -> None:
        """Connections are closed; the next call opens new ones."""
        self._database.close()

    # -- what is new ---------------------------------------------------------------------------------------------

    def unfinished(
        self,
        bucket: str,
        recipe_name: str,
        listed: Sequence[ListedObject],
        *,
        attempts_at_most: int = 5,
        force: bool = False,
    ) -> PageDiff:
        """What of a listing's page is still to be restored with the recipe of this name.

        An object is the same as last time when bucket, key, etag and size are, and the version id where both sides
        know one. Failed and lost restorations come again until they were tried ``attempts_at_most`` times.
        Objects with the same bytes share their restoration, so a copy of a restored master is unchanged once read.
        With ``force`` everything is to do but what is in quarantine.
        """
        if not listed:
            return PageDiff((), 0, 0, 0)
        with self._database.transaction() as connection:
            found = connection.execute(
                statements.PAGE_DIFF,
                {
                    "bucket": bucket,
                    "recipe_name": recipe_name,
                    "attempts_at_most": attempts_at_most,
                    "force": force,
                    "keys": [item.key for item in listed],
                    "etags": [item.etag for item in listed],
                    "sizes": [item.size_bytes for item in listed],
                    "versions": [item.version_id for item in listed],
                },
            )
            places: dict[str, list[int]] = {status: list(where) for status, where in found}
        return PageDiff(
            todo=tuple(listed[place - 1] for place in sorted(places.get("todo", ()))),
            unchanged=len(places.get("unchanged", ())),
            quarantined=len(places.get("quarantined", ())),
            given_up=len(places.get("given_up", ())),
        )

    def register(self, bucket: str, scan: ListedObject, master: MasterFacts) -> int:
        """Id of the scan, once its bytes were read.

        Raises LedgerConflict where the same object was read before with other bytes: something in between lies.
        """
        with self._database.transaction() as connection:
            connection.execute(
                insert(statements.master)
                .values(
                    sha256=master.sha256,
                    size_bytes=master.size_bytes,
                    width=master.width,
                    height=master.height,
                    channels=master.channels,
                    bits=master.bits,
                    media_type=master.media_type,
                    orientation=master.orientation,
                    dpi_x=master.dpi[0] if master.dpi else None,
                    dpi_y=master.dpi[1] if master.dpi else None,
                    icc_name=master.icc_name,
                    notes=list(master.notes),
                )
                .on_conflict_do_nothing(index_elements=["sha256"])
            )
            return statements.scan_id(connection, bucket, scan, master.sha256)

    # -- quarantine ----------------------------------------------------------------------------------------------

    def quarantine(
        self,
        bucket: str,
        scan: ListedObject,
        *,
        reason: str,
        expected: str,
        found: str,
        night_id: int | None = None,
        flow_run_id: str | None = None,
    ) -> None:
        """The object is in quarantine until it changes or is released; the first reason stays."""
        with self._database.transaction() as connection:
            scan_id = statements.scan_id(connection, bucket, scan, None)
            row = insert(quarantined).values(
                scan_id=scan_id,
                reason=reason,
                expected=expected,
                found=found,
                nightly_run_id=night_id,
                flow_run_id=flow_run_id,
            )
            news = connection.execute(
                row.on_conflict_do_update(
                    index_elements=["scan_id"],
                    set_={
                        "reason": row.excluded.reason,
                        "expected": row.excluded.expected,
                        "found": row.excluded.found,
                        "nightly_run_id": row.excluded.nightly_run_id,
                        "flow_run_id": row.excluded.flow_run_id,
                        "quarantined_at": func.now(),
                        "released_at": None,
                        "released_by": None,
                    },
                    where=quarantined.c.released_at.is_not(None),
                ).returning(quarantined.c.id)
            ).one_or_none()
            if news is not None:
                detail = {"bucket": bucket, "reason": reason, "expected": expected, "found": found}
                append(connection, Event("quarantined", detail, scan_key=scan.key, nightly_run_id=night_id))

    def release(self, bucket: str, key: str, by: str) -> int:
        """How many things were let go: quarantined objects under the key and its failed or lost restorations.

        They are tried again in the next night; one that fails then is given up again.
        """
        where = {"bucket": bucket, "key": key, "by": by}
        with self._database.transaction() as connection:
            released = len(connection.execute(statements.RELEASE_QUARANTINED, where).all())
            released += len(connection.execute(statements.RELEASE_RESTORATIONS, where).all())
            if released:
                append(connection, Event("released", {"bucket": bucket, "by": by, "count": released}, scan_key=key))
        return released

    # -- restorations --------------------------------------------------------------------------------------------

    def claim(self, planned: PlannedRestoration, holder: str, lease_seconds: float) -> Claim:
        """The restoration, claimed for ``holder``, or who has it, or that it is finished.

        Exactly one of any number of concurrent callers gets ``claimed``. A lease that ran out, a failure and a
        released quarantine can be claimed again, as the next attempt; the holder that has a live lease gets the same
        attempt again. What is finished stays finished: a published derivative is never recomputed.
        """
        with self._database.transaction() as connection:
            connection.execute(
                insert(statements.restoration)
                .values(
                    id=planned.id,
                    master_sha256=planned.master_sha256,
                    scan_id=planned.scan_id,
                    recipe_name=planned.recipe_name,
                    recipe_digest=planned.recipe_digest,
                    recipe=planned.recipe,
                    prefix=planned.prefix,
                )
                .on_conflict_do_nothing(index_elements=["id"])
            )
            row = locked(connection, planned.id)
            for name in ("master_sha256", "recipe_digest"):
                if row[name] != getattr(planned, name):
                    raise LedgerConflict(
                        f"restoration {planned.id}: expected {name} {row[name]}, found {getattr(planned, name)}"
                    )
            if State(row["state"]).finished:
                return _claim(ClaimStatus.FINISHED, row)
            if row["live"] and row["claimed_by"] != holder:
                return _claim(ClaimStatus.RUNNING, row)
            if not row["live"]:
                statements.begin_attempt(connection, planned, row, holder)
            return _claim(ClaimStatus.CLAIMED, statements.lease(connection, planned.id, holder, lease_seconds))

    def extend(self, restoration_id: str, holder: str, lease_seconds: float) -> bool:
        """Whether the lease is still the holder's, now for ``lease_seconds`` more; False: stop, somebody took over."""
        with self._database.transaction() as connection:
            if locked(connection, restoration_id)["claimed_by"] != holder:
                return False
            statements.lease(connection, restoration_id, holder, lease_seconds)
            return True

    def record(
        self,
        restoration_id: str,
        attempt: int,
        holder: str,
        state: State,
        reason: str | None = None,
        *,
        stage_runs: Sequence[StageRun] = (),
        derivatives: Sequence[Derivative] = (),
        scores: Sequence[Score] = (),
        faces: Sequence[Face] = (),
        events: Sequence[Event] = (),
    ) -> None:
        """The end of an attempt: its rows, the restoration's state and the lease's release, all or nothing.

        ``state``: restored, skipped, failed or quarantined. Raises LedgerConflict where another holder took over,
        where this attempt was recorded with another state, or where a derivative's key is known with other bytes.
        """
        if state in (State.PLANNED, State.RUNNING):
            raise LedgerConflict(f"restoration {restoration_id}: expected a final state, found {state}")
        with self._database.transaction() as connection:
            row = locked(connection, restoration_id)
            if row["attempts"] != attempt or row["claimed_by"] != holder:
                statements.check_recorded(connection, row, attempt, holder, state)
                return
            statements.add_stage_runs(connection, restoration_id, attempt, stage_runs)
            for derivative in derivatives:
                statements.add_derivative(connection, restoration_id, derivative)
            for score in scores:
                statements.set_score(connection, restoration_id, score)
            statements.add_faces(connection, restoration_id, attempt, faces)
            for event in events:
                append(connection, replace(event, restoration_id=restoration_id))
            statements.end_attempt(connection, row, state, reason)

    def event(self, event: Event, *, once: str | None = None) -> None:
        """The event is appended; with ``once`` (any text that names it) a repeated call appends nothing."""
        with self._database.transaction() as connection:
            append(connection, event, once)

    def restoration(self, restoration_id: str) -> Restoration | None:
        """The restoration with the rows of its last attempt, or None."""
        with self._database.transaction() as connection:
            return statements.read_restoration(connection, restoration_id)

    def history(self, bucket: str, key: str) -> History:
        """All that is known of a key: its restorations (also through copies of its bytes), quarantine and events."""
        where = {"bucket": bucket, "key": key}
        with self._database.transaction() as connection:
            ids = connection.execute(statements.RESTORATIONS_OF_KEY, where).scalars().all()
            found = (statements.read_restoration(connection, restoration_id) for restoration_id in ids)
            quarantined = connection.execute(statements.QUARANTINED_OF_KEY, where).mappings().all()
            events = connection.execute(statements.EVENTS_OF_KEY, {**where, "ids": list(ids)}).mappings().all()
            return History(
                restorations=tuple(restoration for restoration in found if restoration is not None),
                quarantined=tuple(Quarantined(**row) for row in quarantined),
                events=tuple(Event(**row) for row in events),
            )


def _claim(status: ClaimStatus, row: RowMapping) -> Claim:
    return Claim(
        status=status,
        restoration_id=row["id"],
        state=State(row["state"]),
        reason=row["reason"],
        attempt=row["attempts"],
        planned_at=row["planned_at"],
        holder=row["claimed_by"],
        lease_until=row["lease_until"],
        prefix=row["prefix"],
    )
