"""What of an entry, and of a recorded result, becomes a row. docs/queries.md tells what each column is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from hoop_core.audit.stored import Entry
from hoop_core.model import Json
from hoop_core.replay.parts import Unreadable, columns_of
from hoop_core.replay.results import EXCHANGE, announced

_TEXTS = pa.list_(pa.string())
ENTRIES = pa.schema(
    [
        ("seq", pa.int64()),
        ("logged_at", pa.timestamp("us", "UTC")),
        ("kind", pa.string()),
        ("session_id", pa.string()),
        ("statement_id", pa.string()),
        ("intent", pa.int64()),
        ("account", pa.string()),
        ("issuer", pa.string()),
        ("subject", pa.string()),
        ("name", pa.string()),
        ("groups", _TEXTS),
        ("client_address", pa.string()),
        ("orchestrator", pa.string()),
        ("dag_id", pa.string()),
        ("task_id", pa.string()),
        ("run_id", pa.string()),
        ("snowflake_user", pa.string()),
        ("snowflake_role", pa.string()),
        ("query_id", pa.string()),
        ("statement_kind", pa.string()),
        ("reads", _TEXTS),
        ("writes", _TEXTS),
        ("sql", pa.string()),
        ("executed", pa.string()),
        ("decision", pa.string()),
        ("rules", _TEXTS),
        ("masked", _TEXTS),
        ("policy_digest", pa.string()),
        ("approval", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("rows", pa.int64()),
        ("pruned", pa.bool_()),
        ("data", pa.string()),
        ("leaf", pa.string()),
    ]
)
RESULTS = pa.schema(
    [
        ("seq", pa.int64()),
        ("logged_at", pa.timestamp("us", "UTC")),
        ("session_id", pa.string()),
        ("statement_id", pa.string()),
        ("part", pa.int64()),
        ("row", pa.int64()),
        ("values", pa.map_(pa.string(), pa.string())),
        ("recording", pa.string()),
    ]
)
_KEPT = ("seq", "logged_at", "kind", "session_id", "leaf")
"""What a purge leaves of an entry."""
_FIRST = "-part-00000."

Read = Callable[[Json], bytes | None]
"""The bytes of a recording as an entry tells of it; None when there is nothing to show."""


def entry_row(entry: Entry) -> Json:
    """One row of ENTRIES."""
    row: Json = dict.fromkeys(ENTRIES.names)
    row |= {
        "seq": entry.seq,
        "logged_at": datetime.fromisoformat(entry.at),
        "kind": entry.kind,
        "session_id": entry.session_id,
        "pruned": not entry.text,
        "leaf": entry.leaf.hex(),
    }
    if entry.text:
        data: Json = json.loads(entry.text)["data"]
        row["data"] = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        row |= _facts(data)
    return row


def _facts(data: Json) -> Json:
    """The columns that stand by themselves; what has another type than it should is left to `data`."""
    asked = _object(data, "question") or data
    who = _object(asked, "identity") or _object(asked, "requester") or _object(data, "approver")
    run = _object(asked, "run_asserted") or _object(asked, "run")
    fields = _object(run, "fields")
    decision = _object(asked, "decision")
    made: Json = {
        **{name: _text(who, name) for name in ("issuer", "subject", "name")},
        "groups": _texts(who, "groups"),
        "client_address": _text(_object(data, "client"), "address"),
        "orchestrator": _text(run, "orchestrator"),
        **{name: _text(fields, name) for name in ("dag_id", "task_id", "run_id")},
        "statement_kind": _text(asked, "kind"),
        "reads": _texts(asked, "reads"),
        "writes": _texts(asked, "writes"),
        "decision": _text(decision, "decision") or _text(asked, "decision"),
        "rules": _texts(decision, "rules") or _texts(asked, "rules"),
        "masked": [
            f"{m.get('table')}.{m.get('column')}"
            for m in _objects(decision, "masked") or _objects(asked, "masked")
        ],
        "policy_digest": _text(decision, "policy_digest") or _text(data, "policy_digest"),
    }
    for name in ("account", "snowflake_role", "sql"):
        made[name] = _text(asked, name) or _text(data, name)
    for name in ("statement_id", "snowflake_user", "query_id", "executed", "approval", "status"):
        made[name] = _text(data, name)
    made["reason"] = _text(data, "reason")
    for name in ("intent", "rows"):
        value = data.get(name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        made[name] = value if whole else None
    return made


def _object(data: Json, name: str) -> Json:
    found = data.get(name)
    return found if isinstance(found, dict) else {}


def _objects(data: Json, name: str) -> list[Json]:
    found = data.get(name)
    return [x for x in found if isinstance(x, dict)] if isinstance(found, list) else []


def _text(data: Json, name: str) -> str | None:
    found = data.get(name)
    return found if isinstance(found, str) and found else None


def _texts(data: Json, name: str) -> list[str]:
    found = data.get(name)
    return [str(x) for x in found] if isinstance(found, list) else []


def emptied(row: Json) -> Json:
    """A row of ENTRIES whose entry was pruned."""
    return {name: row[name] if name in _KEPT else None for name in ENTRIES.names} | {"pruned": True}


def recorded(data: Json) -> list[Json]:
    """The files that an entry vouches for and that lie there in clear."""
    one = data.get("recording")
    files = [one] if isinstance(one, dict) else _objects(data, "recording")
    return [f for f in files if f.get("path") and "key" not in f]


def result_rows(entry: Entry, data: Json, exchange: Json | None, read: Read) -> Iterator[Json]:
    """The rows that an entry's recordings show. `exchange` is the file that tells their columns."""
    parts = [f for f in recorded(data) if not str(f["path"]).endswith(EXCHANGE)]
    if not parts or exchange is None:
        return
    try:
        told = read(exchange)
        rowtype, form = announced(told) if told is not None else ([], "")
    except Unreadable:
        return
    names = _distinct([str(c.get("name", "")) for c in rowtype])
    for part in parts:
        path = str(part["path"])
        content = read(part)
        if content is None or not names:
            continue
        try:
            texts = _FIRST in path and form != "arrow"
            columns = columns_of(content, form, rowtype, texts=texts)
        except Unreadable:
            continue  # cut off in the middle, as its entry says
        number = int(data.get("part") or 0)
        shown = [[value_text(v) for v in column] for column in columns]
        for at, values in enumerate(zip(*shown, strict=True)):
            yield {
                "seq": entry.seq,
                "logged_at": datetime.fromisoformat(entry.at),
                "session_id": entry.session_id,
                "statement_id": _text(data, "statement_id"),
                "part": number,
                "row": at,
                "values": list(zip(names, values, strict=True)),
                "recording": path,
            }


def exchange_of(data: Json) -> Json | None:
    return next((f for f in recorded(data) if str(f["path"]).endswith(EXCHANGE)), None)


def _distinct(names: Sequence[str]) -> list[str]:
    """A map's keys: of two columns of one name the second one is counted."""
    seen: dict[str, int] = {}
    made = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        made.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return made


def value_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex().upper()
    if isinstance(value, list | dict):
        return json.dumps(value, default=str, ensure_ascii=False)
    return str(value)
