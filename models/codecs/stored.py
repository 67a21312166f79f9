"""What every container gives: one file's facts, a way to its pixels, and two errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
Buffer: TypeAlias = bytes | mmap

DEPTHS = "8 or 16 bits a sample"
COLOURS = "gray or RGB"


class Broken(Exception):
    """The bytes contradict themselves or end too early: ``expected``, ``found``."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"expected {expected}, found {found}")
        self.expected, self.found = expected, found


class Foreign(Broken):
    """Sound bytes of a kind of picture that is not restored."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One image file, read up to its pixels; ``read`` decodes them to (H, W, 1|3) and the notes of doing so."""

    media_type: str
    width: int
    height: int
    channels: int
    bits: int
    read: Callable[[], tuple[Pixels, list[str]]]
    pages: int = 1
    refusal: Foreign | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    orientation: int = 1
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    description: str | None = None
    notes: tuple[str, ...] = ()


def drop_opaque(pixels: Pixels, notes: list[str]) -> Pixels:
    """``pixels`` (H, W, C) without their alpha channel; Foreign where the alpha says something."""
    colours = pixels.shape[2] - 1 + pixels.shape[2] % 2
    if colours == pixels.shape[2]:
        return pixels
    check_opaque(pixels[..., colours:])
    notes.append("opaque alpha dropped")
    return cast(Pixels, np.ascontiguousarray(pixels[..., :colours]))


def check_opaque(alpha: NDArray[Any]) -> None:
    """Raises Foreign unless every sample of ``alpha`` is at its maximum."""
    if int(alpha.min()) != np.iinfo(alpha.dtype).max:
        raise Foreign("no alpha channel, or an opaque one", "alpha that is not opaque")


def as_text(raw: bytes) -> str | None:
    """``raw`` as UTF-8, or else Latin-1; None where it is blank."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.strip() or None
