"""REST /hoop/v1: approvals and sessions, for the bearer of an OIDC token."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hoop_core.approvals.approval import Approval, NoSuchApproval
from hoop_core.approvals.book import Wanted
from hoop_core.approvals.exceptions import KIND as MASKING_EXCEPTION
from hoop_core.approvals.schedules import KIND as STANDING_APPROVAL
from hoop_core.audit.log import AuditLog
from hoop_core.config import GatewaySettings
from hoop_core.errors import (
    ApprovalRefused,
    HoopError,
    IdentityError,
    NotServed,
    PolicyDenied,
    Refused,
    Unavailable,
    where,
)
from hoop_core.guard import Guard
from hoop_core.http import BadRequest, read_json, text_of, unexpected
from hoop_core.model import AnswerVerdict, ApprovalStatus, Identity, Json
from hoop_core.session.guarded import GuardedSession
from hoop_core.signin.door import SignIn, TooManyFailures
from hoop_core.store import Store
from hoop_core.web.listing import asked_page, page
from hoop_core.web.masking import MaskingExceptions
from hoop_core.web.openapi import document
from hoop_core.web.questions import REASON_LIMIT, Opener, Questions
from hoop_core.web.reads import Reads
from hoop_core.web.visibility import Visibility, is_own, is_own_session

_log = structlog.get_logger(__name__)
_RUN_FILTERS = (
    "dag_id", "run_id", "task_id", "map_index", "job_name", "step_key", "asset_key",
)  # fmt: skip
_TOO_MUCH = frozenset({"TOO_MANY_STATEMENTS", "TOO_FAST"})
"""What is asked for counts as a statement (gateway/limits.py)."""
_Endpoint = Callable[[Request, Identity], Awaitable[Response]]


BASE = "/hoop/v1"


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
        *,
        open_upstream: Opener,
        asks: Callable[[str], AbstractContextManager[None]],
        reads: Reads,
    ) -> None:
        """`asks` counts what an identity asks for as a statement of theirs, and refuses what is too much."""
        self._settings, self._sign_in, self._asks = settings, sign_in, asks
        self._guard, self._reads = guard, reads
        self._visible_to = Visibility(settings.readers, store, log)
        self._masking = MaskingExceptions(guard, log)
        self._questions = Questions(guard, open_upstream)

    def routes(self) -> list[Route]:
        base = BASE
        table: list[tuple[str, str, _Endpoint]] = [
            ("GET", "/approvals", self.list_approvals),
            ("POST", "/approvals", self.ask),
            ("GET", "/approvals/{id}", self.show_approval),
            ("POST", "/approvals/{id}/answers", self.answer),
            ("POST", "/approvals/{id}/withdrawal", self.withdraw),
            ("POST", "/approvals/{id}/break-glass", self.break_glass),
            ("POST", "/approvals/{id}/review", self.review),
            ("GET", "/standing-approvals", self.list_standing),
            ("POST", "/standing-approvals", self.ask_standing),
            ("POST", "/standing-approvals/{id}/revocation", self.revoke),
            ("GET", "/masking-exceptions", self.list_exceptions),
            ("POST", "/masking-exceptions", self.ask_exception),
            ("POST", "/masking-exceptions/{id}/revocation", self.revoke_exception),
            ("GET", "/sessions", self.list_sessions),
            ("GET", "/sessions/{id}", self.show_session),
        ]
        described = Route(base + "/openapi.json", _described, methods=["GET"])
        return [
            described,
            *(Route(base + path, self.called(end), methods=[verb]) for verb, path, end in table),
        ]

    def called(self, endpoint: _Endpoint) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint for a verified caller, with every error as JSON."""

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
        return await self._list(request, caller, "approvals", Wanted(run=run))

    async def _list(
        self, request: Request, caller: Identity, name: str, wanted: Wanted
    ) -> Response:
        """One page of what the caller may see."""
        wanted = replace(
            asked_page(wanted, request.query_params),
            status=_status(request),
            seen_by=self._visible_to.seen_by(caller),
        )

        others = False

        def shown(approval: Approval) -> Json | None:
            nonlocal others
            visible = self._visible_to.may_see(caller, approval)
            others = others or (visible and not is_own(caller, approval))
            return self._as_json(approval) if visible else None

        entries, following = await asyncio.to_thread(page, self._guard.desk.list, wanted, shown)
        if others:
            await self._reads.looked(caller, "approvals", name, "rest")
        return JSONResponse({name: entries, "next": following})

    async def show_approval(self, request: Request, caller: Identity) -> Response:
        approval = await self._visible(request, caller)
        if not is_own(caller, approval):
            await self._reads.looked(caller, "approval", approval.id, "rest")
        return JSONResponse(self._as_json(approval))

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
            text_of(body, "reason", limit=REASON_LIMIT) or "",
        )
        return JSONResponse(self._as_json(answered))

    async def ask(self, request: Request, caller: Identity) -> Response:
        """Ask ahead for a statement that another task of the same run will send."""
        body = await self._body(request)
        with self._asks(caller.key):
            session = await self._session(request, caller, body)
            approval = await self._questions.ask(session, body)
        if approval is None:
            return JSONResponse({"status": "not_required"})
        return JSONResponse(self._as_json(approval), status_code=201)

    async def withdraw(self, request: Request, caller: Identity) -> Response:
        return await self._move(request, caller, self._guard.desk.withdraw)

    async def break_glass(self, request: Request, caller: Identity) -> Response:
        return await self._move(request, caller, self._guard.desk.break_glass)

    async def review(self, request: Request, caller: Identity) -> Response:
        return await self._move(request, caller, self._guard.desk.review)

    async def _move(
        self,
        request: Request,
        caller: Identity,
        move: Callable[[str, Identity, str], Approval],
    ) -> Response:
        """What one person does to a request, with a reason."""
        approval = await self._visible(request, caller)
        body = await self._body(request)
        reason = text_of(body, "reason", limit=REASON_LIMIT) or ""
        moved = await asyncio.to_thread(move, approval.id, caller, reason)
        return JSONResponse(self._as_json(moved))

    async def _session(self, request: Request, caller: Identity, body: Json) -> GuardedSession:
        """What the caller asks as. A refused role or account is on record as one of signing in."""
        try:
            return self._questions.session(caller, body)
        except (PolicyDenied, IdentityError) as e:
            await self._sign_in.refused(caller, _client(request), e)
            raise

    # ------------------------------------------------------------------ standing approvals

    async def list_standing(self, request: Request, caller: Identity) -> Response:
        return await self._list(
            request, caller, "standing_approvals", Wanted(kind=STANDING_APPROVAL)
        )

    async def ask_standing(self, request: Request, caller: Identity) -> Response:
        body = await self._body(request)
        with self._asks(caller.key):
            session = await self._session(request, caller, body)
            asked = await self._questions.ask_standing(session, body)
        return JSONResponse(self._as_json(asked), status_code=201)

    async def revoke(self, request: Request, caller: Identity) -> Response:
        return await self._move(request, caller, self._guard.desk.revoke)

    # ------------------------------------------------------------------ masking exceptions

    async def list_exceptions(self, request: Request, caller: Identity) -> Response:
        wanted = Wanted(kind=MASKING_EXCEPTION)
        return await self._list(request, caller, "masking_exceptions", wanted)

    async def ask_exception(self, request: Request, caller: Identity) -> Response:
        body = await self._body(request)
        with self._asks(caller.key):
            asked = await self._masking.ask(caller, body)
        return JSONResponse(self._masking.as_json(asked), status_code=201)

    async def revoke_exception(self, request: Request, caller: Identity) -> Response:
        approval = await self._visible(request, caller)
        revoked = await self._masking.revoke(approval.id, caller, await self._body(request))
        return JSONResponse(self._masking.as_json(revoked))

    # ------------------------------------------------------------------ who may see what

    def _as_json(self, approval: Approval) -> Json:
        """Those that rest on the policy say whether they hold under the one in force."""
        return approval.as_json() if approval.scope is None else self._masking.as_json(approval)

    async def _visible(self, request: Request, caller: Identity) -> Approval:
        """Raises NoSuchApproval; whether there is one for others, it does not say."""
        identifier = request.path_params["id"]
        try:
            approval = await asyncio.to_thread(self._guard.desk.get, identifier)
        except NoSuchApproval:
            approval = None
        if approval is None or not self._visible_to.may_see(caller, approval):
            raise NoSuchApproval(
                f"There is no approval {identifier[:80]!r} for you.",
                "List yours with `hoop approvals list`.",
            )
        return approval

    # ------------------------------------------------------------------ sessions

    async def list_sessions(self, _request: Request, caller: Identity) -> Response:
        found = await asyncio.to_thread(self._visible_to.sessions, caller)
        if not all(is_own_session(caller, session) for session in found):
            await self._reads.looked(caller, "sessions", "all", "rest")
        return JSONResponse({"sessions": found})

    async def show_session(self, request: Request, caller: Identity) -> Response:
        wanted = request.path_params["id"]
        found = await asyncio.to_thread(self._visible_to.sessions, caller, wanted)
        if not found:
            raise NoSuchSession(f"There is no session {wanted!r} for you.")
        if not is_own_session(caller, found[0]):
            await self._reads.looked(caller, "session", wanted, "rest")
        entries, whole = await asyncio.to_thread(self._visible_to.entries, wanted)
        return JSONResponse({**found[0], "entries": entries, "whole": whole})

    async def _body(self, request: Request) -> Json:
        return await read_json(request, self._settings.max_body_bytes)


async def _described(_request: Request) -> Response:
    """For everybody: it says nothing of what is here."""
    return JSONResponse(document(BASE))


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
        case Refused() if error.reason in _TOO_MUCH:
            status = 429
        case Unavailable():
            status = 503
        case Refused() if error.reason == "INTERNAL":
            status = 500
        case _:
            status = 403
    content = {"reason": error.reason, "message": error.message, "hint": error.hint}
    return JSONResponse({"error": content}, status_code=status)
