"""Two databases that differ in protected values only, and what a statement shows and leaves in each.

With constant masks, a guarded statement must not tell them apart: not by its rows, their number, the
tables it writes, nor by whether and how it fails. The databases are the emulator's engine (DuckDB).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import duckdb

from hoop_core.devstack.emulator.engine import Engine, parse
from hoop_core.devstack.emulator.errors import SqlError
from hoop_core.judge import judge_text
from hoop_core.masking.masks import MaskName, TablePlan
from hoop_core.model import Identity, NameContext, RunContext, TableName, Verdict
from hoop_core.policy.engine import Case, decide
from hoop_core.policy.model import Policy
from hoop_core.sql.catalog import Catalog
from hoop_core.sql.statement import Analysis

NAMES = NameContext("DB", "PUBLIC")
AGENT = Identity("https://issuer", "s", "agent", ("agents",), "oidc", "d")

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that a caller can learn from one statement."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    error: str | None
    written: Mapping[str, tuple[Row, ...] | None]


@dataclass(slots=True)
class World:
    """One database. `filling` is run once; `reset` (DuckDB's SQL) before and after each change."""

    filling: Iterable[str]
    reset: Iterable[str]
    watched: tuple[str, ...]
    _engine: Engine = field(init=False, repr=False)
    _connection: Any = field(init=False, repr=False)
    _behind: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._engine = Engine()
        self._engine.create_database("DB")
        # one thread: what Snowflake leaves open (the order of ties) is then the same on each run
        with self._engine.cursor() as cursor:
            cursor.execute("SET GLOBAL threads = 1")
        self._connection = self._engine.connect()
        self._engine.use(self._connection, "DB", "PUBLIC")
        for sql in self.filling:
            self._run(sql)
        self._behind = self._engine.cursor()
        self._behind.execute("SET schema = 'DB.PUBLIC'")
        self._put_back()

    def close(self) -> None:
        self._behind.close()
        self._connection.close()

    def _run(self, sql: str) -> tuple[tuple[str, ...], tuple[Row, ...]]:
        data = self._engine.run(self._connection, parse(sql), ()).table.data
        columns = [c.to_pylist() for c in data.columns]
        return tuple(data.column_names), tuple(
            tuple(map(repr, row)) for row in zip(*columns, strict=True)
        )

    def show(self, sql: str, *, ordered: bool = False) -> Seen:
        """Run one statement, look at the tables it may have written, and put them back.

        Rows come in the order of their text unless `ordered`: without a total ORDER BY theirs means
        nothing.
        """
        error: str | None = None
        columns: tuple[str, ...] = ()
        rows: tuple[Row, ...] = ()
        try:
            columns, rows = self._run(sql)
        except SqlError as e:
            error = str(e)
        written: dict[str, tuple[Row, ...] | None] = {}
        if not sql.lstrip("( \n").upper().startswith(("SELECT", "WITH", "FROM")):
            written = {t: self._content(t) for t in self.watched}
            self._put_back()
        return Seen(columns, rows if ordered else tuple(sorted(rows)), error, written)

    def _content(self, table: str) -> tuple[Row, ...] | None:
        try:
            found = self._behind.execute(f"SELECT * FROM {table}")
        except duckdb.CatalogException:
            return None
        columns = tuple(d[0] for d in found.description)
        return (columns, *sorted(tuple(map(repr, row)) for row in found.fetchall()))

    def _put_back(self) -> None:
        for sql in self.reset:
            self._behind.execute(sql)


def ask(
    sql: str, policy: Policy, catalog: Catalog, *, mask: str | None = "constant", **more: Any
) -> Verdict:
    return judge_text(
        sql,
        NAMES,
        identity=more.pop("identity", AGENT),
        policy=policy,
        catalog=catalog,
        run=RunContext(),
        now=datetime(2026, 3, 2, tzinfo=UTC),
        mask_override=mask,
        **more,
    )


def plans_of(
    analysis: Analysis, policy: Policy, catalog: Catalog, *, mask: str | None = None
) -> dict[TableName, TablePlan]:
    """What the policy shows of the tables of an analysed statement."""
    now = datetime(2026, 3, 2, tzinfo=UTC)
    override = None if mask is None else MaskName(mask)
    case = Case(
        analysis.statement, analysis.ctes, AGENT, policy, catalog, RunContext(), now, override
    )
    return dict(decide(case).plans)


def told_apart(pair: tuple[World, World], sql: str, *, ordered: bool = False) -> bool:
    """Whether the statement shows or leaves anything different in the two databases."""
    one, other = (w.show(sql, ordered=ordered) for w in pair)
    return one != other
