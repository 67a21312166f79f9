"""Networks for a stage: weights fetched on first use, verified, loaded once per worker; and claims kept meanwhile."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from db.records import LedgerError
from models import network
from models.nets import centerface, embedding
from models.nets.centerface import CenterFace
from models.nets.embedding import Embedding
from models.network import Network, NetworkError, NonFiniteOutput
from models.registry import ModelCard
from models.weights import WeightsError
from tasks.contracts import BadOutput, PlateRef
from tasks.fetch import BadWeights, fetch
from tasks.shelf import Shelf
from tasks.stage import Workshop

log = logging.getLogger("glassplate.networks")


def device_type(models: Shelf) -> str:
    """``cuda`` or ``cpu``: what ``auto`` means in this process."""
    if models.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(models.device).type


def network_of(card: ModelCard, shop: Workshop) -> Network:
    """The card's network, resident in this process; its weights are fetched when they are not there yet.

    Raises Unavailable when the weights' source is out of reach, BadWeights when they are not the pinned ones, do not
    fit the network, or are of a network for something else: one that fills damage needs a mask, no other takes one.
    """
    path = weights_of(card, shop)
    try:
        found = network.resident(card, path, shop.models.device)
    except WeightsError as error:
        raise BadWeights(card.id, expected=error.expected, found=f"{error.found} in {error.name}") from error
    masked = bool(getattr(found.module, "masked", False))
    if masked != (card.purpose == "inpaint"):
        kind = getattr(found.module, "architecture", type(found.module).__name__)
        takes = {True: "a network that takes a mask", False: "a network that takes no mask"}
        raise BadWeights(card.id, expected=f"{takes[not masked]}, for {card.purpose}", found=f"{kind}, {takes[masked]}")
    return found


def face_detector(card: ModelCard, shop: Workshop) -> CenterFace:
    """CenterFace, resident in this process; errors as of ``network_of``."""
    path = weights_of(card, shop)
    try:
        return centerface.resident(card, path)
    except WeightsError as error:
        raise BadWeights(card.id, expected=error.expected, found=f"{error.found} in {error.name}") from error


def face_embedding(card: ModelCard, shop: Workshop) -> Embedding:
    """A registered identity network, resident in this process; errors as of ``network_of``."""
    path = weights_of(card, shop)
    try:
        return embedding.resident(card, path)
    except WeightsError as error:
        raise BadWeights(card.id, expected=error.expected, found=f"{error.found} in {error.name}") from error


def weights_of(card: ModelCard, shop: Workshop) -> Path:
    """The card's first file, fetched and verified."""

    def from_s3(bucket: str, key: str, to: Path) -> None:
        shop.store.download(bucket, key, to)

    paths = fetch(card, shop.models.weights_dir.expanduser(), s3=from_s3)
    if not paths:
        raise BadWeights(card.id, expected="a model with weights", found="a card without files")
    return paths[0]


def keeping_claims(refs: Sequence[PlateRef], shop: Workshop) -> Callable[[int], None]:
    """A function to call now and then during long work: it extends the claims of these scans before they run out.

    A claim that was lost all the same is noticed when the result is to be saved; a ledger that does not answer now may
    answer then.
    """
    every_s = shop.lease_seconds / 3
    last = time.monotonic()

    def keep(_tiles: int) -> None:
        nonlocal last
        if time.monotonic() - last < every_s:
            return
        last = time.monotonic()
        for ref in refs:
            try:
                shop.ledger.extend(ref.restoration_id, shop.holder, shop.lease_seconds)
            except LedgerError as error:
                log.warning("scan=%r claim not extended: %s", ref.scan, error)

    return keep


def bad_output(scan: str, error: NetworkError, keep: Callable[[str, bytes], str]) -> BadOutput:
    """A network's error about one scan as the pipeline's own, with the evidence kept.

    ``keep(scan, bytes)`` stores a file beside the scan's plate and returns where it lies.
    """
    found = error.found
    if isinstance(error, NonFiniteOutput):
        file = io.BytesIO()
        np.save(file, error.evidence, allow_pickle=False)
        found += f"; the tile it was given is kept as {keep(scan, file.getvalue())} (.npy)"
    return BadOutput(scan, expected=error.expected, found=found)


def keeping_evidence(refs: Sequence[PlateRef], shop: Workshop) -> Callable[[str, bytes], str]:
    """The ``keep`` of ``bad_output`` for these scans: evidence goes to the scan's work area, which a failure leaves."""
    by_scan = {ref.scan: ref.restoration_id for ref in refs}

    def keep(scan: str, evidence: bytes) -> str:
        blobs = shop.blobs(by_scan[scan])
        sha256 = blobs.put(evidence, "application/x-npy")
        return f"s3://{blobs.bucket}/{blobs.prefix}{sha256}"

    return keep
