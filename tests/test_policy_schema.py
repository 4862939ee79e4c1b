"""The JSON Schema and the reader know the same keys, everywhere in the file."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest
import yaml

from hoop_core.errors import ConfigError
from hoop_core.masking.masks import MaskName
from hoop_core.policy.file import parse_policy
from hoop_core.policy.schema import json_schema


# a document with an unknown key at each place where the schema is closed
def _rule(terms: str) -> str:
    return f"rules: [{{name: n, then: require_approval, approval: {{approvers: [a], {terms}}}}}]"


PROBES = {
    "": "zzzz: 1",
    "roles": "roles: [{zzzz: 1}]",
    "masks": "masks: [{zzzz: 1}]",
    "masks.exceptions": (
        'masks: [{mask: "null", columns: [A.B.C.D], exceptions: {zzzz: 1, approvers: [a]}}]'
    ),
    "row_filters": "row_filters: [{zzzz: 1}]",
    "detectors": "detectors: [{zzzz: 1}]",
    "recordings": "recordings: [{zzzz: 1}]",
    "retention": "retention: [{zzzz: 1}]",
    "rules": "rules: [{zzzz: 1}]",
    "rules.approval": "rules: [{name: n, then: require_approval, approval: {zzzz: 1}}]",
    "rules.approval.windows": _rule("windows: [{zzzz: 1}]"),
    "rules.approval.break_glass": _rule("break_glass: {zzzz: 1}"),
    "rules.approval.standing": _rule("standing: {zzzz: 1}"),
    "cases": "cases: [{zzzz: 1}]",
    "cases.run": "cases: [{name: n, sql: s, expect: deny, run: {zzzz: 1}}]",
}


def closed(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the schema that has a fixed set of keys, with the path to it."""
    if schema.get("additionalProperties") is False:
        yield path, schema["properties"]
        for name, inner in schema["properties"].items():
            yield from closed(inner, f"{path}.{name}".lstrip("."))
    for inner in (schema.get("items"), *schema.get("oneOf", ())):
        if isinstance(inner, dict):
            yield from closed(inner, path)


def schema_keys() -> dict[str, set[str]]:
    keys: dict[str, set[str]] = {}
    for path, properties in closed(json_schema()):
        keys.setdefault(path, set()).update(properties)
    return keys


def valid_words(document: str) -> set[str]:
    """The keys that the reader names when it meets one that it does not know."""
    with pytest.raises(ConfigError, match=r"unknown key of .*`zzzz`") as caught:
        parse_policy(f"version: 1\n{document}\n", "p.yaml")
    return set(caught.value.hint.removeprefix("Valid: ").removesuffix(".").split(", "))


def test_every_closed_object_of_the_schema_is_probed() -> None:
    assert set(PROBES) == set(schema_keys())


@pytest.mark.parametrize("path", PROBES)
def test_schema_and_reader_know_the_same_keys(path: str) -> None:
    assert valid_words(PROBES[path]) == schema_keys()[path]


@pytest.mark.parametrize("name", list(MaskName))
def test_schema_and_reader_know_the_same_options_of_each_mask(name: MaskName) -> None:
    options = {frozenset(p) for path, p in closed(json_schema()) if path == "masks"
               and p["mask"]["const"] == name.value}  # fmt: skip
    known = next(iter(options))
    assert len(options) == 1
    for foreign in schema_keys()["masks"] - known:
        with pytest.raises(ConfigError, match=f"unknown key of a mask `{name}` `{foreign}`") as e:
            parse_policy(
                f'version: 1\nmasks: [{{mask: "{name}", columns: [A.B.C.D], {foreign}: 1}}]',
                "p.yaml",
            )
        assert set(e.value.hint.removeprefix("Valid: ").removesuffix(".").split(", ")) == known


FULL = """\
version: 1
catalog: c.yaml
row_filters:
  - {table: "A.B.*", where: "R IN ({claims.regions}) OR O = {identity.subject}", groups: [a], except_groups: [b]}
rules:
  - {name: r, reads: ["A.B.*"], then: allow}
  - {name: a, then: require_approval, approval: {approvers: [b], quorum: 2, pending_for: 1h, valid_for: 1h,
     windows: [{days: [mon], from: "22:00", to: "06:00", timezone: UTC}, {from: "00:00", to: "00:00", timezone: UTC}],
     break_glass: {groups: [c], valid_for: 5m}, standing: {longest: 30d, rows_at_most: 0}}}
cases:
  - {name: c, sql: SELECT 1, groups: [], subject: s, claims: {regions: [EU, US], one: x}, database: A, schema: B,
     run: {orchestrator: airflow, dag_id: d}, at: "2026-03-02T10:00:00Z", expect: allow, reason: GRANTED,
     masked: [], filtered: [A.B.C], rewritten_contains: [x]}
"""


@pytest.mark.parametrize(
    "text", [FULL, resources.files("hoop_core.devstack").joinpath("demo_policy.yaml").read_text()]
)
def test_what_the_reader_accepts_the_schema_accepts(text: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    parse_policy(text, "p.yaml")
    jsonschema.validate(yaml.safe_load(text), json_schema())
