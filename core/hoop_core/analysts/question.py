"""What is asked of an analyst, and what comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from hoop_core.model import Identity, Kind, NameContext, RunContext, TableName, Verdict
from hoop_core.policy.model import Policy
from hoop_core.sql.catalog import Catalog, CatalogObject
from hoop_core.sql.limits import DEFAULT, Limits

_MAKES = {Kind.CREATE_TABLE, Kind.CREATE_TABLE_AS}
Snapshot = Callable[[tuple[TableName, ...]], Awaitable[Catalog]]
Objects = Mapping[TableName, CatalogObject | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The arguments of `judge.judging`; `session` is only for taking turns."""

    sql: str
    names: NameContext
    identity: Identity
    policy: Policy
    run: RunContext
    now: datetime
    exceptions: frozenset[tuple[TableName, str]] = frozenset()
    mask_override: str | None = None
    limits: Limits = DEFAULT
    session: str = ""

    def arguments(self) -> dict[str, Any]:
        """What a worker calls `judging` with, save for the policy, which it reads from its text."""
        return {
            "sql": self.sql,
            "names": self.names,
            "identity": replace(
                self.identity, token_digest="", claims=dict(self.identity.claims)
            ),  # a worker has no use for what is not in this list
            "run": RunContext(self.run.orchestrator, dict(self.run.fields)),
            "now": self.now,
            "exceptions": self.exceptions,
            "mask_override": self.mask_override,
            "limits": self.limits,
        }


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict, and what it rests on in the catalog."""

    verdict: Verdict
    objects: Objects
    """Every object that the analysis had to know, those inside views included, and what there was of it."""
    catalog_digest: str
    """SHA-256 (hex) of what there was of them."""
    found_digest: str
    """The same without the tables that the statement makes itself: those are there from its first run on."""
    made_there: bool = False
    """Whether a table that it makes is there already, and would be replaced."""

    @property
    def wanted(self) -> tuple[TableName, ...]:
        return tuple(self.objects)


def judged(verdict: Verdict, objects: Objects) -> Judged:
    wanted = tuple(objects)
    catalog = Catalog.of({t: o for t, o in objects.items() if o is not None})
    statement = verdict.statement
    made = statement.writes if statement and statement.kind in _MAKES else ()
    found = tuple(t for t in wanted if t not in made)
    there = any(objects.get(t) is not None for t in made)
    return Judged(verdict, objects, catalog.digest(wanted), catalog.digest(found), there)
