"""The period in charts: one HTML page that needs nothing else, and prints well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import resources

from jinja2 import Environment

from hoop_core.evidence.criteria import CRITERIA
from hoop_core.model import Json

_MOST = 12
"""Bars of one chart; the others are counted together."""
_BINS = ((1, "up to 1 s"), (5, "1 to 5 s"), (30, "5 to 30 s"), (300, "30 s to 5 min"),
         (3600, "5 min to 1 h"))  # fmt: skip
_LONGER = "longer than 1 h"


@dataclass(frozen=True, slots=True)
class Bar:
    name: str
    count: int
    share: float
    """Of the longest one, 0 to 100."""


@dataclass(slots=True)
class Summary:
    begin: str | None
    end: str | None
    entries: int = 0
    _first: str = ""
    _last: str = ""
    _people: Counter[str] = field(default_factory=Counter)
    _tables: Counter[tuple[str, str]] = field(default_factory=Counter)
    _decisions: Counter[str] = field(default_factory=Counter)
    _denials: Counter[str] = field(default_factory=Counter)
    _approvals: Counter[str] = field(default_factory=Counter)
    _days: Counter[str] = field(default_factory=Counter)
    _users: int = 0
    _gone: int = 0
    _revoking: dict[str, str] = field(default_factory=dict)
    _revoked: Counter[str] = field(default_factory=Counter)
    _masked: Counter[str] = field(default_factory=Counter)

    def tell(self, entry: Json) -> None:
        self.entries += 1
        self._first, self._last = self._first or entry["at"], entry["at"]
        data, kind = entry["data"], str(entry["kind"])
        step = getattr(self, "_" + kind.replace(".", "_"), None)
        try:
            if step is not None:
                step(entry["at"], data)
            elif kind.startswith("approval."):
                self._approval(kind.removeprefix("approval."), data)
        except (KeyError, TypeError, ValueError, AttributeError):
            pass  # the tables tell of it

    def _statement_intent(self, at: str, data: Json) -> None:
        if data.get("counted_for"):  # Hoop's own, for a question
            return
        name = (data.get("identity") or {}).get("name") or "?"
        decision = data["decision"]
        self._days[at[:10]] += 1
        self._people[name] += 1
        self._decisions["approved by people" if data["approval"] else "allowed"] += 1
        self._tables.update((name, table) for table in {*data["reads"], *data["writes"]})
        self._masked.update(f"{m['table']}.{m['column']}" for m in decision["masked"])

    def _statement_refused(self, at: str, data: Json) -> None:
        self._days[at[:10]] += 1
        self._decisions["refused"] += 1
        decision = data.get("decision")
        decision = decision if isinstance(decision, dict) else {}
        rules = decision.get("rules") or [data.get("reason") or "no rule grants it"]
        self._denials.update(str(rule) for rule in rules)

    def _approval(self, move: str, data: Json) -> None:
        if move == "answered":
            move = str(data.get("status") or "").removeprefix("pending")
        if move in ("requested", "approved", "rejected", "expired", "withdrawn", "revoked",
                    "broken_glass"):  # fmt: skip
            self._approvals[move.replace("_", " ")] += 1

    def _credential_minted(self, _at: str, _data: Json) -> None:
        self._users += 1

    def _credential_revoking(self, at: str, data: Json) -> None:
        self._revoking.setdefault(data["snowflake_user"], at)

    def _credential_gone(self, at: str, data: Json) -> None:
        self._gone += 1
        asked = self._revoking.pop(data["snowflake_user"], None)
        if asked is not None:
            seconds = (_time(at) - _time(asked)).total_seconds()
            self._revoked[next((n for most, n in _BINS if seconds <= most), _LONGER)] += 1

    # ------------------------------------------------------------------ the page

    def html(
        self, controls: Sequence[str], alerts: Mapping[str, int], told: Mapping[str, str]
    ) -> str:
        """Self-contained: no script, nothing fetched."""
        template = resources.files("hoop_core.evidence").joinpath("summary.html.j2").read_text()
        page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
            template
        )
        named = Counter({f"{who} \u2192 {table}": n for (who, table), n in self._tables.items()})
        ordered = Counter(
            {n: self._revoked[n] for _, n in (*_BINS, (0, _LONGER)) if self._revoked[n]}
        )
        charts = [
            ("Statements a day", bars(dict(sorted(self._days.items())), ordered=True)),
            ("Decisions", bars(self._decisions)),
            ("Who ran how many statements", bars(self._people)),
            ("Who touched which table", bars(named)),
            ("Refused, by rule", bars(self._denials)),
            ("Requests for approval, by what became of them", bars(self._approvals)),
            ("Masked columns that statements asked for", bars(self._masked)),
            ("From the end of use until a user was confirmed gone", bars(ordered, ordered=True)),
            ("Alerts", bars(alerts)),
        ]
        return page.render(
            begin=self.begin or self._first, end=self.end or self._last, entries=self.entries,
            statements=self._decisions.total(), people=len(self._people),
            refused=self._decisions["refused"], users=self._users, gone=self._gone, charts=charts,
            told=told, controls=[(c, CRITERIA[c][0], CRITERIA[c][1]) for c in controls],
        )  # fmt: skip


def bars(counted: Mapping[str, int], *, ordered: bool = False) -> list[Bar]:
    """The largest first, unless they are ordered already."""
    pairs = list(counted.items())
    if not ordered:
        pairs.sort(key=lambda pair: (-pair[1], pair[0]))
        if len(pairs) > _MOST:
            rest = pairs[_MOST:]
            pairs = [*pairs[:_MOST], (f"{len(rest)} others", sum(n for _, n in rest))]
    longest = max((n for _, n in pairs), default=0)
    return [Bar(name, n, round(100 * n / longest, 1) if longest else 0) for name, n in pairs]


def _time(at: str) -> datetime:
    return datetime.fromisoformat(at)
