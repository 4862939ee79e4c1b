"""The texts that a SQL operator will send through a hook, and asking for them ahead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.providers.common.sql.hooks.sql import DbApiHook

from hoop_airflow.hooks.hoop_snowflake import HoopSnowflakeHook
from hoop_core.client import Approval, ApprovalStatus, HoopClient, bind, split_script
from hoop_core.model import RunContext

GIVEN = frozenset({ApprovalStatus.APPROVED, ApprovalStatus.CONSUMED})
NOT_ANY_MORE = "To ask again, clear this task."


def statements(sql: str | Sequence[str], parameters: Any, split: bool | None) -> list[str]:
    """The texts that the connector will send, one by one, with their parameters bound."""
    if not isinstance(sql, str):
        texts = list(sql)
    elif split is False:
        texts = [DbApiHook.strip_sql_string(sql)]
    else:
        texts = list(split_script(sql))
    return [bind(text, parameters or None) for text in texts]


def ask(client: HoopClient, hook: HoopSnowflakeHook, sql: str, run: RunContext) -> Approval | None:
    """Ask ahead for what `hook` would send in `run`; None when it needs no approval."""
    static = hook._get_static_conn_params
    return client.request_approval(
        sql,
        database=static["database"] or None,
        schema=static["schema"] or None,
        role=static["role"] or None,
        run=run,
        purpose=hook.purpose,
        session_parameters=static["session_parameters"],
    )


def fail_if_ended(approval: Approval, what: str, page: str) -> None:
    """AirflowFailException, which is not retried, when nobody will approve the request any more."""
    status = approval.status
    if status is ApprovalStatus.PENDING or status in GIVEN:
        return
    why = f"is {status}"
    if status is ApprovalStatus.REJECTED:
        no = next((a for a in approval.answers if a.verdict == "reject"), None)
        why = "was rejected" + (f" by {no.approver.name}" if no else "")
        why += f": {no.reason}" if no and no.reason else ""
    elif status is ApprovalStatus.EXPIRED:
        why = "has expired"
    elif approval.revocation is not None:
        why = f"is {status} by {approval.revocation.by.name}: {approval.revocation.reason}"
    raise AirflowFailException(
        f"Request {approval.id} for {what} {why}. See {page}. {NOT_ANY_MORE}"
    )
