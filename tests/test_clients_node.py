"""snowflake-sdk, the Node.js driver: reads JSON rowsets only."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.clients_world import ClientsWorld
from tests.native_world import (
    BIG,
    CLIENTS,
    HUGE,
    build,
    built,
    check_denied,
    check_held,
    check_large,
    run_client,
    tool,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1000)]
Step = dict[str, Any]


@pytest.fixture(scope="module")
def steps(native_world: ClientsWorld) -> dict[str, Step]:
    """What one run of the client saw."""
    node, npm = tool("node", "nodejs"), tool("npm", "npm")
    with built(CLIENTS / "node", "package.json") as (folder, done):
        if not done:
            build(
                [
                    npm,
                    "install",
                    "--no-audit",
                    "--no-fund",
                    "--ignore-scripts",
                    "--no-package-lock",
                ],
                folder,
            )
    program = str(CLIENTS / "node" / "client.js")
    command = [node, "--no-warnings", program]
    return run_client(native_world, command, folder, NODE_PATH=str(folder / "node_modules"))


def _without_times(row: list[Any]) -> list[Any]:
    """This driver shows a TIME that is NULL as a text."""
    return [None if v == "NULL" else v for v in row]


def test_every_type_comes_back_as_the_driver_shows_it(steps: dict[str, Step]) -> None:
    full, empty = steps["wide"]["rows"]
    assert full[:14] == [
        1,
        1234567890123456800,  # JavaScript's numbers
        float(HUGE),
        1234567890123456.78,
        0.1,
        "Zoë 日本 🚀",
        "2024-02-29T00:00:00.000Z",
        "23:59:58",
        "2024-02-29T12:30:15.123Z",
        "2024-02-29T12:30:15.123Z",
        "1969-07-20T20:17:40.500Z",
        True,
        "00ff10",
        {"a": [1, "x"]},
    ]
    assert _without_times(empty) == [2, None, float(HUGE)] + [None] * 23


def test_masked_columns_are_null_and_keep_their_types(steps: dict[str, Step]) -> None:
    assert _without_times(steps["wide"]["rows"][0])[14:] == [None] * 12
    kinds = {name: rest for name, *rest in steps["wide"]["columns"]}
    for name in ("BIG", "PRICE", "RATIO", "LABEL", "BORN", "ALARM", "MADE", "SEEN", "SENT", "OK"):
        assert kinds[f"SECRET_{name}"][0] == kinds[name][0]
    assert kinds["SECRET_PRICE"] == ["fixed", 18, 2, True]


def test_values_can_be_fetched_as_texts(steps: dict[str, Step]) -> None:
    row = steps["texts"]["rows"][0]
    assert row[1:4] == [BIG, HUGE, "1234567890123456.78"]
    assert row[11:13] == ["TRUE", "00FF10"]
    assert re.sub(r"\s", "", row[13]) == '{"a":[1,"x"]}'


def test_a_large_result_comes_in_parts(steps: dict[str, Step]) -> None:
    check_large(steps["large"])


def test_positional_and_numbered_binds(steps: dict[str, Step]) -> None:
    assert steps["binds"]["asked"] == [["Zoë 🚀", 7, 2.5, True, None, "2024-02-29T00:00:00.000Z"]]
    assert steps["binds"]["numbered"] == [["two", "one", "two"]]


def test_arrays_are_bound(steps: dict[str, Step]) -> None:
    found = steps["arrays"]
    assert (found["inserted"], found["updated"], found["deleted"]) == ([[300]], 300, 300)
    assert found["back"] == [[300, 150, 910_299]]


def test_a_denial_is_the_drivers_ordinary_error(steps: dict[str, Step]) -> None:
    check_denied(steps["denied"])


def test_several_statements_in_one_text_are_refused(steps: dict[str, Step]) -> None:
    assert int(steps["several"]["code"]) == 8
    assert "one statement" in steps["several"]["message"]


def test_a_held_statement_gets_its_rows(steps: dict[str, Step]) -> None:
    check_held(steps["held"])


def test_a_description_has_columns_and_no_rows(steps: dict[str, Step]) -> None:
    assert [c[:2] for c in steps["described"]["columns"]] == [
        ["SSN", "text"],
        ["CUSTOMER_ID", "fixed"],
    ]
    assert steps["described"]["rows"] == 0


def test_a_running_statement_is_cancelled_by_its_request(steps: dict[str, Step]) -> None:
    found = steps["cancel"]["request"]
    assert (found["code"], found["sqlstate"], found["answer"]) == ("000604", "57014", "0")
    assert steps["cancel"]["after"] == [[1]]


def test_a_detached_statement_is_cancelled_by_its_id(steps: dict[str, Step]) -> None:
    found = steps["cancel"]["id"]
    assert found["before"] in {"RUNNING", "QUEUED"}
    assert (found["answer"], found["status"]) == ("0", "ABORTED")


def test_results_are_fetched_by_query_id(steps: dict[str, Step]) -> None:
    assert steps["async"]["rows"] == [[1, None], [2, None]]
    assert steps["async"]["status"] == "SUCCESS"
    assert steps["async"]["unknown"] == "NO_QUERY_DATA"
    assert "No information returned from server" in steps["async"]["stranger"]["message"]


def test_a_session_lives_until_it_is_closed(steps: dict[str, Step]) -> None:
    assert steps["alive"]["valid"] and steps["alive"]["up"]
    assert not steps["closed"]["valid"]
