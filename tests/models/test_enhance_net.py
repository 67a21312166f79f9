"""The detail network: small, blind to what is far, the picture itself before training; its critic; weights between."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.nets.enhance import DetailNet, EnhanceNet, UNetCritic


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def random_weights(net: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.named_parameters():
            fan = value[0].numel() if value.ndim > 1 else 100
            gain = 0.1 if "head" in name else 1.0
            value.copy_(torch.randn(value.shape, generator=generator) * gain / fan**0.5)
    return net.eval().requires_grad_(False)


def given(height: int = 64, width: int = 48, seed: int = 0) -> torch.Tensor:
    return torch.rand((1, 4, height, width), generator=torch.Generator().manual_seed(seed))


def test_all_parts_together_have_at_most_six_million_parameters_and_twelve_megabytes() -> None:
    parameters = sum(p.numel() for p in EnhanceNet().parameters())
    assert parameters <= 6_000_000
    assert 2 * parameters <= 12e6


def test_before_training_the_picture_comes_back_exactly_at_any_size() -> None:
    net = DetailNet().eval()
    for height, width in ((64, 64), (37, 51), (8, 8)):
        picture = given(height, width)
        np.testing.assert_array_equal(net(picture).detach().numpy(), picture[:, :3].numpy())


def test_a_pixel_depends_on_its_neighbourhood_alone_and_on_the_mask() -> None:
    net = random_weights(DetailNet())
    picture = given(320, 64)
    far, near = picture.clone(), picture.clone()
    far[:, :3, 200:] = 0.2
    near[:, 3, 40:44] = 1 - near[:, 3, 40:44]
    whole = net(picture)
    beyond = (net(far) - whole)[:, :, :100].abs().max()
    assert float(beyond) < 1e-6, "what is 100 px away has no say: no norm, no pooling over the picture"
    assert float((net(near) - whole)[:, :, 30:50].abs().max()) > 1e-4, "the mask is seen"


def test_weights_between_two_networks_are_the_one_the_other_and_what_lies_between() -> None:
    net = EnhanceNet()
    random_weights(net.fidelity, 1)
    random_weights(net.gan, 2)
    picture, mask = given()[:, :3], given()[:, 3:]
    ends = [part(torch.cat([picture, mask], 1)) for part in (net.fidelity, net.gan)]
    for strength, end in zip((0.0, 1.0), ends, strict=True):
        np.testing.assert_allclose(net.between(strength)(picture, mask).numpy(), end.numpy(), atol=1e-6)
    middle = net.between(0.5)(picture, mask)
    assert min(float((middle - end).abs().mean()) for end in ends) > 1e-4
    np.testing.assert_allclose(net(picture).detach().numpy(), net.between(0.0)(picture).numpy(), atol=1e-6)


def test_the_critic_scores_every_place_and_its_filters_are_held() -> None:
    critic = UNetCritic()
    scores = critic(given(64, 48)[:, :3])
    assert scores.shape == (1, 1, 32, 24)
    for _ in range(20):
        critic(given()[:, :3])  # each pass in training brings the estimate of the norm nearer
    critic.eval()
    for name in ("stem", "down", "deep", "lift", "rise"):
        weight = getattr(critic, name).weight.detach().flatten(1)
        assert float(torch.linalg.matrix_norm(weight, 2)) < 1.1
