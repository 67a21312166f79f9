"""Gray, sepia, toned or in colour, decided on pictures whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from models.tint import Kind, decide

Picture = NDArray[np.uint8]


def gray(picture: Picture) -> Picture:
    luma = picture @ np.array([0.2126, 0.7152, 0.0722])
    return np.repeat(np.rint(luma)[:, :, None], 3, axis=2).astype(np.uint8)


def toned(picture: Picture, dark: tuple[int, int, int], light: tuple[int, int, int]) -> Picture:
    share = gray(picture)[:, :, :1] / 255
    return np.rint(np.array(dark) * (1 - share) + np.array(light) * share).astype(np.uint8)


SEPIA = ((40, 26, 14), (240, 226, 190))
CYANOTYPE = ((10, 30, 80), (225, 238, 245))


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_a_colour_photograph_is_told_from_its_gray_sepia_and_blue_prints(name: str) -> None:
    picture = getattr(data, name)()
    found = {
        "colour": decide(picture), "gray": decide(gray(picture)), "sepia": decide(toned(picture, *SEPIA)),
        "toned": decide(toned(picture, *CYANOTYPE)),
    }  # fmt: skip
    assert {word: tint.kind.value for word, tint in found.items()} == {word: word for word in found}
    for word in ("gray", "sepia", "toned"):
        assert found[word].confidence > 0.8, word


def test_grain_and_uneven_yellowing_leave_a_sepia_print_sepia() -> None:
    random = np.random.default_rng(3)
    print_ = toned(data.astronaut(), *SEPIA).astype(np.float32)
    print_ += random.normal(0, 8, print_.shape)
    yellowed = np.linspace(0, 12, print_.shape[1])[None, :, None] * np.array([0.2, 0.4, 1.0])
    found = decide(np.clip(print_ - yellowed, 0, 255).astype(np.uint8))
    assert found.kind is Kind.SEPIA
    assert found.confidence > 0.6


def test_a_faded_colour_slide_is_in_colour() -> None:
    faded = (data.astronaut() * 0.45 + np.array([110, 70, 60])).astype(np.uint8)
    assert decide(faded).kind is Kind.COLOUR


def test_one_tinted_dress_on_a_gray_print_is_colour() -> None:
    tinted = gray(data.astronaut()).astype(int)
    tinted[150:400, 100:350, 0] += 30
    assert decide(np.clip(tinted, 0, 255).astype(np.uint8)).kind is Kind.COLOUR


def test_a_coloured_mount_does_not_decide() -> None:
    mount = np.full((600, 600, 3), (150, 40, 40), np.uint8)
    mount[12:-12, 12:-12] = 120
    mount[20:532, 20:532] = gray(data.astronaut())
    assert decide(mount).kind is Kind.GRAY


def test_the_smallest_and_the_flattest_pictures_are_gray() -> None:
    assert decide(np.zeros((1, 1, 3), np.uint8)).kind is Kind.GRAY
    assert decide(np.full((300, 5, 3), 77, np.uint8)).kind is Kind.GRAY


def test_another_shape_or_depth_is_refused() -> None:
    for wrong in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.uint16)):
        with pytest.raises(ValueError, match="expected \\(h, w, 3\\) uint8"):
            decide(wrong)
