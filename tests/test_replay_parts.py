"""Recorded parts in every form in which Snowflake's results travel."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from hoop_core.audit.recording import rowset_to_arrow
from hoop_core.replay.parts import Unreadable, columns_of


def clock(*parts: int) -> datetime:
    """A wall clock, as results have it: of no zone."""
    year, month, day, *rest = parts
    return datetime(year, month, day, *rest, tzinfo=UTC).replace(tzinfo=None)


TYPES = ("fixed", "text", "date", "timestamp_ntz", "timestamp_tz", "boolean", "real", "time")
ROWTYPE = [{"name": kind.upper(), "type": kind, "scale": 2} for kind in TYPES]
ROWS = [
    ["12.50", "a", "19784", "1709294400.500000000", "1709294400.000000000 1500", "1", "0.5", "3661.0"],
    [None] * 8,
]  # fmt: skip
EXPECTED = [
    [Decimal("12.50"), None],
    ["a", None],
    [date(2024, 3, 2), None],
    [clock(2024, 3, 1, 12, 0, 0, 500_000), None],
    [clock(2024, 3, 1, 13, 0), None],
    [True, None],
    [Decimal("0.5"), None],
    [clock(1970, 1, 1, 1, 1, 1), None],
]


def test_json_rows_of_a_later_part_are_read_also_when_packed() -> None:
    part = json.dumps(ROWS)[1:-1].encode()
    for content in (part, gzip.compress(part)):
        assert columns_of(content, "json", ROWTYPE, texts=False) == EXPECTED


def test_a_first_part_that_came_as_json_is_recorded_as_texts() -> None:
    content = rowset_to_arrow(ROWTYPE, ROWS)
    assert columns_of(content, "json", ROWTYPE, texts=True) == EXPECTED


def native(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    fields = [pa.field(n, a.type, metadata=m) for n, (a, m) in columns.items()]
    table = pa.Table.from_arrays([a for a, _ in columns.values()], schema=pa.schema(fields))
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def test_snowflakes_own_arrow_is_read_with_scales_and_structs() -> None:
    seconds = pa.array([{"epoch": 1709294400, "fraction": 500_000_000}, None])
    zoned = pa.array([{"epoch": 1709294400000, "timezone": 1500}, None])
    content = native(
        A=(pa.array([1250, None], pa.int64()), {"scale": "2"}),
        B=(pa.array(["a", None]), {}),
        C=(pa.array([date(2024, 3, 2), None], pa.date32()), {}),
        D=(seconds, {"scale": "9"}),
        E=(zoned, {"scale": "3"}),
        F=(pa.array([True, None]), {}),
        G=(pa.array([0.5, None]), {}),
        H=(pa.array([3661, None], pa.int64()), {"scale": "0"}),
    )
    assert columns_of(content, "arrow", ROWTYPE, texts=False) == EXPECTED


@pytest.mark.parametrize(
    ("content", "form"),
    [(b"", "arrow"), (b"garbage", "arrow"), (b"[1", "json"), (b"\x1f\x8bgarbage", "json")],
)
def test_what_is_no_part_is_unreadable_and_the_error_quotes_nothing(
    content: bytes, form: str
) -> None:
    with pytest.raises(Unreadable) as told:
        columns_of(content, form, ROWTYPE, texts=False)
    assert "garbage" not in str(told.value)


def test_other_columns_than_were_announced_are_unreadable() -> None:
    with pytest.raises(Unreadable):
        columns_of(native(A=(pa.array([1]), {})), "arrow", ROWTYPE, texts=False)
