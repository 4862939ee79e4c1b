"""One OpenLineage run event per statement, with column lineage (https://openlineage.io/spec).

Emission never blocks or fails a statement: an event that cannot be delivered is reported on stderr, and
the log holds everything that it was made of.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path

import structlog
from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    RunFacet,
    column_lineage_dataset,
    parent_run,
    schema_dataset,
    sql_job,
)
from openlineage.client.transport.file import FileConfig, FileTransport

from hoop_core import __version__
from hoop_core.model import Identity, RunContext, TableName, Verdict

_log = structlog.get_logger(__name__)
_PRODUCER = f"urn:hoop-guard:{__version__}"


_WAITING = 1_000


class LineageEmitter:
    """Writes events to one transport, in their order and behind the statements' backs; without a file,
    nothing is emitted.
    """

    def __init__(
        self,
        namespace: str,
        account: str,
        file: Path | None,
        *,
        accounts: Mapping[str, str] | None = None,
    ) -> None:
        """`account` is the default account's name, `accounts` those of all by their keys."""
        self._namespace = namespace
        self._default, self._accounts = account, accounts or {}
        self._client: OpenLineageClient | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lineage")
        self._room = threading.Semaphore(_WAITING)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            config = FileConfig(log_file_path=str(file), append=True)
            self._client = OpenLineageClient(transport=FileTransport(config))

    def emit(
        self,
        verdict: Verdict,
        *,
        statement_id: str,
        identity: Identity,
        run: RunContext,
        succeeded: bool,
        at: datetime,
        account: str = "",
    ) -> None:
        """Take the event and return. Where the transport cannot keep up, events are left out and told of."""
        if self._client is None or verdict.statement is None:
            return
        if not self._room.acquire(blocking=False):
            _log.error("a lineage event was not delivered", error="too many are waiting")
            return
        datasets = f"snowflake://{self._accounts.get(account, account) or self._default}"
        event = partial(
            self._event, verdict, statement_id, identity, run, datasets, succeeded=succeeded, at=at
        )
        try:
            self._thread.submit(self._send, self._client, event)
        except RuntimeError:
            _log.error("a lineage event was not delivered", error="the gateway has shut down")

    def _send(self, client: OpenLineageClient, event: Callable[[], RunEvent]) -> None:
        try:
            client.emit(event())
        except Exception as e:
            # Whatever the transport does, the statement has run and its outcome is in the log.
            _log.error("a lineage event was not delivered", error=type(e).__name__)
        finally:
            self._room.release()

    def close(self) -> None:
        """Deliver what waits; nothing is taken any more."""
        self._thread.shutdown()

    def _event(
        self,
        verdict: Verdict,
        statement_id: str,
        identity: Identity,
        run: RunContext,
        datasets: str,
        *,
        succeeded: bool,
        at: datetime,
    ) -> RunEvent:
        statement = verdict.statement
        assert statement is not None  # noqa: S101 - checked by emit
        facets: dict[str, RunFacet] = {}
        job = ".".join(
            filter(None, (run.fields.get("dag_id") or run.fields.get("job_name"),
                          run.fields.get("task_id") or run.fields.get("step_key")))
        )  # fmt: skip
        if run.orchestrator and run.fields.get("run_id"):
            facets["parent"] = parent_run.ParentRunFacet(
                run=parent_run.Run(runId=_as_uuid(run.fields["run_id"])),
                job=parent_run.Job(namespace=run.orchestrator, name=job or "unknown"),
            )
        return RunEvent(
            eventType=RunState.COMPLETE if succeeded else RunState.FAIL,
            eventTime=at.isoformat(),
            producer=_PRODUCER,
            run=Run(runId=statement_id, facets=facets),
            job=Job(
                namespace=self._namespace,
                name=f"{job or identity.name}.{statement.kind}",
                facets={"sql": sql_job.SQLJobFacet(query=verdict.rewritten or "")},
            ),
            inputs=[InputDataset(datasets, str(t)) for t in statement.reads],
            outputs=[self._output(verdict, t, datasets) for t in statement.writes],
        )

    def _output(self, verdict: Verdict, table: TableName, datasets: str) -> OutputDataset:
        fields = {
            column.output: column_lineage_dataset.Fields(
                inputFields=[
                    column_lineage_dataset.InputField(
                        namespace=datasets, name=str(source), field=name
                    )
                    for source, name in column.sources
                ]
            )
            for column in verdict.lineage
        }
        schema = [schema_dataset.SchemaDatasetFacetFields(name=c.output) for c in verdict.lineage]
        return OutputDataset(
            datasets,
            str(table),
            facets={
                "schema": schema_dataset.SchemaDatasetFacet(fields=schema),
                "columnLineage": column_lineage_dataset.ColumnLineageDatasetFacet(fields=fields),
            },
        )


def _as_uuid(run_id: str) -> str:
    """OpenLineage wants UUIDs; orchestrators' run ids that are none get a stable one."""
    try:
        return str(uuid.UUID(run_id))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, run_id))
