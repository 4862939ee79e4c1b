"""What a mask can give: the check of a recorded column against the mask that it should have passed.

Written from docs/policy.md and not from the expressions that the rewriter makes, and it reads results, not texts:
a mask that did not bind shows here whatever went wrong before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from hoop_core.masking.masks import Family, Mask, MaskName, SqlType, sql_type

Fits = Callable[[Any], bool]
_HASHED = re.compile(r"[0-9A-Fa-f]*\Z")
_DIGITS = 64
"""Of a SHA-256 in hexadecimal."""
_STARS = re.compile(r"\**\Z")


def shape_of(mask: Mask, type_text: str, *, hash_known: bool = True) -> Fits | None:
    """Whether a value can have come out of the mask on a column of this type; None: nothing is known of it.

    NULL always can: joins make it. `hash_known`: whether the hash function is Hoop's own, which gives hexadecimal
    digits.
    """
    kind = sql_type(type_text)
    make = _SHAPES[mask.name]
    if mask.name is MaskName.HASH and not hash_known:
        return None
    fits = make(kind, mask.options)
    return lambda value: value is None or fits(value)


_Options = Mapping[str, str | int | float | bool]


def _nothing(_kind: SqlType, _options: _Options) -> Fits:
    return lambda _value: False


def _constant(kind: SqlType, options: _Options) -> Fits:
    value = options.get("value")
    if kind.family is Family.TEXT:
        text = "***" if value is None else str(value)
        shown = text if kind.length is None else text[: kind.length]
        return lambda found: found == shown
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if kind.family in {Family.NUMBER, Family.FLOAT} and (value is None or numeric):
        number = Decimal(str(0 if value is None else value))
        return lambda found: _near(found, number, kind)
    if kind.family is Family.BOOLEAN and (value is None or isinstance(value, bool)):
        return lambda found: found is bool(value)
    if kind.family in {Family.DATE, Family.TIME, Family.TIMESTAMP} and value is None:
        return lambda found: _day_of(found) == date(1970, 1, 1) and _of_day(found) == (0, 0, 0, 0)
    return _nothing(kind, options)


def _near(found: Any, number: Decimal, kind: SqlType) -> bool:
    """A NUMBER rounds the constant to its scale, a FLOAT to what it can hold."""
    if not isinstance(found, Decimal):
        return False
    if kind.family is Family.FLOAT:
        return float(found) == float(number)
    return abs(found - number) <= Decimal("0.5")


def _hash(kind: SqlType, options: _Options) -> Fits:
    if kind.family is not Family.TEXT:
        return _nothing(kind, options)
    length = _DIGITS if kind.length is None else min(_DIGITS, kind.length)
    return lambda found: (
        isinstance(found, str) and len(found) == length and _HASHED.match(found) is not None
    )


def _partial(kind: SqlType, options: _Options) -> Fits:
    if kind.family is not Family.TEXT:
        return _nothing(kind, options)
    first, last = int(options.get("keep_first", 0)), int(options.get("keep_last", 4))

    def fits(found: Any) -> bool:
        if not isinstance(found, str):
            return False
        hidden = found
        if len(found) >= 2 * (first + last):
            hidden = found[first : len(found) - last]
        return _STARS.match(hidden) is not None

    return fits


def _email_domain(kind: SqlType, options: _Options) -> Fits:
    if kind.family is not Family.TEXT:
        return _nothing(kind, options)

    def fits(found: Any) -> bool:
        if not isinstance(found, str) or len(found) > (kind.length or len(found)):
            return False
        if found.startswith("***@"):
            return "@" not in found[4:]
        cut = kind.length is not None and len(found) == kind.length and "***@".startswith(found)
        return found == "***" or cut

    return fits


_EDGES: dict[str, Callable[[datetime | date], bool]] = {
    "YEAR": lambda d: (d.month, d.day) == (1, 1),
    "QUARTER": lambda d: d.month in {1, 4, 7, 10} and d.day == 1,
    "MONTH": lambda d: d.day == 1,
    "WEEK": lambda d: d.isoweekday() == 1,
    "DAY": lambda d: True,
    "HOUR": lambda d: True,
    "MINUTE": lambda d: True,
    "SECOND": lambda d: True,
}
_WITHIN_DAY = {"HOUR": 1, "MINUTE": 2, "SECOND": 3}
"""How much of hour, minute, second, microsecond a unit leaves."""


def _date_trunc(kind: SqlType, options: _Options) -> Fits:
    unit = str(options.get("unit", "month")).upper()
    edge = _EDGES.get(unit)
    local = kind.cast.startswith(("TIMESTAMP_LTZ", "TIMESTAMPLTZ"))
    dated = kind.family is Family.DATE and unit not in _WITHIN_DAY
    if edge is None or local or not (dated or kind.family is Family.TIMESTAMP):
        return _nothing(kind, options)
    left = _WITHIN_DAY.get(unit, 0)

    def fits(found: Any) -> bool:
        return isinstance(found, date) and edge(found) and not any(_of_day(found)[left:])

    return fits


def _of_day(found: Any) -> tuple[int, ...]:
    if isinstance(found, datetime):
        return found.hour, found.minute, found.second, found.microsecond
    return (0, 0, 0, 0)


def _day_of(found: Any) -> date | None:
    if isinstance(found, datetime):
        return found.date()
    return found if isinstance(found, date) else None


def _bucket(kind: SqlType, options: _Options) -> Fits:
    if kind.family not in {Family.NUMBER, Family.FLOAT}:
        return _nothing(kind, options)
    size = Decimal(str(options.get("size", 10)))

    def fits(found: Any) -> bool:
        if not isinstance(found, Decimal):
            return False
        if kind.least is not None and found == kind.least:
            return True
        try:
            rest = abs(found % size)
        except InvalidOperation:  # of a number so large that the quotient has too many digits
            return kind.family is Family.FLOAT
        if (
            kind.family is Family.FLOAT
        ):  # multiples of a size that is no binary fraction are not exact
            return min(rest, size - rest) <= abs(found) * Decimal("1e-12")
        return rest == 0

    return fits


_SHAPES: dict[MaskName, Callable[[SqlType, _Options], Fits]] = {
    MaskName.NULL: _nothing,
    MaskName.CONSTANT: _constant,
    MaskName.HASH: _hash,
    MaskName.PARTIAL: _partial,
    MaskName.EMAIL_DOMAIN: _email_domain,
    MaskName.DATE_TRUNC: _date_trunc,
    MaskName.BUCKET: _bucket,
}
