"""What another policy would change about the statements of a history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from hoop_core.errors import PolicyDenied
from hoop_core.judge import judge_text
from hoop_core.masking.masks import MaskName
from hoop_core.model import Outcome, Verdict, quote_part
from hoop_core.policy.model import Policy
from hoop_core.rehearsal.history import ROW_FILTER, Asked, Masked, OnRecord
from hoop_core.rehearsal.reading import masked_read, reads_name
from hoop_core.sql.catalog import Catalog

_STRICTNESS = {name.value: i for i, name in enumerate(MaskName)} | {ROW_FILTER: 0}


class Change(StrEnum):
    """`newly_allowed` is any step towards running: no longer denied, or no longer asked for.

    `exception`: a masking exception showed columns that are masked again without it. That is no change of
    the policy, for exceptions are given under one policy and are not simulated.
    """

    NEWLY_DENIED = "newly_denied"
    NEWLY_ASKED = "newly_asked"
    NEWLY_ALLOWED = "newly_allowed"
    NEWLY_MASKED = "newly_masked"
    NEWLY_UNMASKED = "newly_unmasked"
    EXCEPTION = "exception"


@dataclass(frozen=True, slots=True)
class Judged:
    """What a policy says of a statement, and why in one sentence."""

    outcome: Outcome
    protected: frozenset[Masked] | None
    why: str
    excepted: frozenset[str] = frozenset()


@dataclass(slots=True)
class Difference:
    """One statement that changes; `places` are all its occurrences in the history."""

    asked: Asked
    changes: tuple[Change, ...]
    before: Outcome
    after: Judged
    gained: tuple[Masked, ...]
    lost: tuple[Masked, ...]
    excepted: tuple[Masked, ...] = ()
    places: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """`incomparable`: statements of a log for which no decision is on record."""

    statements: int = 0
    incomparable: int = 0
    differences: list[Difference] = field(default_factory=list)

    def of(self, change: Change) -> list[Difference]:
        return [d for d in self.differences if change in d.changes]

    def count(self, change: Change) -> int:
        """How many statements of the history, repetitions included."""
        return sum(len(d.places) for d in self.of(change))


def simulate(
    history: Iterable[Asked],
    *,
    old: Policy | None,
    new: Policy,
    catalog: Catalog,
    now: datetime,
) -> Iterator[Report]:
    """Yields the growing report after every statement. Without `old`, decisions on record are compared.

    Equal statements of equal callers are judged once. `now` is for statements without a time.
    """
    report = Report()
    timed = any(_looks_at_time(p) for p in (old, new) if p is not None)
    known: dict[object, Difference | None] = {}
    for asked in history:
        report.statements += 1
        if old is None and asked.was is None:
            report.incomparable += 1
            yield report
            continue
        key = _key(asked, timed=timed, recorded=old is None)
        if key not in known:
            after, verdict = _judged(asked, new, catalog, now)
            if old is not None:
                before = _judged(asked, old, catalog, now)[0]
            else:
                before = _recorded(asked.was, verdict)
            known[key] = _difference(asked, before, after)
            found = known[key]
            if found is not None:
                report.differences.append(found)
        same = known[key]
        if same is not None:
            same.places.append(asked.place)
        yield report


def _looks_at_time(policy: Policy) -> bool:
    return any(r.when is not None and "now" in r.when.uses for r in policy.rules)


def _key(asked: Asked, *, timed: bool, recorded: bool) -> object:
    who, run = asked.identity, asked.run
    return (
        asked.sql,
        (
            who.issuer,
            who.subject,
            who.name,
            who.groups,
            who.method,
            tuple(sorted(who.claims.items())),
        ),
        asked.names,
        (run.orchestrator, tuple(sorted(run.fields.items()))),
        asked.role,
        asked.at if timed else None,
        asked.was if recorded else None,
    )


def _recorded(was: OnRecord | None, verdict: Verdict | None) -> Judged:
    """A log names every masked column of the tables: which of them were read is told by the verdict."""
    if was is None:
        raise AssertionError("only statements with a decision on record are compared")
    protected = was.protected
    if protected is not None and verdict is not None:
        protected = frozenset(
            (name, mask)
            for name, mask in protected
            if mask == ROW_FILTER or reads_name(verdict, name)
        )
    return Judged(was.outcome, protected, "", was.excepted)


def _judged(
    asked: Asked, policy: Policy, catalog: Catalog, now: datetime
) -> tuple[Judged, Verdict | None]:
    policy = policy.for_account(asked.account)
    try:
        if asked.role is not None:
            policy.role_for(asked.identity, quote_part(asked.role))
    except PolicyDenied as e:
        return Judged(Outcome.DENY, frozenset(), e.message), None
    verdict = judge_text(
        asked.sql,
        asked.names,
        identity=asked.identity,
        policy=policy,
        catalog=catalog,
        run=asked.run,
        now=asked.at or now,
    )
    return judged_of(verdict), verdict


def judged_of(verdict: Verdict) -> Judged:
    """What a verdict protects of the columns that the statement reads."""
    decision = verdict.decision
    columns = {(f"{m.table}.{quote_part(m.column)}", m.mask) for m in masked_read(verdict)}
    tables = {(str(f.table), ROW_FILTER) for f in decision.filtered}
    why = decision.reasons[0].message if decision.reasons else ""
    return Judged(decision.outcome, frozenset(columns | tables), why)


_STEPS = {Outcome.ALLOW: 0, Outcome.REQUIRE_APPROVAL: 1, Outcome.DENY: 2}


def _difference(asked: Asked, before: Judged, after: Judged) -> Difference | None:
    found = changes_between(before, after)
    if found is None:
        return None
    return Difference(
        asked, found.changes, before.outcome, after, found.gained, found.lost, found.excepted
    )


@dataclass(frozen=True, slots=True)
class Changes:
    """What changes, and the columns that `after` masks more strictly, less strictly, or without their exception."""

    changes: tuple[Change, ...]
    gained: tuple[Masked, ...] = ()
    lost: tuple[Masked, ...] = ()
    excepted: tuple[Masked, ...] = ()


def changes_between(before: Judged, after: Judged) -> Changes | None:
    """None where nothing changes."""
    changes: list[Change] = []
    step = _STEPS[after.outcome] - _STEPS[before.outcome]
    if step < 0:
        changes.append(Change.NEWLY_ALLOWED)
    elif step > 0:
        denied = after.outcome is Outcome.DENY
        changes.append(Change.NEWLY_DENIED if denied else Change.NEWLY_ASKED)
    gained: tuple[Masked, ...] = ()
    lost: tuple[Masked, ...] = ()
    excepted: tuple[Masked, ...] = ()
    known = before.protected is not None and after.protected is not None
    if known and Outcome.DENY not in (before.outcome, after.outcome):
        stricter = _stricter(before.protected, after.protected)
        excepted = tuple(m for m in stricter if m[0] in before.excepted)
        gained = tuple(m for m in stricter if m[0] not in before.excepted)
        lost = _stricter(after.protected, before.protected)
        changes += [Change.NEWLY_MASKED] * bool(gained) + [Change.NEWLY_UNMASKED] * bool(lost)
        changes += [Change.EXCEPTION] * bool(excepted)
    return Changes(tuple(changes), gained, lost, excepted) if changes else None


def _stricter(
    left: frozenset[Masked] | None, right: frozenset[Masked] | None
) -> tuple[Masked, ...]:
    """What `right` protects and `left` does not, or less strictly."""
    known = dict(left or ())
    return tuple(
        (name, mask)
        for name, mask in sorted(right or ())
        if name not in known or _STRICTNESS.get(mask, 0) < _STRICTNESS.get(known[name], 0)
    )
