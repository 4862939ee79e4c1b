"""The policy as frozen values: what `file` reads and `engine` decides with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from hoop_core.errors import PolicyDenied
from hoop_core.masking.masks import HASH_FUNCTION, Mask
from hoop_core.model import (
    ApprovalTerms,
    Detector,
    DetectorAction,
    Identity,
    Kind,
    NameContext,
    Outcome,
    RoleBinding,
    RunContext,
    Screen,
    TableName,
    account_key,
)
from hoop_core.policy.conditions import Condition
from hoop_core.policy.predicates import Predicate
from hoop_core.sql.names import Pattern, stored


class Then(StrEnum):
    ALLOW = "allow"
    REQUIRE_APPROVAL = "require_approval"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Rule:
    """`groups`, `kinds`, `reads`, `writes`, `accounts` that are None were not given."""

    name: str
    then: Then
    groups: frozenset[str] | None = None
    kinds: frozenset[Kind] | None = None
    reads: tuple[Pattern, ...] | None = None
    writes: tuple[Pattern, ...] | None = None
    when: Condition | None = None
    approval: ApprovalTerms | None = None
    accounts: frozenset[str] | None = None
    line: int = field(default=0, compare=False)

    def speaks_of(self, identity: Identity) -> bool:
        return self.groups is None or not self.groups.isdisjoint(identity.groups)


@dataclass(frozen=True, slots=True)
class RoleRule:
    groups: frozenset[str]
    binding: RoleBinding
    accounts: frozenset[str] | None = None
    """Keys of the accounts that the entry is for (`model.account_key`); None: for all."""
    default: bool = False
    """Whether it is the one for a caller who fits several and asks for none."""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class MaskRule:
    """`columns` are the four-part patterns of the rule, those of its tag included.

    `exceptions` says who may show these columns to a caller for a while; None: nobody.
    """

    mask: Mask
    columns: tuple[Pattern, ...]
    except_groups: frozenset[str] = frozenset()
    exceptions: ApprovalTerms | None = None
    line: int = field(default=0, compare=False)

    def binds(self, identity: Identity) -> bool:
        return self.except_groups.isdisjoint(identity.groups)


@dataclass(frozen=True, slots=True)
class RowFilter:
    """`groups` that is None binds everybody; callers in one of `except_groups` see all rows."""

    table: Pattern
    where: Predicate
    groups: frozenset[str] | None = None
    except_groups: frozenset[str] = frozenset()
    line: int = field(default=0, compare=False)

    def meant_for(self, identity: Identity) -> bool:
        return self.groups is None or not self.groups.isdisjoint(identity.groups)

    def binds(self, identity: Identity) -> bool:
        return self.meant_for(identity) and self.except_groups.isdisjoint(identity.groups)


@dataclass(frozen=True, slots=True)
class DetectorRule:
    """What happens to results that hold values of these kinds, for callers in none of `except_groups`."""

    kinds: frozenset[Detector]
    action: DetectorAction
    except_groups: frozenset[str] = frozenset()
    line: int = field(default=0, compare=False)

    def binds(self, identity: Identity) -> bool:
        return self.except_groups.isdisjoint(identity.groups)


@dataclass(frozen=True, slots=True)
class RecordingRule:
    """How many rows of a caller's results are kept: None for all of them, 0 for none but their digest."""

    rows: int | None
    groups: frozenset[str] | None = None
    except_groups: frozenset[str] = frozenset()
    line: int = field(default=0, compare=False)

    def binds(self, identity: Identity) -> bool:
        named = self.groups is None or not self.groups.isdisjoint(identity.groups)
        return named and self.except_groups.isdisjoint(identity.groups)


@dataclass(frozen=True, slots=True)
class RetentionClass:
    """How long evidence is kept, counted from the last of what belongs together; None: for ever. Selectors that are
    None ask nothing.
    """

    name: str
    keep: timedelta | None
    recordings: timedelta | None
    kinds: frozenset[str] | None = None
    sessions: frozenset[str] | None = None
    groups: frozenset[str] | None = None
    accounts: frozenset[str] | None = None
    tags: frozenset[str] | None = None
    line: int = field(default=0, compare=False)

    @property
    def for_all(self) -> bool:
        """Whether it is for what no other class is for."""
        selectors = (self.kinds, self.sessions, self.groups, self.accounts, self.tags)
        return all(s is None for s in selectors)


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a case expects; None: not asked. `masked` are endings of DATABASE.SCHEMA.TABLE.COLUMN."""

    outcome: Outcome
    reason: str | None = None
    masked: tuple[tuple[str, ...], ...] | None = None
    filtered: tuple[tuple[str, ...], ...] | None = None
    rewritten_contains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyCase:
    """A statement, who asks it, and what the policy should say: a test kept beside the policy."""

    name: str
    sql: str
    identity: Identity
    names: NameContext
    run: RunContext
    expected: Expectation
    at: datetime | None = None
    account: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole policy file. `digest` is the SHA-256 (hex) of its canonical content."""

    digest: str
    roles: tuple[RoleRule, ...] = ()
    masks: tuple[MaskRule, ...] = ()
    rules: tuple[Rule, ...] = ()
    row_filters: tuple[RowFilter, ...] = ()
    detectors: tuple[DetectorRule, ...] = ()
    recordings: tuple[RecordingRule, ...] = ()
    retention: tuple[RetentionClass, ...] = ()
    tags: Mapping[str, tuple[Pattern, ...]] = field(default_factory=dict)
    tag_lines: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)
    """Where each tag is defined, for what is said of it."""
    cases: tuple[PolicyCase, ...] = field(default=(), repr=False, compare=False)
    hash_function: str = HASH_FUNCTION
    """What `hash` masks call, as SQL writes it."""
    catalog: str | None = field(default=None, repr=False, compare=False)
    """A catalog file for trying the policy out, relative to the policy file."""
    source: str = field(default="", compare=False)
    text: str = field(default="", repr=False, compare=False)
    """The file's text, from which the same policy can be read again elsewhere."""
    account: str | None = None
    """The account that it was narrowed to, if that makes a difference."""

    @property
    def key(self) -> str:
        """What tells policies apart that come of one file: the digest, and the account."""
        return self.digest if self.account is None else f"{self.digest}@{self.account}"

    def for_account(self, name: str) -> Policy:
        """What of the policy is in force for one account: roles and rules of other accounts are not there.

        Masks, row filters and detectors hold for all accounts. The digest stays that of the whole file.
        """
        account = account_key(name)
        named = [e.accounts for e in self.roles] + [e.accounts for e in self.rules]
        if self.account is not None or not any(named):
            return self
        return replace(
            self,
            roles=tuple(r for r in self.roles if r.accounts is None or account in r.accounts),
            rules=tuple(r for r in self.rules if r.accounts is None or account in r.accounts),
            account=account,
        )

    def screen_for(self, identity: Identity) -> Screen:
        """What the detectors do to this caller's results: for each kind the strictest binding action."""
        actions: dict[Detector, DetectorAction] = {}
        freed: set[Detector] = set()
        order = list(DetectorAction)
        for rule in self.detectors:
            if not rule.binds(identity):
                freed |= rule.kinds
                continue
            for kind in rule.kinds:
                actions[kind] = max(actions.get(kind, rule.action), rule.action, key=order.index)
        of = {a: frozenset(k for k, done in actions.items() if done is a) for a in order}
        bound = of[DetectorAction.MASK] | of[DetectorAction.BLOCK]
        return Screen(
            masks=of[DetectorAction.MASK],
            blocks=of[DetectorAction.BLOCK],
            reports=of[DetectorAction.REPORT],
            freed=frozenset(freed) - bound,
        )

    def rows_recorded(self, identity: Identity) -> int | None:
        """How many rows of this caller's results are kept; None: all. What keeps most counts: it is evidence."""
        kept = [r.rows for r in self.recordings if r.binds(identity)]
        if not kept:
            return None
        counts = [rows for rows in kept if rows is not None]
        return max(counts) if len(counts) == len(kept) else None

    def role_for(self, identity: Identity, requested: str | None) -> RoleBinding:
        """The Snowflake role that a caller becomes.

        The one asked for; else the only one; else the only one that is a `default`. Raises PolicyDenied when
        there is no such role: chance, or the order of the file, never chooses.
        """
        mine: dict[str, RoleBinding] = {}
        defaults: set[str] = set()
        for rule in self.roles:
            if not rule.groups.isdisjoint(identity.groups):
                mine.setdefault(rule.binding.snowflake_role, rule.binding)
                defaults |= {rule.binding.snowflake_role} if rule.default else set()
        offered = ", ".join(mine)
        if not mine:
            raise PolicyDenied(
                f"No Snowflake role is mapped to {describe_groups(identity)}.",
                "Ask for an entry under `roles` in the policy.",
                reason="NO_ROLE",
            )
        if requested:
            binding = mine.get(stored(requested))
            if binding is None:
                raise PolicyDenied(
                    f"The role {stored(requested)} is not mapped to {describe_groups(identity)}.",
                    f"Connect with one of: {offered}.",
                    reason="ROLE_NOT_MAPPED",
                )
            return binding
        if len(mine) > 1 and len(defaults) == 1:
            return mine[next(iter(defaults))]
        if len(mine) > 1:
            raise PolicyDenied(
                f"Several Snowflake roles are mapped to {describe_groups(identity)}: {offered}.",
                "Choose one with `role` when you connect.",
                reason="ROLE_AMBIGUOUS",
            )
        return next(iter(mine.values()))

    @property
    def offers_exceptions(self) -> bool:
        """Whether some mask can be lifted for a while: else nobody needs to look for exceptions."""
        return any(m.exceptions is not None for m in self.masks)

    def check_role(self, identity: Identity, role: RoleBinding) -> None:
        """Whether a caller may go on as a role that an earlier policy gave. Raises PolicyDenied."""
        if any(
            not r.groups.isdisjoint(identity.groups)
            and (r.binding.vault_role, r.binding.snowflake_role)
            == (role.vault_role, role.snowflake_role)
            for r in self.roles
        ):
            return
        raise PolicyDenied(
            f"The role {role.snowflake_role} is no longer mapped to {describe_groups(identity)}.",
            "Connect again, or ask for an entry under `roles` in the policy.",
            reason="ROLE_WITHDRAWN",
        )

    def masks_binding(self, identity: Identity) -> tuple[MaskRule, ...]:
        """The mask rules from which the caller is not excepted."""
        return tuple(m for m in self.masks if m.binds(identity))


def describe_groups(identity: Identity) -> str:
    """How messages name the caller: by groups, because that is what rules speak of."""
    if not identity.groups:
        return f"{identity.name or identity.subject}, who is in no group"
    return f"groups {', '.join(identity.groups)}"


def names_table(rules: tuple[MaskRule, ...], table: TableName) -> bool:
    """Whether any mask could name a column of the table."""
    return any(p.covers(table) for r in rules for p in r.columns)
