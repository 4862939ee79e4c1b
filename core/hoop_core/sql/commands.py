"""Statements that sqlglot keeps opaque, read by a grammar of our own: SHOW, DESCRIBE, USE, ALTER SESSION,
BEGIN, COMMIT, ROLLBACK. What does not fit the grammar to the last token is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlglot import Token, TokenType

from hoop_core.model import Kind, NameContext, TableName
from hoop_core.parameters import ALTERABLE, SET_IN_VAIN
from hoop_core.sql.names import resolve_parts
from hoop_core.sql.refusals import refuse
from hoop_core.sql.shape import UNBOUNDED


@dataclass(frozen=True, slots=True)
class Command:
    """`span` is where the one table name stands (character offsets), to be qualified there; `limit` where the
    number of a SHOW's LIMIT stands, which counts what the caller may see, and so is not for Snowflake to apply.
    """

    kind: Kind
    table: TableName | None = None
    span: tuple[int, int] | None = None
    limit: tuple[int, int] | None = None
    facts: dict[str, bool | int] = field(default_factory=dict)


# SHOW lists names and structure, never rows. Account objects (users, grants, secrets) are left out.
_SHOW = (
    ("TABLES",),
    ("VIEWS",),
    ("OBJECTS",),
    ("COLUMNS",),
    ("SCHEMAS",),
    ("DATABASES",),
    ("WAREHOUSES",),
    ("PRIMARY", "KEYS"),
    ("UNIQUE", "KEYS"),
    ("IMPORTED", "KEYS"),
    ("EXPORTED", "KEYS"),
    ("PROCEDURES",),
    ("FUNCTIONS",),
)
_OF_ONE_TABLE = {"COLUMNS", "KEYS"}


class _Reader:
    """A cursor over the tokens; every `take` either advances or leaves the cursor where it was."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = [t for token in tokens for t in _split(token)]
        self._at = 0

    @property
    def done(self) -> bool:
        return self._at >= len(self._tokens)

    def peek(self) -> tuple[str, Token] | None:
        return None if self.done else self._tokens[self._at]

    def take(self, *words: str) -> bool:
        """All the given words in this order, unquoted."""
        ahead = self._tokens[self._at : self._at + len(words)]
        if len(ahead) == len(words) and all(
            w == text and token.token_type is not TokenType.IDENTIFIER
            for w, (text, token) in zip(words, ahead, strict=True)
        ):
            self._at += len(words)
            return True
        return False

    def take_string(self) -> bool:
        here = self.peek()
        if here is not None and here[1].token_type is TokenType.STRING:
            self._at += 1
            return True
        return False

    def take_number(self) -> bool:
        here = self.peek()
        if here is not None and here[1].token_type is TokenType.NUMBER:
            self._at += 1
            return True
        return False

    def take_name(self) -> tuple[tuple[str, ...], tuple[int, int]] | None:
        """A dotted name: its folded parts and the characters that it spans."""
        before, parts = self._at, list[str]()
        start = end = -1
        while True:
            part = self._take_part()
            if part is None:
                self._at = before
                return None
            text, token = part
            parts.append(text)
            start, end = (token.start if start < 0 else start), token.end
            if not self.take("."):
                return tuple(parts), (start, end)
            if self.peek() is not None and self.take("."):
                parts.append("")

    def _take_part(self) -> tuple[str, Token] | None:
        here = self.peek()
        if here is None:
            return None
        text, token = here
        if token.token_type is TokenType.IDENTIFIER:
            self._at += 1
            return token.text, token
        if token.token_type is not TokenType.STRING and (text[:1].isalpha() or text[:1] == "_"):
            self._at += 1
            return text, token
        return None


def _split(token: Token) -> list[tuple[str, Token]]:
    """Upper-case words of a token: sqlglot reads some pairs (`PRIMARY KEY`) as one."""
    if token.token_type in {TokenType.STRING, TokenType.RAW_STRING, TokenType.IDENTIFIER}:
        return [(token.text, token)]
    return [(word, token) for word in token.text.upper().split()]


def read_command(tokens: Sequence[Token], names: NameContext) -> Command | None:
    """The command that the tokens are; None when they begin like something that sqlglot reads.

    Raises StatementRefused: UNSERVED_COMMAND, USE_ROLE, SESSION_PARAMETER, and those of names.
    """
    if not _FIRST_WORDS.intersection(tokens[0].text.upper().split()[:1]):
        return None
    reader = _Reader(tokens)
    for words, parse in _GRAMMAR:
        if reader.take(*words):
            command = parse(reader, names)
            if command is None or not reader.done:
                raise _unserved(" ".join(words))
            return command
    return None


def _unserved(what: str) -> Exception:
    return refuse(
        "UNSERVED_COMMAND",
        f"This form of {what} is not served through Hoop.",
        "Served: SHOW of tables, columns, schemas and databases, DESCRIBE TABLE, USE DATABASE, SCHEMA and "
        "WAREHOUSE, ALTER SESSION for formats and timeouts, BEGIN, COMMIT, ROLLBACK.",
    )


def _show(reader: _Reader, names: NameContext) -> Command | None:
    reader.take("TERSE")
    what = next((w for w in _SHOW if reader.take(*w)), None)
    if what is None:
        return None
    if reader.take("LIKE") and not reader.take_string():
        return None
    table = None
    if reader.take("IN"):
        table = _show_scope(reader, names, of_table=what[-1] in _OF_ONE_TABLE)
        if table is False:
            return None
    if reader.take("STARTS", "WITH") and not reader.take_string():
        return None
    limit: tuple[int, int] | None = None
    facts: dict[str, bool | int] = {}
    if reader.take("LIMIT"):
        number = reader.peek()
        if number is None or not reader.take_number() or not number[0].isdecimal():
            return None
        limit = number[1].start, number[1].end
        facts = {"has_limit": True, "limit_rows": min(int(number[0]), UNBOUNDED)}
        if reader.take("FROM") and not reader.take_string():
            return None
    if isinstance(table, tuple):
        return Command(Kind.SHOW, table[0], table[1], limit, facts)
    if what == ("COLUMNS",):
        # Snowflake lists what the role may see; which tables the caller may know is for the policy to say
        raise refuse(
            "UNSERVED_COMMAND",
            "SHOW COLUMNS of a whole schema, database or account is not served through Hoop: it lists the "
            "columns of tables that no rule grants.",
            "Name the table: SHOW COLUMNS IN TABLE database.schema.table.",
        )
    if what == ("EXPORTED", "KEYS"):
        return None  # which tables refer to which is told of one table that the caller may read
    return Command(Kind.SHOW, limit=limit, facts=facts)


def _show_scope(
    reader: _Reader, names: NameContext, *, of_table: bool
) -> tuple[TableName, tuple[int, int]] | bool:
    """After IN: True for a container, a table with its span, False when it is neither."""
    if reader.take("ACCOUNT"):
        return True
    for word, most in (("DATABASE", 1), ("SCHEMA", 2)):
        if reader.take(word):
            named = reader.take_name()
            return named is None or len(named[0]) <= most
    named_table = of_table and (reader.take("TABLE") or reader.take("VIEW"))
    named = reader.take_name()
    if named is None or len(named[0]) > 3:
        return False
    if not of_table:
        return len(named[0]) <= 2 and not named_table
    return resolve_parts(named[0], names), named[1]


def _describe(reader: _Reader, names: NameContext) -> Command | None:
    if not (reader.take("TABLE") or reader.take("VIEW")):
        return None
    named = reader.take_name()
    if named is None or len(named[0]) > 3:
        return None
    if reader.take("TYPE") and not reader.take("=", "COLUMNS"):
        return None
    return Command(Kind.DESCRIBE, resolve_parts(named[0], names), named[1])


def _use(reader: _Reader, names: NameContext) -> Command | None:
    if reader.take("ROLE") or reader.take("SECONDARY"):
        raise refuse(
            "USE_ROLE",
            "The role of a session is chosen by the policy, not by the statement.",
            "Ask for one of your roles when you connect.",
        )
    most = next(
        (n for w, n in (("DATABASE", 1), ("SCHEMA", 2), ("WAREHOUSE", 1)) if reader.take(w)), 2
    )
    named = reader.take_name()
    return Command(Kind.SESSION) if named is not None and len(named[0]) <= most else None


def _alter_session(reader: _Reader, names: NameContext) -> Command | None:
    unset = reader.take("UNSET")
    if not unset and not reader.take("SET"):
        return None
    in_vain = None
    altered = 0
    while (ahead := reader.peek()) is not None:
        here = reader.take_name()
        # a quoted name would escape those who note what a session was set to (session/guarded.py)
        if here is None or len(here[0]) != 1 or ahead[1].token_type is TokenType.IDENTIFIER:
            return None
        name = here[0][0].upper()
        if name in SET_IN_VAIN:
            in_vain = name
        elif name in ALTERABLE:
            altered += 1
        else:
            raise _not_alterable(name)
        if not unset and not (reader.take("=") and _value(reader, SET_IN_VAIN.get(name))):
            return None
        reader.take(",")
    if in_vain and not altered:  # whoever asks for this alone wants its effect
        raise _not_alterable(in_vain)
    return Command(Kind.SESSION)


def _not_alterable(name: str) -> Exception:
    return refuse(
        "SESSION_PARAMETER",
        f"The session parameter {name} cannot be changed through Hoop.",
        "Served are formats, time zone, week rules, timeouts and AUTOCOMMIT.",
    )


def _value(reader: _Reader, only: frozenset[str] | None = None) -> bool:
    """A value, or one of `only`."""
    here = reader.peek()
    if only is not None and (here is None or here[0] not in only):
        return False
    reader.take("-")
    return (
        reader.take_string() or reader.take_number() or reader.take("TRUE") or reader.take("FALSE")
    )


def _begin(reader: _Reader, names: NameContext) -> Command | None:
    if not reader.take("WORK"):
        reader.take("TRANSACTION")
    if reader.take("NAME"):
        named = reader.take_name()
        if named is None or len(named[0]) != 1:
            return None
    return Command(Kind.TRANSACTION) if reader.done else None


def _end(reader: _Reader, names: NameContext) -> Command | None:
    reader.take("WORK")
    return Command(Kind.TRANSACTION) if reader.done else None


_GRAMMAR: tuple[tuple[tuple[str, ...], Callable[[_Reader, NameContext], Command | None]], ...] = (
    (("SHOW",), _show),
    (("DESCRIBE",), _describe),
    (("DESC",), _describe),
    (("USE",), _use),
    (("ALTER", "SESSION"), _alter_session),
    (("BEGIN",), _begin),
    (("START", "TRANSACTION"), _begin),
    (("COMMIT",), _end),
    (("ROLLBACK",), _end),
)
_FIRST_WORDS = frozenset(words[0] for words, _ in _GRAMMAR)
