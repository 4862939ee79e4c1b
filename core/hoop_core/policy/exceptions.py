"""Masking exceptions: which columns a caller may ask to see for a while, and whom to ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from hoop_core.errors import PolicyDenied
from hoop_core.model import ApprovalTerms, Identity, Kind, MaskedColumn, TableName, quote_part
from hoop_core.policy.engine import combine_terms
from hoop_core.policy.model import MaskRule, Policy, Then, describe_groups
from hoop_core.policy.protection import strictest
from hoop_core.spans import in_words
from hoop_core.sql.names import parse_parts


@dataclass(frozen=True, slots=True, order=True)
class ColumnName:
    """One column by its full name, in stored case."""

    table: TableName
    column: str

    def __str__(self) -> str:
        return f"{self.table}.{quote_part(self.column)}"


@dataclass(frozen=True, slots=True)
class Offer:
    """What the policy offers for some columns: terms that satisfy every mask on them, and the masks."""

    terms: ApprovalTerms
    masked: tuple[MaskedColumn, ...]


def parse_column(text: str) -> ColumnName | None:
    """DATABASE.SCHEMA.TABLE.COLUMN without wildcards; None when it is not one."""
    parts = parse_parts(text)
    if parts is None or len(parts) != 4 or "*" in parts:
        return None
    return ColumnName(TableName(*parts[:3]), parts[3])


def offer(
    policy: Policy, identity: Identity, columns: Sequence[ColumnName], span: timedelta
) -> Offer:
    """The terms under which `columns` may be shown to the caller for `span`.

    Raises PolicyDenied when they are not masked for the caller, or no exception is offered for them.
    Reading is asked first: who may not read a table learns nothing of its masks.
    """
    terms: list[ApprovalTerms] = []
    masked: list[MaskedColumn] = []
    for name in columns:
        check_readable(policy, identity, name)
        rules = [
            m
            for m in policy.masks_binding(identity)
            if any(p.covers(name.table, name.column) for p in m.columns)
        ]
        terms += [_terms(name, rule) for rule in rules]
        mask = strictest(name.table, (name.column,), tuple(rules)).get(name.column)
        if mask is None:
            raise PolicyDenied(
                f"{name} is not masked for {describe_groups(identity)}: there is nothing to except.",
                "Leave it out of the request.",
                reason="NOTHING_TO_EXCEPT",
            )
        masked.append(MaskedColumn(name.table, name.column, mask.name.value))
    combined = combine_terms(terms)
    if combined is None:
        raise PolicyDenied(
            "The masks of these columns share no group of approvers, so nobody could answer.",
            "Ask for the columns one by one; if it is one column, the policy has to be corrected.",
            reason="EXCEPTION_CONFLICT",
        )
    if not timedelta(0) < span <= combined.valid_for:
        raise PolicyDenied(
            f"The policy lets these columns be shown for at most {in_words(combined.valid_for)}.",
            "Ask for a shorter time.",
            reason="EXCEPTION_TOO_LONG",
        )
    return Offer(combined, tuple(masked))


def check_readable(policy: Policy, identity: Identity, name: ColumnName) -> None:
    """Some rule may let the caller read the table: nobody is asked for what could never be shown.

    Raises PolicyDenied. Who may not read a table learns neither of its masks nor whether it is there.
    """
    for rule in policy.rules:
        selecting = rule.kinds is None or Kind.SELECT in rule.kinds
        covers = any(p.covers(name.table) for p in rule.reads or ())
        if rule.then is Then.ALLOW and rule.speaks_of(identity) and selecting and covers:
            return
    raise PolicyDenied(
        f"Reading {name.table} is granted by no rule to {describe_groups(identity)}, "
        "so an exception would have no effect.",
        "Ask the owners of the policy if you need to read it.",
        reason="NOT_GRANTED",
    )


def named_tables(policy: Policy, identity: Identity) -> list[str]:
    """The tables that the policy's masks name outright and that the caller may read: for typing errors."""
    granted = [
        p
        for r in policy.rules
        if r.then is Then.ALLOW and r.speaks_of(identity)
        for p in r.reads or ()
    ]
    named = {
        TableName(*p.parts[:3]) for m in policy.masks for p in m.columns if "*" not in p.parts[:3]
    }
    return sorted(str(t) for t in named if any(p.covers(t) for p in granted))


def _terms(name: ColumnName, rule: MaskRule) -> ApprovalTerms:
    if rule.exceptions is None:
        raise PolicyDenied(
            f"The policy offers no exception from the mask `{rule.mask.name}` on {name}.",
            "Ask the owners of the policy: the mask would need `exceptions` with its approvers.",
            reason="EXCEPTION_NOT_OFFERED",
        )
    return rule.exceptions
