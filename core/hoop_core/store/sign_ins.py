"""What all replicas must know of sign-ins: which proofs were used, and which browsers are on their way."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, exists, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from hoop_core.errors import Unavailable
from hoop_core.model import Json
from hoop_core.store.store import Store
from hoop_core.store.tables import browser_sign_ins, seen_tokens

_RETRY_WITHIN = timedelta(minutes=5)
_TIDY_SECONDS = 60.0


class SeenTokens:
    """Proofs that count once: digests of their ids, kept as long as somebody could bring them again."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tidied = float("-inf")

    def first_use(self, digest: str, until: datetime, by: str) -> bool:
        """Whether this use is the first one, or the same request again within five minutes.

        `by` is a digest of proof and request. Raises StoreUnavailable; nobody may be let in then.
        """
        now = datetime.now(UTC)
        with self._store.write() as connection:
            self._tidy(connection, now)
            if self._added(connection, digest, until):
                self._added(connection, by, min(until, now + _RETRY_WITHIN))
                return True
            again = select(
                exists().where(seen_tokens.c.digest == by, seen_tokens.c.expires_at > now)
            )
            return bool(connection.scalar(again))

    def forget(self, by: str) -> None:
        """No further retry of this request: the first use itself is remembered. Raises StoreUnavailable."""
        with self._store.write() as connection:
            connection.execute(delete(seen_tokens).where(seen_tokens.c.digest == by))

    def _added(self, connection: Connection, digest: str, until: datetime) -> bool:
        """One of two replicas that do this at once gets True."""
        own_insert: Any = (
            sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        )  # both know ON CONFLICT, the general one does not
        added = connection.execute(
            own_insert(seen_tokens).values(digest=digest, expires_at=until).on_conflict_do_nothing()
        )
        return bool(added.rowcount == 1)

    def _tidy(self, connection: Connection, now: datetime) -> None:
        if time.monotonic() - self._tidied > _TIDY_SECONDS:
            self._tidied = time.monotonic()
            connection.execute(delete(seen_tokens).where(seen_tokens.c.expires_at <= now))


@dataclass(frozen=True, slots=True)
class Journey:
    """One browser on its way. All of it is short-lived, and no part of it is of use to anybody alone.

    `port` is where a program waits; 0: nobody does, the browser itself comes back to the pages.
    """

    handle: str
    proof_key: str
    port: int
    provider: str | None
    request: Json | None
    identity: Json | None
    expires_at: datetime


_MOST_JOURNEYS = 10_000


class Journeys:
    """Browsers that sign in. `handle`, `proof_key` and `ticket` are digests. All raise StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def begin(
        self, handle: str, proof_key: str, port: int, seconds: int, request: Json | None = None
    ) -> None:
        """Raises Unavailable when there are too many."""
        now = datetime.now(UTC)
        with self._store.write() as connection:
            connection.execute(delete(browser_sign_ins).where(browser_sign_ins.c.expires_at <= now))
            under_way = connection.scalar(select(func.count()).select_from(browser_sign_ins))
            if (under_way or 0) >= _MOST_JOURNEYS:
                raise Unavailable("Too many browsers are signing in.", "Try again in a minute.")
            connection.execute(
                insert(browser_sign_ins).values(
                    handle=handle,
                    proof_key=proof_key,
                    port=port,
                    request=request,
                    expires_at=now + timedelta(seconds=seconds),
                )
            )

    def choose(self, handle: str, provider: str, request: Json) -> bool:
        """Note where the browser is sent, with what; again until it has come back. False: it is not known."""
        return self._changed(handle, {"provider": provider, "request": request})

    def arrive(self, handle: str, identity: Json, ticket: str) -> bool:
        """Note who came back. Once: of two, one gets False."""
        return self._changed(handle, {"identity": identity, "ticket": ticket})

    def _changed(self, handle: str, values: dict[str, Any]) -> bool:
        known = browser_sign_ins.c
        with self._store.write() as connection:
            done = connection.execute(
                update(browser_sign_ins)
                .where(known.handle == handle, known.ticket.is_(None))
                .where(known.expires_at > datetime.now(UTC))
                .values(**values)
            )
            return bool(done.rowcount == 1)

    def by_handle(self, handle: str) -> Journey | None:
        """One that has not come back yet."""
        known = browser_sign_ins.c
        return self._one(known.handle == handle, known.ticket.is_(None))

    def by_ticket(self, ticket: str) -> Journey | None:
        """One that has come back."""
        return self._one(browser_sign_ins.c.ticket == ticket)

    def _one(self, *which: Any) -> Journey | None:
        known = browser_sign_ins.c
        query = select(browser_sign_ins).where(*which, known.expires_at > datetime.now(UTC))
        with self._store.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        return Journey(
            handle=row.handle,
            proof_key=row.proof_key,
            port=row.port,
            provider=row.provider,
            request=row.request,
            identity=row.identity,
            expires_at=row.expires_at,
        )
