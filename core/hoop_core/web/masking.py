"""REST /hoop/v1/masking-exceptions: ask to see masked columns for a while, list that, end it."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterable
from datetime import timedelta

from hoop_core.approvals.approval import OPEN, Approval
from hoop_core.approvals.exceptions import KIND, ExceptionBinding, question
from hoop_core.audit.log import AuditLog
from hoop_core.errors import ApprovalRefused, PolicyDenied
from hoop_core.guard import Guard
from hoop_core.http import BadRequest, text_of
from hoop_core.model import ApprovalStatus, Identity, Json
from hoop_core.policy.exceptions import (
    ColumnName,
    check_readable,
    named_tables,
    offer,
    parse_column,
)
from hoop_core.records import error_json, person_json
from hoop_core.session.guarded import fold

_MOST_COLUMNS = 100
_MOST_SECONDS = 90 * 86400  # as the policy file bounds `valid_for`
_REASON_LIMIT = 4000


class MaskingExceptions:
    """Standing grants by which a caller sees columns that the policy masks."""

    def __init__(self, guard: Guard, log: AuditLog) -> None:
        self._guard, self._log = guard, log

    async def ask(self, caller: Identity, body: Json) -> Approval:
        """The open request for these columns and this time, or a new one.

        Raises BadRequest for a malformed body; PolicyDenied when there is nothing to except, no exception
        is offered, or the columns are not there; ApprovalRefused when too much is asked. The last two
        are in the log.
        """
        columns, span = _columns(body.get("columns")), _span(body.get("seconds"))
        account = self._guard.choose_account(text_of(body, "account"))
        reason = (text_of(body, "reason", limit=_REASON_LIMIT) or "").strip()
        if not reason:
            raise BadRequest("A request needs a reason.", "Say in a sentence what it is for.")
        try:
            role = fold(text_of(body, "role"))
            return await self._ask(caller, columns, span, reason, role=role, account=account)
        except (PolicyDenied, ApprovalRefused) as e:
            entry = {
                "kind": KIND,
                "requester": person_json(caller),
                "columns": [str(c) for c in columns],
                **error_json(e),
            }
            await asyncio.to_thread(self._log.append, "approval.request_refused", entry)
            raise

    async def _ask(
        self,
        caller: Identity,
        columns: tuple[ColumnName, ...],
        span: timedelta,
        reason: str,
        *,
        role: str | None,
        account: str,
    ) -> Approval:
        policy = self._guard.policy.for_account(account)
        bound = ExceptionBinding(
            caller, policy.role_for(caller, role), policy, columns, span, account
        )
        for name in columns:
            check_readable(policy, caller, name)
        await self._check_there(columns, bound)
        offered = offer(policy, caller, columns, span)
        body = question(bound, person_json(caller), reason, offered)
        return await asyncio.to_thread(
            self._guard.desk.ask, bound, bound.terms(offered), body, session_id=None
        )

    async def _check_there(self, columns: Iterable[ColumnName], bound: ExceptionBinding) -> None:
        """Raises PolicyDenied for a column that does not exist: nobody is asked about a typing error."""
        catalog = await self._guard.catalog.of(bound.account).snapshot(
            [c.table for c in columns], bound.role.snowflake_role, bound.identity.key
        )
        for name in columns:
            known = catalog.columns(name.table)
            if not known:
                tables = named_tables(bound.policy, bound.identity)
                near = difflib.get_close_matches(str(name.table), tables, n=1)
                raise PolicyDenied(
                    f"{name.table} is not a table whose columns Hoop knows.",
                    f"Did you mean {near[0]}?" if near else "Check its name.",
                    reason="UNKNOWN_OBJECT",
                )
            if name.column not in known:
                near = difflib.get_close_matches(name.column, list(known), n=1)
                raise PolicyDenied(
                    f"{name.table} has no column {name.column}.",
                    f"Did you mean {near[0]}?" if near else "Check its name.",
                    reason="UNKNOWN_COLUMN",
                )

    async def revoke(self, identifier: str, who: Identity, body: Json) -> Approval:
        """Raises ApprovalRefused, which is in the log."""
        reason = text_of(body, "reason", limit=_REASON_LIMIT) or ""
        return await asyncio.to_thread(self._guard.desk.revoke, identifier, who, reason)

    def as_json(self, approval: Approval) -> Json:
        """`in_force`: approved and in time; `void`: open, but asked for under another policy than the
        one that is loaded now, so that it shows nothing.
        """
        changed = approval.body["policy_digest"] != self._guard.policy.digest
        approved = approval.status is ApprovalStatus.APPROVED
        return {
            **approval.as_json(),
            "in_force": approved and not changed,
            "void": approval.status in OPEN and changed,
        }


def _columns(given: object) -> tuple[ColumnName, ...]:
    if not isinstance(given, list) or not 0 < len(given) <= _MOST_COLUMNS:
        raise BadRequest(
            f"columns must be a list of 1 to {_MOST_COLUMNS} names.",
            "Write DATABASE.SCHEMA.TABLE.COLUMN.",
        )
    found: list[ColumnName] = []
    for text in given:
        name = parse_column(text) if isinstance(text, str) and len(text) <= 1100 else None
        if name is None:
            raise BadRequest(
                "One of the columns is not DATABASE.SCHEMA.TABLE.COLUMN.",
                "Name each column in full; `*` is not taken.",
            )
        found.append(name)
    return tuple(sorted(set(found)))


def _span(given: object) -> timedelta:
    if isinstance(given, bool) or not isinstance(given, int) or not 0 < given <= _MOST_SECONDS:
        raise BadRequest(f"seconds must be a whole number from 1 to {_MOST_SECONDS}.")
    return timedelta(seconds=given)
