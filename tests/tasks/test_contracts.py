"""The words: errors that travel, ids that repeat, courses that remember."""

from __future__ import annotations

import pickle

import pytest

from tasks.contracts import (
    BadScan,
    Course,
    GroupFailed,
    Outcome,
    StageResult,
    canonical_json,
    restoration_id,
)
from tasks.recipe import RECIPES, DetectConfig, InpaintConfig, RecipeName, RestorationRecipe


def test_a_message_names_scan_expected_and_found() -> None:
    error = BadScan("a/b.tif", expected="an image", found="text")
    assert str(error) == "a/b.tif: expected an image, found text"


def test_a_failed_group_keeps_its_results_through_pickle() -> None:
    results = [StageResult(stage="detect", scan="a", outcome=Outcome.FAILED, reason="dark")]
    again = pickle.loads(pickle.dumps(GroupFailed("detect", results)))
    assert again.results == results


def test_every_error_survives_pickle() -> None:
    again = pickle.loads(pickle.dumps(BadScan("a", expected="b", found="c")))
    assert (again.scan, again.expected, again.found) == ("a", "b", "c")


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical_json({"b": 1, "a": [1, 2]}) == canonical_json({"a": [1, 2], "b": 1}) == b'{"a":[1,2],"b":1}'


@pytest.mark.parametrize("changed", ["master", "recipe", "weights", "code"])
def test_a_restoration_id_changes_with_everything_that_decides_pixels(changed: str) -> None:
    def made(which: str) -> str:
        return restoration_id(
            "m2" if which == "master" else "m1",
            "r2" if which == "recipe" else "r1",
            ["w2"] if which == "weights" else ["w1"],
            {"detect": "c2" if which == "code" else "c1"},
        )

    assert made("nothing") == made("nothing")
    assert made(changed) != made("nothing")
    assert len(made(changed)) == 16


def test_a_recipe_digest_changes_with_a_setting_and_with_the_order_of_stages() -> None:
    telea = RestorationRecipe(name="r", stages=(DetectConfig(), InpaintConfig()))
    other = RestorationRecipe(name="r", stages=(DetectConfig(), InpaintConfig(model="navier_stokes")))
    turned = RestorationRecipe(name="r", stages=(InpaintConfig(), DetectConfig()))
    assert len({telea.digest(), other.digest(), turned.digest()}) == 3
    assert telea.digest() == RestorationRecipe.model_validate_json(telea.model_dump_json()).digest()


def test_every_recipe_name_has_a_recipe_that_detects_before_it_fills() -> None:
    for name in RecipeName:
        stages = [config.stage for config in RECIPES[name].stages]
        assert RECIPES[name].name == name.value
        assert stages.index("detect") < stages.index("inpaint")


def test_a_recipe_refuses_an_unknown_setting() -> None:
    with pytest.raises(ValueError, match="radius"):
        InpaintConfig.model_validate({"stage": "inpaint", "radius": 3})


def test_a_course_remembers_the_last_plate_of_a_scan_that_failed_later() -> None:
    first = StageResult(stage="ingest", scan="a", outcome=Outcome.DONE)
    course = Course(scan="a", results=(first,)).then(StageResult(stage="x", scan="a", outcome=Outcome.FAILED))
    assert course.plate is None
    assert [r.stage for r in course.results] == ["ingest", "x"]
