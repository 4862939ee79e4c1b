"""The operator that runs SQL through Hoop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

from hoop_airflow.context import run_of
from hoop_airflow.hooks.hoop_snowflake import HoopSnowflakeHook
from hoop_airflow.links import HoopApprovalLink
from hoop_airflow.parking import page, park, resumed
from hoop_airflow.statements import ask, fail_if_ended, statements
from hoop_core.client import Approval, ApprovalStatus, HoopClient
from hoop_core.errors import IdentityError, Refused
from hoop_core.model import RunContext

DEFAULT_CONN_ID = "hoop_default"


class HoopSnowflakeOperator(SQLExecuteQueryOperator):
    """Run SQL in Snowflake through Hoop.

    Before anything runs, Hoop is asked about each statement. What needs an approval is shown in Airflow's Required
    Actions, all of it in one, and the task waits there without a worker slot; it can be answered there or in Hoop. A
    retry, or a task that was cleared, finds its requests again. A rejection fails the task for good.

    Where Hoop knows no Airflow, with `wait_in_airflow=False`, and for a statement that can be judged only when an
    earlier one has run, the gateway holds the statement: the task simply runs until people have answered.

    :param sql: one statement, a script, or a list of statements (templated)
    :param conn_id: a connection of the type `hoop_snowflake`
    :param wait_in_airflow: wait for people in Required Actions, not in the worker
    :param purpose: why the data is wanted; approvers and auditors read it (templated)
    :param database: the session's database, in place of the connection's
    :param schema: the session's schema, in place of the connection's
    :param role: a Snowflake role that policy binds to the caller
    :param warehouse: the warehouse, in place of the connection's
    :param session_parameters: Snowflake session parameters that Hoop lets through
    """

    ui_color = "#f5e9d6"
    custom_operator_name = "Hoop"
    operator_extra_links = (HoopApprovalLink(),)
    hoop_page = ""
    """Where the request is that the task waits for, or waited for last."""

    def __init__(
        self,
        *,
        conn_id: str = DEFAULT_CONN_ID,
        wait_in_airflow: bool = True,
        purpose: str | None = None,
        database: str | None = None,
        schema: str | None = None,
        role: str | None = None,
        warehouse: str | None = None,
        session_parameters: dict[str, Any] | None = None,
        hook_params: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        named = {
            "purpose": purpose,
            "database": database,
            "schema": schema,
            "role": role,
            "warehouse": warehouse,
            "session_parameters": session_parameters,
        }
        # The parent makes its `database` the hook's schema. None is said aloud, for Airflow would
        # otherwise hand it the `database` of the DAG's default_args.
        super().__init__(
            conn_id=conn_id,
            database=None,
            hook_params={**{k: v for k, v in named.items() if v}, **(hook_params or {})},
            **kwargs,
        )
        self.wait_in_airflow = wait_in_airflow

    def get_db_hook(self) -> HoopSnowflakeHook:
        """The hook of the connection. AirflowFailException when the connection leads past Hoop."""
        hook = super().get_db_hook()
        if not isinstance(hook, HoopSnowflakeHook):
            raise AirflowFailException(
                f"The connection {self.conn_id!r} does not lead to Hoop: its type must be hoop_snowflake."
            )
        return hook

    def execute(self, context: Any) -> Any:
        """Wait in Airflow for whom policy wants to be asked, then run."""
        if self.wait_in_airflow:
            hook = self.get_db_hook()
            with hook.client() as client:
                self._ask_ahead(context["ti"], hook, client, context.get("dag_run"))
        return super().execute(context)  # type: ignore[no-untyped-call]

    def execute_complete(
        self, context: Any, approvals: Sequence[str] = (), event: Any = None
    ) -> Any:
        """Go on after an answer, a timeout or an error of Airflow's: Hoop knows what has been decided."""
        hook = self.get_db_hook()
        with hook.client() as client:
            resumed(self, context["ti"], hook, client, approvals)
        return super().execute(context)  # type: ignore[no-untyped-call]

    def _ask_ahead(
        self, ti: Any, hook: HoopSnowflakeHook, client: HoopClient, dag_run: Any
    ) -> None:
        waiting: list[Approval] = []
        for sql in statements(self.sql, self.parameters, self.split_statements):
            request = self._ask(client, hook, sql, run_of(ti, dag_run))
            if request is None:
                continue
            self.hoop_page = page(hook, request)
            fail_if_ended(request, f"task {self.task_id!r}", self.hoop_page)
            if request.status is ApprovalStatus.PENDING:
                waiting.append(request)
        if waiting:
            self.hoop_page = page(hook, waiting[0])
            park(self, ti, hook, client, waiting)

    def _ask(
        self, client: HoopClient, hook: HoopSnowflakeHook, sql: str, run: RunContext
    ) -> Approval | None:
        """None where nobody has to be asked, or where asking has to wait until the statement's turn."""
        try:
            return ask(client, hook, sql, run)
        except IdentityError:
            raise  # a fresh token may cure it: an ordinary failure, which Airflow retries
        except Refused as e:
            # It may need what an earlier statement makes; and if not, the gateway refuses it, as it always does.
            self.log.warning("Hoop does not take a statement ahead of its turn: %s", e)
            return None
