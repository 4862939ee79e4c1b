"""How the verifier reads a text: its words, its tree, its names and its masking subqueries."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter

from sqlglot import Token, TokenType, exp
from sqlglot.errors import SqlglotError

from hoop_core.errors import StatementRefused
from hoop_core.masking.masks import INNER, ColumnPlan, MaskName, TablePlan
from hoop_core.model import TableName
from hoop_core.sql.dialect import SNOWFLAKE
from hoop_core.sql.metadata import metadata_view
from hoop_core.sql.refusals import refuse

_DIALECT = SNOWFLAKE


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as the verifier reads it: tokens, their characters, the tree, and what stands in it."""

    text: str
    tokens: tuple[Token, ...] = field(repr=False)
    words: list[str] = field(repr=False)
    """The characters of each token."""
    tree: exp.Expr = field(repr=False)
    kinds: list[type[exp.Expr]] = field(repr=False)
    """The classes of all nodes of the tree, level by level."""
    tables: tuple[tuple[exp.Table, tuple[str, ...]], ...] = field(repr=False)
    """With the stored parts of their names, outermost first."""
    ctes: frozenset[str] = field(repr=False)

    def at(self, identifier: exp.Expr) -> int:
        """The index of the token of an identifier, which must stand in the text itself."""
        return self.word_at(identifier.meta.get("start", -1))

    def word_at(self, start: int) -> int:
        """The index of the token that begins at a character."""
        found = bisect_left(self.tokens, start, key=attrgetter("start"))
        if start < 0 or found >= len(self.tokens) or self.tokens[found].start != start:
            raise fail("TABLES", "the place of a table in the text is not known")
        return found


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a masking subquery was taken out of the text, leaving the full name of its table."""

    table: TableName
    start: int
    """The character, in what is left of the text, where the name begins."""
    moment: int = 0
    """How many words of an AT or BEFORE clause follow the name."""
    sample: tuple[str, ...] = ()
    """The words of a SAMPLE clause that had moved into the subquery."""


def fail(code: str, what: str) -> Exception:
    return refuse(
        f"VERIFY_{code}",
        f"The rewritten statement did not pass verification: {what}.",
        "Nothing was executed. Simplify the statement, and report this text to Hoop's maintainers.",
    )


def read(text: str) -> Reading:
    tokens = tokens_of(text)
    tree = tree_of(text, tokens)
    tables: list[tuple[exp.Table, tuple[str, ...]]] = []
    ctes: set[str] = set()
    kinds: list[type[exp.Expr]] = []
    for node in tree.walk():
        kind = type(node)
        kinds.append(kind)
        if kind is exp.Table and isinstance(node, exp.Table):
            tables.append((node, parts_of(node)))
        elif kind is exp.CTE:
            ctes.add(stored_of(node.args["alias"].this))
    return Reading(
        text, tokens, words_of(text, tokens), tree, kinds, tuple(tables), frozenset(ctes)
    )


def tokens_of(text: str) -> tuple[Token, ...]:
    try:
        return tuple(_DIALECT.tokenize(text))
    except SqlglotError:
        raise fail("PARSE", "it cannot be split into words") from None


def tree_of(text: str, tokens: tuple[Token, ...]) -> exp.Expr:
    try:
        trees = _DIALECT.parser().parse(list(tokens), text)
    except (SqlglotError, RecursionError):
        raise fail("PARSE", "it cannot be parsed") from None
    if len(trees) != 1 or trees[0] is None:
        raise fail("SINGLE", "it is not exactly one statement")
    return trees[0]


def words_of(text: str, tokens: tuple[Token, ...]) -> list[str]:
    return [text[t.start : t.end + 1] for t in tokens]


# --- names ------------------------------------------------------------------------------------------


def stored_of(identifier: exp.Expr) -> str:
    if not isinstance(identifier, exp.Identifier):
        raise fail("TABLES", "a table is named indirectly")
    name = str(identifier.this)
    return name if identifier.args.get("quoted") else name.upper()


def parts_of(node: exp.Table) -> tuple[str, ...]:
    """The stored parts of a table node, outermost first."""
    given = (node.args.get("catalog"), node.args.get("db"), node.args.get("this"))
    return tuple(stored_of(p) for p in given if p)


def is_target(node: exp.Table) -> bool:
    holder = node.parent
    if isinstance(holder, exp.Schema):
        return isinstance(holder.parent, exp.Insert | exp.Create) and holder.arg_key == "this"
    if isinstance(
        holder, exp.Insert | exp.Update | exp.Delete | exp.Merge | exp.Create | exp.Alter
    ):
        return node.arg_key == "this"
    return isinstance(holder, exp.TruncateTable | exp.Drop)


def in_scope(node: exp.Table, name: str) -> bool:
    """Some WITH around the node defines the name, before the place where the node stands.

    Inside its own definition a name counts only as the source of the clause after UNION ALL.
    """
    inside: exp.Expr = node
    outer = node.parent
    while outer is not None:
        visible: list[exp.Expr] = []
        if isinstance(outer, exp.With):
            at = next(i for i, cte in enumerate(outer.expressions) if cte is inside)
            visible = outer.expressions[: at + 1 if _is_recursive(node, inside) else at]
        elif isinstance(outer.args.get("with_"), exp.With) and outer.args["with_"] is not inside:
            visible = outer.args["with_"].expressions
        if any(stored_of(cte.args["alias"].this) == name for cte in visible):
            return True
        inside, outer = outer, outer.parent
    return False


def _is_recursive(node: exp.Expr, cte: exp.Expr) -> bool:
    """`anchor UNION ALL SELECT ... FROM node`: nothing but FROM or JOIN lies between node and SELECT."""
    select = node.parent.parent if isinstance(node.parent, exp.From | exp.Join) else None
    top = select
    while top is not None and isinstance(top.parent, exp.Subquery):
        top = top.parent
    union = None if top is None else top.parent
    return (
        isinstance(select, exp.Select)
        and isinstance(union, exp.Union)
        and union.args.get("distinct") is False
        and union.parent is cte
        and top is union.args.get("expression")
    )


def is_name(token: Token) -> bool:
    if token.token_type in {TokenType.STRING, TokenType.RAW_STRING, TokenType.HEX_STRING}:
        return False
    return token.token_type is TokenType.IDENTIFIER or token.text[:1].isalpha()


def stored_word(word: str) -> str:
    """The stored name that a word in a text means."""
    return word[1:-1].replace('""', '"') if word[0] == '"' else word.upper()


# --- masking subqueries -----------------------------------------------------------------------------


def take_out(
    text: str, plans: Mapping[TableName, TablePlan], most: int
) -> tuple[str, tuple[Spot, ...]]:
    """The text with every masking subquery replaced by its table's name, and where that was done.

    Only what is, character for character, a planned subquery is taken out; AT or BEFORE stays behind the
    name. A look-alike inside a literal is taken out as well, and then differs from the caller's words.
    Raises StatementRefused (VERIFY_WRAPPER) when there are more than `most` places that look like one.
    """
    if not plans:
        return text, ()
    shapes = [(plan.table, *_shape(plan)) for plan in plans.values()]
    out: list[str] = []
    spots: list[Spot] = []
    done = length = alike = 0
    at = text.find(_OPENING)
    while at >= 0:
        for table, head, tail in shapes:
            if not text.startswith(head, at):
                continue
            alike += 1
            if alike > most:
                raise fail("WRAPPER", "it holds more masking subqueries than tables")
            found = _subquery_at(text, at + len(head), tail)
            if found is not None:
                end, moment, count, sample = found
                out += [text[done:at], left := name_of(table) + moment]
                length += at - done
                spots.append(Spot(table, length, count, sample))
                length += len(left)
                done = end
                break
        at = text.find(_OPENING, max(done, at + 1))
    out.append(text[done:])
    return "".join(out), tuple(spots)


_OPENING = "(SELECT "


def _subquery_at(text: str, after: int, tail: str) -> tuple[int, str, int, tuple[str, ...]] | None:
    """Where a planned subquery ends whose table's name ends at `after`; its AT or BEFORE as text and in
    number of words; the words of its SAMPLE."""
    plain = f" AS {INNER}{tail}"
    if text.startswith(plain, after):
        return after + len(plain), "", 0, ()
    for size in (256, 4_096):  # a look ahead of any length would take quadratic time
        with suppress(StatementRefused):
            found = _clauses_at(text[after : after + size], after, tail)
            if found is not None:
                return found
    return None


def _clauses_at(rest: str, after: int, tail: str) -> tuple[int, str, int, tuple[str, ...]] | None:
    """`[AT (...)] AS _g [SAMPLE (...)]` and the end of the subquery. Raises StatementRefused where `rest`
    is cut off."""
    tokens = tokens_of(rest)
    words = words_of(rest, tokens)
    moment = _clause(words, 0, ("AT", "BEFORE"), ())
    if words[moment : moment + 2] != ["AS", INNER]:
        return None
    sampled = _clause(words, moment + 2, ("SAMPLE", "TABLESAMPLE"), ("SEED", "REPEATABLE"))
    end = tokens[sampled - 1].end + 1
    sample = tuple(words[moment + 2 : sampled])
    if not rest.startswith(tail, end) or any(w.upper() in {"SELECT", "FROM"} for w in sample):
        return None
    clause = rest[: tokens[moment - 1].end + 1] if moment else ""
    return after + end + len(tail), clause, moment, sample


def _clause(words: list[str], at: int, opening: tuple[str, ...], more: tuple[str, ...]) -> int:
    """Where `AT (...)` or `SAMPLE [method] (...) [SEED (...)]` ends; `at` when none begins there."""
    if at >= len(words) or words[at].upper() not in opening:
        return at
    end = _closed(words, at + 1 if words[at + 1 : at + 2] == ["("] else at + 2)
    if more and words[end : end + 1] and words[end].upper() in more:
        end = _closed(words, end + 1)
    return end


def _closed(words: list[str], at: int) -> int:
    """The index after the parenthesis that closes the one at `at`."""
    depth = 0
    for i in range(at, len(words)):
        depth += (words[i] == "(") - (words[i] == ")")
        if depth == 0:
            if i > at:
                return i + 1
            break
    raise fail("WRAPPER", "a clause of a masked table is not closed")


@lru_cache(maxsize=1024)
def _shape(plan: TablePlan) -> tuple[str, str]:
    """The characters of a masking subquery up to the table's name, and those after its alias."""
    shown = ", ".join(f"{c.sql} AS {_quote(c.name)}" for c in plan.columns) or _star(plan.table)
    tail = ")" if plan.where is None else f" WHERE {plan.where})"
    return f"{_OPENING}{shown} FROM {name_of(plan.table)}", tail


def _star(table: TableName) -> str:
    """`*`, with NULL for what a metadata view withholds."""
    view = metadata_view(table)
    if view is None or not view.withheld:
        return "*"
    return "* REPLACE (" + ", ".join(f"NULL::VARCHAR AS {_quote(c)}" for c in view.withheld) + ")"


def name_of(table: TableName) -> str:
    """The one spelling of a base table in what is sent."""
    return ".".join(map(_quote, (table.database, table.schema, table.name)))


def _quote(part: str) -> str:
    return '"' + part.replace('"', '""') + '"'


# --- plans ------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def is_sound(plan: TablePlan) -> bool:
    """Whether a plan hides what it says it hides, looked at as SQL and not as the mask's name."""
    return (
        all(_hides(c) for c in plan.columns)
        and (plan.where is None or _filters(plan.where))
        and _is_one_subquery(plan)
    )


def _is_one_subquery(plan: TablePlan) -> bool:
    """The subquery as a whole: one SELECT, of as many columns as planned, from the one table."""
    head, tail = _shape(plan)
    text = f"SELECT * FROM {head} AS {INNER}{tail}"  # noqa: S608  only looked at, never sent
    tree = tree_of(text, tokens_of(text))
    inner = tree.find(exp.Subquery)
    select = inner.this if inner is not None else None
    return (
        isinstance(select, exp.Select)
        and has_only(tree, {"expressions", "from_"})
        and has_only(select, {"expressions", "from_", "where"})
        and _shows(select, plan)
        and [parts_of(t) for t in tree.find_all(exp.Table)]
        == [(plan.table.database, plan.table.schema, plan.table.name)]
    )


def _shows(select: exp.Select, plan: TablePlan) -> bool:
    """The planned columns. All of them without a list only of metadata, where no mask is about columns."""
    if not plan.columns:
        view, shown = metadata_view(plan.table), select.expressions
        if view is None or len(shown) != 1 or type(shown[0]) is not exp.Star:
            return False
        gone = [(e.alias, _is_null(e.this)) for e in shown[0].args.get("replace") or ()]
        return has_only(shown[0], {"replace"}) and gone == [(c, True) for c in view.withheld]
    return [e.alias for e in select.expressions] == [c.name for c in plan.columns]


def _is_null(node: exp.Expr) -> bool:
    return isinstance(node, exp.Cast) and isinstance(node.this, exp.Null)


def _hides(column: ColumnPlan) -> bool:
    shown = _expression(column.sql)
    if column.mask is None:
        return _is_raw(shown, column.name)
    if shown.find(exp.Query, exp.Table, exp.Star) is not None:
        return False
    read = list(shown.find_all(exp.Column))
    if any(not _is_raw(c, column.name) for c in read):
        return False
    if column.mask in {MaskName.NULL, MaskName.CONSTANT}:
        # these two must not depend on the value, only on its being NULL
        return all(isinstance(c.parent, exp.Is) for c in read)
    return not _is_raw(shown, column.name)


def _filters(where: str) -> bool:
    """One condition over the table's own columns."""
    shown = _expression(where)
    return shown.find(exp.Query, exp.Table, exp.Star) is None and all(
        isinstance(c.args.get("table"), exp.Identifier)
        and c.args["table"].this == INNER
        and has_only(c, {"this", "table"})
        for c in shown.find_all(exp.Column)
    )


def _expression(sql: str) -> exp.Expr:
    text = f"SELECT {sql}"
    tree = tree_of(text, tokens_of(text))
    if (
        not isinstance(tree, exp.Select)
        or len(tree.expressions) != 1
        or not has_only(tree, {"expressions"})
    ):
        raise fail("PLAN", "a mask or filter is not one expression")
    found: exp.Expr = tree.expressions[0]
    return found


def has_only(node: exp.Expr, allowed: set[str]) -> bool:
    return all(not value or name in allowed for name, value in node.args.items())


def _is_raw(node: exp.Expr, name: str) -> bool:
    if not isinstance(node, exp.Column) or not has_only(node, {"this", "table"}):
        return False
    this, table = node.args.get("this"), node.args.get("table")
    return (
        isinstance(this, exp.Identifier)
        and bool(this.args.get("quoted"))
        and this.this == name
        and isinstance(table, exp.Identifier)
        and table.this == INNER
    )
