"""A registered identity network: read from ONNX, asked about aligned faces, refused where it is none."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from models import identity, portrait
from models.nets.embedding import SIDE_PX, Embedding
from models.registry import ModelCard, WeightFile
from models.weights import AlteredWeights, UnusableWeights


def field(number: int, value: bytes | int | str) -> bytes:
    """One field of a protobuf message: a number, or what has a length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    body = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(body)) + body


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + struct.pack("B", value & 127 | 128), value >> 7
    return out + struct.pack("B", value)


def onnx() -> bytes:
    """A network that averages squares of 16 px and lays them side by side: (1, 3, 112, 112) -> (1, 147)."""

    def tensor(name: str, *sides: int) -> bytes:
        shape = b"".join(field(1, field(1, side)) for side in sides)
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))

    def numbers(name: str) -> bytes:
        return field(5, field(1, name) + field(8, 16) + field(8, 16) + field(20, 7))

    pool = field(1, "x") + field(2, "p") + field(4, "AveragePool") + numbers("kernel_shape") + numbers("strides")
    flat = field(1, "p") + field(2, "y") + field(4, "Flatten")
    inputs = field(11, tensor("x", 1, 3, SIDE_PX, SIDE_PX)) + field(12, tensor("y", 1, 147))
    graph = field(1, pool) + field(1, flat) + field(2, "g") + inputs
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


def card(path: Path, content: bytes) -> ModelCard:
    path.write_bytes(content)
    file = WeightFile(f"file:{path}", hashlib.sha256(content).hexdigest(), len(content))
    return ModelCard("who", "face_identity", "onnx", licence="MIT", data_terms="free", files=(file,))


def faces() -> tuple[np.ndarray, np.ndarray]:
    """The astronaut upright in the template, and the same face mirrored."""
    found = np.array([[203, 102], [247, 105], [223, 125], [203, 142], [241, 144]], np.float32)
    from models.imaging import Raster
    from models.nets.centerface import Face

    seat = portrait.seat_of(Face(0, 0, 9, 9, found, 0.9), 512, 512, 256)
    assert seat is not None
    upright = portrait.aligned(Raster(data.astronaut()), seat)
    return upright, np.ascontiguousarray(upright[:, ::-1])


def test_a_vector_is_made_of_the_face_where_its_landmarks_lie(tmp_path: Path) -> None:
    network = Embedding(card(tmp_path / "who.onnx", onnx()), tmp_path / "who.onnx")
    one, other = faces()
    points = portrait.template(256)
    assert network.distance(one, one, points) == pytest.approx(0, abs=1e-6)
    assert 1e-3 < network.distance(one, other, points) < 2
    aside = np.concatenate([np.zeros_like(one[:, :200]), one], axis=1)
    moved = points + np.array([200, 0], np.float32)
    assert network.distance(aside, aside[:, ::-1], moved) > 0.01
    assert np.isnan(network.distance(np.zeros_like(one), one, points)), "no vector, no limit it passes"


def test_the_gate_asks_the_embedding_where_there_is_one(tmp_path: Path) -> None:
    class Sees:
        def detect_faces(self, rgb8: np.ndarray, *, min_score: float) -> list[object]:
            from models.nets.centerface import Face

            return [Face(0, 0, 256, 256, portrait.template(256), 0.9)]

    network = Embedding(card(tmp_path / "who.onnx", onnx()), tmp_path / "who.onnx")
    one, other = faces()
    found = identity.likeness(one, other, portrait.template(256), Sees(), embedding=network)  # type: ignore[arg-type]
    assert found.measure == "who"
    assert found.distance == network.distance(one, other, portrait.template(256))
    alike = identity.Likeness(0.0, 0.0, 0.3, "who")
    assert identity.verdict(alike, embedding_limit=0.4) is None
    assert identity.verdict(alike, embedding_limit=0.2) == "identity (who) differs (by 0.300, limit 0.200)"


def test_what_is_no_onnx_or_not_the_pinned_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "who.onnx"
    broken = card(path, b"nothing of the kind")
    with pytest.raises(UnusableWeights, match="expected an ONNX network"):
        Embedding(broken, path)
    path.write_bytes(onnx())
    with pytest.raises(AlteredWeights):
        Embedding(broken, path)
