"""snowflake-jdbc: Arrow and JSON results, prepared statements, DatabaseMetaData."""

from __future__ import annotations

import os
from pathlib import Path
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
_OPENS = ["--add-opens", "java.base/java.nio=ALL-UNNAMED"]  # what Arrow asks of Java


@pytest.fixture(scope="module")
def steps(native_world: ClientsWorld) -> dict[str, Step]:
    """What one run of the client saw."""
    java, maven = tool("java", "openjdk-17-jdk-headless"), tool("mvn", "maven")
    tool("javac", "openjdk-17-jdk-headless")
    with built(CLIENTS / "jdbc", "pom.xml", "Client.java") as (folder, done):
        if not done:
            jars = f"-DoutputDirectory={folder / 'jars'}"
            build(
                [maven, "-q", "-B", "dependency:copy-dependencies", jars, "-f", "pom.xml"], folder
            )
            build([tool("javac", ""), "-cp", "jars/*", "-d", "classes", "Client.java"], folder)
    path = os.pathsep.join(["classes", str(Path("jars") / "*")])
    return run_client(native_world, [java, *_OPENS, "-cp", path, "Client"], folder, TZ="UTC")


@pytest.mark.parametrize("form", ["arrow", "json"])
def test_every_type_comes_back(steps: dict[str, Step], form: str) -> None:
    full, empty = steps[f"wide-{form}"]["rows"]
    assert [str(v) for v in full[:14]] == [
        "1",
        BIG,
        HUGE,
        "1234567890123456.78",
        "0.1",
        "Zoë 日本 🚀",
        "2024-02-29",
        "23:59:58",
        "2024-02-29 12:30:15.123456",
        "2024-02-29 12:30:15.123456",
        "1969-07-20 20:17:40.5",
        "True",
        "00ff10",
        '{\n  "a": [\n    1,\n    "x"\n  ]\n}',
    ]
    assert empty == [2, None, HUGE] + [None] * 23


@pytest.mark.parametrize("form", ["arrow", "json"])
def test_masked_columns_are_null_and_keep_their_types(steps: dict[str, Step], form: str) -> None:
    assert steps[f"wide-{form}"]["rows"][0][14:] == [None] * 12
    kinds = {name: rest for name, *rest in steps[f"wide-{form}"]["columns"]}
    for name in (n for n in kinds if f"SECRET_{n}" in kinds):
        assert kinds[f"SECRET_{name}"] == kinds[name]
    assert kinds["SECRET_PRICE"] == ["NUMBER", 18, 2, 1, "java.math.BigDecimal"]


def test_values_are_asked_for_in_their_own_types(steps: dict[str, Step]) -> None:
    found = steps["typed"]
    assert (found["price"], found["huge"]) == ("1234567890123456.78", HUGE)
    assert (found["born"], found["made"]) == ("2024-02-29", "2024-02-29T12:30:15.123456Z")
    assert found["sent"] == "1969-07-20T20:17:40.500Z"
    assert found["secret"] == [None, None, None, None, 0, True]


@pytest.mark.parametrize("form", ["arrow", "json"])
def test_a_large_result_comes_in_parts(steps: dict[str, Step], form: str) -> None:
    check_large(steps[f"large-{form}"])


def test_values_of_every_kind_are_bound(steps: dict[str, Step]) -> None:
    assert [str(v) for v in steps["binds"]["rows"][0]] == [
        "Zoë 🚀",
        "7",
        "1234567890123456.78",
        "2.5",
        "True",
        "2024-02-29",
        "10:20:30",
        "2024-02-29 12:30:15.123",
        "None",
    ]


def test_batches_are_bound(steps: dict[str, Step]) -> None:
    found = steps["arrays"]
    assert (found["inserted"], found["deleted"]) == (300, 300)
    assert found["back"] == [[300, 150, 920_299]]


def test_a_prepared_statement_is_described(steps: dict[str, Step]) -> None:
    found = steps["described"]
    assert [c[:2] for c in found["columns"]] == [["SSN", "VARCHAR"], ["CUSTOMER_ID", "NUMBER"]]
    assert found["parameters"] == 2


def test_metadata_lists_what_is_granted(steps: dict[str, Step]) -> None:
    found = steps["metadata"]
    assert {"CUSTOMERS", "ORDERS"} <= set(found["tables"])
    columns = {name: rest for name, *rest in found["columns"]}
    assert columns["EMAIL"][:2] == ["VARCHAR", 12]
    assert columns["MRR"] == ["NUMBER", 3, 12, 2, 9]
    assert found["escaped"] == ["CUSTOMER_ID", "SCORE", "COMPUTED_AT"]
    assert {"CRM", "FEATURES"} <= set(found["schemas"])
    assert (found["catalog"], found["schema"]) == ("PROD", "CRM")


@pytest.mark.parametrize("what", ["keys", "imported", "exported", "procedures"])
def test_lists_that_are_empty_are_no_error(steps: dict[str, Step], what: str) -> None:
    assert steps["metadata"][what] == []


def test_the_columns_of_a_table_that_no_rule_grants_are_not_told(steps: dict[str, Step]) -> None:
    check_denied(steps["denied-columns"])


def test_a_denial_is_the_drivers_ordinary_error(steps: dict[str, Step]) -> None:
    check_denied(steps["denied"])


def test_a_held_statement_gets_its_rows(steps: dict[str, Step]) -> None:
    check_held(steps["held"])


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_a_running_statement_is_cancelled(steps: dict[str, Step], how: str) -> None:
    assert (steps[how]["code"], steps[how]["sqlstate"]) == (604, "57014")
    assert steps["after"]["rows"] == [[1]]


def test_results_are_fetched_by_query_id(steps: dict[str, Step]) -> None:
    found = steps["async"]
    assert found["rows"] == found["again"] == [[1, None], [2, None]]
    assert found["status"] == "SUCCESS"


def test_what_is_rolled_back_is_gone(steps: dict[str, Step]) -> None:
    assert steps["transaction"]["inside"] == [[1]]
    assert steps["transaction"]["outside"] == [[0]]


def test_a_session_lives_until_it_is_closed(steps: dict[str, Step]) -> None:
    assert steps["alive"]["valid"] is True
    assert steps["closed"]["closed"] is True
