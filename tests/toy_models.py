"""Small networks with random weights, registered as an archive registers the models of others."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path

import pytest
import torch

from infra.settings import RegisteredModel
from models.nets import thirdparty
from models.weights import UnusableWeights


def registered(folder: Path, purpose: str, *, scale: int = 1, change: float = 0.3, seed: int = 0) -> RegisteredModel:
    """A "RealESRGAN Compact" network of a few thousand random weights, its file in ``folder``, as a setting.

    Its output is its input, enlarged, plus something random of about ``change`` times the input.
    """
    try:
        thirdparty._spandrel(folder)
    except UnusableWeights:
        pytest.skip("needs the extra thirdparty: pip install 'glassplate[thirdparty]'")
    compact = importlib.import_module("spandrel.architectures.Compact").Compact
    torch.manual_seed(seed)
    net = compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=scale)
    state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    last = max(int(name.split(".")[1]) for name in state)
    state[f"body.{last}.weight"] *= change * 10
    path = folder / f"{purpose}.pth"
    torch.save({"params": state}, path)
    return RegisteredModel.model_validate(
        {
            "id": f"toy-{purpose}",
            "purpose": purpose,
            "source": f"file:{path}",
            "size_bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "licence": "MIT",
            "data_terms": "unknown",
            "trained_on": "nothing: random",
            "scale": scale,
        }
    )
