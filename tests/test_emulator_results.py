"""Results of the stand-in as the real connector reads them: types, both formats, signed chunks."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from datetime import time as clock
from decimal import Decimal
from typing import Any

import httpx
import pyarrow as pa
import pytest
import snowflake.connector
from snowflake.connector import SnowflakeConnection

from hoop_core.devstack.emulator.process import Running, running

pytestmark = pytest.mark.e2e

JSON = {"PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": "JSON"}
BIG = 12345678901234567890123456789012345678

COLUMNS: dict[str, tuple[str, Any]] = {
    "SMALL": ("7", 7),
    "NEGATIVE": ("-9007199254740993", -9007199254740993),
    "BIG": (str(BIG), BIG),
    "MONEY": ("-12345.67::NUMBER(12, 2)", Decimal("-12345.67")),
    "TINY": ("0.0000000001::NUMBER(20, 10)", Decimal("0.0000000001")),
    "WIDE": (
        "1234567890123456789012345678.12345678::NUMBER(38, 8)",
        Decimal("1234567890123456789012345678.12345678"),
    ),
    "REAL": ("0.1::FLOAT", 0.1),
    "YES": ("TRUE", True),
    "NO": ("FALSE", False),
    "DAY": ("'1969-07-20'::DATE", date(1969, 7, 20)),
    "CLOCK": ("'23:59:59.123456'::TIME", clock(23, 59, 59, 123456)),
    "NTZ": ("'1960-01-02 03:04:05.678901'::TIMESTAMP_NTZ", datetime(1960, 1, 2, 3, 4, 5, 678901)),  # noqa: DTZ001
    "LTZ": ("'2024-02-29 12:00:00.000001'::TIMESTAMP_LTZ", datetime(2024, 2, 29, 12, 0, 0, 1, UTC)),
    "TZ": ("'2024-02-29 12:00:00 +02:00'::TIMESTAMP_TZ", datetime(2024, 2, 29, 10, 0, tzinfo=UTC)),
    "BYTES": ("X'00FF10'", b"\x00\xff\x10"),
    "TEXT": ("'Grüße, 世界 😀 \"quoted\" \\\\ back'", 'Grüße, 世界 😀 "quoted" \\ back'),
    "EMPTY": ("''", ""),
    "NOTHING": ("NULL", None),
    "DOC": (
        'PARSE_JSON(\'{"a": [1, null, "ü"]}\')',
        '{\n  "a": [\n    1,\n    null,\n    "ü"\n  ]\n}',
    ),
}
NULLS = "NUMBER(12, 2) FLOAT BOOLEAN DATE TIME TIMESTAMP_NTZ TIMESTAMP_LTZ BINARY VARIANT VARCHAR"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    arguments = ("--chunk-url-seconds", "3")
    with running(tmp_path_factory.mktemp("emulator"), *arguments) as found:
        yield found


@pytest.fixture(params=["ARROW", "JSON"])
def connection(emulator: Running, request: pytest.FixtureRequest) -> Iterator[SnowflakeConnection]:
    parameters = {"PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": request.param}
    options = emulator.options(database="PROD", schema="CRM", session_parameters=parameters)
    with snowflake.connector.connect(**options) as opened:
        yield opened


def rows(connection: SnowflakeConnection, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(r) for r in connection.cursor().execute(sql).fetchall()]


def test_every_type_survives_both_formats(connection: SnowflakeConnection) -> None:
    listed = ", ".join(f"{sql} AS {name}" for name, (sql, _) in COLUMNS.items())
    cursor = connection.cursor()
    (row,) = cursor.execute(f"SELECT {listed}").fetchall()
    got = dict(zip([d.name for d in cursor.description], row, strict=True))
    assert got == {name: value for name, (_, value) in COLUMNS.items()}
    assert got["NTZ"].tzinfo is None
    assert got["LTZ"].tzinfo is not None


def test_nulls_of_every_type(connection: SnowflakeConnection) -> None:
    kinds = NULLS.replace("(12, 2)", "").split()
    listed = ", ".join(f"NULL::{k} AS C{i}" for i, k in enumerate(kinds))
    sql = f"SELECT {listed} UNION ALL SELECT {listed}"
    assert rows(connection, sql) == [(None,) * len(kinds)] * 2


def test_a_hash_is_a_signed_64_bit_number(connection: SnowflakeConnection) -> None:
    asked = ", ".join(f"HASH('{n}')" for n in range(32))
    row = connection.cursor().execute(f"SELECT {asked}").fetchone()
    assert isinstance(row, tuple) and all(-(2**63) <= value < 2**63 for value in row)
    assert any(value < 0 for value in row)


def test_large_results_come_whole_and_in_order(connection: SnowflakeConnection) -> None:
    got = rows(
        connection, "SELECT ORDER_ID, AMOUNT, ORDERED_AT FROM ORDERS ORDER BY ORDER_ID LIMIT 37123"
    )
    assert [r[0] for r in got] == list(range(1, 37124))
    assert all(isinstance(r[1], Decimal) and isinstance(r[2], datetime) for r in got[::5000])
    assert rows(connection, "SELECT * FROM ORDERS WHERE 1 = 0") == []


def test_pandas_reads_arrow_results(emulator: Running) -> None:
    with snowflake.connector.connect(**emulator.options(database="PROD")) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT * FROM CRM.CUSTOMERS ORDER BY CUSTOMER_ID")
        frame = cursor.fetch_pandas_all()
        assert len(frame) == 50_000
        # As from the real service: a NUMBER with a scale becomes a float, a DATE a date.
        assert str(frame["MRR"].dtype) == "float64"
        assert isinstance(frame["SIGNED_UP"][0], date)
        assert frame["CUSTOMER_ID"].is_monotonic_increasing
        cursor.execute("SELECT ORDERED_AT, ORDERED_AT::TIMESTAMP_LTZ L FROM CRM.ORDERS LIMIT 5000")
        frame = cursor.fetch_pandas_all()
        assert str(frame["ORDERED_AT"].dtype).startswith("datetime64[ns")
        assert "UTC" in str(frame["L"].dtype)
        cursor.execute("SELECT * FROM CRM.CUSTOMERS WHERE 1 = 0")
        assert list(cursor.fetch_pandas_all().columns)[:2] == ["CUSTOMER_ID", "FULL_NAME"]
        cursor.execute("SELECT * FROM CRM.CUSTOMERS")
        assert cursor.fetch_arrow_all().num_rows == 50_000


def test_declared_local_time_is_told_apart(emulator: Running) -> None:
    with snowflake.connector.connect(**emulator.options(database="PROD")) as connection:
        rows(
            connection, "CREATE TABLE FEATURES.T (N TIMESTAMP_NTZ, L TIMESTAMP_LTZ, Z TIMESTAMP_TZ)"
        )
        cursor = connection.cursor()
        described = cursor.describe("SELECT * FROM FEATURES.T")
        from snowflake.connector.constants import FIELD_ID_TO_NAME

        names = [FIELD_ID_TO_NAME[c.type_code] for c in described]
        assert names[0] == "TIMESTAMP_NTZ"
        cursor.execute("SELECT * FROM FEATURES.T")
        names = [FIELD_ID_TO_NAME[c.type_code] for c in cursor.description]
        assert names == ["TIMESTAMP_NTZ", "TIMESTAMP_LTZ", "TIMESTAMP_TZ"]


@pytest.fixture
def token(emulator: Running) -> str:
    return str(emulator.sign_in(query="&databaseName=PROD&schemaName=CRM")["data"]["token"])


def fetch(chunk: dict[str, Any], headers: dict[str, str], url: str = "") -> httpx.Response:
    return httpx.get(url or chunk["url"], headers=headers, trust_env=False)


def test_the_rest_of_a_large_result_is_behind_signed_addresses(
    emulator: Running, token: str
) -> None:
    data = emulator.query(token, "SELECT * FROM CUSTOMERS")["data"]
    assert data["queryResultFormat"] == "arrow"
    assert (data["total"], data["returned"]) == (50_000, 50_000)
    assert sum(c["rowCount"] for c in data["chunks"]) == 46_000
    chunk, headers = data["chunks"][0], data["chunkHeaders"]
    assert data["qrmk"] in headers.values()
    response = fetch(chunk, headers)
    assert response.status_code == 200
    assert len(response.content) == chunk["uncompressedSize"]
    table = pa.ipc.open_stream(response.content).read_all()
    assert table.num_rows == chunk["rowCount"]
    assert table.schema.field("MRR").metadata[b"logicalType"] == b"FIXED"
    assert table.schema.field("MRR").metadata[b"scale"] == b"2"


def test_a_json_chunk_is_rows_without_brackets_gzipped(emulator: Running, token: str) -> None:
    data = emulator.query(token, "SELECT * FROM CUSTOMERS", parameters=JSON)["data"]
    assert data["queryResultFormat"] == "json"
    assert len(data["rowset"]) == 4_000
    chunk = data["chunks"][0]
    with httpx.stream("GET", chunk["url"], headers=data["chunkHeaders"], trust_env=False) as r:
        raw = b"".join(r.iter_raw())
        assert r.headers["content-encoding"] == "gzip"
    assert len(raw) == chunk["compressedSize"]
    body = gzip.decompress(raw)
    assert len(body) == chunk["uncompressedSize"]
    assert body[:2] == b'["'
    assert len(json.loads(b"[" + body + b"]")) == chunk["rowCount"]


def test_a_chunk_needs_its_signature_header_and_time(emulator: Running, token: str) -> None:
    data = emulator.query(token, "SELECT * FROM CUSTOMERS")["data"]
    other = emulator.query(token, "SELECT * FROM ORDERS")["data"]
    first, second = data["chunks"][:2]
    headers = data["chunkHeaders"]
    assert fetch(first, headers).status_code == 200
    path, _, signed = first["url"].partition("?")
    for url, sent in (
        (first["url"], {}),
        (first["url"], other["chunkHeaders"]),
        (first["url"], {k: v for k, v in headers.items() if "algorithm" not in k}),
        (first["url"], {"Authorization": f'Snowflake Token="{token}"'}),
        (path, headers),
        (second["url"].partition("?")[0] + "?" + signed, headers),
        (first["url"].replace("Expires=", "Expires=9"), headers),
        (first["url"][:-1] + ("0" if first["url"][-1] != "0" else "1"), headers),
        (path.replace(data["queryId"], other["queryId"]) + "?" + signed, headers),
        (first["url"].replace("Signature=", "Signature=%C3%A4"), headers),
    ):
        assert fetch(first, sent, url).status_code == 403, url
    time.sleep(3.1)
    assert fetch(first, headers).status_code == 403


def test_a_dropped_users_chunks_are_gone(emulator: Running, token: str) -> None:
    emulator.query(token, "CREATE USER LEAVER PASSWORD = 'pw' DEFAULT_WAREHOUSE = ML_WH")
    emulator.query(token, "GRANT ROLE PII_READER TO USER LEAVER")
    login = emulator.sign_in(
        {"LOGIN_NAME": "LEAVER", "PASSWORD": "pw"}, "&roleName=PII_READER&databaseName=PROD"
    )
    data = emulator.query(login["data"]["token"], "SELECT * FROM PROD.CRM.CUSTOMERS")["data"]
    assert fetch(data["chunks"][0], data["chunkHeaders"]).status_code == 200
    emulator.query(token, "DROP USER LEAVER")
    assert fetch(data["chunks"][0], data["chunkHeaders"]).status_code == 403
    assert fetch(data["chunks"][1], data["chunkHeaders"]).status_code == 403


@pytest.mark.parametrize(
    ("application", "statement", "format_"),
    [
        ("PythonConnector", {}, "arrow"),
        ("JavaScript", {}, "json"),
        ("Go", {}, "arrow"),
        ("Go", {"GO_QUERY_RESULT_FORMAT": "JSON"}, "json"),
        ("Go", JSON, "arrow"),
        ("JDBC", {"JDBC_QUERY_RESULT_FORMAT": "JSON"}, "json"),
        ("PythonSnowpark", {}, "arrow"),
        ("Hoop", {}, "json"),
        ("Hoop", {"GO_QUERY_RESULT_FORMAT": "ARROW"}, "json"),
        ("", {}, "json"),
    ],
)
def test_the_format_is_picked_by_client_and_parameter(
    emulator: Running, application: str, statement: dict[str, str], format_: str
) -> None:
    token = emulator.sign_in({"CLIENT_APP_ID": application})["data"]["token"]
    answer = emulator.query(token, "SELECT 1 A", parameters=statement)
    assert answer["data"]["queryResultFormat"] == format_
    # What is no query comes as JSON rows, whoever asks.
    assert emulator.query(token, "SHOW USERS")["data"]["queryResultFormat"] == "json"


def test_unnamed_columns_have_snowflakes_names(connection: SnowflakeConnection) -> None:
    cursor = connection.cursor()
    cursor.execute(
        "WITH o AS (SELECT * FROM orders) SELECT DISTINCT count( * ), sum(amount), 1, 'x', "
        'order_id + 1, 2 AS "two", order_id, current_date(), iff(1 = 1, (SELECT max(1)), 2) '
        "FROM o GROUP BY order_id LIMIT 1"
    )
    assert [d.name for d in cursor.description] == [
        "COUNT( * )",
        "SUM(AMOUNT)",
        "1",
        "'X'",
        "ORDER_ID + 1",
        "two",
        "ORDER_ID",
        "CURRENT_DATE()",
        "IFF(1 = 1, (SELECT MAX(1)), 2)",
    ]
