"""How a policy decides. Deny beats require_approval beats allow; what nothing grants is denied.

An approval is one more condition, never a grant: a statement that no allow rule covers is denied even
where a require_approval rule fires. Granting is asked first, existence second, so that a caller cannot
learn which ungranted tables exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hoop_core.masking.masks import Mask, MaskName, TablePlan, plan_column
from hoop_core.model import (
    ApprovalTerms,
    Decision,
    Identity,
    Kind,
    MaskedColumn,
    Outcome,
    Reason,
    RunContext,
    Statement,
    TableName,
)
from hoop_core.policy.conditions import ConditionError, facts_for
from hoop_core.policy.model import MaskRule, Policy, Rule, Then, describe_groups, names_table
from hoop_core.sql.catalog import Catalog
from hoop_core.sql.statement import CteName

# What an allow rule without `kinds` covers: nothing in it writes.
READING = frozenset({Kind.SELECT, Kind.SHOW, Kind.DESCRIBE, Kind.TRANSACTION, Kind.SESSION})
_STRICTNESS = {name: i for i, name in enumerate(MaskName)}


@dataclass(frozen=True, slots=True)
class Ruling:
    """A decision, and the columns that every protected table shows under it."""

    decision: Decision
    plans: Mapping[TableName, TablePlan]


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that one decision depends on."""

    statement: Statement
    ctes: tuple[CteName, ...]
    identity: Identity
    policy: Policy
    catalog: Catalog
    run: RunContext
    now: datetime
    mask_override: MaskName | None = None
    exceptions: frozenset[tuple[TableName, str]] = frozenset()
    """Columns that an approved, time-limited exception shows to this caller as they are."""


def decide(case: Case) -> Ruling:
    """Never raises for a reason in the policy or the statement: those become deny decisions."""
    facts = facts_for(case.statement, case.identity, case.run, case.now)
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
    plans, faults, notes = _protection(case)
    if faults:
        return _deny(case, faults, [])
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
            exposed=_exposed(case, plans),
        )
        return Ruling(decision, plans)
    terms = combine(asking)
    if terms is None:
        return _deny(case, [_no_common_approver(asking)], asking)
    wanted = [Reason("APPROVAL_REQUIRED", _asks(case, r)) for r in asking]
    decision = Decision(
        Outcome.REQUIRE_APPROVAL,
        (*wanted, *reasons),
        rules,
        masked,
        case.policy.digest,
        terms,
        _exposed(case, plans),
    )
    return Ruling(decision, plans)


def refusal(policy_digest: str, code: str, message: str) -> Decision:
    """The decision for a text that was refused before any rule was asked."""
    return Decision(Outcome.DENY, (Reason(code, message),), (), (), policy_digest)


def combine(rules: list[Rule]) -> ApprovalTerms | None:
    """Terms that satisfy every rule at once: common groups, highest quorum, shortest windows.

    Only persons of groups that all rules name can answer, so each answer counts for each rule. None when
    the rules have no group in common: then no single request can satisfy them.
    """
    terms = [r.approval for r in rules if r.approval is not None]
    common = [g for g in terms[0].approvers if all(g in t.approvers for t in terms)]
    if not common:
        return None
    return ApprovalTerms(
        approvers=tuple(common),
        quorum=max(t.quorum for t in terms),
        pending_for=min(t.pending_for for t in terms),
        valid_for=min(t.valid_for for t in terms),
    )


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
    if statement.kind in READING:
        covering = [r for r in rules if statement.kind in (r.kinds or READING)]
        used += covering[:1]
        if not covering:
            missing.append(
                Reason("NOT_GRANTED", f"denied: {statement.kind} is granted by no rule to {who}")
            )
    for table in statement.reads:
        reading = [r for r in rules if r.reads and any(p.covers(table) for p in r.reads)]
        used += reading[:1]
        if not reading:
            missing.append(
                Reason("NOT_GRANTED", f"denied: reads {table}, which no rule grants to {who}")
            )
    for table in statement.writes:
        writing = [
            r
            for r in rules
            if r.kinds is not None
            and statement.kind in r.kinds
            and r.writes
            and any(p.covers(table) for p in r.writes)
        ]
        used += writing[:1]
        if not writing:
            verb = statement.kind.replace("_", " ")
            missing.append(
                Reason("NOT_GRANTED", f"denied: {verb} on {table}, which no rule grants to {who}")
            )
    return list(dict.fromkeys(used)), missing


def _protection(
    case: Case,
) -> tuple[dict[TableName, TablePlan], list[Reason], list[Reason]]:
    """What each table shows; reasons to deny; notes for an allowing decision."""
    masks = case.policy.masks_binding(case.identity)
    plans: dict[TableName, TablePlan] = {}
    faults: list[Reason] = []
    notes: list[Reason] = []
    for table in sorted({*case.statement.reads, *case.statement.writes}):
        columns = case.catalog.columns(table)
        if columns is None:
            faults += _unknown_object(case, table, masks)
        elif not columns:
            if names_table(masks, table):
                faults.append(
                    Reason(
                        "COLUMNS_UNKNOWN",
                        f"denied: the columns of {table} are not known, and the policy masks some",
                    )
                )
        else:
            faults += _drifted(table, columns, masks)
            plan = _plan(table, columns, masks, case.mask_override)
            if plan is not None:
                plans[table] = plan
                notes += _unfitted(plan)
    reading = case.statement.kind in {Kind.SHOW, Kind.DESCRIBE}
    faults += [
        Reason(
            "WRITE_TO_PROTECTED",
            f"denied: {t} has masked columns, so its rows cannot be changed by {describe_groups(case.identity)}",
        )
        for t in case.statement.writes
        if t in plans
    ]
    faults += _shadowing(case, plans, masks)
    if reading:
        return {}, faults, []  # names and types, no rows: nothing to rewrite
    return plans, faults, notes


def _unknown_object(case: Case, table: TableName, masks: tuple[MaskRule, ...]) -> list[Reason]:
    """CREATE makes a table, DROP ... IF EXISTS may find none; everything else needs one that is known."""
    statement = case.statement
    created = statement.kind in {Kind.CREATE_TABLE, Kind.CREATE_TABLE_AS}
    dropped = statement.kind is Kind.DROP_TABLE and bool(statement.facts.get("if_exists"))
    if table in statement.writes and table not in statement.reads and (created or dropped):
        if not any(p.covers(table) and "*" not in p.parts[:3] for m in masks for p in m.columns):
            return []
        return [
            Reason(
                "WRITE_TO_PROTECTED",
                f"denied: the policy masks columns of {table}, so it cannot be created or dropped here",
            )
        ]
    return [
        Reason(
            "UNKNOWN_OBJECT",
            f"denied: {table} is not a table that Hoop knows; views, streams and other objects are not served",
        )
    ]


def _drifted(
    table: TableName, columns: Mapping[str, str], masks: tuple[MaskRule, ...]
) -> list[Reason]:
    """A column that the policy names outright is gone: it may live on under a name without a mask."""
    gone = {
        p.parts[3]
        for m in masks
        for p in m.columns
        if p.exact and p.covers(table) and p.parts[3] not in columns
    }
    return [
        Reason(
            "POLICY_DRIFT",
            f"denied: the policy masks {column} of {table}, which has no such column; it may have been renamed",
        )
        for column in sorted(gone)
    ]


def _plan(
    table: TableName,
    columns: Mapping[str, str],
    masks: tuple[MaskRule, ...],
    override: MaskName | None,
) -> TablePlan | None:
    chosen = {c: _strictest(table, c, masks) for c in columns}
    if not any(chosen.values()):
        return None
    if override is not None:
        chosen = {c: None if m is None else Mask(override) for c, m in chosen.items()}
    return TablePlan(table, tuple(plan_column(c, t, chosen[c]) for c, t in columns.items()))


def _exposed(case: Case, plans: Mapping[TableName, TablePlan]) -> tuple[MaskedColumn, ...]:
    """What the tables hold that some mask names and the caller's exceptions leave open."""
    found: list[MaskedColumn] = []
    for table in sorted({*case.statement.reads, *case.statement.writes}):
        planned = plans[table].columns if table in plans else ()
        closed = {c.name for c in planned if c.mask is not None}
        for column in case.catalog.columns(table) or {}:
            mask = _strictest(table, column, case.policy.masks)
            if mask is not None and column not in closed:
                found.append(MaskedColumn(table, column, mask.name.value))
    return tuple(found)


def _strictest(table: TableName, column: str, masks: tuple[MaskRule, ...]) -> Mask | None:
    """Of several masks that name a column the strictest; the first in the file among equals."""
    found = [m.mask for m in masks if any(p.covers(table, column) for p in m.columns)]
    return min(found, key=lambda m: _STRICTNESS[m.name]) if found else None


def _unfitted(plan: TablePlan) -> list[Reason]:
    return [
        Reason(
            "MASK_NOT_APPLICABLE",
            f"{c.name} of {plan.table} is shown as NULL: its mask does not fit its type",
        )
        for c in plan.columns
        if not c.fitted
    ]


def _shadowing(
    case: Case, plans: Mapping[TableName, TablePlan], masks: tuple[MaskRule, ...]
) -> list[Reason]:
    """A CTE must not take the name under which this session would find a protected table."""
    protected_names = {t.name for t in plans} | {
        p.parts[2] for m in masks for p in m.columns if p.parts[2] != "*"
    }
    faults = []
    for cte in case.ctes:
        here = cte.shadows is not None and (
            cte.shadows in plans
            or any(p.covers(cte.shadows) and p.parts[2] != "*" for m in masks for p in m.columns)
        )
        if here or (cte.recursive and cte.name in protected_names):
            faults.append(
                Reason(
                    "CTE_SHADOWS_PROTECTED",
                    f"denied: the common table expression {cte.name} has the name of a masked table; rename it",
                )
            )
    return faults


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


def _why(case: Case, rules: list[Rule], masked: tuple[MaskedColumn, ...]) -> list[Reason]:
    names = ", ".join(r.name for r in rules)
    reasons = [Reason("GRANTED", f"granted: {_what(case)} by {names}")]
    if masked:
        columns = ", ".join(f"{m.table}.{m.column} ({m.mask})" for m in masked)
        reasons.append(Reason("MASKED", f"masked: {columns}"))
    return reasons
