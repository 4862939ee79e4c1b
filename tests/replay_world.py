"""A log with statements as a gateway writes them, without a gateway: what replay reads, and mutators of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hoop_core.analysts.question import Question, judged
from hoop_core.approvals.exceptions import InForce
from hoop_core.audit.described import described_json
from hoop_core.audit.recording import rowset_to_arrow
from hoop_core.judge import judge_text
from hoop_core.model import Identity, NameContext, Outcome, RunContext, TableName
from hoop_core.policy.file import parse_policy
from hoop_core.policy.model import Policy
from hoop_core.records import (
    decision_json,
    identity_json,
    judged_json,
    lineage_json,
    run_json,
    sha256,
    statement_json,
)
from hoop_core.replay.session import Replay, Replayed
from hoop_core.replay.unsealing import Unsealer
from hoop_core.session.basis import Basis
from hoop_core.sql.catalog import Catalog, CatalogObject
from hoop_core.sql.dual import without_dual
from hoop_core.sql.settling import settle
from tests.test_audit_recording_caps import digest

SESSION = "ses_1"
POLICY = """
version: 1
roles:
  - {groups: [agents], vault_role: r, snowflake_role: READER, warehouse: WH}
masks:
  - {columns: ["D.S.C.EMAIL"], mask: email_domain}
  - {columns: ["D.S.C.SSN"], mask: "null"}
rules:
  - {name: read, groups: [agents], reads: ["D.S.*"], then: allow}
  - {name: write, groups: [agents], kinds: [delete], writes: ["D.S.F"], then: allow}
  - name: ask
    kinds: [delete]
    when: "!statement.has_where"
    then: require_approval
    approval: {approvers: [owners]}
"""
AGENT = Identity("https://idp", "agent", "agent", ("agents",), "oidc", "0" * 64)
C, F = TableName("D", "S", "C"), TableName("D", "S", "F")
OBJECTS = {
    C: CatalogObject({"ID": "NUMBER(38,0)", "EMAIL": "VARCHAR(100)", "SSN": "VARCHAR(11)"}, rows=3),
    F: CatalogObject({"ID": "NUMBER(38,0)", "V": "VARCHAR(10)"}),
}
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class RecordedLog:
    """Entries and files; `change` mutates a copy of an entry's data in place."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    policy: Policy = field(default_factory=lambda: parse_policy(POLICY, "p"))

    def __post_init__(self) -> None:
        self.add("policy.loaded", {"digest": self.policy.digest, "text": self.policy.text}, None)

    def add(self, kind: str, data: Any, session: str | None = SESSION) -> int:
        seq = len(self.entries)
        at = "2026-03-01T12:00:00.000000Z"
        entry = {"seq": seq, "kind": kind, "session": session, "at": at, "data": data}
        self.entries.append(json.loads(json.dumps(entry)))
        return seq

    def ask(self, sql: str, *, bindings: Any = None, refused: str = "", approval: str = "") -> int:
        """A statement through the gates 2 to 7; `refused` after its decision, for this reason."""
        settled = settle(without_dual(sql), bindings)
        text = settled.sql
        question = Question(
            sql=text, names=NameContext("D", "S"), identity=AGENT, policy=self.policy,
            run=RunContext(), now=NOW,
        )  # fmt: skip
        verdict = judge_text(
            text, question.names, identity=AGENT, policy=self.policy, catalog=Catalog.of(OBJECTS),
            run=question.run, now=NOW,
        )  # fmt: skip
        tables = {*verdict.statement.reads, *verdict.statement.writes} if verdict.statement else ()
        known = {t: OBJECTS.get(t) for t in sorted(tables)}
        for table, found in known.items():
            if found is not None:
                self.add("catalog.described", described_json("", table, found), None)
        basis = Basis.of(question, judged(verdict, known), InForce(), bound=settled.values)
        asked = {
            "statement_id": f"st{len(self.entries)}", "identity": identity_json(AGENT),
            "run_asserted": run_json(RunContext()), "account": "", "snowflake_role": "READER",
            "sql": sql, "sql_sha256": sha256(sql), "describe_only": False,
            "parameters_sha256": "x" if bindings else None,
            **basis.as_json(sql, None if refused else verdict.rewritten),
        }  # fmt: skip
        if refused or verdict.decision.outcome is Outcome.DENY:
            reason = refused or verdict.decision.reasons[0].code
            return self.add(
                "statement.refused",
                {**asked, **judged_json(basis), "reason": reason, "errno": 1},
            )
        executed = verdict.rewritten or ""
        return self.add(
            "statement.intent",
            {
                **asked, **statement_json(verdict), "decision": decision_json(verdict.decision),
                "executed": executed, "executed_sha256": sha256(executed),
                "approval": approval or None, "exceptions": [], "staged": [],
                "snowflake_user": "U", "lineage": lineage_json(verdict),
            },
        )  # fmt: skip

    def answer(self, intent: int, names: list[str], rows: list[list[Any]], **more: Any) -> int:
        rowtype = [{"name": n, "type": "text"} for n in names]
        exchange = {"answer": {"rowtype": rowtype, "queryResultFormat": "json"}}
        number = len(self.files)
        files = [
            (f"{SESSION}/{number:05d}-exchange.json", json.dumps(exchange).encode()),
            (f"{SESSION}/{number:05d}-part-00000.arrow", rowset_to_arrow(rowtype, rows)),
        ]
        self.files |= dict(files)
        told = [{"path": path, **digest(content)} for path, content in files]
        data = {"statement_id": self.entries[intent]["data"]["statement_id"], "intent": intent,
                "status": "succeeded", "rows": len(rows), "recording": told}  # fmt: skip
        return self.add("statement.outcome", data | more)

    def change(self, seq: int, change: Callable[[dict[str, Any]], None]) -> None:
        change(self.entries[seq]["data"])

    def replayed(self) -> list[Replayed]:
        return self.replay().session(SESSION)

    def replay(self, unsealer: Unsealer | None = None) -> Replay:
        return Replay(self, unsealer or Unsealer())

    # ---- as a source

    def shared(self) -> Iterator[dict[str, Any]]:
        return (e for e in self.entries if e["session"] is None)

    def session(self, session_id: str) -> Iterator[dict[str, Any]]:
        return (e for e in self.entries if e["session"] == session_id)

    def sessions(self) -> list[str]:
        return [SESSION]

    def recording(self, path: str) -> bytes | None:
        return self.files.get(path)
