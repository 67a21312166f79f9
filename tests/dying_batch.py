"""A program that restores batches in processes which die, or run out of something, at a chosen point.

It imports everything once, then reads one JSON object a line from its standard input, forks a child for each, and
answers with the child's wait status. Stages are called without Prefect: this is about what dies with the process.

``{"environment": {...}, "keys": [...], "run": "run-1", "fault": "kill", "point": "before inpaint"}``
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import db.ledger
from db import statements
from db.ledger import Ledger
from flows import restore as flow
from infra import settings as places
from infra.store import Store
from tasks import inpaint
from tasks.contracts import GroupFailed, Plate, StageResult
from tasks.recipe import ARCHIVAL


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk() -> None:
    """From now on no file may grow beyond 2,000 bytes; the kernel refuses the write."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))


def eat_memory() -> None:
    """Asks for more memory than this process may have, as a scan that is too large does."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        in_use = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + (256 << 20), resource.RLIM_INFINITY))
    try:
        np.ones(1 << 30, np.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


FAULTS: dict[str, Callable[[], None]] = {"kill": kill, "disk": fill_disk, "memory": eat_memory}


def arm(point: str, fault: Callable[[], None]) -> None:
    """Makes ``fault`` happen at ``point``: ``before STAGE``, or one of those named here."""
    run_task = flow._results

    def results(task: Any, *arguments: Any) -> list[StageResult]:
        if point == f"before {task.name}":
            fault()
        return run_task(task, *arguments)

    flow._results = results
    if point == "after the claim":
        claim = Ledger.claim

        def claimed(self: Ledger, *arguments: Any) -> Any:
            found = claim(self, *arguments)
            fault()
            return found

        Ledger.claim = claimed  # type: ignore[method-assign]
    if point.startswith("after file "):
        put, files = Store.put_new, [int(point.removeprefix("after file "))]

        def counted(self: Store, *arguments: Any, **options: Any) -> Any:
            done = put(self, *arguments, **options)
            files[0] -= 1
            if not files[0]:
                fault()
            return done

        Store.put_new = counted  # type: ignore[method-assign]
    if point == "before the commit":
        end = statements.end_attempt

        def ended(*arguments: Any) -> None:
            end(*arguments)
            fault()

        db.ledger.statements.end_attempt = ended
    if point == "after the commit":
        record = Ledger.record

        def recorded(self: Ledger, *arguments: Any, **options: Any) -> None:
            record(self, *arguments, **options)
            fault()

        Ledger.record = recorded  # type: ignore[method-assign]
    if point.startswith("in inpaint of "):
        fill, scan = inpaint.fill_damage, point.removeprefix("in inpaint of ")

        def filled(plate: Plate, *arguments: Any) -> Any:
            if plate.scan == scan:
                fault()
            return fill(plate, *arguments)

        inpaint.fill_damage = filled


def plainly(task: Any, *arguments: Any) -> list[StageResult]:
    """A stage's function without its task run."""
    try:
        return list(task.fn(*arguments))
    except GroupFailed as failure:
        return failure.results


def restore(order: dict[str, Any]) -> None:
    os.environ.update(order["environment"])
    flow._results = plainly
    if order.get("fault"):
        arm(order["point"], FAULTS[order["fault"]])
    settings = places.load()
    shop = replace(flow.open_shop(settings), flow_run_id=order["run"])
    flow.restore(order["keys"], ARCHIVAL, shop, settings)


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                restore(json.loads(line))
            except BaseException as error:  # noqa: BLE001 - a forked child must not come back from here
                sys.stderr.write(f"{error!r}\n")
                os._exit(1)
            os._exit(0)
        sys.stdout.write(f"{os.waitpid(child, 0)[1]}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
