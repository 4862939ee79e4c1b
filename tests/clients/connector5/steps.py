"""Version 5 of the Python connector, whose core is written in Rust, and what is built on it.

One JSON line for each step: {"step": name, "value": ...} or {"step": name, "error": {"errno", "sqlstate", "message"}}.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import ibis
import pandas as pd
import polars as pl
import snowflake.connector
import sqlalchemy as sa
from snowflake.connector.pandas_tools import write_pandas

warnings.simplefilter("ignore")
TOKEN = os.environ["HOOP_TOKEN"]
WHERE: dict[str, Any] = {
    "host": os.environ["HOOP_HOST"],
    "port": int(os.environ["HOOP_PORT"]),
    "protocol": "http",
}
NAMED = {"account": "hoopdev", "user": "whoever", "database": "PROD", "schema": "CRM"}
OAUTH = {**WHERE, "authenticator": "oauth", "token": TOKEN}
TWO = "SELECT CUSTOMER_ID, EMAIL, SSN FROM CUSTOMERS WHERE CUSTOMER_ID <= 2 ORDER BY 1"
DENIED = "SELECT * FROM PROD.HR.SALARIES"
Value = Callable[[], Any]


def step(name: str, work: Value) -> None:
    told: dict[str, Any] = {"step": name}
    try:
        told["value"] = work()
    except Exception as e:
        # SQLAlchemy and pandas wrap the connector's own error
        about = getattr(e, "orig", None) or getattr(e.__cause__, "orig", None) or e
        told["error"] = {
            "errno": getattr(about, "errno", None),
            "sqlstate": getattr(about, "sqlstate", None),
            "message": str(about).replace(TOKEN, "***"),
        }
    print(json.dumps(told, default=str), flush=True)


def connector() -> None:
    with snowflake.connector.connect(**NAMED, **OAUTH) as connection:
        cursor = connection.cursor()
        step("rows", lambda: cursor.execute(TWO).fetchall())
        step("pandas", lambda: cursor.execute("SELECT * FROM CUSTOMERS").fetch_pandas_all().shape)
        step("denied", lambda: cursor.execute(DENIED).fetchall())
        held = os.environ["SQL_HELD"]
        step("held", lambda: cursor.execute(held).fetchall())
        step("asynchronous", lambda: asynchronous(connection))
        step("written", lambda: written(connection))
    with snowflake.connector.connect(**NAMED, **OAUTH, paramstyle="qmark") as connection:
        cursor = connection.cursor()
        step("bound", lambda: cursor.execute("SELECT ?, ?, ?", (7, "Zoë", None)).fetchall())
    for kind in (
        {"authenticator": "PROGRAMMATIC_ACCESS_TOKEN", "token": TOKEN},
        {"password": TOKEN},
    ):
        step(f"signed in by {next(reversed(kind))}", lambda kind=kind: signed_in(kind))


def signed_in(kind: dict[str, str]) -> Any:
    with snowflake.connector.connect(**NAMED, **WHERE, **kind) as connection:
        return connection.cursor().execute("SELECT 1").fetchall()


def asynchronous(connection: Any) -> Any:
    cursor = connection.cursor()
    cursor.execute_async("SELECT 42 AS A")
    while connection.is_still_running(status := connection.get_query_status(cursor.sfqid)):
        time.sleep(0.1)
    cursor.get_results_from_sfqid(cursor.sfqid)
    return [status.name, cursor.fetchall()]


def written(connection: Any) -> Any:
    cursor = connection.cursor()
    cursor.execute("CREATE OR REPLACE TABLE PROD.FEATURES.FIVE (A INT)")
    frame = pd.DataFrame({"A": [1, 2, 3]})
    write_pandas(connection, frame, "FIVE", database="PROD", schema="FEATURES")
    cursor.executemany("INSERT INTO PROD.FEATURES.FIVE VALUES (%s)", [(4,), (5,)])
    counted = cursor.execute("SELECT COUNT(*), SUM(A) FROM PROD.FEATURES.FIVE").fetchall()
    cursor.execute("DROP TABLE PROD.FEATURES.FIVE")
    return counted


def sqlalchemy() -> None:
    engine = sa.create_engine(
        "snowflake://me@hoopdev/PROD/CRM", connect_args=OAUTH, pool_pre_ping=True
    )
    step("pandas over SQLAlchemy", lambda: pd.read_sql(TWO, engine).values.tolist())
    step("polars over SQLAlchemy", lambda: pl.read_database(TWO, engine).rows())
    step("reflected", lambda: [c["name"] for c in sa.inspect(engine).get_columns("customers")])
    step("denied to SQLAlchemy", lambda: pd.read_sql(DENIED, engine))
    engine.dispose()


def over_ibis() -> None:
    backend = ibis.snowflake.connect(**NAMED, **OAUTH, create_object_udfs=False)
    customers = backend.table("CUSTOMERS")
    columns = ["CUSTOMER_ID", "EMAIL", "SSN"]
    two = customers.filter(customers.CUSTOMER_ID <= 2).select(columns).order_by("CUSTOMER_ID")
    step("ibis", lambda: two.to_polars().rows())
    step("ibis from SQL", lambda: backend.sql(TWO).count().to_pyarrow().as_py())
    step("denied to ibis", lambda: backend.table("SALARIES", database="PROD.HR"))
    backend.disconnect()


connector()
sqlalchemy()
over_ibis()
