"""What a caller sees instead of a protected column: one SQL expression per mask and type.

Every expression keeps NULL as NULL and ends in the column's own type, so that joins, unions and INSERTs
behave as before. A mask that does not fit a type becomes a typed NULL, never the value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from hoop_core.model import TableName

INNER = "_g"
"""The alias of the base table inside the masking subquery. Unqualified, a column name could resolve to
an outer query."""

HASH_FUNCTION = "HOOP.MASK_HASH"
"""Where a policy names no other. Two parts are found through the session's current database, which a
caller can change: a policy that hashes should name all three (`hash_function`)."""


class MaskName(StrEnum):
    """In order of strictness: where several masks name a column, the first one here wins."""

    NULL = "null"
    CONSTANT = "constant"
    HASH = "hash"
    PARTIAL = "partial"
    EMAIL_DOMAIN = "email_domain"
    DATE_TRUNC = "date_trunc"
    BUCKET = "bucket"


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask and its options (`value`, `domain`, `keep_first`, `keep_last`, `unit`, `size`)."""

    name: MaskName
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """`sql` is the expression that stands for the column; `mask` is None where it passes as it is."""

    name: str
    sql: str
    mask: MaskName | None = None
    fitted: bool = True
    """False when the mask did not fit the type and a typed NULL took its place."""


@dataclass(frozen=True, slots=True)
class TablePlan:
    """The exact list of columns that a protected table shows, in its own order."""

    table: TableName
    columns: tuple[ColumnPlan, ...]
    where: str | None = None
    """The row filter inside the wrapper: one condition over columns written as `_g."NAME"`."""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # wide tables have many columns, and rewriter and verifier look their plans up often
        object.__setattr__(self, "_hash", hash((self.table, self.columns, self.where)))

    def __hash__(self) -> int:
        return self._hash


class Family(StrEnum):
    TEXT = "text"
    NUMBER = "number"
    FLOAT = "float"
    BOOLEAN = "boolean"
    DATE = "date"
    TIME = "time"
    TIMESTAMP = "timestamp"
    BINARY = "binary"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class SqlType:
    """A Snowflake type: its family, the text to cast to, the length of a text type."""

    family: Family
    cast: str
    length: int | None = None
    least: int | None = None
    """Of a NUMBER of known precision the lowest whole number."""


_FAMILIES: dict[Family, str] = {
    Family.TEXT: "VARCHAR CHAR CHARACTER STRING TEXT NCHAR NVARCHAR NVARCHAR2",
    Family.NUMBER: "NUMBER DECIMAL DEC NUMERIC INT INTEGER BIGINT SMALLINT TINYINT BYTEINT",
    Family.FLOAT: "FLOAT FLOAT4 FLOAT8 DOUBLE REAL DECFLOAT",
    Family.BOOLEAN: "BOOLEAN",
    Family.DATE: "DATE",
    Family.TIME: "TIME",
    Family.TIMESTAMP: "DATETIME TIMESTAMP TIMESTAMP_NTZ TIMESTAMP_LTZ TIMESTAMP_TZ TIMESTAMPNTZ "
    "TIMESTAMPLTZ TIMESTAMPTZ",
    Family.BINARY: "BINARY VARBINARY",
    Family.OTHER: "VARIANT OBJECT ARRAY GEOGRAPHY GEOMETRY",
}
_BASES = {name: family for family, names in _FAMILIES.items() for name in names.split()}
_TYPE = re.compile(
    r"([A-Z][A-Z0-9_]*)(?: PRECISION)?(?:\((\d+)(?:, ?(\d+))?\))?(?: COLLATE '[^']*')?\Z"
)


def sql_type(text: str) -> SqlType:
    """Read a type as DESCRIBE TABLE or a catalog file writes it. What is not understood is OTHER."""
    plain = " ".join(text.upper().replace("NOT NULL", "").split())
    match = _TYPE.match(plain)
    if match is None:
        base = plain.split("(", 1)[0].strip()  # structured types: ARRAY(NUMBER), OBJECT(a NUMBER)
        return SqlType(Family.OTHER, base if base in {"ARRAY", "OBJECT"} else "VARIANT")
    base, first, second = match.groups()
    family = _BASES.get(base)
    if family is None:
        return SqlType(Family.OTHER, "VARIANT")
    if family in {Family.OTHER, Family.BOOLEAN, Family.DATE} or first is None:
        return SqlType(family, base)
    arguments = first if second is None else f"{first}, {second}"
    length = int(first) if family is Family.TEXT else None
    whole = int(first) - int(second or 0)
    least = 1 - 10**whole if family is Family.NUMBER else None
    return SqlType(family, f"{base}({arguments})", length, least)


def plain_column(column: str) -> str:
    """A column of the base table inside the masking subquery."""
    return f'{INNER}."' + column.replace('"', '""') + '"'


def plan_column(
    column: str, type_text: str, mask: Mask | None, *, hash_function: str = HASH_FUNCTION
) -> ColumnPlan:
    """What the masking subquery shows for one column. `hash_function` is the name as SQL writes it."""
    if mask is None:
        return _plain_plan(column)
    kind = sql_type(type_text)
    if mask.name is MaskName.HASH:
        sql = _hash(plain_column(column), kind, mask.options, hash_function)
    else:
        sql = _BUILDERS[mask.name](plain_column(column), kind, mask.options)
    if sql is None:
        return ColumnPlan(column, f"NULL::{kind.cast}", MaskName.NULL, fitted=False)
    return ColumnPlan(column, sql, mask.name)


@lru_cache(maxsize=65_536)
def _plain_plan(column: str) -> ColumnPlan:
    return ColumnPlan(column, plain_column(column))


def literal(text: str) -> str:
    """A Snowflake string literal: backslashes and quotes escaped."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


_Options = Mapping[str, str | int | float | bool]


def _null(column: str, kind: SqlType, options: _Options) -> str | None:
    return f"NULL::{kind.cast}"


def _constant(column: str, kind: SqlType, options: _Options) -> str | None:
    value = _constant_value(kind, options.get("value"))
    return None if value is None else f"IFF({column} IS NULL, NULL, {value})::{kind.cast}"


_DEFAULTS: dict[Family, str] = {
    Family.NUMBER: "0",
    Family.FLOAT: "0",
    Family.BOOLEAN: "FALSE",
    Family.DATE: "'1970-01-01'",
    Family.TIME: "'00:00:00'",
    Family.TIMESTAMP: "'1970-01-01 00:00:00'",
}


def _constant_value(kind: SqlType, value: str | int | float | bool | None) -> str | None:
    if kind.family is Family.TEXT:
        text = "***" if value is None else str(value)
        return literal(text if kind.length is None else text[: kind.length])
    if value is None:
        return _DEFAULTS.get(kind.family)
    numeric = kind.family in {Family.NUMBER, Family.FLOAT}
    if numeric and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if kind.family is Family.BOOLEAN and isinstance(value, bool):
        return str(value).upper()
    return None


def _hash(column: str, kind: SqlType, options: _Options, function: str) -> str | None:
    if kind.family is not Family.TEXT:
        return None
    call = f"{function}({column}, {literal(str(options.get('domain', 'default')))})"
    return f"IFF({column} IS NULL, NULL, {_fit(call, kind)})::{kind.cast}"


def _partial(column: str, kind: SqlType, options: _Options) -> str | None:
    if kind.family is not Family.TEXT:
        return None
    first, last = int(options.get("keep_first", 0)), int(options.get("keep_last", 4))
    # short values would be shown nearly whole: at least half of every value stays hidden
    shown = (
        f"LEFT({column}, {first}) || REPEAT('*', LENGTH({column}) - {first + last}) || "
        f"RIGHT({column}, {last})"
    )
    return (
        f"IFF(LENGTH({column}) >= {2 * (first + last)}, {shown}, REPEAT('*', LENGTH({column})))"
        f"::{kind.cast}"
    )


def _email_domain(column: str, kind: SqlType, options: _Options) -> str | None:
    if kind.family is not Family.TEXT:
        return None
    # after the last @: a quoted local part may hold one itself
    domain = _fit(f"'***@' || SPLIT_PART({column}, '@', -1)", kind)
    nothing = literal("***" if kind.length is None else "***"[: kind.length])
    return f"IFF({column} IS NULL, NULL, IFF(CONTAINS({column}, '@'), {domain}, {nothing}))::{kind.cast}"


_LOCAL = ("TIMESTAMP_LTZ", "TIMESTAMPLTZ")


def _date_trunc(column: str, kind: SqlType, options: _Options) -> str | None:
    unit = str(options.get("unit", "month")).upper()
    days = {"YEAR", "QUARTER", "MONTH", "WEEK", "DAY"}
    if kind.cast.startswith(_LOCAL):
        return None  # the caller's TIMEZONE would move the edges, and so tell the time between them
    if kind.family is Family.TIMESTAMP or (kind.family is Family.DATE and unit in days):
        if unit == "WEEK":  # DATE_TRUNC's weeks begin where the caller's WEEK_START says
            day = f"DATE_TRUNC('DAY', {column})"
            return f"DATEADD(DAY, 1 - DAYOFWEEKISO({column}), {day})::{kind.cast}"
        return f"DATE_TRUNC('{unit}', {column})::{kind.cast}"
    return None


def _bucket(column: str, kind: SqlType, options: _Options) -> str | None:
    if kind.family not in {Family.NUMBER, Family.FLOAT}:
        return None
    size = options.get("size", 10)
    start = f"FLOOR({column} / {size}) * {size}"
    if kind.least is not None:
        # a bucket may begin below what the type holds: the error would tell that such a value exists
        start = f"GREATEST({start}, {kind.least})"
    return f"({start})::{kind.cast}"


def _fit(expression: str, kind: SqlType) -> str:
    """Cut to the column's length: a longer text would fail or overflow where it is stored."""
    return expression if kind.length is None else f"LEFT({expression}, {kind.length})"


_BUILDERS: dict[MaskName, Callable[[str, SqlType, _Options], str | None]] = {
    MaskName.NULL: _null,
    MaskName.CONSTANT: _constant,
    MaskName.PARTIAL: _partial,
    MaskName.EMAIL_DOMAIN: _email_domain,
    MaskName.DATE_TRUNC: _date_trunc,
    MaskName.BUCKET: _bucket,
}
