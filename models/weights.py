"""From a local file to tensors: sha256 verified, read without running any code, converted once, loaded strictly."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

State = dict[str, torch.Tensor]
Convert = Callable[[bytes], State]

NCNN_FP16 = 0x01306B47


class WeightsError(Exception):
    """Root of what weights raise. ``str()`` names the file, what was expected, what was found and the remedy."""

    def __init__(self, name: str, *, expected: str, found: str, remedy: str = "") -> None:
        super().__init__(f"{name}: expected {expected}, found {found}" + (f"; {remedy}" if remedy else ""))
        self.name, self.expected, self.found, self.remedy = name, expected, found, remedy


class MissingWeights(WeightsError):
    """The file of weights is not there."""


class AlteredWeights(WeightsError):
    """The file of weights is not the one that was pinned."""


class UnusableWeights(WeightsError):
    """The pinned file does not hold the tensors that the network needs, no more and no fewer."""


def remedy(model_id: str) -> str:
    """How to get a model's weights, for messages."""
    return f"fetch it with: glassplate models fetch {model_id}"


def file_sha256(path: Path) -> str:
    """sha256 of the file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names, dtypes, shapes and values in order of name: equal tensors, equal digest, whatever the file."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def verify(path: Path, sha256: str, name: str) -> Path:
    """``path``, once it is known to be the pinned file of model ``name``.

    Raises MissingWeights when there is no such file, AlteredWeights when its sha256 is another.
    """
    if not path.is_file():
        raise MissingWeights(str(path), expected=f"weights of sha256 {sha256}", found="no file", remedy=remedy(name))
    found = file_sha256(path)
    if found != sha256:
        raise AlteredWeights(str(path), expected=f"sha256 {sha256}", found=f"sha256 {found}", remedy=remedy(name))
    return path


class NcnnFile:
    """The tensors of an ncnn ``.bin``, read one after another in the order of its layers.

    A convolution is a uint32 flag, the weights (0x01306B47: float16, padded to 4 bytes; 0: float32) and a float32
    bias. There are no names in the file: the caller knows the order, and ``close`` says whether every byte was used.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._name, self._at = data, name, 0

    def _take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise UnusableWeights(
                self._name, expected=f"{size} more bytes at {self._at}", found=f"{len(taken)}: the file is too short"
            )
        self._at += size
        return taken

    def _floats(self, count: int) -> NDArray[np.float32]:
        flag = int.from_bytes(self._take(4), "little")
        if flag == NCNN_FP16:
            return np.frombuffer(self._take(-(-count * 2 // 4) * 4), "<f2")[:count].astype(np.float32)
        if flag == 0:
            return np.frombuffer(self._take(count * 4), "<f4").astype(np.float32)
        raise UnusableWeights(
            self._name,
            expected=f"an ncnn weight flag 0 or {NCNN_FP16:#010x} at byte {self._at - 4}",
            found=f"{flag:#010x}",
        )

    def constant(self, count: int) -> torch.Tensor:
        """(count,) float32 without flag: an ncnn ``MemoryData``."""
        return torch.from_numpy(np.frombuffer(self._take(count * 4), "<f4").astype(np.float32))

    def convolution(self, out_channels: int, in_channels: int, kernel_px: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (out, in, k, k) and bias (out,), float32."""
        shape = (out_channels, in_channels, kernel_px, kernel_px)
        weight = torch.from_numpy(self._floats(math.prod(shape)).reshape(shape).copy())
        return weight, self.constant(out_channels)

    def close(self) -> None:
        """Raises UnusableWeights when bytes are left over: then the network is not the one the file is of."""
        if self._at != len(self._data):
            raise UnusableWeights(
                self._name, expected=f"{self._at} bytes, as the network has layers", found=f"{len(self._data)}"
            )


def read_state(path: Path) -> State:
    """The tensors of a ``.safetensors``, ``.pth`` or ``.pt`` file on the CPU; pickled code is never run.

    A checkpoint that wraps them (``params_ema``, ``params``, ``state_dict``, ``model``) is unwrapped.
    Raises UnusableWeights when the file holds anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen types for a bad file
        found = str(error).partition("\n")[0]
        raise UnusableWeights(str(path), expected="a file of tensors only", found=found) from error
    for wrapper in ("params_ema", "params", "state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise UnusableWeights(str(path), expected="tensors by name", found=type(loaded).__name__)
    return loaded


def converted(path: Path, sha256: str, name: str, convert: Convert, *, pinned: str | None = None) -> State:
    """The tensors of the verified file ``path``, converted once and kept as ``converted/NAME-….safetensors`` beside it.

    ``convert``: from the file's bytes to float32 tensors. ``pinned``: ``state_sha256`` the tensors must have; a kept
    copy that no longer has it is made anew. A folder that cannot be written to only costs the time to convert again.
    Raises MissingWeights, AlteredWeights, UnusableWeights.
    """
    kept = path.parent / "converted" / f"{name}-{sha256[:12]}.safetensors"
    if kept.is_file() and pinned is not None:
        try:
            state = dict(load_file(kept))
        except SafetensorError:
            state = {}
        if state_sha256(state) == pinned:
            return state
    state = convert(verify(path, sha256, name).read_bytes())
    if pinned is not None and (found := state_sha256(state)) != pinned:
        raise UnusableWeights(f"{path} converted", expected=f"tensors of sha256 {pinned}", found=found)
    try:
        write_state(state, kept)
    except OSError:
        return state
    return state


def write_state(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Writes tensors as safetensors: to a temporary file, then by an atomic rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    try:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def load_strictly(module: torch.nn.Module, state: Mapping[str, torch.Tensor], name: str) -> torch.nn.Module:
    """``module`` with exactly the tensors of ``state``, in evaluation mode, without gradients.

    Raises UnusableWeights naming what is missing, what is too much and what has another shape.
    """
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        found = " ".join(str(error).split())
        raise UnusableWeights(name, expected=f"the tensors of {type(module).__name__}", found=found[:600]) from error
    return module.eval().requires_grad_(False)
