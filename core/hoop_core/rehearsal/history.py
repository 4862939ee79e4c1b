"""Reading the statements of a history: plain JSON lines, Hoop's exported log, or an evidence bundle.

A line is `{"sql": ..., "id", "groups", "subject", "database", "schema", "account", "role", "claims", "at"}` (only
`sql` is needed), or a whole log entry. Of a log, what was asked and what was decided count; the rest is
passed over, and so are descriptions that a driver asks for before it runs the same text.
"""

from __future__ import annotations

import json
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from hoop_core.errors import ConfigError
from hoop_core.model import Identity, Json, NameContext, Outcome, RunContext, quote_part
from hoop_core.sql.names import stored

Masked = tuple[str, str]
"""A column's full name, and its mask; a filtered table's name, and `row_filter`."""
ROW_FILTER = "row_filter"
_ENTRIES = "log/entries.jsonl"
_MOST_IN_A_LINE = 16 * 1024 * 1024
_MOST_BYTES = 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class OnRecord:
    """What was decided at the time."""

    outcome: Outcome
    protected: frozenset[Masked] | None
    """None: not known, because the statement was refused by those who were asked."""
    excepted: frozenset[str] = frozenset()
    """Full names of the columns that an approved masking exception showed."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One statement of a history. `place` names it for a person: its id, or its line."""

    place: str
    sql: str
    identity: Identity
    names: NameContext
    run: RunContext
    role: str | None = None
    at: datetime | None = None
    was: OnRecord | None = None
    account: str = ""


def read_history(path: Path) -> Iterator[Asked]:
    """Raises ConfigError that names the line which cannot be read."""
    for number, line in enumerate(log_lines(path), 1):
        if not line.strip():
            continue
        try:
            asked = _asked(json.loads(line), f"line {number}")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
            raise ConfigError(
                f"{path}, line {number}: not a statement of a history ({_why(e)}).",
                'Write {"sql": "SELECT 1", "groups": ["a"], "database": "D", "schema": "S"}, or give the '
                "entries of Hoop's log as `hoop audit export` writes them.",
            ) from None
        if asked is not None:
            yield asked


def log_lines(path: Path, member: str = _ENTRIES) -> Iterator[bytes]:
    """The lines of a log, in a file of their own or in a bundle, within bounds. Raises ConfigError."""
    with _opened(path, member) as file:
        yield from _lines(file, path)


def _lines(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """Within bounds: a small bundle may unpack to terabytes, and a device never ends."""
    read = 0
    while line := file.readline(_MOST_IN_A_LINE + 1):
        read += len(line)
        if len(line) > _MOST_IN_A_LINE:
            raise ConfigError(
                f"The history {path} has a line of more than {_MOST_IN_A_LINE:,} bytes.",
                "Give JSON lines, or a bundle of `hoop audit export`.",
            )
        if read > _MOST_BYTES:
            raise ConfigError(
                f"The history {path} has more than {_MOST_BYTES:,} bytes, unpacked.",
                "Give it in parts.",
            )
        yield line


# A member that is encrypted, cut off, packed in an unknown way, or garbage
_BROKEN = (
    *(OSError, KeyError, ValueError, EOFError, NotImplementedError, RuntimeError, ArithmeticError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
)


@contextmanager
def _opened(path: Path, member: str) -> Iterator[IO[bytes]]:
    try:
        # a device or a pipe is no bundle, and looking for the end of a bundle in one may take for ever
        if path.is_file() and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as bundle, bundle.open(member) as entries:
                yield entries
        else:
            with path.open("rb") as lines:
                yield lines
    except _BROKEN as e:
        raise ConfigError(
            f"The history {path} cannot be read: {str(e) or type(e).__name__}.",
            "Give JSON lines, or a bundle of `hoop audit export`.",
        ) from None


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON: {error.msg}"
    if isinstance(error, _Odd):
        return str(error)
    return "of another shape"


class _Odd(ValueError):
    """A line that is JSON and still no statement."""


def _asked(line: Any, place: str) -> Asked | None:
    if not isinstance(line, dict):
        raise _Odd("no object")
    if "kind" in line and "data" in line:
        return _logged(line)
    known = {
        "id",
        "sql",
        "groups",
        "subject",
        "account",
        "database",
        "schema",
        "role",
        "claims",
        "at",
        "run",
    }
    for key in line:
        if key not in known:
            raise _Odd(f"unknown key {key!r}")
    subject = _text(line, "subject") or "history"
    return Asked(
        account=_text(line, "account") or "",
        place=str(line["id"]) if line.get("id") is not None else place,
        sql=_sql(line),
        identity=Identity(
            "history",
            subject,
            subject,
            _texts(line.get("groups") or []),
            "history",
            "",
            claims=_claims(line.get("claims") or {}),
        ),
        names=_names(line, fold=True),
        run=_run({"fields": line.get("run") or {}}),
        role=stored(role) if (role := _text(line, "role")) else None,
        at=_at(line.get("at")),
    )


def _logged(entry: Json) -> Asked | None:
    data = entry["data"]
    if entry["kind"] not in {"statement.intent", "statement.refused"} or data.get("describe_only"):
        return None
    if "sql_characters" in data or "judged_sql_sha256" in data:  # the text is not in the log
        return None
    who = data["identity"]
    return Asked(
        account=_text(data, "account") or "",
        place=f"entry {entry.get('seq')}",
        sql=_text(data, "judged_sql") or _sql(data),
        identity=Identity(
            who["issuer"],
            who["subject"],
            who["name"],
            _texts(who["groups"]),
            who["method"],
            "",
            claims=_claims(who.get("claims") or {}),
            actors=_texts(who.get("actors") or []),
        ),
        names=_names(data, fold=False),
        run=_run(data.get("run_asserted") or {}),
        role=_text(data, "snowflake_role"),
        at=_at(entry.get("at")),
        was=_on_record(data),
    )


# a refusal for these reasons says nothing about the policy
_NO_DECISION = ("UNAVAILABLE", "SESSION_GONE", "CANCELLED", "NOT_SERVED", "SNOWFLAKE", "ERROR")
_NEVER_ASKED = ("APPROVAL_CONFLICT", "APPROVAL_WINDOWS")


def _on_record(data: Json) -> OnRecord | None:
    decision = data.get("decision")
    if not isinstance(decision, dict):
        reason = str(data["reason"])
        if reason.endswith(_NO_DECISION):
            return None
        asked = "APPROVAL" in reason and reason not in _NEVER_ASKED
        return OnRecord(Outcome.REQUIRE_APPROVAL if asked else Outcome.DENY, None)
    columns = {
        (f"{m['table']}.{quote_part(str(m['column']))}", str(m["mask"])) for m in decision["masked"]
    }
    tables = {(str(f["table"]), ROW_FILTER) for f in decision.get("filtered") or []}
    excepted = {
        f"{m['table']}.{quote_part(str(m['column']))}"
        for m in decision.get("exposed") or []
        if m.get("exception")
    }
    return OnRecord(Outcome(decision["decision"]), frozenset(columns | tables), frozenset(excepted))


def _sql(line: Json) -> str:
    if not isinstance(line.get("sql"), str):
        raise _Odd("no text `sql`")
    return str(line["sql"])


def _text(line: Json, key: str) -> str | None:
    value = line.get(key)
    if value is not None and not isinstance(value, str):
        raise _Odd(f"`{key}` is no text")
    return value or None


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise _Odd("`groups` is no list of texts")
    return tuple(sorted(set(value)))


def _claims(value: Any) -> Mapping[str, str | tuple[str, ...]]:
    if not isinstance(value, dict):
        raise _Odd("`claims` is no object")
    return {k: v if isinstance(v, str) else _texts(v) for k, v in value.items()}


def _names(line: Json, *, fold: bool) -> NameContext:
    given = (_text(line, "database"), _text(line, "schema"))
    return NameContext(*(stored(n) if n and fold else n for n in given))


def _run(run: Json) -> RunContext:
    fields = run.get("fields") or {}
    if not isinstance(fields, dict):
        raise _Odd("`run` is no object")
    given = {str(k): str(v) for k, v in fields.items()}
    orchestrator = str(run.get("orchestrator") or given.pop("orchestrator", ""))
    return RunContext(orchestrator, given)


def _at(value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
    except (ValueError, TypeError):
        raise _Odd("`at` is no time") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
