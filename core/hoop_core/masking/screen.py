"""The detectors over one part of a result in the form in which it travels: Arrow IPC or JSON rows.

A part that has to be changed or withheld must be readable to its last byte; otherwise it is refused. One
that only has to be reported on passes as it is, whatever it holds.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from hoop_core.errors import ResultBlocked, SnowflakeUnavailable
from hoop_core.masking import detectors
from hoop_core.masking.detect import Finding, redact
from hoop_core.model import Detector, Json, Screen

_GZIP = b"\x1f\x8b"
MOST_BYTES = 512 << 20
"""Of one part, unpacked. Snowflake's own parts are some tens of megabytes."""
_SLICE = 1 << 18
"""Rows of a batch that are looked at together."""
_TEXTS = {"text", "variant", "object", "array", "map", "binary", "geography", "geometry", "vector"}
_NUMBERS = {"fixed", "real"}


@dataclass(frozen=True, slots=True)
class Screened:
    """A part as the client may see it. `readable` is false when nothing is known about it."""

    content: bytes
    findings: tuple[Finding, ...] = ()
    readable: bool = True


def screen_part(
    content: bytes,
    form: str,
    rowtype: Sequence[Json],
    screen: Screen,
    labels: Sequence[str] | None = None,
) -> Screened:
    """One part that travels apart from the answer; `form` is "arrow" or "json".

    `labels` are what the columns are called to people, see `taint.labels_of`; None: by their names.

    Raises ResultBlocked, or SnowflakeUnavailable for a part that cannot be read while it must be.
    """
    if not screen.every or not content:
        return Screened(content)
    try:
        zipped = content.startswith(_GZIP)
        plain = _gunzip(content) if zipped else content
        if form not in {"arrow", "json"}:
            raise ValueError("a form that is not known")
        screened = (
            screen_arrow(plain, screen, _labels(rowtype, labels))
            if form == "arrow"
            else _screen_json(plain, rowtype, screen, labels)
        )
    except ResultBlocked:
        raise
    except Exception as e:  # whatever hostile bytes do to a parser
        if screen.binds:
            raise unreadable(e) from None
        return Screened(content, readable=False)
    if screened.content is plain:
        return Screened(content, screened.findings)
    return Screened(
        gzip.compress(screened.content, 1) if zipped else screened.content, screened.findings
    )


def screen_names(names: Iterable[tuple[int, str]], labels: Sequence[str], screen: Screen) -> None:
    """Raises ResultBlocked for a column that is named after a value which the policy masks or blocks.

    `names` are those of columns, or of what is in them, with the column's position. A name that is the
    column's label is the statement's own and holds no data.
    """
    binding = screen.masks | screen.blocks
    foreign = [(at, name) for at, name in names if name != _label(labels, at)]
    if not foreign or not binding:
        return
    found = detectors.find(pl.Series([name for _, name in foreign], dtype=pl.String), binding)
    for kind, rows in found.items():
        at = foreign[int(rows.arg_true()[0])][0]
        label = _label(labels, at)
        raise ResultBlocked(label, kind.value, findings=(Finding(at, label, kind, 1),))


def _label(labels: Sequence[str], at: int) -> str:
    return labels[at] if at < len(labels) else f"number {at + 1}"


def _labels(rowtype: Sequence[Json], labels: Sequence[str] | None) -> Sequence[str]:
    return [str(c.get("name", "")) for c in rowtype] if labels is None else labels


def _field_names(schema: Any) -> list[tuple[int, str]]:
    """The names of a schema's fields and of all fields within them, with the column's position."""
    names = []
    for at, top in enumerate(schema):
        inside = [top]
        while inside:
            field = inside.pop()
            names.append((at, field.name))
            inside += [field.type.field(i) for i in range(field.type.num_fields)]
    return names


def screen_arrow(stream: bytes, screen: Screen, labels: Sequence[str] | None = None) -> Screened:
    """An Arrow IPC stream. The same bytes come back when nothing had to be cut out."""
    source = pa.BufferReader(stream)
    findings: list[Finding] = []
    batches: list[Any] = []  # they lie in `stream`, save what had to be changed
    changed = False
    with pa.ipc.open_stream(source) as reader:
        schema = reader.schema
        known = schema.names if labels is None else labels
        screen_names(_field_names(schema), known, screen)
        for piece in _in_slices(reader):
            cut, found = redact(
                piece,
                screen.masks,
                screen.every,
                blocks=screen.blocks,
                open_columns=screen.open,
            )
            changed = changed or cut is not piece
            findings += found
            batches.append(cut)
    if screen.binds and source.tell() != len(stream):
        raise ValueError("there is more behind the end of the stream")
    merged = _merged(findings, known)
    _refuse_blocked(merged, screen)
    return Screened(_stream_of(schema, batches) if changed else stream, merged)


def _in_slices(batches: Iterable[Any]) -> Iterator[Any]:
    """What is worked out of a batch takes several times its room, so it is done for a part of it at a time."""
    for batch in batches:
        if batch.num_rows <= _SLICE:
            yield batch
        else:
            for at in range(0, batch.num_rows, _SLICE):
                yield batch.slice(at, _SLICE)


def _stream_of(schema: Any, batches: Iterable[Any]) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def screen_rows(
    rows: list[list[Any]],
    rowtype: Sequence[Json],
    screen: Screen,
    labels: Sequence[str] | None = None,
) -> tuple[list[list[Any]], tuple[Finding, ...]]:
    """JSON rows as Snowflake sends them: every value a text or null. Raises ResultBlocked, ValueError."""
    if not rows or not screen.every:
        return rows, ()
    if {len(r) for r in rows} != {len(rowtype)}:
        raise ValueError("the rows do not have the columns that were announced")
    if not all(v is None or isinstance(v, str) for row in rows for v in row):
        raise ValueError("a value is neither a text nor null")
    columns = list(map(list, zip(*rows, strict=True)))
    findings: list[Finding] = []
    for at, (told, column) in enumerate(zip(rowtype, columns, strict=True)):
        made = _column(told, column)
        if made is None:
            continue
        batch = pa.RecordBatch.from_arrays([made[1]], schema=pa.schema([made[0]]))
        cutting = frozenset[Detector]() if at in screen.open else screen.masks
        cut, found = redact(batch, cutting, screen.every, blocks=screen.blocks)
        findings += [Finding(at, f.name, f.kind, f.values) for f in found]
        if cut is not batch:
            columns[at] = _shown(told, column, cut.column(0).to_pylist())
    merged = _merged(findings, _labels(rowtype, labels))
    _refuse_blocked(merged, screen)
    return [list(r) for r in zip(*columns, strict=True)], merged


def _screen_json(
    content: bytes, rowtype: Sequence[Json], screen: Screen, labels: Sequence[str] | None
) -> Screened:
    """A part is the rows without the brackets around them."""
    rows = json.loads(b"[" + content + b"]")
    if not all(isinstance(r, list) for r in rows):
        raise ValueError("not rows")
    cut, findings = screen_rows(rows, rowtype, screen, labels)
    if cut == rows:
        return Screened(content, findings)
    text = json.dumps(cut, ensure_ascii=False, separators=(",", ":"))[1:-1]
    return Screened(text.encode(), findings)


def _column(told: Json, column: list[Any]) -> tuple[Any, Any] | None:
    """The column in Arrow, as a field with Snowflake's metadata; None when it can hold nothing."""
    kind = str(told.get("type", "")).lower()
    name = str(told.get("name", ""))
    nullable = bool(told.get("nullable", True))
    if kind in _NUMBERS:
        whole = [_whole(v) for v in column] if not int(told.get("scale") or 0) else None
        if whole is None:
            return None
        return pa.field(name, pa.decimal128(38, 0), nullable=True), pa.array(
            whole, pa.decimal128(38, 0)
        )
    if kind.startswith(("date", "time")) or kind == "boolean":
        return None
    if kind == "binary":
        raw = [None if v is None else bytes.fromhex(v) for v in column]
        return pa.field(name, pa.binary(), nullable=nullable), pa.array(raw, pa.binary())
    length = told.get("length") or 0
    metadata = {"logicalType": kind.upper(), "charLength": str(length)}
    field = pa.field(name, pa.large_string(), nullable=nullable, metadata=metadata)
    return field, pa.array(column, pa.large_string())


def _whole(value: Any) -> Any:
    """A number of up to 19 digits; None for all that cannot be a card number."""
    text = str(value or "").removesuffix(".0")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else None


def _shown(told: Json, before: list[Any], after: list[Any]) -> list[Any]:
    """The redacted column as JSON has it; what was not touched stays as it came."""
    kind = str(told.get("type", "")).lower()
    if kind in _NUMBERS:
        gone = None if told.get("nullable", True) else "0"
        return [
            gone if new is None and _whole(old) is not None else old
            for old, new in zip(before, after, strict=True)
        ]
    if kind == "binary":
        return [None if v is None else v.hex().upper() for v in after]
    return after


def _merged(findings: Sequence[Finding], labels: Sequence[str]) -> tuple[Finding, ...]:
    """One finding for each column and kind of a part, under the column's label."""
    total: dict[tuple[int, Detector], Finding] = {}
    for f in findings:
        key = (f.column, f.kind)
        before = total[key].values if key in total else 0
        total[key] = Finding(f.column, _label(labels, f.column), f.kind, before + f.values)
    return tuple(total.values())


def _refuse_blocked(findings: Sequence[Finding], screen: Screen) -> None:
    blocked = [f for f in findings if f.kind in screen.blocks and f.column not in screen.open]
    if blocked:
        raise ResultBlocked(blocked[0].name, blocked[0].kind.value, findings=tuple(findings))


def _gunzip(content: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    plain = unpacker.decompress(content, MOST_BYTES + 1)
    if len(plain) > MOST_BYTES or not unpacker.eof or unpacker.unused_data:
        raise ValueError("not one whole gzip member of a bearable size")
    return plain


def unpacked_size(content: bytes | bytearray) -> int:
    """Bytes that a part takes when the detectors look at it: what gzip says at its end (RFC 1952 section 2.3.1)."""
    if not content.startswith(_GZIP):
        return len(content)
    return max(len(content), min(int.from_bytes(content[-4:], "little"), MOST_BYTES))


def unreadable(error: Exception) -> SnowflakeUnavailable:
    """The refusal of a part that must be screened and cannot."""
    return SnowflakeUnavailable(
        f"A part of the result cannot be read ({type(error).__name__}), so the policy's detectors cannot "
        "look at it, and it is withheld.",
        "Run the statement again; if it stays so, tell the platform team.",
    )
