"""A query and its outcome, as the executor, the performer and the protocol share them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hoop_core.devstack.emulator.engine import Interrupted
from hoop_core.devstack.emulator.errors import SqlError
from hoop_core.devstack.emulator.results import Encoded, Table
from hoop_core.devstack.emulator.sessions import ParameterValue, Session
from hoop_core.devstack.emulator.stages import PutAnswer

CANCELLED = ("000604", "57014", "SQL execution canceled")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished query's result as it is answered, and where it left the session."""

    table: Table
    encoded: Encoded
    type_id: int
    affected: int | None
    binds: int
    final: Mapping[str, str | None]
    chunk_key: str = field(repr=False, default="")
    put: PutAnswer | None = None
    """Of a PUT: what its answer is made of."""
    scannable: bool = True
    """Whether `table` has its rows still."""

    @property
    def size(self) -> int:
        """Bytes in memory, about."""
        return self.encoded.size + int(self.table.data.nbytes)


@dataclass(slots=True, eq=False)
class Query:
    id: str
    session: Session
    request_id: str
    sql: str
    body: Mapping[str, Any] = field(repr=False)
    parameters: dict[str, ParameterValue] = field(default_factory=dict)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    cancelled: threading.Event = field(default_factory=threading.Event)
    cancel_error: SqlError | None = None
    error: SqlError | None = None
    outcome: Outcome | None = None
    kind: str = "UNKNOWN"
    shown: str = ""
    """The text for the history."""
    event: dict[str, Any] = field(default_factory=dict, repr=False)
    """What the history says of it, as far as it is known before it runs."""
    done: Future[None] = field(default_factory=Future)

    @property
    def status(self) -> str:
        if not self.done.done():
            return "ABORTING" if self.cancelled.is_set() else "RUNNING"
        if self.error is None:
            return "SUCCESS"
        return "ABORTED" if self.error is self.cancel_error else "FAILED_WITH_ERROR"

    def check(self) -> None:
        """Raises Interrupted once somebody has cancelled the query, or its user is gone."""
        if self.cancelled.is_set() or not self.session.user.usable():
            raise Interrupted
