"""Which run, step and asset is asking: what Hoop binds a grant to."""

from __future__ import annotations

import dagster as dg

from hoop_core.model import RunContext
from hoop_dagster.tags import ROOT_JOB_NAME, ROOT_RUN_ID

ORCHESTRATOR = "dagster"


def current_run(resource_context: dg.InitResourceContext | None = None) -> RunContext:
    """The run context of the step that is running on this thread.

    In a thread of the user's own Dagster knows no step; then what the resource was made for tells the
    run at least. Outside of a run only the orchestrator's name is known.
    """
    context = execution_context()
    if context is not None:
        return RunContext(ORCHESTRATOR, _fields(context))
    run = resource_context.run if resource_context is not None else None
    if run is None:
        return RunContext(ORCHESTRATOR, {})
    return RunContext(ORCHESTRATOR, _of_run(run))


def execution_context() -> dg.OpExecutionContext | None:
    """The context of the step that is running on this thread, if there is one."""
    try:
        return dg.OpExecutionContext.get()
    except dg.DagsterInvariantViolationError:
        return None


def first_of(run: dg.DagsterRun) -> tuple[str, str]:
    """Job name and id of the run that `run` goes on with, over any number of runs in between.

    A grant is bound to that one, so a run that goes on finds what was approved. What the sensor starts
    says so in its tags; a re-execution is known to Dagster itself.
    """
    root = run.tags.get(ROOT_RUN_ID)
    if root:
        return run.tags.get(ROOT_JOB_NAME) or run.job_name, root
    return run.job_name, run.root_run_id or run.run_id


def _of_run(run: dg.DagsterRun) -> dict[str, str]:
    fields = {"job_name": run.job_name, "run_id": run.run_id}
    root_job, root_id = first_of(run)
    if root_id != run.run_id:
        fields |= {"root_job_name": root_job, "root_run_id": root_id}
    return fields


def _fields(context: dg.OpExecutionContext) -> dict[str, str]:
    fields = _of_run(context.run)
    fields["step_key"] = context.get_step_execution_context().step.key
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
