"""Finding and cutting out personal and secret values in Arrow data, part by part. No I/O.

Text is scanned in every type that can hold it: strings, dictionaries, nested types, binary, and the JSON
text in which Snowflake delivers VARIANT, OBJECT and ARRAY. Numbers are looked at as card numbers. What is
redacted keeps its type, its field with all metadata, its NULLs and its declared length.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from hoop_core.masking import detectors, escapes
from hoop_core.masking.checksums import SHORTEST_CARD, card_numbers
from hoop_core.model import Detector

Counts = Mapping[Detector, int]
_SAMPLE = 2_000
_REPEATS = 4
"""A column of which a sample repeats every value so often is scanned by its distinct values."""
_JSON_TYPES = {"VARIANT", "OBJECT", "ARRAY", "MAP"}
_HIDDEN = "[hidden]"
_DEEPEST, _LONGEST_NUMBER = 200, 400


@dataclass(frozen=True, slots=True)
class Finding:
    """How many values of one column hold what; `column` is the column's place from 0."""

    column: int
    name: str
    kind: Detector
    values: int


def scan(batch: Any, kinds: Collection[Detector]) -> tuple[Finding, ...]:
    """What a pyarrow RecordBatch or Table holds of `kinds`."""
    return redact(batch, (), kinds)[1]


def redact(
    batch: Any,
    kinds: Collection[Detector],
    also_report: Collection[Detector] = (),
    *,
    blocks: Collection[Detector] = (),
    open_columns: Collection[int] = (),
) -> tuple[Any, tuple[Finding, ...]]:
    """`batch` with the values of `kinds` cut out, and what it held of these and of `also_report`.

    What is of several kinds at once counts as one of `kinds` or of `blocks` before any other. In
    `open_columns` (positions) nothing is cut out. The very same object comes back when nothing had to be cut out.
    """
    findings: list[Finding] = []
    columns: list[Any] = []
    given = list(batch.columns)  # pyarrow makes new objects each time it is asked
    for at, (field, column) in enumerate(zip(batch.schema, given, strict=True)):
        cutting = () if at in open_columns else kinds
        cut, counts = redact_column(
            column, field, cutting, {*kinds, *also_report}, {*kinds, *blocks}
        )
        columns.append(cut)
        findings += [Finding(at, field.name, kind, n) for kind, n in counts.items()]
    if all(new is old for new, old in zip(columns, given, strict=True)):
        return batch, tuple(findings)
    return type(batch).from_arrays(columns, schema=batch.schema), tuple(findings)


def redact_column(
    column: Any,
    field: Any,
    kinds: Collection[Detector],
    also_report: Collection[Detector] = (),
    first: Collection[Detector] = (),
) -> tuple[Any, Counts]:
    """One pyarrow Array or ChunkedArray under its field: see `redact`."""
    if isinstance(column, pa.ChunkedArray):
        chunks = list(column.chunks)
        done = [redact_column(c, field, kinds, also_report, first) for c in chunks]
        total: Counter[Detector] = Counter()
        for _, counts in done:
            total.update(counts)
        if all(cut is old for (cut, _), old in zip(done, chunks, strict=True)):
            return column, total
        return pa.chunked_array([cut for cut, _ in done], column.type), total
    return _Column.of(field, kinds, also_report, first).redact(column)


@dataclass(frozen=True, slots=True)
class _Column:
    """How one column is treated: what is cut out, what else is counted, what Snowflake says of it."""

    kinds: frozenset[Detector]
    every: frozenset[Detector]
    first: frozenset[Detector]
    json: bool
    number: bool
    longest: int
    nullable: bool

    @classmethod
    def of(
        cls,
        field: Any,
        kinds: Collection[Detector],
        also_report: Collection[Detector],
        first: Collection[Detector],
    ) -> _Column:
        told = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
        logical = told.get("logicalType", "").upper()
        scale = told.get("scale", "0")
        length = told.get("charLength", "0")
        return cls(
            frozenset(kinds),
            frozenset(kinds) | frozenset(also_report),
            frozenset(kinds) | frozenset(first),
            json=logical in _JSON_TYPES,
            number=scale == "0" and not logical.startswith(("TIME", "DATE")),
            longest=int(length) if length.isdecimal() else 0,
            nullable=bool(field.nullable),
        )

    def redact(self, array: Any) -> tuple[Any, Counts]:
        kind = array.type
        if len(array) == array.null_count or not self.every:
            return array, {}
        if pa.types.is_dictionary(kind):
            return self._dictionary(array)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_view(kind, "string"):
            return self._strings(array)
        if _is_binary(kind):
            return self._binary(array)
        if pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_floating(kind):
            return self._numbers(array)
        if pa.types.is_nested(kind):
            return self._nested(array)
        return array, {}

    # -- text -------------------------------------------------------------------------------------
    def _strings(self, array: Any) -> tuple[Any, Counts]:
        if _repeats(array):
            encoded = array.dictionary_encode()
            cut, counts = self._dictionary(encoded)
            return (array if cut is encoded else pc.cast(cut, array.type)), counts
        texts = pl.Series(array)
        cut, found = self._texts(texts)
        counts = {kind: int(rows.sum()) for kind, rows in found.items()}
        return (array if cut is texts else _as_arrow(cut, array.type)), counts

    def _dictionary(self, array: Any) -> tuple[Any, Counts]:
        """Every distinct value once; the counts are those of the rows."""
        values = array.dictionary
        if not _is_text(values.type):
            cut, counts = self.redact(values)
            return (array if cut is values else _with_dictionary(array, cut)), counts
        texts = pl.Series(values)
        cut, found = self._texts(texts)
        if not found:
            return array, {}
        used = pc.value_counts(array.indices.drop_null())
        times = np.zeros(len(values), np.int64)
        times[used.field("values").to_numpy(zero_copy_only=False)] = used.field("counts").to_numpy()
        counts = {k: int(times[rows.to_numpy()].sum()) for k, rows in found.items()}
        counts = {k: n for k, n in counts.items() if n}
        if cut is texts:
            return array, counts
        return _with_dictionary(array, _as_arrow(cut, values.type)), counts

    def _texts(self, texts: pl.Series) -> tuple[pl.Series, dict[Detector, pl.Series]]:
        found = escapes.find(texts, self.every, self.first)
        cutting = {k: rows for k, rows in found.items() if k in self.kinds}
        if not cutting:
            return texts, found
        rows = _any_of(cutting).arg_true()
        cut = self._cut(texts.gather(rows))
        if self.longest:
            cut = cut.str.head(self.longest)
        return texts.clone().scatter(rows, cut), found

    def _cut(self, texts: pl.Series) -> pl.Series:
        if self.json:
            return self._json_texts(texts)
        cut = detectors.redact(texts, self.kinds)[0]
        # What is seen only behind escapes is JSON, whatever the column's type is.
        left = escapes.find(cut, self.kinds)
        if not left:
            return cut
        rows = _any_of(left).arg_true()
        return cut.clone().scatter(rows, self._json_texts(cut.gather(rows)))

    def _json_texts(self, texts: pl.Series) -> pl.Series:
        """JSON stays JSON: its strings and numbers are redacted one by one, keys included."""
        parsed = [_parsed(t) for t in texts]
        leaves: list[str] = []

        def collect(text: str) -> str:
            leaves.append(escapes.whole(text))
            return text

        for value in parsed:
            _walk(value, collect)
        cut = iter(detectors.redact(pl.Series(leaves, dtype=pl.String), self.kinds)[0].to_list())
        back = [_walk(value, lambda _text: next(cut)) for value in parsed]
        shown = pl.Series(
            [json.dumps(v, ensure_ascii=False, indent=2) for v in back], dtype=pl.String
        )
        # What still shows something once it is written down (a value over several leaves, JSON within
        # a leaf) goes whole.
        left = escapes.find(shown, self.kinds)
        if not left:
            return shown
        return shown.zip_with(~_any_of(left), pl.Series([json.dumps(_HIDDEN)]))

    def _binary(self, array: Any) -> tuple[Any, Counts]:
        """Bytes are read as UTF-8 text; a value that holds something is emptied."""
        texts = [None if v is None else v.decode("utf-8", "replace") for v in array.to_pylist()]
        found = escapes.find(pl.Series(texts, dtype=pl.String), self.every, self.first)
        counts = {kind: int(rows.sum()) for kind, rows in found.items()}
        cutting = [rows for k, rows in found.items() if k in self.kinds]
        if not cutting:
            return array, counts
        hit = np.logical_or.reduce([rows.to_numpy() for rows in cutting])
        empty = b"\0" * array.type.byte_width if _is_fixed(array.type) else b""
        return pc.if_else(pa.array(hit), pa.scalar(empty, array.type), array), counts

    # -- numbers ----------------------------------------------------------------------------------
    def _numbers(self, array: Any) -> tuple[Any, Counts]:
        """Card numbers; one that is found becomes NULL, or 0 in a column without NULLs."""
        if Detector.CARD not in self.every or not self.number or not _holds_cards(array.type):
            return array, {}
        if pc.max(array).as_py() < SHORTEST_CARD:  # most columns; that is seen much sooner
            return array, {}
        hit = card_numbers(_whole_numbers(array))
        if not hit.any():
            return array, {}
        counts = {Detector.CARD: int(hit.sum())}
        if Detector.CARD not in self.kinds:
            return array, counts
        instead = pa.scalar(None if self.nullable else 0, array.type)
        return pc.if_else(pa.array(hit), instead, array), counts

    # -- nested -----------------------------------------------------------------------------------
    def _nested(self, array: Any) -> tuple[Any, Counts]:
        kind = array.type
        if not self.number and pa.types.is_struct(kind):
            return array, {}  # a timestamp, as seconds and fraction
        if pa.types.is_struct(kind):
            return self._struct(array)
        if pa.types.is_map(kind):
            inner = pa.StructArray.from_arrays(
                [_window(array, array.keys), _window(array, array.items)], ["key", "value"]
            )
            cut, counts = self._struct(inner)
            if cut is inner:
                return array, counts
            keys, items = cut.field(0), cut.field(1)
            return pa.MapArray.from_arrays(_offsets(array), keys, items, kind), counts
        if pa.types.is_fixed_size_list(kind):
            values = array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size)
            cut, counts = self.redact(values)
            if cut is values:
                return array, counts
            mask = pc.is_null(array)
            return pa.FixedSizeListArray.from_arrays(cut, type=kind, mask=mask), counts
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            values = _window(array, array.values)
            cut, counts = self.redact(values)
            if cut is values:
                return array, counts
            made = type(array).from_arrays(_offsets(array), cut, type=kind)
            return made, counts
        raise pa.ArrowNotImplementedError(f"values of type {kind} cannot be scanned")

    def _struct(self, array: Any) -> tuple[Any, Counts]:
        total: Counter[Detector] = Counter()
        old = array.flatten()
        new = []
        for child in old:
            cut, counts = self.redact(child)
            total.update(counts)
            new.append(cut)
        if all(n is o for n, o in zip(new, old, strict=True)):
            return array, total
        made = pa.StructArray.from_arrays(new, fields=list(array.type), mask=pc.is_null(array))
        return made, total


def _any_of(found: Mapping[Detector, pl.Series]) -> pl.Series:
    return pl.DataFrame(dict(found)).select(pl.any_horizontal(pl.all())).to_series()


def _is_view(kind: Any, what: str) -> bool:
    test: Callable[[Any], bool] | None = getattr(pa.types, f"is_{what}_view", None)
    return test is not None and test(kind)


def _is_text(kind: Any) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_view(kind, "string")


def _is_fixed(kind: Any) -> bool:
    return bool(pa.types.is_fixed_size_binary(kind))


def _is_binary(kind: Any) -> bool:
    simple = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or _is_fixed(kind)
    return simple or _is_view(kind, "binary")


def _repeats(array: Any) -> bool:
    if len(array) < _SAMPLE:
        return False
    step = len(array) // _SAMPLE
    sample = array.take(np.arange(0, step * _SAMPLE, step))
    return bool(len(sample.unique()) * _REPEATS < _SAMPLE)


def _as_arrow(texts: pl.Series, kind: Any) -> Any:
    return pc.cast(texts.to_arrow(), kind)


def _with_dictionary(array: Any, values: Any) -> Any:
    return pa.DictionaryArray.from_arrays(array.indices, values, ordered=array.type.ordered)


def _offsets(array: Any) -> Any:
    """The offsets of a list or map from 0 on, NULL where the list is."""
    offsets = array.offsets
    moved = pc.subtract(offsets, offsets[0])
    valid = pc.if_else(pc.is_null(array), pa.scalar(None, moved.type), moved.slice(0, len(array)))
    return pa.concat_arrays([valid, moved.slice(len(array), 1)])


def _window(array: Any, values: Any) -> Any:
    first, last = array.offsets[0].as_py(), array.offsets[len(array)].as_py()
    return values.slice(first, last - first)


def _holds_cards(kind: Any) -> bool:
    if pa.types.is_decimal(kind):
        return bool(kind.scale == 0)
    return bool(pa.types.is_floating(kind) or kind.bit_width == 64)


def _whole_numbers(array: Any) -> Any:
    """The values as unsigned 64-bit integers; 0 for what is no card number anyhow."""
    if pa.types.is_decimal(array.type):
        words = np.frombuffer(array.buffers()[1], "<u8").reshape(-1, array.type.bit_width // 64)
        words = words[array.offset : array.offset + len(array)]
        low = np.where((words[:, 1:] == 0).all(axis=1), words[:, 0], 0)
        return np.where(np.asarray(pc.is_valid(array)), low, 0).astype(np.uint64)
    values = pc.fill_null(array, 0).to_numpy(zero_copy_only=False)
    if pa.types.is_floating(array.type):
        values = values.astype(np.float64)
        whole = (values >= 1e12) & (values < 1e19) & (np.floor(values) == values)
        return np.where(whole, values, 0).astype(np.uint64)
    return np.where(values > 0, values, 0).astype(np.uint64)


def _parsed(text: str) -> Any:
    """A JSON value with its numbers as they are written; a text that is no JSON is hidden whole."""
    try:
        value = json.loads(text, parse_int=_Number, parse_float=_Number, parse_constant=_Number)
        return _HIDDEN if _deeper_than(value, _DEEPEST) else value
    except (ValueError, RecursionError):
        return _HIDDEN


def _deeper_than(value: Any, most: int) -> bool:
    """Whether `value` has more levels than `most`; found out level by level, without recursion."""
    level = [value]
    for _ in range(most):
        inner = [
            v.values() if isinstance(v, dict) else v for v in level if isinstance(v, (dict, list))
        ]
        level = [v for values in inner for v in values]
        if not level:
            return False
    return True


class _Number(str):
    """A number of a JSON text, by its digits."""

    __slots__ = ()


def _walk(value: Any, see: Callable[[str], Any]) -> Any:
    """`value` with every text in it, keys included, replaced by what `see` makes of it."""
    if isinstance(value, dict):
        return {str(see(k)): _walk(v, see) for k, v in value.items()}
    if isinstance(value, list):
        return [_walk(v, see) for v in value]
    if isinstance(value, _Number):
        seen = see(str(value))
        # A number longer than Python reads is no number of Snowflake's.
        return seen if seen != value or len(value) > _LONGEST_NUMBER else json.loads(value)
    return see(value) if isinstance(value, str) else value
