"""Signs of life: as long as the work goes on, whatever the database does, and not a moment longer."""

from __future__ import annotations

import threading

from db.records import LedgerUnavailable
from flows.heartbeat import beating


def test_it_beats_at_once_and_again_through_failures_and_stops_with_the_work() -> None:
    beats: list[int] = []
    enough = threading.Event()

    def beat() -> None:
        beats.append(len(beats))
        if len(beats) == 2:
            raise LedgerUnavailable("the server closed the connection")
        if len(beats) >= 4:
            enough.set()

    with beating(beat, every_seconds=0.01):
        assert enough.wait(30), "it stopped beating"
    after = len(beats)
    assert not any(thread.name == "heartbeat" for thread in threading.enumerate())
    assert len(beats) == after


def test_it_stops_when_the_work_breaks_off() -> None:
    try:
        with beating(lambda: None, every_seconds=60):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert not any(thread.name == "heartbeat" for thread in threading.enumerate())
