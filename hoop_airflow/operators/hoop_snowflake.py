"""The operator that runs SQL through Hoop."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

from hoop_airflow.hooks.hoop_snowflake import HoopSnowflakeHook

DEFAULT_CONN_ID = "hoop_default"


class HoopSnowflakeOperator(SQLExecuteQueryOperator):
    """Run SQL in Snowflake through Hoop.

    A statement that policy wants approved is held by the gateway: the task simply runs until a person
    has answered (put a HoopApprovalSensor before it to free the worker slot meanwhile). A refused
    statement fails the task with Hoop's reason and what to do next.

    :param sql: one statement, a script, or a list of statements (templated)
    :param conn_id: a connection of the type `hoop_snowflake`
    :param purpose: why the data is wanted; approvers and auditors read it (templated)
    :param database: the session's database, in place of the connection's
    :param schema: the session's schema, in place of the connection's
    :param role: a Snowflake role that policy binds to the caller
    :param warehouse: the warehouse, in place of the connection's
    :param session_parameters: Snowflake session parameters that Hoop lets through
    """

    ui_color = "#f5e9d6"
    custom_operator_name = "Hoop"

    def __init__(
        self,
        *,
        conn_id: str = DEFAULT_CONN_ID,
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

    def get_db_hook(self) -> HoopSnowflakeHook:
        """The hook of the connection. AirflowFailException when the connection leads past Hoop."""
        hook = super().get_db_hook()
        if not isinstance(hook, HoopSnowflakeHook):
            raise AirflowFailException(
                f"The connection {self.conn_id!r} does not lead to Hoop: its type must be hoop_snowflake."
            )
        return hook
