"""Statements with gaps: `DELETE FROM T WHERE DAY = {day}`, and what may stand in each gap.

A gap takes one literal and nothing else: all other tokens are the template's, one by one. So two texts that fit one
template differ in nothing but these literals, and in white space and comments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

from sqlglot import TokenType

from hoop_core.errors import StatementRefused
from hoop_core.http import BadRequest
from hoop_core.model import Json
from hoop_core.sql.limits import DEFAULT, Scan, scan

MOST_LIMITS, MOST_CHOICES, LONGEST_CHOICE = 50, 1000, 200
_MOST_DAYS = 3660
MOST_TOKENS = 2000
"""Of a template: each statement of its schedule is compared with all of them."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")
_PLAIN = re.compile(r"'[^'\\]*'\Z")
"""A text literal that every reader reads alike."""
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?\Z")
"""Python reads more than these as a number, such as `1_0`, ` 5` and other alphabets' digits."""
_MILLISECONDS = re.compile(r"[0-9]{11,14}\Z")
_SURELY_MILLISECONDS = range(31_536_000_000, 31_536_000_000_000)
"""Of a number in a text Snowflake takes less for seconds and more for microseconds.

https://docs.snowflake.com/en/sql-reference/functions/to_date
"""


@dataclass(frozen=True, slots=True)
class Limit:
    """What may stand in one gap, or be bound in one place. What is None does not bound it."""

    type: str
    """`number`, `date` or `text`."""
    least: Decimal | None = None
    most: Decimal | None = None
    first: date | None = None
    last: date | None = None
    days_before: int | None = None
    days_after: int | None = None
    one_of: tuple[str, ...] = ()

    def refuses(self, value: str, *, number: bool, now: datetime) -> str | None:
        """Why a value may not stand there; None when it may. `number`: it is written without quotes."""
        match self.type:
            case "number":
                return self._number(value) if number else "is not a number"
            case "date":
                return "is not a date in quotes" if number else self._date(value, now)
            case _:
                held = not number and value in self.one_of
                return None if held else "is not one of the values that were approved"

    def _number(self, value: str) -> str | None:
        try:
            given = Decimal(value) if _NUMBER.match(value) else None
        except InvalidOperation:
            given = None
        if given is None:
            return "is not a number"
        if self.least is not None and given < self.least:
            return f"is below {self.least}"
        if self.most is not None and given > self.most:
            return f"is above {self.most}"
        return None

    def _date(self, value: str, now: datetime) -> str | None:
        try:
            given = date.fromisoformat(value) if _DATE.match(value) else None
        except ValueError:
            given = None
        if given is None:
            return "is not a date as YYYY-MM-DD"
        today = now.astimezone(UTC).date()
        firsts = [self.first] if self.first else []
        lasts = [self.last] if self.last else []
        if self.days_before is not None:
            firsts.append(today - timedelta(days=self.days_before))
        if self.days_after is not None:
            lasts.append(today + timedelta(days=self.days_after))
        if firsts and given < max(firsts):
            return f"is before {max(firsts)}"
        if lasts and given > min(lasts):
            return f"is after {min(lasts)}"
        return None

    def as_json(self) -> Json:
        told = {
            "type": self.type,
            "min": None if self.least is None else str(self.least),
            "max": None if self.most is None else str(self.most),
            "from": None if self.first is None else self.first.isoformat(),
            "to": None if self.last is None else self.last.isoformat(),
            "days_before": self.days_before,
            "days_after": self.days_after,
            "one_of": list(self.one_of) or None,
        }
        return {k: v for k, v in told.items() if v is not None}


_KEYS = {
    "number": {"type", "min", "max"},
    "date": {"type", "from", "to", "days_before", "days_after"},
    "text": {"type", "one_of"},
}


def read_limit(name: str, given: object) -> Limit:
    """A limit as JSON has it, bounded on both sides. Raises BadRequest."""

    def wrong(why: str) -> BadRequest:
        return BadRequest(
            f"The limit of {name!r} {why}.",
            'Write {"type": "number", "min": 0, "max": 9}, {"type": "date", "days_before": 7, '
            '"days_after": 0} or {"type": "text", "one_of": ["EU"]}.',
        )

    kind = given.get("type") if isinstance(given, dict) else None
    if not isinstance(given, dict) or not isinstance(kind, str) or kind not in _KEYS:
        raise wrong("has no type")
    if unknown := set(given) - _KEYS[kind]:
        raise wrong(f"has an unknown key {min(map(str, unknown))!r}")
    try:
        limit = _limit(kind, given)
    except (InvalidOperation, ValueError, TypeError):
        raise wrong("cannot be read") from None
    if not _bounded(limit):
        raise wrong("does not bound it on both sides")
    return limit


def _limit(kind: str, given: Mapping[str, Any]) -> Limit:
    if kind == "number":
        least, most = (Decimal(str(given[k])) if k in given else None for k in ("min", "max"))
        return Limit(kind, least=least, most=most)
    if kind == "date":
        first, last = (date.fromisoformat(given[k]) if k in given else None for k in ("from", "to"))
        before, after = (
            _days(given[k]) if k in given else None for k in ("days_before", "days_after")
        )
        return Limit(kind, first=first, last=last, days_before=before, days_after=after)
    choices = given.get("one_of")
    if not isinstance(choices, list) or not 0 < len(choices) <= MOST_CHOICES:
        raise ValueError
    if not all(isinstance(c, str) and len(c) <= LONGEST_CHOICE for c in choices):
        raise ValueError
    return Limit(kind, one_of=tuple(dict.fromkeys(choices)))


def _days(given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= _MOST_DAYS:
        raise ValueError
    return given


def _bounded(limit: Limit) -> bool:
    match limit.type:
        case "number":
            return all(d is not None and d.is_finite() for d in (limit.least, limit.most))
        case "date":
            begins = limit.first is not None or limit.days_before is not None
            return begins and (limit.last is not None or limit.days_after is not None)
        case _:
            return bool(limit.one_of)


@dataclass(frozen=True, slots=True)
class Fit:
    """How a statement stands to a template: `values` by gap where it fits, else `why` it does not."""

    same_text: bool
    values: Mapping[str, str]
    why: str | None = None

    @property
    def fits(self) -> bool:
        return self.same_text and self.why is None


@dataclass(frozen=True, slots=True)
class Template:
    """`limits` are by name for gaps, and by position ("1", "2") for bound values."""

    text: str
    limits: Mapping[str, Limit]

    @classmethod
    def read(cls, text: str, limits: object) -> Template:
        """Every gap and every bound value has a limit, and none is left over. Raises BadRequest."""
        if not isinstance(limits, dict) or len(limits) > MOST_LIMITS:
            raise BadRequest("bounds must be an object: a limit for each gap of the template.")
        template = cls(text, {name: read_limit(name, given) for name, given in limits.items()})
        pieces = _read(text)
        gaps = [p.gap for p in pieces if p.gap is not None]
        marks = sum(1 for p in pieces if p.text == "?")
        places = {*gaps, *(str(n) for n in range(1, marks + 1))}
        if len(set(gaps)) != len(gaps):
            raise BadRequest("A gap stands in the template twice.", "Give each its own name.")
        if not places:
            raise BadRequest("The template has no gap.", "Write a gap as {name}, or bind with ?.")
        if places != set(limits):
            odd = min(places ^ set(limits))
            raise BadRequest(
                f"{odd!r} has a gap or a limit, but not both.", "Give each gap one limit."
            )
        return template

    def filled(self, values: Mapping[str, object]) -> str:
        """The text with a literal in each gap. Raises BadRequest."""
        gaps = {p.gap: p for p in _wanted(self.text) if p.gap is not None}
        if set(gaps) != set(values):
            raise BadRequest("sample must have a value for each gap of the template.")
        filled, at = [], 0
        for name, piece in gaps.items():
            filled += [self.text[at : piece.start], _written(name, self.limits[name], values[name])]
            at = piece.end
        return "".join([*filled, self.text[at:]])

    def as_json(self) -> Json:
        return {name: limit.as_json() for name, limit in self.limits.items()}

    def fit(self, sql: str, bindings: Mapping[str, Any] | None, now: datetime) -> Fit:
        """Whether a statement is this template with values that it allows. Never raises."""
        try:
            # a literal has no more tokens than its gap, so what has more than a template may have does not fit
            found = _filled(_wanted(self.text), _pieces(scan(sql, _OF_TEMPLATES)))
        except StatementRefused:
            found = None
        if found is None:
            return Fit(False, {}, "its text is another")
        values = {name: value for name, (value, _) in found.items()}
        for name, (value, number) in found.items():
            if why := self.limits[name].refuses(value, number=number, now=now):
                return Fit(True, values, f"{name} {why}")
        return self._bound(values, bindings or {}, now)

    def _bound(self, values: dict[str, str], bindings: Mapping[str, Any], now: datetime) -> Fit:
        places = {name for name in self.limits if name.isdecimal()}
        if places != set(bindings):
            return Fit(True, values, "other values are bound than were approved")
        for place in sorted(places, key=int):
            read = _bound_value(bindings[place])
            if read is None:
                return Fit(True, values, f"bound value {place} cannot be compared")
            value, number = read
            if why := self.limits[place].refuses(value, number=number, now=now):
                return Fit(True, values, f"bound value {place} {why}")
            values = values | {place: value}
        return Fit(True, values)


@dataclass(frozen=True, slots=True)
class _Piece:
    """`start` and `end` are its place in the text; it has no text of its own where it is a gap."""

    text: str
    start: int
    end: int
    kind: TokenType | None = None
    gap: str | None = None


def _read(text: str) -> tuple[_Piece, ...]:
    """Raises BadRequest."""
    try:
        return _wanted(text)
    except StatementRefused as e:
        raise BadRequest(f"The template cannot be read: {e.message}") from None


@lru_cache(maxsize=64)
def _wanted(text: str) -> tuple[_Piece, ...]:
    """Templates are compared again and again. Raises BadRequest, StatementRefused."""
    return tuple(_template_pieces(scan(text, _OF_TEMPLATES)))


_OF_TEMPLATES = replace(DEFAULT, max_tokens=MOST_TOKENS)


def _template_pieces(text: Scan) -> Iterator[_Piece]:
    """The template's tokens; `{name}` is one piece."""
    pieces = _pieces(text)
    at = 0
    while at < len(pieces):
        texts = [p.text for p in pieces[at : at + 3]]
        if len(texts) == 3 and texts[0] == "{" and texts[2] == "}" and _NAME.match(texts[1]):
            yield _Piece("", pieces[at].start, pieces[at + 2].end, gap=texts[1])
            at += 3
        else:
            yield pieces[at]
            at += 1


def _pieces(text: Scan) -> list[_Piece]:
    return [
        _Piece(piece.removeprefix(" "), token.start, token.end + 1, token.token_type)
        for piece, token in zip(text.pieces, text.tokens, strict=True)
    ]


def _filled(
    wanted: Sequence[_Piece], given: Sequence[_Piece]
) -> dict[str, tuple[str, bool]] | None:
    """The literal in each gap and whether it is a number; None where the texts differ elsewhere."""
    found: dict[str, tuple[str, bool]] = {}
    at = 0
    for piece in wanted:
        if at >= len(given):
            return None
        if piece.gap is None:
            if piece.text != given[at].text:
                return None
            at += 1
            continue
        literal = _literal(given, at)
        if literal is None:
            return None
        value, number, width = literal
        found[piece.gap] = value, number
        at += width
    return found if at == len(given) else None


def _literal(given: Sequence[_Piece], at: int) -> tuple[str, bool, int] | None:
    """One literal: its value, whether it is a number, and how many tokens it has."""
    negative = given[at].text == "-"
    if negative and at + 1 >= len(given):
        return None
    piece = given[at + negative]
    if piece.kind is TokenType.NUMBER:
        return ("-" if negative else "") + piece.text, True, 1 + negative
    if not negative and piece.kind is TokenType.STRING and _PLAIN.match(piece.text):
        return piece.text[1:-1], False, 1
    return None


def _written(name: str, limit: Limit, value: object) -> str:
    """A value as a literal. Raises BadRequest."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadRequest(f"The sample's {name!r} is neither a text nor a number.")
    literal = str(value) if limit.type == "number" else f"'{value}'"
    if limit.type != "number" and not _PLAIN.match(literal):
        raise BadRequest(f"The sample's {name!r} holds a quote or a backslash.")
    if limit.type == "number" and limit.refuses(literal, number=True, now=datetime.now(UTC)):
        raise BadRequest(f"The sample's {name!r} is out of its bounds.")
    return literal


def _bound_value(binding: object) -> tuple[str, bool] | None:
    """A value as drivers bind it: texts, whole numbers and reals, and dates (milliseconds since 1970).

    What more is said of it, such as a format or a schema, may make another value of it.
    """
    if not isinstance(binding, dict):
        return None
    more = {k for k, v in binding.items() if v is not None} - {"type", "value"}
    if more or not isinstance(value := binding.get("value"), str):
        return None
    match str(binding.get("type")).upper():
        case "TEXT":
            return value, False
        case "FIXED" | "REAL":
            return value, True
        case "DATE":
            date_ = _day(value)
            return None if date_ is None else (date_, False)
        case _:
            return None


def _day(value: str) -> str | None:
    """The date of a number of milliseconds; None where it might be another unit."""
    if not _MILLISECONDS.match(value) or int(value) not in _SURELY_MILLISECONDS:
        return None
    return datetime.fromtimestamp(int(value) / 1000, UTC).date().isoformat()
