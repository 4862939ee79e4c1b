"""The closed world of functions: what may be called, found on the token stream.

Calls are read off the tokens and not off sqlglot's tree, because the tokens are what is executed:
sqlglot maps several spellings to one class, and some of those spellings are user functions to Snowflake.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from importlib.resources import files

from sqlglot import Token, TokenType

from hoop_core.sql.refusals import refuse

_STRINGS = frozenset({TokenType.STRING, TokenType.RAW_STRING, TokenType.HEX_STRING})
_DOTS = frozenset({TokenType.DOT, TokenType.COLON})
_CALLABLE = ("scalar", "aggregate", "window", "table", "optimiser")


@cache
def _sections() -> dict[str, frozenset[str]]:
    text = files("hoop_core.sql").joinpath("functions.txt").read_text(encoding="ascii")
    found: dict[str, set[str]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif not line.startswith("#"):
            found.setdefault(section, set()).update(line.split())
    return {name: frozenset(names) for name, names in found.items()}


@cache
def listed() -> frozenset[str]:
    """Every function that may be called, table functions included."""
    return frozenset().union(*(_sections()[s] for s in _CALLABLE))


def scalars() -> frozenset[str]:
    """Functions that compute one value from one row."""
    return _sections()["scalar"]


def is_known(name: str) -> bool:
    """Whether a name is listed at all; where it may stand is checked by `calls`."""
    return name in listed() or name in _sections()["pattern"]


@cache
def table_functions() -> frozenset[str]:
    """Functions that may stand in FROM, inside TABLE(...) or after LATERAL."""
    return _sections()["table"]


@cache
def _syntax() -> frozenset[str]:
    """Words that stand before a parenthesis without calling anything."""
    return _sections()["syntax"] - listed()


@cache
def _types() -> frozenset[str]:
    """Type names: not reserved in Snowflake, so where no type can stand they may be a user's function."""
    return _sections()["types"] - listed()


def calls(tokens: Sequence[Token], names_at: Collection[int] = ()) -> list[str]:
    """The functions that a text calls, upper case, in order, with repetitions.

    `names_at` are the start offsets of identifiers that the tree knows as names with a column list
    (`AS c(a, b)`, `INSERT INTO t (a, b)`), and so not as calls.
    Raises StatementRefused: UNKNOWN_FUNCTION, QUALIFIED_FUNCTION, TABLE_FUNCTION, INDIRECT_TABLE,
    INDIRECT_NAME.
    """
    found: list[str] = []
    for i in range(1, len(tokens)):
        word = tokens[i - 1]
        if tokens[i].token_type is not TokenType.L_PAREN or word.start in names_at:
            continue
        quoted = word.token_type is TokenType.IDENTIFIER
        if not quoted and (
            word.token_type in _STRINGS or not (word.text[:1].isalpha() or word.text[:1] == "_")
        ):
            continue
        name = _called(tokens, i - 1, quoted=quoted)
        if name:
            found.append(name)
    return found


def _called(tokens: Sequence[Token], at: int, *, quoted: bool) -> str:
    """The listed function called by the word at `at`, "" when the word is syntax."""
    word, before = tokens[at], tokens[at - 1] if at else None
    name = word.text.upper()
    last = name.rsplit(" ", 1)[-1]
    if before is not None and before.token_type in _DOTS:
        raise refuse(
            "QUALIFIED_FUNCTION",
            f"The function {_dotted(tokens, at)} belongs to a schema: user functions and "
            "metadata functions are not served through Hoop.",
            "Use Snowflake's built-in functions only.",
        )
    if quoted:
        raise _unknown(word.text)
    if last == "TABLE":
        _check_table_function(tokens, at + 2)
        return ""
    if last in _syntax() or (name in _types() and _type_expected(tokens, at)):
        return ""
    if before is not None and before.text.upper() == "LATERAL" and name not in table_functions():
        raise _not_a_table_function(name)
    if name in listed() or (
        name in _sections()["pattern"] and "MATCH_RECOGNIZE" in _enclosing(tokens, at)
    ):
        return name
    if name == "IDENTIFIER":
        raise refuse(
            "INDIRECT_NAME",
            "IDENTIFIER(...) hides which object is meant.",
            "Write the name itself into the statement.",
        )
    raise _unknown(name)


def _type_expected(tokens: Sequence[Token], at: int) -> bool:
    """After `::` or AS, inside ARRAY( and MAP(, and after a column's name in DDL and OBJECT(...)."""
    before = tokens[at - 1] if at else None
    if before is None:
        return False
    if before.token_type in {TokenType.DCOLON, TokenType.ALIAS}:
        return True
    if before.token_type is TokenType.L_PAREN:
        return at >= 2 and tokens[at - 2].text.upper() in {"ARRAY", "MAP"}
    named = before.token_type in _COLUMN_NAMES
    return named and (
        tokens[0].token_type in {TokenType.CREATE, TokenType.ALTER}
        or _enclosing(tokens, at)[:1] == ["OBJECT"]
    )


# how sqlglot reads the name of a column that is being defined
_COLUMN_NAMES = frozenset(
    {TokenType.VAR, TokenType.IDENTIFIER, TokenType.DATE, TokenType.TIME, TokenType.TIMESTAMP}
)


def _enclosing(tokens: Sequence[Token], at: int) -> list[str]:
    """The words before the parentheses that are open at a token, innermost first."""
    depth = 0
    words: list[str] = []
    for i in range(at - 1, 0, -1):
        depth += tokens[i].token_type is TokenType.R_PAREN
        if tokens[i].token_type is TokenType.L_PAREN:
            if depth == 0:
                words.append(tokens[i - 1].text.upper())
            else:
                depth -= 1
    return words


def _check_table_function(tokens: Sequence[Token], at: int) -> None:
    """`at` is the token after `TABLE (`: it must be a listed table function, called directly."""
    name = tokens[at].text.upper() if at < len(tokens) else ""
    direct = (
        at + 1 < len(tokens)
        and tokens[at].token_type not in _STRINGS
        and tokens[at].token_type is not TokenType.IDENTIFIER
        and tokens[at + 1].token_type is TokenType.L_PAREN
    )
    if direct and name in table_functions():
        return
    if direct:
        raise _not_a_table_function(name)
    raise refuse(
        "INDIRECT_TABLE",
        "TABLE(...) around anything but a listed table function hides which object is read.",
        "Name the table directly in FROM.",
    )


def _not_a_table_function(name: str) -> Exception:
    return refuse(
        "TABLE_FUNCTION",
        f"The table function {name} is not served through Hoop.",
        f"Allowed: {', '.join(sorted(table_functions()))}.",
    )


def _dotted(tokens: Sequence[Token], at: int) -> str:
    start = at
    while start >= 2 and tokens[start - 1].token_type in _DOTS:
        start -= 2
    return "".join(t.text for t in tokens[start : at + 1])


def _unknown(name: str) -> Exception:
    return refuse(
        "UNKNOWN_FUNCTION",
        f"The function {name} is not on the list of functions that only compute from their arguments.",
        "Use built-in functions: user functions, AI functions and those that reach data, session or account "
        "state are refused.",
    )
