"""How the gateway listens, analyses, limits and reports."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from hoop_core.config.section import Section


class GatewaySettings(Section):
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


class AnalysisSettings(Section):
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


class UploadSettings(Section):
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


class PolicySettings(Section):
    file: Path = Path("policy.yaml")
    reload_seconds: float = Field(default=2.0, ge=0)
    """How often the file is looked at for changes; 0: never."""


class LimitSettings(Section):
    """What one caller may have; 0: no limit. Each replica counts for itself."""

    statements_at_once: int = Field(default=256, ge=0)
    """Statements of one identity that are under way, those that wait for approval included."""
    statements_per_minute: int = Field(default=0, ge=0)
    sessions_at_once: int = Field(default=500, ge=0)
    """Open sessions of one identity."""
    sign_ins_per_minute: int = Field(default=1200, ge=0)
    """Sign-ins of one client address, good or bad; `sign_in.failures_per_minute` is for bad ones."""


class TelemetrySettings(Section):
    """OpenTelemetry traces; needs the extra `otel`."""

    otlp_endpoint: str = ""
    """Where spans are sent to by OTLP over HTTP, as http://collector:4318/v1/traces; empty: nowhere."""
    service_name: str = "hoop"
    sample_ratio: float = Field(default=1.0, ge=0, le=1)
