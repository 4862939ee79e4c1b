"""Parking a task in Airflow's Required Actions, without a worker slot, until its requests are decided.

Hoop writes what is shown there and reads the answer itself. Nothing that Airflow hands back to the task decides
anything: the task asks Hoop how its requests stand.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import exceptions
from airflow.sdk.execution_time.hitl import upsert_hitl_detail

from hoop_airflow.hooks.hoop_snowflake import HoopSnowflakeHook
from hoop_airflow.statements import fail_if_ended
from hoop_core.client import Approval, ApprovalStatus, HoopClient
from hoop_core.errors import NotServed, Refused, Unavailable
from hoop_core.model import Json

TaskAwaitingInput: Any = getattr(exceptions, "TaskAwaitingInput", None)
"""Since Airflow 3.3 a task waits for people in a state of its own; before, a trigger looks at the answer now and then."""
RESUMED = "execute_complete"
_GRACE = timedelta(minutes=2)
"""Hoop ends a request by itself, and lets the task go on. The task's own time limit is for when it cannot."""
_TOO_MUCH = frozenset({"TOO_MANY_STATEMENTS", "TOO_FAST", "TOO_MANY_ACTIONS"})
"""Reasons of Hoop's that pass: many tasks of one identity go on at once."""
_LOOKS, _FIRST_PAUSE, _LONGEST_PAUSE = 10, 2.0, 30.0


def task_of(ti: Any) -> Json:
    return {
        "dag_id": str(ti.dag_id),
        "run_id": str(ti.run_id),
        "task_id": str(ti.task_id),
        "map_index": int(ti.map_index),
    }


def park(
    operator: Any,
    ti: Any,
    hook: HoopSnowflakeHook,
    client: HoopClient,
    requests: Sequence[Approval],
) -> None:
    """Show the requests in Required Actions and give the worker slot back.

    Returns only when there is nothing to wait for, or when Hoop knows no Airflow. Raises AirflowFailException when
    Hoop knows several, or others.
    """
    try:
        found = client.airflow_action(
            [r.id for r in requests], task_of(ti), airflow=hook.airflow_name
        )
    except NotServed:
        operator.log.info("Hoop knows no Airflow: the requests are answered in Hoop only.")
        return
    except Refused as e:
        if e.reason in _TOO_MUCH:
            raise  # an ordinary failure, which Airflow retries
        raise AirflowFailException(f"Hoop cannot be asked through this Airflow: {e}") from e
    shown = found.get("action")
    if shown is None:
        return
    for request in requests:
        page = hook.gateway.approval_page(request.id)
        operator.log.info("Request %s waits in Required Actions, and at %s", request.id, page)
    params = _form(shown["params"])
    upsert_hitl_detail(
        ti_id=ti.id,
        subject=shown["subject"],
        body=shown["body"],
        options=shown["options"],
        defaults=None,  # one would answer for nobody when the time is over
        multiple=False,
        params=params,
    )
    _leave(operator, ti, shown["options"], params, requests)


def _leave(
    operator: Any, ti: Any, options: list[str], params: Json, requests: Sequence[Approval]
) -> NoReturn:
    """Ends this process of the task; `execute_complete` of another one goes on."""
    until = max((r.pending_until for r in requests if r.pending_until), default=None)
    left = None if until is None else max(until - datetime.now(UTC), timedelta(0)) + _GRACE
    identifiers = [r.id for r in requests]
    if TaskAwaitingInput is not None:
        raise TaskAwaitingInput(
            method_name=RESUMED, kwargs={"approvals": identifiers}, timeout=left
        )
    from airflow.providers.standard.triggers.hitl import HITLTrigger  # noqa: PLC0415

    operator.defer(
        trigger=HITLTrigger(
            ti_id=ti.id,
            options=options,
            defaults=None,
            params={k: dict(v) if isinstance(v, dict) else v for k, v in params.items()},
            multiple=False,
            timeout_datetime=None if left is None else datetime.now(UTC) + left,
        ),
        method_name=RESUMED,
        kwargs={"approvals": identifiers},
    )
    raise AssertionError("defer() raises")


def resumed(
    operator: Any,
    ti: Any,
    hook: HoopSnowflakeHook,
    client: HoopClient,
    identifiers: Sequence[str],
) -> None:
    """Returns when all requests are approved; parks again while some wait for a further voice.

    Raises AirflowFailException when one was rejected, expired or was taken back, Unavailable while Hoop cannot read
    what was answered: to park again would wipe it, Refused where it is asked too much for minutes.
    """
    said = _look(operator, ti, hook, client)
    if said:
        operator.log.info("%s", said)
    requests = [client.approval(i) for i in identifiers]
    for request in requests:
        operator.hoop_page = page(hook, request)
        fail_if_ended(
            request, f"task {request.run.fields.get('task_id', '')!r}", operator.hoop_page
        )
    if any(r.status is ApprovalStatus.PENDING for r in requests):
        park(operator, ti, hook, client, requests)


def page(hook: HoopSnowflakeHook, request: Approval) -> str:
    return hook.gateway.approval_page(request.id)


def _look(operator: Any, ti: Any, hook: HoopSnowflakeHook, client: HoopClient) -> str:
    """What Hoop read at this task."""
    pause = _FIRST_PAUSE
    for left in reversed(range(_LOOKS)):
        try:
            found = client.airflow_look(task_of(ti), airflow=hook.airflow_name)
            return str(found.get("said") or "")
        except (Unavailable, Refused) as e:
            if not left or (isinstance(e, Refused) and e.reason not in _TOO_MUCH):
                raise
            operator.log.warning("%s Trying again in %.0f s.", e, pause)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    raise AssertionError("the last try returns or raises")


def _form(params: Json) -> Json:
    """The form's fields as this Airflow keeps them: until 3.1.2 by their values only."""
    return params if _keeps_forms() else {k: v["value"] for k, v in params.items()}


def _keeps_forms() -> bool:
    from airflow.version import version  # noqa: PLC0415

    numbers = tuple(int(p) for p in version.split(".")[:3] if p.isdigit())
    return numbers >= (3, 1, 3)
