"""Entries of the log as events of the Open Cybersecurity Schema Framework, for SIEMs (https://schema.ocsf.io/1.5.0/).

Every entry becomes one event, save for intents: what they tell stands in the event of the statement's outcome, or in
one of unknown status where there is none yet. What the schema has no place for is in `unmapped`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from hoop_core import __version__
from hoop_core.model import Json

VERSION = "1.5.0"
_PRODUCT = {"name": "Hoop", "vendor_name": "Hoop", "version": __version__}
_CATEGORIES = {2: "Findings", 3: "Identity & Access Management", 6: "Application Activity"}
_CLASSES = {
    2004: "Detection Finding",
    3001: "Account Change",
    3002: "Authentication",
    3004: "Entity Management",
    6003: "API Activity",
    6005: "Datastore Activity",
}
_INFORMATIONAL, _LOW, _MEDIUM, _HIGH = 1, 2, 3, 4
_UNKNOWN, _SUCCESS, _FAILURE = 0, 1, 2
_SEVERITIES = {1: "Informational", 2: "Low", 3: "Medium", 4: "High"}
_STATUSES = {0: "Unknown", 1: "Success", 2: "Failure"}
_OTHER = 99

# Activities of Datastore Activity by the kinds of statements.
_QUERY = (4, "Query")
_STORED: Mapping[str, tuple[int, str]] = {
    "select": _QUERY,
    "show": (8, "List"),
    "describe": (1, "Read"),
    "insert": (5, "Write"),
    "insert_overwrite": (5, "Write"),
    "merge": (5, "Write"),
    "copy_into_table": (5, "Write"),
    "put": (5, "Write"),
    "update": (2, "Update"),
    "alter_table": (2, "Update"),
    "delete": (7, "Delete"),
    "truncate": (7, "Delete"),
    "drop_table": (7, "Delete"),
    "create_table": (6, "Create"),
    "create_table_as": (6, "Create"),
    "create_temp_stage": (6, "Create"),
}
_PROTOCOLS = {"oidc": (4, "OpenID"), "saml": (5, "SAML")}
# Activities of Account Change.
_ACCOUNTS = {
    "credential.minted": (1, "Create", _SUCCESS),
    "credential.revoking": (5, "Disable", _SUCCESS),
    "credential.gone": (6, "Delete", _SUCCESS),
    "credential.pending": (6, "Delete", _FAILURE),
}
# Activities of Entity Management: what becomes of approvals, policies, settings, holds and the log's own entries.
_ENTITIES = {
    "approval.requested": (1, "Create", "approval"),
    "approval.expired": (4, "Delete", "approval"),
    "approval.withdrawn": (4, "Delete", "approval"),
    "approval.revoked": (4, "Delete", "approval"),
    "approval.drifted": (4, "Delete", "approval"),
    "policy.loaded": (3, "Update", "policy"),
    "config.loaded": (3, "Update", "settings"),
    "hold.placed": (1, "Create", "legal hold"),
    "hold.lifted": (4, "Delete", "legal hold"),
    "log.pruned": (4, "Delete", "log entries"),
}
_FINDINGS = {
    "reconcile.unexplained": "Something at Snowflake did not come through Hoop",
    "credential.orphan": "A minted user that no session had was found",
    "approval.broken_glass": "A statement was let through in an emergency",
}


class Around(Protocol):
    """What an entry names, and does not bring along."""

    def session(self, session_id: str) -> Json | None:
        """The data of a session's opening."""

    def intent(self, seq: int) -> Json | None:
        """An entry."""


@dataclass(frozen=True, slots=True)
class Ocsf:
    """`origin` is the log's name."""

    origin: str
    around: Around

    def event(self, entry: Json) -> Json | None:
        """None for an intent. Raises KeyError, TypeError or ValueError for what is no entry."""
        kind = str(entry["kind"])
        if kind == "statement.intent":
            return None
        return self._maker(kind)(self, entry)

    def unfinished(self, intent: Json) -> Json:
        """The event of a statement of whose end nothing is known yet."""
        return self._ran(intent, intent, {"status": "unknown"})

    def pruned(self, seq: int, kind: str, at: str) -> Json:
        """Of an entry whose time to be kept is over: that there was one."""
        entry = {"seq": seq, "kind": kind, "at": at, "session": None, "data": {"pruned": True}}
        return self._call(entry)

    def _maker(self, kind: str) -> Callable[[Ocsf, Json], Json]:
        if kind in _FINDINGS:
            return Ocsf._finding
        if kind in _ACCOUNTS:
            return Ocsf._account
        if kind in _ENTITIES or kind.startswith("approval."):
            return Ocsf._entity
        return _MAKERS.get(kind, Ocsf._call)

    # ------------------------------------------------------------------ statements

    def _outcome(self, entry: Json) -> Json:
        intent = self.around.intent(int(entry["data"]["intent"]))
        if intent is None:  # its time to be kept is over
            return self._call(entry)
        return self._ran(entry, intent, entry["data"])

    def _ran(self, entry: Json, intent: Json, ended: Json) -> Json:
        asked: Json = intent["data"]
        status = _status(ended.get("status"))
        event = self._stored(entry, asked, asked["executed"], status)
        event |= _ended(ended)
        if ended.get("query_id"):
            event["query_info"]["uid"] = ended["query_id"]
        event["start_time"], event["end_time"] = _time(intent["at"]), _time(entry["at"])
        told = {"intent": intent["seq"], "snowflake_user": asked["snowflake_user"]}
        kept = ("rows", "not_kept", "recording", "findings", "digest")
        event["unmapped"] |= told | {k: ended[k] for k in kept if k in ended}
        return event

    def _refused(self, entry: Json) -> Json:
        data: Json = entry["data"]
        event = self._stored(entry, data, data.get("sql", ""), _FAILURE)
        return event | _ended(data) | _severity(_MEDIUM)

    def _answered(self, entry: Json) -> Json:
        """By Hoop itself: nothing ran."""
        data: Json = entry["data"]
        if "identity" not in data:
            return self._call(entry)
        return self._stored(entry, data, data.get("sql", ""), _SUCCESS)

    def _stored(self, entry: Json, asked: Json, sql: str, status: int) -> Json:
        kind = str(asked.get("kind") or "")
        activity = _STORED.get(kind, (_OTHER, kind or "other"))
        touched = [*(asked.get("writes") or ()), *(asked.get("reads") or ())]
        event = self._event(entry, 6005, activity, status)
        event |= {
            "actor": self._actor(entry, asked),
            "src_endpoint": self._from(entry),
            "dst_endpoint": {"svc_name": "Snowflake", "name": str(asked.get("account") or "")},
            "database": {
                "name": str(asked.get("database") or "none"),
                "uid": str(asked.get("account") or ""),
                "type_id": 1,
            },
            "query_info": {"query_string": sql, "uid": str(asked.get("statement_id") or "")},
        }
        if touched:
            event["table"] = {"name": touched[0], "uid": f"{asked.get('account')}.{touched[0]}"}
        kept = ("statement_id", "reads", "writes", "approval", "exceptions", "sql_sha256",
                "executed_sha256", "parameters_sha256", "run_asserted", "snowflake_role")  # fmt: skip
        event["unmapped"] |= {k: asked[k] for k in kept if asked.get(k)}
        decision = asked.get("decision")
        if isinstance(decision, dict):
            masked = ("masked", "exposed", "filtered")
            event["unmapped"] |= {k: decision[k] for k in masked if decision.get(k)}
        return event

    # ------------------------------------------------------------------ people

    def _opened(self, entry: Json) -> Json:
        event = self._sign_in(entry, (1, "Logon"), _SUCCESS)
        event["is_remote"] = True
        return event

    def _closed(self, entry: Json) -> Json:
        opened = self.around.session(entry["session"]) or {}
        event = self._sign_in(entry, (2, "Logoff"), _SUCCESS, opened)
        return event | {"message": str(entry["data"].get("reason") or "")}

    def _not_signed_in(self, entry: Json) -> Json:
        event = self._sign_in(entry, (1, "Logon"), _FAILURE)
        count = entry["data"].get("count")
        more = {"count": count} if isinstance(count, int) else {}
        return event | _ended(entry["data"]) | more | _severity(_MEDIUM)

    def _sign_in(
        self, entry: Json, activity: tuple[int, str], status: int, told: Json | None = None
    ) -> Json:
        data = entry["data"] if told is None else told
        who = data.get("identity") or {}
        event = self._event(entry, 3002, activity, status)
        event |= {
            "user": _user(who),
            "service": {"name": "Hoop", "uid": self.origin},
            "src_endpoint": _endpoint(data.get("client") or {}),
        }
        protocol = _PROTOCOLS.get(str(who.get("method")))
        if protocol is not None:
            event["auth_protocol_id"], event["auth_protocol"] = protocol
        if entry["session"]:
            event["session"] = {"uid": entry["session"], "issuer": str(who.get("issuer") or "")}
        kept = ("account", "snowflake_role", "vault_role", "run_asserted", "reasons", "addresses")
        event["unmapped"] |= {k: data[k] for k in kept if data.get(k)}
        return event

    def _account(self, entry: Json) -> Json:
        data: Json = entry["data"]
        number, name, status = _ACCOUNTS[entry["kind"]]
        event = self._event(entry, 3001, (number, name), status)
        event |= {
            "user": {"name": str(data["snowflake_user"]), "type_id": 99, "type": "Service"},
            "actor": {"app_name": "Hoop"},
        }
        if data.get("snowflake_role"):
            event["policy"] = {"name": str(data["snowflake_role"])}
        event["unmapped"] |= {k: v for k, v in data.items() if k != "snowflake_user"}
        return event

    # ------------------------------------------------------------------ the rest

    def _entity(self, entry: Json) -> Json:
        data: Json = entry["data"]
        kind = str(entry["kind"])
        number, name, what = _ENTITIES.get(kind, (3, "Update", "approval"))
        refused = kind.endswith("refused") or kind.endswith("refusals_counted")
        event = self._event(entry, 3004, (number, name), _FAILURE if refused else _SUCCESS)
        uid = data.get("approval") or data.get("digest") or data.get("sha256") or data.get("hold")
        entity: Json = {"name": what, "type": what, "uid": str(uid or entry["seq"])}
        if what == "policy":
            entity["policy"] = {"name": "Hoop's policy", "uid": str(uid)}
        event |= {"entity": entity, "actor": self._actor(entry, data)}
        question = data.get("question") or {}
        told = {k: v for k, v in data.items() if k not in {"question", "text"}}
        event["unmapped"] |= told
        kept = ("kind", "requester", "reads", "writes", "sql_sha256", "policy_digest")
        event["unmapped"] |= {k: question[k] for k in kept if k in question}
        if data.get("reason") or data.get("why"):
            event["comment"] = str(data.get("reason") or data.get("why"))
        return event

    def _finding(self, entry: Json) -> Json:
        event = self._event(entry, 2004, (1, "Create"), _UNKNOWN)
        uid = f"{self.origin}#{entry['seq']}"
        title = _FINDINGS[entry["kind"]]
        event |= {"finding_info": {"uid": uid, "title": title}, "is_alert": True}
        event["unmapped"] |= entry["data"]
        return event | _severity(_HIGH)

    def _call(self, entry: Json) -> Json:
        """Whatever has no class of its own: administrative reads, exports, checks, uploads, notices."""
        kind, data = str(entry["kind"]), entry["data"]
        activity = (2, "Read") if kind.startswith(("read.", "evidence.")) else (_OTHER, kind)
        failed = kind.endswith((".failed", ".refused", ".rejected"))
        event = self._event(entry, 6003, activity, _FAILURE if failed else _SUCCESS)
        event |= {
            "api": {"operation": kind, "service": {"name": "Hoop"}},
            "actor": self._actor(entry, data),
            "src_endpoint": self._from(entry),
        }
        event["unmapped"] |= {k: v for k, v in data.items() if k != "text"}
        return event

    # ------------------------------------------------------------------ parts

    def _event(self, entry: Json, number: int, activity: tuple[int, str], status: int) -> Json:
        category = number // 1000
        event: Json = {
            "category_uid": category,
            "category_name": _CATEGORIES[category],
            "class_uid": number,
            "class_name": _CLASSES[number],
            "activity_id": activity[0],
            "activity_name": activity[1],
            "type_uid": number * 100 + activity[0],
            "type_name": f"{_CLASSES[number]}: {activity[1]}",
            "time": _time(entry["at"]),
            "status_id": status,
            "status": _STATUSES[status],
            "metadata": {
                "version": VERSION,
                "product": _PRODUCT,
                "uid": f"{self.origin}#{entry['seq']}",
                "sequence": entry["seq"],
                "event_code": entry["kind"],
                "log_name": self.origin,
                "original_time": entry["at"],
            },
            "unmapped": {},
        }
        if entry["session"]:
            event["metadata"]["correlation_uid"] = entry["session"]
        return event | _severity(_INFORMATIONAL if status != _FAILURE else _LOW)

    def _actor(self, entry: Json, data: Json) -> Json:
        question = data.get("question") or {}
        who = next(
            (
                found
                for found in (
                    data.get("identity"),
                    data.get("person"),
                    data.get("approver"),
                    data.get("by"),
                    question.get("requester"),
                )
                if isinstance(found, dict)
            ),
            None,
        )
        requester = data.get("requester") or data.get("by")
        if who is None and isinstance(requester, str):
            who = {"name": requester}
        actor: Json = {"app_name": "Hoop"} if who is None else {"user": _user(who)}
        if entry["session"]:
            actor["session"] = {"uid": entry["session"]}
        orchestrator = (data.get("run_asserted") or {}).get("orchestrator")
        if orchestrator:
            actor["invoked_by"] = orchestrator
        decision = data.get("decision")
        if isinstance(decision, dict):
            digest = decision["policy_digest"]
            rules = decision["rules"] or ["none"]
            actor["authorizations"] = [
                {"decision": decision["decision"], "policy": {"name": rule, "uid": digest}}
                for rule in rules
            ]
        return actor

    def _from(self, entry: Json) -> Json:
        opened = self.around.session(entry["session"]) if entry["session"] else None
        return _endpoint(entry["data"].get("client") or (opened or {}).get("client") or {})


_MAKERS: Mapping[str, Callable[[Ocsf, Json], Json]] = {
    "statement.outcome": Ocsf._outcome,
    "statement.refused": Ocsf._refused,
    "statement.answered": Ocsf._answered,
    "session.opened": Ocsf._opened,
    "session.closed": Ocsf._closed,
    "signin.refused": Ocsf._not_signed_in,
    "signin.refusals_counted": Ocsf._not_signed_in,
}


def _time(at: str) -> int:
    """Milliseconds since 1970, as OCSF has times."""
    moment = datetime.fromisoformat(at)
    return round(moment.timestamp() * 1000)


def _severity(number: int) -> Json:
    return {"severity_id": number, "severity": _SEVERITIES[number]}


def _status(status: Any) -> int:
    return {"succeeded": _SUCCESS, "unknown": _UNKNOWN}.get(str(status), _FAILURE)


def _ended(data: Json) -> Json:
    """Why something did not succeed; nothing where it did."""
    found = {"status_code": data.get("reason"), "status_detail": data.get("message")}
    return {k: str(v) for k, v in found.items() if v}


def _user(who: Json) -> Json:
    """Whoever is not known is told of as such: the schema wants a user."""
    subject, issuer = who.get("subject"), who.get("issuer")
    user: Json = {"name": str(who.get("name") or subject or "unknown")}
    if subject:
        user["uid"] = f"{issuer}#{subject}"
        user["domain"] = str(issuer)
    groups = who.get("groups") or ()
    if groups:
        user["groups"] = [{"name": str(g)} for g in groups]
    return user


def _endpoint(client: Json) -> Json:
    address = client.get("address")
    try:
        return {"ip": str(ipaddress.ip_address(str(address).partition("%")[0]))}
    except ValueError:
        return {"name": str(address or "unknown")}
