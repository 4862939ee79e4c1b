"""snowflake-connector-python's asyncio interface, unmodified."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from snowflake.connector import ProgrammingError, aio

from tests.clients_world import DENIED, HELD, MASKED_NOTE, ClientsWorld

pytestmark = pytest.mark.e2e
Work = Callable[[Any], Awaitable[Any]]


def within(clients: ClientsWorld, work: Work, **options: Any) -> Any:
    """Run `work` with a connection of its own."""

    async def run() -> Any:
        async with aio.SnowflakeConnection(**clients.options(**options)) as connection:
            return await work(connection)

    return asyncio.run(run())


async def rows(connection: Any, sql: str, *binds: Any) -> Any:
    cursor = connection.cursor()
    await cursor.execute(sql, binds or None)
    return await cursor.fetchall()


def test_masked_rows_are_read(clients: ClientsWorld) -> None:
    sql = "SELECT CUSTOMER_ID, EMAIL, SSN FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID <= 3 ORDER BY 1"
    seen = within(clients, lambda c: rows(c, sql))
    for (i, email, ssn), (true_i, true_email, _) in zip(seen, clients.behind(sql), strict=True):
        assert (i, email, ssn) == (true_i, "***@" + true_email.split("@")[1], None)


def test_statements_of_one_program_run_side_by_side(clients: ClientsWorld) -> None:
    async def work(connection: Any) -> Any:
        asked = (rows(connection, f"SELECT {i}, COUNT(*) FROM ORDERS") for i in range(8))
        return await asyncio.gather(*asked)

    assert within(clients, work) == [[(i, 200_000)] for i in range(8)]


def test_values_are_bound(clients: ClientsWorld) -> None:
    sql = "SELECT CUSTOMER_ID FROM CUSTOMERS WHERE CUSTOMER_ID IN (?, ?) ORDER BY 1"
    assert within(clients, lambda c: rows(c, sql, 2, 5), paramstyle="qmark") == [(2,), (5,)]


def test_large_results_come_whole(clients: ClientsWorld) -> None:
    async def work(connection: Any) -> Any:
        cursor = connection.cursor()
        await cursor.execute("SELECT CUSTOMER_ID, SSN FROM CUSTOMERS")
        return await cursor.fetch_pandas_all()

    frame = within(clients, work)
    assert len(frame) == 50_000 and frame["SSN"].isna().all()


def test_a_denial_is_the_drivers_own_error(clients: ClientsWorld) -> None:
    with pytest.raises(ProgrammingError) as caught:
        within(clients, lambda c: rows(c, f"SELECT * FROM {DENIED}"))
    assert caught.value.errno == 3001 and "no rule grants" in str(caught.value.msg)


def test_a_held_statement_waits_and_gets_its_rows(clients: ClientsWorld) -> None:
    sql = f"SELECT BODY AS AIO_MARK FROM {HELD} WHERE NOTE_ID = 1"
    with clients.approving("AIO_MARK"):
        assert within(clients, lambda c: rows(c, sql)) == [(MASKED_NOTE,)]


def test_an_asynchronous_statement_is_found_by_its_id(clients: ClientsWorld) -> None:
    async def work(connection: Any) -> Any:
        cursor = connection.cursor()
        await cursor.execute_async("SELECT COUNT(*) FROM CUSTOMERS")
        await cursor.get_results_from_sfqid(cursor.sfqid)
        return await cursor.fetchall()

    assert within(clients, work) == [(50_000,)]
