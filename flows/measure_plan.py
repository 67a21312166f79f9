"""What planning a night costs: a long listing diffed against a full database; and what an idle night starts.

The listing is simulated, pages of 1,000 objects, because a store with a million objects takes hours to fill; the
database is real and holds a master, a scan and a finished restoration for each of them. What the real listing adds is
the store's own time: a request a page.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text

from db.connection import Database
from flows import rehearsal
from flows.machine import Watch, alone, table
from flows.measure_pipeline import task_runs
from flows.nightly import nightly_archive
from flows.restore import open_ledger, restore_batch
from infra import prefect_server
from infra import settings as places
from infra.settings import Settings
from infra.store import Listed, Store, open_store
from models.imaging import Limits
from tasks import night
from tasks.recipe import RecipeName
from tasks.stage import GPU_TAG, Workshop

PAGE = 1000
SECONDS_WANTED, MEGABYTES_WANTED = 60, 500
KNOWN, UNKNOWN = "bench-known", "bench-unknown"
SIZE_BYTES = 60_000_000
IDLE_SCANS, IDLE_MEGAPIXELS = 2, 0.3
RECIPE = RecipeName.ARCHIVAL.value

# Keys in their order, everything else scattered over its index as hashes are.
_FILL = (
    """
    INSERT INTO master (sha256, size_bytes, width, height, channels, bits, media_type)
    SELECT md5('a' || n) || md5('b' || n), :size, 5000, 4000, 3, 8, 'image/tiff'
    FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n
    """,
    """
    INSERT INTO scan (bucket, key, etag, size_bytes, master_sha256)
    SELECT :bucket, 'series-' || lpad((n / 10000)::text, 4, '0') || '/' || lpad(n::text, 8, '0') || '.tif',
           lpad(to_hex(n), 32, '0'), :size, md5('a' || n) || md5('b' || n)
    FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n
    """,
    """
    INSERT INTO restoration (id, master_sha256, scan_id, recipe_name, recipe_digest, recipe, prefix, state, attempts)
    SELECT substr(md5('r' || scan.id), 1, 16), scan.master_sha256, scan.id, :recipe, 'bench', '{}', 'bench/',
           'restored', 1
    FROM scan WHERE scan.bucket = :bucket AND scan.key BETWEEN :first_key AND :last_key
    """,
)


@dataclass(frozen=True)
class Simulated(Store):
    """A store that lists objects it does not have: ``objects`` of them in every bucket."""

    objects: int = 0

    def pages(self, bucket: str, prefix: str) -> Iterator[list[Listed]]:
        """The objects, a page at a time."""
        numbers = iter(range(self.objects))
        while page := [_listed(n) for n in itertools.islice(numbers, PAGE)]:
            yield page


def key_of(number: int) -> str:
    """The key of one of the simulated objects."""
    return f"series-{number // 10000:04d}/{number:08d}.tif"


def _listed(number: int) -> Listed:
    return Listed(
        key=key_of(number), etag=f"{number:032x}", size=SIZE_BYTES, last_modified=_LONG_AGO, storage_class="STANDARD",
        version_id=None,
    )  # fmt: skip


_LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Planned:
    """One planning: what it counted and what it took of its process."""

    listed: int
    unchanged: int
    planned: int
    seconds: float
    waited_seconds: float
    base_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Idle:
    """What a night with nothing to do started."""

    planned: int
    task_runs: int
    gpu_task_runs: int
    batches: int


@dataclass(frozen=True, slots=True)
class Costs:
    """Both plannings and the idle night."""

    known: Planned
    unknown: Planned
    fill_seconds: float
    idle: Idle

    def __str__(self) -> str:
        rows = [
            (
                name, f"{p.listed:,}", f"{p.unchanged:,}", f"{p.planned:,}", f"{p.seconds:.1f}",
                f"{p.seconds - p.waited_seconds:.1f}", f"{p.peak_bytes / 1e6:.0f}",
                f"{(p.peak_bytes - p.base_bytes) / 1e6:.0f}",
            )
            for name, p in (("all known", self.known), ("all new", self.unknown))
        ]  # fmt: skip
        titles = (
            "listing",
            "listed",
            "unchanged",
            "planned",
            "s",
            "of that at work",
            "peak MB",
            "of that for the plan",
        )
        facts = [
            ("seconds, all known", f"{self.known.seconds:.1f}", f"<= {SECONDS_WANTED}"),
            ("peak MB, all known", f"{self.known.peak_bytes / 1e6:.0f}", f"<= {MEGABYTES_WANTED}"),
            ("task runs of an idle night", self.idle.task_runs, ""),
            ("of these tagged gpu", self.idle.gpu_task_runs, "0"),
            ("batches of an idle night", self.idle.batches, "0"),
        ]
        heading = f"A simulated listing against a PostgreSQL that holds {self.known.listed:,} finished scans"
        filled = f"Filling it took {self.fill_seconds:.0f} s."
        return "\n\n".join([heading, table(titles, rows), table(("", "measured", "wanted"), facts), filled])


def measure(settings: Settings, *, objects: int, progress: Callable[[str], None] = lambda line: None) -> Costs:
    """Both plannings of ``objects``, each in a fresh process, and an idle night through Prefect.

    The database of ``settings`` is filled; it must be one that is thrown away afterwards.
    """
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    began = time.monotonic()
    fill(url, objects, progress)
    fill_seconds = time.monotonic() - began
    environment = {**settings.environment(), **prefect_server.client_environment(settings)}
    known, unknown = (alone(_plan, bucket, objects, environment=environment) for bucket in (KNOWN, UNKNOWN))
    progress(f"planned in {known.seconds:.1f} s (all known) and {unknown.seconds:.1f} s (all new)")
    keys = [f"{settings.masters_prefix}bench-idle/{n}.tif" for n in range(IDLE_SCANS)]
    store = open_store(settings)
    rehearsal.put(store, settings.masters_bucket, keys, [rehearsal.photograph(IDLE_MEGAPIXELS)])
    return Costs(known, unknown, fill_seconds, alone(_idle, keys, environment=environment))


def fill(url: str, objects: int, progress: Callable[[str], None], step: int = 100_000) -> None:
    """The database at ``url`` knows ``objects`` restored scans in the bucket ``bench-known``, and how many they are."""
    database = Database(url)
    for first in range(0, objects, step):
        last = min(first + step, objects) - 1
        values = {
            "first": first, "last": last, "size": SIZE_BYTES, "bucket": KNOWN, "recipe": RECIPE,
            "first_key": key_of(first), "last_key": key_of(last),
        }  # fmt: skip
        with database.transaction() as connection:
            for statement in _FILL:
                used = {name: value for name, value in values.items() if f":{name}" in statement}
                connection.execute(text(statement), used)
        progress(f"filled: {last + 1:,} of {objects:,}")
    with database.engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE master, scan, restoration"))  # as autovacuum leaves tables in use
    database.close()


def _plan(bucket: str, objects: int) -> Planned:
    settings = places.load()
    store = Simulated(endpoint_url=None, region="simulated", objects=objects)
    shop = Workshop(
        store=store, ledger=open_ledger(settings), masters_bucket=bucket, restored_bucket="none",
        restored_prefix="", work_prefix="", limits=Limits(), flow_run_id="bench", lease_seconds=60,
    )  # fmt: skip
    plan: Any = night.plan_night
    with Watch() as watch:
        planned = plan.fn(RECIPE, "", None, settings.ignore_patterns, shop)
    return Planned(
        planned.listed, planned.unchanged, len(planned.scan_keys), watch.seconds, watch.waited_seconds,
        watch.base_bytes, watch.peak_bytes,
    )  # fmt: skip


def _idle(keys: list[str]) -> Idle:
    settings = places.load()
    restored = restore_batch(keys, return_state=True)
    if not restored.is_completed():
        raise RuntimeError(f"restore_batch of {len(keys)} scans: expected completed, found {restored.message}")
    state = nightly_archive(prefix="bench-idle/", return_state=True)
    if not state.is_completed():
        raise RuntimeError(f"an idle night: expected completed, found {state.name}: {state.message}")
    flow_run_id = str(state.state_details.flow_run_id)
    database = Database(settings.database_url.get_secret_value() if settings.database_url else "")
    with database.transaction() as connection:
        asked = text("SELECT planned FROM nightly_run WHERE flow_run_id = :id")
        planned = int(connection.execute(asked, {"id": flow_run_id}).scalar_one())
    database.close()
    return Idle(planned, task_runs(flow_run_id), task_runs(flow_run_id, GPU_TAG), _batches(flow_run_id))


def _batches(flow_run_id: str) -> int:
    """Flow runs that the night started."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        of = {"flow_runs": {"parent_flow_run_id": {"any_": [flow_run_id]}}}
        return int(client.request("POST", "/flow_runs/count", json=of).json())
