from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.weights import (
    AlteredWeights,
    MissingWeights,
    NcnnFile,
    UnusableWeights,
    converted,
    file_sha256,
    load_strictly,
    read_state,
    state_sha256,
    verify,
)

FP16, FP32 = (0x01306B47).to_bytes(4, "little"), bytes(4)


def test_an_altered_file_is_named_with_both_digests_and_the_remedy(tmp_path: Path):
    path = tmp_path / "w.bin"
    path.write_bytes(b"good")
    pinned = file_sha256(path)
    assert verify(path, pinned, "span-x4") == path
    path.write_bytes(b"goot")
    found = hashlib.sha256(b"goot").hexdigest()
    with pytest.raises(AlteredWeights, match=f"w.bin.*{pinned}.*{found}.*glassplate models fetch span-x4"):
        verify(path, pinned, "span-x4")


def test_a_missing_file_is_named_with_the_remedy(tmp_path: Path):
    with pytest.raises(MissingWeights, match=r"w\.bin.*sha256 abc.*no file.*glassplate models fetch span-x4"):
        verify(tmp_path / "w.bin", "abc", "span-x4")


def test_ncnn_convolutions_are_read_in_half_and_single_precision():
    weights = np.arange(3, dtype=np.float32).reshape(1, 3, 1, 1) + 0.5  # 3 halves: padded from 6 to 8 bytes
    half = FP16 + weights.astype("<f2").tobytes() + b"\0\0" + np.float32(7).tobytes()
    single = FP32 + weights.tobytes() + np.float32(8).tobytes()
    file = NcnnFile(half + single, "x")
    for bias in (7, 8):
        weight, found = file.convolution(1, 3, 1)
        assert weight.dtype == torch.float32
        np.testing.assert_array_equal(weight.numpy(), weights)
        assert found.tolist() == [bias]
    file.close()


def test_an_ncnn_file_that_is_too_short_too_long_or_of_another_kind_is_refused():
    whole = FP32 + np.zeros(1, "<f4").tobytes() * 2
    with pytest.raises(UnusableWeights, match="too short"):
        NcnnFile(whole[:-1], "x").convolution(1, 1, 1)
    file = NcnnFile(whole + b"more", "x")
    file.convolution(1, 1, 1)
    with pytest.raises(UnusableWeights, match=r"expected 12 bytes.*found 16"):
        file.close()
    with pytest.raises(UnusableWeights, match="0x00000009"):
        NcnnFile(b"\x09\0\0\0" + whole[4:], "x").convolution(1, 1, 1)


class _Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_pickled_code_is_refused_and_never_run(tmp_path: Path):
    trap = tmp_path / "ran"
    torch.save({"params": {"x": torch.zeros(1)}, "extra": _Payload(trap)}, tmp_path / "w.pth")
    with pytest.raises(UnusableWeights, match=r"w\.pth: expected a file of tensors only"):
        read_state(tmp_path / "w.pth")
    assert not trap.exists()


@pytest.mark.parametrize("wrapper", ["params_ema", "params", "state_dict", None])
def test_tensors_are_found_inside_the_usual_wrappers(tmp_path: Path, wrapper: str | None):
    state = {"a.weight": torch.arange(3.0)}
    torch.save(state if wrapper is None else {wrapper: state}, tmp_path / "w.pth")
    assert torch.equal(read_state(tmp_path / "w.pth")["a.weight"], state["a.weight"])


def test_something_that_is_no_state_is_refused(tmp_path: Path):
    torch.save([1, 2], tmp_path / "w.pth")
    (tmp_path / "w.safetensors").write_bytes(b"no")
    for name in ("w.pth", "w.safetensors"):
        with pytest.raises(UnusableWeights, match=name):
            read_state(tmp_path / name)


def test_the_digest_of_a_state_follows_names_shapes_dtypes_and_values_and_nothing_else(tmp_path: Path):
    state = {"b": torch.arange(4.0).reshape(2, 2), "a": torch.ones(1)}
    save_file(state, tmp_path / "w.safetensors")
    digest = state_sha256(state)
    assert digest == state_sha256(load_file(tmp_path / "w.safetensors"))
    assert digest == state_sha256(dict(reversed(state.items())))
    for other in ({"b": state["b"].T, "a": state["a"]}, {"b": state["b"].reshape(4), "a": state["a"]},
                  {"c": state["b"], "a": state["a"]}, {"b": state["b"].half(), "a": state["a"]}):  # fmt: skip
        assert state_sha256(other) != digest


def test_a_file_is_converted_once_and_again_when_the_kept_copy_was_altered(tmp_path: Path):
    path, calls = tmp_path / "w.bin", []
    path.write_bytes(bytes(8))

    def convert(data: bytes) -> dict[str, torch.Tensor]:
        calls.append(len(data))
        return {"x": torch.tensor([3.0, 4.0])}

    pinned = state_sha256({"x": torch.tensor([3.0, 4.0])})
    for _ in range(2):
        state = converted(path, file_sha256(path), "toy", convert, pinned=pinned)
        assert state["x"].tolist() == [3, 4]
    assert calls == [8]
    (kept,) = (tmp_path / "converted").iterdir()
    save_file({"x": torch.tensor([3.0, 5.0])}, kept)
    assert converted(path, file_sha256(path), "toy", convert, pinned=pinned)["x"].tolist() == [3, 4]
    kept.write_bytes(b"torn")
    assert converted(path, file_sha256(path), "toy", convert, pinned=pinned)["x"].tolist() == [3, 4]
    assert calls == [8, 8, 8]
    assert load_file(kept)["x"].tolist() == [3, 4]
    assert len(list((tmp_path / "converted").iterdir())) == 1, "no temporary file is left behind"


def test_a_conversion_that_gives_other_tensors_than_pinned_is_refused(tmp_path: Path):
    (tmp_path / "w.bin").write_bytes(b"x")
    sha256 = file_sha256(tmp_path / "w.bin")
    with pytest.raises(UnusableWeights, match=r"converted.*expected tensors of sha256 00"):
        converted(tmp_path / "w.bin", sha256, "toy", lambda _: {"x": torch.zeros(1)}, pinned="00")


def test_loading_is_strict_and_names_what_does_not_fit():
    module = torch.nn.Linear(2, 1)
    good = {"weight": torch.zeros(1, 2), "bias": torch.ones(1)}
    loaded = load_strictly(module, good, "toy")
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    for bad, named in (
        ({"weight": good["weight"]}, "bias"),
        ({**good, "surplus": torch.zeros(1)}, "surplus"),
        ({**good, "weight": torch.zeros(2, 2)}, "weight"),
    ):
        with pytest.raises(UnusableWeights, match=f"toy: expected the tensors of Linear.*{named}"):
            load_strictly(module, bad, "toy")
