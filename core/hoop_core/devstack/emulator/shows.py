"""SHOW with the columns that Snowflake documents: keys, procedures and functions, and the order for tables.

The engine's own lists of keys are not asked: it takes a primary key for an imported one, and it does not know
the account's routines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
from sqlglot import exp

from hoop_core.devstack.emulator.accounts import Kind, Securable
from hoop_core.devstack.emulator.authorise import stored
from hoop_core.devstack.emulator.engine import parse
from hoop_core.devstack.emulator.errors import no_such_object
from hoop_core.devstack.emulator.results import Table, text_table
from hoop_core.devstack.emulator.statements import Context

Row = tuple[Any, ...]

_KEYS = (
    "created_on", "database_name", "schema_name", "table_name", "column_name", "key_sequence",
    "constraint_name", "rely", "comment",
)  # fmt: skip
_IMPORTED = (
    "created_on", "pk_database_name", "pk_schema_name", "pk_table_name", "pk_column_name",
    "fk_database_name", "fk_schema_name", "fk_table_name", "fk_column_name", "key_sequence",
    "update_rule", "delete_rule", "fk_name", "pk_name", "deferrability", "rely", "comment",
)  # fmt: skip
_PROCEDURES = (
    "created_on", "name", "schema_name", "is_builtin", "is_aggregate", "is_ansi",
    "min_num_arguments", "max_num_arguments", "arguments", "description", "catalog_name",
    "is_table_function", "valid_for_clustering", "is_secure", "secrets",
    "external_access_integrations",
)  # fmt: skip
_CONSTRAINTS = {
    "PRIMARY KEYS": "PRIMARY KEY",
    "UNIQUE KEYS": "UNIQUE",
    "IMPORTED KEYS": "FOREIGN KEY",
    "EXPORTED KEYS": "FOREIGN KEY",
}
_ROUTINES = {"PROCEDURES": Kind.PROCEDURE, "FUNCTIONS": Kind.FUNCTION}
_TABLES = ("created_on", "name", "database_name", "schema_name", "kind")
_EPOCH = datetime.fromtimestamp(0, UTC)


def shown(
    tree: exp.Expr, context: Context, cursor: Callable[[], duckdb.DuckDBPyConnection]
) -> Table | None:
    """The list that a SHOW asks for, narrowed to what the roles may see; None for another statement.

    https://docs.snowflake.com/en/sql-reference/sql/show-primary-keys, show-imported-keys, show-procedures
    """
    kind = str(tree.name).upper() if isinstance(tree, exp.Show) else ""
    if kind in _ROUTINES:
        rows = _routines(_ROUTINES[kind], _scope(tree, context), context)
        return text_table(_PROCEDURES, rows, ["created_on"])
    if kind not in _CONSTRAINTS:
        return None
    scope = _scope(tree, context)
    with cursor() as found:
        own = () if kind == "EXPORTED KEYS" else scope
        keys = [k for k in _keys(found, _CONSTRAINTS[kind], own) if _visible(k.table, context)]
    if kind == "EXPORTED KEYS":
        keys = [k for k in keys if (*k.table[:2], k.target)[: len(scope)] == scope]
    if kind in {"IMPORTED KEYS", "EXPORTED KEYS"}:
        return text_table(_IMPORTED, map(_referring, keys), ["created_on"])
    told = [(_EPOCH, *k.table, k.column, str(k.at), k.name, "false", None) for k in keys]
    return text_table(_KEYS, told, ["created_on"])


def in_order(table: Table, tree: exp.Expr) -> Table:
    """SHOW TABLES: where a table is comes before its kind, unless the list is TERSE."""
    names = [c.name for c in table.columns]
    if tree.args.get("terse") or str(tree.name).upper() != "TABLES":
        return table
    wanted = [*_TABLES, *(n for n in names if n not in _TABLES)]
    columns = tuple(table.columns[names.index(n)] for n in wanted)
    return Table(columns, table.data.select(wanted))


def exported(sql: str, tokens: Sequence[Any]) -> exp.Expr | None:
    """SHOW EXPORTED KEYS, which sqlglot does not read, as the like of SHOW IMPORTED KEYS."""
    words = [t.text.upper() for t in tokens[:2]]
    if words != ["SHOW", "EXPORTED"]:
        return None
    tree = parse(f"{sql[: tokens[1].start]}IMPORTED{sql[tokens[1].end + 1 :]}")
    tree.set("this", "EXPORTED KEYS")
    return tree


def _scope(tree: exp.Expr, context: Context) -> tuple[str, ...]:
    """The parts of a name that the listed tables must have; nothing for the whole account."""
    scope = tree.args.get("scope")
    connection = context.session.connection
    here = tuple(p for p in (connection.database, connection.schema) if p)
    if not isinstance(scope, exp.Table):
        return () if tree.args.get("scope_kind") == "ACCOUNT" else here
    parts = tuple(stored(p) for p in scope.parts)
    wanted = {"DATABASE": 1, "SCHEMA": 2}.get(str(tree.args.get("scope_kind")), 3)
    wanted = max(wanted, len(parts))  # IN a.b.c is a table's name without the word TABLE
    name = (*here[: wanted - len(parts)], *parts)
    if len(name) == 3 and not _visible(name, context):
        raise no_such_object("Table", ".".join(name))
    return name


@dataclass(frozen=True, slots=True)
class _Key:
    """One column of a constraint; `target` and `target_column` are those of a foreign key."""

    table: tuple[str, ...]
    column: str
    at: int
    name: str
    target: str | None
    target_column: str | None


def _keys(cursor: duckdb.DuckDBPyConnection, kind: str, scope: Sequence[str]) -> list[_Key]:
    rows = cursor.execute(
        "SELECT database_name, schema_name, table_name, constraint_column_names, constraint_name, "
        "referenced_table, referenced_column_names FROM duckdb_constraints() "
        "WHERE constraint_type = ? ORDER BY 1, 2, 3, 5",
        [kind],
    ).fetchall()
    return [
        _Key(row[:3], column, at + 1, row[4], row[5], row[6][at] if row[6] else None)
        for row in rows
        if row[: len(scope)] == tuple(scope)
        for at, column in enumerate(row[3])
    ]


def _visible(name: Sequence[str], context: Context) -> bool:
    account = context.account
    with account.lock:
        return account.visible(context.roles, Securable(Kind.TABLE, tuple(name)))


def _referring(key: _Key) -> Row:
    rules = ("NO ACTION", "NO ACTION", key.name, None, "NOT DEFERRABLE", "false", None)
    where = key.table[:2]
    return (_EPOCH, *where, key.target, key.target_column,
            *key.table, key.column, str(key.at), *rules)  # fmt: skip


def _routines(kind: Kind, scope: Sequence[str], context: Context) -> list[Row]:
    account = context.account
    with account.lock:
        found = [
            s.name
            for s in account.owners
            if s.kind is kind
            and s.name[: len(scope)] == tuple(scope)
            and account.visible(context.roles, s)
        ]
    return [
        (_EPOCH, name[2], name[1], "N", "N", "N", None, None, f"{name[2]}()", None, name[0],
         "N", "N", "N", None, None)
        for name in sorted(found)
    ]  # fmt: skip
