"""Which run of which task is asking: what Hoop binds a grant to."""

from __future__ import annotations

from typing import Any

from airflow.sdk import get_current_context

from hoop_core.model import RunContext

ORCHESTRATOR = "airflow"


def run_of(ti: Any) -> RunContext:
    """The run context of a running task instance."""
    return RunContext(
        ORCHESTRATOR,
        {
            "dag_id": str(ti.dag_id),
            "run_id": str(ti.run_id),
            "task_id": str(ti.task_id),
            "map_index": str(ti.map_index),
            "try_number": str(ti.try_number),
        },
    )


def run_of_other_task(ti: Any, task_id: str) -> RunContext:
    """The run context that the unmapped task `task_id` will have in the DAG run of `ti`.

    Its try number is not known yet, and no grant depends on it.
    """
    return RunContext(
        ORCHESTRATOR,
        {
            "dag_id": str(ti.dag_id),
            "run_id": str(ti.run_id),
            "task_id": task_id,
            "map_index": "-1",
        },
    )


def current_run() -> RunContext:
    """The run context of the task that is running; outside of a task only the orchestrator's name."""
    try:
        context = get_current_context()
    except RuntimeError:
        return RunContext(ORCHESTRATOR, {})
    return run_of(context["ti"])
