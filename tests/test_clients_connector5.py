"""Version 5 of the Python connector (Rust inside), SQLAlchemy 2.1, polars and Ibis on it, in an environment of its own."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from tests.clients_venv import environment, run
from tests.clients_world import MASKED_NOTE, ClientsWorld
from tests.native_world import CLIENTS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
Steps = dict[str, dict[str, Any]]
_MARK = "five waits"


@pytest.fixture(scope="module")
def steps(clients: ClientsWorld, tmp_path_factory: pytest.TempPathFactory) -> Steps:
    """All steps in one process: importing the libraries takes seconds."""
    folder = tmp_path_factory.mktemp("connector5")
    shutil.copy(CLIENTS / "connector5" / "steps.py", folder)
    python = str(environment("connector5") / "python")
    held = f"SELECT BODY, '{_MARK}' FROM SUPPORT_NOTES WHERE NOTE_ID < 3"
    with clients.approving(_MARK):
        done = run(clients, [python, "steps.py"], folder, SQL_HELD=held)
    assert done.returncode == 0, done.stderr[-3000:]
    return {s["step"]: s for s in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def two(clients: ClientsWorld) -> list[list[Any]]:
    """What a masked reader sees of the first two customers."""
    true = clients.behind(
        "SELECT EMAIL FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID <= 2 ORDER BY CUSTOMER_ID"
    )
    return [[n, "***@" + email.split("@")[1], None] for n, (email,) in enumerate(true, start=1)]


@pytest.mark.parametrize(
    "reader", ["rows", "pandas over SQLAlchemy", "polars over SQLAlchemy", "ibis"]
)
def test_rows_are_masked(steps: Steps, two: list[list[Any]], reader: str) -> None:
    assert steps[reader].get("value") == two, steps[reader]


@pytest.mark.parametrize("reader", ["denied", "denied to SQLAlchemy", "denied to ibis"])
def test_a_denial_is_the_ordinary_error(steps: Steps, reader: str) -> None:
    error = steps[reader]["error"]
    assert (error["errno"], error["sqlstate"]) == (3001, "42501")
    assert "PROD.HR.SALARIES, which no rule grants" in error["message"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pandas", [50_000, 9]),
        ("held", [[MASKED_NOTE, _MARK]] * 2),
        ("bound", [[7, "Zoë", None]]),
        ("asynchronous", ["SUCCESS", [[42]]]),
        ("written", [[5, 15]]),
        ("signed in by token", [[1]]),
        ("signed in by password", [[1]]),
        ("ibis from SQL", 2),
    ],
)
def test_what_its_users_do_works(steps: Steps, name: str, value: Any) -> None:
    assert steps[name].get("value") == value, steps[name]


def test_columns_are_reflected(steps: Steps) -> None:
    assert {"customer_id", "email", "ssn"} <= set(steps["reflected"]["value"])
