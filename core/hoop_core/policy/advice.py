"""What is not wrong in a policy and still deserves a second look."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from hoop_core.masking.masks import HASH_FUNCTION, MaskName
from hoop_core.model import Kind
from hoop_core.policy.engine import READING
from hoop_core.policy.model import MaskRule, Policy, Rule, Then
from hoop_core.policy.sections.rules import WRITING
from hoop_core.sql.names import Pattern

_STRICTNESS = {name: i for i, name in enumerate(MaskName)}


@dataclass(frozen=True, slots=True, order=True)
class Advice:
    """A sentence for `hoop policy check`, with what to do; `line` in the policy file."""

    line: int
    message: str


def advice(policy: Policy) -> tuple[Advice, ...]:
    """In the order of the file."""
    found = [
        *_hashes(policy),
        *_groups(policy),
        *_rules(policy),
        *_masks(policy),
        *_filters(policy),
        *_dead(policy),
    ]
    return tuple(sorted(set(found)))


def _hashes(policy: Policy) -> Iterator[Advice]:
    hashes = [m for m in policy.masks if m.mask.name is MaskName.HASH]
    if hashes and policy.hash_function == HASH_FUNCTION:
        yield Advice(
            hashes[0].line,
            f"masks of the kind `hash` call {HASH_FUNCTION}, which a session looks for in its current "
            "database. Add `hash_function: DATABASE.SCHEMA.FUNCTION`, the name that "
            "`hoop snowflake setup-sql` made.",
        )
    for mask in hashes:
        if "domain" in mask.mask.options:
            continue  # who names the columns that may be joined has thought of it
        yield Advice(
            mask.line,
            "equal values have equal hashes, so they can still be counted, joined and recognised. Use "
            '"null" or constant where that says too much, or give it a `domain` to say that it is meant.',
        )


def _groups(policy: Policy) -> Iterator[Advice]:
    """Groups that the one part of the file knows and the other does not: often a misspelling."""
    if not policy.roles:
        return
    signed_in = frozenset().union(*(r.groups for r in policy.roles))
    for rule in policy.rules:
        for group in sorted((rule.groups or frozenset()) - signed_in):
            yield Advice(
                rule.line,
                f"the rule `{rule.name}` speaks of the group {group}, to which no role is mapped: its members "
                "sign in only by another group. Add it under `roles`, or correct its name.",
            )
    granting = [r for r in policy.rules if r.then is Then.ALLOW]
    for role in policy.roles:
        if any(r.groups is None or not r.groups.isdisjoint(role.groups) for r in granting):
            continue
        yield Advice(
            role.line,
            f"no rule grants anything to {', '.join(sorted(role.groups))}: who becomes "
            f"{role.binding.snowflake_role} is denied every statement.",
        )


def _rules(policy: Policy) -> Iterator[Advice]:
    for first, second in combinations(policy.rules, 2):
        if _speaks_alike(first, second):
            yield Advice(
                second.line,
                f"the rule `{second.name}` says what `{first.name}` in line {first.line} says already.",
            )
    granting = [r for r in policy.rules if r.then is Then.ALLOW]
    for rule in granting:
        wider = next((o for o in granting if _grants_more(o, rule)), None)
        if wider is not None:
            yield Advice(
                rule.line,
                f"the rule `{rule.name}` grants nothing that `{wider.name}` in line {wider.line} does not "
                "grant.",
            )
        denying = next(
            (o for o in policy.rules if o.then is Then.DENY and _denies_all(o, rule)), None
        )
        if denying is not None:
            yield Advice(
                rule.line,
                f"the rule `{rule.name}` never grants anything: `{denying.name}` in line {denying.line} "
                "denies all of it.",
            )


def _speaks_alike(first: Rule, second: Rule) -> bool:
    return all(
        getattr(first, name) == getattr(second, name)
        for name in ("then", "groups", "kinds", "reads", "writes", "when", "approval")
    )


def _grants_more(wide: Rule, narrow: Rule) -> bool:
    """Whether everything that `narrow` grants, `wide` grants too, and more."""
    return (
        wide is not narrow
        and wide.when is None
        and not _speaks_alike(wide, narrow)
        and _at_least(wide.groups, narrow.groups)
        and (wide.kinds is None) == (narrow.kinds is None)
        and (wide.kinds or frozenset()) >= (narrow.kinds or frozenset())
        and _all_covered(narrow.reads or (), wide.reads or ())
        and _all_covered(narrow.writes or (), wide.writes or ())
    )


def _denies_all(deny: Rule, allow: Rule) -> bool:
    if deny.when is not None or not _at_least(deny.groups, allow.groups):
        return False
    reads_dead = (
        deny.kinds is None
        and deny.writes is None
        and (
            deny.reads is None
            or (bool(allow.reads) and _all_covered(allow.reads or (), deny.reads))
        )
    )
    writes_dead = (
        deny.reads is None
        and _at_least(deny.kinds, allow.kinds)
        and (deny.writes is None or _all_covered(allow.writes or (), deny.writes))
    )
    return (
        (reads_dead or not allow.reads)
        and (writes_dead or not allow.writes)
        and (reads_dead or writes_dead)
    )


def _at_least(wide: frozenset[Any] | None, narrow: frozenset[Any] | None) -> bool:
    """None means everything."""
    return wide is None or (narrow is not None and narrow <= wide)


def _all_covered(narrow: tuple[Pattern, ...], wide: tuple[Pattern, ...]) -> bool:
    return all(any(_covers(w, n) for w in wide) for n in narrow)


def _covers(wide: Pattern, narrow: Pattern) -> bool:
    return all(w in ("*", n) for w, n in zip(wide.parts, narrow.parts, strict=True))


def _masks(policy: Policy) -> Iterator[Advice]:
    for i, mask in enumerate(policy.masks):
        for j, other in enumerate(policy.masks):
            if i != j and _hides(other, mask, first=j < i):
                yield Advice(
                    mask.line,
                    f"the mask `{mask.mask.name}` never shows: `{other.mask.name}` in line {other.line} is "
                    "as strict or stricter, for the same columns and callers.",
                )
                break


def _hides(other: MaskRule, mask: MaskRule, *, first: bool) -> bool:
    stricter = _STRICTNESS[other.mask.name] - _STRICTNESS[mask.mask.name]
    return (
        (stricter < 0 or (stricter == 0 and first))
        and other.except_groups <= mask.except_groups
        and _all_covered(mask.columns, other.columns)
    )


def _filters(policy: Policy) -> Iterator[Advice]:
    for first, second in combinations(policy.row_filters, 2):
        if first == second:
            yield Advice(second.line, f"the row filter of line {first.line} says the same.")
    for row_filter in policy.row_filters:
        if row_filter.where.of_the_session:
            yield Advice(
                row_filter.line,
                "what the row filter means depends on the session's TIMEZONE and DATE_INPUT_FORMAT, which "
                "the caller may set. Write TO_DATE('2026-03-02', 'YYYY-MM-DD'), and do not rest it on the "
                "clock where a day matters.",
            )
        if not row_filter.where.columns:
            yield Advice(
                row_filter.line,
                "the row filter asks for no column: the caller sees all rows or none.",
            )


def _dead(policy: Policy) -> Iterator[Advice]:
    """Rules that only speak of what no rule allows: it is denied already, with or without them.

    Groups are left out: a caller may be in several, and be granted by one what another rule speaks of.
    """
    granting = [r for r in policy.rules if r.then is Then.ALLOW]
    for rule in policy.rules:
        if rule.then is not Then.ALLOW and not _may_meet(rule, granting):
            yield Advice(
                rule.line,
                f"the rule `{rule.name}` never decides anything: no rule allows what it speaks of, so that is "
                "denied without it. Correct its kinds and tables, or the rules with `then: allow`.",
            )


def _may_meet(rule: Rule, granting: list[Rule]) -> bool:
    """Whether some statement that is granted could be one that `rule` speaks of.

    One rule may grant what it reads and another what it writes, so each is looked at alone.
    """
    kinds = frozenset(Kind) - READING - WRITING  # these need no grant of their own
    kinds = kinds.union(*(READING if a.kinds is None else a.kinds for a in granting))
    if rule.kinds is not None and not kinds & rule.kinds:
        return False
    return _overlap([a.writes for a in granting], rule.writes) and _overlap(
        [a.reads for a in granting], rule.reads
    )


def _overlap(granted: list[tuple[Pattern, ...] | None], named: tuple[Pattern, ...] | None) -> bool:
    if named is None:
        return True
    return any(_share(g, n) for patterns in granted for g in patterns or () for n in named)


def _share(left: Pattern, right: Pattern) -> bool:
    return all(a == b or "*" in (a, b) for a, b in zip(left.parts, right.parts, strict=True))
