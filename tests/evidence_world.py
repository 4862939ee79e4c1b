"""A log as a gateway writes one, in short: entries of every kind that the story of a statement needs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hoop_core.audit.checkpoint import load_or_create_key
from hoop_core.audit.log import AuditLog
from hoop_core.audit.recording import Recorder
from hoop_core.config import Settings
from hoop_core.evidence.bundle import Bundle, Population, export_bundle
from hoop_core.store import Store

POLICY = """version: 1
roles:
  - {groups: [agents], vault_role: r, snowflake_role: READER, warehouse: WH}
masks:
  - {columns: ["PROD.CRM.CUSTOMERS.SSN"], mask: "null", except_groups: [officers]}
rules:
  - {name: read, groups: [agents], reads: ["PROD.CRM.*"], then: allow}
"""


def person(name: str) -> dict[str, Any]:
    return {"issuer": "https://idp", "subject": name, "name": name, "groups": ["g"], "actors": []}


@dataclass
class World:
    """`say` writes one entry; the rest writes the usual ones. Changes go over what is usual."""

    folder: Path
    store: Store
    log: AuditLog
    settings: Settings
    numbers: dict[str, int] = field(default_factory=dict)

    @classmethod
    def made(cls, folder: Path) -> World:
        settings = Settings.model_validate(
            {
                "store": {"url": f"sqlite:///{folder / 'w.db'}", "recordings": str(folder / "rec")},
                "audit": {"key_file": folder / "w.key", "origin": "test.example/log"},
            }
        )
        store = Store(settings.store.url)
        store.migrate()
        key = load_or_create_key(settings.audit.key_file, settings.audit.origin)
        log = AuditLog(store, key)
        log.claim()
        world = cls(folder, store, log, settings)
        world.say("policy.loaded", {"digest": "p1", "text": POLICY})
        return world

    def say(self, kind: str, data: dict[str, Any], session: str | None = None) -> int:
        return self.log.append(kind, data, session_id=session)

    def sign_in(self, session: str, who: str = "agent") -> None:
        user = {"snowflake_user": f"U_{session}", "lease_id": f"l/{session}", "account": "A"}
        self.say("credential.minted", {**user, "snowflake_role": "READER"}, session)
        client = {"address": "10.0.0.1", "application": "Python", "version": "1"}
        identity = {**person(who), "method": "oidc", "token_sha256": "ab", "claims": {}}
        self.say(
            "session.opened", {"identity": identity, "client": client, "account": "A"}, session
        )

    def sign_out(self, session: str) -> None:
        user = {"snowflake_user": f"U_{session}", "lease_id": f"l/{session}", "account": "A"}
        self.say("credential.revoking", user, session)
        self.say("credential.gone", {**user, "confirmed_by": "show_users"}, session)
        self.say("session.closed", {"reason": "closed"}, session)

    def intent(self, session: str, number: int = 1, **changes: Any) -> int:
        sql = changes.pop("executed", "SELECT 1")
        decision = {
            "decision": changes.pop("decision", "allow"), "rules": ["read"], "reasons": [],
            "masked": [{"table": "PROD.CRM.CUSTOMERS", "column": "SSN", "mask": "null"}],
            "exposed": [], "filtered": [], "policy_digest": changes.pop("policy", "p1"),
        }  # fmt: skip
        return self.say("statement.intent", {
            "statement_id": f"{session}/{number}", "identity": person("agent"), "sql": sql,
            "run_asserted": {"orchestrator": "airflow", "fields": {"dag_id": "d"}},
            "executed": sql, "executed_sha256": hashlib.sha256(sql.encode()).hexdigest(),
            "decision": decision, "approval": None, "describe_only": False, "exceptions": [],
            "reads": ["PROD.CRM.CUSTOMERS"], "writes": [], "kind": "select",
            "snowflake_user": f"U_{session}", **changes,
        }, session)  # fmt: skip

    def outcome(self, session: str, intent: int, number: int = 1, **changes: Any) -> int:
        part = Recorder(self.settings.store.recordings).open_part(session, f"{intent:05d}.arrow")
        part.write(b"rows of %d" % intent)
        return self.say("statement.outcome", {
            "statement_id": f"{session}/{number}", "intent": intent, "status": "succeeded",
            "query_id": f"q{intent}", "rows": 1, "recording": [part.close().as_json()],
            **changes,
        }, session)  # fmt: skip

    def statement(self, session: str, number: int = 1, **changes: Any) -> int:
        intent = self.intent(session, number, **changes)
        return self.outcome(session, intent, number)

    def ask(self, approval: str, quorum: int = 1, who: str = "agent") -> int:
        question = {"requester": person(who), "kind": "delete", "policy_digest": "p1"}
        asked = {"approval": approval, "binding": "b", "quorum": quorum, "question": question}
        return self.say("approval.requested", asked)

    def answer(
        self, approval: str, who: str, verdict: str = "approve", status: str = "approved"
    ) -> int:
        return self.say("approval.answered", {
            "approval": approval, "approver": person(who), "verdict": verdict, "status": status,
            "reason": "=cmd()",
        })  # fmt: skip

    def bundle(self, name: str = "evidence.zip", **population: Any) -> Bundle:
        wanted = Population("tester", **population)
        out = self.folder / name
        return export_bundle(self.settings, out, wanted, log=self.log, store=self.store)
