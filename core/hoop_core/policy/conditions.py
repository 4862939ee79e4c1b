"""`when` conditions: CEL (https://github.com/google/cel-spec) over statement, identity, run and now."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import cel

from hoop_core.model import Identity, RunContext, Statement
from hoop_core.policy.condition_text import STRING, syntax_error
from hoop_core.sql.statement import FACT_NAMES

TOUCHED = ("columns", "tags", "estimated_rows", "estimated_bytes")
"""Fields of `statement` that cost a walk over it: only conditions that write their names see them."""

FIELDS: Mapping[str, tuple[str, ...]] = {
    "statement": (
        *("kind", "reads", "writes", "functions", "database", "schema"),
        *FACT_NAMES,
        *TOUCHED,
    ),
    "identity": ("subject", "name", "groups", "issuer", "method", "claims", "actors"),
    "run": (
        "orchestrator",
        "dag_id",
        "run_id",
        "task_id",
        "map_index",
        "try_number",
        "job_name",
        "step_key",
        "asset_key",
        "partition_key",
        "purpose",
    ),
    "now": (),
}

_TAG = re.compile(r"""(['"])([^'"\\]*)\1\s+in\s+statement\s*\.\s*tags\b""")
_CLAIM = re.compile(r"""\bidentity\s*\.\s*claims\s*(?:\.\s*(\w+)|\[\s*['"]([^'"\\]*)['"]\s*\])""")
_FUNCTION = re.compile(r"Function '(\w+)' error")
_SELECTION = re.compile(r"\b(statement|identity|run)\s*\.\s*([A-Za-z_][A-Za-z0-9_]*)")


class ConditionError(Exception):
    """A condition that is wrong (when compiled) or that cannot be evaluated (when used)."""

    def __init__(
        self,
        message: str,
        wrong: str = "",
        valid: tuple[str, ...] = (),
        *,
        what: str = "name in `when`:",
        hint: str = "",
    ) -> None:
        self.wrong, self.valid, self.what, self.hint = wrong, valid, what, hint
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled condition; `source` is its identity."""

    source: str
    _program: cel.Program = field(repr=False, compare=False)
    uses: frozenset[str] = field(default=frozenset(FIELDS), compare=False)
    """Which of `statement`, `identity`, `run` and `now` it may look at; never too few."""
    tags: tuple[str, ...] = field(default=(), compare=False)
    """The tags that it looks for with `'...' in statement.tags`."""

    @property
    def touches(self) -> bool:
        """Whether it may look at one of the TOUCHED fields."""
        return any(name in self.source for name in TOUCHED)

    def holds(self, facts: Mapping[str, Any]) -> bool:
        """Raises ConditionError when it cannot be evaluated or does not give true or false."""
        try:
            value = self._program.execute(dict(facts))
        except Exception as e:  # the library raises ValueError, KeyError, TypeError, RuntimeError
            raise ConditionError(_why(e, self.source)) from None
        if not isinstance(value, bool):
            raise ConditionError("it does not give true or false")
        return value

    def tried(self, facts: Mapping[str, Any]) -> tuple[str, Any]:
        """What comes of it: ("value", v), ("types", text), ("undefined", text) or ("data", text)."""
        try:
            return "value", self._program.execute(dict(facts))
        except TypeError as e:
            return "types", str(e)
        except Exception as e:  # as above
            text = str(e)
            if text.startswith("Undefined"):
                return "undefined", text.split(". ", maxsplit=1)[0]
            return "data", text


def compile_condition(source: str) -> Condition:
    """Compile and check names. Raises ConditionError."""
    try:
        program = cel.compile(source)
        variables = program.variables()
    except Exception as e:
        message, hint = syntax_error(source, str(e))
        raise ConditionError(message, hint=hint) from None
    bound = set(
        re.findall(r"\.\s*(?:all|exists|exists_one|map|filter)\(\s*([A-Za-z_]\w*)\s*,", source)
    )
    for name in variables:
        if name not in FIELDS and name not in bound:
            raise ConditionError(f"unknown name `{name}`", name, tuple(FIELDS))
    for holder, name in _SELECTION.findall(STRING.sub("''", source)):
        if name not in FIELDS[holder]:
            raise ConditionError(f"`{holder}` has no field `{name}`", name, FIELDS[holder])
    words = {*variables, *re.findall(r"[A-Za-z_]\w*", STRING.sub("''", source))}
    tags = tuple(name for _, name in _TAG.findall(source))
    return Condition(source, program, uses=frozenset(words & FIELDS.keys()), tags=tags)


def _why(error: Exception, source: str) -> str:
    """What is missing or does not fit, without the values of the statement or of the caller."""
    if isinstance(error, KeyError):
        name = str(error.args[0]).strip("'\"") if error.args else ""
        claims = {first or second for first, second in _CLAIM.findall(source)}
        if name in claims:
            return f"the caller has no claim `{name}`; a condition may ask has(identity.claims.{name}) first"
        return "it looks for a key that is not there"
    if isinstance(error, TypeError):
        return "values of different types meet"
    if isinstance(error, IndexError):
        return "it looks beyond the end of a list"
    if isinstance(error, ZeroDivisionError):
        return "it divides by zero"
    function = _FUNCTION.match(str(error))
    return (
        f"{function[1]}() cannot take its value" if function else "a function cannot take its value"
    )


def facts_for(
    statement: Statement,
    identity: Identity,
    run: RunContext,
    now: datetime,
    touched: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What conditions see. Fields of `run` that the caller did not give are empty strings; the TOUCHED
    fields are there when they are given.
    """
    return {
        "statement": {
            "kind": statement.kind.value,
            "reads": [str(t) for t in statement.reads],
            "writes": [str(t) for t in statement.writes],
            "functions": list(statement.functions),
            "database": statement.names.database or "",
            "schema": statement.names.schema or "",
            **statement.facts,
            **(touched or {}),
        },
        "identity": {
            "subject": identity.subject,
            "name": identity.name,
            "groups": list(identity.groups),
            "issuer": identity.issuer,
            "method": identity.method,
            "actors": list(identity.actors),
            "claims": {k: v if isinstance(v, str) else list(v) for k, v in identity.claims.items()},
        },
        "run": {name: run.fields.get(name, "") for name in FIELDS["run"]}
        | {"orchestrator": run.orchestrator},
        "now": now,
    }
