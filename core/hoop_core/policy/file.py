"""The policy file (YAML, version 1). Every mistake is a ConfigError with file, line and nearest word."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from hoop_core.errors import ConfigError
from hoop_core.masking.masks import Mask, MaskName
from hoop_core.model import ApprovalTerms, Kind, RoleBinding
from hoop_core.policy.conditions import Condition, ConditionError, compile_condition
from hoop_core.policy.model import MaskRule, Policy, RoleRule, Rule, Then
from hoop_core.policy.yaml_reader import Fields, Value, read_document
from hoop_core.sql.names import Pattern, parse_parts, stored

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
UNITS = ("year", "quarter", "month", "week", "day", "hour")
MASK_OPTIONS: dict[MaskName, tuple[str, ...]] = {
    MaskName.NULL: (),
    MaskName.CONSTANT: ("value",),
    MaskName.HASH: ("domain",),
    MaskName.PARTIAL: ("keep_first", "keep_last"),
    MaskName.EMAIL_DOMAIN: (),
    MaskName.DATE_TRUNC: ("unit",),
    MaskName.BUCKET: ("size",),
}
_DURATION = re.compile(r"(\d+)\s*([smhd])\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MOST_DAYS = 90


def load_policy(path: Path) -> Policy:
    """Read a policy file. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(
            f"The policy {path} cannot be read: {e}.", "Check the path and the file's permissions."
        ) from None
    return parse_policy(text, str(path))


def parse_policy(text: str, source: str) -> Policy:
    """Read a policy from its text; `source` is the name that errors give it. Raises ConfigError."""
    root = read_document(text, source)
    top = root.mapping("the policy", ("version", "roles", "tags", "masks", "rules"), ("version",))
    if top["version"].data != 1:
        raise top["version"].wrong("`version` must be 1.")
    tags = _tags(top)
    names: set[str] = set()
    rules = tuple(_rule(v, names) for v in top["rules"].items("`rules`")) if "rules" in top else ()
    canonical = json.dumps(root.data, sort_keys=True, default=str, separators=(",", ":"))
    return Policy(
        digest=hashlib.sha256(canonical.encode()).hexdigest(),
        roles=tuple(_role(v) for v in top["roles"].items("`roles`")) if "roles" in top else (),
        masks=tuple(_mask_rule(v, tags) for v in top["masks"].items("`masks`"))
        if "masks" in top
        else (),
        rules=rules,
        source=source,
    )


def _role(value: Value) -> RoleRule:
    keys = ("groups", "vault_role", "snowflake_role", "warehouse")
    f = value.mapping("a role", keys, keys[:3])
    warehouse = stored(f["warehouse"].text("`warehouse`")) if "warehouse" in f else None
    binding = RoleBinding(
        vault_role=f["vault_role"].text("`vault_role`"),
        snowflake_role=stored(f["snowflake_role"].text("`snowflake_role`")),
        warehouse=warehouse,
    )
    return RoleRule(frozenset(f["groups"].texts("`groups`")), binding)


def _tags(top: Fields) -> dict[str, tuple[Pattern, ...]]:
    if "tags" not in top:
        return {}
    return {
        name: _patterns(value, f"the tag `{name}`", 4)
        for name, (_, value) in top["tags"].entries("`tags`").items()
    }


def _patterns(value: Value, what: str, parts: int) -> tuple[Pattern, ...]:
    shape = "DATABASE.SCHEMA.TABLE" + (".COLUMN" if parts == 4 else "")
    found: list[Pattern] = []
    for item in value.items(what):
        text = item.text(f"a name in {what}")
        pattern = parse_parts(text)
        if pattern is None or len(pattern) != parts:
            raise item.wrong(
                f"`{text}` is not {shape}.",
                "`*` stands for one whole part; put names with other characters in double quotes.",
            )
        found.append(Pattern(pattern))
    if not found:
        raise value.wrong(f"{what} must not be empty.")
    return tuple(found)


def _mask_rule(value: Value, tags: Mapping[str, tuple[Pattern, ...]]) -> MaskRule:
    given = value.entries("a mask")
    if "mask" not in given:
        raise value.wrong("a mask needs `mask`.", f"Valid: {', '.join(MaskName)}.")
    named = given["mask"][1]
    word = named.text("`mask`")
    if word not in list(MaskName):
        raise named.unknown("mask", word, [m.value for m in MaskName])
    name = MaskName(word)
    keys = ("tag", "columns", "mask", "except_groups", *MASK_OPTIONS[name])
    f = value.mapping(f"a mask `{name}`", keys)
    if ("tag" in f) == ("columns" in f):
        raise value.wrong("a mask needs either `tag` or `columns`.")
    if "tag" in f:
        tag = f["tag"].text("`tag`")
        if tag not in tags:
            raise f["tag"].unknown("tag", tag, tuple(tags))
        columns = tags[tag]
    else:
        columns = _patterns(f["columns"], "`columns`", 4)
    excepted = f["except_groups"].texts("`except_groups`") if "except_groups" in f else ()
    return MaskRule(Mask(name, _options(name, f)), columns, frozenset(excepted))


def _options(name: MaskName, f: Fields) -> dict[str, str | int | float | bool]:
    options: dict[str, str | int | float | bool] = {}
    for key in MASK_OPTIONS[name]:
        if key not in f:
            continue
        value = f[key]
        if key in {"keep_first", "keep_last"}:
            options[key] = value.integer(f"`{key}`", 0, 64)
        elif key == "unit":
            unit = value.text("`unit`")
            if unit not in UNITS:
                raise value.unknown("unit", unit, UNITS)
            options[key] = unit
        elif key == "size":
            number = value.data
            if (
                isinstance(number, bool)
                or not isinstance(number, int | float)
                or not 0 < number < 1e15
            ):
                raise value.wrong("`size` must be a number above 0.")
            options[key] = number
        elif key == "domain":
            options[key] = value.text("`domain`")
        elif isinstance(value.data, str | int | float | bool):
            options[key] = value.data
        else:
            raise value.wrong(f"`{key}` must be a text, a number, true or false.")
    return options


_RULE_KEYS = ("name", "groups", "kinds", "reads", "writes", "when", "then", "approval")


def _rule(value: Value, names: set[str]) -> Rule:
    f = value.mapping("a rule", _RULE_KEYS, ("name",))
    name = f["name"].text("`name`")
    if name in names:
        raise f["name"].wrong(f"two rules are named `{name}`.")
    names.add(name)
    if "then" not in f:
        raise value.wrong(f"the rule `{name}` needs `then`.", f"Valid: {', '.join(Then)}.")
    word = f["then"].text("`then`")
    if word not in list(Then):
        raise f["then"].unknown("outcome", word, [t.value for t in Then])
    rule = Rule(
        name=name,
        then=Then(word),
        groups=frozenset(f["groups"].texts("`groups`")) if "groups" in f else None,
        kinds=_kinds(f["kinds"]) if "kinds" in f else None,
        reads=_patterns(f["reads"], "`reads`", 3) if "reads" in f else None,
        writes=_patterns(f["writes"], "`writes`", 3) if "writes" in f else None,
        when=_condition(f["when"]) if "when" in f else None,
        approval=_approval(f["approval"]) if "approval" in f else None,
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
    found: set[Kind] = set()
    for item in value.items("`kinds`"):
        word = item.text("a kind")
        if word not in valid:
            raise item.unknown("kind", word, valid)
        found.add(Kind(word))
    if not found:
        raise value.wrong("`kinds` must not be empty.")
    return frozenset(found)


def _condition(value: Value) -> Condition:
    source = value.text("`when`")
    try:
        return compile_condition(source)
    except ConditionError as e:
        if e.wrong:
            raise value.unknown("name in `when`:", e.wrong, e.valid) from None
        raise value.wrong(f"`when` is not a CEL expression: {e}.") from None


def _approval(value: Value) -> ApprovalTerms:
    keys = ("approvers", "quorum", "pending_for", "valid_for")
    f = value.mapping("`approval`", keys, ("approvers",))
    return ApprovalTerms(
        approvers=tuple(dict.fromkeys(f["approvers"].texts("`approvers`"))),
        quorum=f["quorum"].integer("`quorum`", 1, 20) if "quorum" in f else 1,
        pending_for=_duration(f["pending_for"], "`pending_for`")
        if "pending_for" in f
        else timedelta(hours=24),
        valid_for=_duration(f["valid_for"], "`valid_for`")
        if "valid_for" in f
        else timedelta(hours=4),
    )


def _duration(value: Value, what: str) -> timedelta:
    match = _DURATION.match(value.data) if isinstance(value.data, str) else None
    if match is None:
        raise value.wrong(f"{what} must be a number and s, m, h or d: 30m, 24h, 7d.")
    span = timedelta(seconds=int(match.group(1)) * _SECONDS[match.group(2)])
    if not timedelta(0) < span <= timedelta(days=_MOST_DAYS):
        raise value.wrong(f"{what} must be above 0 and at most {_MOST_DAYS}d.")
    return span
