"""User-defined scalar functions in SQL: kept as text, written into the statements that call them.

The body runs with its owner's rights, its table names are looked for in the function's own schema, and a
caller needs USAGE on function, schema and database and nothing on what the body reads.
https://docs.snowflake.com/en/developer-guide/udf/sql/udf-sql-introduction

Of Python, one form only is modelled, and never executed: a handler that returns secrets.token_hex(N).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlglot import exp
from sqlglot.dialects.snowflake import Snowflake
from sqlglot.errors import SqlglotError

from hoop_core.devstack.emulator import authorise
from hoop_core.devstack.emulator.accounts import Account, Kind, Securable
from hoop_core.devstack.emulator.errors import SqlError, not_modelled, syntax

Name = tuple[str, str, str]
_TOKEN_HEX = re.compile(
    r"import secrets\s+def (?P<name>\w+)\(\):\s+return secrets\.token_hex\((?P<bytes>\d{1,3})\)\Z"
)


@dataclass(frozen=True, slots=True)
class Function:
    """`random_bytes` is above 0 for the one Python form; else `body` is an SQL expression."""

    name: Name
    arguments: tuple[tuple[str, str], ...]
    returns: str
    body: str = field(repr=False)
    random_bytes: int = 0

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(type_ for _, type_ in self.arguments)


def random_bytes(body: str, handler: str) -> int:
    """How many bytes the one Python handler that is modelled asks for. Raises SqlError."""
    match = _TOKEN_HEX.match(body.strip())
    if match is None or match["name"] != handler:
        raise not_modelled("Python handlers other than secrets.token_hex")
    return int(match["bytes"])


def expression(body: str) -> exp.Expr:
    """The body's tree. Raises SqlError."""
    try:
        trees = Snowflake().parse(f"SELECT {body}")
    except SqlglotError:
        raise syntax("<function body>") from None
    tree = trees[0] if len(trees) == 1 else None
    plain = isinstance(tree, exp.Select) and len(tree.expressions) == 1
    if not plain or tree is None or any(v for k, v in tree.args.items() if k != "expressions"):
        raise not_modelled("function bodies that are no expression")
    found: exp.Expr = tree.expressions[0]
    return found


def call_name(node: exp.Expr) -> tuple[tuple[str, ...], exp.Anonymous] | None:
    """The parts of a call of a function that the dialect does not know, and the call itself."""
    if isinstance(node.parent, exp.Dot):
        return None
    parts: list[str] = []
    inner: exp.Expr = node
    last = node.expression if isinstance(node, exp.Dot) else node
    if not isinstance(last, exp.Anonymous):
        return None
    parts.append(str(last.this).upper())
    while isinstance(inner, exp.Dot):
        inner = inner.this
        step = inner.expression if isinstance(inner, exp.Dot) else inner
        if not isinstance(step, exp.Identifier):
            return None
        parts.append(authorise.stored(step))
    return tuple(reversed(parts)), last


def written_in(
    tree: exp.Expr,
    account: Account,
    roles: frozenset[str],
    place: tuple[str | None, str | None],
    depth: int = 0,
) -> exp.Expr:
    """The statement with every call of a user-defined function replaced by what it stands for.

    Raises SqlError 002140 for a qualified name that is not there or not granted.
    """

    def replace(node: exp.Expr) -> exp.Expr:
        named = call_name(node)
        if named is None:
            return node
        parts, call = named
        function = _found(parts, account, roles, place)
        if function is None:
            return node
        return _inlined(function, call, account, depth)

    return tree.transform(replace)


def _found(
    parts: tuple[str, ...],
    account: Account,
    roles: frozenset[str],
    place: tuple[str | None, str | None],
) -> Function | None:
    if len(parts) > 3:
        return None
    missing = 3 - len(parts)
    name = (*(p or "" for p in place[:missing]), *parts)
    with account.lock:
        function = account.functions.get((name[0], name[1], name[2]))
        usable = (
            function is not None
            and account.reachable(roles, name[0], name[1])
            and account.holds(roles, Securable(Kind.FUNCTION, name), "USAGE")
        )
    if usable:
        return function
    if len(parts) == 1:
        return None
    text = f"SQL compilation error:\nUnknown user-defined function {'.'.join(parts)}"
    raise SqlError("002140", "42601", text)


def _inlined(function: Function, call: exp.Anonymous, account: Account, depth: int) -> exp.Expr:
    given = call.expressions
    if len(given) != len(function.arguments) or depth > 8:
        text = (
            "SQL compilation error:\nInvalid argument types for function "
            f"'{function.name[2]}': {len(given)} argument(s)"
        )
        raise SqlError("001044", "42P13", text)
    if function.random_bytes:
        if call.find_ancestor(exp.Select) is None or _reads_rows(call):
            raise not_modelled("a Python function over rows")
        return exp.Literal.string(secrets.token_hex(function.random_bytes))
    owner = account.inherited([account.owners[Securable(Kind.FUNCTION, function.name)]])
    place = function.name[:2]
    body = expression(function.body)
    _authorise(body, account, owner, place)
    values = {
        name: exp.cast(value.copy(), type_)
        for (name, type_), value in zip(function.arguments, given, strict=True)
    }
    filled = _filled(body, values, place)
    nested = written_in(filled, account, owner, place, depth + 1)
    return exp.cast(exp.paren(nested), function.returns)


def _reads_rows(call: exp.Expr) -> bool:
    select = call.find_ancestor(exp.Select)
    return select is not None and select.args.get("from_") is not None


def _authorise(
    body: exp.Expr, account: Account, owner: frozenset[str], place: tuple[str, str]
) -> None:
    authorise.check(authorise.plan(exp.select(body.copy()), *place), account, owner)


def _filled(body: exp.Expr, values: Mapping[str, exp.Expr], place: tuple[str, str]) -> exp.Expr:
    """Arguments for their names, and tables with the function's own database and schema.

    Inside a subquery an argument would make it a correlated one, which the service refuses too.
    """
    outer = exp.select(body.copy())
    for table in outer.find_all(exp.Table):
        full = authorise.full_name(table, *place)
        for key, part in zip(("catalog", "db", "this"), full, strict=True):
            table.set(key, exp.to_identifier(part, quoted=True))
    for column in list(outer.find_all(exp.Column)):
        name = authorise.stored(column.this)
        if column.table or name not in values:
            continue
        if column.find_ancestor(exp.Select) is not outer:
            text = "SQL compilation error:\nUnsupported subquery type cannot be evaluated"
            raise SqlError("002031", "42601", text)
        column.replace(values[name].copy())
    filled: exp.Expr = outer.expressions[0]
    return filled
