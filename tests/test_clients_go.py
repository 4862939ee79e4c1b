"""gosnowflake through database/sql, with its connection pool."""

from __future__ import annotations

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
    go = tool("go", "golang-go")
    with built(CLIENTS / "go", "go.mod", "go.sum", "main.go") as (folder, done):
        if not done:
            build([go, "build", "-o", "client", "."], folder, GOFLAGS="-buildvcs=false")
    return run_client(native_world, [str(folder / "client")], folder, TZ="UTC")


@pytest.mark.parametrize(
    ("form", "price", "sent", "truth"),
    [
        ("arrow", "1234567890123456.75", "1969-07-20T20:17:40.5Z", "True"),
        ("json", "1234567890123456.78", "1969-07-20T20:17:41.5Z", "1"),
    ],
)
def test_every_type_comes_back(
    steps: dict[str, Step], form: str, price: str, sent: str, truth: str
) -> None:
    """The driver's own readings: a scaled NUMBER in Arrow is a float64 unless higher precision is asked for, and
    in JSON a BOOLEAN is 1 and the fraction of an instant before 1970 is added instead of taken away.
    """
    full, empty = steps[f"wide-{form}"]["rows"]
    assert [str(v) for v in full[:14]] == [
        "1",
        BIG,
        HUGE,
        price,
        "0.1",
        "Zoë 日本 🚀",
        "2024-02-29T00:00:00Z",
        "0001-01-01T23:59:58.123456Z",
        "2024-02-29T12:30:15.123456Z",
        "2024-02-29T12:30:15.123456Z",
        sent,
        truth,
        "00ff10",
        '{\n  "a": [\n    1,\n    "x"\n  ]\n}',
    ]
    assert empty == ["2", None, HUGE] + [None] * 23


@pytest.mark.parametrize("form", ["arrow", "json"])
def test_masked_columns_are_null_and_keep_their_types(steps: dict[str, Step], form: str) -> None:
    assert steps[f"wide-{form}"]["rows"][0][14:] == [None] * 12
    kinds = {name: rest for name, *rest in steps[f"wide-{form}"]["columns"]}
    for name in (n for n in kinds if f"SECRET_{n}" in kinds):
        assert kinds[f"SECRET_{name}"] == kinds[name]
    assert kinds["SECRET_PRICE"] == ["FIXED", 18, 2, True]


@pytest.mark.parametrize("form", ["arrow", "json"])
def test_a_large_result_comes_in_parts(steps: dict[str, Step], form: str) -> None:
    check_large(steps[f"large-{form}"])


def test_values_of_every_kind_are_bound(steps: dict[str, Step]) -> None:
    assert [str(v) for v in steps["binds"]["rows"][0]] == [
        "Zoë 🚀",
        "7",
        "2.5",
        "True",
        "None",
        "2024-02-29T00:00:00Z",
        "2024-02-29T12:30:15.123456Z",
        "00ff",
    ]
    assert steps["binds"]["numbered"] == [["two", "one"]]


def test_arrays_are_bound(steps: dict[str, Step]) -> None:
    found = steps["arrays"]
    assert (found["inserted"], found["deleted"]) == (300, 300)
    assert found["back"] == [["300", 74.75, "2024-02-29T12:30:15.123456Z"]]


def test_a_denial_is_the_drivers_ordinary_error(steps: dict[str, Step]) -> None:
    check_denied(steps["denied"])


def test_a_held_statement_gets_its_rows(steps: dict[str, Step]) -> None:
    check_held(steps["held"])


def test_a_context_that_ends_takes_its_statement_back(
    steps: dict[str, Step],
) -> None:
    assert steps["cancel"]["exceeded"] is True
    assert steps["cancel"]["after"] == [["1"]]


def test_asynchronous_results_come_by_channel_and_by_id(steps: dict[str, Step]) -> None:
    found = steps["async"]
    assert found["rows"] == found["again"] == [["1", None], ["2", None]]
    assert found["status"] == ""
    assert steps["detached"]["rows"] == 1


def test_statements_are_prepared_and_described(steps: dict[str, Step]) -> None:
    found = steps["prepared"]
    assert found["found"] == ["1", "2", "3"]
    assert [c[:2] for c in found["described"]] == [["SSN", "TEXT"], ["CUSTOMER_ID", "FIXED"]]
    assert found["rows"] == 0


def test_what_is_rolled_back_is_gone(steps: dict[str, Step]) -> None:
    assert steps["transaction"]["inside"] == [["1"]]
    assert steps["transaction"]["outside"] == [["0"]]


def test_tables_are_listed(steps: dict[str, Step]) -> None:
    assert ["CUSTOMERS", "TABLE", "PROD", "CRM"] in [r[1:] for r in steps["tables"]["rows"]]


def test_a_closed_pool_is_closed(steps: dict[str, Step]) -> None:
    assert steps["closed"]["closed"] is True
