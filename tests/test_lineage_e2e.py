"""What ran through the gateway stands in its lineage, and the schemas of our facets are served."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from tests.lineage_world import AIRFLOW

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e


def told(stack: DevStack, mark: str, many: int) -> list[dict[str, Any]]:
    """The events whose text holds the mark, once there are so many."""
    file = stack.home / "lineage.jsonl"
    until = time.monotonic() + 30
    found: list[dict[str, Any]] = []
    while len(found) < many and time.monotonic() < until:
        lines = file.read_text().splitlines() if file.exists() else []
        found = [json.loads(line) for line in lines if mark in line]
        time.sleep(0.1)
    return found


def test_a_statement_of_an_airflow_task_is_told_below_that_task(
    stack: DevStack, connect: Callable[..., SnowflakeConnection]
) -> None:
    context = json.dumps({"orchestrator": "airflow", **AIRFLOW["fields"]})  # type: ignore[dict-item]
    options = {"session_parameters": {"HOOP_CONTEXT": context}}
    with connect(**options) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT EMAIL AS LINEAGE_MARK FROM PROD.CRM.CUSTOMERS LIMIT 1").fetchall()
        with pytest.raises(Exception, match=r"\(22007\)"):
            cursor.execute(
                "SELECT CAST(REGION AS NUMBER) AS LINEAGE_MARK FROM PROD.CRM.CUSTOMERS"
            ).fetchall()
    events = told(stack, "LINEAGE_MARK", 4)
    assert [e["eventType"] for e in events] == ["START", "COMPLETE", "START", "FAIL"]
    run = events[1]["run"]["facets"]
    assert run["parent"]["job"]["name"] == "churn.build"
    assert run["parent"]["root"]["job"]["name"] == "churn"
    assert run["hoop_identity"]["name"] == "churn-agent"
    assert {"column": "EMAIL", "mask": "email_domain", "table": "PROD.CRM.CUSTOMERS"} in (
        run["hoop_masking"]["masked"]
    )
    assert run["processing_engine"]["version"] != "unknown"
    types = {f["name"]: f["type"] for f in events[0]["inputs"][0]["facets"]["schema"]["fields"]}
    assert types["EMAIL"] == "VARCHAR(16777216)"


def test_the_schema_that_a_facet_names_is_served_to_everybody(
    stack: DevStack, connect: Callable[..., SnowflakeConnection]
) -> None:
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT MRR AS SCHEMA_MARK FROM PROD.CRM.CUSTOMERS LIMIT 1").fetchall()
    (start, _) = told(stack, "SCHEMA_MARK", 2)
    own = {k: f for k, f in start["run"]["facets"].items() if k.startswith("hoop_")}
    assert len(own) >= 5
    for name, facet in own.items():
        address, _, pointer = facet["_schemaURL"].partition("#/$defs/")
        schema = httpx.get(address).raise_for_status().json()
        Draft202012Validator.check_schema(schema)
        (_, described) = schema["$defs"][pointer]["allOf"]
        Draft202012Validator(described).validate(facet)
        assert name in schema["properties"]
    address = facet["_schemaURL"].partition("#")[0]
    assert httpx.get(address.replace("1-0-0", "9-9-9")).status_code == 404
    assert httpx.get(address.replace("Hoop", "..%2f")).status_code == 404
