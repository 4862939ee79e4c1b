"""How every command speaks: JSON on standard output or text for people, errors with an exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hoop_core.errors import HoopError

AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]


def emit(as_json: bool, value: Any, shown: RenderableType) -> None:
    """Print `value` as one JSON line, or `shown` for a person."""
    if as_json:
        typer.echo(json.dumps(value))
    else:
        Console(highlight=False).print(shown)


@contextmanager
def failing(as_json: bool) -> Iterator[None]:
    """Turn a HoopError into its text (or JSON) and its exit code."""
    try:
        yield
    except HoopError as e:
        show_error(e, as_json)
        raise typer.Exit(e.exit_code) from None


def show_error(error: HoopError, as_json: bool) -> None:
    """What happened and what to do; before it, the tail of a failed part's log where there is one."""
    log_tail = str(getattr(error, "log_tail", ""))
    if as_json:
        body = {"reason": error.reason, "message": error.message, "hint": error.hint}
        typer.echo(json.dumps({"error": body | ({"log_tail": log_tail} if log_tail else {})}))
        return
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if log_tail:
        console.print(plain(log_tail), style="dim")
    console.print(f"[red]{escape(error.message)}[/red] {escape(error.hint)}".rstrip())


def listing(title_column: str, *others: str) -> Table:
    """A table whose first column stays whole: it is what one copies into the next command."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column(title_column, no_wrap=True)
    for name in others:
        table.add_column(name, overflow="fold")
    return table


def detailed(
    columns: Sequence[str], rows: Sequence[tuple[Sequence[str], str]], *, empty: str
) -> RenderableType:
    """Rows of short values, each with a long one on lines of its own: no name is broken in two."""
    if not rows:
        return Text(empty)
    cells = [[plain(c) for c in values] for values, _ in rows]
    widths = [max(len(n), *(r[i].cell_len for r in cells)) for i, n in enumerate(columns)]
    parts: list[RenderableType] = [_spaced([Text(n, style="bold") for n in columns], widths)]
    for row, (_, detail) in zip(cells, rows, strict=True):
        parts += [_spaced(row, widths), Padding(plain(detail), (0, 0, 0, 4), style="dim")]
    return Group(*parts)


def _spaced(cells: Sequence[Text], widths: Sequence[int]) -> Text:
    line = Text(overflow="fold")
    for cell, width in zip(cells, widths, strict=True):
        line.append_text(cell).append(" " * (width - cell.cell_len + 2))
    line.rstrip()
    return line


def plain(value: Any) -> Text:
    """Foreign text (SQL, reasons) as it is: no markup, no control sequences of the terminal."""
    text = str(value)
    return Text("".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text))
