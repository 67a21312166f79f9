"""CenterFace: faces as boxes with five landmarks."""

from __future__ import annotations

import functools
import math
import threading
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.registry import ModelCard
from models.weights import UnusableWeights, verify

OUTPUTS = ("537", "538", "539", "540")  # heat map, log size, offset, landmarks; each at a quarter of the input
STRIDE_PX = 4
MULTIPLE_PX = 32
LONG_SIDES_PX = (640, 1280, 2560)  # large faces are found small, small ones in a group at full size
SAME_FACE_IOU = 0.3


@dataclass(frozen=True, eq=False, slots=True)
class Face:
    """One face, in pixels of the picture it was found in; ``score`` in [0, 1].

    ``landmarks``: (5, 2) float32 x, y of the eye on the picture's left, the one on its right, nose, mouth left, right.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    landmarks: NDArray[np.float32]
    score: float

    @property
    def width_px(self) -> float:
        """Width of the box."""
        return self.x1 - self.x0

    @property
    def height_px(self) -> float:
        """Height of the box."""
        return self.y1 - self.y0


class CenterFace:
    """The detector, loaded. Y. Xu et al., CenterFace: Joint Face Detection and Alignment Using Face as Point, 2019."""

    def __init__(self, card: ModelCard, path: Path) -> None:
        """``path``: the card's pinned ONNX file; raises MissingWeights, AlteredWeights, UnusableWeights."""
        data = verify(path, card.files[0].sha256, card.id).read_bytes()
        try:
            self._net = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))
            self._net.enableFusion(False)  # OpenCV fuses the same layers again at each new size: then all is a face
            self._lock = threading.Lock()  # a cv2.dnn network holds its input
        except cv2.error as error:
            raise UnusableWeights(card.id, expected="an ONNX network", found=str(error)) from error

    def detect_faces(self, rgb8: NDArray[np.uint8], *, min_score: float = 0.5) -> list[Face]:
        """The faces of (h, w, 3) uint8 sRGB, best first; each once. Gray scans: give three equal channels.

        A large picture is looked at with long sides of 640, 1280 and 2560 px, a small one at those under its own and
        as it is. Raises ValueError for another shape or dtype.
        """
        if rgb8.ndim != 3 or rgb8.shape[2] != 3 or rgb8.dtype != np.uint8:
            raise ValueError(f"detect_faces: expected (h, w, 3) uint8, found {rgb8.shape} {rgb8.dtype}")
        long_side = max(rgb8.shape[:2])
        sides = [side for side in LONG_SIDES_PX if side < long_side]
        if long_side <= LONG_SIDES_PX[-1]:
            sides.append(long_side)
        found = [face for side in sides for face in self._at(rgb8, side / long_side, min_score)]
        if not found:
            return []
        boxes = [(f.x0, f.y0, f.width_px, f.height_px) for f in found]
        kept = cv2.dnn.NMSBoxes(boxes, [f.score for f in found], min_score, SAME_FACE_IOU)
        return [found[int(i)] for i in np.asarray(kept).reshape(-1)]

    def _at(self, rgb8: NDArray[np.uint8], ratio: float, min_score: float) -> list[Face]:
        """Faces of the picture looked at ``ratio`` times its size, in its own pixels."""
        height, width = rgb8.shape[:2]
        high, wide = (math.ceil(max(side * ratio, 1) / MULTIPLE_PX) * MULTIPLE_PX for side in (height, width))
        smaller = high < height and wide < width
        seen = cv2.resize(rgb8, (wide, high), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
        with self._lock:
            self._net.setInput(cv2.dnn.blobFromImage(seen))
            heat, size, offset, marks = (np.array(out) for out in self._net.forward(OUTPUTS))
        rows, columns = np.nonzero(heat[0, 0] > min_score)
        faces = []
        to_picture = np.array([width / wide, height / high], np.float32)
        for row, column in zip(rows, columns, strict=True):
            extent = np.exp(size[0, ::-1, row, column]) * STRIDE_PX  # x, y; the network gives y first
            centre = (np.array([column, row]) + offset[0, ::-1, row, column] + 0.5) * STRIDE_PX
            corner = centre - extent / 2
            points = (marks[0, :, row, column].reshape(5, 2)[:, ::-1] * extent + corner) * to_picture
            x0, y0 = np.clip(corner * to_picture, 0, (width, height))
            x1, y1 = np.clip((corner + extent) * to_picture, 0, (width, height))
            score = float(heat[0, 0, row, column])
            faces.append(Face(float(x0), float(y0), float(x1), float(y1), points.astype(np.float32), score))
        return faces


@functools.cache
def resident(card: ModelCard, path: Path) -> CenterFace:
    """The detector, loaded once per process."""
    return CenterFace(card, path)
