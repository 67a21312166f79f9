import logging
import subprocess
import sys
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from uuid import uuid4

import psycopg2
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from db import migrations
from db.connection import Database
from db.ledger import Ledger
from db.migrations import INI, current, downgrade, head, migrate, views
from db.records import LedgerError, LedgerUnavailable


def ask(url, statement):
    with (
        closing(psycopg2.connect(url.replace("+psycopg2", ""))) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_an_older_filled_database_goes_up_with_its_rows_and_down_until_nothing_is_left(fresh_database, fill_archive):
    assert current(fresh_database) is None
    assert migrate(fresh_database, "0001") == current(fresh_database) == "0001"
    migrate(fresh_database)
    ledger = Ledger(fresh_database)  # today's writes to today's tables; what is older gets its rows on the way down
    fill_archive(ledger)
    ledger.close()
    downgrade(fresh_database, "0001")
    assert ask(fresh_database, "SELECT count(*) FROM nightly_run") == [(2,)]
    assert migrate(fresh_database) == current(fresh_database) == head()
    assert ask(fresh_database, "SELECT cold, excluded, scheduled_for FROM nightly_runs LIMIT 1") == [(0, 0, None)]
    assert ask(fresh_database, "SELECT count(*) FROM restorations") == [(5,)]
    assert ask(fresh_database, "SELECT count(*) FROM stage_runs") == [(12,)]

    downgrade(fresh_database, "0001")
    assert ask(fresh_database, "SELECT count(*) FROM restoration") == [(5,)]
    assert ask(fresh_database, "SELECT count(*) FROM pg_views WHERE schemaname = 'public'") == [(0,)]
    migrate(fresh_database)
    downgrade(fresh_database)
    assert current(fresh_database) is None
    left = ask(
        fresh_database,
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'S')",
    )
    assert left == [("alembic_version",)]
    assert ask(fresh_database, "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace") == []
    assert migrate(fresh_database) == head()


def test_the_migrated_tables_are_those_of_the_schema(migrated_url):
    with Database(migrated_url).transaction() as connection:
        config = Config(str(INI))
        config.attributes["connection"] = connection
        command.check(config)


def test_three_processes_may_migrate_at_once(fresh_database):
    with get_context("spawn").Pool(3) as pool:
        assert pool.map(migrate, [fresh_database] * 3) == [head()] * 3
    assert len(ask(fresh_database, "SELECT * FROM alembic_version")) == 1


def test_the_alembic_command_uses_the_database_of_the_settings(fresh_database, tmp_path):
    environment = {"GLASSPLATE_DATABASE_URL": fresh_database, "GLASSPLATE_DATA_DIR": str(tmp_path)}
    alembic = [sys.executable, "-m", "alembic", "-c", str(INI)]
    subprocess.run([*alembic, "upgrade", "head"], env=environment, cwd=tmp_path, check=True, capture_output=True)
    assert current(fresh_database) == head()
    del environment["GLASSPLATE_DATABASE_URL"]
    lost = subprocess.run(
        [*alembic, "current"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert lost.returncode == 1
    assert "GLASSPLATE_DATABASE_URL" in lost.stderr


def test_the_migrations_printed_as_sql_make_the_same_database(fresh_database, migrated_url, tmp_path):
    printed = subprocess.run(
        [sys.executable, "-m", "alembic", "-c", str(INI), "upgrade", "head", "--sql"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    ask(fresh_database, printed)
    columns = "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'public'"
    assert sorted(ask(fresh_database, columns)) == sorted(ask(migrated_url, columns))


def test_the_newest_revision_that_sets_the_views_pins_the_files_as_they_are():
    """Whoever edits a view adds a revision that calls replace_views with the new digest."""
    revisions = ScriptDirectory.from_config(Config(str(INI))).walk_revisions()
    pinned = [revision.module.VIEWS for revision in revisions if hasattr(revision.module, "VIEWS")]
    assert pinned[0] == views.digest()


def test_views_of_another_time_are_left_to_the_revision_that_pins_them(fresh_database, monkeypatch):
    monkeypatch.setattr(views, "digest", lambda: "f" * 64)
    migrate(fresh_database)
    assert ask(fresh_database, "SELECT viewname FROM pg_views WHERE schemaname = 'public'") == []


def test_a_database_of_a_newer_glassplate_is_left_alone_with_a_message(fresh_database):
    migrate(fresh_database)
    ask(fresh_database, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(LedgerError, match=r"expected a revision up to 0004.*9999"):
        migrate(fresh_database)


def test_a_database_out_of_reach_is_unavailable_and_shows_no_password():
    with pytest.raises(LedgerUnavailable) as caught:
        migrate("postgresql+psycopg2://ada:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)


def test_a_failed_revision_leaves_nothing_behind(fresh_database):
    ask(fresh_database, "CREATE TABLE stage_run (a int)")
    with pytest.raises(LedgerError, match="stage_run"):
        migrate(fresh_database)
    assert ask(fresh_database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == [("stage_run",)]


@pytest.fixture
def own_reader(monkeypatch):
    """A reader role that only this test's database knows."""
    name = f"reader_{uuid4().hex[:8]}"
    monkeypatch.setattr(views, "READER", name)
    return name


def _role(url, name):
    return ask(url, f"SELECT rolcanlogin FROM pg_roles WHERE rolname = '{name}'")


def test_the_reader_role_comes_with_the_views_and_goes_with_them(fresh_database, own_reader):
    migrate(fresh_database)
    assert _role(fresh_database, own_reader) == [(False,)]
    downgrade(fresh_database)
    assert _role(fresh_database, own_reader) == []


@pytest.mark.parametrize("use", ["GRANT {reader} TO {member}", "GRANT SELECT ON alembic_version TO {reader}"])
def test_a_reader_role_that_somebody_uses_stays(fresh_database, own_reader, use):
    member = f"{own_reader}_member"
    migrate(fresh_database)
    ask(fresh_database, f"CREATE ROLE {member}; " + use.format(reader=own_reader, member=member))
    downgrade(fresh_database)
    assert _role(fresh_database, own_reader) == [(False,)]
    ask(fresh_database, f"DROP OWNED BY {own_reader}; DROP ROLE {own_reader}; DROP ROLE {member}")


def test_a_reader_role_that_an_administrator_made_is_used_and_stays(fresh_database, own_reader):
    ask(fresh_database, f"CREATE ROLE {own_reader}")
    migrate(fresh_database)
    ask(fresh_database, f"SET ROLE {own_reader}; SELECT * FROM restorations")
    downgrade(fresh_database)
    assert _role(fresh_database, own_reader) == [(False,)]
    ask(fresh_database, f"DROP ROLE {own_reader}")


def test_an_owner_who_may_not_create_roles_still_migrates_and_is_told(fresh_database, own_reader, caplog):
    owner = f"{own_reader}_owner"
    server, _, name = fresh_database.rpartition("/")
    ask(fresh_database, f"CREATE ROLE {owner} LOGIN PASSWORD 'secret'; ALTER DATABASE {name} OWNER TO {owner}")
    url = f"postgresql+psycopg2://{owner}:secret@{server.partition('@')[2]}/{name}"
    with caplog.at_level(logging.WARNING, "db.migrations.views"):
        assert migrate(url) == head()
    assert f"CREATE ROLE {own_reader} NOLOGIN; GRANT SELECT ON" in caplog.text
    assert ask(url, "SELECT count(*) FROM restorations") == [(0,)]
    downgrade(url)
    ask(fresh_database, f"ALTER DATABASE {name} OWNER TO CURRENT_USER; DROP OWNED BY {owner}; DROP ROLE {owner}")


def test_head_is_the_last_file_in_the_versions_folder():
    files = sorted(path.name for path in (Path(migrations.__file__).parent / "versions").glob("0*.py"))
    assert files[-1].startswith(head())
