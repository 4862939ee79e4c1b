"""Which run of which task is asking: what Hoop binds a grant to."""

from __future__ import annotations

from typing import Any

from airflow.sdk import get_current_context

from hoop_core.model import RunContext

ORCHESTRATOR = "airflow"


def run_of(ti: Any, dag_run: Any = None) -> RunContext:
    """The run context of a running task instance, and of the DAG run that it belongs to."""
    return RunContext(
        ORCHESTRATOR,
        {
            "dag_id": str(ti.dag_id),
            "run_id": str(ti.run_id),
            "task_id": str(ti.task_id),
            "map_index": str(ti.map_index),
            "try_number": str(ti.try_number),
            **_known_to_lineage(dag_run),
        },
    )


def _known_to_lineage(dag_run: Any) -> dict[str, str]:
    """What Airflow's own OpenLineage provider makes its run ids of, beside the above. No grant depends on it."""
    moment = getattr(dag_run, "logical_date", None) or getattr(dag_run, "run_after", None)
    if moment is None:
        return {}
    cleared = getattr(dag_run, "clear_number", None) or 0
    return {"logical_date": moment.isoformat(), "clear_number": str(cleared)}


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
    return run_of(context["ti"], context.get("dag_run"))
