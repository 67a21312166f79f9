"""The demo shows what the recipe promises, or says before it begins what is missing."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from flows.demo import require_models
from models.registry import CARDS, ModelCard, WeightFile
from tasks.recipe import FULL, RECIPES, FacesConfig, RecipeName
from tasks.shelf import Shelf

COLOUR = tuple(card for card in CARDS if card.purpose == "colorize")


def shelf(cards: tuple[ModelCard, ...], folder: Path) -> Shelf:
    return Shelf(cards=cards, weights_dir=folder)


def face_card(path: Path, content: bytes = b"weights") -> ModelCard:
    file = WeightFile(f"file:{path}", hashlib.sha256(content).hexdigest(), len(content))
    return ModelCard("a-face", "face", "face", licence="MIT", data_terms="free", files=(file,))


def test_an_absent_face_model_is_said_before_anything_is_started(tmp_path: Path) -> None:
    others = tuple(card for card in CARDS if card.purpose != "face")
    with pytest.raises(FileNotFoundError, match=r"recipe full: expected the face model 'auto', found none"):
        require_models(FULL, shelf(others, tmp_path))
    require_models(RECIPES[RecipeName.ENHANCED], shelf(others, tmp_path))


def test_a_face_model_whose_file_is_gone_or_altered_is_said_too(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(FileNotFoundError, match=r"a-face.*w\.safetensors"):
        require_models(FULL, shelf((face_card(path), *COLOUR), tmp_path))
    path.write_bytes(b"altered")
    with pytest.raises(FileNotFoundError, match="sha256"):
        require_models(FULL, shelf((face_card(path), *COLOUR), tmp_path))
    path.write_bytes(b"weights")
    require_models(FULL, shelf((face_card(path), *COLOUR), tmp_path))


def test_the_installation_has_its_own_face_model(tmp_path: Path) -> None:
    require_models(FULL, shelf(CARDS, tmp_path))


def test_who_only_counts_faces_needs_no_model(tmp_path: Path) -> None:
    stages = tuple(FacesConfig(model="none") if s.stage == "faces" else s for s in FULL.stages)
    require_models(FULL.model_copy(update={"stages": stages}), shelf(COLOUR, tmp_path))
    fetched = replace(face_card(tmp_path / "x"), files=(WeightFile("https://example.org/x", "0" * 64, 1),))
    require_models(FULL, shelf((fetched, *COLOUR), tmp_path))


def test_an_absent_colour_model_is_said_as_well(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"weights")
    others = (face_card(path), *(card for card in CARDS if card.purpose != "colorize"))
    with pytest.raises(FileNotFoundError, match=r"recipe full: expected the colour model 'auto', found none"):
        require_models(FULL, shelf(others, tmp_path))
