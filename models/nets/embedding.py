"""A registered network that says who somebody is, as ONNX: what the identity gate asks where an archive has one."""

from __future__ import annotations

import functools
import threading
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.registry import ModelCard
from models.weights import UnusableWeights, verify

SIDE_PX = 112
# Where eyes, nose and corners of the mouth lie in what such networks take (J. Deng et al., ArcFace, 2019), of the side.
TEMPLATE = (
    np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
    / SIDE_PX
)

Floats = NDArray[np.float32]


class Embedding:
    """The network, loaded: a face (1, 3, 112, 112) RGB in 0..255 -> a vector, as OpenCV's SFace takes and gives."""

    def __init__(self, card: ModelCard, path: Path) -> None:
        """``path``: the card's pinned ONNX file; raises MissingWeights, AlteredWeights, UnusableWeights."""
        data = verify(path, card.files[0].sha256, card.id).read_bytes()
        try:
            self._net = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))
        except cv2.error as error:
            raise UnusableWeights(card.id, expected="an ONNX network", found=str(error)) from error
        self._lock = threading.Lock()  # a cv2.dnn network holds its input
        self.name = card.id

    def distance(self, before: Floats, after: Floats, points: Floats) -> float:
        """0 (the same) to 2: 1 less the cosine of the vectors of two faces (S, S, 3) sRGB in [0, 1].

        ``points`` (5, 2): where the landmarks lie in both. NaN, which no limit lets pass, where there is no vector.
        """
        one, other = self._vector(before, points), self._vector(after, points)
        size = float(np.linalg.norm(one) * np.linalg.norm(other))
        return 1 - float(one @ other) / size if size > 0 else float("nan")

    def _vector(self, face: Floats, points: Floats) -> NDArray[np.float64]:
        seat = cv2.estimateAffinePartial2D(points, np.asarray(TEMPLATE * SIDE_PX, np.float32), method=cv2.LMEDS)[0]
        seen = cv2.warpAffine(np.clip(face, 0, 1) * 255, seat, (SIDE_PX, SIDE_PX), borderMode=cv2.BORDER_REFLECT_101)
        with self._lock:
            self._net.setInput(cv2.dnn.blobFromImage(seen.astype(np.float32)))
            return np.asarray(self._net.forward(), np.float64).ravel()


@functools.cache
def resident(card: ModelCard, path: Path) -> Embedding:
    """The network, loaded once per process."""
    return Embedding(card, path)
