"""Snowflake's SQL REST API, version 2: statements by HTTP, for the bearer of an OIDC token.

https://docs.snowflake.com/en/developer-guide/sql-api/index

Each statement has a guarded session of its own, for nothing is left between two requests. Who calls is proven
with every request anew, and a statement is there for its caller alone. Handle and session are made of each
other, and of the caller and the request id where there is one: so every replica finds the one that holds a
statement, and no retry runs it twice.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hoop_core.config import Settings
from hoop_core.errors import (
    Cancelled,
    GatewayUnavailable,
    HoopError,
    IdentityError,
    NotServed,
    PolicyDenied,
    Refused,
    StoreUnavailable,
    where,
)
from hoop_core.gateway.chunks import PartStreamer
from hoop_core.gateway.forwarding import Forwarding
from hoop_core.gateway.limits import Rate, TooMany
from hoop_core.gateway.queries import StatementBoard
from hoop_core.gateway.sessions import Live, SessionBook, SessionExists
from hoop_core.gateway.shelves import Running, not_kept
from hoop_core.gateway.sql_api_answers import (
    NoSuchStatement,
    OtherMethod,
    canceled,
    failed,
    in_progress,
    refused,
    result_set,
)
from hoop_core.gateway.sql_api_parts import as_partition
from hoop_core.gateway.sql_api_requests import (
    SUBMITTED,
    Submission,
    check_type,
    client_of,
    handle_for,
    partition_of,
    read_handle,
    read_submission,
    request_id_of,
    session_of,
    token_of,
)
from hoop_core.gateway.wire import takes_gzip
from hoop_core.guard import Guard
from hoop_core.http import BadRequest, read_json, unexpected
from hoop_core.model import Identity, Json
from hoop_core.session.guarded import Stage
from hoop_core.signin.door import SignIn, TooManyFailures

_log = structlog.get_logger(__name__)
_METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH"]
_SUBMIT_SECONDS, _POLL_SECONDS = 45.0, 1.0
"""How long a request waits for its statement: Snowflake's own time, and a little for those who only ask."""
_TICK_SECONDS = 0.25
_KEPT_EACH = 200
"""Statements of one caller whose results are kept; `limits.sessions_at_once` counts those under way, too."""
_UNFETCHED_SECONDS, _UNTOLD_SECONDS = 60.0, 300.0
"""Results with parts that nobody has asked for so long, and such that nobody has asked for at all, may go."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request, proven by its token."""

    identity: Identity
    token: str = field(repr=False)
    client: Json


@dataclass(slots=True)
class Kept:
    """A statement of this process and the session that holds it."""

    live: Live
    running: Running
    said: str
    request_id: str
    nullable: bool
    told: bool = False
    """Whether its client has heard how it ended."""
    timed_out: bool = False
    clock: asyncio.Task[None] | None = field(default=None, repr=False)

    def may_go(self, now: float) -> bool:
        if not self.running.done:
            return False
        idle = now - self.live.last_used
        if not self.told:
            return idle > _UNTOLD_SECONDS
        return self.running.chunks is None or idle > _UNFETCHED_SECONDS


_Endpoint = Callable[[Request, Caller], Awaitable[Response]]


class SqlApi:
    """The API over the session book and the statement board. For one event loop."""

    def __init__(
        self,
        settings: Settings,
        sign_in: SignIn,
        book: SessionBook,
        board: StatementBoard,
        parts: PartStreamer,
        *,
        forwarding: Forwarding,
        guard: Guard,
    ) -> None:
        self._longest_body = settings.gateway.max_body_bytes
        self._sign_in, self._book, self._board, self._parts = sign_in, book, board, parts
        self._forwarding, self._guard = forwarding, guard
        self._rate = Rate(settings.limits.statements_per_minute)
        self._kept: dict[str, Kept] = {}
        self._of_caller: defaultdict[str, dict[str, Kept]] = defaultdict(dict)
        self._beginning: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def routes(self) -> list[Route]:
        table: list[tuple[str, str, _Endpoint]] = [
            (SUBMITTED, "POST", self.submit),
            (SUBMITTED + "/", "POST", self.submit),
            (SUBMITTED + "/{handle}", "GET", self.poll),
            (SUBMITTED + "/{handle}/cancel", "POST", self.cancel),
            ("/api/v2/{path:path}", "", self.unserved),
        ]
        return [
            Route(path, self._called(method, end), methods=_METHODS) for path, method, end in table
        ]

    def forget(self, live: Live) -> None:
        """A session has ended, and its statement with it."""
        key, mine = live.guarded.identity.key, self._of_caller.get(live.guarded.identity.key)
        if not live.guarded.single or mine is None:
            return
        kept = mine.pop(live.guarded.id, None)
        if kept is not None:
            self._kept.pop(kept.running.statement_id, None)
        if not mine:
            del self._of_caller[key]

    # ------------------------------------------------------------------ every request

    def _called(self, method: str, endpoint: _Endpoint) -> Callable[[Request], Awaitable[Response]]:
        async def call(request: Request) -> Response:
            try:
                caller = await self._caller(request)
                if method and request.method not in {method, "HEAD" if method == "GET" else ""}:
                    raise OtherMethod(method)
                return await endpoint(request, caller)
            except StoreUnavailable as e:
                _log.error("refused: the store or the log cannot be used", why=e.text)
                return refused(e)
            except HoopError as e:
                return refused(e)
            except Exception as e:
                # The client must get an answer, and the details belong to our own log only.
                _log.error("a request failed inside Hoop", path=request.url.path, where=where(e))
                return refused(unexpected())

        return call

    async def _caller(self, request: Request) -> Caller:
        """Raises IdentityError, TooManyFailures or Unavailable; a refusal is in the log."""
        client = client_of(request)
        try:
            token = token_of(request)
            proof = await self._sign_in.by_token(token, client)
        except (IdentityError, TooManyFailures) as e:
            await self._sign_in.refused(None, client, e)
            raise
        return Caller(proof.identity, token, client)

    async def unserved(self, request: Request, caller: Caller) -> Response:
        error = NotServed(
            f"Hoop does not serve this endpoint: {request.url.path[:200]}.",
            "Of Snowflake's REST APIs it serves the SQL API.",
        )
        await self._sign_in.refused(caller.identity, caller.client, error)
        raise error

    # ------------------------------------------------------------------ submitting

    async def submit(self, request: Request, caller: Caller) -> Response:
        check_type(request)
        given = request_id_of(request)
        request_id = given or str(uuid.uuid4())
        handle = handle_for(caller.identity, request_id)
        session_id = session_of(handle)
        if given and not self._book.holds(session_id=session_id):
            answer = await self._forwarding.to_owner(request, session_id=session_id)
            if answer is not None:
                return answer
        submission = read_submission(request, await read_json(request, self._longest_body))
        async with self._beginning.setdefault(handle, asyncio.Lock()):
            kept = self._kept.get(handle)
            if kept is None:
                kept = await self._begin(caller, submission, handle, request_id)
            elif kept.said != submission.said:
                raise BadRequest("This requestId was used for another statement.", "Use a new one.")
            else:
                await self._check(kept, caller)
        return await self._answered(kept, 0.0 if submission.detached else _SUBMIT_SECONDS)

    async def _begin(
        self, caller: Caller, submission: Submission, handle: str, request_id: str
    ) -> Kept:
        """Open the statement's session and start it there. Raises HoopError; nothing is left of it then."""
        self._make_room(caller.identity)
        if not self._rate.take(caller.identity.key):
            raise TooMany(
                "You have sent too many statements in a minute. This one was not begun.",
                "Wait a moment, then send it again.",
                reason="TOO_FAST",
            )
        live = await self._opened(caller, submission, handle, request_id)
        try:
            running = self._board.submit(live, request_id, submission.query, statement_id=handle)
        except HoopError:
            await self._book.close(live, "the statement was not begun")
            raise
        kept = Kept(live, running, submission.said, request_id, submission.nullable)
        self._kept[handle] = self._of_caller[caller.identity.key][live.guarded.id] = kept
        if submission.timeout is not None:
            kept.clock = asyncio.create_task(_time_out(kept, submission.timeout))
        return kept

    async def _opened(
        self, caller: Caller, submission: Submission, handle: str, request_id: str
    ) -> Live:
        data: Json = {
            "AUTHENTICATOR": "OAUTH",
            "TOKEN": caller.token,
            "ACCOUNT_NAME": submission.account,
            "SESSION_PARAMETERS": submission.parameters,
        }
        try:
            _, live = await self._book.open(
                data,
                submission.options,
                caller.client,
                request_id=request_id,
                session_id=session_of(handle),
            )
        except SessionExists as e:
            if e.is_open:
                raise GatewayUnavailable(
                    "The statement of this requestId is with another gateway.", "Ask again."
                ) from None
            raise not_kept() from None
        live.guarded.single = True
        live.used = True  # nobody has its handles, and nobody is to get any
        return live

    def _make_room(self, identity: Identity) -> None:
        """Who has many results kept gives up the oldest of those that were fetched."""
        mine, now = list(self._of_caller.get(identity.key, {}).values()), time.monotonic()
        over = len(mine) - _KEPT_EACH + 1
        if over > 0:
            for kept in [k for k in mine if k.may_go(now)][:over]:
                self._book.close_soon(kept.live, "its result was fetched")

    # ------------------------------------------------------------------ asking, cancelling

    async def poll(self, request: Request, caller: Caller) -> Response:
        partition = partition_of(request)
        found = await self._found(request, caller)
        if isinstance(found, Response):
            return found
        if partition == 0 or not found.running.done or found.running.error is not None:
            return await self._answered(found, _POLL_SECONDS)
        chunks = found.running.chunks
        if chunks is None or partition > len(chunks.urls):
            raise BadRequest(
                f"The result has no partition {partition}.", "Look at `partitionInfo`."
            )
        # its form is changed on the way, so it has to be unpacked in any case
        response = await self._parts.respond(chunks, partition - 1, found.live, takes_gzip=False)
        return as_partition(
            response, chunks.rowtype, nullable=found.nullable, gzipped=takes_gzip(request)
        )

    async def cancel(self, request: Request, caller: Caller) -> Response:
        found = await self._found(request, caller)
        if isinstance(found, Response):
            return found
        running = found.running
        await self._board.abort_by_id(found.live, running.statement_id)
        if running.done and not isinstance(running.error, Cancelled):
            raise Refused(
                "The statement came to its end before it could be canceled.",
                "Ask for its result.",
                errno=605,
                sqlstate="57014",
            )
        found.told = True
        return canceled(running, found.request_id)

    async def _found(self, request: Request, caller: Caller) -> Kept | Response:
        """The caller's own statement, or the answer of the replica that has it. Raises NoSuchStatement."""
        handle = read_handle(request.path_params["handle"])
        if handle is None:
            raise NoSuchStatement
        kept = self._kept.get(handle)
        if kept is None:
            answer = await self._forwarding.to_owner(request, session_id=session_of(handle))
            if answer is not None:
                return answer
            raise NoSuchStatement
        await self._check(kept, caller)
        kept.live.last_used = time.monotonic()
        return kept

    async def _check(self, kept: Kept, caller: Caller) -> None:
        """Only who has asked for a statement hears of it, and as long as they may have their role.

        Raises NoSuchStatement or PolicyDenied, which are in the log.
        """
        session, now = kept.live.guarded, caller.identity
        owner = session.identity
        try:
            if (now.key, now.actors) != (owner.key, owner.actors) or session.closed:
                raise NoSuchStatement
            if set(now.groups) != set(owner.groups) or dict(now.claims) != dict(owner.claims):
                raise PolicyDenied(
                    "Your groups or claims are not those that this statement was sent with.",
                    "Send it again.",
                    reason="OTHER_CLAIMS",
                )
            self._guard.policy.for_account(session.account).check_role(now, session.role)
        except HoopError as e:
            await self._sign_in.refused(now, caller.client, e)
            raise

    async def _answered(self, kept: Kept, seconds: float) -> Response:
        running = kept.running
        if seconds:
            await asyncio.wait({running.task}, timeout=seconds)
        if not running.task.done():
            return in_progress(running, kept.request_id)
        kept.told = True
        if running.error is not None:
            timed_out = kept.timed_out and isinstance(running.error, Cancelled)
            return failed(running, kept.request_id, running.error, timed_out=timed_out)
        answer = await self._board.answer(running)
        if not answer.get("success"):
            raise not_kept()
        return result_set(running, kept.request_id, answer, nullable=kept.nullable)


async def _time_out(kept: Kept, seconds: float) -> None:
    """Take the statement back after so many seconds at Snowflake: what it waits for here does not count."""
    running, left = kept.running, seconds
    while left > 0:
        began, counts = time.monotonic(), running.progress.stage is Stage.RUNNING
        await asyncio.wait({running.task}, timeout=min(left, _TICK_SECONDS))
        if running.task.done():
            return
        if counts:
            left -= time.monotonic() - began
    kept.timed_out = True
    running.abandoned.set()
