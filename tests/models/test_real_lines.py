"""Line recall and precision against drawn damage, and the drawings themselves."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.training.real_lines import (
    Annotation,
    DrawnMark,
    drawn_mask,
    line_scores,
    load_annotations,
    read_picture,
)

LINE = DrawnMark("scratch", False, 2.0, np.array([[10.0, 50.0], [90.0, 50.0]]))
PATCH = DrawnMark("emulsion", True, 0.0, np.array([[10.0, 10.0], [29.0, 10.0], [29.0, 29.0], [10.0, 29.0]]))
SKIP = DrawnMark("ignore", True, 0.0, np.array([[60.0, 60.0], [99.0, 60.0], [99.0, 99.0], [60.0, 99.0]]))


def annotation(*marks: DrawnMark, complete: bool = True) -> Annotation:
    return Annotation("a.png", "0" * 64, complete, "", marks)


def row(y: int, x0: int = 10, x1: int = 91) -> np.ndarray:
    mask = np.zeros((100, 100), np.float32)
    mask[y, x0:x1] = 1
    return mask


def test_a_line_found_within_the_tolerance_counts_and_beyond_it_does_not() -> None:
    drawn = annotation(LINE)
    assert line_scores(row(53), drawn).line_recall == 1.0
    assert line_scores(row(53), drawn).precision == 1.0
    assert line_scores(row(56), drawn).line_recall == 0.0
    assert line_scores(row(56), drawn).precision == 0.0


def test_half_a_line_is_half_the_recall_at_full_precision() -> None:
    scores = line_scores(row(50, 10, 50), annotation(LINE))
    assert scores.line_recall == pytest.approx(0.5, abs=0.05)
    assert scores.precision == 1.0
    assert scores.line_px == 80


def test_marking_everything_has_full_recall_and_poor_precision() -> None:
    scores = line_scores(np.ones((100, 100), np.bool_), annotation(LINE))
    assert scores.line_recall == 1.0
    assert scores.precision < 0.1


def test_polygons_are_judged_by_area() -> None:
    mask = np.zeros((100, 100), np.float32)
    mask[10:30, 10:20] = 1
    scores = line_scores(mask, annotation(PATCH))
    assert scores.area_recall == pytest.approx(0.5, abs=0.01)
    assert np.isnan(scores.line_recall)


def test_ignored_parts_count_neither_way() -> None:
    mask = np.maximum(row(50), row(80, 60, 99))
    scores = line_scores(mask, annotation(LINE, SKIP))
    assert scores.precision == 1.0
    assert scores.found_px == 81
    assert not drawn_mask(annotation(LINE, SKIP), (100, 100))[61:, 61:].any()


def test_precision_is_unknown_where_the_drawing_is_not_complete_or_nothing_is_found() -> None:
    assert np.isnan(line_scores(row(50), annotation(LINE, complete=False)).precision)
    nothing = line_scores(np.zeros((100, 100)), annotation(LINE))
    assert np.isnan(nothing.precision)
    assert nothing.line_recall == 0.0


def test_the_drawn_mask_itself_scores_full_marks_on_every_annotated_picture() -> None:
    annotations = load_annotations()
    assert len(annotations) >= 12
    assert sum(a.complete for a in annotations) >= 6
    for drawn in annotations:
        assert len(drawn.sha256) == 64
        shape = tuple(int(np.ceil(max(m.points[:, k].max() for m in drawn.marks))) + 12 for k in (1, 0))
        scores = line_scores(drawn_mask(drawn, shape), drawn)
        assert np.isnan(scores.line_recall) or scores.line_recall > 0.97
        assert np.isnan(scores.area_recall) or scores.area_recall > 0.97
        assert not drawn.complete or scores.precision == 1.0


def test_another_file_under_the_same_name_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"a\.png: expected sha256 0{64}, found"):
        read_picture(annotation(LINE), tmp_path)
    right = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert read_picture(Annotation("a.png", right, True, "", ()), tmp_path).shape == (8, 8, 3)
