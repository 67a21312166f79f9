"""What the pipeline costs beside its own work: the same scans bare, through stages, through the flow, on two workers.

Four ways, each in fresh processes with one thread, over scans of the same pixels (no two of the same bytes):

*bare*: the stages' pure functions and the published files, to a local folder; no S3, PostgreSQL, checks or Prefect.
*stages*: the stages as they are, with S3 and PostgreSQL, called without Prefect.
*flow*: ``restore_batch``, with Prefect. *flow, single*: the same with one scan a task run, as if nothing were grouped.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client

from db.ask import ask
from flows import rehearsal
from flows.machine import Watch, alone, line_up, table, together
from flows.restore import open_shop, restore_batch
from infra import prefect_server
from infra import settings as places
from infra.settings import Settings
from infra.store import open_store
from tasks.stage import GPU_TAG

BARE, STAGES, FLOW, SINGLE = "bare loop", "stages, no Prefect", "flow", "flow, one scan a task run"
WARM_MEGAPIXELS = 0.3
RATIO_WANTED, SPEEDUP_WANTED = 0.9, 1.8
QUIET_SECONDS = 10.0  # Prefect writes task runs down a little later: counted once their number stays


@dataclass(frozen=True, slots=True)
class Lap:
    """One process' way through its scans; times as ``machine.Watch`` has them."""

    scans: int
    began: float
    ended: float
    waited_seconds: float
    cpu_seconds: float
    peak_bytes: int
    task_runs: int = 0

    @property
    def seconds(self) -> float:
        """From the first scan's beginning to the last one's end."""
        return self.ended - self.began

    @property
    def own_seconds(self) -> float:
        """The same without the time in which others had the cores."""
        return self.seconds - self.waited_seconds


@dataclass(frozen=True)
class Costs:
    """What was measured: every round's lap by way, and every round's laps of one and of all workers at once."""

    megapixels: float
    rounds: dict[str, list[Lap]]
    crews: dict[int, list[list[Lap]]]

    def per_scan(self, way: str) -> float:
        """Seconds a scan, others' use of the cores taken off: the median of the rounds."""
        return statistics.median(lap.own_seconds / lap.scans for lap in self.rounds[way])

    def ratio(self, way: str) -> float:
        """How much of the flow's time the other way takes."""
        return self.per_scan(way) / self.per_scan(FLOW)

    def overhead_seconds(self, way: str) -> float:
        """What Prefect adds to a task run."""
        lap = self.rounds[way][0]
        return (self.per_scan(way) - self.per_scan(STAGES)) * lap.scans / max(1, lap.task_runs)

    def speedup(self, *, own: bool) -> float:
        """How much faster all workers are than one; ``own``: others' use of the cores taken off."""

        def seconds(laps: list[Lap]) -> float:
            if own:
                return max(lap.own_seconds for lap in laps)
            return max(lap.ended for lap in laps) - min(lap.began for lap in laps)

        one, all_ = (statistics.median(seconds(laps) for laps in self.crews[n]) for n in (1, max(self.crews)))
        return one / all_

    def __str__(self) -> str:
        rows = []
        for way, laps in self.rounds.items():
            first, scans = laps[0], laps[0].scans
            wall = statistics.median(lap.seconds / scans for lap in laps)
            cpu = statistics.median(lap.cpu_seconds / scans for lap in laps)
            peak = max(lap.peak_bytes for lap in laps) / 1e6
            rows.append((way, f"{wall:.2f}", f"{self.per_scan(way):.2f}", f"{cpu:.2f}", f"{peak:.0f}", first.task_runs))
        titles = ("way", "s / scan", "of that at work", "processor s / scan", "peak MB", "task runs")
        facts = [
            ("bare loop / flow", f"{self.ratio(BARE):.2f}", f">= {RATIO_WANTED}"),
            ("stages without Prefect / flow", f"{self.ratio(STAGES):.2f}", ""),
            ("Prefect's part of a task run, grouped", f"{1000 * self.overhead_seconds(FLOW):.0f} ms", ""),
            ("Prefect's part of a task run, one scan each", f"{1000 * self.overhead_seconds(SINGLE):.0f} ms", ""),
        ]
        if len(self.crews) > 1:
            name = f"{max(self.crews)} workers / 1"
            wanted = f">= {SPEEDUP_WANTED}" if max(self.crews) == 2 else ""
            facts.append((f"{name}, by the clock", f"{self.speedup(own=False):.2f}x", wanted))
            facts.append((f"{name}, others' use of the cores taken off", f"{self.speedup(own=True):.2f}x", wanted))
        scans, rounds = self.rounds[BARE][0].scans, len(self.rounds[BARE])
        heading = f"{scans} scans of {self.megapixels:g} megapixels, 8-bit RGB, recipe archival; median of {rounds}"
        return "\n\n".join([heading, table(titles, rows), table(("", "measured", "wanted"), facts)])


def measure(
    settings: Settings,
    *,
    scans: int,
    megapixels: float,
    rounds: int,
    workers: int,
    progress: Callable[[str], None] = lambda line: None,
) -> Costs:
    """Every way measured in turn, ``rounds`` times over, on the running PostgreSQL, S3 and Prefect of ``settings``.

    Prefect's ``gpu`` limit is set to ``settings.gpu_slots`` and, where several workers run at once, to their number:
    on CPUs detection and inpainting of two workers would otherwise take turns. RuntimeError for a scan not restored.
    """
    plan = _Plan(settings, scans, megapixels)
    ways = {BARE: _bare, STAGES: _stages, FLOW: _flow, SINGLE: _flow}
    laps: dict[str, list[Lap]] = {way: [] for way in ways}
    crews: dict[int, list[list[Lap]]] = {size: [] for size in ({1, workers} if workers > 1 else ())}
    for number in range(rounds):
        _limit_gpu(settings, settings.gpu_slots)
        for way, work in ways.items():
            keys = plan.keys(f"{number} {way}")
            more = {"GLASSPLATE_SCANS_PER_TASK": "1"} if way == SINGLE else {}
            lap = alone(work, keys, environment={**plan.environment, **more})
            plan.check(keys, published=way != BARE)
            laps[way].append(lap)
            progress(f"round {number + 1}, {way}: {lap.seconds / scans:.2f} s a scan")
        _limit_gpu(settings, workers)
        for size in sorted(crews):
            keys = plan.keys(f"{number} crew of {size}", scans - scans % size if scans >= size else size)
            shares = [(keys[worker::size],) for worker in range(size)]
            crews[size].append(together(_flow, shares, plan.environment))
            plan.check(keys, published=True)
            progress(f"round {number + 1}, {size} workers: {crews[size][-1][0].seconds:.1f} s")
    _limit_gpu(settings, settings.gpu_slots)
    return Costs(megapixels, laps, crews)


class _Plan:
    """The masters that are put there for each lap, and what must have become of them."""

    def __init__(self, settings: Settings, scans: int, megapixels: float) -> None:
        assert settings.database_url is not None
        self.settings, self.scans = settings, scans
        self.environment = {**settings.environment(), **prefect_server.client_environment(settings)}
        self._url = settings.database_url.get_secret_value()
        self._store = open_store(settings)
        self._pictures = [rehearsal.photograph(megapixels)]
        self._small = [rehearsal.photograph(WARM_MEGAPIXELS)]

    def keys(self, name: str, scans: int | None = None) -> list[str]:
        """The masters of one lap, and beside each a small one with which a process warms up."""
        keys = [f"{self.settings.masters_prefix}bench/{name}/{n:04d}.tif" for n in range(scans or self.scans)]
        rehearsal.put(self._store, self.settings.masters_bucket, keys, self._pictures)
        rehearsal.put(self._store, self.settings.masters_bucket, [_warm(key) for key in keys], self._small)
        return keys

    def check(self, keys: Sequence[str], *, published: bool) -> None:
        """Raises RuntimeError unless every scan was restored; of the bare loop there is nothing in the database."""
        if not published:
            return
        _, rows = ask(self._url, "SELECT key, state FROM restorations WHERE key = ANY (:keys)", {"keys": list(keys)})
        states = {str(key): str(state) for key, state in rows}
        if wrong := [key for key in keys if states.get(key) != "restored"]:
            found = states.get(wrong[0], "no row")
            raise RuntimeError(
                f"{wrong[0]}: expected it restored, found {found}; {len(wrong)} of {len(keys)} such scans"
            )


def _warm(key: str) -> str:
    return f"{key.removesuffix('.tif')}-warm.tif"


def _limit_gpu(settings: Settings, slots: int) -> None:
    with _client(settings) as client:
        client.upsert_global_concurrency_limit_by_name(f"tag:{GPU_TAG}", slots)


def _client(settings: Settings) -> SyncPrefectClient:
    assert settings.prefect_api_url is not None
    return SyncPrefectClient(settings.prefect_api_url)


def _bare(keys: Sequence[str]) -> Lap:
    settings = places.load()
    store, stages = open_store(settings), rehearsal.pure(settings)
    with tempfile.TemporaryDirectory(prefix="glassplate-") as folder:
        to = Path(folder)
        paths = [to / f"{n}.tif" for n in range(len(keys) + 1)]
        for key, path in zip((_warm(keys[0]), *keys), paths, strict=True):
            store.download(settings.masters_bucket, key, path)
        rehearsal.bare(paths[0], "to warm up", to, stages)
        line_up()
        with Watch() as watch:
            for key, path in zip(keys, paths[1:], strict=True):
                if rehearsal.bare(path, key, to, stages) == 0.0:
                    raise RuntimeError(f"{key}: expected damage found, found none")
    return _lap(watch, keys)


def _stages(keys: Sequence[str]) -> Lap:
    settings = places.load()
    shop = open_shop(settings)
    rehearsal.staged([_warm(keys[0])], shop, settings)
    line_up()
    with Watch() as watch:
        for some in _tasks(keys, settings):
            rehearsal.staged(some, shop, settings)
    return _lap(watch, keys)


def _tasks(keys: Sequence[str], settings: Settings) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), settings.scans_per_task):
        yield keys[start : start + settings.scans_per_task]


def _flow(keys: Sequence[str]) -> Lap:
    restore_batch([_warm(keys[0])], return_state=True)
    line_up()
    with Watch() as watch:
        state = restore_batch(list(keys), return_state=True)
    if not state.is_completed():
        raise RuntimeError(
            f"restore_batch of {len(keys)} scans: expected completed, found {state.name}: {state.message}"
        )
    return _lap(watch, keys, task_runs(str(state.state_details.flow_run_id)))


def _lap(watch: Watch, keys: Sequence[str], task_runs: int = 0) -> Lap:
    return Lap(
        len(keys), watch.began, watch.ended, watch.waited_seconds, watch.cpu_seconds, watch.peak_bytes, task_runs
    )


def task_runs(flow_run_id: str, tag: str | None = None) -> int:
    """How many task runs a flow run had (of this tag), once their number stays."""
    task_runs = {"flow_run_id": {"any_": [flow_run_id]}} | ({"tags": {"all_": [tag]}} if tag else {})
    counted, since = -1, time.monotonic()
    with get_client(sync_client=True) as client:
        while time.monotonic() - since < QUIET_SECONDS:
            found = int(client.request("POST", "/task_runs/count", json={"task_runs": task_runs}).json())
            if found != counted:
                counted, since = found, time.monotonic()
            time.sleep(0.25)
    return counted
