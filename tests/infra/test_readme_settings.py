"""README documents every setting, with its default and the words of its description."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.settings import Settings

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
ROW = re.compile(r"^\| `(GLASSPLATE_\w+)` \| (.*?) \| (.*) \|$", re.MULTILINE)
ROWS = {name: (default, text) for name, default, text in ROW.findall(README)}


def shown(default: object) -> str:
    if default is None or isinstance(default, SecretStr):
        return ""
    if isinstance(default, list):
        return "`" + str(default).replace("'", '"') + "`"
    return f"`{default}`" if str(default) else ""


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_a_setting_stands_in_the_readme_with_its_default_and_meaning(name: str) -> None:
    field = Settings.model_fields[name]
    default, text = ROWS[f"GLASSPLATE_{name.upper()}"]
    assert field.description
    assert text.replace("\\|", "|") == field.description
    assert default == shown(field.default)


def test_the_readme_names_no_setting_that_does_not_exist() -> None:
    assert {name.removeprefix("GLASSPLATE_").lower() for name in ROWS} == set(Settings.model_fields)
