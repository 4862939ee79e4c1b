"""The connection configuration of one `database/config/<name>`, and its pool of Snowflake connections.

A pool instead of one connection behind a lock: a revocation must not wait for a slow creation. Every
wait is bounded below OpenBao's own and below the gateway's Vault timeout.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import parse_qs, unquote

from cryptography.hazmat.primitives import serialization

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGIN_SECONDS = 4
NETWORK_SECONDS = 8
WAIT_FOR_CONNECTION_SECONDS = 4
DEFAULT_OPEN, MAX_OPEN = 4, 16
DEFAULT_LIFETIME_SECONDS = 30 * 60.0
"""Below Snowflake's four hours of session idle timeout, after which a refresh fails (390114)."""

_SESSION_OVER = frozenset({390104, 390110, 390111, 390112, 390114, 390115})
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


class Cursor(Protocol):
    """The part of a DB-API cursor that the plugin needs."""

    def execute(self, command: str, /) -> object: ...
    def close(self) -> object: ...


class Connection(Protocol):
    """The part of a DB-API connection that the plugin needs."""

    def cursor(self) -> Cursor: ...
    def close(self) -> object: ...


Connect = Callable[["ConnectionConfig"], Connection]


class ConfigRefused(ValueError):
    """The connection configuration is incomplete or asks for something that is not offered."""


@dataclass(frozen=True, slots=True)
class ConnectionConfig:
    """`connection_url` is gosnowflake's DSN, `[user[:password]@]host[:port]/db[/schema][?params]`."""

    arguments: Mapping[str, Any] = field(repr=False)
    private_key_pem: str = field(repr=False, default="")
    max_open: int = DEFAULT_OPEN
    lifetime_seconds: float = DEFAULT_LIFETIME_SECONDS

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> ConnectionConfig:
        """Read what OpenBao sends to Initialize. Raises ConfigRefused."""
        url = str(data.get("connection_url") or "")
        if not url:
            raise ConfigRefused("connection_url cannot be empty")
        if data.get("username_template"):
            raise ConfigRefused("username_template is not supported by the embedded stack's plugin")
        username, password = str(data.get("username") or ""), str(data.get("password") or "")
        private_key = str(data.get("private_key") or "")
        arguments = _parse_dsn(url, username, password)
        if not arguments.get("user"):
            raise ConfigRefused("username cannot be empty")
        if private_key and arguments.get("password"):
            raise ConfigRefused("give either a password or a private_key, not both")
        if not private_key and not arguments.get("password"):
            raise ConfigRefused("a private_key (or a password) is needed")
        max_open = int(data.get("max_open_connections") or DEFAULT_OPEN)
        return cls(
            arguments,
            private_key,
            min(max(max_open, 1), MAX_OPEN),
            _seconds(data.get("max_connection_lifetime")) or DEFAULT_LIFETIME_SECONDS,
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every text that must not appear in an error."""
        key_lines = tuple(
            line for line in self.private_key_pem.splitlines() if line and "-----" not in line
        )
        password = str(self.arguments.get("password") or "")
        return tuple(s for s in (self.private_key_pem, *key_lines, password) if s)


def _seconds(value: object) -> float:
    """A Go duration such as `5m` or a number of seconds; 0 when not given."""
    if value in (None, "", 0, 0.0):
        return 0.0
    match = _DURATION.fullmatch(str(value))
    if not match:
        raise ConfigRefused("max_connection_lifetime is not a duration such as 5m")
    return float(match[1]) * _SECONDS[match[2]]


def _parse_dsn(url: str, username: str, password: str) -> dict[str, Any]:
    body, _, query = url.partition("?")
    parameters = {k: v[-1] for k, v in parse_qs(query).items()}
    credentials, _, address = body.rpartition("@")
    dsn_user, _, dsn_password = credentials.partition(":")
    host_port, *path = address.split("/")
    host, _, port = host_port.partition(":")
    fill = {"{{username}}": username, "{{password}}": password, "": ""}
    user = fill.get(dsn_user, unquote(dsn_user)) or username
    arguments: dict[str, Any] = {
        "user": user,
        "account": parameters.get("account", host.removesuffix(".snowflakecomputing.com")),
    }
    secret = fill.get(dsn_password, unquote(dsn_password)) or password
    if secret:
        arguments["password"] = secret
    if port:
        if not port.isdigit():
            raise ConfigRefused("the port in connection_url is not a number")
        arguments |= {
            "host": host,
            "port": int(port),
            "protocol": parameters.get("protocol", "https"),
        }
    arguments |= {k: v for k, v in zip(("database", "schema"), path, strict=False) if v}
    arguments |= {k: parameters[k] for k in ("warehouse", "role") if k in parameters}
    return arguments


def import_connector() -> Any:
    """The snowflake.connector module; its slow import is kept off the handshake."""
    import snowflake.connector  # noqa: PLC0415

    return snowflake.connector


def connect(config: ConnectionConfig) -> Connection:
    """Log in to Snowflake: by key pair when there is a private key, else by password."""
    arguments = dict(config.arguments)
    if config.private_key_pem:
        try:
            key = serialization.load_pem_private_key(config.private_key_pem.encode(), None)
        except (ValueError, TypeError):
            raise ConfigRefused("private_key is not an unencrypted PEM private key") from None
        arguments["private_key"] = key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        arguments["authenticator"] = "SNOWFLAKE_JWT"
    connection = import_connector().connect(
        **arguments,
        login_timeout=LOGIN_SECONDS,
        network_timeout=NETWORK_SECONDS,
        socket_timeout=NETWORK_SECONDS,
        client_session_keep_alive=False,
        paramstyle="qmark",  # so that a % within a statement stays a %
        session_parameters={"QUERY_TAG": "vault-database-plugin"},
    )
    return cast("Connection", connection)


def is_session_over(error: BaseException) -> bool:
    """Whether Snowflake refused because the session ended: a fresh login may then succeed."""
    return getattr(error, "errno", None) in _SESSION_OVER


class PoolClosed(RuntimeError):
    """The configuration was closed or replaced while an operation was waiting."""


class Pool:
    """At most `config.max_open` connections; idle ones are reused, last in first out."""

    def __init__(self, config: ConnectionConfig, connect: Connect = connect) -> None:
        self._config, self._connect = config, connect
        self._slots = threading.BoundedSemaphore(config.max_open)
        self._lock = threading.Lock()
        self._idle: list[tuple[float, Connection]] = []
        self._closed = False

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Borrow a connection; it goes back only when the block ends without an error.

        Raises TimeoutError when every connection stays busy, PoolClosed after close().
        """
        if not self._slots.acquire(timeout=WAIT_FOR_CONNECTION_SECONDS):
            raise TimeoutError("all connections to Snowflake are busy; try again")
        try:
            opened_at, connection = self._take()
            try:
                yield connection
            except BaseException:
                with suppress(Exception):
                    connection.close()
                raise
            self._give_back(opened_at, connection)
        finally:
            self._slots.release()

    def _take(self) -> tuple[float, Connection]:
        stale: list[Connection] = []
        now = time.monotonic()
        try:
            with self._lock:
                if self._closed:
                    raise PoolClosed("the connection was closed")
                while self._idle:
                    opened_at, connection = self._idle.pop()
                    if now - opened_at < self._config.lifetime_seconds:
                        return opened_at, connection
                    stale.append(connection)
        finally:
            _close_all(stale)
        return now, self._connect(self._config)

    def _give_back(self, opened_at: float, connection: Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append((opened_at, connection))
                return
        _close_all([connection])

    def forget_idle(self) -> None:
        """Drop idle connections: after one session ended, its neighbours are probably gone too."""
        with self._lock:
            idle, self._idle = [c for _, c in self._idle], []
        _close_all(idle)

    def close(self) -> None:
        """Refuse new work and close what is idle; borrowed connections close when they return.

        Logging out talks to Snowflake, so it happens on a thread of its own: OpenBao waits for
        Close only one second.
        """
        with self._lock:
            self._closed = True
            idle, self._idle = [c for _, c in self._idle], []
        if idle:
            threading.Thread(target=_close_all, args=(idle,), daemon=True).start()


def _close_all(connections: list[Connection]) -> None:
    for connection in connections:
        with suppress(Exception):
            connection.close()
