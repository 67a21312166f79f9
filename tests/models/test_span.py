from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from models import weights
from models.metrics import psnr
from models.nets.span import SPAN, AttentionBlock, from_ncnn
from models.registry import card


def test_a_block_is_its_own_attention():
    torch.manual_seed(0)
    block = AttentionBlock(4).requires_grad_(False)
    x = torch.randn(1, 4, 6, 6)
    first = torch.nn.functional.silu(block.c1_r(x))
    last = block.c3_r(torch.nn.functional.silu(block.c2_r(first)))
    out, inner = block(x)
    assert torch.allclose(out, (last + x) * (last.sigmoid() - 0.5), atol=1e-6)
    assert torch.equal(inner, first)


def test_an_output_pixel_sees_21_pixels_and_no_more():
    torch.manual_seed(0)
    net = SPAN(width=8).eval().requires_grad_(False)
    x = torch.rand(1, 3, 64, 64)
    other = x.clone()
    other[:, :, :, 0] = 1
    changed = (net(x) != net(other)).any(dim=1)[0].any(dim=0).nonzero().flatten()
    assert int(changed.max()) // 4 <= 21


def test_a_file_of_another_network_is_refused():
    with pytest.raises(weights.UnusableWeights, match="the mean"):
        from_ncnn(bytes(1000))
    with pytest.raises(weights.UnusableWeights, match="SPAN"):
        from_ncnn(np.array([0.4488, 0.4371, 0.4040], "<f4").tobytes() + bytes(100))


def test_the_pinned_weights_enlarge_better_than_a_cubic(weights_of: Callable[[str], Path]):
    span = card("span-x4")
    path = weights_of(span.id)
    state = weights.converted(path, span.files[0].sha256, span.id, from_ncnn, pinned=span.state_sha256)
    net = weights.load_strictly(SPAN(), state, span.id)
    sharp = np.ascontiguousarray(data.chelsea()[:300, 100:400])
    small = cv2.resize(sharp, (75, 75), interpolation=cv2.INTER_AREA)
    with torch.inference_mode():
        made = net(torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255)[0].permute(1, 2, 0).numpy()
    levels = np.clip(made * 255, 0, 255).round().astype(np.uint8)
    cubic = cv2.resize(small, (300, 300), interpolation=cv2.INTER_CUBIC)
    assert psnr(sharp, levels) > psnr(sharp, cubic) + 0.3
