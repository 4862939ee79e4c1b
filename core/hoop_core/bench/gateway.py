"""What the whole way through Hoop costs, beside the direct way, on the same emulator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import snowflake.connector

from hoop_core.audit.checkpoint import load_or_create_key
from hoop_core.audit.log import AuditLog
from hoop_core.bench.figures import Spread, timed
from hoop_core.devstack.stack import StackInfo
from hoop_core.model import Json
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


def statements(info: StackInfo, runs: int) -> list[Json]:
    """Each statement directly and through Hoop in turn; milliseconds."""
    found = []
    with _both(info) as pair:
        for name, sql in _STATEMENTS.items():
            times: tuple[list[float], list[float]] = ([], [])
            count = max(5, runs // 10) if "rows" in name else runs
            for n in range(count + 2):
                for kept, connection in zip(times, pair, strict=True):
                    took = timed(partial(_fetch, connection, sql))
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
                    "direct_p99_ms": direct.p99,
                    "hoop_p99_ms": guarded.p99,
                    "ratio_p50": round(guarded.p50 / direct.p50, 2),
                }
            )
    return found


def appends(folder: Path, entries: int) -> Json:
    """Durable log entries of one writer, each on the disk before the next."""
    store = Store(f"sqlite:///{folder / 'bench.db'}")
    store.migrate()
    log = AuditLog(store, load_or_create_key(folder / "bench.key", "bench/log"))
    took = timed(lambda: [log.append("bench", {"n": n}) for n in range(entries)])
    store.close()
    return {"entries": entries, "per_second": round(entries / took)}


@contextmanager
def _both(info: StackInfo) -> Iterator[tuple[Any, Any]]:
    direct = snowflake.connector.connect(**_options(info, through_hoop=False))
    guarded = snowflake.connector.connect(**_options(info, through_hoop=True))
    try:
        yield direct, guarded
    finally:
        direct.close()
        guarded.close()


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


def _fetch(connection: Any, sql: str) -> None:
    connection.cursor().execute(sql).fetchall()
