"""Small networks with random weights, registered as an archive registers the models of others."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path

import torch
from safetensors.torch import save_file

from infra.settings import RegisteredModel
from models.nets import thirdparty


def architecture(name: str) -> type[torch.nn.Module]:
    """A network's class as spandrel has it; without the extra ``thirdparty`` the test that asks for it fails."""
    thirdparty._spandrel(Path("toy"))
    found: type[torch.nn.Module] = getattr(importlib.import_module(f"spandrel.architectures.{name}"), name)
    return found


def registered(folder: Path, purpose: str, *, scale: int = 1, change: float = 0.3, seed: int = 0) -> RegisteredModel:
    """A "RealESRGAN Compact" network of a few thousand random weights, its file in ``folder``, as a setting.

    Its output is its input, enlarged, plus something random of about ``change`` times the input.
    """
    compact = architecture("Compact")
    torch.manual_seed(seed)
    net = compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=scale)
    state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    last = max(int(name.split(".")[1]) for name in state)
    state[f"body.{last}.weight"] *= change * 10
    path = folder / f"{purpose}.pth"
    torch.save({"params": state}, path)
    return setting(path, purpose, scale=scale)


def lama_weights(folder: Path) -> Path:
    """A LaMa of random weights as ``lama.safetensors`` in ``folder``: 204 MB, for its size is fixed."""
    torch.manual_seed(0)
    net = architecture("LaMa")(in_nc=4, out_nc=3)
    state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    last = max(int(name.split(".")[2]) for name in state)
    state[f"model.model.{last}.weight"] *= 100  # else random weights give one even gray
    save_file(state, folder / "lama.safetensors")
    return folder / "lama.safetensors"


def setting(path: Path, purpose: str, *, scale: int = 1, licence: str = "MIT") -> RegisteredModel:
    """The file of weights at ``path`` as a setting registers it, as ``toy-PURPOSE``."""
    return RegisteredModel.model_validate(
        {
            "id": f"toy-{purpose}",
            "purpose": purpose,
            "source": f"file:{path}",
            "size_bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "licence": licence,
            "data_terms": "unknown",
            "trained_on": "nothing: random",
            "scale": scale,
        }
    )
