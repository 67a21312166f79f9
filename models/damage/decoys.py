"""Things that look like damage and belong to the picture: wires, fences, hair, writing, numbers, rulers, film edges.

Each is drawn into the clean picture before lens, grain and ageing, so that it is worn as the picture is; none enters
the mask. A detector that marks them destroys what an archive wants kept.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from models.damage.strokes import Patch, Points, curve, polygon, smooth, stroke

Picture = NDArray[np.float32]
FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_SCRIPT_SIMPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
)
LETTERS = "ABCDEFGHIJKLMNOPRSTUVWabcdefghiklmnoprstuvwy"


def draw_decoy(name: str, picture: Picture, rng: np.random.Generator) -> None:
    """Draws the decoy ``name`` (one of ``DECOYS``) into ``picture`` (H, W, C) float32 in [0, 1], in place."""
    DRAW[name](picture, rng)


def wires(picture: Picture, rng: np.random.Generator) -> None:
    """One to five hanging wires from one side to the other, roughly parallel; sometimes with their pole."""
    h, w = picture.shape[:2]
    tone, width = _tone(rng, 0.8), float(rng.uniform(0.7, 2.5))
    y, slope, sag = rng.uniform(0, 0.7) * h, rng.normal(0, 0.25) * h, rng.uniform(0, 0.12) * h
    x = np.linspace(-4, w + 4, 40)
    t = x / w
    for _ in range(int(rng.integers(1, 6))):
        y += rng.uniform(3, 0.08 * h + 4)
        path = np.stack([x, y + slope * t + 4 * sag * t * (1 - t) * rng.uniform(0.9, 1.1)], 1)
        _ink(picture, stroke(path, np.full(40, width), (h, w)), tone)
    if rng.random() < 0.4:
        foot = rng.uniform(0.1, 0.9) * w
        post = np.array([[foot, h + 5.0], [foot + rng.normal(0, 4), rng.uniform(0, 0.4) * h]])
        _ink(picture, stroke(post, np.full(2, rng.uniform(3, 9)), (h, w)), tone)


def fence(picture: Picture, rng: np.random.Generator) -> None:
    """Pickets or crossed wire netting over part of the picture."""
    h, w = picture.shape[:2]
    tone, width, pitch = _tone(rng, 0.5), float(rng.uniform(0.8, 3.0)), float(rng.uniform(7, 26))
    top, bottom = sorted(rng.uniform(0, 1, 2) * h)
    if bottom - top < 20:
        top, bottom = 0.3 * h, 0.9 * h
    netting = rng.random() < 0.5
    lean = (bottom - top) * (1.0 if netting else rng.normal(0, 0.03))
    layer = np.zeros((h, w), np.float32)
    for x in np.arange(-h, w + h, pitch):
        for side in (1, -1) if netting else (1,):
            _cover(layer, stroke(np.array([[x, top], [x + side * lean, bottom]]), np.full(2, width), (h, w)))
    if not netting:
        for share in (0.2, 0.8):
            y = top + share * (bottom - top)
            _cover(layer, stroke(np.array([[-5.0, y], [w + 5.0, y]]), np.full(2, width * 1.5), (h, w)))
    _ink(picture, Patch(0, 0, layer), tone)


def rigging(picture: Picture, rng: np.random.Generator) -> None:
    """A mast and the ropes that run to it from both sides."""
    h, w = picture.shape[:2]
    tone, x = _tone(rng, 0.75), rng.uniform(0.2, 0.8) * w
    head = np.array([x, rng.uniform(-0.1, 0.25) * h])
    foot = np.array([x + rng.normal(0, 0.05) * w, rng.uniform(0.75, 1.1) * h])
    layer = np.zeros((h, w), np.float32)
    _cover(layer, stroke(np.array([head, foot]), np.array([2.0, rng.uniform(3, 8)]), (h, w)))
    width = float(rng.uniform(0.6, 1.6))
    for _ in range(int(rng.integers(3, 10))):
        side = np.array([x + rng.choice([-1, 1]) * rng.uniform(0.1, 0.6) * w, foot[1]])
        _cover(layer, stroke(np.array([head + (foot - head) * rng.uniform(0, 0.3), side]), np.full(2, width), (h, w)))
    _ink(picture, Patch(0, 0, layer), tone)


def strands(picture: Picture, rng: np.random.Generator) -> None:
    """A lock of hair: many fine strokes that flow together."""
    h, w = picture.shape[:2]
    root = rng.uniform(0.1, 0.9, 2) * (w, h)
    angle, length, bend = rng.uniform(0, 2 * np.pi), min(h, w) * rng.uniform(0.15, 0.6), rng.normal(0, 1.2)
    spread, width, tone = rng.uniform(3, 25), float(rng.uniform(0.5, 1.4)), _tone(rng, 0.6)
    flow = curve(rng, (0.0, 0.0), angle, length, bend)
    layer = np.zeros((h, w), np.float32)
    for _ in range(int(rng.integers(8, 40))):
        turn = rng.normal(0, 0.08)
        c, s = np.cos(turn), np.sin(turn)
        path = flow @ np.array([[c, s], [-s, c]]) * rng.uniform(0.7, 1.1) + root + rng.normal(0, spread, 2)
        _cover(layer, stroke(path, np.full(len(path), width), (h, w)), float(rng.uniform(0.4, 1.0)))
    _ink(picture, Patch(0, 0, layer), tone)


def grass(picture: Picture, rng: np.random.Generator) -> None:
    """Blades that grow upwards from a line, some brighter and some darker than what is behind."""
    h, w = picture.shape[:2]
    ground, high = rng.uniform(0.5, 1.05) * h, min(h, w) * rng.uniform(0.08, 0.35)
    light, dark = np.zeros((h, w), np.float32), np.zeros((h, w), np.float32)
    left, right = sorted(rng.uniform(-0.1, 1.1, 2) * w)
    for _ in range(int(rng.integers(20, 70))):
        root = (rng.uniform(left, right + 10), ground + rng.normal(0, 0.06) * h)
        path = curve(rng, root, -np.pi / 2 + rng.normal(0, 0.3), high * rng.uniform(0.4, 1.2), rng.normal(0, 0.8))
        widths = np.linspace(rng.uniform(0.8, 2.5), 0.5, len(path))
        _cover(light if rng.random() < 0.5 else dark, stroke(path, widths, (h, w)))
    _ink(picture, Patch(0, 0, dark), _tone(rng, 1.0))
    _ink(picture, Patch(0, 0, light), _tone(rng, 0.0))


def printed(picture: Picture, rng: np.random.Generator) -> None:
    """A line or a block of printed text: a caption, a sign, a shop front."""
    h, w = picture.shape[:2]
    words = ["".join(rng.choice(list(LETTERS), int(rng.integers(2, 9)))) for _ in range(int(rng.integers(1, 8)))]
    if rng.random() < 0.5:
        words = [word.upper() for word in words]
    lines = [" ".join(words[k : k + 3]) for k in range(0, len(words), 3)]
    size = int(rng.uniform(0.035, 0.12) * min(h, w)) + 6
    font = ImageFont.load_default(size)
    wide = int(max(font.getlength(line) for line in lines)) + 6
    sheet = Image.new("L", (wide, int(size * 1.35 * len(lines)) + 6))
    ImageDraw.Draw(sheet).multiline_text((3, 2), "\n".join(lines), 255, font=font)
    _text(picture, rng, np.asarray(sheet), board=rng.random() < 0.35)


def handwriting(picture: Picture, rng: np.random.Generator) -> None:
    """Joined loops along a line, as a signature or a caption in ink or scratched into the plate."""
    h, w = picture.shape[:2]
    high, letters = rng.uniform(0.02, 0.06) * min(h, w) + 3, int(rng.integers(4, 22))
    t = np.arange(letters * 14) / 14.0
    size = high * (1 + 0.6 * smooth(rng, len(t), letters + 1))
    x = (t + 0.45 * np.sin(2 * np.pi * t + smooth(rng, len(t), letters))) * high * rng.uniform(0.8, 1.3)
    y = -size * np.cos(2 * np.pi * t * (1 + 0.08 * smooth(rng, len(t), letters)))
    slant = rng.uniform(-0.1, 0.6)
    path = _turn(np.stack([x - slant * y, y], 1), rng.normal(0, 0.12))
    path += rng.uniform(0.02, 0.8) * w, rng.uniform(0.05, 0.95) * h
    width = rng.uniform(0.8, 2.4)
    widths = width * np.clip(1 + 0.5 * np.sin(2 * np.pi * t + 1), 0.4, 1.6)
    pen = np.ones(len(path), np.bool_)
    for place in rng.integers(0, len(path), int(rng.integers(0, 4))):
        pen[place : place + 9] = False
    _ink(picture, stroke(path, widths, (h, w), pen), _tone(rng, 0.5), float(rng.uniform(0.5, 1.0)))


def plate_number(picture: Picture, rng: np.random.Generator) -> None:
    """A number or a name scratched or inked at the edge of the negative: uneven strokes, often mirrored."""
    h, w = picture.shape[:2]
    text = "".join(rng.choice(list("0123456789-ABCDE"), int(rng.integers(3, 9))))
    scale = rng.uniform(0.3, 1.0) * min(h, w) / 256 + 0.25
    thick = 1 if rng.random() < 0.6 else 2
    font = int(FONTS[int(rng.integers(4, 6))] if rng.random() < 0.5 else FONTS[0])
    (wide, high), low = cv2.getTextSize(text, font, scale, thick)
    sheet = np.zeros((high + low + 12, wide + 12), np.uint8)
    cv2.putText(sheet, text, (6, high + 5), font, scale, 255, thick, cv2.LINE_AA)
    across, down = np.meshgrid(np.arange(sheet.shape[1], dtype=np.float32), np.arange(sheet.shape[0], dtype=np.float32))
    down += smooth(rng, sheet.shape[1], 6).astype(np.float32) * np.float32(2.5)
    sheet = np.asarray(cv2.remap(sheet, across, down, cv2.INTER_LINEAR), np.uint8)
    if rng.random() < 0.4:
        sheet = np.ascontiguousarray(sheet[:, ::-1])
    if rng.random() < 0.3:
        sheet = np.ascontiguousarray(np.rot90(sheet))
    y = rng.uniform(0, 0.06) if rng.random() < 0.5 else rng.uniform(0.88, 1.0)
    _text(picture, rng, sheet, at=(float(rng.uniform(0, 0.9)), float(y)), turn=0.02)


def accession(picture: Picture, rng: np.random.Generator) -> None:
    """An archive's number in small type, on the picture or on a label stuck to it."""
    kind = rng.choice(["LC-", "No. ", "A.", "Inv. ", "", "PH "])
    text = f"{kind}{rng.integers(1, 9999)}{rng.choice(['-', '.', '/', ' '])}{rng.integers(1, 999)}"
    font = ImageFont.load_default(int(rng.uniform(9, 18)))
    sheet = Image.new("L", (int(font.getlength(text)) + 8, 24))
    ImageDraw.Draw(sheet).text((4, 2), text, 255, font=font)
    _text(picture, rng, np.asarray(sheet), board=rng.random() < 0.6, turn=0.03)


def ruler(picture: Picture, rng: np.random.Generator) -> None:
    """A ruler laid along an edge for the scan: a strip with ticks and figures."""
    h, w = picture.shape[:2]
    deep, pitch = int(rng.uniform(0.06, 0.14) * min(h, w)) + 6, float(rng.uniform(3, 9))
    strip = np.full((deep, w), 1.0, np.float32)
    for k, x in enumerate(np.arange(2, w, pitch)):
        long = 0.55 if k % 10 == 0 else 0.4 if k % 5 == 0 else 0.25
        cv2.line(strip, (round(x * 16), 0), (round(x * 16), int(deep * long * 16)), 0.0, 1, cv2.LINE_4, 4)
        if k % 10 == 0:
            cv2.putText(strip, str(k // 10), (int(x) + 1, deep - 2), FONTS[0], deep / 70, 0.0, 1)
    if rng.random() < 0.5:
        strip = 1.0 - strip
    _strip(picture, rng, strip * np.float32(0.8) + np.float32(0.08))


def target(picture: Picture, rng: np.random.Generator) -> None:
    """A gray wedge or colour patches beside the picture."""
    h, w = picture.shape[:2]
    deep, count = int(rng.uniform(0.06, 0.15) * min(h, w)) + 4, int(rng.integers(5, 20))
    edges = np.linspace(0, w, count + 1).astype(int)
    strip = np.zeros((deep, w, picture.shape[2]), np.float32)
    coloured = picture.shape[2] == 3 and rng.random() < 0.6
    for k in range(count):
        strip[:, edges[k] : edges[k + 1]] = rng.random(3) if coloured else k / (count - 1)
    if rng.random() < 0.5:
        strip[:, edges[1:-1]] = 0.02
    _strip(picture, rng, strip)


def window(picture: Picture, rng: np.random.Generator) -> None:
    """Glazing bars or a grid of tiles over a part of the picture."""
    h, w = picture.shape[:2]
    tone, width = _tone(rng, 0.55), float(rng.uniform(1.0, 6.0))
    size = rng.uniform(0.2, 0.8, 2) * (w, h)
    corner = rng.uniform(0, 1, 2) * ((w, h) - size)
    turn = rng.normal(0, 0.06)
    layer = np.zeros((h, w), np.float32)
    for axis, count in enumerate(rng.integers(2, 7, 2)):
        for share in np.linspace(0, 1, int(count)):
            ends = np.array([[share, 0.0], [share, 1.0]])[:, :: 1 if axis == 0 else -1] * size
            _cover(layer, stroke(_turn(ends, turn) + corner, np.full(2, width), (h, w)))
    _ink(picture, Patch(0, 0, layer), tone)


def rebate(picture: Picture, rng: np.random.Generator) -> None:
    """The film's or plate's own edge: a black or white border, perhaps sprocket holes, notches, a maker's name."""
    h, w = picture.shape[:2]
    deep = int(rng.uniform(0.03, 0.14) * min(h, w)) + 4
    black = rng.random() < 0.7
    strip = np.full((deep, w), rng.uniform(0, 0.12) if black else rng.uniform(0.88, 1), np.float32)
    other = 1.0 - float(strip[0, 0])
    way = rng.random()
    if way < 0.35:
        pitch, high = rng.uniform(14, 34), max(int(deep * 0.45), 2)
        for x in np.arange(rng.uniform(0, pitch), w, pitch):
            cv2.rectangle(strip, (int(x), deep // 4), (int(x + pitch * 0.45), deep // 4 + high), other, -1)
    elif way < 0.7:
        text = str(rng.choice(["SAFETY FILM", "PLUS X", "KODAK", "AGFA 12", "ILFORD HP3", "NITRATE", "->  14A", "9"]))
        place = (int(rng.uniform(0, 0.6) * w), int(deep * 0.75))
        cv2.putText(strip, text, place, FONTS[0], deep / 34, other, 1, cv2.LINE_AA)
    if rng.random() < 0.5:  # the border's inner side is seldom ruled: a soft, slightly uneven edge
        bite = (smooth(rng, w, 9) * 2 + 3).clip(0, deep - 2)
        gone = np.arange(deep)[:, None] > deep - 1 - bite[None, :]
        strip = np.where(gone, np.float32(np.nan), strip)
    for _ in range(int(rng.integers(1, 3))):
        _strip(picture, rng, strip)


def stamp(picture: Picture, rng: np.random.Generator) -> None:
    """A rubber stamp: an oval or a frame with letters in it, unevenly inked."""
    wide, high = int(rng.uniform(50, 130)), int(rng.uniform(30, 80))
    sheet = np.zeros((high, wide), np.uint8)
    middle = (wide // 2, high // 2)
    if rng.random() < 0.6:
        for inset in (2, 6):
            cv2.ellipse(sheet, middle, (wide // 2 - inset, high // 2 - inset), 0, 0, 360, 255, 1, cv2.LINE_AA)
    else:
        cv2.rectangle(sheet, (2, 2), (wide - 3, high - 3), 255, 1)
    text = "".join(rng.choice(list(LETTERS[:22]), 6))
    cv2.putText(sheet, text, (wide // 6, high // 2 + 5), FONTS[2], wide / 190, 255, 1, cv2.LINE_AA)
    worn = np.clip(rng.normal(0.8, 0.25, sheet.shape), 0, 1)
    _text(picture, rng, np.asarray(sheet * worn, np.uint8), turn=0.4)


def _tone(rng: np.random.Generator, dark: float) -> float:
    return float(rng.uniform(0.0, 0.3) if rng.random() < dark else rng.uniform(0.7, 1.0))


def _cover(layer: NDArray[np.float32], patch: Patch | None, strength: float = 1.0) -> None:
    if patch is not None:
        view = layer[patch.window]
        np.maximum(view, patch.alpha * np.float32(strength), out=view)


def _ink(picture: Picture, patch: Patch | None, tone: float, strength: float = 1.0) -> None:
    if patch is not None:
        view = picture[patch.window]
        view += patch.alpha[:, :, None] * np.float32(strength) * (np.float32(tone) - view)


def _turn(points: Points, angle: float) -> Points:
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(points @ np.array([[c, s], [-s, c]]))


def _text(
    picture: Picture,
    rng: np.random.Generator,
    sheet: NDArray[np.uint8],
    board: bool = False,
    at: tuple[float, float] | None = None,
    turn: float = 0.1,
) -> None:
    """Lays a sheet of letters on the picture, slightly turned, in one tone, perhaps on a board of the other tone."""
    h, w = picture.shape[:2]
    high, wide = sheet.shape
    shrink = min(0.95 * w / wide, 0.95 * h / high, 1.0)
    matrix = cv2.getRotationMatrix2D((wide / 2, high / 2), float(np.degrees(rng.normal(0, turn))), shrink)
    x, y = at if at is not None else (float(rng.uniform(0, 1)), float(rng.uniform(0, 1)))
    centre = (x * (w - wide * shrink) + wide * shrink / 2, y * (h - high * shrink) + high * shrink / 2)
    matrix[:, 2] += (centre[0] - wide / 2, centre[1] - high / 2)
    tone = _tone(rng, 0.5)
    if board:
        corners = np.array([[0, 0, 1], [wide, 0, 1], [wide, high, 1], [0, high, 1]], np.float64) @ matrix.T
        _ink(picture, polygon(corners, (h, w)), 1.0 - tone, float(rng.uniform(0.6, 1.0)))
    alpha = cv2.warpAffine(sheet, matrix, (w, h), flags=cv2.INTER_AREA if shrink < 0.7 else cv2.INTER_LINEAR)
    _ink(picture, Patch(0, 0, np.asarray(alpha, np.float32) / np.float32(255)), tone, float(rng.uniform(0.6, 1.0)))


def _strip(picture: Picture, rng: np.random.Generator, strip: NDArray[np.float32]) -> None:
    """Lays a strip as long as the picture is wide along one of its four edges; NaN lets the picture show."""
    side = int(rng.integers(4))
    view = np.rot90(picture, side)  # a view: what is written to it is written to the picture
    if strip.shape[1] != view.shape[1]:
        size = (view.shape[1], strip.shape[0])
        strip = np.asarray(cv2.resize(strip, size, interpolation=cv2.INTER_NEAREST), np.float32)
    filled = strip if strip.ndim == 3 else strip[:, :, None]
    deep = min(filled.shape[0], view.shape[0])
    view[:deep] = np.where(np.isnan(filled[:deep]), view[:deep], filled[:deep])


DRAW: dict[str, Callable[[Picture, np.random.Generator], None]] = {
    "wires": wires,
    "fence": fence,
    "rigging": rigging,
    "strands": strands,
    "grass": grass,
    "print": printed,
    "handwriting": handwriting,
    "plate_number": plate_number,
    "accession": accession,
    "ruler": ruler,
    "target": target,
    "window": window,
    "rebate": rebate,
    "stamp": stamp,
}
