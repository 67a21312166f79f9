"""Nights that did not run: found by comparing the schedule with the nights in the ledger, and caught up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.deployments import run_deployment
from prefect.server.schemas.schedules import CronSchedule

from db.ledger import Ledger
from db.records import Night, NightState, Schedule

GRACE = timedelta(minutes=30)  # a worker may be busy, or a server be on its way up
SILENT_SECONDS = 300.0  # twenty signs of life missed
LONGEST_NIGHT = timedelta(days=7)
DEPLOYMENT = "nightly-archive/nightly-archive"
_WHOLE = {"order", "stop_starting_at", "force"}  # parameters of a night that is about the whole archive


@dataclass(frozen=True)
class Due:
    """A time at which a night was to start, and what became of it. ``ran``: nothing has to be done about it."""

    at: datetime
    ran: bool
    words: str
    night_id: int | None = None


def due(ledger: Ledger, nights: int, now: datetime | None = None) -> list[Due]:
    """The last ``nights`` times at which a night was to start, oldest first, each with what became of it.

    Times are those of the schedules as they were then: each since it was deployed, until the next one was.
    """
    now = now or datetime.now(UTC)
    times = _times(ledger.schedules(), now, nights)
    if not times:
        return []
    known = ledger.nights_since(times[0] - LONGEST_NIGHT)
    return [_due(at, known, now) for at in times]


def _times(schedules: Sequence[Schedule], now: datetime, nights: int) -> list[datetime]:
    found: list[datetime] = []
    ends = [schedule.since for schedule in schedules[1:]] + [now][: len(schedules)]
    for schedule, end in reversed(list(zip(schedules, ends, strict=True))):
        # Prefect's own arithmetic, so that time zones and daylight saving give the very times it schedules.
        cron = CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
        span, own = timedelta(days=2), list[datetime]()
        while True:
            start = max(schedule.since, end - span)
            own = [at for at in asyncio.run(cron.get_dates(n=1000, start=start, end=end)) if schedule.since < at <= end]
            if len(own) >= nights - len(found) or start <= schedule.since:
                break
            span *= 4
        found = own[-(nights - len(found)) :] + found if nights > len(found) else found
    return [datetime.fromtimestamp(at.timestamp(), UTC) for at in found]


def _due(at: datetime, known: Sequence[Night], now: datetime) -> Due:
    own = [night for night in known if night.scheduled_for == at]
    for night in reversed(own):
        if night.state is NightState.RUNNING and night.silent_seconds <= SILENT_SECONDS:
            return Due(at, True, f"at work since {night.started_at:%Y-%m-%d %H:%M} UTC", night.id)
        if night.state in (NightState.COMPLETED, NightState.COMPLETED_WITH_FAILURES):
            late = f", {_length(night.started_at - at)} late" if night.started_at - at > GRACE else ""
            return Due(at, True, f"{night.state.value.replace('_', ' ')}{late}", night.id)
    if own:
        told = own[-1].digest.splitlines()
        return Due(at, False, f"broke off: {told[0] if told else 'it was killed'}", own[-1].id)
    for night in known:
        silent = night.state is NightState.RUNNING and night.silent_seconds > SILENT_SECONDS
        until = night.finished_at or (now - timedelta(seconds=night.silent_seconds) if silent else now)
        if night.started_at <= at <= until:  # two nights are never at work at once
            whole = set(night.parameters) <= _WHOLE
            words = f"night {night.id} was still at work"
            return Due(at, whole, words if whole else f"did not run: {words}, on a part of the archive", night.id)
    if now - at <= GRACE:
        return Due(at, True, "about to start")
    return Due(at, False, "did not run")


def _length(span: timedelta) -> str:
    minutes = int(span.total_seconds() // 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def catch_up(ledger: Ledger, client: SyncPrefectClient, now: datetime | None = None) -> Due | None:
    """The last night that was due, if it did not run or broke off and is on its way now; else None.

    Older ones need no run of their own: what they left is what a night compares with the ledger. A night that Prefect
    itself has late and waiting is left to it. Asking twice starts one night.
    """
    last = next(iter(due(ledger, 1, now)), None)
    if last is None or last.ran or _waiting(client):
        return None
    # Its scheduled time is the missed one: so the check knows it, and stop_starting_at means what it meant then.
    key = f"caught-up {last.at.isoformat()} {last.night_id or ''}"
    run_deployment(DEPLOYMENT, scheduled_time=last.at, timeout=0, as_subflow=False, idempotency_key=key)
    return last


def _waiting(client: SyncPrefectClient) -> bool:
    """Whether a night is late, about to start, or at work."""
    at_work = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]
    runs: Any = client.read_flow_runs(
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=["nightly-archive"])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=at_work))),
    )
    soon = datetime.now(UTC) + timedelta(seconds=60)
    return any(
        run.state is not None
        and (run.state.type is not StateType.SCHEDULED or (run.next_scheduled_start_time or soon) < soon)
        for run in runs
    )
