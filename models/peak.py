"""How much memory a piece of work takes at most: the kernel's own high-water mark, set back before."""

from __future__ import annotations

import resource
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def begin() -> int:
    """Sets the mark back to what the process holds now, where the system can (Linux); returns that, in bytes."""
    if CLEAR.exists():
        CLEAR.write_text("5")
    return so_far()


def so_far() -> int:
    """The most the process held since ``begin``, in bytes; where the system keeps no such mark, since it began.

    Not ``ru_maxrss`` where it can be helped: a process inherits that from the one that started it.
    """
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
