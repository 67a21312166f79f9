"""Deployments: the flows as a Prefect server knows them, with typed forms, the nightly schedule and the gpu limit."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions, StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists, ParameterTypeError, PrefectHTTPStatusError
from prefect.utilities.callables import parameter_schema

from flows.batches import NIGHT_QUEUE
from flows.nightly import nightly_archive
from flows.restore import restore_batch, restore_scan
from infra.settings import Settings
from tasks.stage import GPU_TAG

log = logging.getLogger("glassplate.deploy")

TAG = "glassplate"
BY_HAND = "by-hand"
HEARTBEAT = "prefect.flow-run.heartbeat"
HEARTBEAT_SECONDS = 30  # the shortest that Prefect sends
SILENT_SECONDS = 75.0


@dataclass(frozen=True)
class Deployed:
    """A flow as deployed: ``name`` is ``flow/deployment``, as Prefect's UI and ``run_deployment`` call it."""

    name: str
    id: UUID


def deploy(settings: Settings, client: SyncPrefectClient) -> list[Deployed]:
    """Work pool, queues, ``gpu`` limit, the three deployments and the automation, made or brought up to date.

    Repeating it does no harm. Flows are loaded by dotted name (``flows.nightly.nightly_archive``), so glassplate must
    be installed where the worker runs. ``nightly-archive`` runs once at a time: a night that begins while one is at
    work is cancelled. Runs by hand go to a queue of their own, which workers ask first.
    """
    try:
        client.create_work_pool(WorkPoolCreate(name=settings.work_pool, type="process"))
    except ObjectAlreadyExists:  # made before, perhaps as another type: an archive's own choice stays
        client.read_work_pool(settings.work_pool)
    with suppress(ObjectAlreadyExists):  # an archive's own priorities stay
        client.create_work_queue(
            BY_HAND, "Runs that a person waits for.", priority=1, work_pool_name=settings.work_pool
        )
    client.upsert_global_concurrency_limit_by_name(f"tag:{GPU_TAG}", settings.gpu_slots)
    _tell_dead_runs(client)
    night = DeploymentScheduleCreate(
        schedule=CronSchedule(cron=settings.nightly_cron, timezone=settings.timezone), active=True
    )
    return [
        _create(client, settings, nightly_archive, nightly_parameters(settings), NIGHT_QUEUE, [night], at_once=1),
        _create(client, settings, restore_batch, {}, BY_HAND, [], at_once=None),
        _create(client, settings, restore_scan, {}, BY_HAND, [], at_once=None),
    ]


def nightly_parameters(settings: Settings) -> dict[str, Any]:
    """What the scheduled night is asked for; raises ValueError for a parameter that nights do not have or take."""
    given = {"recipe": settings.nightly_recipe, **settings.nightly_parameters}
    unknown = set(given) - set(nightly_archive.parameters.properties)
    if unknown:
        raise ValueError(f"nightly_parameters: expected parameters of a night, found {', '.join(sorted(unknown))}")
    try:
        nightly_archive.validate_parameters(given)
    except ParameterTypeError as error:
        raise ValueError(f"nightly_parameters: {error}") from error
    return given


def _tell_dead_runs(client: SyncPrefectClient) -> None:
    """An automation that marks a run as crashed when its heartbeats stay away: its worker cannot say so any more.

    Any event of the run counts as a sign of life, so that one with a state of our own naming is not taken for dead.
    A server that offers no automations works without: batches are watched through PostgreSQL, too.
    """
    wanted = AutomationCore(
        name="glassplate: mark runs whose worker vanished",
        description="A run whose heartbeats stay away is crashed; its night sends the batch again.",
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"}
            ),
            after={HEARTBEAT},
            expect={"prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENT_SECONDS),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                name="Crashed",
                message="Its worker vanished: its heartbeats stay away.",
                force=False,
            )
        ],
    )
    try:
        found = client.read_automations_by_name(wanted.name)
        if found:
            client.update_automation(found[0].id, wanted)
        else:
            client.create_automation(wanted)
    except PrefectHTTPStatusError as error:
        log.warning("automation %r was not made: %s", wanted.name, error)


def _create(
    client: SyncPrefectClient,
    settings: Settings,
    flow: Flow[..., Any],
    parameters: dict[str, Any],
    queue: str,
    schedules: list[DeploymentScheduleCreate],
    at_once: int | None,
) -> Deployed:
    deployment_id = client.create_deployment(
        flow_id=client.create_flow(flow),
        name=flow.name,
        entrypoint=f"{flow.fn.__module__}.{flow.fn.__name__}",
        work_pool_name=settings.work_pool,
        work_queue_name=queue,
        job_variables={"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)}},
        parameters=parameters,
        parameter_openapi_schema=parameter_schema(flow.fn).model_dump_for_openapi(),
        enforce_parameter_schema=True,
        schedules=schedules,
        description=flow.description,
        tags=[TAG],
        concurrency_limit=at_once,
        concurrency_options=ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
        if at_once
        else None,
    )
    return Deployed(f"{flow.name}/{flow.name}", deployment_id)
