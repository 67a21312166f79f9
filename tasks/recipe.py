"""Recipes: which stages a restoration runs, in which order, with which settings."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from tasks.contracts import Frozen, sha256_of


class DetectConfig(Frozen):
    """Plate -> damage mask."""

    stage: Literal["detect"] = "detect"
    model: Literal["combined", "classical", "glassplate-detect-1"] = Field(
        default="combined",
        description="What finds the damage: the classical detector, the network, or both together; docs/quality.md "
        "compares them.",
    )
    protect: tuple[tuple[int, int, int, int], ...] = Field(
        default=(),
        description="Rectangles (left, top, width, height) in pixels, stored orientation, where nothing is marked: "
        "captions, stamps, rulers, colour targets.",
    )
    spare_faces: bool = Field(
        default=True,
        description="Take back short marks on faces that may be eyes, nostrils or lips; creases across stay marked.",
    )


class InpaintConfig(Frozen):
    """Plate + mask -> cleaned plate."""

    stage: Literal["inpaint"] = "inpaint"
    model: str = Field(
        default="auto",
        description="`telea` (2004) or `navier_stokes` (Bertalmio 2001) of OpenCV, the id of a model registered in "
        "settings, or `auto`: the one registered there, else Telea.",
    )


class EnhanceConfig(Frozen):
    """Cleaned plate -> enhanced plate (GAN 1)."""

    stage: Literal["enhance"] = "enhance"
    model: str = Field(
        default="auto",
        description="A model's id, or `auto`: one registered in settings, else ours at the scan's own size; to "
        "enlarge, SPAN on a CPU and Real-ESRGAN on a GPU.",
    )
    scale: Literal[1, 2, 4] = Field(default=1, description="Side of the enhanced derivative / side of the master.")
    tone: Literal["keep", "restore"] = Field(
        default="restore",
        description="Whether our network undoes fading, haze, yellowing and cast, or keeps the tone the print has now.",
    )
    strength: float | None = Field(
        default=None,
        ge=0.0,
        le=1.0,
        description="Of our network: from fidelity (0, the default) to texture drawn by the GAN (1). Of others: how "
        "much of their change is applied, by default all.",
    )


class FacesConfig(Frozen):
    """Faces found on the cleaned plate and restored in the enhanced one (GAN 2)."""

    stage: Literal["faces"] = "faces"
    model: str = Field(
        default="auto",
        description="A face model's id, `auto`: one registered in settings, else ours; or `none`: faces are counted.",
    )
    fidelity: float = Field(
        default=0.5,
        ge=0.0,
        le=1.0,
        description="1: the most faithful face the network can give; 0: with all the detail it draws.",
    )
    embedding_limit: float = Field(
        default=0.637,
        gt=0.0,
        le=2.0,
        description="Where a model for face_identity is registered: the largest cosine distance between two pictures "
        "of one person; 0.637 is that of OpenCV's SFace.",
    )
    smallest_px: int = Field(default=32, ge=8, description="Faces lower than this many pixels are left alone.")
    min_score: float = Field(default=0.5, gt=0.0, le=1.0, description="How sure the detector must be of a face.")


class ColorizeConfig(Frozen):
    """Plate without colour -> colorized plate (GAN 3)."""

    stage: Literal["colorize"] = "colorize"
    model: str = Field(default="auto", description="A model's id, or `auto`: one registered in settings, else ours.")
    saturation: float = Field(default=1.0, ge=0.0, le=2.0, description="How much of the guessed chroma is laid.")
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**32,
        description="0: the likeliest colours; another number: another interpretation, the same for the same number.",
    )
    ask_colour: bool = Field(default=False, description="Colour even what is in colour already, or may be.")


class ScoreConfig(Frozen):
    """What is measured of every derivative. No stage of a recipe: it follows all of them and changes no pixel."""

    stage: Literal["score"] = "score"


StageConfig = Annotated[
    DetectConfig | InpaintConfig | EnhanceConfig | FacesConfig | ColorizeConfig, Field(discriminator="stage")
]


class RecipeName(StrEnum):
    """The recipes a person can choose."""

    ARCHIVAL = "archival"
    ENHANCED = "enhanced"
    FULL = "full"


class RestorationRecipe(Frozen):
    """A name and an ordered list of stage settings; what was done to a photograph is this value."""

    name: str
    stages: tuple[StageConfig, ...]

    def digest(self) -> str:
        """sha256 of the canonical JSON, name included; a changed setting is another recipe and another restoration."""
        return sha256_of(self.model_dump(mode="json"))


ARCHIVAL = RestorationRecipe(name="archival", stages=(DetectConfig(), InpaintConfig()))
ENHANCED = RestorationRecipe(name="enhanced", stages=(*ARCHIVAL.stages, EnhanceConfig()))
FULL = RestorationRecipe(name="full", stages=(*ENHANCED.stages, FacesConfig(), ColorizeConfig()))

RECIPES: dict[RecipeName, RestorationRecipe] = {
    RecipeName.ARCHIVAL: ARCHIVAL,  # damage mended, every other pixel untouched: the nightly default
    RecipeName.ENHANCED: ENHANCED,  # + a derivative with blur, noise and grain taken away by a GAN
    RecipeName.FULL: FULL,  # + faces and colour, where models for them are registered; the demo's default
}
