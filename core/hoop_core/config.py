"""Settings: `hoop.toml`, overridden by HOOP_* environment variables (nested names joined by `__`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from hoop_core.errors import ConfigError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GatewaySettings(_Section):
    host: str = "127.0.0.1"
    port: int = 8750
    public_url: str = ""
    """The address that clients and approvers use; derived from host and port when empty."""
    poll_seconds: float = 30.0
    """How long a held or running statement is kept waiting in one HTTP exchange before 333333."""
    session_token_seconds: int = 3600
    session_seconds: int = 4 * 3600
    idle_seconds: int = 900
    max_body_bytes: int = 8 * 1024 * 1024
    readers: tuple[str, ...] = ("auditors", "data-owners")
    """Groups that may list all sessions; everybody sees their own."""


class IssuerSettings(_Section):
    issuer: str
    audience: str
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    groups_claim: str = "groups"
    name_claim: str = "preferred_username"
    claims: tuple[str, ...] = Field(default=(), max_length=20)
    """Further claims that row filters and conditions may compare with: texts or lists of texts. Dots
    descend, save in a name with `://`."""
    leeway_seconds: int = 30
    discovery_url: str = ""


class SnowflakeSettings(_Section):
    account: str = ""
    url: str = ""
    """https://<account>.snowflakecomputing.com when empty."""
    connect_seconds: float = 5.0
    request_seconds: float = 60.0


class VaultSettings(_Section):
    address: str = "http://127.0.0.1:8200"
    jwt_file: Path = Path("/var/run/secrets/hoop/vault-token")
    """The gateway's own workload identity: a projected token, re-read at each login."""
    auth_mount: str = "jwt"
    auth_role: str = "hoop-gateway"
    database_mount: str = "database"
    observer_role: str = "hoop-observer"
    observer_snowflake_role: str = "HOOP_OBSERVER"
    timeout_seconds: float = 15.0


class CatalogSettings(_Section):
    fresh_seconds: float = Field(default=300.0, gt=0)
    """How long columns and view texts are believed before Snowflake is asked again."""
    max_objects: int = Field(default=10_000, ge=1)


class StoreSettings(_Section):
    url: str = "sqlite:///hoop.db"
    recordings: str = "recordings"
    """An fsspec URL or a local folder."""


class AuditSettings(_Section):
    origin: str = "hoop.local/log"
    key_file: Path = Path("hoop-log.key")
    max_recorded_bytes: int = 256 * 1024 * 1024


class LineageSettings(_Section):
    namespace: str = "hoop"
    file: Path | None = None


class AnalysisSettings(_Section):
    """Hostile texts are analysed in processes of their own, which are killed when they take too long."""

    deadline_seconds: float = Field(default=2.0, gt=0)
    """Time of analysis, from which waiting for a worker or for the catalog is excepted."""
    workers: int = Field(default=0, ge=0, le=256)
    """How many statements are analysed at once; 0: as many as there are CPUs, at least 4, at most 16."""
    started: int = Field(default=0, ge=0)
    """Workers that are started with the gateway; 0: all. The others start when they are needed."""
    memory_mb: int = Field(default=2048, ge=256)
    """Address space of one worker."""
    waiting: int = Field(default=64, ge=1)
    """Statements of one session that may wait for a worker; a caller may have four times as many."""
    waiting_seconds: float = Field(default=10.0, gt=0)
    renew_after: int = Field(default=20_000, ge=1)
    """Statements that a worker analyses before it is replaced."""
    cache_entries: int = Field(default=10_000, ge=0)
    """Verdicts that are kept; 0: none."""
    cache_mb: int = Field(default=64, ge=1)


class PolicySettings(_Section):
    file: Path = Path("policy.yaml")
    reload_seconds: float = Field(default=2.0, ge=0)
    """How often the file is looked at for changes; 0: never."""


class Settings(BaseSettings):
    """The whole configuration. Unknown keys are errors."""

    model_config = SettingsConfigDict(
        env_prefix="HOOP_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    gateway: GatewaySettings = GatewaySettings()
    identity: tuple[IssuerSettings, ...] = Field(default=())
    snowflake: SnowflakeSettings = SnowflakeSettings()
    vault: VaultSettings = VaultSettings()
    catalog: CatalogSettings = CatalogSettings()
    store: StoreSettings = StoreSettings()
    audit: AuditSettings = AuditSettings()
    lineage: LineageSettings = LineageSettings()
    policy: PolicySettings = PolicySettings()
    analysis: AnalysisSettings = AnalysisSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings


def load_settings(path: Path | None = None) -> Settings:
    """Read `path` (else $HOOP_CONFIG, else ./hoop.toml when it is there) and the environment.

    Raises ConfigError that names the file and every wrong key.
    """
    chosen = path or Path(os.environ.get("HOOP_CONFIG", "hoop.toml"))
    explicit = path is not None or "HOOP_CONFIG" in os.environ
    if explicit and not chosen.is_file():
        raise ConfigError(
            f"The configuration file {chosen} is not there.",
            "Give its path with --config or HOOP_CONFIG; docs/configuration.md has an example.",
        )

    class _FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *sources: Any, **named: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            toml = TomlConfigSettingsSource(settings_cls, chosen)
            return (*Settings.settings_customise_sources(settings_cls, *sources, **named), toml)

    try:
        return _FromFile()
    except ValidationError as e:
        faults = "; ".join(f"{'.'.join(map(str, x['loc']))}: {x['msg']}" for x in e.errors())
        raise ConfigError(f"The configuration {chosen} is wrong: {faults}.") from None
    except ValueError as e:
        raise ConfigError(f"The configuration {chosen} cannot be read: {e}.") from None
