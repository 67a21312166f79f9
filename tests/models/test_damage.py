"""The simulator: pure, seeded, exact where it says a pixel is sound, and able to draw every kind and decoy."""

from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.damage import CLEAN_HARD_NEGATIVES, DECOYS, DETECT, KINDS, SEVERE, Effect, Stamps, load_stamps, simulate
from models.damage.decoys import draw_decoy
from models.damage.recipe import DamageRecipe

NONE = Effect(0.0, 0.0, 0.0)
MARKS_ONLY = replace(
    DETECT, clean_share=0.0, decoy_share=0.0, **{f.name: NONE for f in fields(DETECT) if f.type == "Effect"}
)


def picture(channels: int, seed: int = 0, size: tuple[int, int] = (160, 200)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0.2, 0.8, (9, 11, channels)).astype(np.float32)
    large = cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    return np.clip(large.reshape(*size, channels), 0, 1)


def only(kind: str, recipe: DamageRecipe = MARKS_ONLY) -> DamageRecipe:
    marks = {name: replace(getattr(recipe, name), chance=float(name == kind)) for name in KINDS[1:]}
    return replace(recipe, **marks)


@pytest.fixture(scope="module")
def stamps(tmp_path_factory: pytest.TempPathFactory) -> Stamps:
    folder = tmp_path_factory.mktemp("damage")
    rng = np.random.default_rng(1)
    for name in ("dirt", "dots", "hair", "hair-short", "lint", "scratches", "smut", "spots", "sprinkles", "stain"):
        (folder / "stamps" / name).mkdir(parents=True)
        for k in range(2):
            alpha = np.zeros((120, 120), np.uint8)
            ends = rng.integers(20, 100, 4)
            cv2.line(alpha, (int(ends[0]), int(ends[1])), (int(ends[2]), int(ends[3])), 255, 4, cv2.LINE_AA)
            cv2.imwrite(str(folder / "stamps" / name / f"{name}-{k}.png"), alpha)
    (folder / "film_masks").mkdir()
    classes = np.zeros((200, 300), np.uint8)
    classes[20:24, 30:33] = 1
    cv2.line(classes, (50, 50), (50, 120), 3, 2)
    cv2.imwrite(str(folder / "film_masks" / "Scan1_class.png"), classes)
    return load_stamps(folder)


@pytest.mark.parametrize("recipe", [DETECT, SEVERE, CLEAN_HARD_NEGATIVES], ids=lambda r: r.name)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_seed_gives_the_same_pixels_and_the_input_stays_as_it_was(
    recipe: DamageRecipe, channels: int, stamps: Stamps
) -> None:
    for seed in range(12):
        given = picture(channels, seed)
        before = given.copy()
        one = simulate(given, np.random.default_rng(seed), recipe, stamps)
        two = simulate(given, np.random.default_rng(seed), recipe, stamps)
        assert np.array_equal(given, before)
        for a, b in ((one.clean, two.clean), (one.damaged, two.damaged), (one.mask, two.mask), (one.kinds, two.kinds)):
            assert np.array_equal(a, b)
        assert one.clean.shape == one.damaged.shape == given.shape
        assert one.clean.dtype == one.damaged.dtype == one.mask.dtype == np.float32
        assert one.mask.shape == one.kinds.shape == given.shape[:2]
        for plane in (one.clean, one.damaged, one.mask):
            assert np.isfinite(plane).all()
            assert plane.min() >= 0
            assert plane.max() <= 1


@pytest.mark.parametrize("kind", KINDS[1:])
def test_every_kind_can_be_drawn_and_only_masked_pixels_change(kind: str, stamps: Stamps) -> None:
    covered = 0.0
    for seed in range(12):
        given = picture(1 + 2 * (seed % 2), seed)
        made = simulate(given, np.random.default_rng(seed), only(kind), stamps if seed % 3 else None)
        assert {m["kind"] for m in made.parameters["marks"]} <= {kind}
        assert set(np.unique(made.kinds)) <= {0, KINDS.index(kind)}
        change = np.abs(made.damaged - made.clean).max(2)
        assert change[made.mask == 0].max(initial=0) < 1e-4  # far below one level
        covered += float((made.mask > 0.3).mean())
        assert made.mask.mean() < 0.7
    assert covered > 0


def test_the_mask_is_high_where_the_change_is_plain() -> None:
    for seed in range(20):
        made = simulate(picture(1, seed), np.random.default_rng(seed), only("scratch"), None)
        change = np.abs(made.damaged - made.clean).max(2)
        assert made.mask[change > 0.1].min(initial=1.0) > 0.1


def test_hard_negatives_change_the_clean_picture_and_leave_the_mask_empty(stamps: Stamps) -> None:
    changed = 0
    for seed in range(20):
        given = picture(3, seed)
        made = simulate(given, np.random.default_rng(seed), CLEAN_HARD_NEGATIVES, stamps)
        assert not made.mask.any()
        assert not made.kinds.any()
        assert made.parameters["marks"] == []
        assert made.parameters["decoys"]
        changed += not np.array_equal(made.clean, given)
    assert changed >= 18


@pytest.mark.parametrize("name", DECOYS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_decoy_shows_in_pictures_of_any_shape(name: str, channels: int) -> None:
    seen = 0
    for seed, size in enumerate([(64, 64), (160, 200), (301, 97), (128, 256)]):
        given = picture(channels, seed, size)
        drawn = given.copy()
        draw_decoy(name, drawn, np.random.default_rng(seed))
        assert np.isfinite(drawn).all()
        seen += int((np.abs(drawn - given).max(2) > 0.05).sum() > 15)
    assert seen >= 3


def test_about_the_recipes_share_of_pictures_stays_without_marks() -> None:
    given = picture(1, 0, (64, 64))
    clean = sum(not simulate(given, np.random.default_rng(s), DETECT, None).parameters["marks"] for s in range(300))
    assert 110 < clean < 190


def test_film_masks_give_shapes_and_statistics(stamps: Stamps) -> None:
    assert len(stamps.film["dust"]) == 1
    assert stamps.statistics["long_hair"].length_px[1] == pytest.approx(72, abs=6)
    assert stamps.statistics["dust"].per_megapixel == pytest.approx(1 / 0.06, rel=0.01)


def test_a_folder_without_stamps_and_a_wrong_shape_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected stamps"):
        load_stamps(tmp_path)
    with pytest.raises(ValueError, match=r"expected \(H, W, 1 or 3\)"):
        simulate(np.zeros((64, 64), np.float32), np.random.default_rng(0), DETECT, None)
