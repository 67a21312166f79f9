"""Overlays, difference maps and contact sheets."""

from __future__ import annotations

import numpy as np
import pytest

from models import imaging
from models.imaging import Mask, Raster
from models.views import (
    MARK_RGB,
    SheetRow,
    contact_sheet,
    difference,
    highlighted,
    overlay,
    preview_mask,
)


def gray(height: int, width: int, level: int = 128) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def test_a_hairline_in_a_large_scan_is_still_a_solid_line() -> None:
    values = np.zeros((4000, 3000), np.float32)
    values[:, 1501] = 1.0
    values[2001, :] = 1.0
    drawn = overlay(gray(400, 300), Mask(values))
    marked = (drawn == MARK_RGB).all(axis=2)
    assert marked[:, 150].all() and marked[200, :].all() and marked.sum() == 400 + 300 - 1


def test_damage_is_filled_so_that_the_picture_shows_through_and_outlined() -> None:
    values = np.zeros((60, 80), np.float32)
    values[20:40, 30:60] = 1.0
    rgb = gray(60, 80)
    rgb[30, 40] = 255
    drawn = overlay(rgb, Mask(values))
    assert drawn[20, 45].tolist() == list(MARK_RGB) and drawn[39, 59].tolist() == list(MARK_RGB)
    inside = drawn[25, 45].astype(int)
    assert inside[0] > 128 and inside[1] < 128 and drawn[30, 40, 1] > inside[1] + 40
    untouched = values == 0
    assert np.array_equal(drawn[untouched], rgb[untouched]) and (rgb == gray(60, 80)).sum() >= rgb.size - 3


def test_a_mark_reads_on_black_on_white_and_on_gray() -> None:
    values = np.ones((9, 9), np.float32)
    for level in (0, 128, 255):
        drawn = overlay(gray(9, 9, level), Mask(values))
        assert np.abs(drawn.astype(int) - level).max(axis=2).min() >= 50


def test_damage_below_one_half_is_tinted_without_contour() -> None:
    values = np.zeros((50, 50), np.float32)
    values[10:20, 10:20] = 0.4
    drawn = overlay(gray(50, 50), Mask(values))
    assert 128 < drawn[15, 15, 0] < 200 and np.array_equal(drawn[10, 10], drawn[15, 15])


def test_an_empty_mask_changes_nothing() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    assert np.array_equal(overlay(rgb, Mask(np.zeros((400, 300), np.float32))), rgb)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_marks_lie_where_the_damage_is_in_every_orientation(orientation: int) -> None:
    pixels = np.full((40, 80, 3), 30, np.uint8)
    pixels[4:12, 60:76] = 250
    values = (pixels[..., 0] > 100).astype(np.float32)
    scan = Raster(pixels, orientation=orientation)
    shown, drawn = imaging.srgb8(scan, long_side_px=40), highlighted(scan, Mask(values), long_side_px=40)
    assert drawn.shape == shown.shape
    assert np.array_equal((drawn != shown).any(axis=2), shown[..., 0] > 100)


@pytest.mark.parametrize("size", [(37, 23), (100, 70), (250, 171), (1, 1)])
def test_a_reduced_mask_is_the_maximum_of_what_each_pixel_stands_for(size: tuple[int, int]) -> None:
    values = np.random.default_rng(2).random((100, 70), np.float32)
    shown = preview_mask(Mask(values), size)
    assert shown.shape == size and shown.max() == values.max()
    rows, columns = np.arange(size[0] + 1) * 100 // size[0], np.arange(size[1] + 1) * 70 // size[1]
    for i in range(0, size[0], 7):
        for j in range(0, size[1], 5):
            block = values[rows[i] : max(rows[i + 1], rows[i] + 1), columns[j] : max(columns[j + 1], columns[j] + 1)]
            assert shown[i, j] == block.max()


def test_a_tall_mask_is_reduced_in_bands_without_a_seam() -> None:
    values = np.random.default_rng(3).random((9001, 6), np.float32)
    expected = [values[i * 9001 // 100 : (i + 1) * 9001 // 100].max() for i in range(100)]
    assert np.array_equal(preview_mask(Mask(values), (100, 1))[:, 0], np.array(expected, np.float32))


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a mask of"):
        highlighted(Raster(gray(9, 9)), Mask(np.zeros((9, 8), np.float32)))


def test_the_difference_is_exact_at_8_bits_and_never_loses_a_change_at_16() -> None:
    before = np.random.default_rng(4).integers(0, 256, (600, 20, 3), np.uint8)
    after = before.copy()
    after[300, 5] = [7, 8, 9]
    expected = np.abs(before.astype(int) - after).max(axis=2)
    found = difference(Raster(before, icc=b"x", dpi=(300.0, 300.0), orientation=6), Raster(after))
    assert np.array_equal(found.pixels[..., 0], expected) and found.bits == 8
    assert (found.icc, found.dpi, found.orientation) == (None, (300.0, 300.0), 6)
    deep, deeper = np.zeros((1, 4, 1), np.uint16), np.array([0, 1, 258, 65535], np.uint16).reshape(1, 4, 1)
    assert difference(Raster(deep), Raster(deeper)).pixels.ravel().tolist() == [0, 1, 2, 255]


def test_a_gray_picture_is_compared_with_each_channel_of_a_colour_one() -> None:
    found = difference(Raster(np.full((2, 2, 1), 100, np.uint8)), Raster(np.full((2, 2, 3), (90, 100, 130), np.uint8)))
    assert (found.pixels == 30).all()
    with pytest.raises(ValueError, match="difference: expected"):
        difference(Raster(gray(2, 2)), Raster(gray(2, 3)))
    with pytest.raises(ValueError, match="difference: expected"):
        difference(Raster(gray(2, 2)), Raster(gray(2, 2).astype(np.uint16)))


def test_a_contact_sheet_shows_every_picture_under_its_column_and_its_words() -> None:
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    pictures = tuple(np.full((60, 90, 3), c, np.uint8) for c in colours)
    full = SheetRow("scan.tif", "done. 1.2 % damaged", pictures)
    part = SheetRow("clean.tif", "skipped: no damage found. " * 12, pictures[:1])
    sheet = contact_sheet([full, part], cell_px=120)
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 2 * 36 + 3 * 120 + 2 * 14
    lefts = []
    for n, colour in enumerate(colours):
        rows, columns = np.nonzero((sheet == colour).all(axis=2))
        assert len(rows) == 60 * 90 * (2 if n == 0 else 1)
        lefts.append(columns.min())
    assert np.diff(lefts).tolist() == [134, 134]
    top = np.nonzero((sheet == colours[1]).all(axis=2))[0]
    assert (sheet[: top.min()].min(axis=2) < 100).any(), "column labels"
    assert (sheet[top.max() + 1 : top.max() + 40].min(axis=2) < 100).any(), "title and caption"
    assert np.array_equal(sheet, contact_sheet([full, part], cell_px=120))


def test_a_long_caption_is_wrapped_and_never_runs_off_the_sheet() -> None:
    picture = (np.zeros((30, 40, 3), np.uint8),)
    short = contact_sheet([SheetRow("a", "b", picture)], cell_px=200)
    for words in ("many words " * 60, "x" * 900):
        long = contact_sheet([SheetRow(words, words, picture)], cell_px=200)
        assert long.shape[1] == short.shape[1] and (long[:, -20:] == long[0, 0]).all()
    assert contact_sheet([SheetRow("a", "many words " * 60, picture)], cell_px=200).shape[0] > short.shape[0]


def test_a_sheet_without_rows_is_its_heading() -> None:
    assert contact_sheet([]).shape[0] < 120


def test_large_pictures_are_reduced_to_their_cells_and_small_ones_not_enlarged() -> None:
    sheet = contact_sheet([SheetRow("a", "", (np.zeros((1000, 500, 3), np.uint8), gray(9, 9, 77)))], cell_px=100)
    assert (sheet == 77).all(axis=2).sum() == 81 and sheet.shape[0] < 260
