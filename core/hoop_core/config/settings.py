"""Settings: `hoop.toml`, overridden by HOOP_* environment variables (nested names joined by `__`)."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from hoop_core.config.airflow import AirflowSettings
from hoop_core.config.completeness import LakeSettings, ReconcileSettings
from hoop_core.config.identity import IssuerSettings, SamlSettings, SignInSettings
from hoop_core.config.notifications import NotificationSettings, ReminderSettings
from hoop_core.config.pages import PageSettings
from hoop_core.config.records import AuditSettings, LineageSettings, StoreSettings
from hoop_core.config.serving import (
    AnalysisSettings,
    GatewaySettings,
    LimitSettings,
    PolicySettings,
    TelemetrySettings,
    UploadSettings,
)
from hoop_core.config.snowflake import (
    AccountSettings,
    CatalogSettings,
    CredentialsSettings,
    SnowflakeSettings,
    VaultSettings,
)
from hoop_core.errors import ConfigError


class Settings(BaseSettings):
    """The whole configuration. Unknown keys are errors."""

    model_config = SettingsConfigDict(
        env_prefix="HOOP_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    gateway: GatewaySettings = GatewaySettings()
    identity: tuple[IssuerSettings, ...] = Field(default=())
    saml: tuple[SamlSettings, ...] = Field(default=())
    sign_in: SignInSettings = SignInSettings()
    pages: PageSettings = PageSettings()
    snowflake: SnowflakeSettings = SnowflakeSettings()
    accounts: tuple[AccountSettings, ...] = Field(default=())
    credentials: CredentialsSettings = CredentialsSettings()
    vault: VaultSettings = VaultSettings()
    catalog: CatalogSettings = CatalogSettings()
    store: StoreSettings = StoreSettings()
    audit: AuditSettings = AuditSettings()
    lineage: LineageSettings = LineageSettings()
    policy: PolicySettings = PolicySettings()
    analysis: AnalysisSettings = AnalysisSettings()
    uploads: UploadSettings = UploadSettings()
    limits: LimitSettings = LimitSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    notifications: tuple[NotificationSettings, ...] = Field(default=())
    reminders: ReminderSettings = ReminderSettings()
    airflow: tuple[AirflowSettings, ...] = Field(default=())
    reconcile: ReconcileSettings = ReconcileSettings()
    lake: LakeSettings = LakeSettings()

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
        faults = "; ".join(_fault(x["loc"], x["type"], x["msg"]) for x in e.errors())
        raise ConfigError(
            f"The configuration {chosen} is wrong: {faults}.",
            "docs/configuration.md has every key.",
        ) from None
    except ValueError as e:
        raise ConfigError(f"The configuration {chosen} cannot be read: {e}.") from None


def _fault(place: tuple[int | str, ...], kind: str, said: str) -> str:
    """One mistake in words; an unknown key with the nearest that there is."""
    name = ".".join(map(str, place))
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(place[-1]), list(_keys(place[:-1])), n=1, cutoff=0.5)
        return f"unknown key `{name}`" + (f" (did you mean `{near[0]}`?)" if near else "")
    if kind == "missing":
        return f"`{name}` is missing"
    if kind == "tuple_type":
        return (
            f"`{name}` may come several times: write {f'[[{name}]]' if _keys(place) else 'a list'}"
        )
    return f"`{name}`: {said}"


def _keys(place: tuple[int | str, ...]) -> Collection[str]:
    """What may stand in a section; nothing where the place is no section."""
    model: type[BaseModel] = Settings
    for part in place:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        inner = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if not inner:
            return ()
        model = inner[0]
    return model.model_fields
