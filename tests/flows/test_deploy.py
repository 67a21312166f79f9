"""What the Prefect server is told: typed forms, one night at a time, the gpu limit."""

from __future__ import annotations

import pytest
from prefect.client.orchestration import get_client

from flows.deploy import deploy
from infra.settings import Settings
from tasks import detect, inpaint

pytestmark = pytest.mark.usefixtures("prefect")


def test_deploying_twice_changes_nothing_and_a_new_cron_replaces_the_old() -> None:
    with get_client(sync_client=True) as client:
        first = deploy(Settings(work_pool="twice"), client)
        again = deploy(Settings(work_pool="twice", nightly_cron="0 4 * * *"), client)
        assert [d.id for d in first] == [d.id for d in again]
        night = client.read_deployment(next(d.id for d in again if d.name.startswith("nightly")))
        assert [getattr(s.schedule, "cron", None) for s in night.schedules] == ["0 4 * * *"]


def test_forms_have_enums_defaults_and_descriptions() -> None:
    with get_client(sync_client=True) as client:
        deployed = {
            d.name.split("/")[0]: client.read_deployment(d.id) for d in deploy(Settings(work_pool="forms"), client)
        }
    for name, entrypoint in (
        ("nightly-archive", "flows.nightly.nightly_archive"),
        ("restore-batch", "flows.restore.restore_batch"),
        ("restore-scan", "flows.restore.restore_scan"),
    ):
        form = deployed[name].parameter_openapi_schema
        assert deployed[name].entrypoint == entrypoint
        assert form["definitions"]["RecipeName"]["enum"] == ["archival", "enhanced", "full"]
        assert form["properties"]["recipe"]["default"] == "archival"
        for parameter in form["properties"].values():
            assert parameter.get("description"), parameter
    assert deployed["restore-scan"].parameter_openapi_schema["required"] == ["key"]
    assert deployed["nightly-archive"].global_concurrency_limit.limit == 1


def test_gpu_task_runs_are_bounded_by_the_limit_of_that_name() -> None:
    with get_client(sync_client=True) as client:
        deploy(Settings(work_pool="gpu-test", gpu_slots=3), client)
        limit = client.read_global_concurrency_limit_by_name("tag:gpu")
    assert limit.limit == 3
    assert limit.active
    for task in (detect.detect, inpaint.inpaint):
        assert task.tags == {"gpu"}
