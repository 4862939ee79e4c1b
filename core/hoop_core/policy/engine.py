"""How a policy decides. Deny beats require_approval beats allow; what nothing grants is denied.

An approval is one more condition, never a grant: a statement that no allow rule covers is denied even
where a require_approval rule fires. Granting is asked first, existence second, so that a caller cannot
learn which ungranted tables exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hoop_core.masking.masks import TablePlan
from hoop_core.model import (
    ApprovalTerms,
    BreakGlass,
    Decision,
    Identity,
    Kind,
    MaskedColumn,
    Outcome,
    Reason,
    StandingTerms,
    Statement,
    TableName,
)
from hoop_core.policy.case import Case
from hoop_core.policy.conditions import ConditionError, facts_for
from hoop_core.policy.model import Policy, Rule, Then, describe_groups
from hoop_core.policy.protection import exposed, filtered, protection
from hoop_core.policy.touched import touched
from hoop_core.policy.visibility import listing, narrowed, tells_of
from hoop_core.sql.lineage import any_column
from hoop_core.sql.metadata import metadata_view
from hoop_core.windows import next_opening

__all__ = [
    "READING",
    "STAGING",
    "Case",
    "Ruling",
    "combine",
    "combine_terms",
    "could_be_granted",
    "decide",
    "kinds_granted",
    "refusal",
]

# What an allow rule without `kinds` covers: nothing in it writes.
READING = frozenset({Kind.SELECT, Kind.SHOW, Kind.DESCRIBE, Kind.TRANSACTION, Kind.SESSION})
# Files are staged in places that belong to the session, and to no table: the kind alone has to be granted.
STAGING = frozenset({Kind.CREATE_TEMP_STAGE, Kind.PUT})


@dataclass(frozen=True, slots=True)
class Ruling:
    """A decision, and the columns that every protected table shows under it."""

    decision: Decision
    plans: Mapping[TableName, TablePlan]


def decide(case: Case) -> Ruling:
    """Never raises for a reason in the policy or the statement: those become deny decisions."""
    facts = _facts(case)
    try:
        fired = [r for r in case.policy.rules if _fires(r, case, facts)]
    except _BrokenCondition as e:
        return _deny(case, [Reason("CONDITION_ERROR", str(e))], [e.rule])
    denying = [r for r in fired if r.then is Then.DENY]
    if denying:
        reasons = [
            Reason("DENIED_BY_RULE", f"denied: {_what(case)} is denied by rule {r.name}")
            for r in denying
        ]
        return _deny(case, reasons, denying)
    granted, missing = _grants(case, [r for r in fired if r.then is Then.ALLOW])
    if missing:
        return _deny(case, missing, [])
    allowing = [r for r in fired if r.then is Then.ALLOW]
    visible = narrowed(case.policy, case.identity, allowing, case.statement.reads)
    plans, faults, notes = protection(case, visible)
    if faults:
        return _deny(case, faults, [])
    listed = (
        listing(case.policy, case.identity, allowing) if case.statement.kind is Kind.SHOW else None
    )
    masked = tuple(
        MaskedColumn(t, c.name, c.mask.value)
        for t, plan in sorted(plans.items())
        for c in plan.columns
        if c.mask is not None
    )
    asking = [r for r in fired if r.then is Then.REQUIRE_APPROVAL]
    reasons = [*_why(case, granted, masked), *notes]
    rules = tuple(r.name for r in (*asking, *granted))
    if not asking:
        decision = Decision(
            Outcome.ALLOW,
            tuple(reasons),
            rules,
            masked,
            case.policy.digest,
            exposed=exposed(case, plans),
            filtered=filtered(case, plans),
            listing=listed,
        )
        return Ruling(decision, plans)
    terms = combine(asking)
    if terms is None:
        return _deny(case, [_no_common_approver(asking)], asking)
    if next_opening(terms.windows, case.now) is None:
        return _deny(case, [_no_common_window(asking)], asking)
    wanted = [Reason("APPROVAL_REQUIRED", _asks(case, r)) for r in asking]
    decision = Decision(
        Outcome.REQUIRE_APPROVAL,
        (*wanted, *reasons),
        rules,
        masked,
        case.policy.digest,
        terms,
        exposed(case, plans),
        filtered(case, plans),
        listed,
    )
    return Ruling(decision, plans)


def _facts(case: Case) -> dict[str, Any]:
    """What conditions see. Columns, tags and sizes are looked up once, if any rule may ask for them."""
    rules = [r for r in case.policy.rules if r.when is not None and r.speaks_of(case.identity)]
    if not rules:
        return {}
    found = None
    if any(r.when is not None and r.when.touches for r in rules):
        columns = any_column(case.statement) if case.columns is None else case.columns()
        found = touched(case.statement, columns, case.policy.tags, case.catalog)
    return facts_for(case.statement, case.identity, case.run, case.now, found)


def could_be_granted(
    policy: Policy, identity: Identity, statement: Statement, table: TableName
) -> bool:
    """Whether some allow rule may grant what the statement does to `table`, were its condition to hold.

    Where none may, `decide` denies the statement whatever the table is; nobody needs to look it up.
    """
    rules = [r for r in policy.rules if r.then is Then.ALLOW and r.speaks_of(identity)]
    if table in statement.reads and not _reading(rules, table):
        return False
    return table not in statement.writes or bool(_writing(rules, statement.kind, table))


def kinds_granted(policy: Policy, identity: Identity) -> frozenset[Kind]:
    """The kinds that some allow rule may grant to the caller, were its condition to hold."""
    rules = [r for r in policy.rules if r.then is Then.ALLOW and r.speaks_of(identity)]
    return frozenset[Kind]().union(*(r.kinds or READING for r in rules))


def refusal(policy_digest: str, code: str, message: str) -> Decision:
    """The decision for a text that was refused before any rule was asked."""
    return Decision(Outcome.DENY, (Reason(code, message),), (), (), policy_digest)


def combine(rules: list[Rule]) -> ApprovalTerms | None:
    """Terms that satisfy every rule at once; None when no single request can."""
    return combine_terms([r.approval for r in rules if r.approval is not None])


def combine_terms(terms: Sequence[ApprovalTerms]) -> ApprovalTerms | None:
    """Terms that satisfy all of `terms`: common groups, highest quorum, shortest times, all windows.

    Only persons of groups that all name can answer, so each answer counts for each. None when they have
    no group in common: then no single request can satisfy them. What is offered beside (broken glass, standing
    approvals) is offered where all offer it.
    """
    common = [g for g in terms[0].approvers if all(g in t.approvers for t in terms)]
    if not common:
        return None
    return ApprovalTerms(
        approvers=tuple(common),
        quorum=max(t.quorum for t in terms),
        pending_for=min(t.pending_for for t in terms),
        valid_for=min(t.valid_for for t in terms),
        windows=tuple(dict.fromkeys(w for t in terms for w in t.windows)),
        break_glass=_common_glass([t.break_glass for t in terms]),
        standing=_common_standing([t.standing for t in terms]),
    )


def _common_glass(offered: Sequence[BreakGlass | None]) -> BreakGlass | None:
    every = [o for o in offered if o is not None]
    if len(every) < len(offered):
        return None
    groups = tuple(g for g in every[0].groups if all(g in o.groups for o in every))
    return BreakGlass(groups, min(o.valid_for for o in every)) if groups else None


def _common_standing(offered: Sequence[StandingTerms | None]) -> StandingTerms | None:
    every = [o for o in offered if o is not None]
    if len(every) < len(offered):
        return None
    return StandingTerms(min(o.longest for o in every), min(o.rows_at_most for o in every))


class _BrokenCondition(Exception):
    def __init__(self, rule: Rule, why: ConditionError) -> None:
        self.rule = rule
        super().__init__(
            f"denied: the condition of rule {rule.name} cannot be evaluated ({why}); the policy has to be "
            "corrected"
        )


def _fires(rule: Rule, case: Case, facts: Mapping[str, Any]) -> bool:
    """All conditions of the rule match. For an allow rule, tables are grants and no conditions."""
    if not rule.speaks_of(case.identity):
        return False
    statement = case.statement
    if rule.then is not Then.ALLOW:
        if rule.kinds is not None and statement.kind not in rule.kinds:
            return False
        for patterns, tables in ((rule.reads, statement.reads), (rule.writes, statement.writes)):
            if patterns is not None and not any(p.covers(t) for p in patterns for t in tables):
                return False
    if rule.when is None:
        return True
    try:
        return rule.when.holds(facts)
    except ConditionError as e:
        raise _BrokenCondition(rule, e) from None


def _grants(case: Case, rules: list[Rule]) -> tuple[list[Rule], list[Reason]]:
    """The allow rules that were needed, and what none of them grants."""
    statement, who = case.statement, describe_groups(case.identity)
    used: list[Rule] = []
    missing: list[Reason] = []
    if statement.kind in READING | STAGING:
        covering = [r for r in rules if statement.kind in (r.kinds or READING)]
        used += covering[:1]
        if not covering:
            missing.append(
                Reason("NOT_GRANTED", f"denied: {statement.kind} is granted by no rule to {who}")
            )
    for table in statement.reads:
        reading = _reading(rules, table)
        used += reading[:1]
        if not reading:
            missing.append(
                Reason("NOT_GRANTED", f"denied: reads {table}, which no rule grants to {who}")
            )
    for table in statement.writes:
        writing = _writing(rules, statement.kind, table)
        used += writing[:1]
        if not writing:
            verb = statement.kind.replace("_", " ")
            missing.append(
                Reason("NOT_GRANTED", f"denied: {verb} on {table}, which no rule grants to {who}")
            )
    return list(dict.fromkeys(used)), missing


def _reading(rules: Sequence[Rule], table: TableName) -> list[Rule]:
    """The allow rules that grant reading the table; of a metadata view, at least some of its rows."""
    if metadata_view(table) is not None:
        return [r for r in rules if tells_of(r, table)]
    return [r for r in rules if r.reads and any(p.covers(table) for p in r.reads)]


def _writing(rules: Sequence[Rule], kind: Kind, table: TableName) -> list[Rule]:
    """The allow rules that grant a statement of this kind on the table."""
    return [
        r
        for r in rules
        if r.kinds is not None
        and kind in r.kinds
        and r.writes
        and any(p.covers(table) for p in r.writes)
    ]


def _deny(case: Case, reasons: list[Reason], rules: list[Rule]) -> Ruling:
    decision = Decision(
        Outcome.DENY, tuple(reasons), tuple(r.name for r in rules), (), case.policy.digest
    )
    return Ruling(decision, {})


def _what(case: Case) -> str:
    touched = case.statement.writes or case.statement.reads
    verb = case.statement.kind.replace("_", " ")
    return f"{verb} on {', '.join(map(str, touched))}" if touched else verb


def _asks(case: Case, rule: Rule) -> str:
    terms = rule.approval
    who = "" if terms is None else f" by {terms.quorum} of {', '.join(terms.approvers)}"
    return f"needs approval{who}: {_what(case)} (rule {rule.name})"


def _no_common_approver(rules: list[Rule]) -> Reason:
    names = ", ".join(r.name for r in rules)
    return Reason(
        "APPROVAL_CONFLICT",
        f"denied: the rules {names} all ask for approval but share no group of approvers; the policy has to "
        "name one",
    )


def _no_common_window(rules: list[Rule]) -> Reason:
    names = ", ".join(r.name for r in rules if r.approval is not None and r.approval.windows)
    return Reason(
        "APPROVAL_WINDOWS",
        f"denied: the windows of the rules {names} are not open at once within the next two weeks, so what was "
        "approved could not run; the policy has to let them overlap",
    )


def _why(case: Case, rules: list[Rule], masked: tuple[MaskedColumn, ...]) -> list[Reason]:
    names = ", ".join(r.name for r in rules)
    reasons = [Reason("GRANTED", f"granted: {_what(case)} by {names}")]
    if masked:
        columns = ", ".join(f"{m.table}.{m.column} ({m.mask})" for m in masked)
        reasons.append(Reason("MASKED", f"masked: {columns}"))
    return reasons
