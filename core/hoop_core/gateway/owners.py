"""Which replica holds a session: what the store knows of it, for requests that land elsewhere.

The store holds SHA-256 of the handles in force, never a handle, and nothing of what the session is at
Snowflake. So a session cannot move: with its replica it is gone, and another one writes down its end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, or_, select, update

from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.errors import SessionGone
from hoop_core.model import Json
from hoop_core.replicas import Replicas
from hoop_core.store import Store
from hoop_core.store.tables import sessions

DIED = "its replica died"


def digest_of(handle: str) -> str:
    """What the store and our memory keep of a handle."""
    return hashlib.sha256(handle.encode()).hexdigest()


class SessionOwners:
    """The owners' side of the table `sessions`. Synchronous; every method raises StoreUnavailable."""

    def __init__(self, store: Store, log: AuditLog, replicas: Replicas) -> None:
        self._store, self._log, self._replicas = store, log, replicas

    @property
    def me(self) -> str:
        return self._replicas.id

    def owned(self, token: str, master: str) -> dict[str, str]:
        """The columns of a session that this replica opens, by the digests of its handles."""
        return {"owner": self.me, "token_digest": token, "master_digest": master}

    def renewed(self, session_id: str, token: str, master: str) -> None:
        """Other handles are in force from now on. Raises SessionGone when others closed the session."""
        with self._store.write() as connection:
            changed = connection.execute(
                update(sessions)
                .where(sessions.c.id == session_id, sessions.c.owner == self.me, _OPEN)
                .values(token_digest=token, master_digest=master)
            )
        if not changed.rowcount:
            raise SessionGone("This session was closed meanwhile.", "Connect again.")

    def closed(self, session_id: str, reason: str) -> None:
        """Write down the end of a session of ours, once."""
        self._close(session_id, reason, sessions.c.owner == self.me, {})

    def bury(self) -> list[str]:
        """Write down the end of every session whose replica is dead. Whoever comes first does it."""
        with self._store.read() as connection:
            dead = connection.execute(
                select(sessions.c.id, sessions.c.owner).where(self._ownerless(connection), _OPEN)
            ).all()
        return [r.id for r in dead if self._close(r.id, DIED, None, {"replica": r.owner})]

    def _close(
        self, session_id: str, reason: str, whose: ColumnElement[bool] | None, more: Json
    ) -> bool:
        def write(connection: Connection) -> Json:
            # Looked at again under the log's lock: an owner may have come back.
            theirs = self._ownerless(connection) if whose is None else whose
            closed = connection.execute(
                update(sessions)
                .where(sessions.c.id == session_id, theirs, _OPEN)
                .values(
                    closed_at=utc_now(),
                    close_reason=reason[:64],
                    token_digest=None,
                    master_digest=None,
                )
            )
            if not closed.rowcount:
                raise _ClosedMeanwhile
            return {"reason": reason, **more}

        try:
            self._log.append("session.closed", write, session_id=session_id)
        except _ClosedMeanwhile:
            return False
        return True

    def _ownerless(self, connection: Connection) -> ColumnElement[bool]:
        """Rows without an owner are from before there were several."""
        owner = sessions.c.owner
        living = self._replicas.living(connection)
        return or_(owner.is_(None), and_(owner != self.me, owner.not_in(living)))

    def closed_by_others(self, held: Collection[str]) -> set[str]:
        """Which of the sessions that this replica holds were closed while others took it for dead."""
        found: set[str] = set()
        wanted = sorted(held)
        with self._store.read() as connection:
            for at in range(0, len(wanted), _AT_ONCE):
                some = sessions.c.id.in_(wanted[at : at + _AT_ONCE])
                found.update(connection.scalars(select(sessions.c.id).where(some, ~_OPEN)))
        return found

    def owner_of(self, *, digest: str | None = None, session_id: str | None = None) -> str | None:
        """The id of the replica that holds an open session, by a handle's digest or its own id."""
        whose: Any = sessions.c.id == session_id
        if digest is not None:
            whose = or_(sessions.c.token_digest == digest, sessions.c.master_digest == digest)
        with self._store.read() as connection:
            owner: str | None = connection.scalar(select(sessions.c.owner).where(whose, _OPEN))
        return owner

    def alive(self) -> dict[str, str]:
        """Ids and addresses of the living replicas."""
        return self._replicas.alive()


_OPEN = sessions.c.closed_at.is_(None)
_AT_ONCE = 1000


class _ClosedMeanwhile(Exception):
    """Another replica was faster; there is nothing to write down."""
