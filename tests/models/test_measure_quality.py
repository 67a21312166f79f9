from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from models import measure_quality
from models.measure_quality import INPUT, OPENCV, measure, measure_method, scanned_large, spoiled
from models.metrics import noise, psnr

PICTURE = np.ascontiguousarray(data.coffee()[:200, :240])


def test_a_picture_is_spoiled_the_same_way_for_the_same_name_and_another_for_another():
    first = spoiled(PICTURE, "a.png")
    np.testing.assert_array_equal(first, spoiled(PICTURE, "a.png"))
    assert not np.array_equal(first, spoiled(PICTURE, "b.png"))
    assert 18 < psnr(PICTURE, first) < 32


def test_a_large_scan_holds_no_more_detail_but_grain():
    large = scanned_large(PICTURE, "a.png")
    assert large.shape == (800, 960, 3)
    assert noise(large) > 1.5
    assert psnr(PICTURE, cv2.resize(large, (240, 200), interpolation=cv2.INTER_AREA)) > 25


@pytest.mark.parametrize("large", [False, True])
def test_a_row_holds_the_means_of_a_method(tmp_path: Path, large: bool):
    files = [tmp_path / name for name in ("a.png", "b.png")]
    for file in files:
        cv2.imwrite(str(file), PICTURE[:, :, ::-1])
    row = measure_method(INPUT, files, cropped=True, large=large, weights=None)
    assert row.pictures == 2 and row.peak_mb > 50
    if not large:
        middle = np.ascontiguousarray(PICTURE[4:196, 24:216])
        expected = np.mean([psnr(middle, spoiled(middle, file.name)) for file in files])
        assert row.psnr_db == pytest.approx(expected)
    mended = measure_method(OPENCV, files, cropped=True, large=large, weights=None)
    assert mended.psnr_db != row.psnr_db and mended.seconds_per_mp > 0


def test_the_tables_name_every_method_and_both_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "Set14").mkdir()
    cv2.imwrite(str(tmp_path / "Set14" / "a.png"), PICTURE[:, :, ::-1])
    monkeypatch.setattr(measure_quality, "_in_a_process", measure_method)
    text = measure(tmp_path, {}, subset=1)
    assert text.count("### 1 pictures") == 4 and text.count(OPENCV) == 4
    assert "enlarged 4x with scanner blur and grain" in text
    with pytest.raises(FileNotFoundError, match="expected PNG files in BSD100 and Set14"):
        measure(tmp_path / "none", {})
