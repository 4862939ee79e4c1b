"""What runs, jobs and datasets are called, so that our events join those that others emit.

Datasets: https://openlineage.io/docs/spec/naming (Snowflake). Runs of Airflow have the ids that
apache-airflow-providers-openlineage gives them, runs of Dagster their own.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from openlineage.client.uuid import generate_static_uuid

from hoop_core.config.records import LineageParents
from hoop_core.model import Json, TableName
from hoop_core.sql.names import parse_parts

_LONGEST_JOB = 500


@dataclass(frozen=True, slots=True)
class Named:
    """A run, and the job that it is a run of."""

    run_id: str
    namespace: str
    job: str


@dataclass(frozen=True, slots=True)
class Parents:
    """Within what a statement ran, as its caller says: the task or job, and the whole run around it."""

    parent: Named
    root: Named


def dataset_namespace(account: str) -> str:
    """Of a Snowflake account by its name in the settings, `organization-account` or a locator."""
    return f"snowflake://{account.removesuffix('.snowflakecomputing.com')}"


def run_id(origin: str, intent: int, at: datetime) -> str:
    """Of the run that an intent begins: the same whenever its events are made, and nobody else's to choose.

    A statement's own id would not do: a statement that is tried again has two intents.
    """
    return str(generate_static_uuid(at, f"{origin}#{intent}".encode()))


def job_name(identity: Json, run: Json, kind: str, writes: list[str]) -> str:
    """`dag.task.kind.TARGET`: the same for each run of a task. Without an orchestrator it begins with the caller."""
    fields = _fields(run)
    task = [fields.get("dag_id") or fields.get("job_name"),
            fields.get("task_id") or fields.get("step_key")]  # fmt: skip
    within = ".".join(filter(None, task)) or str(identity.get("name") or identity.get("subject"))
    return ".".join([within, kind, *writes[:1]])[:_LONGEST_JOB]


def source_column(text: str) -> tuple[TableName, str] | None:
    """Table and column of `DB.SCHEMA.TABLE.COLUMN`; None for what is none."""
    parts = parse_parts(text)
    if parts is None or len(parts) != 4:
        return None
    return TableName(*parts[:3]), parts[3]


def parents(run: Json, namespaces: LineageParents) -> Parents | None:
    """None where the caller names no run that anybody else could know.

    All of it is asserted by the caller, and so no more than a hint where to look.
    """
    fields = _fields(run)
    match run.get("orchestrator"):
        case "airflow":
            return _airflow(fields, namespaces.airflow)
        case "dagster":
            return _dagster(fields, namespaces.dagster)
        case _:
            return None


def _airflow(fields: Mapping[str, str], namespace: str) -> Parents | None:
    """As `build_task_instance_ol_run_id` and `build_dag_run_ol_run_id` of the provider have it."""
    dag, task = fields.get("dag_id"), fields.get("task_id")
    attempt, index = fields.get("try_number"), fields.get("map_index")
    if not (dag and task and attempt and index):
        return None
    try:
        moment = datetime.fromisoformat(fields.get("logical_date", ""))
        if moment.tzinfo is None:
            return None
        cleared = int(fields.get("clear_number") or 0)
        within = f"{namespace}.{dag}.{task}.{int(attempt)}.{int(index)}"
        ids = [generate_static_uuid(moment, text.encode("utf-8", "backslashreplace"))
               for text in (within, f"{namespace}.{dag}.{cleared}")]  # fmt: skip
    except (ValueError, OverflowError):
        return None
    return Parents(
        Named(str(ids[0]), namespace, f"{dag}.{task}"), Named(str(ids[1]), namespace, dag)
    )


def _dagster(fields: Mapping[str, str], namespace: str) -> Parents | None:
    """Steps have random ids there, so the run stands above the statement."""
    known = _dagster_run(fields.get("run_id"), fields.get("job_name"), namespace)
    if known is None:
        return None
    root = _dagster_run(fields.get("root_run_id"), fields.get("root_job_name"), namespace)
    return Parents(known, root or known)


def _dagster_run(identifier: str | None, job: str | None, namespace: str) -> Named | None:
    try:
        return Named(str(uuid.UUID(identifier)), namespace, job) if identifier and job else None
    except ValueError:
        return None


def _fields(run: Json) -> Mapping[str, str]:
    found = run.get("fields")
    return found if isinstance(found, dict) else {}
