"""64 drivers with 200 statements each at one `hoop serve`: no error, no growth, every statement once in the log."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import snowflake.connector

from hoop_core.audit.stored import stored_entries
from hoop_core.devstack.replica import Replica
from hoop_core.devstack.stack import DevStack
from hoop_core.store import Store
from tests.crash_world import process_of

pytestmark = [pytest.mark.e2e, pytest.mark.nightly]

CLIENTS, STATEMENTS = 64, 200
QUARTER = CLIENTS * STATEMENTS // 4
MEASURED_EVERY = 0.25
GROWTH_MB = 100
"""By what a gateway may have grown from a quarter to the whole of the load. 200 answers of each session are
kept for clients that ask again (256 at most): here 5 KB each, which makes 50 MB. The rest is what their
statements' texts take, and the allocator. One that kept all of 10 KB more for each statement would fail.
"""


@dataclass
class Counted:
    done: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    quarter: threading.Event = field(default_factory=threading.Event)

    def one_more(self) -> None:
        with self.lock:
            self.done += 1
            if self.done == QUARTER:
                self.quarter.set()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    with DevStack(tmp_path_factory.mktemp("load"), gateway=False) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(stack: DevStack) -> Replica:
    """Its cache of verdicts is full before the first quarter is over. It is patient: what is looked at is what
    becomes of the statements, not how fast the machine is.
    """
    settings = {
        "HOOP_ANALYSIS__CACHE_ENTRIES": "1000",
        "HOOP_ANALYSIS__WAITING_SECONDS": "120",
        "HOOP_ANALYSIS__DEADLINE_SECONDS": "20",
        "HOOP_CREDENTIALS__MINT_SECONDS": "120",
        "HOOP_VAULT__TIMEOUT_SECONDS": "60",
        "HOOP_SNOWFLAKE__CONNECT_SECONDS": "60",
    }
    made = stack.replica("loaded", settings)
    made.start()
    made.part.wait_healthy(f"{made.url}/readyz", seconds=120, accept=frozenset({200}))
    return made


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the gateway has no memory")


def work(stack: DevStack, gateway: Replica, number: int, counted: Counted) -> None:
    """One client: each statement has a text of its own, and its row is checked."""
    with snowflake.connector.connect(
        host="127.0.0.1",
        port=gateway.port,
        protocol="http",
        account="hoopdev",
        user="whoever",
        authenticator="oauth",
        token=stack.info.token_agent,
        database="PROD",
        schema="CRM",
        login_timeout=120,
    ) as connection:
        cursor = connection.cursor()
        for n in range(STATEMENTS):
            customer = number * STATEMENTS + n + 1
            rows = cursor.execute(
                f"SELECT CUSTOMER_ID, SSN AS L_{customer} FROM CUSTOMERS "
                f"WHERE CUSTOMER_ID = {customer}"
            ).fetchall()
            assert rows == [(customer, None)]
            counted.one_more()


@pytest.mark.timeout(3600)
def test_many_clients_at_once(stack: DevStack, gateway: Replica) -> None:
    counted, pid = Counted(), process_of(gateway.part)
    at_rest, began = resident_mb(pid), time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(work, stack, gateway, n, counted) for n in range(CLIENTS)]
        while not counted.quarter.wait(MEASURED_EVERY) and not all(r.done() for r in running):
            pass
        quarter = resident_mb(pid)
        errors = [e for r in running if (e := r.exception()) is not None]
    seconds = time.monotonic() - began
    whole = resident_mb(pid)
    print(
        f"{counted.done} statements in {seconds:.0f} s ({counted.done / seconds:.0f}/s); "
        f"MB: {at_rest:.0f} at rest, {quarter:.0f} at 25 %, {whole:.0f} at 100 %"
    )
    assert errors == []
    intents, outcomes = logged(stack)
    wanted = range(1, CLIENTS * STATEMENTS + 1)
    assert Counter(intents.values()) == Counter(dict.fromkeys(wanted, 1))
    assert Counter(outcomes) == Counter({(i, "succeeded"): 1 for i in intents})
    assert whole - quarter <= GROWTH_MB


def logged(stack: DevStack) -> tuple[dict[int, int], list[tuple[int, str]]]:
    """Intent to customer, and what came of each intent."""
    store = Store(stack.store_url)
    store.attach()
    intents: dict[int, int] = {}
    outcomes: list[tuple[int, str]] = []
    try:
        for entry in stored_entries(store):
            if not entry.kind.startswith("statement."):
                continue
            data: dict[str, Any] = json.loads(entry.text)["data"]
            if entry.kind == "statement.intent":
                intents[entry.seq] = int(data["sql"].rpartition(" = ")[2])
            else:
                assert entry.kind == "statement.outcome"
                outcomes.append((data["intent"], data["status"]))
    finally:
        store.close()
    return intents, outcomes
