"""A night's digest as JSON, posted to the addresses an archive gave: chat, ticket system, monitoring."""

from __future__ import annotations

import json
import logging
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from prefect import task

from db.records import Event, LedgerError
from tasks import stage
from tasks.contracts import Unavailable
from tasks.stage import Workshop

log = logging.getLogger("glassplate.webhook")

TIMEOUT_SECONDS = 15.0


@task(name="webhook", task_run_name="webhook", **stage.TASK)
def post(url: str, body: Mapping[str, Any]) -> int:
    """The HTTP status of a success; raises Unavailable, for the task runner to retry, for anything else.

    Messages name the host only: the rest of such an address is often its secret.
    """
    data = json.dumps(body, ensure_ascii=False, default=str).encode("utf-8", "replace")
    headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "glassplate"}
    request = urllib.request.Request(url, data, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        raise Unavailable(f"webhook at {host(url)}", expected="a success", found=f"HTTP {error.code}") from None
    except (OSError, ValueError) as error:
        found = str(getattr(error, "reason", "")) or type(error).__name__
        raise Unavailable(f"webhook at {host(url)}", expected="an answer", found=found) from None


def tell(urls: list[str], body: Mapping[str, Any], night_id: int, shop: Workshop) -> None:
    """Every address was told, or its failure is in the log and among the ledger's events; nothing is raised."""
    for number, url in enumerate(urls, 1):
        detail: dict[str, Any] = {"host": host(url), "number": number}
        try:
            post(url, body)
            kind = "webhook_sent"
        except Exception as error:  # noqa: BLE001 - whatever it is, the night is done and must not fail for it
            kind, detail["reason"] = "webhook_failed", str(error)
            log.warning("night=%d webhook=%d host=%s failed: %s", night_id, number, host(url), error)
        try:
            shop.ledger.event(Event(kind, detail, nightly_run_id=night_id))
        except LedgerError as error:
            log.warning("night=%d webhook=%d event not written: %s", night_id, number, error)


def host(url: str) -> str:
    """The part of an address that may be shown."""
    return urlsplit(url).hostname or "?"
