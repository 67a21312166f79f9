"""The night's loop over its batches, on a real ledger and with workers that do as they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.states import Running

from db.ledger import Ledger
from db.migrations import migrate
from db.records import ListedObject, MasterFacts, PlannedRestoration, State
from flows import batches
from flows.batches import DeploymentRuns, Night, RunState, packed
from flows.deploy import deploy
from infra.settings import Settings
from infra.store import Store
from models.imaging import Limits
from tasks.contracts import sha256_of
from tasks.stage import Workshop

LEASE_SECONDS = 900


@dataclass
class Pool:
    """Runs as a test wants them: ``script`` says for each run, by its name, what happens at every look."""

    shop: Workshop
    script: Callable[[str, tuple[str, ...]], Iterator[RunState]]
    now: float = 0.0
    sent: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    at_work: dict[str, Iterator[RunState]] = field(default_factory=dict)
    last: dict[str, RunState] = field(default_factory=dict)
    ended: list[tuple[str, StateType]] = field(default_factory=list)
    most_at_once: int = 0
    away: list[str] = field(default_factory=list)

    def send(self, scan_keys: Sequence[str], name: str) -> str:
        if "send" in self.away:
            self.away.remove("send")
            raise httpx.ConnectError("connection refused")
        self.sent.append((name, tuple(scan_keys)))
        self.at_work[name] = self.script(name, tuple(scan_keys))
        self.most_at_once = max(self.most_at_once, len(self.at_work))
        return name

    def states(self, run_ids: Sequence[str]) -> dict[str, RunState]:
        if "states" in self.away:
            self.away.remove("states")
            raise httpx.ConnectError("connection refused")
        for run_id in run_ids:
            self.last[run_id] = next(self.at_work[run_id], self.last.get(run_id, RunState(StateType.RUNNING)))
            if self.last[run_id].type in (StateType.COMPLETED, StateType.CRASHED, StateType.FAILED):
                self.at_work.pop(run_id, None)
        return {run_id: self.last[run_id] for run_id in run_ids}

    def end(self, run_id: str, state: StateType, words: str) -> None:
        self.ended.append((run_id, state))
        self.at_work.pop(run_id, None)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(scope="module")
def ledger(new_database: Callable[[], str]) -> Iterator[Ledger]:
    url = new_database()
    migrate(url)
    ledger = Ledger(url)
    yield ledger
    ledger.close()


@pytest.fixture
def shop(ledger: Ledger, request: pytest.FixtureRequest) -> Workshop:
    return Workshop(
        store=Store("http://127.0.0.1:1", "nowhere"), ledger=ledger, masters_bucket=request.node.name[:60],
        restored_bucket="restored", restored_prefix="", work_prefix="", limits=Limits(), flow_run_id="parent",
        lease_seconds=LEASE_SECONDS, night_id=ledger.open_night(request.node.name, "archival", ""),
    )  # fmt: skip


def claim(shop: Workshop, key: str, run_id: str) -> tuple[PlannedRestoration, int]:
    sha256 = sha256_of([shop.masters_bucket, key])
    facts = MasterFacts(sha256, 10, 100, 100, 3, 8, "image/tiff")
    planned = PlannedRestoration(
        id=sha256[:16], scan_id=shop.ledger.register(shop.masters_bucket, ListedObject(key, "e", 10), facts),
        master_sha256=sha256, recipe_name="archival", recipe_digest="d", recipe={}, prefix=f"{key}/",
        glassplate_version="0", nightly_run_id=shop.night_id,
    )  # fmt: skip
    return planned, shop.ledger.claim(planned, f"flow-run:{run_id}", LEASE_SECONDS).attempt


def restore(shop: Workshop, key: str, run_id: str) -> None:
    planned, attempt = claim(shop, key, run_id)
    shop.ledger.record(planned.id, attempt, f"flow-run:{run_id}", State.RESTORED)


def outcomes(shop: Workshop) -> dict[str, str]:
    return {outcome.key: outcome.state for outcome in shop.ledger.night_outcomes(shop.night_id or 0)}


def rows(shop: Workshop) -> list[tuple[Any, ...]]:
    from sqlalchemy import text

    statement = text("SELECT number, state, attempts, scans FROM batches WHERE nightly_run_id = :id ORDER BY number")
    with shop.ledger._database.transaction() as connection:
        return [tuple(row) for row in connection.execute(statement, {"id": shop.night_id})]


def run(shop: Workshop, pool: Pool, keys: Sequence[str], **changes: Any) -> list[str]:
    given: dict[str, Any] = {"in_flight": 2, "attempts": 3, "may_start": lambda: True, **changes}
    per_batch = given.pop("per_batch", 2)
    night = Night(
        shop.night_id or 0, f"night-{shop.night_id}", shop, pool, clock=lambda: pool.now, sleep=pool.sleep, **given
    )
    return batches.run(packed(keys, per_batch), night)


KEYS = [f"scan-{number}" for number in range(6)]


def works(shop: Workshop) -> Callable[[str, tuple[str, ...]], Iterator[RunState]]:
    """A worker that restores everything it gets."""

    def script(run_id: str, keys: tuple[str, ...]) -> Iterator[RunState]:
        yield RunState(StateType.SCHEDULED)
        yield RunState(StateType.RUNNING)
        for key in keys:
            restore(shop, key, run_id)
        yield RunState(StateType.COMPLETED)

    return script


def test_batches_hold_so_many_scans_and_no_more_text_than_a_run_takes() -> None:
    assert list(packed(KEYS, 4)) == [tuple(KEYS[:4]), tuple(KEYS[4:])]
    long = ["x" * 1000 + str(number) for number in range(1000)]
    sent = list(packed(long, 1000))
    assert [key for batch in sent for key in batch] == long
    assert max(sum(len(key) for key in batch) for batch in sent) <= batches.KEY_BYTES
    assert list(packed([], 4)) == []


def test_batches_go_out_a_few_at_a_time_and_every_one_ends(shop: Workshop) -> None:
    pool = Pool(shop, works(shop))
    assert run(shop, pool, KEYS) == KEYS
    assert pool.most_at_once == 2
    assert outcomes(shop) == dict.fromkeys(KEYS, "restored")
    assert rows(shop) == [(1, "ended", 1, 2), (2, "ended", 1, 2), (3, "ended", 1, 2)]


def test_after_the_stop_no_batch_begins_and_one_that_no_worker_took_is_withdrawn(shop: Workshop) -> None:
    def script(run_id: str, keys: tuple[str, ...]) -> Iterator[RunState]:
        if run_id.endswith("batch-2"):
            while True:
                yield RunState(StateType.SCHEDULED)
        yield from works(shop)(run_id, keys)

    pool = Pool(shop, script)
    begun = run(shop, pool, KEYS, may_start=lambda: pool.now < 3)
    assert begun == KEYS[:2]
    assert outcomes(shop) == dict.fromkeys(KEYS[:2], "restored")
    assert [state for _, state, *_ in rows(shop)] == ["ended", "cancelled"]
    assert pool.ended[0][1] is StateType.CANCELLED


def test_a_crashed_batch_is_sent_again_with_what_it_had_not_ended_and_its_claims_are_free(shop: Workshop) -> None:
    def script(run_id: str, keys: tuple[str, ...]) -> Iterator[RunState]:
        if run_id.endswith("batch-1"):
            yield RunState(StateType.RUNNING)
            restore(shop, keys[0], run_id)
            claim(shop, keys[1], run_id)
            yield RunState(StateType.CRASHED, "Crashed: exit code -9")
        yield from works(shop)(run_id, keys)

    pool = Pool(shop, script)
    assert run(shop, pool, KEYS, per_batch=3) == KEYS
    assert [keys for name, keys in pool.sent if "again" in name] == [("scan-2", "scan-1")], "suspects come last"
    assert outcomes(shop) == dict.fromkeys(KEYS, "restored")
    assert rows(shop) == [(1, "ended", 2, 2), (2, "ended", 1, 3)]


def test_a_run_that_falls_silent_is_given_up_within_two_minutes_and_one_that_beats_is_not(shop: Workshop) -> None:
    noticed: list[float] = []

    def script(run_id: str, keys: tuple[str, ...]) -> Iterator[RunState]:
        if "again" in run_id:
            noticed.append(pool.now)
        elif run_id.endswith("batch-1"):  # begins, gives one sign of life, and is never heard of again
            yield RunState(StateType.RUNNING)
            shop.ledger.alive(run_id, f"flow-run:{run_id}", LEASE_SECONDS, "")
            claim(shop, keys[0], run_id)
            while True:
                yield RunState(StateType.RUNNING)
        else:  # works for twenty minutes
            while pool.now < 1200:
                shop.ledger.alive(run_id, f"flow-run:{run_id}", LEASE_SECONDS, "")
                yield RunState(StateType.RUNNING)
        yield from works(shop)(run_id, keys)

    pool = Pool(shop, script)
    assert run(shop, pool, KEYS[:4]) == KEYS[:4]
    assert len(noticed) == 1
    assert noticed[0] <= 120
    assert [(run_id[-7:], state) for run_id, state in pool.ended] == [("batch-1", StateType.CRASHED)]
    assert outcomes(shop) == dict.fromkeys(KEYS[:4], "restored")


def test_while_the_night_itself_is_blind_silence_means_nothing(shop: Workshop) -> None:
    def script(run_id: str, keys: tuple[str, ...]) -> Iterator[RunState]:
        yield RunState(StateType.RUNNING)
        pool.away += ["states"] * 300  # from the next look on, ten minutes without the server
        yield RunState(StateType.RUNNING)
        yield RunState(StateType.RUNNING)
        yield from works(shop)(run_id, keys)

    pool = Pool(shop, script, away=["send", "send"])
    assert run(shop, pool, KEYS[:2]) == KEYS[:2]
    assert pool.now > 600
    assert pool.ended == []
    assert rows(shop) == [(1, "ended", 1, 2)]


def test_a_batch_is_sent_so_often_and_then_its_scans_are_left_as_failed(shop: Workshop) -> None:
    def script(run_id: str, keys: tuple[str, ...]) -> Iterator[RunState]:
        if keys[0] == "scan-0":
            claim(shop, keys[0], run_id)
            yield RunState(StateType.CRASHED, "Crashed: out of memory")
        yield from works(shop)(run_id, keys)

    pool = Pool(shop, script)
    assert run(shop, pool, KEYS, per_batch=1, attempts=3) == KEYS
    assert [name for name, keys in pool.sent if keys[0] == "scan-0"] == [
        f"night-{shop.night_id}-batch-1", f"night-{shop.night_id}-batch-1-again-2",
        f"night-{shop.night_id}-batch-1-again-3",
    ]  # fmt: skip
    found = outcomes(shop)
    assert found.pop("scan-0") == "lost"
    assert set(found.values()) == {"restored"}
    assert rows(shop)[0] == (1, "crashed", 3, 1)


def test_a_scan_that_kills_its_run_takes_no_other_scan_along(shop: Workshop) -> None:
    def script(run_id: str, keys: tuple[str, ...]) -> Iterator[RunState]:
        yield RunState(StateType.RUNNING)
        for key in keys:
            claim(shop, key, run_id)  # as ingest does, for a whole group
        for key in keys:
            if key == "scan-3":
                yield RunState(StateType.CRASHED, "Crashed: exit code -9")
            restore(shop, key, run_id)
        yield RunState(StateType.COMPLETED)

    pool = Pool(shop, script)
    assert run(shop, pool, KEYS, per_batch=6) == KEYS
    found = outcomes(shop)
    assert found.pop("scan-3") == "lost"
    assert found == dict.fromkeys([key for key in KEYS if key != "scan-3"], "restored")


def test_a_batch_that_somebody_cancels_is_not_sent_again(shop: Workshop) -> None:
    def script(run_id: str, keys: tuple[str, ...]) -> Iterator[RunState]:
        if run_id.endswith("batch-1"):
            yield RunState(StateType.CANCELLED, "Cancelled: by Ada")
            return
        yield from works(shop)(run_id, keys)

    pool = Pool(shop, script)
    assert run(shop, pool, KEYS) == KEYS, "they were begun; the digest says that they were left"
    assert len(pool.sent) == 3
    assert rows(shop)[0] == (1, "cancelled", 1, 2)


def test_a_night_that_breaks_off_calls_its_batches_back(shop: Workshop) -> None:
    def script(run_id: str, keys: tuple[str, ...]) -> Iterator[RunState]:
        yield RunState(StateType.RUNNING)
        raise KeyboardInterrupt

    pool = Pool(shop, script)
    with pytest.raises(KeyboardInterrupt):
        run(shop, pool, KEYS)
    assert [state for _, state in pool.ended] == [StateType.CANCELLED] * 2
    assert [state for _, state, *_ in rows(shop)] == ["cancelled"] * 2


@pytest.mark.usefixtures("prefect")
def test_prefect_is_told_the_truth_about_runs_that_are_withdrawn_or_gone() -> None:
    with get_client(sync_client=True) as client:
        deploy(Settings(work_pool="told"), client)
        runs = DeploymentRuns("archival", 7)
        waiting, gone, running = (runs.send([name], f"told {name}") for name in ("waiting", "gone", "running"))
        assert runs.send(["waiting"], "told waiting") == waiting, "an answer that was lost makes no second run"
        found = client.read_flow_run(UUID(waiting))
        assert found.parameters == {"keys": ["waiting"], "recipe": "archival", "nightly_run_id": 7}
        assert found.work_queue_name == "default"
        for run in (gone, running):
            client.set_flow_run_state(UUID(run), Running(), force=True)
        runs.end(waiting, StateType.CANCELLED, "no batch may start so late")
        runs.end(gone, StateType.CRASHED, "its worker vanished")
        runs.end(running, StateType.CANCELLED, "its night broke off")
        states = runs.states([waiting, gone, running, str(uuid4())])
        for run in (waiting, gone, running):
            client.delete_flow_run(UUID(run))
    assert {run: state.type for run, state in states.items()} == {
        waiting: StateType.CANCELLED, gone: StateType.CRASHED, running: StateType.CANCELLING,
    }  # fmt: skip
    assert "its worker vanished" in states[gone].words
