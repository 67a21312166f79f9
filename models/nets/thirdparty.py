"""Networks of others, recognised by the names of their tensors through spandrel (the optional extra ``thirdparty``)."""

from __future__ import annotations

import importlib
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.weights import State, UnusableWeights, read_state

OPERATORS = ("nms", "qnms")
SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_defined: list[torch.library.Library] = []  # a library's operators live as long as it is referred to


class ThirdParty(nn.Module):
    """A network of spandrel's as one more module: RGB in [0, 1] in, RGB about [0, 1] out.

    ``scale``: output side / input side. ``masked``: whether it fills damage and needs a mask. ``architecture``:
    spandrel's name for it. ``multiple_px``: what it wants its sides to be a multiple of. ``supports``: the dtypes it
    runs in; one that fills damage gives pixels and not a small change of them, so there float32 only. Pads to the sizes
    the network takes and crops again. A network that wants one gray channel (colorization) is given Rec. 709 luma.
    """

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.model: nn.Module = descriptor.model
        self.architecture: str = descriptor.architecture.name
        self.purpose: str = descriptor.purpose
        self.scale: int = getattr(descriptor, "scale", 1)
        self.masked: bool = descriptor.purpose == "Inpainting"
        self.gray: bool = not self.masked and descriptor.input_channels == 1
        self.multiple_px: int = descriptor.size_requirements.multiple_of
        self.supports: tuple[torch.dtype, ...] = (
            torch.float32,
            *([torch.bfloat16] if descriptor.supports_bfloat16 and not self.masked else []),
            *([torch.float16] if descriptor.supports_half and not self.masked else []),
        )
        self._descriptor = [descriptor]  # in a list: not a second submodule

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(N, 3, h, w) and for a masked network (N, 1, h, w), 1 = damaged -> (N, 3, h * scale, w * scale)."""
        if self.masked != (mask is not None):
            expected = "a mask" if self.masked else "no mask"
            raise ValueError(f"{self.architecture}: expected {expected}, found {'none' if mask is None else 'one'}")
        x = x.contiguous()
        if self.gray:
            x = (x * x.new_tensor([0.2126, 0.7152, 0.0722]).reshape(1, 3, 1, 1)).sum(dim=1, keepdim=True)
        if self.architecture == "GFPGAN":
            return _gfpgan(self.model, x)
        call = self._descriptor[0]
        each = [call(x[i : i + 1], *([] if mask is None else [mask[i : i + 1]])) for i in range(x.shape[0])]
        return torch.cat(each)


def _gfpgan(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """GFPGAN as its authors call it, in [-1, 1] (spandrel 0.4.2 leaves [0, 1]), but with its noise always the same."""
    if x.shape[2:] != (512, 512):
        raise ValueError(f"GFPGAN: expected aligned faces of 512 x 512, found {tuple(x.shape[2:])}")
    image: torch.Tensor = model(x * 2 - 1, return_rgb=False, randomize_noise=False)[0]
    return image / 2 + 0.5


def load_with_spandrel(path: Path) -> ThirdParty:
    """The network whose tensors the file at ``path`` holds (.safetensors, .pth of tensors only, TorchScript .pt).

    Of a TorchScript archive only the tensors are taken. What spandrel counts as freely licensed is recognised, and
    DDColor where ``spandrel-extra-arches`` is installed; nothing else of that package. Raises UnusableWeights when
    the extra is not installed, when no architecture fits, and when tensors are missing or left over.
    """
    spandrel = _spandrel(path)
    registry = spandrel.ArchRegistry()
    registry.add(*spandrel.MAIN_REGISTRY.architectures())
    try:
        ddcolor = importlib.import_module("spandrel_extra_arches.architectures.DDColor")
        registry.add(spandrel.ArchSupport.from_architecture(ddcolor.DDColorArch()))
    except ImportError:
        pass  # without it DDColor is not recognised, and the message below lists what is
    state = _state(path)
    try:
        descriptor = spandrel.ModelLoader(device="cpu", registry=registry).load_from_state_dict(state)
    except Exception as error:  # spandrel raises its own, RuntimeError and KeyError for tensors that do not fit
        known = ", ".join(sorted(support.architecture.name for support in registry.architectures()))
        found = " ".join(str(error).split())[:300] or type(error).__name__
        raise UnusableWeights(str(path), expected=f"tensors of one of {known}", found=found) from error
    module = ThirdParty(descriptor)
    module.eval().requires_grad_(False)
    return module


def _spandrel(path: Path) -> Any:
    """spandrel, imported so that it works beside a torch and a torchvision of different builds.

    A CUDA build of torchvision beside a CPU torch fails to import for want of two operators that no network here
    uses; defining them first mends it and does no harm where they exist.
    """
    if not _defined:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for operator in OPERATORS:
            library.define(f"{operator}{SIGNATURE}")  # type: ignore[no-untyped-call]
        _defined.append(library)
    try:
        return importlib.import_module("spandrel")
    except ImportError as error:
        raise UnusableWeights(
            str(path),
            expected="spandrel to read a third-party network",
            found=str(error),
            remedy="install it with: pip install 'glassplate[thirdparty]'",
        ) from error


def _state(path: Path) -> State:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            scripted = any(name.endswith("/constants.pkl") for name in archive.namelist())
        if scripted:
            tensors = torch.jit.load(str(path), map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
            return dict(tensors)
    return read_state(path)
