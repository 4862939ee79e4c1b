"""SnowflakeCLI, unmodified, in an environment of its own: `snow sql -x` with host, port and token."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients_venv import environment, run
from tests.clients_world import DENIED, HELD, MASKED_NOTE, ClientsWorld

pytestmark = pytest.mark.e2e


class Snow:
    def __init__(self, world: ClientsWorld, program: Path, folder: Path) -> None:
        self.world, self._program, self._folder = world, program, folder

    def sql(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        where = {
            "--host": self.world.host,
            "--port": str(self.world.port),
            "--protocol": "http",
            "--account": "hoopdev",
            "--user": "whoever",
            "--authenticator": "oauth",
            "--token": self.world.agent_token,
            "--database": "PROD",
            "--schema": "CRM",
        }
        options = [part for pair in where.items() for part in pair]
        command = [str(self._program), "sql", "--temporary-connection", *options, *arguments]
        return run(self.world, command, self._folder)

    def rows(self, *arguments: str) -> Any:
        done = self.sql(*arguments, "--format", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def snow(clients: ClientsWorld, tmp_path_factory: pytest.TempPathFactory) -> Snow:
    return Snow(clients, environment("snowcli") / "snow", tmp_path_factory.mktemp("snow"))


def test_masked_rows_of_a_template_with_a_value(snow: Snow) -> None:
    sql = "SELECT EMAIL, SSN FROM CUSTOMERS WHERE CUSTOMER_ID = <% number %>"
    [(true, _)] = snow.world.behind(
        "SELECT EMAIL, SSN FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID = 3"
    )
    shown = snow.rows("--query", sql, "--variable", "number=3")
    assert shown == [{"EMAIL": "***@" + true.split("@")[1], "SSN": None}]


def test_a_file_of_statements_runs_one_by_one(snow: Snow, tmp_path: Path) -> None:
    script = tmp_path / "script.sql"
    script.write_text("-- first\nSELECT 1 AS A;\n/* second */ SHOW TABLES LIKE 'ORDERS';\n")
    first, second = snow.rows("--filename", str(script))
    assert first == [{"A": 1}] and [t["name"] for t in second] == ["ORDERS"]


def test_a_denial_ends_with_an_error(snow: Snow) -> None:
    done = snow.sql("--query", f"SELECT * FROM {DENIED}")
    assert done.returncode == 1 and "003001 (42501)" in done.stderr and "no rule" in done.stderr


def test_a_held_statement_waits_and_gets_its_rows(snow: Snow) -> None:
    with snow.world.approving("SNOW_MARK"):
        found = snow.rows("--query", f"SELECT BODY AS SNOW_MARK FROM {HELD} WHERE NOTE_ID = 1")
    assert found == [{"SNOW_MARK": MASKED_NOTE}]
