"""Views: their texts as GET_DDL and SHOW VIEWS give them, and who may see them.

https://docs.snowflake.com/en/sql-reference/functions/get_ddl
https://docs.snowflake.com/en/sql-reference/sql/show-views
https://docs.snowflake.com/en/user-guide/views-secure
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pyarrow as pa
from fakesnow.conn import FakeSnowflakeConnection
from sqlglot import exp
from sqlglot.dialects.snowflake import Snowflake
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import TokenType

from hoop_core.devstack.emulator.accounts import Account, Kind, Securable, View
from hoop_core.devstack.emulator.authorise import full_name, is_cte_reference
from hoop_core.devstack.emulator.errors import bad_value, no_such_object, not_modelled, syntax
from hoop_core.devstack.emulator.results import Table, text_table

_PLAIN = re.compile(r"[A-Z_][A-Z0-9_$]*\Z")
_SHOWN = (
    "created_on", "name", "reserved", "database_name", "schema_name", "owner", "comment", "text",
    "is_secure", "is_materialized", "owner_role_type", "change_tracking",
)  # fmt: skip


def is_view(tree: exp.Expr) -> bool:
    return isinstance(tree, exp.Create) and str(tree.args.get("kind") or "").upper() == "VIEW"


def made(tree: exp.Expr, sql: str, columns: Sequence[str]) -> View:
    """What to remember of a CREATE VIEW that has run; `sql` is the client's own text."""
    properties = tree.args.get("properties")
    found = list(properties.expressions) if properties is not None else []
    secure = any(isinstance(p, exp.SecureProperty) for p in found)
    comment = next((p.name for p in found if isinstance(p, exp.SchemaCommentProperty)), "")
    return View(_query_of(sql), tuple(columns), secure, comment, datetime.now(UTC))


def for_engine(tree: exp.Expr, place: tuple[str | None, str | None]) -> exp.Expr:
    """A CREATE VIEW in words that the engine knows: SECURE is a matter of the account, and names without
    a schema mean the view's own, also in a session that stands elsewhere or nowhere."""
    target = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
    if not is_view(tree) or not isinstance(target, exp.Table):
        return tree
    database, schema, _ = full_name(target, *place)
    plain = tree.copy()
    properties = plain.args.get("properties")
    if properties is not None:
        kept = [p for p in properties.expressions if not isinstance(p, exp.SecureProperty)]
        plain.set("properties", exp.Properties(expressions=kept) if kept else None)
    for table in list(plain.expression.find_all(exp.Table)):
        if len(table.parts) < 3 and not is_cte_reference(table):
            parts = full_name(table, database, schema)
            for arg, part in zip(("catalog", "db", "this"), parts, strict=True):
                table.set(arg, exp.Identifier(this=part, quoted=True))
            if not table.alias:
                table.set("alias", exp.TableAlias(this=exp.Identifier(this=parts[2], quoted=True)))
    return plain


def _query_of(sql: str) -> str:
    """Everything behind the AS that stands outside parentheses."""
    depth = 0
    tokens = [t for t in Snowflake().tokenize(sql) if t.token_type is not TokenType.SEMICOLON]
    for token, after in pairwise(tokens):
        depth += (token.token_type is TokenType.L_PAREN) - (token.token_type is TokenType.R_PAREN)
        if depth == 0 and token.token_type is TokenType.ALIAS:
            return sql[after.start : tokens[-1].end + 1]
    raise syntax("<EOF>")


def text_of(view: View, name: str) -> str:
    columns = ",\n\t".join(_quoted(c) for c in view.columns)
    secure = "secure " if view.secure else ""
    comment = " COMMENT='" + view.comment.replace("'", "''") + "'\n" if view.comment else " "
    return (
        f"create or replace {secure}view {_quoted(name)}(\n\t{columns}\n){comment}as {view.query};"
    )


def _quoted(name: str) -> str:
    return name if _PLAIN.match(name) else '"' + name.replace('"', '""') + '"'


# -- GET_DDL --------------------------------------------------------------------------------------
def asked_ddl(tree: exp.Expr) -> tuple[str, list[exp.Expr]] | None:
    """The column's name and the arguments when the statement is SELECT GET_DDL(…) and nothing else.

    Raises SqlError for GET_DDL in any other place.
    """
    calls = [n for n in tree.find_all(exp.Anonymous) if str(n.this).upper() == "GET_DDL"]
    if not calls:
        return None
    extra = any(v for k, v in tree.args.items() if k not in {"expressions", "kind"})
    if not isinstance(tree, exp.Select) or extra or [e.unalias() for e in tree.selects] != calls:
        raise not_modelled("GET_DDL inside a larger statement")
    return tree.selects[0].alias_or_name, list(calls[0].expressions)


def get_ddl(
    arguments: Sequence[exp.Expr],
    account: Account,
    connection: FakeSnowflakeConnection,
    roles: frozenset[str],
) -> str:
    """The text of a view. Nobody but its owner sees that of a secure one. Raises SqlError."""
    literals = [a for a in arguments[:2] if isinstance(a, exp.Literal) and a.is_string]
    if len(literals) != 2 or len(arguments) > 3:
        raise bad_value("GET_DDL")
    if literals[0].name.upper() != "VIEW":
        raise not_modelled(f"GET_DDL of a {literals[0].name.upper()[:40]}")
    if len(arguments) == 3 and not isinstance(arguments[2], exp.Boolean):
        raise bad_value("GET_DDL")
    given = literals[1].name
    try:
        table = exp.maybe_parse(given, into=exp.Table, dialect="snowflake")
    except SqlglotError:
        raise syntax(given[:40]) from None
    name = full_name(table, connection.database, connection.schema)
    on = Securable(Kind.TABLE, name)
    with account.lock:
        view = account.views.get(name)
        open_ = account.visible(roles, on) and account.holds(roles, on, "SELECT", "REFERENCES")
        if view is None or not open_ or (view.secure and not account.owns(roles, on)):
            raise no_such_object("View", given)
    qualified = len(arguments) == 3 and bool(arguments[2].this)
    text = text_of(view, name[2])
    if not qualified:
        return text
    path = ".".join(_quoted(p) for p in name)
    return text.replace(f"view {_quoted(name[2])}(", f"view {path}(", 1)


# -- SHOW -----------------------------------------------------------------------------------------
def fill_views(listed: Table, account: Account, roles: frozenset[str]) -> Table:
    """SHOW VIEWS with what the account knows of each view; TERSE lists no more than names."""
    if "text" not in listed.data.column_names:
        return listed
    rows: list[list[Any]] = []
    with account.lock:
        for found in listed.data.to_pylist():
            name = (found["database_name"], found["schema_name"], found["name"])
            on, view = Securable(Kind.TABLE, name), account.views.get(name)
            if view is None:
                continue
            hidden = view.secure and not account.owns(roles, on)
            facts = {
                **found,
                "created_on": view.created_on,
                "owner": account.owners.get(on, ""),
                "comment": view.comment,
                "text": "" if hidden else text_of(view, name[2]),
                "is_secure": "true" if view.secure else "false",
                "is_materialized": "false",
            }
            rows.append([facts.get(c) for c in _SHOWN])
    return text_table(_SHOWN, rows, ["created_on"])


def fill_sizes(listed: Table, sizes: dict[tuple[str, str, str], int]) -> Table:
    """SHOW TABLES with the number of rows; the bytes are made up of it, for the engine keeps none."""
    names = listed.data.column_names
    if "rows" not in names or "bytes" not in names:
        return listed
    columns = [listed.data.column(c).to_pylist() for c in ("database_name", "schema_name", "name")]
    counts = [sizes.get((str(d), str(s), str(n)), 0) for d, s, n in zip(*columns, strict=True)]
    data = listed.data
    for column, values in (("rows", counts), ("bytes", [c * 1024 for c in counts])):
        at = names.index(column)
        kind = data.schema.field(at).type
        data = data.set_column(at, data.schema.field(at), pa.array(values).cast(kind))
    return Table(listed.columns, data)
