"""Weights to begin a colour network from: its trunk as ImageNet taught it, the rest as the recipe's seed makes it.

``python -m models.training.trunk mobilenet_v2-b0353104.pth START.safetensors``
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from models.nets.mobilenet import from_torchvision
from models.training.recipes import COLOUR_RECIPE
from models.weights import WeightsError, load_strictly, write_state

log = logging.getLogger(__name__)


def begin(published: Path, out: Path) -> None:
    """Writes all tensors of a ColourNet to ``out``, its trunk from torchvision's ``mobilenet_v2`` file.

    Raises UnusableWeights when the file is another network's.
    """
    torch.manual_seed(COLOUR_RECIPE.seed)
    net = COLOUR_RECIPE.build()
    state = from_torchvision(torch.load(published, map_location="cpu", weights_only=True))
    load_strictly(net.get_submodule("trunk"), state, str(published))
    write_state(net.state_dict(), out)


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m models.training.trunk", description=__doc__)
    parser.add_argument("published", type=Path, help="torchvision's mobilenet_v2-b0353104.pth")
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        begin(chosen.published, chosen.out)
    except (WeightsError, OSError) as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
