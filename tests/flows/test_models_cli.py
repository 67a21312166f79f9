"""``glassplate models``: what there is, under which terms, and whether the weights here are the pinned ones."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.cli import app

WEIGHTS = b"weights of a toy"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a registered model's weights."""
    path = tmp_path / "toy.pth"
    path.write_bytes(WEIGHTS)
    toy = {
        "id": "toy-face", "purpose": "face", "source": f"file:{path}", "sha256": hashlib.sha256(WEIGHTS).hexdigest(),
        "size_bytes": len(WEIGHTS), "licence": "CC-BY-NC-4.0", "data_terms": "unknown",
        "trained_on": "somebody's faces",
    }  # fmt: skip
    monkeypatch.setenv("GLASSPLATE_MODELS", json.dumps([toy]))
    monkeypatch.setenv("GLASSPLATE_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setenv("GLASSPLATE_ALLOWED_DATA_TERMS", '["free", "unknown"]')
    monkeypatch.setenv("COLUMNS", "200")
    return path


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["models", *words])


def test_the_list_names_terms_and_says_why_a_model_is_not_permitted(source: Path) -> None:
    result = run("list")
    assert result.exit_code == 0, result.output
    lines = {line.split("│")[1].strip(): line for line in result.output.splitlines() if line.startswith("│")}
    assert "CC-BY-NC-4.0" in lines["toy-face"]
    assert "here" in lines["toy-face"]
    assert "yes" in lines["toy-face"]
    assert "not fetched" in lines["span-x4"]
    assert "training data research-only" in lines["span-x4"]


def test_one_model_is_shown_with_source_and_sha256(source: Path) -> None:
    result = run("show", "toy-face")
    assert result.exit_code == 0, result.output
    for word in ("somebody's faces", str(source), hashlib.sha256(WEIGHTS).hexdigest(), "CC-BY-NC-4.0"):
        assert word in result.output
    unknown = run("show", "nothing")
    assert unknown.exit_code == 2
    assert "toy-face" in unknown.output, "the ids there are"


def test_fetch_verifies_and_an_altered_file_is_named_with_both_sha256(source: Path) -> None:
    assert run("fetch", "toy-face", "classical").exit_code == 0
    assert run("verify").exit_code == 0
    source.write_bytes(b"altered")
    for command in (("fetch", "toy-face"), ("verify",)):
        result = run(*command)
        assert result.exit_code == 1, command
        for word in (str(source), hashlib.sha256(WEIGHTS).hexdigest(), hashlib.sha256(b"altered").hexdigest()):
            assert word in result.output, command
    assert "span-x4: not fetched" in run("verify").output


def test_fetching_all_leaves_out_what_is_not_permitted(source: Path) -> None:
    result = run("fetch")
    assert result.exit_code == 0, result.output
    fetched = {line.split(":")[0] for line in result.output.splitlines()}
    assert "toy-face" in fetched
    assert not fetched & {"span-x4", "realesrgan-x4plus", "centerface"}, "research-only data is not permitted here"


def test_an_altered_copy_is_fetched_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks import fetch

    toy = json.loads(os.environ["GLASSPLATE_MODELS"])
    toy[0]["source"] = "https://example.org/toy.pth"
    monkeypatch.setenv("GLASSPLATE_MODELS", json.dumps(toy))
    monkeypatch.setattr(fetch, "_from_web", lambda url, to: to.write_bytes(WEIGHTS))
    kept = tmp_path / "weights" / "toy-face" / "toy.pth"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"half of it")
    assert run("verify").exit_code == 1
    assert run("fetch", "toy-face").exit_code == 0
    assert kept.read_bytes() == WEIGHTS
    assert run("verify").exit_code == 0
