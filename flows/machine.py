"""What is measured on: this machine in a line, fresh processes, and what they took of memory and of waiting."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, TypeVar

import psutil

from models.peak import PeakMemory

T = TypeVar("T")

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")  # what decides a network's speed on a CPU
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
BUSY_SHARE = 0.4  # of the cores taken by others before we begin: from here on seconds say little
SAMPLE_SECONDS = 0.05
_START_TOGETHER_SECONDS = 300.0

_barrier: Barrier | None = None


def described() -> str:
    """Date and machine class in a line: cores, memory, what the processor can do, GPU, and whether it was busy."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gigabytes = psutil.virtual_memory().total / 1e9
    flags = [flag for flag in FLAGS if flag in _processor_flags()]
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    busy = psutil.cpu_percent(interval=2.0) / 100 * cores
    taken = f"; **busy machine**: {busy:.1f} cores were taken by others" if busy > BUSY_SHARE * cores else ""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {cores} cores, {gigabytes:.0f} GB, {', '.join(flags) or 'no AVX2'}; "
        f"GPU: {gpu}{taken}"
    )


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux: the line says less
        return set()
    return {word for line in lines if line.startswith(("flags", "Features")) for word in line.split(":")[1].split()}


class Watch:
    """Used as a context: what the block took, once it has ended.

    ``seconds``; ``waited_seconds``: of them, how long this thread was ready to run and had no core (Linux; else 0);
    ``cpu_seconds`` of all threads; ``base_bytes`` resident at the beginning and ``peak_bytes`` at most.
    """

    def __init__(self) -> None:
        self.began = self.ended = 0.0
        self.seconds = self.waited_seconds = self.cpu_seconds = 0.0
        self.base_bytes = self.peak_bytes = 0

    def __enter__(self) -> Watch:
        self.base_bytes = int(psutil.Process().memory_info().rss)
        self._memory = PeakMemory()
        self._over = threading.Event()
        # Stages reset the kernel's high-water mark when they begin, so it is read often enough to miss none of theirs.
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        self._waited, self._cpu, self.began = _without_core(), time.process_time(), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = time.monotonic()
        self.seconds, self.cpu_seconds = self.ended - self.began, time.process_time() - self._cpu
        self.waited_seconds = _without_core() - self._waited
        self._over.set()
        self._sampler.join()

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, self._memory.peak_bytes())
        self.peak_bytes = max(self.peak_bytes, self._memory.peak_bytes())


def _without_core() -> float:
    """Seconds that this thread has been ready to run while others had the cores."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


def alone(work: Callable[..., T], *arguments: Any, environment: Mapping[str, str] = {}) -> T:
    """What ``work`` returns in a fresh process with one thread for OpenCV, torch and BLAS, and this environment."""
    return together(work, [arguments], environment)[0]


def together(work: Callable[..., T], shares: Sequence[Sequence[Any]], environment: Mapping[str, str]) -> list[T]:
    """What ``work`` returns for each share, each in a fresh process of its own; see ``alone``.

    Where ``work`` calls ``line_up``, each of them waits there for all the others.
    """
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(len(shares), timeout=_START_TOGETHER_SECONDS)
    with _environment({**ONE_THREAD, **environment}):
        pools = [
            ProcessPoolExecutor(1, mp_context=spawn, initializer=_begin, initargs=(barrier,))
            for _ in range(len(shares))
        ]
        try:
            running = [pool.submit(work, *share) for pool, share in zip(pools, shares, strict=True)]
            return [job.result() for job in running]
        except BaseException:  # interrupted, or one of them failed: the others would work on for minutes
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        finally:
            for pool in pools:
                pool.shutdown(cancel_futures=True)


def line_up() -> None:
    """Returns when all processes of ``together`` have come this far."""
    if _barrier is not None:
        _barrier.wait()


def _begin(barrier: Barrier) -> None:
    global _barrier
    import cv2
    import torch

    _barrier = barrier
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Within it new processes see these variables, too."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
