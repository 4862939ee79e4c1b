"""SOC 2 criteria (AICPA TSC 2017) and the tables that stand for each: made from the log's entries alone.

Every row names the entry that it was made from (`seq`), so that an auditor gets from a sample to its proof.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from hoop_core.errors import ConfigError
from hoop_core.evidence.tables import TableFile
from hoop_core.model import Json

CRITERIA: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "CC6.1": ("Logical access: who ran what, decided how", ("access", "sign_ins")),
    "CC6.2": ("Credentials provisioned and withdrawn", ("credentials",)),
    "CC6.3": ("Least privilege: roles, and exceptions from masks", ("roles", "exceptions")),
    "CC6.6": (
        "Boundary: where callers came from, what went past Hoop",
        ("connections", "bypasses"),
    ),
    "CC6.7": ("What left: results as they were shown", ("results",)),
    "CC7.2": ("Monitoring: what was refused, failed or found", ("alerts",)),
    "CC8.1": ("Change: approvals, policies and settings", ("approvals", "policies", "settings")),
    "C1.1": ("Confidentiality: what is masked for whom", ("masks",)),
    "C1.2": ("Disposal: what was purged, what is held", ("purges",)),
    "PI1": ("Processing integrity: each statement decided again", ("replays",)),
    "A1": ("Availability: starts, and how long people took to answer", ("starts", "waits")),
}

_WHO = ("issuer", "subject", "name", "groups", "acting_for")
_RUN = ("orchestrator", "dag_or_job", "task_or_step", "run_id", "purpose")
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "access": (
        "seq", "at", "session", "statement_id", *_WHO, "auth_method", "token_sha256", *_RUN,
        "account", "snowflake_user", "snowflake_role", "query_id", "kind", "reads", "writes",
        "sql", "sql_sha256", "executed", "executed_sha256", "masked", "parameters_sha256", "decision", "rules",
        "reasons", "policy_digest", "approval", "status", "rows", "outcome_seq", "counted_for",
    ),
    "sign_ins": ("seq", "at", "session", *_WHO, "auth_method", "outcome", "reason", "count"),
    "credentials": (
        "lease_id", "snowflake_user", "snowflake_role", "vault_role", "account", "session",
        "public_key_fingerprint", "created_at", "expires_at", "revoking_at",
        "revocation_confirmed_at", "confirmed_by", "orphan", "minted_seq", "gone_seq",
    ),
    "roles": ("policy_digest", "seq", "groups", "snowflake_role", "vault_role", "warehouse"),
    "exceptions": (
        "seq", "at", "approval", "issuer", "subject", "name", "columns", "reason", "status",
        "valid_until", "answers",
    ),
    "connections": (
        "seq", "at", "session", "address", "application", "version", "issuer", "subject", "name",
        "account",
    ),
    "bypasses": (
        "seq", "at", "account", "what", "user", "why", "count", "first", "last", "examples",
        "counts", "allowed", "settled",
    ),
    "results": (
        "seq", "at", "session", "statement_id", "rows", "columns_masked", "columns_exposed",
        "rows_filtered", "detectors", "recordings", "recording_sha256", "not_kept",
    ),
    "alerts": ("seq", "at", "session", "issuer", "subject", "name", "what", "reason", "rules",
               "message", "sql_sha256"),
    "approvals": (
        "seq", "at", "approval", "move", "kind", "requester", "requester_name", "person",
        "person_name", "person_groups", "approver_groups", "verdict", "reason", "quorum",
        "policy_digest", "sql_sha256", "executed_sha256", "binding", "status", "valid_until",
        "by_way_of",
    ),
    "policies": ("seq", "at", "digest", "file", "rejected", "error"),
    "settings": ("seq", "at", "sha256", "version", "replica"),
    "masks": ("policy_digest", "seq", "what", "mask", "except_groups"),
    "purges": (
        "seq", "at", "what", "id", "by", "reason", "class", "keep", "policy_digest", "scope",
        "count", "entries", "leaves_sha256", "recordings", "recording_sha256",
    ),
    "replays": ("session", "statements", "matches", "not_decided", "differs", "differences"),
    "starts": ("seq", "at", "replica", "version"),
    "waits": ("approval", "asked_seq", "decided_seq", "status", "seconds"),
}  # fmt: skip


def chosen(controls: str | None) -> tuple[str, ...]:
    """The criteria that a list names, all without one. Raises ConfigError."""
    if not controls:
        return tuple(CRITERIA)
    wanted = [c.strip().upper() for c in controls.split(",") if c.strip()]
    for control in wanted:
        if control not in CRITERIA:
            raise ConfigError(
                f"{control} is no criterion that Hoop has evidence for.",
                f"Choose among {', '.join(CRITERIA)}.",
            )
    return tuple(dict.fromkeys(wanted))


@dataclass(slots=True)
class Open:
    """What has begun and not ended yet. What began before the period is read from its context."""

    intents: dict[int, Json] = field(default_factory=dict)
    sessions: dict[str, Json] = field(default_factory=dict)
    leases: dict[str, Json] = field(default_factory=dict)
    approvals: dict[str, Json] = field(default_factory=dict)


class Tables:
    """Reads entries in their order and writes the tables of the chosen criteria below `folder`."""

    def __init__(self, folder: Path, controls: tuple[str, ...]) -> None:
        self._folder, self._open = folder, Open()
        self.alerts: Counter[str] = Counter()
        """How many of each, for the summary, whether or not their table was asked for."""
        self.counting = True
        self._begun_before: set[int] = set()
        self.files: dict[str, TableFile] = {}
        for control in controls:
            for name in CRITERIA[control][1]:
                if name not in self.files:
                    path = folder / f"{control}-{name}.csv"
                    self.files[name] = TableFile(path, COLUMNS[name])

    def close(self) -> None:
        for lease in self._open.leases.values():
            self.add("credentials", lease)
        for seq, intent in self._open.intents.items():
            if seq in self._begun_before:
                continue  # its end is not of this period
            self._access(intent, {"status": "unknown"}, None)
        for file in self.files.values():
            file.close()

    def add(self, table: str, row: Mapping[str, Any]) -> None:
        if table in self.files:
            known = COLUMNS[table]
            self.files[table].add({k: v for k, v in row.items() if k in known})

    def known(self, entry: Json) -> None:
        """An entry from before the period: what it begins is known, and in no table, save what was in force."""
        head = {"seq": entry["seq"], "at": entry["at"], "session": entry["session"]}
        if entry["kind"] == "policy.loaded":
            self._policy(head, entry["data"])
        elif entry["kind"] == "config.loaded":
            self.add("settings", {**head, **entry["data"]})
        files, self.files, self.counting = self.files, {}, False
        self.tell(entry)
        self.files, self.counting = files, True
        self._begun_before.add(entry["seq"])

    def tell(self, entry: Json) -> None:
        step = _STEPS.get(entry["kind"])
        if step is not None and isinstance(entry.get("data"), dict):
            head = {"seq": entry["seq"], "at": entry["at"], "session": entry["session"]}
            try:
                step(self, head, entry["data"])
            except (KeyError, TypeError, ValueError, AttributeError):
                # Evidence is made of what is there; verify.py names what is wrong with it.
                self._alert(head, f"{entry['kind']} of an unknown form", {})

    # ------------------------------------------------------------------ statements

    def _intent(self, head: Json, data: Json) -> None:
        self._open.intents[head["seq"]] = {**head, **data, "decision": dict(data["decision"])}
        if data.get("approval"):
            self._move(head, {"approval": data["approval"]}, "used", person=None, reason=None)

    def _outcome(self, head: Json, data: Json) -> None:
        intent = self._open.intents.pop(int(data["intent"]), None)
        if intent is None:
            return
        self._access(intent, data, head["seq"])
        decision = intent["decision"]
        found = data.get("findings")
        recordings = [r for r in data.get("recording") or () if r.get("path")]
        self.add("results", {
            **head, "statement_id": data.get("statement_id"), "rows": data.get("rows"),
            "columns_masked": [f"{m['table']}.{m['column']}: {m['mask']}" for m in decision["masked"]],
            "columns_exposed": [f"{m['table']}.{m['column']}" for m in decision["exposed"]],
            "rows_filtered": [f"{f['table']}: {f['where']}" for f in decision["filtered"]],
            "detectors": found or "", "recordings": [r["path"] for r in recordings],
            "recording_sha256": [r["sha256"] for r in recordings], "not_kept": data.get("not_kept"),
        })  # fmt: skip
        if data.get("status") != "succeeded":
            self._alert({**head, **_who(intent)}, f"statement {data.get('status')}", data,
                        sql_sha256=intent.get("sql_sha256"))  # fmt: skip

    def _access(self, intent: Json, outcome: Json, outcome_seq: int | None) -> None:
        decision = intent["decision"]
        masked = [f"{m['table']}.{m['column']}: {m['mask']}" for m in decision.get("masked") or ()]
        self.add("access", {
            **intent, **_who(intent), **_run(intent), **_decided(decision), "masked": masked,
            "status": outcome.get("status"), "rows": outcome.get("rows"),
            "query_id": outcome.get("query_id"), "outcome_seq": outcome_seq,
        })  # fmt: skip

    def _refused(self, head: Json, data: Json) -> None:
        decision = data.get("decision") or {}
        decided = _decided(decision) if isinstance(decision, dict) and decision else {}
        who = {**head, **_who(data)}
        self.add("access", {**data, **who, **_run(data), "decision": "deny", **decided,
                            "status": "refused"})  # fmt: skip
        error = data.get("error") or data
        self._alert(who, "statement refused", error, rules=decided.get("rules"),
                    sql_sha256=data.get("sql_sha256"))  # fmt: skip

    def _shown(self, head: Json, data: Json, kind: str) -> None:
        """What Hoop answered by itself, or showed once more; what clients sent."""
        self.add("access", {
            **data, **head, **_who(data), **_run(data), "kind": kind, "decision": "allow",
            "status": data.get("status") or "succeeded",
        })  # fmt: skip
        if kind.startswith("upload") and data.get("status", "succeeded") != "succeeded":
            self._alert({**head, **_who(data)}, "upload failed", data)

    def _alarm(self, head: Json, data: Json, what: str) -> None:
        self._alert({**head, **_who(data)}, what, data)

    def _verified(self, head: Json, data: Json) -> None:
        what = "log verified" if data.get("ok") else "log does NOT verify"
        self._alert(head, what, {"message": "; ".join(data.get("first") or ()) or None})

    def _alert(self, head: Json, what: str, data: Json, **more: Any) -> None:
        message = data.get("message") or data.get("why") or data.get("error")
        row = {**head, "what": what, "reason": data.get("reason"), "message": message, **more}
        self.add("alerts", row)
        if self.counting:
            self.alerts[what] += 1

    # ------------------------------------------------------------------ sign-ins and sessions

    def _opened(self, head: Json, data: Json) -> None:
        client = data.get("client") or {}
        who = _who(data)
        self.add("sign_ins", {**head, **who, "outcome": "accepted"})
        self.add("connections", {**head, **who, **client, "account": data.get("account")})

    def _not_signed_in(self, head: Json, data: Json) -> None:
        count = data.get("count") or 1
        self.add("sign_ins", {**head, **_who(data), "outcome": "refused", "count": count,
                              "reason": data.get("reason")})  # fmt: skip
        self._alert({**head, **_who(data)}, "sign-in refused", data)

    # ------------------------------------------------------------------ credentials

    def _minted(self, head: Json, data: Json) -> None:
        lease = {**data, "session": head["session"], "minted_seq": head["seq"], "orphan": False}
        self._open.leases[data["snowflake_user"]] = lease

    def _assigned(self, head: Json, data: Json) -> None:
        self._open.leases.get(data["snowflake_user"], {})["session"] = head["session"]

    def _orphan(self, head: Json, data: Json) -> None:
        lease = {**data, "minted_seq": head["seq"], "orphan": True}
        self._open.leases[data["snowflake_user"]] = lease
        self._alert(head, "orphan user", {"message": data["snowflake_user"]})

    def _revoking(self, head: Json, data: Json) -> None:
        self._open.leases.get(data["snowflake_user"], {}).setdefault("revoking_at", head["at"])

    def _gone(self, head: Json, data: Json) -> None:
        lease = self._open.leases.pop(data["snowflake_user"], None)
        if lease is not None:
            self.add("credentials", {
                **lease, "revocation_confirmed_at": head["at"], "gone_seq": head["seq"],
                "confirmed_by": data.get("confirmed_by"),
            })  # fmt: skip

    def _pending(self, head: Json, data: Json) -> None:
        self._alert(head, "user not gone yet", data)

    # ------------------------------------------------------------------ approvals

    def _asked(self, head: Json, data: Json) -> None:
        question = data["question"]
        self._open.approvals[data["approval"]] = {
            **head,
            **data,
            "question": dict(data["question"]),
        }
        self._move(head, data, "requested", person=question.get("requester"), reason=None)

    def _move(self, head: Json, data: Json, move: str, *, person: Any, reason: Any) -> None:
        asked = self._open.approvals.get(data.get("approval", ""), {})
        question = asked.get("question") or {}
        requester, person = question.get("requester"), person or {}
        row = {
            **head, **data, "move": move, "kind": question.get("kind"),
            "requester": requester and f"{requester['issuer']}#{requester['subject']}",
            "requester_name": (requester or {}).get("name"), "person_name": person.get("name"),
            "person": person.get("issuer") and f"{person['issuer']}#{person['subject']}",
            "person_groups": person.get("groups"), "approver_groups": asked.get("approvers"),
            "reason": reason, "quorum": asked.get("quorum"),
            "policy_digest": question.get("policy_digest"), "binding": asked.get("binding"),
            "sql_sha256": _digest(question.get("sql")),
            "executed_sha256": _digest(question.get("rewritten")),
        }  # fmt: skip
        self.add("approvals", row)
        decided = data.get("status") if move == "answered" else move
        if asked and decided in _DECIDED:
            waited = (_time(head["at"]) - _time(asked["at"])).total_seconds()
            self.add("waits", {
                "approval": data["approval"], "asked_seq": asked["seq"],
                "decided_seq": head["seq"], "status": decided, "seconds": round(waited, 3),
            })  # fmt: skip
            if question.get("kind") == "masking_exception":
                self.add("exceptions", {
                    **row, **(requester or {}), "columns": question.get("columns"),
                    "reason": question.get("reason"), "status": decided, "answers": person.get("name"),
                })  # fmt: skip

    def _moved(self, head: Json, data: Json, kind: str) -> None:
        move = kind.removeprefix("approval.")
        person = data.get("approver") or data.get("by")
        self._move(head, data, move, person=person, reason=data.get("reason") or data.get("why"))
        if move in ("answer_refused", "broken_glass", "drifted"):
            named = {k: (person or {}).get(k) for k in ("issuer", "subject", "name")}
            self._alert({**head, **named}, f"approval {move.replace('_', ' ')}", data)

    # ------------------------------------------------------------------ changes

    def _policy(self, head: Json, data: Json) -> None:
        self.add("policies", {**head, "digest": data["digest"], "rejected": False,
                              "file": f"policies/{data['digest']}.yaml"})  # fmt: skip

    def _policy_rejected(self, head: Json, data: Json) -> None:
        self.add("policies", {**head, "digest": data.get("sha256"), "rejected": True,
                              "error": data.get("error")})  # fmt: skip
        self._alert(head, "policy rejected", data)

    def _config(self, head: Json, data: Json) -> None:
        self.add("settings", {**head, **data})
        self.add("starts", {**head, **data})

    def _bypass(self, head: Json, data: Json) -> None:
        self.add("bypasses", {**head, **data})
        message = f"{data['what']}: {data['user']} {data['why']} ({data['count']})"
        self._alert(head, "went past Hoop", {"message": message})

    def _reconciled(self, head: Json, data: Json) -> None:
        self.add("bypasses", {**head, **data, "what": "compared", "count": data["unexplained"],
                              "first": data["from"], "last": data["to"]})  # fmt: skip

    def _purge(self, head: Json, data: Json) -> None:
        recordings = data["recordings"]
        self.add("purges", {**head, **data, "what": "pruned", "id": data["purge"],
                            "recordings": [r["path"] for r in recordings],
                            "recording_sha256": [r["sha256"] for r in recordings]})  # fmt: skip

    def _hold(self, head: Json, data: Json, what: str) -> None:
        self.add("purges", {**head, **data, "what": what, "id": data["hold"]})


_DECIDED = {"approved", "rejected", "expired", "withdrawn", "revoked", "broken_glass"}
_Step = Callable[[Tables, Json, Json], None]


def _shown_as(kind: str) -> _Step:
    return lambda tables, head, data: tables._shown(head, data, kind)


def _alarming(what: str) -> _Step:
    return lambda tables, head, data: tables._alarm(head, data, what)


def _moved_by(kind: str) -> _Step:
    return lambda tables, head, data: tables._moved(head, data, kind)


_STEPS: Mapping[str, _Step] = {
    "statement.intent": Tables._intent,
    "statement.outcome": Tables._outcome,
    "statement.refused": Tables._refused,
    **{
        kind: _shown_as(kind)
        for kind in ("statement.answered", "result.shown_again", "upload.received",
                     "upload.outcome")
    },
    **{
        kind: _alarming(what)
        for kind, what in {
            "result.part.withheld": "part of a result withheld", "upload.refused": "upload refused",
            "endpoint.refused": "endpoint refused", "lineage.failed": "lineage not delivered",
            "notification.failed": "message not delivered",
            "log.unpublished": "witness not told", "log.disputed": "witness does not agree",
            "clock.set_back": "clock was set back", "log.adopted": "log taken over",
            "approval.request_refused": "request for approval refused",
            "approval.refusals_counted": "answers refused",
        }.items()
    },
    "log.verified": Tables._verified,
    "session.opened": Tables._opened,
    "signin.refused": Tables._not_signed_in,
    "signin.refusals_counted": Tables._not_signed_in,
    "credential.minted": Tables._minted,
    "credential.assigned": Tables._assigned,
    "credential.orphan": Tables._orphan,
    "credential.revoking": Tables._revoking,
    "credential.gone": Tables._gone,
    "credential.pending": Tables._pending,
    "approval.requested": Tables._asked,
    **{
        f"approval.{move}": _moved_by(f"approval.{move}")
        for move in ("answered", "answer_refused", "withdrawn", "revoked", "drifted", "expired",
                     "broken_glass", "reviewed")
    },
    "policy.loaded": Tables._policy,
    "policy.rejected": Tables._policy_rejected,
    "config.loaded": Tables._config,
    "reconcile.unexplained": Tables._bypass,
    "reconcile.run": Tables._reconciled,
    "log.pruned": Tables._purge,
    "hold.placed": lambda t, h, d: t._hold(h, d, "held"),
    "hold.lifted": lambda t, h, d: t._hold(h, d, "hold lifted"),
}  # fmt: skip


def _who(data: Json) -> Json:
    who = data.get("identity") or {}
    return {
        "issuer": who.get("issuer"), "subject": who.get("subject"), "name": who.get("name"),
        "groups": who.get("groups"), "acting_for": who.get("actors"),
        "auth_method": who.get("method"), "token_sha256": who.get("token_sha256"),
    }  # fmt: skip


def _run(data: Json) -> Json:
    run = data.get("run_asserted") or {}
    fields = run.get("fields") or {}
    return {
        "orchestrator": run.get("orchestrator"),
        "dag_or_job": fields.get("dag_id") or fields.get("job_name"),
        "task_or_step": fields.get("task_id") or fields.get("step_key") or fields.get("asset_key"),
        "run_id": fields.get("run_id"), "purpose": fields.get("purpose"),
    }  # fmt: skip


def _decided(decision: Json) -> Json:
    return {
        "decision": decision.get("decision"), "rules": decision.get("rules"),
        "reasons": [r.get("code") for r in decision.get("reasons") or ()],
        "policy_digest": decision.get("policy_digest"),
    }  # fmt: skip


def _digest(text: Any) -> str | None:
    """As `executed_sha256` of an intent: the same text has the same digest in both."""
    if not isinstance(text, str):
        return None
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def _time(at: str) -> datetime:
    return datetime.fromisoformat(at)
