"""Snowflake, the accounts, and the users that are minted there."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from hoop_core.config.section import Section


class SnowflakeSettings(Section):
    account: str = ""
    url: str = ""
    """https://<account>.snowflakecomputing.com when empty."""
    unsafe_plain_http: bool = False
    """Take an http:// `url` of another host: for networks that encrypt by themselves."""
    connect_seconds: float = 5.0
    request_seconds: float = 60.0


class AccountSettings(SnowflakeSettings):
    """A further account, chosen by the name that the client gives. What is empty is as for the default one."""

    account: str = Field(min_length=1)
    database_mount: str = ""
    observer_role: str = ""
    observer_snowflake_role: str = ""
    direct_user: str = ""
    direct_private_key_file: Path | None = None


class DirectSettings(Section):
    """Minting with a key pair of Hoop's own, for `credentials.backend = "direct"`."""

    user: str = "HOOP_MINTER_SVC"
    private_key_file: Path | None = None
    """PEM, mode 0600. The passphrase of an encrypted one is in HOOP_CREDENTIALS_KEY_PASSPHRASE."""
    role: str = "HOOP_MINTER"
    warehouse: str = "ML_WH"
    """Default warehouse of minted users whose role in the policy names none."""
    network_policy: str = "HOOP_ONLY"
    """Each user is made with it; empty: none, and a key that leaks works from anywhere."""


class CredentialsSettings(Section):
    """How users are minted, used and ended. docs/credentials.md says what each is for."""

    backend: Literal["vault", "direct"] = "vault"
    direct: DirectSettings = DirectSettings()
    idle_seconds: float = Field(default=0.0, ge=0)
    """A user that nothing was run with for so long is ended, and its session goes on; 0: never."""
    result_seconds: float = Field(default=300.0, gt=0)
    """With `scope: statement`: how long the parts of a result may be fetched before its user is ended."""
    warm: int = Field(default=0, ge=0, le=100)
    """Users of each role that are minted ahead."""
    warm_seconds: float = Field(default=600.0, gt=0)
    """The longest that a user waits for its use."""
    max_users: int = Field(default=500, ge=1)
    """Users of an account that this process has at once, the observer not counted."""
    wait_seconds: float = Field(default=10.0, gt=0)
    """How long a statement waits for one of them to end."""
    concurrency: int = Field(default=8, ge=1, le=64)
    """Users that are being minted at once, and as many that are being ended."""
    mint_seconds: float = Field(default=30.0, gt=0)
    """The longest that minting may take, waiting for its turn included."""
    sweep_seconds: float = Field(default=15.0, gt=0)
    orphan_seconds: float = Field(default=60.0, gt=0)
    """How often Snowflake's list of users is compared with the store."""
    end_procedure: str = "GOVERNANCE.HOOP.END_MINTED_USER"
    """Ends users that the minter cannot end any more; empty: an administrator has to."""


class VaultSettings(Section):
    address: str = "http://127.0.0.1:8200"
    unsafe_plain_http: bool = False
    """Take an http:// address of another host: for networks that encrypt by themselves."""
    jwt_file: Path = Path("/var/run/secrets/hoop/vault-token")
    """The gateway's own workload identity: a projected token, re-read at each login."""
    auth_mount: str = "jwt"
    auth_role: str = "hoop-gateway"
    database_mount: str = "database"
    transit_mount: str = "transit"
    """Where the keys are that `store.recordings_key` and others name."""
    observer_role: str = "hoop-observer"
    observer_snowflake_role: str = "HOOP_OBSERVER"
    timeout_seconds: float = 15.0


class CatalogSettings(Section):
    fresh_seconds: float = Field(default=300.0, gt=0)
    """How long columns and view texts are believed before Snowflake is asked again."""
    max_objects: int = Field(default=10_000, ge=1)
