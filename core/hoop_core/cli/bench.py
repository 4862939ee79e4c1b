"""`hoop bench`: what Hoop costs, measured side by side with the direct way in one run.

Figures of one machine at one moment: quote the ratios.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import snowflake.connector
import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from hoop_core import judge
from hoop_core.audit.checkpoint import load_or_create_key
from hoop_core.audit.log import AuditLog
from hoop_core.cli.output import AsJson, emit, failing
from hoop_core.devstack.stack import DevStack, StackInfo
from hoop_core.model import Identity, Json, NameContext, RunContext, TableName
from hoop_core.policy.file import parse_policy
from hoop_core.sql.catalog import Catalog
from hoop_core.store import Store

_STATEMENTS = {
    "constant": "SELECT 1",
    "one row, masked": "SELECT EMAIL, SSN FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID = 7",
    "join and aggregate": (
        "SELECT c.REGION, COUNT(*), SUM(o.AMOUNT) FROM PROD.CRM.CUSTOMERS c "
        "JOIN PROD.CRM.ORDERS o ON o.CUSTOMER_ID = c.CUSTOMER_ID "
        "WHERE c.EMAIL IS NOT NULL GROUP BY c.REGION"
    ),
    "50,000 rows": "SELECT * FROM PROD.CRM.CUSTOMERS",
}
_COLUMNS = {
    "PROD.CRM.CUSTOMERS": {
        "CUSTOMER_ID": "NUMBER(38,0)", "FULL_NAME": "VARCHAR", "EMAIL": "VARCHAR",
        "SSN": "VARCHAR", "CARD_NUMBER": "VARCHAR", "REGION": "VARCHAR", "SEGMENT": "VARCHAR",
        "SIGNED_UP": "DATE", "MRR": "NUMBER(12,2)",
    },
    "PROD.CRM.ORDERS": {
        "ORDER_ID": "NUMBER(38,0)", "CUSTOMER_ID": "NUMBER(38,0)",
        "ORDERED_AT": "TIMESTAMP_NTZ(9)", "AMOUNT": "NUMBER(12,2)", "STATUS": "VARCHAR",
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spread:
    """Milliseconds of many runs."""

    p50: float
    p95: float

    @classmethod
    def of(cls, seconds: list[float]) -> Spread:
        cuts = statistics.quantiles(seconds, n=20, method="inclusive")
        return cls(round(cuts[9] * 1e3, 2), round(cuts[18] * 1e3, 2))


def _timed(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _options(info: StackInfo, *, through_hoop: bool) -> dict[str, Any]:
    common: dict[str, Any] = {"protocol": "http", "account": info.snowflake_account}
    if through_hoop:
        return common | {
            "host": info.gateway_host, "port": info.gateway_port, "user": "agent",
            "authenticator": "oauth", "token": info.token_agent,
        }  # fmt: skip
    return common | {
        "host": info.snowflake_host, "port": info.snowflake_port,
        "user": info.admin_user, "password": info.admin_password,
    }  # fmt: skip


@contextmanager
def _both(info: StackInfo) -> Iterator[tuple[Any, Any]]:
    direct = snowflake.connector.connect(**_options(info, through_hoop=False))
    guarded = snowflake.connector.connect(**_options(info, through_hoop=True))
    try:
        yield direct, guarded
    finally:
        direct.close()
        guarded.close()


def _fetch(connection: Any, sql: str) -> None:
    connection.cursor().execute(sql).fetchall()


def _statements(info: StackInfo, runs: int) -> list[Json]:
    """Each statement directly and through Hoop in turn, on the same emulator."""
    found = []
    with _both(info) as pair:
        for name, sql in _STATEMENTS.items():
            times: tuple[list[float], list[float]] = ([], [])
            count = max(5, runs // 10) if "rows" in name else runs
            for n in range(count + 2):
                for kept, connection in zip(times, pair, strict=True):
                    took = _timed(partial(_fetch, connection, sql))
                    if n >= 2:  # the first ones open connections and fill caches
                        kept.append(took)
            direct, guarded = Spread.of(times[0]), Spread.of(times[1])
            found.append(
                {
                    "statement": name,
                    "direct_p50_ms": direct.p50,
                    "hoop_p50_ms": guarded.p50,
                    "direct_p95_ms": direct.p95,
                    "hoop_p95_ms": guarded.p95,
                    "ratio_p50": round(guarded.p50 / direct.p50, 2),
                }
            )
    return found


def _decisions(runs: int) -> list[Json]:
    """Understanding, deciding, rewriting and verifying, without any network."""
    text = resources.files("hoop_core.devstack").joinpath("demo_policy.yaml").read_text()
    policy = parse_policy(text, "demo_policy.yaml")
    catalog = Catalog.from_mapping(
        {TableName(*name.split(".")): columns for name, columns in _COLUMNS.items()}
    )
    agent = Identity("https://idp", "agent", "agent", ("ml-agents",), "oidc", "")
    found = []
    for name, sql in _STATEMENTS.items():

        def decide(name: str = name, sql: str = sql) -> None:
            verdict = judge.judge_text(
                sql, NameContext("PROD", "CRM"), identity=agent, policy=policy,
                catalog=catalog, run=RunContext(), now=datetime.now(UTC),
            )  # fmt: skip
            if verdict.rewritten is None:
                raise AssertionError(f"{name} is denied: {verdict.decision.reasons}")

        decide()
        spread = Spread.of([_timed(decide) for _ in range(runs)])
        found.append({"statement": name, "p50_ms": spread.p50, "p95_ms": spread.p95})
    return found


def _appends(folder: Path, entries: int) -> Json:
    """Durable log entries of one writer, each on the disk before the next."""
    store = Store(f"sqlite:///{folder / 'bench.db'}")
    store.migrate()
    log = AuditLog(store, load_or_create_key(folder / "bench.key", "bench/log"))
    took = _timed(lambda: [log.append("bench", {"n": n}) for n in range(entries)])
    store.close()
    return {"entries": entries, "per_second": round(entries / took)}


def bench(
    runs: Annotated[int, typer.Option("--runs", min=10, help="Runs of each statement.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Measure what Hoop adds, on the embedded stack."""
    progress = Console(stderr=True, quiet=as_json)
    with failing(as_json), tempfile.TemporaryDirectory(prefix="hoop-bench-") as folder:
        with progress.status("deciding statements"):
            decisions = _decisions(runs)
        with progress.status("appending to the log"):
            appends = _appends(Path(folder), runs * 10)
        with (
            progress.status("starting the embedded stack") as status,
            DevStack(Path(folder) / "stack") as stack,
        ):
            status.update("running statements, directly and through Hoop")
            statements = _statements(stack.info, runs)
    result = {"statements": statements, "decisions": decisions, "log": appends}
    tables = (_table("Directly and through Hoop (ms)", statements),
              _table("Decide, rewrite and verify, uncached (ms)", decisions))  # fmt: skip
    line = Text(f"Log: {appends['per_second']:,} durable entries a second, one writer")
    emit(as_json, result, Group(*tables, line))


def _table(title: str, rows: list[Json]) -> Table:
    table = Table(*(k.replace("_", " ") for k in rows[0]), title=title)
    for row in rows:
        table.add_row(*map(str, row.values()))
    return table
