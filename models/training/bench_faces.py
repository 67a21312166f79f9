"""Faces to judge a network by: clean pictures worn with seeds of their own, restored as in the pipeline, compared."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models import identity, metrics, portrait
from models.imaging import Raster
from models.nets.centerface import CenterFace, Face
from models.nets.face import FaceNet
from models.network import Network, NetworkError
from models.portrait import Seat
from models.training.data import TrainingDataError, split_of
from models.training.face_measures import worn_at
from models.training.guard import series_of

SETS = {"AAF": "aaf", "LFW": "lfw", "CelebA": "celeba"}
SOUND = "sound"  # the level of faces that are not worn at all
FOUND_WITHIN = 0.35  # of the eye distance: so near to the clean picture's landmarks a face counts as found
MIN_SCORE = 0.5

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class Subject:
    """One clean picture of one face: (H, W, 3) float32 sRGB, gray ones with equal channels."""

    name: str
    series: str
    picture: Floats
    gray: bool


@dataclass(frozen=True, eq=False, slots=True)
class Worn:
    """A subject worn at a level: the picture, where the face sits in it, whether the detector found it there."""

    subject: Subject
    picture: Floats
    face: Face
    seat: Seat
    found: bool

    def aligned(self, picture: Floats) -> Floats:
        """The face of a picture of this size, upright."""
        return portrait.aligned(raster_of(picture, self.subject.gray), self.seat)


@dataclass(frozen=True, slots=True)
class Nearness:
    """One face by one method against the true one; ``landmarks`` is NaN where none were found."""

    psnr: float
    ssim: float
    ms_ssim: float
    landmarks: float
    identity: float


def subjects(data: Path, folder: str, name: str, held_out: bool = False) -> list[Subject]:
    """The pictures of one of ``SETS`` in ``data/folder``; ``held_out``: only those of people never trained on."""
    chosen = []
    for path in sorted((data / folder).iterdir()):
        label = path.stem.lower()
        if SETS[name] not in label.split("_")[:2]:
            continue
        series = series_of(f"faces/{path.name}")
        if held_out and split_of(series) != "held_out":
            continue
        stored = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if stored is None:
            raise TrainingDataError(f"{path}: expected a picture, found nothing that decodes")
        rgb = cv2.cvtColor(stored, cv2.COLOR_BGR2RGB).astype(np.float32) / np.float32(255)
        gray = float((rgb.max(2) - rgb.min(2)).max()) < 0.01
        chosen.append(Subject(path.name, series, rgb, gray))
    if not chosen:
        raise TrainingDataError(f"{data / folder}: expected faces of {name}, found none")
    return chosen


def worn(subject: Subject, level: str, detector: CenterFace) -> Worn | None:
    """The subject worn at a level; None where not even the clean picture has a face that can be aligned."""
    truth = _best(_faces(subject.picture, detector), None)
    if truth is None:
        return None
    rng = np.random.default_rng(zlib.crc32(f"{subject.name} {level}".encode()))
    given = subject.picture[:, :, :1] if subject.gray else subject.picture
    picture = given if level == SOUND else worn_at(given, level, rng)
    picture = np.repeat(picture, 3, axis=2) if subject.gray else picture
    picture = np.asarray(np.rint(picture * 255) / 255, np.float32)
    near = _best(_faces(picture, detector), truth)
    face = near or truth
    side_px = portrait.side_for(face, FaceNet.sides_px, FaceNet.zoom)
    seat = portrait.seat_of(face, picture.shape[0], picture.shape[1], side_px, FaceNet.zoom)
    return None if seat is None else Worn(subject, picture, face, seat, near is not None)


def _faces(picture: Floats, detector: CenterFace) -> list[Face]:
    levels = np.ascontiguousarray(np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8))
    return detector.detect_faces(levels, min_score=MIN_SCORE)


def _best(found: Sequence[Face], near: Face | None) -> Face | None:
    """The surest face; with ``near`` only one that is that very face."""
    if near is not None:
        reach = FOUND_WITHIN * portrait.eye_distance(near.landmarks)
        found = [f for f in found if float(np.linalg.norm(f.landmarks - near.landmarks, axis=1).mean()) < reach]
    return max(found, key=lambda f: f.score, default=None)


def raster_of(picture: Floats, gray: bool) -> Raster:
    """The picture at 8 bits; with ``gray`` one channel of it."""
    levels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return Raster(np.ascontiguousarray(levels[:, :, :1] if gray else levels))


def restored(cases: Sequence[Worn], net: Network, fidelity: float) -> list[Floats]:
    """The aligned faces of ``cases`` as the pipeline restores them, before the gate."""
    before = [case.aligned(case.picture) for case in cases]
    gray, names = [case.subject.gray for case in cases], [case.subject.name for case in cases]
    made = []
    for answer in portrait.restored(before, net, fidelity, gray, names):
        if isinstance(answer, NetworkError):
            raise answer
        made.append(answer)
    return made


def pasted(case: Worn, after: Floats) -> Floats:
    """The aligned face as it looks in the worn picture, tone and grain matched."""
    source = raster_of(case.picture, case.subject.gray)
    change = portrait.change_of(case.aligned(case.picture), after)
    return portrait.aligned(portrait.pasted(source, source, case.seat, change), case.seat)


def nearness(face: Floats, truth: Floats, landmarks: Floats | None, detector: CenterFace) -> Nearness:
    """``face`` against ``truth``, both aligned (S, S, 3); ``landmarks`` of the truth."""
    share = portrait.face_share(face.shape[0], FaceNet.zoom)[:, :, None]
    error = float((np.square(face - truth) * share).sum() / (share.sum() * 3))
    there = identity.landmarks_in(face, detector, FaceNet.zoom)
    moved = float("nan")
    if there is not None and landmarks is not None:
        moved = float(np.linalg.norm(there - landmarks, axis=1).mean() / portrait.eye_distance(landmarks))
    one, other = (np.asarray(portrait.inner(x, FaceNet.zoom), np.float32) for x in (face, truth))
    return Nearness(
        psnr=-10 * math.log10(max(error, 1e-9)),
        ssim=metrics.ssim(one, other),
        ms_ssim=metrics.ms_ssim(_at_least(one), _at_least(other)),
        landmarks=moved,
        identity=identity.structure_distance(truth, face, FaceNet.zoom),
    )


def _at_least(face: Floats, side_px: int = 192) -> Floats:
    """Enlarged, where MS-SSIM's five scales do not fit."""
    if min(face.shape[:2]) >= side_px:
        return face
    return np.asarray(cv2.resize(face, (side_px, side_px), interpolation=cv2.INTER_CUBIC), np.float32)


def cases_of(found: Sequence[Subject], level: str, detector: CenterFace) -> list[Worn]:
    """Every subject worn at ``level``, but for those without a face."""
    return [case for case in (worn(subject, level, detector) for subject in found) if case is not None]
