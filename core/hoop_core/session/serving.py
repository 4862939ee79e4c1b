"""Which Snowflake session serves which statement, until when, and what would be lost with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from hoop_core.errors import StatementRefused
from hoop_core.model import Kind, Lease, Scope, Statement
from hoop_core.snowflake.session import SnowflakeSession
from hoop_core.sql.limits import scan

Upstream = tuple[Lease, SnowflakeSession]

_READS = {Kind.SELECT, Kind.SHOW, Kind.DESCRIBE, Kind.SESSION, Kind.TRANSACTION}
_KEPT_BY_SESSION = {Kind.CREATE_TEMP_STAGE, Kind.PUT}


def begins_transaction(statement: Statement, text: str) -> bool:
    """Whether it opens one; COMMIT and ROLLBACK end it."""
    if statement.kind is not Kind.TRANSACTION:
        return False
    tokens = scan(text).tokens
    return not tokens or tokens[0].text.upper() not in {"COMMIT", "ROLLBACK"}


def needs_its_session(statement: Statement, text: str, *, autocommit: bool) -> bool:
    """Whether what it does lasts for as long as its Snowflake session, and is lost with it."""
    return (
        begins_transaction(statement, text)
        or statement.kind in _KEPT_BY_SESSION
        or bool(statement.facts.get("temporary"))
        or (not autocommit and statement.kind not in _READS)
    )


def check_scope(
    scope: Scope, statement: Statement, text: str, *, autocommit: bool, single: bool = False
) -> None:
    """With a user of its own, a statement has a Snowflake session of its own: what it leaves there is lost.

    `single`: the caller's session holds this one statement too, so a setting that it makes is lost as well.
    Raises StatementRefused for a statement that would leave something.
    """
    if single and (
        statement.kind in {Kind.SESSION, Kind.TRANSACTION}
        or needs_its_session(statement, text, autocommit=autocommit)
    ):
        raise StatementRefused(
            "A statement of the SQL API has a session of its own, so one that only sets up a session, a "
            "transaction or something temporary has no effect.",
            "Send settings as `parameters`, and database and schema as fields of the request; for "
            "transactions and temporary objects use a driver.",
            reason="SQL_API_STATE",
        )
    if scope is Scope.STATEMENT and needs_its_session(statement, text, autocommit=autocommit):
        raise StatementRefused(
            "This statement rests on its Snowflake session, and your role gives each statement one of its own.",
            "Leave transactions, AUTOCOMMIT off, and temporary objects out, or ask for `scope: session` in "
            "the policy.",
            reason="STATEMENT_SCOPE",
        )


@dataclass(slots=True)
class Serving:
    """Of one guarded session. For one event loop."""

    end: Callable[[Upstream], Awaitable[None]] | None = None
    """How a Snowflake session and its user are ended; set by who opens them."""
    result_seconds: float = 300.0
    warehouse: str | None = None
    """Where the session has gone with USE WAREHOUSE, as a connection option wants it."""
    used_at: float = field(default_factory=time.monotonic)
    transaction: bool = False
    temporary: bool = False
    _using: set[str] = field(default_factory=set)
    _parts: dict[str, set[int]] = field(default_factory=dict)
    _timers: dict[str, asyncio.TimerHandle] = field(default_factory=dict)
    _own: dict[str, asyncio.Task[Upstream]] = field(default_factory=dict)
    _ending: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def busy(self) -> bool:
        """A statement is under way, or parts of its result are still to be fetched."""
        return bool(self._using)

    @property
    def lasting(self) -> bool:
        """Whether something would be lost with the Snowflake session."""
        return self.transaction or self.temporary

    def begin(self, statement_id: str) -> None:
        self._using.add(statement_id)

    def own(
        self, statement_id: str, open_: Callable[[], Coroutine[Any, Any, Upstream]]
    ) -> asyncio.Task[Upstream]:
        """The Snowflake session of this statement alone."""
        known = self._own.get(statement_id)
        if known is None or (known.done() and (known.cancelled() or known.exception())):
            known = self._own[statement_id] = asyncio.create_task(open_())
        return known

    def took_effect(
        self, statement: Statement, text: str, warehouse: object, *, autocommit: bool
    ) -> None:
        """Take note of what a statement that has run leaves in its Snowflake session."""
        if statement.kind is Kind.TRANSACTION:
            self.transaction = begins_transaction(statement, text)
        elif needs_its_session(statement, text, autocommit=autocommit):
            kept = statement.kind in _KEPT_BY_SESSION or bool(statement.facts.get("temporary"))
            self.temporary = self.temporary or kept
            self.transaction = self.transaction or not kept
        elif statement.kind is Kind.SESSION and isinstance(warehouse, str) and warehouse:
            self.warehouse = warehouse

    def ran(self, statement_id: str, parts: int) -> None:
        """A statement has come to its end; its result has so many parts to fetch."""
        if not parts:
            self._done(statement_id)
            return
        self._parts[statement_id] = set(range(parts))
        loop = asyncio.get_running_loop()
        self._timers[statement_id] = loop.call_later(self.result_seconds, self._done, statement_id)

    def fetched(self, statement_id: str, part: int) -> None:
        """The client has a part whole."""
        left = self._parts.get(statement_id)
        if left is not None:
            left.discard(part)
            if not left:
                self._done(statement_id)

    def _done(self, statement_id: str) -> None:
        if statement_id not in self._using:
            return  # it never came so far as to need one
        self._using.discard(statement_id)
        self._parts.pop(statement_id, None)
        timer = self._timers.pop(statement_id, None)
        if timer is not None:
            timer.cancel()
        self.used_at = time.monotonic()
        own = self._own.pop(statement_id, None)
        if own is not None:
            task = asyncio.create_task(self._end(own))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _end(self, opening: asyncio.Task[Upstream]) -> None:
        await asyncio.wait({opening})
        if not opening.cancelled() and opening.exception() is None and self.end is not None:
            await self.end(opening.result())

    async def close(self) -> None:
        """End what statements had of their own, and wait for it."""
        for statement_id in [*self._own, *self._parts]:
            self._done(statement_id)
        if self._ending:
            await asyncio.wait(set(self._ending))
