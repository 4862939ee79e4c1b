"""The drivers' bound values, from the strings of the protocol to Python values.

Units on the wire: DATE milliseconds, TIME and TIMESTAMP_* nanoseconds since the epoch; BINARY hex.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Any

from sqlglot import exp

from hoop_core.devstack.emulator.errors import SqlError, bad_value, not_modelled

Bindings = Mapping[str, Mapping[str, Any]]


def by_position(tree: exp.Expr, bindings: Bindings | None) -> tuple[exp.Expr, Bindings | None]:
    """`:name` as `:1`, `:2`, ..., where the driver binds by name. Names are compared without their case."""
    if not bindings or all(name.isdecimal() for name in bindings):
        return tree, bindings
    numbers = {name.upper(): str(i) for i, name in enumerate(bindings, 1)}

    def numbered(node: exp.Expr) -> exp.Expr:
        name = str(node.args.get("this") or "").upper() if isinstance(node, exp.Placeholder) else ""
        return exp.Placeholder(this=numbers[name]) if name in numbers else node

    return tree.transform(numbered), {numbers[n.upper()]: v for n, v in bindings.items()}


def bound_rows(bindings: Bindings | None) -> list[list[Any]]:
    """The driver's positional `bindings`, as one row, or as many as an array binding has.

    Raises SqlError for anything but positions 1..n.
    """
    if not bindings:
        return []
    try:
        columns = [bindings[str(i)] for i in range(1, len(bindings) + 1)]
    except KeyError:
        raise not_modelled("bindings by name and by position together") from None
    if any(isinstance(c.get("value"), list) for c in columns):
        lists = [[_bound(c, v) for v in c["value"]] for c in columns]
        if len({len(items) for items in lists}) != 1:
            raise SqlError("002049", "42601", "SQL compilation error: Array bind of uneven length.")
        return [list(row) for row in zip(*lists, strict=True)]
    return [[_bound(c, c.get("value")) for c in columns]]


def _bound(binding: Mapping[str, Any], value: Any) -> Any:
    kind = str(binding.get("type") or "TEXT").upper()
    if value is None:
        return None
    text = str(value)
    try:
        return _CONVERTERS.get(kind, str)(text)
    except (ValueError, InvalidOperation, OverflowError):
        raise bad_value(f"binding of type {kind}") from None


def _fixed(text: str) -> int | Decimal:
    return Decimal(text) if "." in text or "e" in text.lower() else int(text)


def _moment(text: str) -> datetime:
    """Nanoseconds since the epoch, as NTZ."""
    return datetime(1970, 1, 1) + timedelta(microseconds=int(text) // 1000)  # noqa: DTZ001


def _instant(text: str) -> datetime:
    """Nanoseconds, and for TIMESTAMP_TZ the offset in minutes plus 1440."""
    nanoseconds, _, offset = text.partition(" ")
    at = _moment(nanoseconds).replace(tzinfo=UTC)
    return at.astimezone(timezone(timedelta(minutes=int(offset) - 1440))) if offset else at


def _time(text: str) -> time:
    return _moment(text).time()


def _date(text: str) -> date:
    """Milliseconds since the epoch."""
    return date(1970, 1, 1) + timedelta(milliseconds=int(text))


_CONVERTERS: dict[str, Any] = {
    "BINARY": bytes.fromhex,
    "BOOLEAN": lambda t: t.lower() in ("true", "1"),
    "DATE": _date,
    "FIXED": _fixed,
    "REAL": float,
    "TIME": _time,
    "TIMESTAMP_LTZ": _instant,
    "TIMESTAMP_NTZ": _moment,
    "TIMESTAMP_TZ": _instant,
}
