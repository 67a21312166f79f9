"""Samples for a face network: faces brought to the template once, worn anew each time they are drawn.

``python -m models.training.face_data SHARDS --detector centerface.onnx`` aligns the packed set ``faces`` into the set
``aligned`` beside it; a face that the detector does not find is left out. ``FaceSampler`` draws from that set.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models import portrait, registry
from models.damage import DamageRecipe, Effect, simulate
from models.damage.recipe import DETECT
from models.imaging import Raster
from models.nets.centerface import CenterFace
from models.nets.face import FaceNet
from models.training.data import Arrays, Entry, Pictures, Stock, TrainingDataError, read_shard, write_shards
from models.weights import WeightsError

log = logging.getLogger(__name__)

SET = "aligned"
SMALL_PX, LARGE_PX = FaceNet.sides_px
WEBP_QUALITY = 95
LARGE = "aligned/aaf"  # the only ones with so many pixels

Floats = NDArray[np.float32]

_NONE = Effect(0.0, 0.0, 0.0)
# What befell picture and surroundings alike: tone, which a face keeps. It is worn before it is a truth.
TONED = replace(
    DETECT,
    name="toned face",
    clean_share=1.0,
    decoy_share=0.0,
    defocus=_NONE,
    motion=_NONE,
    haze=_NONE,
    glare=_NONE,
    vignette=_NONE,
    fading=Effect(0.5, 0.05, 0.5),
    toning=Effect(0.25, 0.2, 1.0),
    grain=_NONE,
    noise=_NONE,
    halftone=_NONE,
    jpeg=_NONE,
    scanner=_NONE,
)
# What is to be mended of a face. Marks are not among it: they were filled before.
WORN = replace(
    TONED,
    name="worn face",
    fading=_NONE,
    toning=_NONE,
    defocus=Effect(0.7, 0.3, 1.7),
    motion=Effect(0.04, 2.0, 5.0),
    grain=Effect(0.9, 0.01, 0.09),
    noise=Effect(0.6, 0.003, 0.025),
    halftone=Effect(0.02, 0.1, 0.4),
    jpeg=Effect(0.5, 10.0, 65.0),
    scanner=Effect(0.4, 0.3, 0.8),
)


@dataclass(frozen=True, slots=True)
class FaceSampler:
    """Samples for a face network, (C, S, S) float32: ``input`` and ``target`` (3) sRGB, ``weight`` (1), 1 on average.

    S is 128, of one batch in ``large_every`` 256 (faces of AAF, which have the pixels): samples of a batch are alike.
    ``gray_share`` of the pictures in colour are made gray. Every face sits as a detector would seat it, a little off. A
    part of them has been a small face: reduced, worn at that size, enlarged again. ``weight`` is highest on eyes and
    mouth and low outside the face. ``large_every`` 0: none. ``sound_share`` are not worn: a sharp face is to stay so.
    """

    batch: int
    large_every: int = 8
    gray_share: float = 0.4
    reduced_share: float = 0.3
    largest_reduction: float = 3.0
    sound_share: float = 0.0
    worn: DamageRecipe = WORN

    def __call__(self, stock: Stock, rng: np.random.Generator, number: int) -> Arrays:
        """See the class."""
        large = self.large_every > 0 and number // self.batch % self.large_every == self.large_every - 1
        side_px = LARGE_PX if large else SMALL_PX
        with_pixels, others = _by_size(stock.pictures)
        chosen = with_pixels if (large and with_pixels) or not others else (*with_pixels, *others)
        picture = stock.pictures[chosen[int(rng.integers(len(chosen)))]]
        face = _seated(picture, side_px, rng)
        channels = face.max(2) - face.min(2)
        if float(channels.max()) < 0.02 or rng.random() < self.gray_share:
            face = np.asarray(face @ np.array([0.299, 0.587, 0.114], np.float32))[:, :, None]
        target = simulate(face, rng, TONED, None).damaged
        reduction = float(rng.uniform(1.3, self.largest_reduction)) if rng.random() < self.reduced_share else 1.0
        sound = self.sound_share > 0 and rng.random() < self.sound_share
        given = target if sound else worn_face(target, rng, self.worn, reduction)
        arrays = {"input": _planes(given), "target": _planes(target), "weight": weights(side_px)[None]}
        return {name: np.ascontiguousarray(value, np.float32) for name, value in arrays.items()}


def worn_face(face: Floats, rng: np.random.Generator, worn: DamageRecipe, reduction: float = 1.0) -> Floats:
    """``face`` (S, S, 1 or 3) as a scan would show it where it is 1/``reduction`` of this size; the same shape."""
    side_px = face.shape[0]
    small_px = max(32, round(side_px / reduction))
    if small_px < side_px:
        face = _channelled(cv2.resize(face, (small_px, small_px), interpolation=cv2.INTER_AREA))
    made = simulate(face, rng, worn, None).damaged
    if small_px < side_px:
        made = _channelled(cv2.resize(made, (side_px, side_px), interpolation=cv2.INTER_CUBIC))
    return np.clip(made, 0, 1)


@lru_cache(maxsize=4)
def weights(side_px: int) -> Floats:
    """(S, S), 1 on average: most on eyes and mouth by the template's places, little outside the face."""
    zoom = FaceNet.zoom
    y, x = np.mgrid[:side_px, :side_px].astype(np.float32) + np.float32(0.5)
    points = portrait.template(side_px, zoom)
    reach = 0.42 * portrait.eye_distance(points)
    weight = 0.2 + portrait.face_share(side_px, zoom)
    places = (*points[:2], (points[3] + points[4]) / 2)
    for place in places:
        weight = weight + 2 * np.exp(-(((x - place[0]) / reach) ** 2) - ((y - place[1]) / (0.6 * reach)) ** 2)
    return np.asarray(weight / weight.mean(), np.float32)


def windows(side_px: int) -> tuple[tuple[int, int], ...]:
    """Top and left of the squares of half the side that a critic looks at: each eye, the mouth, the nose."""
    points, half = portrait.template(side_px, FaceNet.zoom), side_px // 2
    places = (points[0], points[1], (points[3] + points[4]) / 2, points[2])
    corners = [np.clip(np.rint(place - half / 2), 0, side_px - half).astype(int) for place in places]
    return tuple((int(corner[1]), int(corner[0])) for corner in corners)


@lru_cache(maxsize=4)
def _by_size(pictures: Pictures) -> tuple[tuple[int, ...], tuple[int, ...]]:
    large = [entry.name.startswith(LARGE) for entry in pictures.entries]
    return tuple(i for i, is_large in enumerate(large) if is_large), tuple(i for i, one in enumerate(large) if not one)


def _seated(picture: NDArray[np.uint8], side_px: int, rng: np.random.Generator) -> Floats:
    """(S, S, 3) in [0, 1]: an aligned picture at that side, moved as much as a detector errs, perhaps mirrored."""
    angle, scale = float(rng.normal(0, 3.0)), float(np.exp(rng.normal(0, 0.05)))
    shift = rng.normal(0, 0.02, 2) * side_px
    mirrored = rng.random() < 0.5
    whole = picture.astype(np.float32) / np.float32(255)
    if whole.shape[0] > side_px:
        whole = np.asarray(cv2.resize(whole, (side_px, side_px), interpolation=cv2.INTER_AREA), np.float32)
    elif whole.shape[0] < side_px:
        whole = np.asarray(cv2.resize(whole, (side_px, side_px), interpolation=cv2.INTER_CUBIC), np.float32)
    turn = np.asarray(cv2.getRotationMatrix2D((side_px / 2, side_px / 2), angle, scale), np.float64)
    turn[:, 2] += shift
    flags = cv2.INTER_CUBIC
    moved = cv2.warpAffine(whole, turn, (side_px, side_px), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    return np.ascontiguousarray(np.clip(moved[:, ::-1] if mirrored else moved, 0, 1), np.float32)


def _planes(picture: Floats) -> Floats:
    """(3, S, S) of (S, S, 1 or 3)."""
    return np.moveaxis(np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture, 2, 0)


def _channelled(picture: NDArray[np.generic]) -> Floats:
    return np.asarray(picture if picture.ndim == 3 else picture[:, :, None], np.float32)


def align(picture: NDArray[np.uint8], detector: CenterFace) -> NDArray[np.uint8] | None:
    """(S, S, 3) uint8: the picture's surest face brought to the template of our network, or None.

    S is 256 of a face with the pixels for it, else 128.
    """
    found = detector.detect_faces(np.ascontiguousarray(picture))
    if not found:
        return None
    face = max(found, key=lambda f: f.score)
    side_px = portrait.side_for(face, FaceNet.sides_px, FaceNet.zoom)
    seat = portrait.seat_of(face, picture.shape[0], picture.shape[1], side_px, FaceNet.zoom)
    if seat is None:
        return None
    return np.asarray(np.rint(portrait.aligned(Raster(picture), seat) * 255), np.uint8)


def align_set(shards: Path, detector: CenterFace) -> list[Path]:
    """Shards of the set ``aligned`` beside those of ``faces``; about 0.02 core-seconds a face.

    Every face keeps its series, its side of the fence and its terms. Raises TrainingDataError where there is none.
    """
    members: list[tuple[Entry, bytes]] = []
    missed = 0
    for shard in sorted(shards.glob("faces-[0-9]*.tar")):
        for entry, content in read_shard(shard):
            stored = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
            if stored is None:
                raise TrainingDataError(f"{entry.name}: expected a picture, found nothing that decodes")
            made = align(np.asarray(cv2.cvtColor(stored, cv2.COLOR_BGR2RGB), np.uint8), detector)
            if made is None:
                missed += 1
                continue
            bgr = cv2.cvtColor(made, cv2.COLOR_RGB2BGR)
            packed = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY])[1].tobytes()
            members.append((replace(entry, name=f"{SET}/{Path(entry.name).name}"), packed))
    if not members:
        raise TrainingDataError(f"{shards}: expected shards of the set faces with faces in them, found none")
    log.info("set_aligned faces=%d not_found=%d", len(members), missed)
    return write_shards(shards, SET, members)


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    first = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m models.training.face_data", description=first)
    parser.add_argument("shards", type=Path, help="folder of shards, with the set faces packed")
    parser.add_argument("--detector", type=Path, required=True, help="the file of weights of the model centerface")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        align_set(chosen.shards, CenterFace(registry.card("centerface"), chosen.detector))
    except (TrainingDataError, WeightsError) as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
