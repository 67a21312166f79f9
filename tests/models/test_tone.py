"""Tone: rising curves and smooth fields that change nothing before training, applied in bands at any depth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ImageCms
from skimage import data

from models import tone
from models.imaging import Raster
from models.metrics import psnr
from models.nets import tone as nets
from models.nets.enhance import EnhanceNet
from models.nets.tone import PARAMETERS, ToneNet
from models.tone import Tone
from models.weights import load_strictly, read_state

WEIGHTS = Path(tone.__file__).with_name("weights") / "enhance.safetensors"
IDENTITY = Tone(
    np.eye(3, dtype=np.float32), np.tile(np.linspace(0, 1, 17, dtype=np.float32), (3, 1)),
    np.ones((64, 64, 3), np.float32), np.zeros((64, 64, 3), np.float32), 1.0, 1.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def trained() -> ToneNet:
    net = EnhanceNet()
    load_strictly(net, read_state(WEIGHTS), "enhance")
    return net.tone.float()


def numbers(seed: int = 0, size: float = 1.0) -> torch.Tensor:
    return torch.randn((1, PARAMETERS), generator=torch.Generator().manual_seed(seed)) * size


def as_tone(done: nets.Tones) -> Tone:
    gain, offset = (np.ascontiguousarray(f[0].permute(1, 2, 0).numpy()) for f in (done.gain, done.offset))
    return Tone(done.matrix[0].numpy(), done.curves[0].numpy(), gain, offset, 1.0, 1.0)


def photograph(bits: int = 8, channels: int = 3) -> Raster:
    picture = np.ascontiguousarray(data.astronaut()[:300:2, 100:420:2, :channels])
    return Raster(picture if bits == 8 else picture.astype(np.uint16) * 257 + 11)


def faded(raster: Raster) -> Raster:
    top = np.iinfo(raster.pixels.dtype).max
    x = raster.pixels / top * 0.45 + 0.3
    return raster.with_pixels(np.rint(x * top).astype(raster.pixels.dtype))


def test_an_untrained_network_changes_nothing_whatever_it_sees() -> None:
    picture = torch.rand((2, 3, 90, 70), generator=torch.Generator().manual_seed(1))
    done = nets.tones(ToneNet().eval().requires_grad_(False)(picture))
    assert float((nets.applied(done, picture) - picture).abs().max()) < 2e-4


def test_nought_of_any_change_is_no_change_and_curves_always_rise() -> None:
    for seed in range(5):
        wild = nets.tones(numbers(seed, 4.0))
        assert bool((wild.curves.diff(dim=2) > 0).all())
        assert bool((wild.gain > 0).all())
        none = nets.tones(numbers(seed, 4.0), share=0.0)
        picture = torch.rand((1, 3, 40, 40))
        assert float((nets.applied(none, picture) - picture).abs().max()) < 2e-4


def test_training_and_the_archive_apply_a_tone_alike() -> None:
    raster = photograph(16)
    done = nets.tones(numbers(3, 0.4))
    picture = torch.from_numpy(np.moveaxis(raster.pixels / np.float32(65535), 2, 0)[None].astype(np.float32))
    wanted = nets.applied(done, picture).clamp(0, 1)[0].permute(1, 2, 0).numpy()
    made = tone.apply(raster, as_tone(done)).pixels / 65535
    np.testing.assert_allclose(made, wanted, atol=2e-4)
    assert np.abs(made - raster.pixels / 65535).mean() > 0.02, "a change to compare"


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_stays_gray_under_any_change(channels: int) -> None:
    gray = photograph(8, 1).pixels
    raster = Raster(np.repeat(gray, channels, axis=2))
    made = tone.apply(raster, as_tone(nets.tones(numbers(4, 0.6)))).pixels
    assert made.shape == raster.pixels.shape
    assert (made == made[:, :, :1]).all()
    assert np.abs(made.astype(int) - raster.pixels).mean() > 2


def test_bands_cannot_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    raster, done = photograph(16), as_tone(nets.tones(numbers(5, 0.5)))
    whole = tone.apply(raster, done).pixels
    monkeypatch.setattr(tone, "BAND_ROWS", 7)
    np.testing.assert_allclose(tone.apply(raster, done).pixels.astype(int), whole, atol=1)


def test_a_smooth_16_bit_ramp_keeps_more_than_256_levels() -> None:
    ramp = np.tile(np.linspace(12000, 30000, 1500).astype(np.uint16), (20, 1))
    made = tone.apply(Raster(np.repeat(ramp[:, :, None], 3, 2)), as_tone(nets.tones(numbers(6, 0.5)))).pixels
    assert len(np.unique(made)) > 1000


def test_a_tone_that_does_nothing_leaves_a_picture_with_a_profile_bit_by_bit() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    raster = replace(photograph(), icc=lab)
    np.testing.assert_array_equal(tone.apply(raster, IDENTITY).pixels, raster.pixels)
    assert tone.apply(raster, replace(IDENTITY, share=0.0)) is raster


def test_a_picture_is_changed_only_when_the_network_is_sure_enough() -> None:
    for old, (begins, whole) in ((0.0, tone.STRICT), (1.0, tone.LENIENT)):
        assert tone.share_of(begins, old) == 0
        assert tone.share_of(whole, old) == 1
        assert 0 < tone.share_of((begins + whole) / 2, old) < 1
    assert tone.share_of(0.85) == 0 < tone.share_of(0.85, 0.5), "a scan that is old is believed sooner"


@pytest.mark.parametrize(("bits", "channels"), [(8, 3), (16, 1)])
def test_a_faded_picture_comes_much_nearer_to_the_sound_one(trained: ToneNet, bits: int, channels: int) -> None:
    sound = photograph(bits, channels)
    worn = faded(sound)
    found = tone.predict(worn, trained)
    made = tone.apply(worn, found)
    assert found.share > 0.5
    assert psnr(sound.pixels, made.pixels) > psnr(sound.pixels, worn.pixels) + 3
    assert made.bits == bits


def test_a_sound_picture_is_hardly_touched(trained: ToneNet) -> None:
    sound = photograph()
    made = tone.apply(sound, tone.predict(sound, trained))
    assert psnr(sound.pixels, made.pixels) >= 36
