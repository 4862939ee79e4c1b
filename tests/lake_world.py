"""A log with recordings, and its Parquet files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import update

from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.audit.prune import Pruning
from hoop_core.audit.recording import Recorder, rowset_to_arrow
from hoop_core.config import LakeSettings
from hoop_core.lake.query import LakeQuery
from hoop_core.lake.writer import LakeWriter
from hoop_core.model import Json
from hoop_core.policy.file import parse_policy
from hoop_core.policy.model import Policy
from hoop_core.store import Store
from hoop_core.store.tables import lake_progress

ROWTYPE = [{"name": "EMAIL", "type": "text"}]
POLICY = "version: 1\nretention: [{name: all, keep: 1d}]\n"


class Killed(BaseException):
    """The process ends here."""


class World:
    def __init__(self, store: Store, log: AuditLog, folder: Path) -> None:
        self.store, self.log, self.folder = store, log, folder
        self.root = str(folder / "lake")
        self.recorder = Recorder(str(folder / "recordings"))

    def writer(self, owner: str, **options: Any) -> LakeWriter:
        settings = LakeSettings(root=self.root, **options)
        return LakeWriter(settings, self.store, self.recorder, owner=owner)

    def append(self, kind: str, data: Json, session: str | None = None) -> int:
        return self.log.append(kind, data, session_id=session)

    def session(self, number: int, value: str) -> Path:
        """A closed session with one result; the file of its rows."""
        name = f"ses_{number}"
        intent = {"statement_id": f"st{number}", "sql": f"SELECT '{value}'"}
        seq = self.append("statement.intent", intent, name)
        exchange = {"answer": {"rowtype": ROWTYPE, "queryResultFormat": "json"}}
        files = self.recorder.open_exchange(name, 1)
        kept, _ = files.write(exchange, rowset_to_arrow(ROWTYPE, [[value]]))
        outcome = {"statement_id": f"st{number}", "intent": seq, "status": "succeeded"}
        self.append("statement.outcome", outcome | {"recording": [f.as_json() for f in kept]}, name)
        return self.folder / "recordings" / kept[-1].path

    def policy(self) -> Policy:
        made = parse_policy(POLICY, "p.yaml")
        self.append("policy.loaded", {"digest": made.digest, "text": made.text})
        return made

    def prune(self, policy: Policy) -> None:
        pruning = Pruning(self.store, self.log, policy, str(self.folder / "recordings"))
        assert pruning.run(by="ann", reason="over", now=utc_now() + timedelta(days=2)).entries > 0

    def overdue(self) -> None:
        """As if whoever holds the claim had been silent for long."""
        with self.store.write() as connection:
            past = datetime(2020, 1, 1, tzinfo=UTC)
            connection.execute(update(lake_progress).values(claimed_until=past))

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        lake = LakeQuery(self.root)
        try:
            return list(lake.ask(sql).rows)
        finally:
            lake.close()

    def values(self) -> list[str]:
        """What is shown anywhere."""
        sqls = self.ask("SELECT sql FROM entries WHERE sql IS NOT NULL ORDER BY seq")
        shown = self.ask("SELECT values['EMAIL'] FROM results ORDER BY seq")
        return [str(v) for (v,) in sqls + shown]

    def whole(self) -> bool:
        """Whether each entry of the log is there once."""
        newest = self.append("a.b", {})
        writer = self.writer("last")
        while writer.step():
            pass
        return self.ask("SELECT seq FROM entries ORDER BY seq") == [(n,) for n in range(newest + 1)]


def killed(*_: object, **__: object) -> Any:
    raise Killed
