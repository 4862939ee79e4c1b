"""A recorded session at the terminal, with its timing: what was asked, decided, answered and shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hoop_core.cli.output import plain
from hoop_core.model import Json
from hoop_core.replay.results import Changed
from hoop_core.replay.session import Replay

LONGEST_PAUSE = 2.0
"""Seconds: nobody waits for people again who took an hour to answer."""
_ROWS, _COLUMNS, _WIDTH = 10, 12, 40
_STYLES = {
    "statement.refused": "red",
    "statement.intent": "cyan",
    "statement.outcome": "green",
    "session.opened": "bold",
    "session.closed": "bold",
}
_LEFT_OUT = {"result.part.begun"}


def play(
    session_id: str,
    replay: Replay,
    console: Console,
    *,
    speed: float,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Print the session's entries one after the other, as far apart as they were, `speed` times as fast."""
    began: datetime | None = None
    before: datetime | None = None
    for entry in replay.source.session(session_id):
        if entry["kind"] in _LEFT_OUT:
            continue
        if entry["data"] is None:
            console.print(Text(f"        {entry['kind']}: not kept any more", "dim"))
            continue
        now = datetime.fromisoformat(entry["at"])
        began = began or now
        if before is not None:
            pause(min(max((now - before).total_seconds(), 0.0) / speed, LONGEST_PAUSE))
        before = now
        head = Text(f"{_offset((now - began).total_seconds())}  ", "dim")
        head.append(entry["kind"], _STYLES.get(entry["kind"], ""))
        head.append("  ").append_text(plain(_told(entry)))
        console.print(head)
        for shown in _more(entry, replay):
            console.print(Padding(shown, (0, 0, 0, 10)))


def _offset(seconds: float) -> str:
    return f"{int(seconds // 60):>3}:{seconds % 60:06.3f}"


def _told(entry: Json) -> str:
    data = entry["data"]
    match entry["kind"]:
        case "session.opened":
            who = data["identity"]
            return f"{who['name']} of {', '.join(who['groups'])} as {data['snowflake_role']}"
        case "statement.intent":
            decision = data["decision"]["decision"]
            by = f", approved by {data['approval']}" if data.get("approval") else ""
            return f"{decision}{by}, as {data['snowflake_user']}"
        case "statement.refused":
            return f"{data['reason']}: {data.get('message') or ''}"
        case "statement.outcome":
            rows = f", {data['rows']} rows" if "rows" in data else ""
            return f"{data['status']}{rows} {data.get('reason') or ''}".rstrip()
        case _:
            keys = ("approval", "status", "verdict", "reason", "snowflake_user", "part")
            return ", ".join(f"{k} {data[k]}" for k in keys if data.get(k) is not None)


def _more(entry: Json, replay: Replay) -> list[RenderableType]:
    data = entry["data"]
    if entry["kind"] in {"statement.intent", "statement.refused"}:
        shown: list[RenderableType] = [plain(str(data["sql"]).strip())]
        masked = (data.get("decision") or {}).get("masked") or ()
        if masked:
            told = ", ".join(f"{m['table']}.{m['column']} ({m['mask']})" for m in masked)
            shown.append(Text.assemble("masked: ", plain(told), style="yellow"))
        return shown
    if entry["kind"] == "statement.outcome":
        return _rows(entry, replay)
    return []


def _rows(entry: Json, replay: Replay) -> list[RenderableType]:
    try:
        found = replay.first_rows(entry)
    except Changed as e:
        return [Text.assemble("recording: ", plain(e), style="bold red")]
    if found is None:
        return []
    names, rows = found
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in names[:_COLUMNS]:
        table.add_column(plain(name), overflow="ellipsis", max_width=_WIDTH)
    for row in rows[:_ROWS]:
        table.add_row(*(plain(_cell(v)) for v in row[:_COLUMNS]))
    if len(rows) > _ROWS or len(names) > _COLUMNS:
        table.caption = f"{len(rows)} rows and {len(names)} columns in the first part"
    return [table]


def _cell(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return "NULL" if value is None else str(value)
