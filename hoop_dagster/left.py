"""What a run that ended had still to do, and which approvals it waits for: read from its events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import (  # no public name for the graph
    BaseAssetGraph,
)
from dagster._core.events import AssetMaterializationPlannedData
from dagster._core.execution.plan.objects import StepFailureData

from hoop_dagster.tags import APPROVAL_ID, IDENTIFIER

_RANGE = "dagster/asset_partition_range_start"
_EVENTS = {
    dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.STEP_SUCCESS,
}


@dataclass(frozen=True, slots=True)
class Left:
    """`approvals` are ids of those that steps and checks of the run ended for, in order."""

    approvals: tuple[str, ...]
    assets: frozenset[dg.AssetKey]
    checks: frozenset[dg.AssetCheckKey]
    planned: bool
    """Whether the run was to make assets at all; a job of plain ops was not."""

    def within(self, graph: BaseAssetGraph[Any]) -> Left:
        """With what can only be made together, for example by an op with several outputs."""
        assets, checks = set(self.assets), set(self.checks)
        for key in self.assets | self.checks:
            for together in graph.get_execution_set_asset_and_check_keys(key):
                if isinstance(together, dg.AssetKey):
                    assets.add(together)
                else:
                    checks.add(together)
        return Left(self.approvals, frozenset(assets), frozenset(checks), self.planned)

    def known_to(self, graph: BaseAssetGraph[Any]) -> bool:
        """Whether all of it is defined here; else another code location has to go on with it."""
        return self.assets <= graph.get_all_asset_keys() and self.checks <= graph.asset_check_keys


def left_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Left:
    """Planned minus done."""
    events = [
        e.dagster_event
        for e in instance.all_logs(run.run_id, of_type=_EVENTS)
        if e.dagster_event is not None
    ]
    # Of a range of partitions each makes an event: only the step's end says that it was all of them.
    ranged = _RANGE in run.tags
    succeeded = {e.step_key for e in events if e.event_type is dg.DagsterEventType.STEP_SUCCESS}
    planned, made = set[dg.AssetKey](), set[dg.AssetKey]()
    checks, checked = set[dg.AssetCheckKey](), set[dg.AssetCheckKey]()
    for event in events:
        match event.event_type:
            case dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED:
                data = event.event_specific_data
                if isinstance(data, AssetMaterializationPlannedData):
                    planned.add(data.asset_key)
            case dg.DagsterEventType.ASSET_MATERIALIZATION:
                key = event.asset_key
                if key is not None and (not ranged or event.step_key in succeeded):
                    made.add(key)
            case dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED:
                checks.add(event.asset_check_planned_data.asset_check_key)
            case dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                evaluated = event.asset_check_evaluation_data
                if APPROVAL_ID not in evaluated.metadata or evaluated.passed:
                    checked.add(evaluated.asset_check_key)
            case _:
                pass
    return Left(
        approvals=tuple(dict.fromkeys(identifiers_in(_metadata(events)))),
        assets=frozenset(planned - made),
        checks=frozenset(checks - checked),
        planned=bool(planned or checks),
    )


def _metadata(events: Iterable[dg.DagsterEvent]) -> Iterator[Mapping[str, object] | None]:
    for event in events:
        if event.event_type is dg.DagsterEventType.STEP_FAILURE:
            data = event.event_specific_data
            if isinstance(data, StepFailureData) and data.user_failure_data:
                yield data.user_failure_data.metadata
        elif event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluated = event.asset_check_evaluation_data
            yield None if evaluated.passed else evaluated.metadata


def identifiers_in(told: Iterable[Mapping[str, object] | None]) -> Iterator[str]:
    """Ids of requests. Anybody's code writes metadata: what is no id is nothing to ask Hoop for."""
    for metadata in told:
        found = (metadata or {}).get(APPROVAL_ID)
        text = found.text if isinstance(found, dg.TextMetadataValue) else None
        if text and IDENTIFIER.fullmatch(text):
            yield text
