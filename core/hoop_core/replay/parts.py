"""A recorded part of a result as columns of Python values, whatever form it travelled in.

Numbers are Decimal, times datetime without a zone (the wall clock of the value's own zone), dates date. In
JSON Snowflake writes dates as days, times and timestamps as seconds, since 1970.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from hoop_core.audit.recording import MOST_BYTES
from hoop_core.model import Json

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)
_OFFSET_OF_UTC = 1440
"""Snowflake writes a zone as minutes from UTC, and 1440 on top."""
_GZIP = b"\x1f\x8b"

Column = list[Any]


class Unreadable(Exception):
    """A part that is not of the form it should have."""


def columns_of(content: bytes, form: str, rowtype: Sequence[Json], *, texts: bool) -> list[Column]:
    """The columns of one part. `form` is "arrow" or "json"; of a first part that came as JSON, an Arrow stream of
    its `texts` was recorded. Raises Unreadable.
    """
    try:
        plain = _unpacked(content)
        if form == "json" and not texts:
            rows = json.loads(b"[" + plain + b"]")
            raw = [[row[at] for row in rows] for at in range(len(rowtype))]
            return [_told(told, column) for told, column in zip(rowtype, raw, strict=True)]
        table = pa.ipc.open_stream(plain).read_all()
        if table.num_columns != len(rowtype):
            raise ValueError("other columns than were announced")
        if texts:
            pairs = zip(rowtype, table.columns, strict=True)
            return [_told(told, column.to_pylist()) for told, column in pairs]
        return [
            _native(told, table.schema.field(at), table.column(at))
            for at, told in enumerate(rowtype)
        ]
    except Unreadable:
        raise
    except Exception as e:  # whatever the bytes do to a reader
        raise Unreadable(f"it cannot be read ({type(e).__name__})") from None


def _unpacked(content: bytes) -> bytes:
    if not content.startswith(_GZIP):
        return content
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        plain = file.read(MOST_BYTES + 1)
    if len(plain) > MOST_BYTES:
        raise Unreadable(f"it has more than {MOST_BYTES >> 20} MB, unpacked")
    return plain


def _told(told: Json, column: Column) -> Column:
    """Of texts, as JSON results and recordings of them hold them."""
    read = _FROM_TEXT.get(str(told.get("type", "")).lower(), str)
    return [None if v is None else read(v) for v in column]


def _since(text: str) -> datetime:
    seconds = Decimal(text)
    return _EPOCH + timedelta(microseconds=int(seconds * 1_000_000))


def _zoned(text: str) -> datetime:
    seconds, _, zone = text.partition(" ")
    return _since(seconds) + timedelta(minutes=int(zone) - _OFFSET_OF_UTC if zone else 0)


def _day(text: str) -> date:
    return (_EPOCH + timedelta(days=int(text))).date()


_FROM_TEXT: dict[str, Callable[[Any], Any]] = {
    "fixed": Decimal, "real": lambda v: Decimal(str(v)), "date": _day, "time": _since,
    "timestamp_ntz": _since, "timestamp_ltz": _since, "timestamp_tz": _zoned,
    "boolean": lambda v: str(v).lower() in {"1", "true"},
}  # fmt: skip


def _native(told: Json, field: Any, column: Any) -> Column:
    """Of Snowflake's own Arrow: scaled integers, and structs of seconds, fraction and zone."""
    kind = str(told.get("type", "")).lower()
    scale = int((field.metadata or {}).get(b"scale") or told.get("scale") or 0)
    values: Column = column.to_pylist()
    if kind in {"fixed", "real"}:
        return [None if v is None else _number(v, scale) for v in values]
    if kind.startswith("time"):
        return [None if v is None else _moment(v, scale) for v in values]
    return values


def _number(value: Any, scale: int) -> Decimal:
    if isinstance(value, int):
        return Decimal(value).scaleb(-scale)
    return Decimal(str(value))


def _moment(value: Any, scale: int) -> datetime:
    if isinstance(value, dict):
        whole = int(value["epoch"])
        if "fraction" in value:
            made = _EPOCH + timedelta(seconds=whole, microseconds=int(value["fraction"]) // 1000)
        else:
            made = _since(str(Decimal(whole).scaleb(-scale)))
        zone = value.get("timezone")
        return made + timedelta(minutes=0 if zone is None else int(zone) - _OFFSET_OF_UTC)
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    return _since(str(Decimal(int(value)).scaleb(-scale)))
