"""What judging has to know of the catalog: nothing of what no rule could grant."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from hoop_core.analysts.question import Judged, Question, Snapshot
from hoop_core.errors import Cancelled
from hoop_core.guard import Guard
from hoop_core.judge import judge_text, judging
from hoop_core.model import Identity, NameContext, RoleBinding, RunContext, TableName, Verdict
from hoop_core.policy.file import parse_policy
from hoop_core.session.guarded import GuardedSession, QueryRequest
from hoop_core.sql.catalog import Catalog, CatalogObject
from hoop_core.sql.live_catalog import LiveCatalog

POLICY = parse_policy(
    """
version: 1
roles:
  - {groups: [agents], vault_role: v, snowflake_role: R}
rules:
  - {name: agents-read, groups: [agents], reads: ["D.S.*"], then: allow}
  - {name: late, groups: [agents], reads: ["D.NIGHT.T"], when: "run.dag_id == 'x'", then: allow}
  - {name: agents-add, groups: [agents], kinds: [insert], writes: ["D.OUT.T"], then: allow}
  - {name: others, groups: [owners], reads: ["*.*.*"], then: allow}
""",
    "p.yaml",
)
NAMES = NameContext("D", "S")
AGENT = Identity("i", "a", "a", ("agents",), "oidc", "")


def wanted(sql: str, known: Catalog) -> tuple[list[str], Verdict]:
    conversation = judging(
        sql, NAMES, identity=AGENT, policy=POLICY, run=RunContext(), now=datetime.now(UTC)
    )
    asked: list[str] = []
    try:
        tables = next(conversation)
        while True:
            asked += map(str, tables)
            tables = conversation.send(known)
    except StopIteration as done:
        return asked, done.value


@pytest.mark.parametrize(
    ("sql", "asks"),
    [
        ("SELECT * FROM a, b", ["D.S.A", "D.S.B"]),
        ("SELECT * FROM a, other.b", ["D.S.A"]),
        ("SELECT * FROM " + ", ".join(f"other.n{i}" for i in range(50)), []),
        ("SELECT * FROM night.t", ["D.NIGHT.T"]),  # a condition may hold
        ("INSERT INTO out.t SELECT * FROM a", ["D.OUT.T", "D.S.A"]),
        ("INSERT INTO out.u SELECT * FROM a", ["D.S.A"]),
        ("DELETE FROM out.t", []),  # another kind
        ("INSERT INTO out.t SELECT * FROM out.t", []),  # written by a rule, read by none
        ("DESCRIBE TABLE other.t", []),
    ],
)
def test_only_what_could_be_granted_is_asked_for(sql: str, asks: list[str]) -> None:
    asked, verdict = wanted(sql, Catalog())
    assert sorted(asked) == asks
    assert verdict.rewritten is None


def test_the_denial_names_every_table_that_nothing_grants_whether_it_is_there_or_not() -> None:
    sql = "SELECT * FROM a, other.v, other.w"
    a, v = TableName("D", "S", "A"), TableName("D", "OTHER", "V")
    columns = {"A": "NUMBER"}
    view = CatalogObject(columns, "CREATE VIEW V AS SELECT A FROM D.SECRET.T")
    verdicts = [
        wanted(sql, known)[1]
        for known in (Catalog(), Catalog.of({a: CatalogObject(columns)}))
    ] + [
        judge_text(
            sql, NAMES, identity=AGENT, policy=POLICY, run=RunContext(), now=datetime.now(UTC),
            catalog=Catalog.of({a: CatalogObject(columns), v: view}),
        )
    ]  # fmt: skip
    for verdict in verdicts:
        reasons = verdict.decision.reasons
        assert [r.code for r in reasons] == ["NOT_GRANTED"] * 2
        assert "D.OTHER.V" in reasons[0].message and "D.OTHER.W" in reasons[1].message
    assert len({v.decision for v in verdicts}) == 1


def test_a_statement_that_is_taken_back_is_not_looked_up_any_further() -> None:
    """Its names leave the queue, and it ends as cancelled."""

    class Judging:
        async def judge(self, _question: Question, snapshot: Snapshot) -> Judged:
            await snapshot(tuple(TableName("D", "S", f"N{i}") for i in range(200)))
            raise AssertionError("it was taken back")

    asked: list[TableName] = []

    async def never(table: TableName) -> CatalogObject | None:
        asked.append(table)
        await asyncio.Event().wait()
        return None

    async def story() -> None:
        none: Any = SimpleNamespace()
        judging_: Any = Judging()
        guard = Guard(POLICY, LiveCatalog(never), none, none, none, none, judging_)
        session = GuardedSession(
            id="s", identity=AGENT, role=RoleBinding("v", "R"), names=NAMES, run=RunContext(),
            client={}, parameters={}, opened_at=datetime.now(UTC), open_upstream=none,
        )  # fmt: skip
        request = QueryRequest(statement_id="1", sql="SELECT 1", bindings=None, parameters={})
        deciding = asyncio.create_task(guard._decide(session, request))
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(asked) == 2
        request.abandoned.set()
        with pytest.raises(Cancelled, match="looked up"):
            await deciding
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(asked) == 2 and guard.catalog._turns.queued == 0

    asyncio.run(story())
