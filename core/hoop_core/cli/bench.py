"""`hoop bench`: what Hoop costs, measured side by side with the direct way in one run.

Figures of one machine at one moment: quote the ratios.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.status import Status
from rich.table import Table
from rich.text import Text

from hoop_core.bench import analysis, corpus, overhead
from hoop_core.bench import plot as drawing
from hoop_core.bench.detectors import detectors
from hoop_core.bench.log import log_rows
from hoop_core.bench.streaming import streaming, table_rows, write_policy
from hoop_core.cli.output import AsJson, emit, failing, listing, plain
from hoop_core.devstack.stack import DevStack
from hoop_core.model import Json


class Section(StrEnum):
    """What can be measured alone."""

    ANALYSIS = "analysis"
    DETECTORS = "detectors"
    OVERHEAD = "overhead"
    STREAMING = "streaming"
    LOG = "log"


Measured = tuple[Json, list[RenderableType]]


def bench(  # noqa: PLR0917 - options of a command
    only: Annotated[
        list[Section] | None, typer.Option("--only", help="Measure only this part (repeatable).")
    ] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Runs of each statement.")] = 100,
    rows: Annotated[
        int, typer.Option("--rows", min=1000, help="Rows of each column for the detectors.")
    ] = 1_000_000,
    result_rows: Annotated[
        int, typer.Option("--result-rows", min=50_000, help="Rows of the streamed result.")
    ] = 10_000_000,
    entries: Annotated[
        int, typer.Option("--entries", min=20_000, help="Entries of the largest log.")
    ] = 200_000,
    store: Annotated[
        str | None, typer.Option("--store", help="An empty database for the log, not SQLite.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.svg", help="Draw the cost by length.")
    ] = None,
    folder: Annotated[
        Path, typer.Option("--corpus", help="The folder with tpcds.sql and tpcds.yaml.")
    ] = corpus.CHECKOUT,
    as_json: AsJson = False,
) -> None:
    """Measure what Hoop adds: analysis on TPC-DS, the detectors, statements and large results through the gateway."""
    sections: dict[Section, Callable[[Status], Measured]] = {
        Section.ANALYSIS: lambda status: _analysis(status, runs, folder, plot),
        Section.DETECTORS: lambda status: _detectors(status, rows),
        Section.OVERHEAD: lambda status: _overhead(status, runs),
        Section.STREAMING: lambda status: _streaming(status, result_rows),
        Section.LOG: lambda status: _log(status, entries, store, plot),
    }
    progress = Console(stderr=True, quiet=as_json)
    result: Json = {}
    shown: list[RenderableType] = []
    with failing(as_json), progress.status("beginning") as status:
        for section, measure in sections.items():
            if only and section not in only:
                continue
            found, tables = measure(status)
            result |= found
            shown += tables
    emit(as_json, result, Group(*shown))


def _analysis(status: Status, runs: int, folder: Path, plot: Path | None) -> Measured:
    status.update("reading the statements of TPC-DS")
    tpcds = corpus.tpcds(folder)
    wanted = analysis.cases(tpcds, rounds=max(1, runs // 20))
    status.update(f"deciding, rewriting and verifying {len(wanted)} statements")
    decisions = analysis.cold(tpcds, wanted)
    status.update("the same through worker processes and from the decision cache")
    decisions += analysis.as_the_gateway(tpcds, wanted)
    status.update("statements of up to 20,000 words")
    lengths = analysis.by_length(tpcds, max(3, runs // 20))
    points = [(row["words"], row["ms"]) for row in lengths]
    if plot is not None:
        drawing.write_svg(plot, points)
    linear = round(drawing.fit(points), 4)
    lines = f"Cost by length; | is a straight line through the origin; R² = {linear}"
    return {"decisions": decisions, "lengths": {"points": lengths, "r_squared": linear}}, [
        _table("Decide, rewrite and verify TPC-DS with one masked column", decisions),
        Text(f"\n{lines}\n{drawing.bars(points)}\n"),
    ]


def _detectors(status: Status, rows: int) -> Measured:
    status.update(f"detectors over columns of {rows:,} rows")
    found = detectors(rows)
    return {"detectors": found}, [
        _table("All detectors over string columns, beside presidio-analyzer's recognisers", found)
    ]


def _overhead(status: Status, runs: int) -> Measured:
    with tempfile.TemporaryDirectory(prefix="hoop-bench-") as folder:
        status.update("appending to the log")
        log = overhead.appends(Path(folder), runs * 10)
        status.update("starting the embedded stack")
        with DevStack(Path(folder) / "stack") as stack:
            statements = overhead.statements(stack.info, runs, status.update)
    return {"statements": statements, "log": log}, [
        _table("Statements, directly and through Hoop", list(overhead.rows(statements))),
        Text(f"Log: {log['per_second']:,} durable entries a second, one writer"),
    ]


def _streaming(status: Status, rows: int) -> Measured:
    with tempfile.TemporaryDirectory(prefix="hoop-bench-") as folder:
        status.update("starting the embedded stack")
        policy = write_policy(Path(folder) / "policy.yaml")
        with DevStack(Path(folder) / "stack", policy=policy) as stack:
            found = streaming(stack, rows, status.update)
    return {"streaming": found}, [
        _table(
            f"A result of {rows:,} rows into Arrow, directly and through Hoop", table_rows(found)
        ),
        Text("M/s: million rows a second; growth: of the gateway's resident memory meanwhile"),
    ]


def _log(status: Status, entries: int, store: str | None, plot: Path | None) -> Measured:
    with tempfile.TemporaryDirectory(prefix="hoop-bench-") as folder:
        rows, line = log_rows(Path(folder), entries, store, status.update)
    if plot is not None:
        drawing.write_svg(plot, line["points"], ("Verify the log", "entries", "s"))
    title = f"The log: durable entries and their verification; R² = {line['verify_r_squared']}"
    return {"log_sizes": rows, "log_line": line}, [_table(title, rows)]


def _table(title: str, rows: list[Json]) -> Table:
    table = listing(next(iter(rows[0])).replace("_", " "))
    table.title, table.title_justify, table.title_style = title, "left", "bold"
    for name in list(rows[0])[1:]:
        numbers = all(row[name] is None or isinstance(row[name], int | float) for row in rows)
        table.add_column(name.replace("_", " "), justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*("" if v is None else plain(v) for v in row.values()))
    return table
