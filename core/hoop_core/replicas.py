"""Which gateway processes are alive: each writes a heartbeat into the store and finds the others there.

What a process held (sessions, minted users) is nobody's once it is dead: its heartbeat has stopped, or a new
process of the same name has started. All times are the store's own, so that no clock of a host counts.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import secrets
import socket
from datetime import timedelta

import structlog
from sqlalchemy import Connection, Select, delete, insert, select, update

from hoop_core.config import GatewaySettings
from hoop_core.errors import ConfigError, StoreUnavailable, where
from hoop_core.store import Store
from hoop_core.store.tables import replicas

_log = structlog.get_logger(__name__)
_BEATS = 4
"""A process that missed so many is dead to the others."""
_ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:\d{1,5})?/?"
)


class Replicas:
    """This process among its peers. `id` is new at every start, `name` stays with the place."""

    def __init__(
        self, store: Store, *, name: str, url: str = "", beat_seconds: float = 5.0
    ) -> None:
        self._store, self.name, self.url = store, name, url
        self.id = "rep_" + secrets.token_hex(12)
        self.beat_seconds = beat_seconds
        self._dead_after = timedelta(seconds=_BEATS * beat_seconds)

    @classmethod
    def of(cls, settings: GatewaySettings, store: Store) -> Replicas:
        """Raises ConfigError."""
        return cls(
            store,
            name=settings.replica or default_name(settings.port),
            url=own_url(settings),
            beat_seconds=settings.replica_beat_seconds,
        )

    def join(self) -> None:
        """Enter the list; earlier processes of this name leave it. Raises StoreUnavailable."""
        if self._store.shared and not self.url:
            _log.warning(
                "other replicas cannot reach the sessions of this one: set gateway.replica_url",
                replica=self.name,
            )
        with self._store.write() as connection:
            connection.execute(delete(replicas).where(replicas.c.name == self.name))
            self._enter(connection)

    def _enter(self, connection: Connection) -> None:
        now = self._store.now(connection)
        row = {"id": self.id, "name": self.name, "url": self.url}
        connection.execute(insert(replicas).values(**row, started_at=now, seen_at=now))

    def leave(self) -> None:
        """Leave the list: nothing is held any more. Raises StoreUnavailable."""
        with self._store.write() as connection:
            connection.execute(delete(replicas).where(replicas.c.id == self.id))

    def beat(self) -> None:
        """Say that this process is alive, and drop who has been silent. Raises StoreUnavailable.

        A process that was held up for so long that others took it for dead comes back under its own id.
        """
        with self._store.write() as connection:
            now = self._store.now(connection)
            kept = connection.execute(
                update(replicas).where(replicas.c.id == self.id).values(seen_at=now)
            )
            connection.execute(delete(replicas).where(replicas.c.seen_at < now - self._dead_after))
            if kept.rowcount:
                return
            usurper = connection.scalar(select(replicas.c.id).where(replicas.c.name == self.name))
            self._enter(connection)
        _log.error(
            "others took this replica for dead"
            if usurper is None
            else "another process runs under this replica's name: give each its own gateway.replica",
            replica=self.name,
        )

    def alive(self) -> dict[str, str]:
        """Ids of the living processes and their addresses, this one among them. Raises StoreUnavailable."""
        with self._store.read() as connection:
            rows = connection.execute(
                select(replicas.c.id, replicas.c.url).where(
                    replicas.c.seen_at >= self._store.now(connection) - self._dead_after
                )
            ).all()
        return {r.id: r.url for r in rows} | {self.id: self.url}

    def living(self, connection: Connection) -> Select[tuple[str]]:
        """The same ids as a subquery, for a change that must not touch what the living hold."""
        since = self._store.now(connection) - self._dead_after
        return select(replicas.c.id).where(replicas.c.seen_at >= since)

    async def run(self) -> None:
        """Beat for ever."""
        while True:
            await asyncio.sleep(self.beat_seconds)
            try:
                await asyncio.to_thread(self.beat)
            except StoreUnavailable as e:
                _log.error("this replica's heartbeat is not in the store", why=e.text)
            except Exception as e:  # a heart goes on
                _log.error("this replica's heartbeat failed inside Hoop", where=where(e))


def default_name(port: int) -> str:
    """One process a port and host."""
    return f"{socket.gethostname()}:{port}"[:255]


def own_url(settings: GatewaySettings) -> str:
    """Where other replicas reach this one; empty: nowhere. Raises ConfigError.

    A loopback address means another process on every host, and a wildcard no host at all, so neither is told
    to the others unless the settings say so.
    """
    if settings.replica_url:
        return checked_url(settings.replica_url, plain=settings.unsafe_plain_replicas)
    if is_loopback(settings.host) or settings.host in {"", "0.0.0.0", "::"}:  # noqa: S104
        return ""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"{'https' if settings.tls_certificate else 'http'}://{host}:{settings.port}"
    if url.startswith("http:") and not settings.unsafe_plain_replicas:
        return ""
    return checked_url(url, plain=settings.unsafe_plain_replicas)


def checked_url(url: str, *, plain: bool) -> str:
    """`url` when session handles may travel there: https, or http to this host or where `plain` allows it.

    Raises ConfigError.
    """
    found = _ADDRESS.fullmatch(url)
    if not found:
        raise ConfigError(
            "A replica's address is not https://, a host and a port.",
            "Set gateway.replica_url, for example to https://10.1.2.3:8750.",
        )
    if found["scheme"] == "http" and not plain and not is_loopback(found["host"]):
        raise ConfigError(
            f"Between replicas session handles would travel in clear to {found['host']}.",
            "Give the gateways TLS (gateway.tls_certificate) and an https:// address, or set "
            "gateway.unsafe_plain_replicas where the network itself encrypts.",
        )
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """A name counts as another host's, save `localhost`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
