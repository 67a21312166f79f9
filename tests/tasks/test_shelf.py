"""The shelf: what the allow-list permits, and what settings register."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models.registry import CARDS, ModelCard, UnknownModel
from tasks.contracts import Refused
from tasks.shelf import Shelf

CARD = ModelCard("lighter", "enhance", "sum", licence="MIT", data_terms="free")
OTHER = replace(CARD, id="other", data_terms="research-only")
STRICT = Shelf(cards=(CARD, OTHER), data_terms=frozenset({"free"}))


def test_the_allow_list_refuses_by_licence_and_by_training_data() -> None:
    assert STRICT.card("lighter") is CARD
    with pytest.raises(Refused, match=r"other.*research-only"):
        STRICT.card("other")
    assert STRICT.first("enhance") is CARD
    assert replace(STRICT, licences=frozenset({"Apache-2.0"})).first("enhance") is None


def test_a_card_is_given_only_for_what_it_is_for() -> None:
    assert STRICT.card_for("enhance", "lighter") is CARD
    with pytest.raises(Refused, match=r"lighter: expected a model for inpaint, found one for enhance"):
        STRICT.card_for("inpaint", "lighter")
    with pytest.raises(Refused, match=r"x9: expected a model for enhance, found .*lighter, other"):
        STRICT.card_for("enhance", "x9")
    with pytest.raises(Refused, match=r"other.*research-only"):
        STRICT.card_for("enhance", "other")
    with pytest.raises(UnknownModel):
        STRICT.card("x9")


def test_what_settings_register_is_told_from_what_is_ours_permitted_or_not() -> None:
    assert STRICT.registered("enhance") is CARD
    assert replace(STRICT, cards=(OTHER, *CARDS)).registered("enhance") is OTHER, "asked for, though refused"
    assert Shelf().registered("enhance") is None
    assert Shelf().registered("inpaint") is None
