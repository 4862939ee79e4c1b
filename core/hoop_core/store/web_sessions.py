"""People in front of the pages: their sessions, and answers that wait for a fresh proof. On all replicas.

Handles come here as digests: whoever reads the store can sign in with nothing of it.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, func, insert, select, update

from hoop_core.errors import Unavailable
from hoop_core.model import Json
from hoop_core.store.store import Store
from hoop_core.store.tables import browser_sign_ins, pending_answers, web_sessions

_SEEN_EVERY = timedelta(seconds=30)
"""How exactly it is known when a session was last used: not every page that is looked at is a write."""
_MOST_WAITING, _MOST_OF_ONE = 10_000, 20
_OWNER = 24
"""Characters of a handle that say whose it is."""


@dataclass(frozen=True, slots=True)
class WebSession:
    """`handle` is a digest."""

    handle: str
    identity: Json
    created_at: datetime
    expires_at: datetime


class WebSessions:
    """All raise StoreUnavailable."""

    def __init__(self, store: Store, *, idle_seconds: int) -> None:
        self._store, self._idle = store, timedelta(seconds=idle_seconds)

    def begin(self, handle: str, identity: Json, expires_at: datetime) -> None:
        now = datetime.now(UTC)
        with self._store.write() as connection:
            over = web_sessions.c.expires_at <= now
            idle = web_sessions.c.seen_at <= now - self._idle
            connection.execute(delete(web_sessions).where(over | idle))
            connection.execute(
                insert(web_sessions).values(
                    handle=handle,
                    identity=identity,
                    created_at=now,
                    seen_at=now,
                    expires_at=expires_at,
                )
            )

    def find(self, handle: str, *, touch: bool = True) -> WebSession | None:
        """One that is in force; it counts as used now, save where nobody looks (not `touch`)."""
        now = datetime.now(UTC)
        with self._store.read() as connection:
            row = connection.execute(
                select(web_sessions).where(web_sessions.c.handle == handle)
            ).one_or_none()
        if row is None or row.expires_at <= now or row.seen_at <= now - self._idle:
            return None
        if touch and now - row.seen_at > _SEEN_EVERY:
            with self._store.write() as connection:
                connection.execute(
                    update(web_sessions).where(web_sessions.c.handle == handle).values(seen_at=now)
                )
        return WebSession(row.handle, row.identity, row.created_at, row.expires_at)

    def proven_again(self, handle: str, identity: Json) -> bool:
        """What a fresh proof says of the same person holds from now on. False: the session is gone."""
        with self._store.write() as connection:
            done = connection.execute(
                update(web_sessions)
                .where(web_sessions.c.handle == handle)
                .values(identity=identity, seen_at=datetime.now(UTC))
            )
            return bool(done.rowcount == 1)

    def end(self, handle: str) -> None:
        with self._store.write() as connection:
            connection.execute(delete(web_sessions).where(web_sessions.c.handle == handle))


class PendingAnswers:
    """Answers that were sent and count for nothing yet. All raise StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def handle_for(self, person: str) -> str:
        """A new handle for an answer of this person's: 24 characters of a digest of who it is, 40 by chance."""
        return hashlib.sha256(person.encode()).hexdigest()[:_OWNER] + secrets.token_hex(20)

    def put(self, handle: str, body: Json, seconds: int) -> None:
        """`body["journey"]` is the digest of the browser's way to the proof. Of one person the newest wait: it takes
        the place, and ends the journey, of their oldest. Raises Unavailable when there are too many of all.
        """
        now = datetime.now(UTC)
        with self._store.write() as connection:
            connection.execute(delete(pending_answers).where(pending_answers.c.expires_at <= now))
            self._make_room(connection, handle[:_OWNER])
            waiting = connection.scalar(select(func.count()).select_from(pending_answers))
            if (waiting or 0) >= _MOST_WAITING:
                raise Unavailable("Too many answers wait for a proof.", "Try again in a minute.")
            connection.execute(
                insert(pending_answers).values(
                    handle=handle, body=body, expires_at=now + timedelta(seconds=seconds)
                )
            )

    def _make_room(self, connection: Connection, owner: str) -> None:
        known = pending_answers.c
        # hexadecimal digits sort before "g" in every collation
        theirs = select(known.handle, known.body).where(
            known.handle >= owner, known.handle < owner + "g"
        )
        newest = theirs.order_by(known.expires_at.desc())
        for row in connection.execute(newest.offset(_MOST_OF_ONE - 1)).all():
            connection.execute(delete(pending_answers).where(known.handle == row.handle))
            journey = browser_sign_ins.c.handle == row.body.get("journey")
            connection.execute(delete(browser_sign_ins).where(journey))

    def take(self, handle: str) -> Json | None:
        """The answer, once: of two who ask, one gets None."""
        with self._store.write() as connection:
            return self._taken(connection, handle)

    def _taken(self, connection: Connection, handle: str) -> Json | None:
        known = pending_answers.c
        row = connection.execute(
            select(known.body).where(known.handle == handle, known.expires_at > datetime.now(UTC))
        ).one_or_none()
        gone = connection.execute(delete(pending_answers).where(known.handle == handle))
        return dict(row.body) if row is not None and gone.rowcount == 1 else None
