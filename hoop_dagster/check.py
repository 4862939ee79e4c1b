"""A blocking asset check that asks ahead: what is downstream starts once people have said yes."""

# No `from __future__ import annotations`: Dagster reads the annotation of a check's context as it is.
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import dagster as dg

from hoop_core.client import AnswerVerdict, ApprovalStatus
from hoop_dagster.held import mark, metadata_of
from hoop_dagster.resource import HoopSnowflakeResource

Sql = str | Callable[[dg.AssetCheckExecutionContext], str]


def hoop_approval_check(
    *,
    asset: dg.AssetKey | str | dg.AssetsDefinition,
    runs_in: dg.AssetKey | str | Iterable[str],
    sql: Sql,
    parameters: Mapping[str, Any] | Iterable[Any] | None = None,
    name: str = "hoop_approval",
    resource_key: str = "snowflake",
    step_key: str | None = None,
) -> dg.AssetChecksDefinition:
    """A check of `asset` that passes once `sql`, which the asset `runs_in` will run, is approved.

    Until then it fails with a link to the request, and blocks what is downstream; hoop_approval_sensor
    goes on with both. The text must be the very one that will run: the grant is for nothing else.
    `step_key` is that of `runs_in`, where its op has a name of its own. `sql` may be a function of the
    check's context, for example to put a partition key into it.
    """
    runner = dg.AssetKey(runs_in if isinstance(runs_in, str) else _path(runs_in))
    step = step_key or "__".join(runner.path)

    @dg.asset_check(
        asset=asset,
        name=name,
        blocking=True,
        required_resource_keys={resource_key},
        description=f"What {runner.to_user_string()} will run is approved.",
    )
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        text = sql if isinstance(sql, str) else sql(context)
        resource = _resource(context, resource_key)
        approval = resource.ask_ahead(text, parameters, step_key=step)
        if approval is None:
            return dg.AssetCheckResult(passed=True, description="It needs no approval.")
        metadata = metadata_of(approval.id, resource.gateway, approval)
        if approval.status is ApprovalStatus.APPROVED:
            said_yes = AnswerVerdict.APPROVE
            people = ", ".join(a.approver.name for a in approval.answers if a.verdict is said_yes)
            return dg.AssetCheckResult(
                passed=True, description=f"Approved by {people}", metadata=metadata
            )
        mark(context.op_execution_context, approval.id)
        return dg.AssetCheckResult(
            passed=False,
            severity=dg.AssetCheckSeverity.ERROR,
            description=f"Awaiting approval: {resource.gateway.approval_page(approval.id)}",
            metadata=metadata,
        )

    return check


def _path(key: dg.AssetKey | Iterable[str]) -> list[str]:
    return list(key.path if isinstance(key, dg.AssetKey) else key)


def _resource(context: dg.AssetCheckExecutionContext, key: str) -> HoopSnowflakeResource:
    # An op gets dagster-snowflake's wrapper under this name, so the resource itself is looked up.
    found = context.resources.original_resource_dict[key]
    if not isinstance(found, HoopSnowflakeResource):
        raise dg.DagsterInvalidDefinitionError(
            f"hoop_approval_check needs a HoopSnowflakeResource under {key!r}."
        )
    return found
