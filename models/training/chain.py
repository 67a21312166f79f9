"""Detect, fill, enhance on pictures that are scratched and worn: what each stage gives, against the sound picture.

As in the synthetic test of Z. Wan et al., Bringing Old Photos Back to Life, 2020, whose figures (DIV2K, input
12.92 dB / SSIM 0.49, their result 23.33 dB / 0.69) stand beside ours and cannot be compared with them: pictures
(BSD100 and Set14), damage (``models.damage``) and severity are ours. Marks are drawn after the picture was worn, as on
the print in the box.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models import combined, enhancement, metrics
from models.damage import load_stamps, simulate
from models.enhancement import Enhanced
from models.fill import fill
from models.imaging import Mask, Raster, luminance
from models.nets.detect import LearntDetector
from models.network import Network
from models.training import worn
from models.training.enhance_data import MARKS

log = logging.getLogger("glassplate.chain")

SEED = 7
SCRATCHED = replace(MARKS, name="scratched")
DETECTOR = Path(combined.__file__).with_name("weights") / "detect.safetensors"

Found = dict[str, list[tuple[float, float]]]


def report(data: Path, files: Sequence[Path], nets: Mapping[str, tuple[Network, float]]) -> str:
    """A table of PSNR and SSIM after each stage. ``nets``: our networks and strengths by name."""
    stamps = load_stamps(data / "damage") if (data / "damage").is_dir() else None
    detector = LearntDetector.load(DETECTOR)
    found: Found = {}
    for file in files:
        clean = worn.clean(file)
        bad = worn.worn(clean, file.name, "mixed").astype(np.float32) / np.float32(255)
        rng = np.random.default_rng([SEED, zlib.crc32(file.name.encode())])
        made = simulate(bad, rng, SCRATCHED, stamps)
        raster = Raster(np.rint(made.damaged * 255).astype(np.uint8))
        masks = {
            "by the detectors": combined.detect(luminance(raster), detector, monochrome=False),
            "by the true mask": Mask((made.mask > 0.2).astype(np.float32)),
        }
        _add(found, "worn and scratched", clean, raster.pixels)
        for way, mask in masks.items():
            filled = fill(raster, mask) if 0 < mask.coverage < 1 else raster
            _add(found, f"filled {way}", clean, filled.pixels)
            for name, (net, strength) in nets.items():
                (done,) = enhancement.enhance([filled], net, masks=[mask], strength=strength)
                if not isinstance(done, Enhanced):
                    raise done
                _add(found, f"filled {way}, {name}", clean, done.raster.pixels)
    lines = [f"| scratched and worn, {len(files)} pictures | PSNR | SSIM |", "|---|---|---|"]
    for name, values in found.items():
        psnr, ssim = np.mean(np.array(values), axis=0)
        lines.append(f"| {name} | {psnr:.2f} | {ssim:.3f} |")
    return "\n".join([*lines, ""])


def _add(found: Found, name: str, clean: NDArray[np.uint8], made: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    pixels = made.astype(np.uint8, copy=False)
    found.setdefault(name, []).append((metrics.psnr(clean, pixels), metrics.ssim(clean, pixels)))
