"""Bound values in a question: told only where nothing speaks against it.

Questions stand in the log, in chats and on screens, and an approver need not be
cleared for what a job binds. A value is hidden when the statement has to do with a masked column, or when it looks like
something that is recognised in results; in doubt it is hidden. The grant is bound to all of them by their digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from hoop_core.masking import detectors
from hoop_core.model import Detector, Json

_MOST_LISTED = 200
_LONGEST = 500


@dataclass(frozen=True, slots=True)
class Bound:
    """`value` is None where it is hidden, and `why` says why; `rows` of an array that is bound at once."""

    position: str
    type: str
    value: str | None
    why: str
    length: int
    rows: int | None = None

    def as_json(self) -> Json:
        return {
            "position": self.position,
            "type": self.type,
            "value": self.value,
            "hidden": self.why or None,
            "length": self.length,
            "rows": self.rows,
        }

    @classmethod
    def from_json(cls, given: Json) -> Bound:
        return cls(
            str(given.get("position", "?")),
            str(given.get("type", "?")),
            given.get("value"),
            given.get("hidden") or "",
            int(given.get("length") or 0),
            given.get("rows"),
        )


def told(given: Sequence[Json], question: Json) -> tuple[list[Bound], int]:
    """The values of a question as it may tell them, and how many more there are."""
    close = _close_to_masked(question)
    shown = [_bound(g, close) for g in given[:_MOST_LISTED]]
    hidden = _recognised([b.value or "" for b in shown])
    found = [
        b if b.value is None or kind is None else _hidden(b, f"looks like {_WORDS[kind]}")
        for b, kind in zip(shown, hidden, strict=True)
    ]
    return found, len(given) - len(found)


def _bound(given: Json, close: bool) -> Bound:
    value = given.get("value")
    position, kind = str(given.get("position", "?")), str(given.get("type", "?"))
    if value is None:
        return Bound(position, kind, "NULL", "", 0)
    if not isinstance(value, str):
        rows = len(value) if isinstance(value, list) else None
        return Bound(position, kind, None, "many values at once", 0, rows)
    plain = Bound(position, kind, value, "", len(value))
    if close:
        return _hidden(plain, "the statement has to do with masked columns")
    return plain if len(value) <= _LONGEST else _hidden(plain, "long")


def _hidden(bound: Bound, why: str) -> Bound:
    return Bound(bound.position, bound.type, None, why, bound.length, bound.rows)


def _close_to_masked(question: Json) -> bool:
    """Whether a value might be one of a masked column: it is compared with one, or written beside one."""
    masked = question.get("masked") or []
    exposed = question.get("exposed") or []
    touched = any(m.get("used", True) is not False for m in masked)
    return bool(exposed) or touched or bool(masked and question.get("writes"))


def _recognised(values: Sequence[str]) -> list[Detector | None]:
    if not values:
        return []
    found = detectors.find(pl.Series("t", values, dtype=pl.String), tuple(Detector))
    columns = {kind: hits.to_list() for kind, hits in found.items()}
    return [next((k for k, hits in columns.items() if hits[n]), None) for n in range(len(values))]


_WORDS = {
    Detector.EMAIL: "an e-mail address",
    Detector.CARD: "a card number",
    Detector.SSN: "a social security number",
    Detector.IBAN: "a bank account",
    Detector.PHONE: "a phone number",
    Detector.TOKEN: "a key or token",
}
