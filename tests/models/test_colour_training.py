"""Learning colours: samples, what a network is told, what is measured, and the table against gray and sepia."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from models import chroma
from models.imaging import Raster
from models.nets.colour import AB_UNIT, SIDE_PX, ColourNet, PatchCritic, SrgbColour
from models.nets.mobilenet import MEAN, STD, GrayTrunk, from_torchvision
from models.nets.mobilenet import PLAN as PUBLISHED_PLAN
from models.network import Network
from models.registry import ModelCard
from models.training import colour_data, data, evaluate_colour, guard
from models.training.colour_data import ColourSampler
from models.training.colour_measures import ciede2000, colour_measures, colour_panels, colours_of
from models.training.loop import train
from models.training.losses import ColourLoss, in_lab
from models.training.recipes import RECIPES
from models.weights import UnusableWeights, load_strictly, read_state, write_state

MOUNT = (255, 0, 255)  # a colour that no scene below has


WIDTHS = (8, 8, 12, 16, 16)
PLAN = ((1, 8, 1, 1), (2, 8, 1, 2), (2, 8, 1, 2), (2, 12, 1, 2), (2, 16, 1, 2))


def small_net() -> ColourNet:
    return ColourNet(widths=WIDTHS, plan=PLAN, stem=8)


def small_fixed_net() -> ColourNet:
    net = small_net()
    net.trunk.requires_grad_(False)
    return net


def small_critic() -> nn.Module:
    return PatchCritic(widths=(8, 8, 8))


def scene(rng: np.random.Generator) -> np.ndarray:
    """(96, 128, 3) RGB: bright blue sky over dark green grass, and a red ball of a gray between them."""
    picture = np.zeros((96, 128, 3), np.float32)
    horizon = int(rng.integers(35, 60))
    picture[:horizon], picture[horizon:] = (110, 160, 235), (40, 95, 30)
    cv2.circle(picture, (int(rng.integers(20, 108)), int(rng.integers(20, 76))), 14, (205, 45, 40), -1)
    picture += 14 * cv2.resize(rng.standard_normal((12, 16)).astype(np.float32), (128, 96))[:, :, None]
    return np.clip(picture, 0, 255).astype(np.uint8)


def save(path: Path, rgb: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(rgb[:, :, ::-1]), [cv2.IMWRITE_WEBP_QUALITY, 101])


def mounted(rgb: np.ndarray) -> np.ndarray:
    out = rgb.copy()
    out[:5], out[-5:], out[:, :5], out[:, -5:] = MOUNT, MOUNT, MOUNT, MOUNT
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: photographs and mounted slides to train on, things to measure on, one of them gray."""
    root, rng = tmp_path_factory.mktemp("colour"), np.random.default_rng(3)
    for i in range(48):
        save(root / f"train/photos/bsds_{i:04d}.webp", scene(rng))
    sides = {data.split_of(guard.series_of(f"fsac/{n}")): n for n in range(2017870000, 2017876000, 10)}
    for number in (*(sides["train"] + i for i in range(6)), *(sides["held_out"] + i for i in range(3))):
        save(root / f"train/fsac/{number}.webp", mounted(scene(rng)))
    for i in range(3):
        wild = cv2.resize(rng.integers(0, 255, (5, 7, 3), np.uint8), (150, 100), interpolation=cv2.INTER_CUBIC)
        save(root / f"bench/BSD100/img_{i:03d}.png", wild if i else np.repeat(wild[:, :, 1:2], 3, axis=2))
        save(root / f"real/prokudin_colour/{i:05d}v.png", wild[::-1])
    save(root / "bench/Set14/img_001.png", wild[:, :, ::-1])
    (root / "SOURCES.tsv").write_text("file\tsource\tlicence\tdata_terms\n")
    return root


@pytest.fixture(scope="module")
def shards(folder: Path) -> Path:
    data.pack(folder, folder / "shards", ["photos", "fsac"])
    return folder / "shards"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def batch_of(stock: data.Stock, sampler: ColourSampler, count: int) -> dict[str, torch.Tensor]:
    samples = data.Samples(stock, sampler, 1, 0, count)
    drawn = [samples[i] for i in range(count)]
    return {name: torch.from_numpy(np.stack([sample[name] for sample in drawn])) for name in drawn[0]}


SAMPLER = ColourSampler(side_px=48)


def test_the_network_is_small_enough_and_gives_no_colour_before_it_has_learnt_any() -> None:
    net = ColourNet()
    count = sum(p.numel() for p in net.parameters())
    assert 2_000_000 <= count <= 6_000_000
    assert 2 * sum(v.numel() for v in net.state_dict().values()) <= 12_000_000
    gray = torch.rand(1, 1, 61, 90).repeat(1, 3, 1, 1)
    assert not net.eval()(gray[:, :1]).any()
    assert torch.allclose(SrgbColour().eval()(gray), gray, atol=2e-6)


def test_colours_of_one_corner_depend_on_the_other_and_any_size_will_do() -> None:
    torch.manual_seed(0)
    net = small_net().eval()
    nn.init.normal_(net.head.weight, std=300)
    gray = torch.full((1, 1, SIDE_PX, SIDE_PX), 0.5)
    changed = gray.clone()
    changed[:, :, :40, :40] = 0.9
    for looks in (False, True):
        nn.init.normal_(net.far[0].told.weight, std=3 * looks)
        apart = float((net(gray) - net(changed))[:, :, 200:, 200:].detach().abs().max())
        assert (apart > 1e-5) == looks, "what reaches so far is the attention alone"
    for height, width in ((1, 1), (31, 17), (4, 300)):
        assert net(torch.full((1, 1, height, width), 0.3)).shape == (1, 2, height, width)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_weights_colour_a_scan_the_way_the_archive_does(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    net = small_net().eval()
    with torch.no_grad():
        net.head.bias.copy_(torch.tensor([0.3, -0.2]))
    module = load_strictly(SrgbColour(widths=WIDTHS, plan=PLAN, stem=8), net.state_dict(), "made")
    card = ModelCard("made", "colorize", "colour", licence="Apache-2.0", data_terms="free")
    ramp = np.tile(np.linspace(60, 190, 700).astype(np.uint8), (420, 1))[:, :, None]
    raster = Raster(np.ascontiguousarray(ramp))
    predicted = chroma.predict(raster, Network(card, module, "cpu", dtype), "a.tif")
    assert predicted.shape == (77, 128, 2)
    assert np.allclose(predicted, [0.3 * AB_UNIT, -0.2 * AB_UNIT], atol=0.4)
    assert chroma.lay(raster, predicted, "a.tif").pixels.shape == (420, 700, 3)


def test_a_colour_that_srgb_does_not_hold_keeps_its_hue_and_the_pictures_lightness() -> None:
    class Loud(SrgbColour):
        pass

    loud = Loud(widths=WIDTHS, plan=PLAN, stem=8).eval()
    with torch.no_grad():
        loud.head.bias.copy_(torch.tensor([1.6, -0.8]))
    gray = torch.linspace(0.1, 0.95, 64).repeat(1, 3, 32, 1)
    made = loud(gray)[0].permute(1, 2, 0).detach().numpy()
    lab = cv2.cvtColor(np.ascontiguousarray(made), cv2.COLOR_RGB2Lab)
    own = cv2.cvtColor(np.ascontiguousarray(gray[0].permute(1, 2, 0).numpy()), cv2.COLOR_RGB2Lab)
    assert np.abs(lab[:, :, 0] - own[:, :, 0]).max() < 0.3
    told = lab[np.hypot(lab[:, :, 1], lab[:, :, 2]) > 5]
    assert len(told) > 1000
    assert np.abs(np.arctan2(told[:, 2], told[:, 1]) - np.arctan2(-0.8, 1.6)).max() < 0.05


def test_a_sample_depends_on_its_number_alone_and_every_other_one_is_old(shards: Path) -> None:
    stock = data.open_stock(shards, ["photos", "fsac"], "train")
    ahead, later = data.Samples(stock, SAMPLER, 3, 0, 12), data.Samples(stock, SAMPLER, 3, 4, 8)
    for name, value in ahead[7].items():
        assert np.array_equal(value, later[3][name]), name
        assert value.dtype == np.float32 and value.shape[1:] == (48, 48) and np.isfinite(value).all()
        assert not np.array_equal(value, ahead[8][name]), name
    lab = [np.abs(lightness(s["input"][0]) - s["light"][0]).mean() for s in (ahead[i] for i in range(12))]
    assert max(lab[0::2]) < 0.002, "even samples are the picture's own lightness"
    assert np.median(lab[1::2]) > 0.01, "odd ones are worn"
    assert all(ahead[i]["input"][0].min() >= 0 and ahead[i]["input"][0].max() <= 1 for i in range(12))


def test_some_samples_come_with_a_hint_and_held_out_ones_never(shards: Path) -> None:
    stock = data.open_stock(shards, ["photos", "fsac"], "train")
    samples = [data.Samples(stock, SAMPLER, 5, 0, 60)[i] for i in range(60)]
    hinted = [sample for sample in samples if sample["input"][1:].any()]
    assert 0.05 * 60 < len(hinted) < 0.4 * 60
    for sample in hinted:
        a, b, chroma, known = sample["input"][1:, 5, 7]
        assert np.allclose([a, b], sample["target"].mean((1, 2)), atol=1e-5) and known == 1
        assert chroma >= np.hypot(a, b) - 1e-5
        assert np.ptp(sample["input"][1:], axis=(1, 2)).max() == 0
    measured = data.held_out(stock, replace(SAMPLER, hint_share=1.0), 5, 6)
    assert not any(measured[i]["input"][1:].any() for i in range(6)), "in use there is no hint"


def test_a_hint_of_zeros_is_none_and_another_one_moves_the_colours() -> None:
    torch.manual_seed(3)
    net = small_net().eval()
    for layer in (net.head, net.told):
        nn.init.normal_(layer.weight, std=1)
    gray = torch.rand(1, 1, 64, 96)
    plain = net(gray)
    told = torch.tensor([0.4, -0.3, 0.6, 1.0])[None, :, None, None].expand(1, 4, 64, 96)
    assert torch.equal(net(torch.cat([gray, 0 * told], 1)), plain)
    assert float((net(torch.cat([gray, told], 1)) - plain).detach().abs().mean()) > 1e-3


def test_the_published_trunk_sees_the_same_with_its_norms_folded_in() -> None:
    """Against MobileNetV2 as published, on the inside of a picture: at the rim the stem repeats pixels, not a mean."""
    torch.manual_seed(4)
    published: dict[str, torch.Tensor] = {}
    layers: list[tuple[nn.Conv2d, nn.BatchNorm2d, bool]] = []

    def layer(name: str, norm: str, convolution: nn.Conv2d, curved: bool) -> None:
        after = nn.BatchNorm2d(convolution.out_channels).eval()
        for value in (after.running_mean, after.running_var, after.weight.data, after.bias.data):
            assert value is not None
            value.copy_(torch.rand(value.shape) + 0.5)
        published[f"{name}.weight"] = convolution.weight.detach()
        published.update({f"{norm}.{key}": value for key, value in after.state_dict().items()})
        layers.append((convolution, after, curved))

    layer("features.0.0", "features.0.1", nn.Conv2d(3, 32, 3, 2, 1, bias=False), True)
    into, at, beside = 32, 1, []
    for times, out, count, stride in PUBLISHED_PLAN:
        for i in range(count):
            wide, here = into * times, f"features.{at}.conv"
            step = stride if i == 0 else 1
            if times != 1:
                layer(f"{here}.0.0", f"{here}.0.1", nn.Conv2d(into, wide, 1, bias=False), True)
            k = 0 if times == 1 else 1
            layer(f"{here}.{k}.0", f"{here}.{k}.1", nn.Conv2d(wide, wide, 3, step, 1, groups=wide, bias=False), True)
            layer(f"{here}.{k + 1}", f"{here}.{k + 2}", nn.Conv2d(wide, out, 1, bias=False), False)
            beside.append((len(layers), step == 1 and into == out, 3 - (times == 1)))
            into, at = out, at + 1
    gray = torch.rand(1, 1, 256, 256)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    x, done = (gray.repeat(1, 3, 1, 1) - mean) / std, 1
    x = torch.clamp(layers[0][1](layers[0][0](x)), 0, 6)
    for end, adds, count in beside[:4]:  # as far as a rim of 80 of 256 pixels does not reach
        before = x
        for convolution, norm, curved in layers[end - count : end]:
            x = norm(convolution(x))
            x = torch.clamp(x, 0, 6) if curved else x
        x, done = before + x if adds else x, done + 1
    trunk = GrayTrunk().eval()
    load_strictly(trunk, from_torchvision(published), "made")
    with torch.no_grad():
        y = torch.clamp(trunk.stem(gray), 0, 6)
        for block in trunk.blocks[:4]:
            y = block(y)
    inner = np.s_[:, :, 10:-10, 10:-10]
    assert x[inner].numel() and torch.allclose(x[inner], y[inner], rtol=1e-3, atol=1e-3 * float(x.abs().max()))
    with pytest.raises(UnusableWeights, match="mobilenet_v2"):
        from_torchvision({})


def test_a_start_has_the_published_trunk_and_what_is_fixed_stays_fixed_when_a_run_begins_from_it(
    shards: Path, tmp_path: Path
) -> None:
    recipe = replace(RECIPES["colour"], build=small_fixed_net, sampler=SAMPLER, sets=("photos",), batch=4, held_out=2)
    torch.manual_seed(9)
    write_state(small_net().state_dict(), tmp_path / "start.safetensors")
    train(replace(recipe, steps=3), shards, tmp_path, minutes=5, workers=0, start=tmp_path / "start.safetensors")
    begun, ended = (read_state(tmp_path / f"{name}.safetensors") for name in ("start", "best"))
    for name, value in begun.items():
        if name.startswith("trunk."):
            assert torch.allclose(value, ended[name].float(), atol=1e-3), name
    assert not torch.allclose(begun["head.weight"], ended["head.weight"].float(), atol=1e-5)
    norms = [name for name in begun if name.endswith("running_mean")]
    assert any(not torch.equal(begun[name], ended[name]) for name in norms), "a start must not stop norms from learning"


def lightness(gray: np.ndarray) -> np.ndarray:
    rgb = np.repeat(np.ascontiguousarray(gray)[:, :, None], 3, axis=2)
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab)[:, :, 0] / 100


def test_slides_come_as_often_as_said_and_without_their_mounts(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stock = data.open_stock(shards, ["photos", "fsac"], "train")
    names: list[str] = []
    read = data.Pictures.__getitem__

    def noted(pictures: data.Pictures, index: int) -> np.ndarray:
        names.append(pictures.entries[index].name)
        return read(pictures, index)

    colour_data.rarity(stock.pictures)
    monkeypatch.setattr(data.Pictures, "__getitem__", noted)
    samples = data.Samples(stock, replace(SAMPLER, worn=replace(SAMPLER.worn)), 4, 0, 200)
    for i in range(200):
        a, b = samples[i]["target"] * AB_UNIT
        assert not ((a > 75) & (b < -40)).any(), f"the magenta mount is in sample {i}"
    share = sum(name.startswith("fsac/") for name in names) / len(names)
    assert abs(share - SAMPLER.period_share) < 0.1


def test_an_old_emulsion_sees_blue_as_white_and_red_as_black() -> None:
    patches = np.array([[[110, 160, 235], [205, 45, 40]]], np.float32) / 255
    own = colour_data.gray_of(patches)[0]
    seen = np.array([colour_data.emulsion(patches, np.random.default_rng(i))[0] for i in range(60)])
    assert own[0] - own[1] < 0.3
    assert np.median(seen[:, 0] - seen[:, 1]) > 0.4
    assert seen.min() >= 0 and seen.max() <= 1
    white = np.ones((2, 2, 3), np.float32)
    assert np.allclose(colour_data.emulsion(white, np.random.default_rng(0)), 1, atol=1e-5)


def test_rare_colours_weigh_more_and_the_average_weight_is_one(shards: Path) -> None:
    stock = data.open_stock(shards, ["photos", "fsac"], "train")
    batch = batch_of(stock, replace(SAMPLER, period_share=0.1), 24)
    assert abs(float(batch["weight"].mean()) - 1) < 0.25
    red = batch["target"][:, :1] * AB_UNIT > 45
    blue = batch["target"][:, 1:] * AB_UNIT < -30
    assert 0.01 < float(red.float().mean()) < float(blue.float().mean()) / 4
    assert float(batch["weight"][red].mean()) > 1.5 * float(batch["weight"][blue].mean())


def test_the_loss_counts_rare_pixels_more_and_an_average_of_two_colours_costs_chroma() -> None:
    target = (
        torch.tensor([1.0, -1.0])[None, None, None].repeat(1, 2, 1, 1) * torch.tensor([1.0, 0])[None, :, None, None]
    )
    even = {"target": target, "weight": torch.ones(1, 1, 1, 2)}
    gray, right = (ColourLoss(rounding=1e-4)(made, even) for made in (torch.zeros_like(target), target))
    assert float(gray["distance"]) == pytest.approx(1, abs=1e-3)
    assert float(gray["chroma"]) == pytest.approx(0.3, abs=1e-3)
    assert float(right["distance"]) + float(right["chroma"]) < 1e-3
    half = torch.tensor([1.0, 0.0])[None, None, None] * torch.tensor([1.0, 0])[None, :, None, None]
    rare = {"target": target, "weight": torch.tensor([0.2, 1.8])[None, None, None]}
    assert float(ColourLoss()(half, rare)["distance"]) > 1.5 * float(ColourLoss()(half, even)["distance"])


def test_ciede2000_agrees_with_the_published_pairs() -> None:
    """G. Sharma, W. Wu and E. N. Dalal, The CIEDE2000 Color-Difference Formula, 2005, table 1."""
    pairs = (
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0000),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((6.7747, -0.2908, -2.4247), (5.8714, -0.0985, -2.2286), 0.6377),
    )
    for one, other, expected in pairs:
        found = float(ciede2000(np.array(one, np.float32), np.array(other, np.float32)))
        assert found == pytest.approx(expected, abs=2e-3), (one, other)


def test_measures_agree_with_cases_made_by_hand() -> None:
    rng = np.random.default_rng(5)
    truth = np.concatenate([np.full((40, 60, 1), 55), rng.uniform(10, 30, (40, 60, 2))], axis=2).astype(np.float32)
    same = colours_of(truth, truth)
    assert (same.ciede_mean, same.ciede_p95, same.near_gray) == (0, 0, 0)
    assert same.colourfulness == same.true_colourfulness > 10
    shifted = colours_of(truth + np.array([0, 10, 0], np.float32), truth)
    assert shifted.ab_psnr == pytest.approx(10 * np.log10(255**2 / 50), abs=0.01)
    half = truth.copy()
    half[:20, :, 1:] = 1.0
    assert colours_of(half, truth).near_gray == pytest.approx(0.5)
    assert colours_of(half, truth).ciede_p95 > colours_of(half, truth).ciede_mean > 0
    with pytest.raises(ValueError, match="found"):
        colours_of(truth, truth[:20])


def test_gray_gains_nothing_the_truth_gains_all_and_too_loud_a_picture_has_less_merit(shards: Path) -> None:
    stock = data.open_stock(shards, ["photos"], "train")
    samples = [data.Samples(stock, SAMPLER, 1, 0, 4)[i] for i in range(4)]
    gray, true, loud = (
        colour_measures([(times * sample["target"], sample) for sample in samples])
        for times in map(np.float32, (0, 1, 1.6))
    )
    assert gray["gain"] == pytest.approx(0, abs=1e-6) and gray["near_gray"] == 1
    assert gray["merit"] == pytest.approx(-0.5, abs=0.01)
    assert true["gain"] > 0.999 and true["merit"] > 0.999
    assert loud["colourfulness"] > 1.2 and loud["merit"] < loud["gain"] < true["gain"]
    panels = colour_panels(samples[0]["target"] * 0, samples[0])
    assert [p.shape for p in panels] == [(48, 48, 3)] * 3
    assert np.ptp(panels[2], axis=2).max() < 0.02 < np.ptp(panels[1], axis=2).max()


@pytest.mark.timeout(120)
def test_the_loss_falls_on_one_batch_and_the_colours_come_nearer_than_gray(shards: Path) -> None:
    torch.manual_seed(0)
    batch = batch_of(data.open_stock(shards, ["photos"], "train"), SAMPLER, 4)
    net, loss = small_net(), ColourLoss()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    totals = []
    for _ in range(30):
        total = torch.stack(list(loss(net(batch["input"]), batch).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.6 * totals[0], totals
    made = net(batch["input"]).detach().numpy()
    pairs = [(made[i], {name: value[i].numpy() for name, value in batch.items()}) for i in range(4)]
    assert colour_measures(pairs)["gain"] > 0.25


@pytest.mark.timeout(120)
def test_the_recipes_train_one_after_the_other_and_the_table_has_their_rows(
    folder: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    little = {
        "build": small_net,
        "sampler": SAMPLER,
        "sets": ("photos", "fsac"),
        "batch": 4,
        "held_out": 4,
        "steps": 10,
    }
    first, second = RECIPES["colour"], RECIPES["colour_gan"]
    assert first.adversarial is None and second.adversarial is not None
    measured = train(replace(first, **little), shards, tmp_path / "first", minutes=5, workers=0)
    assert {"ciede_mean", "gain", "merit"} <= set(measured)
    against = replace(second, **little, adversarial=replace(second.adversarial, build=small_critic))
    start = tmp_path / "first" / "best.safetensors"
    train(against, shards, tmp_path / "second", minutes=5, workers=0, start=start)
    assert '"critic"' in (tmp_path / "second" / "log.jsonl").read_text()
    load_strictly(small_net(), read_state(tmp_path / "second" / "best.safetensors"), "second")

    monkeypatch.setattr(evaluate_colour, "SrgbColour", lambda: SrgbColour(widths=WIDTHS, plan=PLAN, stem=8))
    weights = [f"--weight={name}={tmp_path / name / 'best.safetensors'}" for name in ("first", "second")]
    assert evaluate_colour.main([str(folder), *weights, "--sets", "bench", "prokudin"]) == 0
    said = capsys.readouterr().out
    assert all(f"| {row} |" in said for row in ("gray", "sepia", "first", "second"))
    assert "| bench | 3 | gray |" in said, "the picture stored gray does not count, nor do equal names in two folders"
    assert "| 00001v |" in said


def test_the_weights_that_come_along_are_measured_by_default_and_their_speed_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate_colour.main([str(folder), "--sets", "bench"]) == 0
    assert "| bench | 3 | glassplate-colour-1 |" in capsys.readouterr().out
    table = evaluate_colour.speed(evaluate_colour.BUNDLED, megapixels=(0.05, 0.2))
    rows = [
        [float(cell.removeprefix("<= ")) for cell in line.strip("| ").split(" | ")] for line in table.splitlines()[2:]
    ]
    assert [row[0] for row in rows] == [0.05, 0.2]
    assert all(row[1] > 0 and row[4] > row[5] for row in rows), "the process holds more than the scan and its result"
    assert rows[1][3] == pytest.approx(3.1)


def test_gray_and_sepia_need_no_weights_and_slides_are_of_the_held_out_series(folder: Path) -> None:
    found = evaluate_colour.compare(folder, evaluate_colour.BASELINES)
    assert [len(found[name]["gray"]) for name in evaluate_colour.SETS] == [3, 3, 3, 3]
    assert {data.split_of(guard.series_of(f"{name}.webp")) for name in found["fsac"]["gray"]} == {"held_out"}
    for rows in found.values():
        assert max(one.colourfulness for one in rows["gray"].values()) < 1
        assert all(one.near_gray == 1 for one in rows["gray"].values())
        assert all(one.near_gray < 0.2 for one in rows["sepia"].values())
    assert found["prokudin"] == found["prokudin blue"], "colours that ignore the gray are the same for any of it"
    assert "goal" not in evaluate_colour.tables(found)


def test_the_blue_plate_is_the_blue_channel_and_colour_is_laid_on_the_true_lightness(folder: Path) -> None:
    own, blue = (next(evaluate_colour.subjects(folder, name)) for name in ("prokudin", "prokudin blue"))
    assert np.array_equal(blue.seen, own.truth[:, :, 2].astype(np.float32) / np.float32(255))
    assert np.array_equal(*(evaluate_colour.coloured(s, evaluate_colour.sepia) for s in (own, blue)))
    assert own.truth.shape == (92, 142, 3), "4 % of the shorter side is cut off each side"


def test_a_folder_without_pictures_and_a_missing_weight_are_errors(tmp_path: Path, folder: Path) -> None:
    assert evaluate_colour.main([str(tmp_path)]) == 1
    assert evaluate_colour.main([str(folder), "--weight", str(tmp_path / "none.safetensors")]) == 1


def test_the_critic_sees_lightness_and_colours() -> None:
    batch = {"light": torch.rand(2, 1, 64, 64)}
    seen = in_lab(torch.zeros(2, 2, 64, 64, dtype=torch.bfloat16), batch)
    assert seen.shape == (2, 3, 64, 64) and seen.dtype == torch.float32
    assert PatchCritic()(seen).shape == (2, 1, 8, 8)
