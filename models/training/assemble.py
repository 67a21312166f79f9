"""The three trainings of enhancement as one file of weights with its card.

``python -m models.training.assemble TONE DETAIL DETAIL_GAN OUT`` joins the ``best.safetensors`` of three folders that
``models.training.loop`` wrote into ``OUT`` (a ``.safetensors``) and their ``best.json`` into the ``.json`` beside it.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.nets.enhance import EnhanceNet
from models.training.loop import halved
from models.weights import State, WeightsError, file_sha256, load_strictly, read_state, write_state

log = logging.getLogger(__name__)

PARTS = ("tone", "fidelity", "gan")
TERMS = ("unknown", "research-only", "free")  # the strictest first


def assemble(folders: Sequence[Path], out: Path) -> dict[str, Any]:
    """Writes weights and card of an EnhanceNet from three folders, in the order of PARTS; returns the card.

    Raises UnusableWeights when a folder holds another network's weights, FileNotFoundError when it holds none.
    """
    state: State = {}
    cards: dict[str, Any] = {}
    for part, folder in zip(PARTS, folders, strict=True):
        tensors = read_state(folder / "best.safetensors")
        state |= {f"{part}.{name}": halved(tensor) for name, tensor in tensors.items()}
        cards[part] = json.loads((folder / "best.json").read_text())
    load_strictly(EnhanceNet(), state, str(out))
    write_state(state, out)
    terms = {card["data_terms"] for card in cards.values()}
    card = {
        "sha256": file_sha256(out),
        "size_bytes": out.stat().st_size,
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "licence": "Apache-2.0",
        "data_terms": next(term for term in TERMS if term in terms),
        **cards,
    }
    out.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")
    return card


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    first = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m models.training.assemble", description=first)
    for part in PARTS:
        parser.add_argument(part, type=Path, help="folder that a training left")
    parser.add_argument("out", type=Path)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        card = assemble([getattr(given, part) for part in PARTS], given.out)
    except (WeightsError, OSError) as error:
        log.error("%s", error)
        return 1
    log.info("assembled file=%s sha256=%s bytes=%d", given.out, card["sha256"], card["size_bytes"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
