"""A night in the ledger: opened, planned from the masters' listing, estimated, closed with its numbers and digest."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase, translate
from typing import Any

from prefect import task

from db.records import LedgerUnavailable, ListedObject, NightCounts, NightOutcome, NightState
from infra.store import Listed, StoreError, StoreUnavailable
from tasks import stage
from tasks.contracts import Frozen, Unavailable
from tasks.stage import Workshop

SILENT_SECONDS = 600.0  # a night that was not heard of for so long is over; it gives a sign of life every 15
COLD_SHOWN = 500
COLD_REQUESTS = 1000  # in one night; each is a call, and a thawed copy costs money
PAGE = 1000
# Where nothing of a kind was read yet: usual sizes of 8-bit RGB, and of JPEG at good quality.
USUAL_BYTES_PER_MEGAPIXEL = {
    "image/tiff": 3.0e6, "image/png": 2.0e6, "image/jpeg": 0.6e6, "image/jp2": 1.2e6,
}  # fmt: skip
_TYPES = {
    "tif": "image/tiff", "tiff": "image/tiff", "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg",
    "jp2": "image/jp2", "j2k": "image/jp2",
}  # fmt: skip


class Order(StrEnum):
    """Which scans a night begins with."""

    KEY = "key"
    NEWEST = "newest"
    OLDEST = "oldest"


class Choice(Frozen):
    """Which of the listed scans a night takes besides prefix and limit: patterns on the key, order, and force."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    order: Order = Order.KEY
    force: bool = False


class Plan(Frozen):
    """The keys to restore, in the order of the night, and what the listing held besides."""

    scan_keys: tuple[str, ...]
    scan_bytes: tuple[int, ...]
    listed: int
    ignored: int
    excluded: int
    unchanged: int
    known_quarantined: int
    given_up: int
    cold: int
    cold_keys: tuple[str, ...]  # the first COLD_REQUESTS of them
    left: int

    def counts(self, begun: int | None = None) -> NightCounts:
        """The night's numbers after ``begun`` scans were begun (all, if not given) and before any ended."""
        planned = len(self.scan_keys) if begun is None else begun
        return NightCounts(
            listed=self.listed, ignored=self.ignored, excluded=self.excluded, unchanged=self.unchanged,
            known_quarantined=self.known_quarantined, given_up=self.given_up, cold=self.cold, planned=planned,
            left=self.left + len(self.scan_keys) - planned,
        )  # fmt: skip


class Estimate(Frozen):
    """What a night would take. ``hours``: of one worker's work; None where this recipe has not run here yet."""

    scans: int
    bytes: int
    megapixels: float
    known_scans: int  # whose megapixels are known, because they were opened before; the others' are from their bytes
    seconds_per_megapixel: float | None

    @property
    def hours(self) -> float | None:
        """Hours that one worker would be at work, by what this recipe took in this archive so far."""
        if self.seconds_per_megapixel is None:
            return None
        return self.megapixels * self.seconds_per_megapixel / 3600


def is_junk(found: Listed, patterns: Sequence[str]) -> bool:
    """Whether an object is no scan by its name or emptiness: folders, 0-byte objects, file-name patterns."""
    name = found.key.rsplit("/", 1)[-1]
    return not name or found.size == 0 or any(fnmatchcase(name.lower(), p.lower()) for p in patterns)


@task(name="open-night", task_run_name="open-night", **stage.TASK)
def open_night(
    flow_run_id: str,
    recipe_name: str,
    prefix: str,
    shop: Workshop,
    scheduled_for: datetime | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> int:
    """Id of this night's row; earlier nights that broke off without a word are closed as failed."""
    with _reachable("the night's row"):
        shop.ledger.close_silent_nights(SILENT_SECONDS, "The night broke off without a word: its process was killed.")
        return shop.ledger.open_night(
            flow_run_id, recipe_name, prefix, scheduled_for=scheduled_for, parameters=parameters
        )


@task(name="night-outcomes", task_run_name="night-outcomes", **stage.PATIENT_TASK)
def outcomes(night_id: int, keys: Sequence[str], shop: Workshop) -> list[NightOutcome]:
    """How every planned scan ended, in order; one without any trace in the ledger has failed, and is not forgotten."""
    with _reachable("the night's outcomes"):
        known = {outcome.key: outcome for outcome in shop.ledger.night_outcomes(night_id)}
    return [known.get(key) or _left(key) for key in keys]


@task(name="close-night", task_run_name="close-night", **stage.PATIENT_TASK)
def close_night(night_id: int, state: NightState, counts: NightCounts, page: str, shop: Workshop) -> None:
    """The night's row, final: state, numbers, digest."""
    with _reachable("the night's row"):
        shop.ledger.close_night(night_id, state, counts, page)


def _left(key: str) -> NightOutcome:
    reason = "left by error: its batch ended without an outcome for this scan"
    return NightOutcome(
        key=key, restoration_id=None, attempt=0, state="failed", reason=reason, damage_coverage=None, stages=(),
        prefix=None, cleaned_key=None, seconds=0.0,
    )  # fmt: skip


@contextmanager
def _reachable(what: str) -> Iterator[None]:
    try:
        yield
    except (StoreUnavailable, LedgerUnavailable) as error:
        raise Unavailable(what, expected="an answer", found=str(error)) from error


@task(name="plan", task_run_name="plan", **stage.TASK)
def plan_night(
    recipe_name: str,
    prefix: str,
    limit: int | None,
    ignore_patterns: Sequence[str],
    shop: Workshop,
    choice: Choice | None = None,
) -> Plan:
    """What this night has to do. One listing page is in hand at a time; nothing is downloaded.

    Of each scan that is to do its key, size and age are kept, about 150 bytes. Raises Unavailable when S3 or the
    database do not answer.
    """
    choice = choice or Choice()
    wanted = _wanted(choice)
    keys: list[str] = []
    sizes, ages = array("q"), array("d")
    cold_keys: list[str] = []
    listed = ignored = excluded = unchanged = quarantined = given_up = cold = 0
    with _reachable(prefix or "the masters"):
        for page in shop.store.pages(shop.masters_bucket, prefix):
            scans = [found for found in page if not is_junk(found, ignore_patterns)]
            chosen = [found for found in scans if wanted(found.key)]
            diff = shop.ledger.unfinished(
                shop.masters_bucket,
                recipe_name,
                [ListedObject(s.key, s.etag, s.size, s.last_modified, s.version_id) for s in chosen],
                force=choice.force,
            )
            frozen = {found.key for found in chosen if found.cold}
            for found in diff.todo:
                if found.key in frozen:
                    cold += 1
                    cold_keys += [found.key] if len(cold_keys) < COLD_REQUESTS else []
                    continue
                keys.append(found.key)
                sizes.append(found.size_bytes)
                ages.append(found.last_modified.timestamp() if found.last_modified else 0.0)
            listed += len(page)
            ignored += len(page) - len(scans)
            excluded += len(scans) - len(chosen)
            unchanged += diff.unchanged
            quarantined += diff.quarantined
            given_up += diff.given_up
    places: Sequence[int] = range(len(keys))
    if choice.order is not Order.KEY:
        places = sorted(places, key=ages.__getitem__, reverse=choice.order is Order.NEWEST)
    places = places if limit is None else places[: max(0, limit)]
    return Plan(
        scan_keys=tuple(keys[place] for place in places), scan_bytes=tuple(sizes[place] for place in places),
        listed=listed, ignored=ignored, excluded=excluded, unchanged=unchanged, known_quarantined=quarantined,
        given_up=given_up, cold=cold, cold_keys=tuple(cold_keys), left=len(keys) - len(places),
    )  # fmt: skip


def _wanted(choice: Choice) -> Any:
    """Whether a key is chosen: it matches one of ``include`` (if there is any) and none of ``exclude``."""
    include, exclude = (
        re.compile("|".join(translate(pattern) for pattern in patterns)) if patterns else None
        for patterns in (choice.include, choice.exclude)
    )
    return lambda key: (include is None or include.match(key)) and not (exclude is not None and exclude.match(key))


@task(name="estimate", task_run_name="estimate", **stage.TASK)
def estimate(recipe_name: str, plan: Plan, shop: Workshop) -> Estimate:
    """What the planned scans would take: megapixels from the ledger, else from their bytes; its own measured pace."""
    megapixels, known_scans = 0.0, 0
    with _reachable("the ledger's measurements"):
        pace = shop.ledger.pace(recipe_name)
        per_type = {**USUAL_BYTES_PER_MEGAPIXEL, **pace.bytes_per_megapixel}
        for start in range(0, len(plan.scan_keys), PAGE):
            some = [
                ListedObject(key, "", size)
                for key, size in zip(
                    plan.scan_keys[start : start + PAGE], plan.scan_bytes[start : start + PAGE], strict=True
                )
            ]
            known = shop.ledger.known_megapixels(shop.masters_bucket, some)
            known_scans += len(known)
            megapixels += sum(known.values())
            for place, item in enumerate(some):
                if place not in known:
                    suffix = item.key.rpartition(".")[2].lower()
                    megapixels += item.size_bytes / per_type[_TYPES.get(suffix, "image/tiff")]
    return Estimate(
        scans=len(plan.scan_keys), bytes=sum(plan.scan_bytes), megapixels=megapixels, known_scans=known_scans,
        seconds_per_megapixel=pace.seconds_per_megapixel,
    )  # fmt: skip


@task(name="ask-cold-back", task_run_name="ask-cold-back", **stage.TASK)
def ask_back(cold_keys: Sequence[str], days: int, shop: Workshop) -> dict[str, str]:
    """Cold scans asked back for so many days; by key, what the store said instead where it refused."""
    refused: dict[str, str] = {}
    with _reachable("cold scans"):
        for key in cold_keys:
            try:
                shop.store.request_restore(shop.masters_bucket, key, days)
            except StoreUnavailable:
                raise
            except StoreError as error:
                refused[key] = str(error)
    return refused
