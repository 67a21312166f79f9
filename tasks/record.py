"""Run, stages, scores and events -> rows; then the work area is emptied."""

from __future__ import annotations

from prefect import task

from db.records import Derivative, Event, Face, Score, StageRun, State
from tasks import stage
from tasks.contracts import BadOutput, Course, Outcome, StageResult
from tasks.stage import Workshop


@task(name="record", task_run_name="record", **stage.PATIENT_TASK)
def record(courses: list[Course], shop: Workshop) -> list[StageResult]:
    """Each scan's course in PostgreSQL, in one transaction a scan; repeating it does no harm.

    The plates between stages are deleted once the rows of a finished restoration are committed; those of a failed one
    stay as evidence and as a start for the next attempt.
    """
    return stage.outcomes("record", courses, lambda c: _write(c, shop), lambda c: c.scan)


def _write(course: Course, shop: Workshop) -> StageResult:
    written = StageResult(stage="record", scan=course.scan, outcome=Outcome.DONE)
    last, plate = course.results[-1], course.last_plate
    if plate is None:  # nothing was claimed: no restoration to end, but the night's outcome is still told
        if last.outcome in (Outcome.FAILED, Outcome.SKIPPED):
            detail = {"stage": last.stage, "reason": last.reason, "error_type": last.error_type}
            shop.ledger.event(
                Event(f"scan_{last.outcome.value}", detail, course.scan, last.restoration_id, shop.night_id),
                once=f"{shop.holder} {course.scan}",
            )
        return written
    state = state_of(course)
    shop.ledger.record(
        plate.restoration_id,
        attempt=plate.attempt,
        holder=shop.holder,
        state=state,
        reason=last.reason,
        stage_runs=[_row(result, shop) for result in course.results],
        derivatives=[
            Derivative(
                kind=f.kind, bucket=f.bucket, key=f.key, sha256=f.sha256, size_bytes=f.size, media_type=f.media_type,
                label=f.label, width=f.width, height=f.height, bits=f.bits, outside_mask_sha256=f.outside_mask_sha256,
            )
            for f in last.derivatives
        ],
        scores=[
            Score(s.derivative, s.metric, s.value, s.direction, s.moment) for r in course.results for s in r.scores
        ],
        faces=[Face(**face.model_dump()) for r in course.results for face in r.faces],
    )  # fmt: skip
    if state.finished:
        shop.blobs(plate.restoration_id).delete_all()
    return written


def state_of(course: Course) -> State:
    """How the restoration ended: restored when something was published, skipped when nothing had to be changed."""
    last = course.results[-1]
    match last.outcome:
        case Outcome.DONE:
            return State.RESTORED
        case Outcome.SKIPPED:
            return State.SKIPPED
        case Outcome.FAILED:
            return State.FAILED
        case Outcome.QUARANTINED:
            return State.QUARANTINED
    raise BadOutput(course.scan, expected="an outcome", found=repr(last.outcome))


def _row(result: StageResult, shop: Workshop) -> StageRun:
    return StageRun(
        stage=result.stage, outcome=result.outcome.value, reason=result.reason, error_type=result.error_type,
        model_id=result.model_id, weights_sha256=result.weights_sha256, licence=result.licence,
        data_terms=result.data_terms, stage_version=result.stage_version, result_key=result.result_key,
        device=result.device, seconds=result.seconds, peak_memory_bytes=result.peak_memory_bytes,
        reused=result.reused, measures=result.measures, flow_run_id=shop.flow_run_id, task_run_id=result.task_run_id,
    )  # fmt: skip
