"""What the Prefect server is told: typed forms, one night at a time, the gpu limit."""

from __future__ import annotations

from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.server.events.schemas.automations import EventTrigger as ServerTrigger

from flows.batches import NIGHT_QUEUE
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


def test_a_night_is_asked_for_by_a_form_and_the_settings_fill_it_in_for_the_scheduled_one() -> None:
    parameters = {"order": "newest", "stop_starting_at": "06:30", "exclude": ["*.jpg"]}
    with get_client(sync_client=True) as client:
        deployed = deploy(Settings(work_pool="night-form", nightly_parameters=parameters), client)
        night = client.read_deployment(next(d.id for d in deployed if d.name.startswith("nightly")))
    assert night.parameters == {"recipe": "archival", **parameters}
    form = night.parameter_openapi_schema["properties"]
    assert list(form) == [
        "recipe", "prefix", "include", "exclude", "order", "limit", "stop_starting_at", "force", "dry_run",
    ]  # fmt: skip
    assert night.parameter_openapi_schema["definitions"]["Order"]["enum"] == ["key", "newest", "oldest"]
    assert form["dry_run"]["default"] is False


@pytest.mark.parametrize("wrong", [{"ordre": "newest"}, {"order": "tallest"}, {"stop_starting_at": "25:00"}])
def test_parameters_that_nights_do_not_have_are_refused_when_they_are_deployed(wrong: dict[str, str]) -> None:
    with get_client(sync_client=True) as client, pytest.raises(ValueError, match="nightly_parameters"):
        deploy(Settings(work_pool="wrong", nightly_parameters=wrong), client)


def test_workers_are_given_runs_by_hand_before_those_of_the_night() -> None:
    with get_client(sync_client=True) as client:
        deployed = {d.name.split("/")[0]: d.id for d in deploy(Settings(work_pool="queues", work_pool_slots=4), client)}
        client.update_work_pool("queues", WorkPoolUpdate(concurrency_limit=2))
        of_the_night = [
            client.create_flow_run_from_deployment(
                deployed["restore-batch"], parameters={"keys": [str(number)]}, work_queue_name=NIGHT_QUEUE
            ).id
            for number in range(3)
        ]
        by_hand = client.create_flow_run_from_deployment(deployed["restore-scan"], parameters={"key": "a"}).id
        answer = client.request("POST", "/work_pools/queues/get_scheduled_flow_runs", json={})
        given = [UUID(item["flow_run"]["id"]) for item in answer.json()]
        for run in (*of_the_night, by_hand):
            client.delete_flow_run(run)
    assert given[0] == by_hand
    assert len(given) == 2, "the pool has two slots"


def test_one_automation_crashes_runs_whose_heartbeats_stay_away_and_no_run_that_ended() -> None:
    with get_client(sync_client=True) as client:
        for _ in range(2):
            deployed = deploy(Settings(work_pool="automation"), client)
        found = [a for a in client.read_automations() if a.name.startswith("glassplate")]
        batch = client.read_deployment(next(d.id for d in deployed if d.name.startswith("restore-batch")))
    (automation,) = found
    trigger = automation.trigger
    assert trigger.after == {"prefect.flow-run.heartbeat"}
    assert trigger.within.total_seconds() + 10 < 120
    assert trigger.within.total_seconds() > 2 * int(batch.job_variables["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    # The end of a run is an event that is named after its state, and we have states of our own.
    server = ServerTrigger.model_validate(trigger.model_dump())
    for state in ("heartbeat", "Completed", "CompletedWithFailures", "Quarantined"):
        assert server.expects(f"prefect.flow-run.{state}")
    assert batch.tags == ["glassplate"]
    assert automation.actions[0].state.value == "CRASHED"


def test_gpu_task_runs_are_bounded_by_the_limit_of_that_name() -> None:
    with get_client(sync_client=True) as client:
        deploy(Settings(work_pool="gpu-test", gpu_slots=3), client)
        limit = client.read_global_concurrency_limit_by_name("tag:gpu")
    assert limit.limit == 3
    assert limit.active
    for task in (detect.detect, inpaint.inpaint):
        assert task.tags == {"gpu"}
