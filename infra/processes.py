"""Child processes that outlive us on purpose: started in their own session, found again by a mark, ended by it.

Every process of a stack carries ``STACK_OF_GLASSPLATE=<stack id>:<service>`` in its environment, and so do its
children. The id is random and kept in the data folder: a process is ours if and only if it carries it, whatever its
pid, so that a stranger who got a dead process's number is never touched and an orphan is never lost.
"""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "STACK_OF_GLASSPLATE"
TWIN_OFFSET = 10_000  # SeaweedFS binds a gRPC twin this far above each of its ports
# Below the range the kernel takes outgoing ports from (32768 on), twins included.
FREE_PORTS = range(10_240, 22_000)
LARGEST_LOG_BYTES = 20_000_000

_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}  # kept so that each is reaped once, and by us


class StackError(Exception):
    """The embedded stack cannot be started, found or stopped; the message says which service and why."""


@dataclass(frozen=True)
class Account:
    """The unprivileged user that a service runs as; None in its place means ourselves."""

    name: str
    uid: int
    gid: int


def spawn(
    stack_id: str,
    service: str,
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    folder: Path,
    account: Account | None = None,
) -> psutil.Process:
    """The started service: in its own session, marked, its output appended to ``log``, standing in ``folder``.

    A log that has grown large is put aside first, over the one put aside before.
    """
    if log.exists() and log.stat().st_size > LARGEST_LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))
    with log.open("ab") as output:
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # ctrl-C in our terminal is for us: we stop the services in order
            cwd=folder,
            env={**environment, MARK: f"{stack_id}:{service}"},
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
        )
    _CHILDREN[child.pid] = child
    return psutil.Process(child.pid)


def living(stack_id: str) -> dict[str, list[psutil.Process]]:
    """The living processes of a stack by service, parents before their children; found by their mark alone."""
    found: dict[str, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(MARK, "")
            if mark.startswith(f"{stack_id}:") and process.status() != psutil.STATUS_ZOMBIE:
                found.setdefault(mark.partition(":")[2], []).append(process)
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or another user's and so not ours
    return {service: _parents_first(processes) for service, processes in found.items()}


def end(processes: Iterable[psutil.Process], *, first: signal.Signals, patience_seconds: float) -> None:
    """Asks the processes to stop with ``first``, waits, and kills those that are still there."""
    asked = list(processes)
    for process in asked:
        _send(process, first)
    left = wait(asked, patience_seconds)
    for process in left:
        _send(process, signal.SIGKILL)
    wait(left, 10)


def wait(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that still live after that time. A zombie is dead: its parent may be another process that never asks."""
    until = time.monotonic() + seconds
    left = [process for process in processes if alive(process)]
    while left and time.monotonic() < until:
        time.sleep(0.05)
        left = [process for process in left if alive(process)]
    return left


def alive(process: psutil.Process) -> bool:
    """Whether this very process lives; a dead child of ours does not stay a zombie."""
    try:
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            return True
    except psutil.Error:
        pass
    _reap(process.pid)
    return False


def listens(process: psutil.Process, port: int) -> bool:
    """Whether this process is the one that listens on the port."""
    try:
        found = process.net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(entry.status == psutil.CONN_LISTEN and entry.laddr.port == port for entry in found)


def choose_port(usual: int | None, *, twin: bool = False, taken: Iterable[int] = ()) -> int:
    """``usual`` if it is free, else a free port of 127.0.0.1; with ``twin`` the port 10000 above is free too."""
    avoid = set(taken)
    candidates = ([] if usual is None else [usual]) + random.sample(FREE_PORTS, 200)
    for port in candidates:
        if port not in avoid and port_is_free(port) and (not twin or port_is_free(port + TWIN_OFFSET)):
            return port
    raise StackError(f"expected a free port on 127.0.0.1 between {FREE_PORTS.start} and {FREE_PORTS.stop}, found none")


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a service's log, for an error message."""
    if not log.is_file():
        return f"({log} is not there)"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def _parents_first(processes: list[psutil.Process]) -> list[psutil.Process]:
    pids = {process.pid for process in processes}

    def is_child(process: psutil.Process) -> bool:
        try:
            return process.ppid() in pids
        except psutil.Error:
            return True

    return sorted(processes, key=is_child)


def _reap(pid: int) -> None:
    child = _CHILDREN.get(pid)
    if child is not None and child.poll() is not None:
        del _CHILDREN[pid]


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
