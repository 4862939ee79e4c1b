"""One client's session behind the gateway: who, as what, where, and the minted user that works for it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hoop_core.errors import SessionGone
from hoop_core.http import BadRequest, writable
from hoop_core.model import Identity, Json, Lease, NameContext, RoleBinding, RunContext
from hoop_core.parameters import AT_SIGN_IN, MEANING
from hoop_core.snowflake.session import SnowflakeSession

_CONTEXT_LIMIT = 4096


@dataclass(slots=True)
class GuardedSession:
    """Lives in one process. `names` is the current database and schema, as Snowflake last said."""

    id: str
    identity: Identity
    role: RoleBinding
    names: NameContext
    run: RunContext
    client: Json
    parameters: Json
    opened_at: datetime
    open_upstream: Callable[
        [GuardedSession], Coroutine[Any, Any, tuple[Lease, SnowflakeSession]]
    ] = field(repr=False)
    account: str = ""
    """Key of the Snowflake account that the client chose (`model.account_key`)."""
    _opening: asyncio.Task[tuple[Lease, SnowflakeSession]] | None = field(default=None, repr=False)
    _recorded: int = 0
    closed: bool = False

    async def upstream(self) -> tuple[Lease, SnowflakeSession]:
        """The Snowflake session of this client; the first call mints its user.

        Minting waits for the first statement that may run: a client that is only ever refused, or
        that waits for a human, costs no user. A statement that is cancelled meanwhile does not cut
        the minting short, or nobody would know the user that comes of it.
        Raises SessionGone once the session is closed: nobody would end a user minted then.
        """
        if self.closed:
            raise SessionGone("The session was closed while the statement waited.")
        if self._opening is None or _failed(self._opening):
            self._opening = asyncio.create_task(self.open_upstream(self))
        return await asyncio.shield(self._opening)

    async def detach(self) -> tuple[Lease, SnowflakeSession] | None:
        """Take the upstream away, for whoever ends it; waits for a minting that is under way."""
        self.closed = True
        opening, self._opening = self._opening, None
        if opening is None:
            return None
        await asyncio.wait({opening})
        return None if _failed(opening) else opening.result()

    def altered(self, executed: str) -> None:
        """Take note of an ALTER SESSION that has run: later statements mean what it made of them."""
        words = executed.strip().rstrip(";").strip()
        if re.match(r"ALTER\s+SESSION\s+UNSET\s", words, re.IGNORECASE):
            for name in re.findall(r"\w+", words)[3:]:
                self.parameters.pop(name.upper(), None)
        elif re.match(r"ALTER\s+SESSION\s+SET\s", words, re.IGNORECASE):
            for name, value in re.findall(r"(\w+)\s*=\s*('(?:[^']|'')*'|[\w.+-]+)", words):
                self.parameters[name.upper()] = value.strip("'")

    def next_recording(self) -> int:
        """A number for the next file of the recording: folders sort in the order of events."""
        self._recorded += 1
        return self._recorded


def _failed(task: asyncio.Task[tuple[Lease, SnowflakeSession]]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """One statement as a client sent it. `bindings` is the driver's own form, passed on as it came."""

    statement_id: str
    sql: str
    bindings: dict[str, Any] | None
    parameters: Json
    describe_only: bool = False
    asynchronous: bool = False
    staged_binds: bool = False
    abandoned: asyncio.Event = field(default_factory=asyncio.Event, compare=False, repr=False)
    """Set when the client takes the statement back."""


def fold(identifier: str | None) -> str | None:
    """A name as a connection option gives it, in stored case."""
    if not identifier:
        return None
    if len(identifier) > 1 and identifier[0] == identifier[-1] == '"':
        return identifier[1:-1].replace('""', '"')
    return identifier.upper()


def run_context(text: Any) -> RunContext:
    """HOOP_CONTEXT: where the client says it runs. Raises BadRequest when it is malformed."""
    if text is None or text == "":
        return RunContext()
    try:
        if not isinstance(text, str) or len(text) > _CONTEXT_LIMIT:
            raise ValueError
        fields = json.loads(text)
        if not isinstance(fields, dict) or not all(isinstance(v, str) for v in fields.values()):
            raise ValueError
        writable(fields)
    except (ValueError, RecursionError):
        raise BadRequest(
            "HOOP_CONTEXT is not a JSON object of texts.",
            f"Send at most {_CONTEXT_LIMIT} characters, or leave it out.",
        ) from None
    return RunContext(fields.pop("orchestrator", ""), fields)


def meaning_of(*parameters: Json) -> Json:
    """The parameters in force that change what a statement does, later ones over earlier ones."""
    merged: Json = {}
    for given in parameters:
        merged |= {k: str(v) for k, v in given.items() if k in MEANING}
    return merged


def allowed_parameters(given: Any) -> Json:
    """The known session parameters among `given`; the rest is dropped, as unknown to Snowflake."""
    if not isinstance(given, dict):
        return {}
    return {
        k.upper(): v
        for k, v in given.items()
        if k.upper() in AT_SIGN_IN and isinstance(v, (str, int, float, bool))
    }
