"""SQL for people: coloured, laid out in lines, and compared with what was sent.

It is cut into the same pieces as when it was judged: a reader of its own could take for a comment what runs.
Only white space differs from the text itself, which stands on the page, and can be fetched, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from sqlglot import TokenType

from hoop_core.errors import StatementRefused
from hoop_core.sql.limits import scan
from hoop_core.web.pages.alignment import aligned
from hoop_core.web.pages.plain import marked

_MOST_COLOURED = 60_000
"""Characters; a longer text stands there whole, too, but as it is, and is not compared."""
_WIDE = 96
_STRINGS = frozenset(
    t for t in TokenType if t.name.endswith("STRING") and t.name not in {"STRING_TYPE"}
)


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text))


_CLAUSES = _words(
    "FROM WHERE GROUP ORDER HAVING QUALIFY LIMIT UNION INTERSECT EXCEPT SET VALUES USING WHEN"
)
_HEADS = frozenset(
    {"SELECT", "SELECT DISTINCT", "DISTINCT", "SET", "VALUES", "GROUP BY", "ORDER BY"}
)
_JOINS = _words("JOIN LEFT RIGHT FULL INNER CROSS NATURAL ASOF")
_PLAIN_NAME = re.compile(r'"[A-Z_][A-Z0-9_$]*"\Z')
_BLANKS = frozenset({"space", "comment"})
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\s+[A-Za-z]+)*\Z")  # some keywords are of two words


@dataclass(frozen=True, slots=True)
class Piece:
    """`kind`: word, string, number, name (in quotes), sign, comment or space."""

    text: str
    kind: str

    @property
    def key(self) -> str:
        """What a comparison looks at: what the piece means. Of white space that it is there; and Snowflake folds
        names without quotes up (https://docs.snowflake.com/en/sql-reference/identifiers-syntax).
        """
        if self.kind == "space":
            return " "
        if self.kind == "word":
            return self.text.upper()
        plain = self.kind == "name" and _PLAIN_NAME.match(self.text)
        return self.text[1:-1] if plain else self.text


@dataclass(frozen=True, slots=True)
class Difference:
    """Both texts with what is only in one of them marked; `inline` has both in one."""

    before: Markup
    after: Markup
    inline: Markup
    removed: int
    added: int


def pieces(sql: str) -> list[Piece]:
    """All of the text, cut as its judge cut it; in one piece where it cannot be read."""
    try:
        tokens = scan(sql).tokens
    except StatementRefused:
        return [Piece(sql, "sign")] if sql else []
    found: list[Piece] = []
    end = 0
    for token in tokens:
        found += _between(sql[end : token.start])
        text = sql[token.start : token.end + 1]
        found.append(Piece(text, _kind(token.token_type, text)))
        end = token.end + 1
    return found + _between(sql[end:])


def laid_out(given: Sequence[Piece]) -> list[Piece]:
    """The same pieces with line breaks at clauses, and at the items of long inner queries, where lines are long.

    Line breaks that are there stay.
    """
    text = "".join(p.text for p in given)
    if max((len(line) for line in text.split("\n")), default=0) <= _WIDE:
        return list(given)
    return _Layout(given).made()


class _Layout:
    """One pass over the pieces, with a note of each parenthesis that is open."""

    def __init__(self, given: Sequence[Piece]) -> None:
        self._given, self._out = given, list[Piece]()
        self._opens = _queries(given)
        self._open: list[tuple[bool, bool]] = [(True, False)]  # a query in it? over several lines?
        self._depth = self._column = 0

    def made(self) -> list[Piece]:
        before: Piece | None = None
        for n, piece in enumerate(self._given):
            if piece.kind in _BLANKS:
                # the break that was made here takes the place of a blank
                if not (piece.kind == "space" and self._broken() and "\n" not in piece.text):
                    self._put(piece)
                continue
            if piece.text == ")" and len(self._open) > 1:
                _, wide = self._open.pop()
                self._depth -= wide
                if wide:
                    self._break()
            query, wide = self._open[-1]
            if query and _begins_clause(piece, before):
                self._break()
            elif (
                query
                and before is not None
                and before.text == ","
                and (wide or self._column > _WIDE)
            ):
                self._break(more=1)
            self._put(piece)
            if piece.text == "(":
                inner, size = self._opens.get(n, (False, 0))
                self._open.append((inner, inner and size > _WIDE // 2))
                self._depth += self._open[-1][1]
                if self._open[-1][1]:
                    self._break()
            before = piece
        return self._out

    def _put(self, piece: Piece) -> None:
        self._out.append(piece)
        self._column = _column(self._column, piece.text)

    def _broken(self) -> bool:
        return bool(self._out) and self._out[-1].text.startswith("\n")

    def _break(self, more: int = 0) -> None:
        """A new line here, unless there is one."""
        if not self._out or (self._out[-1].kind == "space" and "\n" in self._out[-1].text):
            return
        if self._out[-1].kind == "space":
            self._out.pop()
        self._put(Piece("\n" + "  " * (self._depth + more), "space"))


def _queries(given: Sequence[Piece]) -> dict[int, tuple[bool, int]]:
    """Of each opening parenthesis, whether a query is in it, and how many characters."""
    found: dict[int, tuple[bool, int]] = {}
    open_at: list[tuple[int, int]] = []
    size, waiting = 0, -1
    for n, piece in enumerate(given):
        size += len(piece.text)
        if piece.kind in _BLANKS:
            continue
        if waiting >= 0:
            found[waiting] = (piece.text.upper() in {"SELECT", "WITH"}, 0)
            waiting = -1
        if piece.text == "(":
            open_at.append((n, size))
            waiting = n
        elif piece.text == ")" and open_at:
            at, began = open_at.pop()
            found[at] = (found.get(at, (False, 0))[0], size - began)
    return found


def coloured(sql: str) -> Markup:
    """One text, all of it."""
    if len(sql) > _MOST_COLOURED:
        return marked(sql, foreign=True)
    return _all(laid_out(pieces(sql)))


def compared(before: str, after: str) -> Difference | None:
    """None when they are too long, or too different, to be compared on a page. Comments and white space make no
    difference: nothing of them runs.
    """
    if max(len(before), len(after)) > _MOST_COLOURED:
        return None
    old, new = _units(laid_out(pieces(before))), _units(laid_out(pieces(after)))
    pairs = aligned([_key(u) for u in old], [_key(u) for u in new])
    if pairs is None:
        return None
    made = _Comparison()
    at, there = 0, 0
    for i, k in [*pairs, (len(old), len(new))]:
        made.changed(_flat(old[at:i]), _flat(new[there:k]))
        if i < len(old):
            made.same(old[i], new[k])
        at, there = i + 1, k + 1
    return made.difference()


_Unit = list[Piece]


def _units(given: Sequence[Piece]) -> list[_Unit]:
    """What people compare: whole items of a list and whole clauses, not the words in them."""
    units: list[_Unit] = [[]]
    query = [True]  # of each open parenthesis, whether a query is in it
    opens = _queries(given)
    before: Piece | None = None
    for n, piece in enumerate(given):
        if piece.kind in _BLANKS:
            units[-1].append(piece)
            continue
        closes = piece.text == ")" and len(query) > 1 and query.pop()
        if (closes or (query[-1] and _begins_clause(piece, before))) and _key(units[-1]):
            units.append([])
        units[-1].append(piece)
        ends = piece.text == "," or piece.text.upper() in _HEADS
        if piece.text == "(":
            ends = opens.get(n, (False, 0))[0]
            query.append(ends)
        if ends and query[-1]:
            units.append([])
        before = piece
    if len(units) > 1 and not _key(units[-1]):
        trail = units.pop()
        units[-1] += trail
    return units


def _key(unit: _Unit) -> tuple[str, ...]:
    """What an item means."""
    return tuple(p.key for p in unit if p.kind not in _BLANKS)


def _flat(units: Sequence[_Unit]) -> list[Piece]:
    return [p for u in units for p in u]


class _Comparison:
    """Both sides, and both in one, as they grow."""

    def __init__(self) -> None:
        self._before, self._after, self._inline = list[str](), list[str](), list[str]()
        self._removed = self._added = 0

    def same(self, old: _Unit, new: _Unit) -> None:
        shown = _all(new)
        self._before.append(_all(old))
        self._after.append(shown)
        self._inline.append(shown)

    def changed(self, old: _Unit, new: _Unit) -> None:
        if not old and not new:
            return
        gone, come = _Wrapped.of("del", old), _Wrapped.of("ins", new)
        self._removed += bool(gone.inside)
        self._added += bool(come.inside)
        self._before.append(gone.whole)
        self._after.append(come.whole)
        lead, trail = (come.lead, come.trail) if come.inside else (gone.lead, gone.trail)
        self._inline.append(lead + gone.inside + come.inside + trail)

    def difference(self) -> Difference:
        before, after, inline = map(_joined, (self._before, self._after, self._inline))
        return Difference(before, after, inline, self._removed, self._added)


@dataclass(frozen=True, slots=True)
class _Wrapped:
    """A change, marked without the white space around it."""

    lead: Markup
    inside: Markup
    trail: Markup

    @property
    def whole(self) -> Markup:
        return self.lead + self.inside + self.trail

    @classmethod
    def of(cls, tag: str, given: _Unit) -> _Wrapped:
        start, end = 0, len(given)
        while start < end and given[start].kind == "space":
            start += 1
        while end > start and given[end - 1].kind == "space":
            end -= 1
        inside = _all(given[start:end])
        wrapped = (_REMOVED if tag == "del" else _ADDED).format(inside) if inside else inside
        return cls(_all(given[:start]), wrapped, _all(given[end:]))


_REMOVED = Markup('<del><span class="sr">removed: </span>{}</del>')
_ADDED = Markup('<ins><span class="sr">added: </span>{}</ins>')


def _all(given: Iterable[Piece]) -> Markup:
    return _joined(_html(p) for p in given)


def _joined(parts: Iterable[str]) -> Markup:
    return Markup("".join(parts))  # noqa: S704 - of pieces that are escaped


def _html(piece: Piece) -> str:
    text = str(marked(piece.text, foreign=True))
    if piece.kind in {"space", "sign"}:
        return text
    if piece.kind == "word" and piece.text.upper().split()[0] not in _KEYWORDS:
        return text
    return f'<span class="t-{piece.kind}">{text}</span>'


def _between(gap: str) -> list[Piece]:
    """White space and comments between two tokens."""
    if not gap:
        return []
    bare = gap.strip()
    if not bare:
        return [Piece(gap, "space")]
    lead = gap[: len(gap) - len(gap.lstrip())]
    trail = gap[len(lead) + len(bare) :]
    found = [Piece(lead, "space"), Piece(bare, "comment"), Piece(trail, "space")]
    return [p for p in found if p.text]


def _kind(token: TokenType, text: str) -> str:
    if token in _STRINGS or text[:1] == "'":
        return "string"
    if token is TokenType.NUMBER:
        return "number"
    if token is TokenType.IDENTIFIER:
        return "name"
    return "word" if _WORD.match(text) else "sign"


def _begins_clause(piece: Piece, before: Piece | None) -> bool:
    if piece.kind != "word" or before is None or before.text == ".":
        return False
    word = piece.text.upper().split()[0]
    if word in _JOINS:
        return before.text.upper() not in _JOINS | {"OUTER"}
    if word == "SELECT":
        return before.text != "("
    return word in _CLAUSES


def _column(column: int, text: str) -> int:
    _, newline, rest = text.rpartition("\n")
    return len(rest) if newline else column + len(text)


_KEYWORDS = _words(
    """
    ALL ALTER AND ANY AS ASC ASOF BETWEEN BY CASE CAST COLUMN COPY CREATE CROSS DELETE DESC DISTINCT DROP ELSE END
    EXCEPT EXISTS FALSE FROM FULL GROUP HAVING IF IN INNER INSERT INTERSECT INTO IS JOIN LEFT LIKE ILIKE LIMIT
    MATCHED MERGE NATURAL NOT NULL ON OR ORDER OUTER OVER OVERWRITE PARTITION QUALIFY REPLACE RIGHT SELECT SET
    TABLE TEMPORARY THEN TRUE TRUNCATE UNION UPDATE USING VALUES WHEN WHERE WITH
    """
)
