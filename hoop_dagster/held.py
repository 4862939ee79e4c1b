"""A statement that waits for people ends its step: no process waits with it.

The gateway answers such a statement with an error of its own (errno 99300) when the connection asked for
that. Here that error is found again under whatever a driver has wrapped round it, and becomes Dagster's
Failure with all that a person wants to see.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import dagster as dg

from hoop_core.client import Approval, GatewayAddress, HoopClient, TokenSource
from hoop_core.errors import ApprovalPending, HoopError
from hoop_dagster.tags import (
    APPROVAL_ID,
    APPROVAL_STATUS,
    APPROVAL_URL,
    RETRIES,
    RETRIES_BEFORE,
    RunState,
)

_IDENTIFIER = re.compile(r"\bapr_[0-9a-f]{20}\b")
_CODE = f"{ApprovalPending.errno:06d}"
_MOST_SQL = 20_000
_MOST_LINKS = 20


def approval_waited_for(error: BaseException) -> str | None:
    """The id of the approval that a statement waits for, if that is what `error` is about.

    Drivers show the gateway's error in different ways: the connector by `errno`, SQLAlchemy by `orig`,
    pandas and Snowpark by the cause.
    """
    for link in _links(error):
        if str(getattr(link, "errno", "")) == str(ApprovalPending.errno) or _CODE in str(link):
            found = _IDENTIFIER.search(str(link))
            if found:
                return found[0]
    return None


def _links(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo and len(seen) < _MOST_LINKS:
        link = todo.pop(0)
        if not isinstance(link, BaseException) or any(link is s for s in seen):
            continue
        seen.append(link)
        yield link
        todo += [getattr(link, "orig", None), link.__cause__, link.__context__]


def awaiting(
    identifier: str, gateway: GatewayAddress, source: TokenSource, context: dg.OpExecutionContext
) -> dg.Failure:
    """The failure that ends the step, and the tags by which the sensor finds the run again."""
    approval = _looked_up(identifier, gateway, source)
    mark(context, identifier)
    why = "; ".join(r.message for r in approval.reasons) if approval else ""
    return dg.Failure(
        description=f"Waiting for approval {identifier}" + (f": {why}" if why else ""),
        metadata=metadata_of(identifier, gateway, approval),
        allow_retries=False,
    )


def mark(context: dg.OpExecutionContext, identifier: str) -> None:
    """Tag the run as one that waits. A retry by Dagster would only ask the same once more."""
    before = context.run.tags.get(RETRIES_BEFORE, context.run.tags.get(RETRIES, ""))
    tags = {
        APPROVAL_ID: identifier,
        APPROVAL_STATUS: str(RunState.AWAITING),
        RETRIES: "false",
        RETRIES_BEFORE: before,
    }
    context.instance.add_run_tags(context.run_id, tags)


def metadata_of(
    identifier: str, gateway: GatewayAddress, approval: Approval | None
) -> dict[str, dg.MetadataValue]:
    """What Dagster shows with a step or a check that waits."""
    shown: dict[str, dg.MetadataValue] = {
        APPROVAL_ID: dg.MetadataValue.text(identifier),
        APPROVAL_URL: dg.MetadataValue.url(gateway.approval_page(identifier)),
    }
    if approval is not None:
        shown |= {
            "sql": dg.MetadataValue.text(approval.sql[:_MOST_SQL]),
            "reason": dg.MetadataValue.text("; ".join(r.message for r in approval.reasons)),
            "approvers": dg.MetadataValue.text(
                f"{approval.quorum} of {', '.join(approval.approvers)}"
            ),
        }
    return shown


def _looked_up(identifier: str, gateway: GatewayAddress, source: TokenSource) -> Approval | None:
    """For show only: the step ends as it does also when this cannot be had."""
    try:
        with HoopClient(gateway, source) as hoop:
            return hoop.approval(identifier)
    except HoopError as e:
        dg.get_dagster_logger().warning("The request %s cannot be shown: %s", identifier, e.text)
        return None
