"""Trying a condition out on made-up statements, so that what can never work is found when it is written.

CEL is checked by evaluation: the library has no type checker. Types of facts are fixed, so one clash of
types is a mistake; only what a claim or a field of `run` holds is not known beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

from hoop_core.model import Identity, NameContext, RunContext
from hoop_core.policy.conditions import Condition, ConditionError, facts_for
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


def check_types(condition: Condition) -> None:
    """Raises ConditionError when the condition gives no truth value, or can never be evaluated."""
    clashes: list[str] = []
    tried = 0
    for facts in _facts():
        tried += 1
        kind, value = condition.tried(facts)
        if kind == "value" and not isinstance(value, bool):
            raise ConditionError(f"it gives {type(value).__name__}, not true or false")
        if kind == "undefined":
            raise ConditionError(str(value))
        if kind == "types":
            clashes.append(str(value))
    if len(clashes) == tried:
        raise ConditionError("it compares or combines values of different types")


def may_clash(condition: Condition) -> bool:
    """Whether values of different types meet for some statements: those would be denied."""
    return any(condition.tried(facts)[0] == "types" for facts in _facts())


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
