"""Faces brought upright for a face network, and what it changed brought back into the picture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.colour import space_of
from models.imaging import Raster
from models.nets.centerface import Face
from models.network import Network, NonFiniteOutput, WrongSize
from models.tiling import add_residual, is_gray, region, resized

SIDE_PX = 512
# Where eyes, nose and corners of the mouth lie in the aligned pictures that face networks are trained on (FFHQ).
TEMPLATE = np.array(
    [[192.98, 239.95], [318.90, 240.19], [256.63, 314.02], [201.26, 371.41], [313.09, 371.15]], np.float32
)
FEATHER_PX = 48  # of the aligned picture: the change fades out towards its border

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class Seat:
    """Where one face sits: ``forward`` (2, 3) maps picture pixels to the aligned picture of ``SIDE_PX``.

    ``top``, ``bottom``, ``left``, ``right``: the part of the picture that it reaches.
    """

    forward: NDArray[np.float64]
    top: int
    bottom: int
    left: int
    right: int


def seat_of(face: Face, height: int, width: int) -> Seat | None:
    """The similarity that brings the face's five landmarks to the template; None where they allow none."""
    found = cv2.estimateAffinePartial2D(face.landmarks, TEMPLATE, method=cv2.LMEDS)[0]
    if found is None or not np.isfinite(found).all() or abs(np.linalg.det(found[:, :2])) < 1e-9:
        return None
    forward = np.asarray(found, np.float64)
    corners = np.array([[0, 0], [SIDE_PX, 0], [SIDE_PX, SIDE_PX], [0, SIDE_PX]], np.float64)
    back = np.asarray(cv2.invertAffineTransform(forward), np.float64)
    reached = corners @ back[:, :2].T + back[:, 2]
    left, top = np.floor(reached.min(axis=0)).astype(int)
    right, bottom = np.ceil(reached.max(axis=0)).astype(int) + 1
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    return Seat(forward, int(top), int(bottom), int(left), int(right)) if left < right and top < bottom else None


def change_of(source: Raster, seat: Seat, net: Network, name: str) -> Floats:
    """(512, 512, 3) float32 sRGB: what the face network changes of the aligned face; one channel's worth in gray.

    Raises NonFiniteOutput, WrongSize.
    """
    aligned = _aligned(source, seat)
    made = net(aligned[None])[0]
    side = SIDE_PX * net.card.scale
    if made.shape != (side, side, 3):
        raise WrongSize(name, expected=f"a face ({side}, {side}, 3)", found=str(made.shape))
    if not np.isfinite(made).all():
        raise NonFiniteOutput(name, expected="a face of finite pixels", found="NaN or infinity", evidence=aligned)
    change = resized(made, 1 / net.card.scale) - aligned
    if is_gray(source.pixels):  # face networks add colour to gray pictures
        change = np.repeat(change.mean(axis=2, keepdims=True, dtype=np.float32), 3, axis=2)
    return np.asarray(change, np.float32)


def _aligned(source: Raster, seat: Seat) -> Floats:
    """The face as the network wants it; a face larger than that is reduced by area first."""
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
    size, how, border = (SIDE_PX, SIDE_PX), cv2.INTER_CUBIC, cv2.BORDER_REFLECT_101
    aligned = cv2.warpAffine(srgb, forward, size, flags=how, borderMode=border)
    return np.clip(aligned, 0, 1).astype(np.float32, copy=False)


def pasted(target: Raster, source: Raster, seat: Seat, change: Floats) -> Raster:
    """``target`` with the face of ``source`` plus ``change`` in it, behind a soft mask; no other pixel moves.

    ``target``: the size of ``source`` or a whole multiple; its own bit depth and profile are kept. The face comes
    from the source's own pixels, so that it is not restored twice, and keeps its detail where it is larger than
    ``SIDE_PX``.
    """
    scale = target.width // source.width
    top, bottom, left, right = (side * scale for side in (seat.top, seat.bottom, seat.left, seat.right))
    forward = seat.forward.copy()
    forward[:, 2] += forward[:, :2] @ np.array([seat.left, seat.top], np.float64)
    forward[:, 2] += forward[:, :2] @ np.full(2, (1 / scale - 1) / 2)
    forward[:, :2] /= scale
    size, flags = (right - left, bottom - top), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    inside = np.zeros((SIDE_PX, SIDE_PX), np.float32)
    edge = FEATHER_PX
    inside[edge:-edge, edge:-edge] = 1
    soft = cv2.GaussianBlur(inside, (0, 0), edge / 3)
    # WARP_INVERSE_MAP: the matrix given maps the part of the picture to the aligned face, which is where to look.
    share = cv2.warpAffine(soft, forward, size, flags=flags).astype(np.float32, copy=False)[:, :, None]
    reduction = float(np.sqrt(abs(np.linalg.det(forward[:, :2]))))  # pixels of the aligned face for one of the target
    if reduction > 1:
        change = cv2.GaussianBlur(change, (0, 0), 0.42 * reduction).astype(np.float32, copy=False)
    moved = cv2.warpAffine(change, forward, size, flags=flags).astype(np.float32, copy=False)
    space = space_of(target)
    own = region(target.pixels, top, bottom, left, right)
    face = space_of(source).to_srgb(region(source.pixels, seat.top, seat.bottom, seat.left, seat.right))
    residual = (resized(face, scale) + moved - space.to_srgb(own)) * share
    out = target.pixels.copy()
    out[top:bottom, left:right] = add_residual(own, residual, space, is_gray(target.pixels), out.dtype)
    untouched = share[:, :, 0] == 0
    out[top:bottom, left:right][untouched] = target.pixels[top:bottom, left:right][untouched]
    return target.with_pixels(out)
