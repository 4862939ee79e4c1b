"""Results in the two wire formats: Arrow IPC streams and JSON rowsets, inline part and chunks.

The types on the wire are those that the drivers decode: FIXED as 64-bit integer or decimal128 with
precision and scale in the field's metadata, timestamps as struct of epoch and fraction, TIME as
nanoseconds, VARIANT as JSON text; in JSON every value is a string.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hoop_core.devstack.emulator.errors import not_modelled

INLINE_ROWS = 4000
CHUNK_ROWS = 10_000
"""Of the first chunk; each further one has twice as many rows, up to `CHUNK_BYTES` before it is packed."""
CHUNK_BYTES = 48 << 20
_PACKING = ThreadPoolExecutor(2, "packing")
_TEXT_LENGTH = 16_777_216
_UTC_OFFSET_MINUTES = 1440
"""TIMESTAMP_TZ carries the offset in minutes plus 1440; the engine keeps instants in UTC only."""

_TIMESTAMP_BYTES = {"timestamp_ntz": 16, "timestamp_ltz": 16, "timestamp_tz": 16}

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 (TIMESTAMP_NTZ has no zone)
_EPOCH_UTC = _EPOCH.replace(tzinfo=UTC)
_INTEGERS = frozenset(
    f"{sign}{size}"
    for sign in ("", "U")
    for size in ("BIGINT", "INTEGER", "SMALLINT", "TINYINT", "HUGEINT")
)
_SIMPLE = {
    "BOOLEAN": "boolean",
    "DATE": "date",
    "DOUBLE": "real",
    "FLOAT": "real",
    "JSON": "variant",
    "TIME": "time",
    "TIMESTAMP": "timestamp_ntz",
    "TIMESTAMP_MS": "timestamp_ntz",
    "TIMESTAMP_NS": "timestamp_ntz",
    "TIMESTAMP_S": "timestamp_ntz",
    "TIMESTAMP WITH TIME ZONE": "timestamp_tz",
    "BLOB": "binary",
    "VARCHAR": "text",
    "UUID": "text",
    '"NULL"': "text",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `rowtype`; `type` is Snowflake's lower-case wire type."""

    name: str
    type: str
    precision: int | None = None
    scale: int | None = None
    length: int | None = None
    byte_length: int | None = None
    nullable: bool = True

    def rowtype(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "database": "",
            "schema": "",
            "table": "",
            "nullable": self.nullable,
            "type": self.type,
            "byteLength": self.byte_length,
            "length": self.length,
            "scale": self.scale,
            "precision": self.precision,
            "collation": None,
        }


@dataclass(frozen=True, slots=True)
class Table:
    """A result before it is encoded; `data` has one column per element of `columns`."""

    columns: tuple[Column, ...]
    data: Any


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a result that is fetched by its own URL: where it lies in the result's file, gzipped."""

    rows: int
    at: int
    size: int
    uncompressed: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """`inline` holds the keys of the answer's `data` that carry the first part."""

    inline: dict[str, Any]
    total: int
    inline_rows: int
    chunks: tuple[Chunk, ...] = ()
    file: IO[bytes] | None = None
    """What the chunks lie in; it has no name, and is gone with this object."""

    @property
    def size(self) -> int:
        """Bytes in memory, about."""
        inline = self.inline.get("rowsetBase64")
        return len(inline) if isinstance(inline, str) else 100 * self.inline_rows

    def body(self, index: int) -> bytes:
        """A chunk as it goes over the wire."""
        chunk = self.chunks[index]
        return os.pread(self.file.fileno(), chunk.size, chunk.at) if self.file else b""


def column_of(name: str, duckdb_type: str) -> Column:
    """Raises SqlError for a type that Snowflake does not have."""
    if m := re.fullmatch(r"DECIMAL\((\d+),\s*(\d+)\)", duckdb_type):
        return Column(name, "fixed", int(m[1]), int(m[2]))
    if duckdb_type in _INTEGERS:
        return Column(name, "fixed", 38, 0)
    if duckdb_type.endswith("]"):
        return Column(name, "array")
    if duckdb_type.startswith(("STRUCT", "MAP")):
        return Column(name, "object")
    if duckdb_type.startswith("ENUM"):
        duckdb_type = "VARCHAR"
    kind = _SIMPLE.get(duckdb_type)
    if kind is None:
        raise not_modelled(f"result column of type {duckdb_type}")
    if kind == "text":
        return Column(name, kind, length=_TEXT_LENGTH, byte_length=_TEXT_LENGTH)
    if kind == "binary":
        return Column(name, kind, length=_TEXT_LENGTH // 2, byte_length=_TEXT_LENGTH // 2)
    if kind.startswith("time"):
        return Column(name, kind, 0, 9)
    return Column(name, kind)


def table_of(
    described: Sequence[tuple[str, str]], data: Any, local_time: frozenset[str] = frozenset()
) -> Table:
    """The engine's result in wire types. `local_time` names the columns that are TIMESTAMP_LTZ."""
    columns: list[Column] = []
    arrays: list[Any] = []
    for i, (name, kind) in enumerate(described):
        column = column_of(name, kind)
        if column.type == "timestamp_tz" and name in local_time:
            column = replace(column, type="timestamp_ltz")
        columns.append(column)
        arrays.append(_normalised(data.column(i).combine_chunks(), column))
    names = [c.name for c in columns]
    return Table(tuple(columns), pa.Table.from_arrays(arrays, names=names))


def _normalised(array: Any, column: Column) -> Any:
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
    if pa.types.is_uint64(array.type):
        # DuckDB's HASH is unsigned; Snowflake's HASH is a signed 64-bit number
        # (https://docs.snowflake.com/en/sql-reference/functions/hash)
        array = array.view(pa.int64())
    target: Any = {
        "boolean": pa.bool_(),
        "date": pa.date32(),
        "real": pa.float64(),
        "text": pa.string(),
        "timestamp_ntz": pa.timestamp("us"),
        "timestamp_ltz": pa.timestamp("us", "UTC"),
        "timestamp_tz": pa.timestamp("us", "UTC"),
        "time": pa.time64("us"),
        "binary": pa.binary(),
    }.get(column.type)
    if column.type == "fixed":
        target = (
            pa.decimal128(column.precision or 38, column.scale or 0)
            if column.scale or pa.types.is_decimal(array.type)
            else pa.int64()
        )
        if target.id == pa.lib.Type_DECIMAL128 and column.precision == 38 and not column.scale:
            return _narrowed(array, target)
    if column.type in ("variant", "array", "object"):
        return pa.array([_json_text(v) for v in array.to_pylist()], pa.string())
    return array.cast(target)


def _narrowed(array: Any, target: Any) -> Any:
    """Whole numbers travel as 64-bit integers when all of them fit."""
    try:
        return array.cast(pa.int64())
    except pa.ArrowInvalid:
        return array.cast(target)


def _json_text(value: Any) -> str | None:
    """Snowflake shows semi-structured values indented by two."""
    if value is None:
        return None
    parsed = json.loads(value) if isinstance(value, str) else value
    return json.dumps(parsed, indent=2, ensure_ascii=False, default=str)


def text_table(
    names: Iterable[str], rows: Iterable[Sequence[Any]], moments: Iterable[str] = ()
) -> Table:
    """A result of SHOW or DESCRIBE: text columns, and TIMESTAMP_LTZ for those in `moments`."""
    at = set(moments)
    columns = tuple(
        column_of(n, "VARCHAR")
        if n not in at
        else replace(column_of(n, "TIMESTAMP WITH TIME ZONE"), type="timestamp_ltz")
        for n in names
    )
    listed = [list(r) for r in rows]
    arrays = [
        pa.array(
            [r[i] for r in listed],
            pa.timestamp("us", "UTC") if c.name in at else pa.string(),
        )
        for i, c in enumerate(columns)
    ]
    return Table(columns, pa.Table.from_arrays(arrays, names=[c.name for c in columns]))


def status_table(message: str) -> Table:
    return text_table(["status"], [[message]])


# -- Arrow ----------------------------------------------------------------------------------------
def encode_arrow(table: Table) -> Encoded:
    arrays = [_arrow_array(table.data.column(i), c) for i, c in enumerate(table.columns)]
    fields = [_arrow_field(a.type, c) for a, c in zip(arrays, table.columns, strict=True)]
    wire = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    total = wire.num_rows
    inline = base64.b64encode(_ipc(wire.slice(0, INLINE_ROWS))).decode() if total else ""
    content = {"queryResultFormat": "arrow", "rowsetBase64": inline}
    chunks, file = _chunks(total, wire.nbytes, lambda at, rows: _ipc(wire.slice(at, rows)))
    return Encoded(content, total, min(total, INLINE_ROWS), chunks, file)


def _chunks(
    total: int, size: int, plain: Callable[[int, int], bytes]
) -> tuple[tuple[Chunk, ...], IO[bytes] | None]:
    """What comes after the inline rows of a result of `total` rows and `size` bytes, and its file."""
    if total <= INLINE_ROWS:
        return (), None

    def packed(part: tuple[int, int]) -> tuple[int, bytes, int]:
        content = plain(*part)
        return part[1], gzip.compress(content, 1, mtime=0), len(content)

    file = tempfile.TemporaryFile(prefix="stand-in-")  # noqa: SIM115 - it lives as long as the result
    chunks, at = [], 0
    for rows, body, uncompressed in _PACKING.map(packed, _parts(total, size)):
        file.write(body)
        chunks.append(Chunk(rows, at, len(body), uncompressed))
        at += len(body)
    file.flush()
    return tuple(chunks), file


def _parts(total: int, size: int) -> Iterator[tuple[int, int]]:
    """First row and number of rows of each chunk: they grow up to some limit, as the service's do
    (https://github.com/snowflakedb/gosnowflake/issues/1371).
    """
    at, rows = INLINE_ROWS, CHUNK_ROWS
    most = max(CHUNK_ROWS, CHUNK_BYTES * total // max(size, 1))
    while at < total:
        yield at, min(rows, total - at)
        at, rows = at + rows, min(2 * rows, most)


def _ipc(table: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return bytes(sink.getvalue())


def _arrow_field(kind: Any, column: Column) -> Any:
    metadata = {
        "logicalType": column.type.upper(),
        "precision": str(column.precision or 38),
        "scale": str(column.scale or 0),
        "charLength": str(column.length or 0),
        # For timestamps the drivers tell their forms apart by it: 16 is "with a fraction".
        "byteLength": str(column.byte_length or _TIMESTAMP_BYTES.get(column.type, 0)),
        "finalType": "T",
    }
    return pa.field(column.name, kind, nullable=True, metadata=metadata)


def _arrow_array(array: Any, column: Column) -> Any:
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
        if isinstance(array, pa.ChunkedArray):
            array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
    if column.type == "fixed" and pa.types.is_decimal(array.type):
        return _scaled(array)
    if column.type == "time":
        return pc.multiply(array.cast(pa.int64()), 1000)
    if not column.type.startswith("timestamp"):
        return array
    micros = array.cast(pa.int64())
    epoch = pc.divide(micros, 1_000_000)  # truncates towards zero
    rest = pc.subtract(micros, pc.multiply(epoch, 1_000_000))
    epoch = pc.subtract(epoch, pc.if_else(pc.less(rest, 0), 1, 0))
    rest = pc.subtract(micros, pc.multiply(epoch, 1_000_000))
    fraction = pc.multiply(rest, 1000).cast(pa.int32())
    parts, names = [epoch, fraction], ["epoch", "fraction"]
    if column.type == "timestamp_tz":
        parts.append(pa.array([_UTC_OFFSET_MINUTES] * len(array), pa.int32()))
        names.append("timezone")
    return pa.StructArray.from_arrays(parts, names=names, mask=pc.is_null(array))


def _scaled(array: Any) -> Any:
    """Decimals as whole numbers of their last digit, which is how they travel when they fit."""
    words = np.frombuffer(array.buffers()[1], dtype="<i8")[2 * array.offset :]
    words = words[: 2 * len(array)].reshape(-1, 2)
    low, high = words[:, 0], words[:, 1]
    valid = ~np.asarray(pc.is_null(array))
    if np.any((high != low >> 63) & valid):
        return array
    return pa.array(np.where(valid, low, 0), pa.int64(), mask=~valid)


# -- JSON -----------------------------------------------------------------------------------------
def encode_json(table: Table) -> Encoded:
    rows = json_rows(table)

    def plain(at: int, count: int) -> bytes:
        # A chunk is the rows without the brackets around them: the client adds those.
        part = rows[at : at + count]
        return json.dumps(part, ensure_ascii=False, separators=(",", ":"))[1:-1].encode()

    inline = rows[:INLINE_ROWS]
    content = {"queryResultFormat": "json", "rowset": inline}
    chunks, file = _chunks(len(rows), table.data.nbytes, plain)
    return Encoded(content, len(rows), len(inline), chunks, file)


def json_rows(table: Table) -> list[list[str | None]]:
    lists = []
    for i, column in enumerate(table.columns):
        data = table.data.column(i)
        if pa.types.is_string(data.type) or pa.types.is_integer(data.type):
            lists.append(data.cast(pa.string()).to_pylist())
            continue
        show = _SHOW.get(column.type, str)
        lists.append([None if v is None else show(v) for v in data.to_pylist()])
    return [list(row) for row in zip(*lists, strict=True)]


def _real(value: float) -> str:
    return {"inf": "inf", "-inf": "-inf", "nan": "NaN"}.get(repr(value), repr(value))


def _seconds(delta: timedelta) -> str:
    micros = delta // timedelta(microseconds=1)
    whole, rest = divmod(micros, 1_000_000)
    if whole < 0 and rest:
        # Snowflake writes the instant as one signed decimal number.
        return f"-{-(whole + 1)}.{1_000_000 - rest:06d}000"
    return f"{whole}.{rest:06d}000"


def _time(value: time) -> str:
    whole = value.hour * 3600 + value.minute * 60 + value.second
    return f"{whole}.{value.microsecond:06d}000"


def _days(value: date) -> str:
    return str((value - _EPOCH.date()).days)


def _number(value: int | Decimal) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


_SHOW: dict[str, Callable[[Any], str]] = {
    "binary": lambda v: bytes(v).hex().upper(),
    "boolean": lambda v: "1" if v else "0",
    "date": _days,
    "fixed": _number,
    "real": _real,
    "time": _time,
    "timestamp_ntz": lambda v: _seconds(v - _EPOCH),
    "timestamp_ltz": lambda v: _seconds(v - _EPOCH_UTC),
    "timestamp_tz": lambda v: f"{_seconds(v - _EPOCH_UTC)} {_UTC_OFFSET_MINUTES}",
}
