"""Running the cases that are kept beside a policy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from hoop_core.judge import judge_text
from hoop_core.model import Outcome, Verdict
from hoop_core.policy.model import Policy, PolicyCase
from hoop_core.rehearsal.reading import masked_read
from hoop_core.sql.catalog import Catalog
from hoop_core.sql.names import parse_parts


@dataclass(frozen=True, slots=True)
class CaseResult:
    """`faults` say what came instead of what was expected; none: the case holds."""

    case: PolicyCase
    verdict: Verdict
    faults: tuple[str, ...]


def run_case(case: PolicyCase, policy: Policy, catalog: Catalog, now: datetime) -> CaseResult:
    """Decide the case's statement at its own time, else at `now` (timezone-aware)."""
    verdict = judge_text(
        case.sql,
        case.names,
        identity=case.identity,
        policy=policy.for_account(case.account),
        catalog=catalog,
        run=case.run,
        now=case.at or now,
    )
    return CaseResult(case, verdict, tuple(_faults(case, verdict)))


def _faults(case: PolicyCase, verdict: Verdict) -> list[str]:
    expected, decision = case.expected, verdict.decision
    if decision.outcome is not expected.outcome:
        why = "; ".join(r.message for r in decision.reasons)
        return [f"expected {expected.outcome}, came {decision.outcome}: {why}"]
    faults = []
    codes = [r.code for r in decision.reasons]
    if expected.reason is not None and expected.reason not in codes:
        faults.append(f"expected the reason {expected.reason}, came {', '.join(codes)}")
    if decision.outcome is Outcome.DENY:
        return faults
    if expected.masked is not None:
        masked = [(*_parts(m.table), m.column) for m in masked_read(verdict)]
        faults += _compare("masked", expected.masked, masked)
    if expected.filtered is not None:
        tables = {_parts(f.table) for f in decision.filtered}
        faults += _compare("filtered", expected.filtered, sorted(tables))
    faults += [
        f"the rewritten text does not contain {text!r}"
        for text in expected.rewritten_contains
        if text not in (verdict.rewritten or "")
    ]
    return faults


def _parts(table: object) -> tuple[str, ...]:
    return parse_parts(str(table)) or (str(table),)


def _compare(
    what: str, expected: Collection[tuple[str, ...]], found: Collection[tuple[str, ...]]
) -> list[str]:
    """Each expected ending fits a found name, and each found name has an expected ending."""
    faults = [
        f"{'.'.join(e)} is not {what}"
        for e in expected
        if not any(f[-len(e) :] == e for f in found)
    ]
    faults += [
        f"{'.'.join(f)} is {what}, which was not expected"
        for f in found
        if not any(f[-len(e) :] == e for e in expected)
    ]
    return faults
