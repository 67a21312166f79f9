"""Training pictures: packed into tar shards of WebP, split by series, decoded on arrival and damaged on the fly.

``python -m models.training.data pack DATA OUT`` packs; ``Pictures`` and ``Stock`` read; ``Samples`` is what a loader
draws from. Sample ``i`` of a recipe is a function of the recipe's seed and ``i`` alone, whatever worker makes it.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import logging
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from models.damage import DamageRecipe, Stamps, load_stamps, simulate
from models.nets.detect import SPREAD, SPREAD_GAIN, features
from models.training import guard

log = logging.getLogger(__name__)

SETS = ("photos", "photos_small", "faces", "fsac")
SHARD_BYTES = 24 * 2**20
TAR_OVERHEAD_BYTES = 1536  # header and padding of one member, at most
INDEX_BYTES = 2**20
WEBP_QUALITY = 95
HELD_OUT_OF = 24  # one series in so many is never trained on
DAMAGE_FILES = ("stamps/*/*.png", "film_masks/*_class.png")
SAMPLES_BEFORE_HELD_OUT = 2**40  # held-out samples are numbered from here: no training run reaches it

Split = Literal["train", "held_out"]
Arrays = dict[str, NDArray[np.float32]]


class TrainingDataError(Exception):
    """The data is not what training needs; says what was expected, what was found and the remedy."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture of a shard: ``name`` is SET/FILE, ``terms`` its data terms, ``series`` what must not be split."""

    name: str
    series: str
    split: Split
    terms: str


def split_of(series: str) -> Split:
    """Which side of the fence a series or person is on: decided by its name alone, so it never changes sides."""
    return "held_out" if int(hashlib.sha256(series.encode()).hexdigest()[:8], 16) % HELD_OUT_OF == 0 else "train"


def pack(data: Path, out: Path, sets: Sequence[str] = SETS) -> list[Path]:
    """Shards ``SET-000.tar`` of at most 24 MiB from ``data/train/SET``; ``damage.tar`` of stamps, film masks.

    Every shard begins with ``index.json`` (a list of Entry). WebP files travel as they are, others are encoded once.
    Pictures that match anything in ``data/bench`` or ``data/real`` by perceptual hash are left out and logged.
    Raises TrainingDataError when a set is empty.
    """
    out.mkdir(parents=True, exist_ok=True)
    terms = _terms(data / "SOURCES.tsv")
    forbidden = guard.forbidden_hashes(data)
    written: list[Path] = []
    for name in sets:
        members: list[tuple[Entry, bytes]] = []
        refused = 0
        for path in sorted((data / "train" / name).iterdir()):
            pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if pixels is None:
                raise TrainingDataError(f"{path}: expected a picture, found nothing that decodes")
            match = guard.match_of(np.ascontiguousarray(pixels[:, :, ::-1], np.uint8), forbidden)
            if match is not None:
                refused += 1
                log.warning("picture_refused name=%s matches=%s", path.name, match)
                continue
            series = guard.series_of(f"{name}/{path.name}")
            label = f"{name}/{path.stem}.webp"
            entry = Entry(label, series, split_of(series), terms.get(f"train/{name}/{path.name}", "unknown"))
            members.append((entry, path.read_bytes() if path.suffix == ".webp" else _webp(path)))
        if not members:
            raise TrainingDataError(f"{data / 'train' / name}: expected pictures, found none that may be trained on")
        log.info("set_packed set=%s pictures=%d refused=%d", name, len(members), refused)
        written += write_shards(out, name, members)
    shapes = sorted(path for pattern in DAMAGE_FILES for path in (data / "damage").glob(pattern))
    if shapes:
        with tarfile.open(out / "damage.tar", "w") as tar:
            for path in shapes:
                _add(tar, str(path.relative_to(data / "damage")), path.read_bytes())
        written.append(out / "damage.tar")
    return written


def write_shards(out: Path, name: str, members: Iterable[tuple[Entry, bytes]]) -> list[Path]:
    """Shards ``NAME-000.tar`` and on in ``out`` of entries and their WebP bytes, in their order."""
    return [_write_shard(out / f"{name}-{i:03d}.tar", part) for i, part in enumerate(_parts(members))]


def _terms(sources: Path) -> dict[str, str]:
    with sources.open(newline="") as file:
        return {row["file"]: row["data_terms"] for row in csv.DictReader(file, delimiter="\t")}


def _webp(path: Path) -> bytes:
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").save(buffer, "WEBP", quality=WEBP_QUALITY, method=6)
    return buffer.getvalue()


def _parts(members: Iterable[tuple[Entry, bytes]]) -> Iterator[list[tuple[Entry, bytes]]]:
    part: list[tuple[Entry, bytes]] = []
    size = INDEX_BYTES
    for entry, content in members:
        needed = len(content) + TAR_OVERHEAD_BYTES
        if part and size + needed > SHARD_BYTES:
            yield part
            part, size = [], INDEX_BYTES
        part.append((entry, content))
        size += needed
    yield part


def _write_shard(path: Path, part: Sequence[tuple[Entry, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        _add(tar, "index.json", json.dumps([asdict(entry) for entry, _ in part]).encode())
        for entry, content in part:
            _add(tar, entry.name, content)
    if path.stat().st_size > SHARD_BYTES:
        raise TrainingDataError(f"{path}: expected at most {SHARD_BYTES} bytes, found {path.stat().st_size}")
    return path


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)  # time 0 and no owner: the same pictures give the same shard, byte for byte
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


class Pictures:
    """The pictures of one split of some sets, compressed in memory and decoded when asked for.

    ``pictures[i]``: (H, W, 3) uint8 RGB. In order of name, so that a number means the same picture everywhere.
    ``free_data_only`` leaves out everything whose terms are not ``free``. Raises TrainingDataError when none is left.
    """

    def __init__(self, folder: Path, sets: Sequence[str], split: Split, *, free_data_only: bool = False) -> None:
        found: list[tuple[Entry, bytes]] = []
        for name in sets:
            shards = sorted(folder.glob(f"{name}-[0-9]*.tar"))
            if not shards:
                remedy = f"pack them with: python -m models.training.data pack DATA {folder}"
                raise TrainingDataError(f"{folder}: expected shards {name}-000.tar, found none; {remedy}")
            for shard in shards:
                found += read_shard(shard)
        kept = [
            (entry, content)
            for entry, content in sorted(found, key=lambda pair: pair[0].name)
            if entry.split == split and (entry.terms == "free" or not free_data_only)
        ]
        if not kept:
            raise TrainingDataError(f"{folder}: expected {split} pictures of {', '.join(sets)}, found none")
        self.entries = tuple(entry for entry, _ in kept)
        self._contents = tuple(content for _, content in kept)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        decoded = cv2.imdecode(np.frombuffer(self._contents[index], np.uint8), cv2.IMREAD_COLOR)
        if decoded is None:
            raise TrainingDataError(f"{self.entries[index].name}: expected a picture, found nothing that decodes")
        return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def read_shard(path: Path) -> list[tuple[Entry, bytes]]:
    """The entries of one shard and their WebP bytes."""
    with tarfile.open(path) as tar:
        contents = {m.name: file.read() for m in tar if (file := tar.extractfile(m)) is not None}
    if "index.json" not in contents:
        raise TrainingDataError(f"{path}: expected a shard with index.json, found none in it")
    return [(Entry(**row), contents[row["name"]]) for row in json.loads(contents["index.json"])]


@dataclass(frozen=True, eq=False, slots=True)
class Stock:
    """What a sample is made of: pictures, and the shapes of damage (``None`` where the data has none)."""

    pictures: Pictures
    stamps: Stamps | None


def open_stock(folder: Path, sets: Sequence[str], split: Split, *, free_data_only: bool = False) -> Stock:
    """The stock of one split of a folder of shards."""
    return Stock(Pictures(folder, sets, split, free_data_only=free_data_only), read_stamps(folder))


def read_stamps(folder: Path) -> Stamps | None:
    """Stamps and film masks of ``damage.tar``, or ``None`` where there is no such file."""
    shard = folder / "damage.tar"
    if not shard.is_file():
        return None
    with tempfile.TemporaryDirectory() as unpacked, tarfile.open(shard) as tar:
        tar.extractall(unpacked, filter="data")
        return load_stamps(Path(unpacked))


Sampler = Callable[[Stock, np.random.Generator, int], Arrays]
"""(stock, generator, number of the sample) -> named float32 arrays, channels first; all samples alike in shape."""


class Samples(Dataset[Arrays]):
    """Samples first, first + 1, … of a recipe; each drawn from its own generator."""

    def __init__(self, stock: Stock, sampler: Sampler, seed: int, first: int, count: int) -> None:
        self.stock, self.sampler, self.seed, self.first, self.count = stock, sampler, seed, first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Arrays:
        number = self.first + index
        return self.sampler(self.stock, np.random.default_rng((self.seed, number)), number)


def held_out(stock: Stock, sampler: Sampler, seed: int, count: int) -> Samples:
    """The fixed samples that a recipe is measured on while it learns; ``stock`` is of the held-out split."""
    return Samples(stock, sampler, seed, SAMPLES_BEFORE_HELD_OUT, count)


def crop(
    picture: NDArray[np.uint8], side_px: int, rng: np.random.Generator, largest_zoom: float
) -> NDArray[np.float32]:
    """(side, side, 3) float32 in [0, 1]: a random part of the picture, zoomed, flipped, perhaps on its side.

    The zoom lies between what makes the short side fit and ``largest_zoom``; reduced by area, enlarged cubically.
    """
    least = side_px / min(picture.shape[:2])
    zoom = max(least, float(np.exp(rng.uniform(np.log(min(least, 0.75)), np.log(largest_zoom)))))
    size = (max(side_px, round(picture.shape[1] * zoom)), max(side_px, round(picture.shape[0] * zoom)))
    how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    scaled = picture if zoom == 1 else cv2.resize(picture, size, interpolation=how)
    top = int(rng.integers(scaled.shape[0] - side_px + 1))
    left = int(rng.integers(scaled.shape[1] - side_px + 1))
    part = scaled[top : top + side_px, left : left + side_px]
    part = np.rot90(part, int(rng.choice((0, 0, 0, 1, 3))))  # mostly upright: pictures are
    if rng.random() < 0.5:
        part = part[:, ::-1]
    return np.ascontiguousarray(part, dtype=np.float32) / np.float32(255)


LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # Rec. 709, as imaging.luminance
SEEN = 1.0  # local spreads: a mark that changed a pixel by so much can be seen wholly
UNSEEN = 0.35  # and one by less than this, in a place as busy, by nobody
THICK = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (13, 13))


@dataclass(frozen=True, slots=True)
class DamageSampler:
    """Samples for a detector, all (C, S, S): ``input``, the 9 features of luma; ``target``, the soft mask in [0, 1].

    ``thick`` is what of the mask is at least 13 px wide, ``seen`` in [0, 1] how much its
    mark changed a pixel, in units of the spread around it (texture hides a scuff): both say how much a pixel weighs.

    Odd samples are damaged as ``damaged`` says, even ones as ``clean`` says, so that half of every batch has nothing
    to find (things that only look like damage included: both recipes draw decoys).
    """

    crop_px: int
    damaged: DamageRecipe
    clean: DamageRecipe
    largest_zoom: float = 2.0
    stamped_share: float = 1.0  # of the samples that may use stamps; the others are drawn from strokes alone

    def __call__(self, stock: Stock, rng: np.random.Generator, number: int) -> Arrays:
        """See the class."""
        picture = stock.pictures[int(rng.integers(len(stock.pictures)))]
        part = crop(picture, self.crop_px, rng, self.largest_zoom)
        stamps = stock.stamps if rng.random() < self.stamped_share else None
        made = simulate(part, rng, self.damaged if number % 2 else self.clean, stamps)
        luma = made.damaged @ LUMA if made.damaged.shape[2] == 3 else made.damaged[..., 0]
        thick = np.asarray(cv2.morphologyEx(made.mask, cv2.MORPH_OPEN, THICK), np.float32)
        given = features(luma)
        spread = given[SPREAD] / np.float32(SPREAD_GAIN)
        seen = np.clip((made.strength / spread - np.float32(UNSEEN)) / np.float32(SEEN - UNSEEN), 0, 1)
        seen = np.asarray(cv2.dilate(seen, np.ones((3, 3), np.uint8)), np.float32)  # a soft rim is seen with its line
        return {"input": given, "target": made.mask[None], "thick": thick[None], "seen": seen[None]}


def main(arguments: Sequence[str] | None = None) -> int:
    """``pack DATA OUT``: see ``pack``."""
    parser = argparse.ArgumentParser(prog="python -m models.training.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="tar shards of WebP from DATA/train and DATA/damage")
    packing.add_argument("data", type=Path)
    packing.add_argument("out", type=Path)
    packing.add_argument("--sets", nargs="+", default=list(SETS))
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        for path in pack(chosen.data, chosen.out, chosen.sets):
            log.info("shard_written path=%s bytes=%d", path, path.stat().st_size)
    except TrainingDataError as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
