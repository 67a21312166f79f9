"""Settings: the only reader of the environment. Every field is a ``GLASSPLATE_*`` variable, listed in README."""

from __future__ import annotations

import json
from pathlib import Path
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

STACK_FILE = "stack.json"


class Settings(BaseSettings):
    """Where things are and how much a night may take. An unset database, S3 or Prefect means the embedded one."""

    model_config = SettingsConfigDict(env_prefix="GLASSPLATE_", extra="ignore", frozen=True)

    data_dir: Path = Field(
        default=Path("~/.glassplate"),
        description="Folder of the embedded stack: database, objects, logs, outputs of the demo.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="SQLAlchemy URL of the provenance database, postgresql+psycopg2://… Unset: the embedded PostgreSQL.",
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
    s3_checksums: bool = Field(
        default=True, description="Send SHA-256 checksums with every upload; off for stores that reject them."
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
    nightly_cron: str = Field(default="0 1 * * *", description="When the night starts, as cron.")
    timezone: str = Field(default="UTC", description="Time zone of nightly_cron, an IANA name.")
    nightly_recipe: str = Field(default="archival", description="Recipe of the scheduled night.")
    lease_seconds: int = Field(
        default=900, gt=0, description="How long a claimed scan stays claimed without a sign of life."
    )

    @field_validator("data_dir")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        return value.expanduser().absolute()

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


def load() -> Settings:
    """Settings from the environment, completed by the running embedded stack's ``stack.json`` where one is up.

    ``stack.json`` (mode 0600, written by ``infra.stack`` once everything answers) holds under ``"settings"`` the
    values of the unset fields: ``database_url``, ``s3_endpoint_url``, ``s3_access_key_id``,
    ``s3_secret_access_key``, ``prefect_api_url``, ``prefect_auth_string``.
    """
    settings = Settings()
    path = settings.data_dir / STACK_FILE
    if not settings.embedded or not path.is_file():
        return settings
    found = json.loads(path.read_text())["settings"]
    unset = {name: value for name, value in found.items() if name not in settings.model_fields_set}
    return Settings(**{**settings.model_dump(exclude_unset=True), **unset})
