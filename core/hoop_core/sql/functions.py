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
    return frozenset().union(*(_sections()[s] for s in ("scalar", "aggregate", "window", "table")))


@cache
def table_functions() -> frozenset[str]:
    """Functions that may stand in FROM, inside TABLE(...) or after LATERAL."""
    return _sections()["table"]


@cache
def _syntax() -> frozenset[str]:
    """Words that stand before a parenthesis without calling anything: keywords and type names."""
    return (_sections()["syntax"] | _sections()["types"]) - listed()


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
    if last in _syntax():
        return ""
    if before is not None and before.text.upper() == "LATERAL" and name not in table_functions():
        raise _not_a_table_function(name)
    if name in listed():
        return name
    if name == "IDENTIFIER":
        raise refuse(
            "INDIRECT_NAME",
            "IDENTIFIER(...) hides which object is meant.",
            "Write the name itself into the statement.",
        )
    raise _unknown(name)


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
        "User functions, AI functions and functions that reach data, session or account state are refused.",
    )
