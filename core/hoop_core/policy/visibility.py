"""Which rows of INFORMATION_SCHEMA and of SHOW a caller sees: those of objects that some rule lets them read.

Snowflake itself lists what the minted user's role has any privilege on; a role often has more than the policy
grants to one caller. What is shown is never more than DESCRIBE would tell of each table that is granted.
"""

from __future__ import annotations

from collections.abc import Iterable

from hoop_core.masking.masks import INNER, TablePlan, literal
from hoop_core.model import Identity, Kind, Listing, TableName
from hoop_core.policy.model import Policy, Rule, Then
from hoop_core.sql.metadata import MetadataView, metadata_view
from hoop_core.sql.names import Pattern

_ASKING = frozenset({Kind.SELECT, Kind.SHOW, Kind.DESCRIBE})


def tells_of(rule: Rule, view: TableName) -> bool:
    """Whether the rule lets its groups read anything in the database that a metadata view describes."""
    return any(p.parts[0] in ("*", view.database) for p in rule.reads or ())


def narrowed(
    policy: Policy, identity: Identity, allowing: Iterable[Rule], views: Iterable[TableName]
) -> dict[TableName, TablePlan]:
    """A plan for each metadata view among `views`, by the allow rules in force for the statement."""
    granted, denied, uncounted = _patterns(policy, identity, allowing)
    found: dict[TableName, TablePlan] = {}
    for table in views:
        view = metadata_view(table)
        if view is not None:
            hidden = [*denied, *uncounted] if view.sizes else denied
            found[table] = TablePlan(table, (), _condition(view, table.database, granted, hidden))
    return found


def listing(policy: Policy, identity: Identity, allowing: Iterable[Rule]) -> Listing:
    """What a SHOW may list, by the allow rules in force for it."""
    allowing = tuple(allowing)
    granted, denied, uncounted = _patterns(policy, identity, allowing)
    return Listing(
        shown=tuple(p.parts[:3] for p in granted),
        hidden=tuple(p.parts[:3] for p in denied),
        uncounted=tuple(p.parts[:3] for p in uncounted),
        places=tuple(p.parts[:2] for r in allowing for p in r.writes or ()),
    )


def _patterns(
    policy: Policy, identity: Identity, allowing: Iterable[Rule]
) -> tuple[list[Pattern], list[Pattern], list[Pattern]]:
    """Of what is granted, of what may be denied, and of tables whose rows must not be counted."""
    return (
        [p for r in allowing for p in r.reads or ()],
        [p for r in policy.rules if _may_deny(r, identity) for p in r.reads or ()],
        [f.table for f in policy.row_filters if f.binds(identity)],
    )


def _may_deny(rule: Rule, identity: Identity) -> bool:
    """Whether it may forbid reading what it names, whatever its condition says of this statement."""
    return (
        rule.then is Then.DENY
        and rule.speaks_of(identity)
        and rule.writes is None
        and (rule.kinds is None or not rule.kinds.isdisjoint(_ASKING))
    )


def _condition(
    view: MetadataView, database: str, granted: Iterable[Pattern], hidden: Iterable[Pattern]
) -> str:
    here = [p for p in granted if p.parts[0] in ("*", database)]
    shown = " OR ".join(dict.fromkeys(_matches(view, p) for p in here)) or "FALSE"
    gone = [
        p
        for p in hidden
        if p.parts[0] in ("*", database) and (view.name is not None or p.parts[2] == "*")
    ]
    if not gone:
        return f"({shown})"
    return f"({shown}) AND NOT ({' OR '.join(dict.fromkeys(_matches(view, p) for p in gone))})"


def _matches(view: MetadataView, pattern: Pattern) -> str:
    """The pattern as a condition on a row; the database is the view's own."""
    _, schema, name = pattern.parts[:3]
    asked = [(view.schema, schema)] + ([] if view.name is None else [(view.name, name)])
    parts = [f'{INNER}."{column}" = {literal(part)}' for column, part in asked if part != "*"]
    return f"({' AND '.join(parts)})" if parts else "TRUE"
