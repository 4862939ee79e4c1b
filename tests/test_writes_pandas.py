"""`write_pandas` and PUT through Hoop, with the unmodified connector."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import Error
from snowflake.connector.pandas_tools import write_pandas

from tests.clients_world import ClientsWorld

pytestmark = pytest.mark.e2e
ROWS = 10_000


@pytest.fixture
def connection(clients: ClientsWorld) -> Iterator[SnowflakeConnection]:
    with clients.connect(schema="FEATURES") as made:
        yield made


def new_table(clients: ClientsWorld, columns: str) -> str:
    name = f"W_{uuid.uuid4().hex[:10].upper()}"
    clients.behind(f"CREATE TABLE PROD.FEATURES.{name} ({columns})")
    # Hoop's role is granted what is made later by nobody: as an administrator would
    clients.behind(f"GRANT ALL ON TABLE PROD.FEATURES.{name} TO ROLE ML_READER")
    return name


def frame(rows: int = ROWS) -> pd.DataFrame:
    day = datetime.date(2024, 2, 29)
    return pd.DataFrame(
        {
            "ID": range(rows),
            "LABEL": [None if i % 7 == 0 else f'it\'s "{i}", ö\n' for i in range(rows)],
            "SCORE": [None if i % 5 == 0 else i / 8 for i in range(rows)],
            "DAY": [None if i % 3 == 0 else day for i in range(rows)],
            "PRICE": [decimal.Decimal(f"{i}.25") for i in range(rows)],
            "FLAG": [i % 2 == 0 for i in range(rows)],
        }
    )


COLUMNS = "ID NUMBER, LABEL VARCHAR, SCORE FLOAT, DAY DATE, PRICE NUMBER(12,2), FLAG BOOLEAN"


def test_many_rows_arrive_as_they_are_in_several_files(
    clients: ClientsWorld, connection: SnowflakeConnection
) -> None:
    name, written = new_table(clients, COLUMNS), frame()
    ok, chunks, rows, _ = write_pandas(connection, written, name, chunk_size=3_000)
    assert (ok, chunks, rows) == (True, 4, ROWS)
    found = clients.behind(f"SELECT * FROM PROD.FEATURES.{name} ORDER BY ID")
    wanted = [
        tuple(None if pd.isna(v) else v for v in row)
        for row in written.astype(object).itertuples(index=False)
    ]
    assert found == wanted


def test_names_are_folded_or_kept_as_the_caller_says(
    clients: ClientsWorld, connection: SnowflakeConnection
) -> None:
    folded = new_table(clients, "ID NUMBER, LABEL VARCHAR")
    written = pd.DataFrame({"id": [1, 2], "label": ["a", None]})
    assert write_pandas(connection, written, folded.lower(), quote_identifiers=False)[0]
    assert clients.behind(f"SELECT * FROM PROD.FEATURES.{folded} ORDER BY 1") == [
        (1, "a"),
        (2, None),
    ]
    elsewhere = new_table(clients, '"id" NUMBER, "a ""b"" c" VARCHAR')
    odd = pd.DataFrame({"id": [1], 'a "b" c': ["x"]})
    assert write_pandas(connection, odd, elsewhere, database="PROD", schema="FEATURES")[0]
    assert clients.behind(f"SELECT * FROM PROD.FEATURES.{elsewhere}") == [(1, "x")]


def test_overwrite_empties_the_table_first(
    clients: ClientsWorld, connection: SnowflakeConnection
) -> None:
    name = new_table(clients, "ID NUMBER")
    for first in (1, 5):
        written = pd.DataFrame({"ID": [first, first + 1]})
        assert write_pandas(connection, written, name, overwrite=True)[0]
    assert clients.behind(f"SELECT * FROM PROD.FEATURES.{name} ORDER BY 1") == [(5,), (6,)]


def test_a_table_is_made_and_replaced_whole(
    clients: ClientsWorld, connection: SnowflakeConnection
) -> None:
    name = f"W_{uuid.uuid4().hex[:10].upper()}"
    written = frame(50)
    assert write_pandas(connection, written, name, auto_create_table=True)[0]
    assert clients.behind(f"SELECT COUNT(*), SUM(ID) FROM PROD.FEATURES.{name}") == [(50, 1225)]
    other = pd.DataFrame({"NEW": ["a", "b"]})
    assert write_pandas(connection, other, name, auto_create_table=True, overwrite=True)[0]
    assert clients.behind(f"SELECT * FROM PROD.FEATURES.{name} ORDER BY 1") == [("a",), ("b",)]


def test_many_files_of_one_statement_all_arrive(
    clients: ClientsWorld, connection: SnowflakeConnection
) -> None:
    name = new_table(clients, "ID NUMBER")
    written = pd.DataFrame({"ID": range(9)})
    ok, chunks, rows, _ = write_pandas(
        connection, written, name, chunk_size=3, bulk_upload_chunks=True
    )
    assert (ok, chunks, rows) == (True, 3, 9)


def test_put_and_copy_by_hand(
    clients: ClientsWorld, connection: SnowflakeConnection, tmp_path: Path
) -> None:
    name = new_table(clients, "ID NUMBER, LABEL VARCHAR")
    for i in range(3):
        (tmp_path / f"part {i}.csv").write_text(f"id,label\n{i},'x'\n{i + 10},\n")
    cursor = connection.cursor()
    cursor.execute("CREATE TEMPORARY STAGE by_hand FILE_FORMAT = (TYPE = CSV SKIP_HEADER = 1)")
    put = cursor.execute(f"PUT 'file://{tmp_path}/part*.csv' @by_hand/in PARALLEL = 2").fetchall()
    assert [(r[1], r[6]) for r in put] == [(f"part {i}.csv.gz", "UPLOADED") for i in range(3)]
    copied = cursor.execute(f"COPY INTO {name} FROM @by_hand/in PURGE = TRUE").fetchall()
    assert [(r[0], r[1], r[3]) for r in copied] == [
        (f"in/part {i}.csv.gz", "LOADED", 2) for i in range(3)
    ]
    found = clients.behind(f"SELECT * FROM PROD.FEATURES.{name} ORDER BY 1")
    assert found == [(i, "'x'") for i in range(3)] + [(i, None) for i in range(10, 13)]


def test_the_users_own_stage_takes_files_too(
    clients: ClientsWorld, connection: SnowflakeConnection, tmp_path: Path
) -> None:
    name = new_table(clients, "DOC VARCHAR")
    (tmp_path / "rows.json").write_text('{"DOC": "a"}\n{"DOC": "b"}\n')
    cursor = connection.cursor()
    cursor.execute(f"PUT file://{tmp_path}/rows.json @~/mine AUTO_COMPRESS = FALSE")
    cursor.execute(
        f"COPY INTO {name} FROM @~/mine FILE_FORMAT = (TYPE = JSON) MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE"
    )
    assert clients.behind(f"SELECT * FROM PROD.FEATURES.{name} ORDER BY 1") == [("a",), ("b",)]


def test_bad_rows_are_told_or_left_out_as_the_caller_says(
    clients: ClientsWorld, connection: SnowflakeConnection, tmp_path: Path
) -> None:
    name = new_table(clients, "ID NUMBER")
    (tmp_path / "mixed.csv").write_text("1\nmany\n3\n")
    cursor = connection.cursor()
    cursor.execute("CREATE TEMP STAGE mixed FILE_FORMAT = (TYPE = CSV)")
    cursor.execute(f"PUT file://{tmp_path}/mixed.csv @mixed")
    with pytest.raises(Error, match="is not recognized"):
        cursor.execute(f"COPY INTO {name} FROM @mixed")
    [copied] = cursor.execute(f"COPY INTO {name} FROM @mixed ON_ERROR = CONTINUE").fetchall()
    assert copied[1:6] == ("PARTIALLY_LOADED", 3, 2, 1, 1)
    assert clients.behind(f"SELECT * FROM PROD.FEATURES.{name} ORDER BY 1") == [(1,), (3,)]


def test_many_bound_rows_go_through_a_stage(clients: ClientsWorld) -> None:
    name = new_table(clients, "ID NUMBER, LABEL VARCHAR, SEEN_AT TIMESTAMP_NTZ, DAY DATE")
    at, day = datetime.datetime.fromisoformat("2024-02-29T12:34:56.789"), datetime.date(2024, 2, 29)
    rows = [(i, None if i % 9 == 0 else f'"{i}", ö\n', at, day) for i in range(20_000)]
    with clients.connect(schema="FEATURES", paramstyle="qmark") as connection:
        cursor = connection.cursor()
        cursor.executemany(f"INSERT INTO {name} VALUES (?, ?, ?, ?)", rows)
        assert cursor.rowcount == len(rows)
    [intent] = clients.entries("statement.intent", f"INSERT INTO {name} ")
    assert len(intent["data"]["staged"]) == 1
    assert intent["data"]["staged"][0]["file"].startswith('@"PROD"."FEATURES"."SYSTEMBIND"/')
    assert clients.behind(f"SELECT * FROM PROD.FEATURES.{name} ORDER BY 1 LIMIT 20") == rows[:20]
    assert clients.behind(f"SELECT COUNT(*), SUM(ID) FROM PROD.FEATURES.{name}") == [
        (len(rows), sum(r[0] for r in rows))
    ]
