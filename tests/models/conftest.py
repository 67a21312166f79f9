from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from models.registry import card
from tasks.fetch import fetch


@pytest.fixture(scope="session")
def weights_of() -> Callable[[str], Path]:
    """A function that gives the verified weights of a card, fetched once per user; out of reach, the test fails."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "glassplate" / "weights"
    return lambda model_id: fetch(card(model_id), cache)[0]
