"""Row filter predicates: one SQL condition over a table's own columns and facts about the caller.

`{identity.subject}`, `{identity.groups}`, `{claims.region}` stand for string literals. Braces cannot mean
anything else in a predicate, so such a word is never confused with SQL; at run time it is replaced, as a
token of its own, by escaped literals. It may stand only where its value is compared: as a LIKE pattern, a
date unit or a path inside a value, a claim could say more than one value.

A predicate has to mean the same for every session of a caller, so it may not ask for session state.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from sqlglot import Token, TokenType, exp
from sqlglot.errors import ErrorLevel, SqlglotError

from hoop_core.errors import StatementRefused
from hoop_core.masking.masks import literal, plain_column
from hoop_core.model import Identity
from hoop_core.sql import functions
from hoop_core.sql.dialect import SNOWFLAKE
from hoop_core.sql.limits import Limits, Scan, scan

IDENTITY_WORDS = ("subject", "name", "issuer", "groups")
_LISTS = frozenset({"identity.groups"})
_LIMITS = Limits(max_chars=10_000, max_tokens=1_000, max_depth=16)
_MOST_VALUES = 500
_LONGEST_VALUE = 1_024
_LOOKS_MEANT = re.compile(r"\{\s*(identity|claims)\s*\.", re.IGNORECASE)


class PredicateError(Exception):
    """A predicate that is wrong: found when the policy is read."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = message, hint
        super().__init__(message)


class ClaimError(Exception):
    """A caller about whom the predicate's question cannot be answered: found when a statement comes."""


@dataclass(frozen=True, slots=True)
class CallerFact:
    """A `{...}` of a predicate. `listed`: it stands in IN (...), where several values may stand."""

    name: str
    listed: bool

    def literals(self, identity: Identity) -> str:
        """The value (or values, with commas) as SQL literals. Raises ClaimError."""
        value = _fact(identity, self.name)
        if isinstance(value, str):
            return _literal(self.name, value)
        if not value or not isinstance(value, tuple):
            raise ClaimError(f"{{{self.name}}} is empty or no text")
        if not self.listed:
            raise ClaimError(f"{{{self.name}}} is a list, which can be compared only by IN (...)")
        if len(value) > _MOST_VALUES:
            raise ClaimError(f"{{{self.name}}} has {len(value)} values; at most {_MOST_VALUES} fit")
        return ", ".join(_literal(self.name, v) for v in value)


@dataclass(frozen=True, slots=True)
class Predicate:
    """A checked predicate. `pieces` joined are the condition over `_g."COLUMN"`."""

    source: str
    columns: frozenset[str]
    pieces: tuple[str | CallerFact, ...] = field(repr=False)
    of_the_session: bool = field(default=False, compare=False)
    """It looks at the clock or at a date written as text: session parameters say what these mean."""
    plain: bool = field(default=False, compare=False)
    """Only comparisons of columns, texts and numbers: over such columns no session parameter matters."""

    @property
    def facts(self) -> frozenset[str]:
        """The names of the caller's facts that it asks for: `identity.groups`, `claims.region`."""
        return frozenset(p.name for p in self.pieces if isinstance(p, CallerFact))

    def condition(self, identity: Identity) -> str:
        """The condition for one caller, without parentheses around it. Raises ClaimError."""
        parts = tuple(p.literals(identity) if isinstance(p, CallerFact) else p for p in self.pieces)
        if not _holds_together(parts):
            raise ClaimError("the caller's facts cannot be written into the row filter")
        return "".join(parts)


def parse_predicate(text: str) -> Predicate:
    """Read and check a predicate. Raises PredicateError."""
    source = " ".join(text.split())
    try:
        text, facts = _with_stand_ins(text, scan(text, _LIMITS).tokens)
        scanned = scan(text, _LIMITS)
        tree = _parsed(scanned)
        for name in functions.calls(scanned.tokens):
            _check_function(name)
        _check_nodes(tree)
    except StatementRefused as e:
        raise PredicateError(e.message.replace("The statement", "It"), e.hint) from None
    except RecursionError:
        raise PredicateError("It is nested too deeply.") from None
    placed = {stand_in: _placed(tree, stand_in, name) for stand_in, name in facts.items()}
    columns = [_column(node) for node in tree.find_all(exp.Column)]
    emitted = _emit(scanned, {start: plain_column(name) for start, name in columns})
    _check_emitted(emitted, tree)
    return Predicate(
        source,
        frozenset(name for _, name in columns),
        _pieces(emitted, placed),
        any(_of_the_session(node) for node in tree.walk()),
        all(type(node) in _PLAIN for node in tree.walk()),
    )


# --- the caller's facts -----------------------------------------------------------------------------


def _fact(identity: Identity, name: str) -> str | tuple[str, ...]:
    holder, _, word = name.partition(".")
    if holder == "claims":
        claim = identity.claims.get(word)
        if claim is None:
            raise ClaimError(
                f"the caller's token has no claim `{word}` that can be used (it is missing, empty, too "
                "long, or neither a text nor a list of texts), or the settings do not name it"
            )
        return claim
    if word == "groups":
        return identity.groups
    return {"subject": identity.subject, "name": identity.name, "issuer": identity.issuer}[word]


def _literal(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ClaimError(f"{{{name}}} is empty or no text")
    if len(value) > _LONGEST_VALUE or not value.isprintable():
        raise ClaimError(f"{{{name}}} is too long or has characters that cannot be printed")
    return literal(value)


def _with_stand_ins(text: str, tokens: Sequence[Token]) -> tuple[str, dict[str, str]]:
    """The text with every `{...}` as a string literal of its own, and what each of them means."""
    out: list[str] = []
    facts: dict[str, str] = {}
    at = done = 0
    while at < len(tokens):
        token = tokens[at]
        if token.token_type in _QUOTES and _LOOKS_MEANT.search(token.text):
            raise PredicateError(
                f"{token.text.strip()!r} is in quotes, so it would be taken as text.",
                "Write {claims.NAME} without quotes around it: Hoop makes the literal.",
            )
        if token.token_type is TokenType.R_BRACE:
            raise PredicateError("A `}` stands alone.", _FACT_HINT)
        if token.token_type is not TokenType.L_BRACE:
            at += 1
            continue
        last = next(
            (i for i in range(at, len(tokens)) if tokens[i].token_type is TokenType.R_BRACE), None
        )
        if last is None:
            raise PredicateError("A `{` is not closed.", _FACT_HINT)
        stand_in = f"hoop fact {len(facts)} of {len(text)}"
        while stand_in in text:
            stand_in += "."
        facts[stand_in] = _fact_name(text, tokens[at + 1 : last])
        out += [text[done : token.start], f"'{stand_in}'"]
        at, done = last + 1, tokens[last].end + 1
    return "".join(out) + text[done:], facts


_QUOTES = frozenset({TokenType.STRING, TokenType.RAW_STRING, TokenType.IDENTIFIER})
_FACT_HINT = (
    "Write {identity."
    + "}, {identity.".join(IDENTITY_WORDS)
    + "} or {claims.NAME}, where the settings "
    "name the claim."
)


def _fact_name(text: str, tokens: Sequence[Token]) -> str:
    """`identity.subject`, `claims.region`, `claims.org.team`, `claims."https://example.com/team"`."""
    parts = [t.text for t in tokens if t.token_type is not TokenType.DOT]
    holder_is_bare = bool(tokens) and tokens[0].token_type is not TokenType.IDENTIFIER
    alternating = len(tokens) == 2 * len(parts) - 1 and all(
        (t.token_type is TokenType.DOT) == bool(i % 2) for i, t in enumerate(tokens)
    )
    words = all(t.token_type is TokenType.IDENTIFIER or _WORD.match(t.text) for t in tokens[2::2])
    if len(parts) >= 2 and holder_is_bare and alternating and words:
        name = ".".join(parts)
        if parts[0] == "claims":
            return name
        if parts[0] == "identity" and len(parts) == 2 and parts[1] in IDENTITY_WORDS:
            return name
    written = text[tokens[0].start : tokens[-1].end + 1] if tokens else ""
    raise PredicateError(f"{{{written}}} is not a fact about the caller.", _FACT_HINT)


_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def _placed(tree: exp.Expr, stand_in: str, name: str) -> CallerFact:
    """Where a fact stands: only where its value is compared as a whole."""
    found = [n for n in tree.find_all(exp.Literal) if n.is_string and n.this == stand_in]
    if len(found) != 1:
        raise PredicateError(f"{{{name}}} stands where no value can stand.", _COMPARE)
    node = found[0]
    listed = isinstance(node.parent, exp.In) and node.arg_key == "expressions"
    above = node.parent
    while above is not None:
        if type(above) not in _COMPARING:
            raise PredicateError(
                f"{{{name}}} stands inside {type(above).__name__}, where its value could say more than "
                "itself.",
                _COMPARE,
            )
        above = above.parent
    if name in _LISTS and not listed:
        raise PredicateError(f"{{{name}}} is a list.", f"Compare it by IN: COLUMN IN ({{{name}}}).")
    return CallerFact(name, listed)


_COMPARE = "Compare it: COLUMN = {claims.NAME}, COLUMN IN ({claims.NAME}), STARTSWITH(COLUMN, ...)."
# every node between a fact and the root; LIKE and REGEXP are not here: `%` as a claim would be everything
_COMPARING: frozenset[type[exp.Expr]] = frozenset(
    {
        exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ,
        exp.EqualNull, exp.In, exp.Between, exp.And, exp.Or, exp.Not, exp.Paren, exp.Is, exp.DPipe,
        exp.Lower, exp.Upper, exp.Trim, exp.Coalesce, exp.Cast, exp.TryCast, exp.ArrayContains,
        exp.Contains, exp.StartsWith, exp.EndsWith, exp.Case, exp.If,
    }
)  # fmt: skip


# --- what may be in a predicate ---------------------------------------------------------------------


def _parsed(scanned: Scan) -> exp.Expr:
    try:
        trees = SNOWFLAKE.parser().parse_into(exp.Condition, list(scanned.tokens), scanned.sql)
    except SqlglotError:
        trees = []
    if len(trees) != 1 or trees[0] is None:
        raise PredicateError(
            "It is not one SQL condition.", "Write what could stand after WHERE: REGION = 'EU'."
        )
    return trees[0]


_NODES: frozenset[type[exp.Expr]] = frozenset(
    {
        exp.Column, exp.Identifier, exp.Literal, exp.RawString, exp.HexString, exp.Null, exp.Boolean,
        exp.Paren, exp.Tuple, exp.Var, exp.DataType, exp.DataTypeParam, exp.Interval, exp.IntervalSpan,
        exp.Escape, exp.Collate, exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ,
        exp.NullSafeNEQ, exp.Is, exp.In, exp.Between, exp.Like, exp.ILike, exp.Not, exp.Neg, exp.Any,
        exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.DPipe, exp.Bracket, exp.JSONPath,
        exp.JSONPathRoot, exp.JSONPathKey, exp.JSONPathSubscript,
    }
)  # fmt: skip
# they answer for the session or by chance: the caller chooses the schema, chance lets everything by in time
# fmt: off
_UNSTEADY = frozenset({
    "CURRENT_ACCOUNT", "CURRENT_CLIENT", "CURRENT_DATABASE", "CURRENT_REGION", "CURRENT_ROLE",
    "CURRENT_SCHEMA", "CURRENT_SCHEMAS", "CURRENT_SESSION", "CURRENT_USER", "CURRENT_VERSION",
    "CURRENT_WAREHOUSE", "NORMAL", "RANDOM", "RANDSTR", "SEQ1", "SEQ2", "SEQ4", "SEQ8", "UNIFORM",
    "UUID_STRING", "ZIPF",
})
# fmt: on
# how sqlglot reads those that may be written without parentheses, where no call is seen on the tokens
_UNSTEADY_NODES = {getattr(exp, name.title().replace("_", ""), None): name for name in _UNSTEADY}
_QUERIES = (exp.Query, exp.Subquery, exp.Exists, exp.Table, exp.TableFromRows)


def _check_nodes(tree: exp.Expr) -> None:
    for node in tree.walk():
        kind = type(node)
        if isinstance(node, _QUERIES):
            raise PredicateError(
                "It holds a query.", "A row filter looks at the columns of its own row only."
            )
        if isinstance(node, exp.AggFunc | exp.Window):
            raise PredicateError(
                "It holds an aggregate or a window function.",
                "A row filter looks at the columns of its own row only.",
            )
        if isinstance(node, exp.Parameter | exp.Placeholder):
            raise PredicateError(
                "It holds a variable ($name, ?, :1).",
                "Facts about the caller are written {identity.NAME} or {claims.NAME}.",
            )
        if kind in _UNSTEADY_NODES:
            raise _unsteady(_UNSTEADY_NODES[kind])
        if isinstance(node, exp.Column) and set(_given(node)) != {"this"}:
            raise PredicateError(
                f"`{node.sql(dialect=SNOWFLAKE)}` is written with a table.",
                "Write the column alone: it is always one of the filtered table.",
            )
        if kind not in _NODES and not issubclass(kind, exp.Func):
            raise PredicateError(f"It uses {kind.__name__}, which no row filter may.")
    if not isinstance(tree, exp.Literal | exp.Var):
        return
    raise PredicateError("It is a value and not a condition.", "Write REGION = 'EU'.")


def _check_function(name: str) -> None:
    if name in _UNSTEADY:
        raise _unsteady(name)
    if name not in functions.scalars():
        raise PredicateError(
            f"{name} does not compute one value from one row.",
            "Aggregates, window functions and table functions have no place in a row filter.",
        )


def _unsteady(name: str) -> PredicateError:
    return PredicateError(
        f"{name} asks for the session or for chance, so the filter would not hold.",
        "Users are minted for each session: write {identity.subject} or {claims.NAME} for the caller.",
    )


def _given(node: exp.Expr) -> list[str]:
    return [name for name, value in node.args.items() if value]


def _column(node: exp.Column) -> tuple[int, str]:
    """Where a column stands in the text, and its stored name."""
    name = node.this
    start = name.meta.get("start", -1)
    if not isinstance(name, exp.Identifier) or start < 0:
        raise PredicateError(f"The column {node.name} cannot be found in its text.")
    text = str(name.this)
    return start, text if name.args.get("quoted") else text.upper()


# What reads neither formats nor time zone nor week rules, as long as no date or binary column is in it.
_PLAIN = frozenset({
    exp.Column, exp.Identifier, exp.Literal, exp.Boolean, exp.Null, exp.Paren, exp.Tuple,
    exp.And, exp.Or, exp.Not, exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Is, exp.In,
    exp.Between, exp.Like, exp.ILike, exp.NullSafeEQ, exp.NullSafeNEQ, exp.Neg, exp.Add, exp.Sub,
    exp.Mul, exp.Upper, exp.Lower, exp.Trim, exp.Coalesce, exp.Length, exp.StartsWith, exp.EndsWith,
    exp.Contains,
})  # fmt: skip
_CLOCK = (
    exp.CurrentDate, exp.CurrentTime, exp.CurrentTimestamp, exp.Localtime, exp.Localtimestamp,
)  # fmt: skip
_DATE_LIKE = re.compile(r"\s*\d{1,4}\s*[-/.]\s*(\d{1,2}|[A-Za-z]{3,9})\s*[-/.]\s*\d{1,4}")


def _of_the_session(node: exp.Expr) -> bool:
    """TIMEZONE sets the clock, DATE_INPUT_FORMAT and its kin read dates; both belong to the caller."""
    if isinstance(node, exp.Literal):
        formatted = node.parent is not None and node.parent.args.get("format")
        return bool(node.is_string and _DATE_LIKE.match(node.this) and not formatted)
    return isinstance(node, _CLOCK)


# --- the text that will run -------------------------------------------------------------------------


def _emit(scanned: Scan, edits: dict[int, str]) -> str:
    """The author's own tokens without comments, columns replaced."""
    out: list[str] = []
    for token, piece in zip(scanned.tokens, scanned.pieces, strict=True):
        edit = edits.get(token.start)
        gap = " " if piece.startswith(" ") else ""
        out.append(piece if edit is None else gap + edit)
    return "".join(out).strip()


def _check_emitted(emitted: str, tree: exp.Expr) -> None:
    """The text, read anew, is the checked tree with its columns qualified."""
    expected = tree.copy()
    for column in list(expected.find_all(exp.Column)):
        qualified = _parsed(scan(plain_column(_column(column)[1]), _LIMITS))
        if column is expected:
            expected = qualified
        else:
            column.replace(qualified)
    again = _parsed(scan(emitted, _LIMITS))
    if _text(again) != _text(expected):
        raise PredicateError("Its meaning is not certain.", "Write it in a simpler way.")


def _text(tree: exp.Expr) -> str:
    return tree.sql(dialect=SNOWFLAKE, comments=False, unsupported_level=ErrorLevel.IGNORE)


def _pieces(emitted: str, facts: dict[str, CallerFact]) -> tuple[str | CallerFact, ...]:
    pieces: list[str | CallerFact] = []
    rest = emitted
    for stand_in, fact in facts.items():  # in the order of the text
        before, _, rest = rest.partition(f"'{stand_in}'")
        pieces += [before, fact]
    return (*pieces, rest)


@lru_cache(maxsize=1024)
def _holds_together(parts: tuple[str, ...]) -> bool:
    """Every part has the same tokens alone and in place: no literal runs into its surroundings."""
    apart = [t for part in parts for t in _words(part)]
    return apart == _words("".join(parts))


def _words(text: str) -> list[str]:
    tokens = SNOWFLAKE.tokenize(text)
    return [text[t.start : t.end + 1] for t in tokens]
