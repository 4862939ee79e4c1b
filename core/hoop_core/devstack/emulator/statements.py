"""What is done to a data statement between its text and the engine.

Context functions become literals, SYSTEM$WAIT is taken out and waited for, INFORMATION_SCHEMA is
narrowed to what the roles may see, and unnamed result columns get Snowflake's names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
from sqlglot import exp
from sqlglot.dialects.snowflake import Snowflake
from sqlglot.tokenizer_core import Token, TokenType

from hoop_core.devstack.emulator.accounts import Account, Kind, Securable
from hoop_core.devstack.emulator.authorise import INFORMATION_SCHEMA, full_name, stored
from hoop_core.devstack.emulator.errors import SqlError, bad_value, not_modelled
from hoop_core.devstack.emulator.results import Table
from hoop_core.devstack.emulator.sessions import Session

_UNITS = {
    "DAYS": 86400.0,
    "HOURS": 3600.0,
    "MINUTES": 60.0,
    "SECONDS": 1.0,
    "MILLISECONDS": 0.001,
}
_ENGINE_ONLY = frozenset(
    {
        "CURRENT_CONNECTION_ID",
        "CURRENT_QUERY",
        "CURRENT_QUERY_ID",
        "CURRENT_SETTING",
        "CURRENT_TRANSACTION_ID",
        "CURRVAL",
        "ERROR",
        "GETENV",
        "GETVARIABLE",
        "IN_SEARCH_PATH",
        "NEXTVAL",
        "PG_GET_VIEWDEF",
        "PG_TYPEOF",
        "SETSEED",
        "TXID_CURRENT",
        "VERSION",
        "WRITE_LOG",
    }
)
"""DuckDB's functions that Snowflake does not have and that tell about the engine."""

_OPENING = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE}
_CLOSING = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE}
_LIST_ENDS = {
    TokenType.FROM,
    TokenType.WHERE,
    TokenType.UNION,
    TokenType.EXCEPT,
    TokenType.INTERSECT,
    TokenType.ORDER_BY,
    TokenType.GROUP_BY,
    TokenType.HAVING,
    TokenType.QUALIFY,
    TokenType.LIMIT,
    TokenType.FETCH,
    TokenType.SEMICOLON,
}
_LOCAL_TIME = ("TIMESTAMPLTZ",)


@dataclass(frozen=True, slots=True)
class Context:
    """What the context functions tell."""

    account: Account
    session: Session
    roles: frozenset[str]
    sql: str


def count(tokens: list[Token]) -> int:
    """How many statements the text holds."""
    found, filled = 0, False
    for token in tokens:
        if token.token_type is TokenType.SEMICOLON:
            found, filled = found + filled, False
        else:
            filled = True
    return found + filled


def redacted(sql: str, tokens: list[Token]) -> str:
    """The text for the history, without passwords."""
    out, at = [], 0
    for before, equals, value in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if before.text.upper() == "PASSWORD" and equals.text == "=":
            out += [sql[at : value.start], "'*****'"]
            at = value.end + 1
    return "".join([*out, sql[at:]])


# -- SYSTEM$WAIT ----------------------------------------------------------------------------------
def take_waits(tree: exp.Expr) -> tuple[exp.Expr, float]:
    """Replaces SYSTEM$WAIT(…) by its answer and returns the seconds to wait."""
    total = 0.0

    def replace(node: exp.Expr) -> exp.Expr:
        nonlocal total
        if isinstance(node, exp.Anonymous) and str(node.this).upper() == "SYSTEM$WAIT":
            seconds, text = _wait(node.expressions)
            total += seconds
            return exp.Literal.string(text)
        return node

    return tree.transform(replace), total


def _wait(arguments: list[exp.Expr]) -> tuple[float, str]:
    if not 1 <= len(arguments) <= 2 or not all(isinstance(a, exp.Literal) for a in arguments):
        raise bad_value("SYSTEM$WAIT")
    unit = arguments[1].name.upper() if len(arguments) == 2 else "SECONDS"
    try:
        amount = float(arguments[0].name)
    except ValueError:
        raise bad_value("SYSTEM$WAIT") from None
    if unit not in _UNITS or amount < 0:
        raise bad_value("SYSTEM$WAIT")
    return amount * _UNITS[unit], f"waited {arguments[0].name} {unit.lower()}"


def called(tree: exp.Expr) -> str | None:
    """The argument text of CALL, which the parser leaves alone."""
    if isinstance(tree, exp.Command) and str(tree.this).upper() == "CALL":
        return str(tree.expression.name if tree.expression else "")
    return None


def result_scan(tree: exp.Expr) -> exp.Expr | None:
    """The argument, when the statement is exactly SELECT * FROM TABLE(RESULT_SCAN(…)).

    Raises SqlError for RESULT_SCAN in any other place.
    """
    scans = [
        n
        for n in tree.find_all(exp.TableFromRows)
        if isinstance(n.this, exp.Anonymous) and str(n.this.this).upper() == "RESULT_SCAN"
    ]
    if not scans:
        return None
    simple = (
        isinstance(tree, exp.Select)
        and [type(e) for e in tree.expressions] == [exp.Star]
        and {k for k, v in tree.args.items() if v} <= {"expressions", "from_", "kind"}
        and len(scans[0].this.expressions) == 1
    )
    if not simple or len(scans) != 1:
        raise not_modelled("RESULT_SCAN inside a larger statement")
    argument: exp.Expr = scans[0].this.expressions[0]
    return argument


# -- names and context ----------------------------------------------------------------------------
def name_columns(tree: exp.Expr, sql: str) -> None:
    """Unnamed projections are named by their own text in upper case, as Snowflake does."""
    if not isinstance(tree, exp.Query):
        return
    outer: exp.Expr = tree
    while isinstance(outer, exp.SetOperation | exp.Subquery):
        outer = outer.this
    if not isinstance(outer, exp.Select):
        return
    texts = _projection_texts(sql)
    given = texts if len(texts) == len(outer.expressions) else None
    for i, projection in enumerate(list(outer.expressions)):
        if isinstance(projection, exp.Column | exp.Alias | exp.Star | exp.Dot | exp.Aliases):
            continue
        name = given[i] if given else projection.sql(dialect="snowflake", comments=False)
        # A bare keyword as an alias would stand for itself in DuckDB.
        if not name.upper().startswith("CURRENT_") or name.endswith(")"):
            named = exp.alias_(projection.copy(), name.upper(), quoted=True)
            outer.expressions[i].replace(named)


def _projection_texts(sql: str) -> list[str]:
    """The texts of the outermost SELECT's projections; empty where they are not plain to see."""
    found: list[str] = []
    depth, start, last = 0, -1, -1
    skipping = False
    for token in Snowflake().tokenize(sql):
        kind = token.token_type
        depth += (kind in _OPENING) - (kind in _CLOSING)
        if start < 0:
            if depth == 0 and kind is TokenType.SELECT:
                start, skipping = 0, True
            continue
        if skipping and kind in (TokenType.DISTINCT, TokenType.ALL):
            continue
        if depth == 0 and (kind in _LIST_ENDS or kind is TokenType.COMMA):
            found.append(sql[start:last])
            if kind is not TokenType.COMMA:
                return found
            skipping = True
            continue
        if skipping:
            start, skipping = token.start, False
        last = token.end + 1
    return [*found, sql[start:last]] if start >= 0 and last >= start else []


def _text(value: str | None) -> exp.Expr:
    return exp.Null() if value is None else exp.Literal.string(value)


def _values(c: Context) -> dict[type[exp.Expr], Callable[[], str | None]]:
    s = c.session
    return {
        exp.CurrentUser: lambda: s.user.name,
        exp.CurrentRole: lambda: s.role,
        exp.CurrentRoleType: lambda: "ROLE",
        exp.CurrentWarehouse: lambda: s.warehouse,
        exp.CurrentDatabase: lambda: s.connection.database,
        exp.CurrentSchema: lambda: s.connection.schema,
        exp.CurrentSession: lambda: str(s.id),
        exp.CurrentAccount: lambda: c.account.name,
        exp.CurrentAccountName: lambda: c.account.name,
        exp.CurrentOrganizationName: lambda: "HOOP",
        exp.CurrentRegion: lambda: "LOCAL",
        exp.CurrentClient: lambda: s.application,
        exp.CurrentStatement: lambda: c.sql,
        exp.CurrentIpAddress: lambda: "127.0.0.1",
        exp.CurrentSecondaryRoles: lambda: _secondary(c),
        exp.CurrentAvailableRoles: lambda: _json_list(sorted(c.account.granted_to(s.user))),
        exp.SessionUser: lambda: s.user.name,
    }


def _secondary(c: Context) -> str:
    if not c.session.secondary:
        return '{"roles":"","value":""}'
    names = ",".join(sorted(c.account.granted_to(c.session.user) - {c.session.role, "PUBLIC"}))
    return f'{{"roles":"{names}","value":"ALL"}}'


def _json_list(names: list[str]) -> str:
    return "[ " + ", ".join(f'"{n}"' for n in names) + " ]"


def fill_context(tree: exp.Expr, context: Context) -> exp.Expr:
    values = _values(context)

    def replace(node: exp.Expr) -> exp.Expr:
        if (value := values.get(type(node))) is not None:
            return _text(value())
        if isinstance(node, exp.Anonymous):
            name = str(node.this).upper()
            if name == "LAST_QUERY_ID" and not node.expressions:
                return _text(context.session.last_query_id)
            if name == "IS_ROLE_IN_SESSION" and len(node.expressions) == 1:
                return exp.Boolean(this=node.expressions[0].name in context.roles)
            if name.startswith("SYSTEM$") or name in _ENGINE_ONLY:
                raise SqlError(
                    "002140", "42601", f"SQL compilation error:\nUnknown function {name}"
                )
        return node

    return tree.transform(replace)


def check_case(tree: exp.Expr, columns: set[str]) -> None:
    """DuckDB ignores the case of names; Snowflake does not. Raises SqlError 000904."""
    given = {stored(i) for a in tree.find_all(exp.Alias) for i in [a.args.get("alias")]}
    for alias in tree.find_all(exp.TableAlias):
        given.update(stored(c) for c in alias.args.get("columns") or [])
    folded = {c.upper() for c in columns}
    for column in tree.find_all(exp.Column):
        name = stored(column.this)
        if name not in columns and name not in given and name.upper() in folded:
            text = f"SQL compilation error: error line 1\ninvalid identifier '\"{name}\"'"
            raise SqlError("000904", "42000", text)


def quotes_lower_case(tree: exp.Expr) -> bool:
    return any(
        isinstance(c.this, exp.Identifier)
        and c.this.args.get("quoted")
        and c.name != c.name.upper()
        for c in tree.find_all(exp.Column)
    )


def local_time_columns(tree: exp.Expr) -> set[str]:
    """The output columns that are TIMESTAMP_LTZ by what the outermost SELECT says."""
    found: set[str] = set()
    if isinstance(tree, exp.Query):
        for projection in tree.selects:
            inner = projection.unalias()
            cast = isinstance(inner, exp.Cast) and inner.to.this.value in _LOCAL_TIME
            if cast or isinstance(inner, exp.CurrentTimestamp | exp.CurrentTimestampLTZ):
                alias = projection.args.get("alias")
                found.add(stored(alias) if alias is not None else projection.output_name)
    return found


def like_as_select(tree: exp.Expr) -> exp.Expr:
    """CREATE TABLE … LIKE, in words that the engine knows."""
    like = tree.find(exp.LikeProperty) if isinstance(tree, exp.Create) else None
    if like is None:
        return tree
    made = tree.copy()
    source = exp.select("*").from_(like.this.copy()).where(exp.false())
    made.set("properties", None)
    made.set("expression", source)
    return made


def declared_local_time(tree: exp.Expr) -> set[str]:
    """The columns that a CREATE TABLE declares as TIMESTAMP_LTZ."""
    return {
        stored(c.this)
        for c in tree.find_all(exp.ColumnDef)
        if c.kind is not None and c.kind.this.value in _LOCAL_TIME
    }


# -- what the roles may see -----------------------------------------------------------------------
def narrow_information_schema(tree: exp.Expr, context: Context) -> exp.Expr:
    """Each INFORMATION_SCHEMA view shows only the objects that the roles have a privilege on."""
    connection = context.session.connection
    database, schema = connection.database, connection.schema
    for table in list(tree.find_all(exp.Table)):
        if len(table.parts) < 2 or stored(table.parts[-2]) != INFORMATION_SCHEMA:
            continue
        name = full_name(table, database, schema)
        alias = table.args.get("alias")
        source = exp.table_(name[2], db=INFORMATION_SCHEMA, catalog=name[0])
        inner = exp.select("*").from_(source).where(_visible(name, context))
        if alias is None:
            alias = exp.TableAlias(this=exp.to_identifier(name[2]))
        table.replace(exp.Subquery(this=inner, alias=alias.copy()))
    return tree


def _visible(view: tuple[str, str, str], context: Context) -> exp.Expr:
    account, roles = context.account, context.roles
    if view[2] == "SCHEMATA":
        names = [
            s.name[1]
            for s in account.owners
            if s.kind is Kind.SCHEMA and s.name[0] == view[0] and account.visible(roles, s)
        ]
        column: exp.Expr = exp.column("SCHEMA_NAME")
    else:
        on = Securable(Kind.DATABASE, (view[0],))
        names = [".".join(s.name[1:]) for s in account.inside(on) if account.visible(roles, s)]
        joined = exp.DPipe(this=exp.column("TABLE_SCHEMA"), expression=exp.Literal.string("."))
        column = exp.DPipe(this=joined, expression=exp.column("TABLE_NAME"))
    return exp.In(this=column, expressions=[exp.Literal.string(n) for n in ["", *names]])


_SHOW_KEYS: dict[str, tuple[str, ...]] = {
    "DATABASES": ("name",),
    "SCHEMAS": ("database_name", "name"),
    "TABLES": ("database_name", "schema_name", "name"),
    "VIEWS": ("database_name", "schema_name", "name"),
    "OBJECTS": ("database_name", "schema_name", "name"),
    "COLUMNS": ("database_name", "schema_name", "table_name"),
}


def shown_kind(tree: exp.Show) -> str:
    """Raises SqlError for what cannot be narrowed to the role's objects."""
    kind = str(tree.name).upper()
    if kind not in _SHOW_KEYS:
        raise not_modelled(f"SHOW {kind}")
    return kind


def narrow_show(table: Table, kind: str, context: Context) -> Table:
    """Keeps the rows of a SHOW that the roles may see."""
    keys = _SHOW_KEYS[kind]
    securable = (Kind.DATABASE, Kind.SCHEMA, Kind.TABLE)[len(keys) - 1]
    columns = [table.data.column(k).to_pylist() for k in keys]
    account, roles = context.account, context.roles
    with account.lock:
        keep: list[Any] = [
            account.visible(roles, Securable(securable, tuple(str(p) for p in parts)))
            for parts in zip(*columns, strict=True)
        ]
    if not keep:
        return table
    kept = table.data.take(pc.indices_nonzero(keep))
    return Table(table.columns, kept)
