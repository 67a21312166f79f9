"""What people look at: damage marked on the picture, the map of what changed, the contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from models.imaging import Mask, Raster, srgb8, turn_upright

MARK_RGB = (255, 0, 144)  # magenta: in no old photograph, gray or toned or faded
FILL_OPACITY = 0.45
_CHUNK_ROWS = 4096


def highlighted(raster: Raster, mask: Mask, *, long_side_px: int | None = None) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 sRGB, upright: ``raster`` reduced to ``long_side_px`` with ``mask`` drawn on it."""
    if mask.shape != raster.pixels.shape[:2]:
        raise ValueError(f"highlighted: expected a mask of {raster.pixels.shape[:2]}, found {mask.shape}")
    return overlay(srgb8(raster, long_side_px=long_side_px), mask, orientation=raster.orientation)


def overlay(rgb: NDArray[np.uint8], mask: Mask, *, orientation: int = 1) -> NDArray[np.uint8]:
    """``rgb`` (h, w, 3) uint8 with the damage drawn on a copy: a translucent magenta fill inside a solid contour.

    ``rgb`` may be smaller than ``mask`` and turned upright by ``orientation`` (Exif tag 274). The mask is reduced by
    its maximum, so that a scratch one pixel wide in a large scan is still a solid line, at least 1 px wide, here.
    """
    shown = preview_mask(mask, (rgb.shape[0], rgb.shape[1]), orientation=orientation)
    opacity = np.clip(shown, 0.0, 1.0) * np.float32(FILL_OPACITY)
    damaged = (shown >= 0.5).astype(np.uint8)
    line_px = max(1, round(max(rgb.shape[:2]) / 800))
    thick = cv2.dilate(damaged, np.ones((line_px, line_px), np.uint8))
    inside = cv2.erode(thick, np.ones((2 * line_px + 1, 2 * line_px + 1), np.uint8), borderValue=1)
    opacity[(thick == 1) & (inside == 0)] = 1.0  # a thin line has no inside: all of it is contour
    drawn = rgb.copy()
    rows, columns = np.nonzero(opacity)
    share = opacity[rows, columns, None]
    drawn[rows, columns] = np.rint(rgb[rows, columns] * (1 - share) + np.array(MARK_RGB, np.float32) * share)
    return drawn


def preview_mask(mask: Mask, size: tuple[int, int], *, orientation: int = 1) -> NDArray[np.float32]:
    """``mask`` as (h, w) = ``size`` float32, upright: each pixel is the maximum of those it stands for."""
    rows, columns = size[::-1] if orientation >= 5 else size
    height, width = mask.shape
    top = np.arange(rows) * height // rows
    left = np.arange(columns) * width // columns
    reduced = np.empty((rows, columns), np.float32)
    step = max(1, _CHUNK_ROWS * rows // height)
    for first in range(0, rows, step):  # in bands: a mask of 200 megapixels is 800 MB as it is
        part = top[first : first + step]
        end = top[first + step] if first + step < rows else height
        band = np.maximum.reduceat(mask.part(slice(part[0], max(end, part[-1] + 1))), part - part[0], axis=0)
        reduced[first : first + step] = np.maximum.reduceat(band, left, axis=1)
    return turn_upright(reduced, orientation)


def difference(before: Raster, after: Raster) -> Raster:
    """What changed, as a gray 8-bit Raster: the absolute difference, its maximum over the channels, not amplified.

    0 means unchanged to the last bit. Of 16-bit pictures it is divided by 257 and rounded up, so that a change of
    one level in 65535 still shows as 1. A gray picture is compared with each channel of a colour one. dpi and
    orientation stay, the profile does not (these are no colours). Raises ValueError on other sizes or bit depths.
    """
    one, two = before.pixels, after.pixels
    if one.shape[:2] != two.shape[:2] or one.dtype != two.dtype:
        raise ValueError(f"difference: expected {one.shape[:2]} {one.dtype}, found {two.shape[:2]} {two.dtype}")
    changed = np.empty((*one.shape[:2], 1), np.uint8)
    for first in range(0, one.shape[0], 256):
        rows = slice(first, first + 256)
        largest = np.zeros(one[rows].shape[:2], one.dtype)
        for c in range(max(one.shape[2], two.shape[2])):
            left: NDArray[Any] = np.ascontiguousarray(one[rows, :, min(c, one.shape[2] - 1)])
            right: NDArray[Any] = np.ascontiguousarray(two[rows, :, min(c, two.shape[2] - 1)])
            np.maximum(largest, cv2.absdiff(left, right), out=largest)
        changed[rows, :, 0] = largest if before.bits == 8 else (largest.astype(np.uint32) + 256) // 257
    return Raster(changed, dpi=before.dpi, orientation=before.orientation)


@dataclass(frozen=True, eq=False, slots=True)
class SheetRow:
    """One scan on the contact sheet: its pictures (h, w, 3) uint8, one a column; fewer leave the rest empty."""

    title: str
    caption: str
    pictures: tuple[NDArray[np.uint8], ...]


_PAPER, _INK, _SOFT, _EMPTY = (250, 249, 247), (28, 28, 30), (110, 110, 114), (240, 239, 236)
_MARGIN, _GUTTER, _LEADING = 36, 14, 1.3


def contact_sheet(
    rows: Sequence[SheetRow], *, columns: Sequence[str] = ("before", "damage found", "after"), cell_px: int = 480
) -> NDArray[np.uint8]:
    """(h, w, 3) uint8: a titled row a scan, its pictures side by side in cells ``cell_px`` wide, caption beneath."""
    heading, title, body = (_font(size) for size in (cell_px // 20, cell_px // 24, cell_px // 30))
    width = 2 * _MARGIN + len(columns) * cell_px + (len(columns) - 1) * _GUTTER
    fitted = [[_fit(picture, cell_px) for picture in row.pictures[: len(columns)]] for row in rows]
    captions = [_wrap(row.caption, body, width - 2 * _MARGIN) for row in rows]
    heights = [max((picture.shape[0] for picture in pictures), default=cell_px // 4) for pictures in fitted]
    text_px = [_line(title) + len(lines) * _line(body) + _GUTTER // 2 for lines in captions]
    top = _MARGIN + _line(heading) + _GUTTER
    sheet = Image.new("RGB", (width, top + sum(heights) + sum(text_px) + len(rows) * _MARGIN), _PAPER)
    pen = ImageDraw.Draw(sheet)
    lefts = [_MARGIN + i * (cell_px + _GUTTER) for i in range(len(columns))]
    for left, label in zip(lefts, columns, strict=True):
        pen.text((left, _MARGIN), label, _INK, heading)
    for row, pictures, lines, height, text in zip(rows, fitted, captions, heights, text_px, strict=True):
        for i, left in enumerate(lefts):
            if i < len(pictures):
                h, w = pictures[i].shape[:2]
                sheet.paste(Image.fromarray(pictures[i]), (left + (cell_px - w) // 2, top + (height - h) // 2))
            else:
                pen.rectangle((left, top, left + cell_px - 1, top + height - 1), _EMPTY)
        at = top + height + _GUTTER // 2
        pen.text((_MARGIN, at), _wrap(row.title, title, width - 2 * _MARGIN)[0], _INK, title)
        for n, line in enumerate(lines):
            pen.text((_MARGIN, at + _line(title) + n * _line(body)), line, _SOFT, body)
        top += height + text + _MARGIN
    return np.asarray(sheet, np.uint8)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(10, size))


def _line(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    top, bottom = font.getbbox("Ág")[1::2]
    return round((bottom - top) * _LEADING)


def _fit(picture: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """``picture`` reduced to a square of ``side_px``; never enlarged."""
    height, width = picture.shape[:2]
    scale = side_px / max(height, width)
    if scale >= 1.0:
        return np.ascontiguousarray(picture)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> list[str]:
    """``text`` in lines no wider than ``width_px``; a single word that is wider is cut with an ellipsis."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width_px:
            lines[-1] = longer
            continue
        if (length := font.getlength(word)) > width_px:
            word = word[: int(len(word) * width_px / length)] + "…"
        while font.getlength(word) > width_px:
            word = word[:-2] + "…"
        lines = [*lines, word] if lines[-1] else [word]
    return lines
