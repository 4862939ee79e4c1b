"""REST /hoop/v1: approvals and sessions, for the bearer of an OIDC token."""

from __future__ import annotations

import asyncio
import json
import secrets
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hoop_core.approvals.approval import Approval, NoSuchApproval
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.config import GatewaySettings
from hoop_core.errors import (
    ApprovalRefused,
    HoopError,
    IdentityError,
    NotServed,
    PolicyDenied,
    Refused,
    SnowflakeUnavailable,
    Unavailable,
    where,
)
from hoop_core.guard import Guard
from hoop_core.http import BadRequest, read_json, text_of, unexpected
from hoop_core.model import AnswerVerdict, ApprovalStatus, Identity, Json, Lease, NameContext
from hoop_core.session.guarded import (
    GuardedSession,
    QueryRequest,
    allowed_parameters,
    fold,
    read_bindings,
    run_context,
)
from hoop_core.signin.door import SignIn, TooManyFailures
from hoop_core.snowflake.session import SnowflakeSession
from hoop_core.store import Store
from hoop_core.store.tables import sessions
from hoop_core.web.masking import MaskingExceptions

_log = structlog.get_logger(__name__)
_SQL_LIMIT = 1 << 20
_MOST_SHOWN = 16 << 20
"""Characters of a session's entries in one answer; `hoop audit export` has all."""
_RUN_FILTERS = (
    "dag_id", "run_id", "task_id", "map_index", "job_name", "step_key", "asset_key",
)  # fmt: skip
_Endpoint = Callable[[Request, Identity], Awaitable[Response]]


class NoSuchSession(Refused):
    reason = "NO_SUCH_SESSION"


class Api:
    """Every call names its caller by a token of the same issuers as the drivers'."""

    def __init__(
        self,
        settings: GatewaySettings,
        sign_in: SignIn,
        store: Store,
        log: AuditLog,
        guard: Guard,
    ) -> None:
        self._settings, self._sign_in = settings, sign_in
        self._store, self._log, self._guard = store, log, guard
        self._masking = MaskingExceptions(guard, log)

    def routes(self) -> list[Route]:
        base = "/hoop/v1"
        table: list[tuple[str, str, _Endpoint]] = [
            ("GET", "/approvals", self.list_approvals),
            ("POST", "/approvals", self.ask),
            ("GET", "/approvals/{id}", self.show_approval),
            ("POST", "/approvals/{id}/answers", self.answer),
            ("GET", "/masking-exceptions", self.list_exceptions),
            ("POST", "/masking-exceptions", self.ask_exception),
            ("POST", "/masking-exceptions/{id}/revocation", self.revoke_exception),
            ("GET", "/sessions", self.list_sessions),
            ("GET", "/sessions/{id}", self.show_session),
        ]
        return [Route(base + path, self._called(end), methods=[verb]) for verb, path, end in table]

    def _called(self, endpoint: _Endpoint) -> Callable[[Request], Awaitable[Response]]:
        async def call(request: Request) -> Response:
            try:
                return await endpoint(request, await self._caller(request))
            except HoopError as e:
                if isinstance(e, Unavailable):
                    _log.error("a request was refused", path=request.url.path, why=e.text)
                return _problem(e)
            except Exception as e:
                # The caller must get an answer, and the details belong to our own log only.
                _log.error("a request failed inside Hoop", path=request.url.path, where=where(e))
                return _problem(unexpected())

        return call

    async def _caller(self, request: Request) -> Identity:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise IdentityError(
                "The request carries no token.", "Send `Authorization: Bearer <OIDC token>`."
            )
        client = _client(request)
        try:
            proof = await self._sign_in.by_token(token.strip(), client)
            if request.method != "GET":
                # a token that counts once answers, or asks for, one thing
                await self._sign_in.spend(proof, secrets.token_hex(16))
            return proof.identity
        except (IdentityError, TooManyFailures) as e:
            await self._sign_in.refused(None, client, e)
            raise

    # ------------------------------------------------------------------ approvals

    async def list_approvals(self, request: Request, caller: Identity) -> Response:
        run = {k: request.query_params[k] for k in _RUN_FILTERS if k in request.query_params}
        found = await asyncio.to_thread(
            self._guard.desk.list, _status(request), seen_by=self._seen_by(caller), run=run
        )
        mine = [self._as_json(a) for a in found if self._may_see(caller, a)]
        return JSONResponse({"approvals": mine})

    async def show_approval(self, request: Request, caller: Identity) -> Response:
        return JSONResponse(self._as_json(await self._visible(request, caller)))

    async def answer(self, request: Request, caller: Identity) -> Response:
        await self._visible(request, caller)
        body = await self._body(request)
        verdict = text_of(body, "verdict")
        if verdict not in set(AnswerVerdict):
            raise BadRequest("verdict must be approve or reject.")
        answered = await asyncio.to_thread(
            self._guard.desk.answer,
            request.path_params["id"],
            caller,
            AnswerVerdict(verdict),
            text_of(body, "reason", limit=4000) or "",
        )
        return JSONResponse(self._as_json(answered))

    async def ask(self, request: Request, caller: Identity) -> Response:
        """Ask ahead for a statement that another task of the same run will send."""
        body = await self._body(request)
        sql = text_of(body, "sql", limit=_SQL_LIMIT)
        if not sql or not sql.strip():
            raise BadRequest("sql is missing.")
        context = body.get("context")
        try:
            account = self._guard.choose_account(text_of(body, "account"))
            role = self._guard.role_for(caller, fold(text_of(body, "role")), account)
        except (PolicyDenied, IdentityError) as e:
            await self._sign_in.refused(caller, _client(request), e)
            raise
        session = GuardedSession(
            id="ask_" + secrets.token_hex(12),
            identity=caller,
            role=role,
            names=NameContext(fold(text_of(body, "database")), fold(text_of(body, "schema"))),
            run=run_context(None if context is None else _as_text(context)),
            client={"application": "REST"},
            parameters=allowed_parameters(body.get("session_parameters")),
            opened_at=utc_now(),
            open_upstream=_never,
            account=account,
        )
        query = QueryRequest(
            statement_id=str(uuid.uuid4()),
            sql=sql,
            bindings=_bindings(body.get("parameters")),
            parameters={},
        )
        approval = await self._guard.ask_ahead(session, query)
        if approval is None:
            return JSONResponse({"status": "not_required"})
        return JSONResponse(approval.as_json(), status_code=201)

    # ------------------------------------------------------------------ masking exceptions

    async def list_exceptions(self, request: Request, caller: Identity) -> Response:
        found = await self._masking.list(_status(request), seen_by=self._seen_by(caller))
        mine = [self._masking.as_json(a) for a in found if self._may_see(caller, a)]
        return JSONResponse({"masking_exceptions": mine})

    async def ask_exception(self, request: Request, caller: Identity) -> Response:
        asked = await self._masking.ask(caller, await self._body(request))
        return JSONResponse(self._masking.as_json(asked), status_code=201)

    async def revoke_exception(self, request: Request, caller: Identity) -> Response:
        approval = await self._visible(request, caller)
        revoked = await self._masking.revoke(approval.id, caller, await self._body(request))
        return JSONResponse(self._masking.as_json(revoked))

    # ------------------------------------------------------------------ who may see what

    def _as_json(self, approval: Approval) -> Json:
        return approval.as_json() if approval.scope is None else self._masking.as_json(approval)

    async def _visible(self, request: Request, caller: Identity) -> Approval:
        approval = await asyncio.to_thread(self._guard.desk.get, request.path_params["id"])
        if not self._may_see(caller, approval):
            raise NoSuchApproval(f"There is no approval {approval.id!r} for you.")
        return approval

    def _seen_by(self, caller: Identity) -> Identity | None:
        """Whose view a list is made for; None: a reader's, who sees all."""
        return None if set(caller.groups) & set(self._settings.readers) else caller

    def _may_see(self, caller: Identity, approval: Approval) -> bool:
        entitled = set(approval.approvers) | set(self._settings.readers)
        own = caller.key == approval.requester_key and _same_actors(caller, approval.actors)
        return own or bool(set(caller.groups) & entitled)

    # ------------------------------------------------------------------ sessions

    async def list_sessions(self, _request: Request, caller: Identity) -> Response:
        return JSONResponse({"sessions": await asyncio.to_thread(self._sessions, caller, None)})

    async def show_session(self, request: Request, caller: Identity) -> Response:
        wanted = request.path_params["id"]
        found = await asyncio.to_thread(self._sessions, caller, wanted)
        if not found:
            raise NoSuchSession(f"There is no session {wanted!r} for you.")
        entries, whole = await asyncio.to_thread(self._entries, wanted)
        return JSONResponse({**found[0], "entries": entries, "whole": whole})

    def _entries(self, session_id: str) -> tuple[list[Json], bool]:
        """The first entries of a session, and whether they are all: a session may have gigabytes of them."""
        found: list[Json] = []
        room = _MOST_SHOWN
        for entry in self._log.entries(session_id=session_id):
            room -= len(entry.text)
            if room < 0:
                return found, False
            found.append(_parsed(entry.text))
        return found, True

    def _sessions(self, caller: Identity, wanted: str | None) -> list[Json]:
        query = select(sessions).order_by(sessions.c.opened_at.desc()).limit(500)
        reader = bool(set(caller.groups) & set(self._settings.readers))
        if not reader:
            query = query.where(sessions.c.identity_key == caller.key)
        if wanted is not None:
            query = query.where(sessions.c.id == wanted)
        with self._store.read() as connection:
            rows = connection.execute(query).all()
        return [
            {
                "id": r.id,
                "opened_at": r.opened_at.isoformat(),
                "closed_at": r.closed_at.isoformat() if r.closed_at else None,
                "close_reason": r.close_reason,
                **r.body,
            }
            for r in rows
            if reader or _same_actors(caller, r.body["identity"].get("actors") or ())
        ]

    async def _body(self, request: Request) -> Json:
        return await read_json(request, self._settings.max_body_bytes)


def _same_actors(caller: Identity, actors: Sequence[str]) -> bool:
    """A person sees what was done for them; who acts for them sees what came by the same way only."""
    return not caller.actors or caller.actors == tuple(actors)


def _client(request: Request) -> Json:
    """Where a call comes from, for the log."""
    return {
        "application": "REST",
        "path": request.url.path[:200],
        "address": request.client.host if request.client else None,
    }


def _status(request: Request) -> ApprovalStatus | None:
    asked = request.query_params.get("status")
    if asked is not None and asked not in set(ApprovalStatus):
        raise BadRequest(f"There is no status {asked!r}.", f"One of: {', '.join(ApprovalStatus)}.")
    return ApprovalStatus(asked) if asked else None


async def _never(_session: GuardedSession) -> tuple[Lease, SnowflakeSession]:
    raise SnowflakeUnavailable("A question that is asked ahead runs nothing.")


def _parsed(text: str) -> Any:
    return json.loads(text)


def _as_text(context: Any) -> str:
    return json.dumps(context)


def _bindings(parameters: Any) -> Json | None:
    """Positional values as drivers bind them; a driver's own form passes as it is."""
    if parameters is None or parameters == []:
        return None
    if isinstance(parameters, dict):
        return read_bindings(parameters)
    if not isinstance(parameters, list):
        raise BadRequest("parameters must be a list of values or a driver's bindings.")
    return {str(n): _binding(v) for n, v in enumerate(parameters, start=1)}


def _binding(value: Any) -> Json:
    match value:
        case None:
            return {"type": "ANY", "value": None}
        case bool():
            return {"type": "BOOLEAN", "value": str(value).lower()}
        case int():
            return {"type": "FIXED", "value": str(value)}
        case float():
            return {"type": "REAL", "value": str(value)}
        case str():
            return {"type": "TEXT", "value": value}
        case _:
            raise BadRequest("A parameter must be a text, a number, true, false or null.")


def _problem(error: HoopError) -> JSONResponse:
    match error:
        case BadRequest():
            status = 400
        case IdentityError():
            status = 401
        case NoSuchApproval() | NoSuchSession() | NotServed():
            status = 404
        case ApprovalRefused():
            status = 409
        case TooManyFailures():
            status = 429
        case Unavailable():
            status = 503
        case Refused() if error.reason == "INTERNAL":
            status = 500
        case _:
            status = 403
    content = {"reason": error.reason, "message": error.message, "hint": error.hint}
    return JSONResponse({"error": content}, status_code=status)
