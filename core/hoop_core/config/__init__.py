"""The settings. Each section has its module; `settings.py` puts them together and reads them."""

from __future__ import annotations

from hoop_core.config.airflow import AirflowPerson, AirflowSettings
from hoop_core.config.completeness import AllowedUser, LakeSettings, ReconcileSettings
from hoop_core.config.identity import IssuerSettings, SamlSettings, SignInSettings
from hoop_core.config.notifications import NotificationSettings, ReminderSettings
from hoop_core.config.pages import PageSettings
from hoop_core.config.records import AuditSettings, LineageSettings, StoreSettings, WitnessSettings
from hoop_core.config.serving import (
    AnalysisSettings,
    GatewaySettings,
    LimitSettings,
    PolicySettings,
    TelemetrySettings,
    UploadSettings,
)
from hoop_core.config.settings import Settings, load_settings
from hoop_core.config.snowflake import (
    AccountSettings,
    CatalogSettings,
    CredentialsSettings,
    DirectSettings,
    SnowflakeSettings,
    VaultSettings,
)

__all__ = [
    "AccountSettings",
    "AirflowPerson",
    "AirflowSettings",
    "AllowedUser",
    "AnalysisSettings",
    "AuditSettings",
    "CatalogSettings",
    "CredentialsSettings",
    "DirectSettings",
    "GatewaySettings",
    "IssuerSettings",
    "LakeSettings",
    "LimitSettings",
    "LineageSettings",
    "NotificationSettings",
    "PageSettings",
    "PolicySettings",
    "ReconcileSettings",
    "ReminderSettings",
    "SamlSettings",
    "Settings",
    "SignInSettings",
    "SnowflakeSettings",
    "StoreSettings",
    "TelemetrySettings",
    "UploadSettings",
    "VaultSettings",
    "WitnessSettings",
    "load_settings",
]
