"""How much memory one large scan takes, stage by stage, in a fresh process, with real S3 and PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from flows import rehearsal
from flows.machine import alone, table
from flows.restore import open_shop
from infra import settings as places
from infra.settings import Settings
from infra.store import open_store
from models.peak import PeakMemory

DECODED_TIMES, BESIDE_BYTES = 3.0, 1.5e9  # what a process may take: so many times the decoded scan, and so much more
BYTES_WANTED = 4e9  # of 200 megapixels


@dataclass(frozen=True, slots=True)
class Step:
    """One stage's time and the most memory its process had in it."""

    stage: str
    seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Costs:
    """What one scan took."""

    enlarged: int
    megapixels: float
    decoded_bytes: int
    base_bytes: int  # of the process with everything imported and a small scan restored
    steps: tuple[Step, ...]

    @property
    def peak_bytes(self) -> int:
        """The most of all stages."""
        return max(step.peak_bytes for step in self.steps)

    @property
    def allowed_bytes(self) -> float:
        """Three times the decoded scan and 1.5 GB, at most 4 GB up to 200 megapixels of RGB at 8 bits."""
        return DECODED_TIMES * self.decoded_bytes + BESIDE_BYTES

    def __str__(self) -> str:
        rows = [(s.stage, f"{s.seconds:.1f}", f"{s.peak_bytes / 1e6:.0f}") for s in self.steps]
        facts = [
            ("peak MB", f"{self.peak_bytes / 1e6:.0f}", f"<= {self.allowed_bytes / 1e6:.0f} (3 x decoded + 1.5 GB)"),
            ("of that before the scan", f"{self.base_bytes / 1e6:.0f}", ""),
            ("times the decoded scan, beyond that", f"{self.times:.1f}", ""),
        ]
        if self.decoded_bytes >= 0.99 * 600e6:
            facts.insert(1, ("peak MB, 200 megapixels", f"{self.peak_bytes / 1e6:.0f}", f"<= {BYTES_WANTED / 1e6:.0f}"))
        heading = (
            f"One scan of {self.megapixels:.1f} megapixels, 8-bit RGB ({self.decoded_bytes / 1e6:.0f} MB decoded), "
            f"its detail enlarged {self.enlarged}x, recipe archival"
        )
        return "\n\n".join([heading, table(("stage", "s", "peak MB"), rows), table(("", "measured", "wanted"), facts)])

    @property
    def times(self) -> float:
        """What the scan itself added to the process, in decoded scans."""
        return (self.peak_bytes - self.base_bytes) / self.decoded_bytes


def measure(
    settings: Settings, *, megapixels: float, enlarged: int = 1, progress: Callable[[str], None] = lambda line: None
) -> Costs:
    """One scan of that size made, put into the store and restored by a fresh process; needs PostgreSQL and S3."""
    key = f"{settings.masters_prefix}bench-memory/{megapixels:g}.tif"
    width, height = alone(_make, key, megapixels, enlarged, environment=settings.environment())
    progress(f"made a scan of {width} x {height} pixels")
    base_bytes, steps = alone(_restore, key, environment=settings.environment())
    return Costs(enlarged, width * height / 1e6, width * height * 3, base_bytes, steps)


def _warm(key: str) -> str:
    return f"{key.removesuffix('.tif')}-warm.tif"


def _make(key: str, megapixels: float, enlarged: int) -> tuple[int, int]:
    settings = places.load()
    raster = rehearsal.photograph(megapixels, enlarged=enlarged)
    store = open_store(settings)
    rehearsal.put(store, settings.masters_bucket, [key], [raster])
    rehearsal.put(store, settings.masters_bucket, [_warm(key)], [rehearsal.photograph(0.3)])
    return raster.width, raster.height


def _restore(key: str) -> tuple[int, tuple[Step, ...]]:
    settings = places.load()
    shop = open_shop(settings)
    rehearsal.staged([_warm(key)], shop, settings)  # what is loaded once a process is no scan's memory
    memory, began, steps = PeakMemory(), time.monotonic(), list[Step]()
    base_bytes = memory.peak_bytes()

    def done(stage: str) -> None:
        nonlocal memory, began
        now = time.monotonic()
        steps.append(Step(stage, now - began, memory.peak_bytes()))
        memory, began = PeakMemory(), now

    rehearsal.staged([key], shop, settings, done)
    return base_bytes, tuple(steps)
