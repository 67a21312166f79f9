"""What was published is still what it was, and nothing else lies there: archive and database compared, both ways."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from db.ask import ask
from db.connection import Database
from infra.settings import Settings
from infra.store import Cold, Listed, NotFound, Store, open_store

READERS = 8  # objects read at once: the store is the slow part
PAGE_ROWS = 1000

_PUBLISHED = """
SELECT restoration_id, derivative_bucket, derivative_key, sha256 FROM derivatives
WHERE restoration_id = coalesce(:id, restoration_id) ORDER BY derivative_key
"""
_EVERY_DERIVATIVE = """
SELECT id, restoration_id, bucket, key, sha256 FROM derivative WHERE id > :after ORDER BY id LIMIT :rows
"""
_WITHOUT_RECORD = """
SELECT r.id, r.state, s.key FROM restoration r JOIN scan s ON s.id = r.scan_id
WHERE r.state IN ('restored', 'skipped')
  AND NOT EXISTS (SELECT FROM derivative d WHERE d.restoration_id = r.id AND d.kind = 'record')
ORDER BY s.key
"""
_DERIVATIVES_OF = "SELECT key FROM derivative WHERE bucket = :bucket AND key = ANY(:keys)"
_AT_WORK_IN = "SELECT prefix FROM restoration WHERE state IN ('planned', 'running') AND prefix = ANY(:prefixes)"
_SCANS_OF = "SELECT key, etag, size_bytes FROM scan WHERE bucket = :bucket AND key = ANY(:keys)"
_KEYS_OF_SCANS = "SELECT DISTINCT key FROM scan WHERE bucket = :bucket"
_MASTERS = """
SELECT id, key, etag, size_bytes, master_sha256 FROM scan
WHERE bucket = :bucket AND master_sha256 IS NOT NULL AND id > :after ORDER BY id LIMIT :rows
"""
_OPEN = "SELECT id FROM restoration WHERE id = ANY(:ids) AND state NOT IN ('restored', 'skipped')"


@dataclass(frozen=True)
class Verified:
    """What was looked at, and every difference in words; ``problems`` empty means all is as it should be."""

    problems: tuple[str, ...]
    files: int  # published files, each read to its end
    objects: int  # objects that lie under the restored and work prefixes
    masters: int  # masters whose ETag and size were compared
    masters_read: int  # of these read to the end and hashed


def verify(settings: Settings, restoration_id: str | None) -> tuple[list[str], int]:
    """Every difference between published files and the database in words, and how many files were read."""
    assert settings.database_url is not None
    _, rows = ask(settings.database_url.get_secret_value(), _PUBLISHED, {"id": restoration_id})
    found = list(_changed_files(open_store(settings), [tuple(row) for row in rows]))
    return found, len(rows)


def verify_all(settings: Settings, *, read_masters: bool = False) -> Verified:
    """The whole archive against the whole database.

    Every row has its objects with the right bytes; every object under the restored prefix has a row, or belongs to a
    restoration at work; what lies in the work area is needed; every scan ever read is there with the ETag and size it
    had, and with ``read_masters`` the same bytes (a cold one is not read).
    """
    assert settings.database_url is not None
    store, database = open_store(settings), Database(settings.database_url.get_secret_value(), pool_size=2)
    try:
        problems: list[str] = []
        files = read = 0
        for rows in _pages(database, _EVERY_DERIVATIVE, {}):
            files += len(rows)
            problems += _changed_files(store, rows)
        for owner, state, key in _rows(database, _WITHOUT_RECORD, {}):
            problems.append(f"{key}: expected a record of restoration {owner}, which is {state}, found no row of one")
        orphans, objects = _orphans(settings, store, database)
        left, more = _left_in_work(settings, store, database)
        changed, masters = _changed_masters(settings, store, database)
        problems += [*orphans, *left, *changed]
        if read_masters:
            spoiled, read = _spoiled_masters(settings, store, database)
            problems += spoiled
    finally:
        database.close()
    return Verified(tuple(problems), files, objects + more, masters, read)


def sweep(settings: Settings) -> int:
    """How many objects were deleted from the work area: what runs left that were killed after their work was done."""
    assert settings.database_url is not None
    store, database = open_store(settings), Database(settings.database_url.get_secret_value(), pool_size=2)
    try:
        return sum(
            store.delete_prefix(settings.restored_bucket, f"{settings.work_prefix}{folder}/")
            for folder in _needless_folders(settings, store, database)
        )
    finally:
        database.close()


def _changed_files(store: Store, rows: Sequence[tuple[Any, ...]]) -> Iterator[str]:
    """What is wrong with published files: rows (restoration id, bucket, key, sha256)."""
    for (owner, bucket, key, sha256), found in zip(rows, _digests(store, [row[1:3] for row in rows]), strict=True):
        if found != sha256:
            yield f"s3://{bucket}/{key}: expected sha256 {sha256} of restoration {owner}, found {found}"


def _digests(store: Store, places: Sequence[tuple[str, str]]) -> list[str]:
    """sha256 of what lies at each (bucket, key), or words for what has none."""

    def digest(place: tuple[str, str]) -> str:
        try:
            return store.digest(*place).sha256
        except NotFound:
            return "nothing"
        except Cold:
            return "an object in cold storage"

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(digest, places))


def _orphans(settings: Settings, store: Store, database: Database) -> tuple[list[str], int]:
    """Objects under the restored prefix that no row knows, and how many lie there."""
    bucket, problems, objects = settings.restored_bucket, [], 0
    for page in store.pages(bucket, settings.restored_prefix):
        objects += len(page)
        keys = [item.key for item in page]
        folders = sorted({_folder(key) for key in keys})
        # First who is at work: what ends between the two questions has its rows by the second.
        at_work = {prefix for (prefix,) in _rows(database, _AT_WORK_IN, {"prefixes": folders})}
        known = {key for (key,) in _rows(database, _DERIVATIVES_OF, {"bucket": bucket, "keys": keys})}
        problems += [
            f"s3://{bucket}/{key}: expected a row of a published file, found none"
            for key in keys
            if key not in known and _folder(key) not in at_work
        ]
    return problems, objects


def _left_in_work(settings: Settings, store: Store, database: Database) -> tuple[list[str], int]:
    """Folders of the work area that nobody needs any more, and how many objects lie in the area."""
    objects = sum(len(page) for page in store.pages(settings.restored_bucket, settings.work_prefix))
    place = f"s3://{settings.restored_bucket}/{settings.work_prefix}"
    expected = "expected only what an open restoration needs, found what a finished or unknown one left"
    return [f"{place}{name}/: {expected}" for name in _needless_folders(settings, store, database)], objects


def _needless_folders(settings: Settings, store: Store, database: Database) -> list[str]:
    """Restoration ids that have a folder in the work area and are finished, or not known at all."""
    folders: dict[str, None] = {}
    for page in store.pages(settings.restored_bucket, settings.work_prefix):
        for item in page:
            folders.setdefault(item.key.removeprefix(settings.work_prefix).partition("/")[0])
    still = {found for (found,) in _rows(database, _OPEN, {"ids": list(folders)})}
    ended = [folder for folder in folders if folder not in still]
    # One that ended meanwhile was emptied meanwhile.
    return [f for f in ended if any(store.pages(settings.restored_bucket, f"{settings.work_prefix}{f}/"))]


def _changed_masters(settings: Settings, store: Store, database: Database) -> tuple[list[str], int]:
    """Masters that are gone, or lie there with an ETag or size that was never read, and how many were compared."""
    bucket, problems, compared = settings.masters_bucket, [], 0
    there: set[bytes] = set()  # short hashes: a million keys in 100 MB
    for page in store.pages(bucket, settings.masters_prefix):
        there.update(_short(item.key) for item in page)
        known: dict[str, set[tuple[str, int]]] = {}
        where = {"bucket": bucket, "keys": [item.key for item in page]}
        for key, etag, size in _rows(database, _SCANS_OF, where):
            known.setdefault(key, set()).add((etag, size))
        compared += len(known)
        problems += [
            f"s3://{bucket}/{item.key}: expected ETag and size as read before, found {item.etag}, {item.size} bytes"
            for item in page
            if item.key in known and (item.etag, item.size) not in known[item.key]
        ]
    problems += [
        f"s3://{bucket}/{key}: expected the scan that was read before, found nothing"
        for (key,) in _rows(database, _KEYS_OF_SCANS, {"bucket": bucket})
        if _short(key) not in there and key.startswith(settings.masters_prefix)
    ]
    return problems, compared


def _spoiled_masters(settings: Settings, store: Store, database: Database) -> tuple[list[str], int]:
    """Masters with the ETag they had and other bytes, and how many were read; a replaced one is reported elsewhere."""
    bucket, problems, read = settings.masters_bucket, [], 0
    for rows in _pages(database, _MASTERS, {"bucket": bucket}):
        present = {row: listed for row, listed in zip(rows, _heads(store, bucket, rows), strict=True) if listed}
        same = [row for row, listed in present.items() if (listed.etag, listed.size) == row[1:3] and not listed.cold]
        read += len(same)
        for (key, _, _, sha256), found in zip(same, _digests(store, [(bucket, row[0]) for row in same]), strict=True):
            if found != sha256:
                problems.append(f"s3://{bucket}/{key}: expected sha256 {sha256} of the master, found {found}")
    return problems, read


def _heads(store: Store, bucket: str, rows: Sequence[tuple[Any, ...]]) -> list[Listed | None]:
    def head(row: tuple[Any, ...]) -> Listed | None:
        try:
            return store.head(bucket, row[0])
        except NotFound:
            return None

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(head, rows))


def _rows(database: Database, sql: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with database.transaction() as connection:
        return [tuple(row) for row in connection.execute(text(sql), dict(values))]


def _pages(database: Database, sql: str, values: Mapping[str, Any]) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of a query that begins with an id, a thousand at a time and without it; no transaction stays open."""
    after = 0
    while rows := _rows(database, sql, {**values, "after": after, "rows": PAGE_ROWS}):
        after = rows[-1][0]
        yield [row[1:] for row in rows]


def _folder(key: str) -> str:
    return f"{key.rpartition('/')[0]}/"


def _short(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=8).digest()
