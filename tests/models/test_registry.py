from __future__ import annotations

import re
from dataclasses import replace

import pytest

from models.network import ARCHES
from models.registry import CARDS, ModelCard, UnknownModel, WeightFile, card


def test_ids_are_unique_and_found_again():
    assert len({c.id for c in CARDS}) == len(CARDS)
    assert all(card(c.id) is c for c in CARDS)


def test_an_unknown_id_lists_the_known_ones():
    with pytest.raises(UnknownModel, match=r"'x9'.*classical.*opencv-telea.*realesrgan-x4plus.*span-x4"):
        card("x9")


@pytest.mark.parametrize("c", CARDS, ids=lambda c: c.id)
def test_every_card_says_its_licence_and_pins_its_files(c: ModelCard):
    assert c.licence and c.note
    assert c.data_terms in ("free", "research-only", "unknown")
    for file in c.files:
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert file.size_bytes > 0
        assert re.fullmatch(r"(bundled:|https://|s3://|file:).+|pypi:[\w.-]+==[\w.]+#.+", file.source)
    assert not c.files or c.trained_on, "a card with weights says what they were trained on"


def test_every_enhancer_can_be_built_and_enlarges_as_its_card_says():
    for c in CARDS:
        if c.purpose == "enhance":
            assert ARCHES[c.arch].build().scale == c.scale


def test_a_card_without_files_has_no_sha256_and_one_with_several_a_joint_one():
    first, second = (WeightFile(f"file:/x/{n}.bin", n * 64, 1) for n in "ab")
    none = card("classical")
    assert none.sha256 is None and none.source == ""
    assert replace(none, files=(first,)).sha256 == "a" * 64
    joint = replace(none, files=(first, second)).sha256
    assert joint is not None and joint not in ("a" * 64, "b" * 64)
    assert joint != replace(none, files=(second, first)).sha256


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("pypi:a==1#p/q/w.bin", "w.bin"),
        ("https://example.org/x/w.pth", "w.pth"),
        ("s3://bucket/deep/w.pth", "w.pth"),
        ("bundled:w.safetensors", "w.safetensors"),
        ("file:/x/w.pth", "w.pth"),
        ("file:w.pth", "w.pth"),
    ],
)
def test_a_file_has_the_name_it_has_at_its_source(source: str, name: str):
    assert WeightFile(source, "", 0).name == name
