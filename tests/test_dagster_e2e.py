"""The example asset through the real gateway."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

dg = pytest.importorskip("dagster")
pytest.importorskip("dagster_snowflake")

from hoop_core.client import GivenToken, HoopClient  # noqa: E402
from hoop_dagster import HoopSnowflakeResource  # noqa: E402

if TYPE_CHECKING:
    from hoop_core.devstack.stack import DevStack

pytestmark = [pytest.mark.e2e, pytest.mark.dagster]

EXAMPLE = Path(__file__).parents[1] / "example_dags" / "dagster_churn.py"


@pytest.fixture
def surroundings(stack: DevStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a deployment gives the job: Hoop's address and a projected token."""
    token = tmp_path / "token"
    token.write_text(stack.token("churn-agent"))
    monkeypatch.setenv("HOOP_GATEWAY_URL", stack.info.gateway_url)
    monkeypatch.setenv("HOOP_TOKEN_FILE", str(token))


@pytest.mark.usefixtures("surroundings")
def test_the_example_asset_gets_masked_rows_and_is_known_by_its_run(
    stack: DevStack, behind: Callable[[str], list[tuple[Any, ...]]]
) -> None:
    spec = importlib.util.spec_from_file_location("dagster_churn", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = dg.materialize(
        [module.churn_signals],
        resources=module.defs.resources,
        instance=dg.DagsterInstance.ephemeral(),
    )
    rows = result.output_for_node("churn_signals")
    held = behind("SELECT EMAIL, SSN FROM PROD.CRM.CUSTOMERS ORDER BY CUSTOMER_ID LIMIT 100")
    seen = json.dumps(rows, default=str)
    assert len(rows) == 100
    assert not [value for row in held for value in row if value in seen]
    with HoopClient(stack.info.gateway_url, GivenToken(stack.token("churn-agent"))) as hoop:
        runs = [s["run_asserted"]["fields"] for s in hoop.sessions()]
    mine = [r for r in runs if r.get("run_id") == result.run_id]
    assert mine
    assert (mine[0]["step_key"], mine[0]["asset_key"]) == ("churn_signals", "churn_signals")


@pytest.mark.usefixtures("surroundings")
def test_sqlalchemy_and_snowpark_go_through_hoop_too(stack: DevStack) -> None:
    resource = HoopSnowflakeResource(database="PROD", schema="CRM", connector="sqlalchemy")
    with resource.get_connection(raw_conn=False) as connection:
        row = connection.exec_driver_sql(
            "SELECT SSN, REGION FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID = 1"
        ).one()
    assert row[0] is None
    assert row[1]
    with HoopSnowflakeResource(database="PROD", schema="CRM").create_snowpark_session() as session:
        found = session.sql(
            "SELECT SSN, REGION FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID = 1"
        ).collect()
    assert found[0]["SSN"] is None
    assert found[0]["REGION"] == row[1]
