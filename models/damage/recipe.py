"""What may befall a picture: the kinds of damage, how often and how strong each comes, and the named recipes."""

from __future__ import annotations

from dataclasses import dataclass, replace

KINDS: tuple[str, ...] = (
    "none",
    "scratch",
    "hair",
    "dust",
    "dot",
    "crease",
    "tear",
    "corner",
    "stain",
    "emulsion",
    "fingerprint",
    "tape",
)
"""Names of the labels in ``Damaged.kinds``: a pixel's label is the index of its kind's name, 0 where nothing is."""

DECOYS: tuple[str, ...] = (
    "wires",
    "fence",
    "rigging",
    "strands",
    "grass",
    "print",
    "handwriting",
    "plate_number",
    "accession",
    "ruler",
    "target",
    "window",
    "rebate",
    "stamp",
)
"""Things that look like damage and are not: drawn into the clean picture, never in the mask."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How often a kind of damage comes, how many of it, how wide and how visible.

    ``chance`` is that of a marked picture to have this kind at all; ``count`` holds for 256 x 256 pixels and grows with
    the picture; ``width_px`` is the width of lines and the diameter of spots; ``contrast`` the change, in [0, 1], where
    the mark is whole; ``dark`` the share of marks darker than what they cover.
    """

    chance: float
    count: tuple[int, int]
    width_px: tuple[float, float]
    contrast: tuple[float, float]
    dark: float = 0.4


@dataclass(frozen=True, slots=True)
class Effect:
    """How often a degradation of the whole picture comes, and between which strengths it is drawn."""

    chance: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class DamageRecipe:
    """Everything ``simulate`` draws from: one field a kind of mark and one an effect.

    ``clean_share`` of the pictures get no marks at all (effects and decoys still come); ``decoy_share`` of all pictures
    get 1 or 2 of ``decoys``. The units of an effect's strength are said beside its field.
    """

    name: str
    clean_share: float
    decoy_share: float
    scratch: Mark
    hair: Mark
    dust: Mark
    dot: Mark
    crease: Mark
    tear: Mark
    corner: Mark
    stain: Mark
    emulsion: Mark
    fingerprint: Mark
    tape: Mark
    defocus: Effect  # sigma, px
    motion: Effect  # length, px
    haze: Effect  # share of veil where it is thickest
    glare: Effect  # added light at its centre
    vignette: Effect  # light lost in the corners
    fading: Effect  # share of contrast lost
    toning: Effect  # strength of the yellow or brown tone, colour pictures only
    grain: Effect  # standard deviation
    noise: Effect  # standard deviation
    halftone: Effect  # depth of the screen
    jpeg: Effect  # 100 - quality
    scanner: Effect  # sigma, px
    decoys: tuple[str, ...] = DECOYS


DETECT = DamageRecipe(
    name="detect",
    clean_share=0.5,
    decoy_share=0.45,
    scratch=Mark(0.6, (1, 5), (0.7, 6.0), (0.06, 0.6), 0.3),
    hair=Mark(0.25, (1, 3), (0.8, 3.5), (0.08, 0.6), 0.5),
    dust=Mark(0.4, (3, 25), (1.2, 7.0), (0.1, 0.7), 0.35),
    dot=Mark(0.3, (2, 15), (1.5, 9.0), (0.08, 0.7), 0.4),
    crease=Mark(0.25, (1, 2), (0.8, 6.0), (0.1, 0.6), 0.15),
    tear=Mark(0.1, (1, 1), (2.0, 9.0), (0.2, 0.7), 0.15),
    corner=Mark(0.07, (1, 1), (1.0, 5.0), (0.3, 0.9), 0.35),
    stain=Mark(0.15, (1, 2), (12.0, 90.0), (0.06, 0.4), 0.6),
    emulsion=Mark(0.2, (1, 2), (4.0, 45.0), (0.2, 0.8), 0.4),
    fingerprint=Mark(0.05, (1, 1), (1.0, 4.0), (0.05, 0.25), 0.5),
    tape=Mark(0.04, (1, 1), (14.0, 60.0), (0.06, 0.3), 0.5),
    defocus=Effect(0.35, 0.3, 1.6),
    motion=Effect(0.05, 2.0, 6.0),
    haze=Effect(0.08, 0.05, 0.3),
    glare=Effect(0.06, 0.05, 0.35),
    vignette=Effect(0.3, 0.05, 0.5),
    fading=Effect(0.5, 0.05, 0.5),
    toning=Effect(0.4, 0.2, 1.0),
    grain=Effect(0.6, 0.004, 0.05),
    noise=Effect(0.3, 0.002, 0.015),
    halftone=Effect(0.03, 0.1, 0.5),
    jpeg=Effect(0.5, 5.0, 45.0),
    scanner=Effect(0.6, 0.3, 0.9),
)
"""For the detector: every mark, the picture itself only mildly worn, half of the pictures without a mark."""

SEVERE = replace(
    DETECT,
    name="severe",
    clean_share=0.1,
    decoy_share=0.15,
    scratch=Mark(0.85, (2, 9), (0.7, 10.0), (0.1, 0.8), 0.25),
    dust=Mark(0.7, (5, 50), (1.2, 9.0), (0.15, 0.8), 0.35),
    crease=Mark(0.5, (1, 3), (1.0, 8.0), (0.15, 0.8), 0.1),
    tear=Mark(0.25, (1, 2), (2.0, 14.0), (0.3, 0.9), 0.1),
    stain=Mark(0.35, (1, 3), (15.0, 120.0), (0.1, 0.5), 0.6),
    emulsion=Mark(0.5, (1, 4), (5.0, 70.0), (0.2, 0.9), 0.4),
    defocus=Effect(0.6, 0.4, 2.5),
    motion=Effect(0.15, 2.0, 9.0),
    haze=Effect(0.25, 0.1, 0.55),
    glare=Effect(0.15, 0.1, 0.5),
    fading=Effect(0.8, 0.1, 0.7),
    grain=Effect(0.9, 0.02, 0.11),
    noise=Effect(0.7, 0.005, 0.05),
    halftone=Effect(0.08, 0.2, 0.7),
    jpeg=Effect(0.7, 15.0, 75.0),
)
"""For restoration: everything at once, as on the worst print in the box."""

CLEAN_HARD_NEGATIVES = replace(DETECT, name="clean-hard-negatives", clean_share=1.0, decoy_share=1.0)
"""No damage at all, and something that looks like it in every picture: what a detector must leave alone."""
