"""The public views and the role that may read them, put into the database by the revisions that change them."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from alembic import op
from sqlalchemy import text

FILES = Path(__file__).parent.parent / "views"
READER = "glassplate_reader"
_CREATED_BY_US = "Reads the public views of glassplate; made by its migrations."

logger = logging.getLogger(__name__)


def names() -> list[str]:
    """The public views: one for each file in ``db/views``."""
    return sorted(path.stem for path in FILES.glob("*.sql"))


def digest() -> str:
    """sha256 over the view files, by name."""
    hashed = hashlib.sha256()
    for name in names():
        hashed.update(f"{name}\n{_read(name)}\n".encode())
    return hashed.hexdigest()


def replace_views(pinned: str) -> None:
    """The views are those of ``db/views``, readable for the reader role.

    ``pinned`` is the digest of the view files at the time of the calling revision. An older revision, whose files are
    gone, pins another digest: it leaves the views out, and the newest revision that calls this puts them in. So whoever
    edits a view adds a revision that pins the new digest (a test insists).
    """
    drop_views()
    if pinned != digest():
        return
    for name in names():
        _execute(_read(name))
    _execute(_GRANT.format(reader=READER, views=", ".join(names()), comment=_CREATED_BY_US))
    if not op.get_context().as_sql:
        there = op.get_bind().execute(text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": READER}).scalar()
        if there is None:
            logger.warning(
                "role %s is not there and this user may not create it. Somebody who may runs: "
                "CREATE ROLE %s NOLOGIN; GRANT SELECT ON %s TO %s;",
                READER, READER, ", ".join(names()), READER,
            )  # fmt: skip


def drop_views() -> None:
    """The views are gone; a revision calls this before it alters a table that they read."""
    _execute(f"DROP VIEW IF EXISTS {', '.join(names())}")


def drop_reader() -> None:
    """The reader role is gone, if the migrations made it and nobody uses it: no member, no grant in any database."""
    _execute(_DROP_ROLE.format(reader=READER, comment=_CREATED_BY_US))


def _read(name: str) -> str:
    return (FILES / f"{name}.sql").read_text(encoding="utf-8")


def _execute(statements: str) -> None:
    # text() takes ":word" for a parameter; there are none in these files.
    op.execute(text(statements.replace(":", "\\:")))


# Roles belong to the whole server: another database's migration may have made it, or make it at this moment.
_GRANT = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{reader}') THEN
        CREATE ROLE {reader} NOLOGIN;
        COMMENT ON ROLE {reader} IS '{comment}';
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
    WHEN insufficient_privilege THEN RAISE WARNING 'role {reader} is missing and may not be created by %', current_user;
END $$;
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{reader}') THEN
        GRANT SELECT ON {views} TO {reader};
        IF NOT has_schema_privilege('{reader}', current_schema, 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO {reader}', current_schema);
        END IF;
    END IF;
END $$;
"""

_DROP_ROLE = """
DO $$ BEGIN
    IF EXISTS (
        SELECT FROM pg_roles r WHERE r.rolname = '{reader}' AND shobj_description(r.oid, 'pg_authid') = '{comment}'
        AND NOT EXISTS (SELECT FROM pg_auth_members m WHERE m.roleid = r.oid AND NOT EXISTS (
            SELECT FROM pg_roles me WHERE me.oid = m.member AND me.rolname = current_user))
    ) THEN
        EXECUTE format('REVOKE ALL ON SCHEMA %I FROM {reader}', current_schema);
        DROP ROLE {reader};
    END IF;
EXCEPTION
    WHEN dependent_objects_still_exist OR insufficient_privilege OR object_in_use THEN NULL;
END $$;
"""
