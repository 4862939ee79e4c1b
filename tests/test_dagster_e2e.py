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
from hoop_dagster import (  # noqa: E402
    HoopSnowflakeResource,
    hoop_approval_check,
    hoop_approval_sensor,
)

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


# ---------------------------------------------------------------------- approvals

MAKES = "CREATE TABLE PROD.FEATURES.{} AS SELECT 1 AS ONE"


def makes_table(name: str, how: str) -> dg.AssetsDefinition:
    """An asset whose only statement needs an approval, sent the way `how` says."""

    @dg.asset(name=name.lower())
    def asset(snowflake: HoopSnowflakeResource) -> None:
        sql = MAKES.format(name)
        if how == "snowpark":
            with snowflake.create_snowpark_session() as session:
                session.sql(sql).collect()
            return
        with snowflake.get_connection(raw_conn=how != "sqlalchemy") as connection:
            if how == "sqlalchemy":
                connection.exec_driver_sql(sql)
            elif how == "pandas":
                import pandas

                pandas.read_sql(sql, connection)
            else:
                connection.cursor().execute(sql)

    return asset


def resource_for(how: str) -> HoopSnowflakeResource:
    connector = {"connector": how} if how == "sqlalchemy" else {}
    return HoopSnowflakeResource(database="PROD", schema="FEATURES", **connector)


def continued(
    first: dg.DagsterRun, assets: list[Any], instance: dg.DagsterInstance, how: str = "connector"
) -> dg.DagsterRun:
    """What the sensor starts once it is approved, run in this process."""
    resources = {"snowflake": resource_for(how)}
    sensor = hoop_approval_sensor()
    definitions = dg.Definitions(assets=assets, resources=resources, sensors=[sensor])
    context = dg.build_sensor_context(instance=instance, definitions=definitions)
    (request,) = sensor.evaluate_tick(context).run_requests
    assert request.tags["hoop/resumes_run"] == first.run_id
    job = definitions.resolve_job_def("__ASSET_JOB").get_subset(
        asset_selection=set(request.asset_selection),
        asset_check_selection=set(request.asset_check_keys),
    )
    result = job.execute_in_process(instance=instance, tags=request.tags, raise_on_error=False)
    found = instance.get_run_by_id(result.run_id)
    assert found is not None
    return found


def approve(stack: DevStack, identifier: str) -> None:
    with HoopClient(stack.info.gateway_url, GivenToken(stack.token("alice"))) as hoop:
        hoop.answer(identifier, "approve", "as agreed with finance")


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize(
    "how",
    [
        "connector",
        *(pytest.param(h, marks=pytest.mark.nightly) for h in ("sqlalchemy", "pandas", "snowpark")),
    ],
)
def test_a_held_statement_ends_the_run_and_runs_in_the_one_that_goes_on(
    how: str, stack: DevStack, behind: Callable[[str], list[tuple[Any, ...]]]
) -> None:
    name = f"DAGSTER_{how.upper()}"
    there = (
        "SELECT COUNT(*) FROM PROD.INFORMATION_SCHEMA.TABLES WHERE TABLE_SCHEMA = 'FEATURES' "
        f"AND TABLE_NAME = '{name}'"
    )
    assets = [makes_table(name, how)]
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            assets,
            resources={"snowflake": resource_for(how)},
            instance=instance,
            raise_on_error=False,
        )
        first = instance.get_run_by_id(result.run_id)
        assert first is not None
        identifier = first.tags["hoop/approval_id"]
        assert behind(there) == [(0,)]
        approve(stack, identifier)
        second = continued(first, assets, instance, how)
        assert second.status is dg.DagsterRunStatus.SUCCESS
    assert behind(there) == [(1,)]
    with HoopClient(stack.info.gateway_url, GivenToken(stack.token("churn-agent"))) as hoop:
        used = hoop.approval(identifier)
    assert (used.status, used.run.fields["run_id"]) == ("consumed", first.run_id)


@pytest.mark.usefixtures("surroundings")
def test_a_grant_is_for_no_other_run_even_of_the_same_job_and_step(stack: DevStack) -> None:
    assets = [makes_table("DAGSTER_OTHER_RUN", "connector")]

    def ran(instance: dg.DagsterInstance) -> str:
        resources = {"snowflake": resource_for("connector")}
        result = dg.materialize(
            assets, resources=resources, instance=instance, raise_on_error=False
        )
        run = instance.get_run_by_id(result.run_id)
        assert run is not None
        assert run.status is dg.DagsterRunStatus.FAILURE
        return run.tags["hoop/approval_id"]

    with dg.DagsterInstance.ephemeral() as instance:
        first = ran(instance)
        approve(stack, first)
        assert ran(instance) != first


@pytest.mark.usefixtures("surroundings")
def test_what_a_check_asks_ahead_is_what_the_step_downstream_runs(
    stack: DevStack, behind: Callable[[str], list[tuple[Any, ...]]]
) -> None:
    sql = "\n    " + MAKES.format("DAGSTER_CHECKED") + "\n"

    @dg.asset
    def before() -> None: ...

    @dg.asset(deps=[before])
    def made(snowflake: HoopSnowflakeResource) -> None:
        with snowflake.get_connection() as connection:
            connection.cursor().execute(sql)

    check = hoop_approval_check(asset=before, runs_in="made", sql=sql)
    assets = [before, made, check]
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            assets,
            resources={"snowflake": resource_for("connector")},
            instance=instance,
            raise_on_error=False,
        )
        first = instance.get_run_by_id(result.run_id)
        assert first is not None
        approve(stack, first.tags["hoop/approval_id"])
        second = continued(first, assets, instance)
        assert second.status is dg.DagsterRunStatus.SUCCESS
    assert behind("SELECT ONE FROM PROD.FEATURES.DAGSTER_CHECKED") == [(1,)]


@pytest.mark.usefixtures("surroundings")
def test_the_gateway_refuses_to_guess_what_a_client_wants_when_held(
    connect: Callable[..., Any],
) -> None:
    from snowflake.connector.errors import DatabaseError

    with pytest.raises(DatabaseError, match="HOOP_WHEN_HELD"):
        connect(session_parameters={"HOOP_WHEN_HELD": "run_it_anyway"})
