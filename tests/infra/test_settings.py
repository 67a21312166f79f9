"""Settings are read from variables, completed from a running stack, and passed on to child processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from infra import settings
from infra.settings import STACK_FILE, Settings

OWN = {
    "database_url": "postgresql+psycopg2://postgres:secret@127.0.0.1:5433/glassplate",
    "s3_endpoint_url": "http://127.0.0.1:8333",
    "s3_access_key_id": "key",
    "s3_secret_access_key": "secret",
    "prefect_api_url": "http://127.0.0.1:4200/api",
}


@pytest.fixture
def stack_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLASSPLATE_DATA_DIR", str(tmp_path))
    (tmp_path / STACK_FILE).write_text(json.dumps({"settings": OWN}))
    return tmp_path


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_a_setting_says_what_it_is(name: str) -> None:
    description = Settings.model_fields[name].description
    assert description
    assert description.endswith(".")


def test_a_setting_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLASSPLATE_MASTERS_PREFIX", "boxes/")
    monkeypatch.setenv("GLASSPLATE_IGNORE_PATTERNS", '["*_verso*"]')
    monkeypatch.setenv("GLASSPLATE_S3_CHECKSUMS", "false")
    found = Settings()
    assert found.masters_prefix == "boxes/"
    assert found.ignore_patterns == ["*_verso*"]
    assert found.s3_checksums is False


@pytest.mark.parametrize(
    ("name", "value"),
    [("TIMEZONE", "Europe/Atlantis"), ("GPU_SLOTS", "0"), ("MAX_MEGAPIXELS", "-1"), ("WORK_POOL_SLOTS", "1")],
)
def test_a_value_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"GLASSPLATE_{name}", value)
    with pytest.raises((ValidationError, KeyError), match=name.lower() if name != "TIMEZONE" else "Atlantis"):
        Settings()


def test_the_data_folder_is_absolute_and_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings().data_dir == tmp_path / ".glassplate"
    monkeypatch.chdir(tmp_path)
    assert Settings(data_dir=Path("here")).data_dir == tmp_path / "here"


def test_secrets_do_not_show() -> None:
    found = Settings(database_url=SecretStr("postgresql://u:hidden@h/d"), s3_secret_access_key=SecretStr("hidden"))
    assert "hidden" not in repr(found)


def test_what_is_unset_is_embedded() -> None:
    assert Settings().embedded == {"postgres", "s3", "prefect"}
    assert Settings(s3_endpoint_url="aws").embedded == {"postgres", "prefect"}


def test_a_running_stack_completes_what_is_unset(stack_is_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings.load()
    assert found.embedded == frozenset()
    assert found.data_dir == stack_is_up
    assert found.database_url is not None
    assert found.database_url.get_secret_value() == OWN["database_url"]
    assert (found.s3_endpoint_url, found.prefect_api_url) == (OWN["s3_endpoint_url"], OWN["prefect_api_url"])


def test_what_is_set_is_stronger_than_a_running_stack(stack_is_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLASSPLATE_PREFECT_API_URL", "https://prefect.example.org/api")
    monkeypatch.setenv("GLASSPLATE_DATABASE_URL", "postgresql+psycopg2://db.example.org/glassplate")
    found = settings.load()
    assert found.prefect_api_url == "https://prefect.example.org/api"
    assert found.database_url == SecretStr("postgresql+psycopg2://db.example.org/glassplate")
    assert found.s3_endpoint_url == OWN["s3_endpoint_url"]


def test_keys_of_a_running_stack_are_not_sent_to_another_store(
    stack_is_up: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLASSPLATE_S3_ENDPOINT_URL", "aws")
    found = settings.load()
    assert (found.s3_endpoint_url, found.s3_access_key_id, found.s3_secret_access_key) == ("aws", None, None)


def test_keys_of_another_store_are_not_sent_to_the_embedded_one(
    stack_is_up: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLASSPLATE_S3_ACCESS_KEY_ID", "of another store")
    assert settings.load().s3_access_key_id == OWN["s3_access_key_id"]


def test_without_a_running_stack_nothing_is_completed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GLASSPLATE_DATA_DIR", str(tmp_path))
    assert settings.load().embedded == {"postgres", "s3", "prefect"}


def test_a_child_process_reads_the_same_values(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = Settings(
        data_dir=tmp_path,
        masters_prefix="box 1/",
        ignore_patterns=["*.tmp", "ä*"],
        max_megapixels=12.5,
        s3_checksums=False,
        s3_secret_access_key=SecretStr("s"),
    )
    for name, value in given.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == given
    assert given.environment()["GLASSPLATE_S3_SECRET_ACCESS_KEY"] == "s"
    assert "GLASSPLATE_TIMEZONE" not in given.environment()
