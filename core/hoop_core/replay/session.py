"""A session decided anew, statement by statement: what matches, what differs, what another policy would change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from hoop_core.approvals.exceptions import NONE
from hoop_core.errors import EvidenceError, PolicyDenied
from hoop_core.model import Json, Outcome, TableName, Verdict, quote_part
from hoop_core.policy.model import Policy
from hoop_core.rehearsal.simulate import Judged, changes_between, judged_of
from hoop_core.replay.compare import Difference, differences
from hoop_core.replay.deciding import Decided, NotReplayable, Recorded, decide, recorded
from hoop_core.replay.evidence import Known, Source
from hoop_core.replay.parts import Unreadable, columns_of
from hoop_core.replay.results import (
    EXCHANGE,
    Changed,
    Checked,
    LeftOut,
    announced,
    check_results,
    recorded_files,
    verified_file,
)
from hoop_core.replay.unsealing import Unsealer
from hoop_core.sql.catalog import CatalogObject

_OF_STATEMENTS = ("statement.intent", "statement.refused")
_OF_RESULTS = ("statement.outcome", "result.part", "result.part.begun")
_OTHER_TERMS, _OTHER_ROWS = "other_approvers", "other_rows"


class Result(StrEnum):
    MATCHES = "matches"
    DIFFERS = "differs"
    NOT_DECIDED = (
        "not_decided"  # refused before it came to a decision, or its body is not kept any more
    )


@dataclass(slots=True)
class Replayed:
    """One entry about a statement. `checked` is what became of its recorded result."""

    entry: Json
    result: Result
    why: str = ""
    differences: list[Difference] = field(default_factory=list)
    checked: Checked = field(default_factory=Checked)

    def as_json(self) -> Json:
        data = self.entry["data"] or {}
        return {
            "entry": self.entry["seq"],
            "at": self.entry["at"],
            "kind": self.entry["kind"],
            "statement_id": data.get("statement_id"),
            "sql": data.get("sql"),
            "decision": (data.get("decision") or {}).get("decision"),
            "result": self.result.value,
            "why": self.why,
            "differences": [d.as_json() for d in self.differences],
            "recordings": self.checked.files,
            "values_checked": self.checked.values,
            "columns_checked": list(self.checked.columns),
            "not_checked": self.checked.left_out,
        }


@dataclass(frozen=True, slots=True)
class Otherwise:
    """A statement that another policy would have treated otherwise."""

    entry: Json
    changes: tuple[str, ...]
    before: Outcome
    after: Outcome
    why: str
    gained: tuple[tuple[str, str], ...] = ()
    lost: tuple[tuple[str, str], ...] = ()

    def as_json(self) -> Json:
        data = self.entry["data"]
        return {
            "entry": self.entry["seq"],
            "at": self.entry["at"],
            "statement_id": data["statement_id"],
            "sql": data["sql"],
            "changes": list(self.changes),
            "before": self.before.value,
            "after": self.after.value,
            "why": self.why,
            "newly_masked": [{"column": c, "mask": m} for c, m in self.gained],
            "no_longer_masked": [{"column": c, "mask": m} for c, m in self.lost],
        }


@dataclass(slots=True)
class Replay:
    """Reads policies and descriptions once; then any number of sessions. Raises what the source raises."""

    source: Source
    unsealer: Unsealer
    known: Known = field(init=False)
    faults: list[str] = field(default_factory=list)
    """What of the whole log is not as it should be."""

    def __post_init__(self) -> None:
        self.known = Known.of(self.source, self.faults.append)

    def session(self, session_id: str) -> list[Replayed]:
        """Every statement of a session under what is on record."""
        entries = list(self.source.session(session_id))
        of_results = _results(entries)
        return [
            self._statement(e, of_results.get(e["seq"], []))
            for e in entries
            if e["kind"] in _OF_STATEMENTS
        ]

    def _statement(self, entry: Json, results: list[Json]) -> Replayed:
        try:
            given = recorded(entry, self.known)
            decided = decide(given, given.policy, exceptions=given.exceptions)
            found = differences(given, decided)
        except NotReplayable as e:
            fault = [Difference("record", e.why, None)] if e.fault else []
            return Replayed(entry, Result.DIFFERS if fault else Result.NOT_DECIDED, e.why, fault)
        except (KeyError, TypeError, ValueError) as e:
            what = f"it is not of the form it must have ({type(e).__name__})"
            return Replayed(entry, Result.DIFFERS, what, [Difference("record", what, None)])
        checked = check_results(given, decided.verdict, results, self._read)
        found += checked.differences
        return Replayed(
            entry,
            Result.DIFFERS if found else Result.MATCHES,
            differences=found,
            checked=checked,
        )

    def _read(self, told: Json) -> bytes | None:
        try:
            path = str(told["path"])
            stored = self.source.recording(path)
            if stored is None and self.known.removed.get(path) == told["sha256"]:
                raise LeftOut("its time to be kept is over")
            content = verified_file(told, stored)
            return self.unsealer.opened(told, content, self.source.recording)
        except EvidenceError as e:
            raise Changed(e.message) from None

    def first_rows(self, outcome: Json) -> tuple[list[str], list[list[Any]]] | None:
        """Names and rows of the first part of a result, to be shown; None where none are kept, or not to be read.

        Raises Changed.
        """
        files = recorded_files(outcome["data"])
        try:
            found = {str(told["path"]): self._read(told) for told in files}
        except LeftOut:
            return None
        exchange = next((c for p, c in found.items() if p.endswith(EXCHANGE)), None)
        part = next((c for p, c in found.items() if not p.endswith(EXCHANGE)), None)
        if exchange is None or part is None:
            return None
        try:
            rowtype, form = announced(exchange)
            columns = columns_of(part, form, rowtype, texts=form != "arrow")
        except Unreadable:
            return None
        names = [str(c.get("name", "")) for c in rowtype]
        return names, [list(row) for row in zip(*columns, strict=True)]

    # ------------------------------------------------------------------ another policy

    def otherwise(self, session_id: str, policy: Policy) -> Iterator[Otherwise]:
        """The statements of a session that `policy` would have treated otherwise, and only those.

        Masking exceptions were given under the policy on record and hold under no other.
        """
        for entry in self.source.session(session_id):
            if entry["kind"] not in _OF_STATEMENTS:
                continue
            try:
                given = recorded(entry, self.known)
                found = self._otherwise(given, policy.for_account(given.account))
            except NotReplayable:
                continue  # `session` says why
            if found is not None:
                yield found

    def _otherwise(self, given: Recorded, policy: Policy) -> Otherwise | None:
        before = decide(given, given.policy, exceptions=given.exceptions).verdict
        same = policy.digest == given.policy.digest

        def elsewhere(table: TableName) -> CatalogObject | None:
            return self.known.last(given.account, str(table), given.entry["seq"])

        role = given.data["snowflake_role"]
        try:
            if role is not None:
                policy.role_for(given.identity, quote_part(str(role)))
            exceptions = given.exceptions if same else NONE
            after = decide(given, policy, exceptions=exceptions, elsewhere=elsewhere)
        except PolicyDenied as e:
            return _otherwise(given, before, Judged(Outcome.DENY, frozenset(), e.message), None)
        return _otherwise(given, before, judged_of(after.verdict), after)


def _otherwise(
    given: Recorded, before: Verdict, after: Judged, decided: Decided | None
) -> Otherwise | None:
    excepted = frozenset(
        f"{m.table}.{quote_part(m.column)}" for m in before.decision.exposed if m.exception
    )
    was = replace(judged_of(before), excepted=excepted)
    found = changes_between(was, after)
    changes = [c.value for c in found.changes] if found else []
    if decided is not None and was.outcome is after.outcome is not Outcome.DENY:
        changes += _terms(before, decided.verdict)
    if not changes:
        return None
    return Otherwise(
        given.entry,
        tuple(changes),
        was.outcome,
        after.outcome,
        after.why,
        (*found.gained, *found.excepted) if found else (),
        found.lost if found else (),
    )


def _terms(before: Verdict, after: Verdict) -> list[str]:
    """What stays the same word for word where the decision is the same: who is asked, and which rows are shown."""
    changes = []
    if before.decision.approval != after.decision.approval:
        changes.append(_OTHER_TERMS)
    was, now = ({f.table: f.where for f in v.decision.filtered} for v in (before, after))
    if any(t in now and now[t] != where for t, where in was.items()):
        changes.append(_OTHER_ROWS)
    return changes


def _results(entries: Iterable[Json]) -> dict[int, list[Json]]:
    """Outcomes and parts by the entry of their intent; parts belong to the last one of their statement."""
    last: dict[str, int] = {}
    found: dict[int, list[Json]] = {}
    for entry in entries:
        data = entry["data"]
        if data is None or entry["kind"] not in (*_OF_RESULTS, "statement.intent"):
            continue
        statement = str(data.get("statement_id"))
        if entry["kind"] == "statement.intent":
            last[statement] = entry["seq"]
        elif entry["kind"] == "statement.outcome":
            found.setdefault(data["intent"], []).append(entry)
        elif statement in last:
            found.setdefault(last[statement], []).append(entry)
    return found
