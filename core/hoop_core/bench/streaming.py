"""A large result through Hoop, beside the direct way: how fast, and how much memory the gateway takes.

Both ways fetch the same rows from the same emulator with Snowflake's own connector, into Arrow. What is timed is
fetching the result's parts; running the statement, which prepares them, is not. The direct way is timed before and
after, because a machine's speed changes from minute to minute.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from hoop_core.bench.both_ways import direct, guarded
from hoop_core.bench.figures import timed
from hoop_core.devstack.stack import DevStack
from hoop_core.model import Json

_TABLE = "PROD.CRM.LARGE"
_CUSTOMERS = 50_000
_AT_ONCE = 4
"""Parts fetched at the same time: the connector's own default."""
_LOOK_SECONDS = 0.01
_POLICY = f"""version: 1
roles:
  - {{groups: [ml-agents], vault_role: ml-reader, snowflake_role: ML_READER, warehouse: ML_WH}}
rules:
  - {{name: read, groups: [ml-agents], reads: ["{_TABLE}"], then: allow}}
"""
_DETECTORS = "detectors:\n  - {detect: [email, phone, card, ssn, iban], action: report}\n"
POLICIES = {
    "digests recorded": _POLICY + "recordings:\n  - {rows: digest}\n",
    "all rows recorded": _POLICY,
    "all rows recorded, detectors report": _POLICY + _DETECTORS,
}


def write_policy(file: Path) -> Path:
    """The first of the policies, for a stack to begin with."""
    file.write_text(next(iter(POLICIES.values())), encoding="utf-8")
    return file


def streaming(stack: DevStack, rows: int, say: Callable[[str], None]) -> list[Json]:
    """Each policy in a gateway that was started for it. `rows` is rounded up to a multiple of 50,000."""
    found = []
    with direct(stack.info) as connection:
        say(f"making a table of {rows:,} rows")
        _make_table(connection, -(-rows // _CUSTOMERS))
        say("the direct way: the emulator prepares the result")
        straight = _batches(connection)
        for name, policy in POLICIES.items():
            say(f"{name}: starting the gateway")
            stack.policy_file.write_text(policy, encoding="utf-8")
            stack.restart_gateway()
            with guarded(stack.info) as through:
                say(f"{name}: the emulator prepares the result")
                parts = _batches(through)
                say(f"{name}: fetching {len(parts)} parts")
                before = _fetched(straight, rows)
                with Memory(_gateway_pid(stack)) as memory:
                    hoop = _fetched(parts, rows)
                after = _fetched(straight, rows)
            seconds = (before + after) / 2
            found.append(
                {
                    "result": name,
                    "rows": rows,
                    "direct_rows_s": round(rows / seconds),
                    "hoop_rows_s": round(rows / hoop),
                    "percent_of_direct": round(100 * seconds / hoop),
                    "memory_MB": memory.began,
                    "memory_growth_MB": memory.growth,
                }
            )
    return found


def table_rows(found: list[Json]) -> list[Json]:
    """The same for people: millions of rows a second."""
    return [
        {
            "result": one["result"],
            "direct M/s": round(one["direct_rows_s"] / 1e6, 2),
            "Hoop M/s": round(one["hoop_rows_s"] / 1e6, 2),
            "of direct": f"{one['percent_of_direct']} %",
            "growth MB": one["memory_growth_MB"],
        }
        for one in found
    ]


def _make_table(connection: Any, times: int) -> None:
    """Whole numbers, floats and texts; every customer so many times."""
    cursor = connection.cursor()
    cursor.execute(
        f"CREATE TABLE {_TABLE} AS SELECT c.CUSTOMER_ID + {_CUSTOMERS} * (o.CUSTOMER_ID - 1) AS ID, "  # noqa: S608
        "c.CUSTOMER_ID AS CUSTOMER, (HASH(c.CUSTOMER_ID, o.CUSTOMER_ID) % 100000) / 7.0::FLOAT AS AMOUNT, "
        "SIN(c.CUSTOMER_ID * o.CUSTOMER_ID) AS RATE, c.REGION AS REGION, 'order ' || "
        "(c.CUSTOMER_ID * o.CUSTOMER_ID % 100003)::VARCHAR || ' was shipped to ' || c.FULL_NAME AS NOTE "
        "FROM PROD.CRM.CUSTOMERS c CROSS JOIN "
        f"(SELECT CUSTOMER_ID FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID <= {times}) o"
    )
    cursor.execute(f"GRANT SELECT ON TABLE {_TABLE} TO ROLE ML_READER")
    cursor.execute(f"GRANT REFERENCES ON TABLE {_TABLE} TO ROLE HOOP_OBSERVER")


def _batches(connection: Any) -> list[Any]:
    """The result's parts, not fetched yet."""
    cursor = connection.cursor()
    cursor.execute(f"SELECT * FROM {_TABLE}")  # noqa: S608 - a name of our own
    return list(cursor.get_result_batches())


def _fetched(batches: list[Any], rows: int) -> float:
    """Seconds for all of them."""
    counts: list[int] = []

    def fetch() -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            counts.extend(pool.map(lambda batch: batch.to_arrow().num_rows, batches))

    taken = timed(fetch)
    if sum(counts) < rows:
        raise AssertionError(f"{sum(counts)} rows arrived of {rows}")
    return taken


def _gateway_pid(stack: DevStack) -> int | None:
    """The gateway is the only child of its watchdog. None where the kernel does not tell."""
    watchdog = stack.gateway.pid
    try:
        children = Path(f"/proc/{watchdog}/task/{watchdog}/children").read_text(encoding="ascii")
    except OSError:
        return None
    return next(map(int, children.split()), None)


class Memory:
    """How the resident memory of a process grows meanwhile, in MB of 10^6 bytes; None where there is no /proc."""

    def __init__(self, pid: int | None) -> None:
        self._pid, self._done = pid, threading.Event()
        self._most = self._looks = 0
        self.began: int | None = None
        self.growth: int | None = None

    def __enter__(self) -> Memory:
        self._first = self._most = self._resident()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        if self._first:
            self.began = round(self._first / 1e6)
            self.growth = round((self._most - self._first) / 1e6)

    def looked(self, times: int) -> bool:
        """Waits until the process was looked at so often from now on; False when that takes too long."""
        until = self._looks + times
        for _ in range(1000):
            if self._looks >= until:
                return True
            self._done.wait(_LOOK_SECONDS)
        return False

    def _watch(self) -> None:
        while not self._done.wait(_LOOK_SECONDS):
            self._most = max(self._most, self._resident())
            self._looks += 1

    def _resident(self) -> int:
        """Bytes; 0 where it cannot be told."""
        try:
            text = Path(f"/proc/{self._pid}/status").read_text(encoding="utf-8")
        except OSError:
            return 0
        line = next((n for n in text.splitlines() if n.startswith("VmRSS:")), "VmRSS: 0")
        return int(line.split()[1]) * 1024
