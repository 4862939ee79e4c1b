"""OpenLineage run events, made from entries of the log and nothing else (https://openlineage.io/spec).

START at the intent, COMPLETE, FAIL or ABORT at the outcome. The same entry makes the same event whenever it is made,
save for types of columns whose description is not found any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    DatasetFacet,
    JobFacet,
    RunFacet,
    error_message_run,
    external_query_run,
    job_type_job,
    parent_run,
    processing_engine_run,
    schema_dataset,
    sql_job,
)
from sqlalchemy import select

from hoop_core import __version__
from hoop_core.lineage import facets, naming
from hoop_core.lineage.columns import column_lineage, schema_of
from hoop_core.lineage.descriptions import Descriptions
from hoop_core.lineage.facets import PRODUCER, own
from hoop_core.lineage.naming import Named
from hoop_core.lineage.place import Place
from hoop_core.model import Json
from hoop_core.store import Store
from hoop_core.store.tables import log_entries

INTENT, OUTCOME, CLOSED, DESCRIBED = (
    "statement.intent",
    "statement.outcome",
    "session.closed",
    "catalog.described",
)
KINDS = frozenset({INTENT, OUTCOME, CLOSED, DESCRIBED})
_ENDS = {
    "succeeded": RunState.COMPLETE,
    "withheld": RunState.COMPLETE,  # it took effect; its result was not shown
    "failed": RunState.FAIL,
    "unknown": RunState.ABORT,
}
_CANCELLED = "CANCELLED"
_e = log_entries.c


class Events:
    """Of one log. Synchronous; reads the store where an event needs more than one entry."""

    def __init__(self, store: Store, place: Place) -> None:
        self._store, self._place = store, place
        self._descriptions = Descriptions(store)

    def of(self, seq: int, kind: str, text: str) -> Iterator[RunEvent]:
        """What an entry tells. Raises StoreUnavailable; KeyError, TypeError or ValueError for an entry that does
        not read as one of its kind.
        """
        if not text:  # its time to be kept is over
            return
        entry: Json = json.loads(text)
        match kind:
            case "catalog.described":
                self._descriptions.add(entry["data"])
            case "statement.intent" if _touches(entry["data"]):
                yield self._event(entry, RunState.START, entry["at"])
            case "statement.outcome":
                intent = self._entry(entry["data"]["intent"])
                if intent is not None and _touches(intent["data"]):
                    yield self._event(intent, _state(entry["data"]), entry["at"], entry)
            case "session.closed":
                for intent in self._unfinished(entry["session"], seq):
                    yield self._event(intent, RunState.ABORT, entry["at"])

    # ------------------------------------------------------------------ the log

    def _entry(self, seq: int) -> Json | None:
        with self._store.read() as connection:
            text = connection.scalar(select(_e.entry).where(_e.seq == seq))
        return json.loads(text) if text else None

    def _unfinished(self, session: str, until: int) -> list[Json]:
        """Intents of a session that is over which have no outcome: the gateway that ran them is gone."""
        query = select(_e.seq, _e.kind).where(_e.session_id == session, _e.seq < until)
        with self._store.read() as connection:
            rows = connection.execute(query.where(_e.kind.in_([INTENT, OUTCOME]))).all()
        begun = [r.seq for r in rows if r.kind == INTENT]
        ended = [r.seq for r in rows if r.kind == OUTCOME]
        if len(begun) == len(ended):
            return []
        known = {outcome["data"]["intent"] for outcome in map(self._entry, ended) if outcome}
        left = [intent for intent in map(self._entry, sorted(set(begun) - known)) if intent]
        return [intent for intent in left if _touches(intent["data"])]

    # ------------------------------------------------------------------ the event

    def _event(
        self, intent: Json, state: RunState, at: str, outcome: Json | None = None
    ) -> RunEvent:
        data: Json = intent["data"]
        began = datetime.fromisoformat(intent["at"])
        run_id = naming.run_id(self._place.origin, intent["seq"], began)
        job: dict[str, JobFacet] = {
            "sql": sql_job.SQLJobFacet(
                query=data["executed"], dialect="snowflake", producer=PRODUCER
            ),
            "jobType": job_type_job.JobTypeJobFacet(
                processingType="BATCH", integration="HOOP", jobType="QUERY", producer=PRODUCER
            ),
        }
        name = naming.job_name(
            data["identity"], data["run_asserted"], data["kind"], list(data["writes"])
        )
        return RunEvent(
            eventType=state,
            eventTime=at,
            producer=PRODUCER,
            run=Run(runId=run_id, facets=self._run_facets(intent, state, outcome)),
            job=Job(namespace=self._place.namespace, name=name, facets=job),
            inputs=self._inputs(intent),
            outputs=self._outputs(intent),
        )

    def _run_facets(
        self, intent: Json, state: RunState, outcome: Json | None
    ) -> dict[str, RunFacet]:
        data: Json = intent["data"]
        found: dict[str, RunFacet] = {
            "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
                name="Snowflake",
                version=data.get("snowflake_version") or "unknown",
                openlineageAdapterVersion=__version__,
                producer=PRODUCER,
            ),
            **own_facets(intent, outcome, self._place),
        }
        within = naming.parents(data["run_asserted"], self._place.parents)
        if within is not None:
            found["parent"] = _parent(within.parent, within.root)
        ended: Json = {} if outcome is None else outcome["data"]
        if ended.get("query_id"):
            found["externalQuery"] = external_query_run.ExternalQueryRunFacet(
                externalQueryId=ended["query_id"],
                source=self._place.datasets(data["account"]),
                producer=PRODUCER,
            )
        if state in {RunState.FAIL, RunState.ABORT}:
            found["errorMessage"] = error_message_run.ErrorMessageRunFacet(
                message=_why(ended), programmingLanguage="SQL", producer=PRODUCER
            )
        return found

    def _inputs(self, intent: Json) -> list[InputDataset]:
        data: Json = intent["data"]
        space, found = self._place.datasets(data["account"]), []
        for table in data["reads"]:
            known: dict[str, DatasetFacet] = {}
            columns = self._descriptions.columns(
                intent["seq"], (data.get("catalog") or {}).get(table)
            )
            if columns:
                known["schema"] = schema_dataset.SchemaDatasetFacet(
                    fields=schema_of(columns), producer=PRODUCER
                )
            found.append(InputDataset(space, table, facets=known))
        return found

    def _outputs(self, intent: Json) -> list[OutputDataset]:
        data: Json = intent["data"]
        lineage = data.get("lineage") or []
        if not data["writes"]:
            return []
        space = self._place.datasets(data["account"])
        named = [(column["output"], None) for column in lineage if column["output"] != "*"]
        known: dict[str, DatasetFacet] = {}
        if named:
            known["schema"] = schema_dataset.SchemaDatasetFacet(
                fields=schema_of(named), producer=PRODUCER
            )
        if lineage:
            catalog = data.get("catalog") or {}
            read = {
                t: self._descriptions.columns(intent["seq"], catalog.get(t)) for t in data["reads"]
            }
            known["columnLineage"] = column_lineage(
                lineage, data["decision"]["masked"], space, read
            )
        return [OutputDataset(space, table, facets=known) for table in data["writes"]]


def own_facets(intent: Json, outcome: Json | None, place: Place) -> dict[str, RunFacet]:
    """What only Hoop knows of a run."""
    data: Json = intent["data"]
    decision, who, base = data["decision"], data["identity"], place.schemas
    asserted = data["run_asserted"]
    found: dict[str, RunFacet] = {
        "hoop_identity": own(
            facets.HoopIdentityRunFacet,
            base,
            issuer=who["issuer"],
            subject=who["subject"],
            name=who["name"],
            method=who["method"],
            groups=list(who["groups"]),
            actors=list(who["actors"]),
            runAsserted={"orchestrator": asserted["orchestrator"], **asserted["fields"]},
        ),
        "hoop_decision": own(
            facets.HoopDecisionRunFacet,
            base,
            outcome=decision["decision"],
            rules=list(decision["rules"]),
            reasons=[reason["code"] for reason in decision["reasons"]],
            policyDigest=decision["policy_digest"],
        ),
        "hoop_masking": own(
            facets.HoopMaskingRunFacet,
            base,
            masked=[dict(m) for m in decision["masked"]],
            exposed=[_without_nulls(m) for m in decision["exposed"]],
            filtered=[f["table"] for f in decision["filtered"]],
        ),
        "hoop_credential": own(
            facets.HoopCredentialRunFacet,
            base,
            account=data["account"],
            snowflakeUser=data["snowflake_user"],
            snowflakeRole=data["snowflake_role"],
        ),
        "hoop_logPosition": own(
            facets.HoopLogPositionRunFacet,
            base,
            origin=place.origin,
            statementId=data["statement_id"],
            session=intent["session"],
            intent=intent["seq"],
            outcome=None if outcome is None else outcome["seq"],
            executedSha256=data["executed_sha256"],
        ),
    }
    if data.get("approval"):
        found["hoop_approval"] = own(
            facets.HoopApprovalRunFacet,
            base,
            approval=data["approval"],
            standing=bool(data.get("standing")),
        )
    return found


def _touches(data: Json) -> bool:
    """Whether tables are read or written by what runs; to ask for column names is no run."""
    return not data["describe_only"] and bool(data["reads"] or data["writes"])


def _state(ended: Json) -> RunState:
    if ended.get("reason") == _CANCELLED:
        return RunState.ABORT
    return _ENDS[ended["status"]]


def _why(ended: Json) -> str:
    """Snowflake's own words may quote values, and are in no entry."""
    if not ended:
        return "The gateway that ran it ended before it: whether it took effect is not known."
    if ended.get("message"):
        return f"{ended['reason']}: {ended['message']}"
    return f"{ended['reason']} ({ended['errno']})"


def _parent(parent: Named, root: Named) -> parent_run.ParentRunFacet:
    return parent_run.ParentRunFacet(
        run=parent_run.Run(runId=parent.run_id),
        job=parent_run.Job(namespace=parent.namespace, name=parent.job),
        root=parent_run.Root(
            run=parent_run.RootRun(runId=root.run_id),
            job=parent_run.RootJob(namespace=root.namespace, name=root.job),
        ),
        producer=PRODUCER,
    )


def _without_nulls(value: Any) -> dict[str, str]:
    return {k: v for k, v in value.items() if v is not None}
