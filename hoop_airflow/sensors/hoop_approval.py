"""The sensor that asks for another task's statement, so that no worker slot waits for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import BaseSensorOperator, PokeReturnValue

from hoop_airflow.context import run_of_other_task
from hoop_airflow.hooks.hoop_snowflake import HoopSnowflakeHook
from hoop_airflow.links import HoopApprovalLink
from hoop_airflow.parking import page, park, resumed
from hoop_airflow.statements import GIVEN, ask, fail_if_ended, statements
from hoop_core.client import Approval, ApprovalStatus, HoopClient
from hoop_core.errors import ConfigError, IdentityError, Refused, Unavailable
from hoop_core.model import RunContext

XCOM_KEY = "hoop_approval_ids"

_BINDING = ("dag_id", "run_id", "task_id", "map_index")


class HoopApprovalSensor(BaseSensorOperator):
    """Ask for the approval of another task's statement and wait for the answer.

    The request carries the run context of `for_task`, so that the grant is that task's, in this DAG
    run, once. It is shown in Airflow's Required Actions, and can be answered there or in Hoop. The sensor succeeds
    when the statement is approved or needs no approval; it fails, and is not retried, when it is rejected, expired,
    or denied by policy. The ids of the requests are in XCom under `hoop_approval_ids`, and are the sensor's
    return value.

    The statement is rendered with the sensor's own context. If the task then renders another text (for
    example by naming `ti.task_id`), the grant does not fit it: the gateway asks again.

    :param for_task: the task whose statement is to be approved: a SQLExecuteQueryOperator (so also a
        HoopSnowflakeOperator) on a Hoop connection, not mapped
    :param wait_in_airflow: show the requests in Required Actions. Otherwise, and where Hoop knows no Airflow, the
        sensor looks at them now and then
    :param mode: `reschedule` (default) frees the worker slot between two looks
    """

    template_fields: Sequence[str] = ("sql", "parameters", "conn_id", "database", "hook_params")
    template_ext: Sequence[str] = SQLExecuteQueryOperator.template_ext
    template_fields_renderers = {"sql": "sql", "parameters": "json"}  # noqa: RUF012  Airflow's name
    ui_color = "#f5e9d6"
    custom_operator_name = "HoopApproval"
    operator_extra_links = (HoopApprovalLink(),)
    hoop_page = ""
    """Where the request is that the task waits for, or waited for last."""

    def __init__(
        self,
        *,
        for_task: SQLExecuteQueryOperator,
        wait_in_airflow: bool = True,
        mode: str = "reschedule",
        **kwargs: Any,
    ) -> None:
        if not isinstance(for_task, SQLExecuteQueryOperator):
            raise ConfigError(
                f"A HoopApprovalSensor cannot ask for a {type(for_task).__name__}.",
                "Give it a HoopSnowflakeOperator (or another SQLExecuteQueryOperator) that is not mapped.",
            )
        if "params" not in kwargs and for_task.params:
            kwargs["params"] = for_task.params
        super().__init__(mode=mode, **kwargs)
        self.wait_in_airflow = wait_in_airflow
        self.for_task_id = for_task.task_id
        self.sql = for_task.sql
        self.parameters = for_task.parameters
        self.conn_id = getattr(for_task, for_task.conn_id_field)
        self.database = for_task.database
        self.hook_params = dict(for_task.hook_params)
        self.split_statements = for_task.split_statements
        self._asked = False

    def execute(self, context: Any) -> Any:
        """Wait in Required Actions; where that is not to be had, look now and then."""
        ti = context["ti"]
        if self.wait_in_airflow and ti.get_first_reschedule_date(context) is None:
            hook = self._hook()
            with hook.client() as client:
                approvals = self._standing(client, hook, run_of_other_task(ti, self.for_task_id))
                self._keep(ti, approvals)
                waiting = [a for a in approvals if a.status is ApprovalStatus.PENDING]
                if not waiting:
                    return [a.id for a in approvals]
                park(self, ti, hook, client, waiting)
        return super().execute(context)

    def execute_complete(
        self, context: Any, approvals: Sequence[str] = (), event: Any = None
    ) -> Any:
        """Go on after an answer, a timeout or an error of Airflow's: Hoop knows what has been decided."""
        hook = self._hook()
        with hook.client() as client:
            resumed(self, context["ti"], hook, client, approvals)
        return list(approvals)

    def poke(self, context: Any) -> PokeReturnValue:
        """Ask at the first look, then see how the requests stand. Raises AirflowFailException."""
        ti = context["ti"]
        run = run_of_other_task(ti, self.for_task_id)
        hook = self._hook()
        first = not self._asked and ti.get_first_reschedule_date(context) is None
        try:
            with hook.client() as client:
                approvals = self._standing(client, hook, run, first=first)
        except Unavailable as e:
            if first:
                raise
            # A wait of hours must outlive a restart of the gateway; the sensor's timeout bounds it.
            self.log.warning("%s Looking again later.", e)
            return PokeReturnValue(is_done=False)
        ids = self._keep(ti, approvals)
        done = all(a.status in GIVEN for a in approvals)
        return PokeReturnValue(is_done=done, xcom_value=ids if done else None)

    def _keep(self, ti: Any, approvals: Sequence[Approval]) -> list[str]:
        self._asked = True
        ids = [a.id for a in approvals]
        ti.xcom_push(key=XCOM_KEY, value=ids)
        return ids

    def _hook(self) -> HoopSnowflakeHook:
        """The hook that the other task will use, built the way its operator builds it."""
        hook = SQLExecuteQueryOperator.get_hook(self.conn_id, hook_params=dict(self.hook_params))
        if not isinstance(hook, HoopSnowflakeHook):
            raise AirflowFailException(
                f"The connection {self.conn_id!r} of task {self.for_task_id!r} does not lead to Hoop: its "
                "type must be hoop_snowflake."
            )
        if self.database:
            hook.schema = self.database  # what SQLExecuteQueryOperator makes of `database`
        return hook

    def _standing(
        self, client: HoopClient, hook: HoopSnowflakeHook, run: RunContext, *, first: bool = True
    ) -> list[Approval]:
        """How the requests stand. Raises AirflowFailException when there is nothing left to wait for."""
        try:
            approvals = self._approvals(client, hook, run, first)
        except IdentityError:
            raise  # a fresh token may cure it: an ordinary failure, which Airflow retries
        except (Refused, ConfigError) as e:
            raise AirflowFailException(
                f"The statement of task {self.for_task_id!r} will not run: {e}"
            ) from e
        for approval in approvals:
            self._judge(approval, hook)
        return approvals

    def _approvals(
        self, client: HoopClient, hook: HoopSnowflakeHook, run: RunContext, first: bool
    ) -> list[Approval]:
        """The newest request for each statement that needs one.

        Only the first look asks: after a rejection, asking again would open a new request, and nobody
        would see the answer. Airflow clears a sensor's XCom at each look, so later looks find the
        requests by the run that they belong to.
        """
        known: dict[str, Approval] = {}
        if not first:
            of_run = client.approvals(run={k: run.fields[k] for k in _BINDING})
            for approval in sorted(of_run, key=lambda a: a.created_at):
                whole = client.approval(approval.id) if approval.cut else approval
                known[whole.sql] = whole
        texts = statements(self.sql, self.parameters, self.split_statements)
        found = [known.get(sql) or ask(client, hook, sql, run) for sql in texts]
        return [request for request in found if request is not None]

    def _judge(self, approval: Approval, hook: HoopSnowflakeHook) -> None:
        """Log where a request stands; AirflowFailException when nobody will approve it any more."""
        self.hoop_page = page(hook, approval)
        fail_if_ended(approval, f"task {self.for_task_id!r}", self.hoop_page)
        if approval.status is ApprovalStatus.PENDING:
            self.log.info(
                "Request %s waits for %d more answer(s) from %s: %s",
                approval.id,
                approval.missing,
                ", ".join(approval.approvers),
                self.hoop_page,
            )
