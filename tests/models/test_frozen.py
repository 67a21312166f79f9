"""The frozen examination: the same pictures for ever, or an error that names both hashes."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.training import frozen
from models.training.frozen import FrozenMismatch, frozen_pictures, make, recall_by_mark, sources

BENCH = os.environ.get("GLASSPLATE_BENCH_DATA")


@pytest.fixture
def small_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small pictures in the bench's folders; the examination shrunk to them."""
    rng = np.random.default_rng(5)
    for folder in ("BSD100", "Set14"):
        (tmp_path / folder).mkdir()
        coarse = Image.fromarray(rng.integers(30, 220, (12, 16, 3), dtype=np.uint8))
        coarse.resize((240, 160), Image.Resampling.BICUBIC).save(tmp_path / folder / "one.png")
    monkeypatch.setattr(frozen, "HOW_MANY", {1: 2, 4: 1, 8: 1})
    return tmp_path


@pytest.fixture
def listed(small_bench: Path, tmp_path: Path) -> Path:
    file = tmp_path / "list.json"
    file.write_text(json.dumps(frozen.listing_of(small_bench)))
    return file


def test_the_pictures_come_out_verified_with_masks_labels_and_marks(small_bench: Path, listed: Path) -> None:
    found = list(frozen_pictures(small_bench, listed=listed))
    assert [p.name for p in found] == ["BSD100/one.png", "Set14/one.png"]
    for picture in found:
        assert picture.damaged.shape[:2] == picture.mask.shape == picture.labels.shape == (160, 240)
        assert 0.001 < (picture.mask > 0.5).mean() < 0.2
        assert picture.labels.max() <= len(picture.marks)
        sound = picture.mask < 0.001
        assert np.abs(picture.damaged[sound].astype(int) - picture.worn[sound]).max() <= 1
        changed = np.abs(picture.damaged.astype(int) - picture.worn)[picture.mask > 0.9]
        assert changed.mean() > 8


def test_enlarged_pictures_keep_their_marks_in_place(small_bench: Path, listed: Path) -> None:
    small = next(frozen_pictures(small_bench, listed=listed))
    large = next(frozen_pictures(small_bench, 4, listed=listed))
    assert large.damaged.shape[:2] == (640, 960)
    assert large.marks == small.marks
    shrunk = large.mask.reshape(160, 4, 240, 4).mean((1, 3))
    assert np.abs(shrunk - small.mask).max() < 0.25


def test_another_generator_is_a_loud_error_naming_both_hashes(
    small_bench: Path, listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = json.loads(listed.read_text())["pictures"]["BSD100/one.png x1"]
    monkeypatch.setattr(frozen, "STRENGTH", (2.0, 12.1))
    found = make(small_bench / "BSD100" / "one.png", 1).sha256()
    with pytest.raises(FrozenMismatch, match=rf"BSD100/one\.png x1: expected sha256 {expected}.*found {found}"):
        next(frozen_pictures(small_bench, listed=listed))


def test_another_source_or_version_is_refused(small_bench: Path, listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.zeros((60, 60, 3), np.uint8)).save(small_bench / "BSD100" / "one.png")
    with pytest.raises(FrozenMismatch, match=r"BSD100/one\.png: expected source sha256"):
        next(frozen_pictures(small_bench, listed=listed))
    monkeypatch.setattr(frozen, "VERSION", "frozen-9")
    with pytest.raises(FrozenMismatch, match="expected version frozen-9"):
        next(frozen_pictures(small_bench, listed=listed))


def test_a_picture_that_is_not_there_is_an_error(small_bench: Path) -> None:
    (small_bench / "Set14" / "one.png").unlink()
    with pytest.raises(FileNotFoundError, match="expected 2 PNG"):
        sources(small_bench)


def test_recall_by_mark_is_whole_for_the_mask_and_nothing_for_an_empty_one(small_bench: Path) -> None:
    picture = make(small_bench / "BSD100" / "one.png", 1)
    whole = recall_by_mark(picture.labels > 0, picture, tolerance_px=0)
    assert len(whole) > 5
    assert all(recall == 1.0 for _, recall, _ in whole)
    assert {mark.width_px for mark, _, _ in whole} <= {1, 2, 4, 8}
    assert all(recall == 0.0 for _, recall, _ in recall_by_mark(np.zeros_like(picture.labels, bool), picture))
    beside = np.roll(picture.labels > 0, 2, axis=1)
    assert np.mean([recall for _, recall, _ in recall_by_mark(beside, picture)]) > 0.95


@pytest.mark.skipif(BENCH is None, reason="GLASSPLATE_BENCH_DATA names no folder with BSD100 and Set14")
@pytest.mark.parametrize("times", [1, 4])
def test_the_committed_list_still_describes_the_pictures_made_here(times: int) -> None:
    folder = Path(str(BENCH))
    folder = folder / "bench" if (folder / "bench").is_dir() else folder
    pictures = frozen_pictures(folder, times)
    for _ in range({1: 6, 4: 1}[times]):
        assert next(pictures).mask.any()
