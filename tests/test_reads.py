"""Who looked at what of others is on record before it is shown, and nobody can fill the log by looking."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sqlalchemy import text

from hoop_core.audit.log import AuditLog
from hoop_core.errors import StoreUnavailable
from hoop_core.model import Identity
from hoop_core.store import Store
from hoop_core.web.reads import Reads

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

    from hoop_core.devstack.stack import DevStack

ANN = Identity("https://idp", "ann", "Ann", ("owners",), "oidc", "")
BOB = Identity("https://idp", "bob", "Bob", ("owners",), "oidc", "")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reads(log: AuditLog, clock: Clock) -> Reads:
    return Reads(log, clock=clock)


def told(log: AuditLog) -> list[tuple[str, Any]]:
    return [
        (e.kind, json.loads(e.text)["data"]) for e in log.entries() if e.kind.startswith("read.")
    ]


def look(reads: Reads, *looks: tuple[Identity, str]) -> None:
    async def all_of_them() -> None:
        for who, about in looks:
            await reads.looked(who, "approval", about, "rest")

    asyncio.run(all_of_them())


def test_a_look_is_an_entry_with_who_and_what(log: AuditLog, reads: Reads) -> None:
    look(reads, (ANN, "apr_1"))
    ((kind, data),) = told(log)
    assert kind == "read.approval"
    assert (data["person"]["subject"], data["about"], data["by"]) == ("ann", "apr_1", "rest")


def test_looks_at_the_same_again_are_counted(log: AuditLog, reads: Reads, clock: Clock) -> None:
    look(reads, *[(ANN, "apr_1")] * 5, (BOB, "apr_1"))
    clock.now = 61
    asyncio.run(reads.flush())
    kinds = [kind for kind, _ in told(log)]
    assert kinds == ["read.approval", "read.approval", "read.counted"]
    counted = told(log)[-1][1]
    assert (counted["person"]["subject"], counted["count"], counted["looks"], counted["about"]) == (
        "ann",
        4,
        {"approval": 4},
        ["apr_1"],
    )


def test_who_looks_at_very_much_has_few_entries_of_their_own_and_every_look_is_counted(
    log: AuditLog, reads: Reads, clock: Clock
) -> None:
    look(reads, *[(ANN, f"apr_{n}") for n in range(500)], (BOB, "apr_1"))
    clock.now = 61
    asyncio.run(reads.flush())
    entries = told(log)
    alone = [d for k, d in entries if k == "read.approval"]
    (counted,) = [d for k, d in entries if k == "read.counted"]
    assert len(alone) == 31  # thirty of hers, and one of his
    assert counted["count"] == 470
    assert len(counted["about"]) == 100


def test_a_look_long_after_is_an_entry_again(log: AuditLog, reads: Reads, clock: Clock) -> None:
    look(reads, (ANN, "apr_1"))
    clock.now = 901
    look(reads, (ANN, "apr_1"))
    assert [kind for kind, _ in told(log)] == ["read.approval"] * 2


def test_what_is_counted_is_written_when_the_gateway_stops(log: AuditLog, reads: Reads) -> None:
    look(reads, (ANN, "apr_1"), (ANN, "apr_1"))
    asyncio.run(reads.flush(now=True))
    assert told(log)[-1][1]["count"] == 1


def test_what_cannot_be_put_on_record_is_not_shown(store: Store, reads: Reads) -> None:
    with store.write() as connection:
        connection.execute(text("DROP TABLE log_entries"))
    with pytest.raises(StoreUnavailable):
        look(reads, (ANN, "apr_1"))


@pytest.mark.e2e
def test_what_people_look_at_over_rest_and_on_pages_is_in_the_log(
    stack: DevStack, connect: Callable[..., SnowflakeConnection]
) -> None:
    def looks(about: str) -> list[str]:
        with Store(stack_store(stack)).read() as connection:
            rows = connection.execute(
                text("SELECT kind, entry FROM log_entries WHERE kind LIKE 'read.%'")
            )
            data = [(kind, json.loads(entry)["data"]) for kind, entry in rows]
        return [f"{k} {d['person']['name']}" for k, d in data if d["about"] == about]

    agent = {"Authorization": f"Bearer {stack.token('churn-agent')}"}
    owner = {"Authorization": f"Bearer {stack.token('alice')}"}
    with httpx.Client(base_url=stack.info.gateway_url + "/hoop/v1") as http:
        sql = "DELETE FROM PROD.FEATURES.CHURN_STAGING WHERE 4 = 4"
        asked = http.post("/approvals", json={"sql": sql}, headers=agent).json()["id"]
        assert http.get(f"/approvals/{asked}", headers=agent).status_code == 200
        assert looks(asked) == []  # one's own
        assert http.get(f"/approvals/{asked}", headers=owner).status_code == 200
        assert looks(asked) == ["read.approval alice"]
        http.post(f"/approvals/{asked}/withdrawal", json={"reason": "done"}, headers=agent)


def stack_store(stack: DevStack) -> str:
    from hoop_core.config import load_settings

    return load_settings(stack.config_file).store.url
