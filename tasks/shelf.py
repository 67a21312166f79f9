"""The shelf: which models a run may use, where their files are kept, on which device they run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.registry import CARDS, ModelCard, Purpose, UnknownModel
from models.registry import card as card_of
from tasks.contracts import Refused


@dataclass(frozen=True)
class Shelf:
    """The models a run may use: their cards, where their files are kept, on which device they run.

    ``cards``: those that settings register come first. ``licences`` and ``data_terms`` are the allow-list: a model
    whose own are not among them is refused.
    """

    cards: tuple[ModelCard, ...] = CARDS
    weights_dir: Path = Path("~/.glassplate/weights")
    device: str = "auto"
    licences: frozenset[str] | None = None  # None: every licence
    data_terms: frozenset[str] = frozenset({"free", "research-only", "unknown"})

    def card(self, model_id: str) -> ModelCard:
        """The card of that id; raises Refused when the allow-list does not permit it, UnknownModel when none has it."""
        return self.permitted(card_of(model_id, self.cards))

    def card_for(self, purpose: Purpose, model_id: str) -> ModelCard:
        """The card of that id; raises Refused when there is none, when it is for something else or not permitted."""
        try:
            found = card_of(model_id, self.cards)
        except UnknownModel as error:
            raise Refused(model_id, expected=f"a model for {purpose}", found=str(error)) from error
        if found.purpose != purpose:
            raise Refused(model_id, expected=f"a model for {purpose}", found=f"one for {found.purpose}")
        return self.permitted(found)

    def permitted(self, card: ModelCard) -> ModelCard:
        """``card``; raises Refused when the allow-list does not permit it."""
        if (why := self.refusal(card)) is not None:
            raise Refused(card.id, expected="a permitted model", found=why)
        return card

    def registered(self, purpose: Purpose) -> ModelCard | None:
        """The first model for ``purpose`` that settings register, permitted or not, or None."""
        ours = {card.id for card in CARDS}
        return next((c for c in self.cards if c.purpose == purpose and c.id not in ours), None)

    def first(self, purpose: Purpose) -> ModelCard | None:
        """The first permitted model for ``purpose``, or None."""
        return next((c for c in self.cards if c.purpose == purpose and self.refusal(c) is None), None)

    def refusal(self, card: ModelCard) -> str | None:
        """Why the allow-list refuses a model, or None."""
        if self.licences is not None and card.licence not in self.licences:
            return f"licence {card.licence}, permitted are {', '.join(sorted(self.licences))}"
        if card.data_terms not in self.data_terms:
            return f"training data {card.data_terms}, permitted is {', '.join(sorted(self.data_terms))}"
        return None
