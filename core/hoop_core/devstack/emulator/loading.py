"""COPY INTO, INFER_SCHEMA and staged values: files of a stage as rows.

Each file becomes an Arrow table; each value is cast to its column's type by the engine, and one that cannot
be cast is an error of its row, which ON_ERROR says what to do about.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from sqlglot import exp

from hoop_core.devstack.emulator.authorise import stored
from hoop_core.devstack.emulator.errors import SqlError, not_modelled
from hoop_core.devstack.emulator.results import Table, column_of, text_table
from hoop_core.devstack.emulator.stage_statements import Copy
from hoop_core.devstack.emulator.stages import Stage, StageFile

_COPIED = (
    "file", "status", "rows_parsed", "rows_loaded", "error_limit", "errors_seen", "first_error",
    "first_error_line", "first_error_character", "first_error_column_name",
)  # fmt: skip
_COUNTS = {"rows_parsed", "rows_loaded", "error_limit", "errors_seen", "first_error_line", "first_error_character"}  # fmt: skip
_NAME = "_hoop_staged"


@dataclass(frozen=True, slots=True)
class Target:
    """The table that is loaded into: its columns and their types, in order, as the engine has them."""

    name: tuple[str, str, str]
    columns: Mapping[str, str]

    @property
    def sql(self) -> str:
        return ".".join(_quoted(p) for p in self.name)


@contextmanager
def _transaction(duck: duckdb.DuckDBPyConnection, alone: bool) -> Iterator[None]:
    """One of its own, unless the session has one open."""
    if not alone:
        yield
        return
    duck.begin()
    try:
        yield
    except BaseException:
        duck.rollback()
        raise
    duck.commit()


def copy(
    duck: duckdb.DuckDBPyConnection, copying: Copy, stage: Stage, target: Target, *, alone: bool
) -> Table:
    """One row for each file, as Snowflake answers. Raises SqlError."""
    options, format_ = copying.options, copying.format or stage.format
    on_error = str(options.get("ON_ERROR") or "ABORT_STATEMENT").upper()
    force = str(options.get("FORCE", "")).upper() == "TRUE"
    wanted = [f"{copying.at.path}/{n}".lstrip("/") for n in options.get("FILES") or []]
    files = {
        p: f for p, f in stage.below(copying.at.path).items()
        if (not wanted or p in wanted) and (force or (target.name, f.digest) not in f.loaded)
    }  # fmt: skip
    if not files:
        return text_table(["status"], [["Copy executed with 0 files processed."]])
    with _transaction(duck, alone):
        rows = [
            _load(
                duck, copying, path, read_file(f.content, format_), target=target, on_error=on_error
            )
            for path, f in files.items()
        ]
    for path, file in files.items():
        file.loaded.add((target.name, file.digest))
        if str(options.get("PURGE", "")).upper() == "TRUE":
            stage.files.pop(path, None)
    return _numbered(list(_COPIED), rows, _COUNTS)


def _load(
    duck: duckdb.DuckDBPyConnection,
    copying: Copy,
    path: str,
    data: pa.Table,
    *,
    target: Target,
    on_error: str,
) -> list[Any]:
    """One file: its row of the answer. Raises SqlError."""
    columns = list(copying.columns) or list(target.columns)
    unknown = [c for c in columns if c not in target.columns]
    if unknown:
        raise SqlError(
            "000904", "42000", f"SQL compilation error:\ninvalid identifier '{unknown[0]}'"
        )
    values = _values(copying, data, columns)
    if len(values) != len(columns):
        text = f"Insert value list does not match column list expecting {len(columns)} but got {len(values)}"
        raise SqlError("002020", "21S01", f"SQL compilation error:\n{text}")
    casts = [f"TRY_CAST({v} AS {target.columns[c]})" for v, c in zip(values, columns, strict=True)]
    wrong = " OR ".join(
        f"({v} IS NOT NULL AND {c} IS NULL)" for v, c in zip(values, casts, strict=True)
    )
    duck.register(_NAME, data)
    try:
        errors = _one(duck, f"SELECT count(*) FROM {_NAME} WHERE {wrong}")  # noqa: S608
        first, at = "", ""
        if errors:
            first, at = _first_error(duck, values, casts, columns)
            if on_error == "ABORT_STATEMENT":
                raise SqlError("100038", "22018", f"{first}\n  File '{path}', column {at}")
        if errors and on_error.startswith("SKIP_FILE"):
            return [path, "LOAD_FAILED", data.num_rows, 0, 1, errors, first, 1, 1, at]
        if errors and on_error != "CONTINUE":
            raise not_modelled(f"ON_ERROR = {on_error}")
        into = ", ".join(_quoted(c) for c in columns)
        duck.execute(
            f"INSERT INTO {target.sql} ({into}) SELECT {', '.join(casts)} FROM {_NAME} "  # noqa: S608
            f"WHERE NOT ({wrong})"
        )
    except duckdb.Error as e:
        raise SqlError(
            "100072", "22000", f"The file cannot be loaded ({type(e).__name__})."
        ) from None
    finally:
        duck.unregister(_NAME)
    loaded = data.num_rows - errors
    status = "PARTIALLY_LOADED" if errors else "LOADED"
    return [path, status, data.num_rows, loaded, 1, errors, first or None, None, None, at or None]


def _first_error(
    duck: duckdb.DuckDBPyConnection, values: list[str], casts: list[str], columns: list[str]
) -> tuple[str, str]:
    """Snowflake quotes the value that it does not take."""
    for value, cast, column in zip(values, casts, columns, strict=True):
        bad = duck.execute(
            f"SELECT {value}::VARCHAR FROM {_NAME} WHERE {value} IS NOT NULL AND {cast} IS NULL LIMIT 1"  # noqa: S608
        ).fetchall()
        if bad:
            return f"Value '{bad[0][0]}' is not recognized", column
    return "", ""


def _one(duck: duckdb.DuckDBPyConnection, sql: str) -> int:
    return int(duck.execute(sql).fetchall()[0][0])


def _values(copying: Copy, data: pa.Table, columns: list[str]) -> list[str]:
    """What is loaded into each column, as the engine writes it."""
    if copying.items:
        return [_value(item, data) for item in copying.items]
    by_name = str(copying.options.get("MATCH_BY_COLUMN_NAME") or "NONE").upper()
    if by_name != "NONE":
        fold = str.upper if by_name == "CASE_INSENSITIVE" else str
        there = {fold(n): n for n in data.column_names}
        return [_quoted(there[fold(c)]) if fold(c) in there else "NULL" for c in columns]
    return [_quoted(n) for n in data.column_names]


def _value(item: exp.Expr, data: pa.Table) -> str:
    if isinstance(item, exp.Alias):
        return _value(item.this, data)
    if isinstance(item, exp.Cast):
        return f"TRY_CAST({_value(item.this, data)} AS {item.to.sql('duckdb')})"
    if isinstance(item, exp.Parameter):
        at = int(item.name)
        return _quoted(data.column_names[at - 1]) if at <= data.num_columns else "NULL"
    if isinstance(item, exp.JSONExtract) and isinstance(item.this, exp.Parameter):
        keys = [k.this for k in item.expression.expressions if isinstance(k, exp.JSONPathKey)]
        if item.this.name != "1" or len(keys) != 1:
            raise not_modelled("a path into staged data")
        return _quoted(str(keys[0])) if str(keys[0]) in data.column_names else "NULL"
    raise not_modelled(f"{type(item).__name__} of staged data")


def read_file(content: bytes, format_: Mapping[str, Any]) -> pa.Table:
    """Raises SqlError for what is not a file of this format."""
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    kind = format_["TYPE"]
    try:
        if kind == "PARQUET":
            return pq.read_table(io.BytesIO(content))
        if kind == "JSON":
            return _json(content, format_)
        if kind == "CSV":
            return csv_table(content, format_)
    except (pa.ArrowException, ValueError) as e:
        raise SqlError(
            "100069", "22000", f"The file is no {kind} file ({type(e).__name__})."
        ) from None
    raise not_modelled(f"files of type {kind}")


def _json(content: bytes, format_: Mapping[str, Any]) -> pa.Table:
    text = content.decode()
    if str(format_.get("STRIP_OUTER_ARRAY", "")).upper() == "TRUE":
        return pa.Table.from_pylist(json.loads(text))
    return pa.Table.from_pylist([json.loads(line) for line in text.splitlines() if line.strip()])


def csv_table(content: bytes, format_: Mapping[str, Any]) -> pa.Table:
    """Columns of texts. A field that is empty and not in quotes is NULL."""
    quote = str(format_.get("FIELD_OPTIONALLY_ENCLOSED_BY") or "NONE")
    delimiter = str(format_.get("FIELD_DELIMITER") or ",")
    rows = _fields(content.decode(), delimiter, "" if quote == "NONE" else quote)
    rows = rows[int(format_.get("SKIP_HEADER") or 0) :]
    width = max((len(r) for r in rows), default=0)
    if any(len(r) != width for r in rows):
        raise ValueError
    columns = list(zip(*rows, strict=True)) or [()] * width
    arrays = [pa.array(c, pa.string()) for c in columns]
    return pa.Table.from_arrays(arrays, names=[f"c{i + 1}" for i in range(width)])


def _fields(text: str, delimiter: str, quote: str) -> list[list[str | None]]:
    """RFC 4180, and NULL for nothing at all."""
    rows: list[list[str | None]] = []
    row: list[str | None] = []
    at, end = 0, len(text)
    while at < end:
        field: str | None
        if quote and text[at] == quote:
            pieces = []
            while True:
                close = text.index(quote, at + 1)
                pieces.append(text[at + 1 : close])
                at = close + 1
                if text[at : at + 1] != quote:
                    break
            field = quote.join(pieces)
        else:
            stops = [p for p in (text.find(delimiter, at), text.find("\n", at)) if p >= 0]
            stop = min(stops, default=end)
            field = text[at:stop].rstrip("\r") or None
            at = stop
        row.append(field)
        sign = text[at : at + 1]
        at += 1
        if sign == delimiter:
            if at >= end or text[at] == "\n":
                row.append(None)
                at += at < end
                rows.append(row)
                row = []
            continue
        if sign == "\r":
            at += 1
        rows.append(row)
        row = []
    return rows


def insert_staged(
    duck: duckdb.DuckDBPyConnection,
    tree: exp.Insert,
    files: Mapping[str, StageFile],
    format_: Mapping[str, Any],
    target: Target,
    *,
    alone: bool,
) -> int:
    """INSERT ... VALUES (?, ...) with the values of the staged files, one row each. Raises SqlError."""
    values = tree.expression
    row = (
        values.expressions[0]
        if isinstance(values, exp.Values) and len(values.expressions) == 1
        else None
    )
    given = list(row.expressions) if isinstance(row, exp.Tuple) else []
    if not given or not all(isinstance(e, exp.Placeholder) for e in given):
        raise not_modelled("staged values in anything but VALUES (?, ...)")
    columns = list(target.columns)
    if isinstance(tree.this, exp.Schema):
        columns = [stored(c) for c in tree.this.expressions]
    if not files:
        raise SqlError(
            "000904", "42000", "SQL compilation error:\nThe stage of the bound values is empty."
        )
    done = 0
    into = ", ".join(_quoted(c) for c in columns)
    with _transaction(duck, alone):
        for file in files.values():
            data = read_file(file.content, format_)
            if data.num_columns != len(given) or len(columns) != len(given):
                uneven = "SQL compilation error: Array bind of uneven length."
                raise SqlError("002049", "42601", uneven)
            names = zip(data.column_names, columns, strict=True)
            casts = ", ".join(_bound(n, target.columns[c]) for n, c in names)
            duck.register(_NAME, data)
            try:
                duck.execute(f"INSERT INTO {target.sql} ({into}) SELECT {casts} FROM {_NAME}")  # noqa: S608
            except duckdb.Error:
                text = "A bound value does not fit its column."
                raise SqlError("100038", "22018", text) from None
            finally:
                duck.unregister(_NAME)
            done += data.num_rows
    return done


def _bound(name: str, kind: str) -> str:
    """Drivers write moments as nanoseconds and days as milliseconds since the epoch."""
    column = _quoted(name)
    number = f"regexp_full_match({column}, '-?[0-9]+')"
    if kind.startswith("TIMESTAMP"):
        return f"CASE WHEN {number} THEN make_timestamp_ns(CAST({column} AS BIGINT))::{kind} ELSE {column}::{kind} END"
    if kind == "DATE":
        return f"CASE WHEN {number} THEN epoch_ms(CAST({column} AS BIGINT))::DATE ELSE {column}::DATE END"
    return f"CAST({column} AS {kind})"


def _numbered(names: Sequence[str], rows: list[list[Any]], counts: set[str]) -> Table:
    arrays, columns = [], []
    for i, name in enumerate(names):
        number = name in counts
        columns.append(column_of(name, "BIGINT" if number else "VARCHAR"))
        arrays.append(pa.array([r[i] for r in rows], pa.int64() if number else pa.string()))
    return Table(tuple(columns), pa.Table.from_arrays(arrays, names=list(names)))


def inferred(
    files: Mapping[str, StageFile], format_: Mapping[str, Any], wanted: Sequence[str]
) -> Table:
    """INFER_SCHEMA. Raises SqlError."""
    found: dict[str, str] = {}
    for file in files.values():
        for column in read_file(file.content, format_).schema:
            found.setdefault(column.name, _snowflake_type(column.type))
    every = ("COLUMN_NAME", "TYPE", "NULLABLE", "EXPRESSION", "FILENAMES", "ORDER_ID")
    names = every if list(wanted) == ["*"] else tuple(wanted)
    rows = []
    for i, (name, kind) in enumerate(found.items()):
        told = (name, kind, "TRUE", f'$1:"{name}"::{kind}', ", ".join(files), str(i))
        rows.append([dict(zip(every, told, strict=True))[n] for n in names])
    return text_table(list(names), rows)


def _snowflake_type(kind: pa.DataType) -> str:
    if pa.types.is_decimal(kind):
        return f"NUMBER({kind.precision}, {kind.scale})"
    for test, name in (
        (pa.types.is_boolean, "BOOLEAN"), (pa.types.is_integer, "NUMBER(38, 0)"),
        (pa.types.is_floating, "REAL"), (pa.types.is_date, "DATE"), (pa.types.is_time, "TIME"),
        (pa.types.is_timestamp, "TIMESTAMP_NTZ"), (pa.types.is_binary, "BINARY"),
    ):  # fmt: skip
        if test(kind):
            return name
    return "TEXT"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
