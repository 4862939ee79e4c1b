"""Several roles for one caller: the one asked for, else the only one, else the only default."""

from __future__ import annotations

import pytest

from hoop_core.errors import ConfigError, PolicyDenied
from hoop_core.model import Identity
from hoop_core.policy.file import parse_policy
from hoop_core.policy.model import Policy


def policy(*entries: str) -> Policy:
    lines = "\n".join(f"  - {{{e}}}" for e in entries)
    return parse_policy(f"version: 1\nroles:\n{lines}\n", "policy.yaml")


def entry(group: str, role: str, more: str = "") -> str:
    return f"groups: [{group}], vault_role: v-{role.lower()}, snowflake_role: {role}{more}"


def role_of(chosen: Policy, *groups: str, asked: str | None = None) -> str:
    identity = Identity("i", "s", "n", groups, "oidc", "")
    return chosen.role_for(identity, asked).snowflake_role


TWO = policy(entry("a", "RA"), entry("b", "RB", ", default: true"), entry("c", "RC", ", default: true"),
             entry("d", "RD", ", default: false"))  # fmt: skip


@pytest.mark.parametrize(
    ("groups", "asked", "role"),
    [
        (("a",), None, "RA"),
        (("a", "b"), None, "RB"),
        (("a", "d", "c"), None, "RC"),
        (("a", "b"), "ra", "RA"),
        (("b", "c"), "RC", "RC"),
    ],
)
def test_the_rule_that_chooses(groups: tuple[str, ...], asked: str | None, role: str) -> None:
    assert role_of(TWO, *groups, asked=asked) == role


@pytest.mark.parametrize("groups", [("a", "d"), ("b", "c"), ("a", "b", "c")])
def test_without_one_default_nobody_chooses_for_the_caller(groups: tuple[str, ...]) -> None:
    with pytest.raises(PolicyDenied) as caught:
        role_of(TWO, *groups)
    assert caught.value.reason == "ROLE_AMBIGUOUS"


def test_a_default_of_others_is_no_grant() -> None:
    with pytest.raises(PolicyDenied) as caught:
        role_of(TWO, "a", asked="RB")
    assert caught.value.reason == "ROLE_NOT_MAPPED"


def test_the_same_role_twice_is_one_role() -> None:
    same = policy(entry("a", "R"), entry("b", "R", ", default: true"), entry("c", "X"))
    assert role_of(same, "a", "b") == role_of(same, "a", "b", "c") == "R"


def test_a_default_of_another_account_does_not_count() -> None:
    here = policy(
        entry("a", "RA", ", default: true, accounts: [one]"), entry("a", "RB", ", default: true")
    )
    assert role_of(here.for_account("two"), "a") == "RB"
    with pytest.raises(PolicyDenied):
        role_of(here.for_account("one"), "a")


@pytest.mark.parametrize("word", ["'yes'", "1", "null"])
def test_default_is_true_or_false(word: str) -> None:
    with pytest.raises(ConfigError, match="true or false"):
        policy(entry("a", "RA", f", default: {word}"))
