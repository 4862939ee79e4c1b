"""One client's session behind the gateway: who, as what, where, and the minted user that works for it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlglot import TokenType

from hoop_core.errors import SessionGone, SnowflakeError, SnowflakeUnavailable
from hoop_core.http import BadRequest, writable
from hoop_core.model import (
    Identity,
    Json,
    Lease,
    NameContext,
    RoleBinding,
    RunContext,
    Scope,
    TableName,
)
from hoop_core.parameters import AT_SIGN_IN, MEANING, TOLD
from hoop_core.session.basis import Basis
from hoop_core.session.serving import Serving
from hoop_core.session.settings_held import SettingsHeld
from hoop_core.session.staging import Staging
from hoop_core.snowflake.session import SnowflakeSession
from hoop_core.sql.catalog import CatalogObject
from hoop_core.sql.limits import scan

_CONTEXT_LIMIT = 4096
_BETWEEN = {TokenType.COMMA, TokenType.SEMICOLON}


class WhenHeld(StrEnum):
    """What becomes of a statement that people have to approve first. Either way it does not run before."""

    WAIT = "wait"
    REFUSE = (
        "refuse"  # with ApprovalPending: the request stays, and its grant is there for the next try
    )


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
    staging: Staging = field(default_factory=Staging, repr=False)
    serving: Serving = field(default_factory=Serving, repr=False)
    settings: SettingsHeld = field(default_factory=SettingsHeld, repr=False)
    temporary: dict[TableName, CatalogObject] = field(default_factory=dict, repr=False)
    """The temporary tables that it has made (temporary.py)."""
    _opening: asyncio.Task[tuple[Lease, SnowflakeSession]] | None = field(default=None, repr=False)
    _beaten: float = field(default_factory=time.monotonic, repr=False)
    _recorded: int = 0
    closed: bool = False
    when_held: WhenHeld = WhenHeld.WAIT
    ahead: bool = False
    """It is there for a question only: whoever counts for that ends its user."""
    single: bool = False
    """It is there for one statement only, as with Snowflake's SQL API: nothing is left for a next one."""

    async def upstream(self, statement_id: str = "") -> tuple[Lease, SnowflakeSession]:
        """The Snowflake session of this client; the first call mints its user. Where the role says so,
        the statement has one of its own. `ran` says when the statement is done with it.

        Minting waits for the first statement that may run: a client that is only ever refused, or
        that waits for a human, costs no user. A statement that is cancelled meanwhile does not cut
        the minting short, or nobody would know the user that comes of it.
        Raises SessionGone once the session is closed: nobody would end a user minted then.
        """
        if self.closed:
            raise SessionGone("The session was closed while the statement waited.")
        if statement_id:
            self.serving.begin(statement_id)
            if self.scope is Scope.STATEMENT:
                own = self.serving.own(statement_id, lambda: self.open_upstream(self))
                return await asyncio.shield(own)
        if self._opening is None or _failed(self._opening):
            self._opening = asyncio.create_task(self.open_upstream(self))
        return await asyncio.shield(self._opening)

    async def detach(self) -> tuple[Lease, SnowflakeSession] | None:
        """Take the upstream away, for whoever ends it; waits for a minting that is under way."""
        self.closed = True
        opening, self._opening = self._opening, None
        await self.serving.close()
        if opening is None:
            return None
        await asyncio.wait({opening})
        return None if _failed(opening) else opening.result()

    def ran(self, statement_id: str, parts: int = 0) -> None:
        """A statement has ended, whether it ran or not; its result has so many parts to fetch."""
        self.serving.ran(statement_id, parts)

    def let_go(self) -> tuple[Lease, SnowflakeSession] | None:
        """Take the upstream away while nothing uses it and nothing is lost with it; the next statement
        gets another one.
        """
        opening = self._opening
        if self.closed or self.serving.busy or self.serving.lasting or self.staging.holds:
            return None
        if opening is None or not opening.done() or _failed(opening):
            return None
        self._opening = None
        return opening.result()

    def altered(self, executed: str) -> None:
        """Take note of an ALTER SESSION that has run: later statements mean what it made of them.

        It is read by the tokens that were decided on: what stands inside a text sets nothing.
        """
        tokens = [t for t in scan(executed).tokens if t.token_type not in _BETWEEN]
        head, rest = [t.text.upper() for t in tokens[:3]], tokens[3:]
        if head == ["ALTER", "SESSION", "UNSET"]:
            for name in rest:
                self.parameters.pop(name.text.upper(), None)
        elif head == ["ALTER", "SESSION", "SET"]:
            while len(rest) >= 3:
                name, _, value, *rest = rest
                negative = value.token_type is TokenType.DASH and rest
                told = f"-{rest.pop(0).text}" if negative else value.text
                self.parameters[name.text.upper()] = told

    @property
    def scope(self) -> Scope:
        """For how long a minted user serves here."""
        return Scope.STATEMENT if self.single else self.role.scope

    @property
    def autocommit(self) -> bool:
        """Whether each statement is a transaction of its own."""
        return str(self.parameters.get("AUTOCOMMIT", True)).lower() != "false"

    @property
    def number(self) -> int:
        """What drivers know the session by: the same for its whole life, and exact as a JSON number."""
        return int.from_bytes(hashlib.sha256(self.id.encode()).digest()[:8]) >> 11

    def opened_upstream(self) -> SnowflakeSession | None:
        """The session at Snowflake, if there is one already."""
        opening = self._opening
        if opening is None or not opening.done() or _failed(opening):
            return None
        return opening.result()[1]

    def wants_beat(self, now: float, seconds: float) -> bool:
        """Whether Snowflake has not heard of this session for so long (monotonic clock)."""
        return now - self._beaten > seconds and self.opened_upstream() is not None

    async def beat(self, now: float) -> None:
        """Keep the session at Snowflake alive. Raises SnowflakeError when it has ended there."""
        upstream = self.opened_upstream()
        self._beaten = now
        if upstream is None:
            return
        try:
            await upstream.heartbeat()
        except SnowflakeUnavailable:
            return  # the next statement says so, if it lasts
        except SnowflakeError:
            if self.opened_upstream() is upstream:  # else it was let go meanwhile
                raise

    def next_recording(self) -> int:
        """A number for the next file of the recording: folders sort in the order of events."""
        self._recorded += 1
        return self._recorded


def _failed(task: asyncio.Task[tuple[Lease, SnowflakeSession]]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


class Stage(StrEnum):
    """How far a statement has come, for those who ask what it does."""

    DECIDED = "decided"  # being understood, decided on, and given its user
    HELD = "held"  # waits for people
    RUNNING = "running"  # at Snowflake


@dataclass(slots=True)
class Progress:
    """Written by the guard on the statement's way, read by whoever asks."""

    stage: Stage = Stage.DECIDED
    basis: Basis | None = None
    """Of the last decision on it, refusals included; None while there is none."""
    asked_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """One statement as a client sent it. `bindings` is the driver's own form, passed on as it came."""

    statement_id: str
    sql: str
    bindings: dict[str, Any] | None
    parameters: Json
    describe_only: bool = False
    asynchronous: bool = False
    bind_stage: str = ""
    """Where a driver has put the values that it binds, as it says it: `@stage/path`."""
    statements: str = "1"
    """How many there are in the text, as the client says; 0 means "however many"."""
    counted_for: str = ""
    """Hoop's own count for people who are asked: the id of the approval. It is never put before them itself."""
    abandoned: asyncio.Event = field(default_factory=asyncio.Event, compare=False, repr=False)
    """Set when the client takes the statement back."""
    progress: Progress = field(default_factory=Progress, compare=False, repr=False)


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


def when_held(text: Any) -> WhenHeld:
    """HOOP_WHEN_HELD: what the client wants where people have to answer first. Raises BadRequest."""
    if text is None or text == "":
        return WhenHeld.WAIT
    if text not in set(WhenHeld):
        raise BadRequest(f"HOOP_WHEN_HELD is one of: {', '.join(WhenHeld)}.")
    return WhenHeld(text)


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


def without_echo(given: Json, application: Any) -> Json:
    """`given` at sign-in, without what the Go driver merely repeats.

    Its connection pool sends with each further sign-in every parameter that it was told at the first. That is
    no wish of its user's, and must not count as settings that a statement was approved under.
    """
    if application != "Go":
        return given
    return {k: v for k, v in given.items() if str(TOLD.get(k)).lower() != str(v).lower()}


def read_bindings(given: Any) -> Json | None:
    """Bound values in the drivers' form: {"1": {"type": "TEXT", "value": "x"}, ...}. Raises BadRequest.

    Every door reads them here: what approvers see, what is logged and what Snowflake gets has one shape.
    """
    if not given:
        return None
    if not isinstance(given, dict) or not all(_is_binding(b) for b in given.values()):
        raise BadRequest("bindings must map positions or names to a type and a value.")
    return given


def _is_binding(binding: Any) -> bool:
    """A type, a value or a list of values (array binds), and flat properties such as `fmt`."""
    if not isinstance(binding, dict) or not isinstance(binding.get("type"), str):
        return False
    value = binding.get("value")
    values = value if isinstance(value, list) else [value]
    others = [v for k, v in binding.items() if k not in {"value", "schema"}]
    if not isinstance(binding.get("schema", {}), (dict, type(None))):
        return False
    return all(v is None or isinstance(v, (str, int, float)) for v in [*values, *others])
