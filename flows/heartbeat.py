"""Signs of life in PostgreSQL while a run is at work, so that whoever waits for it knows a slow run from a dead one."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tasks.stage import Workshop

log = logging.getLogger("glassplate.heartbeat")

EVERY_SECONDS = 15.0


@contextmanager
def beating(beat: Callable[[], None], every_seconds: float = EVERY_SECONDS) -> Iterator[None]:
    """Within it ``beat`` is called at once and then every so often, from a thread of its own.

    A database that is away is waited for: what cannot be written is in the log, and the work goes on.
    """
    ended = threading.Event()

    def loop() -> None:
        while True:
            try:
                beat()
            except Exception as error:  # noqa: BLE001 - a thread that ended would make a living run look dead
                log.warning("sign of life not written: %s", error)
            if ended.wait(every_seconds):
                return

    thread = threading.Thread(target=loop, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=10)


@contextmanager
def at_work(shop: Workshop) -> Iterator[None]:
    """Within it the run of ``shop`` counts as alive: its batch's row says so, and its claims do not run out."""
    worker = f"{socket.gethostname()}, process {os.getpid()}"
    flow_run_id = shop.flow_run_id or ""
    every = min(EVERY_SECONDS, shop.lease_seconds / 3)
    with beating(lambda: shop.ledger.alive(flow_run_id, shop.holder, shop.lease_seconds, worker), every):
        yield
