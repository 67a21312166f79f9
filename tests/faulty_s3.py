"""A proxy before a real S3 that does what networks and busy stores do: refuse, answer late, cut bodies short."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["refuse", "refuse after", "cut", "hang up", "late"]
SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


@dataclass
class Faulty:
    """A running proxy: where it listens, how often it does what (shares of all calls), and what it did.

    ``refuse``: 503 and nothing done. ``refuse after``: done, but answered 503. ``cut``: half of a GET's body.
    ``hang up``: no answer at all. ``late``: ``late_seconds`` before anything happens. ``first``: faults of the
    first calls, in their order, before shares count.
    """

    url: str = ""
    shares: Mapping[Fault, float] = field(default_factory=dict)
    first: list[Fault | None] = field(default_factory=list)
    late_seconds: float = 0.0
    seed: int = 20261122
    did: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random, self._lock = random.Random(self.seed), threading.Lock()

    def next_fault(self) -> Fault | None:
        """What happens to the next call."""
        with self._lock:
            if self.first:
                return self.first.pop(0)
            draw = self._random.random()
            for fault, share in self.shares.items():
                if draw < share:
                    return fault
                draw -= share
            return None


@contextmanager
def faulty(upstream_url: str, plan: Faulty) -> Iterator[Faulty]:
    """``plan``, with its ``url`` filled in, while the proxy runs."""
    target = urlsplit(upstream_url)
    assert target.hostname is not None

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = plan.next_fault()
            plan.did["calls"] += 1
            if fault == "cut" and self.command != "GET":
                fault = "refuse"
            if fault is not None:
                plan.did[fault] += 1
            if fault == "late":
                time.sleep(plan.late_seconds)
            if fault == "hang up":
                self.close_connection = True
                return
            if fault == "refuse":
                self._answer(503, {}, SLOW_DOWN)
                return
            upstream = http.client.HTTPConnection(str(target.hostname), target.port, timeout=60)
            try:
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("expect", "connection"):
                        upstream.putheader(name, value)
                upstream.endheaders(body or None)
                answer = upstream.getresponse()
                content, headers = answer.read(), dict(answer.getheaders())
            finally:
                upstream.close()
            if fault == "refuse after":
                self._answer(503, {}, SLOW_DOWN)
                return
            self._answer(answer.status, headers, content, half=fault == "cut")

        do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

        def _answer(self, status: int, headers: Mapping[str, str], body: bytes, half: bool = False) -> None:
            self.send_response_only(status)
            length = headers.get("Content-Length", str(len(body))) if self.command == "HEAD" else str(len(body))
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                with suppress(OSError):
                    self.wfile.write(body[: len(body) // 2] if half else body)
            if half:
                self.wfile.flush()
                self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    plan.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield plan
    finally:
        server.shutdown()
        server.server_close()
