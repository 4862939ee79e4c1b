"""Settings: `hoop.toml`, overridden by HOOP_* environment variables (nested names joined by `__`)."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, get_args

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
    port: int = Field(default=8750, ge=0, le=65535)
    public_url: str = ""
    """The address that clients and approvers use; derived from host and port when empty."""
    poll_seconds: float = 30.0
    """How long a held or running statement is kept waiting in one HTTP exchange before 333333."""
    session_token_seconds: int = 3600
    session_seconds: int = 4 * 3600
    session_outlives_token: bool = True
    """Whether a session goes on after its token's `exp`, as Snowflake's do; `session_seconds` ends it."""
    idle_seconds: int = 900
    max_body_bytes: int = 8 * 1024 * 1024
    readers: tuple[str, ...] = ("auditors", "data-owners")
    """Groups that may list all sessions; everybody sees their own."""
    replica: str = Field(default="", max_length=255)
    """This process's name among its replicas, the same after a restart; host name and port when empty."""
    replica_url: str = Field(default="", max_length=1000)
    """Where the other replicas reach this one: not the load balancer. From host and port when empty."""
    replica_ca: Path | None = None
    """The certificate authority of the replicas' certificates, when it is not a public one."""
    replica_beat_seconds: float = Field(default=5.0, ge=0.1, le=60.0)
    """How often a replica says that it is alive; after four times that in silence it is dead to the others."""
    unsafe_plain_replicas: bool = False
    """Forward requests to other hosts in plain HTTP: for networks that encrypt by themselves."""
    tls_certificate: Path | None = None
    """PEM chain; read again when the file changes. Without it Hoop speaks plain HTTP, on loopback only."""
    tls_key: Path | None = None
    """PEM, not for others to read (mode 0640 at most)."""
    tls_client_ca: Path | None = None
    """Set it, and only clients with a certificate of this authority are let in (mTLS)."""
    unsafe_plaintext: bool = False
    """Speak plain HTTP to other hosts: for networks that encrypt by themselves."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks whose `X-Forwarded-For` is believed."""
    header_seconds: float = Field(default=10.0, gt=0)
    """For the TLS handshake, and again for a request's line and headers."""
    body_seconds: float = Field(default=20.0, gt=0)
    """For a request's body, longer by what `body_bytes_per_second` makes of its length."""
    body_bytes_per_second: int = Field(default=4096, ge=1)
    stalled_seconds: float = Field(default=60.0, gt=0)
    """A client that does not read its response for so long is dropped."""
    keep_alive_seconds: int = Field(default=65, ge=1)
    max_header_bytes: int = Field(default=64 * 1024, ge=1024)
    max_headers: int = Field(default=100, ge=10)
    max_connections: int = Field(default=4000, ge=1)
    max_connections_per_address: int = Field(default=1000, ge=0)
    """0: no limit. Trusted proxies have none."""
    drain_seconds: float = Field(default=60.0, ge=0)
    """After SIGTERM sessions in use go on for so long; then their statements are cancelled."""
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(default=8751, ge=0, le=65535)
    """Where /metrics, /healthz and /readyz are served in plain HTTP; 0: on the gateway's own port."""
    health_seconds: float = Field(default=5.0, gt=0)
    """How often each dependency is looked at."""
    access_log: bool = True
    """One line a request on standard error."""


class IssuerSettings(_Section):
    """An OIDC issuer whose tokens are taken. docs/identity.md says what each check is for."""

    issuer: str = Field(min_length=1, max_length=700)
    audience: str = Field(min_length=1)
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    token_types: tuple[str, ...] = ("JWT", "at+jwt")
    """What the header `typ` may say (RFC 7515 section 4.1.9); a token without one counts as "JWT"."""
    authorized_parties: tuple[str, ...] = ()
    """Clients (`azp`, else `client_id`) whose tokens are taken; empty: any."""
    subject_claim: str = "sub"
    groups_claim: str = "groups"
    groups_separator: str = Field(default="", max_length=1)
    """Where groups come as one text: what stands between them. Empty: the text is one group."""
    group_prefix: str = ""
    """Put before each group, so that the same name at two issuers is not the same group."""
    group_names: dict[str, str] = Field(default_factory=dict)
    """The issuer's group to Hoop's. When it is not empty, groups that it does not name do not count."""
    name_claim: str = "preferred_username"
    claims: tuple[str, ...] = Field(default=(), max_length=20)
    """Further claims that row filters and conditions may compare with: texts or lists of texts. Dots
    descend, save where the token has a claim of that very name, or the name holds `://`."""
    leeway_seconds: int = Field(default=30, ge=0, le=300)
    max_age_seconds: int | None = Field(default=None, ge=1)
    """How long ago a token may have been issued (`iat`); None: as long as it lives."""
    single_use: bool = False
    """Each token (by `jti`) opens one session."""
    discovery_url: str = ""
    """Where the discovery document is, without `/.well-known/...`, when it is not below the issuer."""
    discovery_token_file: Path | None = None
    """A bearer token for discovery and keys, as Kubernetes' API server wants one; read again each time."""
    ca_file: Path | None = None
    """The certificate authority of the issuer's server, when it is not a public one."""
    proxy: str = Field(default="", repr=False)
    unsafe_plain_http: bool = False
    """Take keys over http:// from another host. Whoever can change them on the way can be anybody."""
    keys_fresh_seconds: int = Field(default=600, ge=10, le=86_400)
    """After this the keys are fetched again: a withdrawn key counts no longer."""
    keys_stale_seconds: int = Field(default=3600, ge=0, le=86_400)
    """How much longer fetched keys serve while the issuer does not answer."""
    client_id: str = ""
    """Set it, and people can sign in with a browser (authorization code with PKCE, RFC 7636)."""
    client_secret_file: Path | None = None
    scopes: tuple[str, ...] = ("openid", "profile", "groups")


class SamlSettings(_Section):
    """A SAML 2.0 identity provider whose responses are taken."""

    entity_id: str = Field(min_length=1, max_length=700)
    certificates: tuple[Path, ...] = Field(min_length=1, max_length=10)
    """PEM files of the certificates it signs with; several while it changes them."""
    audience: str = Field(min_length=1)
    """Hoop's own entity id, which the assertion must be meant for."""
    acs_url: str = ""
    """Where responses are posted to; <public_url>/hoop/sso/saml when empty."""
    sso_url: str = ""
    """Its HTTP-Redirect address; set it, and people can sign in with a browser."""
    native_sso_url: str = ""
    """For drivers that sign in to Okta themselves: the application's embed link."""
    allow_unsolicited: bool = False
    """Take responses that nobody asked for; `native_sso_url` needs it."""
    subject_attribute: str = ""
    """The attribute that names the person for good; the NameID when empty."""
    groups_attribute: str = "groups"
    group_prefix: str = ""
    group_names: dict[str, str] = Field(default_factory=dict)
    name_attribute: str = ""
    claims: tuple[str, ...] = Field(default=(), max_length=20)
    leeway_seconds: int = Field(default=30, ge=0, le=300)
    max_age_seconds: int = Field(default=3600, ge=60)
    """How long ago the person may have proven themselves to the provider (`AuthnInstant`)."""


class SignInSettings(_Section):
    failures_per_minute: int = Field(default=60, ge=0)
    """Failed sign-ins of one client address, then it has to wait; 0: no limit."""
    issuer_failures_per_minute: int = Field(default=600, ge=0)
    """The same for one issuer: then addresses that failed lately have to wait; 0: no limit."""
    logged_per_minute: int = Field(default=60, ge=1)
    """Refusals that get an entry of their own; the others of that minute are counted in one."""
    browser_seconds: int = Field(default=300, ge=30, le=1800)
    """How long a sign-in with a browser may take."""


class SnowflakeSettings(_Section):
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


class DirectSettings(_Section):
    """Minting with a key pair of Hoop's own, for `credentials.backend = "direct"`."""

    user: str = "HOOP_MINTER_SVC"
    private_key_file: Path | None = None
    """PEM, mode 0600. The passphrase of an encrypted one is in HOOP_CREDENTIALS_KEY_PASSPHRASE."""
    role: str = "HOOP_MINTER"
    warehouse: str = "ML_WH"
    """Default warehouse of minted users whose role in the policy names none."""
    network_policy: str = "HOOP_ONLY"
    """Each user is made with it; empty: none, and a key that leaks works from anywhere."""


class CredentialsSettings(_Section):
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


class VaultSettings(_Section):
    address: str = "http://127.0.0.1:8200"
    unsafe_plain_http: bool = False
    """Take an http:// address of another host: for networks that encrypt by themselves."""
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
    url: str = Field(default="sqlite:///hoop.db", repr=False)  # a password may be in it
    """sqlite:///path for one process, postgresql://user@host/database for several replicas."""
    connect_seconds: float = Field(default=5.0, gt=0)
    lock_seconds: float = Field(default=5.0, gt=0)
    """How long a writer waits for others, and for a free connection."""
    statement_seconds: float = Field(default=15.0, gt=0)
    """PostgreSQL: how long one query may take."""
    connections: int = Field(default=10, ge=2, le=500)
    """PostgreSQL: connections of one replica."""
    recordings: str = "recordings"
    """An fsspec URL or a local folder."""


class AuditSettings(_Section):
    origin: str = "hoop.local/log"
    key_file: Path = Path("hoop-log.key")


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


class UploadSettings(_Section):
    """Files that clients PUT; docs/configuration.md says what happens to them."""

    file_bytes: int = Field(default=256 << 20, ge=1)
    """The largest file."""
    session_bytes: int = Field(default=4 << 30, ge=1)
    """What one session may upload altogether."""
    held_bytes: int = Field(default=2 << 30, ge=1)
    """What may be on its way at one moment in this process: it is on disk meanwhile."""
    at_once: int = Field(default=4, ge=1, le=64)
    """Files that are written to Snowflake's stages at once."""
    open_at_once: int = Field(default=1000, ge=1)
    """PUT statements of one session whose addresses are still good."""
    url_seconds: int = Field(default=900, ge=10, le=86_400)
    """How long the address that a PUT is answered with takes its file."""
    stalled_seconds: float = Field(default=60.0, gt=0)
    """An upload that sends nothing for so long is dropped."""
    folder: Path | None = None
    """Where files are kept on their way, without names; the system's folder for temporary files if unset."""


class PolicySettings(_Section):
    file: Path = Path("policy.yaml")
    reload_seconds: float = Field(default=2.0, ge=0)
    """How often the file is looked at for changes; 0: never."""


class LimitSettings(_Section):
    """What one caller may have; 0: no limit. Each replica counts for itself."""

    statements_at_once: int = Field(default=256, ge=0)
    """Statements of one identity that are under way, those that wait for approval included."""
    statements_per_minute: int = Field(default=0, ge=0)
    sessions_at_once: int = Field(default=500, ge=0)
    """Open sessions of one identity."""
    sign_ins_per_minute: int = Field(default=1200, ge=0)
    """Sign-ins of one client address, good or bad; `sign_in.failures_per_minute` is for bad ones."""


class TelemetrySettings(_Section):
    """OpenTelemetry traces; needs the extra `otel`."""

    otlp_endpoint: str = ""
    """Where spans are sent to by OTLP over HTTP, as http://collector:4318/v1/traces; empty: nowhere."""
    service_name: str = "hoop"
    sample_ratio: float = Field(default=1.0, ge=0, le=1)


class Settings(BaseSettings):
    """The whole configuration. Unknown keys are errors."""

    model_config = SettingsConfigDict(
        env_prefix="HOOP_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    gateway: GatewaySettings = GatewaySettings()
    identity: tuple[IssuerSettings, ...] = Field(default=())
    saml: tuple[SamlSettings, ...] = Field(default=())
    sign_in: SignInSettings = SignInSettings()
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
