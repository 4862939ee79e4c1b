"""The stand-in as a process: start, stop, many sessions at once, and names that are no SQL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import snowflake.connector
from snowflake.connector.errors import Error

from hoop_core.devstack.emulator.process import Running, key_pair, running
from hoop_core.devstack.processes import free_port

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("emulator"), "--slow-seconds", "0.2") as found:
        yield found


def start(tmp_path: Path, mode: int = 0o600) -> tuple[subprocess.Popen[bytes], int]:
    path = tmp_path / "b.json"
    content = {"admin_user": "A", "admin_password": "pw", "vault_user": "V"}
    path.write_text(json.dumps({**content, "vault_public_key": key_pair()[1]}))
    path.chmod(mode)
    port = free_port()
    command = [sys.executable, "-m", "hoop_core.devstack.emulator", "--no-demo-data"]
    command += ["--port", str(port), "--bootstrap", str(path)]
    return subprocess.Popen(command, stderr=subprocess.PIPE), port


def test_a_readable_bootstrap_file_stops_the_start(tmp_path: Path) -> None:
    process, _ = start(tmp_path, 0o644)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"0600" in said
    assert b"pw" not in said


def test_sigterm_ends_it_cleanly_even_while_a_query_runs(tmp_path: Path) -> None:
    process, port = start(tmp_path)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            httpx.get(url + "/healthz", trust_env=False)
            break
        except httpx.TransportError:
            time.sleep(0.1)
    options: dict[str, Any] = {"host": "127.0.0.1", "port": port, "protocol": "http"}
    connection = snowflake.connector.connect(**options, account="hoopdev", user="A", password="pw")
    cursor = connection.cursor()
    cursor.execute_async("SELECT SYSTEM$WAIT(300)")
    os.kill(process.pid, signal.SIGTERM)
    try:
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert said == b""


def test_many_sessions_work_at_once(emulator: Running) -> None:
    wrong: list[str] = []

    def work(number: int) -> None:
        try:
            with snowflake.connector.connect(**emulator.options(database="PROD")) as connection:
                cursor = connection.cursor()
                cursor.execute(f"ALTER SESSION SET QUERY_TAG = 'w{number}'")
                for i in range(5):
                    cursor.execute(
                        f"SELECT {number}, CURRENT_SESSION(), COUNT(*) FROM CRM.ORDERS WHERE ORDER_ID <= {i}"
                    )
                    if cursor.fetchall() != [(number, str(connection.session_id), i)]:
                        wrong.append(f"{number}/{i}")
                cursor.execute(f"CREATE TABLE FEATURES.W{number} AS SELECT * FROM CRM.CUSTOMERS")
                cursor.execute(f"SELECT COUNT(*) FROM FEATURES.W{number}")
                if cursor.fetchall() != [(50_000,)]:
                    wrong.append(f"{number}/table")
                cursor.execute(f"DROP TABLE FEATURES.W{number}")
        except Error as e:
            wrong.append(f"{number}: {e}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_names_are_never_read_as_sql(emulator: Running) -> None:
    evil = "x' UNION SELECT SSN FROM PROD.CRM.CUSTOMERS --"
    with snowflake.connector.connect(**emulator.options(database="PROD")) as connection:
        cursor = connection.cursor()
        for sql in (
            f'SHOW COLUMNS IN TABLE PROD.CRM."{evil}"',
            f'SHOW TABLES IN SCHEMA PROD."{evil}"',
            f'DESCRIBE TABLE PROD.CRM."{evil}"',
            f'CREATE TABLE FEATURES."{evil}" (A INT)',
            f'CREATE TABLE FEATURES.T ("{evil}" VARCHAR(5))',
            f"CREATE TABLE FEATURES.T (A INT) COMMENT = '{evil.replace(chr(39), chr(39) * 2)}'",
            f'CREATE SCHEMA PROD."{evil}"',
            f'CREATE DATABASE "{evil}"',
            f'USE SCHEMA PROD."{evil}"',
        ):
            with pytest.raises(Error):
                cursor.execute(sql)
        cursor.execute(f'CREATE USER "{evil}"')
        cursor.execute("SHOW USERS LIKE 'x'' union%'")
        rows = cursor.fetchall()
        assert [r[0] for r in rows] == [evil]
        cursor.execute(f'DROP USER "{evil}"')
