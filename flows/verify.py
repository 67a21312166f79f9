"""What was published is still what it was: every file read back and compared with the database."""

from __future__ import annotations

from db.ask import ask
from infra.settings import Settings
from infra.store import NotFound, open_store

_PUBLISHED = """
SELECT restoration_id, derivative_bucket, derivative_key, sha256 FROM derivatives
WHERE restoration_id = coalesce(:id, restoration_id) ORDER BY derivative_key
"""


def verify(settings: Settings, restoration_id: str | None) -> tuple[list[str], int]:
    """Every difference between archive and database in words, and how many files were read."""
    assert settings.database_url is not None
    store = open_store(settings)
    problems = []
    _, rows = ask(settings.database_url.get_secret_value(), _PUBLISHED, {"id": restoration_id})
    for owner, bucket, key, sha256 in rows:
        try:
            found = store.digest(bucket, key).sha256
        except NotFound:
            found = "nothing"
        if found != sha256:
            problems.append(f"s3://{bucket}/{key}: expected sha256 {sha256} of restoration {owner}, found {found}")
    return problems, len(rows)
