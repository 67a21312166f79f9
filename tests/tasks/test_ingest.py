"""Where restorations go, whatever their key looks like; cold scans; versions."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infra.store import Listed, Store
from small_archive import Archive, scratched
from tasks import ingest
from tasks.contracts import GroupFailed, Outcome
from tasks.ingest import folder_of
from tasks.recipe import ARCHIVAL
from tasks.stage import Identity

ID = "0123456789abcdef"
LONGEST_NAME = "colorized_difference.png"
COMPOSED = unicodedata.normalize("NFC", "Zürich/é.tif")
ODD = [
    "box 1/a b.tif", COMPOSED, unicodedata.normalize("NFD", COMPOSED), "a/../b.tif", "../b.tif", "a/./b.tif", "b.tif",
    "/b.tif", "//b.tif", "a//b.tif", "a/b.tif", "a/b.tif/", "..", ".", "/", "x" * 1020 + ".tif", "x" * 1021 + "tif",
    "y/" * 510 + ".tif", "写" * 341 + "t", "back\\slash.tif", "back_slash.tif", "a\x01b\nc.tif", "a_b_c.tif",
    "%2E%2E/b.tif", "z" * 255, "z" * 256, "/".join(["k" * 250] * 4),
]  # fmt: skip


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=1024))
@example("/" * 1024)
@example("." * 1024)
@example("é" * 512)
@example("../" * 341)
def test_a_folder_is_a_path_that_every_store_and_file_system_takes(key: str) -> None:
    if len(key.encode()) > 1024:
        key = key.encode()[:1024].decode(errors="ignore")
    folder = folder_of(key, ID, "restored/")
    assert len((folder + LONGEST_NAME).encode()) <= 1024
    assert folder.startswith("restored/")
    assert folder.endswith(f"/{ID}/")
    segments = folder[:-1].split("/")
    assert not {"", ".", ".."} & set(segments)
    assert max(len(segment.encode()) for segment in segments) <= 255
    assert not any(ord(letter) < 32 or letter in "\\\x7f" for letter in folder)


def test_keys_that_differ_have_folders_that_differ() -> None:
    folders = {folder_of(key, ID, "restored/") for key in ODD}
    assert len(folders) == len(ODD)


def test_a_usual_key_is_its_own_folder_and_an_odd_one_stays_readable() -> None:
    assert folder_of("box 1/é.tif", ID, "restored/") == f"restored/box 1/é.tif/{ID}/"
    digest = hashlib.sha256(b"../box/7.tif").hexdigest()
    assert folder_of("../box/7.tif", ID, "restored/") == f"restored/box/7.tif~{digest}/{ID}/"


def test_the_embedded_store_takes_every_folder(s3: Store, bucket: str) -> None:
    keys = [folder_of(key, ID, "restored/") + LONGEST_NAME for key in ODD]
    for key in keys:
        sha256 = hashlib.sha256(key.encode()).hexdigest()
        assert s3.put_new(bucket, key, key.encode(), media_type="text/plain", sha256=sha256) == "created", key
    assert sorted(item.key for page in s3.pages(bucket, "restored/") for item in page) == sorted(keys)


def test_a_cold_scan_fails_without_quarantine_and_says_what_to_do(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.put("cold.tif", scratched(1))
    archive.put("warm.tif", scratched(2))
    real = Store.head

    def head(self: Store, bucket: str, key: str) -> Listed:
        found = real(self, bucket, key)
        return replace(found, storage_class="DEEP_ARCHIVE") if key == "cold.tif" else found

    monkeypatch.setattr(Store, "head", head)
    cold, warm = ingest.ingest.fn(["cold.tif", "warm.tif"], ARCHIVAL, Identity({"s": "1"}), archive.shop())
    assert (cold.outcome, warm.outcome) == (Outcome.FAILED, Outcome.DONE)
    assert "DEEP_ARCHIVE: ask for a restore from cold storage" in str(cold.reason)
    assert archive.rows("SELECT key FROM quarantine") == []


def test_a_version_is_recorded_and_a_new_version_is_another_object(archive: Archive) -> None:
    bucket, client = archive.settings.masters_bucket, archive.store._client()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    versions = [client.put_object(Bucket=bucket, Key="plate.tif", Body=scratched(seed))["VersionId"] for seed in (1, 2)]
    (result,) = ingest.ingest.fn(["plate.tif"], ARCHIVAL, Identity({"s": "1"}), archive.shop())
    assert result.plate is not None
    assert result.plate.master.version_id == versions[1]
    (known,) = archive.ledger.history(bucket, "plate.tif").restorations
    assert known.version_id == versions[1]
    assert len(set(versions)) == 2
    client.put_object(Bucket=bucket, Key="plate.tif", Body=b"no picture")
    with pytest.raises(GroupFailed):
        ingest.ingest.fn(["plate.tif"], ARCHIVAL, Identity({"s": "1"}), archive.shop())
    (spoiled,) = archive.ledger.history(bucket, "plate.tif").quarantined
    assert spoiled.version_id not in (*versions, None)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    for item in client.list_object_versions(Bucket=bucket).get("Versions", []):
        client.delete_object(Bucket=bucket, Key=item["Key"], VersionId=item["VersionId"])
