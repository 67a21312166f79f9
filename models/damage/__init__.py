"""The damage simulator: what years, hands and scanners do to photographs, seeded, with the exact mask of every mark."""

from models.damage.recipe import CLEAN_HARD_NEGATIVES, DECOYS, DETECT, KINDS, SEVERE, DamageRecipe, Effect, Mark
from models.damage.simulate import Damaged, simulate
from models.damage.stamps import Stamps, load_stamps

__all__ = [
    "CLEAN_HARD_NEGATIVES",
    "DECOYS",
    "DETECT",
    "KINDS",
    "SEVERE",
    "DamageRecipe",
    "Damaged",
    "Effect",
    "Mark",
    "Stamps",
    "load_stamps",
    "simulate",
]
