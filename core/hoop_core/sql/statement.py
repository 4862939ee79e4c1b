"""From a text to what it does: kind, tables read and written, functions, facts. No policy here.

The order matters: caps on tokens, then our own grammar for session statements, then the parser, then
allowlists of nodes and functions, then names. The first thing that is not understood refuses the whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlglot import Token, exp
from sqlglot.errors import ParseError, SqlglotError

from hoop_core.model import Kind, NameContext, Statement, TableName
from hoop_core.sql import functions, nodes
from hoop_core.sql.commands import Command, read_command
from hoop_core.sql.dialect import SNOWFLAKE
from hoop_core.sql.limits import DEFAULT, Limits, Scan, scan
from hoop_core.sql.loading import Loading, written
from hoop_core.sql.loading_reader import read_loading
from hoop_core.sql.metadata import NAMES as METADATA
from hoop_core.sql.names import fold, resolve, resolve_parts
from hoop_core.sql.refusals import refuse
from hoop_core.sql.shape import UNBOUNDED, Shape, shape_of


@dataclass(frozen=True, slots=True)
class TableRef:
    """A place where a base table is named: characters `start`..`end` (inclusive) of the text."""

    node: exp.Table = field(repr=False)
    table: TableName
    written: bool
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class QualifiedColumn:
    """A column written with its schema (`s.t.c`): `start` of the first part, `short` of the table part."""

    table: TableName
    start: int
    short: int


@dataclass(frozen=True, slots=True)
class CteName:
    """A common table expression, and the table that its bare name would mean without it."""

    name: str
    shadows: TableName | None
    recursive: bool


@dataclass(frozen=True, slots=True)
class Analysis:
    """A Statement and what the rewriter needs. `tree` is None for session statements; never mutated."""

    statement: Statement
    tables: tuple[TableName, ...]
    text: Scan = field(repr=False)
    tree: exp.Expr | None = field(repr=False)
    kinds: list[type[exp.Expr]] = field(repr=False)
    """The classes of all nodes of the tree, level by level."""
    refs: tuple[TableRef, ...] = field(repr=False)
    columns: tuple[QualifiedColumn, ...] = field(repr=False)
    ctes: tuple[CteName, ...] = field(repr=False)
    command: Command | None = field(repr=False, default=None)

    @property
    def tokens(self) -> tuple[Token, ...]:
        return self.text.tokens

    @property
    def words(self) -> list[str]:
        """The characters of each token; white space inside `GROUP   BY` is one space."""
        return [piece[1:] if piece[0] == " " else piece for piece in self.text.pieces]


def analyse(sql: str, names: NameContext, limits: Limits = DEFAULT) -> Analysis:
    """Understand one statement, or refuse it.

    Raises StatementRefused; `reason` is one of the codes that the modules of `hoop_core.sql` name.
    """
    sql = sql.removeprefix("\ufeff")  # editors put it before a file's first character
    loading = read_loading(sql, names, limits)
    if loading is not None:
        return _of_loading(sql, loading, names)
    text = scan(sql, limits)
    try:
        command = read_command(text.tokens, names)
        if command is not None:
            return _of_command(text, command, names)
        return _of_tree(text, _parse(sql, text.tokens), names, limits)
    except RecursionError:
        raise refuse(
            "TOO_DEEP",
            "The statement is nested too deeply to be analysed.",
            "Split it with common table expressions or temporary tables.",
        ) from None


def _parse(sql: str, tokens: Sequence[Token]) -> exp.Expr:
    try:
        trees = SNOWFLAKE.parser().parse(list(tokens), sql)
    except ParseError as e:
        first = e.errors[0] if e.errors else {}
        where = f" near line {first['line']}, column {first['col']}" if "line" in first else ""
        raise refuse(
            "UNPARSEABLE",
            f"The statement is not Snowflake SQL that Hoop understands{where}.",
            "Check the syntax; Snowflake Scripting and administrative statements are not served.",
        ) from None
    except SqlglotError:
        raise refuse("UNPARSEABLE", "The statement is not SQL that Hoop understands.") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        # some of the parser's builders do not expect a call with too few arguments
        raise refuse(
            "UNPARSEABLE",
            "The statement is not SQL that Hoop understands.",
            "Check the number of arguments in its function calls.",
        ) from None
    found = [t for t in trees if t is not None and not isinstance(t, exp.Semicolon)]
    if len(found) != 1:
        raise refuse(
            "MULTI_STATEMENT",
            "The text holds more than one statement.",
            "Send one statement at a time.",
        )
    return found[0]


def _of_command(text: Scan, command: Command, names: NameContext) -> Analysis:
    reads = () if command.table is None else (command.table,)
    statement = Statement(
        sql=text.sql,
        kind=command.kind,
        names=names,
        reads=reads,
        writes=(),
        functions=(),
        facts={**_NO_FACTS, **command.facts},
        fingerprint=fingerprint(text.canonical, names),
    )
    return Analysis(statement, reads, text, None, [], (), (), (), command)


def _of_loading(sql: str, loading: Loading, names: NameContext) -> Analysis:
    """What is executed is written from what was understood: its one piece is the whole text."""
    writes = written(loading)
    statement = Statement(
        sql=sql,
        kind=loading.kind,
        names=names,
        reads=(),
        writes=writes,
        functions=(),
        facts=_NO_FACTS,
        fingerprint=fingerprint(loading.sql, names),
    )
    return Analysis(statement, writes, Scan(sql, (), (loading.sql,)), None, [], (), (), ())


def _of_tree(text: Scan, tree: exp.Expr, names: NameContext, limits: Limits) -> Analysis:
    shape = shape_of(tree)
    found = nodes.inspect(tree, shape.allowed)
    if len(found.tables) > limits.max_table_reads:
        raise refuse(
            "TOO_MANY_READS",
            f"The statement names {len(found.tables)} tables; at most {limits.max_table_reads} are "
            "analysed.",
            "Split the statement.",
        )
    listed = found.listed_names | {nodes.place(shape.target and shape.target.this)}
    called = functions.calls(text.tokens, listed - {-1})
    if found.calls:
        raise found.calls[0]
    refs, recursive = _table_refs(found.tables, shape, names)
    reads = tuple(sorted({r.table for r in refs if not r.written}))
    writes = tuple(sorted({r.table for r in refs if r.written}))
    statement = Statement(
        sql=text.sql,
        kind=shape.kind,
        names=names,
        reads=reads,
        writes=writes,
        functions=tuple(sorted(set(called))),
        facts={
            **_NO_FACTS,
            **shape.facts,
            "table_reads": sum(not r.written for r in refs),
            "cross_database": len({t.database for t in (*reads, *writes)}) > 1,
        },
        fingerprint=fingerprint(text.canonical, names),
    )
    return Analysis(
        statement,
        tuple(sorted({*reads, *writes})),
        text,
        tree,
        found.kinds,
        refs,
        _qualified_columns(found.qualified_columns, names),
        _ctes(found.ctes, names, recursive),
    )


_NO_FACTS: dict[str, bool | int] = {
    "has_where": False,
    "has_limit": False,
    "limit_rows": UNBOUNDED,
    "is_unbounded": False,
    "replaces": False,
    "if_exists": False,
    "temporary": False,
    "table_reads": 0,
    "cross_database": False,
}
FACT_NAMES = tuple(_NO_FACTS)


def fingerprint(text: str, names: NameContext) -> str:
    """SHA-256 (hex) of the canonical token text and the name context."""
    parts = (names.database or "", names.schema or "", text)
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def _end(identifier: object) -> int:
    return int(identifier.meta.get("end", -1)) if isinstance(identifier, exp.Identifier) else -1


def _table_refs(
    tables: Sequence[exp.Table], shape: Shape, names: NameContext
) -> tuple[tuple[TableRef, ...], frozenset[int]]:
    """The base tables in the text, and the ids of CTEs that refer to themselves."""
    refs: list[TableRef] = []
    recursive: set[int] = set()
    for node in tables:
        written = node is shape.target
        if written:
            nodes.only(node, "this db catalog alias")
        else:
            cte, own = visible_cte(node)
            if own:
                recursive.add(id(cte))
            if cte is not None:
                nodes.only(node, "this alias joins laterals pivots sample")
                continue
        # INFORMATION_SCHEMA may be looked at, and not copied into tables for others to read
        readable = METADATA if shape.kind is Kind.SELECT else ()
        table = resolve(node, names, metadata=readable)
        parts = [node.this, node.args.get("db"), node.args.get("catalog")]
        spots = [(nodes.place(p), _end(p)) for p in parts if p is not None and nodes.place(p) >= 0]
        if not spots or nodes.place(node.this) < 0:
            raise refuse("INDIRECT_TABLE", "The place of a table name in the text is not known.")
        refs.append(
            TableRef(node, table, written, min(s for s, _ in spots), max(e for _, e in spots))
        )
    return tuple(refs), frozenset(recursive)


def visible_cte(table: exp.Table) -> tuple[exp.CTE | None, bool]:
    """The CTE that a bare name means here, and whether it is the one being defined.

    A name is visible after its definition, in later siblings and in the body. Inside its own definition
    it is visible only where Snowflake documents recursion, with or without the word RECURSIVE: in FROM or
    JOIN of the recursive clause, which follows the anchor's UNION ALL
    (https://docs.snowflake.com/en/sql-reference/constructs/with#recursive-ctes). Everything else is a base
    table, and is written fully qualified when executed.
    """
    if table.args.get("db") or table.args.get("catalog"):
        return None, False
    name = fold(table.this)
    child: exp.Expr = table
    parent = table.parent
    inside: exp.CTE | None = None
    while parent is not None:
        if isinstance(parent, exp.With):
            inside = child if isinstance(child, exp.CTE) else None
        with_ = parent.args.get("with_")
        if isinstance(with_, exp.With):
            found = _in_with(with_, name, table, inside if child is with_ else None)
            if found[0] is not None:
                return found
        child, parent = parent, parent.parent
    return None, False


def _in_with(
    with_: exp.With, name: str, table: exp.Table, inside: exp.CTE | None
) -> tuple[exp.CTE | None, bool]:
    match: exp.CTE | None = None
    for cte in with_.expressions:
        if inside is not None and cte is inside:
            own = fold(inside.args["alias"].this) == name
            return (inside, True) if own and _recurs(inside, table) else (match, False)
        if fold(cte.args["alias"].this) == name:
            match = cte
    return match, False


def _recurs(cte: exp.CTE, table: exp.Table) -> bool:
    """Whether a table stands in FROM or JOIN of the recursive clause itself, not of a query inside it."""
    union = cte.this
    if not isinstance(union, exp.Union) or union.args.get("distinct") is not False:
        return False
    clause = union.expression
    while isinstance(clause, exp.Subquery):
        clause = clause.this
    source = table.parent
    return isinstance(source, exp.From | exp.Join) and source.parent is clause


def _ctes(
    ctes: Sequence[exp.CTE], names: NameContext, recursive: frozenset[int]
) -> tuple[CteName, ...]:
    found = []
    for cte in ctes:
        name = fold(cte.args["alias"].this)
        known = names.database is not None and names.schema is not None
        shadows = TableName(names.database or "", names.schema or "", name) if known else None
        found.append(CteName(name, shadows, id(cte) in recursive))
    return tuple(found)


def _qualified_columns(
    columns: Sequence[exp.Column], names: NameContext
) -> tuple[QualifiedColumn, ...]:
    found = []
    for column in columns:
        catalog, db, table = (column.args.get(p) for p in ("catalog", "db", "table"))
        parts = tuple(fold(p) for p in (catalog, db, table) if p)
        starts = [s for s in (nodes.place(catalog), nodes.place(db)) if s >= 0]
        if not starts or nodes.place(table) < 0:
            raise refuse("INDIRECT_NAME", "The place of a column name in the text is not known.")
        of = resolve_parts(parts, names, metadata=METADATA)
        found.append(QualifiedColumn(of, min(starts), nodes.place(table)))
    return tuple(found)
