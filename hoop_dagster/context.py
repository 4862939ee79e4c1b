"""Which run, step and asset is asking: what Hoop binds a grant to."""

from __future__ import annotations

import dagster as dg

from hoop_core.model import RunContext

ORCHESTRATOR = "dagster"


def current_run(resource_context: dg.InitResourceContext | None = None) -> RunContext:
    """The run context of the step that is running on this thread.

    In a thread of the user's own Dagster knows no step; then what the resource was made for tells the
    run at least. Outside of a run only the orchestrator's name is known.
    """
    context = _execution_context()
    if context is not None:
        return RunContext(ORCHESTRATOR, _fields(context))
    run = resource_context.run if resource_context is not None else None
    if run is None:
        return RunContext(ORCHESTRATOR, {})
    return RunContext(ORCHESTRATOR, {"job_name": run.job_name, "run_id": run.run_id})


def _execution_context() -> dg.OpExecutionContext | None:
    try:
        return dg.OpExecutionContext.get()
    except dg.DagsterInvariantViolationError:
        return None


def _fields(context: dg.OpExecutionContext) -> dict[str, str]:
    fields = {
        "job_name": context.job_name,
        "run_id": context.run.run_id,
        "step_key": context.get_step_execution_context().step.key,
    }
    if context.has_assets_def:
        keys = sorted(k.to_user_string() for k in context.selected_asset_keys)
        if keys:
            fields["asset_key"] = ",".join(keys)
    if context.has_partition_key:
        fields["partition_key"] = context.partition_key
    elif context.has_partition_key_range:
        span = context.partition_key_range
        fields["partition_key"] = f"{span.start}...{span.end}"
    return fields
