"""Networks of others with random weights: what is tested is that they are recognised, loaded and called rightly."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.imaging import Raster
from models.nets import thirdparty
from models.nets.rrdbnet import RRDBNet
from models.nets.thirdparty import load_with_spandrel
from models.network import Network, Restored, load, restore
from models.registry import ModelCard, Purpose, WeightFile
from models.weights import UnusableWeights

thirdparty._spandrel(Path("none"))  # part of the extra `test`: where it is missing these tests fail, none is skipped


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in module.state_dict().items()}


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[[nn.Module, Purpose], Network]:
    """A function that saves a network's tensors as a .pth, makes a card and loads it as a setting would."""

    def through_a_file(module: nn.Module, purpose: Purpose) -> Network:
        path = tmp_path / "w.pth"
        torch.save({"params_ema": _state(module)}, path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        file = WeightFile(f"file:{path}", sha256, path.stat().st_size)
        card = ModelCard(
            id="theirs", purpose=purpose, arch="spandrel", licence="X", data_terms="unknown", files=(file,)
        )
        return load(card, path, "cpu", torch.float32)

    return through_a_file


def _faces(side_px: int) -> np.ndarray:
    return np.random.default_rng(0).random((1, side_px, side_px, 3), np.float32)


def test_gfpgan_restores_an_aligned_face_the_same_way_twice(loaded: Callable[[nn.Module, Purpose], Network]):
    from spandrel.architectures.GFPGAN import GFPGAN

    torch.manual_seed(0)
    network = loaded(
        GFPGAN(out_size=512, num_style_feat=512, channel_multiplier=2, decoder_load_path=None, fix_decoder=False,
               num_mlp=8, input_is_latent=True, different_w=True, narrow=1, sft_half=True), "face"
    )  # fmt: skip
    assert isinstance(network.module, thirdparty.ThirdParty) and network.module.purpose == "FaceSR"
    first = network(_faces(512))
    assert first.shape == (1, 512, 512, 3) and np.isfinite(first).all()
    np.testing.assert_array_equal(network(_faces(512)), first)
    with pytest.raises(ValueError, match=r"512 x 512, found \(256, 256\)"):
        network(_faces(256))


def test_gfpgan_is_called_in_the_range_it_was_trained_in():
    class Echo(nn.Module):
        def forward(self, x: torch.Tensor, return_rgb: bool, randomize_noise: bool) -> tuple[torch.Tensor, None]:
            assert float(x.min()) == -1 and float(x.max()) == 1 and not randomize_noise
            return x, None

    x = torch.linspace(0, 1, 3 * 512 * 512).reshape(1, 3, 512, 512)
    assert torch.allclose(thirdparty._gfpgan(Echo(), x), x, atol=1e-6)


def test_restoreformer_is_recognised_and_runs(loaded: Callable[[nn.Module, Purpose], Network]):
    from spandrel.architectures.RestoreFormer import RestoreFormer

    network = loaded(
        RestoreFormer(n_embed=16, embed_dim=32, ch=32, out_ch=3, ch_mult=(1, 1, 1, 1, 1, 1), num_res_blocks=1,
                      attn_resolutions=(16,), dropout=0.0, in_channels=3, resolution=512, z_channels=32,
                      double_z=False, enable_mid=True, head_size=8), "face"
    )  # fmt: skip
    out = network(_faces(128))
    assert out.shape == (1, 128, 128, 3) and np.isfinite(out).all()


def test_ddcolor_takes_gray_and_gives_colour(loaded: Callable[[nn.Module, Purpose], Network]):
    from spandrel_extra_arches.architectures import DDColor as ddcolor

    torch.manual_seed(0)
    network = loaded(
        ddcolor.DDColor(encoder_name="convnext-t", decoder_name="MultiScaleColorDecoder", num_input_channels=3,
                        input_size=(256, 256), nf=512, num_output_channels=2, last_norm="Spectral",
                        do_normalize=False, num_queries=8, num_scales=3, dec_layers=1), "colorize"
    )  # fmt: skip
    assert isinstance(network.module, thirdparty.ThirdParty) and network.module.gray
    gray = np.repeat(_faces(64)[..., :1], 3, axis=3)
    out = network(gray)
    assert out.shape == (1, 64, 64, 3) and np.isfinite(out).all()


def test_lama_fills_what_the_mask_marks(loaded: Callable[[nn.Module, Purpose], Network]):
    from spandrel.architectures.LaMa import LaMa

    network = loaded(LaMa(in_nc=4, out_nc=3), "inpaint")
    assert isinstance(network.module, thirdparty.ThirdParty) and network.module.masked
    assert (network.module.multiple_px, network.module.supports) == (8, (torch.float32,)), "pixels need all their bits"
    picture, mask = _faces(60), np.zeros((1, 60, 60), np.float32)
    mask[0, 20:30, 20:30] = 1
    out = network(picture, mask)
    assert out.shape == (1, 60, 60, 3)
    np.testing.assert_allclose(out[mask == 0], picture[mask == 0], atol=1e-5)
    assert np.abs(out[mask == 1] - picture[mask == 1]).mean() > 0.01
    with pytest.raises(ValueError, match="LaMa: expected a mask, found none"):
        network(picture)


def test_an_esrgan_of_theirs_gives_what_ours_gives_and_goes_through_tiles(tmp_path: Path):
    torch.manual_seed(0)
    ours = RRDBNet(width=32, blocks=1).eval().requires_grad_(False)
    path = tmp_path / "w.safetensors"
    save_file(_state(ours), path)
    theirs = load_with_spandrel(path)
    assert (theirs.architecture, theirs.scale, theirs.masked) == ("ESRGAN", 4, False)
    x = torch.rand(2, 3, 24, 20)
    assert torch.allclose(theirs(x), ours(x).clamp(0, 1), atol=1e-5)
    card = ModelCard(id="theirs", purpose="enhance", arch="spandrel", licence="X", data_terms="unknown", scale=4)
    raster = Raster(np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8))
    (result,) = restore([raster], Network(card, theirs, "cpu", torch.float32), factors=[1], scale=2)
    assert isinstance(result, Restored) and result.raster.pixels.shape == (100, 120, 3)


def test_of_a_torchscript_archive_only_the_tensors_are_taken(tmp_path: Path):
    ours = RRDBNet(width=32, blocks=1).eval()
    with torch.no_grad():
        torch.jit.trace(ours, torch.rand(1, 3, 8, 8)).save(str(tmp_path / "w.pt"))
    assert load_with_spandrel(tmp_path / "w.pt").architecture == "ESRGAN"


def test_tensors_of_no_known_network_are_refused(tmp_path: Path):
    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(UnusableWeights, match=r"w\.safetensors: expected tensors of one of .*GFPGAN.*LaMa"):
        load_with_spandrel(tmp_path / "w.safetensors")
    state = _state(RRDBNet(width=32, blocks=1))
    state["conv_last.weight"] = torch.zeros(3, 7, 3, 3)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UnusableWeights, match=r"w\.safetensors"):
        load_with_spandrel(tmp_path / "w.safetensors")


def test_without_the_extra_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(UnusableWeights, match=r"pip install 'glassplate\[thirdparty\]'"):
        load_with_spandrel(tmp_path / "w.safetensors")
