"""How much memory a piece of work takes at most: the kernel's own high-water mark, set back before."""

from __future__ import annotations

import ctypes
import logging
import resource
import sys
from pathlib import Path

log = logging.getLogger(__name__)
_LIBC = ctypes.CDLL(None)


class PeakMemory:
    """Peak resident memory of this process since the object was made, where the kernel lets it be reset (Linux)."""

    def __init__(self) -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            log.debug("peak memory cannot be reset here: figures are of the whole process")

    def peak_bytes(self) -> int:
        """Bytes; the whole process's life where the peak cannot be reset."""
        return so_far()


def give_back() -> None:
    """Hands freed memory back to the system, which glibc would keep for this process; elsewhere nothing."""
    if sys.platform == "linux" and hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


def so_far() -> int:
    """The most this process held, in bytes, since the mark was last set back or it began.

    Not ``ru_maxrss`` where it can be helped: a process inherits that from the one that started it.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        log.debug("no /proc: asking getrusage")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
