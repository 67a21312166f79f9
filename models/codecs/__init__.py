"""Containers: what a TIFF, PNG, JPEG or JPEG 2000 file says of itself, and its pixels, decoded strictly.

Bytes only: nothing here knows a scan's name; ``imaging`` does, and turns ``Broken`` and ``Foreign`` into its errors.
Strict where the usual libraries forgive what an archive must not: they fill missing tiles with zeros and a
truncated JPEG with gray, and only warn.
"""

from __future__ import annotations

from models.codecs.jp2 import CODESTREAM, SIGNATURE, open_jp2
from models.codecs.jpeg import open_jpeg
from models.codecs.png import open_png
from models.codecs.stored import Broken, Buffer, Foreign, Stored
from models.codecs.tiff import open_tiff

__all__ = ["Broken", "Buffer", "Foreign", "Stored", "open_container"]


def open_container(data: Buffer) -> Stored:
    """The image file in ``data``, told by its first bytes; raises Broken. Pixels are not decoded yet."""
    head = data[:8]
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return open_tiff(data)
    if head == b"\x89PNG\r\n\x1a\n":
        return open_png(data)
    if head[:3] == b"\xff\xd8\xff":
        return open_jpeg(data)
    if head == SIGNATURE[:8] or head[:4] == CODESTREAM:
        return open_jp2(data)
    raise Broken("a TIFF, PNG, JPEG or JPEG 2000 file", f"first bytes {head.hex(' ')}" if head else "an empty file")
