"""Both parts of enhancement on a scan: tone kept or restored, masks seen, tiles unseen, strength, bundled weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage import data
from torch import nn

from models import enhancement, network
from models.enhancement import Enhanced
from models.imaging import Mask, Raster
from models.metrics import psnr
from models.naturalness import niqe
from models.nets.enhance import EnhanceNet
from models.network import Network, Restored
from models.registry import ModelCard, card
from models.training import evaluate_enhance, worn

TOY = ModelCard("toy", "enhance", "enhance", licence="MIT", data_terms="free", channels=4, tile_px=512)
WEIGHTS = Path(network.__file__).with_name("weights")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def ours() -> Network:
    """The bundled network."""
    chosen = card("glassplate-enhance-1")
    return network.load(chosen, WEIGHTS / chosen.files[0].name, "cpu", torch.float32)


def random_net(seed: int = 0) -> EnhanceNet:
    """Weights that change detail by some levels and tone not at all."""
    torch.manual_seed(seed)
    net = EnhanceNet()
    for part in (net.fidelity, net.gan):
        for name, value in part.named_parameters():
            if value.ndim > 1:
                nn.init.normal_(value, 0, (0.08 if "head" in name else 1.0) / value[0].numel() ** 0.5)
    return net.eval()


def toy(seed: int = 0) -> Network:
    return Network(TOY, random_net(seed), "cpu", torch.float32)


def coffee(bits: int = 8, side_px: int = 96, channels: int = 3) -> Raster:
    picture = np.ascontiguousarray(data.coffee()[100 : 100 + side_px, 100 : 100 + side_px, :channels])
    return Raster(picture if bits == 8 else picture.astype(np.uint16) * 257)


def done(raster: Raster, net: Network, **settings: object) -> Enhanced:
    (result,) = enhancement.enhance([raster], net, **settings)  # type: ignore[arg-type]
    assert isinstance(result, Enhanced), result
    return result


def test_strength_leads_from_the_one_weights_to_the_others() -> None:
    net, raster = toy(), coffee(16)
    fidelity, middle, gan = (done(raster, net, strength=s).raster.pixels.astype(int) for s in (0.0, 0.5, 1.0))
    module = net.module
    assert isinstance(module, EnhanceNet)
    (plain,) = network.restore([raster], Network(TOY, module, "cpu", torch.float32), masks=[None])
    assert isinstance(plain, Restored)
    np.testing.assert_allclose(fidelity, plain.raster.pixels, atol=4)
    assert np.abs(fidelity - gan).mean() > 100
    assert np.abs(middle - fidelity).mean() > 30
    assert np.abs(middle - gan).mean() > 30


def test_what_was_filled_is_told_to_the_network_whole_or_in_tiles_and_at_any_factor() -> None:
    net, raster = toy(), coffee(16, 160)
    mask = np.zeros((160, 160), np.uint8)
    mask[60:90, 70:80] = 255
    for factor in (1, 2):
        told, untold = (done(raster, net, masks=[m], factors=[factor]).raster.pixels for m in (Mask(mask), None))
        apart = np.abs(told.astype(int) - untold)
        assert apart[60:90, 70:80].mean() > 20
        assert apart[:8].mean() < apart[60:90, 70:80].mean() / 3, "far from the hole little is different"
    as_float = done(raster, net, masks=[Mask((mask / 255).astype(np.float32))], factors=[2]).raster.pixels
    np.testing.assert_allclose(as_float.astype(int), told, atol=1)
    with pytest.raises(ValueError, match="mask of the picture's size"):
        done(raster, net, masks=[Mask(mask[:50])])


def test_tone_is_kept_when_the_archive_wants_it_kept(ours: Network) -> None:
    faded = Raster((coffee(8, 200).pixels * 0.4 + 90).astype(np.uint8))
    kept, restored = (done(faded, ours, restore_tone=tone) for tone in (False, True))
    assert kept.tone_share == 0
    assert abs(float(kept.raster.pixels.mean()) - float(faded.pixels.mean())) < 1
    assert restored.tone_share > 0.5
    assert restored.raster.pixels.std() > 1.4 * kept.raster.pixels.std()


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_in_is_gray_out(ours: Network, channels: int) -> None:
    gray = coffee(8, 160, 1).pixels
    bad = worn.worn(np.repeat(gray, 3, 2), "a.png", "mixed")[:, :, :channels]
    made = done(Raster(np.ascontiguousarray(bad)), ours, strength=1.0).raster.pixels
    assert made.shape == bad.shape
    assert (made == made[:, :, :1]).all()
    assert np.abs(made.astype(int) - bad).mean() > 1


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_tiles_of_the_bundled_network_cannot_be_seen(ours: Network, strength: float) -> None:
    bad = Raster(worn.worn(np.ascontiguousarray(data.coffee()[:360, :420]), "a.png", "mixed"))
    whole = done(bad, ours, strength=strength, factors=[1])
    small = Network(replace(ours.card, tile_px=200), ours.module, "cpu", torch.float32)
    tiled = done(bad, small, strength=strength, factors=[1])
    assert whole.stats.tiles == 1 and tiled.stats.tiles > 4
    apart = np.abs(whole.raster.pixels.astype(int) - tiled.raster.pixels)[8:-8, 8:-8]
    assert np.quantile(apart, 0.999) <= 1
    assert apart.max() <= 3


def test_worn_pictures_come_nearer_to_the_sound_ones_and_the_gan_looks_more_natural(ours: Network) -> None:
    gains, natural = [], []
    for name, picture in (
        ("astronaut", data.astronaut()[:400]),
        ("chelsea", data.chelsea()),
        ("coffee", data.coffee()),
    ):
        sound = np.ascontiguousarray(picture[:300, :420])
        bad = worn.worn(sound, name, "mixed")
        fidelity, gan = (done(Raster(bad), ours, strength=s).raster.pixels for s in (0.0, 1.0))
        gains.append(psnr(sound, fidelity) - psnr(sound, bad))
        natural.append(niqe(fidelity) - niqe(gan))
    assert np.mean(gains) > 1.5
    assert min(gains) > -0.5
    assert np.mean(natural) > 0


def test_a_sound_picture_is_hardly_touched(ours: Network) -> None:
    small = cv2.resize(data.astronaut(), (320, 320), interpolation=cv2.INTER_AREA).astype(np.uint8)
    made = done(Raster(small), ours).raster.pixels
    assert psnr(small, made) >= 36
    assert np.abs(made.astype(int) - small).mean() <= 0.01 * 255


def test_another_network_is_refused_and_the_opencv_baseline_is_what_it_says() -> None:
    with pytest.raises(TypeError, match="expected a network of tone and detail, found Identity"):
        enhancement.enhance([coffee()], Network(TOY, nn.Identity(), "cpu", torch.float32))
    yellow = np.clip(coffee().pixels * np.array([1.0, 0.95, 0.5]), 0, 255).astype(np.uint8)
    even = evaluate_enhance.opencv(yellow).mean((0, 1))
    assert np.ptp(even) < 0.35 * np.ptp(yellow.mean((0, 1)))
