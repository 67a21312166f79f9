"""Learning faces: the network, its samples, what it is told, and the tables that judge it and the identity gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage import data as pictures
from torch import nn

from models import portrait
from models.nets.centerface import CenterFace
from models.nets.face import Detailed, FaceCritic, FaceNet, Faithful
from models.network import load
from models.registry import card
from models.training import bench_faces, data, evaluate_faces, face_data, face_measures
from models.training.face_data import FaceSampler, align, align_set, weights, windows
from models.training.loop import train
from models.training.losses import FaceLoss, face_windows, slope_penalty
from models.training.recipes import RECIPES
from models.weights import read_state, write_state

WIDTHS = (4, 6, 8, 8)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def detector(weights_of: Callable[[str], Path]) -> CenterFace:
    return CenterFace(card("centerface"), weights_of("centerface"))


def head_of(name: str) -> np.ndarray:
    """(256, 256, 3) uint8: a head, mirrored and of other contrast for every other name, as if of somebody else."""
    whole = pictures.astronaut()[:256, 100:356]
    return np.ascontiguousarray(255 - (255 - whole[:, ::-1]) // 2 if "b" in name else whole)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: faces to train on and held out, and two to measure on, one of them gray and small."""
    root = tmp_path_factory.mktemp("faces")
    for kind in ("lfw_a{}_0001", "lfw_b{}_0001", "aaf_{:05d}A02", "celeba_test_{}"):
        for side in ("train", "held_out"):
            names = (f"{kind.format(number)}.webp" for number in range(0, 20000, 10))
            alike = [n for n in names if data.split_of(data.guard.series_of(n)) == side][:2]
            for name in alike[: 2 if kind.startswith("lfw") else 1]:
                save(root / "train/faces" / name, head_of(name[4:6]))
    gray = cv2.cvtColor(cv2.resize(head_of("a"), (128, 128), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    save(root / "bench/faces/faces_LFW_held_a.png", np.repeat(gray[:, :, None], 3, axis=2))
    save(root / "bench/faces/faces_AAF_val_00001A02.png", head_of("b"))
    save(root / "real/some/1.png", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    (root / "SOURCES.tsv").write_text("file\tsource\tlicence\tdata_terms\n")
    return root


def save(path: Path, rgb: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(rgb[:, :, ::-1]), [cv2.IMWRITE_WEBP_QUALITY, 101])


@pytest.fixture(scope="module")
def shards(folder: Path, detector: CenterFace) -> Path:
    out = folder / "shards"
    members = []
    for path in sorted((folder / "train/faces").iterdir()):
        series = data.guard.series_of(path.name)
        entry = data.Entry(f"faces/{path.name}", series, data.split_of(series), "unknown")
        members.append((entry, path.read_bytes()))
    out.mkdir()
    data.write_shards(out, "faces", members)
    align_set(out, detector)
    return out


def test_the_network_is_small_and_changes_nothing_before_it_has_learnt() -> None:
    net = FaceNet().eval()
    assert sum(p.numel() for p in net.parameters()) <= 6_000_000
    assert 2 * sum(v.numel() for v in net.state_dict().values()) <= 12_000_000
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(net(x), torch.cat([x, x], 1))
    assert set(Faithful().state_dict()) == set(Detailed().state_dict()) == set(net.state_dict())


def test_the_style_of_the_whole_face_reaches_every_part_of_it() -> None:
    torch.manual_seed(0)
    net = FaceNet(widths=WIDTHS).eval()
    nn.init.normal_(net.head.weight, std=1.0)
    for module in net.modules():
        if type(module).__name__ == "Modulated":
            nn.init.normal_(module.scales.weight, std=1.0)
    x = torch.rand(1, 3, 512, 512)
    changed = x.clone()
    changed[..., :32, :32] = 0
    assert float((net(x) - net(changed))[..., -32:, -32:].abs().max()) > 1e-4, "no convolution reaches so far"


def test_a_modulated_filter_gives_as_much_whatever_the_style_scales() -> None:
    from models.nets.face import STYLE, Modulated

    torch.manual_seed(0)
    layer = Modulated(16, 16)
    x = torch.randn(4, 16, 24, 24)
    plain = layer(x, torch.zeros(4, STYLE))
    nn.init.constant_(layer.scales.bias, 9.0)
    assert torch.allclose(layer(x, torch.zeros(4, STYLE)), plain, rtol=1e-3, atol=1e-3), "demodulated"
    nn.init.normal_(layer.scales.weight, std=1.0)
    assert not torch.allclose(layer(x, torch.randn(4, STYLE)), plain, atol=0.1)


def test_faces_are_aligned_once_and_keep_their_side_of_the_fence(shards: Path, detector: CenterFace) -> None:
    whole = data.Pictures(shards, ["aligned"], "train")
    held_out = data.Pictures(shards, ["aligned"], "held_out")
    assert (len(whole), len(held_out)) == (6, 6)
    assert {e.name.split("/")[0] for e in whole.entries} == {"aligned"}
    assert not {e.series for e in whole.entries} & {e.series for e in held_out.entries}
    made = align(head_of("a"), detector)
    assert made is not None and made.shape == (128, 128, 3), "its eyes are 44 px apart"
    (again,) = detector.detect_faces(cv2.resize(made, (256, 256), interpolation=cv2.INTER_CUBIC))
    assert np.abs(again.landmarks - portrait.template(256, FaceNet.zoom)).max() < 20
    assert align(np.zeros((64, 64, 3), np.uint8), detector) is None


def test_a_sample_is_the_same_again_and_a_batch_is_of_one_size(shards: Path) -> None:
    stock = data.open_stock(shards, ["aligned"], "train")
    sampler = FaceSampler(batch=2, large_every=3)
    drawn = [sampler(stock, np.random.default_rng((1, n)), n) for n in range(6)]
    assert [s["input"].shape[-1] for s in drawn] == [128, 128, 128, 128, 256, 256]
    again = sampler(stock, np.random.default_rng((1, 3)), 3)
    assert all(np.array_equal(again[name], drawn[3][name]) for name in again)
    for sample in drawn:
        assert sample["input"].shape == sample["target"].shape == (3, *sample["weight"].shape[1:])
        assert sample["input"].min() >= 0 and sample["input"].max() <= 1


def test_what_is_gray_is_gray_before_and_after_and_tone_is_no_wear(shards: Path) -> None:
    stock = data.open_stock(shards, ["aligned"], "train")
    sampler = FaceSampler(batch=2, large_every=0, gray_share=1.0)
    for number in range(12):
        sample = sampler(stock, np.random.default_rng(number), number)
        for name in ("input", "target"):
            assert np.ptp(sample[name], axis=0).max() < 1e-6
        assert abs(float(sample["input"].mean() - sample["target"].mean())) < 0.03


def test_eyes_and_mouth_weigh_most_and_the_critic_looks_at_them() -> None:
    weight = weights(128)
    assert weight.mean() == pytest.approx(1, abs=1e-4)
    points = portrait.template(128, FaceNet.zoom)
    for x, y in (points[0], points[1], (points[3] + points[4]) / 2):
        assert weight[int(y), int(x)] > 2.5 * weight[int(points[0][1] - 30), int(points[2][0])]
        assert any(t <= y < t + 64 and left <= x < left + 64 for t, left in windows(128))
    assert weight[:8].max() < 0.5
    seen = face_windows(torch.rand(2, 3, 128, 128), {})
    assert seen.shape == (10, 6, 64, 64)
    assert float(seen.min()) < -0.9
    assert FaceCritic(widths=(4, 4, 4))(seen).shape[0] == 10


def test_a_face_loss_is_least_at_the_truth_and_asks_for_edges() -> None:
    truth = torch.rand(2, 3, 32, 32)
    batch = {"target": truth, "weight": torch.ones(2, 1, 32, 32)}
    loss = FaceLoss()
    assert all(float(v) < 0.003 for v in loss(truth, batch).values())
    off = loss(truth + 0.1, batch)
    assert float(off["distance"]) == pytest.approx(0.1, abs=1e-3) and float(off["edges"]) < 0.003
    soft = loss(nn.functional.avg_pool2d(truth, 3, 1, 1), batch)
    assert float(soft["edges"]) > 0.1


def test_the_slope_penalty_is_the_squared_slope() -> None:
    seen = torch.rand(2, 3, 4, 4, requires_grad=True)
    assert float(slope_penalty((2 * seen).sum((1, 2, 3)), seen)) == pytest.approx(4 * 48)


def test_measures_tell_gain_and_detail(shards: Path) -> None:
    rng = np.random.default_rng(0)
    truth = np.asarray(cv2.GaussianBlur(rng.random((64, 64, 3), np.float32), (0, 0), 1.0)).transpose(2, 0, 1)
    given = np.clip(truth + rng.normal(0, 0.1, truth.shape), 0, 1).astype(np.float32)
    half = (truth + (given - truth) / 2).astype(np.float32)
    measured = face_measures.face_measures([(half, {"input": given, "target": truth})])
    assert measured["gain"] == pytest.approx(6.02, abs=0.1)
    assert measured["input_detail"] > measured["detail"] > 1
    perfect = face_measures.face_measures([(truth, {"input": given, "target": truth})])
    assert (perfect["detail"], perfect["merit"]) == (pytest.approx(1), pytest.approx(1))
    assert face_measures.face_panels(half, {"input": given, "target": truth})[0].shape == (64, 64, 3)


def test_levels_of_wear_follow_one_another_and_repeat() -> None:
    face = head_of("a").astype(np.float32) / 255
    errors = []
    for level in face_measures.LEVELS:
        worn = face_measures.worn_at(face, level, np.random.default_rng(5))
        assert np.array_equal(worn, face_measures.worn_at(face, level, np.random.default_rng(5)))
        errors.append(float(np.square(worn - face).mean()))
    assert errors == sorted(errors)


def test_both_recipes_learn_and_the_second_leaves_the_faithful_face_alone(shards: Path, tmp_path: Path) -> None:
    def small() -> Faithful:
        return Faithful(widths=WIDTHS)

    def small_detailed() -> Detailed:
        return Detailed(widths=WIDTHS)

    def small_critic() -> nn.Module:
        return FaceCritic(widths=(4, 4, 4))

    few = {"batch": 2, "steps": 4, "held_out": 2, "warmup_steps": 1, "average_decay": 0.0}
    sampler = FaceSampler(batch=2, large_every=0)
    first = replace(RECIPES["face"], build=small, sampler=sampler, **few)
    assert "gain" in train(first, shards, tmp_path / "a", minutes=5, device="cpu", workers=0)
    begun = read_state(tmp_path / "a/best.safetensors")
    adversarial = RECIPES["face_gan"].adversarial
    assert adversarial is not None and adversarial.r1 > 0
    second = replace(
        RECIPES["face_gan"], build=small_detailed, sampler=sampler, learning_rate=1e-2,
        adversarial=replace(adversarial, build=small_critic, r1_every=2), **few,
    )  # fmt: skip
    train(second, shards, tmp_path / "b", minutes=5, device="cpu", workers=0, start=tmp_path / "a/best.safetensors")
    ended = read_state(tmp_path / "b/best.safetensors")
    moved = {name for name in begun if not torch.equal(begun[name], ended[name])}
    assert moved and all(name.startswith("detail") for name in moved)
    steps = [json.loads(line) for line in (tmp_path / "b/log.jsonl").read_text().splitlines()]
    assert steps[-1]["event"] == "end" and steps[-1]["step"] == 4


def test_one_command_prints_recall_quality_and_the_gate(
    folder: Path, weights_of: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_state(FaceNet().state_dict(), tmp_path / "face.safetensors")
    command = [str(folder), "--detector", str(weights_of("centerface")), "--face", str(tmp_path / "face.safetensors")]
    command += ["--enhance", str(tmp_path / "none")]
    assert evaluate_faces.main(command) == 0
    told = capsys.readouterr().out
    assert "| AAF | 1 of 1 | 1 of 1 |" in told
    for level in ("light", "middle", "heavy"):
        assert f"### LFW, {level}" in told
    lines = [line for line in told.splitlines() if line.startswith("| ours, fidelity 1 |")]
    inputs = [line for line in told.splitlines() if line.startswith("| input |")]
    assert len(lines) == 6
    assert [line.split("|")[2:] for line in lines] == [line.split("|")[2:] for line in inputs], "it has learnt nothing"
    assert "| LFW | 1 | 90.00 | 1.000 | 0.000 | 1 |" in told, "what needs nothing is left as it is"
    gate = [line for line in told.splitlines() if line.startswith("| held out | LFW | 0.5 |")]
    assert gate and "4 of 4 (100.0%)" in gate[0]
    assert evaluate_faces.main([*command, "--calibrate"]) == 0
    assert "| LFW | distance |" in capsys.readouterr().out
    assert evaluate_faces.main([str(tmp_path), *command[1:3], "--face", str(tmp_path / "none")]) == 1


def test_a_swap_is_of_somebody_else(folder: Path, detector: CenterFace) -> None:
    people = bench_faces.subjects(folder, "train/faces", "LFW", held_out=True)
    cases = bench_faces.cases_of(people, "middle", detector)
    pairs = list(evaluate_faces.swaps(cases, detector, 7))
    assert len(cases) == 4
    assert len(pairs) == len(set(pairs)) == 7
    assert all(cases[i].subject.series != cases[j].subject.series for i, j in pairs)
    assert all(face_data.SET not in case.subject.name for case in cases)


def test_the_weights_that_come_with_glassplate_restore_a_worn_face_and_keep_gray_gray(detector: CenterFace) -> None:
    own = card("glassplate-face-1")
    path = evaluate_faces.WEIGHTS / own.files[0].name
    assert path.stat().st_size == own.files[0].size_bytes <= 12_000_000
    net = load(own, path, "cpu", torch.float32)
    truth = align(head_of("a"), detector)
    assert truth is not None
    clean = cv2.cvtColor(truth, cv2.COLOR_RGB2GRAY)[:, :, None].astype(np.float32) / 255
    worn = np.repeat(face_measures.worn_at(clean, "middle", np.random.default_rng(0)), 3, axis=2)
    share = portrait.face_share(128, FaceNet.zoom)[:, :, None]
    before = float((np.square(worn - clean) * share).sum())
    for fidelity, least in ((1.0, 0.9), (0.5, 0.5)):  # dB; the goals are the evaluation's
        (made,) = portrait.restored([worn], net, fidelity, [True], ["a"])
        assert isinstance(made, np.ndarray)
        assert np.ptp(made, axis=2).max() == 0
        assert 10 * np.log10(before / float((np.square(made - clean) * share).sum())) > least
