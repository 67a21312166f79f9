"""One embedded PostgreSQL and one embedded S3 for the whole test session, started when the first test asks."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

os.environ.update(  # before Prefect is imported: its test server, too, calls nobody
    PREFECT_SERVER_ANALYTICS_ENABLED="false", DO_NOT_TRACK="1", PREFECT_LOGGING_LEVEL="WARNING"
)

import psycopg2
import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.testing.utilities import prefect_test_harness
from psycopg2 import sql
from pydantic import SecretStr

from db.ledger import Ledger
from db.migrations import migrate
from infra import stack
from infra.settings import Settings
from infra.store import Store, open_store
from small_archive import Archive

for _name in [name for name in os.environ if name.startswith("GLASSPLATE_") and name != "GLASSPLATE_BENCH_DATA"]:
    del os.environ[_name]  # the tests make their own settings; a developer's must not decide them


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """A folder that PostgreSQL's user can enter even when the tests run as root (pytest's own are closed)."""
    folder = Path(tempfile.mkdtemp(prefix="glassplate-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def services(open_folder: Path) -> Iterator[Settings]:
    """Settings of a running embedded PostgreSQL and S3."""
    running = stack.start(Settings(data_dir=open_folder / "stack"), print, {"postgres", "s3"}, usual_ports=False)
    yield running.settings
    running.stop()


@pytest.fixture(scope="session")
def new_database(services: Settings) -> Callable[[], str]:
    """A function that creates an empty database and returns its SQLAlchemy URL (postgresql+psycopg2://…)."""
    assert services.database_url is not None
    server = services.database_url.get_secret_value().rpartition("/")[0]

    def create() -> str:
        name = f"test_{uuid4().hex[:12]}"
        connection = psycopg2.connect(f"{server.replace('+psycopg2', '')}/postgres")
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        finally:
            connection.close()
        return f"{server}/{name}"

    return create


@pytest.fixture(scope="session")
def postgres_url(new_database: Callable[[], str]) -> str:
    """One database for the whole session, empty at first."""
    return new_database()


@pytest.fixture
def fresh_database(new_database: Callable[[], str]) -> str:
    """An empty database for this test alone."""
    return new_database()


@pytest.fixture(scope="session")
def s3(services: Settings) -> Store:
    """A store on the embedded S3."""
    return open_store(services)


@pytest.fixture
def new_bucket(s3: Store) -> Iterator[Callable[[str], str]]:
    """A function that creates a bucket with this word in its name and returns the name; deleted after the test.

    Each bucket takes volumes of its own in the embedded store, and there is room for a limited number of them.
    """
    made: list[str] = []

    def create(word: str) -> str:
        made.append(f"{word}-{uuid4().hex[:12]}")
        s3.ensure_bucket(made[-1])
        return made[-1]

    yield create
    for name in made:
        for page in list(s3.pages(name, "")):
            for found in page:
                s3._client().delete_object(Bucket=name, Key=found.key)
        s3._client().delete_bucket(Bucket=name)


@pytest.fixture
def bucket(new_bucket: Callable[[str], str]) -> str:
    """An empty bucket for this test alone."""
    return new_bucket("test")


@pytest.fixture
def buckets(new_bucket: Callable[[str], str]) -> tuple[str, str]:
    """An empty masters bucket and an empty restored bucket for this test alone."""
    return new_bucket("masters"), new_bucket("restored")


@pytest.fixture
def archive(
    services: Settings,
    s3: Store,
    new_bucket: Callable[[str], str],
    new_database: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Archive]:
    """An empty archive; flows started by this test find it through ``GLASSPLATE_*`` variables."""
    url = new_database()
    migrate(url)
    settings = services.model_copy(
        update={
            "database_url": SecretStr(url),
            "masters_bucket": new_bucket("masters"),
            "restored_bucket": new_bucket("restored"),
            "data_dir": tmp_path,
        }
    )
    for name in ("database_url", "s3_endpoint_url", "s3_access_key_id", "s3_secret_access_key", "masters_bucket",
                 "restored_bucket", "data_dir"):  # fmt: skip
        value = getattr(settings, name)
        monkeypatch.setenv(
            f"GLASSPLATE_{name.upper()}", value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        )
    ledger = Ledger(url)
    yield Archive(settings, s3, ledger)
    ledger.close()


@pytest.fixture(scope="session")
def prefect() -> Iterator[None]:
    """A Prefect server of the test session's own; flows called by tests report to it."""
    with prefect_test_harness(server_startup_timeout=60):
        yield


@pytest.fixture(autouse=True)
def no_limit_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Takes the ``gpu`` limit away again: what tests kill would hold its slots on the shared server for ever."""
    yield
    if "prefect" in request.fixturenames:
        with get_client(sync_client=True) as client, suppress(ObjectNotFound):
            client.delete_global_concurrency_limit_by_name("tag:gpu")


@pytest.fixture(scope="session")
def scans() -> Path:
    """The small real scans that come with glassplate; see ``tests/data/SOURCES.md``."""
    return Path(__file__).parent / "data" / "scans"
