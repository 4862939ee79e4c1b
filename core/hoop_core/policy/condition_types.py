"""Trying a condition out on made-up statements, so that what can never work is found when it is written.

CEL is checked by evaluation: the library has no type checker. Types of facts are fixed, so one clash of
types is a mistake; only what a claim or a field of `run` holds is not known beforehand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from hoop_core.model import Identity, Kind, NameContext, RunContext
from hoop_core.policy.condition_text import STRING, operands
from hoop_core.policy.conditions import Condition, ConditionError, compile_condition, facts_for
from hoop_core.policy.touched import touched
from hoop_core.sql.catalog import Catalog
from hoop_core.sql.lineage import any_column
from hoop_core.sql.statement import analyse

_SAMPLES = (
    "SELECT a, COUNT(*) FROM d.s.t WHERE a = 1 GROUP BY a LIMIT 5",
    "SELECT 1",
    "DELETE FROM d.s.t",
    "INSERT INTO d.s.t SELECT a FROM e.s.u",
    "CREATE TABLE d.s.t AS SELECT 1 AS a",
)
_WORDS = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list",
          dict: "several values", datetime: "a time", type(None): "nothing"}  # fmt: skip
_LITERAL = rf"({STRING.pattern}|-?\d+(?:\.\d+)?|true\b|false\b)"
_FIELD = r"\b(statement|identity|run)\s*\.\s*(\w+)\b(?!\s*[.\[(])"
_OPERATOR = r"\s*(==|!=|<=|>=|<|>)\s*"
_FIELD_FIRST = re.compile(rf"(?<![-+*/%.]){_FIELD}{_OPERATOR}{_LITERAL}(?!\s*[-+*/%.\w])")
_LITERAL_FIRST = re.compile(rf"(?<![-+*/%.\w]){_LITERAL}{_OPERATOR}{_FIELD}(?!\s*[-+*/%])")
_KIND_IN = re.compile(r"\bstatement\s*\.\s*kind\s+in\s*\[([^\]]*)\]")


def check_types(condition: Condition) -> None:
    """Raises ConditionError when the condition gives no truth value, or compares what has no order."""
    for facts in _facts():
        kind, value = condition.tried(facts)
        if kind == "undefined":
            raise ConditionError(str(value))
    _check_literals(condition.source)
    for part, truth in operands(condition.source):
        _check_part(part, truth=truth)


def described(value: Any) -> str:
    """What a value is, in the words of a policy's author."""
    return _WORDS.get(type(value), "another value")


def _check_part(source: str, *, truth: bool) -> None:
    """One operand alone, on every sample: nothing beside it can hide that it does not work."""
    part = compile_condition(source)
    for facts in _facts():
        kind, value = part.tried(facts)
        if kind == "undefined":
            raise ConditionError(str(value))
        if kind == "types":
            raise ConditionError(
                f"`{source}` compares or combines values of different types; compare texts with texts and "
                "numbers with numbers"
            )
        if kind == "value" and truth and not isinstance(value, bool):
            raise ConditionError(f"`{source}` gives {described(value)}, not true or false")


def _check_literals(source: str) -> None:
    """`==` between different types is simply false in CEL; where a literal stands, it is a mistake."""
    for found in _FIELD_FIRST.finditer(source):
        _check_comparison(found[1], found[2], found[4])
    for found in _LITERAL_FIRST.finditer(source):
        _check_comparison(found[3], found[4], found[1])
    for listed in _KIND_IN.finditer(source):
        for text in STRING.findall(listed[1]):
            _check_kind(text[1:-1])


def _check_comparison(holder: str, name: str, literal: str) -> None:
    facts: Mapping[str, Any] = _facts()[0][holder]
    if name not in facts:
        return
    value = facts[name]
    if literal[0] in "'\"":
        given: type = str
    else:
        given = bool if literal in {"true", "false"} else int
    if type(value) is not given:
        raise ConditionError(
            f"`{holder}.{name}` is {described(value)}, and {literal} is {_WORDS[given]}"
        )
    if (holder, name) == ("statement", "kind"):
        _check_kind(literal[1:-1])


def _check_kind(word: str) -> None:
    valid = tuple(k.value for k in Kind)
    if word not in valid:
        raise ConditionError(
            f"there is no kind `{word}`", word, valid, what="kind of statement in `when`:"
        )


@cache
def _facts() -> tuple[dict[str, Any], ...]:
    return tuple(_made_up())


def _made_up() -> Iterator[dict[str, Any]]:
    identity = Identity("https://issuer.example", "subject", "name", ("group",), "oidc", "")
    run = RunContext("airflow", {"dag_id": "dag", "run_id": "run", "task_id": "task"})
    for sql in _SAMPLES:
        statement = analyse(sql, NameContext("D", "S")).statement
        sizes = touched(statement, any_column(statement), {}, Catalog())
        facts = facts_for(statement, identity, run, datetime(2026, 1, 1, tzinfo=UTC), sizes)
        yield facts
        for truth in (True, False):
            yield {holder: _with_truth(held, truth) for holder, held in facts.items()}


def _with_truth(held: Any, truth: bool) -> Any:
    """The same facts, all flags set one way: `&&` and `||` then reach their other side."""
    if not isinstance(held, dict):
        return held
    return {k: truth if isinstance(v, bool) else v for k, v in held.items()}
