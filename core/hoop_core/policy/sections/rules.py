"""`roles` and `rules`: who becomes whom in Snowflake, and who may do what."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hoop_core.model import Kind, RoleBinding, Scope
from hoop_core.policy.condition_types import check_types
from hoop_core.policy.conditions import Condition, ConditionError, compile_condition
from hoop_core.policy.model import RoleRule, Rule, Then
from hoop_core.policy.sections.common import (
    accounts,
    check_tag,
    groups,
    patterns,
    word,
)
from hoop_core.policy.sections.terms import approval_terms
from hoop_core.sql.names import stored
from hoop_core.yaml_reader import Fields, Value

ROLE_KEYS = ("groups", "vault_role", "snowflake_role", "warehouse", "scope", "accounts", "default")
RULE_KEYS = ("name", "accounts", "groups", "kinds", "reads", "writes", "when", "then", "approval")
WRITING = frozenset(
    {
        Kind.INSERT,
        Kind.INSERT_OVERWRITE,
        Kind.UPDATE,
        Kind.DELETE,
        Kind.MERGE,
        Kind.TRUNCATE,
        Kind.CREATE_TABLE,
        Kind.CREATE_TABLE_AS,
        Kind.ALTER_TABLE,
        Kind.DROP_TABLE,
        Kind.COPY_INTO_TABLE,
    }
)


def read_role(value: Value) -> RoleRule:
    f = value.mapping("a role", ROLE_KEYS, ROLE_KEYS[:3])
    warehouse = stored(f["warehouse"].text("`warehouse`")) if "warehouse" in f else None
    binding = RoleBinding(
        vault_role=f["vault_role"].text("`vault_role`"),
        snowflake_role=stored(f["snowflake_role"].text("`snowflake_role`")),
        warehouse=warehouse,
        scope=_scope(f["scope"]) if "scope" in f else Scope.SESSION,
    )
    return RoleRule(
        frozenset(f["groups"].texts("`groups`")),
        binding,
        accounts(f),
        default="default" in f and f["default"].truth("`default`"),
        line=value.line,
    )


def _scope(value: Value) -> Scope:
    return Scope(word(value, "`scope`", [s.value for s in Scope], kind="scope"))


def rule_reader(tags: tuple[str, ...] = ()) -> Callable[[Value], Rule]:
    """Reads the rules of one policy. `tags` are those of the policy, which conditions may look for."""
    return partial(_rule, names=set(), tags=tags)


def _rule(value: Value, names: set[str], tags: tuple[str, ...]) -> Rule:
    f = value.mapping("a rule", RULE_KEYS, ("name",))
    name = f["name"].text("`name`")
    if name in names:
        raise f["name"].wrong(f"two rules are named `{name}`.")
    names.add(name)
    if "then" not in f:
        raise value.wrong(f"the rule `{name}` needs `then`.", f"Valid: {', '.join(Then)}.")
    rule = Rule(
        name=name,
        then=Then(word(f["then"], "`then`", [t.value for t in Then], kind="outcome")),
        groups=groups(f, "groups"),
        kinds=_kinds(f["kinds"]) if "kinds" in f else None,
        reads=patterns(f["reads"], "`reads`", 3) if "reads" in f else None,
        writes=patterns(f["writes"], "`writes`", 3) if "writes" in f else None,
        when=_condition(f["when"], tags) if "when" in f else None,
        approval=approval_terms(f["approval"], "`approval`") if "approval" in f else None,
        accounts=accounts(f),
        line=value.line,
    )
    _check_rule(value, f, rule)
    return rule


def _check_rule(value: Value, f: Fields, rule: Rule) -> None:
    if rule.then is Then.REQUIRE_APPROVAL and rule.approval is None:
        raise value.wrong(
            f"the rule `{rule.name}` asks for approval: it needs `approval`.",
            "Write `approval: {approvers: [GROUP], quorum: 1}`.",
        )
    if rule.then is not Then.REQUIRE_APPROVAL and "approval" in f:
        raise f["approval"].wrong(f"`approval` has no meaning with `then: {rule.then}`.")
    if rule.then is not Then.ALLOW:
        return
    kinds = rule.kinds or frozenset()
    if Kind.OTHER in kinds:
        raise f["kinds"].wrong("the kind `other` can only be denied.")
    if rule.writes is not None and not kinds & WRITING:
        raise f["writes"].wrong("`writes` grants nothing without `kinds` that write.")
    if kinds & WRITING and rule.writes is None:
        raise f["kinds"].wrong(f"`{min(kinds & WRITING)}` writes: say which tables with `writes`.")


def _kinds(value: Value) -> frozenset[Kind]:
    valid = [k.value for k in Kind]
    found = frozenset(
        Kind(word(item, "a kind", valid, kind="kind")) for item in value.items("`kinds`")
    )
    if not found:
        raise value.wrong("`kinds` must not be empty.")
    return found


def _condition(value: Value, tags: tuple[str, ...]) -> Condition:
    source = value.text("`when`")
    try:
        condition = compile_condition(source)
        check_types(condition)
    except ConditionError as e:
        if e.wrong:
            raise value.unknown(e.what, e.wrong, e.valid) from None
        raise value.wrong(
            f"`when` is not a CEL expression that gives true or false: {e}.", e.hint
        ) from None
    for tag in condition.tags:
        check_tag(value, "tag in `when`:", tag, tags)
    return condition
