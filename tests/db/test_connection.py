import json
import os
import pickle
import threading
import time
from contextlib import closing

import psycopg2
import pytest
from sqlalchemy import text

from db.connection import Database, to_json
from db.ledger import Ledger
from db.records import Event, LedgerConflict, LedgerError, LedgerUnavailable


@pytest.fixture
def database(migrated_url):
    database = Database(migrated_url)
    yield database
    database.close()


def end_connections_of(url):
    with closing(psycopg2.connect(url.replace("+psycopg2", ""))) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("""
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'glassplate'
        """)
        return cursor.rowcount


def test_a_server_that_is_not_there_is_unavailable_within_seconds():
    began = time.monotonic()
    with pytest.raises(LedgerUnavailable, match=r"ada:\*\*\*@127\.0\.0\.1:1/none.*refused"):
        Ledger("postgresql+psycopg2://ada:secret@127.0.0.1:1/none").event(Event("x"))
    assert time.monotonic() - began < 5


def test_a_connection_lost_between_two_calls_is_replaced_unnoticed(migrated_url):
    ledger = Ledger(migrated_url)
    ledger.event(Event("before"))
    assert end_connections_of(migrated_url) >= 1
    ledger.event(Event("after"))
    ledger.close()


def test_a_connection_lost_inside_a_call_is_unavailable_and_leaves_nothing(fresh_database, database, migrated_url):
    with pytest.raises(LedgerUnavailable), database.transaction() as connection:
        connection.execute(text("INSERT INTO event (kind) VALUES ('half done')"))
        end_connections_of(migrated_url)
        connection.execute(text("SELECT 1"))
    with database.transaction() as connection:
        assert connection.execute(text("SELECT count(*) FROM event WHERE kind = 'half done'")).scalar() == 0


def test_a_pool_with_no_connection_left_is_unavailable(migrated_url):
    database = Database(migrated_url, pool_size=1)
    database.engine().pool._timeout = 0.1
    with database.transaction(), database.transaction(), pytest.raises(LedgerUnavailable), database.transaction():
        pass
    database.close()


def test_a_read_only_server_is_unavailable(database):
    with pytest.raises(LedgerUnavailable, match="read-only"), database.transaction() as connection:
        connection.execute(text("SET TRANSACTION READ ONLY"))
        connection.execute(text("INSERT INTO event (kind) VALUES ('x')"))


def test_a_broken_rule_is_a_conflict(database):
    with pytest.raises(LedgerConflict, match="ck_master_sha256_is_hex"), database.transaction() as connection:
        connection.execute(
            text("""
            INSERT INTO master (sha256, size_bytes, width, height, channels, bits, media_type)
            VALUES ('x', 1, 1, 1, 1, 8, '')
        """)
        )


def test_a_database_without_tables_asks_for_the_migrations(fresh_database):
    with pytest.raises(LedgerError, match="expected a migrated database") as caught:
        Ledger(fresh_database).event(Event("x"))
    assert not isinstance(caught.value, LedgerUnavailable)


def test_threads_share_one_engine(database):
    seen, start = [], threading.Barrier(8)

    def reach():
        start.wait()
        seen.append(database.engine())

    threads = [threading.Thread(target=reach) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len(set(map(id, seen))) == 1


def backend(database):
    with database.transaction() as connection:
        return connection.execute(text("SELECT pg_backend_pid()")).scalar()


def test_a_forked_child_opens_a_connection_of_its_own_and_leaves_its_parents_alone(database):
    ours = backend(database)
    child = os.fork()
    if child == 0:
        # The child must leave without pytest's own ending; its exit status is the answer.
        status = 2
        try:
            status = 0 if backend(database) != ours else 1
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert backend(database) == ours


def test_a_statement_that_the_server_refuses_is_an_error_with_the_servers_words(database):
    with pytest.raises(LedgerError, match="syntax error") as caught, database.transaction() as connection:
        connection.execute(text("SELEKT 1"))
    assert not isinstance(caught.value, LedgerUnavailable | LedgerConflict)


def test_a_pickled_database_opens_connections_of_its_own(database):
    copy = pickle.loads(pickle.dumps(database))
    assert copy.engine() is not database.engine()
    with copy.transaction() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    copy.close()
    assert "***" in repr(copy)


def test_json_for_the_database_has_no_nul_and_no_bare_infinity():
    value = {"a\x00": float("inf"), "b": [float("-inf"), float("nan"), 0.5, "\ud800"], "c": {"d": None, "e": True}}
    assert json.loads(to_json(value)) == {
        "a\ufffd": "Infinity",
        "b": ["-Infinity", "NaN", 0.5, "\ufffd\ufffd\ufffd"],
        "c": {"d": None, "e": True},
    }
