"""A small archive of one test's own, with the steps that tests of stages and flows take."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile

from db.ask import ask
from db.ledger import Ledger
from infra.settings import Settings
from infra.store import Store
from models.imaging import Limits
from tasks.stage import Workshop


@dataclass(frozen=True)
class Archive:
    """A small archive of one test's own: migrated database, masters and restored buckets, settings for flows."""

    settings: Settings
    store: Store
    ledger: Ledger

    def put(self, key: str, content: Path | bytes) -> str:
        """Puts a master there; its sha256."""
        body = content.read_bytes() if isinstance(content, Path) else content
        sha256 = hashlib.sha256(body).hexdigest()
        bucket = self.settings.masters_bucket
        self.store.put_new(bucket, key, body, media_type="image/x", sha256=sha256, metadata={})
        return sha256

    def shop(self, flow_run_id: str = "run-1", **changes: Any) -> Workshop:
        """A workshop as the flow run ``flow_run_id`` has it."""
        s = self.settings
        shop = Workshop(
            store=self.store, ledger=self.ledger, masters_bucket=s.masters_bucket, restored_bucket=s.restored_bucket,
            restored_prefix=s.restored_prefix, work_prefix=s.work_prefix,
            limits=Limits(s.max_megapixels, s.max_bytes), flow_run_id=flow_run_id, lease_seconds=s.lease_seconds,
        )  # fmt: skip
        return replace(shop, **changes)

    def keys(self, prefix: str = "") -> list[str]:
        """Everything in the restored bucket under ``prefix``."""
        return [found.key for page in self.store.pages(self.settings.restored_bucket, prefix) for found in page]

    def masters(self) -> dict[str, str]:
        """sha256 of every master by key, as it lies there now."""
        bucket = self.settings.masters_bucket
        return {f.key: self.store.digest(bucket, f.key).sha256 for page in self.store.pages(bucket, "") for f in page}

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a query on the public views."""
        assert self.settings.database_url is not None
        return ask(self.settings.database_url.get_secret_value(), sql)[1]


def scratched(seed: int, height: int = 120, width: int = 160) -> bytes:
    """A small gray TIFF that no other seed gives, with a scratch that is found and filled."""
    rng = np.random.default_rng(seed)
    ground = cv2.resize(rng.uniform(60, 150, (4, 5)), (width, height), interpolation=cv2.INTER_CUBIC)
    pixels = np.clip(ground + rng.normal(0, 1.5, ground.shape), 0, 255).astype(np.uint8)
    cv2.line(pixels, (int(width * 0.2), 5), (int(width * 0.8), height - 6), 250, 2)
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="minisblack", metadata=None)
    return file.getvalue()
