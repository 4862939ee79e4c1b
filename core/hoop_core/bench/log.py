"""The log: durable entries a second with many writers, and how long it takes to verify what is there.

Entries are of the size of a real statement's. Appending and verifying are measured at growing sizes of one log:
both have to cost the same for each entry however many there are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hoop_core.audit.checkpoint import load_or_create_key
from hoop_core.audit.log import AuditLog
from hoop_core.audit.verify import verify_store
from hoop_core.bench.plot import fit
from hoop_core.errors import EvidenceError
from hoop_core.model import Json
from hoop_core.store import Store

_WRITERS = 16
_AT_ONCE = 256
_SAMPLE = 4_000
"""Entries by which appending is measured at each size."""
_ENTRY: Json = {
    "statement_id": "0f7f2e5c-7a52-4c2b-9d3a-6f5d7c0d8a11",
    "identity": {
        "issuer": "https://idp.example.com", "subject": "churn-agent", "name": "churn-agent",
        "groups": ["ml-agents"], "actors": [], "method": "oidc", "token_sha256": "a" * 64,
    },
    "run_asserted": {"orchestrator": "airflow", "fields": {"dag_id": "churn", "run_id": "m__1"}},
    "sql": "SELECT CUSTOMER_ID, SUM(AMOUNT) FROM PROD.CRM.ORDERS WHERE DAY > '2026-01-01' GROUP BY 1",
    "executed": "SELECT CUSTOMER_ID, SUM(AMOUNT) FROM PROD.CRM.ORDERS WHERE DAY > '2026-01-01' GROUP BY 1",
    "decision": {"decision": "allow", "rules": ["agents-read"], "policy_digest": "b" * 64},
    "reads": ["PROD.CRM.ORDERS"], "writes": [], "fingerprint": "c" * 64,
}  # fmt: skip


def log_rows(
    folder: Path, most: int, url: str | None, say: Callable[[str], None]
) -> tuple[list[Json], Json]:
    """One row for each size up to `most` entries, and how straight the lines through them are (R²)."""
    store = Store(url or f"sqlite:///{folder / 'log.db'}")
    try:
        store.migrate()
        log = AuditLog(store, load_or_create_key(folder / "log.key", "bench/log"))
        log.claim()
        size = log.checkpoint().size
        rows: list[Json] = []
        for wanted in _sizes(most):
            say(f"{wanted:,} entries: growing the log")
            began = time.perf_counter()
            grown = _grow(log, wanted - size - _SAMPLE)
            bulk = time.perf_counter() - began
            say(f"{wanted:,} entries: {_WRITERS} writers")
            rate = _appended(log, _SAMPLE)
            size = log.checkpoint().size
            say(f"{wanted:,} entries: verifying")
            began = time.perf_counter()
            report = verify_store(
                store.url.render_as_string(hide_password=False),
                verifier_key=log.key.verifier_key,
                story=False,
            )
            seconds = time.perf_counter() - began
            if not report.ok or report.entries != size:
                raise EvidenceError(f"The log of the measurement does not verify: {report.faults}.")
            rows.append({
                "entries": size, "appends/s, 16 writers": round(rate),
                "appends/s, in batches": round(grown / bulk) if grown else None,
                "verify s": round(seconds, 3), "verified/s": round(size / seconds),
            })  # fmt: skip
    finally:
        store.close()
    points = [(float(row["entries"]), float(row["verify s"])) for row in rows]
    straight = round(fit(points), 4) if len(points) > 2 else None
    return rows, {"verify_r_squared": straight, "points": points}


def _sizes(most: int) -> Iterator[int]:
    size = 10_000
    while size < most:
        yield size
        size *= 10 if size * 10 < most else 2 if size * 2 < most else most
    yield most


def _grow(log: AuditLog, count: int) -> int:
    for begin in range(0, count, _AT_ONCE):
        log.append_all("bench", [_ENTRY] * min(_AT_ONCE, count - begin))
    return max(count, 0)


def _appended(log: AuditLog, count: int) -> float:
    """Durable entries a second, each waited for by the one of many writers that asked for it."""
    ready = threading.Barrier(_WRITERS + 1)

    def write() -> None:
        ready.wait()
        for _ in range(count // _WRITERS):
            log.append("bench", _ENTRY)

    with ThreadPoolExecutor(_WRITERS) as pool:
        writers = [pool.submit(write) for _ in range(_WRITERS)]
        ready.wait()
        began = time.perf_counter()
        for writer in writers:
            writer.result()
        return count / (time.perf_counter() - began)
