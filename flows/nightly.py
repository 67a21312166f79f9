"""The night: what is new since last night -> batches -> restored; one digest at the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from db.records import NightCounts, NightState
from flows import digest
from flows.restore import open_shop, restore_batch
from infra import settings as places
from tasks import night
from tasks.night import Plan
from tasks.recipe import RecipeName
from tasks.stage import Workshop


@flow(name="nightly-archive", flow_run_name="night-{recipe}")
def nightly_archive(recipe: RecipeName = RecipeName.ARCHIVAL, prefix: str = "", limit: int | None = None) -> State[Any]:
    """Restore every scan that is new or changed since it was last looked at, and end with one digest.

    Args:
        recipe: What to do. archival: mend damage only. enhanced and full: what is installed beyond that.
        prefix: Only keys that begin so, below the configured masters prefix. Empty: all.
        limit: At most so many scans; the rest is counted and waits for the next night. Empty: all.
    """
    settings = places.load()
    shop = open_shop(settings)
    masters = settings.masters_prefix + prefix
    night_id = night.open_night(str(flow_run.id), recipe.value, masters, shop)
    shop = replace(shop, night_id=night_id)
    try:
        planned = night.plan_night(recipe.value, masters, limit, settings.ignore_patterns, shop)
        get_run_logger().info("night=%d %s", night_id, planned.counts())
        _run(planned, recipe, night_id, settings.scans_per_batch)
        return _close(night_id, recipe, planned, shop)
    except BaseException as error:
        night.close_night(night_id, NightState.FAILED, NightCounts(), f"The night broke off: {error!r}", shop)
        raise


def _run(planned: Plan, recipe: RecipeName, night_id: int, scans_per_batch: int) -> None:
    progress: Any = create_progress_artifact(progress=0.0, key="night", description=f"{len(planned.scan_keys)} scans")
    for start in range(0, len(planned.scan_keys), scans_per_batch):
        batch = list(planned.scan_keys[start : start + scans_per_batch])
        # A batch that fails says so in its own run and rows; the night goes on with the next one.
        restore_batch(batch, recipe, night_id, return_state=True)
        update_progress_artifact(progress, progress=100.0 * (start + len(batch)) / len(planned.scan_keys))


def _close(night_id: int, recipe: RecipeName, planned: Plan, shop: Workshop) -> State[Any]:
    outcomes = night.outcomes(night_id, planned.scan_keys, shop)
    states = Counter(outcome.state for outcome in outcomes)
    counts = replace(
        planned.counts(),
        restored=states["restored"],
        skipped=states["skipped"],
        quarantined=states["quarantined"],
        failed=len(outcomes) - states["restored"] - states["skipped"] - states["quarantined"],
    )
    page = digest.night_page(night_id, recipe.value, counts, outcomes)
    state = NightState.COMPLETED_WITH_FAILURES if counts.failed else NightState.COMPLETED
    night.close_night(night_id, state, counts, page, shop)
    create_markdown_artifact(page, key="digest", description=digest.night_line(counts))
    if counts.failed:
        return Failed(name="CompletedWithFailures", message=digest.night_line(counts))
    return Completed(message=digest.night_line(counts))
