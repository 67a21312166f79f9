from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from models import imaging
from models.imaging import Mask, Raster
from small_archive import Archive
from tasks import ingest, stage
from tasks.contracts import CLEANED, MASTER, ImageRef, PlateRef
from tasks.recipe import ARCHIVAL
from tasks.stage import Identity, Workshop

Plated = Callable[..., list[PlateRef]]


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """Where weights are kept between test sessions, one folder a user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "glassplate" / "weights"


@pytest.fixture
def plated(archive: Archive, tmp_path: Path) -> Plated:
    """A function that ingests rasters, by name, and gives plates whose cleaned layer is the master; with masks, too."""

    def make(
        rasters: dict[str, Raster], shop: Workshop | None = None, masks: dict[str, Mask] | None = None
    ) -> list[PlateRef]:
        for name, raster in rasters.items():
            imaging.write_tiff(raster, tmp_path / "scan.tif")
            archive.put(name, tmp_path / "scan.tif")
        shop = shop or archive.shop()
        refs = stage.survivors(ingest.ingest.fn(list(rasters), ARCHIVAL, Identity({"made up": "1"}), shop))
        return [
            ref.model_copy(
                update={"layers": {**ref.layers, CLEANED: ref.layers[MASTER]}, "mask": kept(ref, shop, masks or {})}
            )
            for ref in refs
        ]

    def kept(ref: PlateRef, shop: Workshop, masks: dict[str, Mask]) -> ImageRef | None:
        if (mask := masks.get(ref.scan)) is None:
            return None
        imaging.write_mask(mask, tmp_path / "mask.png")
        sha256 = shop.blobs(ref.restoration_id).put(tmp_path / "mask.png", "image/png")
        height, width = mask.values.shape
        return ImageRef(uri="s3://w/mask", sha256=sha256, width=width, height=height, media_type="image/png")

    return make
