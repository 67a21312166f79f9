"""What a night may be asked for, and what it tells: patterns, order, stop, force, dry run, cold scans, webhooks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows import nightly
from flows.nightly import nightly_archive, stop_moment
from infra.store import Listed, Store, StoreError
from small_archive import Archive
from tasks import webhook

pytestmark = pytest.mark.usefixtures("prefect")

KEYS = ["box 1/a.jpg", "box 1/b.jpg", "box 2/c.jpg"]


def night(**parameters: Any) -> Any:
    return nightly_archive(**parameters, return_state=True)


@pytest.fixture
def filled(archive: Archive, scans: Path) -> Archive:
    """Three scans that cannot be read, which is quickly found out, put there in the order b, c, a."""
    for key in (KEYS[1], KEYS[2], KEYS[0]):
        archive.put(key, (scans / "cut-short.jpg").read_bytes()[:-9] + key.encode())
    return archive


def last_counts(archive: Archive, columns: str) -> tuple[Any, ...]:
    return archive.rows(f"SELECT {columns} FROM nightly_runs ORDER BY nightly_run_id DESC LIMIT 1")[0]


def test_patterns_choose_scans_and_what_is_left_out_is_counted(filled: Archive) -> None:
    assert night(include=["box 1/*", "*/c.*"], exclude=["*b.jpg"], limit=0).is_completed()
    assert last_counts(filled, "listed, excluded, planned, left_over, parameters") == (
        3, 1, 0, 2, {"include": ["box 1/*", "*/c.*"], "exclude": ["*b.jpg"]},
    )  # fmt: skip
    night(exclude=["box 2/*"])
    assert filled.rows("SELECT key FROM quarantine ORDER BY key") == [(KEYS[0],), (KEYS[1],)]
    assert last_counts(filled, "excluded, planned, quarantined, left_over") == (1, 2, 2, 0)


def test_newest_and_oldest_first_with_a_limit_and_the_rest_goes_on_the_next_night(
    filled: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    ages = {KEYS[1]: 1, KEYS[2]: 2, KEYS[0]: 3}
    real = Store.pages

    def aged(self: Store, bucket: str, prefix: str) -> Iterator[list[Listed]]:
        for page in real(self, bucket, prefix):
            yield [
                Listed(f.key, f.etag, f.size, datetime(2026, 1, ages[f.key], tzinfo=UTC), f.storage_class, None)
                if f.key in ages
                else f
                for f in page
            ]

    monkeypatch.setattr(Store, "pages", aged)
    taken = []
    for order in ("newest", "oldest", "key"):
        night(order=order, limit=1)
        taken.append(last_counts(filled, "planned, left_over"))
    keys = filled.rows("SELECT key FROM quarantine ORDER BY quarantined_at")
    assert [key for (key,) in keys] == [KEYS[0], KEYS[1], KEYS[2]]
    assert taken == [(1, 2), (1, 1), (1, 0)]


def test_after_the_stop_nothing_begins_and_all_of_it_is_left_for_the_next_night(
    filled: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nightly, "stop_moment", lambda *_: datetime(2026, 1, 1, tzinfo=UTC))
    assert night(stop_starting_at="06:00").is_completed()
    assert last_counts(filled, "planned, left_over, state") == (0, 3, "completed")
    assert "No batch was started after 06:00" in last_counts(filled, "digest")[0]
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("start", "clock", "zone", "stop"),
    [
        ("2026-06-01T23:00", "06:00", "UTC", "2026-06-02T06:00"),
        ("2026-06-01T23:00", "06:00", "Europe/Berlin", "2026-06-02T04:00"),
        ("2026-06-02T01:00", "06:00", "UTC", "2026-06-02T06:00"),
        ("2026-06-02T06:00", "06:00", "UTC", "2026-06-03T06:00"),
        ("2026-10-24T23:30", "06:00", "Europe/Berlin", "2026-10-25T05:00"),  # the night has an hour more
    ],
)
def test_the_stop_is_the_next_time_the_clock_shows_it(start: str, clock: str, zone: str, stop: str) -> None:
    begins = datetime.fromisoformat(start).replace(tzinfo=UTC)
    assert stop_moment(begins, clock, zone) == datetime.fromisoformat(stop).replace(tzinfo=UTC)
    assert stop_moment(begins, None, zone) is None


def test_a_clock_time_that_is_none_is_refused_before_anything_happens(filled: Archive) -> None:
    assert night(stop_starting_at="6 o'clock").is_failed()
    assert filled.rows("SELECT * FROM nightly_runs") == []


def test_a_dry_run_estimates_and_starts_nothing(archive: Archive, scans: Path) -> None:
    archive.put("plate.jpg", scans / "prokudin-00056-blue.jpg")
    first = night(dry_run=True)
    assert first.name == "DryRun"
    assert "1 scans" in first.message
    assert "unknown time" in first.message
    night()
    archive.put("again.tif", scans / "prokudin-00056-green-16bit.tif")
    rows = archive.rows("SELECT count(*) FROM events")
    second = night(dry_run=True, force=True)
    assert "2 scans" in second.message
    assert "hours of one worker's work" in second.message
    assert archive.rows("SELECT count(*) FROM events") == rows
    assert archive.rows("SELECT count(*) FROM nightly_runs") == [(1,)]
    assert archive.rows("SELECT key FROM restorations") == [("plate.jpg",)]

    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        pages = [
            artifact["data"]
            for artifact in client.request("POST", "/artifacts/filter", json={"limit": 200}).json()
            if artifact["key"] == "dry-run"
        ]
    assert any("1 scans were opened before, for 1 megapixels are estimated" in page for page in pages)


def test_force_looks_again_at_what_was_done_and_overwrites_nothing(archive: Archive, scans: Path) -> None:
    archive.put("plate.jpg", scans / "prokudin-00056-blue.jpg")
    night()
    files, done = archive.keys(), archive.rows("SELECT restoration_id, attempts, finished_at FROM restorations")
    assert night(force=True).is_completed()
    assert last_counts(archive, "planned, unchanged, restored, skipped") == (1, 0, 0, 1)
    assert "already restored" in last_counts(archive, "digest")[0]
    assert archive.keys() == files
    assert archive.rows("SELECT restoration_id, attempts, finished_at FROM restorations") == done


def test_cold_scans_are_listed_and_asked_back_only_if_the_archive_wants_it(
    filled: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    cold = {KEYS[0]: "GLACIER", KEYS[2]: "DEEP_ARCHIVE", KEYS[1]: "GLACIER_IR"}
    real, asked = Store.pages, []

    def frozen(self: Store, bucket: str, prefix: str) -> Iterator[list[Listed]]:
        for page in real(self, bucket, prefix):
            yield [Listed(f.key, f.etag, f.size, f.last_modified, cold.get(f.key, f.storage_class), None) for f in page]

    def request(self: Store, bucket: str, key: str, days: int) -> None:
        asked.append((key, days))
        if key == KEYS[2]:
            raise StoreError("no permission to restore")

    monkeypatch.setattr(Store, "pages", frozen)
    monkeypatch.setattr(Store, "request_restore", request)
    assert night().is_completed()
    assert last_counts(filled, "listed, cold, planned, left_over") == (3, 2, 1, 0), "GLACIER_IR can be read at once"
    page = last_counts(filled, "digest")[0]
    assert "2 scans are in cold storage" in page
    assert KEYS[0] in page
    assert asked == []

    monkeypatch.setenv("GLASSPLATE_COLD_RESTORE_DAYS", "7")
    assert night().is_completed()
    assert asked == [(KEYS[0], 7), (KEYS[2], 7)]
    page = last_counts(filled, "digest")[0]
    assert "1 were asked back for 7 days" in page
    assert "no permission to restore" in page


class Listener:
    """An HTTP server that keeps what is posted to it; the first calls to ``/flaky`` and all to ``/broken`` fail."""

    def __init__(self) -> None:
        self.bodies: list[tuple[str, dict[str, Any]]] = []
        self.flaky = 1
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append((self.path, body))
                refuse = self.path.startswith("/broken") or (self.path.startswith("/flaky") and outer.flaky > 0)
                outer.flaky -= self.path.startswith("/flaky")
                self.send_response(500 if refuse else 204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.server.shutdown()
    listener.server.server_close()


def test_the_digest_goes_to_every_webhook_is_retried_and_one_that_fails_fails_nothing(
    filled: Archive, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [f"{listener.url}/broken?token=hush", f"{listener.url}/flaky?token=hush"]
    monkeypatch.setenv("GLASSPLATE_WEBHOOK_URLS", json.dumps(urls))
    monkeypatch.setattr(webhook.post, "retry_delay_seconds", [0.0] * 3)
    listener.flaky = 1
    filled.put("box 3/plain.txt.jpg", b"no picture at all")
    assert night().is_completed()
    told = [body for path, body in listener.bodies if path.startswith("/flaky")]
    assert len(told) == 2, "tried again after a failure, and not once more"
    body = told[-1]
    assert body["state"] == "completed"
    assert body["counts"]["quarantined"] == 4
    assert {item["key"] for item in body["quarantined"]} == {*KEYS, "box 3/plain.txt.jpg"}
    assert all("replace the scan" in item["next_step"] and item["reason"] for item in body["quarantined"])
    assert body["text"].startswith("glassplate, night ")
    assert body["digest"].startswith("# Night ")
    assert body["failed"] == []

    events = filled.rows("SELECT kind, detail FROM events WHERE kind LIKE 'webhook%' ORDER BY event_id")
    assert [kind for kind, _ in events] == ["webhook_failed", "webhook_sent"]
    assert "HTTP 500" in events[0][1]["reason"]
    assert "hush" not in str(events)


def test_a_night_that_breaks_off_tells_the_webhooks_too(
    filled: Archive, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLASSPLATE_WEBHOOK_URLS", json.dumps([f"{listener.url}/hook"]))

    def breaks(*_: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(nightly, "_run", breaks)
    assert night().is_failed()
    ((_, body),) = listener.bodies
    assert body["state"] == "failed"
    assert "a bug" in body["text"]
    assert last_counts(filled, "state") == ("failed",)
