"""A migrated ledger, and a small archive after two nights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import uuid4

import pytest

from db.ledger import Ledger
from db.migrations import migrate
from db.records import (
    BatchState,
    Claim,
    Derivative,
    Event,
    Face,
    ListedObject,
    MasterFacts,
    NightCounts,
    NightState,
    PlannedRestoration,
    Score,
    StageRun,
    State,
)

RECIPE = "archival"


def sha(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()


@dataclass(frozen=True)
class Ending:
    """What a finished attempt records."""

    reason: str | None
    stage_runs: tuple[StageRun, ...]
    derivatives: tuple[Derivative, ...] = ()
    scores: tuple[Score, ...] = ()
    faces: tuple[Face, ...] = ()
    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class Desk:
    """A ledger, a bucket of its own, and the few steps that every test takes."""

    ledger: Ledger
    bucket: str = "masters"

    def listed(self, key: str, content: str | None = None, version_id: str | None = None) -> ListedObject:
        content = content or key
        return ListedObject(key, sha(content)[:32], 1000 + len(content), None, version_id)

    def master(self, content: str, bits: int = 8) -> MasterFacts:
        facts = (1000 + len(content), 4000, 3000, 3, bits, "image/tiff", 1, (600.0, 600.0), "sRGB", ("no resolution",))
        return MasterFacts(sha(f"{self.bucket}/{content}"), *facts)

    def register(self, key: str, content: str | None = None, bits: int = 8) -> int:
        content = content or key
        return self.ledger.register(self.bucket, self.listed(key, content), self.master(content, bits))

    def plan(
        self, key: str, content: str | None = None, *, night: int | None = None, bits: int = 8
    ) -> PlannedRestoration:
        name = sha(f"{self.bucket}/{content or key} {RECIPE}")[:16]
        return PlannedRestoration(
            id=name,
            scan_id=self.register(key, content, bits),
            master_sha256=self.master(content or key).sha256,
            recipe_name=RECIPE,
            recipe_digest=sha(RECIPE),
            recipe={"name": RECIPE, "stages": [{"stage": "detect"}, {"stage": "inpaint"}]},
            prefix=f"restored/{self.bucket}/{key}/{name}/",
            glassplate_version="0.1.0",
            nightly_run_id=night,
            flow_run_id="flow",
        )

    def claim(self, planned: PlannedRestoration, holder: str = "holder", lease_seconds: float = 60) -> Claim:
        return self.ledger.claim(planned, holder, lease_seconds)

    def record(self, planned: PlannedRestoration, attempt: int, state: State, holder: str = "holder") -> None:
        end = self.ending(planned, state)
        self.ledger.record(
            planned.id, attempt, holder, state, end.reason,
            stage_runs=end.stage_runs, derivatives=end.derivatives, scores=end.scores, faces=end.faces,
            events=end.events,
        )  # fmt: skip

    def finish(self, planned: PlannedRestoration, state: State = State.RESTORED) -> None:
        self.record(planned, self.claim(planned).attempt, state)

    def ending(self, planned: PlannedRestoration, state: State) -> Ending:
        coverage = 0.0 if state is State.SKIPPED else int(planned.id[:2], 16) / 2000
        licence, terms = "Apache-2.0", "no training data"
        detect = StageRun(
            "detect", "done", None, None, "classical-1", None, licence, terms, "s1", "k1", "cpu", 1.5, 10**9,
            measures={"damage_coverage": coverage, "contrast_to_noise": float("inf")}, task_run_id="t1",
        )  # fmt: skip
        if state is State.FAILED:
            reason = "inpaint: expected pixels outside the mask unchanged, found 12 changed"
            return Ending(reason, (detect, StageRun("inpaint", "failed", reason, "BadOutput", "opencv-telea")))
        reason = "no damage found" if state is State.SKIPPED else None
        outcome = "skipped" if state is State.SKIPPED else "done"
        inpaint = StageRun("inpaint", outcome, reason, None, "opencv-telea", None, licence, terms, seconds=0.5)
        kinds = {
            "cleaned": ("cleaned.tif", "image/tiff", "Damaged pixels filled in; every other pixel as in the master"),
            "mask": ("mask.png", "image/png", "Damage found"),
            "overlay": ("overlay.png", "image/png", "Damage marked on the photograph"),
            "preview": ("preview.jpg", "image/jpeg", "Preview of the cleaned derivative"),
        }
        published = tuple(
            Derivative(
                kind, "restored", planned.prefix + name, sha(planned.prefix + name), 4321, media, label, 4000, 3000
            )
            for kind, (name, media, label) in kinds.items()
        )
        scores = (
            Score("cleaned", "damage_coverage", coverage, "lower", "before"),
            Score("cleaned", "psnr", float("inf"), "higher", "fidelity"),
        )
        points = ((110.0, 120.0), (150.0, 121.0), (130.0, 140.5), (115.0, 160.0), (146.0, 161.0))
        where = {"landmarks": points, "height_px": 96.0, "score": 0.9}
        faces = (
            Face(1, (5.0, 6.0, 25.0, 30.0), **where | {"height_px": 24.0}, outcome="left alone", reason="too small"),
            Face(
                2, (90.0, 90.0, 170.0, 186.0), **where, outcome="reverted", reason="landmarks moved", worked_px=128,
                fidelity=0.5, landmark_movement=0.5, low_difference=0.25, identity_distance=0.125,
                identity_measure="structure", model_id="face-1", weights_sha256=sha("face-1"),
            ),
        )  # fmt: skip
        events = (Event("published", {"objects": 4}),)
        return Ending(reason, (detect, inpaint), published, scores, faces, events)


def filled_with_two_nights(ledger: Ledger) -> None:
    """Two nights: eight scans restored, skipped, failed, quarantined, one of them there twice."""
    desk = Desk(ledger)
    first = ledger.open_night("night-1", RECIPE, "")
    desk.finish(desk.plan("album-3/portrait.tif", night=first, bits=16))
    desk.finish(desk.plan("album-3/wedding.tif", night=first))
    desk.finish(desk.plan("glass/0001.tif", night=first))
    desk.finish(desk.plan("glass/0002.tif", night=first), State.SKIPPED)
    desk.finish(desk.plan("glass/0003.tif", night=first), State.FAILED)
    refused = {"reason": "broken.tif does not decode to the end", "expected": "3000 rows", "found": "1200 rows"}
    ledger.quarantine("masters", desk.listed("glass/broken.tif"), **refused, night_id=first, flow_run_id="night-1")
    ledger.quarantine("masters", desk.listed("glass/mended.tif"), **refused, night_id=first, flow_run_id="night-1")
    desk.plan("copies/portrait.tif", "album-3/portrait.tif")
    counts = NightCounts(listed=9, ignored=1, planned=8, restored=3, skipped=1, quarantined=2, failed=1)
    ledger.close_night(first, NightState.COMPLETED_WITH_FAILURES, counts, "# One failed")
    ledger.release("masters", "glass/mended.tif", "Ada")
    second = ledger.open_night("night-2", RECIPE, "")
    desk.finish(desk.plan("glass/0003.tif", night=second), State.FAILED)
    counts = NightCounts(listed=9, ignored=1, unchanged=5, known_quarantined=1, planned=2, failed=1, left=0)
    ledger.close_night(second, NightState.COMPLETED_WITH_FAILURES, counts, "# Still one failed")
    ledger.batch_sent(second, 1, ["glass/0003.tif"], "batch-1a", 1)
    ledger.alive("batch-1a", "flow-run:batch-1a", 60, "machine 1, process 4711")
    ledger.batch_broke_off(second, 1, "batch-1a", "Crashed: its worker was killed")
    ledger.batch_sent(second, 1, ["glass/0003.tif"], "batch-1b", 2)
    ledger.end_batch(second, 1, BatchState.ENDED)


@pytest.fixture(scope="session")
def migrated_url(new_database: Callable[[], str]) -> str:
    """A migrated database that tests share; each works with keys of its own."""
    url = new_database()
    migrate(url)
    return url


@pytest.fixture
def desk(migrated_url: str) -> Iterator[Desk]:
    """A desk with a bucket of its own."""
    ledger = Ledger(migrated_url)
    yield Desk(ledger, f"masters-{uuid4().hex[:8]}")
    ledger.close()


@pytest.fixture(scope="session")
def archive_url(new_database: Callable[[], str]) -> str:
    """A migrated database that holds the small archive; not to be written to."""
    url = new_database()
    migrate(url)
    ledger = Ledger(url)
    filled_with_two_nights(ledger)
    ledger.close()
    return url


@pytest.fixture
def fill_archive() -> Callable[[Ledger], None]:
    """A function that writes the small archive into a ledger."""
    return filled_with_two_nights
