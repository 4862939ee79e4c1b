"""The last look at the text before it is sent. Shares no code with the rewriter.

It starts from the bytes that will be executed, parses them anew, and accepts them only if every pass
holds. What the passes need to know comes from the decision (plans, tables) and from the caller's own
statement, never from the rewriter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from sqlglot import Token, TokenType, exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ErrorLevel, SqlglotError

from hoop_core.masking.masks import INNER, ColumnPlan, MaskName, TablePlan
from hoop_core.model import NameContext, Statement, TableName
from hoop_core.sql.refusals import refuse

_DIALECT = Dialect.get_or_raise("snowflake")


@dataclass(frozen=True, slots=True)
class Sent:
    """The text under examination, and what it has to live up to. The trees are never changed."""

    text: str
    tree: exp.Expr = field(repr=False)
    tokens: tuple[Token, ...] = field(repr=False)
    statement: Statement
    plans: Mapping[TableName, TablePlan] = field(repr=False)


def verify(text: str, *, statement: Statement, plans: Mapping[TableName, TablePlan]) -> None:
    """Raise StatementRefused (VERIFY_*) unless the text is exactly the masked form of the statement."""
    tokens = _tokens(text)
    sent = Sent(text, _tree(text, tokens), tokens, statement, plans)
    for check in PASSES:
        check(sent)


def _fail(code: str, what: str) -> Exception:
    return refuse(
        f"VERIFY_{code}",
        f"The rewritten statement did not pass verification: {what}.",
        "Nothing was executed. Simplify the statement, and report this text to Hoop's maintainers.",
    )


def _tokens(text: str) -> tuple[Token, ...]:
    try:
        return tuple(_DIALECT.tokenize(text))
    except SqlglotError:
        raise _fail("PARSE", "it cannot be split into words") from None


def _tree(text: str, tokens: tuple[Token, ...] | None = None) -> exp.Expr:
    """A tree of its own: parsing again is cheaper than copying."""
    try:
        trees = _DIALECT.parser().parse(list(_tokens(text) if tokens is None else tokens), text)
    except (SqlglotError, RecursionError):
        raise _fail("PARSE", "it cannot be parsed") from None
    if len(trees) != 1 or trees[0] is None:
        raise _fail("SINGLE", "it is not exactly one statement")
    return trees[0]


def _text(tree: exp.Expr) -> str:
    """sqlglot's own text of a tree that nobody needs afterwards: generating may change it."""
    return tree.sql(
        dialect=_DIALECT, comments=False, unsupported_level=ErrorLevel.IGNORE, copy=False
    )


# --- the passes -------------------------------------------------------------------------------------


def check_single(sent: Sent) -> None:
    """No comment and no separator in it: one statement, the whole of which was read."""
    if any(t.comments or t.token_type is TokenType.SEMICOLON for t in sent.tokens):
        raise _fail("SINGLE", "it holds a comment or a separator")


def check_fixpoint(sent: Sent) -> None:
    """The parser's reading is stable: its own text, parsed again, gives the same text.

    sqlglot renames a few functions in two steps (LOCALTIMESTAMP), so the second round may settle it.
    """
    once = _text(_tree(sent.text, sent.tokens))
    twice = _text(_tree(once))
    if twice != once and _text(_tree(twice)) != twice:
        raise _fail("FIXPOINT", "its reading is not stable")


def check_tables(sent: Sent) -> None:
    """Base tables are exactly the decided ones, each fully qualified; other names are CTEs in scope."""
    reads: set[TableName] = set()
    writes: set[TableName] = set()
    for node in sent.tree.find_all(exp.Table):
        parts = _parts(node)
        if len(parts) == 3:
            found = TableName(*parts)
            (writes if _is_target(node) else reads).add(found)
        elif len(parts) != 1 or not _in_scope(node, parts[0]):
            raise _fail("TABLES", "a table is not fully qualified")
    if reads != set(sent.statement.reads) or writes != set(sent.statement.writes):
        raise _fail("TABLES", "it names other tables than were decided upon")


def check_wrappers(sent: Sent) -> None:
    """Every protected table stands inside a subquery of the one exact shape."""
    for node in sent.tree.find_all(exp.Table):
        parts = _parts(node)
        plan = sent.plans.get(TableName(*parts)) if len(parts) == 3 else None
        if plan is not None and _wrapper_of(node, plan) is None:
            raise _fail("WRAPPER", f"{plan.table} is read outside its masking subquery")


def check_meaning(sent: Sent) -> None:
    """With the masking subqueries taken out again, it is the caller's own statement."""
    unwrapped = _tree(sent.text, sent.tokens)
    for node in list(unwrapped.find_all(exp.Table)):
        parts = _parts(node)
        plan = sent.plans.get(TableName(*parts)) if len(parts) == 3 else None
        if plan is not None:
            _unwrap(node, plan)
    if _text(unwrapped) != _text(_qualified_original(sent)):
        raise _fail("MEANING", "more than the masking has changed")


def check_tokens(sent: Sent) -> None:
    """On the bare tokens, without any tree: a protected name in full occurs only as the inner table."""
    protected = {(t.database, t.schema, t.name) for t in sent.plans}
    bare = {t.name for t in sent.plans}
    ctes = {c.alias_or_name.upper() for c in sent.tree.find_all(exp.CTE)}
    tokens = sent.tokens
    for i, token in enumerate(tokens):
        following = tokens[i + 1].token_type if i + 1 < len(tokens) else None
        if not _is_name(token) or following is TokenType.DOT:
            continue
        chain = _chain(tokens, i)
        if chain in protected and not _is_inner(tokens, i):
            raise _fail("TOKENS", f"{'.'.join(chain)} occurs outside its masking subquery")
        before = tokens[i - 1].text.upper() if i else ""
        alone = len(chain) == 1 and before in {"FROM", "JOIN", "UPDATE", "INTO", "USING", "TABLE"}
        if alone and chain[0] in bare and chain[0].upper() not in ctes:
            raise _fail("TOKENS", f"{chain[0]} occurs without its database and schema")


PASSES: tuple[Callable[[Sent], None], ...] = (
    check_single,
    check_fixpoint,
    check_tables,
    check_wrappers,
    check_meaning,
    check_tokens,
)


# --- names ------------------------------------------------------------------------------------------


def _stored(identifier: exp.Expr) -> str:
    if not isinstance(identifier, exp.Identifier):
        raise _fail("TABLES", "a table is named indirectly")
    name = str(identifier.this)
    return name if identifier.args.get("quoted") else name.upper()


def _parts(node: exp.Table) -> tuple[str, ...]:
    """The stored parts of a table node, outermost first."""
    given = (node.args.get("catalog"), node.args.get("db"), node.args.get("this"))
    return tuple(_stored(p) for p in given if p)


def _is_target(node: exp.Table) -> bool:
    holder = node.parent
    if isinstance(holder, exp.Schema):
        return isinstance(holder.parent, exp.Insert | exp.Create) and holder.arg_key == "this"
    if isinstance(
        holder, exp.Insert | exp.Update | exp.Delete | exp.Merge | exp.Create | exp.Alter
    ):
        return node.arg_key == "this"
    return isinstance(holder, exp.TruncateTable | exp.Drop)


def _in_scope(node: exp.Table, name: str) -> bool:
    """Some WITH around the node defines the name, before the place where the node stands.

    Inside its own definition a name counts only where the definition is recursive.
    """
    inside: exp.Expr = node
    outer = node.parent
    while outer is not None:
        visible: list[exp.Expr] = []
        if isinstance(outer, exp.With):
            at = next(i for i, cte in enumerate(outer.expressions) if cte is inside)
            recursive = bool(outer.args.get("recursive")) or _in_second_branch(node, inside)
            visible = outer.expressions[: at + 1 if recursive else at]
        elif isinstance(outer.args.get("with_"), exp.With) and outer.args["with_"] is not inside:
            visible = outer.args["with_"].expressions
        if any(_stored(cte.args["alias"].this) == name for cte in visible):
            return True
        inside, outer = outer, outer.parent
    return False


def _in_second_branch(node: exp.Expr, cte: exp.Expr) -> bool:
    """Whether the node stands in the right side of the set operation that is the definition."""
    union = cte.this
    if not isinstance(union, exp.SetOperation):
        return False
    at: exp.Expr | None = node
    while at is not None and at.parent is not union:
        at = at.parent
    return at is not None and at is union.expression


# --- wrappers ---------------------------------------------------------------------------------------


def _wrapper_of(node: exp.Table, plan: TablePlan) -> exp.Subquery | None:
    """The subquery around a protected table, if it has exactly the planned shape."""
    source = node.parent
    select = source.parent if isinstance(source, exp.From) else None
    subquery = select.parent if isinstance(select, exp.Select) else None
    if not isinstance(select, exp.Select) or not isinstance(subquery, exp.Subquery):
        return None
    exact = (
        _has_only(node, {"this", "db", "catalog", "alias", "when", "sample"})
        and all(node.args[p].args.get("quoted") for p in ("this", "db", "catalog"))
        and node.alias == INNER
        and not node.args["alias"].args.get("columns")
        and _has_only(select, {"expressions", "from_"})
        and _has_only(subquery, {"this", "alias", "joins", "laterals", "pivots"})
        and len(select.expressions) == len(plan.columns)
        and all(_shows(e, c) for e, c in zip(select.expressions, plan.columns, strict=True))
    )
    return subquery if exact else None


def _has_only(node: exp.Expr, allowed: set[str]) -> bool:
    return all(not value or name in allowed for name, value in node.args.items())


def _shows(shown: exp.Expr, column: ColumnPlan) -> bool:
    """Whether an expression of the wrapper is exactly what the plan says for the column."""
    if not isinstance(shown, exp.Alias):
        return False
    name = shown.args.get("alias")
    if not (
        isinstance(name, exp.Identifier) and name.args.get("quoted") and name.this == column.name
    ):
        return False
    if column.mask is None:
        return _is_raw(shown.this, column.name)
    if _text(shown.this.copy()) != _expected_text(column.sql):
        return False
    if column.mask in {MaskName.NULL, MaskName.CONSTANT}:
        # whatever the plan says: these two must not depend on the value, only on its being NULL
        return all(isinstance(c.parent, exp.Is) for c in shown.this.find_all(exp.Column))
    return not _is_raw(shown.this, column.name)


def _is_raw(node: exp.Expr, name: str) -> bool:
    if not isinstance(node, exp.Column) or not _has_only(node, {"this", "table"}):
        return False
    this, table = node.args.get("this"), node.args.get("table")
    return (
        isinstance(this, exp.Identifier)
        and bool(this.args.get("quoted"))
        and this.this == name
        and isinstance(table, exp.Identifier)
        and table.this == INNER
    )


@lru_cache(maxsize=2048)
def _expected_text(expression: str) -> str:
    tree = _DIALECT.parse(f"SELECT {expression}")[0]
    return "" if tree is None else _text(tree.expressions[0].copy())


# --- meaning ----------------------------------------------------------------------------------------


def _unwrap(node: exp.Table, plan: TablePlan) -> None:
    subquery = _wrapper_of(node, plan)
    if subquery is None:
        raise _fail("MEANING", f"the masking subquery of {plan.table} cannot be taken out")
    table = _full(plan.table)
    for name in ("when", "sample"):
        if node.args.get(name):
            table.set(name, node.args[name])
    for name in ("alias", "joins", "laterals", "pivots"):
        if subquery.args.get(name):
            table.set(name, subquery.args[name])
    subquery.replace(table)


def _full(table: TableName) -> exp.Table:
    database, schema, name = (
        exp.Identifier(this=p, quoted=True) for p in (table.database, table.schema, table.name)
    )
    return exp.Table(this=name, db=schema, catalog=database)


def _qualified_original(sent: Sent) -> exp.Expr:
    """The caller's statement with every base table spelled out, masked ones with their alias."""
    tree = _tree(sent.statement.sql)
    names = sent.statement.names
    for node in list(tree.find_all(exp.Table)):
        table = _meant(_spelled(node), names)
        bare = not node.args.get("db") and not node.args.get("catalog")
        if bare and _in_scope(node, table.name):
            continue
        full = _full(table)
        for name in ("this", "db", "catalog"):
            node.set(name, full.args[name])
        masked = table in sent.plans and not _is_target(node)
        if masked and not node.args.get("alias") and not node.args.get("pivots"):
            alias = exp.Identifier(this=table.name, quoted=True)
            node.set("alias", exp.TableAlias(this=alias))
    for column in list(tree.find_all(exp.Column)):
        if column.args.get("db"):
            parts = [column.args.get(p) for p in ("catalog", "db", "table")]
            if _meant(tuple(_stored(p) for p in parts if p), names) in sent.plans:
                column.set("catalog", None)
                column.set("db", None)
    return tree


def _spelled(node: exp.Table) -> tuple[str, ...]:
    catalog, db = node.args.get("catalog"), node.args.get("db")
    if catalog and not (db and getattr(db, "this", "")):
        return (_stored(catalog), "PUBLIC", _stored(node.this))
    return _parts(node)


def _meant(parts: tuple[str, ...], names: NameContext) -> TableName:
    database, schema = names.database or "", names.schema or ""
    full = {1: (database, schema, *parts), 2: (database, *parts), 3: parts}.get(len(parts))
    if full is None:
        raise _fail("MEANING", "a name has too many parts")
    return TableName(*full)


# --- tokens -----------------------------------------------------------------------------------------


def _is_name(token: Token) -> bool:
    if token.token_type in {TokenType.STRING, TokenType.RAW_STRING, TokenType.HEX_STRING}:
        return False
    return token.token_type is TokenType.IDENTIFIER or token.text[:1].isalpha()


def _chain(tokens: tuple[Token, ...], last: int) -> tuple[str, ...]:
    """The dotted name that ends at `last`, in stored case."""
    parts: list[str] = []
    at = last
    while True:
        token = tokens[at]
        quoted = token.token_type is TokenType.IDENTIFIER
        parts.append(token.text if quoted else token.text.upper())
        if at < 2 or tokens[at - 1].token_type is not TokenType.DOT or not _is_name(tokens[at - 2]):
            return tuple(reversed(parts))
        at -= 2


def _is_inner(tokens: tuple[Token, ...], last: int) -> bool:
    """`FROM "D"."S"."T" AS _g`, with AT(...) or BEFORE(...) allowed in between."""
    if last < 5 or tokens[last - 5].text.upper() != "FROM":
        return False
    at = last + 1
    if at < len(tokens) and tokens[at].text.upper() in {"AT", "BEFORE"}:
        depth = 0
        at += 1
        while at < len(tokens):
            depth += tokens[at].token_type is TokenType.L_PAREN
            depth -= tokens[at].token_type is TokenType.R_PAREN
            at += 1
            if depth == 0:
                break
    return [t.text for t in tokens[at : at + 2]] == ["AS", INNER]
