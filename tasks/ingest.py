"""S3 scan -> checked, fully decoded, content-addressed plate; or quarantine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import ImageCms
from prefect import task

from db.records import Claim, ClaimStatus, Event, ListedObject, MasterFacts, PlannedRestoration
from infra.store import Altered, Fetched, Listed, NotFound
from models import imaging
from models.imaging import ImagingError, Raster
from tasks import stage
from tasks.contracts import (
    MASTER,
    BadScan,
    GlassplateError,
    ImageRef,
    MasterRef,
    Outcome,
    PlateRef,
    StageResult,
    Unavailable,
    restoration_id,
)
from tasks.recipe import RestorationRecipe
from tasks.stage import Identity, Workshop

LONGEST_KEY_BYTES = 1024  # S3's limit
LONGEST_NAME_BYTES = 40  # of a file in a restoration's folder
LONGEST_SEGMENT_BYTES = 255  # what file systems, and stores built on them, take between two slashes
_NO_NAMES = ("", ".", "..")
_UNUSUAL = re.compile(r"[\\\x00-\x1f\x7f]")


@task(name="ingest", task_run_name="ingest", **stage.TASK)
def ingest(keys: list[str], recipe: RestorationRecipe, identity: Identity, shop: Workshop) -> list[StageResult]:
    """Each scan read, decoded to its last pixel and claimed; what cannot be restored is in quarantine with a reason."""
    claimed: dict[str, str] = {}
    return stage.outcomes("ingest", keys, lambda key: _read(key, recipe, identity, shop, claimed), lambda key: key)


def _read(
    key: str, recipe: RestorationRecipe, identity: Identity, shop: Workshop, claimed: dict[str, str]
) -> StageResult:
    try:
        listed = shop.store.head(shop.masters_bucket, key)
    except NotFound as error:
        raise GlassplateError(key, expected="a scan under this key in the masters bucket", found="none") from error
    if listed.cold:  # no fault of the scan's, and nothing that goes by in minutes: neither quarantine nor a retry
        found = f"{listed.storage_class}: ask for a restore from cold storage, and restore it when it is back"
        raise GlassplateError(key, expected="a scan that can be read", found=found)
    with tempfile.TemporaryDirectory(prefix="glassplate-") as folder:
        path = Path(folder) / "master"
        try:
            fetched, raster, header = _checked(listed, path, shop)
        except ImagingError as error:
            _quarantine(listed, error, shop)
            raise BadScan(key, expected=error.expected, found=error.found) from error
        return _plated(listed, fetched, raster, header, path, recipe, identity, shop, claimed)


def _checked(listed: Listed, path: Path, shop: Workshop) -> tuple[Fetched, Raster, imaging.Header]:
    """The master's bytes in ``path`` and its picture; raises ImagingError for what no restoration can use."""
    if listed.size == 0:
        raise imaging.UnreadableImage(listed.key, expected="an image", found="an empty object")
    if listed.size > shop.limits.max_bytes:
        raise imaging.OversizedImage(
            listed.key, expected=f"at most {shop.limits.max_bytes} bytes", found=f"{listed.size} bytes"
        )
    try:
        fetched = shop.store.download(shop.masters_bucket, listed.key, path, etag=listed.etag)
    except Altered as error:
        raise Unavailable(listed.key, expected=f"ETag {listed.etag}", found="a scan that is being replaced") from error
    header = imaging.probe(path, listed.key, shop.limits)
    return fetched, imaging.decode(path, listed.key, shop.limits), header


def _quarantine(listed: Listed, error: ImagingError, shop: Workshop) -> None:
    shop.ledger.quarantine(
        shop.masters_bucket,
        _object(listed),
        reason=f"{type(error).__name__}: expected {error.expected}, found {error.found}",
        expected=error.expected,
        found=error.found,
        night_id=shop.night_id,
        flow_run_id=shop.flow_run_id,
    )


def _plated(
    listed: Listed,
    fetched: Fetched,
    raster: Raster,
    header: imaging.Header,
    path: Path,
    recipe: RestorationRecipe,
    identity: Identity,
    shop: Workshop,
    claimed: dict[str, str],
) -> StageResult:
    key, icc_name = listed.key, _profile_name(raster.icc)
    facts = MasterFacts(
        sha256=fetched.sha256, size_bytes=fetched.size, width=raster.width, height=raster.height,
        channels=raster.pixels.shape[2], bits=raster.bits, media_type=header.media_type,
        orientation=raster.orientation, dpi=raster.dpi, icc_name=icc_name, notes=raster.notes,
    )  # fmt: skip
    scan_id = shop.ledger.register(shop.masters_bucket, _object(listed), facts)
    own_id = restoration_id(fetched.sha256, recipe.digest(), identity.weights_sha256s, identity.stage_versions)
    claim = shop.ledger.claim(
        PlannedRestoration(
            id=own_id,
            scan_id=scan_id,
            master_sha256=fetched.sha256,
            recipe_name=recipe.name,
            recipe_digest=recipe.digest(),
            recipe=recipe.model_dump(mode="json"),
            prefix=folder_of(key, own_id, shop.restored_prefix),
            glassplate_version=importlib.metadata.version("glassplate"),
            nightly_run_id=shop.night_id,
            flow_run_id=shop.flow_run_id,
        ),
        shop.holder,
        shop.lease_seconds,
    )
    done = StageResult(stage="ingest", scan=key, outcome=Outcome.SKIPPED)
    if claim.status is ClaimStatus.FINISHED and own_id not in claimed:
        shop.blobs(own_id).delete_all()  # left by a run that was killed between its last row and its tidying up
    if (reason := _nothing_to_do(claim, claimed.get(own_id))) is not None:
        return done.model_copy(update={"reason": reason, "restoration_id": own_id})
    claimed[own_id] = key

    shop.blobs(own_id).put(path, header.media_type)
    image = ImageRef(
        uri=f"s3://{shop.masters_bucket}/{key}", sha256=fetched.sha256, width=raster.width, height=raster.height,
        media_type=header.media_type,
    )  # fmt: skip
    master = MasterRef(
        bucket=shop.masters_bucket, key=key, etag=fetched.etag, version_id=fetched.version_id, size=fetched.size,
        image=image, channels=facts.channels, bits=facts.bits, orientation=facts.orientation, icc_name=icc_name,
        dpi=facts.dpi, notes=raster.notes,
    )  # fmt: skip
    plate = PlateRef(
        restoration_id=own_id, attempt=claim.attempt, planned_at=claim.planned_at.isoformat(), folder=claim.prefix,
        master=master, layers={MASTER: image},
    )  # fmt: skip
    for note in raster.notes:
        shop.ledger.event(
            Event("decoded", {"note": note}, scan_key=key, restoration_id=own_id, nightly_run_id=shop.night_id),
            once=f"{own_id} {note}",
        )
    return done.model_copy(update={"outcome": Outcome.DONE, "plate": plate, "restoration_id": own_id})


def _nothing_to_do(claim: Claim, twin: str | None) -> str | None:
    """Why this scan goes no further, or None."""
    if twin is not None:
        return f"the same bytes as {twin}, which is being restored"
    if claim.status is ClaimStatus.RUNNING:
        return f"already running: {claim.holder}"
    if claim.status is ClaimStatus.FINISHED:
        return f"already {claim.state.value}: {claim.reason or claim.prefix}"
    return None


def folder_of(key: str, restoration_id: str, prefix: str) -> str:
    """Where a restoration's files lie: ``<prefix><key>/<restoration id>/``, at most 1,024 bytes with a file's name.

    A key that is too long for that, or that not every store or file system takes as a path (empty, ``.`` and ``..``
    segments, a leading slash, segments over 255 bytes, backslashes, control characters), is put into a readable form
    of itself and carries its own sha256, so that no two keys come to the same place.
    """
    room = LONGEST_KEY_BYTES - len(f"{prefix}/{restoration_id}/".encode()) - LONGEST_NAME_BYTES
    segments = key.split("/")
    usual = all(s not in _NO_NAMES and len(s.encode()) <= LONGEST_SEGMENT_BYTES for s in segments)
    if not usual or _UNUSUAL.search(key) or len(key.encode()) > room:
        digest = hashlib.sha256(key.encode()).hexdigest()
        longest = LONGEST_SEGMENT_BYTES - len(digest) - 1
        kept = [_cut(_UNUSUAL.sub("_", segment), longest) for segment in segments if segment not in _NO_NAMES]
        key = _cut("/".join(kept), room - len(digest) - 1).rstrip("/") + "~" + digest
    return f"{prefix}{key}/{restoration_id}/"


def _cut(text: str, at_most_bytes: int) -> str:
    return text.encode()[:at_most_bytes].decode(errors="ignore")


def _object(listed: Listed) -> ListedObject:
    return ListedObject(listed.key, listed.etag, listed.size, listed.last_modified, listed.version_id)


def _profile_name(icc: bytes | None) -> str | None:
    if icc is None:
        return None
    try:
        return ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(icc))).strip()
    except (ImageCms.PyCMSError, OSError):
        return "unreadable profile"
