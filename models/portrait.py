"""Faces brought upright for a face network, and what it made of them brought back into the picture without a seam."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from models.colour import space_of
from models.imaging import Raster
from models.nets.centerface import Face
from models.network import Network, NetworkError, NonFiniteOutput, WrongSize
from models.tiling import add_residual, is_gray, region, resized

THEIRS_PX = 512  # the side that face networks of others were made for
# Where eyes, nose and corners of the mouth lie in the aligned pictures that they were trained on (FFHQ), of the side.
TEMPLATE = (
    np.array([[192.98, 239.95], [318.90, 240.19], [256.63, 314.02], [201.26, 371.41], [313.09, 371.15]], np.float32)
    / 512
)
ZOOM_CENTRE = np.array([0.5, 0.6], np.float32)  # of the template: a zoomed square keeps forehead and chin alike
FACE_CENTRE, FACE_RADII = (0.5, 0.57), (0.30, 0.36)  # an ellipse from hairline to chin, of the template
INNER = np.array([[0.23, 0.32], [0.77, 0.86]], np.float32)  # brows to chin, cheek to cheek, of the template
FADES_FROM, FADES_TO = 0.8, 1.15  # of the ellipse's radius
ROOM = 1.4  # a face with so many more pixels than a square has is still worked in that square: nearer than the next
TONE_SHARE = 0.1  # of the side: what changes more slowly is tone, and stays the picture's
RING = 0.02  # share below which a pixel counts as around the face
GRAIN_PX = 1.5
FLAT = 0.06  # of full scale a pixel: where the restored face is steeper, no grain is put back
CONTRAST = (0.5, 2.0)
BATCH = 8  # faces that go through a network at once

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class Seat:
    """Where one face sits: ``forward`` (2, 3) maps picture pixels to the aligned picture of ``side_px``.

    ``zoom``: how much larger the face is in it than in the template. ``top``, ``bottom``, ``left``, ``right``: the part
    of the picture that it reaches.
    """

    forward: NDArray[np.float64]
    top: int
    bottom: int
    left: int
    right: int
    side_px: int
    zoom: float

    def aligned_points(self, points: Floats) -> Floats:
        """(n, 2) pixels of the picture as pixels of the aligned one."""
        return np.asarray(points @ self.forward[:, :2].T + self.forward[:, 2], np.float32)


def template(side_px: int, zoom: float = 1.0) -> Floats:
    """(5, 2) x, y of the landmarks in an aligned picture of ``side_px``."""
    return placed(np.asarray(TEMPLATE, np.float32), side_px, zoom)


def placed(points: Floats, side_px: int, zoom: float) -> Floats:
    """Points of the unit square of the template as pixels of an aligned picture."""
    return np.asarray(((points - ZOOM_CENTRE) * zoom + ZOOM_CENTRE) * side_px, np.float32)


def side_for(face: Face, sides_px: Sequence[int], zoom: float = 1.0) -> int:
    """The smallest of ``sides_px`` that holds about all the pixels the face has, else the largest."""
    apart = eye_distance(face.landmarks)
    for side_px in sorted(sides_px):
        if apart <= ROOM * eye_distance(template(side_px, zoom)):
            return side_px
    return max(sides_px)


def eye_distance(landmarks: Floats) -> float:
    """Pixels between the eyes of (5, 2) landmarks."""
    return float(np.linalg.norm(landmarks[1] - landmarks[0]))


def seat_of(face: Face, height: int, width: int, side_px: int = THEIRS_PX, zoom: float = 1.0) -> Seat | None:
    """The similarity that brings the face's five landmarks to the template; None where they allow none."""
    found = cv2.estimateAffinePartial2D(face.landmarks, template(side_px, zoom), method=cv2.LMEDS)[0]
    if found is None or not np.isfinite(found).all() or abs(np.linalg.det(found[:, :2])) < 1e-9:
        return None
    forward = np.asarray(found, np.float64)
    corners = np.array([[0, 0], [side_px, 0], [side_px, side_px], [0, side_px]], np.float64)
    back = np.asarray(cv2.invertAffineTransform(forward), np.float64)
    reached = corners @ back[:, :2].T + back[:, 2]
    left, top = np.floor(reached.min(axis=0)).astype(int)
    right, bottom = np.ceil(reached.max(axis=0)).astype(int) + 1
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if left >= right or top >= bottom:
        return None
    return Seat(forward, int(top), int(bottom), int(left), int(right), side_px, zoom)


def aligned(source: Raster, seat: Seat) -> Floats:
    """(side, side, 3) float32 sRGB in [0, 1]: the face upright in the template, as a network wants it.

    A face larger than that is reduced by area first; what lies outside the picture is mirrored in.
    """
    cut = region(source.pixels, seat.top, seat.bottom, seat.left, seat.right)
    srgb = space_of(source).to_srgb(cut)
    forward = seat.forward.copy()
    forward[:, 2] += forward[:, :2] @ np.array([seat.left, seat.top], np.float64)
    smaller = int(max(1.0, 1 / np.sqrt(abs(np.linalg.det(forward[:, :2])))))
    if smaller > 1:
        height, width = (side // smaller * smaller for side in srgb.shape[:2])
        srgb = resized(np.ascontiguousarray(srgb[:height, :width]), 1 / smaller)
        forward[:, 2] += forward[:, :2] @ np.full(2, (smaller - 1) / 2)  # pixel centres of the reduced picture
        forward[:, :2] *= smaller
    size, how, border = (seat.side_px, seat.side_px), cv2.INTER_CUBIC, cv2.BORDER_REFLECT_101
    made = cv2.warpAffine(srgb, forward, size, flags=how, borderMode=border)
    return np.clip(made, 0, 1).astype(np.float32, copy=False)


def restored(
    faces: Sequence[Floats], net: Network, fidelity: float, gray: Sequence[bool], names: Sequence[str]
) -> list[Floats | NetworkError]:
    """Each aligned face as the network gives it, or the error that it alone had; faces of one side share batches.

    ``fidelity``: 1 is the network's faithful answer, 0 the one with all the detail it draws; of a network that gives
    one answer alone, the face as it was stands for the faithful one. ``gray``: those come out with equal channels.
    Errors in the list: NonFiniteOutput, WrongSize.
    """
    results: dict[int, Floats | NetworkError] = {}
    for side_px in sorted({face.shape[0] for face in faces}):
        alike = [i for i, face in enumerate(faces) if face.shape[0] == side_px]
        for start in range(0, len(alike), BATCH):
            some = alike[start : start + BATCH]
            made = net(np.stack([faces[i] for i in some]))
            for i, answer in zip(some, made, strict=True):
                results[i] = _blended(faces[i], answer, net, fidelity, gray[i], names[i])
    return [results[i] for i in range(len(faces))]


def _blended(
    face: Floats, answer: Floats, net: Network, fidelity: float, gray: bool, name: str
) -> Floats | NetworkError:
    both = bool(getattr(net.module, "faithful", False))
    side_px = face.shape[0] * net.card.scale
    expected = (side_px, side_px, 6 if both else 3)
    if answer.shape != expected:
        return WrongSize(name, expected=f"a face {expected}", found=str(answer.shape))
    if not np.isfinite(answer).all():
        return NonFiniteOutput(name, expected="a face of finite pixels", found="NaN or infinity", evidence=face)
    answer = resized(answer, 1 / net.card.scale)
    faithful, drawn = (answer[..., :3], answer[..., 3:]) if both else (face, answer)
    made = np.float32(fidelity) * faithful + np.float32(1 - fidelity) * drawn
    if gray:  # face networks add colour to gray pictures
        made = np.repeat(made.mean(axis=2, keepdims=True, dtype=np.float32), 3, axis=2)
    return np.clip(made, 0, 1).astype(np.float32, copy=False)


def change_of(before: Floats, after: Floats) -> Floats:
    """(side, side, 3): what was changed of an aligned face but for its tone, which stays that of its surroundings."""
    change = after - before
    return np.asarray(change - _soft(change, before.shape[0] * TONE_SHARE), np.float32)


@lru_cache(maxsize=8)
def face_share(side_px: int, zoom: float = 1.0) -> Floats:
    """(side, side) in [0, 1]: 1 on the face, fading out between hairline and border; what is put back of it."""
    at = (np.arange(side_px, dtype=np.float32) + np.float32(0.5)) / np.float32(side_px)
    x = (at - ZOOM_CENTRE[0]) / np.float32(zoom) + ZOOM_CENTRE[0]
    y = (at - ZOOM_CENTRE[1]) / np.float32(zoom) + ZOOM_CENTRE[1]
    across, down = (x - FACE_CENTRE[0]) / FACE_RADII[0], (y - FACE_CENTRE[1]) / FACE_RADII[1]
    radius = np.sqrt(across[None, :] ** 2 + down[:, None] ** 2)
    rest = np.clip((FADES_TO - radius) / (FADES_TO - FADES_FROM), 0, 1)
    edge = np.clip(np.minimum(at, 1 - at) * 16, 0, 1)  # nothing at the border, wherever the face lies
    return np.asarray(rest * rest * (3 - 2 * rest) * edge[None, :] * edge[:, None], np.float32)


def inner(face: Floats, zoom: float = 1.0) -> Floats:
    """The square from brows to chin of an aligned face: where people are told apart."""
    corners = np.rint(placed(INNER, face.shape[0], zoom)).astype(int)
    (left, top), (right, bottom) = np.clip(corners, 0, face.shape[0])
    return np.ascontiguousarray(face[top:bottom, left:right])


def pasted(target: Raster, source: Raster, seat: Seat, change: Floats) -> Raster:
    """``target`` with the face of ``source`` plus ``change`` in it, behind a soft mask; no other pixel moves.

    ``target``: the size of ``source`` or a whole multiple; its own bit depth and profile are kept. The face comes from
    the source's own pixels, so that it is not restored twice, and keeps its detail where it is larger than the
    aligned one. It takes the tone and the contrast that the target has there, and where the target around it is
    grainier than it came out, grain of its own comes back where it is smooth.
    """
    scale = target.width // source.width
    top, bottom, left, right = (side * scale for side in (seat.top, seat.bottom, seat.left, seat.right))
    forward = seat.forward.copy()
    forward[:, 2] += forward[:, :2] @ np.array([seat.left, seat.top], np.float64)
    forward[:, 2] += forward[:, :2] @ np.full(2, (1 / scale - 1) / 2)
    forward[:, :2] /= scale
    # WARP_INVERSE_MAP: the matrix given maps the part of the picture to the aligned face, which is where to look.
    size, flags = (right - left, bottom - top), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    share = cv2.warpAffine(face_share(seat.side_px, seat.zoom), forward, size, flags=flags)
    share = share.astype(np.float32, copy=False)[:, :, None]
    reduction = float(np.sqrt(abs(np.linalg.det(forward[:, :2]))))  # pixels of the aligned face for one of the target
    if reduction > 1.5:
        change = cv2.GaussianBlur(change, (0, 0), 0.25 * reduction).astype(np.float32, copy=False)
    sharp = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP  # a softer way back would leave the finest grain in the face
    moved = cv2.warpAffine(change, forward, size, flags=sharp).astype(np.float32, copy=False)
    space = space_of(target)
    own = region(target.pixels, top, bottom, left, right)
    around = space.to_srgb(own)
    face = space_of(source).to_srgb(region(source.pixels, seat.top, seat.bottom, seat.left, seat.right))
    face = resized(face, scale)
    toned = _in_tone(face, moved, around, share, seat.side_px * TONE_SHARE / reduction)
    residual = (toned + _grain_back(toned, moved, around, share) - around) * share
    out = target.pixels.copy()
    out[top:bottom, left:right] = add_residual(own, residual, space, is_gray(target.pixels), out.dtype)
    untouched = share[:, :, 0] == 0
    out[top:bottom, left:right][untouched] = target.pixels[top:bottom, left:right][untouched]
    return target.with_pixels(out)


def _in_tone(face: Floats, moved: Floats, around: Floats, share: Floats, tone_px: float) -> Floats:
    """``face`` + ``moved`` with the slow changes of ``around``, and its contrast; the sum itself where they agree."""
    if np.array_equal(face, around):
        return face + moved
    slow, there = _soft(face, tone_px), _soft(around, tone_px)
    total = float(share.sum()) or 1.0
    spreads = []
    for tone in (slow, there):
        luma = tone.mean(axis=2, keepdims=True)
        middle = float((luma * share).sum()) / total
        spreads.append(float((np.square(luma - middle) * share).sum()) / total)
    gain = np.clip(np.sqrt((spreads[1] + 1e-5) / (spreads[0] + 1e-5)), *CONTRAST)
    return np.asarray(there + np.float32(gain) * (face - slow + moved), np.float32)


def _grain_back(toned: Floats, moved: Floats, around: Floats, share: Floats) -> Floats:
    """What has to be added so that the face is as grainy as what lies around it: its own grain, where it is smooth."""
    inside, ring = share[:, :, 0] > 0.8, share[:, :, 0] < RING
    wanted, there = _grain(around, ring), _grain(toned, inside)
    removed = -(moved - _soft(moved, GRAIN_PX))
    had = _grain(removed, inside)
    if not wanted > there or not had > 1e-6:  # also where too little is there to say
        return np.zeros_like(toned)
    luma = _soft(toned.mean(axis=2), 1.0)
    steep = np.hypot(cv2.Sobel(luma, cv2.CV_32F, 1, 0), cv2.Sobel(luma, cv2.CV_32F, 0, 1)) / np.float32(8)
    flat = np.exp(-np.square(steep / np.float32(FLAT)))[:, :, None]
    amount = min(1.0, float(np.sqrt(wanted**2 - there**2)) / had)
    return np.asarray(np.float32(amount) * flat * removed, np.float32)


def _grain(picture: Floats, where: NDArray[np.bool_]) -> float:
    """Standard deviation of the noise there, of full scale (D. Donoho, 1994: finest diagonal wavelets); NaN if tiny."""
    luma = picture.mean(axis=2)[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
    diagonal = np.abs(luma[::2, ::2] - luma[1::2, ::2] - luma[::2, 1::2] + luma[1::2, 1::2]) / 2
    counted = diagonal[where[: luma.shape[0] : 2, : luma.shape[1] : 2]]
    return float(np.median(counted) / 0.6745) if counted.size >= 32 else float("nan")


def _soft(picture: Floats, sigma_px: float) -> Floats:
    blurred = cv2.GaussianBlur(picture, (0, 0), max(sigma_px, 0.5), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred, np.float32)
