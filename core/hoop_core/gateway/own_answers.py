"""Statements that the gateway answers itself: about sessions, statements and results that only it knows.

Connectors and tools send them in exactly these forms. Nothing of them reaches Snowflake, where the ids mean
nothing; what is read is what this caller was shown before, and each answer is in the log.

https://docs.snowflake.com/en/sql-reference/functions/result_scan ·
https://docs.snowflake.com/en/sql-reference/sql/desc-result ·
https://docs.snowflake.com/en/sql-reference/functions/system_cancel_query ·
https://docs.snowflake.com/en/sql-reference/functions/system_cancel_all_queries ·
https://docs.snowflake.com/en/sql-reference/functions/current_session ·
https://docs.snowflake.com/en/sql-reference/sql/show-parameters
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from hoop_core.errors import HoopError, Refused, SnowflakeError, StatementRefused
from hoop_core.gateway.result_descriptions import COLUMNS, Row, described
from hoop_core.gateway.sessions import Live
from hoop_core.gateway.shelves import Running, Shelves, not_kept, scope_of
from hoop_core.guard import Guard
from hoop_core.model import Json
from hoop_core.parameters import OWN, TOLD, told
from hoop_core.plan import Delivered
from hoop_core.records import asked_json, error_json
from hoop_core.session.guarded import GuardedSession, QueryRequest

_UUID = r"([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})"
_LAST = r"LAST_QUERY_ID\s*\(\s*\)"
"""The result of the statement before."""
_LONGEST = 500
_END = r"\s*;?\s*\Z"
_TEXT_LENGTH = 16_777_216
_DESCRIBE = 0x4500  # statementTypeId


class Form(StrEnum):
    RESULT_SCAN = "result_scan"
    DESCRIBE_RESULT = "describe_result"
    CANCEL_QUERY = "cancel_query"
    CANCEL_ALL_QUERIES = "cancel_all_queries"
    CURRENT_SESSION = "current_session"
    SHOW_PARAMETERS = "show_parameters"


@dataclass(frozen=True, slots=True)
class Asked:
    """One of the forms, and the id, the number or the pattern in it."""

    form: Form
    value: str


def _form(text: str) -> re.Pattern[str]:
    """Blanks where the pattern has one; every parenthesis and comma may have blanks around it."""
    spaced = re.sub(r" ", r"\\s+", text)
    return re.compile(r"\s*" + spaced + _END, re.IGNORECASE | re.ASCII)


_FORMS = (
    (
        Form.RESULT_SCAN,
        _form(rf"SELECT \*\s+FROM TABLE\s*\(\s*RESULT_SCAN\s*\(\s*'{_UUID}'\s*\)\s*\)"),
    ),
    (Form.DESCRIBE_RESULT, _form(rf"DESC(?:RIBE)? RESULT\s*(?:'{_UUID}'|{_LAST})")),
    (Form.CANCEL_QUERY, _form(rf"SELECT SYSTEM\$CANCEL_QUERY\s*\(\s*'{_UUID}'\s*\)")),
    (
        Form.CANCEL_ALL_QUERIES,
        _form(r"SELECT SYSTEM\$CANCEL_ALL_QUERIES\s*\(\s*'?(\d{1,20})'?\s*\)"),
    ),
    (Form.CURRENT_SESSION, _form(r"SELECT CURRENT_SESSION\s*\(\s*\)()")),
    (
        Form.SHOW_PARAMETERS,
        _form(r"SHOW PARAMETERS(?:\s+LIKE\s*'([\w%]{1,200})')?(?:\s+(?:IN|FOR) SESSION)?"),
    ),
)


def asked_for(sql: str) -> Asked | None:
    """The form that a statement has, to its last character; None for everything else."""
    if len(sql) > _LONGEST:
        return None
    for form, pattern in _FORMS:
        found = pattern.match(sql)
        if found:
            return Asked(form, found[1] or "")
    return None


class OwnAnswers:
    """Answers to the forms, for one caller at a time."""

    def __init__(self, guard: Guard, shelves: Shelves) -> None:
        self._guard, self._shelves = guard, shelves

    async def answer(self, asked: Asked, live: Live, request: QueryRequest) -> Delivered:
        """Raises HoopError; answers and refusals are in the log."""
        session = live.guarded
        entry = {**asked_json(session, request), "form": asked.form, "value": asked.value}
        try:
            policy = self._guard.policy.for_account(session.account)
            policy.check_role(session.identity, session.role)
            if request.bindings or request.statements not in {"0", "1"}:
                raise StatementRefused(
                    f"This form of {asked.form} takes no parameters.", "Leave them out."
                )
            if asked.form in {Form.RESULT_SCAN, Form.DESCRIBE_RESULT}:
                # what it shows again is logged with it
                return await self._result_scan(asked, live, request, entry)
            answer = _answer(self._table(asked, live, request), session, request)
        except HoopError as e:
            await self._log("statement.refused", {**entry, **error_json(e)}, session)
            raise
        await self._log("statement.answered", entry, session)
        return Delivered(answer, None, policy.digest)

    def _table(self, asked: Asked, live: Live, request: QueryRequest) -> _Table:
        act = not request.describe_only
        match asked.form:
            case Form.CURRENT_SESSION:
                return _Table(("CURRENT_SESSION()",), ((str(live.guarded.number),),))
            case Form.SHOW_PARAMETERS:
                return _parameters(live.guarded, asked.value)
            case Form.CANCEL_QUERY:
                said = self._cancel(asked.value, live) if act else ""
                return _Table((f"SYSTEM$CANCEL_QUERY('{asked.value.upper()}')",), ((said,),))
            case _:
                many = self._cancel_all(asked.value, live, request) if act else 0
                said = f"{many} cancelled."
                return _Table((f"SYSTEM$CANCEL_ALL_QUERIES({asked.value})",), ((said,),))

    # ------------------------------------------------------------------ cancelling

    def _cancel(self, statement_id: str, live: Live) -> str:
        """Of the caller's own statements, as Snowflake words it."""
        running = self._shelves.statement(statement_id.lower())
        if running is None or scope_of(running.live.guarded) != scope_of(live.guarded):
            raise SnowflakeError(
                f"Statement {statement_id} not found.", errno=709, sqlstate="02000"
            )
        if running.done:
            return "Identified SQL statement is not currently executing."
        running.abandoned.set()
        return f"query [{running.statement_id}] terminated."

    def _cancel_all(self, number: str, live: Live, request: QueryRequest) -> int:
        """In the caller's sessions of that number: a tool sends it from another session than the one meant."""
        cancelled = 0
        for running in self._shelves.owned_by(live.guarded):
            theirs = running.live.guarded
            itself = running.statement_id == request.statement_id
            if not running.done and not itself and number in _numbers(theirs):
                running.abandoned.set()
                cancelled += 1
        return cancelled

    # ------------------------------------------------------------------ shown again

    async def _result_scan(
        self, asked: Asked, live: Live, request: QueryRequest, entry: Json
    ) -> Delivered:
        running = self._meant(asked.value, live, request)
        if running is None or scope_of(running.live.guarded) != scope_of(live.guarded):
            raise SnowflakeError(
                f"Statement {asked.value} not found.".replace("  ", " "),
                errno=709,
                sqlstate="02000",
            )
        if not running.done:
            raise Refused(
                f"The statement {running.statement_id} is still running.",
                "Ask for its result when its status is SUCCESS.",
                errno=709,
                sqlstate="02000",
            )
        shown = await self.show_again(live, running, by=asked.form, entry=entry)
        if asked.form is Form.DESCRIBE_RESULT:
            rows = described(shown.answer["data"]["rowtype"])
            answer = _answer(_Table(COLUMNS, rows, _DESCRIBE), live.guarded, request)
            return replace(shown, answer=answer, chunks=None)
        data = {**shown.answer["data"], "queryId": request.statement_id}
        if request.describe_only:
            data = _described(data)
        return replace(shown, answer={**shown.answer, "data": data})

    def _meant(self, statement_id: str, live: Live, request: QueryRequest) -> Running | None:
        """The statement of this id; without one, the session's last one before this."""
        if statement_id:
            return self._shelves.statement(statement_id.lower())
        mine = self._shelves.of(live).statements.values()
        return next((r for r in reversed(mine) if r.statement_id != request.statement_id), None)

    async def show_again(
        self, live: Live, running: Running, *, by: str, entry: Json | None = None
    ) -> Delivered:
        """What this caller was shown before, or the error that came of it. Raises HoopError."""
        if running.error is not None:
            raise running.error.with_traceback(None)
        delivered = running.delivered
        if delivered is None or running.live.guarded.closed:
            raise not_kept()
        if "rowtype" not in delivered.answer["data"]:
            # of a PUT: the address that its own driver uploads to
            raise Refused("This statement has no rows to be shown again.", "Run it again.")
        shown = {
            "of_statement_id": running.statement_id,
            "of_session_id": running.live.guarded.id,
            "by": by,
        }
        kind = "statement.answered" if entry else "result.shown_again"
        await self._guard.shown_again(live.guarded, delivered, kind, {**(entry or {}), **shown})
        return delivered

    async def _log(self, kind: str, entry: Json, session: GuardedSession) -> None:
        await asyncio.to_thread(self._guard.log.append, kind, entry, session_id=session.id)


def _numbers(session: GuardedSession) -> set[str]:
    """What a session may be called: Hoop's number, and Snowflake's own, which a statement may have asked for."""
    upstream = session.opened_upstream()
    return {str(session.number)} | ({upstream.session_id} if upstream else set())


# ---------------------------------------------------------------------- tables


@dataclass(frozen=True, slots=True)
class _Table:
    """A small result of texts."""

    names: tuple[str, ...]
    rows: Sequence[Row]
    type_id: int = 4096  # SELECT


def _parameters(session: GuardedSession, pattern: str) -> _Table:
    """The columns of SHOW PARAMETERS; what the caller set counts as set for the session."""
    upstream = session.opened_upstream()
    known = {str(p.get("name")): p.get("value") for p in upstream.parameters} if upstream else {}
    wanted = pattern.upper() or "%"
    rows = [
        (
            p["name"],
            _text(p["value"]),
            _text((TOLD | OWN)[p["name"]]),
            "SESSION" if p["name"] in session.parameters else "",
            "",
            _kind(p["value"]),
        )
        for p in told(TOLD, known, session.parameters)
        if _like(p["name"].upper(), wanted)
    ]
    return _Table(("key", "value", "default", "level", "description", "type"), rows, 8192)


def _like(name: str, pattern: str) -> bool:
    """LIKE without going back: a pattern of many `%_` would hold up the whole process as a regular expression."""
    reached = {0}
    for sign in re.sub("%+", "%", pattern):
        if sign == "%":
            reached = set(range(min(reached), len(name) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(name) and sign in {"_", name[at]}}
        if not reached:
            return False
    return len(name) in reached


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "BOOLEAN"
    return "NUMBER" if isinstance(value, int) else "STRING"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _answer(table: _Table, session: GuardedSession, request: QueryRequest) -> Json:
    """Rows in Snowflake's JSON form, which every driver reads."""
    rows = [] if request.describe_only else [list(r) for r in table.rows]
    data = {
        "parameters": told(TOLD, session.parameters),
        "rowtype": [_column(n) for n in table.names],
        "rowset": rows,
        "total": len(rows),
        "returned": len(rows),
        "queryId": request.statement_id,
        "databaseProvider": None,
        "finalDatabaseName": session.names.database,
        "finalSchemaName": session.names.schema,
        "finalWarehouseName": session.role.warehouse,
        "finalRoleName": session.role.snowflake_role,
        "numberOfBinds": 0,
        "arrayBindSupported": False,
        "statementTypeId": table.type_id,
        "version": 1,
        "queryResultFormat": "json",
    }
    return {"data": data, "success": True, "code": None, "message": None}


def _column(name: str) -> Json:
    return {
        "name": name,
        "database": "",
        "schema": "",
        "table": "",
        "nullable": True,
        "type": "text",
        "byteLength": _TEXT_LENGTH,
        "length": _TEXT_LENGTH,
        "scale": None,
        "precision": None,
        "collation": None,
    }


def _described(data: Json) -> Json:
    """A result without its rows."""
    without = {"rowset", "rowsetBase64", "chunks", "chunkHeaders"}
    empty: Json = (
        {"rowsetBase64": ""} if data.get("queryResultFormat") == "arrow" else {"rowset": []}
    )
    kept = {k: v for k, v in data.items() if k not in without}
    return {**kept, **empty, "total": 0, "returned": 0}
