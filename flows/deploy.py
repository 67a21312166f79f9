"""Deployments: the flows as a Prefect server knows them, with typed forms, the nightly schedule and the gpu limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectAlreadyExists
from prefect.utilities.callables import parameter_schema

from flows.nightly import nightly_archive
from flows.restore import restore_batch, restore_scan
from infra.settings import Settings
from tasks.stage import GPU_TAG


@dataclass(frozen=True)
class Deployed:
    """A flow as deployed: ``name`` is ``flow/deployment``, as Prefect's UI and ``run_deployment`` call it."""

    name: str
    id: UUID


def deploy(settings: Settings, client: SyncPrefectClient) -> list[Deployed]:
    """Work pool, ``gpu`` limit and the three deployments, made or brought up to date; repeating it does no harm.

    Flows are loaded by dotted name (``flows.nightly.nightly_archive``), so glassplate must be installed where the
    worker runs. ``nightly-archive`` runs once at a time: a night that begins while one is at work is cancelled.
    """
    try:
        client.create_work_pool(WorkPoolCreate(name=settings.work_pool, type="process"))
    except ObjectAlreadyExists:  # made before, perhaps as another type: an archive's own choice stays
        client.read_work_pool(settings.work_pool)
    client.upsert_global_concurrency_limit_by_name(f"tag:{GPU_TAG}", settings.gpu_slots)
    night = DeploymentScheduleCreate(
        schedule=CronSchedule(cron=settings.nightly_cron, timezone=settings.timezone), active=True
    )
    return [
        _create(client, settings, nightly_archive, {"recipe": settings.nightly_recipe}, [night], at_once=1),
        _create(client, settings, restore_batch, {}, [], at_once=None),
        _create(client, settings, restore_scan, {}, [], at_once=None),
    ]


def _create(
    client: SyncPrefectClient,
    settings: Settings,
    flow: Flow[..., Any],
    parameters: dict[str, Any],
    schedules: list[DeploymentScheduleCreate],
    at_once: int | None,
) -> Deployed:
    deployment_id = client.create_deployment(
        flow_id=client.create_flow(flow),
        name=flow.name,
        entrypoint=f"{flow.fn.__module__}.{flow.fn.__name__}",
        work_pool_name=settings.work_pool,
        parameters=parameters,
        parameter_openapi_schema=parameter_schema(flow.fn).model_dump_for_openapi(),
        enforce_parameter_schema=True,
        schedules=schedules,
        description=flow.description,
        tags=["glassplate"],
        concurrency_limit=at_once,
        concurrency_options=ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
        if at_once
        else None,
    )
    return Deployed(f"{flow.name}/{flow.name}", deployment_id)
