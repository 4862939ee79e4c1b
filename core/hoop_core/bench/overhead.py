"""What the whole way through Hoop adds to a statement, beside the direct way, on the same emulator.

Masking makes a text longer, and Snowflake itself slower with it. That is the price of the mask, not of the gateway:
so the text that Hoop ran is run directly too, and what is added is counted from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hoop_core.audit.checkpoint import load_or_create_key
from hoop_core.audit.log import AuditLog
from hoop_core.bench.both_ways import direct, executed, guarded
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
_WAYS = {
    "direct": "directly",
    "rewritten": "directly, as rewritten",
    "hoop": "through Hoop",
    "added": "added",
}
_WARM = 2
"""Runs that open connections and fill caches."""


def statements(info: StackInfo, runs: int, say: Callable[[str], None]) -> list[Json]:
    """Each statement in the three ways in turn; milliseconds. `added` is Hoop's beyond the rewritten text's."""
    found = []
    with direct(info) as straight, guarded(info) as through:
        for name, sql in _STATEMENTS.items():
            count = max(5, runs // 10) if "rows" in name else runs
            cursor = through.cursor()
            cursor.execute(sql)
            ways = {
                "direct": (straight, sql),
                "rewritten": (straight, executed(straight, cursor.sfqid)),
                "hoop": (through, sql),
            }
            times: dict[str, list[float]] = {way: [] for way in ways}
            for n in range(count + _WARM):
                if n % 10 == 0:
                    say(f"{name}: run {n} of {count}")
                for way, (connection, text) in ways.items():
                    took = timed(partial(_fetch, connection, text))
                    if n >= _WARM:
                        times[way].append(took)
            found.append({"statement": name, "runs": count, **spreads(times)})
    return found


def spreads(times: dict[str, list[float]]) -> Json:
    """Percentiles of seconds in milliseconds, and what `hoop` took beyond `rewritten`."""
    found: Json = {}
    for way, taken in times.items():
        spread = Spread.of(taken)
        found[way] = {"p50_ms": spread.p50, "p95_ms": spread.p95, "p99_ms": spread.p99}
    found["added"] = {p: round(found["hoop"][p] - found["rewritten"][p], 2) for p in found["hoop"]}
    return found


def rows(found: list[Json]) -> Iterator[Json]:
    """The same as lines of a table."""
    for one in found:
        for way, called in _WAYS.items():
            name = one["statement"] if way == "direct" else ""
            yield {"statement": name, "way": called, **one[way]}


def appends(folder: Path, entries: int) -> Json:
    """Durable log entries of one writer, each on the disk before the next."""
    store = Store(f"sqlite:///{folder / 'bench.db'}")
    store.migrate()
    log = AuditLog(store, load_or_create_key(folder / "bench.key", "bench/log"))
    took = timed(lambda: [log.append("bench", {"n": n}) for n in range(entries)])
    store.close()
    return {"entries": entries, "per_second": round(entries / took)}


def _fetch(connection: Any, sql: str) -> None:
    connection.cursor().execute(sql).fetchall()
