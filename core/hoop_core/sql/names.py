"""Snowflake names: folding, full qualification, and the patterns of the policy file.

Unquoted identifiers are stored in upper case, quoted ones as they are written
(https://docs.snowflake.com/en/sql-reference/identifiers-syntax).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from sqlglot import exp

from hoop_core.model import NameContext, TableName
from hoop_core.sql.refusals import refuse

_PART = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([A-Za-z_][A-Za-z0-9_$]*)|(\*))\s*(\.|\Z)')

# What stands here describes other objects, queries and users: never data of its own.
_METADATA_SCHEMA = "INFORMATION_SCHEMA"
_METADATA_DATABASE = "SNOWFLAKE"


def fold(identifier: object) -> str:
    """The stored name of one identifier node. Raises StatementRefused (INDIRECT_NAME)."""
    if not isinstance(identifier, exp.Identifier):
        raise refuse(
            "INDIRECT_NAME",
            "A name in the statement is computed or given by a variable.",
            "Write every table name into the statement.",
        )
    text = str(identifier.this)
    return text if identifier.args.get("quoted") else text.upper()


def parse_parts(text: str) -> tuple[str, ...] | None:
    """The parts of a dotted name in stored case, `*` for a wildcard part; None when it is not one."""
    parts: list[str] = []
    at = 0
    while True:
        match = _PART.match(text, at)
        if match is None:
            return None
        quoted, plain, star = match.group(1), match.group(2), match.group(3)
        if quoted == "*":
            return None  # a stored name `*` could not be told from the wildcard
        parts.append(quoted.replace('""', '"') if quoted else plain.upper() if plain else star)
        at = match.end()
        if match.group(4) != ".":
            return tuple(parts)


def parse_table(text: str) -> TableName | None:
    """A fully qualified table name as people write it; None when it is not one."""
    parts = parse_parts(text)
    if parts is None or len(parts) != 3 or "*" in parts:
        return None
    return TableName(*parts)


def stored(text: str) -> str:
    """One name as a person or a driver gives it (`prod`, `"Prod"`), in stored case."""
    parts = parse_parts(text)
    return parts[0] if parts is not None and len(parts) == 1 else text


def resolve_parts(
    parts: tuple[str, ...], names: NameContext, *, metadata: Collection[str] = ()
) -> TableName:
    """Full qualification of one to three folded parts against the session.

    `db..table` has an empty middle part, which means PUBLIC. `metadata` names the views of INFORMATION_SCHEMA
    that may stand here.
    Raises StatementRefused: NO_CURRENT_SCHEMA, METADATA_OBJECT.
    """
    database, schema, name = ("", *parts)[-3:] if len(parts) >= 2 else ("", "", parts[0])
    if len(parts) == 3 and schema == "":
        schema = "PUBLIC"
    table = TableName(database or names.database or "", schema or names.schema or "", name)
    if not (table.database and table.schema):
        raise refuse(
            "NO_CURRENT_SCHEMA",
            f"The table {'.'.join(p for p in parts if p)} cannot be resolved: the session has no "
            "current database and schema.",
            "Write DATABASE.SCHEMA.TABLE, or connect with database and schema.",
        )
    served = table.name in metadata and table.database != _METADATA_DATABASE
    if (table.schema == _METADATA_SCHEMA and not served) or table.database == _METADATA_DATABASE:
        raise refuse(
            "METADATA_OBJECT",
            f"{table} holds metadata, histories or shared system data, which Hoop does not serve.",
            "Use SHOW or DESCRIBE for names and columns, or query COLUMNS, TABLES, VIEWS and SCHEMATA of the "
            "database's INFORMATION_SCHEMA.",
        )
    return table


def resolve(table: exp.Table, names: NameContext, *, metadata: Collection[str] = ()) -> TableName:
    """The stored, fully qualified name of a table node; see `resolve_parts`. Raises StatementRefused."""
    if not isinstance(table.this, exp.Identifier):
        raise refuse(
            "INDIRECT_TABLE",
            "A table is given by a function, a stage or a variable instead of its name.",
            "Name the table directly.",
        )
    name = fold(table.this)
    catalog, db = table.args.get("catalog"), table.args.get("db")
    if catalog:
        middle = "" if not db or (isinstance(db, exp.Identifier) and not db.this) else fold(db)
        return resolve_parts((fold(catalog), middle, name), names, metadata=metadata)
    if db:
        return resolve_parts((fold(db), name), names, metadata=metadata)
    return resolve_parts((name,), names, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A table (3 parts) or column (4 parts) pattern; `*` stands for one whole part."""

    parts: tuple[str, ...]

    def covers(self, table: TableName, column: str | None = None) -> bool:
        """Whether it matches the table; for a column pattern also its column, when one is given."""
        given = (table.database, table.schema, table.name) + (() if column is None else (column,))
        return all(p in ("*", g) for p, g in zip(self.parts, given, strict=False))

    @property
    def exact(self) -> bool:
        return "*" not in self.parts

    def __str__(self) -> str:
        return ".".join(self.parts)
