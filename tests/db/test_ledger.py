import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg2
import pytest
from sqlalchemy import create_engine, text

from db.ledger import Ledger
from db.records import (
    ClaimStatus,
    Derivative,
    Event,
    LedgerConflict,
    ListedObject,
    NightCounts,
    NightState,
    State,
)


def plain(url):
    return url.replace("+psycopg2", "")


def look(url, statement, *values):
    connection = psycopg2.connect(plain(url))
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else cursor.rowcount
    finally:
        connection.close()


def run_out(url, restoration_id):
    """The lease of the restoration ended a second ago."""
    look(url, "UPDATE restoration SET lease_until = now() - interval '1 second' WHERE id = %s", restoration_id)


# -- what is new


def test_a_page_of_unknown_objects_is_all_to_do_in_its_order(desk):
    page = [desk.listed(key) for key in ("c.tif", "a b.tif", "../ü\u2028'\"%s:x\\.tif", "k" * 1024)]
    diff = desk.ledger.unfinished(desk.bucket, "archival", page)
    assert diff.todo == tuple(page)
    assert (diff.unchanged, diff.quarantined, diff.given_up) == (0, 0, 0)


def test_an_empty_page_has_nothing_to_do(desk):
    assert desk.ledger.unfinished(desk.bucket, "archival", []).todo == ()


def test_restored_and_skipped_scans_are_unchanged_and_everything_else_is_to_do(desk):
    for key, state in (("done", State.RESTORED), ("clean", State.SKIPPED), ("failed", State.FAILED)):
        desk.finish(desk.plan(key), state)
    desk.claim(desk.plan("running"))
    desk.register("only read")
    page = [desk.listed(key) for key in ("done", "clean", "failed", "running", "only read", "new")]
    diff = desk.ledger.unfinished(desk.bucket, "archival", page)
    assert [item.key for item in diff.todo] == ["failed", "running", "only read", "new"]
    assert diff.unchanged == 2


def test_another_recipe_or_bucket_knows_nothing_of_a_finished_scan(desk):
    desk.finish(desk.plan("a"))
    page = [desk.listed("a")]
    assert desk.ledger.unfinished(desk.bucket, "full", page).todo == tuple(page)
    assert desk.ledger.unfinished(desk.bucket + "-other", "archival", page).todo == tuple(page)


@pytest.mark.parametrize("change", [{"etag": "other"}, {"size_bytes": 7}])
def test_an_object_that_changed_is_to_do_again(desk, change):
    desk.finish(desk.plan("a"))
    changed = replace(desk.listed("a"), **change)
    assert desk.ledger.unfinished(desk.bucket, "archival", [changed]).todo == (changed,)


def test_versions_are_compared_where_both_sides_know_one(desk):
    first = desk.listed("a", version_id="v1")
    planned = desk.plan("a")
    desk.ledger.register(desk.bucket, first, desk.master("a"))
    look_up = desk.ledger.unfinished
    desk.finish(planned)
    versioned = desk.listed("b", version_id="v1")
    desk.ledger.register(desk.bucket, versioned, desk.master("a"))
    assert look_up(desk.bucket, "archival", [desk.listed("b")]).unchanged == 1  # a listing that tells no version
    assert look_up(desk.bucket, "archival", [versioned]).unchanged == 1
    assert look_up(desk.bucket, "archival", [replace(versioned, version_id="v2")]).unchanged == 0


def test_a_copy_of_a_restored_master_is_unchanged_once_it_was_read(desk):
    desk.finish(desk.plan("original"))
    copy = desk.listed("copy", "original")
    assert desk.ledger.unfinished(desk.bucket, "archival", [copy]).todo == (copy,)
    claim = desk.claim(desk.plan("copy", "original"))
    assert claim.status is ClaimStatus.FINISHED
    assert claim.prefix == f"restored/{desk.bucket}/original/{claim.restoration_id}/"
    assert desk.ledger.unfinished(desk.bucket, "archival", [copy]).unchanged == 1


def test_a_scan_that_fails_or_loses_its_worker_too_often_is_given_up_until_released(desk, migrated_url):
    failing, killing = desk.plan("failing"), desk.plan("killing")
    page = [desk.listed("failing"), desk.listed("killing")]
    for attempt in (1, 2, 3):
        assert desk.claim(killing, f"worker {attempt}").attempt == attempt
        run_out(migrated_url, killing.id)
        desk.finish(failing, State.FAILED)
    assert len(desk.ledger.unfinished(desk.bucket, "archival", page, attempts_at_most=4).todo) == 2
    given_up = desk.ledger.unfinished(desk.bucket, "archival", page, attempts_at_most=3)
    assert (given_up.todo, given_up.given_up) == ((), 2)
    assert [desk.ledger.release(desk.bucket, key, "Ada") for key in ("failing", "killing", "killing")] == [1, 1, 0]
    assert len(desk.ledger.unfinished(desk.bucket, "archival", page, attempts_at_most=3).todo) == 2
    assert desk.ledger.restoration(killing.id).state is State.PLANNED
    assert desk.claim(killing, "worker 4").attempt == 4


def test_the_diff_of_a_page_never_reads_a_whole_table(desk, migrated_url):
    engine = create_engine(migrated_url)
    with engine.begin() as connection:
        name = desk.bucket
        connection.execute(
            text("""
                INSERT INTO scan (bucket, key, etag, size_bytes)
                SELECT :name, 'key ' || n, 'etag', n FROM generate_series(1, 20000) n
            """),
            {"name": name},
        )
        connection.execute(text("ANALYZE scan"))
    engine.dispose()
    seen = look(migrated_url, "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'scan'")
    page = [ListedObject(f"key {n}", "etag", n) for n in range(5000, 6000)]
    assert len(desk.ledger.unfinished(name, "archival", page).todo) == 1000
    look(migrated_url, "SELECT pg_stat_force_next_flush()")
    desk.ledger.close()  # a backend reports its counts when it ends
    after = look(migrated_url, "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'scan'")
    assert after[0][0] - seen[0][0] < 20_000


# -- register and quarantine


def test_registering_twice_gives_the_same_scan(desk):
    assert desk.register("a") == desk.register("a")
    assert desk.register("a") != desk.register("b", "a")


def test_the_same_object_read_with_other_bytes_is_a_conflict(desk):
    desk.register("a")
    with pytest.raises(LedgerConflict, match=r"a \(etag .*expected sha256"):
        desk.ledger.register(desk.bucket, desk.listed("a"), desk.master("other"))


def test_a_quarantined_object_is_no_news_until_it_changes_or_is_released(desk):
    listed = desk.listed("broken")
    for _ in range(2):
        desk.ledger.quarantine(desk.bucket, listed, reason="first", expected="rows", found="\x00 none \udcff")
    desk.ledger.quarantine(desk.bucket, listed, reason="second", expected="", found="")
    changed = desk.listed("broken", "mended")
    diff = desk.ledger.unfinished(desk.bucket, "archival", [listed, changed])
    assert (diff.quarantined, diff.todo) == (1, (changed,))

    assert desk.ledger.release(desk.bucket, "broken", "Ada") == 1
    assert desk.ledger.release(desk.bucket, "broken", "Ada") == 0
    assert desk.ledger.unfinished(desk.bucket, "archival", [listed]).todo == (listed,)
    (row,) = desk.ledger.history(desk.bucket, "broken").quarantined
    assert (row.reason, row.released_by, row.found) == ("first", "Ada", "\ufffd none \ufffd\ufffd\ufffd")

    desk.ledger.quarantine(desk.bucket, listed, reason="third", expected="", found="")
    history = desk.ledger.history(desk.bucket, "broken")
    assert [(row.reason, row.released_at) for row in history.quarantined] == [("third", None)]
    assert [event.kind for event in history.events] == ["quarantined", "released", "quarantined"]


# -- claims


def test_of_twenty_at_once_exactly_one_gets_the_claim(desk, migrated_url):
    planned, start = desk.plan("wanted"), threading.Barrier(20)

    def reach(number):
        start.wait()
        return Ledger(migrated_url).claim(planned, f"holder {number}", 60)

    with ThreadPoolExecutor(20) as crowd:
        claims = list(crowd.map(reach, range(20)))
    winners = [claim for claim in claims if claim.status is ClaimStatus.CLAIMED]
    assert len(winners) == 1
    assert {claim.status for claim in claims} == {ClaimStatus.CLAIMED, ClaimStatus.RUNNING}
    assert {claim.holder for claim in claims} == {winners[0].holder}
    assert {claim.attempt for claim in claims} == {1}


def test_of_twenty_that_see_a_lease_run_out_exactly_one_takes_over(desk, migrated_url):
    planned, start = desk.plan("wanted"), threading.Barrier(20)
    desk.claim(planned, "dead")
    run_out(migrated_url, planned.id)

    def reach(number):
        start.wait()
        return Ledger(migrated_url).claim(planned, f"holder {number}", 60)

    with ThreadPoolExecutor(20) as crowd:
        claims = list(crowd.map(reach, range(20)))
    assert [claim.attempt for claim in claims if claim.status is ClaimStatus.CLAIMED] == [2]
    assert look(migrated_url, "SELECT number, state FROM attempt WHERE restoration_id = %s ORDER BY 1", planned.id) == [
        (1, "lost"),
        (2, "running"),
    ]


def test_a_repeated_claim_by_the_holder_is_the_same_attempt_with_a_new_lease(desk):
    planned = desk.plan("a")
    first, second = desk.claim(planned, lease_seconds=60), desk.claim(planned, lease_seconds=600)
    assert (first.status, second.status) == (ClaimStatus.CLAIMED, ClaimStatus.CLAIMED)
    assert (second.attempt, second.planned_at) == (first.attempt, first.planned_at)
    assert 500 < (second.lease_until - first.lease_until).total_seconds() < 600


@pytest.mark.parametrize("state", [State.RESTORED, State.SKIPPED])
def test_what_is_finished_can_never_be_claimed_again(desk, state):
    planned = desk.plan("a")
    desk.finish(planned, state)
    claim = desk.claim(planned, "somebody else")
    assert (claim.status, claim.state, claim.restoration_id) == (ClaimStatus.FINISHED, state, planned.id)
    assert claim.holder is None


def test_a_failed_restoration_is_claimed_as_the_next_attempt(desk):
    planned = desk.plan("a")
    desk.finish(planned, State.FAILED)
    claim = desk.claim(planned, "somebody else")
    assert (claim.status, claim.state, claim.attempt, claim.reason) == (ClaimStatus.CLAIMED, State.RUNNING, 2, None)


def test_a_claim_that_contradicts_its_id_is_a_conflict(desk):
    planned = desk.plan("a")
    desk.claim(planned)
    with pytest.raises(LedgerConflict, match="recipe_digest"):
        desk.claim(replace(planned, recipe_digest="another"))


def test_a_claim_for_a_scan_that_nobody_registered_is_a_conflict(desk):
    with pytest.raises(LedgerConflict, match="scan_id"):
        desk.claim(replace(desk.plan("a"), scan_id=2**40))


def test_a_lease_is_extended_by_its_holder_only(desk, migrated_url):
    planned = desk.plan("a")
    before = desk.claim(planned, lease_seconds=10).lease_until
    assert desk.ledger.extend(planned.id, "holder", 1000)
    assert (desk.ledger.restoration(planned.id).lease_until - before).total_seconds() > 900
    assert not desk.ledger.extend(planned.id, "somebody else", 1000)
    run_out(migrated_url, planned.id)
    assert desk.ledger.extend(planned.id, "holder", 1000), "nobody took over yet"
    run_out(migrated_url, planned.id)
    desk.claim(planned, "somebody else")
    assert not desk.ledger.extend(planned.id, "holder", 1000)
    desk.record(planned, 2, State.RESTORED, "somebody else")
    assert not desk.ledger.extend(planned.id, "somebody else", 1000)


# -- records


def test_a_recorded_restoration_reads_back_as_it_was_given(desk):
    planned = desk.plan("a")
    desk.finish(planned)
    found, given = desk.ledger.restoration(planned.id), desk.ending(planned, State.RESTORED)
    assert (found.state, found.attempts, found.holder, found.lease_until) == (State.RESTORED, 1, None, None)
    assert (found.key, found.recipe, found.prefix) == ("a", planned.recipe, planned.prefix)
    assert found.planned_at <= found.started_at <= found.finished_at
    assert found.stage_runs == given.stage_runs
    assert tuple(replace(item, published_at=None) for item in found.derivatives) == given.derivatives
    assert found.scores == given.scores
    kinds = [event.kind for event in desk.ledger.history(desk.bucket, "a").events]
    assert kinds == ["claimed", "published", "restored"]


def test_recording_twice_changes_nothing(desk):
    planned = desk.plan("a")
    desk.finish(planned)
    before = desk.ledger.history(desk.bucket, "a")
    desk.record(planned, 1, State.RESTORED)
    assert desk.ledger.history(desk.bucket, "a") == before


def test_a_record_by_one_who_lost_the_lease_is_refused_and_leaves_nothing(desk, migrated_url):
    planned = desk.plan("a")
    desk.claim(planned, "slow")
    run_out(migrated_url, planned.id)
    desk.claim(planned, "quick")
    with pytest.raises(LedgerConflict, match=r"found attempt 1 lost, by slow; now running at attempt 2, held by quick"):
        desk.record(planned, 1, State.RESTORED, "slow")
    assert desk.ledger.restoration(planned.id).derivatives == ()
    desk.record(planned, 2, State.RESTORED, "quick")
    assert desk.ledger.restoration(planned.id).state is State.RESTORED


def test_a_record_whose_lease_ran_out_unnoticed_still_counts(desk, migrated_url):
    planned = desk.plan("a")
    desk.claim(planned)
    run_out(migrated_url, planned.id)
    desk.record(planned, 1, State.RESTORED)
    assert desk.ledger.restoration(planned.id).state is State.RESTORED


def test_a_second_record_with_another_end_is_a_conflict(desk):
    planned = desk.plan("a")
    desk.finish(planned)
    with pytest.raises(LedgerConflict, match="to end as failed"):
        desk.record(planned, 1, State.FAILED)


def test_only_an_end_can_be_recorded(desk):
    planned = desk.plan("a")
    desk.claim(planned)
    with pytest.raises(LedgerConflict, match="final state"):
        desk.ledger.record(planned.id, 1, "holder", State.RUNNING)
    with pytest.raises(LedgerConflict, match="expected a row"):
        desk.ledger.record("0" * 16, 1, "holder", State.FAILED)


def test_a_derivative_that_is_known_with_other_bytes_rolls_the_whole_record_back(desk):
    first, second = desk.plan("a"), desk.plan("b")
    desk.finish(first)
    desk.claim(second)
    taken = replace(desk.ending(first, State.RESTORED).derivatives[0], sha256="f" * 64)
    with pytest.raises(LedgerConflict, match=r"cleaned\.tif: expected sha256"):
        desk.ledger.record(second.id, 1, "holder", State.RESTORED, derivatives=[taken])
    assert desk.ledger.restoration(second.id).state is State.RUNNING
    assert len(desk.ledger.restoration(first.id).derivatives) == 4


def test_a_later_attempt_may_record_what_an_earlier_one_published(desk):
    planned = desk.plan("a")
    published = desk.ending(planned, State.RESTORED).derivatives
    desk.claim(planned)
    desk.ledger.record(planned.id, 1, "holder", State.FAILED, "record.json came back short", derivatives=published[:2])
    desk.finish(planned)
    found = desk.ledger.restoration(planned.id)
    assert (found.attempts, found.reason, len(found.derivatives)) == (2, None, 4)


def test_a_row_that_makes_no_sense_is_a_conflict_with_the_rule_it_broke(desk):
    planned = desk.plan("a")
    desk.claim(planned)
    nonsense = Derivative("cleaned", "restored", "k", "no hash", 1, "image/tiff", "")
    with pytest.raises(LedgerConflict, match="ck_derivative_sha256_is_hex"):
        desk.ledger.record(planned.id, 1, "holder", State.RESTORED, derivatives=[nonsense])


# -- nights and events


def test_a_night_is_opened_once_for_its_flow_run_and_open_again_when_the_flow_is_retried(desk):
    ledger, flow = desk.ledger, desk.bucket
    night = ledger.open_night(flow, "archival", "glass/")
    assert ledger.open_night(flow, "archival", "glass/") == night
    counts = NightCounts(listed=3, planned=2, restored=1, failed=1, unchanged=1)
    for _ in range(2):
        ledger.close_night(night, NightState.COMPLETED_WITH_FAILURES, counts, "# Digest")
    found = ledger.night(night)
    assert (found.state, found.counts, found.digest) == (NightState.COMPLETED_WITH_FAILURES, counts, "# Digest")
    assert found.finished_at is not None
    assert ledger.open_night(flow, "archival", "glass/") == night
    assert (ledger.night(night).state, ledger.night(night).finished_at) == (NightState.RUNNING, None)


def test_closing_a_night_that_never_was_is_a_conflict(desk):
    assert desk.ledger.night(2**40) is None
    with pytest.raises(LedgerConflict, match="night"):
        desk.ledger.close_night(2**40, NightState.COMPLETED, NightCounts(), "")


def test_a_night_tells_the_end_of_every_scan_it_touched(desk, migrated_url):
    ledger = desk.ledger
    night, next_night = (ledger.open_night(f"{desk.bucket} {n}", "archival", "") for n in (1, 2))
    for key, state in (("done", State.RESTORED), ("clean", State.SKIPPED), ("failed", State.FAILED)):
        desk.finish(desk.plan(key, night=night), state)
    crashed = desk.plan("crashed", night=night)
    desk.claim(crashed, "dead")
    run_out(migrated_url, crashed.id)
    desk.finish(crashed)
    desk.claim(desk.plan("open", night=night))
    ledger.quarantine(desk.bucket, desk.listed("broken"), reason="cut short", expected="", found="", night_id=night)
    refused = desk.plan("refused", night=night)
    desk.claim(refused)
    ledger.record(refused.id, 1, "holder", State.QUARANTINED, "no photograph")
    ledger.quarantine(desk.bucket, desk.listed("refused"), reason="x", expected="", found="", night_id=night)
    desk.finish(desk.plan("failed", night=next_night), State.RESTORED)

    rows = {row.key: row for row in ledger.night_outcomes(night)}
    assert len(rows) == len(ledger.night_outcomes(night)) == 7
    assert {key: row.state for key, row in rows.items()} == {
        "broken": "quarantined", "clean": "skipped", "crashed": "restored", "done": "restored", "failed": "failed",
        "open": "running", "refused": "quarantined",
    }  # fmt: skip
    assert list(rows) == sorted(rows)
    assert rows["broken"].restoration_id is None
    assert rows["crashed"].attempt == 2
    assert rows["done"].cleaned_key.endswith("cleaned.tif")
    assert rows["done"].seconds == 2.0
    assert rows["done"].damage_coverage == desk.ending(desk.plan("done"), State.RESTORED).scores[0].value
    assert [(line.stage, line.outcome, line.reason) for line in rows["clean"].stages] == [
        ("detect", "done", None),
        ("inpaint", "skipped", "no damage found"),
    ]
    assert [row.state for row in ledger.night_outcomes(next_night)] == ["restored"]


def test_a_night_tells_what_ended_before_a_claim_by_its_event(desk):
    ledger = desk.ledger
    night = ledger.open_night(desk.bucket, "archival", "")
    restored = desk.plan("original")
    desk.finish(restored)
    ledger.event(Event("scan_skipped", {"reason": "a copy of original"}, "copy", restored.id, night))
    for reason in ("first", "last"):
        ledger.event(Event("scan_failed", {"reason": reason}, "unreachable", None, night))
    for key in ("worked", "broken"):
        ledger.event(Event("scan_failed", {"reason": "later it went well"}, key, None, night))
    desk.finish(desk.plan("worked", night=night))
    ledger.quarantine(desk.bucket, desk.listed("broken"), reason="cut", expected="", found="", night_id=night)
    found = [(row.key, row.state, row.reason, row.attempt, row.prefix) for row in ledger.night_outcomes(night)]
    assert found == [
        ("broken", "quarantined", "cut", 0, None),
        ("copy", "skipped", "a copy of original", 0, restored.prefix),
        ("unreachable", "failed", "last", 0, None),
        ("worked", "restored", None, 1, ledger.night_outcomes(night)[-1].prefix),
    ]


def test_an_event_with_a_name_is_appended_once_and_one_without_every_time(desk):
    happened = Event("alpha_dropped", {"found": "opaque \x00"}, scan_key=f"{desk.bucket} key")
    for _ in range(2):
        desk.ledger.event(happened, once=f"{desk.bucket} alpha")
        desk.ledger.event(happened)
    events = desk.ledger.history(desk.bucket, f"{desk.bucket} key").events
    assert [event.detail for event in events] == [{"found": "opaque \ufffd"}] * 3


@pytest.mark.parametrize("statement", ["UPDATE event SET kind = 'x'", "DELETE FROM event", "TRUNCATE event"])
@pytest.mark.parametrize("role", ["origin", "replica"])
def test_no_event_can_be_changed_or_taken_away(desk, migrated_url, statement, role):
    desk.ledger.event(Event("kept"))
    with pytest.raises(psycopg2.errors.RestrictViolation, match="append-only"):
        look(migrated_url, f"SET session_replication_role = {role}; {statement}")


def test_an_unknown_restoration_is_none_and_an_unknown_key_has_no_history(desk):
    assert desk.ledger.restoration("0" * 16) is None
    history = desk.ledger.history(desk.bucket, "nothing")
    assert (history.restorations, history.quarantined, history.events) == ((), (), ())


# -- across processes


def test_a_pickled_ledger_works_and_shows_no_password(desk):
    night = desk.ledger.open_night(desk.bucket, "archival", "")
    copy = pickle.loads(pickle.dumps(desk.ledger))
    assert copy.night(night) == desk.ledger.night(night)
    assert "***" in repr(copy)
