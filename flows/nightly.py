"""The night: what is new since last night -> batches -> restored; one digest at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import deployment, flow_run
from prefect.states import Completed, Failed
from prefect.utilities.annotations import quote
from pydantic import Field

from db.records import NightCounts, NightOutcome, NightState
from flows import batches, digest
from flows.heartbeat import beating
from flows.restore import open_shop, restore_batch
from infra import settings as places
from infra.settings import Settings
from tasks import night, webhook
from tasks.night import Choice, Order, Plan
from tasks.recipe import RecipeName
from tasks.stage import Workshop

CLOCK = r"^([01]\d|2[0-3]):[0-5]\d$"
TOLD_SCANS = 200  # of each kind, in a webhook's body
TOLD_CHARACTERS = 60_000  # of the digest, in a webhook's body


@flow(name="nightly-archive", flow_run_name="night-{recipe}")
def nightly_archive(
    recipe: RecipeName = RecipeName.ARCHIVAL,
    prefix: str = "",
    include: list[str] | None = None,
    exclude: list[str] | None = None,
    order: Order = Order.KEY,
    limit: Annotated[int, Field(ge=0)] | None = None,
    stop_starting_at: Annotated[str, Field(pattern=CLOCK)] | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> State[Any]:
    """Restore every scan that is new or changed since it was last looked at, and end with one digest.

    Args:
        recipe: What to do. archival: mend damage only. enhanced and full: what is installed beyond that.
        prefix: Only keys that begin so, below the configured masters prefix. Empty: all.
        include: Only keys that match one of these patterns, such as *.tif or album-3/*; a star matches slashes, too.
        exclude: No keys that match one of these patterns.
        order: Which scans come first: by key, or by the age of the files, newest or oldest first.
        limit: At most so many scans; the rest is counted and waits for the next night. Empty: all.
        stop_starting_at: Clock time, HH:MM in the configured time zone, after which no batch starts. Empty: none.
        force: Also scans that were done or given up before. Nothing is overwritten: only what would be made by other
            code, weights or settings than before is made anew, beside it. Scans in quarantine stay there.
        dry_run: Only count and estimate: scans, megapixels, bytes, hours. Nothing is started or claimed.
    """
    settings = places.load()
    shop = open_shop(settings)
    masters = settings.masters_prefix + prefix
    ignored = settings.ignore_patterns
    choice = Choice(include=tuple(include or ()), exclude=tuple(exclude or ()), order=order, force=force)
    if dry_run:
        return _dry(night.plan_night(recipe.value, masters, limit, ignored, shop, choice), recipe, shop)
    scheduled_for = flow_run.scheduled_start_time or datetime.now(UTC)
    asked = {"prefix": prefix, "limit": limit, "stop_starting_at": stop_starting_at, **choice.model_dump(mode="json")}
    asked = {name: value for name, value in asked.items() if value and value != Order.KEY.value}
    night_id = night.open_night(str(flow_run.id), recipe.value, masters, shop, scheduled_for, asked)
    shop = replace(shop, night_id=night_id)
    stop = stop_moment(scheduled_for, stop_starting_at, settings.timezone)
    try:
        with beating(lambda: shop.ledger.night_alive(night_id)):
            planned = night.plan_night(recipe.value, masters, limit, ignored, shop, choice)
            get_run_logger().info("night=%d %s", night_id, planned.counts())
            refused = (
                night.ask_back(_unread(planned.cold_keys), days, shop) if (days := settings.cold_restore_days) else {}
            )
            begun = _run(planned, recipe, settings, stop, shop)
            notes = digest.cold_notes(planned.cold_keys, planned.cold, days, refused)
            if stop and len(begun) < len(planned.scan_keys):
                notes = [f"No batch was started after {stop_starting_at}; the rest goes on the next night.", *notes]
            return _close(recipe, planned, begun, notes, shop, settings)
    except BaseException as error:
        page = f"The night broke off: {error!r}"
        night.close_night(night_id, NightState.FAILED, NightCounts(), page, shop)
        _tell(NightState.FAILED, recipe, NightCounts(), [], page, shop, settings)
        raise


def stop_moment(scheduled_for: datetime, clock: str | None, timezone: str) -> datetime | None:
    """The first time that clock shows after the night was to start, in UTC; None without a clock time.

    A night that starts late (it was missed and is caught up) has the stop of the night it stands for.
    """
    if clock is None:
        return None
    start = scheduled_for.astimezone(ZoneInfo(timezone))
    hour, minute = (int(part) for part in clock.split(":"))
    stop = start.replace(hour=hour, minute=minute, second=0, microsecond=0)
    if stop <= start:
        stop += timedelta(days=1)  # of the wall clock, whatever daylight saving does
    return stop.astimezone(UTC)


def _run(planned: Plan, recipe: RecipeName, settings: Settings, stop: datetime | None, shop: Workshop) -> list[str]:
    """The scans that were begun: in batches on the work pool, or here where the flow was called as a function."""
    keys = planned.scan_keys
    progress: Any = create_progress_artifact(progress=0.0, key="night", description=f"{len(keys)} scans")

    def show(begun: int) -> None:
        try:
            update_progress_artifact(progress, progress=100.0 * begun / len(keys))
        except batches.AWAY as error:
            get_run_logger().warning("progress not shown: %s", error)

    packed = batches.packed(keys, settings.scans_per_batch)
    if deployment.id is None:
        return _run_here(packed, recipe, lambda: _before(stop), show, shop)
    return batches.run(
        packed,
        batches.Night(
            night_id=shop.night_id or 0,
            name=_name(shop),
            shop=shop,
            runs=batches.DeploymentRuns(recipe.value, shop.night_id or 0),
            in_flight=settings.batches_in_flight,
            attempts=settings.batch_attempts,
            may_start=lambda: _before(stop),
            progress=show,
        ),
    )


def _name(shop: Workshop) -> str:
    """What the names of this run's batches begin with; a night that is run again in Prefect sends runs of its own."""
    again = f"-run-{flow_run.run_count}" if (flow_run.run_count or 1) > 1 else ""
    return f"night-{shop.night_id}{again}"


def _before(stop: datetime | None) -> bool:
    return stop is None or datetime.now(UTC) < stop


def _run_here(
    packed: Any, recipe: RecipeName, may_start: Callable[[], bool], show: Callable[[int], None], shop: Workshop
) -> list[str]:
    begun: list[str] = []
    for batch in packed:
        if not may_start():
            break
        # A batch that fails says so in its own run and rows; the night goes on with the next one.
        restore_batch(list(batch), recipe, shop.night_id, return_state=True)
        begun += batch
        show(len(begun))
    return begun


def _close(
    recipe: RecipeName, planned: Plan, begun: Sequence[str], notes: Sequence[str], shop: Workshop, settings: Settings
) -> State[Any]:
    night_id = shop.night_id or 0
    outcomes = night.outcomes(night_id, _unread(begun), shop)
    states = Counter(outcome.state for outcome in outcomes)
    counts = replace(
        planned.counts(len(begun)),
        restored=states["restored"],
        skipped=states["skipped"],
        quarantined=states["quarantined"],
        failed=len(outcomes) - states["restored"] - states["skipped"] - states["quarantined"],
    )
    page = digest.night_page(night_id, recipe.value, counts, outcomes, notes)
    state = NightState.COMPLETED_WITH_FAILURES if counts.failed else NightState.COMPLETED
    night.close_night(night_id, state, counts, page, shop)
    try:
        create_markdown_artifact(page, key="digest", description=digest.night_line(counts))
    except batches.AWAY as error:  # the page is in the ledger
        get_run_logger().warning("digest not shown: %s", error)
    _tell(state, recipe, counts, outcomes, page, shop, settings)
    if counts.failed:
        return Failed(name="CompletedWithFailures", message=digest.night_line(counts))
    return Completed(message=digest.night_line(counts))


def _tell(
    state: NightState,
    recipe: RecipeName,
    counts: NightCounts,
    outcomes: Sequence[NightOutcome],
    page: str,
    shop: Workshop,
    settings: Settings,
) -> None:
    """Posts the night to the webhooks of the settings."""
    if not settings.webhook_urls:
        return
    line = digest.night_line(counts) if outcomes or state is not NightState.FAILED else page

    def told(states: set[str]) -> list[dict[str, Any]]:
        chosen = [o for o in outcomes if o.state in states]
        return [
            {
                "key": o.key,
                "state": o.state,
                "reason": o.reason,
                "error": o.error_type,
                "next_step": digest.next_step(o),
            }
            for o in chosen[:TOLD_SCANS]
        ]

    body = {
        "text": f"glassplate, night {shop.night_id}: {line}",  # what chats show
        "night": shop.night_id,
        "state": state.value,
        "recipe": recipe.value,
        "flow_run_id": shop.flow_run_id,
        "counts": asdict(counts),
        "failed": told(digest.UNFINISHED),
        "quarantined": told({"quarantined"}),
        "digest": page[:TOLD_CHARACTERS],
    }
    webhook.tell(settings.webhook_urls, body, shop.night_id or 0, shop)


def _unread(value: Any) -> Any:
    """``value`` for a task, not searched by Prefect for futures: that takes 15 s for 400,000 keys."""
    return quote(value)


def _dry(planned: Plan, recipe: RecipeName, shop: Workshop) -> State[Any]:
    """What the night would do, as artifact and as message."""
    found = night.estimate(recipe.value, _unread(planned), shop)
    line = digest.estimate_line(found.scans, found.megapixels, found.bytes, found.hours)
    page = digest.estimate_page(line, planned.counts(), found.known_scans, found.seconds_per_megapixel)
    create_markdown_artifact(page, key="dry-run", description=line)
    return Completed(name="DryRun", message=line)
