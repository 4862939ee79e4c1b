"""Verdicts that were given before. A hit saves the analysis and nothing else: approval, intent and
everything after them happen as ever.

The key is everything that a verdict depends on, itself and not a hash of it; what is known of each object
in the catalog is compared at every hit. A policy with a condition on `now` is never answered from here.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hoop_core.analysts.question import Judged, Objects, Question
from hoop_core.model import Outcome
from hoop_core.policy.conditions import Condition
from hoop_core.policy.model import Policy
from hoop_core.sql.catalog import Catalog

Key = tuple[Any, ...]

UNSTABLE = frozenset({"ANALYSIS_FAILED", "ANALYSIS_TIMEOUT", "INTERNAL"})
"""Reasons to deny that may be gone at the next try."""
_BYTES_OF_COLUMN = 200
_BYTES_OF_ENTRY = 2000


@dataclass(frozen=True, slots=True)
class Kept:
    """A verdict, and the objects that it rests on."""

    judged: Judged
    objects: Objects
    weight: int

    def fits(self, catalog: Catalog) -> bool:
        """Whether everything that the verdict rests on is still as it was."""
        return all(
            (now := catalog.get(table)) is then or now == then
            for table, then in self.objects.items()
        )


class DecisionCache:
    """The least recently used entry goes first. For one thread."""

    def __init__(self, *, entries: int, most_bytes: int) -> None:
        self._most_entries, self._most_bytes = entries, most_bytes
        self._kept: OrderedDict[Key, Kept] = OrderedDict()
        self._uses: OrderedDict[str, frozenset[str]] = OrderedDict()
        self.bytes = 0
        """An estimate of the memory in use."""

    def __len__(self) -> int:
        return len(self._kept)

    def key(self, question: Question) -> Key | None:
        """None when the answer may not be kept."""
        if not self._most_entries:
            return None
        uses = self._used_by(question.policy)
        if "now" in uses:
            return None
        who, run = question.identity, question.run
        return (
            question.sql,
            question.names,
            question.policy.key,
            (who.issuer, who.subject, who.name, who.groups, who.method, who.actors),
            tuple(sorted(who.claims.items())),
            (run.orchestrator, *sorted(run.fields.items())) if "run" in uses else None,
            question.exceptions,
            question.mask_override,
            question.limits,
        )

    def _used_by(self, policy: Policy) -> frozenset[str]:
        uses = self._uses.get(policy.key)
        if uses is None:
            uses = self._uses[policy.key] = used_by(policy)
            while len(self._uses) > 1_000:
                self._uses.popitem(last=False)
        return uses

    def find(self, key: Key) -> Kept | None:
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
        return kept

    def keep(self, key: Key, judged: Judged, objects: Objects, answer_bytes: int) -> None:
        """Keep a verdict, unless it may be another one next time or is too large.

        `answer_bytes` is its length as JSON; as Python objects it takes several times that.
        """
        decision = judged.verdict.decision
        if decision.outcome is Outcome.DENY and any(r.code in UNSTABLE for r in decision.reasons):
            return
        columns = sum(len(o.columns) for o in objects.values() if o is not None)
        weight = (
            _BYTES_OF_ENTRY
            + 2 * sys.getsizeof(key[0])
            + 8 * answer_bytes
            + _BYTES_OF_COLUMN * columns
        )
        if weight > self._most_bytes // 8:
            return
        self.forget(key)
        self._kept[key] = Kept(judged, objects, weight)
        self.bytes += weight
        while len(self._kept) > self._most_entries or self.bytes > self._most_bytes:
            self.forget(next(iter(self._kept)))

    def forget(self, key: Key) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.bytes -= kept.weight


def used_by(value: Any) -> frozenset[str]:
    """Which of `statement`, `identity`, `run` and `now` the conditions anywhere in a policy look at."""
    if isinstance(value, Condition):
        return value.uses
    parts: list[Any] = []
    if dataclasses.is_dataclass(value):
        parts = [getattr(value, f.name) for f in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, tuple | list | frozenset | set):
        parts = list(value)
    return frozenset[str]().union(*map(used_by, parts))
