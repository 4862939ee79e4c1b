"""What a session's settings were when a statement was decided on still holds while it runs.

A row filter may rest on formats, time zone or week rules, and an approval is given for those in force. Statements
of one session run side by side, so an ALTER SESSION on its way would come between the decision and the statement.

Not thread-safe: used from the event loop only, and no method waits, so a check and what follows it are one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hoop_core.errors import StatementRefused
from hoop_core.model import Json, Kind, Verdict
from hoop_core.parameters import MEANING
from hoop_core.sql.limits import scan


@dataclass(slots=True)
class SettingsHeld:
    """Of one session: how many statements rest on its settings, and how many change them, at this moment."""

    _resting: int = 0
    _changing: int = 0
    _unsure: bool = False
    """A change did not come to a known end."""

    @contextmanager
    def during(
        self, verdict: Verdict, *, granted: bool, decided: Mapping[str, Any], now: Json
    ) -> Iterator[None]:
        """While a statement runs; `decided` are the settings that it was decided under, `now` those in force.

        Raises StatementRefused for one that rests on settings which are being changed, and the other way round.
        """
        rests = granted or any(f.by_session for f in verdict.decision.filtered)
        changes = changes_meaning(verdict)
        if rests and (self._changing or self._unsure or decided != now):
            raise _refused(
                "A setting that this statement rests on is being changed, or was changed meanwhile."
            )
        if changes and self._resting:
            raise _refused("A statement that rests on the session's settings is under way.")
        self._resting += rests
        self._changing += changes
        try:
            yield
        finally:
            self._resting -= rests
            self._changing -= changes

    def lost(self, verdict: Verdict) -> None:
        """Nobody knows whether a statement took effect."""
        self._unsure = self._unsure or changes_meaning(verdict)


def changes_meaning(verdict: Verdict) -> bool:
    """Whether a statement sets or unsets a parameter that changes what others do."""
    if verdict.statement is None or verdict.statement.kind is not Kind.SESSION:
        return False
    words = [t.text.upper() for t in scan(verdict.rewritten or "").tokens]
    return words[:2] == ["ALTER", "SESSION"] and not MEANING.isdisjoint(words)


def _refused(why: str) -> StatementRefused:
    return StatementRefused(
        why,
        "Run one after the other; connect again if it stays so.",
        reason="SESSION_SETTING",
    )
