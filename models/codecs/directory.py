"""TIFF directories: the same bytes hold the pages of a TIFF and an Exif block."""

from __future__ import annotations

import math
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.codecs.stored import Broken, Buffer, as_text

Entries: TypeAlias = "dict[int, Field | Entries]"

BLOCK_LIMIT = 64 * 1024 * 1024  # bytes of one metadata block once inflated: far above any real one
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_ITEM_CODES = {1: "B", 3: "H", 4: "I", 5: "I", 6: "b", 8: "h", 9: "i", 10: "i", 11: "f", 12: "d", 13: "I"} | {
    16: "Q",
    17: "q",
    18: "Q",
}
EXIF_IFD, GPS_IFD, INTEROPERABILITY_IFD = 34665, 34853, 40965
# What describes the picture and its making; what describes the pixels (size, resolution, orientation) is not Exif's.
_KEPT = frozenset({269, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096)})


@dataclass(frozen=True, slots=True)
class Field:
    """One value of a TIFF directory: TIFF type, count, little-endian bytes."""

    kind: int
    count: int
    raw: bytes


class Directory:
    """One TIFF directory in ``data``; values are found at once and read only when asked for. Raises Broken."""

    def __init__(self, data: Buffer, offset: int, order: str, big: bool) -> None:
        self._data, self._order, self._big = data, order, big
        count_code, slot = ("Q", 8) if big else ("H", 4)
        row = f"{order}HH{'Q' if big else 'I'}"
        try:
            (count,) = struct.unpack_from(order + count_code, data, offset)
            first = offset + struct.calcsize(count_code)
            step = struct.calcsize(row) + slot
            if count > 0xFFFF or first + count * step + slot > len(data):
                raise Broken(f"a directory of {count} tags at byte {offset}", f"a file of {len(data)} bytes")
            self.places: dict[int, tuple[int, int, int]] = {}  # tag: (type, count, position of the value)
            for at in range(first, first + count * step, step):
                tag, kind, number = struct.unpack_from(row, data, at)
                position = at + step - slot
                if _ITEM_BYTES.get(kind, 0) * number > slot:
                    (position,) = struct.unpack_from(order + ("Q" if big else "I"), data, position)
                self.places[tag] = (kind, number, position)
            (self.next,) = struct.unpack_from(order + ("Q" if big else "I"), data, first + count * step)
        except (struct.error, OverflowError) as error:
            raise Broken(f"a directory at byte {offset}", f"a file of {len(data)} bytes") from error

    def __contains__(self, tag: int) -> bool:
        return tag in self.places

    def field(self, tag: int) -> Field:
        """The value of ``tag``, turned little-endian."""
        kind, count, position = self.places[tag]
        size = _ITEM_BYTES.get(kind, 0) * count
        if not 0 < size <= min(BLOCK_LIMIT, len(self._data) - position):
            raise Broken(f"tag {tag} in the file", f"{count} values of type {kind} at byte {position}")
        raw = bytes(self._data[position : position + size])
        if self._order == ">" and kind in _ITEM_CODES:
            raw = np.frombuffer(raw, f">{_ITEM_CODES[kind]}").byteswap().tobytes()
        return Field(kind, count, raw)

    def block(self, tag: int) -> bytes | None:
        """The raw bytes of ``tag``, as stored, or None."""
        return self.field(tag).raw if tag in self else None

    def numbers(self, tag: int, default: tuple[int, ...] = ()) -> NDArray[Any]:
        """The values of ``tag``; rationals as pairs."""
        if tag not in self:
            return np.array(default, np.int64)
        field = self.field(tag)
        if field.kind not in _ITEM_CODES:
            raise Broken(f"numbers in tag {tag}", f"TIFF type {field.kind}")
        return np.frombuffer(field.raw, f"<{_ITEM_CODES[field.kind]}")

    def number(self, tag: int, default: int) -> int:
        """The first value of ``tag``."""
        value = float(self.numbers(tag, (default,))[0])
        if not math.isfinite(value):
            raise Broken(f"a number in tag {tag}", str(value))
        return int(value)

    def text(self, tag: int) -> str | None:
        """The text of ``tag`` up to its NUL, UTF-8 or else Latin-1; None where there is none."""
        raw = (self.block(tag) or b"").split(b"\0")[0]
        return as_text(raw)

    def dpi(self) -> tuple[float, float] | None:
        """Tags 282, 283 and 296 as dots per inch."""
        factor = {2: 1.0, 3: 2.54}.get(self.number(296, 2))
        pairs = [self.numbers(tag, (0, 1)) for tag in (282, 283)]
        if factor is None or any(len(pair) < 2 for pair in pairs):
            return None
        x, y = (float(pair[0]) / float(pair[1]) * factor if pair[1] else 0.0 for pair in pairs)
        return (x, y) if 0 < x < 1e6 and 0 < y < 1e6 else None

    def orientation(self) -> int:
        """Tag 274, or 1 where it is missing or nonsense."""
        value = self.number(274, 1)
        return value if 1 <= value <= 8 else 1

    def fields(self) -> Entries:
        """Every value that is not empty; Broken where they are too much to be what they say."""
        found: Entries = {}
        room = BLOCK_LIMIT
        for tag, (kind, count, _) in self.places.items():
            if kind <= 13 and count:
                found[tag] = field = self.field(tag)
                room -= len(field.raw)
                if room < 0:
                    raise Broken(f"at most {BLOCK_LIMIT} bytes of metadata", "more")
        return found

    def entries(self) -> Entries:
        """The descriptive tags of a first directory with its Exif and GPS directories; ``{}`` where there are none."""
        found: Entries = {tag: self.field(tag) for tag, place in self.places.items() if tag in _KEPT and place[1]}
        for pointer in (EXIF_IFD, GPS_IFD):
            if pointer in self:
                child = self._child(pointer)
                found[pointer] = fields = child.fields()
                if INTEROPERABILITY_IFD in child:
                    fields[INTEROPERABILITY_IFD] = child._child(INTEROPERABILITY_IFD).fields()
        return found

    def _child(self, pointer: int) -> Directory:
        return Directory(self._data, self.number(pointer, 0), self._order, self._big)


def tiff_head(data: Buffer) -> tuple[str, bool, int]:
    """Byte order, BigTIFF or not, offset of the first directory."""
    order, big = "<" if data[:2] == b"II" else ">", data[2:4] in (b"+\0", b"\0+")
    try:
        (offset,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)
    except (struct.error, OverflowError) as error:
        raise Broken("a TIFF header", f"{len(data)} bytes") from error
    return order, big, offset


def read_exif(block: bytes) -> tuple[Directory, Entries]:
    """First directory of an Exif block, and its entries as ``Directory.entries`` gives them; raises Broken."""
    if block[:4] not in (b"II*\0", b"MM\0*"):
        raise Broken("an Exif block", f"first bytes {block[:4].hex(' ')}")
    order, big, offset = tiff_head(block)
    directory = Directory(block, offset, order, big)
    return directory, directory.entries()


def exif_block(entries: Entries) -> bytes | None:
    """``entries`` as a little-endian Exif block; None where there are none."""
    return b"II*\0\x08\0\0\0" + pack_directory(entries, 8, big=False) if entries else None


def pack_directory(entries: Entries, offset: int, *, big: bool) -> bytes:
    """``entries`` as a little-endian TIFF directory that will lie at byte ``offset``, its values behind it."""
    slot, number = (8, "Q") if big else (4, "I")
    start = struct.calcsize("<Q" if big else "<H")
    table = start + len(entries) * (4 + 2 * slot) + slot
    rows, values = bytearray(struct.pack("<Q" if big else "<H", len(entries))), bytearray()
    for tag, entry in sorted(entries.items(), key=lambda item: item[0]):
        at = offset + table + len(values)
        if isinstance(entry, Field) and len(entry.raw) <= slot:
            rows += struct.pack(f"<HH{number}", tag, entry.kind, entry.count) + entry.raw.ljust(slot, b"\0")
            continue
        kind, count = (entry.kind, entry.count) if isinstance(entry, Field) else (16 if big else 4, 1)
        raw = entry.raw if isinstance(entry, Field) else pack_directory(entry, at, big=big)
        rows += struct.pack(f"<HH{number}{number}", tag, kind, count, at)
        values += raw + b"\0" * (len(raw) % 2)
    return bytes(rows + bytes(slot) + values)


def append_directories(path: Path, private: Entries, big: bool) -> None:
    """Puts the Exif and GPS directories behind everything else and points their tags at them.

    tifffile writes no such tag: it has written the number below, which sorts alike, and that becomes the tag here.
    """
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            order, _, offset = tiff_head(data)
            places = Directory(data, offset, order, big).places
        for pointer, directory in private.items():
            at = file.seek(0, os.SEEK_END)
            at += file.write(b"\0" * (-at % 2))
            if isinstance(directory, dict):
                file.write(pack_directory(directory, at, big=big))
            position = places[pointer - 1][2]
            file.seek(position - (12 if big else 8))
            file.write(pointer.to_bytes(2, "little"))
            file.seek(position)
            file.write(at.to_bytes(8 if big else 4, "little"))


def exif_facts(exif: bytes, notes: list[str]) -> tuple[int, tuple[float, float] | None, str | None]:
    """Orientation, dpi and description of an Exif block; a note where it cannot be read."""
    try:
        directory, _ = read_exif(exif)
        return directory.orientation(), directory.dpi(), directory.text(270)
    except Broken:
        notes.append("unreadable Exif block")
        return 1, None, None
