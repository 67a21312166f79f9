from contextlib import closing
from pathlib import Path
from uuid import uuid4

import psycopg2
import pytest
from psycopg2 import sql

VIEWS = sorted(path.stem for path in (Path(__file__).parents[2] / "db" / "views").glob("*.sql"))


def ask(url, statement, *values):
    with (
        closing(psycopg2.connect(url.replace("+psycopg2", ""))) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module")
def reader_url(archive_url):
    """The archive as somebody sees it who logs in and is a member of the reader role."""
    name, server = f"ada_{uuid4().hex[:8]}", archive_url.partition("@")[2]
    ask(
        archive_url,
        sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret' IN ROLE glassplate_reader").format(sql.Identifier(name)),
    )
    yield f"postgresql://{name}:secret@{server}"
    ask(archive_url, sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_the_five_promised_views_are_there():
    assert {"restorations", "stage_runs", "nightly_runs", "quarantine", "model_usage"} <= set(VIEWS)


def test_the_database_has_a_view_for_every_file_and_no_other(archive_url):
    found = ask(archive_url, "SELECT viewname FROM pg_views WHERE schemaname = 'public' ORDER BY 1")
    assert [name for (name,) in found] == VIEWS


def test_every_view_and_every_column_says_what_it_is(archive_url):
    columns = ask(
        archive_url,
        """
        SELECT c.relname, a.attname, obj_description(c.oid, 'pg_class'), col_description(c.oid, a.attnum)
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relkind = 'v' AND c.relnamespace = 'public'::regnamespace
        """,
    )
    assert {view for view, *_ in columns} == set(VIEWS)
    silent = [(view, column) for view, column, about, comment in columns if not about or not comment]
    assert silent == []


@pytest.mark.parametrize("view", VIEWS)
def test_a_reader_can_read_every_view_of_a_filled_archive(reader_url, view):
    assert ask(reader_url, sql.SQL("SELECT * FROM {}").format(sql.Identifier(view)))


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO events (kind) VALUES ('forged')",
        "UPDATE nightly_runs SET digest = ''",
        "DELETE FROM nightly_runs",
        "SELECT * FROM restoration",
        "SELECT * FROM event",
        "SELECT * FROM alembic_version",
        "CREATE TABLE mine (a int)",
    ],
)
def test_a_reader_can_neither_write_nor_read_a_table(reader_url, statement):
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        ask(reader_url, statement)


def test_a_reader_has_the_right_to_select_from_the_views_and_no_other_right(reader_url):
    rights = ask(
        reader_url,
        """
        SELECT c.relname, p.name FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE',
            'REFERENCES', 'TRIGGER']) AS p (name)
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v') AND has_table_privilege(c.oid, p.name)
        ORDER BY 1
        """,
    )
    assert rights == [(view, "SELECT") for view in VIEWS]


def test_a_restoration_is_traced_from_its_master_to_its_derivative(archive_url):
    found = ask(
        archive_url,
        """
        SELECT bits, width, other_keys, r.state, stages_done, stages_skipped, models, attempts, r.seconds,
               cleaned_key, length(cleaned_sha256), scores ->> 'cleaned.psnr.fidelity', n.flow_run_id,
               damage_coverage = (scores ->> 'cleaned.damage_coverage.before')::float8
        FROM restorations r JOIN nightly_runs n USING (nightly_run_id) WHERE key = 'album-3/portrait.tif'
        """,
    )
    ((*values, cleaned_key, length, psnr, night, same),) = [(*row[:9], *row[9:]) for row in found]
    assert values == [
        16, 4000, ["copies/portrait.tif"], "restored", ["detect", "inpaint"], None,
        ["classical-1", "opencv-telea"], 1, 2.0,
    ]  # fmt: skip
    assert cleaned_key.startswith("restored/masters/album-3/portrait.tif/")
    assert (length, psnr, night, same) == (64, "Infinity", "night-1", True)


def test_the_stages_tell_every_attempt_and_which_was_the_last(archive_url):
    found = ask(
        archive_url,
        "SELECT attempt, last_attempt, stage, outcome FROM stage_runs WHERE key = 'glass/0003.tif' ORDER BY 1, 3",
    )
    assert found == [
        (1, False, "detect", "done"),
        (1, False, "inpaint", "failed"),
        (2, True, "detect", "done"),
        (2, True, "inpaint", "failed"),
    ]


def test_a_night_has_its_counts_and_its_length(archive_url):
    found = ask(
        archive_url, "SELECT state, planned, failed, left_over, digest, seconds >= 0 FROM nightly_runs ORDER BY 1, 2"
    )
    assert found == [
        ("completed_with_failures", 2, 1, 0, "# Still one failed", True),
        ("completed_with_failures", 8, 1, 0, "# One failed", True),
    ]


def test_a_released_object_is_still_told_of_but_not_active(archive_url):
    found = ask(archive_url, "SELECT key, active, released_by FROM quarantine ORDER BY 1")
    assert found == [("glass/broken.tif", True, None), ("glass/mended.tif", False, "Ada")]


def test_a_model_counts_the_restorations_it_worked_on_once_each(archive_url):
    found = ask(
        archive_url,
        "SELECT model_id, licence, restorations, skipped, failed, seconds FROM model_usage ORDER BY model_id, licence",
    )
    assert found == [
        ("classical-1", "Apache-2.0", 5, 0, 0, 9.0),
        ("opencv-telea", "Apache-2.0", 3, 1, 0, 2.0),
        ("opencv-telea", None, 0, 0, 1, 0.0),
    ]


def test_every_face_is_told_of_with_where_it_is_and_what_was_done(archive_url):
    found = ask(
        archive_url,
        "SELECT number, outcome, reason, box_right, landmarks -> 1 ->> 0, worked_px, identity_distance, model_id,"
        " length(weights_sha256), last_attempt FROM faces WHERE key = 'album-3/portrait.tif' ORDER BY number",
    )
    assert found == [
        (1, "left alone", "too small", 25.0, "150.0", None, None, None, None, True),
        (2, "reverted", "landmarks moved", 170.0, "150.0", 128, 0.125, "face-1", 64, True),
    ]
