"""REST: asking ahead, for one statement or for all runs of a schedule's."""

from __future__ import annotations

import asyncio
import json
import secrets
import uuid
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any

from hoop_core.approvals.approval import Approval
from hoop_core.asking import Wish
from hoop_core.audit.log import utc_now
from hoop_core.guard import Guard
from hoop_core.http import BadRequest, text_of
from hoop_core.model import Identity, Json, Lease, NameContext
from hoop_core.session.guarded import (
    GuardedSession,
    QueryRequest,
    allowed_parameters,
    fold,
    read_bindings,
    run_context,
)
from hoop_core.snowflake.session import SnowflakeSession
from hoop_core.sql.templates import Template

_SQL_LIMIT = 1 << 20
REASON_LIMIT = 4000
_MOST_SECONDS = 90 * 86400  # as the policy file bounds its times
_MOST_ROWS = 10**12
_MOST_USES = 10**6
Opener = Callable[[GuardedSession], Coroutine[Any, Any, tuple[Lease, SnowflakeSession]]]


class Questions:
    """Puts questions for callers who have no session at the gateway.

    What is counted for them needs one at Snowflake: it is opened then, and ended after the count.
    """

    def __init__(self, guard: Guard, open_upstream: Opener) -> None:
        self._guard, self._open = guard, open_upstream

    async def ask(self, session: GuardedSession, body: Json) -> Approval | None:
        """For a statement that another task of the same run will send; None when it needs no approval.

        Raises BadRequest, and whatever deciding raises.
        """
        sql = _sql(body, "sql")
        bindings = _bindings(body.get("parameters"))
        return await self._guard.ask_ahead(session, _request(sql, bindings))

    async def ask_standing(self, session: GuardedSession, body: Json) -> Approval:
        """For every statement that fits a template. Raises BadRequest, and whatever deciding raises."""
        text = _sql(body, "template")
        template = await asyncio.to_thread(Template.read, text, body.get("bounds"))
        sample = body.get("sample") or {}
        if not isinstance(sample, Mapping):
            raise BadRequest("sample must be an object: a value for each gap of the template.")
        reason = (text_of(body, "reason", limit=REASON_LIMIT) or "").strip()
        if not reason:
            raise BadRequest("A request needs a reason.", "Say in a sentence what it is for.")
        seconds = whole(body, "seconds", 60, _MOST_SECONDS)
        rows = whole(body, "rows_at_most", 0, _MOST_ROWS)
        uses = whole(body, "uses_at_most", 1, _MOST_USES)
        request = _request(template.filled(sample), _bindings(body.get("parameters")))
        wish = Wish(template, rows, uses, timedelta(seconds=seconds), reason)
        return await self._guard.ask_standing(session, request, wish)

    def session(self, caller: Identity, body: Json) -> GuardedSession:
        """Raises PolicyDenied, IdentityError for an account, a role or a context that cannot be."""
        account = self._guard.choose_account(text_of(body, "account"))
        role = self._guard.role_for(caller, fold(text_of(body, "role")), account)
        context = body.get("context")
        return GuardedSession(
            id="ask_" + secrets.token_hex(12),
            identity=caller,
            role=role,
            names=NameContext(fold(text_of(body, "database")), fold(text_of(body, "schema"))),
            run=run_context(None if context is None else json.dumps(context)),
            client={"application": "REST"},
            parameters=allowed_parameters(body.get("session_parameters")),
            opened_at=utc_now(),
            open_upstream=self._open,
            account=account,
            ahead=True,
        )


def _sql(body: Json, key: str) -> str:
    sql = text_of(body, key, limit=_SQL_LIMIT)
    if not sql or not sql.strip():
        raise BadRequest(f"{key} is missing.")
    return sql


def _request(sql: str, bindings: Json | None) -> QueryRequest:
    return QueryRequest(statement_id=str(uuid.uuid4()), sql=sql, bindings=bindings, parameters={})


def whole(body: Json, key: str, least: int, most: int) -> int:
    """A whole number among the fields. Raises BadRequest."""
    given = body.get(key)
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
        raise BadRequest(f"{key} must be a whole number from {least} to {most}.")
    return given


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
