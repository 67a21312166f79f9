"""A night in the ledger: opened, planned from the masters' listing, closed with its numbers and digest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

from prefect import task

from db.records import LedgerUnavailable, ListedObject, NightCounts, NightOutcome, NightState
from infra.store import Listed, StoreUnavailable
from tasks import stage
from tasks.contracts import Frozen, Unavailable
from tasks.stage import Workshop


class Plan(Frozen):
    """The keys to restore, in listing order, and what the listing held besides."""

    scan_keys: tuple[str, ...]
    listed: int
    ignored: int
    unchanged: int
    known_quarantined: int
    given_up: int
    left: int

    def counts(self) -> NightCounts:
        """The night's numbers before anything ran."""
        return NightCounts(
            listed=self.listed, ignored=self.ignored, unchanged=self.unchanged,
            known_quarantined=self.known_quarantined, given_up=self.given_up, planned=len(self.scan_keys),
            left=self.left,
        )  # fmt: skip


def is_junk(found: Listed, patterns: Sequence[str]) -> bool:
    """Whether an object is no scan by its name or emptiness: folders, 0-byte objects, file-name patterns."""
    name = found.key.rsplit("/", 1)[-1]
    return not name or found.size == 0 or any(fnmatchcase(name.lower(), p.lower()) for p in patterns)


@task(name="open-night", task_run_name="open-night", **stage.TASK)
def open_night(flow_run_id: str, recipe_name: str, prefix: str, shop: Workshop) -> int:
    """Id of this night's row."""
    with _reachable("the night's row"):
        return shop.ledger.open_night(flow_run_id, recipe_name, prefix)


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
    recipe_name: str, prefix: str, limit: int | None, ignore_patterns: Sequence[str], shop: Workshop
) -> Plan:
    """What this night has to do. One listing page is in hand at a time; nothing is downloaded.

    Raises Unavailable when S3 or the database do not answer.
    """
    keys: list[str] = []
    listed = ignored = unchanged = quarantined = given_up = left = 0
    with _reachable(prefix or "the masters"):
        for page in shop.store.pages(shop.masters_bucket, prefix):
            scans = [found for found in page if not is_junk(found, ignore_patterns)]
            diff = shop.ledger.unfinished(
                shop.masters_bucket,
                recipe_name,
                [ListedObject(s.key, s.etag, s.size, s.last_modified, s.version_id) for s in scans],
            )
            room = len(diff.todo) if limit is None else max(0, limit - len(keys))
            keys += [found.key for found in diff.todo[:room]]
            listed += len(page)
            ignored += len(page) - len(scans)
            unchanged += diff.unchanged
            quarantined += diff.quarantined
            given_up += diff.given_up
            left += max(0, len(diff.todo) - room)
    return Plan(
        scan_keys=tuple(keys), listed=listed, ignored=ignored, unchanged=unchanged, known_quarantined=quarantined,
        given_up=given_up, left=left,
    )  # fmt: skip
