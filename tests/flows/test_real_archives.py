"""Whole restorations where S3 is as archives have it: odd keys, a worker that may not write masters."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from flows import restore as flow
from infra.settings import Settings, worker_keys
from infra.store import Denied, Store
from small_archive import Archive, scratched

pytestmark = pytest.mark.usefixtures("prefect")

COMPOSED = unicodedata.normalize("NFC", "Zürich/é.tif")
KEYS = [
    "box 1/a  b.tif", COMPOSED, unicodedata.normalize("NFD", COMPOSED), "a/../b.tif", "../b.tif", "/b.tif", "a//b.tif",
    "b.tif", "x" * 1020 + ".tif", "写" * 341 + "t", "back\\slash.tif", "a+b%2F&?#.tif",
]  # fmt: skip


@pytest.fixture
def elsewhere(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """The archive on a store that takes every key that S3 takes; the embedded one refuses some."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    store = Store(f"http://{host}:{port}", "us-east-1", "any", "thing")
    for bucket in (archive.settings.masters_bucket, archive.settings.restored_bucket):
        store.ensure_bucket(bucket)
    monkeypatch.setenv("GLASSPLATE_S3_ENDPOINT_URL", str(store.endpoint_url))
    monkeypatch.setenv("GLASSPLATE_S3_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("GLASSPLATE_S3_SECRET_ACCESS_KEY", "thing")
    yield replace(archive, store=store)
    server.stop()


def test_odd_keys_are_listed_restored_and_published_each_in_its_own_place(elsewhere: Archive) -> None:
    for seed, key in enumerate(KEYS):
        elsewhere.put(key, scratched(seed))
    before = elsewhere.masters()
    assert sorted(before) == sorted(KEYS)
    state = flow.restore_batch(list(before), return_state=True)
    assert state.is_completed(), state.message
    rows = elsewhere.rows("SELECT key, state, cleaned_key, preview_key, prefix FROM restorations")
    assert {key: found for key, found, *_ in rows} == dict.fromkeys(KEYS, "restored")
    published = set(elsewhere.keys("restored/"))
    for _, _, cleaned, preview, prefix in rows:
        assert {cleaned, preview, f"{prefix}record.json", f"{prefix}mask.png"} <= published
    assert len({prefix for *_, prefix in rows}) == len(KEYS)
    assert len(published) == 6 * len(KEYS)
    assert elsewhere.keys("work/") == []
    assert elsewhere.masters() == before


@pytest.fixture
def guarded(services: Settings, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """The archive in the buckets that the embedded worker's policy names; flows have the worker's keys."""
    buckets = {"masters_bucket": services.masters_bucket, "restored_bucket": services.restored_bucket}
    for name, value in buckets.items():
        monkeypatch.setenv(f"GLASSPLATE_{name.upper()}", value)
    own, secret = services.s3_access_key_id, services.s3_secret_access_key
    assert own is not None
    assert secret is not None
    keys = worker_keys(own, secret.get_secret_value())
    monkeypatch.setenv("GLASSPLATE_S3_ACCESS_KEY_ID", keys[0])
    monkeypatch.setenv("GLASSPLATE_S3_SECRET_ACCESS_KEY", keys[1])
    settings = archive.settings.model_copy(
        update={**buckets, "s3_access_key_id": keys[0], "s3_secret_access_key": SecretStr(keys[1])}
    )
    yield replace(archive, settings=settings)
    client = archive.store._client()
    for bucket in buckets.values():
        for page in list(archive.store.pages(bucket, "")):
            for item in page:
                client.delete_object(Bucket=bucket, Key=item.key)


def test_a_whole_restore_works_without_the_right_to_write_masters(guarded: Archive, scans: Path) -> None:
    guarded.put("box/plate.jpg", scans / "prokudin-00056-blue.jpg")
    guarded.put("box/bad.jpg", scans / "cut-short.jpg")
    before = guarded.masters()
    state = flow.restore_batch(list(before), return_state=True)
    assert state.is_completed(), state.message
    assert guarded.rows("SELECT key, state FROM restorations") == [("box/plate.jpg", "restored")]
    assert guarded.rows("SELECT key FROM quarantine") == [("box/bad.jpg",)]
    assert len(guarded.keys("restored/")) == 6
    assert guarded.keys("work/") == []
    assert guarded.masters() == before
    worker = flow.open_store(guarded.settings)
    with pytest.raises(Denied):
        worker.delete_prefix(guarded.settings.masters_bucket, "box/")
    with pytest.raises(Denied):
        worker.delete_prefix(guarded.settings.restored_bucket, "restored/")
