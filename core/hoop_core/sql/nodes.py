"""Which nodes of sqlglot's tree are understood. Everything else is refused by name.

Function nodes are not listed here: which functions may be called is decided on the token stream
(`functions.calls`), where sqlglot's renaming cannot hide a spelling.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from sqlglot import exp

from hoop_core.sql import functions
from hoop_core.sql.refusals import refuse

QUERY: frozenset[type[exp.Expr]] = frozenset(
    {
        exp.Select,
        exp.Union,
        exp.Except,
        exp.Intersect,
        exp.Subquery,
        exp.CTE,
        exp.With,
        exp.From,
        exp.Join,
        exp.Lateral,
        exp.TableFromRows,
        exp.Table,
        exp.TableAlias,
        exp.Values,
        exp.Where,
        exp.Group,
        exp.Having,
        exp.Qualify,
        exp.Order,
        exp.Ordered,
        exp.Limit,
        exp.LimitOptions,
        exp.Offset,
        exp.Fetch,
        exp.Distinct,
        exp.Star,
        exp.Alias,
        exp.Column,
        exp.Identifier,
        exp.Literal,
        exp.RawString,
        exp.HexString,
        exp.Null,
        exp.Boolean,
        exp.Placeholder,
        exp.Parameter,
        exp.Paren,
        exp.Tuple,
        exp.Kwarg,
        exp.Var,
        exp.DataType,
        exp.DataTypeParam,
        exp.ColumnDef,  # fields of OBJECT(...) types
        exp.ColumnConstraint,
        exp.NotNullColumnConstraint,
        exp.Interval,
        exp.IntervalSpan,
        exp.Escape,
        exp.Collate,
        exp.EQ,
        exp.NEQ,
        exp.GT,
        exp.GTE,
        exp.LT,
        exp.LTE,
        exp.NullSafeEQ,
        exp.NullSafeNEQ,
        exp.Is,
        exp.In,
        exp.Between,
        exp.Like,
        exp.ILike,
        exp.RegexpLike,
        exp.Not,
        exp.Neg,
        exp.Any,
        exp.All,
        exp.Exists,
        exp.Add,
        exp.Sub,
        exp.Mul,
        exp.Div,
        exp.IntDiv,
        exp.Mod,
        exp.BitwiseAnd,  # BITAND(a, b) and the like: no subclasses of Func
        exp.BitwiseNot,
        exp.BitwiseOr,
        exp.BitwiseXor,
        exp.BitwiseLeftShift,
        exp.BitwiseRightShift,
        exp.DPipe,
        exp.Window,
        exp.WindowSpec,
        exp.WithinGroup,
        exp.IgnoreNulls,
        exp.RespectNulls,
        exp.Filter,
        exp.HavingMax,
        exp.Rollup,
        exp.Cube,
        exp.GroupingSets,
        exp.Pivot,
        exp.PivotAlias,
        exp.PivotAny,
        exp.TableSample,
        exp.HistoricalData,
        exp.Connect,
        exp.Prior,
        exp.MatchRecognize,
        exp.MatchRecognizeMeasure,
        exp.Lock,
        exp.Bracket,
        exp.Slice,
        exp.Dot,
        exp.PropertyEQ,
        exp.JSONPath,
        exp.JSONPathRoot,
        exp.JSONPathKey,
        exp.JSONPathSubscript,
        exp.JSONPathWildcard,
        exp.Lambda,
    }
)

CHANGE: frozenset[type[exp.Expr]] = QUERY | frozenset(
    {
        exp.Insert,
        exp.Update,
        exp.Delete,
        exp.Merge,
        exp.Whens,
        exp.When,
        exp.Schema,
        exp.TruncateTable,
    }
)

DEFINE: frozenset[type[exp.Expr]] = QUERY | frozenset(
    {
        exp.Create,
        exp.Alter,
        exp.Drop,
        exp.Properties,
        exp.RenameColumn,
        exp.Schema,
        exp.PrimaryKey,
        exp.Constraint,
        exp.PrimaryKeyColumnConstraint,
        exp.UniqueColumnConstraint,
        exp.DefaultColumnConstraint,
        exp.CommentColumnConstraint,
        exp.CollateColumnConstraint,
        exp.GeneratedAsIdentityColumnConstraint,
        exp.AutoIncrementColumnConstraint,
        exp.IndexParameters,
        exp.TransientProperty,
        exp.TemporaryProperty,
        exp.ClusterProperty,
        exp.SchemaCommentProperty,
    }
)

# Function classes that are no plain function call: they read objects, models or sequences.
_REACHING: frozenset[type[exp.Expr]] = frozenset(
    {
        exp.NextValueFor,
        exp.AIAgg,
        exp.AISummarizeAgg,
        exp.AIClassify,
        exp.AIEmbed,
        exp.AIForecast,
        exp.AIGenerate,
        exp.AISimilarity,
        exp.GenerateEmbedding,
        exp.GenerateTable,
        exp.GenerateText,
        exp.GenerateInt,
        exp.GenerateDouble,
        exp.GenerateBool,
        exp.MLForecast,
        exp.MLTranslate,
        exp.Predict,
        exp.FeaturesAtTime,
        exp.VectorSearch,
        exp.ReadCSV,
        exp.ReadParquet,
        exp.OpenJSON,
        exp.SemanticView,
        exp.DynamicIdentifier,
    }
)


@dataclass(slots=True)
class Found:
    """What one walk over a tree collects for the passes after it, in the order of the walk."""

    kinds: list[type[exp.Expr]] = field(default_factory=list)
    tables: list[exp.Table] = field(default_factory=list)
    ctes: list[exp.CTE] = field(default_factory=list)
    qualified_columns: list[exp.Column] = field(default_factory=list)
    listed_names: set[int] = field(default_factory=set)
    """Where identifiers stand that may be followed by a column list or a query in parentheses."""
    calls: list[Exception] = field(default_factory=list)
    """Calls that the tree shows to be refused: to be raised if the tokens did not show it better."""


def inspect(tree: exp.Expr, allowed: frozenset[type[exp.Expr]]) -> Found:
    """Refuse the first node that is not understood, or that carries an argument that is not.

    Raises StatementRefused: UNKNOWN_SYNTAX, SESSION_VARIABLE, SEQUENCE, INDIRECT_NAME, INDIRECT_TABLE,
    UNKNOWN_FUNCTION, QUALIFIED_FUNCTION.
    """
    found = Found()
    kinds = found.kinds
    for node in tree.walk():
        kind = type(node)
        kinds.append(kind)
        if kind not in allowed and (kind in _REACHING or not issubclass(kind, exp.Func)):
            raise refuse(
                "UNKNOWN_SYNTAX",
                f"The statement uses {kind.__name__}, which Hoop does not serve here.",
                "Rewrite it with ordinary SELECT or DML syntax.",
            )
        examine = _EXAMINED.get(kind)
        if examine is not None:
            examine(node, found)
    return found


def only(node: exp.Expr, allowed: str) -> None:
    """Refuse a node that carries any argument besides the allowed ones. Raises StatementRefused."""
    words = _words(allowed)
    for name, value in node.args.items():
        if value and name not in words:
            raise refuse(
                "UNKNOWN_SYNTAX",
                f"The clause {name.strip('_').upper()} of {type(node).__name__} is not served here.",
                "Rewrite the statement without it.",
            )


def place(identifier: object) -> int:
    """The offset of an identifier's first character in the text, -1 when it is not known."""
    return int(identifier.meta.get("start", -1)) if isinstance(identifier, exp.Identifier) else -1


@cache
def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SELECT = (
    "with_ expressions distinct exclude from_ match laterals joins connect pivots where group having "
    "qualify windows order limit offset locks sample"
)


def _table(node: exp.Expr, found: Found) -> None:
    only(node, "this db catalog alias joins laterals pivots sample when")
    if isinstance(node, exp.Table):
        found.tables.append(node)


def _with(node: exp.Expr, found: Found) -> None:
    only(node, "expressions recursive")
    query = node.parent
    if (
        query is not None
        and isinstance(query.parent, exp.SetOperation)
        and query.arg_key == "expression"
    ):
        # how far such a WITH reaches is documented nowhere
        raise refuse(
            "UNKNOWN_SYNTAX",
            "A WITH behind UNION, EXCEPT or INTERSECT needs parentheses around its query.",
            "Write the WITH in front of the statement, or (WITH ... SELECT ...).",
        )


def _named_in_place_of_a_query(node: exp.Expr, found: Found) -> None:
    """IN, ANY and ALL take a list or a query; a bare name there would be a table to some readers."""
    this = node.args.get("field") if isinstance(node, exp.In) else node.this
    if isinstance(this, exp.Column | exp.Identifier | exp.Table):
        raise refuse(
            "UNKNOWN_SYNTAX",
            f"{type(node).__name__.upper()} needs a list or a query in parentheses.",
            "Write (SELECT ...), or ARRAY_CONTAINS for an array.",
        )


def _cte(node: exp.Expr, found: Found) -> None:
    if not isinstance(node.this, exp.Query):
        raise refuse(
            "UNKNOWN_SYNTAX",
            "A common table expression must hold a query.",
            "Write WITH name AS (SELECT ...).",
        )
    if isinstance(node, exp.CTE):
        found.ctes.append(node)


def _alias(node: exp.Expr, found: Found) -> None:
    if node.args.get("columns"):
        found.listed_names.add(place(node.this))


def _schema(node: exp.Expr, found: Found) -> None:
    if isinstance(node.this, exp.Table):
        found.listed_names.add(place(node.this.this))


def _column(node: exp.Expr, found: Found) -> None:
    if isinstance(node, exp.Column) and node.args.get("db"):
        found.qualified_columns.append(node)
    if node.args.get("table") and node.name.upper() == "NEXTVAL":
        raise _sequence()


def _dot(node: exp.Expr, found: Found) -> None:
    if isinstance(node.expression, exp.Func):
        hint = "Use Snowflake's built-in functions only."
        found.calls.append(
            refuse("QUALIFIED_FUNCTION", "Functions of a schema are not served through Hoop.", hint)
        )
    if node.name.upper() == "NEXTVAL":
        raise _sequence()


def _sequence() -> Exception:
    return refuse(
        "SEQUENCE",
        "A sequence changes state outside the statement, which Hoop does not serve.",
        "Use ROW_NUMBER() or an AUTOINCREMENT column.",
    )


def _lateral(node: exp.Expr, found: Found) -> None:
    if not isinstance(node.this, exp.Subquery | exp.Func):
        raise refuse("INDIRECT_TABLE", "LATERAL must be followed by a query or a function.")


def _from_rows(node: exp.Expr, found: Found) -> None:
    if not isinstance(node.this, exp.Func):
        hint = "Name the table directly in FROM."
        found.calls.append(
            refuse("INDIRECT_TABLE", "TABLE(...) must hold a listed table function.", hint)
        )


def _anonymous(node: exp.Expr, found: Found) -> None:
    if not functions.is_known(node.name.upper()):
        hint = "Use Snowflake's built-in functions only."
        found.calls.append(
            refuse("UNKNOWN_FUNCTION", f"The function {node.name.upper()} is not listed.", hint)
        )


def _change(node: exp.Expr, found: Found) -> None:
    if not isinstance(node.parent, exp.When | exp.Alter | None):
        raise refuse("UNKNOWN_SYNTAX", "A change inside a query is not served.")


def _parameter(node: exp.Expr, found: Found) -> None:
    this = node.this
    if not (isinstance(this, exp.Literal) and not this.is_string and this.name.isdigit()):
        raise refuse(
            "SESSION_VARIABLE",
            "A session variable ($name) can hold anything, also the name of a table.",
            "Use a bind variable (? or :1) for values.",
        )


_BIND = re.compile(r"(?:[0-9]+|[A-Za-z_][A-Za-z0-9_]*)\Z")


def _placeholder(node: exp.Expr, found: Found) -> None:
    """`?`, `:1` and `:name` take values that the driver sends beside the text; variables of Snowflake Scripting,
    which look alike, exist only inside its blocks. What stands for a table is refused as such."""
    this = node.args.get("this")
    if this is not None and _BIND.match(str(this)) is None:
        raise refuse(
            "SESSION_VARIABLE",
            "A bind variable with an odd name may be something else to Snowflake.",
            "Use a bind variable (?, :1 or :name) for values.",
        )


# What the allowlist of classes cannot see: odd arguments of understood nodes.
_EXAMINED: dict[type[exp.Expr], Callable[[exp.Expr, Found], None]] = {
    exp.Table: _table,
    exp.CTE: _cte,
    exp.TableAlias: _alias,
    exp.Schema: _schema,
    exp.Column: _column,
    exp.Dot: _dot,
    exp.Lateral: _lateral,
    exp.TableFromRows: _from_rows,
    exp.Anonymous: _anonymous,
    exp.Parameter: _parameter,
    exp.Placeholder: _placeholder,
    exp.Select: lambda node, found: only(node, _SELECT),
    exp.With: _with,
    exp.In: _named_in_place_of_a_query,
    exp.Any: _named_in_place_of_a_query,
    exp.All: _named_in_place_of_a_query,
    **dict.fromkeys(
        (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Drop, exp.Alter), _change
    ),
}
