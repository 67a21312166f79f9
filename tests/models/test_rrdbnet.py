from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from models import weights
from models.nets import rrdbnet
from models.nets.rrdbnet import RRDBNet, from_ncnn
from models.registry import card

# computed once in float32, with these weights, by spandrel 0.4.2's implementation of the network
EXPECTED = [0.49741, 0.51054, 1.05343, 0.85297, 0.07502, 0.17797, 0.48348, 0.34497]


def test_the_names_are_those_of_the_public_files():
    names = set(RRDBNet().state_dict())
    assert len(names) == 2 * 351
    assert {"conv_first.weight", "body.0.rdb1.conv1.weight", "body.22.rdb3.conv5.bias", "conv_body.bias",
            "conv_up1.weight", "conv_up2.weight", "conv_hr.weight", "conv_last.bias"} <= names  # fmt: skip


def test_enlarging_in_strips_gives_what_enlarging_at_once_gives(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(3)
    net = RRDBNet(width=8, growth=4, blocks=1).eval().requires_grad_(False)
    x = torch.rand(2, 3, 71, 20)
    monkeypatch.setattr(rrdbnet, "STRIP_PX", 1000)
    whole = net(x)
    assert whole.shape == (2, 3, 284, 80)
    monkeypatch.setattr(rrdbnet, "STRIP_PX", 16)
    assert torch.allclose(net(x), whole, atol=1e-6)


def test_gradients_flow_when_they_are_wanted():
    net = RRDBNet(width=8, growth=4, blocks=1)
    net(torch.rand(1, 3, 8, 8)).sum().backward()
    assert net.conv_first.weight.grad is not None


def test_a_file_of_another_network_is_refused():
    with pytest.raises(weights.UnusableWeights, match="RRDBNet"):
        from_ncnn(bytes(1000))


def test_the_pinned_weights_give_the_known_pixels(weights_of: Callable[[str], Path]):
    x4plus = card("realesrgan-x4plus")
    path = weights_of(x4plus.id)
    state = weights.converted(path, x4plus.files[0].sha256, x4plus.id, from_ncnn, pinned=x4plus.state_sha256)
    net = weights.load_strictly(RRDBNet(), state, x4plus.id)
    y, x = np.mgrid[0:24, 0:24].astype(np.float32) / 23
    given = np.stack([x, y, np.where((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.1, 1, 0.2)]).astype(np.float32)
    with torch.inference_mode():
        made = net(torch.from_numpy(given)[None])[0].numpy()
    assert made.shape == (3, 96, 96)
    found = [*made[:, 48, 48], *made[:, 10, 80], made.mean(), made.std()]
    np.testing.assert_allclose(found, EXPECTED, atol=2e-4)
