"""What nights write down: batches and their attempts, signs of life, claims of runs that are gone, schedules."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import psycopg2
import pytest

from db.records import BatchState, ClaimStatus, Event, ListedObject, NightCounts, NightState, State


def ask(url, statement, *values):
    connection = psycopg2.connect(url.replace("+psycopg2", ""))
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


@pytest.fixture
def night(desk):
    return desk.ledger.open_night(desk.bucket, "archival", "")


def test_a_batch_counts_its_attempts_and_keeps_why_one_broke_off(desk, night, migrated_url):
    ledger, first, second = desk.ledger, f"{desk.bucket}-1", f"{desk.bucket}-2"
    for _ in range(2):  # a call whose answer was lost
        ledger.batch_sent(night, 1, ["a", "b"], first, 1)
    assert ledger.signs_of_life([first]) == {first: None}
    ledger.alive(first, "flow-run:x", 60, "machine, process 1")
    assert ledger.signs_of_life([first])[first] is not None
    ledger.batch_broke_off(night, 1, first, "its worker vanished")
    ledger.batch_sent(night, 1, ["b"], second, 2)
    assert ledger.signs_of_life([first, second]) == {second: None}, "the new run has not been heard of yet"
    ledger.end_batch(night, 1, BatchState.ENDED)
    ledger.alive(second, "flow-run:y", 60, "machine, process 2")
    found = ask(migrated_url, "SELECT state, attempts, scans, reason FROM batches WHERE nightly_run_id = %s", night)
    assert found == [("ended", 2, 1, "its worker vanished")]
    kinds = ask(migrated_url, "SELECT kind FROM event WHERE nightly_run_id = %s ORDER BY id", night)
    assert [kind for (kind,) in kinds] == ["night_opened", "batch_sent", "batch_broke_off", "batch_sent"]


def test_a_sign_of_life_extends_the_claims_of_its_own_run_and_no_other(desk):
    mine, others, done = desk.plan("mine"), desk.plan("others"), desk.plan("done")
    desk.claim(mine, f"{desk.bucket} me", 0.2)
    desk.claim(others, f"{desk.bucket} other", 0.2)
    desk.finish(done)
    time.sleep(0.3)
    desk.ledger.alive("flow", f"{desk.bucket} me", 60, "")
    assert desk.claim(mine, "somebody").status is ClaimStatus.RUNNING
    assert desk.claim(others, "somebody").status is ClaimStatus.CLAIMED
    assert desk.ledger.restoration(done.id).lease_until is None


def test_the_claims_of_a_run_that_is_gone_are_free_at_once_and_its_attempts_lost(desk, night):
    ledger, dead = desk.ledger, f"{desk.bucket} dead"
    held, ended, other = (desk.plan(key, night=night) for key in ("held", "ended", "other"))
    desk.claim(held, dead)
    desk.record(ended, desk.claim(ended, dead).attempt, State.RESTORED, dead)
    desk.claim(other, "alive")
    assert ledger.forfeit(dead, "its worker vanished") == ("held",)
    assert ledger.forfeit(dead, "its worker vanished") == ()
    outcomes = {outcome.key: (outcome.state, outcome.reason) for outcome in ledger.night_outcomes(night)}
    assert outcomes == {
        "held": ("lost", "its worker vanished"), "ended": ("restored", None), "other": ("running", None),
    }  # fmt: skip
    assert ledger.extend(held.id, dead, 60) is False, "the run that was given up may not go on"
    again = desk.claim(held, "next")
    assert (again.status, again.attempt) == (ClaimStatus.CLAIMED, 2)
    events = [event.kind for event in ledger.history(desk.bucket, "held").events]
    assert events == ["claimed", "lost", "claimed"]


def test_unended_are_the_scans_without_an_end_in_this_night(desk, night):
    ledger = desk.ledger
    for key, state in (("restored", State.RESTORED), ("skipped", State.SKIPPED), ("failed", State.FAILED)):
        desk.finish(desk.plan(key, night=night), state)
    desk.claim(desk.plan("running", night=night))
    desk.claim(desk.plan("lost", night=night), "dead")
    ledger.forfeit("dead", "gone")
    ledger.quarantine(desk.bucket, desk.listed("broken"), reason="cut", expected="", found="", night_id=night)
    ledger.event(Event("scan_failed", {"reason": "not there"}, "absent", None, night))
    desk.finish(desk.plan("earlier", night=ledger.open_night(f"{desk.bucket} before", "archival", "")))
    keys = ["never begun", "restored", "skipped", "failed", "running", "lost", "broken", "absent", "earlier"]
    assert ledger.unended(night, desk.bucket, keys) == ("never begun", "running", "lost", "earlier")


def test_with_force_everything_is_to_do_but_what_is_in_quarantine(desk):
    ledger = desk.ledger
    desk.finish(desk.plan("done"))
    planned = desk.plan("given up")
    for _ in range(5):
        desk.finish(planned, State.FAILED)
    ledger.quarantine(desk.bucket, desk.listed("broken"), reason="cut", expected="", found="")
    page = [desk.listed(key) for key in ("done", "given up", "broken", "new")]
    asked = ledger.unfinished(desk.bucket, "archival", page)
    assert ([o.key for o in asked.todo], asked.unchanged, asked.given_up, asked.quarantined) == (["new"], 1, 1, 1)
    asked = ledger.unfinished(desk.bucket, "archival", page, force=True)
    assert ([o.key for o in asked.todo], asked.quarantined) == (["done", "given up", "new"], 1)


def test_a_night_that_fell_silent_is_closed_and_one_that_lives_is_not(desk, migrated_url):
    ledger = desk.ledger
    silent, living = (ledger.open_night(f"{desk.bucket} {word}", "archival", "") for word in ("silent", "living"))
    ask(
        migrated_url, "UPDATE nightly_run SET alive_at = now() - interval '1 hour' WHERE id IN (%s, %s)", silent, living
    )
    ledger.night_alive(living)
    assert ledger.night(silent).silent_seconds > 3500
    assert ledger.night(living).silent_seconds < 60
    assert ledger.close_silent_nights(600, "It broke off.") == (silent,)
    assert (ledger.night(silent).state, ledger.night(silent).digest) == (NightState.FAILED, "It broke off.")
    assert ledger.night(living).state is NightState.RUNNING


def test_nights_since_a_moment_are_those_that_started_were_due_or_were_still_at_work(desk):
    ledger, now = desk.ledger, datetime.now(UTC)
    due = now - timedelta(days=3)
    parameters = {"order": "newest"}
    late = ledger.open_night(f"{desk.bucket} late", "archival", "", scheduled_for=due, parameters=parameters)
    ledger.close_night(late, NightState.COMPLETED, NightCounts(cold=2, excluded=3), "")
    found = {night.id: night for night in ledger.nights_since(now - timedelta(days=4))}[late]
    assert (found.scheduled_for, found.parameters, found.counts.cold, found.counts.excluded) == (due, parameters, 2, 3)
    assert late not in {night.id for night in ledger.nights_since(datetime.now(UTC) + timedelta(days=1))}


def test_a_schedule_is_noted_when_it_changes(fresh_database):
    from db.ledger import Ledger
    from db.migrations import migrate

    migrate(fresh_database)
    ledger = Ledger(fresh_database)
    assert ledger.schedules() == ()
    for cron in ("0 1 * * *", "0 1 * * *", "0 4 * * *"):
        ledger.note_schedule(cron, "UTC")
    assert [(s.cron, s.timezone) for s in ledger.schedules()] == [("0 1 * * *", "UTC"), ("0 4 * * *", "UTC")]
    ledger.close()


def test_the_pace_is_seconds_of_all_stages_over_megapixels_of_the_scans(fresh_database, fill_archive):
    from db.ledger import Ledger
    from db.migrations import migrate

    migrate(fresh_database)
    ledger = Ledger(fresh_database)
    empty = ledger.pace("archival")
    assert (empty.seconds_per_megapixel, empty.bytes_per_megapixel) == (None, {})
    fill_archive(ledger)  # four finished scans of 12 megapixels, two seconds each; files of about 1,015 bytes
    pace = ledger.pace("archival")
    assert pace.seconds_per_megapixel == pytest.approx(2 / 12)
    assert pace.bytes_per_megapixel == {"image/tiff": pytest.approx(1015 / 12, rel=0.05)}
    assert ledger.pace("full").seconds_per_megapixel is None
    listed = [ListedObject("never seen", "e", 1), ListedObject("glass/0001.tif", "e", 1000 + len("glass/0001.tif"))]
    assert ledger.known_megapixels("masters", listed) == {1: 12.0}
    ledger.close()
