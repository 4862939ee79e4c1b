"""A small world for the tests of the analysts: two tables, a policy, questions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import TypeVar

from hoop_core.analysts.question import Judged, Question
from hoop_core.model import Identity, NameContext, RunContext, TableName
from hoop_core.policy.file import parse_policy
from hoop_core.policy.model import Policy
from hoop_core.sql.catalog import Catalog

T = TypeVar("T")

CUSTOMERS, ORDERS = TableName("DB", "PUBLIC", "CUSTOMERS"), TableName("DB", "PUBLIC", "ORDERS")
CATALOG = Catalog.from_mapping(
    {
        CUSTOMERS: {"ID": "NUMBER(38,0)", "EMAIL": "VARCHAR", "SINCE": "DATE"},
        ORDERS: {"ID": "NUMBER(38,0)", "CUST_ID": "NUMBER(38,0)"},
    }
)
RULES = """
version: 1
masks:
  - {columns: ["DB.PUBLIC.CUSTOMERS.EMAIL"], mask: "null"}
rules:
  - {name: all-read, reads: ["DB.PUBLIC.*"], then: allow}
"""
POLICY = parse_policy(RULES, "test")
JOIN = "SELECT c.email, COUNT(*) FROM customers c JOIN orders o ON o.cust_id = c.id GROUP BY 1"
HEAVY = "SELECT " + ", ".join(f"COALESCE(id, {i}) + {i}" for i in range(1000)) + " FROM orders"
AT_MOST = 60.0  # only so that a broken test ends


def asked(sql: str, *, policy: Policy = POLICY, who: str = "ann", session: str = "s1") -> Question:
    return Question(
        sql=sql,
        names=NameContext("DB", "PUBLIC"),
        identity=Identity(
            "issuer", who, who, ("staff",), "oidc", "digest", claims={"region": "EU"}
        ),
        policy=policy,
        run=RunContext("airflow", {"dag_id": "d"}),
        now=datetime.now(UTC),
        session=session,
    )


async def known(_tables: Iterable[TableName]) -> Catalog:
    return CATALOG


def runs(work: Callable[[], Awaitable[T]]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(AT_MOST):
            return await work()

    return asyncio.run(bounded())


def code(judged: Judged) -> str:
    return judged.verdict.decision.reasons[0].code
