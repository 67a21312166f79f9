"""Batches of a night on the work pool: sent out a few at a time, watched, sent again when their worker is lost.

Two witnesses say that a run is gone. Prefect: it is ``Crashed`` (its worker said so, or the automation of
``flows.deploy`` missed its heartbeats). PostgreSQL: its batch's row had no sign of life for ``SILENT_SECONDS``; that
needs neither Prefect's event stream nor its automations. Either is enough, and a mistake does no harm: the claims of
the run that was given up go to the next one, and a run that finds its claim gone stops touching that scan.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import PrefectException
from prefect.states import Cancelling, Crashed

from db.records import BatchState, LedgerUnavailable
from tasks.stage import Workshop

log = logging.getLogger("glassplate.batches")

SILENT_SECONDS = 90.0  # six signs of life missed
PENDING_SECONDS = 300.0  # a worker took the run and no process began; a cluster may have to fetch an image first
WAITING_SECONDS = 300.0  # no worker took the run: said in the log every so often, and waited for
POLL_SECONDS = 2.0
KEY_BYTES = 200_000  # of one batch's keys together; a flow run's parameters have a limit
DEPLOYMENT = "restore-batch/restore-batch"
NIGHT_QUEUE = "default"  # of the work pool; runs by hand go to a queue of higher priority
AWAY = (httpx.HTTPError, PrefectException)


@dataclass(frozen=True)
class RunState:
    """What is known of a run: Prefect's state type, and its words."""

    type: StateType
    words: str = ""


class Runs(Protocol):
    """Where batches run. Calls raise one of ``AWAY`` while it cannot be reached."""

    def send(self, scan_keys: Sequence[str], name: str) -> str:
        """Id of the run that restores these scans; the same name gives the same run."""

    def states(self, run_ids: Sequence[str]) -> dict[str, RunState]:
        """The states of these runs; one that was deleted is missing."""

    def end(self, run_id: str, state: StateType, words: str) -> None:
        """The run counts as crashed or cancelled from now on, so that it takes no slot of the work pool."""


@dataclass(frozen=True)
class DeploymentRuns:
    """Runs of the deployment ``restore-batch`` on its work pool; any worker there takes them."""

    recipe: str
    night_id: int

    def send(self, scan_keys: Sequence[str], name: str) -> str:
        """Id of the run; a call whose answer was lost gives the same one again."""
        parameters = {"keys": list(scan_keys), "recipe": self.recipe, "nightly_run_id": self.night_id}
        run: Any = run_deployment(
            DEPLOYMENT, parameters=parameters, timeout=0, as_subflow=True, flow_run_name=name,
            idempotency_key=name, work_queue_name=NIGHT_QUEUE,
        )  # fmt: skip
        return str(run.id)

    def states(self, run_ids: Sequence[str]) -> dict[str, RunState]:
        """The states of these runs, asked in one call."""
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(run_id) for run_id in run_ids]))
        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs(flow_run_filter=wanted)
        return {
            str(run.id): RunState(run.state.type, f"{run.state.name}: {run.state.message or ''}")
            for run in runs
            if run.state is not None
        }

    def end(self, run_id: str, state: StateType, words: str) -> None:
        """The run is on its way to that state; one that is at work is ended by its worker when it is cancelled."""
        final: State[Any] = Cancelling(message=words) if state is StateType.CANCELLED else Crashed(message=words)
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(UUID(run_id), final, force=state is StateType.CRASHED)


@dataclass
class Batch:
    """Scans on their way: ``attempt`` counts how often they were sent."""

    number: int
    scan_keys: tuple[str, ...]
    attempt: int = 1
    run_id: str = ""
    alive_at: datetime | None = None
    since: float = 0.0  # when we last saw it change, by our own clock
    type: StateType = StateType.SCHEDULED


@dataclass
class Night:
    """What the night needs to know to send and watch its batches. ``may_start``: whether a new one may begin now."""

    night_id: int
    name: str
    shop: Workshop
    runs: Runs
    in_flight: int
    attempts: int
    may_start: Callable[[], bool]
    progress: Callable[[int], None] = lambda begun: None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    flying: dict[str, Batch] = field(default_factory=dict)
    again: deque[Batch] = field(default_factory=deque)
    number: int = 0


def packed(scan_keys: Sequence[str], scans_per_batch: int) -> Iterator[tuple[str, ...]]:
    """The keys in batches, in their order: so many scans at most, and not more text than a run's parameters take."""
    batch: list[str] = []
    size = 0
    for key in scan_keys:
        own = len(key.encode()) + 8
        if batch and (len(batch) >= scans_per_batch or size + own > KEY_BYTES):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(key)
        size += own
    if batch:
        yield tuple(batch)


def run(batches: Iterable[tuple[str, ...]], night: Night) -> list[str]:
    """Keys of the scans that were begun, in order; those that ``may_start`` kept from beginning are not among them."""
    waiting, begun, started = iter(batches), dict[int, tuple[str, ...]](), True
    try:
        while started or night.flying or night.again:
            started = started and night.may_start()
            _send_again(night)
            while started and len(night.flying) < night.in_flight:
                keys = next(waiting, None)
                if keys is None:
                    started = False
                    break
                batch = Batch(night.number + 1, keys)
                if not _sent(batch, night):
                    waiting = _before(keys, waiting)
                    break
                night.number += 1
                begun[batch.number] = keys
                night.progress(sum(len(keys) for keys in begun.values()))
            if not night.flying and not night.again and not started:
                break
            night.sleep(POLL_SECONDS)
            for withdrawn in _watched(night, may_start=night.may_start()):
                begun.pop(withdrawn, None)
    except BaseException:
        _called_back(night)
        raise
    return [key for keys in begun.values() for key in keys]


def _before(keys: tuple[str, ...], rest: Iterator[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    yield keys
    yield from rest


def _send_again(night: Night) -> None:
    while night.again and len(night.flying) < night.in_flight:
        if not _sent(night.again[0], night):
            return
        night.again.popleft()


def _sent(batch: Batch, night: Night) -> bool:
    """Whether the batch is on its way; False while Prefect or the database cannot be reached."""
    name = f"{night.name}-batch-{batch.number}" + (f"-again-{batch.attempt}" if batch.attempt > 1 else "")
    try:
        batch.run_id = night.runs.send(batch.scan_keys, name)
        night.shop.ledger.batch_sent(night.night_id, batch.number, batch.scan_keys, batch.run_id, batch.attempt)
    except (*AWAY, LedgerUnavailable) as error:
        log.warning("batch=%d cannot be sent yet: %s", batch.number, error)
        return False
    batch.since, batch.alive_at, batch.type = night.clock(), None, StateType.SCHEDULED
    night.flying[batch.run_id] = batch
    return True


def _watched(night: Night, *, may_start: bool) -> list[int]:
    """Looks at every batch on its way once; numbers of those withdrawn because no more may start."""
    now, withdrawn = night.clock(), []
    if not night.flying:
        return []
    try:
        states = night.runs.states(list(night.flying))
        signs = night.shop.ledger.signs_of_life(list(night.flying))
    except (*AWAY, LedgerUnavailable) as error:
        log.warning("cannot look at the batches for the moment: %s", error)
        for batch in night.flying.values():
            batch.since = now  # as long as we are blind, silence means nothing
        return []
    for run_id, batch in list(night.flying.items()):
        state = states.get(run_id, RunState(StateType.CANCELLED, "its run was deleted"))
        if state.type is not batch.type or signs.get(run_id) != batch.alive_at:
            batch.since, batch.type, batch.alive_at = now, state.type, signs.get(run_id)
        try:
            if state.type is StateType.SCHEDULED and not may_start:
                night.runs.end(run_id, StateType.CANCELLED, "no batch may start so late")
                night.shop.ledger.end_batch(night.night_id, batch.number, BatchState.CANCELLED)
                withdrawn += [batch.number] if batch.attempt == 1 else []
                del night.flying[run_id]
            elif state.type in (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED):
                _ended(batch, state, night)
            elif (reason := _lost(batch, now)) is not None:
                night.runs.end(run_id, StateType.CRASHED, reason)
                _ended(batch, RunState(StateType.CRASHED, reason), night)
        except (*AWAY, LedgerUnavailable) as error:  # it is still flying, and looked at again
            log.warning("batch=%d cannot be dealt with yet: %s", batch.number, error)
    return withdrawn


def _lost(batch: Batch, now: float) -> str | None:
    """Why the run of the batch counts as gone, or None."""
    silent = now - batch.since
    if batch.type is StateType.RUNNING and silent > SILENT_SECONDS:
        return f"its worker vanished: no sign of life for {silent:.0f} s"
    if batch.type is StateType.PENDING and silent > PENDING_SECONDS:
        return f"its worker vanished: it was taken {silent:.0f} s ago and did not begin"
    if batch.type is StateType.SCHEDULED and silent > WAITING_SECONDS:
        log.warning("batch=%d waits for a worker of the work pool", batch.number)
        batch.since = now
    return None


def _ended(batch: Batch, state: RunState, night: Night) -> None:
    """Writes down how a run ended; what it left without an end is sent again, as long as attempts are left."""
    ledger, shop = night.shop.ledger, night.shop
    unended = ledger.unended(night.night_id, shop.masters_bucket, batch.scan_keys)
    if unended:
        reason = f"attempt {batch.attempt}: {state.words}"
        held = set(ledger.forfeit(replace(shop, flow_run_id=batch.run_id).holder, reason))
        ledger.batch_broke_off(night.night_id, batch.number, batch.run_id, reason)
        log.warning("batch=%d left %d scans unfinished: %s", batch.number, len(unended), reason)
        if state.type is not StateType.CANCELLED and batch.attempt < night.attempts:
            night.again.extend(_pieces(batch, unended, held, night))
        else:
            cancelled = state.type is StateType.CANCELLED
            ledger.end_batch(night.night_id, batch.number, BatchState.CANCELLED if cancelled else BatchState.CRASHED)
    else:
        ledger.end_batch(night.night_id, batch.number, BatchState.ENDED)
    del night.flying[batch.run_id]


def _pieces(batch: Batch, unended: Sequence[str], held: set[str], night: Night) -> list[Batch]:
    """What is sent again. Scans that were in hand when the run died come last: one of them may be what killed it.

    When it died a second time each of those goes alone, so that the guilty one takes no other scan along.
    """
    innocent, suspects = [k for k in unended if k not in held], [k for k in unended if k in held]
    following = batch.attempt + 1
    if batch.attempt == 1 or len(suspects) < 2:
        return [Batch(batch.number, (*innocent, *suspects), following)]
    pieces = [Batch(batch.number, tuple(innocent or suspects[:1]), following)]
    for suspect in suspects if innocent else suspects[1:]:
        night.number += 1
        pieces.append(Batch(night.number, (suspect,), following))
    return pieces


def _called_back(night: Night) -> None:
    """The night breaks off: its batches are cancelled, for nobody would tell how they ended. Nothing done is lost."""
    for run_id, batch in night.flying.items():
        try:
            night.runs.end(run_id, StateType.CANCELLED, "its night broke off")
            night.shop.ledger.end_batch(night.night_id, batch.number, BatchState.CANCELLED)
        except (*AWAY, LedgerUnavailable) as error:
            log.warning("batch=%d cannot be called back: %s", batch.number, error)
