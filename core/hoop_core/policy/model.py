"""The policy as frozen values: what `file` reads and `engine` decides with."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from hoop_core.errors import PolicyDenied
from hoop_core.masking.masks import Mask
from hoop_core.model import ApprovalTerms, Identity, Kind, RoleBinding, TableName
from hoop_core.policy.conditions import Condition
from hoop_core.sql.names import Pattern, stored


class Then(StrEnum):
    ALLOW = "allow"
    REQUIRE_APPROVAL = "require_approval"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Rule:
    """`groups`, `kinds`, `reads`, `writes` that are None were not given."""

    name: str
    then: Then
    groups: frozenset[str] | None = None
    kinds: frozenset[Kind] | None = None
    reads: tuple[Pattern, ...] | None = None
    writes: tuple[Pattern, ...] | None = None
    when: Condition | None = None
    approval: ApprovalTerms | None = None

    def speaks_of(self, identity: Identity) -> bool:
        return self.groups is None or not self.groups.isdisjoint(identity.groups)


@dataclass(frozen=True, slots=True)
class RoleRule:
    groups: frozenset[str]
    binding: RoleBinding


@dataclass(frozen=True, slots=True)
class MaskRule:
    """`columns` are the four-part patterns of the rule, those of its tag included."""

    mask: Mask
    columns: tuple[Pattern, ...]
    except_groups: frozenset[str] = frozenset()

    def binds(self, identity: Identity) -> bool:
        return self.except_groups.isdisjoint(identity.groups)


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole policy file. `digest` is the SHA-256 (hex) of its canonical content."""

    digest: str
    roles: tuple[RoleRule, ...] = ()
    masks: tuple[MaskRule, ...] = ()
    rules: tuple[Rule, ...] = ()
    source: str = field(default="", compare=False)

    def role_for(self, identity: Identity, requested: str | None) -> RoleBinding:
        """The Snowflake role that a caller becomes.

        Raises PolicyDenied when no role is mapped to the caller's groups, when several are and none was
        asked for, or when the one asked for is not among them.
        """
        mine: dict[str, RoleBinding] = {}
        for rule in self.roles:
            if not rule.groups.isdisjoint(identity.groups):
                mine.setdefault(rule.binding.snowflake_role, rule.binding)
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
        if len(mine) > 1:
            raise PolicyDenied(
                f"Several Snowflake roles are mapped to {describe_groups(identity)}: {offered}.",
                "Choose one with `role` when you connect.",
                reason="ROLE_AMBIGUOUS",
            )
        return next(iter(mine.values()))

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
