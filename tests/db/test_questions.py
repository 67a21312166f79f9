import re
from pathlib import Path

import psycopg2
import pytest

README = Path(__file__).parents[2] / "README.md"
VIEWS = {path.stem for path in (README.parent / "db" / "views").glob("*.sql")}


def questions():
    """The ``sql`` blocks of the README's section, each under the sentence that asks."""
    words = README.read_text("utf-8") if README.is_file() else ""
    section = re.search(r"^## Ask in SQL$(.*?)(?=^## |\Z)", words, re.DOTALL | re.MULTILINE)
    if section is None:
        return []
    return re.findall(r"^([^\n`]+\?)\n+```sql\n(.*?)^```", section[1], re.DOTALL | re.MULTILINE)


def test_the_readme_answers_at_least_ten_questions():
    asked = [question for question, _ in questions()]
    assert len(set(asked)) >= 10


@pytest.mark.parametrize(("question", "query"), [pytest.param(*pair, id=pair[0]) for pair in questions()])
def test_a_reader_gets_rows_for_the_question_from_the_public_views(archive_url, question, query):
    connection = psycopg2.connect(archive_url.replace("+psycopg2", ""))
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET ROLE glassplate_reader")
            cursor.execute(query)
            assert cursor.fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize("view", sorted(VIEWS))
def test_every_public_view_is_named_in_the_readme_section(view):
    assert any(re.search(rf"\b{view}\b", query) for _, query in questions())
