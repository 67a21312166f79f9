"""Restoring: one scan or a batch of scans, one line per stage. Read this file to know the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from db.ledger import Ledger
from db.records import LedgerUnavailable
from flows import digest
from flows.heartbeat import at_work
from infra import settings as places
from infra.settings import Settings
from infra.store import open_store
from models.imaging import Limits
from models.registry import CARDS, ModelCard, WeightFile
from tasks import colorize, detect, enhance, faces, ingest, inpaint, publish, record, score
from tasks.contracts import Course, GroupFailed, Outcome, StageResult
from tasks.recipe import RECIPES, RecipeName, RestorationRecipe, ScoreConfig
from tasks.shelf import Shelf
from tasks.stage import Identity, Stage, Workshop

STAGES: dict[str, tuple[Callable[..., Stage], Callable[..., list[StageResult]]]] = {
    "detect": (detect.stage_of, detect.detect),  # plate -> damage mask
    "inpaint": (inpaint.stage_of, inpaint.inpaint),  # plate + mask -> cleaned layer
    "enhance": (enhance.stage_of, enhance.enhance),  # cleaned layer -> enhanced layer
    "faces": (faces.stage_of, faces.faces),  # faces of the cleaned layer, restored in the enhanced one
    "colorize": (colorize.stage_of, colorize.colorize),  # a layer without colour -> colorized layer
}


def restore(keys: Sequence[str], recipe: RestorationRecipe, shop: Workshop, settings: Settings) -> list[Course]:
    """Every scan's course: read, its stages run, derivatives published, everything written down."""
    ended: list[Course] = []
    distinct = list(dict.fromkeys(keys))
    for start in range(0, len(distinct), settings.scans_per_task):
        scans = _ingested(distinct[start : start + settings.scans_per_task], recipe, shop)
        for group in groups(scans, settings.megapixels_per_task):
            for config in recipe.stages:
                group = _onward(STAGES[config.stage][1], group, config, shop)
            group = _onward(score.score, group, ScoreConfig(), shop)
            group = _published(group, recipe, shop)
            ended += _recorded(group, shop)
    return ended


def identity(recipe: RestorationRecipe, models: Shelf) -> Identity:
    """What besides the master and the recipe decides the pixels: stage code and weights."""
    stages = [STAGES[config.stage][0](config, models) for config in recipe.stages]
    return Identity(
        stage_versions={stage.name: stage.version() for stage in stages},
        weights_sha256s=tuple(sha256 for stage in stages for sha256 in stage.weights()),
    )


def groups(courses: Sequence[Course], megapixels: float) -> Iterator[list[Course]]:
    """The courses in groups of at most ``megapixels`` together, largest scans last; a larger one goes alone.

    Scans that go no further form the first group: they have only to be written down.
    """
    ended = [course for course in courses if course.plate is None]
    if ended:
        yield ended
    group: list[Course] = []
    size = 0.0
    for course in sorted((c for c in courses if c.plate), key=lambda c: c.plate.megapixels if c.plate else 0.0):
        own = course.plate.megapixels if course.plate else 0.0
        if group and size + own > megapixels:
            yield group
            group, size = [], 0.0
        group.append(course)
        size += own
    if group:
        yield group


def _ingested(keys: Sequence[str], recipe: RestorationRecipe, shop: Workshop) -> list[Course]:
    results = _results(ingest.ingest, list(keys), recipe, identity(recipe, shop.models), shop)
    return [Course(scan=result.scan, results=(result,)) for result in results]


def _onward(task: Callable[..., list[StageResult]], courses: list[Course], *rest: Any) -> list[Course]:
    """The courses one stage on; those whose plate is gone stay as they are."""
    plates = [course.plate for course in courses if course.plate]
    return _joined(courses, _results(task, plates, *rest) if plates else [])


def _published(courses: list[Course], recipe: RestorationRecipe, shop: Workshop) -> list[Course]:
    living = [course for course in courses if course.plate]
    return _joined(courses, _results(publish.publish, living, recipe, shop) if living else [])


def _recorded(courses: list[Course], shop: Workshop) -> list[Course]:
    """The courses, written down; one that could not be has failed, whatever came before."""
    unwritten = [r for r in _results(record.record, courses, shop) if r.outcome is Outcome.FAILED]
    return _joined(courses, unwritten)


def _joined(courses: list[Course], results: list[StageResult]) -> list[Course]:
    by_scan = {result.scan: result for result in results}
    return [course.then(by_scan[course.scan]) if course.scan in by_scan else course for course in courses]


def _results(task: Callable[..., list[StageResult]], *arguments: Any) -> list[StageResult]:
    try:
        return task(*arguments)
    except GroupFailed as failure:  # every scan failed, each for a reason of its own: they are written down too
        return failure.results


def open_shop(settings: Settings, nightly_run_id: int | None = None) -> Workshop:
    """The workshop of the flow run at work; raises when settings name no database or no object store."""
    return Workshop(
        store=open_store(settings),
        ledger=open_ledger(settings),
        masters_bucket=settings.masters_bucket,
        restored_bucket=settings.restored_bucket,
        restored_prefix=settings.restored_prefix,
        work_prefix=settings.work_prefix,
        limits=Limits(max_megapixels=settings.max_megapixels, max_bytes=settings.max_bytes),
        flow_run_id=str(flow_run.id) if flow_run.id else None,
        lease_seconds=settings.lease_seconds,
        night_id=nightly_run_id,
        models=open_shelf(settings),
    )


def open_shelf(settings: Settings) -> Shelf:
    """The models these settings allow: those they register, then our own; raises ValueError for an id of ours."""
    registered = tuple(
        ModelCard(
            id=m.id, purpose=m.purpose, arch=m.arch, licence=m.licence, data_terms=m.data_terms,
            files=(WeightFile(m.source, m.sha256, m.size_bytes),), trained_on=m.trained_on, channels=m.channels,
            scale=m.scale, note="Registered in settings.",
        )
        for m in settings.models
    )  # fmt: skip
    if taken := sorted({card.id for card in registered} & {card.id for card in CARDS}):
        raise ValueError(f"settings register models: expected ids of their own, found {', '.join(taken)}")
    return Shelf(
        cards=(*registered, *CARDS),
        weights_dir=settings.weights_dir or settings.data_dir / "weights",
        device=settings.device,
        licences=None if settings.allowed_licences is None else frozenset(settings.allowed_licences),
        data_terms=frozenset(settings.allowed_data_terms),
    )


def open_ledger(settings: Settings) -> Ledger:
    """The provenance database the settings name."""
    if settings.database_url is None:
        raise LedgerUnavailable(
            f"expected a database, found none: set GLASSPLATE_DATABASE_URL, or start the embedded stack "
            f"(`glassplate up`); looked in {settings.data_dir}"
        )
    return Ledger(settings.database_url.get_secret_value())


def _batch_name() -> str:
    """As its night named it (night-7-batch-3), else batch-archival."""
    given = str(flow_run.name or "")
    recipe = RecipeName(flow_run.parameters.get("recipe", RecipeName.ARCHIVAL))
    return given if given.startswith("night-") else f"batch-{recipe.value}"


@flow(name="restore-batch", flow_run_name=_batch_name)
def restore_batch(
    keys: list[str], recipe: RecipeName = RecipeName.ARCHIVAL, nightly_run_id: int | None = None
) -> State[Any]:
    """Restore several scans. The run fails when any scan failed; every scan's outcome is in its artifact and in SQL.

    Args:
        keys: S3 keys of the scans, as they lie in the masters bucket.
        recipe: What to do. archival: mend damage only. enhanced: sharpen, too. full: also faces and colour.
        nightly_run_id: The night this batch belongs to; leave empty when started by hand.
    """
    settings = places.load()
    shop = open_shop(settings, nightly_run_id)
    with at_work(shop):
        courses = restore(keys, RECIPES[recipe], shop, settings)
    create_markdown_artifact(digest.batch_page(courses), key="batch", description="Outcome of every scan")
    failed = [course for course in courses if course.results[-1].outcome is Outcome.FAILED]
    if failed:
        return Failed(name="CompletedWithFailures", message=digest.failures(failed))
    return Completed(message=digest.summary(courses))


@flow(name="restore-scan", flow_run_name="scan-{key}")
def restore_scan(key: str, recipe: RecipeName = RecipeName.ARCHIVAL) -> State[Any]:
    """Restore one scan now. What was done, and where the result lies, is in the run's artifact.

    Args:
        key: S3 key of the scan, as it lies in the masters bucket, for example portraits/1907/0012.tif
        recipe: What to do. archival: mend damage only. enhanced: sharpen, too. full: also faces and colour.
    """
    settings = places.load()
    shop = open_shop(settings)
    with at_work(shop):
        (course,) = restore([key], RECIPES[recipe], shop, settings)
    create_markdown_artifact(digest.scan_page(course), key="scan", description=f"What was done to {key}")
    last = course.results[-1]
    if last.outcome is Outcome.FAILED:
        return Failed(message=f"{last.stage}: {last.reason}")
    if last.outcome is Outcome.QUARANTINED:
        return Completed(name="Quarantined", message=last.reason)
    return Completed(message=digest.summary([course]))
