"""Who may do what in the buckets: policies in IAM's language, none of which lets anybody write a master.

``worker.json``: what a worker needs and no more. ``reader.json``: for people and programs that look. Both are for the
bucket names of the default settings; ``policy`` gives them for others. The embedded store holds its worker to them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from infra.settings import Settings

NAMES = ("worker", "reader")
_ARN = "arn:aws:s3:::"


def policy(name: str, settings: Settings) -> dict[str, Any]:
    """The policy ``worker`` or ``reader`` for the buckets and prefixes of these settings.

    The worker may also read the buckets that registered models come from. Raises ValueError where masters and restored
    versions share a place, so that no policy could keep them apart.
    """
    document: dict[str, Any] = json.loads((Path(__file__).parent / f"{name}.json").read_text("utf-8"))
    masters = f"{settings.masters_bucket}/{settings.masters_prefix}"
    restored = f"{settings.restored_bucket}/{settings.restored_prefix}"
    work = f"{settings.restored_bucket}/{settings.work_prefix}"
    for place in (restored, work):
        if place.startswith(masters) or masters.startswith(place):
            raise ValueError(f"policy {name}: expected masters apart from {place}, found them in {masters}")
    meant = {
        "masters": settings.masters_bucket, "masters/*": f"{masters}*", "restored": settings.restored_bucket,
        "restored/restored/*": f"{restored}*", "restored/work/*": f"{work}*",
    }  # fmt: skip
    for statement in document["Statement"]:
        statement["Resource"] = [_ARN + meant[resource.removeprefix(_ARN)] for resource in statement["Resource"]]
    sources = {urlsplit(model.source).netloc for model in settings.models if model.source.startswith("s3://")}
    if sources and name == "worker":
        read = {"Sid": "ReadWeights", "Effect": "Allow", "Action": ["s3:GetObject"]}
        document["Statement"].insert(-1, {**read, "Resource": [f"{_ARN}{bucket}/*" for bucket in sorted(sources)]})
    return document
