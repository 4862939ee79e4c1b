"""Which gateway processes are alive: each writes a heartbeat into the store and finds the others there.

What a process held (sessions, minted users) is nobody's once it is dead: its heartbeat has stopped, or a new
process of the same name has started.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from datetime import datetime, timedelta

import structlog
from sqlalchemy import delete, insert, select, update

from hoop_core.audit.log import utc_now
from hoop_core.errors import StoreUnavailable
from hoop_core.store import Store
from hoop_core.store.tables import replicas

_log = structlog.get_logger(__name__)


class Replicas:
    """This process among its peers. `id` is new at every start, `name` stays with the place."""

    def __init__(
        self, store: Store, *, name: str, url: str = "", beat_seconds: float = 5.0
    ) -> None:
        self._store, self.name, self.url = store, name, url
        self.id = "rep_" + secrets.token_hex(12)
        self.beat_seconds = beat_seconds
        self._dead_after = timedelta(seconds=max(4 * beat_seconds, 20.0))

    def join(self) -> None:
        """Enter the list; earlier processes of this name leave it. Raises StoreUnavailable."""
        now = utc_now()
        with self._store.write() as connection:
            connection.execute(delete(replicas).where(replicas.c.name == self.name))
            connection.execute(
                insert(replicas).values(
                    id=self.id, name=self.name, url=self.url, started_at=now, seen_at=now
                )
            )

    def leave(self) -> None:
        """Leave the list: nothing is held any more. Raises StoreUnavailable."""
        with self._store.write() as connection:
            connection.execute(delete(replicas).where(replicas.c.id == self.id))

    def beat(self) -> None:
        """Say that this process is alive, and drop who has been silent. Raises StoreUnavailable.

        A process that was held up for so long that others took it for dead comes back under its own id.
        """
        now = utc_now()
        with self._store.write() as connection:
            connection.execute(delete(replicas).where(replicas.c.seen_at < now - self._dead_after))
            kept = connection.execute(
                update(replicas).where(replicas.c.id == self.id).values(seen_at=now)
            )
            if not kept.rowcount:
                connection.execute(
                    insert(replicas).values(
                        id=self.id, name=self.name, url=self.url, started_at=now, seen_at=now
                    )
                )

    def alive(self, now: datetime | None = None) -> dict[str, str]:
        """Ids of the living processes and their addresses, this one among them. Raises StoreUnavailable."""
        since = (now or utc_now()) - self._dead_after
        with self._store.read() as connection:
            rows = connection.execute(
                select(replicas.c.id, replicas.c.url).where(replicas.c.seen_at >= since)
            ).all()
        return {r.id: r.url for r in rows} | {self.id: self.url}

    async def run(self) -> None:
        """Beat for ever."""
        while True:
            await asyncio.sleep(self.beat_seconds)
            try:
                await asyncio.to_thread(self.beat)
            except StoreUnavailable as e:
                _log.error("this replica's heartbeat is not in the store", why=e.text)


def default_name(port: int) -> str:
    """One process a port and host."""
    return f"{socket.gethostname()}:{port}"[:255]
