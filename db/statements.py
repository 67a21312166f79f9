"""The statements of the ledger, each within a transaction that somebody else holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, Table, and_, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from db.records import (
    Derivative,
    Event,
    Face,
    LedgerConflict,
    ListedObject,
    PlannedRestoration,
    Restoration,
    Score,
    StageRun,
    State,
)
from db.schema import Base

TABLES: Mapping[str, Table] = Base.metadata.tables
master, scan, restoration = TABLES["master"], TABLES["scan"], TABLES["restoration"]
attempt, stage_run, score = TABLES["attempt"], TABLES["stage_run"], TABLES["score"]
derivative, quarantined = TABLES["derivative"], TABLES["quarantined"]
nightly_run, event = TABLES["nightly_run"], TABLES["event"]
batch, night_schedule = TABLES["batch"], TABLES["night_schedule"]
face = TABLES["face"]

# The laterals aggregate, so that PostgreSQL cannot turn them into a join over the whole tables: one page of 1,000
# objects costs 1,000 index look-ups however large the archive is.
PAGE_DIFF = text("""
    SELECT page.status, array_agg(page.place) FROM (
        SELECT listed.place, CASE WHEN known.quarantined THEN 'quarantined'
                                  WHEN :force THEN 'todo'
                                  WHEN known.finished THEN 'unchanged'
                                  WHEN known.given_up THEN 'given_up'
                                  ELSE 'todo' END AS status
        FROM unnest(CAST(:keys AS text[]), CAST(:etags AS text[]), CAST(:sizes AS bigint[]), CAST(:versions AS text[]))
             WITH ORDINALITY AS listed (key, etag, size_bytes, version_id, place)
        LEFT JOIN LATERAL (
            SELECT bool_or(quarantined.id IS NOT NULL) AS quarantined,
                   bool_or(tried.finished) AS finished,
                   bool_and(tried.given_up) AS given_up
            FROM scan
            LEFT JOIN quarantined ON quarantined.scan_id = scan.id AND quarantined.released_at IS NULL
            LEFT JOIN LATERAL (
                SELECT bool_or(r.state IN ('restored', 'skipped')) AS finished,
                       bool_and(r.attempts >= :attempts_at_most AND (r.state IN ('failed', 'quarantined')
                                OR r.state = 'running' AND r.lease_until < now())) AS given_up
                FROM restoration r
                WHERE r.master_sha256 = scan.master_sha256 AND r.recipe_name = :recipe_name
            ) AS tried ON true
            WHERE scan.bucket = :bucket AND scan.key = listed.key AND scan.etag = listed.etag
              AND scan.size_bytes = listed.size_bytes
              AND (scan.version_id IS NULL OR listed.version_id IS NULL OR scan.version_id = listed.version_id)
        ) AS known ON true
    ) AS page GROUP BY page.status
""")

RELEASE_QUARANTINED = text("""
    UPDATE quarantined SET released_at = now(), released_by = :by
    FROM scan
    WHERE scan.id = quarantined.scan_id AND scan.bucket = :bucket AND scan.key = :key
      AND quarantined.released_at IS NULL
    RETURNING quarantined.id
""")

RELEASE_RESTORATIONS = text("""
    WITH released AS (
        UPDATE restoration SET state = 'planned', claimed_by = NULL, lease_until = NULL, finished_at = NULL
        WHERE master_sha256 IN (SELECT master_sha256 FROM scan WHERE bucket = :bucket AND key = :key)
          AND (state IN ('failed', 'quarantined') OR state = 'running' AND lease_until < now())
        RETURNING id, attempts
    ), ended AS (
        UPDATE attempt SET state = 'lost', finished_at = now()
        FROM released
        WHERE attempt.restoration_id = released.id AND attempt.number = released.attempts AND attempt.state = 'running'
    )
    SELECT id FROM released
""")

# Three sources: what was claimed, what was quarantined before that, and what ended before a claim (told by an event).
NIGHT_OUTCOMES = text("""
    WITH worked AS (
        SELECT DISTINCT ON (restoration_id) * FROM attempt
        WHERE nightly_run_id = :night_id ORDER BY restoration_id, number DESC
    )
    SELECT scan.key, worked.restoration_id, worked.number AS attempt, worked.state, worked.reason,
           stages.damage_coverage, coalesce(stages.lines, '[]'::json) AS stages, restoration.prefix,
           (SELECT min(d.key) FROM derivative d
            WHERE d.restoration_id = worked.restoration_id AND d.kind = 'cleaned') AS cleaned_key,
           coalesce(stages.seconds, 0) AS seconds, stages.error_type
    FROM worked
    JOIN scan ON scan.id = worked.scan_id
    JOIN restoration ON restoration.id = worked.restoration_id
    CROSS JOIN LATERAL (
        SELECT json_agg(json_build_object('stage', s.stage, 'outcome', s.outcome, 'reason', s.reason,
                                          'model_id', s.model_id, 'data_terms', s.data_terms)
                        ORDER BY s.position) AS lines,
               max((s.measures ->> 'damage_coverage')::float8) AS damage_coverage,
               sum(s.seconds) AS seconds,
               max(s.error_type) FILTER (WHERE s.outcome NOT IN ('done', 'skipped')) AS error_type
        FROM stage_run s WHERE s.restoration_id = worked.restoration_id AND s.attempt = worked.number
    ) AS stages
    UNION ALL
    SELECT scan.key, NULL, 0, 'quarantined', quarantined.reason, NULL, '[]'::json, NULL, NULL, 0, 'BadScan'
    FROM quarantined JOIN scan ON scan.id = quarantined.scan_id
    WHERE quarantined.nightly_run_id = :night_id
      AND NOT EXISTS (SELECT FROM worked WHERE worked.scan_id = scan.id)
    UNION ALL
    SELECT told.scan_key, told.restoration_id, 0, told.state, told.reason, NULL, '[]'::json, restoration.prefix,
           (SELECT min(d.key) FROM derivative d
            WHERE d.restoration_id = told.restoration_id AND d.kind = 'cleaned'), 0, told.error_type
    FROM (
        SELECT DISTINCT ON (scan_key) scan_key, restoration_id, substr(kind, 6) AS state, detail ->> 'reason' AS reason,
               detail ->> 'error_type' AS error_type
        FROM event WHERE nightly_run_id = :night_id AND kind IN ('scan_failed', 'scan_skipped')
        ORDER BY scan_key, id DESC
    ) AS told
    LEFT JOIN restoration ON restoration.id = told.restoration_id
    WHERE NOT EXISTS (SELECT FROM worked JOIN scan ON scan.id = worked.scan_id WHERE scan.key = told.scan_key)
      AND NOT EXISTS (SELECT FROM quarantined JOIN scan ON scan.id = quarantined.scan_id
                      WHERE quarantined.nightly_run_id = :night_id AND scan.key = told.scan_key)
    ORDER BY 1
""")

# Of these keys, those that this night has no end for yet; in their order.
UNENDED = text("""
    SELECT wanted.key FROM unnest(CAST(:keys AS text[])) WITH ORDINALITY AS wanted (key, place)
    WHERE NOT EXISTS (SELECT FROM scan JOIN attempt ON attempt.scan_id = scan.id
                      WHERE scan.bucket = :bucket AND scan.key = wanted.key AND attempt.nightly_run_id = :night_id
                        AND attempt.state NOT IN ('running', 'lost'))
      AND NOT EXISTS (SELECT FROM scan JOIN quarantined ON quarantined.scan_id = scan.id
                      WHERE scan.bucket = :bucket AND scan.key = wanted.key AND quarantined.nightly_run_id = :night_id)
      AND NOT EXISTS (SELECT FROM event WHERE event.scan_key = wanted.key AND event.nightly_run_id = :night_id
                        AND event.kind IN ('scan_failed', 'scan_skipped'))
    ORDER BY wanted.place
""")

# The claims of a run that is gone: free at once, their attempts lost. What has ended meanwhile is left alone.
FORFEIT = text("""
    WITH gone AS (
        UPDATE restoration SET state = 'failed', reason = :reason, claimed_by = NULL, lease_until = NULL,
                               finished_at = now()
        WHERE claimed_by = :holder AND state = 'running'
        RETURNING id, attempts
    ), ended AS (
        UPDATE attempt SET state = 'lost', reason = :reason, finished_at = now()
        FROM gone
        WHERE attempt.restoration_id = gone.id AND attempt.number = gone.attempts AND attempt.state = 'running'
        RETURNING attempt.restoration_id, attempt.number, attempt.scan_id, attempt.nightly_run_id
    )
    SELECT scan.key, ended.restoration_id, ended.number, ended.nightly_run_id
    FROM ended JOIN scan ON scan.id = ended.scan_id ORDER BY scan.key
""")

# Sizes of the scans that were opened before, by key and file size.
KNOWN_MEGAPIXELS = text("""
    SELECT listed.place, max(master.width::float8 * master.height / 1e6) AS megapixels
    FROM unnest(CAST(:keys AS text[]), CAST(:sizes AS bigint[])) WITH ORDINALITY AS listed (key, size_bytes, place)
    JOIN scan ON scan.bucket = :bucket AND scan.key = listed.key AND scan.size_bytes = listed.size_bytes
    JOIN master ON master.sha256 = scan.master_sha256
    GROUP BY listed.place
""")

BYTES_PER_MEGAPIXEL = text("""
    SELECT media_type, sum(size_bytes)::float8 / sum(width::float8 * height / 1e6) AS bytes_per_megapixel
    FROM master GROUP BY media_type
""")

# The last 1,000 restorations of the recipe that did their own work: all their stages' seconds over their megapixels.
SECONDS_PER_MEGAPIXEL = text("""
    SELECT sum(spent.seconds) / sum(spent.megapixels) FROM (
        SELECT (SELECT sum(s.seconds) FROM stage_run s
                WHERE s.restoration_id = r.id AND s.attempt = r.attempts) AS seconds,
               m.width::float8 * m.height / 1e6 AS megapixels
        FROM restoration r JOIN master m ON m.sha256 = r.master_sha256
        WHERE r.recipe_name = :recipe_name AND r.state IN ('restored', 'skipped')
          AND NOT EXISTS (SELECT FROM stage_run s
                          WHERE s.restoration_id = r.id AND s.attempt = r.attempts AND s.reused)
        ORDER BY r.finished_at DESC LIMIT 1000
    ) AS spent WHERE spent.seconds IS NOT NULL
""")

RESTORATIONS_OF_KEY = text("""
    SELECT id FROM restoration
    WHERE master_sha256 IN (SELECT master_sha256 FROM scan WHERE bucket = :bucket AND key = :key)
    ORDER BY planned_at, id
""")

QUARANTINED_OF_KEY = text("""
    SELECT bucket, key, etag, version_id, reason, expected, found, quarantined_at, released_at, released_by
    FROM quarantined JOIN scan ON scan.id = quarantined.scan_id
    WHERE bucket = :bucket AND key = :key ORDER BY quarantined_at, quarantined.id
""")

EVENTS_OF_KEY = text("""
    SELECT kind, detail, scan_key, restoration_id, nightly_run_id, at FROM event
    WHERE restoration_id = ANY(CAST(:ids AS text[]))
       OR restoration_id IS NULL AND scan_key = :key AND coalesce(detail ->> 'bucket', :bucket) = :bucket
    ORDER BY id
""")

_COLUMNS_OF: Mapping[str, type[StageRun] | type[Derivative] | type[Score]] = {
    "stage_run": StageRun,
    "derivative": Derivative,
    "score": Score,
}


def append(connection: Connection, happened: Event, once: str | None = None) -> None:
    """The event is in the log, at the database's time; ``once`` that is there already appends nothing."""
    connection.execute(
        insert(event)
        .values(
            kind=happened.kind,
            scan_key=happened.scan_key,
            restoration_id=happened.restoration_id,
            nightly_run_id=happened.nightly_run_id,
            detail=happened.detail,
            once=once,
        )
        .on_conflict_do_nothing(index_elements=["once"])
    )


def scan_id(connection: Connection, bucket: str, listed: ListedObject, master_sha256: str | None) -> int:
    """Id of the scan's row, which is written where there is none and learns its master where it has none."""
    row = insert(scan).values(
        bucket=bucket,
        key=listed.key,
        etag=listed.etag,
        version_id=listed.version_id,
        size_bytes=listed.size_bytes,
        last_modified=listed.last_modified,
        master_sha256=master_sha256,
    )
    learned = func.coalesce(scan.c.master_sha256, row.excluded.master_sha256)
    found = connection.execute(
        row.on_conflict_do_update(constraint="uq_scan_object", set_={"master_sha256": learned}).returning(
            scan.c.id, scan.c.master_sha256
        )
    ).one()
    if master_sha256 is not None and found.master_sha256 != master_sha256:
        raise LedgerConflict(
            f"{bucket}/{listed.key} (etag {listed.etag}): expected sha256 {found.master_sha256}, found {master_sha256}"
        )
    return int(found.id)


def locked(connection: Connection, restoration_id: str) -> RowMapping:
    """The restoration's row, locked to the end of the transaction; ``live``: its lease has not run out."""
    row = (
        connection.execute(
            select(restoration, func.coalesce(restoration.c.lease_until > func.clock_timestamp(), False).label("live"))
            .where(restoration.c.id == restoration_id)
            .with_for_update(key_share=True)
        )
        .mappings()
        .one_or_none()
    )
    if row is None:
        raise LedgerConflict(f"restoration {restoration_id}: expected a row, found none")
    return row


def begin_attempt(connection: Connection, planned: PlannedRestoration, row: RowMapping, holder: str) -> None:
    """The next attempt has its row; one that is still open had lost its lease and is marked so."""
    lost = connection.execute(
        update(attempt)
        .where(attempt.c.restoration_id == planned.id, attempt.c.state == "running")
        .values(state="lost", finished_at=func.now())
        .returning(attempt.c.number, attempt.c.holder, attempt.c.nightly_run_id)
    ).all()
    key = connection.execute(select(scan.c.key).where(scan.c.id == planned.scan_id)).scalar_one()
    for number, former, night in lost:
        append(connection, Event("lost", {"attempt": number, "holder": former}, key, planned.id, night))
    number = row["attempts"] + 1
    connection.execute(
        insert(attempt).values(
            restoration_id=planned.id,
            number=number,
            scan_id=planned.scan_id,
            holder=holder,
            nightly_run_id=planned.nightly_run_id,
            flow_run_id=planned.flow_run_id,
            glassplate_version=planned.glassplate_version,
            device=planned.device,
        )
    )
    connection.execute(
        update(restoration)
        .where(restoration.c.id == planned.id)
        .values(attempts=number, reason=None, started_at=func.now(), finished_at=None)
    )
    detail = {"attempt": number, "holder": holder}
    append(connection, Event("claimed", detail, key, planned.id, planned.nightly_run_id))


def lease(connection: Connection, restoration_id: str, holder: str, lease_seconds: float) -> RowMapping:
    """The row, running and leased to ``holder`` from this moment on."""
    until = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, lease_seconds)
    return (
        connection.execute(
            update(restoration)
            .where(restoration.c.id == restoration_id)
            .values(state=State.RUNNING, claimed_by=holder, lease_until=until)
            .returning(restoration)
        )
        .mappings()
        .one()
    )


def check_recorded(connection: Connection, row: RowMapping, number: int, holder: str, state: State) -> None:
    """Nothing, where this attempt was recorded just so before; else LedgerConflict."""
    found = connection.execute(
        select(attempt.c.state, attempt.c.holder).where(
            and_(attempt.c.restoration_id == row["id"], attempt.c.number == number)
        )
    ).one_or_none()
    if found is None or found.holder != holder or found.state != state:
        then = "no such attempt" if found is None else f"attempt {number} {found.state}, by {found.holder}"
        now = f"{row['state']} at attempt {row['attempts']}, held by {row['claimed_by'] or 'nobody'}"
        raise LedgerConflict(
            f"restoration {row['id']}: expected attempt {number} held by {holder} to end as {state}, "
            f"found {then}; now {now}"
        )


def end_attempt(connection: Connection, row: RowMapping, state: State, reason: str | None) -> None:
    """The attempt and the restoration have their end, the lease is free, and an event says so."""
    ended = connection.execute(
        update(attempt)
        .where(attempt.c.restoration_id == row["id"], attempt.c.number == row["attempts"])
        .values(state=state, reason=reason, finished_at=func.now())
        .returning(attempt.c.scan_id, attempt.c.nightly_run_id, attempt.c.holder)
    ).one()
    connection.execute(
        update(restoration)
        .where(restoration.c.id == row["id"])
        .values(state=state, reason=reason, finished_at=func.now(), claimed_by=None, lease_until=None)
    )
    key = connection.execute(select(scan.c.key).where(scan.c.id == ended.scan_id)).scalar_one()
    detail = {"attempt": row["attempts"], "holder": ended.holder, "reason": reason}
    append(connection, Event(state.value, detail, key, row["id"], ended.nightly_run_id))


def add_stage_runs(connection: Connection, restoration_id: str, number: int, runs: Sequence[StageRun]) -> None:
    """The stages of the attempt, in their order."""
    rows = [
        {"restoration_id": restoration_id, "attempt": number, "position": position, **_values(run)}
        for position, run in enumerate(runs, 1)
    ]
    if rows:
        connection.execute(insert(stage_run), rows)


def add_derivative(connection: Connection, restoration_id: str, published: Derivative) -> None:
    """The derivative has its row; the same one recorded by an earlier attempt stays as it is."""
    values = {name: value for name, value in _values(published).items() if value is not None}
    connection.execute(
        insert(derivative)
        .values(restoration_id=restoration_id, **values)
        .on_conflict_do_nothing(index_elements=["bucket", "key"])
    )
    found = connection.execute(
        select(derivative.c.restoration_id, derivative.c.sha256).where(
            derivative.c.bucket == published.bucket, derivative.c.key == published.key
        )
    ).one()
    if tuple(found) != (restoration_id, published.sha256):
        raise LedgerConflict(
            f"{published.bucket}/{published.key}: expected sha256 {found.sha256} of restoration "
            f"{found.restoration_id}, found {published.sha256} of {restoration_id}"
        )


def add_faces(connection: Connection, restoration_id: str, number: int, found: Sequence[Face]) -> None:
    """The faces that the attempt found, each with what was done about it."""
    rows = []
    for one in found:
        values = _values(one)
        left, top, right, bottom = values.pop("box")
        values |= {"box_left": left, "box_top": top, "box_right": right, "box_bottom": bottom}
        values["landmarks"] = [list(point) for point in one.landmarks]
        rows.append({"restoration_id": restoration_id, "attempt": number, **values})
    if rows:
        connection.execute(insert(face), rows)


def set_score(connection: Connection, restoration_id: str, given: Score) -> None:
    """The score has its row; the last value counts."""
    row = insert(score).values(restoration_id=restoration_id, **_values(given))
    connection.execute(
        row.on_conflict_do_update(
            index_elements=["restoration_id", "derivative", "metric", "moment"],
            set_={"value": row.excluded.value, "direction": row.excluded.direction},
        )
    )


def read_restoration(connection: Connection, restoration_id: str) -> Restoration | None:
    """The restoration with the rows of its last attempt, or None."""
    found = (
        connection.execute(
            select(restoration, scan.c.bucket, scan.c.key, scan.c.etag, scan.c.version_id)
            .join(scan, scan.c.id == restoration.c.scan_id)
            .where(restoration.c.id == restoration_id)
        )
        .mappings()
        .one_or_none()
    )
    if found is None:
        return None
    row = dict(found)
    of_this = [table.c.restoration_id == restoration_id for table in (stage_run, derivative, score)]
    runs = _rows(connection, stage_run, and_(of_this[0], stage_run.c.attempt == row["attempts"]), "position")
    row["holder"] = row.pop("claimed_by")
    row["state"] = State(row["state"])
    del row["scan_id"]
    return Restoration(
        stage_runs=tuple(StageRun(**{**run, "measures": _numbers(run["measures"])}) for run in runs),
        derivatives=tuple(Derivative(**item) for item in _rows(connection, derivative, of_this[1], "id")),
        scores=tuple(Score(**item) for item in _rows(connection, score, of_this[2], "id")),
        **row,
    )


def _rows(connection: Connection, table: Table, where: Any, order: str) -> Sequence[RowMapping]:
    names = _COLUMNS_OF[table.name].__dataclass_fields__
    statement = select(*(table.c[name] for name in names)).where(where).order_by(table.c[order])
    return connection.execute(statement).mappings().all()


def _numbers(measures: Mapping[str, Any]) -> dict[str, float]:
    # JSON has no infinity; it was stored as text.
    return {name: float(value) for name, value in measures.items()}


def _values(row: StageRun | Derivative | Score | Face) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}
