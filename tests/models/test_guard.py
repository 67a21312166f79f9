"""Perceptual hashes refuse bench and real pictures; series stay together."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from models.training.guard import Hashes, forbidden_hashes, match_of, matches, perceptual_hash, series_of


def scene(seed: int, size: int = 240) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.random((9, 9, 3)).astype(np.float32)
    fine = rng.random((60, 60, 3)).astype(np.float32)
    picture = 0.8 * cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    picture += 0.2 * cv2.resize(fine, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def only(picture: np.ndarray) -> Hashes:
    return Hashes(("bench/one.png",), np.array([perceptual_hash(picture)], np.uint64))


@pytest.mark.parametrize("seed", range(6))
def test_a_picture_saved_again_smaller_toned_or_mirrored_is_refused(seed: int) -> None:
    picture = scene(seed)
    forbidden = only(picture)
    small = cv2.resize(picture, (97, 101), interpolation=cv2.INTER_AREA)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
    faded = np.round(picture * 0.6 + 60).astype(np.uint8)
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    for copy in (small, jpeg, faded, gray, np.ascontiguousarray(picture[:, ::-1])):
        assert match_of(copy, forbidden) == "bench/one.png"


def test_different_pictures_are_seldom_taken_for_each_other() -> None:
    forbidden = only(scene(0))
    assert sum(matches(scene(seed), forbidden) for seed in range(1, 201)) == 0


def test_gray_with_and_without_channel_axis_hash_alike() -> None:
    gray = cv2.cvtColor(scene(3), cv2.COLOR_RGB2GRAY)
    assert perceptual_hash(gray) == perceptual_hash(gray[:, :, None])


def test_bench_and_real_are_both_read_and_an_empty_guard_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected pictures to guard against"):
        forbidden_hashes(tmp_path)
    for folder, seed in (("bench/BSD100", 1), ("real/plates", 2)):
        (tmp_path / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / folder / "a.png"), scene(seed)[:, :, ::-1])
    forbidden = forbidden_hashes(tmp_path)
    assert len(forbidden.names) == 2
    assert matches(scene(1), forbidden)
    assert matches(scene(2), forbidden)
    assert not matches(scene(3), forbidden)


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("lfw_Yuri_Fedotov_0001.webp", "faces/lfw_Yuri_Fedotov_0002.png", True),
        ("lfw_Yuri_Fedotov_0001.webp", "lfw_Win_Aung_0001.webp", False),
        ("aaf_00001A02.webp", "aaf_00007A02.webp", True),
        ("aaf_00001A02.webp", "aaf_09914A32.webp", False),
        ("photos/lsp_0121.webp", "photos_small/lsp_0127.webp", True),
        ("lsp_0121.webp", "lsp_0131.webp", False),
        ("houses_0024.webp", "houses_0559.webp", True),  # another room of the same house
        ("houses_0024.webp", "ccp_0024.webp", False),
        ("2017877340.webp", "2017877341.webp", True),
        ("bsds_0001.webp", "bsds_0002.webp", False),
    ],
)
def test_series_keep_neighbours_and_persons_together(one: str, other: str, together: bool) -> None:
    assert (series_of(one) == series_of(other)) is together
