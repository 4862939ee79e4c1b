"""Uploads by other unmodified drivers: Snowpark, the asyncio connector, the ADBC driver (Go)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import adbc_driver_snowflake.dbapi as adbc
import pandas as pd
import pyarrow as pa
import pytest
import snowflake.connector.aio as aio
from snowflake.snowpark import Session

from tests.clients_world import ClientsWorld

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def session(clients: ClientsWorld) -> Iterator[Session]:
    made = Session.builder.configs(clients.options(schema="FEATURES")).create()
    yield made
    made.close()


def new_name() -> str:
    return f"W_{uuid.uuid4().hex[:10].upper()}"


def test_snowpark_writes_pandas_and_many_rows(clients: ClientsWorld, session: Session) -> None:
    name = new_name()
    session.write_pandas(pd.DataFrame({"ID": range(300)}), name, auto_create_table=True)
    assert clients.behind(f"SELECT COUNT(*), SUM(ID) FROM PROD.FEATURES.{name}") == [(300, 44850)]
    other = new_name()
    rows = [(i, f"label {i}") for i in range(1_000)]
    frame = session.create_dataframe(rows, schema=["ID", "LABEL"])
    frame.write.save_as_table(f"PROD.FEATURES.{other}")
    assert clients.behind(f"SELECT COUNT(*), MAX(LABEL) FROM PROD.FEATURES.{other}") == [
        (1_000, "label 999")
    ]


def test_snowpark_puts_files_into_its_own_stage(
    clients: ClientsWorld, session: Session, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("1,a\n2,b\n")
    [done] = session.file.put(f"file://{tmp_path}/a.csv", session.get_session_stage() + "/in")
    assert (done.target, done.status) == ("a.csv.gz", "UPLOADED")


def test_the_asyncio_connector_puts(clients: ClientsWorld, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("7\n")
    name = new_name()
    clients.behind(f"CREATE TABLE PROD.FEATURES.{name} (ID NUMBER)")
    clients.behind(f"GRANT ALL ON TABLE PROD.FEATURES.{name} TO ROLE ML_READER")

    async def run() -> None:
        async with aio.SnowflakeConnection(**clients.options(schema="FEATURES")) as connection:
            cursor = connection.cursor()
            await cursor.execute(f"PUT file://{tmp_path}/a.csv @~/aio")
            await cursor.execute(f"COPY INTO {name} FROM @~/aio")

    asyncio.run(run())
    assert clients.behind(f"SELECT * FROM PROD.FEATURES.{name}") == [(7,)]


def test_the_adbc_driver_ingests(clients: ClientsWorld) -> None:
    name = new_name()
    options = {
        "adbc.snowflake.sql.account": "hoopdev",
        "username": "whoever",
        "adbc.snowflake.sql.auth_type": "auth_oauth",
        "adbc.snowflake.sql.client_option.auth_token": clients.agent_token,
        "adbc.snowflake.sql.uri.host": clients.host,
        "adbc.snowflake.sql.uri.port": str(clients.port),
        "adbc.snowflake.sql.uri.protocol": "http",
        "adbc.snowflake.sql.db": "PROD",
        "adbc.snowflake.sql.schema": "FEATURES",
    }
    table = pa.table({"ID": list(range(5_000)), "LABEL": [f"l{i}" for i in range(5_000)]})
    with adbc.connect(db_kwargs=options) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest(name, table, mode="create")
    assert clients.behind(f"SELECT COUNT(*), SUM(ID) FROM PROD.FEATURES.{name}") == [
        (5_000, 12_497_500)
    ]
