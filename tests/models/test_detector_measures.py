"""Measures by counts, the comparison of detectors and who replaces whom."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from models.training import evaluate
from models.training.contest import Contender, Cost, Examined, Frozen, on_frozen
from models.training.evaluate import tables, wins
from models.training.frozen import FrozenMark, FrozenPicture
from models.training.measures import Counts, Scores, count, mask_measures


def test_auc_is_the_chance_that_damage_scores_above_sound_with_ties_half() -> None:
    rng = np.random.default_rng(1)
    damaged, sound = np.round(rng.random(200), 2), np.round(rng.random(300) ** 2, 2)
    scored = Scores()
    mask = np.r_[np.ones(200), np.zeros(300)].astype(np.float32)[None]
    scored.add(np.r_[damaged, sound].astype(np.float32)[None], mask)
    pairs = damaged[:, None] - sound[None]
    assert scored.roc_auc() == pytest.approx(np.mean(pairs > 0) + np.mean(pairs == 0) / 2, abs=0.003)


def test_average_precision_of_a_perfect_and_of_a_blind_detector() -> None:
    mask = (np.arange(1000) % 10 == 0).astype(np.float32)[None]
    perfect, blind = Scores(), Scores()
    perfect.add(mask, mask)
    blind.add(np.full_like(mask, 0.3), mask)
    assert perfect.average_precision() == pytest.approx(1)
    assert blind.average_precision() == pytest.approx(0.1)
    assert perfect.best()[0] == pytest.approx(1)
    assert blind.roc_auc() == pytest.approx(0.5)


def test_soft_edges_are_counted_neither_way() -> None:
    mask = np.array([[0.0, 0.05, 0.15, 0.24, 0.25, 1.0]], np.float32)
    assert count(np.ones((1, 6), bool), mask) == Counts(hits=2, false=2, missed=0, rejected=0)


def test_the_threshold_for_a_share_of_sound_pixels_marks_no_more_than_that() -> None:
    rng = np.random.default_rng(2)
    scored = Scores()
    scored.add(rng.random((100, 100), np.float32), np.zeros((100, 100), np.float32))
    threshold = scored.threshold_for(0.01)
    assert 0.005 < scored.at(threshold).marked_share <= 0.01


def test_the_clean_share_is_of_the_samples_without_damage() -> None:
    logit = np.full((1, 8, 8), -9, np.float32)
    logit[0, 0, 0] = 9
    damaged = np.zeros((1, 8, 8), np.float32)
    damaged[0, 0, 0] = 1
    marked, clean = ({"target": mask, "seen": mask} for mask in (damaged, np.zeros_like(damaged)))
    wrong = mask_measures([(logit, marked), (logit, clean)])
    assert wrong["clean_share"] == pytest.approx(1 / 64)
    assert mask_measures([(logit, marked)])["f1"] == pytest.approx(1)


def test_damage_that_nobody_could_see_does_not_count() -> None:
    logit = np.full((1, 8, 8), -9, np.float32)
    logit[0, 0, 0] = 9
    damaged = np.zeros((1, 8, 8), np.float32)
    damaged[0, 0, :2] = 1
    seen = damaged.copy()
    assert mask_measures([(logit, {"target": damaged, "seen": seen})])["f1"] == pytest.approx(2 / 3)
    seen[0, 0, 1] = 0
    assert mask_measures([(logit, {"target": damaged, "seen": seen})])["f1"] == pytest.approx(1)


def scratched(name: str = "one") -> FrozenPicture:
    luma = np.full((64, 64), 90, np.uint8)
    labels = np.zeros((64, 64), np.uint16)
    cv2.line(labels, (5, 8), (60, 8), 1, 1)
    cv2.line(labels, (5, 40), (60, 40), 2, 5)
    damaged = luma.copy()
    damaged[labels == 1], damaged[labels == 2] = 200, 130
    mask = (labels > 0).astype(np.float32)
    marks = (FrozenMark(1, "scratch", 1, 0.4, 5.0), FrozenMark(2, "crease", 4, 0.15, 2.0))
    clean = luma[:, :, None]
    return FrozenPicture(name, 1, clean, clean, damaged[:, :, None], mask, labels, marks)


def above(level: float, name: str) -> Contender:
    return Contender(name, lambda luma, gray: Examined(luma, luma * 255 > level, luma * 255 > level))


def test_contenders_are_compared_on_the_same_pictures_by_kind_width_and_hairline() -> None:
    found = on_frozen([above(100, "keen"), above(150, "shy"), above(50, "mad")], [scratched()])
    assert found["keen"].summary()["f1"] == pytest.approx(1)
    assert found["shy"].hairline_recall() == pytest.approx(1), "the strong hairline is found"
    assert found["shy"].recall(lambda m: m.width_px == 4) == 0
    assert found["mad"].worn.marked_share == 1
    assert found["shy"].by_kind["scratch"].roc_auc() == pytest.approx(1, abs=0.01)


def test_the_rim_is_covered_once_marks_grow_far_enough() -> None:
    thin = np.zeros((64, 64), bool)
    thin[40, 5:61] = True
    result = Frozen()
    result.see_rim(thin, scratched().mask)
    left = result.rim()
    assert left[0] > 0.5 and left[4] < 0.05
    assert sorted(left, reverse=True) == left


def test_worse_weights_never_replace_better_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = {"better": (0.6, 0.0004), "worse": (0.5, 0.0001), "dirty": (0.9, 0.02)}
    for name in judged:
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(evaluate, "_judged", lambda weight, bench: judged[weight.read_text()])
    place = tmp_path / "place"
    assert evaluate.adopt(tmp_path / "worse", tmp_path, place=place)
    assert evaluate.adopt(tmp_path / "better", tmp_path, place=place)
    assert not evaluate.adopt(tmp_path / "worse", tmp_path, place=place)
    assert not evaluate.adopt(tmp_path / "dirty", tmp_path, place=place), "it marks 2 % of clean pictures"
    assert place.read_text() == "better"


def test_a_detector_is_the_default_only_where_it_wins_and_harms_no_clean_picture_more() -> None:
    def measured(f1: float, clean: float) -> dict:
        one = {"classical": {"f1": 0.4}, "combined": {"f1": f1}}
        return {"frozen": {1: one}, "clean": {"classical": (0.0005, 0.01), "combined": (clean, 0.01)}}

    assert wins(measured(0.5, 0.0004))
    assert not wins(measured(0.39, 0.0))
    assert not wins(measured(0.9, 0.001))


def test_tables_name_every_goal_and_say_whether_it_is_reached() -> None:
    contenders = [above(100, "classical"), above(100, "learnt"), above(50, "learnt at 256 px")]
    found = on_frozen(contenders, [scratched()])
    names = [c.name for c in contenders]
    text = tables(
        {
            "contenders": names,
            "frozen": {1: {n: r.summary() for n, r in found.items()}},
            "widths": {n: dict.fromkeys(evaluate.WIDTHS, 0.5) for n in names},
            "kinds": {n: {"scratch": (0.9, 0.8, 0.7)} for n in names},
            "clean": dict.fromkeys(names, (0.002, 0.01)),
            "rim": {"learnt": [0.5, 0.1, 0.0, 0.0, 0.0, 0.0]},
            "cost": {"learnt": Cost(2.0, 1.0, 300.0, 2)},
        }
    )
    assert "| clean | <= 0.001 | 0.0020 | no |" in text
    assert "| f1 | >= 0.75 | 1.0000 | yes |" in text
