"""Which nodes of sqlglot's tree are understood. Everything else is refused by name.

Function nodes are not listed here: which functions may be called is decided on the token stream
(`functions.calls`), where sqlglot's renaming cannot hide a spelling.
"""

from __future__ import annotations

from sqlglot import exp

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


def check(tree: exp.Expr, allowed: frozenset[type[exp.Expr]]) -> None:
    """Refuse the first node that is not understood.

    Raises StatementRefused: UNKNOWN_SYNTAX, SESSION_VARIABLE, SEQUENCE, INDIRECT_NAME.
    """
    for node in tree.walk():
        kind = type(node)
        if kind in _REACHING or (kind not in allowed and not issubclass(kind, exp.Func)):
            raise refuse(
                "UNKNOWN_SYNTAX",
                f"The statement uses {kind.__name__}, which Hoop does not serve here.",
                "Rewrite it with ordinary SELECT or DML syntax.",
            )
        if isinstance(node, exp.Parameter):
            _check_parameter(node)
        elif isinstance(node, exp.Placeholder):
            _check_placeholder(node)
        elif _is_sequence(node):
            raise refuse(
                "SEQUENCE",
                "A sequence changes state outside the statement, which Hoop does not serve.",
                "Use ROW_NUMBER() or an AUTOINCREMENT column.",
            )


def _is_sequence(node: exp.Expr) -> bool:
    if isinstance(node, exp.Column):
        return node.name.upper() == "NEXTVAL" and bool(node.table)
    return isinstance(node, exp.Dot) and node.name.upper() == "NEXTVAL"


def _check_parameter(node: exp.Parameter) -> None:
    this = node.this
    if not (isinstance(this, exp.Literal) and not this.is_string and this.name.isdigit()):
        raise refuse(
            "SESSION_VARIABLE",
            "A session variable ($name) can hold anything, also the name of a table.",
            "Use a bind variable (? or :1) for values.",
        )


def _check_placeholder(node: exp.Placeholder) -> None:
    this = node.args.get("this")
    if this is not None and not str(this).isdigit():
        raise refuse(
            "SESSION_VARIABLE",
            "A named variable (:name) belongs to Snowflake Scripting, which Hoop does not serve.",
            "Use a bind variable (? or :1) for values.",
        )
