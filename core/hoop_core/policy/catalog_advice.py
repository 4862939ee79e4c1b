"""What a policy says of tables that its catalog knows otherwise: names that do not fit, and odd types."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping

from hoop_core.model import TableName
from hoop_core.policy.advice import Advice
from hoop_core.policy.model import Policy
from hoop_core.sql.catalog import Catalog
from hoop_core.sql.names import Pattern

# https://docs.snowflake.com/en/sql-reference/intro-summary-data-types
TYPES = (
    *("ARRAY", "BIGINT", "BINARY", "BOOLEAN", "BYTEINT", "CHAR", "CHARACTER", "DATE", "DATETIME"),
    *(
        "DEC",
        "DECFLOAT",
        "DECIMAL",
        "DOUBLE",
        "DOUBLE PRECISION",
        "FILE",
        "FLOAT",
        "FLOAT4",
        "FLOAT8",
    ),
    *("GEOGRAPHY", "GEOMETRY", "INT", "INTEGER", "MAP", "NCHAR", "NUMBER", "NUMERIC", "NVARCHAR"),
    *("NVARCHAR2", "OBJECT", "REAL", "SMALLINT", "STRING", "TEXT", "TIME", "TIMESTAMP"),
    *("TIMESTAMP_LTZ", "TIMESTAMP_NTZ", "TIMESTAMP_TZ", "TIMESTAMPLTZ", "TIMESTAMPNTZ"),
    *("TIMESTAMPTZ", "TINYINT", "UUID", "VARBINARY", "VARCHAR", "VARIANT", "VECTOR"),
)
_NAME_OF_TYPE = re.compile(r"[A-Z_][A-Z0-9_ ]*")


def catalog_advice(policy: Policy, catalog: Catalog, file: str) -> tuple[Advice, ...]:
    """In the order of the file. `file` is the catalog's name, for the sentences."""
    return tuple(sorted({*_columns(policy, catalog), *_types(catalog, file)}))


def _columns(policy: Policy, catalog: Catalog) -> Iterator[Advice]:
    tables = {t: o.columns for t, o in catalog.objects.items() if o.columns}
    for mask in policy.masks:
        yield from _patterns(mask.columns, f"the mask `{mask.mask.name}`", mask.line, tables)
    masked = {p for m in policy.masks for p in m.columns}
    for tag, patterns in policy.tags.items():
        rest = [p for p in patterns if p not in masked]
        yield from _patterns(rest, f"the tag `{tag}`", policy.tag_lines.get(tag, 0), tables)
    for row_filter in policy.row_filters:
        for table, columns in tables.items():
            if not row_filter.table.covers(table):
                continue
            for column in sorted(row_filter.where.columns - set(columns)):
                yield Advice(
                    row_filter.line,
                    f"the row filter asks for {table}.{column}, which the catalog does not have"
                    f"{_near(column, columns)}",
                )


def _patterns(
    patterns: Iterable[Pattern],
    what: str,
    line: int,
    tables: Mapping[TableName, Mapping[str, str]],
) -> Iterator[Advice]:
    for pattern in patterns:
        met = [columns for table, columns in tables.items() if pattern.covers(table)]
        if not met or any(pattern.parts[3] in ("*", c) for columns in met for c in columns):
            continue
        known = [c for columns in met for c in columns]
        yield Advice(
            line,
            f"{what} names {pattern}, a column that the catalog does not have{_near(pattern.parts[3], known)}",
        )


def _types(catalog: Catalog, file: str) -> Iterator[Advice]:
    for table, known in catalog.objects.items():
        for column, given in known.columns.items():
            name = _NAME_OF_TYPE.match(given.strip().upper())
            base = name[0].removesuffix(" NOT NULL").strip() if name else given
            if base not in TYPES:
                yield Advice(
                    0,
                    f"{file} gives {table}.{column} the type `{given}`, which Snowflake does not have"
                    f"{_near(base, TYPES)}",
                )


def _near(word: str, valid: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.5)
    return f". Did you mean `{near[0]}`?" if near else "."
