"""`hoop audit query`: SQL over the log and the recorded results, kept as Parquet."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from contextlib import closing
from datetime import date, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from hoop_core.cli.output import AsJson, emit, failing, listing, plain
from hoop_core.cli.reconcile import Config
from hoop_core.config import load_settings
from hoop_core.errors import ConfigError
from hoop_core.evidence.tables import cell
from hoop_core.lake.query import Answer, LakeQuery
from hoop_core.lake.rows import value_text

_MOST_SHOWN = 200


def query(
    sql: Annotated[
        str, typer.Argument(metavar="SQL", help="One SELECT; `-` reads standard input.")
    ],
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on standard output.")] = False,
    root: Annotated[
        str | None,
        typer.Option("--root", help="The folder of Parquet files, in place of lake.root."),
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Ask the Parquet files: views entries, statements, approvals, credentials and results."""
    with failing(as_json):
        if as_json and as_csv:
            raise ConfigError("Give --json or --csv, not both.")
        text = sys.stdin.read() if sql == "-" else sql
        with closing(LakeQuery(root or load_settings(config).lake.root)) as lake:
            if lake.empty:
                raise ConfigError(
                    "There are no Parquet files.",
                    "Check lake.root or --root; gateways write the first ones within lake.seconds.",
                )
            answer = lake.ask(text)
            if as_csv:
                _write_csv(answer)
                return
            rows = list(answer.rows)
    columns = list(answer.columns)
    value = {"columns": columns, "rows": [[_json(v) for v in row] for row in rows]}
    emit(as_json, value, _shown(columns, rows))


def _write_csv(answer: Answer) -> None:
    out = csv.writer(sys.stdout, lineterminator="\r\n")  # RFC 4180
    out.writerow(map(_cell, answer.columns))
    for row in answer.rows:
        out.writerow([_cell(v) for v in row])


def _cell(value: Any) -> str:
    """Text is never a formula; numbers and times are what they are."""
    if isinstance(value, list | dict):
        return cell(_json(value))
    return cell(value) if isinstance(value, str) else value_text(value) or ""


def _json(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(k): _json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json(v) for v in value]
    return value_text(value)


def _shown(columns: list[str], rows: Iterable[tuple[Any, ...]]) -> Table:
    found = list(rows)
    table = listing(*(columns or ["nothing"]))
    for row in found[:_MOST_SHOWN]:
        table.add_row(*(plain(_short(v)) for v in row))
    if len(found) > _MOST_SHOWN:
        table.caption = f"The first {_MOST_SHOWN} of {len(found)} rows; --csv and --json give all."
    return table


def _short(value: Any) -> str:
    text = json.dumps(_json(value), ensure_ascii=False) if isinstance(value, dict | list) else None
    text = text if text is not None else value_text(value) or ""
    return text if len(text) <= 300 else text[:299] + "…"
