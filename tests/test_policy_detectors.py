"""The policy's `detectors`: how they are read, and what they make of one caller's results."""

from __future__ import annotations

import jsonschema
import pytest
import yaml

from hoop_core.errors import ConfigError
from hoop_core.model import Detector, Identity
from hoop_core.policy.file import parse_policy
from hoop_core.policy.schema import json_schema

GOOD = """\
version: 1
detectors:
  - {detect: [email, phone], action: report}
  - {detect: [email, card], action: mask, except_groups: [pii]}
  - {detect: [token], action: block}
"""


def who(*groups: str) -> Identity:
    return Identity("i", "s", "n", groups, "oidc", "")


def test_the_strictest_binding_action_counts() -> None:
    screen = parse_policy(GOOD, "p").screen_for(who("ml"))
    assert screen.masks == {Detector.EMAIL, Detector.CARD}
    assert screen.blocks == {Detector.TOKEN} and screen.reports == {Detector.PHONE}
    assert screen.binds and not screen.freed


def test_an_exception_leaves_the_kind_looked_for() -> None:
    screen = parse_policy(GOOD, "p").screen_for(who("pii"))
    assert screen.masks == set() and screen.reports == {Detector.EMAIL, Detector.PHONE}
    assert screen.freed == {Detector.EMAIL, Detector.CARD} <= screen.every


def test_without_the_key_nothing_is_looked_for() -> None:
    assert not parse_policy("version: 1", "p").screen_for(who()).every


def test_the_digest_follows_the_detectors() -> None:
    assert parse_policy(GOOD, "p").digest != parse_policy(GOOD.replace("block", "mask"), "p").digest


@pytest.mark.parametrize(
    ("wrong", "right", "line", "says"),
    [
        ("detectors:", "detectrs:", 2, "Did you mean `detectors`?"),
        ("email, phone", "emial, phone", 3, "unknown detector `emial`. Did you mean `email`?"),
        ("action: block", "action: blok", 5, "unknown action `blok`. Did you mean `block`?"),
        ("except_groups", "except_group", 4, "Did you mean `except_groups`?"),
        ("detect: [token]", "detect: []", 5, "must not be empty"),
        ("detect: [token], ", "", 5, "a detector needs `detect`"),
        (", action: block", "", 5, "a detector needs `action`"),
    ],
)
def test_a_mistake_is_named_with_its_line(wrong: str, right: str, line: int, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_policy(GOOD.replace(wrong, right), "p.yaml")
    assert f"p.yaml:{line}:" in raised.value.text and says in raised.value.text


def test_the_schema_knows_detectors() -> None:
    jsonschema.validate(yaml.safe_load(GOOD), json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(GOOD.replace("email", "emial")), json_schema())
