"""The contact sheet: before, damage found and every derivative, one row a scan; and the pictures in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infra.settings import Settings
from infra.store import Store
from models import imaging, views
from models.imaging import ImagingError, Raster

THUMBNAIL_PX = 480
DERIVATIVES = ("cleaned", "enhanced", "colorized")
_NOTHING = np.full((THUMBNAIL_PX // 4, THUMBNAIL_PX, 3), 238, np.uint8)


def make(scans: Sequence[tuple[str, str, str, str | None]], settings: Settings, store: Store, folder: Path) -> Path:
    """The sheet's path in ``folder``, where every restored version lies too, under its scan's name.

    ``scans``: (key, outcome, reason, prefix of the restored version or None). A derivative that no scan has gets no
    column; a scan without one has an empty cell there.
    """
    found = []
    for key, outcome, reason, prefix in scans:
        name = key.rsplit("/", 1)[-1]
        master = folder / ".master"
        store.download(settings.masters_bucket, key, master)
        try:
            before = imaging.decode(master, key, imaging.Limits(settings.max_megapixels, settings.max_bytes))
        except ImagingError:
            continue  # in quarantine: there is no picture to show; the table has its reason
        finally:
            master.unlink()
        own = folder / name
        if prefix:
            _fetch(prefix, settings, store, own)
        pictures = {"before": imaging.srgb8(before, long_side_px=THUMBNAIL_PX), **_derivatives(own, before, key)}
        found.append((name, f"{outcome}. {reason}".strip(), pictures))
    shown = [d for d in DERIVATIVES if d == "cleaned" or any(d in pictures for _, _, pictures in found)]
    columns = ("before", "damage found", *shown)
    rows = [
        views.SheetRow(title=name, caption=caption, pictures=tuple(pictures.get(c, _NOTHING) for c in columns))
        for name, caption, pictures in found
    ]
    path = folder / "contact-sheet.png"
    imaging.write_png(Raster(views.contact_sheet(rows, columns=columns)), path)
    return path


def _fetch(prefix: str, settings: Settings, store: Store, own: Path) -> None:
    """Every file of a restored version, in the folder ``own``."""
    own.mkdir(exist_ok=True)
    for page in store.pages(settings.restored_bucket, prefix):
        for listed in page:
            store.download(settings.restored_bucket, listed.key, own / listed.key.removeprefix(prefix))


def _derivatives(own: Path, before: Raster, key: str) -> dict[str, NDArray[np.uint8]]:
    """Thumbnails of what lies in ``own``, by column."""
    pictures = {}
    if (own / "mask.png").exists():
        mask = imaging.read_mask(own / "mask.png", key)
        pictures["damage found"] = views.highlighted(before, mask, long_side_px=THUMBNAIL_PX)
    for name in DERIVATIVES:
        if (own / f"{name}.tif").exists():
            after = imaging.decode(own / f"{name}.tif", key, imaging.Limits(max_megapixels=float("inf")))
            pictures[name] = imaging.srgb8(after, long_side_px=THUMBNAIL_PX)
    return pictures
