"""The schedule compared with the nights that were: what ran, what did not, what is started again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from sqlalchemy import text

from db.ledger import Ledger
from db.migrations import migrate
from db.records import NightCounts, NightState
from flows import missed
from flows.deploy import deploy
from infra.settings import Settings

NOW = datetime(2026, 6, 4, 12, tzinfo=UTC)
DAYS = [datetime(2026, 6, day, 1, tzinfo=UTC) for day in (2, 3, 4)]


@pytest.fixture
def ledger(fresh_database: str) -> Iterator[Ledger]:
    """A ledger whose nights start at one o'clock since the first of June."""
    migrate(fresh_database)
    ledger = Ledger(fresh_database)
    schedule(ledger, "0 1 * * *", datetime(2026, 6, 1, 8, tzinfo=UTC))
    yield ledger
    ledger.close()


def write(ledger: Ledger, statement: str, **values: object) -> None:
    with ledger._database.transaction() as connection:
        connection.execute(text(statement), values)


def schedule(ledger: Ledger, cron: str, since: datetime, zone: str = "UTC") -> None:
    ledger.note_schedule(cron, zone)
    write(ledger, "UPDATE night_schedule SET since = :since WHERE cron = :cron", since=since, cron=cron)


def ran(
    ledger: Ledger,
    at: datetime,
    state: NightState = NightState.COMPLETED,
    *,
    started: datetime | None = None,
    hours: float = 1.0,
    silent: timedelta | None = None,
    limit: int | None = None,
) -> int:
    """A night as it would have been written down at the time."""
    started = started or at
    name = f"{at} {started} {state}"
    night = ledger.open_night(name, "archival", "", scheduled_for=at, parameters={"limit": limit} if limit else {})
    if state is not NightState.RUNNING:
        ledger.close_night(night, state, NightCounts(), "The night broke off: a bug")
        ended = started + timedelta(hours=hours)
        write(ledger, "UPDATE nightly_run SET finished_at = :at WHERE id = :id", at=ended, id=night)
    write(
        ledger, "UPDATE nightly_run SET started_at = :at, alive_at = now() - :silent WHERE id = :id",
        at=started, silent=silent or timedelta(), id=night,
    )  # fmt: skip
    return night


def asked(ledger: Ledger, nights: int = 3) -> list[tuple[int, bool, str]]:
    return [(due.at.day, due.ran, due.words) for due in missed.due(ledger, nights, NOW)]


def test_nights_that_ran_are_fine_also_with_failures_and_also_late(ledger: Ledger) -> None:
    ran(ledger, DAYS[0])
    ran(ledger, DAYS[1], NightState.COMPLETED_WITH_FAILURES)
    ran(ledger, DAYS[2], started=DAYS[2] + timedelta(hours=8, minutes=5))
    assert asked(ledger, 9) == [
        (2, True, "completed"), (3, True, "completed with failures"), (4, True, "completed, 8 h 5 min late"),
    ]  # fmt: skip


def test_a_night_without_a_row_did_not_run(ledger: Ledger) -> None:
    ran(ledger, DAYS[0])
    ran(ledger, DAYS[2])
    assert asked(ledger) == [(2, True, "completed"), (3, False, "did not run"), (4, True, "completed")]
    assert asked(ledger, 1) == [(4, True, "completed")]


def test_a_night_run_by_hand_does_not_stand_for_one_that_was_due(ledger: Ledger) -> None:
    ran(ledger, DAYS[2] + timedelta(hours=7))
    assert asked(ledger, 1) == [(4, False, "did not run")]


def test_a_night_that_broke_off_or_was_killed_did_not_run_until_it_is_caught_up(ledger: Ledger) -> None:
    ran(ledger, DAYS[1], NightState.FAILED)
    killed = ran(ledger, DAYS[2], NightState.RUNNING, silent=timedelta(hours=2))
    assert asked(ledger, 2) == [
        (3, False, "broke off: The night broke off: a bug"), (4, False, "broke off: it was killed"),
    ]  # fmt: skip
    write(ledger, "UPDATE nightly_run SET alive_at = now() WHERE id = :id", id=killed)
    assert asked(ledger, 1) == [(4, True, "at work since 2026-06-04 01:00 UTC")]
    ran(ledger, DAYS[1], started=DAYS[1] + timedelta(hours=9))
    assert asked(ledger, 2)[0] == (3, True, "completed, 9 h 0 min late")


def test_a_long_night_stands_for_the_one_it_kept_from_starting_unless_it_was_about_a_part(ledger: Ledger) -> None:
    long = ran(ledger, DAYS[0], hours=30)
    part = ran(ledger, DAYS[2] - timedelta(minutes=5), hours=0.5, limit=1)
    assert asked(ledger) == [
        (2, True, "completed"), (3, True, f"night {long} was still at work"),
        (4, False, f"did not run: night {part} was still at work, on a part of the archive"),
    ]  # fmt: skip


def test_a_changed_schedule_counts_from_when_it_was_deployed(ledger: Ledger) -> None:
    schedule(ledger, "30 22 * * *", datetime(2026, 6, 3, 12, tzinfo=UTC), "Europe/Berlin")
    found = [due.at for due in missed.due(ledger, 9, NOW)]
    assert found == [DAYS[0], DAYS[1], datetime(2026, 6, 3, 20, 30, tzinfo=UTC)]


def test_a_night_has_half_an_hour_to_start_and_before_the_first_none_was_due(
    ledger: Ledger, new_database: Callable[[], str]
) -> None:
    assert missed.due(ledger, 1, DAYS[2] + timedelta(minutes=20))[0].ran
    assert not missed.due(ledger, 1, DAYS[2] + timedelta(minutes=31))[0].ran
    url = new_database()
    migrate(url)
    assert missed.due(Ledger(url), 3, NOW) == []


@pytest.mark.usefixtures("prefect")
def test_the_last_night_is_caught_up_once_and_keeps_its_own_time(ledger: Ledger) -> None:
    with get_client(sync_client=True) as client:
        deploy(Settings(work_pool="missed"), client)
        now = datetime.now(UTC)
        write(ledger, "UPDATE night_schedule SET since = :since", since=now - timedelta(days=9))
        found = missed.catch_up(ledger, client)
        assert found is not None
        assert found.words == "did not run"
        assert missed.catch_up(ledger, client) is None, "it is waiting for a worker already"
        key = FlowRunFilterIdempotencyKey(any_=[f"caught-up {found.at.isoformat()} "])
        (run,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(idempotency_key=key))
        assert run.expected_start_time == found.at
        client.delete_flow_run(run.id)
        ran(ledger, found.at)
        assert missed.catch_up(ledger, client) is None
