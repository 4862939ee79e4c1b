"""The policy file: every mistake is named with its file, its line and the nearest valid word."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest
import yaml

from hoop_core.errors import ConfigError
from hoop_core.policy.file import load_policy, parse_policy
from hoop_core.policy.schema import json_schema

GOOD = """\
version: 1
roles:
  - {groups: [ml], vault_role: ml-reader, snowflake_role: ML_READER, warehouse: ML_WH}
tags:
  email: ["PROD.CRM.*.EMAIL"]
masks:
  - {tag: email, mask: partial, keep_last: 4, except_groups: [pii]}
rules:
  - {name: read, groups: [ml], reads: ["PROD.CRM.*"], then: allow}
  - name: ask
    kinds: [delete]
    when: "!statement.has_where"
    then: require_approval
    approval: {approvers: [owners], quorum: 2, pending_for: 24h, valid_for: 4h}
"""


def test_a_right_file_is_read() -> None:
    policy = parse_policy(GOOD, "p.yaml")
    assert [r.name for r in policy.rules] == ["read", "ask"]
    assert policy.masks[0].mask.options == {"keep_last": 4}


def test_the_digest_follows_the_content_and_not_its_form() -> None:
    reordered = GOOD.replace("# ", "").replace(
        "{name: read, groups: [ml]", "{groups: [ml], name: read"
    )
    assert parse_policy("# a comment\n" + reordered, "x").digest == parse_policy(GOOD, "y").digest
    assert (
        parse_policy(GOOD.replace("quorum: 2", "quorum: 3"), "y").digest
        != parse_policy(GOOD, "y").digest
    )


@pytest.mark.parametrize(
    ("wrong", "right", "line", "says"),
    [
        ("groups: [ml], reads", "grups: [ml], reads", 9, "unknown key of a rule `grups`. Did you mean `groups`?"),
        ("masks:", "maks:", 6, "Did you mean `masks`?"),
        ("mask: partial, keep_last: 4", "mask: partail", 7, "unknown mask `partail`. Did you mean `partial`?"),
        ("mask: partial, keep_last: 4", "mask: null", 7, 'write "null" in quotes'),
        ("keep_last: 4", "keep_lats: 4", 7, "Did you mean `keep_last`?"),
        ("keep_last: 4", "keep_last: four", 7, "whole number"),
        ("tag: email", "tag: emails", 7, "unknown tag `emails`. Did you mean `email`?"),
        ("PROD.CRM.*.EMAIL", "PROD.CRM.EMAIL", 5, "is not DATABASE.SCHEMA.TABLE.COLUMN"),
        ("PROD.CRM.*.EMAIL", "PROD.CRM.CUST*.EMAIL", 5, "stands for one whole part"),
        ("PROD.CRM.*\"]", "PROD.CRM\"]", 9, "is not DATABASE.SCHEMA.TABLE"),
        ("kinds: [delete]", "kinds: [delte]", 11, "unknown kind `delte`. Did you mean `delete`?"),
        ("kinds: [delete]", "kinds: []", 11, "must not be empty"),
        ("!statement.has_where", "!statement.has_were", 12, "`statement.has_were`|Did you mean `has_where`?"),
        ("!statement.has_where", "!(statement.has_where", 12, "not a CEL expression"),
        ("!statement.has_where", "!stmt.has_where", 12, "unknown name"),
        ("then: require_approval", "then: require_aproval", 13, "Did you mean `require_approval`?"),
        ("then: require_approval", "", 10, "needs `then`"),
        ("quorum: 2", "quorum: 0", 14, "between 1 and 20"),
        ("quorum: 2", "quorum: true", 14, "whole number"),
        ("pending_for: 24h", "pending_for: 24 hours", 14, "30m, 24h, 7d"),
        ("pending_for: 24h", "pending_for: 0h", 14, "above 0"),
        ("approvers: [owners], ", "", 14, "needs `approvers`"),
        ("approvers: [owners]", "approvers: []", 14, "must not be empty"),
        ("name: ask", "name: read", 10, "two rules are named `read`"),
        ("version: 1", "version: 2", 1, "`version` must be 1"),
        ("then: allow", "then: allow, then: deny", 9, "given twice"),
        ("then: allow", "then: allow, approval: {approvers: [x]}", 9, "no meaning"),
        ("then: allow", "kinds: [insert], then: allow", 9, "say which tables with `writes`"),
        ("then: allow", 'writes: ["A.B.C"], then: allow', 9, "without `kinds` that write"),
        ("then: allow", "kinds: [other], then: allow", 9, "can only be denied"),
        ("vault_role: ml-reader, ", "", 3, "needs `vault_role`"),
        ("[ml], vault", "ml, vault", 3, "must be a list"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_line_and_nearest_word(
    wrong: str, right: str, line: int, says: str
) -> None:
    assert wrong in GOOD
    with pytest.raises(ConfigError) as caught:
        parse_policy(GOOD.replace(wrong, right, 1), "policies/p.yaml")
    assert caught.value.message.startswith(f"policies/p.yaml:{line}:")
    assert says.rsplit("|", 1)[-1] in caught.value.text


@pytest.mark.parametrize(
    "text", ["", "[]", "version: 1\nrules: {", "version: 1\n\trules: []", "just words"]
)
def test_what_is_no_policy_at_all_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"p\.yaml"):
        parse_policy(text, "p.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("version: 1\nrules: &r [*r]\n", "levels|alias|recursive"),
        ("version: 1\nrules: " + "[" * 5_000, "levels|deep|not YAML"),
        ("version: 1\ntags: {a: " + "[" * 30 + "]" * 30 + "}", "levels"),
        (
            "version: 1\na: &a [x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"{n}: &{n} [{','.join(['*' + m] * 9)}]\n" for m, n in zip("abcdefgh", "bcdefghi", strict=True)),
            "entries",
        ),
        ("version: 1\nrules: !!python/object/apply:os.system [x]\n", "p.yaml:2"),
        ("version: 1\nrules: [{name: 2026-13-99}]\n", "p.yaml:2"),
        ("version: 1\nrules: [{1: a, b: c}]\n", "p.yaml:2"),
        ("version: 1:1:1\n", "p.yaml:1.*colons"),
        ("version: " + "1:" * 3_000 + "1\n", "p.yaml:1.*colons"),
        ("version: 1" + ":1" * 3_000 + ".5\n", "p.yaml:1.*colons"),
        ("version: !!float '1:1'\n", "p.yaml:1.*colons"),
        ("version: 1\nrules: [{name: 1:30}]\n", "p.yaml:2.*colons"),
        ("version: " + "1" * 5_000 + "\n", "p.yaml:1.*40 characters"),
        ("version: 0x" + "f" * 5_000 + "\n", "p.yaml:1.*40 characters"),
        ("version: 1\nhash_function: " + "x" * 1_000_001, "p.yaml:2.*1,000,000 characters"),
        ("version: 1\nrules: [" + "{}," * 10_001 + "]\n", "p.yaml:2.*10,000 entries"),
        *[
            (f"version: 1\nrules: [{{name: !!{tag} {text}}}]\n", "p.yaml:2")
            for tag in ("int", "float", "bool", "timestamp", "binary")
            for text in ("''", "secret-word", "0x", "1e9999", "'é'")
            if (tag, text) not in {("float", "1e9999"), ("binary", "''")}
        ],
        ("version: 1\nrules: []\n---\nversion: 1\n", "p.yaml"),
        ("version: 1\nrules: \x00\n", "p.yaml"),
        ("version: 1\n" + "#" * 11_000_000, "characters"),
    ],
)  # fmt: skip
def test_hostile_yaml_is_a_config_error_that_names_the_file(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"p\.yaml") as caught:
        parse_policy(text, "p.yaml")
    assert re.search(says, caught.value.text)
    assert "secret-word" not in caught.value.text


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_policy(tmp_path / "none.yaml")


def demo_policy() -> str:
    return resources.files("hoop_core.devstack").joinpath("demo_policy.yaml").read_text()


@pytest.mark.parametrize("text", [GOOD, demo_policy()])
def test_the_json_schema_accepts_what_the_reader_accepts(text: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.validate(yaml.safe_load(text), json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text.replace("rules:", "ruels:")), json_schema())


def test_the_demo_policy_is_right_and_grants_nothing_of_hr() -> None:
    policy = parse_policy(demo_policy(), "demo_policy.yaml")
    patterns = [p for r in policy.rules for p in (*(r.reads or ()), *(r.writes or ()))]
    assert patterns
    assert all("HR" not in p.parts and p.parts[1] != "*" for p in patterns)
